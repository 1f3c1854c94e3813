//! "Did you mean": options, words and habits of other programs, and what raftkvd has in their place.
//!
//! [`OPTIONS`] and [`WORDS`] are the only lists of these. A command line that has one of them is refused with a line that
//! says what to use. The check comes before clap, because clap reads `-haddr` as `-h`.

use super::args::{self, HelpLength};
use super::values::parse_member;
use clap::Command;
use clap::error::ErrorKind;
use std::ffi::OsString;

/// Options of other programs, and what does the same here.
struct Foreign {
    /// Without dashes.
    names: &'static [&'static str],
    /// The option of raftkvd with a value, or empty.
    ours: &'static str,
    /// An explanation of `ours`. Without `ours`: why there is no such option.
    sentence: &'static str,
}

const fn foreign(
    names: &'static [&'static str],
    ours: &'static str,
    sentence: &'static str,
) -> Foreign {
    Foreign {
        names,
        ours,
        sentence,
    }
}

/// Of etcd, Consul, rqlite, hraftd and similar programs.
const OPTIONS: &[Foreign] = &[
    foreign(
        &[
            "name",
            "n",
            "node",
            "node-id",
            "node-name",
            "nodeid",
            "server-id",
            "member-id",
        ],
        "--id N",
        "an id is a number from 1 on, the member's place in --cluster",
    ),
    foreign(
        &[
            "initial-cluster",
            "peers",
            "members",
            "bootstrap-expect",
            "discovery",
            "disco-mode",
        ],
        "--cluster URLS",
        "it lists the peer URLs of all members of a new cluster, separated by commas",
    ),
    foreign(
        &["bootstrap", "bootstrap-cluster", "initial-cluster-token"],
        "",
        "a first start without --join creates the cluster, of the members in --cluster or of this one alone, and gives it an \
         id",
    ),
    foreign(
        &["initial-cluster-state"],
        "--join",
        "with --join the member joins a running cluster, and without it a new cluster forms",
    ),
    foreign(
        &[
            "join-addr",
            "join-address",
            "join-as",
            "retry-join",
            "start-join",
        ],
        "--join URL",
        "URL is the one at which clients reach any member, as in --join http://10.0.0.1:9121",
    ),
    foreign(
        &[
            "raddr",
            "raft-addr",
            "raft-address",
            "raft-adv-addr",
            "peer-addr",
            "initial-advertise-peer-urls",
            "advertise",
            "advertise-addr",
            "advertise-peer-urls",
        ],
        "--peer-url http://HOST:PORT",
        "it is the URL at which the other members reach this one",
    ),
    foreign(
        &["bind", "bind-addr", "listen-peer-urls"],
        "--listen-peer IP",
        "the port for the other members is that of --peer-url or of the member's URL in --cluster",
    ),
    foreign(
        &["raft-port", "peer-port"],
        "--peer-url http://HOST:PORT",
        "the port for the other members is that of this URL, or of the member's URL in --cluster",
    ),
    foreign(
        &[
            "haddr",
            "http-addr",
            "http-adv-addr",
            "http-address",
            "listen-client-urls",
            "advertise-client-urls",
            "listen-addr",
            "listen-address",
            "client-addr",
            "addr",
            "address",
            "host",
            "client",
        ],
        "--port PORT",
        "it is the port for clients, and --listen IP sets the address for clients",
    ),
    foreign(
        &["p", "http-port", "client-port"],
        "--port PORT",
        "it is the port for clients",
    ),
    foreign(
        &[
            "data",
            "d",
            "dir",
            "datadir",
            "data-path",
            "data-directory",
            "storage-dir",
            "raft-dir",
            "wal-dir",
            "db",
        ],
        "--data-dir DIR",
        "one directory holds everything that belongs to a member",
    ),
    foreign(
        &["inmem", "in-memory", "memory"],
        "--data-dir DIR",
        "raftkvd always writes to disk; for a short test, DIR can be on a RAM disk",
    ),
    foreign(
        &["heartbeat-interval", "raft-heartbeat", "heartbeat-timeout"],
        "--heartbeat DURATION",
        "a duration has a unit, as in 100ms",
    ),
    foreign(
        &["raft-timeout", "raft-election-timeout", "election-tick"],
        "--election-timeout DURATION",
        "a duration has a unit, as in 1s",
    ),
    foreign(
        &["snapshot-count", "raft-snap", "raft-snap-threshold"],
        "--snapshot-bytes SIZE",
        "the size of the log decides when a snapshot is due",
    ),
    foreign(
        &["quota-backend-bytes"],
        "--max-store-bytes SIZE",
        "it limits the size of all keys and values",
    ),
    foreign(
        &["max-request-bytes"],
        "--max-value-bytes SIZE",
        "it limits the size of one value",
    ),
    foreign(
        &["force-new-cluster"],
        "",
        "raftkvd restore makes a new cluster from a backup or a snapshot",
    ),
    foreign(
        &["v", "debug", "verbose", "raft-log-level", "loglevel"],
        "--log-level debug",
        "to print the version, use --version",
    ),
    foreign(
        &["log-json", "json", "logger"],
        "--log-format json",
        "the log goes to stderr",
    ),
    foreign(
        &["log-file", "log-outputs", "logfile", "syslog"],
        "",
        "the log goes to stderr; redirect that, or let a supervisor keep it",
    ),
    foreign(
        &["config", "config-file", "config-dir", "conf", "c", "f"],
        "",
        "there is no file of options; each option can be set by an environment variable, such as RAFTKVD_ID",
    ),
    foreign(
        &["server", "dev", "agent", "ui", "single-node", "standalone"],
        "",
        "raftkvd without options runs a single member; leave this option out",
    ),
    foreign(
        &["daemon", "daemonize", "background", "foreground", "detach"],
        "",
        "raftkvd runs in the foreground; leave this option out, and let a supervisor run it",
    ),
    foreign(
        &[
            "tls",
            "cert-file",
            "key-file",
            "trusted-ca-file",
            "ca-file",
            "client-cert-auth",
            "auto-tls",
            "peer-cert-file",
            "peer-key-file",
            "peer-trusted-ca-file",
            "peer-client-cert-auth",
            "peer-auto-tls",
            "http-cert",
            "http-key",
            "http-ca-cert",
            "node-cert",
            "node-key",
            "node-ca-cert",
            "encrypt",
        ],
        "",
        "there is no TLS; put the members into a private network, and let clients use a proxy that has TLS",
    ),
    foreign(
        &[
            "auth",
            "auth-token",
            "token",
            "user",
            "password",
            "username",
        ],
        "",
        "there is no authentication; put the members into a private network, and let clients use a proxy that checks them",
    ),
    foreign(
        &["endpoints", "endpoint"],
        "",
        "clients use HTTP, as in curl http://127.0.0.1:9121/greeting",
    ),
];

/// Words in the place of a subcommand, and what does the same here.
const WORDS: &[(&[&str], &str)] = &[
    (
        &[
            "start", "run", "serve", "server", "agent", "daemon", "node", "up",
        ],
        "raftkvd without a subcommand runs a member; leave this word out",
    ),
    (
        &[
            "get", "put", "set", "del", "delete", "kv", "watch", "txn", "ls", "list",
        ],
        "clients use HTTP, as in curl http://127.0.0.1:9121/greeting",
    ),
    (
        &[
            "member", "members", "operator", "remove", "leave", "status", "endpoint", "health",
            "leader",
        ],
        "ask a member by HTTP, as in curl http://127.0.0.1:9121/-/status; curl http://127.0.0.1:9121/ lists all requests",
    ),
    (
        &["join"],
        "start the new member with --join URL, where URL is the one at which clients reach any member",
    ),
    (
        &["snapshot", "dump", "export", "save"],
        "raftkvd backup fetches a backup from a member",
    ),
    (
        &["import", "load"],
        "raftkvd restore makes a new cluster from a backup",
    ),
    (
        &["check", "verify", "fsck", "info", "show"],
        "raftkvd inspect checks a data directory or a backup",
    ),
    (
        &["completion"],
        "raftkvd completions prints the script for a shell",
    ),
];

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

/// The line for the first option that is one of another program, or is written as in another program.
pub(super) fn foreign_option(arguments: &[OsString]) -> Option<String> {
    let root = args::command(HelpLength::Long);
    let first = arguments.get(1)?;
    let subcommand = root.find_subcommand(first);
    let command = subcommand.unwrap_or(&root);
    let options = arguments.iter().skip(1).take_while(|word| *word != "--");
    let line = options
        .filter_map(|word| word.to_str())
        .find_map(|word| hint(word, command))?;
    Some(format!("{line}; see {}", help_of(subcommand)))
}

/// The command that prints the help of this subcommand, or of the daemon.
pub(super) fn help_of(subcommand: Option<&Command>) -> String {
    match subcommand {
        Some(subcommand) => format!("raftkvd {} --help", subcommand.get_name()),
        None => "raftkvd --help".to_owned(),
    }
}

fn hint(word: &str, command: &Command) -> Option<String> {
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
        (true, true) => return Some(format!("{dashed}: options have two dashes: --{name}")),
        (false, true) => return None,
        (_, false) => {}
    }
    let mut known = OPTIONS.iter();
    let known = known.find(|option| option.names.contains(&name));
    let of_daemon = command.get_name() == "raftkvd";
    match known {
        Some(Foreign {
            ours: "", sentence, ..
        }) if of_daemon => Some(format!("{dashed} is no option of raftkvd: {sentence}")),
        Some(Foreign { ours, sentence, .. }) if of_daemon || has(long_of(ours)) => Some(format!(
            "{dashed} is no option of raftkvd; use {ours}: {sentence}"
        )),
        // Clap would print the help, or the version, for any word that starts like these.
        _ if is_single && (name.starts_with('h') || name.starts_with('V')) => {
            Some(format!("there is no option {dashed}"))
        }
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
    let known = WORDS.iter().find(|(words, _)| words.contains(&word));
    if let Some((_, sentence)) = known {
        return Some(format!("there is no subcommand {word:?}: {sentence}"));
    }
    let at = arguments.iter().position(|argument| argument == word)?;
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
        for word in WORDS.iter().flat_map(|(words, _)| *words) {
            assert!(known.insert(word), "{word} is listed twice");
            assert!(root.find_subcommand(word).is_none(), "{word}");
        }
    }

    #[test]
    fn the_table_of_the_book_says_the_same() {
        let page = include_str!("../docs/guide/coming_from.md");
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
            ("--id -1", None),
            ("-h", None),
            ("-V", None),
            ("-help", None),
            ("--help", None),
            ("--no-such", None),
            ("--data-dir -- -haddr", None),
        ] {
            let found = foreign_option(&words(line));
            assert_eq!(found.is_some(), said.is_some(), "{line}: {found:?}");
            let found = found.unwrap_or_default();
            assert!(found.contains(said.unwrap_or_default()), "{line}: {found}");
        }
    }
}
