//! What the WAL says beside its entries.

use crate::limits;
use crate::storage::state::Mark;
use raft::eraftpb::HardState;

/// What the WAL says at some place in it, the entries apart.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::storage) struct WalState {
    pub hard_state: HardState,
    /// The newest marks, ascending, at most [`limits::SNAPSHOTS_KEPT`]; as repeated at the start of a segment.
    pub marks: Vec<Mark>,
    /// Index of the last entry; that of the snapshot when no entry follows it.
    pub last: u64,
}

impl WalState {
    /// Index of the newest mark, 0 if there is none.
    pub fn newest_mark(&self) -> u64 {
        self.marks.last().map_or(0, |mark| mark.index)
    }

    /// Index of the oldest snapshot that is kept: a restart never needs what is before it.
    pub fn oldest_mark(&self) -> u64 {
        self.marks.first().map_or(0, |mark| mark.index)
    }

    pub fn apply_mark(&mut self, mark: &Mark) {
        self.hard_state = mark.hard_state.clone();
        if mark.installed {
            self.last = mark.index;
        }
        // The later mark wins: a restart that found the newest snapshot damaged began from the older one, and the next
        // snapshot may have been taken before the damaged one's index.
        self.marks.retain(|other| other.index < mark.index);
        // As a repetition it must not clear the log a second time.
        self.marks.push(Mark {
            installed: false,
            ..mark.clone()
        });
        if self.marks.len() > limits::SNAPSHOTS_KEPT {
            self.marks.remove(0);
        }
    }
}
