//! Writes the snapshots for which the apply thread has frozen the map, and loads snapshots into the map.

use crate::channels::inbox::Inbox;
use crate::channels::notice::{Notice, SnapshotWritten};
use crate::command::SnapshotHeader;
use crate::logging::progress::{ProgressReport, Unit};
use crate::metrics;
use crate::storage::{SnapshotMeta, Snapshots, StorageError};
use crate::store::{Frozen, Store};
use slog::{Logger, info, warn};
use std::sync::mpsc::Receiver;
use std::time::Instant;

/// A snapshot to write: its header, and the map at its index.
pub struct SnapshotJob {
    pub(super) meta: SnapshotMeta,
    pub(super) map: Frozen,
}

/// Loads snapshots into the map.
pub struct SnapshotLoader<'a> {
    /// The map to load into.
    pub store: &'a Store,
    /// Maximum number of threads that decode a file.
    pub threads: usize,
    /// Receives progress reports.
    pub logger: &'a Logger,
}

impl SnapshotLoader<'_> {
    /// Replaces the map with the snapshot file of this index and term. Readers see the old map until the new map is
    /// complete. Returns the header and the size of the file. Reports to `loaded` how many bytes of the file are done,
    /// and of how many.
    pub fn load(
        &self,
        snapshots: &Snapshots,
        index: u64,
        term: u64,
        mut loaded: impl FnMut(u64, u64) + Send,
    ) -> Result<(SnapshotHeader, u64), StorageError> {
        let SnapshotLoader {
            store,
            threads,
            logger,
        } = *self;
        let begun = Instant::now();
        let mut progress = ProgressReport::new("loading a snapshot", Unit::Bytes, logger);
        let restore = store.begin_restore(snapshots.claimed_entries(index, term)?);
        let insert = |key: &[u8], index, value: &[u8]| restore.insert(key, index, value);
        let found = snapshots.load_with(threads, index, term, insert, |done, total| {
            loaded(done, total);
            progress.at(done, total);
        })?;
        drop(progress);
        store.replace(restore);
        info!(logger, "loaded a snapshot"; "index" => index, "keys" => store.len(), "bytes" => found.1,
            "ms" => begun.elapsed().as_millis() as u64);
        Ok(found)
    }
}

/// The snapshot thread: writes one snapshot after the other. Runs until the apply thread has ended. A snapshot that
/// can't be written, because the disk is full or fails, is thrown away. The log still has everything that the snapshot
/// would have, and the node takes another snapshot later.
pub fn write_snapshots(
    jobs: &Receiver<SnapshotJob>,
    snapshots: &Snapshots,
    cluster: impl Fn() -> u64,
    metrics: &metrics::SnapshotMetrics,
    inbox: &Inbox,
    logger: &Logger,
) {
    let mut failed_before = false;
    while let Ok(SnapshotJob { meta, map }) = jobs.recv() {
        let begun = Instant::now();
        let index = meta.index;
        let written = snapshots.begin(&meta, cluster()).and_then(|mut file| {
            map.visit(|key, index, value| file.entry(key, index, value))?;
            file.finish()
        });
        let bytes = match written {
            Ok(bytes) => bytes,
            Err(error) => {
                metrics.writes_failed.inc();
                if !std::mem::replace(&mut failed_before, true) {
                    warn!(logger, "can't write a snapshot; the log grows until this member can write one, and it tries again";
                        "index" => index, "error" => %error);
                }
                inbox.notice(Notice::SnapshotFailed);
                continue;
            }
        };
        failed_before = false;
        let took = begun.elapsed();
        metrics.written.add(took, bytes);
        info!(logger, "wrote a snapshot"; "index" => index, "bytes" => bytes,
            "ms" => took.as_millis() as u64);
        let written = SnapshotWritten { meta, bytes };
        inbox.notice(Notice::SnapshotWritten(Box::new(written)));
    }
}
