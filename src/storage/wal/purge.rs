//! Deletes the files that a newer snapshot has made unnecessary.

use crate::storage::disk::{Disk, DiskDirectory, DiskError};
use crate::storage::snapshot::Snapshots;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Files that are no longer needed. Purges have to be carried out in the order in which
/// [`Wal::purge`](super::Wal::purge) returned them. A purge that does not run, or not completely, leaves files that do
/// not disturb the next start.
#[must_use]
pub struct Purge {
    pub(super) disk: Arc<dyn Disk>,
    /// The directory of the segments.
    pub(super) directory: Arc<dyn DiskDirectory>,
    /// Oldest first.
    pub(super) segments: VecDeque<PathBuf>,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) snapshots_below: Option<u64>,
}

/// Why a purge is not complete.
#[derive(Debug)]
pub enum PurgeError {
    /// A file can't be deleted. What is left stays in the purge, and can be tried again.
    Kept(DiskError),
    /// The names in the directory of the log can't be made durable. The log has failed: see [`Purge::remove`].
    LogFailed(DiskError),
}

impl From<PurgeError> for DiskError {
    fn from(error: PurgeError) -> DiskError {
        match error {
            PurgeError::Kept(error) | PurgeError::LogFailed(error) => error,
        }
    }
}

impl Purge {
    /// Whether there is nothing to delete.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.snapshots_below.is_none()
    }

    /// Adds the files of the next purge after those of this purge.
    pub fn append(&mut self, next: Purge) {
        self.segments.extend(next.segments);
        self.snapshots_below = self.snapshots_below.max(next.snapshots_below);
    }

    /// Deletes the files. What is deleted leaves this purge. Calls `pause` after each deletion, with the time that it
    /// took: a file system that frees the blocks of a large file at once delays all syncs in the meantime.
    ///
    /// Segments are deleted oldest first, each durably before the next. If a crash kept an older segment and lost a
    /// newer one, the gap would look like corruption. So a segment that can't be deleted keeps all newer ones.
    /// Segments and snapshots need no order between them, since neither depends on the other.
    ///
    /// A removal that failed may be tried again, whatever the error: the removal has happened or not, and the next
    /// attempt finds out. A failed sync of the directory is different. The removal may never reach the disk although
    /// the kernel reports success for the next sync. Then a newer segment would be deleted while the older one is still
    /// on the disk. The names of new segments are in the same directory. So this error is an error of the log.
    pub fn remove(&mut self, mut pause: impl FnMut(Duration)) -> Result<(), PurgeError> {
        let mut kept = None;
        // Snapshots first: they free the most space, in case the disk is nearly full.
        if let Some(index) = self.snapshots_below {
            match self.snapshots.delete_below(index, &mut pause) {
                Ok(()) => self.snapshots_below = None,
                Err(error) => kept = Some(error),
            }
        }
        while let Some(segment) = self.segments.front() {
            let begun = Instant::now();
            match self.disk.remove(segment) {
                Ok(()) => {}
                // An earlier attempt has removed the name, but reported an error.
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    kept.get_or_insert(error);
                    break;
                }
            }
            self.directory.sync().map_err(PurgeError::LogFailed)?;
            self.segments.pop_front();
            pause(begun.elapsed());
        }
        match kept {
            Some(error) => Err(PurgeError::Kept(error)),
            None => Ok(()),
        }
    }

    /// [`Purge::remove`] without pauses and without another attempt.
    pub fn remove_at_once(mut self) -> Result<(), DiskError> {
        Ok(self.remove(|_| ())?)
    }
}

impl std::fmt::Debug for Purge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Purge({:?}, {:?})", self.segments, self.snapshots_below)
    }
}
