//! A data directory as a place on a disk: who may use it, and whether anything is in it.

use super::disk::{Disk, DiskError, Lock};
use super::error::StorageError;
use crate::limits;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A data directory: where it is, and on which disk. It need not be there yet.
#[derive(Clone)]
pub struct DataDir {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl DataDir {
    /// At this path of a disk. Nothing is touched.
    pub fn new(disk: Arc<dyn Disk>, path: impl Into<PathBuf>) -> DataDir {
        let path = path.into();
        DataDir { disk, path }
    }

    /// The disk.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of its `meta` file.
    pub fn meta_path(&self) -> PathBuf {
        self.path.join("meta")
    }

    /// The path of the WAL's directory.
    pub(super) fn wal_path(&self) -> PathBuf {
        self.path.join("wal")
    }

    /// The path of the directory of snapshots.
    pub(super) fn snap_path(&self) -> PathBuf {
        self.path.join("snap")
    }

    /// The path of the lock.
    pub(super) fn lock_path(&self) -> PathBuf {
        self.path.join("LOCK")
    }

    /// Creates the data directory if need be, and keeps other processes out of it until the lock is dropped.
    pub fn lock(&self) -> Result<Lock, StorageError> {
        self.disk.create_dir_all(&self.path)?;
        sync_names_above(&*self.disk, &self.path)?;
        let path = self.lock_path();
        // Who inspects the directory has the lock for a moment too.
        for _ in 0..limits::LOCK_TRIES {
            if let Some(lock) = self.disk.lock(&path)? {
                return Ok(lock);
            }
            std::thread::sleep(limits::LOCK_PAUSE);
        }
        Err(StorageError::Locked { path })
    }

    /// Without `meta` there must be nothing else: a first start writes it before all, so it was lost.
    pub(super) fn check_empty(&self) -> Result<(), StorageError> {
        for part in ["wal", "snap"] {
            if !self.disk.list(&self.path.join(part))?.is_empty() {
                return Err(StorageError::WrongIdentity {
                    path: self.meta_path(),
                    why: format!(
                        "the file is missing, but {part}/ is not empty: it can't be told whose data this is"
                    ),
                });
            }
        }
        Ok(())
    }
}

impl fmt::Debug for DataDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataDir({})", self.path.display())
    }
}

/// Makes the name of the data directory durable, and those of all directories above it: whichever of them was new, a
/// crash that lost its name would take the data with it. Which were new is not asked. A process that was killed may
/// have made them and not synced them.
fn sync_names_above(disk: &dyn Disk, dir: &Path) -> Result<(), DiskError> {
    let none_of_ours = |error: &DiskError| {
        use std::io::ErrorKind::*;
        // Directories of others, or of file systems that are made once and only read: no new name is in them.
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
