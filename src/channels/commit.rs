//! The commit channel: what the raft loop publishes, in log order, to the one component that writes the store.
//!
//! Position is meaning: a [`Commit::Read`] stands behind every entry the read has to see, and a [`Commit::Snapshot`]
//! or [`Commit::Freeze`] stands exactly at its index. No message carries an index to wait for.

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
    /// Reads that may now be answered from the map.
    Read(Vec<ReadReply>),
    /// Take a snapshot of the map as it is now; this is what goes into its header.
    Snapshot(Box<SnapshotMeta>),
    /// Somebody wants the map as it is now.
    Freeze {
        /// Index of the last entry before this item, and the replicated state beside the map.
        header: Box<SnapshotHeader>,
        /// Takes both.
        reply: oneshot::Sender<(SnapshotHeader, Frozen)>,
    },
    /// Replace the map by the snapshot file with this header, which was received from the leader and is durable.
    Restore(Box<SnapshotMeta>),
}

/// A committed entry. Commands that were already applied, or came from no member, have been left out.
#[derive(Debug)]
pub struct Apply {
    /// Index of the entry; the ETag of what it writes.
    pub index: u64,
    /// What the entry weighs, for the limit on published entries that are not applied yet.
    pub bytes: usize,
    /// Its data, of which keys and values are slices.
    pub data: Bytes,
    /// Commands on the map, in order. Empty for an entry that only moves the index (a new leader's, a conf change).
    pub commands: Vec<(Command, Option<ReplySender>)>,
}
