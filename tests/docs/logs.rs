//! Lines of the log, and other lines that the daemon prints, as the pages quote them: some literal of the code has to be able
//! to print each.

use crate::assert_none;
use crate::book::{Kind, Page, root};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The string literals of the daemon, without those of its unit tests; what is filled in is `None`.
fn literals() -> Vec<Vec<Option<String>>> {
    let mut literals = Vec::new();
    read_literals(&root().join("src"), &mut literals);
    literals
}

fn read_literals(folder: &Path, literals: &mut Vec<Vec<Option<String>>>) {
    for entry in fs::read_dir(folder).expect("sources can be listed") {
        let path = entry.expect("sources can be listed").path();
        if path.is_dir() && !path.ends_with("tests") {
            read_literals(&path, literals);
        } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs") {
            let text = fs::read_to_string(&path).expect("it can be read");
            let text = text.split("\nmod tests {").next().unwrap_or_default();
            // Comments hold quotes that are no literals.
            let lines = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            literals.extend(literals_of(&lines.collect::<Vec<_>>().join("\n")));
        }
    }
}

fn literals_of(code: &str) -> Vec<Vec<Option<String>>> {
    let mut literals = Vec::new();
    let mut chars = code.chars().peekable();
    let mut before = ' ';
    while let Some(c) = chars.next() {
        // The character '"' starts no string.
        if c == '"' && before != '\'' {
            let mut literal = String::new();
            while let Some(c) = chars.next() {
                match c {
                    '"' => break,
                    '\\' => match chars.next() {
                        Some('\n') => while chars.next_if(|c| c.is_whitespace()).is_some() {},
                        Some('n') => literal.push('\n'),
                        Some(other) => literal.push(other),
                        None => {}
                    },
                    _ => literal.push(c),
                }
            }
            literals.push(pieces(&literal));
        }
        before = c;
    }
    literals
}

/// A literal as what is fixed, and `None` for each place that is filled in.
fn pieces(literal: &str) -> Vec<Option<String>> {
    let mut pieces = Vec::new();
    let mut rest = literal;
    while let Some((fixed, behind)) = rest.split_once('{') {
        pieces.push(Some(fixed.to_owned()));
        pieces.push(None);
        rest = behind.split_once('}').map_or("", |(_, behind)| behind);
    }
    pieces.push(Some(rest.to_owned()));
    pieces
}

/// Whether this is what the pieces print, from its start to its end. What is filled in by `…` may be anything.
fn prints(pieces: &[Option<String>], text: &str) -> bool {
    match pieces.split_first() {
        None => text.is_empty(),
        Some((None, rest)) => {
            let mut ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            ends.any(|end| prints(rest, &text[end..]))
        }
        Some((Some(fixed), rest)) => text
            .strip_prefix(&**fixed)
            .is_some_and(|behind| prints(rest, behind)),
    }
}

/// The same, but not for pieces that would print almost anything.
fn may_print(pieces: &[Option<String>], text: &str) -> bool {
    let fixed = pieces.iter().flatten();
    let letters = fixed.map(|fixed| fixed.chars().filter(|c| c.is_alphabetic()).count());
    letters.max() >= Some("became".len()) && prints(pieces, text)
}

/// The message of a line of the log: between its level and the first of its fields.
fn message(line: &str) -> Option<&str> {
    let levels = [" ERROR ", " WARN ", " INFO ", " DEBUG "];
    let (_, rest) = levels.iter().find_map(|level| line.split_once(level))?;
    let field = rest.match_indices(", ").find(|(at, _)| {
        let name = rest[at + 2..].split(": ").next().unwrap_or_default();
        let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
        !name.is_empty() && name.len() < rest.len() - at - 2 && name.chars().all(is_name)
    });
    let message = field.map_or(rest, |(at, _)| &rest[..at]);
    // What the log itself adds to a line that stands for several.
    let repeated = message.find(" (repeated ");
    Some(repeated.map_or(message, |at| &message[..at]))
}

#[test]
fn every_line_of_the_log_that_a_page_quotes_can_be_printed() {
    let literals = literals();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for page in crate::everything() {
        let blocks = page.blocks().unwrap_or_else(|why| panic!("{why}"));
        let fences = blocks
            .iter()
            .filter(|block| matches!(block.kind, Kind::Fence(_)));
        for fence in fences {
            for (line, text) in (fence.line + 1..).zip(fence.text.lines()) {
                let Some(message) = message(text) else {
                    continue;
                };
                count += 1;
                if !literals.iter().any(|pieces| may_print(pieces, message)) {
                    wrong.push(format!("{}:{line}: nothing prints {message:?}", page.path));
                }
            }
        }
    }
    assert_none(&wrong);
    assert!(count > 10, "{count}");
}

/// The rows of the page of the logs that answer a question of an operator: each names lines between backticks.
#[test]
fn every_line_that_the_page_of_the_logs_names_can_be_printed() {
    let page = Page::read("src/docs/reference/logs.md");
    let literals = literals();
    let mut wrong = Vec::new();
    for (line, text) in (1..).zip(page.text.lines()) {
        if !text.starts_with("| ") {
            continue;
        }
        for code in text.split('`').skip(1).step_by(2) {
            let words = code.trim_end_matches([' ', '.', '…', ':']);
            let starts = |pieces: &Vec<Option<String>>| {
                let first = pieces.first().and_then(Option::as_ref);
                first.is_some_and(|first| first.starts_with(words)) || may_print(pieces, words)
            };
            if !literals.iter().any(starts) {
                wrong.push(format!("{}:{line}: nothing prints {code:?}", page.path));
            }
        }
    }
    assert_none(&wrong);
}

/// The names of the fields that a page lists: the words between backticks in the first column of a table.
fn listed_fields(page: &Page) -> BTreeSet<String> {
    let (_, section) = page.text.split_once("\n## Fields\n").expect("a section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|row| row.strip_prefix("| `"));
    let columns = rows.filter_map(|row| row.split(" |").next());
    let mut listed = BTreeSet::new();
    for name in columns.flat_map(|names| names.trim_end_matches('`').split("`, `")) {
        assert!(listed.insert(name.to_owned()), "{name} is listed twice");
    }
    listed
}

/// The macros that take fields, and the methods by which a type writes its own.
const WITH_FIELDS: [&str; 8] = [
    "error", "warn", "info", "debug", "trace", "o", "b", "record",
];
const WRITTEN: [&str; 3] = ["emit_str(\"", "emit_u64(\"", "emit_arguments(\""];

/// The names of the fields in this code.
fn fields_of(code: &str) -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    for name in WITH_FIELDS {
        let start = format!("{name}!(");
        for (at, _) in code.match_indices(&start) {
            let before = code[..at].chars().next_back();
            if before.is_none_or(|c| !c.is_alphanumeric() && c != '_') {
                collect_fields(&code[at + start.len()..], &mut fields);
            }
        }
    }
    for start in WRITTEN {
        let written = code.split(start).skip(1);
        let names = written.filter_map(|rest| rest.split('"').next());
        fields.extend(names.map(str::to_owned));
    }
    fields
}

/// Collects the names of fields up to the parenthesis that closes.
fn collect_fields(arguments: &str, fields: &mut BTreeSet<String>) {
    let (mut depth, mut rest) = (1, arguments);
    while let Some(at) = rest.find(['(', ')', '"']).filter(|_| depth > 0) {
        let behind = &rest[at + 1..];
        rest = match rest.as_bytes()[at] {
            b'(' => {
                depth += 1;
                behind
            }
            b')' => {
                depth -= 1;
                behind
            }
            _ => {
                let mut is_escaped = false;
                let end = behind.find(|c| {
                    let ends = c == '"' && !is_escaped;
                    is_escaped = c == '\\' && !is_escaped;
                    ends
                });
                let end = end.expect("a literal ends");
                let behind_it = &behind[end + 1..];
                if behind_it.trim_start().starts_with("=>") {
                    fields.insert(behind[..end].to_owned());
                }
                behind_it
            }
        };
    }
}

fn fields_in(folder: &Path, fields: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("sources can be listed") {
        let path = entry.expect("sources can be listed").path();
        if path.is_dir() && !path.ends_with("tests") {
            fields_in(&path, fields);
        } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs") {
            let text = fs::read_to_string(&path).expect("it can be read");
            let code = text.split("\nmod tests {").next().unwrap_or_default();
            fields.extend(fields_of(code));
        }
    }
}

#[test]
fn fields_are_found_in_code() {
    let code = r#"
        info!(logger, "a \"quote\" => (here"; "one" => f(1, "x" ), "two" =>
            %two); "three" => 3; logger.new(o!("four" => 4)); foo_info!(x, "five" => 5);
        serializer.emit_str("six", six)?;"#;
    let found: Vec<_> = fields_of(code).into_iter().collect();
    assert_eq!(found, ["four", "one", "six", "two"]);
}

/// One word for one thing: a new field needs a row, and the rows show whether there is a word for it already.
#[test]
fn the_page_of_the_logs_lists_every_field_and_no_other() {
    let mut used = BTreeSet::new();
    fields_in(&root().join("src"), &mut used);
    // A bar is drawn on a terminal, and no line has it as a field.
    assert!(used.remove("bar"));
    let listed = listed_fields(&Page::read("src/docs/reference/logs.md"));
    let missing: Vec<_> = used.difference(&listed).collect();
    let unused: Vec<_> = listed.difference(&used).collect();
    assert!(missing.is_empty(), "not on the page: {missing:?}");
    assert!(unused.is_empty(), "not in the code: {unused:?}");
}
