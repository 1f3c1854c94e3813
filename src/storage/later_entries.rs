//! The entries of a log that only a later version knows.

use crate::command::version::Later;
use crate::command::{self, DecodeError};
use raft::eraftpb::Entry;

/// The entries of a log that only a later version knows.
#[derive(Debug, Clone, Default)]
pub struct LaterEntries(Vec<(u64, Later)>);

impl LaterEntries {
    /// This one comes next, in place of whatever the log held from its index on.
    pub(super) fn note(&mut self, entry: &Entry) {
        while self.0.pop_if(|(index, _)| *index >= entry.index).is_some() {}
        // What is no batch at all is passed over by a start as well.
        if let Err(DecodeError::Later(later)) = command::of_entry(entry) {
            self.0.push((entry.index, later));
        }
    }

    /// A snapshot has replaced the log.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Their indexes, ascending, and what each needs.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Later)> {
        self.0.iter().copied()
    }
}
