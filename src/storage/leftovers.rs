//! Deletes what earlier processes left and no start needs.
//!
//! Deleting is optional work. A file that can't be deleted disturbs nothing, keeps no other file, and ends no start: the
//! next start tries again. The error does not matter. A file system that copies on write may have no room for a removal,
//! a disk may fail, and an administrator may have made the file immutable.

use super::disk::{Disk, DiskError};
use slog::{Logger, warn};
use std::path::Path;

/// Deletes files during a start.
pub(super) struct Leftovers<'a> {
    disk: &'a dyn Disk,
    /// The number of files that could not be deleted.
    kept: u64,
    /// The first error.
    error: Option<DiskError>,
}

impl Leftovers<'_> {
    /// Nothing is deleted yet.
    pub(super) fn on(disk: &dyn Disk) -> Leftovers<'_> {
        Leftovers {
            disk,
            kept: 0,
            error: None,
        }
    }

    /// Deletes a file if possible. Not durable.
    pub(super) fn remove(&mut self, path: &Path) {
        match self.disk.remove(path) {
            Ok(()) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                self.kept += 1;
                self.error.get_or_insert(error);
            }
        }
    }

    /// Logs once what could not be deleted.
    pub(super) fn report(self, logger: &Logger) {
        if let Some(error) = self.error {
            warn!(logger, "can't delete a file that is no longer needed; the next start tries again";
                "files" => self.kept, "error" => %error);
        }
    }
}
