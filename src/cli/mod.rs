//! The command line: every option, also from the environment, to a checked [`Asked`].
//!
//! What is wrong with it is said in one line on stderr: which value, why, and what to do. The process then exits
//! with 2, before it has touched a file or a socket. What may be left out on a data directory that exists, and is missing
//! otherwise, the server says, in `start.rs`. Without a subcommand the daemon runs; `completions.rs` has the others.

pub mod backup;
mod completions;
pub mod inspect;
pub mod restore;

use crate::config::{Asked, Tuning};
use crate::limits;
use crate::logging::{self, Format};
use crate::peer_url::PeerUrl;
use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use completions::Command;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What the command line asks for.
#[derive(Debug)]
pub enum Task {
    /// Run the daemon.
    Run(Box<Options>),
    /// Fetch a backup.
    Backup(backup::Settings),
    /// Make a data directory from a snapshot.
    Restore(restore::Settings),
    /// Inspect a data directory or a file.
    Inspect(PathBuf),
    /// Print this to stdout.
    Print(Vec<u8>),
}

/// How to run the daemon.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the daemon is to do.
    pub asked: Asked,
    /// How to log.
    pub log: logging::Settings,
}

/// Why there is nothing to run.
#[derive(Debug)]
pub enum Quit {
    /// `--help` or `--version` was asked for: that goes to stdout.
    Shown(clap::Error),
    /// Something is wrong; this says what, in one line.
    Usage(String),
}

impl Quit {
    /// Prints it and returns the exit code.
    pub fn show(&self) -> i32 {
        match self {
            Quit::Shown(text) => {
                // Nobody reads it any more if this fails.
                let _ = text.print();
                0
            }
            Quit::Usage(line) => {
                logging::fatal(line);
                2
            }
        }
    }
}

/// Reads the arguments, of which the first is the program's name, and the environment.
pub fn parse(
    arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> Result<Task, Quit> {
    let args = Args::try_parse_from(arguments).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Quit::Shown(error),
        _ => Quit::Usage(condense(&error)),
    })?;
    match args.command {
        None => check(args)
            .map(|options| Task::Run(Box::new(options)))
            .map_err(Quit::Usage),
        Some(Command::Backup { url, file, stale }) => Ok(Task::Backup(backup::Settings {
            member: url,
            stale,
            file,
        })),
        Some(Command::Restore {
            file,
            id,
            cluster,
            peer_url,
            data_dir,
        }) => {
            completions::restore_settings(file, id, cluster, peer_url, data_dir).map(Task::Restore)
        }
        Some(Command::Inspect { path }) => Ok(Task::Inspect(path)),
        Some(Command::Completions { shell }) => Ok(Task::Print(completions::completions(shell))),
        Some(Command::Man { command }) => completions::manual(command.as_deref()).map(Task::Print),
    }
}

/// Below `-h`.
const EXAMPLES: &str = "\
Examples:
  raftkvd                            one member, alone: try it out
  raftkvd --id 1 --cluster http://10.0.0.1:9021,http://10.0.0.2:9021,http://10.0.0.3:9021
                                     the first of three members; the others differ in --id
  raftkvd --id 2 --peer-url http://10.0.0.2:9021 --join http://10.0.0.1:9121
                                     joins the cluster whose member serves clients there

More with --help.";

/// Below `--help`.
const EXAMPLES_AND_MORE: &str = "\
Examples:
  One member, alone, to try it out:
    raftkvd

  The first of three members; the others differ in --id:
    raftkvd --id 1 --cluster http://10.0.0.1:9021,http://10.0.0.2:9021,http://10.0.0.3:9021

  Three on one machine need ports and data directories of their own:
    raftkvd --id 2 --cluster http://127.0.0.1:9021,http://127.0.0.1:9022,http://127.0.0.1:9023 --port 9122

  Start it again: the data directory knows the rest:
    raftkvd --id 2 --port 9122

  Join the cluster whose member serves clients at 10.0.0.1:9121:
    raftkvd --id 4 --peer-url http://10.0.0.4:9021 --join http://10.0.0.1:9121

  Clients from anywhere, JSON logs, a limit for the store:
    raftkvd --listen 0.0.0.0 --log-format json --max-store-bytes 2G

  A backup of everything, from any member; see raftkvd restore --help for the way back:
    raftkvd backup http://10.0.0.1:9121 monday.snap

Every option can also be set by the environment variable named with it; the option wins.
Durations are written as 100ms, 5s, 1m30s; sizes in bytes, or as 64K, 64M, 1G (powers of 1024).

Exit codes:
  0  stopped by SIGTERM or SIGINT, or removed from the cluster
  1  fatal, or stopped by a second signal, or no backup was given
  2  usage, --cluster does not fit the data directory, a port is in use, or something would be replaced
  3  another process has locked the data directory
  4  data is corrupt, or the logs of two members have parted
  5  the data directory is that of another member, cluster or life of this member, an older copy, or in use twice
  6  a disk operation failed
  7  this member was removed from the cluster before

Under systemd (Type=notify) it says when it is ready and stopping, and feeds the watchdog.";

/// A small replicated key-value store: raft, a write-ahead log and an HTTP API in one binary.
#[derive(Debug, Parser)]
#[command(name = "raftkvd", version, after_help = EXAMPLES, after_long_help = EXAMPLES_AND_MORE, max_term_width = 110, allow_negative_numbers = true)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    /// This member's id: its place in --cluster, counted from 1 [default: that of the data directory; of a new one, 1]
    ///
    /// It belongs to the data directory for good. An id that was removed may be added again, with an empty directory.
    #[arg(long, value_name = "N", env = "RAFTKVD_ID", value_parser = parse_id, help_heading = "Cluster")]
    id: Option<u64>,

    /// Peer URLs of all members, in the order of their ids
    ///
    /// A new cluster forms of the members in this list, which all of them have to be given: member 1 begins it and adds
    /// the others, and clients are served once all are in. The data directory keeps it, so that later it can be left out.
    /// Given again it only says where else to look for the others; if its own URL in the list is new, the member moves
    /// there. A list of another cluster is refused.
    #[arg(
        long,
        value_name = "URL[,URL...]",
        env = "RAFTKVD_CLUSTER",
        help_heading = "Cluster"
    )]
    cluster: Option<String>,

    /// This member's own peer URL, in place of --cluster [default: that of the data directory; of a new one,
    /// http://127.0.0.1:9021]
    ///
    /// For a cluster of one that others shall join, or with --join URL. A member that has data and was reached elsewhere
    /// moves there.
    #[arg(
        long,
        value_name = "URL",
        env = "RAFTKVD_PEER_URL",
        help_heading = "Cluster"
    )]
    peer_url: Option<String>,

    /// Join the running cluster of the member whose clients connect to this URL
    ///
    /// That member (of several: the first that answers) is asked to add this one. Without a URL: this one was added by
    /// POST /<id> to any member, and --cluster lists all peer URLs. Ignored once it is a member.
    #[arg(
        long,
        value_name = "URL[,URL...]",
        env = "RAFTKVD_JOIN",
        num_args = 0..=1,
        default_missing_value = "true",
        help_heading = "Cluster"
    )]
    join: Option<String>,

    /// Port for clients
    #[arg(long, value_name = "PORT", env = "RAFTKVD_PORT", default_value = "9121", value_parser = parse_port, help_heading = "Addresses")]
    port: u16,

    /// Address for clients [default: that of its peer URL]
    ///
    /// 0.0.0.0 for all addresses of this machine. There is no authentication: whoever reaches it can read and write.
    #[arg(long, value_name = "IP", env = "RAFTKVD_LISTEN", value_parser = parse_ip, help_heading = "Addresses")]
    listen: Option<IpAddr>,

    /// Address for peers [default: that of its peer URL]
    ///
    /// Where the host in the peer URL is not one that this machine has: behind a proxy or NAT.
    #[arg(long, value_name = "IP", env = "RAFTKVD_LISTEN_PEER", value_parser = parse_ip, help_heading = "Addresses")]
    listen_peer: Option<IpAddr>,

    /// Directory for this member's data [default: raftkvd-<id>]
    #[arg(
        long,
        value_name = "DIR",
        env = "RAFTKVD_DATA_DIR",
        help_heading = "Data"
    )]
    data_dir: Option<PathBuf>,

    /// Log written since the last snapshot that makes the next one due
    ///
    /// If it is also larger than the last snapshot. A restart replays about as much.
    #[arg(long, value_name = "SIZE", env = "RAFTKVD_SNAPSHOT_BYTES", default_value = "64MiB", value_parser = parse_size, help_heading = "Data")]
    snapshot_bytes: u64,

    /// Log that is kept in memory
    ///
    /// At least 64K. Older entries are read back from the disk for members that are behind.
    #[arg(long, value_name = "SIZE", env = "RAFTKVD_LOG_CACHE_BYTES", default_value = "64MiB", value_parser = parse_size, help_heading = "Data")]
    log_cache_bytes: u64,

    /// Largest value
    ///
    /// At most 64M.
    #[arg(long, value_name = "SIZE", env = "RAFTKVD_MAX_VALUE_BYTES", default_value = "1MiB", value_parser = parse_size, help_heading = "Limits")]
    max_value_bytes: u64,

    /// Longest key
    ///
    /// At most 16K.
    #[arg(long, value_name = "SIZE", env = "RAFTKVD_MAX_KEY_BYTES", default_value = "4KiB", value_parser = parse_size, help_heading = "Limits")]
    max_key_bytes: u64,

    /// Keys and values in the store, 0 for no limit
    ///
    /// Over it this member refuses writes with 507, and takes only deletions.
    #[arg(long, value_name = "SIZE", env = "RAFTKVD_MAX_STORE_BYTES", default_value = "0", value_parser = parse_size, help_heading = "Limits")]
    max_store_bytes: u64,

    /// Time by which every request is answered
    ///
    /// With 504 if nobody knows by then what became of it.
    #[arg(long, value_name = "DURATION", env = "RAFTKVD_REQUEST_TIMEOUT", default_value = "5s", value_parser = parse_duration, help_heading = "Timing")]
    request_timeout: Duration,

    /// Interval of the leader's heartbeats
    #[arg(long, value_name = "DURATION", env = "RAFTKVD_HEARTBEAT", default_value = "100ms", value_parser = parse_duration, help_heading = "Timing")]
    heartbeat: Duration,

    /// Silence of the leader after which a new one is elected
    ///
    /// One to two times as much, at random. Ten heartbeats are usual.
    #[arg(long, value_name = "DURATION", env = "RAFTKVD_ELECTION_TIMEOUT", default_value = "1s", value_parser = parse_duration, help_heading = "Timing")]
    election_timeout: Duration,

    /// Form of the log on stderr: text or json
    ///
    /// text is for people, and coloured on a terminal; json is one object a line.
    #[arg(
        long,
        value_name = "FORMAT",
        env = "RAFTKVD_LOG_FORMAT",
        default_value = "text",
        help_heading = "Logs"
    )]
    log_format: Format,

    /// Least level that is logged: error, warn, info, debug or trace
    ///
    /// No key and no value is logged at any of them.
    #[arg(long, value_name = "LEVEL", env = "RAFTKVD_LOG_LEVEL", default_value = "info", value_parser = logging::parse_level, help_heading = "Logs")]
    log_level: slog::Level,
}

fn check(args: Args) -> Result<Options, String> {
    let (join, join_by) = parse_join(args.join.as_deref())?;
    let (cluster, peer_url) = addresses(&args)?;
    let tuning = tuning(&args)?;
    if args
        .data_dir
        .as_ref()
        .is_some_and(|dir| dir.as_os_str().is_empty())
    {
        return Err("--data-dir \"\": it has to name a directory".to_owned());
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
            listen_peer: args.listen_peer,
            data_dir: args.data_dir,
            tuning,
        },
        log: logging::Settings {
            format: args.log_format,
            level: args.log_level,
        },
    })
}

fn tuning(args: &Args) -> Result<Tuning, String> {
    let at_least_one = |option: &str, value: u64, limit: usize| {
        if value == 0 || value > limit as u64 {
            return Err(format!(
                "--{option} {value}: it has to be from 1 to {limit} bytes"
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
            return Err(format!("--{option} {value:?}: it has to be at least 1ms"));
        }
    }
    for (option, value, least) in [
        ("snapshot-bytes", args.snapshot_bytes, 1),
        // A start reads about so much of the log in a tick.
        (
            "log-cache-bytes",
            args.log_cache_bytes,
            limits::LOG_CACHE_BYTES_LEAST,
        ),
    ] {
        if value < least {
            return Err(format!("--{option} {value}: it has to be at least {least}"));
        }
    }
    let tuning = Tuning {
        snapshot_bytes: args.snapshot_bytes,
        log_cache_bytes: args.log_cache_bytes,
        value_bytes_max,
        key_bytes_max,
        store_bytes_max: args.max_store_bytes,
        request_timeout: args.request_timeout,
        heartbeat: args.heartbeat,
        election_timeout: args.election_timeout,
    };
    // In ticks, as raft will compare them.
    if tuning.heartbeat >= tuning.election_timeout
        || tuning.heartbeat_ticks() >= tuning.election_ticks()
    {
        return Err(format!(
            "--heartbeat {:?}: it has to be shorter than --election-timeout, which is {:?}; a tenth of it is usual",
            tuning.heartbeat, tuning.election_timeout
        ));
    }
    Ok(tuning)
}

/// The list of members, and this member's own URL, as far as the command line says so.
fn addresses(args: &Args) -> Result<(BTreeMap<u64, PeerUrl>, Option<PeerUrl>), String> {
    match (&args.cluster, &args.peer_url) {
        (Some(_), Some(_)) => Err(
            "--peer-url and --cluster: give one of them, since --cluster lists this member's own URL too".to_owned(),
        ),
        (Some(list), None) => Ok((parse_cluster(list)?, None)),
        (None, Some(text)) => {
            let url = text.trim().parse().map_err(|why| format!("--peer-url: {why}"))?;
            Ok((BTreeMap::new(), Some(url)))
        }
        (None, None) => Ok((BTreeMap::new(), None)),
    }
}

/// Whether to join, and whom to ask.
fn parse_join(value: Option<&str>) -> Result<(bool, Vec<PeerUrl>), String> {
    match value.map(str::to_ascii_lowercase).as_deref() {
        None | Some("n" | "no" | "f" | "false" | "off" | "0") => return Ok((false, Vec::new())),
        Some("y" | "yes" | "t" | "true" | "on" | "1") => return Ok((true, Vec::new())),
        Some(_) => {}
    }
    let urls = value.unwrap_or_default().split(',').map(parse_member);
    let urls = urls.collect::<Result<_, _>>();
    Ok((true, urls.map_err(|why| format!("--join: {why}"))?))
}

/// The URL at which clients reach a member; the scheme may be left out.
fn parse_member(text: &str) -> Result<PeerUrl, String> {
    let text = text.trim();
    let url = match text.contains("://") || !text.contains(':') {
        true => text.parse(),
        false => format!("http://{text}").parse(),
    };
    url.map_err(|why: String| why.replacen("a peer URL", "the URL of a member", 1))
}

fn parse_cluster(list: &str) -> Result<BTreeMap<u64, PeerUrl>, String> {
    let mut urls = BTreeMap::new();
    let mut ids = HashMap::new();
    for (id, text) in (1_u64..).zip(list.split(',')) {
        let url: PeerUrl = text
            .trim()
            .parse()
            .map_err(|why| format!("--cluster: URL {id}: {why}"))?;
        if let Some(first) = ids.insert(url.clone(), id) {
            return Err(format!(
                "--cluster: {url} stands for member {first} and for member {id}; every member needs a URL of its own"
            ));
        }
        urls.insert(id, url);
    }
    if urls.len() > limits::MEMBERS_MAX {
        return Err(format!(
            "--cluster: it lists {} members, and a cluster can have {}",
            urls.len(),
            limits::MEMBERS_MAX
        ));
    }
    Ok(urls)
}

fn parse_id(text: &str) -> Result<u64, String> {
    text.parse::<u64>()
        .ok()
        .filter(|id| *id > 0)
        .ok_or_else(|| "an id is a number from 1 on, the member's place in --cluster".to_owned())
}

fn parse_port(text: &str) -> Result<u16, String> {
    text.parse::<u16>()
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| "a port is a number from 1 to 65535".to_owned())
}

fn parse_ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| {
        "it has to be an IP address such as 127.0.0.1, or 0.0.0.0 for all of them".to_owned()
    })
}

/// Reads a duration: numbers with units, such as `5s`, `0.5s`, `1m30s`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write a duration as 100ms, 5s or 1m30s (units: ms, s, m, h)".to_owned();
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let (number, tail) = split_number(rest).ok_or_else(wrong)?;
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, tail) = tail.split_at(unit.unwrap_or(tail.len()));
        seconds += number
            * match unit {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(wrong()),
            };
        rest = tail;
    }
    if text.is_empty() {
        return Err(wrong());
    }
    if seconds > limits::DURATION_LIMIT.as_secs_f64() {
        return Err(format!(
            "at most {}h",
            limits::DURATION_LIMIT.as_secs() / 3600
        ));
    }
    // Rounded to microseconds: sums of binary fractions are not exact.
    Ok(Duration::from_micros((seconds * 1e6).round() as u64))
}

/// Reads a size: bytes, or a number with K, M or G (also KB, KiB, ...), all powers of 1024.
fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || "write a size in bytes, or as 64K, 64MiB or 1G (powers of 1024)".to_owned();
    let (number, unit) = split_number(text).ok_or_else(wrong)?;
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(wrong()),
    };
    let bytes = number * f64::from(1_u32 << shift);
    // Above 2^53 a float skips integers; no size here makes sense up there.
    if bytes.fract() != 0.0 || bytes > (1_u64 << 53) as f64 {
        return Err(wrong());
    }
    Ok(bytes as u64)
}

/// Splits off a leading decimal number.
fn split_number(text: &str) -> Option<(f64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    // The length keeps it in the range where a float is exact enough.
    if !number.starts_with(|c: char| c.is_ascii_digit()) || number.len() > 20 {
        return None;
    }
    Some((number.parse().ok()?, rest))
}

/// One line out of clap's several: what is wrong, and a tip where it has one.
fn condense(error: &clap::Error) -> String {
    let get = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let argument = get(ContextKind::InvalidArg).map(|argument| {
        // `--id <N>`: the name is enough.
        argument.split(' ').next().unwrap_or(argument)
    });
    let mut line = match (error.kind(), argument, get(ContextKind::InvalidValue)) {
        (ErrorKind::InvalidValue | ErrorKind::ValueValidation, Some(argument), Some("")) => {
            format!("{argument} needs a value")
        }
        (ErrorKind::InvalidValue | ErrorKind::ValueValidation, Some(argument), Some(value)) => {
            let why = std::error::Error::source(error).map(ToString::to_string);
            let why = why.unwrap_or_else(|| match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(valid)) => format!("use one of {}", valid.join(", ")),
                _ => "not a possible value".to_owned(),
            });
            format!("{argument} {value:?}: {why}")
        }
        (ErrorKind::MissingRequiredArgument, ..) => match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::Strings(missing)) => format!("{} is missing", missing.join(", ")),
            _ => "an argument is missing".to_owned(),
        },
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            first.strip_prefix("error: ").unwrap_or(first).to_owned()
        }
    };
    if let Some(similar) = get(ContextKind::SuggestedArg) {
        line.push_str(&format!("; did you mean {similar}?"));
    }
    line.push_str("; see raftkvd --help");
    line
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
        let Options { asked, log } = options("").unwrap();
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
        let line = "--id 4 --peer-url http://127.0.0.1:42379 --join http://127.0.0.1:12380,localhost:22380/ --port 5";
        let asked = options(line).unwrap().asked;
        assert_eq!(
            asked.peer_url,
            Some("http://127.0.0.1:42379".parse().unwrap())
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
            ("--peer-url 127.0.0.1:1", "--peer-url: \"127.0.0.1:1\""),
            (
                "--peer-url http://a:1 --cluster http://a:1",
                "give one of them",
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
                    --log-format json --log-level debug";
        let Options { asked, log } = options(line).unwrap();
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
            ("--cluster 127.0.0.1:1", "\"127.0.0.1:1\""),
            ("--cluster http://127.0.0.1", "no port"),
            ("--cluster http://127.0.0.1:1/x", "path"),
            ("--cluster http://a:1,,http://b:1", "URL 2"),
            (
                "--cluster http://a:1,http://A:1/",
                "http://a:1 stands for member 1 and for member 2",
            ),
            ("--port 0", "--port \"0\""),
            ("--port 65536", "--port \"65536\""),
            ("--listen example", "--listen \"example\""),
            ("--heartbeat 0s", "--heartbeat"),
            ("--heartbeat 5", "--heartbeat \"5\""),
            (
                "--heartbeat 1s",
                "--heartbeat 1s: it has to be shorter than --election-timeout",
            ),
            ("--heartbeat 2s", "--heartbeat 2s"),
            ("--election-timeout 100ms", "--heartbeat 100ms"),
            ("--request-timeout 0ms", "--request-timeout"),
            ("--request-timeout 25h", "--request-timeout \"25h\""),
            ("--request-timeout -5s", "'-5'"),
            ("--max-value-bytes 0", "--max-value-bytes 0"),
            ("--max-value-bytes 65M", "--max-value-bytes"),
            ("--max-key-bytes 0", "--max-key-bytes 0"),
            ("--max-key-bytes 17K", "--max-key-bytes"),
            ("--snapshot-bytes lots", "--snapshot-bytes \"lots\""),
            ("--snapshot-bytes 0", "--snapshot-bytes 0"),
            ("--log-format xml", "--log-format \"xml\""),
            ("--log-level loud", "--log-level \"loud\""),
            ("--data-dirr x", "did you mean --data-dir?"),
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

    #[test]
    fn durations_and_sizes() {
        let ms = Duration::from_millis;
        for (text, duration) in [
            ("100ms", ms(100)),
            ("5s", ms(5_000)),
            ("0.5s", ms(500)),
            ("1m30s", ms(90_000)),
            ("1h", ms(3_600_000)),
            ("1.5ms", Duration::from_micros(1_500)),
        ] {
            assert_eq!(parse_duration(text), Ok(duration), "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "5 s",
            "5sec",
            "-1s",
            "1.2.3s",
            ".5s",
            "1e3s",
            "999999999h",
            "NaNs",
            "infs",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        for (text, size) in [
            ("0", 0),
            ("65536", 65536),
            ("64K", 65536),
            ("64KiB", 65536),
            ("64kb", 65536),
            ("1.5m", 3 << 19),
            ("2 MiB", 2 << 20),
            ("1G", 1 << 30),
        ] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for text in ["", "K", "-1", "1T", "0.3", "99999999999999999999", "1 2"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
