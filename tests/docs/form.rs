//! The form of the pages: what `cargo doc` and forges both show, and what can be read in an editor.

use crate::book::{Kind, Page};
use crate::prose::prose;
use crate::{assert_none, everything};

const README_LINES_MAX: usize = 270;
/// Of prose; a table's row is as long as it has to be.
const COLUMNS_MAX: usize = 100;

#[test]
fn readme_is_short() {
    let lines = Page::read("README.md").text.lines().count();
    assert!(lines <= README_LINES_MAX, "README has {lines} lines");
}

#[test]
fn lines_of_prose_are_short_and_a_page_has_one_title() {
    let mut wrong = Vec::new();
    for page in everything() {
        let blocks = page.blocks().unwrap_or_else(|why| panic!("{why}"));
        let lines = blocks.iter().filter(|block| block.kind == Kind::Line);
        let mut titles = Vec::new();
        for line in lines {
            let columns = line.text.chars().count();
            let is_table = line.text.trim_start().starts_with('|');
            if columns > COLUMNS_MAX && !is_table {
                wrong.push(format!("{}:{}: {columns} columns", page.path, line.line));
            }
            if line.text.starts_with("# ") {
                titles.push(line.line);
            }
        }
        if titles != [1] {
            wrong.push(format!(
                "{}: one title, in line 1, and not in {titles:?}",
                page.path
            ));
        }
    }
    assert_none(&wrong);
}

/// `cargo doc` takes code of any other kind, and all that is indented, for Rust that is to be tested.
#[test]
fn fences_are_sh_or_text_and_no_code_is_only_indented() {
    let mut wrong = Vec::new();
    for page in everything() {
        let blocks = page.blocks().unwrap_or_else(|why| panic!("{why}"));
        let (mut is_behind_blank, mut is_in_list) = (true, false);
        for block in &blocks {
            let mut say = |what: &str| wrong.push(format!("{}:{}: {what}", page.path, block.line));
            match &block.kind {
                Kind::Fence(language) if language == "sh" || language == "text" => {}
                Kind::Fence(language) => say(&format!("a fence is sh or text, not {language:?}")),
                Kind::Comment => {}
                Kind::Line => {
                    let text = block.text.trim_start();
                    let starts_item = text.starts_with("- ") || text.starts_with("* ") || {
                        let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
                        rest.len() < text.len() && rest.starts_with(". ")
                    };
                    let is_indented = block.text.starts_with("    ") && !text.is_empty();
                    if is_indented && is_behind_blank && !is_in_list && !starts_item {
                        say("code is in a fence");
                    }
                    is_in_list = starts_item
                        || is_in_list && (text.is_empty() || block.text.starts_with(' '));
                    is_behind_blank = text.is_empty();
                }
            }
        }
    }
    assert_none(&wrong);
}

/// `cargo doc` warns of them, and some forges don't make links of them.
#[test]
fn urls_in_prose_stand_in_angle_brackets() {
    let mut wrong = Vec::new();
    for page in everything() {
        for (line, text) in prose(&page).lines {
            for (at, _) in text.match_indices("http") {
                let is_url = ["http://", "https://"]
                    .iter()
                    .any(|start| text[at..].starts_with(start));
                let is_link = text[..at].ends_with('<') || text[..at].ends_with("](");
                if is_url && !is_link {
                    wrong.push(format!("{}:{line}: {}", page.path, &text[at..]));
                }
            }
        }
    }
    assert_none(&wrong);
}
