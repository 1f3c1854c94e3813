//! Deletes the files that a newer snapshot has made unnecessary.

use crate::storage::disk::{Disk, DiskError};
use crate::storage::snapshot::Snapshots;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Files that are no longer needed. Purges have to be carried out in the order in which
/// [`Wal::purge`](super::Wal::purge) returned them. A purge that does not run, or not completely, leaves files that do
/// not disturb the next start.
#[must_use]
pub struct Purge {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    /// Oldest first.
    pub(super) segments: Vec<PathBuf>,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) snapshots_below: Option<u64>,
}

impl Purge {
    /// Whether there is nothing to delete.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.snapshots_below.is_none()
    }

    /// Deletes the files. Calls `pause` after each deletion, with the time that it took: a file system that frees the
    /// blocks of a large file at once delays all syncs in the meantime.
    ///
    /// Segments are deleted oldest first, each durably before the next. If a crash kept an older segment and lost a
    /// newer one, the gap would look like corruption. Segments and snapshots need no order between them, since neither
    /// depends on the other.
    pub fn remove(self, mut pause: impl FnMut(Duration)) -> Result<(), DiskError> {
        // Snapshots first: they free the most space, in case the disk is nearly full.
        if let Some(index) = self.snapshots_below {
            self.snapshots.delete_below(index, &mut pause)?;
        }
        for segment in &self.segments {
            let begun = Instant::now();
            self.disk.remove(segment)?;
            self.disk.sync_dir(&self.dir)?;
            pause(begun.elapsed());
        }
        Ok(())
    }

    /// [`Purge::remove`] without pauses.
    pub fn remove_at_once(self) -> Result<(), DiskError> {
        self.remove(|_| ())
    }
}

impl std::fmt::Debug for Purge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Purge({:?}, {:?})", self.segments, self.snapshots_below)
    }
}
