//! The log as raft sees it: in memory, from the last compaction on.
//!
//! The node appends here before raft hears that a ready was taken in (`advance_append_async`), while the WAL makes
//! the same entries durable beside it. Entries are shared buffers, so the copy in memory is the one that the WAL and
//! the transport read.
//!
//! Invariants: entries are contiguous and start right behind `compacted`; the newest snapshot is at or above
//! `compacted`, so whoever lacks an entry that is gone can be given a snapshot; `term(compacted)` always answers.

use crate::storage::{Recovered, SnapshotMeta};
use protobuf::Message as _;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{Error, GetEntriesContext, RaftState, StorageError};
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};

/// Implements [`raft::Storage`].
#[derive(Debug)]
pub struct Log {
    /// Index and term of the last entry that is gone.
    compacted: (u64, u64),
    entries: VecDeque<Entry>,
    bytes: u64,
    snapshot: Option<SnapshotMeta>,
    /// Where each member was added.
    added: BTreeMap<u64, u64>,
    /// Raft asked for a snapshot that `snapshot` does not satisfy. A cell, because raft asks through `&self`.
    snapshot_wanted: Cell<bool>,
    /// As of start: raft asks for them once.
    hard_state: HardState,
    conf_state: ConfState,
}

impl Log {
    /// The log that a restart found.
    pub fn new(recovered: Recovered) -> Log {
        let compacted = match &recovered.snapshot {
            Some(meta) => (meta.index, meta.term),
            None => (0, 0),
        };
        let conf_state = match &recovered.snapshot {
            Some(meta) => meta.conf_state.clone(),
            None => ConfState::default(),
        };
        let mut log = Log {
            compacted,
            entries: VecDeque::new(),
            bytes: 0,
            snapshot: recovered.snapshot,
            added: BTreeMap::new(),
            snapshot_wanted: Cell::new(false),
            hard_state: recovered.hard_state,
            conf_state,
        };
        log.append(recovered.entries);
        assert!(
            log.hard_state.commit <= log.last(),
            "commit {} is beyond the last entry {}",
            log.hard_state.commit,
            log.last()
        );
        log
    }

    /// Appends entries; the first replaces whatever was there from its index on.
    pub fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first() else {
            return;
        };
        assert!(
            first.index > self.compacted.0 && first.index <= self.last() + 1,
            "entry {} does not join a log of {}..={}",
            first.index,
            self.compacted.0 + 1,
            self.last()
        );
        while self.last() >= first.index {
            let entry = self.entries.pop_back().expect("the log is not empty");
            self.bytes -= entry_bytes(&entry);
        }
        for entry in entries {
            assert_eq!(entry.index, self.last() + 1, "entries have a gap");
            self.bytes += entry_bytes(&entry);
            self.entries.push_back(entry);
        }
    }

    /// The whole log is replaced by a snapshot from the leader.
    pub fn install(&mut self, meta: SnapshotMeta) {
        self.entries.clear();
        self.bytes = 0;
        self.compacted = (meta.index, meta.term);
        self.snapshot = Some(meta);
        self.snapshot_wanted.set(false);
    }

    /// A snapshot was taken here. Entries it covers go, but the newest of them stay up to `trailing_bytes`: a
    /// follower that is a little behind then needs no snapshot.
    pub fn compact(&mut self, meta: SnapshotMeta, trailing_bytes: u64) {
        let mut covered: u64 = self
            .entries
            .iter()
            .take_while(|e| e.index <= meta.index)
            .map(entry_bytes)
            .sum();
        while covered > trailing_bytes {
            let entry = self
                .entries
                .pop_front()
                .expect("covered counts these entries");
            covered -= entry_bytes(&entry);
            self.bytes -= entry_bytes(&entry);
            self.compacted = (entry.index, entry.term);
        }
        self.snapshot_wanted.set(false);
        self.snapshot = Some(meta);
    }

    /// Tells where each member was added. A member is never given a snapshot from before that: if its id was in use
    /// earlier, it would go through its predecessor's removal as if it were its own.
    pub fn set_added(&mut self, added: BTreeMap<u64, u64>) {
        self.added = added;
    }

    /// Raft wanted a newer snapshot since the last call.
    pub fn take_snapshot_wanted(&self) -> bool {
        self.snapshot_wanted.replace(false)
    }

    /// Index of the newest snapshot, 0 for none.
    pub fn snapshot_index(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |meta| meta.index)
    }

    /// The newest snapshot.
    pub fn snapshot_meta(&self) -> Option<&SnapshotMeta> {
        self.snapshot.as_ref()
    }

    /// The last index.
    pub fn last(&self) -> u64 {
        self.compacted.0 + self.entries.len() as u64
    }

    /// Bytes of the entries in memory.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn position(&self, index: u64) -> usize {
        (index - self.compacted.0 - 1) as usize
    }
}

/// What an entry weighs, in memory and (about) on disk.
pub fn entry_bytes(entry: &Entry) -> u64 {
    (entry.data.len() + entry.context.len() + 32) as u64
}

impl raft::Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(
            self.hard_state.clone(),
            self.conf_state.clone(),
        ))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.compacted.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        assert!(
            high <= self.last() + 1,
            "entries up to {high} were asked for, the last is {}",
            self.last()
        );
        let limit = max_size.into().unwrap_or(u64::MAX);
        let mut bytes = 0;
        let range = self
            .entries
            .range(self.position(low)..self.position(high))
            .enumerate();
        // At least one entry, or a large one could never be sent.
        let fitting = range.take_while(|(position, entry)| {
            bytes += u64::from(entry.compute_size());
            *position == 0 || bytes <= limit
        });
        Ok(fitting.map(|(_, entry)| entry.clone()).collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.compacted.0 {
            return Ok(self.compacted.1);
        }
        if index < self.compacted.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        if index > self.last() {
            return Err(Error::Store(StorageError::Unavailable));
        }
        Ok(self.entries[self.position(index)].term)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.compacted.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// The newest snapshot's metadata; its data is the replicated state beside the map. The file itself is streamed
    /// by the transport. A snapshot whose configuration lacks the receiver would be ignored by it for ever.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let fit = self.snapshot.as_ref().filter(|meta| {
            let known =
                meta.conf_state.voters.contains(&to) || meta.conf_state.learners.contains(&to);
            let added = self.added.get(&to).copied().unwrap_or(0);
            known && meta.index >= request_index.max(added).max(self.compacted.0)
        });
        let Some(meta) = fit else {
            self.snapshot_wanted.set(true);
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        };
        let mut metadata = SnapshotMetadata::default();
        metadata.index = meta.index;
        metadata.term = meta.term;
        metadata.set_conf_state(meta.conf_state.clone());
        let mut snapshot = Snapshot::default();
        snapshot.set_metadata(metadata);
        snapshot.data = meta.state.write_to_bytes()?.into();
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::Storage as _;

    fn entry(index: u64, term: u64) -> Entry {
        let mut entry = Entry::default();
        entry.index = index;
        entry.term = term;
        entry.data = vec![0; 100].into();
        entry
    }

    fn meta(index: u64, term: u64, voters: &[u64]) -> SnapshotMeta {
        let mut meta = SnapshotMeta {
            index,
            term,
            ..Default::default()
        };
        meta.conf_state.set_voters(voters.to_vec());
        meta
    }

    fn log() -> Log {
        let mut log = Log::new(Recovered {
            snapshot: Some(meta(10, 2, &[1])),
            ..Default::default()
        });
        log.append((11..=20).map(|i| entry(i, 3)).collect());
        log
    }

    fn context() -> GetEntriesContext {
        GetEntriesContext::empty(false)
    }

    #[test]
    fn conflicting_entries_replace_the_tail() {
        let mut log = log();
        log.append(vec![entry(15, 4), entry(16, 4)]);
        assert_eq!(log.last(), 16);
        assert_eq!(log.term(14).unwrap(), 3);
        assert_eq!(log.term(15).unwrap(), 4);
        assert_eq!(log.bytes(), 6 * 132);
    }

    #[test]
    fn the_term_at_the_compaction_point_is_kept() {
        let mut log = log();
        assert_eq!(log.term(10).unwrap(), 2);
        assert!(log.term(9).is_err() && log.term(21).is_err());
        log.compact(meta(18, 3, &[1]), 0);
        assert_eq!(log.term(18).unwrap(), 3);
        assert_eq!(log.first_index().unwrap(), 19);
        assert!(log.entries(18, 20, None, context()).is_err());
        assert_eq!(log.entries(19, 21, None, context()).unwrap().len(), 2);
    }

    #[test]
    fn compaction_keeps_trailing_entries() {
        let mut log = log();
        log.compact(meta(18, 3, &[1]), 3 * 132);
        assert_eq!(log.first_index().unwrap(), 16);
        assert_eq!(log.snapshot_index(), 18);
    }

    #[test]
    fn at_least_one_entry_is_returned_whatever_the_limit() {
        let log = log();
        assert_eq!(log.entries(11, 21, 1, context()).unwrap().len(), 1);
        assert_eq!(log.entries(11, 21, 250, context()).unwrap().len(), 2);
        assert_eq!(log.entries(11, 21, None, context()).unwrap().len(), 10);
    }

    #[test]
    fn a_snapshot_that_lacks_the_receiver_is_not_handed_out() {
        let mut log = log();
        assert_eq!(log.snapshot(0, 1).unwrap().get_metadata().index, 10);
        assert!(!log.take_snapshot_wanted());
        assert!(log.snapshot(0, 2).is_err());
        assert!(log.take_snapshot_wanted() && !log.take_snapshot_wanted());
        log.compact(meta(15, 3, &[1, 2]), 0);
        assert_eq!(log.snapshot(0, 2).unwrap().get_metadata().index, 15);
        log.set_added(BTreeMap::from([(1, 1), (2, 17)]));
        assert!(log.snapshot(0, 2).is_err(), "2 is of an earlier life there");
        assert!(log.snapshot(0, 1).is_ok());
    }
}
