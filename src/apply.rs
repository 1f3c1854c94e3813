//! The apply thread: the consumer of the commit channel and the only writer of the store.
//!
//! It applies entries in log order, answers the clients whose proposals they carried, releases reads, and starts
//! snapshots. It never waits for a snapshot to be written, nor for the map to be hashed: it freezes the map (see
//! `store.rs`) and hands it over.

use crate::commit::Commit;
use crate::inbox::{Inbox, Notice, SnapshotWritten};
use crate::storage::{DiskError, SnapshotMeta, Snapshots, StorageError};
use crate::store::{Frozen, Store};
use slog::{Logger, info};
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

/// A snapshot to write: its header, and the map as of its index.
pub struct SnapshotJob {
    meta: SnapshotMeta,
    map: Frozen,
}

/// Runs until the raft loop has ended, or a snapshot from the leader can't be loaded.
pub fn run(
    commits: &Receiver<Vec<Commit>>,
    store: &Store,
    inbox: &Inbox,
    snapshots: &Snapshots,
    snapshot_jobs: &Sender<SnapshotJob>,
    logger: &Logger,
) -> Result<(), StorageError> {
    while let Ok(batch) = commits.recv() {
        let mut applied = 0;
        let mut bytes = 0;
        for commit in batch {
            match commit {
                Commit::Apply(apply) => {
                    for (command, reply) in apply.commands {
                        let outcome = store.apply(&command, apply.index);
                        if let Some(reply) = reply {
                            // The client may be gone: then nobody wants to know.
                            let _ = reply.send(outcome);
                        }
                    }
                    applied = apply.index;
                    bytes += apply.bytes;
                }
                Commit::Read(replies) => {
                    for reply in replies {
                        // Likewise.
                        let _ = reply.send(Ok(()));
                    }
                }
                Commit::Snapshot(meta) => {
                    // The node hears of what is applied first: it must not compact entries that it still counts as
                    // unapplied, however quickly the snapshot is written.
                    if applied > 0 {
                        inbox.applied(applied, std::mem::take(&mut bytes));
                    }
                    let job = SnapshotJob {
                        meta: *meta,
                        map: store.freeze(),
                    };
                    if snapshot_jobs.send(job).is_err() {
                        return Ok(());
                    }
                }
                Commit::Freeze { index, reply } => {
                    // Whoever asked may have given up.
                    let _ = reply.send((index, store.freeze()));
                }
                Commit::Restore(meta) => {
                    load(store, snapshots, &meta, logger)?;
                    applied = meta.index;
                }
            }
        }
        if applied > 0 {
            inbox.applied(applied, bytes);
        }
    }
    Ok(())
}

/// Replaces the map by a snapshot file. Readers see the old map until the new one is complete.
pub fn load(
    store: &Store,
    snapshots: &Snapshots,
    meta: &SnapshotMeta,
    logger: &Logger,
) -> Result<(), StorageError> {
    let begun = Instant::now();
    let mut restore = store.begin_restore();
    snapshots.load(meta.index, meta.term, |key, index, value| {
        restore.insert(key, index, value);
    })?;
    store.replace(restore);
    info!(logger, "loaded a snapshot"; "index" => meta.index, "keys" => store.len(),
        "ms" => begun.elapsed().as_millis() as u64);
    Ok(())
}

/// The snapshot thread: writes one snapshot after the other. Runs until the apply thread has ended, or the disk
/// fails.
pub fn write_snapshots(
    jobs: &Receiver<SnapshotJob>,
    snapshots: &Snapshots,
    cluster: impl Fn() -> u64,
    inbox: &Inbox,
) -> Result<(), DiskError> {
    while let Ok(SnapshotJob { meta, map }) = jobs.recv() {
        let bytes = snapshots.write(&meta, cluster(), map.iter())?;
        let written = SnapshotWritten { meta, bytes };
        inbox.notice(Notice::SnapshotWritten(Box::new(written)));
    }
    Ok(())
}
