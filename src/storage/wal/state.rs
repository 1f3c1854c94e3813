//! The state of the WAL besides its entries.

use crate::limits;
use crate::storage::state::Mark;
use raft::eraftpb::HardState;

/// The state at some place in the WAL, without the entries.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::storage) struct WalState {
    pub hard_state: HardState,
    /// The newest marks, ascending, at most [`limits::SNAPSHOTS_KEPT`]. The first batch of a segment repeats them.
    pub marks: Vec<Mark>,
    /// Index of the last entry. If no entry follows the snapshot, the index of the snapshot.
    pub last: u64,
}

impl WalState {
    /// Index of the newest mark, 0 if there is none.
    pub fn newest_mark(&self) -> u64 {
        self.marks.last().map_or(0, |mark| mark.index)
    }

    /// Index of the oldest snapshot that is kept. A restart never needs anything before it.
    pub fn oldest_mark(&self) -> u64 {
        self.marks.first().map_or(0, |mark| mark.index)
    }

    pub fn apply_mark(&mut self, mark: &Mark) {
        self.hard_state = mark.hard_state.clone();
        if mark.installed {
            self.last = mark.index;
        }
        // The later mark wins: if a restart found the newest snapshot damaged and used the older one, the next snapshot
        // may have a lower index than the damaged one.
        self.marks.retain(|other| other.index < mark.index);
        // A repeated mark must not clear the log a second time.
        self.marks.push(Mark {
            installed: false,
            ..mark.clone()
        });
        if self.marks.len() > limits::SNAPSHOTS_KEPT {
            self.marks.remove(0);
        }
    }
}
