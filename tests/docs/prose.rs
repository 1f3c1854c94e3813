//! The prose of a page: what is no fence, no comment and no definition of a link; and the code in it.

use crate::book::{Kind, Page};

/// A definition of a link: `[api]: ../reference/api.md`.
pub struct Definition {
    pub line: usize,
    pub label: String,
    pub target: String,
}

pub struct Prose {
    /// Lines with their numbers. Spans of code in them are blanks, as many as they were long.
    pub lines: Vec<(usize, String)>,
    /// What stands between backticks, each with the line in which it starts.
    pub code: Vec<(usize, String)>,
    pub definitions: Vec<Definition>,
}

#[track_caller]
pub fn prose(page: &Page) -> Prose {
    let blocks = page.blocks().unwrap_or_else(|why| panic!("{why}"));
    let mut prose = Prose {
        lines: Vec::new(),
        code: Vec::new(),
        definitions: Vec::new(),
    };
    let mut open: Option<(usize, String)> = None;
    for block in blocks.iter().filter(|block| block.kind == Kind::Line) {
        if let Some((label, target)) = definition(&block.text) {
            prose.definitions.push(Definition {
                line: block.line,
                label,
                target,
            });
            continue;
        }
        let mut plain = String::new();
        for c in block.text.chars() {
            plain.push(if c == '`' || open.is_some() { ' ' } else { c });
            match (c, &mut open) {
                ('`', None) => open = Some((block.line, String::new())),
                ('`', Some(_)) => prose.code.extend(open.take()),
                (_, Some((_, code))) => code.push(c),
                (_, None) => {}
            }
        }
        match &mut open {
            Some((line, _)) if block.text.trim().is_empty() => {
                panic!("{}:{line}: this code does not end", page.path);
            }
            Some((_, code)) => code.push(' '),
            None => {}
        }
        prose.lines.push((block.line, plain));
    }
    prose
}

fn definition(line: &str) -> Option<(String, String)> {
    let (label, target) = line.strip_prefix('[')?.split_once("]: ")?;
    Some((label.to_owned(), target.trim().to_owned()))
}

/// The id of a heading, as forges and `cargo doc` make it.
pub fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        c if c.is_alphanumeric() => Some(c.to_ascii_lowercase()),
        _ => None,
    });
    kept.collect()
}
