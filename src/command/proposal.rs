//! A client's request on its way through raft, and the channel for its outcome.
//!
//! The reply travels with the request. The API puts the sending half of a one-shot channel into the [`Proposal`] or
//! [`Read`]. The node keeps the sender with the pending command. The code that learns the outcome sends the outcome.
//! Dropping the sender means "unknown" to the receiver, so no code path can silently forget a client.
//!
//! The channel is that of `futures-channel`, which needs no particular runtime: nothing between the API and the store
//! needs tokio.

use crate::command::Command;
use crate::command::outcome::NotProposed;
use crate::command::outcome::NotTransferred;
use crate::command::outcome::Outcome;
use futures_channel::oneshot;

/// A request to transfer leadership to another member.
#[derive(Debug)]
pub struct Transfer {
    /// Id of the member that should become the leader.
    pub to: u64,
    /// When to give up, in ticks from now. At least 1.
    pub deadline_ticks: u64,
    /// Receives `Ok` once this node has seen the member lead, or the reason why the transfer failed.
    pub reply: TransferReply,
}

/// Receives the outcome of a transfer.
pub type TransferReply = oneshot::Sender<Result<(), NotTransferred>>;

/// One command and the channel for its outcome.
#[derive(Debug)]
pub struct Proposal {
    /// The command. The node sets its `sequence`.
    pub command: Command,
    /// When to give up, in ticks from now: the outcome is then `NotProposed` or `Unknown`. At least 1.
    pub deadline_ticks: u64,
    /// Receives the outcome.
    pub reply: ReplySender,
}

/// Receives the outcome of a proposal.
pub type ReplySender = oneshot::Sender<Outcome>;

/// A linearizable read. The reply is sent once the map contains every write that was acknowledged before the read
/// arrived.
#[derive(Debug)]
pub struct Read {
    /// When to give up, in ticks from now. At least 1.
    pub deadline_ticks: u64,
    /// Receives `Ok` when the caller may read, or the reason why it may not.
    pub reply: ReadReply,
}

/// Receives the permission for a linearizable read.
pub type ReadReply = oneshot::Sender<Result<(), NotProposed>>;
