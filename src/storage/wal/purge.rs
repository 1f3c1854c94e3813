//! Deletes the files that a newer snapshot has made superfluous.

use crate::storage::disk::{Disk, DiskError};
use crate::storage::snapshot::Snapshots;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Files that nobody needs any more. To be carried out in the order in which [`Wal::purge`](super::Wal::purge) gave them; one that is not,
/// or not to its end, leaves files that the next start does without.
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
    /// There is nothing to delete.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.snapshots_below.is_none()
    }

    /// Deletes the files. `pause` is called after each, with how long that took: a file system that gives back the blocks
    /// of a large file at once makes everybody who syncs wait meanwhile.
    ///
    /// The segments go oldest first, each durably before the next: if a crash kept an older one and lost a newer one, the
    /// gap would look like corruption. Segments and snapshots need no order between them, for neither is needed for the
    /// other.
    pub fn remove(self, mut pause: impl FnMut(Duration)) -> Result<(), DiskError> {
        // They are what frees most, should the disk be nearly full.
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

    /// The same without a pause.
    pub fn remove_at_once(self) -> Result<(), DiskError> {
        self.remove(|_| ())
    }
}

impl std::fmt::Debug for Purge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Purge({:?}, {:?})", self.segments, self.snapshots_below)
    }
}
