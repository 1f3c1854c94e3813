//! "Did you mean": options, words and habits of other programs, and what raftkvd has in their place.
//!
//! `OPTIONS` (`options.rs`) and `WORDS` (`words.rs`) are the only lists of these. A command line that has one of them is refused with a line that
//! says what to use. The check comes before clap, because clap reads `-haddr` as `-h`.

mod options;
mod words;

use super::args::{self, HelpLength};
use super::values::{parse_id, parse_member};
use clap::Command;
use clap::error::ErrorKind;
use options::{Foreign, OPTIONS};
use std::ffi::OsString;

/// Options with a list of URLs.
const LISTS: [&str; 2] = ["--cluster", "--join"];

/// Replaces the words `help` and `version` by the options that they stand for.
pub(super) fn replace_words(arguments: &mut Vec<OsString>) {
    match arguments.get(1).and_then(|word| word.to_str()) {
        Some("help") => {
            arguments.remove(1);
            arguments.truncate(2);
            arguments.push("--help".into());
        }
        Some("version") => arguments[1] = "--version".into(),
        _ => {}
    }
}

/// An option that raftkvd does not have, or does not have in this form.
struct Hint {
    /// The whole line.
    line: String,
    /// What to do instead, for a line that has several of these.
    short: String,
}

/// The line for a word of another program in the place of the subcommand.
pub(super) fn foreign_word(arguments: &[OsString]) -> Option<String> {
    let first = arguments.get(1)?.to_str()?;
    let (said, sentence) = words::known(first, arguments.get(2).and_then(|word| word.to_str()))?;
    Some(format!(
        "there is no subcommand {said:?}: {sentence}; see raftkvd --help"
    ))
}

/// The line for all options that are those of another program, or are written as in another program.
pub(super) fn foreign_options(arguments: &[OsString]) -> Option<String> {
    let root = args::command(HelpLength::Long);
    let first = arguments.get(1)?;
    let subcommand = root.find_subcommand(first);
    let second = arguments.get(2);
    let nested = subcommand.and_then(|subcommand| subcommand.find_subcommand(second?));
    let command = nested.or(subcommand).unwrap_or(&root);
    let options = arguments.iter().skip(1).take_while(|word| *word != "--");
    let options: Vec<&str> = options.filter_map(|word| word.to_str()).collect();
    let hints = options.iter().filter_map(|word| hint(word, command));
    let mut hints: Vec<Hint> = hints.collect();
    if hints.is_empty() {
        return None;
    }
    hints.extend(wrong_id(&options));
    hints.extend(last_path(&options).filter(|_| subcommand.is_none()));
    let line = match &hints[..] {
        [only] => only.line.clone(),
        several => {
            let several: Vec<&str> = several.iter().map(|hint| hint.short.as_str()).collect();
            several.join("; ")
        }
    };
    Some(format!("{line}; see {}", help_of(subcommand)))
}

/// The hint for a value of `--id` or `-id` that is no id.
fn wrong_id(options: &[&str]) -> Option<Hint> {
    let name = |word: &str| matches!(word, "--id" | "-id");
    let joined = options.iter().find_map(|word| {
        let (option, value) = word.split_once('=')?;
        name(option).then_some(value)
    });
    let mut pairs = options.windows(2);
    let apart = pairs.find(|pair| name(pair[0])).map(|pair| pair[1]);
    let value = joined.or(apart).filter(|value| !value.starts_with('-'))?;
    let why = parse_id(value).err()?;
    Some(Hint {
        line: format!("{value:?}: {why}"),
        short: format!("{value:?}: an id is a number from 1 on"),
    })
}

/// The hint for a path at the end that no option is before, as hraftd takes it.
fn last_path(options: &[&str]) -> Option<Hint> {
    let [.., before, path] = options else {
        return None;
    };
    let is_path = path.starts_with(['/', '.', '~']);
    if !is_path || before.starts_with('-') {
        return None;
    }
    Some(Hint {
        line: format!("{path:?} has no option before it; use --data-dir {path}"),
        short: format!("{path:?}: use --data-dir {path}"),
    })
}

/// The command that prints the help of this subcommand, or of the daemon.
pub(super) fn help_of(subcommand: Option<&Command>) -> String {
    match subcommand {
        Some(subcommand) => format!("raftkvd {} --help", subcommand.get_name()),
        None => "raftkvd --help".to_owned(),
    }
}

fn hint(word: &str, command: &Command) -> Option<Hint> {
    let dashed = word.split('=').next().unwrap_or(word);
    let (is_single, name) = match dashed.strip_prefix("--") {
        Some(name) => (false, name),
        None => (true, dashed.strip_prefix('-')?),
    };
    let is_short = |name: &str| matches!(name, "h" | "V");
    let is_number = name.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    if name.is_empty() || is_number || (is_single && is_short(name)) {
        return None;
    }
    let has = |name: &str| {
        let mut options = command.get_arguments();
        matches!(name, "help" | "version") || options.any(|option| option.get_long() == Some(name))
    };
    match (is_single, has(name)) {
        // Programs in Go name `-help` in their messages, and clap prints the help for it.
        (true, true) if name == "help" => return None,
        (true, true) => {
            return Some(Hint {
                line: format!("{dashed}: options have two dashes: --{name}"),
                short: format!("{dashed}: write --{name}"),
            });
        }
        (false, true) => return None,
        (_, false) => {}
    }
    let of_daemon = command.get_name() == "raftkvd";
    if let Some(sentence) = of_subcommand(command.get_name(), name) {
        let program = command.get_name();
        return Some(Hint {
            line: format!("{dashed} is no option of raftkvd {program}: {sentence}"),
            short: format!("{dashed}: {sentence}"),
        });
    }
    let mut known = OPTIONS.iter();
    let known = known.find(|option| option.names.contains(&name));
    match known {
        Some(Foreign {
            ours: "", sentence, ..
        }) if of_daemon => Some(Hint {
            line: format!("{dashed} is no option of raftkvd: {sentence}"),
            short: format!("{dashed}: {sentence}"),
        }),
        Some(Foreign { ours, sentence, .. }) if of_daemon || has(long_of(ours)) => Some(Hint {
            line: format!("{dashed} is no option of raftkvd; use {ours}: {sentence}"),
            short: format!("{dashed}: use {ours}"),
        }),
        // Clap would print the help, or the version, for any word that starts like these.
        _ if is_single && (name.starts_with('h') || name.starts_with('V')) => Some(Hint {
            line: format!("there is no option {dashed}"),
            short: format!("there is no option {dashed}"),
        }),
        _ => None,
    }
}

/// What to do in place of an option that other programs have where raftkvd has a subcommand.
fn of_subcommand(subcommand: &str, name: &str) -> Option<&'static str> {
    let is_output = matches!(name, "o" | "out" | "output" | "file" | "f");
    match subcommand {
        "backup" if is_output => Some("write FILE behind the URL, as in raftkvd backup URL FILE"),
        "backup" if matches!(name, "endpoints" | "endpoint" | "url") => {
            Some("write the URL without an option, as in raftkvd backup URL FILE")
        }
        "backup" if matches!(name, "cert-file" | "client-cert") => Some("use --cert FILE"),
        "backup" if matches!(name, "key-file" | "client-key") => Some("use --key FILE"),
        "backup" if matches!(name, "ca-file" | "trusted-ca-file") => Some("use --cacert FILE"),
        "restore" if is_output => Some("use --data-dir DIR for the directory to make"),
        _ => None,
    }
}

/// The line for a word that a subcommand has no place for.
pub(super) fn surplus_of(subcommand: &Command, word: &str) -> Option<String> {
    if word.starts_with('-') {
        return None;
    }
    match subcommand.get_name() {
        "restore" => Some(format!(
            "{word:?} is a word too many; if it is the directory to make, use --data-dir {word}"
        )),
        "backup" => Some(format!(
            "{word:?} is a word too many; backup takes one URL and one FILE"
        )),
        "cert" => Some(format!(
            "{word:?} is a word too many; cert takes one DIR, or one of the subcommands member, client, renew, rotate and show"
        )),
        "inspect" => Some(format!(
            "{word:?} is a word too many; inspect takes one path at a time"
        )),
        _ => None,
    }
}

/// The name of `--id N`, without its dashes and its value.
fn long_of(ours: &str) -> &str {
    let option = ours.split(' ').next().unwrap_or(ours);
    option.trim_start_matches('-')
}

/// The line for a word that is neither an option nor a subcommand, if `kind` is clap's error for one.
pub(super) fn surplus(kind: ErrorKind, word: &str, arguments: &[OsString]) -> Option<String> {
    let is_behind_an_option = match kind {
        ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand => false,
        // Clap takes the word for a subcommand, and has none behind options.
        ErrorKind::ArgumentConflict => true,
        _ => return None,
    };
    let root = args::command(HelpLength::Long);
    if word.starts_with('-') || root.find_subcommand(word).is_some() {
        return None;
    }
    let at = arguments.iter().position(|argument| argument == word)?;
    let behind = arguments.get(at + 1).and_then(|word| word.to_str());
    if let Some((said, sentence)) = words::known(word, behind) {
        return Some(format!("there is no subcommand {said:?}: {sentence}"));
    }
    let before = arguments[..at].iter().filter_map(|word| word.to_str());
    let list = before.rev().find_map(|before| {
        let option = before.split('=').next().unwrap_or(before);
        LISTS.into_iter().find(|list| *list == option)
    });
    let is_path = word.contains('/') || word.starts_with('.') || word.starts_with('~');
    let is_path = is_path || is_behind_an_option || std::path::Path::new(word).is_dir();
    match (parse_member(word.trim_end_matches(',')), list) {
        (Ok(_), Some(list)) => Some(format!(
            "{word:?} is not part of {list}; separate the URLs by commas without spaces, as in {list} URL,URL"
        )),
        (Ok(_), None) => Some(format!(
            "{word:?} has no option before it; use --peer-url for the URL of this member, --cluster for those of all, and \
             --join for a member of a running cluster"
        )),
        (Err(_), _) if is_path => Some(format!(
            "{word:?} has no option before it; if it is the data directory, use --data-dir {word}"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn words(line: &str) -> Vec<OsString> {
        let words = std::iter::once("raftkvd").chain(line.split_whitespace());
        words.map(OsString::from).collect()
    }

    #[test]
    fn each_name_is_listed_once_and_its_counterpart_is_an_option() {
        let root = args::command(HelpLength::Long);
        let ours: BTreeSet<_> = root.get_arguments().filter_map(|a| a.get_long()).collect();
        let mut names = BTreeSet::new();
        for option in OPTIONS {
            for name in option.names {
                assert!(names.insert(name), "{name} is listed twice");
                assert!(!ours.contains(name), "{name} is an option");
            }
            let long = long_of(option.ours);
            assert!(long.is_empty() || ours.contains(long), "{long}");
        }
        let mut known = BTreeSet::new();
        for word in words::WORDS.iter().flat_map(|(words, _)| *words) {
            assert!(known.insert(word), "{word} is listed twice");
            assert!(root.find_subcommand(word).is_none(), "{word}");
        }
    }

    #[test]
    fn the_table_of_the_book_says_the_same() {
        let page = include_str!("../../docs/guide/coming_from.md");
        let (_, section) = page.split_once("## Options of other programs").unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        let rows = section.lines().filter(|line| line.starts_with("| `"));
        let mut count = 0;
        for row in rows {
            let (theirs, ours) = row.trim_matches(['|', ' ']).split_once(" | ").unwrap();
            for name in theirs.split(", ") {
                let name = name.trim_matches('`').trim_start_matches('-');
                let mut known = OPTIONS.iter();
                let known = known.find(|option| option.names.contains(&name));
                let known = known.unwrap_or_else(|| panic!("{name} is not in the table"));
                assert_eq!(ours.trim_matches('`'), known.ours, "{name}");
                count += 1;
            }
        }
        assert!(count > 15, "{count}");
    }

    #[test]
    fn options_of_other_programs_have_a_hint_and_own_ones_have_none() {
        for (line, said) in [
            ("-haddr localhost:11001", Some("use --port PORT")),
            ("--haddr=localhost:11001", Some("use --port PORT")),
            ("-id 1", Some("-id: options have two dashes: --id")),
            ("--port 1 -cluster=http://a:1", Some("--cluster")),
            ("-join http://a:1", Some("two dashes: --join")),
            ("-hello", Some("there is no option -hello")),
            ("restore f --name 1", Some("use --id N")),
            ("restore f -data-dir d", Some("two dashes: --data-dir")),
            ("restore f --http-addr d", None),
            ("backup -stale", Some("two dashes: --stale")),
            ("backup u --cert-file c", Some("use --cert FILE")),
            ("backup u --key-file=k", Some("use --key FILE")),
            ("backup u -ca-file c", Some("use --cacert FILE")),
            ("-client-key k", Some("use --tls DIR")),
            ("-http-verify-client", Some("use --tls DIR")),
            ("--crl-file f", Some("the file revoked")),
            ("--id -1", None),
            ("-h", None),
            ("-V", None),
            ("-help", None),
            ("--help", None),
            ("--no-such", None),
            ("--data-dir -- -haddr", None),
        ] {
            let found = foreign_options(&words(line));
            assert_eq!(found.is_some(), said.is_some(), "{line}: {found:?}");
            let found = found.unwrap_or_default();
            assert!(found.contains(said.unwrap_or_default()), "{line}: {found}");
        }
    }
}
