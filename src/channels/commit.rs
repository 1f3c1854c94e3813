//! The commit channel: what the raft loop publishes, in log order, for the one component that writes the store.
//!
//! The place of an item in the channel says at which index the item takes effect. A [`Commit::Read`] stands behind
//! every entry that the read has to see. A [`Commit::Snapshot`] or [`Commit::Freeze`] stands exactly at its index. So
//! no item carries an index to wait for.

use crate::command::proposal::{ReadReply, ReplySender};
use crate::command::{Command, SnapshotHeader};
use crate::storage::SnapshotMeta;
use crate::store::Frozen;
use bytes::Bytes;
use futures_channel::oneshot;

/// One item of the commit channel.
#[derive(Debug)]
pub enum Commit {
    /// An entry to apply.
    Apply(Apply),
    /// Reads that may be answered from the map now.
    Read(Vec<ReadReply>),
    /// Take a snapshot of the map in its current state. Carries the snapshot's header.
    Snapshot(Box<SnapshotMeta>),
    /// Hand out the map in its current state.
    Freeze {
        /// Index of the last entry before this item, and the replicated state beside the map.
        header: Box<SnapshotHeader>,
        /// Receives the header and the frozen map.
        reply: oneshot::Sender<(SnapshotHeader, Frozen)>,
    },
    /// Replace the map by the snapshot file with this header. The file came from the leader and is durable.
    Restore(Box<SnapshotMeta>),
}

/// A committed entry. It lacks the commands that were already applied, and the commands whose proposer is not a member.
#[derive(Debug)]
pub struct Apply {
    /// Index of the entry, which becomes the ETag of the values that it writes.
    pub index: u64,
    /// Bytes of the entry, for the limit on entries that are published and not applied.
    pub bytes: usize,
    /// Data of the entry. Keys and values of its commands are slices of this buffer.
    pub data: Bytes,
    /// Commands on the map, in order, each with its reply channel if this node proposed it. Empty for an entry that
    /// only advances the index: a new leader's first entry, or a conf change.
    pub commands: Vec<(Command, Option<ReplySender>)>,
}
