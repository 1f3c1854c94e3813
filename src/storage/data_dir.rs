//! A data directory as a place on a disk: who may use it, and whether anything is in it.

use super::disk::{Disk, DiskError, Lock};
use super::error::StorageError;
use crate::limits;
use std::path::Path;

/// Creates the data directory if need be, and keeps other processes out of it until the lock is dropped.
pub fn lock(disk: &dyn Disk, dir: &Path) -> Result<Lock, StorageError> {
    disk.create_dir_all(dir)?;
    sync_names_above(disk, dir)?;
    let path = dir.join("LOCK");
    // Who inspects the directory has the lock for a moment too.
    for _ in 0..limits::LOCK_TRIES {
        if let Some(lock) = disk.lock(&path)? {
            return Ok(lock);
        }
        std::thread::sleep(limits::LOCK_PAUSE);
    }
    Err(StorageError::Locked { path })
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

/// Without `meta` there must be nothing else: a first start writes it before all, so it was lost.
pub(super) fn check_empty(disk: &dyn Disk, dir: &Path) -> Result<(), StorageError> {
    for part in ["wal", "snap"] {
        if !disk.list(&dir.join(part))?.is_empty() {
            return Err(StorageError::WrongIdentity {
                path: dir.join("meta"),
                why: format!(
                    "the file is missing, but {part}/ is not empty: it can't be told whose data this is"
                ),
            });
        }
    }
    Ok(())
}
