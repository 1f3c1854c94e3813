//! The reasons why the daemon ends with an exit code other than 0, and the line that the user gets.
//!
//! A line never recommends a step that could lose acknowledged writes in any of the cases that lead to the line. So no
//! line says to empty a directory, or to replace it by an older copy. The user keeps the directory, and replaces a
//! member that can't be saved by a new member. Lines of `list.rs` and `start.rs` describe the removal of directories in
//! two cases only. In the first case, a directory holds a cluster other than the one to start, and was perhaps only a
//! try. In the second case, no directory of the members holds a formed cluster.

use crate::config::Config;
use crate::exit_code::ExitCode;
use crate::node::Exit;
use crate::peer_url::PeerUrl;
use crate::server::join::NotJoined;
use crate::server::port::{self, Port};
use crate::storage::{DiskError, StorageError};
use crate::workers::THREAD_ADVICE;
use std::io;
use std::net::SocketAddr;

/// Why the process ends with a code other than 0. The text is one line: cause, file, and next step.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// An address can't be listened on.
    #[error("can't listen on {address}: {source}; {}", port::advice(.address, *.port, .source))]
    Listen {
        /// The address that can't be used.
        address: SocketAddr,
        /// The port at this address.
        port: Port,
        /// The cause.
        source: io::Error,
    },
    /// The host in this member's own URL does not resolve. A later start may find it.
    #[error("{0}")]
    Unresolved(String),
    /// The data directory can't be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The disk failed while the daemon ran.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The peers know another data directory or another start of this member under its id: see [`Exit`].
    #[error("{0}")]
    OtherLife(String),
    /// The logs of two members differ at a committed entry, or two members have led in one term.
    #[error("{0}")]
    Parted(String),
    /// Only a later version can read what the log or a snapshot holds.
    #[error("{0}")]
    Later(String),
    /// The member can't be added to the cluster that it should join: its id or its URL belongs to another member.
    #[error("{0}")]
    Taken(String),
    /// The command line contradicts the data directory, or an option is missing.
    #[error("{0}")]
    Usage(String),
    /// Any other failure.
    #[error("{0}")]
    Fatal(String),
}

impl Failure {
    /// The code with which the process ends.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Taken(_) | Failure::Usage(_) => ExitCode::Usage,
            // A failure that may end by itself has a code after which a supervisor starts the process again.
            Failure::Listen { source, .. } if port::needs_a_person(source) => ExitCode::Usage,
            Failure::Listen { .. } | Failure::Unresolved(_) => ExitCode::Failure,
            Failure::Storage(error) => error.exit_code(),
            Failure::Disk(_) => ExitCode::DiskFailed,
            Failure::OtherLife(_) => ExitCode::WrongIdentity,
            Failure::Parted(_) => ExitCode::Corrupt,
            Failure::Later(_) => ExitCode::LaterVersion,
            Failure::Fatal(_) => ExitCode::Failure,
        }
    }

    /// The machine refuses a thread.
    pub(super) fn no_thread(error: io::Error) -> Failure {
        Failure::Fatal(format!("can't start a thread: {error}; {THREAD_ADVICE}"))
    }

    /// The failure of a node that has to end. `None` for a member that was removed, which is not a failure.
    pub(super) fn of_exit(exit: &Exit, config: &Config) -> Option<Failure> {
        let Config { id, peer_url, .. } = config;
        let dir = config.data_dir.display();
        let replace = replacing(config);
        let failure = match exit {
            Exit::Removed { .. } => return None,
            Exit::Replaced { by } => Failure::OtherLife(format!(
                "{dir} is not the data directory that member {by} knows for member {id} at {peer_url}: either the right \
                 one was lost, or --data-dir is wrong; start with the data directory that member {id} used before, or, if \
                 that is lost, {replace}"
            )),
            Exit::StateLost { by } => Failure::OtherLife(format!(
                "{dir} is an older copy of the data directory of member {id}, from before the cluster added the member; \
                 member {by} knows member {id} as a voter, so entries that member {id} has acknowledged are missing; start \
                 with its newest data directory, or, if that is lost or refused too, {replace}"
            )),
            Exit::NotJoined { by } => not_joined(*by, config),
            Exit::Twice { by } => Failure::OtherLife(format!(
                "member {by} is connected to another process that runs as member {id}, on a copy of {dir} or on {dir} by \
                 another path; stop the wrong process, and keep both directories: raftkvd inspect shows which of them has \
                 more entries"
            )),
            Exit::OlderCopy {
                proven: false,
                boot,
                known,
            } => Failure::OtherLife(format!(
                "another process has run as member {id} on a copy of {dir}: this is start {boot} of the directory, and \
                 the cluster knows a different start {known}; keep both directories, and start with the one of which \
                 raftkvd inspect shows more entries; if that is refused too, {replace}"
            )),
            Exit::OlderCopy { boot, known, .. } => Failure::OtherLife(format!(
                "{dir} is an older copy of the data directory of member {id}: this is start {boot} of the directory, and \
                 the cluster knows start {known}, so entries that member {id} has acknowledged since are missing; start \
                 with its newest data directory, or, if that is lost or refused too, {replace}"
            )),
            Exit::LostTail {
                by,
                committed,
                last,
            } => Failure::OtherLife(format!(
                "the log in {dir} ends at entry {last}, but member {by}, the leader, knows that member {id} has \
                 acknowledged entry {committed}: the directory is an older copy, or has lost the end of its log; keep \
                 {dir}, and compare raftkvd inspect with /-/status of the other members; if most of them have committed \
                 entry {committed}, {replace}"
            )),
            Exit::PartedLog { by, index } => Failure::Parted(format!(
                "the logs of member {id} and member {by} differ at entry {index}, which one of these members knows to be \
                 committed; keep the data directories of all members, and compare them with raftkvd inspect"
            )),
            Exit::Later { what, index, later } => Failure::Later(format!(
                "{what} {index} {later}; nothing of it was applied, keep {dir}"
            )),
            Exit::TwoLeaders {
                term,
                known,
                other,
                last,
            } => Failure::Parted(format!(
                "member {known} and member {other} have both led in term {term}, so a member has voted twice; the log of \
                 member {id} ends at entry {last}; keep the data directories of all members, and compare them with raftkvd \
                 inspect"
            )),
        };
        Some(failure)
    }
}

/// Says how to replace a member that can't run on its data directory. Names the URL of `--join`, if one is known.
fn replacing(config: &Config) -> String {
    let (id, dir) = (config.id, config.data_dir.display());
    // The removal revokes the key.
    let key = match config.tls {
        Some(_) => format!(
            ", make a certificate with a new key (raftkvd cert member --id {id}, where the CA is)"
        ),
        None => String::new(),
    };
    match config.join_urls.first() {
        Some(url) => format!(
            "replace the member: keep {dir}, take member {id} out of the cluster (curl -X DELETE {}/-/members/{id}){key}, and \
             start it with --join {url} and a new --data-dir",
            client_url(url, config)
        ),
        None => format!(
            "replace the member: keep {dir}, take member {id} out of the cluster (curl -X DELETE \
             http://CLIENT_ADDRESS/-/members/{id} at another member){key}, and start it with --join http://CLIENT_ADDRESS \
             and a new --data-dir"
        ),
    }
}

/// The URL for a client of a cluster to which this member belongs.
fn client_url(url: &PeerUrl, config: &Config) -> String {
    match config.tls {
        Some(_) => format!("https://{}", url.authority()),
        None => url.to_string(),
    }
}

/// The member was added to a cluster, but has started another cluster.
fn not_joined(by: u64, config: &Config) -> Failure {
    let (id, dir) = (config.id, config.data_dir.display());
    Failure::OtherLife(format!(
        "member {id} was added to the cluster of member {by}, but it was started without --join, so {dir} holds a cluster \
         of its own that no client has written to; did you forget --join? keep {dir}, and start the member with --join, the \
         URL at which clients reach a member of that cluster, and a new --data-dir"
    ))
}

impl From<NotJoined> for Failure {
    fn from(why: NotJoined) -> Failure {
        match why {
            NotJoined::Taken(line) => Failure::Taken(line),
            NotJoined::OtherIncarnation(line) => Failure::OtherLife(line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{self, Task};
    use crate::command::version::Later;
    use crate::peer_url::PeerUrl;
    use crate::server::start;
    use crate::storage::RealDisk;
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    fn settled() -> Config {
        let Ok(Task::Run(options)) = cli::parse(["raftkvd", "--data-dir", "d"]) else {
            panic!("it runs the daemon");
        };
        let look_up = &mut |_: &PeerUrl| Ok(vec![(Ipv4Addr::LOCALHOST, 0).into()]);
        let disk = Arc::new(RealDisk) as _;
        start::settle(options.asked, &disk, look_up).unwrap().0
    }

    #[test]
    fn the_advice_has_the_url_of_join_if_it_is_known() {
        let mut config = settled();
        let replaced = |config: &Config| {
            let failure = Failure::of_exit(&Exit::Replaced { by: 2 }, config);
            failure.unwrap().to_string()
        };
        assert!(replaced(&config).contains("--join http://CLIENT_ADDRESS"));
        config.join_urls = vec!["http://10.0.0.1:9121".parse().unwrap()];
        let line = replaced(&config);
        assert!(
            line.contains("curl -X DELETE http://10.0.0.1:9121/-/members/1)"),
            "{line}"
        );
        assert!(
            line.contains("--join http://10.0.0.1:9121 and a new"),
            "{line}"
        );
    }

    #[test]
    fn every_exit_of_the_node_is_one_line_and_advises_nothing_that_could_lose_data() {
        let config = settled();
        let dir = config.data_dir.display().to_string();
        for (exit, code) in [
            (Exit::Replaced { by: 2 }, 5),
            (Exit::StateLost { by: 2 }, 5),
            (Exit::NotJoined { by: 2 }, 5),
            (Exit::Twice { by: 2 }, 5),
            (
                Exit::OlderCopy {
                    proven: true,
                    boot: 3,
                    known: 7,
                },
                5,
            ),
            (
                Exit::OlderCopy {
                    proven: false,
                    boot: 3,
                    known: 3,
                },
                5,
            ),
            (
                Exit::LostTail {
                    by: 2,
                    committed: 9,
                    last: 8,
                },
                5,
            ),
            (Exit::PartedLog { by: 2, index: 7 }, 4),
            (
                Exit::Later {
                    what: "entry",
                    index: 7,
                    later: Later { needed: 9 },
                },
                8,
            ),
            (
                Exit::TwoLeaders {
                    term: 3,
                    known: 2,
                    other: 4,
                    last: 8,
                },
                4,
            ),
        ] {
            let failure = Failure::of_exit(&exit, &config).unwrap();
            assert_eq!(failure.exit_code(), code, "{exit:?}");
            let line = failure.to_string();
            assert!(line.contains("keep ") && !line.contains('\n'), "{line}");
            let remove = format!("remove {dir}");
            for word in [remove.as_str(), "empty", "restore"] {
                assert!(!line.contains(word), "{line}");
            }
        }
        assert!(Failure::of_exit(&Exit::Removed { index: 7 }, &config).is_none());
    }
}
