//! What a node is made with, and what it asks its caller to do.

use super::Exit;
use crate::channels::commit::Commit;
use crate::channels::status::Closed;
use crate::command::Batch;
use crate::members::Members;
use crate::peer_url::PeerUrl;
use crate::storage::Save;
use crate::storage::wal::read_back::Request;
use raft::eraftpb::Message;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a node is made with.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// This member.
    pub id: u64,
    /// The random number of its data directory.
    pub incarnation: u64,
    /// Grows with every start of the process; durable before the node is made.
    pub boot: u64,
    /// A random number of this start. A copy of the data directory may use the same boot number.
    pub run: u64,
    /// Where its peers reach it. `None`: where the members say.
    pub url: Option<PeerUrl>,
    /// The first members of the cluster, if this member was started as one of several.
    pub list: BTreeMap<u64, PeerUrl>,
    /// Ticks of an election timeout.
    pub election_ticks: usize,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// See [`crate::config::Tuning::snapshot_bytes`].
    pub snapshot_bytes: u64,
    /// See [`crate::config::Tuning::log_cache_bytes`].
    pub log_cache_bytes: u64,
    /// See [`crate::limits::PINNED_LOG_BYTES_MAX`].
    pub pinned_log_bytes: u64,
    /// Election timeouts are drawn from it: another one on every member, or their elections would go on colliding.
    pub seed: u64,
}

impl NodeSettings {
    /// A batch without commands, with whose it is.
    pub(super) fn batch(&self) -> Batch {
        let mut batch = Batch::new();
        batch.member = self.id;
        batch.incarnation = self.incarnation;
        batch.boot = self.boot;
        batch.run = self.run;
        batch
    }
}

/// What a call of [`Node::ready`](super::Node::ready) asks the caller to do, in the order of the fields.
#[derive(Debug, Default)]
pub struct Output {
    /// To send now.
    pub messages: Vec<Message>,
    /// To make durable.
    pub job: Option<Job>,
    /// To hand to the store.
    pub commits: Vec<Commit>,
    /// To read back from the WAL, for [`Node::read_back`](super::Node::read_back).
    pub read_backs: Vec<Request>,
    /// The members changed, and the change is durable where that matters.
    pub members: Option<Arc<Members>>,
    /// Where the members say that this one is reached, once all is applied that was committed before its start, and then
    /// whenever it changes: its next start goes by that.
    pub place: Option<PeerUrl>,
    /// The leader changed; 0 for none.
    pub leader: Option<u64>,
    /// Whether clients are served has changed, or why not.
    pub closed: Option<Option<Arc<Closed>>>,
    /// The process has to end. Told once; until it does, the node goes on.
    pub exit: Option<Exit>,
}

impl Output {
    /// There is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
            && self.job.is_none()
            && self.commits.is_empty()
            && self.read_backs.is_empty()
            && self.members.is_none()
            && self.place.is_none()
            && self.leader.is_none()
            && self.closed.is_none()
            && self.exit.is_none()
    }
}

/// Work for the WAL.
#[derive(Debug)]
pub struct Job {
    /// Passed to [`Node::persisted`](super::Node::persisted) once this job and all before it are durable.
    pub number: u64,
    /// What to write.
    pub save: Save,
    /// To send once it is durable.
    pub messages: Vec<Message>,
    /// All before it are durable, and as the leader this node waits for no answer to an entry before it.
    pub is_lone: bool,
    /// Up to this index the node will not want to read entries back.
    pub compacted: u64,
}
