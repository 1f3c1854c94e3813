//! README and the guide, typed by a newcomer: every `sh` fence in its order, in one directory, with what is shown compared.
//!
//! A page steers its reader by comments, which no reader sees: see [`script::Step`]. A fence that can't be typed here is
//! excused by `<!-- not run: reason -->`.

#[path = "../../docs/book.rs"]
mod book;
mod reader;
mod script;

use crate::skipped::skipped;
use book::{Page, pages};
use reader::Reader;
use std::process::Command;

#[track_caller]
fn follow(path: &str) {
    follow_behind(&[], &Page::read(path));
}

/// Types these lines, and then what the page shows.
#[track_caller]
fn follow_behind(lines: &[&str], page: &Page) {
    if Command::new("curl").arg("--version").output().is_err() {
        skipped("curl");
        return;
    }
    let mut reader = Reader::new();
    let started = lines.iter().try_for_each(|line| reader.start(line));
    // The reader is dropped after the panic, and then prints what the members said.
    if let Err(why) = started.and_then(|()| reader.follow(page)) {
        panic!("{why}");
    }
}

/// Makes a test of each page.
macro_rules! typed {
    ($($page:ident $path:literal)*) => {
        const TYPED: &[&str] = &[$($path),*];

        mod every_fence_works_in {
            $(
                #[test]
                fn $page() {
                    super::follow($path);
                }
            )*
        }
    };
}

typed! {
    readme "README.md"
    backup "src/docs/guide/backup.md"
    clusters "src/docs/guide/clusters.md"
    coming_from "src/docs/guide/coming_from.md"
    contributing "src/docs/guide/contributing.md"
    operations "src/docs/guide/operations.md"
    security "src/docs/guide/security.md"
    tour "src/docs/guide/tour.md"
}

/// It says so: on a new cluster of one, which runs without options.
#[test]
fn every_fence_works_in_the_reference_of_the_api() {
    follow_behind(&["raftkvd"], &Page::read("src/docs/reference/api.md"));
}

/// Those of raftexample and of hraftd, one after the other in one directory.
#[test]
fn the_walkthroughs_that_raftkvd_grew_from_work_as_they_are_typed() {
    follow("tests/cluster/fences/walkthroughs.md");
}

#[test]
fn every_page_of_the_guide_is_typed() {
    let mut paths = vec!["README.md".to_owned()];
    paths.extend(pages("src/docs/guide").into_iter().map(|page| page.path));
    assert_eq!(TYPED, paths);
}

/// The error, for a page with this fence.
#[track_caller]
fn error_of(text: &str) -> String {
    let page = Page {
        path: "page.md".to_owned(),
        text: text.to_owned(),
    };
    let followed = Reader::new().follow(&page);
    followed.expect_err("something is wrong with this page")
}

#[test]
fn another_output_is_noticed() {
    let error = error_of("```sh\necho first\necho hello\n```\n\n```text\nhello!\n```\n");
    assert!(
        error.starts_with("page.md:1: the page shows\nhello!"),
        "{error}"
    );
    assert!(error.ends_with("this was printed:\nhello"), "{error}");
}

#[test]
fn a_command_that_fails_is_noticed_wherever_it_stands() {
    for commands in [
        "ls missing\necho well",
        "echo well\nls missing",
        "echo x | grep y",
    ] {
        let error = error_of(&format!("\n```sh\n{commands}\n```\n"));
        assert!(
            error.starts_with("page.md:2: a command ended with Some("),
            "{error}"
        );
    }
    let hidden = error_of("```sh\nls missing\necho well\n```\n```text\nwell\n```\n");
    assert!(hidden.contains("No such file"), "{hidden}");
}

#[test]
fn an_answer_that_is_an_error_is_noticed_unless_the_page_shows_it() {
    let absent = "curl http://127.0.0.1:9121/absent";
    let error = error_of(&format!("```sh\nraftkvd\n{absent}\n```\n"));
    assert!(error.contains("404"), "{error}");
    let shown = "\n```text\nthere is no such key\n```\n";
    let error = error_of(&format!(
        "```sh\nraftkvd\n{absent}\n```{shown}```sh\n{absent}\ntrue\n```\n"
    ));
    assert!(
        error.starts_with("page.md:8: ") && error.contains("404"),
        "{error}"
    );
}

#[test]
fn a_member_that_ends_or_does_not_run_is_noticed() {
    let refused = error_of("```sh\nraftkvd --id 0\n```\n");
    assert!(
        refused.starts_with("page.md:1: member 0 ended with Some(2)"),
        "{refused}"
    );
    let absent = error_of("```sh\necho well\n```\n<!-- run: stop 2 -->\n");
    assert_eq!(absent, "page.md:4: member 2 does not run");
}

#[test]
fn members_serve_as_the_page_says_also_after_it_starts_over() {
    let text = "```sh\nraftkvd\n```\n```sh\ncurl -X PUT -d hello http://127.0.0.1:9121/a\ncurl http://127.0.0.1:9121/a\n```\n\
                ```text\nhello\n```\n<!-- run: kill 1 -->\n```sh\nraftkvd --id 1\n```\n```text\n…\n… INFO raftkvd 1 is listening: \
                try curl -X PUT -d hello http://127.0.0.1:9121/greeting and …\n…\n```\n```sh\ncurl http://127.0.0.1:9121/a\n```\n\
                ```text\nhello\n```\n<!-- run: start over -->\n```sh\nls -A\n```\n```text\n```\n```sh\nraftkvd --id 1\n\
                curl http://127.0.0.1:9121/a\n```\n```text\nthere is no such key\n```\n<!-- run: stop 1 -->\n\
                ```sh\nraftkvd --id 0\n```\n```text\nraftkvd: …--id…\n```\n";
    let page = Page {
        path: "page.md".to_owned(),
        text: text.to_owned(),
    };
    follow_behind(&[], &page);
}
