//! The log as raft sees it: a memory cache over what the WAL holds.
//!
//! The node appends entries here before it tells raft that the ready was taken in (`advance_append_async`). In parallel
//! the WAL makes the same entries durable. Entries are shared buffers, so the WAL and the transport read the copy that
//! is in memory here.
//!
//! When the entries in memory exceed the cache size, applied entries leave memory, oldest first. Raft asks for such
//! entries in two cases:
//! - To send them to a lagging follower. Raft can wait, so the log answers "temporarily unavailable" and notes the
//!   index in [`Log::take_wanted`]. Once the caller has read the entries back and passed them to [`Log::hold`], raft
//!   gets them.
//! - To publish them after a start, if they did not fit into memory. Raft gets no entries until they are read back.
//!
//! Invariants:
//! - The log index starts at `compacted` and knows every entry after it.
//! - The entries in memory are the newest ones. The others are applied, so they are committed, durable in the WAL, and
//!   never replaced.
//! - The newest snapshot is at or above `compacted`, so a follower that needs a deleted entry can be sent a snapshot.
//! - `term(compacted)` always returns a term.

use crate::limits;
use crate::mutants::{Mutant, is_planted};
use crate::storage::log_index::{LogIndex, entry_bytes};
use crate::storage::wal::read_back::Request;
use crate::storage::{Recovered, SnapshotMeta};
use protobuf::Message as _;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{Error, GetEntriesContext, RaftState, StorageError};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Implements [`raft::Storage`].
#[derive(Debug)]
pub struct Log {
    log_index: LogIndex,
    /// The newest entries of the log.
    entries: VecDeque<Entry>,
    bytes: u64,
    cache_bytes: u64,
    /// Entries that were read back, the newest piece last.
    pieces: VecDeque<Piece>,
    /// First indexes of the entries that raft wants and memory does not hold. A cell, because raft asks through
    /// `&self`.
    wanted: RefCell<BTreeSet<u64>>,
    /// Raft gets nothing to publish.
    held_back: bool,
    snapshot: Option<SnapshotMeta>,
    /// Index of the previous snapshot, if the log still reaches back to it. Otherwise index of the newest snapshot, or
    /// 0. The log after this index is kept.
    older: u64,
    /// By member: the index that added it, or the later index that bound it.
    added: BTreeMap<u64, u64>,
    /// Raft asked for a snapshot that `snapshot` does not satisfy. A cell, because raft asks through `&self`.
    snapshot_wanted: Cell<bool>,
    /// As of the start. Raft reads it, and `conf_state`, once.
    hard_state: HardState,
    conf_state: ConfState,
}

/// At least one entry, read back without gaps.
#[derive(Debug)]
struct Piece {
    entries: Vec<Entry>,
    /// Raft was given entries of this piece since the last [`Log::drop_unused`].
    used: Cell<bool>,
}

impl Log {
    /// Creates the log from what a restart found. Applied entries stay in memory up to `cache_bytes`.
    pub fn new(recovered: Recovered, cache_bytes: u64) -> Log {
        let snapshot = match &recovered.snapshot {
            Some(meta) => (meta.index, meta.term),
            None => (0, 0),
        };
        let log_index = recovered.log_index.unwrap_or_else(|| {
            let mut log_index = LogIndex::new(snapshot.0, snapshot.1);
            recovered
                .entries
                .iter()
                .for_each(|entry| log_index.push(entry));
            log_index
        });
        let conf_state = match &recovered.snapshot {
            Some(meta) => meta.conf_state.clone(),
            None => ConfState::default(),
        };
        let log = Log {
            older: log_index.start().0,
            log_index,
            bytes: recovered.entries.iter().map(entry_bytes).sum(),
            entries: recovered.entries.into(),
            cache_bytes,
            pieces: VecDeque::new(),
            wanted: RefCell::default(),
            held_back: false,
            snapshot: recovered.snapshot,
            added: BTreeMap::new(),
            snapshot_wanted: Cell::new(false),
            hard_state: recovered.hard_state,
            conf_state,
        };
        let (first, last) = (log.entries.front(), log.entries.back());
        assert!(
            last.is_none_or(|last| last.index == log.last()) && log.compacted() <= snapshot.0,
            "entries {:?}..={:?} of a log {}..={} behind snapshot {}",
            first.map(|entry| entry.index),
            last.map(|entry| entry.index),
            log.compacted() + 1,
            log.last(),
            snapshot.0
        );
        assert!(
            log.cached_from() <= log.hard_state.commit.max(snapshot.0) + 1
                && log.hard_state.commit <= log.last(),
            "commit {} of a log that is in memory from {} to {}",
            log.hard_state.commit,
            log.cached_from(),
            log.last()
        );
        log
    }

    /// Appends entries. The first one replaces the entry at its index and all later entries.
    pub fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first() else {
            return;
        };
        assert!(
            first.index >= self.cached_from() && first.index <= self.last() + 1,
            "entry {} does not join a log that is in memory from {} to {}",
            first.index,
            self.cached_from(),
            self.last()
        );
        while self.last() >= first.index {
            let entry = self.entries.pop_back().expect("the log is not empty");
            self.bytes -= entry_bytes(&entry);
            self.log_index.pop(&entry);
        }
        for entry in entries {
            self.log_index.push(&entry);
            self.bytes += entry_bytes(&entry);
            self.entries.push_back(entry);
        }
    }

    /// Drops entries up to this index from memory until the rest fits into the cache. The index must be applied, and
    /// the WAL still holds the entries.
    pub fn trim(&mut self, applied: u64) {
        while self.bytes > self.cache_bytes
            && let Some(entry) = self.entries.pop_front_if(|entry| entry.index <= applied)
        {
            self.bytes -= entry_bytes(&entry);
        }
    }

    /// Replaces the whole log by a snapshot from the leader.
    pub fn install(&mut self, meta: SnapshotMeta) {
        self.entries.clear();
        self.bytes = 0;
        self.pieces.clear();
        self.wanted.get_mut().clear();
        self.log_index = LogIndex::new(meta.index, meta.term);
        self.older = meta.index;
        self.snapshot = Some(meta);
        self.snapshot_wanted.set(false);
    }

    /// Takes in a snapshot that this node wrote. Deletes the log up to the previous snapshot, but nothing above
    /// `pinned`.
    pub fn compact(&mut self, meta: SnapshotMeta, pinned: u64) {
        self.older = self.snapshot_index();
        self.snapshot_wanted.set(false);
        self.snapshot = Some(meta);
        self.unpin(pinned);
    }

    /// From now on, the pins keep only the log after `pinned`. Deletes what neither the pins nor the previous snapshot
    /// keep.
    pub fn unpin(&mut self, pinned: u64) {
        let index = self.older.min(pinned);
        if index <= self.compacted() {
            return;
        }
        let term = self.log_index.term(index);
        let term = term.expect(
            "the previous snapshot is not above the newest one, nor that one above the log",
        );
        self.log_index.drop_to(index, term);
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.index <= index) {
            self.bytes -= entry_bytes(&entry);
        }
        self.pieces.retain(|piece| piece.entries[0].index > index);
    }

    // ---- what is not in memory ----

    /// First indexes of the entries that raft wanted since the last call and could not get.
    pub fn take_wanted(&mut self) -> BTreeSet<u64> {
        std::mem::take(self.wanted.get_mut())
    }

    /// A request for a piece of the log from this index on. `None` if the entry is in memory by now, or deleted.
    pub fn request(&self, first: u64) -> Option<Request> {
        let (start, end) = (self.compacted() + 1, self.cached_from());
        let bytes = limits::READ_BACK_BYTES.min(self.cache_bytes);
        let needed = (start..end).contains(&first) && self.piece(first).is_none();
        needed.then(|| Request::new(&self.log_index, first, end, bytes))
    }

    /// Takes entries that were read back, for raft to get when it asks again. Only a few pieces are kept.
    pub fn hold(&mut self, entries: Vec<Entry>) {
        let first = entries.first().map_or(0, |entry| entry.index);
        if first <= self.compacted() {
            return;
        }
        for (entry, index) in entries.iter().zip(first..) {
            let known = (index, self.log_index.term(index));
            assert_eq!((entry.index, Some(entry.term)), known, "what was read back");
        }
        if self.pieces.len() >= limits::READ_BACKS_MAX {
            self.pieces.pop_front();
        }
        let used = Cell::new(true);
        self.pieces.push_back(Piece { entries, used });
    }

    /// Sets whether raft gets nothing to publish.
    pub fn hold_back(&mut self, held_back: bool) {
        self.held_back = held_back;
    }

    /// Drops the pieces that raft did not use since the last call.
    pub fn drop_unused(&mut self) {
        self.pieces.retain(|piece| piece.used.replace(false));
    }

    /// Whether raft can get the entry at this index at once, or the entry does not exist yet.
    pub fn is_at_hand(&self, index: u64) -> bool {
        index >= self.cached_from() || self.piece(index).is_some()
    }

    /// Index of the first entry in memory, or one above the last index if memory holds none. Pieces that were read back
    /// do not count.
    pub fn cached_from(&self) -> u64 {
        self.last() + 1 - self.entries.len() as u64
    }

    fn piece(&self, index: u64) -> Option<&Piece> {
        let holds = |piece: &&Piece| {
            let first = piece.entries[0].index;
            (first..first + piece.entries.len() as u64).contains(&index)
        };
        self.pieces.iter().rev().find(holds)
    }

    // ---- snapshots and positions ----

    /// Sets the index at which each member was added, or bound later. A member is never sent an older snapshot: if its
    /// id was in use earlier, it would take the removal of that earlier member for its own.
    pub fn set_added(&mut self, added: BTreeMap<u64, u64>) {
        self.added = added;
    }

    /// Whether raft wanted a newer snapshot since the last call.
    pub fn take_snapshot_wanted(&self) -> bool {
        self.snapshot_wanted.replace(false)
    }

    /// Index of the newest snapshot, or 0.
    pub fn snapshot_index(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |meta| meta.index)
    }

    /// The newest snapshot.
    pub fn snapshot_meta(&self) -> Option<&SnapshotMeta> {
        self.snapshot.as_ref()
    }

    /// Index of the last deleted entry. Entries up to it can't be read back.
    pub fn compacted(&self) -> u64 {
        self.log_index.start().0
    }

    /// Index of the last entry.
    pub fn last(&self) -> u64 {
        self.log_index.last()
    }

    /// Bytes of the entries in memory, without pieces that were read back.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Approximate bytes of all entries after this index.
    pub fn bytes_behind(&self, index: u64) -> u64 {
        self.log_index.bytes_behind(index)
    }
}

/// The longest prefix of these entries that stays within the limit in bytes.
fn fitting<'a>(entries: impl Iterator<Item = &'a Entry>, limit: Option<u64>) -> Vec<Entry> {
    let limit = limit.unwrap_or(u64::MAX);
    let mut bytes = 0;
    // At least one entry, or an entry larger than the limit could never be sent.
    let fitting = entries.enumerate().take_while(|(position, entry)| {
        bytes += u64::from(entry.compute_size());
        *position == 0 || bytes <= limit
    });
    fitting.map(|(_, entry)| entry.clone()).collect()
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
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.compacted() {
            return Err(Error::Store(StorageError::Compacted));
        }
        assert!(
            low <= high && high <= self.last() + 1,
            "entries {low}..{high} were requested, but the last index is {}",
            self.last()
        );
        let limit = max_size.into();
        // A read to publish is asked again when it returns nothing. A read without a limit looks for conf changes
        // before an election: an empty answer would mean that there are none.
        let publishing = limit.is_some() && !context.can_async();
        if publishing && self.held_back {
            return Ok(Vec::new());
        }
        let cached_from = self.cached_from();
        if low >= cached_from {
            let place = |index| (index - cached_from) as usize;
            let range = self.entries.range(place(low)..place(high));
            return Ok(fitting(range, limit));
        }
        if let Some(piece) = self.piece(low) {
            piece.used.set(true);
            let from_low = &piece.entries[(low - piece.entries[0].index) as usize..];
            let wanted = from_low.iter().take_while(|entry| entry.index < high);
            return Ok(fitting(wanted, limit));
        }
        self.wanted.borrow_mut().insert(low);
        if context.can_async() {
            return Err(Error::Store(StorageError::LogTemporarilyUnavailable));
        }
        assert!(
            publishing,
            "entries {low}..{high} are needed at once, but memory starts at {cached_from}"
        );
        Ok(Vec::new())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match self.log_index.term(index) {
            Some(term) => Ok(term),
            None if index < self.compacted() => Err(Error::Store(StorageError::Compacted)),
            None => Err(Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.compacted() + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// The newest snapshot's metadata, with the replicated state beside the map as data. The transport streams the file
    /// itself. A receiver would ignore a snapshot whose configuration lacks it, again and again, so such a snapshot is
    /// withheld.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let fit = self.snapshot.as_ref().filter(|meta| {
            let known =
                meta.conf_state.voters.contains(&to) || meta.conf_state.learners.contains(&to);
            let added = self.added.get(&to).copied().unwrap_or(0);
            let added = match is_planted(Mutant::SnapshotBeforeAddition) {
                true => 0,
                false => added,
            };
            known && meta.index >= request_index.max(added).max(self.compacted())
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
        let recovered = Recovered {
            snapshot: Some(meta(10, 2, &[1])),
            ..Default::default()
        };
        let mut log = Log::new(recovered, u64::MAX);
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
    fn the_log_reaches_back_to_the_snapshot_before_the_newest() {
        let mut log = log();
        assert_eq!(log.term(10).unwrap(), 2);
        assert!(log.term(9).is_err() && log.term(21).is_err());
        log.compact(meta(14, 3, &[1]), u64::MAX);
        assert_eq!(log.first_index().unwrap(), 11);
        log.compact(meta(18, 3, &[1]), u64::MAX);
        assert_eq!((log.snapshot_index(), log.compacted()), (18, 14));
        assert_eq!(log.term(14).unwrap(), 3);
        assert_eq!(log.bytes(), 6 * 132);
        assert!(log.entries(14, 20, None, context()).is_err());
        assert_eq!(log.entries(15, 21, None, context()).unwrap().len(), 6);
        log.install(meta(40, 4, &[1]));
        assert_eq!((log.compacted(), log.last(), log.bytes()), (40, 40, 0));
        log.compact(meta(40, 4, &[1]), u64::MAX);
        assert_eq!(log.term(40).unwrap(), 4);
    }

    #[test]
    fn pinned_entries_stay_until_they_are_unpinned() {
        let mut log = log();
        log.compact(meta(14, 3, &[1]), 12);
        log.compact(meta(18, 3, &[1]), 12);
        assert_eq!(log.compacted(), 12);
        log.unpin(13);
        assert_eq!(log.compacted(), 13);
        log.unpin(u64::MAX);
        assert_eq!(log.compacted(), 14);
    }

    /// A context in which raft can wait.
    fn patient() -> GetEntriesContext {
        GetEntriesContext::empty(true)
    }

    fn is_unavailable(result: raft::Result<Vec<Entry>>) -> bool {
        matches!(
            result,
            Err(Error::Store(StorageError::LogTemporarilyUnavailable))
        )
    }

    #[test]
    fn applied_entries_leave_memory_beyond_the_cap_and_no_others() {
        let mut log = log();
        log.cache_bytes = 4 * 132;
        log.trim(12);
        assert_eq!((log.cached_from(), log.bytes()), (13, 8 * 132));
        log.trim(20);
        assert_eq!((log.cached_from(), log.bytes()), (17, 4 * 132));
        assert_eq!((log.first_index().unwrap(), log.last()), (11, 20));
        for index in 11..=20 {
            assert_eq!(log.term(index).unwrap(), 3);
        }
        log.append(vec![entry(18, 4)]);
        assert_eq!((log.cached_from(), log.last()), (17, 18));
        assert_eq!((log.term(17).unwrap(), log.term(18).unwrap()), (3, 4));
    }

    #[test]
    fn entries_that_are_not_in_memory_are_wanted_and_served_when_they_were_read_back() {
        let mut log = log();
        log.cache_bytes = 2 * 132;
        log.trim(20);
        assert!(log.request(19).is_none(), "it is in memory");
        assert!(is_unavailable(log.entries(13, 21, 300, patient())));
        assert!(is_unavailable(log.entries(13, 21, 300, patient())));
        assert!(is_unavailable(log.entries(17, 18, 300, patient())));
        assert_eq!(log.take_wanted(), BTreeSet::from([13, 17]));
        assert!(log.take_wanted().is_empty() && !log.is_at_hand(13));
        assert!(log.request(13).is_some());

        log.hold((13..=16).map(|i| entry(i, 3)).collect());
        assert!(log.request(13).is_none() && log.is_at_hand(16) && !log.is_at_hand(17));
        let found = |low, high, most: u64| {
            let entries = log.entries(low, high, most, patient()).unwrap();
            entries.iter().map(|e| e.index).collect::<Vec<_>>()
        };
        assert_eq!(found(13, 21, u64::MAX), [13, 14, 15, 16]);
        assert_eq!(found(14, 16, u64::MAX), [14, 15]);
        assert_eq!(found(14, 21, 1), [14]);
        log.drop_unused();
        assert!(log.is_at_hand(13));
        log.drop_unused();
        assert!(!log.is_at_hand(13));
    }

    #[test]
    fn few_pieces_are_held_and_none_below_a_compaction() {
        let mut log = log();
        log.cache_bytes = 1;
        log.trim(20);
        for index in 11..11 + limits::READ_BACKS_MAX as u64 + 1 {
            log.hold(vec![entry(index, 3)]);
        }
        assert!(!log.is_at_hand(11) && log.is_at_hand(12));
        log.compact(meta(13, 3, &[1]), u64::MAX);
        log.compact(meta(20, 3, &[1]), u64::MAX);
        assert!(!log.is_at_hand(13) && log.is_at_hand(14));
        log.hold(vec![entry(13, 3)]);
        assert!(!log.is_at_hand(13));
    }

    #[test]
    fn a_start_that_can_not_wait_publishes_nothing_until_it_was_read_back() {
        let mut log = log();
        log.cache_bytes = 1;
        log.trim(20);
        assert!(log.entries(11, 21, 1000, context()).unwrap().is_empty());
        assert_eq!(log.take_wanted(), BTreeSet::from([11]));
        log.hold(vec![entry(11, 3)]);
        assert_eq!(log.entries(11, 21, 1000, context()).unwrap().len(), 1);
    }

    #[test]
    #[should_panic(expected = "are needed at once")]
    fn an_election_never_gets_an_empty_list_for_missing_entries() {
        let mut log = log();
        log.cache_bytes = 1;
        log.trim(20);
        let _ = log.entries(11, 21, None, context());
    }

    #[test]
    #[should_panic(expected = "what was read back")]
    fn entries_of_another_term_are_not_taken_for_those_of_the_log() {
        let mut log = log();
        log.cache_bytes = 1;
        log.trim(20);
        log.hold(vec![entry(11, 3), entry(12, 2)]);
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
        log.compact(meta(15, 3, &[1, 2]), u64::MAX);
        assert_eq!(log.snapshot(0, 2).unwrap().get_metadata().index, 15);
        log.set_added(BTreeMap::from([(1, 1), (2, 17)]));
        assert!(log.snapshot(0, 2).is_err(), "2 is of an earlier life there");
        assert!(log.snapshot(0, 1).is_ok());
    }
}
