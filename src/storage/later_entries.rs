//! The entries of a log that only a later version of raftkvd can decode.

use crate::command::version::Later;
use crate::command::{self, DecodeError};
use raft::eraftpb::Entry;

/// The entries of a log that only a later version of raftkvd can decode, by ascending index.
#[derive(Debug, Clone, Default)]
pub struct LaterEntries(Vec<(u64, Later)>);

impl LaterEntries {
    /// Checks the next entry, which replaces all entries from its index on.
    pub(super) fn note(&mut self, entry: &Entry) {
        while self.0.pop_if(|(index, _)| *index >= entry.index).is_some() {}
        // A start also ignores data that is not a batch.
        if let Err(DecodeError::Later(later)) = command::of_entry(entry) {
            self.0.push((entry.index, later));
        }
    }

    /// A snapshot has replaced the whole log.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The index of each entry, ascending, and the version that the entry needs.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Later)> {
        self.0.iter().copied()
    }
}
