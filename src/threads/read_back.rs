//! The read-back thread: reads the log entries that the node needs and does not have in memory, and sends them to the
//! inbox.
//!
//! It is a separate thread because a read may wait for the disk, and neither raft nor the next write may wait with it.
//! The node has only a few requests outstanding at a time, so the queue needs no limit.

use crate::channels::inbox::Inbox;
use crate::channels::notice::{EntriesRead, Notice};
use crate::storage::wal::read_back::Request;
use crate::storage::{self, StorageError};
use std::sync::mpsc::Receiver;

/// Runs until the raft loop has ended, or until entries can't be read: the disk has failed, or the log is damaged.
pub fn run(
    requests: &Receiver<Request>,
    wal: &storage::ReadBack,
    inbox: &Inbox,
) -> Result<(), StorageError> {
    while let Ok(request) = requests.recv() {
        answer(&request, wal, inbox)?;
    }
    Ok(())
}

/// Reads the entries of one request and sends them to the inbox.
pub fn answer(
    request: &Request,
    wal: &storage::ReadBack,
    inbox: &Inbox,
) -> Result<(), StorageError> {
    let entries = wal.read(request)?;
    let first = request.first;
    inbox.notice(Notice::EntriesRead(EntriesRead { first, entries }));
    Ok(())
}
