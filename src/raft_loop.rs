//! The raft thread: takes what waits in the inbox, tells the node, and carries out what the node asks.
//!
//! One pass is: take everything (one wake-up for all of it), feed it in an order that keeps cause before effect, at
//! most one tick, then work off the node's outputs until there are none. Everything that waits meanwhile is served
//! by the next pass in one batch.
//!
//! The loop owns the node and never waits for the store or the network: commits and messages are handed over through
//! queues. For the disk it waits only when it has nothing else to do: see `writer.rs`.

use crate::apply::{Commits, ThreadEnded};
use crate::command::SnapshotHeader;
use crate::commit::{Apply, Commit};
use crate::inbox::{Inbox, Notice};
use crate::metrics::Metrics;
use crate::node::{Exit, Node, Output};
use crate::storage::read_back::Request;
use crate::storage::{DiskError, Meta};
use crate::store::{Frozen, Store};
use crate::transport::Transport;
use crate::writer::{Writer, WriterError, Written};
use futures_channel::oneshot;
use slog::{Logger, warn};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// Where the loop gets its events and puts its work.
pub struct Channels {
    /// Events.
    pub inbox: Arc<Inbox>,
    /// To the WAL. What it holds is bounded by what raft lets be in flight.
    pub writer: Writer,
    /// To the thread that reads the log back. The node asks for few pieces at one time.
    pub read_back: Sender<Request>,
    /// To the store.
    pub commits: Commits,
    /// The map, for what the loop applies itself.
    pub store: Arc<Store>,
    /// To the peers.
    pub transport: Transport,
    /// For the cluster id, which a joiner learns late.
    pub meta: Arc<Meta>,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
    /// Tells the main thread that the process has to end.
    pub exit: Box<dyn Fn(Exit) + Send>,
}

/// Runs until [`Notice::Stop`], until a thread that it works with has ended, or until the disk fails.
pub fn run(
    mut node: Node,
    mut channels: Channels,
    tick: Duration,
    logger: &Logger,
) -> Result<(), DiskError> {
    match serve(&mut node, &mut channels, tick, logger) {
        Ok(()) | Err(WriterError::ThreadEnded) => Ok(()),
        Err(WriterError::Disk(error)) => Err(error),
    }
}

fn serve(
    node: &mut Node,
    channels: &mut Channels,
    tick: Duration,
    logger: &Logger,
) -> Result<(), WriterError> {
    // The first pass does not wait: a node may have work from its start.
    let mut next_tick = Instant::now();
    let mut handing_over: Vec<oneshot::Sender<()>> = Vec::new();
    let mut freezing: Vec<oneshot::Sender<(SnapshotHeader, Frozen)>> = Vec::new();
    let mut dropped = 0;
    let mut crowded = false;
    loop {
        if crowded {
            // Threads that wait for this processor may be about to bring more proposals, and then the batch is larger.
            // With nobody waiting it returns at once.
            std::thread::yield_now();
        }
        let events = channels.inbox.take(next_tick, node.held());
        crowded = events.proposals.len() > 1;
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
                Notice::Connected(peer) => node.peer_connected(peer),
                Notice::Gone(peer) => node.peer_gone(peer),
                Notice::SnapshotSent { to, ok } => node.snapshot_sent(to, ok),
                Notice::SnapshotWritten(written) => {
                    if let Some(job) = node.snapshot_written(*written) {
                        channels.writer.hand_over(job, false)?;
                    }
                }
                Notice::ReadBack(read) => node.read_back(read),
                Notice::Refused(verdict) => node.refused(verdict),
                Notice::Status(reply) => {
                    let mut status = node.status();
                    status.cluster = channels.meta.cluster();
                    status.wal_syncs = channels.writer.written().syncs.count();
                    status.wal_bytes = channels.writer.written().bytes.get();
                    // Whoever asked may have given up.
                    let _ = reply.send(status);
                }
                Notice::Freeze(reply) => freezing.push(reply),
                Notice::Transfer(transfer) => node.transfer(transfer),
                Notice::HandOver(reply) => {
                    node.hand_over();
                    handing_over.push(reply);
                }
                Notice::Stop => {
                    node.stop();
                    return Ok(());
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
            // Before anything of this is said to a peer.
            channels.inbox.set_map_is_current(node.map_is_current());
            carry_out(output, node, channels)?;
        }
        // It may have become so by what was applied.
        channels.inbox.set_map_is_current(node.map_is_current());
        // Behind all outputs: what is published is in the channel, so the position is that index.
        for reply in freezing.drain(..) {
            let header = Box::new(node.snapshot_meta().to_header(channels.meta.cluster()));
            let freeze = Commit::Freeze { header, reply };
            channels.commits.send(vec![freeze])?;
        }
        if !node.is_leader() || node.is_alone() {
            for reply in handing_over.drain(..) {
                // The main thread may have given up waiting.
                let _ = reply.send(());
            }
        }
    }
}

fn carry_out(output: Output, node: &mut Node, channels: &mut Channels) -> Result<(), WriterError> {
    // First the addresses, then the messages that need them.
    if let Some(members) = output.members {
        channels.transport.set_members(&members, false);
    }
    if let Some(leader) = output.leader {
        channels.transport.set_leader(leader);
        if leader != 0 {
            channels.metrics.leader_changes.inc();
        }
    }
    if !output.messages.is_empty() {
        channels.transport.send(output.messages);
    }
    if !output.commits.is_empty() {
        for commit in &output.commits {
            if let Commit::Apply(Apply { commands, .. }) = commit
                && !commands.is_empty()
            {
                let commands = commands.len() as u64;
                channels.metrics.entry_commands.observe_count(commands);
            }
        }
        let applied = channels
            .commits
            .hand_over(output.commits, &channels.store)?;
        if let Some((index, bytes)) = applied.filter(|(index, _)| *index > 0) {
            // By the same way as the news of the thread, so that none overtakes another.
            channels.inbox.applied(index, bytes);
        }
    }
    for request in output.read_backs {
        channels.read_back.send(request).map_err(|_| ThreadEnded)?;
    }
    if let Some(exit) = output.exit {
        (channels.exit)(exit);
    }
    // Last, as it may take the time of an fdatasync.
    if let Some(job) = output.job {
        let quiet = channels.inbox.is_quiet();
        if let Written::Here { number, messages } = channels.writer.hand_over(job, quiet)? {
            node.persisted(number);
            if !messages.is_empty() {
                channels.transport.send(messages);
            }
        }
    }
    Ok(())
}
