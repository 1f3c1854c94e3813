//! The values that the node and storage exchange: the changes that a ready makes durable, the state that a restart
//! finds, and the description of a snapshot.

use crate::command::{ReplicatedState, SnapshotHeader};
use crate::storage::log_index::LogIndex;
use raft::eraftpb::{ConfState, Entry, HardState};

/// Describes a snapshot: its place in the log, and the replicated state beside the map.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SnapshotMeta {
    /// Index of the last entry that the snapshot covers.
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

    /// Like [`SnapshotMeta::to_header`], for a file that any client may get. Incarnations are secret, since a process
    /// that knows the incarnation of a member can impersonate that member. This header has none.
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

    /// Converts the header of a snapshot's file.
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

/// The changes that one job of the node makes durable, in their order within the log.
#[derive(Debug, Clone, Default)]
pub struct Save {
    /// A snapshot that is already durable in `snap/` and from which a restart may continue.
    pub mark: Option<Mark>,
    /// Entries. The first one replaces all entries of the log from its index on.
    pub entries: Vec<Entry>,
    /// The newest hard state.
    pub hard_state: Option<HardState>,
    /// Whether the save has to be durable before anything that depends on it happens. If false, only the commit index
    /// moved, and the save may wait for the next save with `sync`.
    pub sync: bool,
}

/// A snapshot from which a restart may continue, and the hard state at the same moment. Both are in one record, because
/// raft can't start from a snapshot above the commit index.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mark {
    /// The snapshot's index.
    pub index: u64,
    /// The term of that index.
    pub term: u64,
    /// A hard state whose commit index is at least `index`.
    pub hard_state: HardState,
    /// Whether the snapshot came from the leader and replaces the whole log. If false, this member took the snapshot,
    /// and the entries after it stay.
    pub installed: bool,
}

/// The state that a restart finds.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// The newest hard state. Its commit index is at least the snapshot's index.
    pub hard_state: HardState,
    /// The snapshot from which the member continues. `None` on an empty member that has not received a snapshot.
    pub snapshot: Option<SnapshotMeta>,
    /// Size of that snapshot's file.
    pub snapshot_bytes: u64,
    /// The index of the whole log that can be read back. The log starts at or before the snapshot and ends with the
    /// last of `entries`. `None` if there is no disk: the log then consists of `entries`, after the snapshot.
    pub log_index: Option<LogIndex>,
    /// The newest entries after the snapshot, without gaps: all that are not known to be committed, and as many
    /// committed ones as fit into the cache.
    pub entries: Vec<Entry>,
}
