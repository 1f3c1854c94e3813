//! Completion scripts for shells, generated from clap's description of the command line.

use super::args::{HelpLength, command};
use clap::Command;
use clap_complete::Shell;
use std::fmt::Write as _;

/// The completion script for this shell.
pub(super) fn completions(shell: Shell) -> String {
    let mut command = command(HelpLength::Long);
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "raftkvd", &mut script);
    let script = String::from_utf8(script).expect("all texts of the command line are UTF-8");
    match shell {
        Shell::Fish => repaired_for_fish(&script, &command),
        _ => script,
    }
}

/// Repairs two faults of the generated script, with which fish proposes file names in place of the possible values. The
/// first fault is behind an option of the daemon that still lacks its value, because the script takes such a line for
/// an error. The second fault is at the argument of a subcommand.
fn repaired_for_fish(script: &str, command: &Command) -> String {
    let mut script = script.replace("\n    or return\n", "\n    or return 0\n");
    for subcommand in command.get_subcommands() {
        for argument in subcommand.get_positionals() {
            let values = argument.get_possible_values();
            let values: Vec<&str> = values.iter().map(|value| value.get_name()).collect();
            if !values.is_empty() {
                let _ = writeln!(
                    script,
                    "complete -c raftkvd -n \"__fish_raftkvd_using_subcommand {}\" -f -a \"{}\"",
                    subcommand.get_name(),
                    values.join(" ")
                );
            }
        }
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fish_has_possible_values_behind_options_and_for_arguments() {
        let script = completions(Shell::Fish);
        assert_eq!(script.matches("or return 0\n").count(), 1, "{script}");
        for (subcommand, first) in [("man", "backup inspect"), ("completions", "bash elvish")] {
            let line = format!("__fish_raftkvd_using_subcommand {subcommand}\" -f -a \"{first}");
            assert_eq!(script.matches(&line).count(), 1, "{script}");
        }
    }

    #[test]
    fn a_data_directory_is_completed_by_directories_and_a_duration_by_nothing() {
        let zsh = completions(Shell::Zsh);
        let line = |option: &str| {
            let mut lines = zsh.lines();
            let found = lines.find(|line| line.starts_with(&format!("'--{option}=")));
            found.unwrap_or_else(|| panic!("no {option}: {zsh}"))
        };
        assert!(line("data-dir").contains(":DIR:_files -/'"), "{zsh}");
        assert!(line("heartbeat").contains(":DURATION:'"), "{zsh}");
        assert!(zsh.contains("'::file -- "), "{zsh}");
    }
}
