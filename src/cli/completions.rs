//! The subcommands: what is done with a data directory or a snapshot while no daemon runs, and what describes the
//! command line itself. Without one the daemon runs.

use super::{Args, Quit, parse_cluster, parse_id, parse_member};
use crate::cli::restore;
use crate::peer_url::PeerUrl;
use clap::{CommandFactory as _, Subcommand};
use clap_complete::Shell;
use std::collections::BTreeMap;
use std::path::PathBuf;

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

/// What `restore` is to do, checked.
pub(super) fn restore_settings(
    file: PathBuf,
    id: u64,
    cluster: Option<String>,
    peer_url: Option<String>,
    data_dir: Option<PathBuf>,
) -> Result<restore::Settings, Quit> {
    if let Err(error) = file.metadata() {
        return Err(Quit::Usage(format!("{}: {error}", file.display())));
    }
    // As the daemon takes them.
    let cluster = match (cluster, peer_url) {
        (Some(_), Some(_)) => {
            let line = "--cluster and --peer-url: give one of them (or of RAFTKVD_CLUSTER and RAFTKVD_PEER_URL)";
            return Err(Quit::Usage(line.to_owned()));
        }
        (None, Some(url)) => {
            let url = url
                .parse()
                .map_err(|why| Quit::Usage(format!("--peer-url: {why}")))?;
            BTreeMap::from([(1, url)])
        }
        (cluster, None) => {
            let cluster = cluster.as_deref().unwrap_or("http://127.0.0.1:9021");
            parse_cluster(cluster).map_err(Quit::Usage)?
        }
    };
    if id != 1 {
        return Err(Quit::Usage(format!(
            "--id {id}: a restore makes the directory of member 1 only: start the others empty with the same --cluster; \
             member 1 sends them everything"
        )));
    }
    Ok(restore::Settings {
        file,
        data_dir: data_dir.unwrap_or_else(|| PathBuf::from("raftkvd-1")),
        cluster,
    })
}

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  raftkvd completions bash > ~/.local/share/bash-completion/completions/raftkvd
  raftkvd completions zsh > ~/.zfunc/_raftkvd
  raftkvd completions fish > ~/.config/fish/completions/raftkvd.fish";

const MAN_EXAMPLES: &str = "\
Examples:
  raftkvd man > /usr/local/share/man/man1/raftkvd.1
  raftkvd man | man -l -";

/// The script by which a shell completes this command line.
pub(super) fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "raftkvd", &mut script);
    script
}

/// The manual page of the daemon, or of a subcommand.
pub(super) fn manual(command: Option<&str>) -> Result<Vec<u8>, Quit> {
    let mut daemon = Args::command();
    daemon.build();
    let described = match command {
        None => daemon,
        Some(name) => {
            let found = daemon.find_subcommand(name).cloned();
            found.ok_or_else(|| {
                let names: Vec<&str> = daemon.get_subcommands().map(|c| c.get_name()).collect();
                Quit::Usage(format!(
                    "man {name:?}: there is no such subcommand; there are {}",
                    names.join(", ")
                ))
            })?
        }
    };
    let mut page = Vec::new();
    let rendered = clap_mangen::Man::new(described).render(&mut page);
    rendered.expect("writing to memory does not fail");
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(id: u64, cluster: Option<&str>) -> Result<restore::Settings, Quit> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let cluster = cluster.map(str::to_owned);
        restore_settings(file.path().to_owned(), id, cluster, None, None)
    }

    #[test]
    fn only_member_1_is_restored() {
        let settings_of_1 = settings(1, Some("http://a:1,http://a:2")).unwrap();
        assert_eq!(settings_of_1.cluster.len(), 2);
        assert_eq!(settings_of_1.data_dir, PathBuf::from("raftkvd-1"));
        assert_eq!(settings(1, None).unwrap().cluster.len(), 1);
        match settings(2, Some("http://a:1,http://a:2")) {
            Err(Quit::Usage(line)) => {
                assert!(line.contains("directory of member 1 only"), "{line}");
                assert!(line.contains("start the others empty"), "{line}");
                assert!(!line.contains('\n'));
            }
            other => panic!("{other:?}"),
        }
    }
}
