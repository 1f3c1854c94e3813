//! The rare events of the raft loop, and what they and the messages of peers carry.

use crate::command::SnapshotHeader;
use crate::command::proposal::Transfer;
use crate::identity::{PeerRefusal, Reason};
use crate::peer_url::PeerUrl;
use crate::storage::SnapshotMeta;
use crate::store::Frozen;
use futures_channel::oneshot;
use raft::eraftpb::{Entry, Message};

/// Rare events.
#[derive(Debug)]
pub enum Notice {
    /// A message to this peer was dropped, or its connection failed.
    Unreachable(u64),
    /// This peer was reached, and has accepted this member.
    Connected(u64),
    /// A connection to this peer has broken, and its host refuses another: nobody listens there any more.
    Gone(u64),
    /// The transfer of a snapshot to a peer has ended.
    SnapshotSent {
        /// The receiver.
        to: u64,
        /// It has the whole file, checked and durable.
        ok: bool,
    },
    /// A snapshot that this node took is durable in its final place.
    SnapshotWritten(Box<SnapshotWritten>),
    /// What the node wanted of the log was read back.
    EntriesRead(EntriesRead),
    /// A peer was met. Of each peer one of each kind waits at most.
    Met(Met),
    /// Somebody with this id has answered where this member dialled, and does not say who it is.
    Greeted {
        /// Its member id.
        id: u64,
        /// No table binds it.
        empty: bool,
    },
    /// Whoever answers where a peer was dialled is not believed to be that peer.
    Unfit(u64, Reason),
    /// A peer refuses this member.
    Refused(PeerRefusal),
    /// Somebody wants to know how things stand.
    Status(oneshot::Sender<crate::channels::status::Status>),
    /// Somebody wants the map as of one index, and the header that a snapshot of it has.
    Freeze(oneshot::Sender<(SnapshotHeader, Frozen)>),
    /// A client wants this member to lead: see [`Inbox::transfer`](super::inbox::Inbox::transfer).
    Transfer(Transfer),
    /// Hand leadership over, and say so once this node is not the leader any more or nobody could take it.
    HandOver(oneshot::Sender<()>),
    /// End the loop.
    Stop,
}

impl Notice {
    /// The peer, if it says how that one is met; and whether this member dialled it, where that makes a difference.
    pub(super) fn of_peer(&self) -> Option<(u64, bool)> {
        match self {
            Notice::Unreachable(id) | Notice::Connected(id) | Notice::Gone(id) => {
                Some((*id, false))
            }
            Notice::Unfit(id, _) => Some((*id, true)),
            Notice::Met(met) => Some((met.id, met.dialled)),
            Notice::Greeted { id, .. } => Some((*id, false)),
            Notice::Refused(refusal) => Some((refusal.by, refusal.dialled)),
            _ => None,
        }
    }
}

/// A snapshot file that was written.
#[derive(Debug)]
pub struct SnapshotWritten {
    /// What it holds.
    pub meta: SnapshotMeta,
    /// Its size.
    pub bytes: u64,
}

/// Entries that were read back from the WAL.
#[derive(Debug)]
pub struct EntriesRead {
    /// The index from which they were asked for.
    pub first: u64,
    /// `None`: they are deleted, and a snapshot stands for them.
    pub entries: Option<Vec<Entry>>,
}

/// A peer was met: it answered at an address that this member dialled, or came by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Met {
    /// Its member id.
    pub id: u64,
    /// The incarnation of its data directory.
    pub incarnation: u64,
    /// No table binds it.
    pub empty: bool,
    /// Where it answered, if this member dialled it; otherwise where it says that it is reached.
    pub url: PeerUrl,
    /// This member dialled it.
    pub dialled: bool,
    /// The command version that it knows. 0: it has not said.
    pub version: u64,
}

/// A message of a peer.
#[derive(Debug, Clone)]
pub struct Received {
    /// The message.
    pub message: Message,
    /// The incarnation of its sender, to which the applied table binds the sender's id. `None`: it can't be judged yet, and
    /// its word ends no process.
    pub bound: Option<u64>,
}
