//! Links. In a page they go by labels, which the page defines as relative paths for forges and `docs::LABELS` as modules for
//! `cargo doc`: see `src/docs/mod.rs`.

use crate::book::{Kind, Page, root};
use crate::prose::{Prose, anchor, prose};
use crate::{assert_none, everything};
use raftkvd::docs::LABELS;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// A link in prose.
enum Link {
    /// `[text][label]`, or `[label]`.
    Label(String),
    /// `[text](target)`.
    Inline(String),
}

/// The links of a page, each with its line.
fn links(prose: &Prose) -> Vec<(usize, Link)> {
    let mut text = String::new();
    let mut starts = BTreeMap::new();
    for (line, plain) in &prose.lines {
        starts.insert(text.len(), *line);
        text += plain;
        text.push('\n');
    }
    let line_at = |at: usize| *starts.range(..=at).next_back().expect("it has a line").1;
    let mut links = Vec::new();
    let mut at = 0;
    while let Some(open) = text[at..].find('[').map(|open| at + open) {
        let Some(close) = text[open..].find(']').map(|close| open + close) else {
            break;
        };
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let behind = &text[close + 1..];
        let end = |close| behind.find(close).unwrap_or(behind.len());
        let (link, length) = match behind.chars().next() {
            Some('[') => (Link::Label(words(&behind[1..end(']')])), end(']') + 1),
            Some('(') => (Link::Inline(words(&behind[1..end(')')])), end(')') + 1),
            _ => (Link::Label(words(&text[open + 1..close])), 0),
        };
        links.push((line_at(open), link));
        at = close + 1 + length;
    }
    links
}

/// The labels that `cargo doc` knows, and where they lead.
fn modules() -> BTreeMap<&'static str, &'static str> {
    let lines = LABELS.lines().map(|line| {
        let (label, module) = line.split_once("]: ").expect("a definition");
        (label.trim_start_matches('['), module)
    });
    let count = LABELS.lines().count();
    let modules: BTreeMap<_, _> = lines.collect();
    assert_eq!(modules.len(), count, "a label is defined twice");
    modules
}

/// The module whose text is in this file.
fn module_of(path: &Path) -> Option<String> {
    let within = path.strip_prefix("src").ok()?.with_extension("");
    let names = within
        .iter()
        .map(|name| name.to_string_lossy().into_owned());
    let names: Vec<String> = names.filter(|name| name != "mod").collect();
    Some(format!("crate::{}", names.join("::")))
}

/// Where a relative path leads from a page.
fn resolved(page: &Page, target: &str) -> PathBuf {
    let folder = Path::new(&page.path)
        .parent()
        .expect("a page is in a folder");
    let mut path = PathBuf::new();
    for component in folder.join(target).components() {
        match component {
            Component::ParentDir => drop(path.pop()),
            other => path.push(other),
        }
    }
    path
}

#[test]
fn every_link_of_a_page_leads_to_a_file_and_in_cargo_doc_to_its_module() {
    let modules = modules();
    let mut wrong = Vec::new();
    for page in everything() {
        let prose = prose(&page);
        let mut used = BTreeSet::new();
        let mut say = |line: usize, what: String| {
            wrong.push(format!("{}:{line}: {what}", page.path));
        };
        let headings: Vec<String> = headings(&page);
        for (line, link) in links(&prose) {
            match link {
                Link::Label(label) => {
                    if !prose.definitions.iter().any(|one| one.label == label) {
                        say(line, format!("[{label}] is not defined on this page"));
                    }
                    used.insert(label);
                }
                Link::Inline(target) => match target.strip_prefix('#') {
                    Some(anchor) if headings.iter().any(|heading| heading == anchor) => {}
                    Some(anchor) => say(line, format!("no section of this page is #{anchor}")),
                    None if target.starts_with("http") => {}
                    None => say(line, format!("a link to {target} needs a label")),
                },
            }
        }
        let mut defined = BTreeSet::new();
        for definition in &prose.definitions {
            let (line, label) = (definition.line, &definition.label);
            let path = resolved(&page, &definition.target);
            if !root().join(&path).is_file() {
                say(
                    line,
                    format!("[{label}] leads to no file: {}", path.display()),
                );
            }
            if !defined.insert(label) {
                say(line, format!("[{label}] is defined twice"));
            }
            if !used.contains(label) {
                say(line, format!("nothing uses [{label}]"));
            }
            let module = module_of(&path);
            match modules.get(&**label) {
                Some(known) if module.as_deref() == Some(known) => {}
                // README is no module.
                None if page.path == "README.md" && module.is_none() => {}
                known => say(
                    line,
                    format!("[{label}] is {module:?} here, and {known:?} in src/docs/mod.rs"),
                ),
            }
        }
    }
    assert_none(&wrong);
}

fn headings(page: &Page) -> Vec<String> {
    let blocks = page.blocks().unwrap_or_else(|why| panic!("{why}"));
    let lines = blocks.iter().filter(|block| block.kind == Kind::Line);
    let headings = lines.filter(|line| line.text.starts_with('#'));
    headings
        .map(|line| anchor(line.text.trim_start_matches('#').trim()))
        .collect()
}

#[test]
fn every_page_is_a_module_and_in_the_contents_of_readme() {
    let listed: BTreeSet<String> = modules().into_values().map(str::to_owned).collect();
    let readme = Page::read("README.md");
    let linked: BTreeSet<String> = prose(&readme)
        .definitions
        .iter()
        .filter_map(|definition| module_of(&resolved(&readme, &definition.target)))
        .collect();
    let pages = everything();
    let pages = pages
        .iter()
        .filter_map(|page| module_of(Path::new(&page.path)));
    let pages: BTreeSet<String> = pages.collect();
    let is_page = |module: &&String| module.starts_with("crate::docs::");
    assert_eq!(
        listed.iter().filter(is_page).collect::<Vec<_>>(),
        pages.iter().collect::<Vec<_>>()
    );
    let missing: Vec<_> = pages.difference(&linked).collect();
    assert!(missing.is_empty(), "README has no link to {missing:#?}");
}
