//! The scripts and pages that the binary prints: completions for shells, manual pages.

use crate::harness::{daemon, run_to_end};
use crate::process::Ended;
use crate::skipped::skipped;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

const SUBCOMMANDS: [&str; 6] = ["backup", "inspect", "restore", "cert", "completions", "man"];

/// Runs a subcommand.
#[track_caller]
fn printed(arguments: &[&str]) -> Ended {
    let directory = TempDir::new().expect("create a directory");
    let ended = run_to_end(daemon(directory.path()).args(arguments));
    let left = fs::read_dir(directory.path()).expect("list").count();
    assert_eq!(left, 0, "{arguments:?} makes no file");
    ended
}

#[test]
fn completions_and_manual_pages_name_every_option() {
    let help = printed(&["--help"]).stdout;
    let words = help.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    let mut options: Vec<&str> = words.filter_map(|word| word.strip_prefix("--")).collect();
    options.sort();
    options.dedup();
    assert!(options.len() > 15, "{options:?}");
    for arguments in [
        &["completions", "bash"][..],
        &["completions", "zsh"],
        &["completions", "fish"],
        &["completions", "elvish"],
        &["completions", "powershell"],
        &["man"],
    ] {
        let ended = printed(arguments);
        assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
        assert_eq!(ended.stderr, "", "{arguments:?}");
        // A manual page escapes its hyphens.
        let text = ended.stdout.replace("\\-", "-");
        for word in options.iter().copied().chain(SUBCOMMANDS) {
            assert!(text.contains(word), "{arguments:?}: no {word}: {text}");
        }
    }
    for arguments in [
        &["man", "nothing"][..],
        &["completions"],
        &["completions", "x"],
        &["backup"],
        &["backup", "nowhere"],
        &["restore", "x", "--id", "2"],
        &["cert", "x"],
        &["cert", "member"],
        &["cert", "client", "A"],
        &["cert", "renew", "--id", "0"],
        &["cert", "renew", "nowhere"],
        &["cert", "show", "a", "b"],
        &["--id", "2", "inspect", "x"],
    ] {
        let ended = printed(arguments);
        assert_eq!(ended.code, Some(2), "{arguments:?}: {ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{arguments:?}: {ended:?}");
    }
}

/// What bash proposes for the last of these words.
#[track_caller]
fn proposed(script: &Path, words: &[&str]) -> Vec<String> {
    let ask = r#"source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _raftkvd "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    // Outside of a completion bash has no use for `compopt`, and says so on stderr.
    let output = Command::new("bash")
        .args(["-c", ask, "bash"])
        .arg(script)
        .args(words)
        .output()
        .expect("run bash");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_options_subcommands_and_possible_values() {
    if Command::new("bash").arg("--version").output().is_err() {
        skipped("bash");
        return;
    }
    let directory = TempDir::new().expect("create a directory");
    let script = directory.path().join("raftkvd");
    let text = printed(&["completions", "bash"]).stdout;
    fs::write(&script, &text).expect("write the script");
    let levels = ["error", "warn", "info", "debug", "trace"];
    for (words, expected) in [
        (&["--log-level", ""][..], &levels[..]),
        (&["--log-format", "j"], &["json"]),
        (&["--id", "2", "--data-d"], &["--data-dir"]),
        (&["ba"], &["backup"]),
        (&["completions", "z"], &["zsh"]),
        (&["restore", "file", "--cl"], &["--cluster"]),
        (&["cert", "ro"], &["rotate"]),
        (&["cert", "rotate", "--f"], &["--finish"]),
        // Nothing on the disk is a duration.
        (&["--heartbeat", "1"], &["1"]),
    ] {
        let words = [&["raftkvd"], words].concat();
        assert_eq!(proposed(&script, &words), expected, "{words:?}");
    }
    let pages = proposed(&script, &["raftkvd", "man", ""]);
    assert!(
        SUBCOMMANDS
            .iter()
            .all(|name| pages.contains(&(*name).to_owned())),
        "{pages:?}"
    );
    // Directories only.
    let (_, data_dir) = text
        .split_once("--data-dir)")
        .expect("the case of the option");
    let data_dir = data_dir.split(";;").next().expect("its end");
    assert!(data_dir.contains("compopt -o plusdirs"), "{data_dir}");
}

#[test]
fn manual_pages_are_sound_roff() {
    if Command::new("groff").arg("--version").output().is_err() {
        skipped("groff");
        return;
    }
    let directory = TempDir::new().expect("create a directory");
    let page = directory.path().join("page.1");
    for subcommand in [""].into_iter().chain(SUBCOMMANDS) {
        let mut arguments = vec!["man", subcommand];
        arguments.retain(|argument| !argument.is_empty());
        let printed = printed(&arguments);
        assert_eq!(
            (printed.code, &*printed.stderr),
            (Some(0), ""),
            "{arguments:?}"
        );
        fs::write(&page, &printed.stdout).expect("write the page");
        let checked = Command::new("groff")
            .args([
                "-man",
                "-ww",
                "-rCHECKSTYLE=3",
                "-rLL=78n",
                "-Tutf8",
                "-P-cbou",
            ])
            .arg(&page)
            .stdin(Stdio::null())
            .output()
            .expect("run groff");
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(
            checked.status.success() && said.is_empty(),
            "{arguments:?}: {said}"
        );
        let text = String::from_utf8(checked.stdout).expect("UTF-8");
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(
            widest < Some(80),
            "{arguments:?}: {widest:?} columns: {text}"
        );
        let name = arguments.join("-").replacen("man", "raftkvd", 1);
        let title = format!("{name}(1)").to_uppercase();
        assert!(text.contains(&title), "no {title}: {text}");
    }
}
