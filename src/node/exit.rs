//! Why a node has to end. It is told once; until the process ends, the node goes on.

use super::Node;
use crate::command::version::Later;

/// Why a node has to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// It is not a member any more, by the entry at this index, and a member that knows it said so.
    Removed {
        /// Index of the removing entry.
        index: u64,
    },
    /// Its id and peer URL are bound to another data directory.
    Replaced {
        /// The peer that says so.
        by: u64,
    },
    /// Its directory is from before it was let in, and it has been a voter since.
    StateLost {
        /// The peer that says so.
        by: u64,
    },
    /// Another process runs with its incarnation, and was there first.
    Twice {
        /// The peer that says so.
        by: u64,
    },
    /// Its cluster knows of a later start of this member than its directory does: it runs on an older copy.
    OlderCopy {
        /// The cluster knew that before it knew this start. Otherwise the later one is that of a copy which was made
        /// meanwhile, and which may have less.
        proven: bool,
        /// The number of this start.
        boot: u64,
        /// The number of the start that the cluster knows.
        known: u64,
    },
    /// The leader knows of entries on this node's disk that are not there: an older copy, or a lost tail.
    LostTail {
        /// The leader.
        by: u64,
        /// What the leader holds to be committed here.
        committed: u64,
        /// What is here.
        last: u64,
    },
    /// The logs of two members differ at an index that one of them knows to be committed.
    PartedLog {
        /// The other member.
        by: u64,
        /// The index.
        index: u64,
    },
    /// Only a later version knows what it is sent. Nothing of that was applied, and nothing behind it.
    Later {
        /// An entry, or a snapshot.
        what: &'static str,
        /// Its index.
        index: u64,
        /// What it needs.
        later: Later,
    },
    /// Two members have led in one term.
    TwoLeaders {
        /// The term.
        term: u64,
        /// The leader that was known.
        known: u64,
        /// The other.
        other: u64,
        /// The last index of the own log.
        last: u64,
    },
}

/// How far this node is on its way out.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// The own removal was published, at this index: nothing is proposed any more, and raft goes on in the old
    /// configuration until a member says that the removal is settled.
    pub leaving: Option<u64>,
    /// Not told yet.
    pub exit: Option<Exit>,
    pub exit_told: bool,
}

impl Node {
    pub(super) fn end(&mut self, exit: Exit) {
        if !std::mem::replace(&mut self.ending.exit_told, true) {
            self.ending.exit = Some(exit);
        }
    }
}
