//! A client's wish on its way through raft, and what became of it.
//!
//! The reply travels with the data: the API puts the sending half of a one-shot channel into the [`Proposal`] or
//! [`Read`], the node carries it beside the pending command, and whoever learns the outcome uses it up. Dropping a
//! reply unused means "unknown" to the receiver, so no path can forget a client silently.
//!
//! The channel is that of `futures-channel`, which belongs to no runtime: nothing between here and the store needs
//! tokio.

use crate::command::Command;
use crate::command::outcome::NotProposed;
use crate::command::outcome::NotTransferred;
use crate::command::outcome::Outcome;
use futures_channel::oneshot;

/// A wish that another member leads.
#[derive(Debug)]
pub struct Transfer {
    /// The member.
    pub to: u64,
    /// When to give up, in ticks from now. At least 1.
    pub deadline_ticks: u64,
    /// Where the outcome goes: it leads as far as this node knows, or why not.
    pub reply: TransferReply,
}

/// Where the outcome of a transfer goes.
pub type TransferReply = oneshot::Sender<Result<(), NotTransferred>>;

/// One command and where its outcome goes.
#[derive(Debug)]
pub struct Proposal {
    /// What to do. Its `sequence` is set by the node.
    pub command: Command,
    /// When to give up, in ticks from now: the outcome is then `NotProposed` or `Unknown`. At least 1.
    pub deadline_ticks: u64,
    /// Where the outcome goes.
    pub reply: ReplySender,
}

/// Where the outcome of a proposal goes.
pub type ReplySender = oneshot::Sender<Outcome>;

/// A linearizable read: the reply comes once everything that was acknowledged before the read arrived is in the map.
#[derive(Debug)]
pub struct Read {
    /// When to give up, in ticks from now. At least 1.
    pub deadline_ticks: u64,
    /// Where the permission to read, or the reason against, goes.
    pub reply: ReadReply,
}

/// Where the permission to read goes.
pub type ReadReply = oneshot::Sender<Result<(), NotProposed>>;
