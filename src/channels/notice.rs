//! Rare events of the raft loop, and the data that notices and peers' messages carry.

use crate::certificates::KeyFingerprint;
use crate::command::SnapshotHeader;
use crate::command::proposal::Transfer;
use crate::identity::{PeerRefusal, Reason};
use crate::peer_url::PeerUrl;
use crate::storage::SnapshotMeta;
use crate::store::Frozen;
use futures_channel::oneshot;
use raft::eraftpb::{Entry, Message};

/// A rare event.
#[derive(Debug)]
pub enum Notice {
    /// A message to this peer was dropped, or its connection failed.
    Unreachable(u64),
    /// This member reached the peer, and the peer accepted it.
    Connected(u64),
    /// The connection of this member to the peer has ended, or can't be made.
    Disconnected(u64),
    /// A connection to this peer broke, and the peer's host refuses a new connection: no process listens there any
    /// more.
    Gone(u64),
    /// The transfer of a snapshot to a peer has ended.
    SnapshotSent {
        /// The id of the receiver.
        to: u64,
        /// Whether the receiver has the whole file, checked and durable.
        ok: bool,
    },
    /// A snapshot that this node took is durable in its final place.
    SnapshotWritten(Box<SnapshotWritten>),
    /// A snapshot that this node took could not be written.
    SnapshotFailed,
    /// Entries that the node requested were read back.
    EntriesRead(EntriesRead),
    /// A peer was met. At most one notice waits for each peer and direction.
    Met(Met),
    /// A peer with this id answered where this member dialled, but did not reveal its incarnation.
    Greeted {
        /// The member id that the peer gives.
        id: u64,
        /// Whether no table binds the peer.
        empty: bool,
    },
    /// A peer that connected was refused, because this member knows another peer URL for its id.
    OtherPlace {
        /// The member id that the peer gives.
        id: u64,
        /// The peer URL that the peer gives.
        url: PeerUrl,
    },
    /// The process that answered where this peer was dialled is not believed to be the peer.
    Unfit(u64, Reason),
    /// A peer refuses this member.
    Refused(PeerRefusal),
    /// The certificate of this member was replaced, and has this key from now on.
    OwnKey(KeyFingerprint),
    /// How far this member, which asks members to add it, has come. One line for people.
    Joining(String),
    /// A request for the node's status.
    Status(oneshot::Sender<crate::channels::status::Status>),
    /// A request for the map as of one index, with the header that a snapshot of it would have.
    Freeze(oneshot::Sender<(SnapshotHeader, Frozen)>),
    /// A client wants another leader: see [`Inbox::transfer`](super::inbox::Inbox::transfer).
    Transfer(Transfer),
    /// Hand leadership over, and answer once this node no longer leads or no member can take over.
    HandOver(oneshot::Sender<()>),
    /// End the loop.
    Stop,
}

impl Notice {
    /// The peer, if the notice is about the state of a peer; and whether this member dialled the peer, where that
    /// matters.
    pub(super) fn of_peer(&self) -> Option<(u64, bool)> {
        match self {
            Notice::Unreachable(id)
            | Notice::Connected(id)
            | Notice::Disconnected(id)
            | Notice::Gone(id) => Some((*id, false)),
            Notice::Unfit(id, _) => Some((*id, true)),
            Notice::Met(met) => Some((met.id, met.dialled)),
            Notice::Greeted { id, .. } | Notice::OtherPlace { id, .. } => Some((*id, false)),
            Notice::Refused(refusal) => Some((refusal.by, refusal.dialled)),
            _ => None,
        }
    }
}

/// A snapshot file that was written.
#[derive(Debug)]
pub struct SnapshotWritten {
    /// The header of the snapshot.
    pub meta: SnapshotMeta,
    /// Size of the file.
    pub bytes: u64,
}

/// Entries that were read back from the WAL.
#[derive(Debug)]
pub struct EntriesRead {
    /// The index from which entries were requested.
    pub first: u64,
    /// The entries from `first` on. `None`: they are deleted, and a snapshot covers them.
    pub entries: Option<Vec<Entry>>,
}

/// A peer that was met: it answered where this member dialled, or it connected by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Met {
    /// The member id of the peer.
    pub id: u64,
    /// The incarnation of the peer's data directory.
    pub incarnation: u64,
    /// The index of the entry that bound the peer, or 0 if no table binds it.
    pub bound_index: u64,
    /// Where the peer answered, if this member dialled it. Otherwise the peer URL that it claims.
    pub url: PeerUrl,
    /// Whether this member dialled the peer.
    pub dialled: bool,
    /// The command version that the peer knows, or 0 if it has not said.
    pub version: u64,
    /// The key with which the peer proved on this connection that it is the member. `None` without TLS.
    pub key: Option<KeyFingerprint>,
}

impl Met {
    /// Whether no table binds the peer.
    pub fn is_empty(&self) -> bool {
        self.bound_index == 0
    }
}

/// A message of a peer.
#[derive(Debug, Clone)]
pub struct Received {
    /// The message as raft reads it.
    pub message: Message,
    /// The sender's incarnation, if the applied table binds the sender's id to it. `None`: the sender can't be judged
    /// yet, and its messages end no process.
    pub bound: Option<u64>,
}
