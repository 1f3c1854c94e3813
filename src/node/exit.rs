//! The reasons for which a node ends. The node reports the first one only, and goes on until the process ends.

use super::Node;
use crate::command::version::Later;

/// Why a node has to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// An entry removed this member, and a member that has applied that entry said so.
    Removed {
        /// Index of the removing entry.
        index: u64,
    },
    /// The id and peer URL of this member are bound to another data directory.
    Replaced {
        /// The peer that said so.
        by: u64,
    },
    /// The data directory dates from before this member was let in, but this member has been a voter since.
    StateLost {
        /// The peer that said so.
        by: u64,
    },
    /// The cluster of a peer waits for an empty data directory of this member, but this member has started a cluster of its
    /// own.
    NotJoined {
        /// The peer that said so.
        by: u64,
    },
    /// Another process runs with the incarnation of this member, and started first.
    Twice {
        /// The peer that said so.
        by: u64,
    },
    /// The cluster knows a later start of this member than the data directory does: this process runs on an older copy.
    OlderCopy {
        /// True if the cluster knew the later start before it knew this one. Otherwise the later start may be that of a
        /// copy made in the meantime, and that copy may hold less.
        proven: bool,
        /// The boot number of this start.
        boot: u64,
        /// The boot number that the cluster knows.
        known: u64,
    },
    /// The leader counts on entries of this node's log that are not there: the directory is an older copy, or its tail
    /// was lost.
    LostTail {
        /// The leader.
        by: u64,
        /// The index up to which the leader knows this node's log to be committed.
        committed: u64,
        /// The last index of this node's log.
        last: u64,
    },
    /// The logs of two members differ at an index that this member knows to be committed, or a follower has
    /// acknowledged or committed an entry that its leader does not have.
    PartedLog {
        /// The other member.
        by: u64,
        /// The index at which they differ, or of the entry that the leader does not have.
        index: u64,
    },
    /// Only a later version can decode what this node was sent. Neither that entry or snapshot nor any entry after it
    /// was applied.
    Later {
        /// `entry` or `snapshot`.
        what: &'static str,
        /// Its index.
        index: u64,
        /// The version that it needs.
        later: Later,
    },
    /// Two members have led in one term.
    TwoLeaders {
        /// The term.
        term: u64,
        /// The leader that this node knew first.
        known: u64,
        /// The other leader.
        other: u64,
        /// The last index of this node's log.
        last: u64,
    },
}

/// How far this node is on its way out.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// The index at which this node published its own removal. From then on the node proposes nothing, and raft keeps
    /// the old configuration until a member reports that the removal is settled.
    pub leaving: Option<u64>,
    /// This node ends because no client has written to its cluster. So it takes no proposal any more.
    pub takes_nothing: bool,
    /// The reason to end, until the caller takes it.
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
