//! The layout of `src/`: the rooms that `lib.rs` lists are those that there are, a room uses only rooms below it, and the
//! files of a room use each other without a circle. And the licence, which is no code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files of this crate's own code, without tests and what is generated.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("src/ can be read") {
        let path = entry.expect("src/ can be listed").path();
        let name = path.file_name().expect("it has a name").to_string_lossy();
        match path.is_dir() {
            true if name == "tests" => {}
            true => found.extend(files(&path)),
            false if name == "tests.rs" || name == "build.rs" || !name.ends_with(".rs") => {}
            false => found.push(path),
        }
    }
    found
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The code of a file: no comments, and nothing from its unit tests on.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("a source file can be read");
    let end = text.find("\nmod tests {").unwrap_or(text.len());
    let lines = text[..end].lines();
    let lines = lines.map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The rooms of `lib.rs`, from the top; those in one line are beside each other.
fn floors() -> Vec<Vec<String>> {
    let text = fs::read_to_string(source().join("lib.rs")).expect("lib.rs can be read");
    let (_, list) = text
        .split_once("# Dependencies point down")
        .expect("lib.rs has the order");
    let list = list.split("```").nth(1).expect("the order is a block");
    let lines = list.lines().skip(1);
    let rooms = lines.map(|line| {
        let line = line.trim_start_matches("//!");
        let rooms = line.split(',').map(|room| room.trim().to_owned());
        rooms.filter(|room| !room.is_empty()).collect::<Vec<_>>()
    });
    rooms.filter(|rooms| !rooms.is_empty()).collect()
}

fn room_of(path: &Path) -> String {
    let within = path.strip_prefix(source()).expect("it is in src/");
    let first = within.iter().next().expect("it has a name");
    first.to_string_lossy().trim_end_matches(".rs").to_owned()
}

/// What follows `crate::` and `raftkvd::` in this code.
fn used_rooms(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for root in ["crate::", "raftkvd::"] {
        for (at, _) in code.match_indices(root) {
            let rest = &code[at + root.len()..];
            let names = match rest.strip_prefix('{') {
                Some(group) => top_names(group),
                None => vec![first_name(rest)],
            };
            used.extend(names);
        }
    }
    used
}

fn first_name(text: &str) -> String {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    text[..end.unwrap_or(text.len())].to_owned()
}

/// The first names of the items in a group of imports, up to its closing brace.
fn top_names(group: &str) -> Vec<String> {
    let (mut depth, mut starts) = (0, true);
    let mut names = Vec::new();
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => starts = true,
            c if starts && !c.is_whitespace() => {
                names.push(first_name(&group[at..]));
                starts = false;
            }
            _ => {}
        }
    }
    names
}

#[test]
fn every_room_is_in_the_order_that_lib_rs_gives() {
    let listed: BTreeSet<String> = floors().into_iter().flatten().collect();
    let found: BTreeSet<String> = files(&source()).iter().map(|p| room_of(p)).collect();
    let found: BTreeSet<String> = found.into_iter().filter(|room| room != "lib").collect();
    assert_eq!(listed, found);
}

#[test]
fn a_room_uses_only_rooms_below_it() {
    let floors = floors();
    let floor = |room: &str| floors.iter().position(|f| f.iter().any(|r| r == room));
    let mut wrong = Vec::new();
    for path in files(&source()) {
        let room = room_of(&path);
        let Some(own) = floor(&room) else { continue };
        for used in used_rooms(&code(&path)) {
            if used != room && floor(&used).is_some_and(|other| other <= own) {
                wrong.push(format!(
                    "{} uses {used}, which is not below",
                    path.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The modules of a room that a file of it uses, by `crate::room::module` and `super::module`.
fn used_modules(path: &Path, room: &str, modules: &BTreeSet<String>) -> BTreeSet<String> {
    let code = code(path);
    let roots = [format!("crate::{room}::"), "super::".to_owned()];
    let mut used = BTreeSet::new();
    for root in roots {
        for (at, _) in code.match_indices(&root) {
            let rest = &code[at + root.len()..];
            let names = match rest.strip_prefix('{') {
                Some(group) => top_names(group),
                None => vec![first_name(rest)],
            };
            used.extend(names.into_iter().filter(|name| modules.contains(name)));
        }
    }
    used
}

/// Files that stand directly in a room, by module; what is in a folder of the room counts as that folder.
#[test]
fn no_room_has_a_circle() {
    let mut rooms: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for path in files(&source()) {
        rooms.entry(room_of(&path)).or_default().push(path);
    }
    let mut circles = Vec::new();
    for (room, paths) in rooms {
        let module = |path: &Path| {
            let within = path.strip_prefix(source().join(&room)).ok()?;
            let first = within.iter().next()?.to_string_lossy();
            let name = first.trim_end_matches(".rs").to_owned();
            (name != "mod").then_some(name)
        };
        let modules: BTreeSet<String> = paths.iter().filter_map(|path| module(path)).collect();
        let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for path in &paths {
            // In a folder of the room `super` is that folder.
            let is_direct = path.parent() == Some(&*source().join(&room));
            if let Some(name) = module(path).filter(|_| is_direct) {
                let mut used = used_modules(path, &room, &modules);
                used.remove(&name);
                uses.insert(name, used);
            }
        }
        while let Some(leaf) = uses
            .iter()
            .find(|(_, used)| used.iter().all(|name| !uses.contains_key(name)))
            .map(|(name, _)| name.clone())
        {
            uses.remove(&leaf);
        }
        if !uses.is_empty() {
            circles.push((room, uses));
        }
    }
    assert!(circles.is_empty(), "{circles:#?}");
}

/// A package of the sources has the licence in it.
#[test]
fn the_licence_is_whole_and_in_the_package() {
    assert_eq!(env!("CARGO_PKG_LICENSE"), "Apache-2.0");
    let path = ".github/LICENSE";
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
    let text = text.expect("the licence can be read");
    let parts = [
        "Apache License",
        "Version 2.0, January 2004",
        "1. Definitions.",
        "9. Accepting Warranty or Additional Liability.",
        "END OF TERMS AND CONDITIONS",
    ];
    for part in parts {
        assert!(text.contains(part), "no {part:?}");
    }
    let listed = Command::new(env!("CARGO"))
        .args(["package", "--list", "--allow-dirty", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("run cargo");
    let listed = String::from_utf8_lossy(&listed.stdout);
    assert!(listed.lines().any(|line| line == path), "{listed}");
}
