//! The read-back thread: reads what the node wants of the log and has not in memory, and tells it by the inbox.
//!
//! A thread of its own, since a read may wait for the disk, and neither raft nor the next write shall wait with it. The
//! node asks for few pieces at one time, so the queue needs no limit of its own.

use crate::channels::inbox::Inbox;
use crate::channels::notice::{EntriesRead, Notice};
use crate::storage::wal::read_back::Request;
use crate::storage::{self, StorageError};
use std::sync::mpsc::Receiver;

/// Runs until the raft loop has ended, or the disk fails or is damaged.
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

/// Reads one piece and tells the node.
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
