//! The raft thread: takes what waits in the inbox, tells the node, and carries out what the node asks.
//!
//! One pass is: take everything (one wake-up for all of it), feed it in an order that keeps cause before effect, at
//! most one tick, then work off the node's outputs until there are none. Everything that waits meanwhile is served
//! by the next pass in one batch.
//!
//! The loop owns the node and never waits for the disk, the store or the network: jobs, commits and messages are
//! handed over through queues.

use crate::commit::Commit;
use crate::inbox::{Inbox, Notice};
use crate::node::{Exit, Job, Node, Output};
use crate::storage::Meta;
use crate::store::Frozen;
use crate::transport::Transport;
use futures_channel::oneshot;
use slog::{Logger, warn};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// Where the loop gets its events and puts its work.
pub struct Channels {
    /// Events.
    pub inbox: Arc<Inbox>,
    /// To the WAL thread. What it holds is bounded by what raft lets be in flight.
    pub jobs: Sender<Job>,
    /// To the apply thread. What it holds is bounded by `UNAPPLIED_BYTES_MAX`.
    pub commits: Sender<Vec<Commit>>,
    /// To the peers.
    pub transport: Transport,
    /// For the cluster id, which a joiner learns late.
    pub meta: Arc<Meta>,
    /// Tells the main thread that the process has to end.
    pub exit: Box<dyn Fn(Exit) + Send>,
}

/// Runs until [`Notice::Stop`], or until a thread that it works with has ended.
pub fn run(mut node: Node, channels: Channels, tick: Duration, logger: &Logger) {
    // The first pass does not wait: a node may have work from its start.
    let mut next_tick = Instant::now();
    let mut handing_over: Vec<oneshot::Sender<()>> = Vec::new();
    let mut freezing: Vec<oneshot::Sender<(u64, Frozen)>> = Vec::new();
    let mut dropped = 0;
    loop {
        let events = channels.inbox.take(next_tick, node.held());
        // What is durable comes before the messages: a vote may answer a request that was sent because of it.
        if events.persisted > 0 {
            node.persisted(events.persisted);
        }
        // And what is applied before the notices: a snapshot is written after its index was applied.
        if events.applied > 0 {
            node.applied(events.applied, events.applied_bytes);
        }
        for notice in events.notices {
            match notice {
                Notice::Unreachable(peer) => node.unreachable(peer),
                Notice::SnapshotSent { to, ok } => node.snapshot_sent(to, ok),
                Notice::SnapshotWritten(written) => {
                    let job = node.snapshot_written(*written);
                    if job.is_some_and(|job| channels.jobs.send(job).is_err()) {
                        return;
                    }
                }
                Notice::Refused(verdict) => node.refused(verdict),
                Notice::Status(reply) => {
                    let mut status = node.status();
                    status.cluster = channels.meta.cluster();
                    // Whoever asked may have given up.
                    let _ = reply.send(status);
                }
                Notice::Freeze(reply) => freezing.push(reply),
                Notice::HandOver(reply) => {
                    node.hand_over();
                    handing_over.push(reply);
                }
                Notice::Stop => {
                    node.stop();
                    return;
                }
            }
        }
        for message in events.messages {
            node.step(message);
        }
        for proposal in events.proposals {
            node.propose(proposal);
        }
        for read in events.reads {
            node.read(read);
        }
        let now = Instant::now();
        if now >= next_tick {
            node.tick();
            // Missed ticks are not made up for: see Node::tick.
            next_tick = (next_tick + tick).max(now + tick / 2);
            if !handing_over.is_empty() {
                node.hand_over();
            }
            let total = channels.inbox.messages_dropped();
            if total > dropped {
                warn!(logger, "dropped messages of peers: this member can't keep up"; "messages" => total - dropped);
                dropped = total;
            }
        }
        while let Some(output) = node.ready() {
            if carry_out(output, &channels).is_err() {
                return;
            }
        }
        // Behind all outputs: what is published is in the channel, so the position is that index.
        for reply in freezing.drain(..) {
            let index = node.published();
            if channels
                .commits
                .send(vec![Commit::Freeze { index, reply }])
                .is_err()
            {
                return;
            }
        }
        if !node.is_leader() || node.is_alone() {
            for reply in handing_over.drain(..) {
                // The main thread may have given up waiting.
                let _ = reply.send(());
            }
        }
    }
}

/// A thread that the loop works with has ended: the process is stopping.
struct Ended;

fn carry_out(output: Output, channels: &Channels) -> Result<(), Ended> {
    // First the addresses, then the messages that need them.
    if let Some(members) = output.members {
        channels.transport.set_members(&members, false);
    }
    if let Some(leader) = output.leader {
        channels.transport.set_leader(leader);
    }
    if !output.messages.is_empty() {
        channels.transport.send(output.messages);
    }
    if let Some(job) = output.job {
        channels.jobs.send(job).map_err(|_| Ended)?;
    }
    if !output.commits.is_empty() {
        channels.commits.send(output.commits).map_err(|_| Ended)?;
    }
    if let Some(exit) = output.exit {
        (channels.exit)(exit);
    }
    Ok(())
}
