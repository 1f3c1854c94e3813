//! The options and the subcommands, as clap reads them. The doc comment of each is its help text. `-h` shows the first
//! paragraph. `--help` and the manual page show all paragraphs.

use super::cert::CertArgs;
use super::help;
use super::values::{
    LOG_FORMATS, LOG_LEVELS, MemberUrl, TLS_VERSIONS, choice, parse_allowed_host, parse_count,
    parse_duration, parse_id, parse_listen, parse_listen_peer, parse_member, parse_port,
    parse_size,
};
use crate::command::version::VERSION;
use crate::config::{AllowedHost, ClientFiles};
use crate::logging::Format;
use clap::{CommandFactory as _, Parser, Subcommand, ValueHint};
use clap_complete::Shell;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

/// Lines of the help are shorter than 80 columns on any terminal.
const HELP_COLUMNS_MAX: usize = 79;

/// The length of the help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HelpLength {
    /// `-h`, which leaves out the environment variables, so that most options need one line.
    Short,
    /// `--help`, completions and manual pages.
    Long,
}

/// The command line as clap reads it, with the notes and the width of the help.
pub(super) fn command(help: HelpLength) -> clap::Command {
    let describe = move |argument: clap::Arg| {
        argument
            .hide_env(help == HelpLength::Short)
            .hide_env_values(true)
    };
    Args::command()
        .max_term_width(HELP_COLUMNS_MAX)
        .after_help(help::short_notes())
        .after_long_help(help::long_notes())
        .mut_args(describe)
        .mut_subcommands(|subcommand| {
            let name = subcommand.get_name().to_owned();
            let nested = move |nested: clap::Command| {
                let name = format!("{name} {}", nested.get_name());
                with_notes(nested, &name).mut_args(describe)
            };
            let name = subcommand.get_name().to_owned();
            with_notes(subcommand, &name)
                .mut_args(describe)
                .mut_subcommands(nested)
                .disable_help_subcommand(true)
        })
}

/// Adds the examples and the width to the subcommand with this name, such as `cert member`.
fn with_notes(subcommand: clap::Command, name: &str) -> clap::Command {
    subcommand
        .max_term_width(HELP_COLUMNS_MAX)
        .after_help(help::notes(name))
}

/// The text of `--version`. It shows the command version, because the reason of exit code 8 names the command version
/// that is needed.
static BUILD: LazyLock<String> = LazyLock::new(|| {
    let release = env!("CARGO_PKG_VERSION");
    format!("{release} (command version {VERSION})")
});

/// A small replicated key-value store with an HTTP API
///
/// Without a subcommand, raftkvd runs one member of a cluster. The members agree on every write by raft, and each member
/// keeps a write-ahead log and snapshots in its data directory. Clients read and write keys over HTTP on the client port.
/// The members talk to each other on the peer port.
///
/// The first start says which cluster the member belongs to: --cluster lists the members of a new cluster, --join names a
/// running one, and without either the member forms a cluster of one. The data directory keeps this, so a later start needs
/// only --id or --data-dir, and the client port.
///
/// raftkvd runs in the foreground and logs to stderr. SIGTERM and SIGINT stop it: it hands leadership over and answers the
/// requests that are under way. A second signal stops it at once. Under systemd (Type=notify) it reports when it is ready
/// and when it stops, and feeds the watchdog.
#[derive(Debug, Parser)]
#[command(
    name = "raftkvd",
    version = BUILD.as_str(),
    allow_negative_numbers = true,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) command: Option<Command>,

    /// Id of this member, its place in --cluster [default: the id in the data directory; 1 for a new one]
    ///
    /// The first member in the list has id 1. The id belongs to the data directory for good. After a member was removed, its id can be added again, with an empty
    /// data directory.
    #[arg(long, value_name = "N", env = "RAFTKVD_ID", value_parser = parse_id, help_heading = "Cluster", value_hint = ValueHint::Other)]
    pub(super) id: Option<u64>,

    /// Peer URLs of all members, in the order of their ids [default: the list in the data directory]
    ///
    /// A new cluster forms from the members in this list, and all of them have to be started with the same list. Member 1
    /// creates the cluster and adds the other members. The cluster serves clients once all of them are in.
    ///
    /// Later starts can leave the list out. A list that is given again only says where to look for the other members; but if
    /// it has a new URL for this member, the member moves there. raftkvd refuses the list of another cluster.
    #[arg(
        long,
        value_name = "URLS",
        env = "RAFTKVD_CLUSTER",
        help_heading = "Cluster",
        value_hint = ValueHint::Other
    )]
    pub(super) cluster: Option<String>,

    /// URL at which the other members reach this one, in place of --cluster [default: the URL in the data directory;
    /// http://127.0.0.1:9021 for a new one]
    ///
    /// Give it to the first member of a cluster that grows by --join, and together with --join URL. A member that already
    /// has data and is given a new URL moves there.
    #[arg(
        long,
        value_name = "URL",
        env = "RAFTKVD_PEER_URL",
        help_heading = "Cluster",
        value_hint = ValueHint::Other
    )]
    pub(super) peer_url: Option<String>,

    /// Join a running cluster through the member that serves clients at this URL
    ///
    /// raftkvd asks the members at these URLs, one after the other, to add this member. Without a URL, somebody else
    /// adds this member (by POST /-/members/<id> to any member), and --cluster has to list all peer URLs. A member that
    /// is already in a cluster ignores --join. RAFTKVD_JOIN=true stands for --join without a URL.
    #[arg(
        long,
        value_name = "URLS",
        env = "RAFTKVD_JOIN",
        num_args = 0..=1,
        default_missing_value = "true",
        help_heading = "Cluster",
        value_hint = ValueHint::Other
    )]
    pub(super) join: Option<String>,

    /// Port for clients
    ///
    /// The port for the other members is that of the peer URL.
    #[arg(long, value_name = "PORT", env = "RAFTKVD_PORT", default_value = "9121", value_parser = parse_port, help_heading = "Addresses", value_hint = ValueHint::Other)]
    pub(super) port: u16,

    /// IP for clients [default: that of the peer URL]
    ///
    /// The address at which this member serves clients; 0.0.0.0 stands for all addresses of this machine. An address that
    /// other machines can reach needs --tls, or --insecure: without --tls there is no authentication, and everybody who
    /// reaches the client port can read and write all keys.
    #[arg(long, value_name = "IP", env = "RAFTKVD_LISTEN", value_parser = parse_listen, help_heading = "Addresses", value_hint = ValueHint::Other)]
    pub(super) listen: Option<IpAddr>,

    /// Host names by which clients may name this member
    ///
    /// A request whose Host is another name is refused with 421, because a web page could have made that name resolve
    /// to this member. IP addresses, localhost, the name of this machine and the hosts of the members' peer URLs are
    /// always allowed. *.SUFFIX stands for all names below the suffix, and * for all names. Separate several names by
    /// commas.
    #[arg(long, value_name = "NAMES", env = "RAFTKVD_ALLOW_HOST", value_delimiter = ',', value_parser = parse_allowed_host, help_heading = "Addresses", value_hint = ValueHint::Hostname)]
    pub(super) allow_host: Vec<AllowedHost>,

    /// IP for members [default: that of the peer URL]
    ///
    /// The address at which this member listens for the other members. Needed where the host of the peer URL is not an
    /// address of this machine, for example behind a proxy or NAT. An address that other machines can reach needs --tls, or
    /// --insecure.
    #[arg(long, value_name = "IP", env = "RAFTKVD_LISTEN_PEER", value_parser = parse_listen_peer, help_heading = "Addresses", value_hint = ValueHint::Other)]
    pub(super) listen_peer: Option<IpAddr>,

    /// Directory with the certificates of this member: both ports speak TLS
    ///
    /// The directory holds ca.pem, member.pem and member.key, as `raftkvd cert` makes them. The other members prove their
    /// ids by their certificates, and a client without a certificate gets only /-/live and /-/ready. Changed files are
    /// read again without a restart. http:// and https:// in all other options mean the same.
    #[arg(
        long,
        value_name = "DIR",
        env = "RAFTKVD_TLS",
        help_heading = "Security",
        value_hint = ValueHint::DirPath
    )]
    pub(super) tls: Option<PathBuf>,

    /// Lowest version of TLS on the client port, 1.2 or 1.3
    ///
    /// Members always use TLS 1.3 with each other.
    #[arg(
        long,
        value_name = "VERSION",
        env = "RAFTKVD_TLS_MIN",
        default_value = "1.3",
        value_parser = choice(&TLS_VERSIONS),
        action = clap::ArgAction::Set,
        help_heading = "Security"
    )]
    pub(super) tls_min: bool,

    /// Open ports to other machines without TLS
    ///
    /// Without --tls, a port is open on the loopback address (127.0.0.1 or ::1) only. raftkvd refuses another address,
    /// because everybody who reaches a port without TLS can read and change all data. --insecure allows it, for a network
    /// in which you trust every machine and every user. Each start logs a warning. Has no effect with --tls.
    /// RAFTKVD_INSECURE is true or false.
    #[arg(long, env = "RAFTKVD_INSECURE", help_heading = "Security")]
    pub(super) insecure: bool,

    #[command(flatten)]
    pub(super) join_files: ClientFileArgs,

    /// Data directory [default: raftkvd-<id>]
    ///
    /// raftkvd creates the directory if it does not exist. Every member needs one of its own.
    #[arg(
        long,
        value_name = "DIR",
        env = "RAFTKVD_DATA_DIR",
        help_heading = "Data",
        value_hint = ValueHint::DirPath
    )]
    pub(super) data_dir: Option<PathBuf>,

    /// Log between two snapshots
    ///
    /// A snapshot is due when the log since the last one is larger than this and than the last snapshot. A restart replays
    /// about as much log.
    #[arg(long, value_name = "SIZE", env = "RAFTKVD_SNAPSHOT_BYTES", default_value = "64MiB", value_parser = parse_size, help_heading = "Data", value_hint = ValueHint::Other)]
    pub(super) snapshot_bytes: u64,

    /// Log in memory, at least 64K
    ///
    /// raftkvd keeps the newest part of the log in memory, up to this size. Members that lag further behind are sent entries
    /// from the disk. Watches reach back over a quarter of this size.
    #[arg(long, value_name = "SIZE", env = "RAFTKVD_LOG_CACHE_BYTES", default_value = "64MiB", value_parser = parse_size, help_heading = "Data", value_hint = ValueHint::Other)]
    pub(super) log_cache_bytes: u64,

    /// Largest value, at most 64M
    ///
    /// A larger value is refused with 413.
    #[arg(long, value_name = "SIZE", env = "RAFTKVD_MAX_VALUE_BYTES", default_value = "1MiB", value_parser = parse_size, help_heading = "Limits", value_hint = ValueHint::Other)]
    pub(super) max_value_bytes: u64,

    /// Longest key, at most 16K
    ///
    /// The bytes after percent-decoding count. A longer key is refused with 414.
    #[arg(long, value_name = "SIZE", env = "RAFTKVD_MAX_KEY_BYTES", default_value = "4KiB", value_parser = parse_size, help_heading = "Limits", value_hint = ValueHint::Other)]
    pub(super) max_key_bytes: u64,

    /// Keys and values; 0 for no limit
    ///
    /// The size of all keys and values together. Above the limit this member refuses writes with 507, and accepts only
    /// deletions.
    #[arg(long, value_name = "SIZE", env = "RAFTKVD_MAX_STORE_BYTES", default_value = "0", value_parser = parse_size, help_heading = "Limits", value_hint = ValueHint::Other)]
    pub(super) max_store_bytes: u64,

    /// Connections per address [default: a quarter]
    ///
    /// How many connections of clients one address may have, and how many watches. IPv6 addresses of one /64 count
    /// together. Raise it where all clients come through one proxy. 0 stands for the default.
    #[arg(long, value_name = "N", env = "RAFTKVD_MAX_PER_ADDRESS", value_parser = parse_count, help_heading = "Limits", value_hint = ValueHint::Other)]
    pub(super) max_per_address: Option<u32>,

    /// Time limit of a request
    ///
    /// Every request is answered within this time, with 504 if its outcome is unknown by then.
    #[arg(long, value_name = "DURATION", env = "RAFTKVD_REQUEST_TIMEOUT", default_value = "5s", value_parser = parse_duration, help_heading = "Timing", value_hint = ValueHint::Other)]
    pub(super) request_timeout: Duration,

    /// Interval of heartbeats
    ///
    /// The leader sends one to every member. A tenth of --election-timeout is usual.
    #[arg(long, value_name = "DURATION", env = "RAFTKVD_HEARTBEAT", default_value = "100ms", value_parser = parse_duration, help_heading = "Timing", value_hint = ValueHint::Other)]
    pub(super) heartbeat: Duration,

    /// Silence before an election
    ///
    /// A member that hears nothing from the leader for this time, or up to twice as long at random, starts an election.
    #[arg(long, value_name = "DURATION", env = "RAFTKVD_ELECTION_TIMEOUT", default_value = "1s", value_parser = parse_duration, help_heading = "Timing", value_hint = ValueHint::Other)]
    pub(super) election_timeout: Duration,

    /// Format of the log on stderr
    #[arg(
        long,
        value_name = "FORMAT",
        env = "RAFTKVD_LOG_FORMAT",
        default_value = "text",
        value_parser = choice(&LOG_FORMATS),
        ignore_case = true,
        help_heading = "Logs"
    )]
    pub(super) log_format: Format,

    /// Lowest level of the log
    ///
    /// Keys and values are logged at no level.
    #[arg(long, value_name = "LEVEL", env = "RAFTKVD_LOG_LEVEL", default_value = "info", value_parser = choice(&LOG_LEVELS), ignore_case = true, help_heading = "Logs")]
    pub(super) log_level: slog::Level,
}

/// Files with which this process dials the client port of a member.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ClientFileArgs {
    /// CA of the member that is asked, in place of --tls
    ///
    /// Also the CA of a proxy in front of that member.
    #[arg(long, value_name = "FILE", env = "RAFTKVD_CACERT", help_heading = "Security", value_hint = ValueHint::FilePath)]
    pub(super) cacert: Option<PathBuf>,

    /// Certificate to show to that member, with --key
    #[arg(long, value_name = "FILE", env = "RAFTKVD_CERT", help_heading = "Security", value_hint = ValueHint::FilePath)]
    pub(super) cert: Option<PathBuf>,

    /// Key of that certificate
    #[arg(long, value_name = "FILE", env = "RAFTKVD_KEY", help_heading = "Security", value_hint = ValueHint::FilePath)]
    pub(super) key: Option<PathBuf>,
}

impl ClientFileArgs {
    /// The files that the options name. `None`: no option names a file.
    pub(super) fn files(self) -> Result<Option<ClientFiles>, String> {
        let own = match (self.cert, self.key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => {
                return Err("--cert needs the key of the certificate: give --key too".to_owned());
            }
            (None, Some(_)) => {
                return Err("--key needs its certificate: give --cert too".to_owned());
            }
        };
        match (self.cacert, own) {
            (Some(ca), own) => Ok(Some(ClientFiles::Files { ca, own })),
            (None, Some(_)) => {
                Err("--cert and --key need the CA of the member: give --cacert too".to_owned())
            }
            (None, None) => Ok(None),
        }
    }
}

/// What to do instead of running the daemon.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum Command {
    /// Fetch a backup from a running member, and check it
    ///
    /// The backup holds every write that was answered before the backup was asked for. While the file is incomplete, its name
    /// ends in .part; the file gets its final name when it is complete, checked and durable. GET /-/snapshot gives the same
    /// bytes.
    Backup {
        /// URL at which clients reach the member
        ///
        /// http:// can be left out.
        #[arg(value_parser = parse_member, value_hint = ValueHint::Url)]
        url: MemberUrl,

        /// File to create, or a directory for it, or - for stdout [default: raftkvd-<cluster>-<index>.snap]
        #[arg(value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,

        /// Take what this member has, even without a majority: the last writes may be missing
        #[arg(long)]
        stale: bool,

        /// Directory with the certificates of a client or a member, if the member speaks TLS
        #[arg(long, value_name = "DIR", env = "RAFTKVD_TLS", help_heading = "Security", value_hint = ValueHint::DirPath)]
        tls: Option<PathBuf>,

        #[command(flatten)]
        files: ClientFileArgs,
    },

    /// Check a data directory or a backup, and show what it holds
    ///
    /// Every CRC is checked, of all files of the data directory, or of the one file that is named.
    ///
    /// Nothing is changed, and a member may use the data directory meanwhile. The exit code is 4 if anything is corrupt, and
    /// otherwise 8 if anything needs a later version of raftkvd.
    Inspect {
        /// Data directory, file of a data directory, or backup
        #[arg(value_hint = ValueHint::AnyPath)]
        path: PathBuf,
    },

    /// Make a data directory from a backup, for a new cluster
    ///
    /// The new cluster has an id of its own, so members of the old cluster are no members of the new one. Only the data
    /// directory of member 1 is made. Start member 1 and the other members with the same --cluster, the others with empty
    /// data directories: member 1 sends them all keys.
    Restore {
        /// Backup, or a file of snap/ in a data directory
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,

        /// Id of the member to restore, which has to be 1
        #[arg(long, value_name = "N", env = "RAFTKVD_ID", default_value = "1", value_parser = parse_id, value_hint = ValueHint::Other)]
        id: u64,

        /// Peer URLs of all members of the new cluster, in the order of their ids
        #[arg(long, value_name = "URLS", env = "RAFTKVD_CLUSTER", value_hint = ValueHint::Other)]
        cluster: Option<String>,

        /// Peer URL of the only member, in place of --cluster [default: http://127.0.0.1:9021]
        #[arg(long, value_name = "URL", env = "RAFTKVD_PEER_URL", value_hint = ValueHint::Other)]
        peer_url: Option<String>,

        /// Directory to make [default: raftkvd-1]
        #[arg(long, value_name = "DIR", env = "RAFTKVD_DATA_DIR", value_hint = ValueHint::DirPath)]
        data_dir: Option<PathBuf>,
    },

    /// Make the certificates of a cluster: CA, members and an admin
    ///
    /// DIR gets a private CA (ca.pem and ca.key), a directory for each member (member-1, member-2, ...), and the directory
    /// admin for a client that may do everything. Copy each directory to the machine of its member or client. Keep ca.key
    /// where no other person can read it. Only your user can read the files, and nothing is overwritten.
    ///
    /// The subcommands work on a DIR that this command has made.
    Cert(CertArgs),

    /// Print the completion script for a shell
    Completions {
        /// Shell that runs the script
        #[arg(ignore_case = true)]
        shell: Shell,
    },

    /// Print the manual page of raftkvd, or of a subcommand
    Man {
        /// Subcommand that the page describes
        #[arg(value_parser = ["backup", "inspect", "restore", "cert", "completions", "man"])]
        command: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::help::{VALUES, examples};
    use crate::exit_code::ExitCode;

    /// The subcommands of a command, and those of each of them.
    fn all_below(root: &clap::Command) -> impl Iterator<Item = &clap::Command> {
        root.get_subcommands()
            .flat_map(|command| std::iter::once(command).chain(command.get_subcommands()))
    }

    /// The help of the daemon and of each subcommand, short and long.
    fn helps() -> Vec<(String, String)> {
        let mut helps = Vec::new();
        for length in [HelpLength::Short, HelpLength::Long] {
            let mut commands = vec![command(length)];
            commands[0].build();
            let subcommands: Vec<_> = all_below(&commands[0]).cloned().collect();
            commands.extend(subcommands);
            for mut command in commands {
                let text = match length {
                    HelpLength::Short => command.render_help(),
                    HelpLength::Long => command.render_long_help(),
                };
                helps.push((
                    format!("{} {length:?}", command.get_name()),
                    text.to_string(),
                ));
            }
        }
        helps
    }

    #[test]
    fn no_help_is_wider_than_a_terminal_of_80_columns() {
        for (name, text) in helps() {
            for line in text.lines() {
                assert!(line.chars().count() < 80, "{name}: {line}");
            }
            assert!(text.contains("Examples:\n"), "{name}: {text}");
        }
    }

    #[test]
    fn the_short_help_fits_on_a_screen_and_the_long_one_says_everything() {
        let helps = helps();
        let (_, short) = &helps[0];
        assert!(short.lines().count() <= 80, "{short}");
        assert!(!short.contains("RAFTKVD_"), "{short}");
        let (_, long) = &helps[helps.len() / 2];
        for argument in Args::command().get_arguments() {
            let variable = argument.get_env().unwrap().to_str().unwrap();
            assert!(long.contains(&format!("[env: {variable}]")), "{long}");
        }
        for (name, meaning) in VALUES {
            assert!(
                long.contains(&format!("  {name:<8}  {meaning}\n")),
                "{long}"
            );
        }
    }

    #[test]
    fn help_names_every_exit_code_and_version_what_exit_code_8_asks_for() {
        let help = command(HelpLength::Long).render_long_help().to_string();
        let (_, codes) = help.split_once("Exit codes:").unwrap();
        for code in ExitCode::ALL {
            let line = format!("\n  {code}  {}\n", code.summary());
            assert!(format!("{codes}\n").contains(&line), "{code}: {help}");
        }
        let version = Args::command().render_version();
        let knows = format!("(command version {VERSION})");
        assert!(version.contains(&knows), "{version}");
    }

    #[test]
    fn every_value_has_a_meaning_and_something_to_complete() {
        let mut root = command(HelpLength::Long);
        root.build();
        for command in std::iter::once(&root).chain(all_below(&root)) {
            for argument in command.get_arguments() {
                if !argument.get_num_args().unwrap().takes_values() {
                    continue;
                }
                let name = &argument.get_value_names().unwrap()[0];
                let name = name.split('[').next().unwrap();
                let choices = argument.get_possible_values();
                let described = VALUES.iter().any(|(known, _)| *known == name);
                let described = described || argument.is_positional() || !choices.is_empty();
                assert!(described, "{name} of {}", argument.get_id());
                let hint = argument.get_value_hint();
                let completes = hint != ValueHint::Unknown || !choices.is_empty();
                assert!(completes, "{} of {}", argument.get_id(), command.get_name());
            }
        }
    }

    #[test]
    fn the_manual_has_a_page_for_each_subcommand() {
        let root = command(HelpLength::Long);
        let man = root.find_subcommand("man").unwrap();
        let pages = man.get_arguments().next().unwrap().get_possible_values();
        let pages = pages.iter().map(|value| value.get_name().to_owned());
        let names = root.get_subcommands().map(|command| command.get_name());
        assert_eq!(pages.collect::<Vec<_>>(), names.collect::<Vec<_>>());
    }

    #[test]
    fn every_example_is_a_command_line_that_is_taken() {
        let root = command(HelpLength::Long);
        let mut names = vec!["raftkvd".to_owned()];
        for command in root.get_subcommands() {
            let name = command.get_name();
            let nested = command.get_subcommands();
            names.push(name.to_owned());
            names.extend(nested.map(|nested| format!("{name} {}", nested.get_name())));
        }
        for name in &names {
            for example in examples(name) {
                let text = example.lines.join(" ").replace('\\', " ");
                for line in text.split("&&") {
                    let line = line.split(['>', '|']).next().unwrap();
                    let line: Vec<&str> = line.split_whitespace().collect();
                    if line[0] == "mv" {
                        continue;
                    }
                    let taken = command(HelpLength::Long).try_get_matches_from(&line);
                    let taken = taken.unwrap_or_else(|error| panic!("{line:?}: {error}"));
                    let (of, _) = name.split_once(' ').unwrap_or((name, ""));
                    let is_of_this = taken.subcommand_name() == Some(of) || name == "raftkvd";
                    assert!(is_of_this || text.contains("&&"), "{name}: {line:?}");
                }
                assert!(example.what.ends_with(':'), "{}", example.what);
            }
        }
    }
}
