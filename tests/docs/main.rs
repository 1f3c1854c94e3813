//! README and the book (`src/docs/`) against the code and against each other: links lead somewhere, in a forge and in
//! `cargo doc` alike; and what the pages say of facts that the code knows is so. `tests/cluster/fences/` types their commands.
//!
//! Some facts only their room knows: its unit tests read the page (`api/route.rs`, `api/error_code.rs`), and
//! `tests/cluster/metrics.rs` reads that of the metrics.

mod book;
mod facts;
mod form;
mod limits;
mod links;
mod logs;
mod prose;

use book::{Page, pages};

/// README, and every page of the book.
fn everything() -> Vec<Page> {
    let mut everything = vec![Page::read("README.md")];
    everything.extend(pages("src/docs"));
    everything
}

/// Prints all that is wrong, one thing a line.
#[track_caller]
fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
