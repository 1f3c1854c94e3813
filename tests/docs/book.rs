//! README and the pages of the book, taken apart into blocks.

use std::fs;
use std::path::{Path, PathBuf};

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A page, by its path from the root of the repository.
pub struct Page {
    pub path: String,
    pub text: String,
}

impl Page {
    pub fn read(path: &str) -> Page {
        let text = fs::read_to_string(root().join(path));
        Page {
            path: path.to_owned(),
            text: text.unwrap_or_else(|error| panic!("{path}: {error}")),
        }
    }

    /// Its blocks. The error says in which line is what can't be taken apart.
    pub fn blocks(&self) -> Result<Vec<Block>, String> {
        blocks(&self.text).map_err(|(line, why)| format!("{}:{line}: {why}", self.path))
    }
}

/// The pages of this folder of the book and of those in it, in the order of their paths.
pub fn pages(folder: &str) -> Vec<Page> {
    let mut paths = Vec::new();
    find(&root().join(folder), &mut paths);
    paths.sort();
    let from_root = |path: &PathBuf| {
        let path = path.strip_prefix(root()).expect("it is in the repository");
        path.to_str().expect("names of pages are ASCII").to_owned()
    };
    paths
        .iter()
        .map(|path| Page::read(&from_root(path)))
        .collect()
}

fn find(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the book can be listed") {
        let path = entry.expect("the book can be listed").path();
        match path.is_dir() {
            true => find(&path, found),
            false if path.extension().is_some_and(|end| end == "md") => found.push(path),
            false => {}
        }
    }
}

/// A part of a page.
#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    /// Counted from 1.
    pub line: usize,
    pub kind: Kind,
    pub text: String,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// The lines between two lines of backticks, without the indentation of the first; and what stands behind that.
    Fence(String),
    /// What stands between `<!--` and `-->`.
    Comment,
    /// One line of anything else, also an empty one.
    Line,
}

/// The error is a line's number and what is wrong there.
pub fn blocks(text: &str) -> Result<Vec<Block>, (usize, String)> {
    let mut blocks = Vec::new();
    let mut lines = (1..).zip(text.lines());
    while let Some((line, first)) = lines.next() {
        let start = first.trim_start();
        let (kind, text) = if let Some(language) = start.strip_prefix("```") {
            let indentation = first.len() - start.len();
            let mut content = String::new();
            loop {
                let Some((_, next)) = lines.next() else {
                    return Err((line, "this fence does not end".to_owned()));
                };
                if next.trim() == "```" {
                    break;
                }
                content += next.get(indentation..).unwrap_or_default();
                content.push('\n');
            }
            (Kind::Fence(language.trim().to_owned()), content)
        } else if let Some(comment) = start.strip_prefix("<!--") {
            let Some(comment) = comment.trim_end().strip_suffix("-->") else {
                return Err((
                    line,
                    "a comment ends in the line in which it starts".to_owned(),
                ));
            };
            (Kind::Comment, comment.trim().to_owned())
        } else {
            (Kind::Line, first.to_owned())
        };
        blocks.push(Block { line, kind, text });
    }
    Ok(blocks)
}
