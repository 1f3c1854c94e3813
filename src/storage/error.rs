//! Errors of storage: one line with the cause and the next step, and the exit code of the process.

use crate::command::version::Later;
use crate::exit_code::ExitCode;
use crate::storage::disk::DiskError;
use crate::storage::format::FORMAT_VERSION;
use std::path::{Path, PathBuf};

/// Advice for a member whose data can't be used. It is right for every cause: no data is thrown away, and no older copy
/// replaces acknowledged data.
const REPLACE: &str = "replace this member: keep the directory, take the member out of the cluster (DELETE /-/members/<id> at \
    another member), and start it with --join and a new --data-dir; if it is the only member, restore its newest backup into a new \
    cluster";

/// The data directory can't be used. Each message is one line: the cause, the file, the next step.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Another process uses the data directory.
    #[error("{} is locked: another process uses this data directory; stop that process, or choose another --data-dir",
        path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// A file is damaged. Nothing was changed.
    #[error("{} is corrupt at byte {offset}: {why}; nothing was changed; {REPLACE}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Offset in bytes.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// The data belongs to another member or cluster.
    #[error("{}: {why}; nothing was changed; use the right --id and --data-dir, or {REPLACE}", path.display())]
    WrongIdentity {
        /// The file.
        path: PathBuf,
        /// What does not match.
        why: String,
    },
    /// This member was removed from its cluster.
    #[error("{} belongs to member {member}, which entry {index} has removed from the cluster; to add the member again, \
        start it with --join and a new --data-dir", dir.display())]
    Removed {
        /// The data directory.
        dir: PathBuf,
        /// Member id.
        member: u64,
        /// Index of the entry that removed the member.
        index: u64,
    },
    /// An earlier start found that the directory is an older copy of this member's directory.
    #[error("an earlier start has found {} to be an older copy of the data directory of member {member}, without entries \
        that the member has acknowledged since; start with its newest data directory, or, if that is lost, keep this one, \
        take the member out of the cluster (curl -X DELETE http://CLIENT_ADDRESS/-/members/{member} at another member), and start it \
        with --join http://CLIENT_ADDRESS and a new --data-dir", dir.display())]
    OlderCopy {
        /// The data directory.
        dir: PathBuf,
        /// Member id.
        member: u64,
    },
    /// Another version of this program wrote the file.
    #[error("{} has format version {found}, and this program reads only version {known}; nothing was changed; {}",
        path.display(), other_version(*found, *known))]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: u32,
        /// The version that this program reads.
        known: u32,
    },
    /// The file contains data that only a later version can read.
    #[error("{} {later}; nothing was changed", path.display())]
    Later {
        /// The file.
        path: PathBuf,
        /// The version that the data needs.
        later: Later,
    },
    /// The directory holds no member, and the start may not create a member:
    /// [`Start::Existing`](super::Start::Existing).
    #[error("{0}")]
    NoMember(String),
    /// A first start found files of something else in the directory.
    #[error("{} holds {name}, which is no part of a data directory; choose a --data-dir that is empty or does not exist",
        dir.display())]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// The name of the file that was found.
        name: String,
    },
    /// A part of the data directory belongs to another user, or is of the wrong kind.
    #[error("{}: {why}", path.display())]
    NotPrivate {
        /// The part.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// A restore found an existing file in the data directory that it was to create.
    #[error("{} exists, but a restore makes a new data directory; choose another --data-dir, or move this one away",
        path.display())]
    NotEmpty {
        /// The file that exists.
        path: PathBuf,
    },
    /// A restore was killed before it completed the data directory.
    #[error("{} holds a restore that was not completed; run raftkvd restore again, to start it from the beginning",
        dir.display())]
    RestoreUnfinished {
        /// The data directory.
        dir: PathBuf,
    },
    /// A disk operation failed.
    #[error("{0}; check the space, the permissions and the health of the disk, then start again")]
    Io(#[from] DiskError),
}

impl StorageError {
    /// The code with which the process ends.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            StorageError::Locked { .. } => ExitCode::Locked,
            StorageError::Corrupt { .. } => ExitCode::Corrupt,
            StorageError::WrongIdentity { .. } | StorageError::OlderCopy { .. } => {
                ExitCode::WrongIdentity
            }
            StorageError::Removed { .. } => ExitCode::Removed,
            StorageError::Io(_) => ExitCode::DiskFailed,
            StorageError::NoMember(_)
            | StorageError::NotEmpty { .. }
            | StorageError::Foreign { .. }
            | StorageError::NotPrivate { .. }
            | StorageError::RestoreUnfinished { .. } => ExitCode::Usage,
            StorageError::UnknownVersion { found, known, .. } if found > known => {
                ExitCode::LaterVersion
            }
            StorageError::UnknownVersion { .. } => ExitCode::Failure,
            StorageError::Later { .. } => ExitCode::LaterVersion,
        }
    }

    /// The cause in one line, without the advice to the user of a daemon.
    pub fn without_advice(&self) -> String {
        match self {
            StorageError::Corrupt { path, offset, why } => {
                format!("{} is corrupt at byte {offset}: {why}", path.display())
            }
            StorageError::WrongIdentity { path, why } => format!("{}: {why}", path.display()),
            StorageError::Io(error) => error.to_string(),
            other => other.to_string(),
        }
    }

    pub(in crate::storage) fn corrupt(path: &Path, offset: u64, why: &str) -> StorageError {
        StorageError::Corrupt {
            path: path.to_owned(),
            offset,
            why: why.to_owned(),
        }
    }
}

fn other_version(found: u32, known: u32) -> &'static str {
    match found > known {
        true => "use the version of raftkvd that wrote it, or a later one",
        false => "use the version of raftkvd that wrote it",
    }
}

pub(super) fn check_version(path: &Path, found: u32) -> Result<(), StorageError> {
    if found == FORMAT_VERSION {
        return Ok(());
    }
    Err(StorageError::UnknownVersion {
        path: path.to_owned(),
        found,
        known: FORMAT_VERSION,
    })
}
