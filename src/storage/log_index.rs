//! The log index: the term and the approximate weight of every entry, whether the entry is in memory or only on disk.
//!
//! Raft asks for terms at any time and can't wait for the disk. Terms rarely change, so the index stores one pair for
//! each change of term.
//!
//! Invariant: `start.0 < terms[0].0 < terms[1].0 < ... <= last`, unless the log is empty.

use crate::numbers::{Index, Term};
use raft::eraftpb::Entry;
use std::collections::VecDeque;

/// Resolution of [`LogIndex::bytes_behind`], in bytes.
const MILESTONE_BYTES: u64 = 1 << 20;

/// See the module's documentation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogIndex {
    /// Index and term of the entry before the first entry. (0, 0) if the log starts with entry 1.
    start: (Index, Term),
    last: u64,
    /// For each run of entries with the same term: its first index, and the term.
    terms: VecDeque<(Index, Term)>,
    /// Total weight of all entries that were ever in the log, up to `last`.
    bytes: u64,
    /// About every [`MILESTONE_BYTES`]: an index, and the value of `bytes` up to that index.
    milestones: VecDeque<(Index, u64)>,
}

/// Weight of an entry: its bytes in memory, and approximately on disk.
pub fn entry_bytes(entry: &Entry) -> u64 {
    (entry.data.len() + entry.context.len() + 32) as u64
}

impl LogIndex {
    /// An empty log that follows this index and its term.
    pub fn new(index: u64, term: u64) -> LogIndex {
        LogIndex {
            start: (index, term),
            last: index,
            ..LogIndex::default()
        }
    }

    /// Index and term of the entry before the first.
    pub fn start(&self) -> (Index, Term) {
        self.start
    }

    /// The index of the last entry. If there is no entry, the index of the start.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The term of an entry or of the start. `None` for any other index.
    pub fn term(&self, index: u64) -> Option<u64> {
        if index == self.start.0 {
            return Some(self.start.1);
        }
        if index < self.start.0 || index > self.last {
            return None;
        }
        // Most lookups ask for the newest term.
        match self.terms.back() {
            Some((first, term)) if *first <= index => Some(*term),
            _ => {
                let row = self.terms.partition_point(|(first, _)| *first <= index);
                Some(self.terms[row - 1].1)
            }
        }
    }

    /// First index and term of each run of entries with the same term that has entries from `first` to before `end`.
    pub fn rows(&self, first: u64, end: u64) -> Vec<(Index, Term)> {
        let row = self.terms.partition_point(|(index, _)| *index <= first);
        let rows = self.terms.range(row.saturating_sub(1)..);
        rows.take_while(|(index, _)| *index < end)
            .copied()
            .collect()
    }

    /// Appends an entry.
    pub fn push(&mut self, entry: &Entry) {
        self.last += 1;
        assert_eq!(entry.index, self.last, "entries have a gap");
        self.bytes += entry_bytes(entry);
        if self
            .terms
            .back()
            .is_none_or(|(_, term)| *term != entry.term)
        {
            self.terms.push_back((entry.index, entry.term));
        }
        let behind = self.milestones.back().map_or(0, |(_, bytes)| *bytes);
        if self.bytes - behind >= MILESTONE_BYTES {
            self.milestones.push_back((entry.index, self.bytes));
        }
    }

    /// Removes the last entry, which the caller passes.
    pub fn pop(&mut self, entry: &Entry) {
        assert!(
            entry.index == self.last && self.last > self.start.0,
            "entry {} is not the last, {}, of a log behind {}",
            entry.index,
            self.last,
            self.start.0
        );
        self.last -= 1;
        self.bytes -= entry_bytes(entry);
        self.terms.pop_back_if(|(first, _)| *first == entry.index);
        self.milestones
            .pop_back_if(|(index, _)| *index == entry.index);
    }

    /// Drops the entries up to `index`, whose term is `term`.
    pub fn drop_to(&mut self, index: u64, term: u64) {
        assert!(
            (self.start.0..=self.last).contains(&index),
            "{index} is not in a log behind {} up to {}",
            self.start.0,
            self.last
        );
        self.start = (index, term);
        while self
            .terms
            .get(1)
            .is_some_and(|(next, _)| *next <= index + 1)
        {
            self.terms.pop_front();
        }
        if index == self.last {
            self.terms.clear();
        }
        if let Some((first, _)) = self.terms.front_mut() {
            *first = (*first).max(index + 1);
        }
        // Keep the last milestone at or before the start: it is the reference for the weight of the entries after the
        // start.
        while self.milestones.get(1).is_some_and(|(at, _)| *at <= index) {
            self.milestones.pop_front();
        }
    }

    /// Approximate weight of the entries after `index`. Never less than their real weight.
    pub fn bytes_behind(&self, index: u64) -> u64 {
        let milestone = self.milestones.partition_point(|(at, _)| *at <= index);
        match milestone {
            0 => self.bytes,
            _ => self.bytes - self.milestones[milestone - 1].1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64, bytes: usize) -> Entry {
        let mut entry = Entry::default();
        entry.index = index;
        entry.term = term;
        entry.data = vec![0; bytes].into();
        entry
    }

    /// Compares the index with a plain list.
    #[test]
    fn every_term_is_known_after_pushes_pops_and_drops() {
        let mut random = 7_u64;
        let mut below = |end: u64| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
            (random >> 33) % end
        };
        let mut log_index = LogIndex::new(5, 1);
        let mut start = (5, 1);
        let mut list: VecDeque<Entry> = VecDeque::new();
        let mut term = 1;
        for _ in 0..20_000 {
            match below(10) {
                0..6 => {
                    term += u64::from(below(5) == 0);
                    let bytes = [10, 1000, 300_000][below(3) as usize];
                    let next = entry(log_index.last() + 1, term, bytes);
                    log_index.push(&next);
                    list.push_back(next);
                }
                6..9 => {
                    if let Some(last) = list.pop_back() {
                        log_index.pop(&last);
                    }
                }
                _ => {
                    let count = below(4).min(list.len() as u64);
                    for gone in list.drain(..count as usize) {
                        start = (gone.index, gone.term);
                    }
                    log_index.drop_to(start.0, start.1);
                }
            }
            assert_eq!(log_index.start(), start);
            assert_eq!(log_index.last(), start.0 + list.len() as u64);
            assert_eq!(log_index.term(start.0), Some(start.1));
            assert_eq!(log_index.term(start.0.wrapping_sub(1)), None);
            assert_eq!(log_index.term(log_index.last() + 1), None);
            let mut behind = list.iter().map(entry_bytes).sum::<u64>();
            for listed in &list {
                assert_eq!(
                    log_index.term(listed.index),
                    Some(listed.term),
                    "{log_index:?}"
                );
                behind -= entry_bytes(listed);
                let found = log_index.bytes_behind(listed.index);
                assert!(found >= behind, "{found} {behind}");
            }
        }
    }

    #[test]
    fn weights_are_exact_to_a_milestone() {
        let mut log_index = LogIndex::new(0, 0);
        for index in 1..=100 {
            log_index.push(&entry(index, 1, 100_000 - 32));
        }
        log_index.drop_to(40, 1);
        assert_eq!(
            log_index.bytes_behind(100),
            100_000,
            "the last milestone is at 99"
        );
        let half = log_index.bytes_behind(50);
        assert!((5_000_000..=5_000_000 + MILESTONE_BYTES + 100_000).contains(&half));
    }

    #[test]
    fn rows_cover_the_requested_range() {
        let mut log_index = LogIndex::new(10, 1);
        for (index, term) in (11..).zip([1, 1, 2, 2, 5, 5]) {
            log_index.push(&entry(index, term, 1));
        }
        assert_eq!(log_index.rows(11, 17), [(11, 1), (13, 2), (15, 5)]);
        assert_eq!(log_index.rows(14, 15), [(13, 2)]);
        assert_eq!(log_index.rows(12, 14), [(11, 1), (13, 2)]);
    }
}
