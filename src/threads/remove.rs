//! Deletes the files that the log no longer needs, so that no save waits for a deletion.
//!
//! To delete files is optional work. If a file can't be deleted, the thread logs this once and tries again at intervals.
//! The file stays on the list, and so do the files after it, because files are deleted in the order of the list (see
//! [`Purge::remove`]). Only a failed sync of the log's directory ends the process.
//!
//! Invariant: files are deleted in the order in which the WAL has given them up.

use crate::limits;
use crate::metrics::Counter;
use crate::storage::wal::PurgeError;
use crate::storage::{DiskError, Purge};
use slog::{Logger, info, warn};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// The work of the thread, and what is left of it.
pub struct Remover {
    purges: Receiver<Purge>,
    /// Files that could not be deleted, and those after them.
    left: Option<Purge>,
    has_failed: bool,
    /// Counts the attempts that failed.
    failed: Counter,
    logger: Logger,
}

impl Remover {
    /// Takes its work from `purges`. The WAL thread has the other end.
    pub fn new(purges: Receiver<Purge>, failed: Counter, logger: &Logger) -> Remover {
        Remover {
            purges,
            left: None,
            has_failed: false,
            failed,
            logger: logger.clone(),
        }
    }

    /// The thread, which pauses between deletions. Runs until the WAL thread has ended or the log has failed.
    pub fn run(&mut self) -> Result<(), DiskError> {
        loop {
            let received = match self.left {
                Some(_) => self.purges.recv_timeout(limits::REMOVAL_RETRY_INTERVAL),
                None => self.purges.recv().map_err(RecvTimeoutError::from),
            };
            match received {
                Ok(purge) => self.take(purge),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            self.remove_waiting(|took| {
                thread::sleep((took * limits::REMOVAL_PAUSES).min(limits::REMOVAL_PAUSE_MAX));
            })?;
        }
    }

    /// Deletes everything that waits, as far as possible. The simulation calls this in place of the thread.
    pub fn remove_waiting(&mut self, pause: impl FnMut(Duration)) -> Result<(), DiskError> {
        while let Ok(purge) = self.purges.try_recv() {
            self.take(purge);
        }
        let Some(left) = &mut self.left else {
            return Ok(());
        };
        match left.remove(pause) {
            Ok(()) => {
                self.left = None;
                if std::mem::take(&mut self.has_failed) {
                    info!(
                        self.logger,
                        "deleted the files that could not be deleted before"
                    );
                }
            }
            Err(PurgeError::Kept(error)) => {
                self.failed.inc();
                if !std::mem::replace(&mut self.has_failed, true) {
                    warn!(self.logger, "can't delete a file that is no longer needed, so its room is not free; this member tries again every second";
                        "error" => %error);
                }
            }
            Err(PurgeError::LogFailed(error)) => return Err(error),
        }
        Ok(())
    }

    fn take(&mut self, purge: Purge) {
        match &mut self.left {
            Some(left) => left.append(purge),
            None => self.left = Some(purge),
        }
    }
}
