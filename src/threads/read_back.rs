//! The read-back thread: reads the log entries that the node needs and does not have in memory, and sends them to the
//! inbox.
//!
//! It is a separate thread because a read may wait for the disk, and neither raft nor the next write may wait with it.
//! While no file can be opened, because no file descriptor or memory is left, requests wait and are tried again. The
//! node has at most `READ_BACKS_MAX` requests outstanding, so neither the queue nor the list of waiting requests needs
//! another limit.

use crate::channels::inbox::Inbox;
use crate::channels::notice::{EntriesRead, Notice};
use crate::limits;
use crate::metrics::Counter;
use crate::storage::wal::read_back::Request;
use crate::storage::{self, DiskError, StorageError};
use slog::{Logger, info, warn};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};

/// What the thread works with.
pub struct Reader {
    /// The segments of the log.
    pub wal: storage::ReadBack,
    /// Receives the entries.
    pub inbox: Arc<Inbox>,
    /// Counts the attempts that failed.
    pub failed: Counter,
    /// Receives the first of consecutive failures.
    pub logger: Logger,
}

impl Reader {
    /// Runs until the raft loop has ended, or until entries can't be read: the disk has failed, or the log is damaged.
    pub fn run(&self, requests: &Receiver<Request>) -> Result<(), StorageError> {
        let mut waiting = VecDeque::new();
        let mut has_failed = false;
        loop {
            let received = match waiting.is_empty() {
                true => requests.recv().map_err(RecvTimeoutError::from),
                false => requests.recv_timeout(limits::READ_BACK_RETRY_INTERVAL),
            };
            match received {
                Ok(request) => waiting.push_back(request),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            while let Some(request) = waiting.front() {
                if let Some(error) = answer(request, &self.wal, &self.inbox)? {
                    self.failed.inc();
                    if !std::mem::replace(&mut has_failed, true) {
                        warn!(self.logger, "can't read entries of the log for members that are behind; this member tries again every second";
                            "error" => %error);
                    }
                    break;
                }
                waiting.pop_front();
                if std::mem::take(&mut has_failed) {
                    info!(self.logger, "entries of the log can be read again");
                }
            }
        }
    }
}

/// Reads the entries of one request and sends them to the inbox. Returns the error if a shortage prevents that for now.
pub fn answer(
    request: &Request,
    wal: &storage::ReadBack,
    inbox: &Inbox,
) -> Result<Option<DiskError>, StorageError> {
    let entries = match wal.read(request) {
        Ok(entries) => entries,
        Err(StorageError::Io(error)) if error.is_shortage() => return Ok(Some(error)),
        Err(error) => return Err(error),
    };
    let first = request.first;
    inbox.notice(Notice::EntriesRead(EntriesRead { first, entries }));
    Ok(None)
}
