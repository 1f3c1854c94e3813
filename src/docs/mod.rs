//! The book: what a reader needs beyond the comments of the code, a module for each page.
//!
//! The pages are Markdown files beside this one. A forge shows them as files, and `cargo doc` as these modules. So that
//! links work in both, a page links by labels (`[text][api]`), and defines them at its end as relative paths. Here the
//! definitions of [`LABELS`] stand in front of each page, and of two definitions of one label Markdown takes the first:
//! in `cargo doc` each label leads to a module. `tests/docs/` checks that both ways lead to the same place.

/// Makes the modules of the pages, by part, and [`LABELS`] of the pages and the rooms.
macro_rules! book {
    (
        rooms { $($room:ident)* }
        pages { $($(#[doc = $about:literal])* $part:ident { $($page:ident)* })* }
        single { $($single:ident)* }
    ) => {
        book! {
            @with concat!(
                $("[", stringify!($room), "]: crate::", stringify!($room), "\n",)*
                $($("[", stringify!($page), "]: crate::docs::", stringify!($part), "::", stringify!($page), "\n",)*)*
                $("[", stringify!($single), "]: crate::docs::", stringify!($single), "\n",)*
            ),
            pages { $($(#[doc = $about])* $part { $($page)* })* }
            single { $($single)* }
        }
    };
    (
        @with $labels:expr,
        pages { $($(#[doc = $about:literal])* $part:ident { $($page:ident)* })* }
        single { $($single:ident)* }
    ) => {
        /// Where each label of the book leads, as Markdown's definitions of links.
        pub const LABELS: &str = $labels;

        $(
            $(#[doc = $about])*
            pub mod $part {
                $(
                    #[doc = $labels]
                    #[doc = include_str!(concat!(stringify!($part), "/", stringify!($page), ".md"))]
                    pub mod $page {}
                )*
            }
        )*
        $(
            #[doc = $labels]
            #[doc = include_str!(concat!(stringify!($single), ".md"))]
            pub mod $single {}
        )*
    };
}

book! {
    // Those whose name no page has.
    rooms {
        channels cli command config limits logging members node numbers peer_url server storage store threads
        transport
    }
    pages {
        /// How to use raftkvd, from the first key to a lost disk.
        guide { tour clusters security backup operations coming_from contributing }
        /// Everything that can be looked up.
        reference { api options exit_codes metrics logs formats glossary }
        /// How raftkvd works, what it promises, and why it is built so.
        design { architecture guarantees identity decisions }
        /// What shows that it keeps its promises, and how fast it is.
        evidence { simulation mutants bugs speed scale }
    }
    single { changelog }
}
