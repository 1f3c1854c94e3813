//! The paths, the lock and the emptiness check of a data directory.

use super::disk::{Disk, DiskError, Lock};
use super::error::StorageError;
use crate::limits;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory that new file systems have.
pub(super) const LOST_AND_FOUND: &str = "lost+found";

/// What a directory without data may hold: files of a process that was killed before it wrote `meta`, and
/// [`LOST_AND_FOUND`].
pub(super) const LEFT_BY_NOBODY: [&str; 3] = ["LOCK", "meta.tmp", LOST_AND_FOUND];

/// What a member makes in its data directory besides.
const MADE_BY_MEMBERS: [&str; 3] = ["meta", "wal", "snap"];

/// A path on a disk. The directory need not exist yet.
#[derive(Clone)]
pub struct DataDir {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl DataDir {
    /// Does not access the disk.
    pub fn new(disk: Arc<dyn Disk>, path: impl Into<PathBuf>) -> DataDir {
        let path = path.into();
        DataDir { disk, path }
    }

    /// The disk that holds the directory.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of the `meta` file.
    pub fn meta_path(&self) -> PathBuf {
        self.path.join("meta")
    }

    pub(super) fn wal_path(&self) -> PathBuf {
        self.path.join("wal")
    }

    pub(super) fn snap_path(&self) -> PathBuf {
        self.path.join("snap")
    }

    pub(super) fn lock_path(&self) -> PathBuf {
        self.path.join("LOCK")
    }

    /// Creates the data directory if it does not exist, and locks other processes out until the lock is dropped.
    pub fn lock(&self) -> Result<Lock, StorageError> {
        self.disk.create_dir_all(&self.path)?;
        sync_names_above(&*self.disk, &self.path)?;
        let path = self.lock_path();
        // A process that inspects the directory also takes the lock for a moment, so try several times.
        for _ in 0..limits::LOCK_TRIES {
            if let Some(lock) = self.disk.lock(&path)? {
                return Ok(lock);
            }
            std::thread::sleep(limits::LOCK_PAUSE);
        }
        Err(StorageError::Locked { path })
    }

    /// Refuses a directory that has files but no `meta`. A first start writes `meta` before any other file, so `meta`
    /// was lost.
    pub(super) fn check_empty(&self) -> Result<(), StorageError> {
        for part in ["wal", "snap"] {
            let names = self.disk.list(&self.path.join(part))?;
            if names.iter().all(|name| name == LOST_AND_FOUND) {
                continue;
            }
            // The caller has found no `meta`. If there is one now, another process is in its first start, and has
            // written it before these files: the lock decides.
            if self.disk.open(&self.meta_path())?.is_some() {
                return Ok(());
            }
            return Err(StorageError::WrongIdentity {
                path: self.meta_path(),
                why: format!(
                    "the file is missing, but {part}/ is not empty: the owner of this data is unknown"
                ),
            });
        }
        Ok(())
    }

    /// Refuses a directory in which something is that is no part of a data directory: it is somebody else's, who would not
    /// expect one there. A process in its first start may make its files meanwhile. So a caller without the lock checks
    /// again with it.
    pub(super) fn check_vacant(&self) -> Result<(), StorageError> {
        self.check_empty()?;
        match self.foreign_name()? {
            None => Ok(()),
            Some(name) => Err(StorageError::Foreign {
                dir: self.path.clone(),
                name,
            }),
        }
    }

    /// The first name in the directory that is not that of a part.
    pub(super) fn foreign_name(&self) -> Result<Option<String>, DiskError> {
        let names = self.disk.list(&self.path)?;
        let ours = |name: &str| LEFT_BY_NOBODY.contains(&name) || MADE_BY_MEMBERS.contains(&name);
        Ok(names.into_iter().filter(|name| !ours(name)).min())
    }
}

impl fmt::Debug for DataDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataDir({})", self.path.display())
    }
}

/// Makes the names of the data directory and of all directories above it durable: a crash that loses the name of any of
/// them loses the data. All of them are synced, not only those that this process created: a process that was killed may
/// have created directories without syncing them.
fn sync_names_above(disk: &dyn Disk, dir: &Path) -> Result<(), DiskError> {
    let none_of_ours = |error: &DiskError| {
        use std::io::ErrorKind::*;
        // Directories of other users, and file systems that are built once and mounted read-only, contain no new name.
        let kind = error.source.kind();
        matches!(kind, PermissionDenied | InvalidInput | ReadOnlyFilesystem)
    };
    for (distance, above) in dir.ancestors().skip(1).enumerate() {
        let above = match above.as_os_str().is_empty() {
            true => Path::new("."),
            false => above,
        };
        match disk.sync_dir(above) {
            Err(error) if distance > 0 && none_of_ours(&error) => {}
            result => result?,
        }
    }
    Ok(())
}
