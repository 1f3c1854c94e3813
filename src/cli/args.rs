//! The options and the subcommands, as clap reads them: what `--help` says is here.

use super::values::{parse_duration, parse_id, parse_ip, parse_member, parse_port, parse_size};
use crate::command::version::VERSION;
use crate::logging::{self, Format};
use crate::peer_url::PeerUrl;
use clap::Parser;
use clap::Subcommand;
use clap_complete::Shell;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

/// Below `-h`.
pub(super) const EXAMPLES: &str = "\
Examples:
  raftkvd                            one member, alone: try it out
  raftkvd --id 1 --cluster http://10.0.0.1:9021,http://10.0.0.2:9021,http://10.0.0.3:9021
                                     the first of three members; the others differ in --id
  raftkvd --id 2 --peer-url http://10.0.0.2:9021 --join http://10.0.0.1:9121
                                     joins the cluster whose member serves clients there

More with --help.";

/// Below `--help`.
pub(super) const EXAMPLES_AND_MORE: &str = "\
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
  8  only a later version knows what the data directory, the log, a snapshot or a backup holds

Under systemd (Type=notify) it says when it is ready and stopping, and feeds the watchdog.";

/// What `--version` says. A line with exit code 8 names the command version that is needed.
static BUILD: LazyLock<String> = LazyLock::new(|| {
    let release = env!("CARGO_PKG_VERSION");
    format!("{release} (command version {VERSION})")
});

/// A small replicated key-value store: raft, a write-ahead log and an HTTP API in one binary.
#[derive(Debug, Parser)]
#[command(name = "raftkvd", version = BUILD.as_str(), after_help = EXAMPLES, after_long_help = EXAMPLES_AND_MORE, max_term_width = 110, allow_negative_numbers = true)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) command: Option<Command>,

    /// This member's id: its place in --cluster, counted from 1 [default: that of the data directory; of a new one, 1]
    ///
    /// It belongs to the data directory for good. An id that was removed may be added again, with an empty directory.
    #[arg(long, value_name = "N", env = "RAFTKVD_ID", value_parser = parse_id, help_heading = "Cluster")]
    pub(super) id: Option<u64>,

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
    pub(super) cluster: Option<String>,

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
    pub(super) peer_url: Option<String>,

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
    pub(super) join: Option<String>,

    /// Port for clients
    #[arg(long, value_name = "PORT", env = "RAFTKVD_PORT", default_value = "9121", value_parser = parse_port, help_heading = "Addresses")]
    pub(super) port: u16,

    /// Address for clients [default: that of its peer URL]
    ///
    /// 0.0.0.0 for all addresses of this machine. There is no authentication: whoever reaches it can read and write.
    #[arg(long, value_name = "IP", env = "RAFTKVD_LISTEN", value_parser = parse_ip, help_heading = "Addresses")]
    pub(super) listen: Option<IpAddr>,

    /// Address for peers [default: that of its peer URL]
    ///
    /// Where the host in the peer URL is not one that this machine has: behind a proxy or NAT.
    #[arg(long, value_name = "IP", env = "RAFTKVD_LISTEN_PEER", value_parser = parse_ip, help_heading = "Addresses")]
    pub(super) listen_peer: Option<IpAddr>,

    /// Directory for this member's data [default: raftkvd-<id>]
    #[arg(
        long,
        value_name = "DIR",
        env = "RAFTKVD_DATA_DIR",
        help_heading = "Data"
    )]
    pub(super) data_dir: Option<PathBuf>,

    /// Log written since the last snapshot that makes the next one due
    ///
    /// If it is also larger than the last snapshot. A restart replays about as much.
    #[arg(long, value_name = "SIZE", env = "RAFTKVD_SNAPSHOT_BYTES", default_value = "64MiB", value_parser = parse_size, help_heading = "Data")]
    pub(super) snapshot_bytes: u64,

    /// Log that is kept in memory
    ///
    /// At least 64K. Older entries are read back from the disk for members that are behind.
    #[arg(long, value_name = "SIZE", env = "RAFTKVD_LOG_CACHE_BYTES", default_value = "64MiB", value_parser = parse_size, help_heading = "Data")]
    pub(super) log_cache_bytes: u64,

    /// Largest value
    ///
    /// At most 64M.
    #[arg(long, value_name = "SIZE", env = "RAFTKVD_MAX_VALUE_BYTES", default_value = "1MiB", value_parser = parse_size, help_heading = "Limits")]
    pub(super) max_value_bytes: u64,

    /// Longest key
    ///
    /// At most 16K.
    #[arg(long, value_name = "SIZE", env = "RAFTKVD_MAX_KEY_BYTES", default_value = "4KiB", value_parser = parse_size, help_heading = "Limits")]
    pub(super) max_key_bytes: u64,

    /// Keys and values in the store, 0 for no limit
    ///
    /// Over it this member refuses writes with 507, and takes only deletions.
    #[arg(long, value_name = "SIZE", env = "RAFTKVD_MAX_STORE_BYTES", default_value = "0", value_parser = parse_size, help_heading = "Limits")]
    pub(super) max_store_bytes: u64,

    /// Time by which every request is answered
    ///
    /// With 504 if nobody knows by then what became of it.
    #[arg(long, value_name = "DURATION", env = "RAFTKVD_REQUEST_TIMEOUT", default_value = "5s", value_parser = parse_duration, help_heading = "Timing")]
    pub(super) request_timeout: Duration,

    /// Interval of the leader's heartbeats
    #[arg(long, value_name = "DURATION", env = "RAFTKVD_HEARTBEAT", default_value = "100ms", value_parser = parse_duration, help_heading = "Timing")]
    pub(super) heartbeat: Duration,

    /// Silence of the leader after which a new one is elected
    ///
    /// One to two times as much, at random. Ten heartbeats are usual.
    #[arg(long, value_name = "DURATION", env = "RAFTKVD_ELECTION_TIMEOUT", default_value = "1s", value_parser = parse_duration, help_heading = "Timing")]
    pub(super) election_timeout: Duration,

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
    pub(super) log_format: Format,

    /// Least level that is logged: error, warn, info, debug or trace
    ///
    /// No key and no value is logged at any of them.
    #[arg(long, value_name = "LEVEL", env = "RAFTKVD_LOG_LEVEL", default_value = "info", value_parser = logging::parse_level, help_heading = "Logs")]
    pub(super) log_level: slog::Level,
}

/// What to do instead of running the daemon.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum Command {
    /// Fetch a backup from a running member, and check it
    #[command(after_help = BACKUP_EXAMPLES)]
    Backup {
        /// Where clients reach the member
        #[arg(value_parser = parse_member)]
        url: PeerUrl,

        /// The file to make, or a directory for it [default: raftkvd-CLUSTER-INDEX.snap]
        file: Option<PathBuf>,

        /// Take what this member has, also without a majority: the last writes may be missing
        #[arg(long)]
        stale: bool,
    },

    /// Print what a data directory, a WAL segment or a snapshot holds, and check every CRC
    #[command(after_help = INSPECT_EXAMPLES)]
    Inspect {
        /// A data directory, in use or not, or a file of one, or a backup
        path: PathBuf,
    },

    /// Make the data directory of a new cluster's first member from a snapshot
    #[command(after_help = RESTORE_EXAMPLES)]
    Restore {
        /// The snapshot: a backup, or a file of snap/ in a data directory
        file: PathBuf,

        /// This member's id: only member 1 is restored, and sends the others everything
        #[arg(long, value_name = "N", env = "RAFTKVD_ID", default_value = "1", value_parser = parse_id)]
        id: u64,

        /// Peer URLs of all members of the new cluster, in the order of their ids
        #[arg(long, value_name = "URL[,URL...]", env = "RAFTKVD_CLUSTER")]
        cluster: Option<String>,

        /// Peer URL of the only member, in place of --cluster [default: http://127.0.0.1:9021]
        #[arg(long, value_name = "URL", env = "RAFTKVD_PEER_URL")]
        peer_url: Option<String>,

        /// Directory to make [default: raftkvd-1]
        #[arg(long, value_name = "DIR", env = "RAFTKVD_DATA_DIR")]
        data_dir: Option<PathBuf>,
    },

    /// Print the completions for a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell that is to complete
        shell: Shell,
    },

    /// Print a manual page
    #[command(after_help = MAN_EXAMPLES)]
    Man {
        /// The subcommand to describe, instead of the daemon
        command: Option<String>,
    },
}

const INSPECT_EXAMPLES: &str = "\
Examples:
  raftkvd inspect raftkvd-1
  raftkvd inspect backup.snap

It changes nothing, also while a member runs there. It exits with 4 if anything is corrupt.";

const BACKUP_EXAMPLES: &str = "\
Examples:
  raftkvd backup http://127.0.0.1:9121
  raftkvd backup http://127.0.0.1:9121 /backups/monday.snap

The same as GET /-/snapshot, but the file gets its name only when it is whole, checked and durable.";

const RESTORE_EXAMPLES: &str = "\
Examples:
  raftkvd restore monday.snap
  raftkvd restore monday.snap --data-dir raftkvd-1 --cluster http://10.0.0.1:9021,http://10.0.0.2:9021

Only the directory of member 1 is made. Start it with the same --cluster, and the others empty with the same --cluster:
member 1 sends them everything.";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  raftkvd completions bash > ~/.local/share/bash-completion/completions/raftkvd
  raftkvd completions zsh > ~/.zfunc/_raftkvd
  raftkvd completions fish > ~/.config/fish/completions/raftkvd.fish";

const MAN_EXAMPLES: &str = "\
Examples:
  raftkvd man > /usr/local/share/man/man1/raftkvd.1
  raftkvd man | man -l -";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn help_names_every_exit_code_and_version_what_exit_code_8_asks_for() {
        let help = Args::command().render_long_help().to_string();
        let (_, codes) = help.split_once("Exit codes:").unwrap();
        for code in 0..=8 {
            assert!(codes.contains(&format!("\n  {code}  ")), "{code}: {help}");
        }
        let version = Args::command().render_version();
        let knows = format!("(command version {VERSION})");
        assert!(version.contains(&knows), "{version}");
    }
}
