//! The write-ahead log (WAL): makes the saves of raft's readies durable.
//!
//! The WAL thread owns the [`Wal`]. A [`Wal::save`] writes one batch for all saves that it is given, with one write and
//! one fdatasync. It writes several batches if the saves are large, and none if no save has `sync`. A rotation of
//! segments adds further writes. [`Wal::purge`] returns the files that are no longer needed, and another thread deletes
//! them, so that no save waits for a deletion. An index (`read_back.rs`) records the places of entries as they are
//! written, so that they can be read back.
//!
//! Invariants:
//! - A batch is durable before the next batch is written.
//! - The log writes only into blocks that were reserved before: see `room.rs`.
//! - A save without `sync` changes only the commit index. It stays in memory and is written with the next batch. That
//!   is safe because nothing relies on a durable commit index: after a crash raft learns it again from the leader or,
//!   as the leader, from a majority. Committed entries are durable on a majority in any case.

mod lack;
mod options;
mod purge;
pub mod read_back;
pub mod record;
mod room;
mod rotate;
pub mod segment;
mod state;

pub use lack::SpareNews;
pub use options::WalOptions;
pub use purge::{Purge, PurgeError};
pub use room::{LogRoom, NextSegment, entry_log_bytes};
pub use rotate::{SpareDone, SpareWork};
pub(super) use state::WalState;

use super::data_dir::DataDir;
use super::disk::{Disk, DiskDirectory, DiskError};
use super::meta::Meta;
use super::snapshot::Snapshots;
use super::state::{Mark, Save};
use crate::metrics;
use crate::mutants::{Mutant, is_planted};
use lack::Attempts;
use raft::eraftpb::HardState;
use read_back::{BatchIndex, BatchPlace, Effect, ReadBack, SharedBatchIndex};
use record::Batch;
use rustix::io::Errno;
use segment::{Header, Name, Naming, SegmentWriter, Spare};
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// All segments, as recovery hands them to the WAL.
pub(in crate::storage) struct Segments {
    /// The segments before the one that is written to, oldest first.
    pub older: VecDeque<Name>,
    /// The segment that is written to.
    pub newest: SegmentWriter,
    /// The segment that is kept aside, if there is one.
    pub spare: Option<Spare>,
    /// The places of entries in the segments.
    pub index: BatchIndex,
}

/// The write-ahead log.
pub struct Wal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// The directory, opened at the start: no segment needs another file descriptor to get its name.
    directory: Box<dyn DiskDirectory>,
    /// The same for purges. Each of the two sees the errors of all syncs.
    purge_directory: Arc<dyn DiskDirectory>,
    meta: Arc<Meta>,
    snapshots: Arc<Snapshots>,
    options: WalOptions,
    /// The state after the last batch.
    durable: WalState,
    /// The state after the last save. It is ahead of `durable` by the batch under construction and by a delayed commit
    /// index.
    current: WalState,
    /// The segments before the one that is written to, oldest first.
    older: VecDeque<Name>,
    segment: SegmentWriter,
    spare: Option<Spare>,
    /// The length that the spare has to have: that of a segment, or more while a larger save waits.
    spare_bytes: u64,
    /// What keeps the log from its next segment.
    attempts: Attempts,
    /// The sum of [`Save::log_bytes`] of all saves.
    spent: u64,
    batch: Batch,
    /// What the batch under construction changes in the log.
    effect: Effect,
    index: SharedBatchIndex,
    /// A mark became durable since the last purge.
    purge_due: bool,
    failed: bool,
    /// Number of entries in the batch under construction.
    entries: u64,
    metrics: metrics::WalMetrics,
    /// Number of batches written, for the snapshot writer that shares the disk.
    batches: Arc<AtomicU64>,
}

impl Wal {
    /// Creates the first segment, which starts with this state. Durable on return.
    pub(in crate::storage) fn create(
        dir: &DataDir,
        meta: Arc<Meta>,
        snapshots: Arc<Snapshots>,
        options: WalOptions,
        state: WalState,
    ) -> Result<Wal, DiskError> {
        let mut batch = Batch::default();
        let header = Header {
            name: Name {
                sequence: 0,
                first_index: state.last + 1,
            },
            previous: 0,
            cluster: meta.cluster(),
            member: meta.member(),
            salt: dir.disk().random()?,
            len: options.segment_bytes,
        };
        encode_state(&mut batch, &state);
        let (disk, wal_dir) = (&**dir.disk(), dir.wal_path());
        let directory = disk.open_dir(&wal_dir)?;
        let spare = Spare::make(disk, &wal_dir, options.segment_bytes)?;
        let begun = spare.begin(header, &mut batch)?;
        let segment = match begun.name(disk, &*directory, &wal_dir)? {
            Naming::Named(segment) => segment,
            Naming::NoRoom(_, error) => return Err(error),
        };
        let mut index = BatchIndex::default();
        index.begin(segment.name(), segment.end());
        let segments = Segments {
            older: VecDeque::new(),
            newest: segment,
            spare: None,
            index,
        };
        Wal::resume(dir, meta, snapshots, options, state, segments)
    }

    /// Continues with the segments and the state that recovery found.
    pub(in crate::storage) fn resume(
        dir: &DataDir,
        meta: Arc<Meta>,
        snapshots: Arc<Snapshots>,
        options: WalOptions,
        state: WalState,
        segments: Segments,
    ) -> Result<Wal, DiskError> {
        let mut batch = Batch::default();
        batch.clear();
        let batches = snapshots.wal_batches();
        let open_dir = || dir.disk().open_dir(&dir.wal_path());
        Ok(Wal {
            disk: dir.disk().clone(),
            dir: dir.wal_path(),
            directory: open_dir()?,
            purge_directory: Arc::from(open_dir()?),
            meta,
            snapshots,
            options,
            durable: state.clone(),
            current: state,
            older: segments.older,
            segment: segments.newest,
            spare: segments.spare,
            spare_bytes: options.segment_bytes,
            attempts: Attempts::default(),
            spent: 0,
            batch,
            effect: Effect::default(),
            index: SharedBatchIndex::new(segments.index),
            purge_due: false,
            failed: false,
            entries: 0,
            metrics: metrics::WalMetrics::default(),
            batches,
        })
    }

    /// Counts into these metrics from now on.
    pub fn count_into(&mut self, metrics: metrics::WalMetrics) {
        self.metrics = metrics;
    }

    /// The metrics of this WAL's writes.
    pub fn metrics(&self) -> &metrics::WalMetrics {
        &self.metrics
    }

    /// A reader of the entries in this WAL.
    pub fn read_back(&self) -> ReadBack {
        ReadBack::new(self.disk.clone(), self.dir.clone(), self.index.clone())
    }

    /// Appends all saves, in order, with one write for each batch. On return they are durable if any of them has
    /// `sync`. Otherwise they stay in memory until the next save with `sync`.
    ///
    /// The caller has called [`Wal::make_room`] before. Without room, nothing is written and nothing has failed. After
    /// any other error it is unknown what is durable. The caller has to end the process without any further
    /// acknowledgement. Every later save fails: a failed write or sync is never retried.
    pub fn save(&mut self, saves: &[Save]) -> Result<(), DiskError> {
        self.check()?;
        let bytes = saves.iter().map(Save::log_bytes).sum();
        if !self.make_room(bytes)? {
            return Err(DiskError::new("extend", &self.dir, Errno::NOSPC));
        }
        let result = self.try_save(saves);
        self.failed = result.is_err();
        self.spent += bytes;
        result
    }

    fn check(&self) -> Result<(), DiskError> {
        if self.failed {
            let source = io::Error::other("an earlier write failed");
            return Err(DiskError::new("write", self.segment.path(), source));
        }
        Ok(())
    }

    fn try_save(&mut self, saves: &[Save]) -> Result<(), DiskError> {
        for save in saves {
            assert!(
                save.sync || (save.mark.is_none() && save.entries.is_empty()),
                "a save with {} entries that need not be durable",
                save.entries.len()
            );
            if let Some(mark) = &save.mark {
                self.add_mark(mark)?;
            }
            let mut hard_state = save.hard_state.as_ref();
            for entry in &save.entries {
                let WalState { last, .. } = self.current;
                let snapshot = self.current.newest_mark();
                assert!(
                    entry.index > snapshot && entry.index <= last + 1,
                    "entry {} does not follow snapshot {snapshot} and entry {last}",
                    entry.index
                );
                if self.batch.len() >= self.options.batch_bytes {
                    self.flush()?;
                }
                self.batch.entry(entry);
                self.entries += 1;
                self.effect.entry(entry.index);
                self.current.last = entry.index;
                // From the first entry on, every batch of this save ends with the new hard state: see `flush`. Before
                // that entry, its commit index could cover entries that this save replaces. If it came only with the
                // last batch, a crash between two batches could leave entries without the commit index that came with
                // them.
                if let Some(hard_state) = hard_state.take() {
                    self.add_hard_state(hard_state);
                }
            }
            if let Some(hard_state) = hard_state {
                self.add_hard_state(hard_state);
            }
            let WalState { last, .. } = self.current;
            assert!(
                save.hard_state
                    .as_ref()
                    .is_none_or(|state| state.commit <= last),
                "{:?} beyond the last entry {last}",
                save.hard_state
            );
        }
        if saves.iter().any(|save| save.sync) {
            self.flush()?;
        }
        Ok(())
    }

    fn add_mark(&mut self, mark: &Mark) -> Result<(), DiskError> {
        let newest = self.current.newest_mark();
        assert!(
            mark.index >= newest,
            "a mark at {} after a mark at {newest}",
            mark.index
        );
        assert!(
            mark.installed || mark.index <= self.current.last,
            "a mark at {} beyond the last entry {}",
            mark.index,
            self.current.last
        );
        let mut mark = mark.clone();
        // Never revert a vote or a commit index, however old the mark's hard state is.
        let newer = &self.current.hard_state;
        let offered = &mut mark.hard_state;
        if (newer.term, newer.vote != 0) >= (offered.term, offered.vote != 0) {
            offered.term = newer.term;
            offered.vote = newer.vote;
        }
        offered.commit = offered.commit.max(newer.commit);
        assert!(
            offered.commit >= mark.index,
            "a mark at {} with commit index {}",
            mark.index,
            offered.commit
        );
        assert!(
            !mark.installed || mark.index >= newer.commit,
            "a snapshot at {} installed below the commit index {}",
            mark.index,
            newer.commit
        );
        if mark.installed {
            self.effect.clear();
        }
        let hard_state = mark.hard_state.clone();
        if is_planted(Mutant::TornMark) {
            mark.hard_state = self.durable.hard_state.clone();
            self.batch.mark(&mark);
            self.current.apply_mark(&mark);
            self.flush()?;
            self.current.hard_state = hard_state;
            return Ok(());
        }
        // The entries between the snapshot and the commit index may follow in a later batch than the mark.
        let last = match mark.installed {
            true => mark.index,
            false => self.current.last,
        };
        mark.hard_state.commit = last.min(hard_state.commit);
        self.batch.mark(&mark);
        self.current.apply_mark(&mark);
        self.current.hard_state = hard_state;
        Ok(())
    }

    fn add_hard_state(&mut self, hard_state: &HardState) {
        let before = &self.current.hard_state;
        assert!(
            hard_state.term >= before.term && hard_state.commit >= before.commit,
            "hard state {hard_state:?} after {before:?}"
        );
        self.current.hard_state = hard_state.clone();
    }

    /// Writes the batch under construction, with the newest hard state after all other records. That way, no prefix of
    /// the log calls an entry committed that it does not contain. During a save, the commit index is limited to the
    /// entries written so far. The rest of the commit index follows with the remaining entries.
    fn flush(&mut self) -> Result<(), DiskError> {
        let mut hard_state = self.current.hard_state.clone();
        if !is_planted(Mutant::CommitAheadOfEntries) {
            hard_state.commit = hard_state.commit.min(self.current.last);
        }
        if hard_state != self.durable.hard_state {
            self.batch.hard_state(&hard_state);
        }
        if self.batch.is_empty() {
            return Ok(());
        }
        let (batch, rest) = (self.batch.len() as u64, self.segment.rest());
        assert!(
            batch + 2 * record::ALIGNMENT <= rest,
            "a batch of {batch} bytes, and room for {rest}"
        );
        let place = BatchPlace {
            sequence: self.segment.name().sequence,
            offset: self.segment.end(),
            previous: self.segment.crc(),
        };
        let sync = self.segment.append(&mut self.batch)?;
        let effect = std::mem::take(&mut self.effect);
        self.index.lock().add(place, &effect, self.segment.end());
        let entries = std::mem::take(&mut self.entries);
        self.metrics.wrote(self.batch.len() as u64, entries, sync);
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.batch.clear();
        self.purge_due |= self.current.newest_mark() != self.durable.newest_mark();
        self.durable.clone_from(&self.current);
        self.durable.hard_state = hard_state;
        Ok(())
    }

    /// Collects the files that are no longer needed; the returned [`Purge`] deletes them. Files that stay: a restart
    /// may need the oldest kept snapshot and everything after it, and entries after `compacted` may still be read back.
    /// Call this after the save was reported as durable.
    ///
    /// Only a durable mark makes files unnecessary: without the mark, a restart would use the snapshot before it, and
    /// the entries from there on.
    pub fn purge(&mut self, compacted: u64) -> Result<Purge, DiskError> {
        self.check()?;
        let oldest = self.durable.oldest_mark();
        let superfluous = match is_planted(Mutant::PurgedTooEarly) {
            true => self.durable.newest_mark(),
            false => oldest.min(compacted),
        };
        let mut segments = VecDeque::new();
        while let Some(name) = self.older.front() {
            let next = self.older.get(1).copied().unwrap_or(self.segment.name());
            if next.first_index > superfluous.saturating_add(1) {
                break;
            }
            self.index.lock().forget_oldest(*name);
            segments.push_back(self.dir.join(name.file_name()));
            self.older.pop_front();
        }
        let snapshots_below = std::mem::take(&mut self.purge_due).then_some(oldest);
        Ok(Purge {
            disk: self.disk.clone(),
            directory: self.purge_directory.clone(),
            segments,
            snapshots: self.snapshots.clone(),
            snapshots_below,
        })
    }
}

#[cfg(test)]
impl Wal {
    /// Number of places in the index.
    pub(in crate::storage) fn places(&self) -> usize {
        self.index.lock().places()
    }
}

impl std::fmt::Debug for Wal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wal")
            .field("segment", &self.segment.path())
            .field("durable", &self.durable)
            .finish_non_exhaustive()
    }
}

fn encode_state(batch: &mut Batch, state: &WalState) {
    batch.clear();
    for mark in &state.marks {
        batch.mark(mark);
    }
    batch.hard_state(&state.hard_state);
}
