//! The WAL thread: makes durable what the raft loop hands over, then lets out what had to wait for it.
//!
//! All jobs that wait become one write and one fdatasync: group commit. While it runs, the next jobs gather.

use crate::config;
use crate::inbox::Inbox;
use crate::node::Job;
use crate::storage::{DiskError, Save, Wal};
use crate::transport::Transport;
use std::sync::mpsc::Receiver;

/// Runs until the raft loop has ended, or the disk fails: then nothing of the failed batch was said to anybody.
pub fn run(
    mut wal: Wal,
    jobs: &Receiver<Job>,
    inbox: &Inbox,
    transport: &Transport,
) -> Result<(), DiskError> {
    while let Ok(first) = jobs.recv() {
        let mut number = 0;
        let mut saves: Vec<Save> = Vec::new();
        let mut messages = Vec::new();
        for job in std::iter::once(first).chain(jobs.try_iter().take(config::JOBS_PER_WRITE_MAX)) {
            number = job.number;
            saves.push(job.save);
            messages.extend(job.messages);
        }
        wal.save(&saves)?;
        // In this order: the answer to one of the messages must not reach the node before it knows of the save that
        // the message rested on (raft-rs asserts that a candidate that wins has a durable log).
        inbox.persisted(number);
        if !messages.is_empty() {
            transport.send(messages);
        }
        // Last: nobody shall wait for the removal of files.
        wal.purge()?;
    }
    Ok(())
}
