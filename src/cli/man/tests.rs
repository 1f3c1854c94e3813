//! The pages against the code: options, variables, exit codes and files.

use super::*;
use crate::exit_code::ExitCode;
use crate::limits;
use crate::storage::{DataDir, RealDisk, Start};
use std::path::Path;
use std::sync::Arc;

/// A page without what only roff sees.
fn text_of(subcommand: Option<&str>) -> String {
    let page = String::from_utf8(manual(subcommand)).unwrap();
    let page = page
        .replace("\\fB", "")
        .replace("\\fI", "")
        .replace("\\fR", "");
    page.replace("\\-", "-")
}

/// The lines of a section, each behind a line break.
fn section(page: &str, title: &str) -> String {
    let title = match title.contains(' ') {
        true => format!("\n.SH \"{title}\""),
        false => format!("\n.SH {title}"),
    };
    let (_, rest) = page.split_once(&title).unwrap();
    rest.split("\n.SH ").next().unwrap().to_owned()
}

#[test]
fn the_page_has_every_option_value_variable_exit_code_and_subcommand() {
    let page = text_of(None);
    let root = command(HelpLength::Long);
    let (options, environment) = (section(&page, "OPTIONS"), section(&page, "ENVIRONMENT"));
    for argument in root.get_arguments() {
        let long = argument.get_long().unwrap();
        let ends = match argument.get_action().takes_values() {
            true => " ",
            false => "\n",
        };
        assert!(
            options.contains(&format!("\n.TP\n--{long}{ends}")),
            "{long}: {page}"
        );
        let variable = argument.get_env().unwrap().to_str().unwrap();
        let sets = format!("\n.TP\n{variable}\nSets --{long}");
        assert!(environment.contains(&sets), "{variable}: {page}");
        for default in argument.get_default_values() {
            let line = format!("\nDefault: {}.\n", default.to_str().unwrap());
            assert!(options.contains(&line), "{line}: {page}");
        }
        // Clap gives those of a truth value to an option that takes none.
        let choices = argument.get_possible_values().into_iter();
        for choice in choices.filter(|_| argument.get_action().takes_values()) {
            let line = format!("\n.TP\n{}\n", choice.get_name());
            assert!(options.contains(&line), "{line}: {page}");
        }
    }
    for (value, meaning) in help::VALUES {
        let line = format!("\n.TP\n{value}\n{meaning}");
        assert!(options.contains(&line), "{line}: {page}");
    }
    for code in ExitCode::ALL {
        let term = format!("\n.TP\n{code}\n");
        let status = section(&page, "EXIT STATUS");
        assert!(status.contains(&term), "{code}: {page}");
    }
    let subcommands = section(&page, "SUBCOMMANDS");
    for subcommand in root.get_subcommands() {
        let name = subcommand.get_name();
        let (_, described) = subcommands
            .split_once(&format!("\n.SS \"raftkvd {name}\"\n"))
            .unwrap();
        let described = described.split("\n.SS ").next().unwrap();
        assert!(described.contains("\n.EX\n"), "{name}: {described}");
        for option in subcommand.get_arguments().filter_map(Arg::get_long) {
            let term = format!("\n.TP\n--{option}");
            assert!(described.contains(&term), "{name}, {option}: {described}");
        }
    }
}

#[test]
fn each_subcommand_has_a_page_with_its_arguments_and_examples() {
    for subcommand in command(HelpLength::Long).get_subcommands() {
        let name = subcommand.get_name();
        let page = text_of(Some(name));
        assert!(page.contains(&format!("\nraftkvd-{name} - ")), "{page}");
        for argument in subcommand.get_arguments() {
            let name = argument.get_long().map(|long| format!("--{long}"));
            let name = name.unwrap_or(argument.get_id().as_str().to_uppercase());
            assert!(section(&page, "OPTIONS").contains(&name), "{name}: {page}");
        }
        assert!(section(&page, "EXAMPLES").contains(".EX\n"), "{page}");
        assert!(
            section(&page, "EXIT STATUS").contains("\n.TP\n8\n"),
            "{page}"
        );
    }
    let environment = text_of(Some("restore"));
    let environment = section(&environment, "ENVIRONMENT");
    let names = environment
        .lines()
        .filter(|line| line.starts_with("RAFTKVD_"));
    let expected = ["ID", "CLUSTER", "PEER_URL", "DATA_DIR"].map(|n| format!("RAFTKVD_{n}"));
    assert_eq!(names.collect::<Vec<_>>(), expected);
}

/// With one sign in the place of every number: of 16 digits, or as a word in capitals.
fn shape(path: &str) -> String {
    let capitals = |word: &str| word.chars().all(|c| c.is_ascii_uppercase()) && word != "LOCK";
    let digits = |word: &str| word.len() == 16 && word.chars().all(|c| c.is_ascii_hexdigit());
    let mut shape = String::new();
    for part in path.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let word = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        match !word.is_empty() && (capitals(word) || digits(word)) {
            true => shape += &format!("#{}", &part[word.len()..]),
            false => shape += part,
        }
    }
    shape
}

fn files_below(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        match path.is_dir() {
            true => {
                let below = files_below(&path).into_iter();
                found.extend(below.map(|below| format!("{name}/{below}")));
            }
            false => found.push(name),
        }
    }
    found
}

#[test]
fn the_page_has_every_file_of_a_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let start = Start::First([(1, "http://a:1".parse().unwrap())].into());
    let data_dir = DataDir::new(Arc::new(RealDisk), dir.path());
    let _lock = data_dir.lock().unwrap();
    data_dir.open(1, start, &logger).unwrap();
    let known = FILES.map(|(path, _)| shape(path));
    let found = files_below(dir.path());
    assert!(found.len() >= 4, "{found:?}");
    for path in found {
        assert!(known.contains(&shape(&path)), "{path}: {known:?}");
    }
    assert_eq!(FILES[0].0, format!("{}ID/", limits::DATA_DIR_PREFIX));
    assert_eq!(limits::BROKEN_FILES_KEPT, 3, "the page says three");
}

#[test]
fn no_line_of_a_page_is_taken_for_a_request_by_mistake() {
    let requests = [
        ".TH", ".SH", ".SS", ".TP", ".IP", ".PP", ".RS", ".RE", ".EX", ".EE", ".br", ".ie", ".el",
        ".nh", ".ad",
    ];
    let page = String::from_utf8(manual(None)).unwrap();
    for line in page.lines().filter(|line| line.starts_with(['.', '\''])) {
        let request = line.split_whitespace().next().unwrap();
        assert!(requests.contains(&request), "{line}");
    }
}
