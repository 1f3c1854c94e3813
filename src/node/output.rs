//! The settings of a node, and the work that it hands to its caller.

use super::Exit;
use crate::certificates::KeyFingerprint;
use crate::channels::commit::Commit;
use crate::channels::status::{Closed, Waiting};
use crate::command::Batch;
use crate::members::Members;
use crate::peer_url::PeerUrl;
use crate::storage::Save;
use crate::storage::wal::read_back::Request;
use raft::eraftpb::Message;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The settings of a node.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// The id of this member.
    pub id: u64,
    /// The random number of this member's data directory.
    pub incarnation: u64,
    /// The number of this start of the process, higher at every start. It must be durable before the node is created.
    pub boot: u64,
    /// A random number of this start. Two copies of a data directory may use the same boot number.
    pub run: u64,
    /// The URL at which peers reach this member. `None`: the URL in the members table.
    pub url: Option<PeerUrl>,
    /// The key of this member's certificate. `None` without TLS.
    pub key: Option<KeyFingerprint>,
    /// Whether an operator has given `url` for this start. Only such a URL is worth asking the leader for.
    pub url_given: bool,
    /// The first members of the cluster, if this member was started as one of several.
    pub list: BTreeMap<u64, PeerUrl>,
    /// The peer URL of this start. The process listens for peers on the port of this URL until it ends, whatever the
    /// members table says later. `None`: it is not known.
    pub served_at: Option<PeerUrl>,
    /// The client URLs of the members that this member asks to add it, as text for people. `None`: it asks no member.
    pub joins_through: Option<String>,
    /// The election timeout, in ticks.
    pub election_ticks: usize,
    /// The heartbeat interval, in ticks.
    pub heartbeat_ticks: usize,
    /// See [`crate::config::Tuning::snapshot_bytes`].
    pub snapshot_bytes: u64,
    /// See [`crate::config::Tuning::log_cache_bytes`].
    pub log_cache_bytes: u64,
    /// See [`crate::limits::PINNED_LOG_BYTES_MAX`].
    pub pinned_log_bytes: u64,
    /// The seed of the election timeouts. The seed must differ between members. Otherwise their elections would go on
    /// colliding.
    pub seed: u64,
}

impl NodeSettings {
    /// An empty batch that names this member and this start.
    pub(super) fn batch(&self) -> Batch {
        let mut batch = Batch::new();
        batch.member = self.id;
        batch.incarnation = self.incarnation;
        batch.boot = self.boot;
        batch.run = self.run;
        batch
    }
}

/// What the caller of [`Node::ready`](super::Node::ready) has to do, in the order of the fields.
#[derive(Debug, Default)]
pub struct Output {
    /// Messages to send now.
    pub messages: Vec<Message>,
    /// Work for the WAL.
    pub job: Option<Job>,
    /// Commits for the store.
    pub commits: Vec<Commit>,
    /// Entries to read back from the WAL, for [`Node::read_back`](super::Node::read_back).
    pub read_backs: Vec<Request>,
    /// The members, if they have changed. A change that a snapshot has brought is already durable.
    pub members: Option<Arc<Members>>,
    /// The place of this member according to the members table, for its next start. Set once everything committed
    /// before this start is published, and then at every change.
    pub place: Option<PeerUrl>,
    /// The leader, if it has changed; 0 for none.
    pub leader: Option<u64>,
    /// Why clients are not served, if that has changed. `Some(None)`: clients are served.
    pub closed: Option<Option<Arc<Closed>>>,
    /// What this node waits for, if that has changed. `Some(None)`: the node has a leader.
    pub waiting: Option<Option<Arc<Waiting>>>,
    /// The process has to end. Set once, and the node goes on until the process ends.
    pub exit: Option<Exit>,
}

impl Output {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
            && self.job.is_none()
            && self.commits.is_empty()
            && self.read_backs.is_empty()
            && self.members.is_none()
            && self.place.is_none()
            && self.leader.is_none()
            && self.closed.is_none()
            && self.waiting.is_none()
            && self.exit.is_none()
    }
}

/// Work for the WAL.
#[derive(Debug)]
pub struct Job {
    /// Passed to [`Node::persisted`](super::Node::persisted) once this job and all jobs before it are durable.
    pub number: u64,
    /// What to write.
    pub save: Save,
    /// Messages to send once the job is durable.
    pub messages: Vec<Message>,
    /// All earlier jobs are durable, and this node, if it leads, waits for no follower's answer to an earlier entry.
    pub is_lone: bool,
    /// The node will not read back entries up to this index.
    pub compacted: u64,
}
