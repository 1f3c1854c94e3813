//! What passes between the node and the disk: what a ready asks to be made durable, what a restart finds, and what
//! describes a snapshot.

use crate::command::{ReplicatedState, SnapshotHeader};
use crate::storage::log_index::LogIndex;
use raft::eraftpb::{ConfState, Entry, HardState};

/// Describes a snapshot: where in the log it stands, and the replicated state beside the map.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SnapshotMeta {
    /// The last index it contains.
    pub index: u64,
    /// The term of that index.
    pub term: u64,
    /// The configuration at that index.
    pub conf_state: ConfState,
    /// Members, removed ids and sessions at that index.
    pub state: ReplicatedState,
}

impl SnapshotMeta {
    /// The header of the snapshot's file.
    pub fn to_header(&self, cluster: u64) -> SnapshotHeader {
        let mut header = SnapshotHeader::new();
        header.cluster = cluster;
        header.index = self.index;
        header.term = self.term;
        header.voters = self.conf_state.voters.clone();
        header.learners = self.conf_state.learners.clone();
        header.state = Some(self.state.clone()).into();
        header
    }

    /// The same for a file that any client may have. It tells no incarnation: who knows one can pass for that member.
    pub fn to_public_header(&self, cluster: u64) -> SnapshotHeader {
        let mut header = self.to_header(cluster);
        let state = header.mut_state();
        for member in state.members.iter_mut() {
            (member.incarnation, member.bound_index) = (0, 0);
        }
        for removed in state.removed.iter_mut() {
            removed.incarnation = 0;
        }
        state.sessions.clear();
        header
    }

    /// Reads a file's header.
    pub fn from_header(header: &SnapshotHeader) -> SnapshotMeta {
        let mut conf_state = ConfState::default();
        conf_state.set_voters(header.voters.clone());
        conf_state.set_learners(header.learners.clone());
        SnapshotMeta {
            index: header.index,
            term: header.term,
            conf_state,
            state: header.get_state().clone(),
        }
    }
}

/// What one ready of raft asks to be made durable, in this order within the log.
#[derive(Debug, Clone, Default)]
pub struct Save {
    /// A snapshot that is already durable in `snap/` and from which a restart may begin.
    pub mark: Option<Mark>,
    /// Entries; the first replaces whatever the log held from its index on.
    pub entries: Vec<Entry>,
    /// The newest hard state.
    pub hard_state: Option<HardState>,
    /// It has to be durable before anything that depends on it is said or done. Without it the save may wait for
    /// the next one that has to (only the commit index moved).
    pub sync: bool,
}

/// A snapshot from which a restart may begin, with the hard state of the same moment: one record, because a mark
/// whose index is above the commit index of the hard state could not be started from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mark {
    /// The snapshot's index.
    pub index: u64,
    /// The term of that index.
    pub term: u64,
    /// Hard state whose commit is at least `index`.
    pub hard_state: HardState,
    /// The snapshot came from the leader and replaces the whole log. Otherwise it was taken here, and entries behind
    /// it stay.
    pub installed: bool,
}

/// What a restart finds.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// The newest hard state; its commit is at least the snapshot's index.
    pub hard_state: HardState,
    /// The snapshot to begin from; `None` on an empty member, which has not received one.
    pub snapshot: Option<SnapshotMeta>,
    /// Size of that snapshot's file.
    pub snapshot_bytes: u64,
    /// Of the whole log that can be read back, which begins at or before the snapshot, up to the last of `entries`.
    /// `None` is for who makes one without a disk: it is `entries`, behind the snapshot.
    pub log_index: Option<LogIndex>,
    /// The newest entries behind the snapshot, without gaps: all that are not known to be committed, and of the others
    /// as many as memory shall hold.
    pub entries: Vec<Entry>,
}
