//! Facts on the pages that the code knows: options, variables, exit codes, error codes, metrics, planted bugs, files.

use crate::book::{Kind, Page, root};
use crate::prose::prose;
use crate::{assert_none, everything};
use raftkvd::mutants::Mutant;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

/// What a command of the daemon prints.
fn printed(arguments: &[&str]) -> String {
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_raftkvd"));
    let output = daemon.args(arguments).env_clear().output();
    let output = output.expect("the daemon can be run");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The words in a text that start so, and then have only letters of these kinds.
fn words<'a>(text: &'a str, start: &str, is_part: fn(char) -> bool) -> BTreeSet<&'a str> {
    let places = text.match_indices(start).filter(|(at, _)| {
        let before = text[..*at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && c != '-' && c != '_')
    });
    let words = places.map(|(at, _)| {
        let rest = &text[at + start.len()..];
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        &text[at..at + start.len() + end]
    });
    words.collect()
}

fn is_kebab(c: char) -> bool {
    c.is_ascii_lowercase() || c == '-'
}

fn is_constant(c: char) -> bool {
    c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'
}

fn is_name(c: char) -> bool {
    c.is_ascii_lowercase() || c == '_'
}

const SUBCOMMANDS: [&str; 6] = ["backup", "restore", "inspect", "cert", "completions", "man"];
const OF_CERT: [&str; 5] = ["member", "client", "renew", "rotate", "show"];

/// All that the daemon and its subcommands say of their options.
fn help() -> String {
    let subcommands = SUBCOMMANDS.map(|name| printed(&[name, "--help"]));
    let of_cert = OF_CERT.map(|name| printed(&["cert", name, "--help"]));
    printed(&["--help"]) + &subcommands.concat() + &of_cert.concat()
}

/// The text of all files of code and configuration, which know everything; the book is none of them.
pub fn sources() -> String {
    let mut text = String::new();
    for folder in ["src", "tests", "benches", ".ci"] {
        read_all(&root().join(folder), &mut text);
    }
    for file in ["ci.sh", "Cargo.toml", "Procfile"] {
        text += &fs::read_to_string(root().join(file)).expect("it can be read");
    }
    text
}

fn read_all(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).expect("sources can be listed") {
        let path = entry.expect("sources can be listed").path();
        let name = path.file_name().expect("it has a name").to_string_lossy();
        let is_source = [".rs", ".proto", ".sh", ".toml", ".txt"]
            .iter()
            .any(|end| name.ends_with(end));
        if path.is_dir() && name != "docs" && name != "target" {
            read_all(&path, text);
        } else if is_source {
            *text += &fs::read_to_string(&path).expect("it can be read");
        }
    }
}

#[test]
fn every_option_and_its_variable_are_on_the_page_of_the_options_and_none_else() {
    let page = Page::read("src/docs/reference/options.md");
    let help = help();
    for (start, is_part) in [
        ("--", is_kebab as fn(char) -> bool),
        ("RAFTKVD_", is_constant),
    ] {
        let known = words(&help, start, is_part);
        let mut documented = words(&page.text, start, is_part);
        // The second row of a table.
        documented.retain(|word| !word.starts_with("---"));
        assert!(known.len() > 15, "{known:?}");
        assert_eq!(documented, known, "on the page, and by --help");
    }
    let of_cert = OF_CERT.map(|name| format!("cert {name}"));
    for name in SUBCOMMANDS.map(str::to_owned).iter().chain(&of_cert) {
        assert!(page.text.contains(&format!("`raftkvd {name}")), "no {name}");
    }
}

#[test]
fn the_defaults_of_the_options_are_those_of_help() {
    let page = Page::read("src/docs/reference/options.md");
    let help = printed(&["--help"]);
    let mut option = "";
    let mut count = 0;
    for line in help.lines() {
        if line.starts_with("      --") {
            option = line.split_whitespace().next().unwrap_or_default();
        }
        let Some((_, default)) = line.split_once("[default: ") else {
            continue;
        };
        let default = default.trim_end().trim_end_matches(']');
        // 64MiB is 64 MiB on the page, and some are a sentence there.
        let spaced = default.replace("MiB", " MiB").replace("KiB", " KiB");
        let is_plain = default.chars().all(|c| c.is_ascii_alphanumeric());
        let start = format!("| `{option} ");
        let row = page.text.lines().find(|line| line.starts_with(&start));
        let row = row.unwrap_or_else(|| panic!("{option} has no row"));
        let cell = row
            .split(" | ")
            .nth(2)
            .unwrap_or_default()
            .trim_matches('`');
        if is_plain {
            count += 1;
            assert!(
                cell.starts_with(&*spaced),
                "{option} is {default} by --help: {row}"
            );
        }
    }
    assert!(count >= 10, "{count}");
}

/// The pages name them alone.
const OPTIONS_OF_CURL: &[&str] = &["--data-binary"];

/// In code, that is in what stands between backticks and in fences: of commands of raftkvd all options, and otherwise those
/// that stand alone, which may also be the options of a bench.
#[test]
fn every_option_and_every_variable_that_a_page_names_exists() {
    let (help, sources) = (help(), sources());
    let own = words(&help, "--", is_kebab);
    let mut any = words(&sources, "--", is_kebab);
    any.extend(&own);
    let variables = words(&sources, "RAFTKVD_", is_constant);
    let mut wrong = Vec::new();
    for page in everything() {
        let blocks = page.blocks().unwrap_or_else(|why| panic!("{why}"));
        let fences = blocks
            .iter()
            .filter(|block| matches!(block.kind, Kind::Fence(_)));
        let lines = fences.flat_map(|fence| (fence.line + 1..).zip(fence.text.lines()));
        let lines = lines.map(|(line, text)| (line, text.to_owned()));
        for (line, code) in prose(&page).code.into_iter().chain(lines) {
            for option in words(&code, "--", is_kebab) {
                let is_known = match (code.starts_with("raftkvd "), code.starts_with("--")) {
                    (true, _) => own.contains(option),
                    (false, true) => any.contains(option) || OPTIONS_OF_CURL.contains(&option),
                    (false, false) => true,
                };
                if !is_known {
                    wrong.push(format!("{}:{line}: {option} is no option", page.path));
                }
            }
            for variable in words(&code, "RAFTKVD_", is_constant) {
                if !variables.contains(variable) {
                    wrong.push(format!("{}:{line}: {variable} is no variable", page.path));
                }
            }
        }
    }
    assert_none(&wrong);
}

/// The first cells of the rows of a page that are numbers, each with the row.
fn numbered_rows(page: &Page) -> BTreeMap<u32, &str> {
    let rows = page.text.lines().filter_map(|line| {
        let (number, _) = line.strip_prefix("| ")?.split_once(" |")?;
        Some((number.parse().ok()?, line))
    });
    rows.collect()
}

#[test]
fn the_exit_codes_are_those_of_help_on_their_page_and_in_readme() {
    let help = printed(&["--help"]);
    let (_, codes) = help.split_once("Exit codes:").expect("help has them");
    let codes = codes
        .lines()
        .filter_map(|line| line.trim().split_once("  "));
    let codes: Vec<u32> = codes.filter_map(|(code, _)| code.parse().ok()).collect();
    assert!(codes.len() > 8, "{codes:?}");
    let page = Page::read("src/docs/reference/exit_codes.md");
    let rows: Vec<u32> = numbered_rows(&page).into_keys().collect();
    assert_eq!(rows, codes);
    // README has them side by side.
    let codes: Vec<String> = codes.iter().map(u32::to_string).collect();
    let head = format!("\n| {} |\n", codes.join(" | "));
    assert!(
        Page::read("README.md").text.contains(&head),
        "README has no {head}"
    );
}

/// `systemd restarts` on the page of the exit codes is what the unit on the page of the operations says.
#[test]
fn the_exit_codes_after_which_systemd_does_not_restart_are_those_of_the_unit() {
    let operations = Page::read("src/docs/guide/operations.md");
    let page = Page::read("src/docs/reference/exit_codes.md");
    let unit = operations
        .text
        .lines()
        .find(|line| line.starts_with("RestartPreventExitStatus="));
    let unit = unit.expect("the unit has it");
    assert!(
        page.text.contains(unit),
        "{unit} is not on the page of the exit codes"
    );
    let kept: Vec<String> = numbered_rows(&page)
        .into_iter()
        .filter(|(code, row)| *code != 0 && row.ends_with("| no |"))
        .map(|(code, _)| code.to_string())
        .collect();
    assert_eq!(unit, format!("RestartPreventExitStatus={}", kept.join(" ")));
}

/// The codes of refusals with their statuses, as the reference has them; `api/error_code.rs` holds that to the code.
fn error_codes() -> BTreeMap<String, String> {
    let page = Page::read("src/docs/reference/api.md");
    let (_, table) = page
        .text
        .split_once("### Error codes")
        .expect("it has them");
    let (table, _) = table.split_once("\n#").expect("a section follows");
    let rows = table.lines().filter_map(|line| {
        let (code, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        Some((code.to_owned(), rest.get(..3)?.to_owned()))
    });
    rows.collect()
}

#[test]
fn every_error_code_that_a_page_names_behind_a_status_goes_with_it() {
    let codes = error_codes();
    assert!(codes.len() > 30, "{codes:?}");
    let (mut wrong, mut count) = (Vec::new(), 0);
    for page in everything() {
        for (line, text) in (1..).zip(page.text.lines()) {
            for (at, _) in text.match_indices(" `") {
                let before = text[..at].chars().rev().take(3).collect::<String>();
                let status: String = before.chars().rev().collect();
                let is_status = ["4", "5"].iter().any(|first| status.starts_with(first))
                    && status.chars().all(|c| c.is_ascii_digit());
                let code = text[at + 2..].split('`').next().unwrap_or_default();
                if is_status && code.contains('-') && code.chars().all(is_kebab) {
                    count += 1;
                    if codes.get(code) != Some(&status) {
                        wrong.push(format!(
                            "{}:{line}: {code} is {:?}",
                            page.path,
                            codes.get(code)
                        ));
                    }
                }
            }
        }
    }
    assert_none(&wrong);
    assert!(count > 10, "{count}");
}

#[test]
fn every_metric_that_a_page_names_is_on_the_page_of_the_metrics() {
    let reference = Page::read("src/docs/reference/metrics.md");
    let rows = reference
        .text
        .lines()
        .filter(|line| line.starts_with("| `"));
    let rows = rows.collect::<Vec<_>>().join("\n");
    let known = words(&rows, "raftkvd_", is_name);
    assert!(known.len() > 30, "{known:?}");
    let mut wrong = Vec::new();
    for page in everything() {
        for (line, text) in (1..).zip(page.text.lines()) {
            for name in words(text, "raftkvd_", is_name) {
                // A histogram has these series; `raftkvd_peer_` is the start of several names.
                let base = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|end| name.strip_suffix(end));
                // HELP and TYPE name a counter without its end.
                let counter = format!("{name}_total");
                let is_known = known.contains(name)
                    || known.contains(&*counter)
                    || base.is_some_and(|base| known.contains(base))
                    || name.ends_with('_') && known.iter().any(|one| one.starts_with(name));
                if !is_known {
                    wrong.push(format!("{}:{line}: {name} is no metric", page.path));
                }
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn the_planted_bugs_are_those_of_the_code() {
    let page = Page::read("src/docs/evidence/mutants.md");
    let rows = page.text.lines().filter_map(|line| {
        let (bug, seeds) = line
            .strip_prefix("| ")?
            .strip_suffix(" |")?
            .split_once(" | ")?;
        let (what, name) = bug.strip_suffix("`)")?.split_once(" (`")?;
        let seeds: Option<u32> = seeds.parse().ok();
        assert!(seeds.is_some(), "how many seeds does {name} take?");
        Some((name.to_owned(), what.to_owned()))
    });
    let rows: Vec<(String, String)> = rows.collect();
    let known = Mutant::ALL.iter();
    let known: Vec<(String, String)> = known
        .map(|mutant| (mutant.name().to_owned(), mutant.what().to_owned()))
        .collect();
    assert_eq!(rows, known);
}

/// The planted bugs in parentheses on other pages: `(`early-vote`)`.
#[test]
fn every_planted_bug_that_another_page_names_exists() {
    let mut wrong = Vec::new();
    for page in everything() {
        for (line, text) in (1..).zip(page.text.lines()) {
            for (at, _) in text.match_indices("(`") {
                let Some((name, _)) = text[at + 2..].split_once("`)") else {
                    continue;
                };
                let is_bug =
                    name.contains('-') && name.chars().all(is_kebab) && !name.starts_with('-');
                if is_bug && name.parse::<Mutant>().is_err() {
                    wrong.push(format!("{}:{line}: {name} is no planted bug", page.path));
                }
            }
        }
    }
    assert_none(&wrong);
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The text of the file in which the first parts of a path lead, if they name a module of the crate; and the other parts.
fn module<'a>(parts: &'a [&'a str]) -> (Option<String>, &'a [&'a str]) {
    for count in (1..=parts.len()).rev() {
        let path = root().join("src").join(parts[..count].join("/"));
        let files = [path.with_extension("rs"), path.join("mod.rs")];
        if let Some(text) = files.iter().find_map(|file| fs::read_to_string(file).ok()) {
            return (Some(text), &parts[count..]);
        }
    }
    (None, parts)
}

#[test]
fn every_file_and_every_item_of_code_that_a_page_names_exists() {
    let sources = sources();
    let folders = ["src/", "tests/", "benches/", ".ci/", ".github/"];
    let mut wrong = Vec::new();
    for page in everything() {
        for (line, code) in prose(&page).code {
            let is_path = folders.iter().any(|folder| code.starts_with(folder));
            if is_path && !code.contains([' ', '*', '<']) && !root().join(&code).exists() {
                wrong.push(format!("{}:{line}: there is no {code}", page.path));
            }
            let is_part = |part: &str| !part.is_empty() && part.chars().all(is_word);
            let parts: Vec<&str> = code.trim_end_matches("()").split("::").collect();
            if parts.len() < 2 || !parts.iter().all(|part| is_part(part)) {
                continue;
            }
            let (file, items) = module(&parts);
            let code_there = file.as_deref().unwrap_or(&sources);
            for item in items {
                if !words(code_there, item, is_word).contains(item) {
                    wrong.push(format!(
                        "{}:{line}: no code has the {item} of {code}",
                        page.path
                    ));
                }
            }
        }
    }
    assert_none(&wrong);
}

/// Markers in files, headers between peers, and headers of answers.
#[test]
fn every_marker_and_every_header_that_a_page_names_is_in_the_code() {
    let sources = sources();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for page in everything() {
        for (line, code) in prose(&page).code {
            // As they stand in answers of the daemon, and as the pages write headers.
            let name = match code.strip_prefix("X-Raftkvd-") {
                Some(rest) => format!("x-raftkvd-{}", rest.to_lowercase()),
                None => code.clone(),
            };
            let mut starts = ["rkv", "raftkvd-", "x-raftkvd-"].iter();
            let is_part = |c: char| c.is_ascii_alphabetic() || c == '-';
            let is_name = starts.any(|start| name.starts_with(start)) && name.chars().all(is_part);
            // The name of a directory with a number to fill in.
            if is_name && !name.contains("-N") {
                count += 1;
                let mut literals = [format!("\"{name}\""), format!("\"{name}\\0\"")].into_iter();
                if !literals.any(|literal| sources.contains(&literal)) {
                    wrong.push(format!("{}:{line}: no code has {code}", page.path));
                }
            }
        }
    }
    assert_none(&wrong);
    assert!(count > 15, "{count}");
}

#[test]
fn the_versions_of_formats_and_commands_are_those_of_the_code() {
    let formats = Page::read("src/docs/reference/formats.md").text;
    for (path, constant, says) in [
        (
            "src/storage/format.rs",
            "FORMAT_VERSION: u32 = ",
            "All file formats have version ",
        ),
        (
            "src/storage/format.rs",
            "FORMAT_VERSION: u32 = ",
            "| format version, ",
        ),
        (
            "src/transport/handshake.rs",
            "VERSION: u64 = ",
            "version of the protocol, ",
        ),
    ] {
        let code = fs::read_to_string(root().join(path)).expect("it can be read");
        let (_, version) = code.split_once(constant).expect("it has a version");
        let version = version.split(';').next().unwrap_or_default();
        assert!(
            formats.contains(&format!("{says}{version}")),
            "{says}{version}"
        );
    }
    if !cfg!(feature = "later") {
        let version = printed(&["--version"]);
        let (_, version) = version.split_once("command version ").expect("it says so");
        let version = version.trim_end().trim_end_matches(')');
        let operations = Page::read("src/docs/guide/operations.md").text;
        let operations = operations.split_whitespace().collect::<Vec<_>>().join(" ");
        let says = format!("may hold. It is {version} as well.");
        assert!(operations.contains(&says), "{says}");
    }
}
