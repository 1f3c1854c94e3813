//! The command line: turns options and environment variables (`environment.rs`) into a checked [`Asked`].
//!
//! An error is one line on stderr: which value is wrong, why, and what to do. The process then exits with 2, before it
//! changes a file or opens a socket. Some options may be left out only if the data directory exists: the server checks
//! those, in `start.rs`. Without a subcommand the daemon runs.

mod args;
pub mod backup;
pub mod cert;
mod completions;
mod environment;
mod help;
pub mod inspect;
mod interrupts;
mod man;
mod meant;
pub mod restore;
mod tls_dir;
mod values;

use crate::config::{Asked, ClientFiles, Tuning};
use crate::exit_code::ExitCode;
use crate::limits;
use crate::logging::{Fatal, Format, LogOptions};
use crate::peer_url::PeerUrl;
use args::{Args, ClientFileArgs, Command, HelpLength};
use clap::FromArgMatches as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;
use values::{is_https, parse_cluster, parse_join, parse_peer_url};

pub use environment::Origins;

/// What the command line asks for.
#[derive(Debug)]
pub enum Task {
    /// Run the daemon.
    Run(Box<Options>),
    /// Fetch a backup.
    Backup(backup::BackupOptions),
    /// Make a data directory from a snapshot.
    Restore(restore::RestoreOptions),
    /// Inspect a data directory or a file.
    Inspect(PathBuf),
    /// Make or renew certificates.
    Cert(cert::CertOptions),
    /// Print this to stdout.
    Print(Vec<u8>),
}

/// How to run the daemon.
#[derive(Debug, Clone)]
pub struct Options {
    /// The options of the daemon.
    pub asked: Asked,
    /// The settings of the log.
    pub log: LogOptions,
    /// Which options come from the environment, for a line that names one.
    pub origins: Origins,
    /// What the log is to say of the environment.
    pub warnings: Vec<String>,
}

/// Why there is nothing to run.
#[derive(Debug)]
pub enum Quit {
    /// `--help` or `--version` was given. The text goes to stdout.
    Shown(clap::Error),
    /// The command line is not valid. The text is one line.
    Usage(String),
}

impl Quit {
    /// Prints the text that was asked for and returns the exit code, or returns the usage error.
    pub fn show(self) -> Result<ExitCode, Fatal> {
        match self {
            Quit::Shown(text) => {
                // If this fails, nobody reads stdout any more.
                let _ = text.print();
                Ok(ExitCode::Success)
            }
            Quit::Usage(reason) => Err(Fatal {
                reason,
                exit_code: ExitCode::Usage,
            }),
        }
    }
}

/// Reads the arguments, of which the first is the program's name, and the environment.
pub fn parse(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Task, Quit> {
    parse_with(arguments, std::env::vars_os())
}

fn parse_with(
    arguments: impl IntoIterator<Item = impl Into<OsString>>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Task, Quit> {
    let mut arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    meant::replace_words(&mut arguments);
    let foreign = meant::foreign_word(&arguments).or_else(|| meant::foreign_options(&arguments));
    if let Some(line) = foreign {
        return Err(Quit::Usage(line));
    }
    let help = match arguments.iter().any(|argument| argument == "-h") {
        true => HelpLength::Short,
        false => HelpLength::Long,
    };
    let given = matches(help, &arguments).map_err(|error| match error.kind() {
        // As it is with the names of the variables.
        ErrorKind::DisplayHelp => args::command(help)
            .try_get_matches_from(&arguments)
            .map_or_else(Quit::Shown, |_| Quit::Shown(error)),
        _ => quit(error, &arguments, &Origins::default()),
    })?;
    let environment::FromEnvironment {
        arguments: added,
        place,
        origins,
        warnings,
    } = environment::arguments(&given, variables).map_err(Quit::Usage)?;
    let mut all = arguments.clone();
    let place = place.min(all.len());
    all.splice(place..place, added);
    let args = matches(help, &all).and_then(|matches| Args::from_arg_matches(&matches));
    let args = args.map_err(|error| quit(error, &arguments, &origins))?;
    let task = task(args).map_err(|quit| match quit {
        Quit::Usage(line) => Quit::Usage(origins.explain(&line)),
        shown => shown,
    });
    match task? {
        Task::Run(options) => Ok(Task::Run(Box::new(Options {
            origins,
            warnings: [options.warnings.clone(), warnings].concat(),
            ..*options
        }))),
        other => Ok(other),
    }
}

fn matches(help: HelpLength, arguments: &[OsString]) -> Result<clap::ArgMatches, clap::Error> {
    environment::command(help).try_get_matches_from(arguments)
}

/// `arguments` are those of the command line, without the environment.
fn quit(error: clap::Error, arguments: &[OsString], origins: &Origins) -> Quit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Quit::Shown(error),
        _ => Quit::Usage(origins.explain(&condense(&error, arguments))),
    }
}

fn task(args: Args) -> Result<Task, Quit> {
    match args.command {
        None => check(args)
            .map(|options| Task::Run(Box::new(options)))
            .map_err(Quit::Usage),
        Some(Command::Backup {
            url,
            file,
            stale,
            tls,
            files,
        }) => Ok(Task::Backup(backup::BackupOptions {
            member: url.place,
            is_https: url.is_https,
            stale,
            file,
            tls: client_files(tls, files).map_err(Quit::Usage)?,
        })),
        Some(Command::Restore {
            file,
            id,
            cluster,
            peer_url,
            data_dir,
        }) => restore::check(file, id, cluster, peer_url, data_dir).map(Task::Restore),
        Some(Command::Inspect { path }) => Ok(Task::Inspect(path)),
        Some(Command::Cert(args)) => cert::check(args).map(Task::Cert),
        Some(Command::Completions { shell }) => {
            Ok(Task::Print(completions::completions(shell).into_bytes()))
        }
        Some(Command::Man { command }) => Ok(Task::Print(man::manual(command.as_deref()))),
    }
}

/// Whether the command line starts the daemon, judged by its first word.
pub fn is_daemon(arguments: &[OsString]) -> bool {
    let first = arguments.get(1);
    first.is_none_or(|word| word.as_encoded_bytes().starts_with(b"-"))
}

/// The log settings for the error of a command line that is not valid: JSON if the daemon would have logged JSON.
pub fn log_of_refusal(arguments: &[OsString]) -> LogOptions {
    let is_json = |value: &OsStr| value.eq_ignore_ascii_case("json");
    if !is_daemon(arguments) {
        return LogOptions::COMMAND;
    }
    let options = arguments.get(1..).unwrap_or_default();
    let pairs = options.iter().zip(options.iter().skip(1));
    let mut given = pairs.filter(|(name, _)| *name == "--log-format");
    let mut joined = options.iter().filter_map(|argument| {
        let argument = argument.to_str()?;
        argument.strip_prefix("--log-format=")
    });
    let value = given
        .next_back()
        .map(|(_, value)| value.clone())
        .or_else(|| joined.next_back().map(OsString::from))
        .or_else(|| std::env::var_os("RAFTKVD_LOG_FORMAT"));
    LogOptions {
        format: match value.is_some_and(|value| is_json(&value)) {
            true => Format::Json,
            false => Format::Command,
        },
        ..LogOptions::COMMAND
    }
}

fn check(args: Args) -> Result<Options, String> {
    let (join, join_by) = parse_join(args.join.as_deref())?;
    let (cluster, peer_url) = addresses(&args)?;
    let tuning = tuning(&args)?;
    let warnings = unencrypted(&args);
    if let Some(dir) = &args.tls {
        tls_dir::check(dir, tls_dir::Reader::Member(args.id))?;
    }
    let join_files = args.join_files.files()?;
    if join_files.is_some() && join_by.is_empty() {
        return Err(
            "--cacert is for --join URL; give that too, or leave out --cacert, --cert and --key; for the member's own \
             certificates use --tls DIR"
                .to_owned(),
        );
    }
    Ok(Options {
        asked: Asked {
            id: args.id,
            peer_url,
            cluster,
            join,
            join_by,
            port: args.port,
            listen: args.listen,
            allowed_hosts: args.allow_host,
            listen_peer: args.listen_peer,
            data_dir: args.data_dir,
            tls_dir: args.tls,
            allows_tls12: args.tls_min,
            insecure: args.insecure,
            join_files,
            tuning,
        },
        log: LogOptions {
            format: args.log_format,
            level: args.log_level,
        },
        origins: Origins::default(),
        warnings: warnings.into_iter().collect(),
    })
}

/// The warning about an option with `https://` and without certificates: the operator expects encryption.
fn unencrypted(args: &Args) -> Option<String> {
    let urls = [
        ("--cluster", &args.cluster),
        ("--peer-url", &args.peer_url),
        ("--join", &args.join),
    ];
    let (option, _) = urls
        .iter()
        .find(|(_, text)| text.as_deref().is_some_and(is_https))?;
    args.tls.is_none().then(|| {
        format!("{option} has an https:// URL, but without --tls DIR nothing is encrypted")
    })
}

/// The files of a command that asks a member.
fn client_files(
    dir: Option<PathBuf>,
    files: ClientFileArgs,
) -> Result<Option<ClientFiles>, String> {
    let files = files.files()?;
    match (dir, files) {
        (Some(_), Some(_)) => Err(
            "--tls and --cacert are both given; leave out --tls, or leave out --cacert, --cert and --key".to_owned(),
        ),
        (Some(dir), None) => {
            tls_dir::check(&dir, tls_dir::Reader::Client)?;
            Ok(Some(ClientFiles::Dir(dir)))
        }
        (None, files) => Ok(files),
    }
}

fn tuning(args: &Args) -> Result<Tuning, String> {
    let at_least_one = |option: &str, value: u64, limit: usize| {
        if value == 0 || value > limit as u64 {
            return Err(format!(
                "--{option} {value} is out of range; give a size from 1 to {limit} bytes"
            ));
        }
        Ok(value as usize)
    };
    let value_bytes_max = at_least_one(
        "max-value-bytes",
        args.max_value_bytes,
        limits::VALUE_BYTES_LIMIT,
    )?;
    let key_bytes_max = at_least_one("max-key-bytes", args.max_key_bytes, limits::KEY_BYTES_LIMIT)?;
    for (option, value) in [
        ("request-timeout", args.request_timeout),
        ("heartbeat", args.heartbeat),
        ("election-timeout", args.election_timeout),
    ] {
        if value < Duration::from_millis(1) {
            return Err(format!(
                "--{option} {value:?} is too short; give at least 1ms"
            ));
        }
    }
    for (option, value, least) in [
        ("snapshot-bytes", args.snapshot_bytes, 1),
        // A start reads about this many bytes of the log in one tick.
        (
            "log-cache-bytes",
            args.log_cache_bytes,
            limits::LOG_CACHE_BYTES_LEAST,
        ),
    ] {
        if value < least {
            return Err(format!(
                "--{option} {value} is too small; give at least {least} bytes"
            ));
        }
    }
    let tuning = Tuning {
        snapshot_bytes: args.snapshot_bytes,
        log_cache_bytes: args.log_cache_bytes,
        value_bytes_max,
        key_bytes_max,
        store_bytes_max: args.max_store_bytes,
        address_connections_max: args.max_per_address.unwrap_or(0),
        request_timeout: args.request_timeout,
        heartbeat: args.heartbeat,
        election_timeout: args.election_timeout,
    };
    // The values are compared in ticks too, because raft counts in ticks.
    if tuning.heartbeat >= tuning.election_timeout
        || tuning.heartbeat_ticks() >= tuning.election_ticks()
    {
        return Err(format!(
            "--heartbeat {:?} is not shorter than --election-timeout {:?}; a tenth of --election-timeout is usual",
            tuning.heartbeat, tuning.election_timeout
        ));
    }
    Ok(tuning)
}

/// The list of members and this member's own URL, each if the command line has it.
fn addresses(args: &Args) -> Result<(BTreeMap<u64, PeerUrl>, Option<PeerUrl>), String> {
    match (&args.cluster, &args.peer_url) {
        (Some(_), Some(_)) => Err(
            "--peer-url and --cluster are both given; leave out --peer-url, because --cluster lists the URL of this \
             member too"
                .to_owned(),
        ),
        (Some(list), None) => Ok((parse_cluster(list)?, None)),
        (None, Some(text)) => {
            let url = parse_peer_url(text).map_err(|why| format!("--peer-url: {why}"))?;
            Ok((BTreeMap::new(), Some(url)))
        }
        (None, None) => Ok((BTreeMap::new(), None)),
    }
}

/// Condenses clap's message to one line: what is wrong, a similar argument if clap knows one, and which help to read.
/// `arguments` are those of the command line.
fn condense(error: &clap::Error, arguments: &[OsString]) -> String {
    let get = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let root = args::command(HelpLength::Long);
    let first = arguments.get(1);
    let subcommand = first.and_then(|name| root.find_subcommand(name));
    let stray = get(ContextKind::InvalidSubcommand).or(get(ContextKind::InvalidArg));
    if let (None, Some(word)) = (subcommand, stray)
        && let Some(line) = meant::surplus(error.kind(), word, arguments)
    {
        return format!("{line}; see raftkvd --help");
    }
    if let (Some(subcommand), Some(word)) = (subcommand, stray)
        && error.kind() == ErrorKind::UnknownArgument
        && let Some(line) = meant::surplus_of(subcommand, word)
    {
        return format!("{line}; see {}", meant::help_of(Some(subcommand)));
    }
    if let (Some(word), Some(ContextValue::Strings(similar))) = (
        get(ContextKind::InvalidSubcommand),
        error.get(ContextKind::SuggestedSubcommand),
    ) && let Some(similar) = similar.last()
    {
        return format!(
            "there is no subcommand {word:?}; did you mean {similar}? See raftkvd --help"
        );
    }
    let argument = get(ContextKind::InvalidArg).map(|argument| {
        // Of `--id <N>`, only the name is shown.
        bare(argument.split(' ').next().unwrap_or(argument))
    });
    let mut line = match (error.kind(), argument, get(ContextKind::InvalidValue)) {
        (ErrorKind::InvalidValue | ErrorKind::ValueValidation, Some(argument), Some("")) => {
            format!("{argument} needs a value")
        }
        (ErrorKind::InvalidValue | ErrorKind::ValueValidation, Some(argument), Some(value)) => {
            let why = std::error::Error::source(error).map(ToString::to_string);
            let why = why.unwrap_or_else(|| match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(valid)) => format!("use one of {}", valid.join(", ")),
                _ => "this value is not possible".to_owned(),
            });
            match why.starts_with(&format!("{value:?}")) {
                true => format!("{argument}: {why}"),
                false => format!("{argument} {value:?}: {why}"),
            }
        }
        (ErrorKind::MissingRequiredArgument, ..) => match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::Strings(missing)) => {
                // As above.
                let name = |name: &String| bare(name.split(' ').next().unwrap_or(name)).to_owned();
                let missing: Vec<String> = missing.iter().map(name).collect();
                format!("{} is missing", missing.join(", "))
            }
            _ => "an argument is missing".to_owned(),
        },
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            first.strip_prefix("error: ").unwrap_or(first).to_owned()
        }
    };
    // `--insecure` gives up protection, so that nobody should type it because a program guessed it.
    if let Some(similar) = get(ContextKind::SuggestedArg).filter(|name| *name != "--insecure") {
        line.push_str(&format!("; there is {similar}"));
    }
    format!("{line}; see {}", meant::help_of(subcommand))
}

/// The name of an argument, without the brackets that clap puts around it.
fn bare(name: &str) -> &str {
    name.trim_matches(['<', '>', '[', ']'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Result<Options, Quit> {
        match parse(std::iter::once("raftkvd").chain(line.split_whitespace()))? {
            Task::Run(options) => Ok(*options),
            other => panic!("{line}: {other:?}"),
        }
    }

    fn usage(line: &str) -> String {
        match options(line) {
            Err(Quit::Usage(text)) => text,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn without_arguments_everything_has_a_default_or_comes_from_the_directory() {
        let Options { asked, log, .. } = options("").unwrap();
        assert_eq!(
            (asked.id, asked.peer_url, asked.data_dir),
            (None, None, None)
        );
        assert!(asked.cluster.is_empty() && !asked.join && asked.join_by.is_empty());
        assert_eq!(
            (asked.port, asked.listen, asked.listen_peer),
            (9121, None, None)
        );
        let tuning = asked.tuning;
        assert_eq!(tuning.snapshot_bytes, 64 << 20);
        assert_eq!(tuning.value_bytes_max, 1 << 20);
        assert_eq!(tuning.key_bytes_max, 4 << 10);
        assert_eq!(tuning.store_bytes_max, 0);
        assert_eq!(tuning.request_timeout, Duration::from_secs(5));
        assert_eq!(tuning.heartbeat, Duration::from_millis(100));
        assert_eq!(tuning.election_timeout, Duration::from_secs(1));
        assert_eq!((log.format, log.level), (Format::Text, slog::Level::Info));
    }

    #[test]
    fn a_joiner_needs_no_list_if_it_knows_whom_to_ask() {
        let urls = |urls: &[PeerUrl]| urls.iter().map(PeerUrl::to_string).collect::<Vec<_>>();
        let line = "--id 4 --peer-url http://127.0.0.1:14379 --join http://127.0.0.1:12380,localhost:22380/ --port 5";
        let asked = options(line).unwrap().asked;
        assert_eq!(
            asked.peer_url,
            Some("http://127.0.0.1:14379".parse().unwrap())
        );
        assert_eq!(
            urls(&asked.join_by),
            ["http://127.0.0.1:12380", "http://localhost:22380"]
        );
        assert!(asked.join && asked.cluster.is_empty());
        let asked = options("--peer-url http://127.0.0.1:1").unwrap().asked;
        assert!(!asked.join && asked.cluster.is_empty());
        assert!(!options("--join=no").unwrap().asked.join);
        for (line, said) in [
            ("--join maybe", "\"maybe\" is not the URL of a member"),
            (
                "--join http://127.0.0.1:1,",
                "\"\" is not the URL of a member",
            ),
            ("--peer-url 127.0.0.1", "--peer-url: \"127.0.0.1\""),
            (
                "--peer-url http://a:1 --cluster http://a:1",
                "leave out --peer-url",
            ),
        ] {
            let text = usage(line);
            assert!(
                text.contains(said) && !text.contains('\n'),
                "{line}: {text}"
            );
        }
    }

    #[test]
    fn every_option_is_taken() {
        let line = "--id 2 --cluster http://10.0.0.1:1,http://localhost:2/ --port 3 --join --listen 0.0.0.0 \
                    --listen-peer ::1 --data-dir d --snapshot-bytes 64k --max-value-bytes 2m --max-key-bytes 100 \
                    --max-store-bytes 3G --request-timeout 1m30s --heartbeat 0.05s --election-timeout 500ms \
                    --log-format JSON --log-level Debug";
        let Options { asked, log, .. } = options(line).unwrap();
        assert_eq!(
            (asked.id, asked.cluster.len(), asked.join),
            (Some(2), 2, true)
        );
        assert_eq!(
            (asked.port, asked.listen),
            (3, Some("0.0.0.0".parse().unwrap()))
        );
        assert_eq!(asked.listen_peer, Some("::1".parse().unwrap()));
        assert_eq!(asked.data_dir, Some(PathBuf::from("d")));
        let tuning = asked.tuning;
        assert_eq!(tuning.snapshot_bytes, 64 << 10);
        assert_eq!(
            (tuning.value_bytes_max, tuning.key_bytes_max),
            (2 << 20, 100)
        );
        assert_eq!(tuning.store_bytes_max, 3 << 30);
        assert_eq!(tuning.request_timeout, Duration::from_secs(90));
        assert_eq!(tuning.heartbeat, Duration::from_millis(50));
        assert_eq!((log.format, log.level), (Format::Json, slog::Level::Debug));
    }

    #[test]
    fn a_list_of_more_members_than_there_can_be_is_refused() {
        let list = |count: usize| {
            let urls = (1..=count).map(|port| format!("http://127.0.0.1:{port}"));
            parse_cluster(&urls.collect::<Vec<_>>().join(","))
        };
        let most = limits::MEMBERS_MAX;
        assert_eq!(list(most).unwrap().len(), most);
        let line = list(most + 1).unwrap_err();
        assert!(
            line.contains(&format!("lists {} members", most + 1)),
            "{line}"
        );
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line_that_names_the_value() {
        for (line, words) in [
            ("--id 0", "--id \"0\""),
            ("--id -1", "--id \"-1\""),
            ("--id x", "--id \"x\""),
            ("--cluster 127.0.0.1", "\"127.0.0.1\""),
            ("--cluster http://127.0.0.1", "no port"),
            ("--cluster http://127.0.0.1:1/x", "path"),
            ("--cluster http://a:1,,http://b:1", "URL 2"),
            (
                "--cluster http://a:1,http://A:1/",
                "http://a:1 twice, for member 1 and for member 2",
            ),
            ("--port 0", "--port \"0\""),
            ("--port 65536", "--port \"65536\""),
            ("--listen example", "--listen \"example\""),
            ("--heartbeat 0s", "--heartbeat"),
            ("--heartbeat 5", "--heartbeat \"5\""),
            (
                "--heartbeat 1s",
                "--heartbeat 1s is not shorter than --election-timeout 1s",
            ),
            ("--heartbeat 2s", "--heartbeat 2s"),
            ("--election-timeout 100ms", "--heartbeat 100ms"),
            ("--request-timeout 0ms", "--request-timeout"),
            ("--request-timeout 25h", "--request-timeout \"25h\""),
            ("--request-timeout -5s", "'-5'"),
            ("--max-value-bytes 0", "--max-value-bytes 0"),
            ("--max-value-bytes 65M", "--max-value-bytes"),
            ("--max-key-bytes 0", "--max-key-bytes 0"),
            ("--data-dir=", "--data-dir needs a value"),
            ("--max-key-bytes 17K", "--max-key-bytes"),
            ("--snapshot-bytes lots", "--snapshot-bytes \"lots\""),
            ("--snapshot-bytes 0", "--snapshot-bytes 0"),
            ("--log-format xml", "--log-format \"xml\""),
            ("--log-level loud", "--log-level \"loud\""),
            ("--data-dirr x", "there is --data-dir;"),
            ("--port", "--port"),
            ("--port 1 --port 2", "--port"),
            ("surplus", "surplus"),
        ] {
            let text = usage(line);
            assert!(text.contains(words), "{line}: {text}");
            assert!(!text.contains('\n') && text.len() < 250, "{line}: {text}");
        }
    }

    #[test]
    fn insecure_is_never_suggested() {
        for line in ["--cipher-suites x", "--insecur", "--insecured", "--secure"] {
            let text = usage(line);
            assert!(!text.contains("--insecure;"), "{line}: {text}");
            assert!(text.ends_with("; see raftkvd --help"), "{line}: {text}");
        }
    }

    #[test]
    fn a_refusal_is_json_where_the_log_would_be() {
        let format = |line: &str| {
            let words = std::iter::once("raftkvd").chain(line.split_whitespace());
            log_of_refusal(&words.map(OsString::from).collect::<Vec<_>>()).format
        };
        for line in [
            "--port 0 --log-format json",
            "--log-format=JSON --port 0",
            "--log-format text --log-format json --port 0",
        ] {
            assert_eq!(format(line), Format::Json, "{line}");
        }
        for line in [
            "",
            "--port 0",
            "--log-format text --port 0",
            "--log-format",
            "inspect --log-format json",
        ] {
            assert_eq!(format(line), Format::Command, "{line}");
        }
    }

    #[test]
    fn help_and_version_are_no_errors() {
        for line in ["--help", "-h", "--version", "-V"] {
            assert!(matches!(options(line), Err(Quit::Shown(_))), "{line}");
        }
    }

    #[test]
    fn every_option_has_its_variable() {
        use clap::CommandFactory as _;
        for argument in Args::command().get_arguments() {
            let Some(long) = argument.get_long() else {
                continue;
            };
            if matches!(long, "help" | "version") {
                continue;
            }
            let expected = format!("RAFTKVD_{}", long.to_ascii_uppercase().replace('-', "_"));
            let variable = argument.get_env().map(|name| name.to_str().unwrap());
            assert_eq!(variable, Some(expected.as_str()));
            assert!(argument.get_help_heading().is_some());
        }
        Args::command().debug_assert();
    }
}
