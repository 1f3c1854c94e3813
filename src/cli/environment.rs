//! The environment, as arguments: every option that the command line leaves out is taken from its variable.
//!
//! Clap would read the variables by itself, but it takes an empty one for a value, and it reads those of the daemon also for
//! `inspect` and `man`. So clap parses the command line alone, and [`arguments`] adds what the variables say:
//! - an empty variable is as good as none;
//! - that of an option without a value is true or false;
//! - an option of the command line wins over its variable, and over the variable of its counterpart (`--cluster` and
//!   `--peer-url`);
//! - what Kubernetes sets in a pod beside a Service called `raftkvd` is not for this program;
//! - a variable that no option has is warned about.

use super::args::{self, Args, HelpLength};
use super::values::parse_truth;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory as _};
use std::ffi::{OsStr, OsString};

const PREFIX: &str = "RAFTKVD_";
/// Only builds that can have planted bugs hold the name: ci.sh searches other binaries for it.
#[cfg(feature = "mutants")]
const NO_OPTION: &[&str] = &["RAFTKVD_MUTANT"];
#[cfg(not(feature = "mutants"))]
const NO_OPTION: &[&str] = &[];
/// Of these a command line gives one at most.
const COUNTERPARTS: [&str; 2] = ["cluster", "peer_url"];

/// The command as clap parses it: without the environment.
pub(super) fn command(help: HelpLength) -> Command {
    without_variables(args::command(help))
}

fn without_variables(command: Command) -> Command {
    command
        .mut_args(|arg| arg.env(None::<&'static str>))
        .mut_subcommands(without_variables)
}

/// What the environment adds to a command line.
#[derive(Debug, Default)]
pub(super) struct FromEnvironment {
    /// Options with their values.
    pub(super) arguments: Vec<OsString>,
    /// Before which argument they belong.
    pub(super) place: usize,
    /// Where they come from.
    pub(super) origins: Origins,
    /// What the log is to say of variables that are not used.
    pub(super) warnings: Vec<String>,
}

/// Which options come from a variable.
#[derive(Debug, Clone, Default)]
pub struct Origins(Vec<(String, String)>);

impl Origins {
    /// Names the variable in the place of each option that comes from one: its user has not written the option. A line that
    /// names the variable already stays as it is.
    pub fn explain(&self, line: &str) -> String {
        let told = line;
        let mut line = line.to_owned();
        for (option, variable) in &self.0 {
            if !has_word(told, variable) {
                line = replace_word(&line, option, variable);
            }
        }
        line
    }
}

/// Whether a word goes on here: `--listen` is not the beginning of `--listen-peer`.
fn goes_on(rest: &str) -> bool {
    rest.starts_with(|c: char| c.is_alphanumeric() || c == '-' || c == '_')
}

fn has_word(text: &str, word: &str) -> bool {
    let mut behind = text.split(word).skip(1);
    behind.any(|rest| !goes_on(rest))
}

/// Replaces an option where it stands alone.
fn replace_word(text: &str, option: &str, by: &str) -> String {
    let mut parts = text.split(option).peekable();
    let mut replaced = String::new();
    while let Some(part) = parts.next() {
        replaced.push_str(part);
        match parts.peek() {
            None => {}
            Some(next) if goes_on(next) => replaced.push_str(option),
            Some(_) => replaced.push_str(by),
        }
    }
    replaced
}

/// What the variables add to this command line, which clap has parsed without them.
pub(super) fn arguments(
    given: &ArgMatches,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<FromEnvironment, String> {
    let variables = variables.into_iter();
    let ours = variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let mut ours: Vec<(String, OsString)> = ours
        .filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty())
        .collect();
    ours.sort();
    let daemon = Args::command();
    let mut added = FromEnvironment::default();
    let (options, given, place) = match given.subcommand() {
        None => (&daemon, given, 1),
        Some((name, given)) => {
            let options = daemon.find_subcommand(name).expect("clap has found it");
            (options, given, 2)
        }
    };
    added.place = place;
    for arg in options.get_arguments() {
        let (Some(variable), Some(long)) = (arg.get_env(), arg.get_long()) else {
            continue;
        };
        let Some(at) = ours.iter().position(|(name, _)| variable == name.as_str()) else {
            continue;
        };
        let (name, value) = ours.remove(at);
        let is_given = |id: &str| given.value_source(id) == Some(ValueSource::CommandLine);
        let id = arg.get_id().as_str();
        let of_counterpart =
            COUNTERPARTS.contains(&id) && COUNTERPARTS.iter().any(|id| is_given(id));
        if is_given(id) || of_counterpart {
            continue;
        }
        if id == "port" && is_service_link(&value) {
            added.warnings.push(format!(
                "{name}={} is the service link of Kubernetes and not a port, so it is not used; set enableServiceLinks: \
                 false in the pod, or give --port",
                value.to_string_lossy()
            ));
            continue;
        }
        if id != "data_dir" && value.to_str().is_none() {
            return Err(format!("{name}: its value is not valid UTF-8"));
        }
        let mut argument = OsString::from(format!("--{long}"));
        if arg.get_action().takes_values() {
            argument.push("=");
            argument.push(value);
        } else if !is_set(&name, &value)? {
            continue;
        }
        added.arguments.push(argument);
        added.origins.0.push((format!("--{long}"), name));
    }
    if place == 1 {
        added.warnings.extend(unknown(&ours));
    }
    Ok(added)
}

/// Reads the variable of an option that has no value.
fn is_set(name: &str, value: &OsStr) -> Result<bool, String> {
    let value = value.to_string_lossy();
    parse_truth(&value).ok_or_else(|| format!("{name} {value:?}: write true or false"))
}

/// `tcp://10.43.0.9:9121`
fn is_service_link(value: &OsStr) -> bool {
    value.to_string_lossy().contains("://")
}

/// Whether Kubernetes sets such a variable beside the link in `RAFTKVD_PORT`: `RAFTKVD_SERVICE_HOST`,
/// `RAFTKVD_PORT_9121_TCP_ADDR`.
fn is_of_kubernetes(name: &str) -> bool {
    let of_port = |rest: &str| {
        let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        ["_TCP", "_UDP", "_SCTP"]
            .iter()
            .any(|p| rest.starts_with(p))
    };
    name.starts_with("RAFTKVD_SERVICE_") || name.strip_prefix("RAFTKVD_PORT_").is_some_and(of_port)
}

/// Variables that look as if they were for this program. One line.
fn unknown(left: &[(String, OsString)]) -> Option<String> {
    let names = left.iter().map(|(name, _)| name.as_str());
    let names: Vec<&str> = names
        .filter(|name| !is_of_kubernetes(name) && !NO_OPTION.contains(name))
        .collect();
    match names.is_empty() {
        true => None,
        false => Some(format!(
            "no option has the variable {}: not used; raftkvd --help names the variable of every option",
            names.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(line: &str, variables: &[(&str, &str)]) -> Result<FromEnvironment, String> {
        let words = std::iter::once("raftkvd").chain(line.split_whitespace());
        let given = command(HelpLength::Long)
            .try_get_matches_from(words)
            .unwrap();
        let pair = |(name, value): &(&str, &str)| (name.into(), value.into());
        arguments(&given, variables.iter().map(pair))
    }

    fn lines(added: &FromEnvironment) -> Vec<&str> {
        added
            .arguments
            .iter()
            .map(|a| a.to_str().unwrap())
            .collect()
    }

    #[test]
    fn an_option_wins_over_its_variable_and_that_of_its_counterpart() {
        let all = [
            ("RAFTKVD_ID", "2"),
            ("RAFTKVD_CLUSTER", "http://a:1"),
            ("RAFTKVD_LISTEN", ""),
            ("HOME", "/"),
        ];
        let taken = added("", &all).unwrap();
        assert_eq!(lines(&taken), ["--id=2", "--cluster=http://a:1"]);
        assert!(taken.warnings.is_empty(), "{taken:?}");
        assert_eq!(
            lines(&added("--id 3 --peer-url http://a:2", &all).unwrap()),
            [""; 0]
        );
        for other in ["inspect d", "man", "completions bash", "backup http://a:1"] {
            assert!(added(other, &all).unwrap().arguments.is_empty(), "{other}");
        }
        let restored = added("restore file", &all).unwrap();
        assert_eq!((lines(&restored).len(), restored.place), (2, 2));
    }

    #[test]
    fn the_variable_of_an_option_without_a_value_is_true_or_false() {
        let insecure = |value| added("", &[("RAFTKVD_INSECURE", value)]);
        for yes in ["true", "TRUE", "1", "yes", "on"] {
            assert_eq!(lines(&insecure(yes).unwrap()), ["--insecure"], "{yes}");
        }
        for no in ["false", "False", "0", "no", "off", ""] {
            assert_eq!(lines(&insecure(no).unwrap()), [""; 0], "{no}");
        }
        let error = insecure("maybe").unwrap_err();
        assert_eq!(error, "RAFTKVD_INSECURE \"maybe\": write true or false");
        let given = added("--insecure", &[("RAFTKVD_INSECURE", "false")]).unwrap();
        assert!(given.arguments.is_empty(), "{given:?}");
    }

    #[test]
    fn what_kubernetes_sets_is_no_option_and_what_nobody_knows_is_named() {
        let taken = added(
            "",
            &[
                ("RAFTKVD_PORT", "tcp://10.43.0.9:9121"),
                ("RAFTKVD_PORT_9121_TCP", "tcp://10.43.0.9:9121"),
                ("RAFTKVD_PORT_9121_TCP_ADDR", "10.43.0.9"),
                ("RAFTKVD_SERVICE_HOST", "10.43.0.9"),
                ("RAFTKVD_PROT", "1"),
                ("RAFTKVD_PORT_FILE", "1"),
            ],
        )
        .unwrap();
        assert!(taken.arguments.is_empty(), "{taken:?}");
        let [link, unknown] = &taken.warnings[..] else {
            panic!("{taken:?}");
        };
        assert!(
            link.starts_with("RAFTKVD_PORT=tcp://10.43.0.9:9121 is"),
            "{link}"
        );
        assert!(
            unknown.contains("variable RAFTKVD_PORT_FILE, RAFTKVD_PROT:"),
            "{unknown}"
        );
        let taken = added("--port 1", &[("RAFTKVD_PORT", "tcp://10.43.0.9:9121")]).unwrap();
        assert!(taken.warnings.is_empty(), "{taken:?}");
    }

    #[test]
    fn a_line_names_the_variable_in_the_place_of_the_option() {
        let origins = Origins(vec![("--listen".to_owned(), "RAFTKVD_LISTEN".to_owned())]);
        assert_eq!(
            origins.explain("--listen \"x\": use --listen or --listen-peer; --listen"),
            "RAFTKVD_LISTEN \"x\": use RAFTKVD_LISTEN or --listen-peer; RAFTKVD_LISTEN"
        );
        let both = [
            ("--cluster", "RAFTKVD_CLUSTER"),
            ("--listen", "RAFTKVD_LISTEN"),
        ];
        let both = both.map(|(option, variable)| (option.to_owned(), variable.to_owned()));
        let origins = Origins(both.into());
        let line =
            "--cluster and --peer-url (or RAFTKVD_CLUSTER and RAFTKVD_PEER_URL): leave out one";
        assert_eq!(origins.explain(line), line);
        assert_eq!(
            origins.explain("--listen instead of RAFTKVD_LISTEN_PEER"),
            "RAFTKVD_LISTEN instead of RAFTKVD_LISTEN_PEER"
        );
    }
}
