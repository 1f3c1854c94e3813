//! The raft loop: takes events from the inbox, passes them to the node, and carries out the node's outputs.
//!
//! One pass takes all waiting events with one wake-up. It feeds them to the node in an order that keeps causes before
//! effects, ticks at most once, and carries out the node's outputs until there are none. Events that arrive during a
//! pass wait for the next pass, which takes them in one batch.
//!
//! The loop owns the node and never waits for the store or the network: it hands commits and messages over through
//! queues. It waits for the disk in two cases: when it has nothing else to do (see `wal.rs`), and to store a new peer
//! URL of this member.
//!
//! [`RaftLoop::pass`] reads no clock, and owns no thread or queue. It reaches the rest of the process through
//! [`Ports`]. The raft thread ([`run`]) passes the daemon's [`Channels`], and the simulation passes its own ports. The
//! simulation therefore tests the code that the daemon runs.

use crate::channels::commit::{Apply, Commit};
use crate::channels::inbox::{Events, Held, Inbox};
use crate::channels::member_hosts::MemberHosts;
use crate::channels::notice::Notice;
use crate::channels::revoked_keys::RevokedKeys;
use crate::channels::status::PeerSeen;
use crate::command::SnapshotHeader;
use crate::members::Members;
use crate::metrics::{self, Metrics};
use crate::node::{Exit, Job, Node, Output};
use crate::peer_url::PeerUrl;
use crate::storage::wal::read_back::Request;
use crate::storage::{DiskError, LogRoom, Meta};
use crate::store::Frozen;
use crate::threads::apply::{Commits, ThreadEnded};
use crate::threads::wal::{Meanwhile, WalWriter, WalWriterError, Written};
use crate::transport::Transport;
use futures_channel::oneshot;
use raft::SnapshotStatus;
use raft::eraftpb::Message;
use slog::{Logger, warn};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// The rest of the process, as a pass of the loop sees it.
pub trait Ports {
    /// The current time.
    fn now(&self) -> Instant;
    /// The source of the loop's events.
    fn inbox(&self) -> &Inbox;
    /// Hands a job to the WAL.
    fn write(&mut self, job: Job, meanwhile: Meanwhile) -> Result<Written, WalWriterError>;
    /// Hands a batch to the store. If the batch was applied on the calling thread, returns the applied index and the
    /// bytes of the entries. `None` if the apply thread has it.
    fn commit(&mut self, batch: Vec<Commit>) -> Result<Option<(u64, usize)>, ThreadEnded>;
    /// Hands a request to the read-back thread.
    fn read_back(&mut self, request: Request) -> Result<(), ThreadEnded>;
    /// Sends messages to peers.
    fn send(&mut self, messages: Vec<Message>);
    /// Publishes a new table of members.
    fn set_members(&mut self, members: &Arc<Members>);
    /// Stores the peer URL that the table of members has for this member. Durable on return.
    fn set_place(&mut self, url: &PeerUrl) -> Result<(), DiskError>;
    /// Publishes that everything up to this index is applied.
    fn set_applied(&mut self, index: u64);
    /// Publishes a change of leader. 0 means that no leader is known.
    fn set_leader(&mut self, leader: u64);
    /// Ends the process.
    fn exit(&mut self, exit: Exit);
    /// The cluster id, 0 while it is not known.
    fn cluster(&self) -> u64;
    /// What the connections show of the members, this member included.
    fn members_seen(&self) -> BTreeMap<u64, PeerSeen>;
    /// Metrics of the WAL's writes.
    fn written(&self) -> &metrics::WalMetrics;
    /// How much the log can store.
    fn log_room(&self) -> LogRoom;
}

/// The ports of the daemon.
pub struct Channels {
    /// The source of events.
    pub inbox: Arc<Inbox>,
    /// The queue to the WAL. Raft's limit of data in flight bounds its contents.
    pub writer: WalWriter,
    /// Requests for the read-back thread. The node has only a few requests outstanding at a time.
    pub read_back: Sender<Request>,
    /// The commit channel to the store.
    pub commits: Commits,
    /// The connections to the peers.
    pub transport: Transport,
    /// The hosts by which clients may name a member.
    pub hosts: Arc<MemberHosts>,
    /// The revoked keys, for the parts that check certificates.
    pub revoked: Arc<RevokedKeys>,
    /// Provides the cluster id, which a joining member learns late, and stores the member's own URL.
    pub meta: Arc<Meta>,
    /// Metrics of this process.
    pub metrics: Arc<Metrics>,
    /// Tells the main thread that the process has to end.
    pub exit: Box<dyn Fn(Exit) + Send>,
}

impl Ports for Channels {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    fn write(&mut self, job: Job, meanwhile: Meanwhile) -> Result<Written, WalWriterError> {
        self.writer.hand_over(job, meanwhile)
    }

    fn commit(&mut self, batch: Vec<Commit>) -> Result<Option<(u64, usize)>, ThreadEnded> {
        for commit in &batch {
            if let Commit::Apply(Apply { commands, .. }) = commit
                && !commands.is_empty()
            {
                let commands = commands.len() as u64;
                self.metrics.entry_commands.observe_count(commands);
            }
        }
        self.commits.hand_over(batch)
    }

    fn read_back(&mut self, request: Request) -> Result<(), ThreadEnded> {
        self.read_back.send(request).map_err(|_| ThreadEnded)
    }

    fn send(&mut self, messages: Vec<Message>) {
        self.transport.send(messages);
    }

    fn set_members(&mut self, members: &Arc<Members>) {
        self.hosts.set(members);
        self.revoked.set(members);
        self.transport.set_members(self.meta.cluster(), members);
    }

    fn set_place(&mut self, url: &PeerUrl) -> Result<(), DiskError> {
        self.meta.set_url(url)
    }

    fn set_applied(&mut self, index: u64) {
        self.transport.set_applied(index);
    }

    fn set_leader(&mut self, leader: u64) {
        self.transport.set_leader(leader);
        if leader != 0 {
            self.metrics.leader_changes.inc();
        }
    }

    fn exit(&mut self, exit: Exit) {
        (self.exit)(exit);
    }

    fn cluster(&self) -> u64 {
        self.meta.cluster()
    }

    fn members_seen(&self) -> BTreeMap<u64, PeerSeen> {
        self.transport.members_seen()
    }

    fn written(&self) -> &metrics::WalMetrics {
        self.writer.written()
    }

    fn log_room(&self) -> LogRoom {
        self.writer.room()
    }
}

/// The raft thread. Runs until [`Notice::Stop`], until a thread that it works with has ended, or until the disk fails.
pub fn run(
    node: Node,
    mut channels: Channels,
    tick: Duration,
    logger: &Logger,
) -> Result<(), DiskError> {
    // The first pass does not wait: the node may have outputs right after its creation.
    let mut raft_loop = RaftLoop::new(node, tick, channels.now(), logger);
    let mut crowded = false;
    loop {
        if crowded {
            // Other threads waiting for this processor may be about to send proposals, which makes the batch larger. If
            // no thread waits, the yield returns at once.
            std::thread::yield_now();
        }
        let events = channels.inbox.take(raft_loop.next_tick, raft_loop.held());
        crowded = events.proposals.len() > 1;
        match raft_loop.pass(events, &mut channels) {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) | Err(WalWriterError::ThreadEnded) => return Ok(()),
            Err(WalWriterError::Disk(error)) => return Err(error),
        }
    }
}

/// The node, and the state that the loop keeps between passes.
pub struct RaftLoop {
    node: Node,
    tick: Duration,
    next_tick: Instant,
    /// Notified when this node is no longer the leader, or when no other member is a voter.
    handing_over: Vec<oneshot::Sender<()>>,
    /// Each waits for a frozen map with everything that this pass has published.
    freezing: Vec<oneshot::Sender<(SnapshotHeader, Frozen)>>,
    /// The number of dropped peer messages at the last report.
    messages_dropped: u64,
    logger: Logger,
}

impl RaftLoop {
    /// A loop whose first tick is due now.
    pub fn new(node: Node, tick: Duration, now: Instant, logger: &Logger) -> RaftLoop {
        RaftLoop {
            node,
            tick,
            next_tick: now,
            handing_over: Vec::new(),
            freezing: Vec::new(),
            messages_dropped: 0,
            logger: logger.clone(),
        }
    }

    /// The node that this loop owns.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// When the next pass is due, even without events.
    pub fn next_tick(&self) -> Instant {
        self.next_tick
    }

    /// The open proposals and reads of the node, and which kinds of events it can't use now. The caller passes this to
    /// the inbox when it takes events.
    pub fn held(&self) -> Held {
        self.node.held()
    }

    /// Runs one pass. `Break`: a notice asked the loop to end.
    pub fn pass(
        &mut self,
        events: Events,
        ports: &mut impl Ports,
    ) -> Result<ControlFlow<()>, WalWriterError> {
        self.node.set_log_room(ports.log_room());
        ports.inbox().set_disk_is_full(self.node.disk_is_full());
        if self.feed(events, ports)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        self.tick_if_due(ports);
        while let Some(output) = self.node.ready() {
            // Set this before a message of the output goes to a peer.
            let is_current = self.node.map_is_current();
            ports.inbox().set_map_is_current(is_current);
            self.carry_out(output, ports)?;
        }
        if let Some(index) = self.node.members_index() {
            ports.set_applied(index);
        }
        // The entries that this pass applied may have made the map current.
        let is_current = self.node.map_is_current();
        ports.inbox().set_map_is_current(is_current);
        // Freeze after all outputs: everything published is then in the channel before the freeze, so the frozen map
        // has the newest index.
        for reply in self.freezing.drain(..) {
            let meta = self.node.snapshot_meta();
            let header = Box::new(meta.to_public_header(ports.cluster()));
            ports.commit(vec![Commit::Freeze { header, reply }])?;
        }
        if !self.node.is_leader() || self.node.is_alone() {
            for reply in self.handing_over.drain(..) {
                // Fails if the main thread has given up waiting.
                let _ = reply.send(());
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn feed(
        &mut self,
        events: Events,
        ports: &mut impl Ports,
    ) -> Result<ControlFlow<()>, WalWriterError> {
        // Report durable jobs before messages: a vote may answer a request that was sent because of such a job.
        if events.persisted > 0 {
            self.node.persisted(events.persisted);
        }
        // Report applied entries before notices: a snapshot is written only after its index was applied.
        if events.applied > 0 {
            self.node.applied(events.applied, events.applied_bytes);
        }
        for notice in events.notices {
            if self.notice(notice, ports)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        for received in events.messages {
            self.node.step(received);
        }
        for proposal in events.proposals {
            self.node.propose(proposal);
        }
        for read in events.reads {
            self.node.read(read);
        }
        Ok(ControlFlow::Continue(()))
    }

    fn notice(
        &mut self,
        notice: Notice,
        ports: &mut impl Ports,
    ) -> Result<ControlFlow<()>, WalWriterError> {
        let node = &mut self.node;
        match notice {
            Notice::Unreachable(peer) => node.unreachable(peer),
            Notice::Connected(peer) => node.peer_connected(peer),
            Notice::Disconnected(peer) => node.note_unreached(peer),
            Notice::Gone(peer) => node.peer_gone(peer),
            Notice::SnapshotSent { to, ok: true } => {
                node.snapshot_sent(to, SnapshotStatus::Finish);
            }
            Notice::SnapshotSent { to, ok: false } => {
                node.snapshot_sent(to, SnapshotStatus::Failure);
            }
            Notice::SnapshotWritten(written) => {
                if let Some(job) = node.snapshot_written(*written) {
                    ports.write(job, Meanwhile::Other)?;
                }
            }
            Notice::SnapshotFailed => node.snapshot_failed(),
            Notice::EntriesRead(read) => node.read_back(read),
            Notice::Met(met) => node.met(met),
            Notice::Greeted { id, empty } => node.greeted(id, empty),
            Notice::OtherPlace { id, url } => node.note_other_place(id, &url),
            Notice::Unfit(id, reason) => node.unfit(id, reason),
            Notice::Refused(refusal) => node.refused(refusal),
            Notice::OwnKey(key) => node.set_own_key(key),
            Notice::Joining(state) => node.joining(state),
            Notice::Status(reply) => {
                let mut status = node.status();
                status.cluster = ports.cluster();
                let mut seen = ports.members_seen();
                for member in &mut status.members {
                    member.seen = seen.remove(&member.id).unwrap_or_default();
                }
                status.wal_syncs = ports.written().syncs.count();
                status.wal_bytes = ports.written().bytes.get();
                // Fails if the client has given up.
                let _ = reply.send(status);
            }
            Notice::Freeze(reply) => self.freezing.push(reply),
            Notice::Transfer(transfer) => node.transfer(transfer),
            Notice::HandOver(reply) => {
                node.hand_over();
                self.handing_over.push(reply);
            }
            Notice::Stop => {
                node.stop();
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn tick_if_due(&mut self, ports: &impl Ports) {
        let now = ports.now();
        if now < self.next_tick {
            return;
        }
        self.node.tick();
        // Missed ticks are skipped: see `Node::tick`.
        self.next_tick = (self.next_tick + self.tick).max(now + self.tick / 2);
        if !self.handing_over.is_empty() {
            self.node.hand_over();
        }
        let total = ports.inbox().messages_dropped();
        if total > self.messages_dropped {
            warn!(self.logger, "dropped messages of peers: this member can't keep up; check its disk and its \
                processors"; "messages" => total - self.messages_dropped);
            self.messages_dropped = total;
        }
    }

    fn carry_out(&mut self, output: Output, ports: &mut impl Ports) -> Result<(), WalWriterError> {
        // Set the addresses before sending messages to them.
        if let Some(members) = output.members {
            ports.set_members(&members);
        }
        // This waits for the disk, once for each change of the URL.
        if let Some(url) = output.place {
            let stored = ports.set_place(&url);
            if let Err(error) = stored {
                // In a shortage, as on a full disk, the only loss is that the next start needs an option.
                if !error.is_shortage() {
                    return Err(error.into());
                }
                warn!(self.logger, "can't store the new peer URL of this member; use --peer-url at the next start"; "url" => %url, "error" => %error);
            }
        }
        // `waiting` is set before `closed`: a cluster that has just formed may have no leader, and in between a client
        // must always find one of the two reasons.
        if let Some(waiting) = output.waiting {
            ports.inbox().set_waiting(waiting);
        }
        if let Some(closed) = output.closed {
            ports.inbox().set_closed(closed);
        }
        if let Some(leader) = output.leader {
            ports.set_leader(leader);
        }
        if !output.messages.is_empty() {
            ports.send(output.messages);
        }
        if !output.commits.is_empty() {
            let applied = ports.commit(output.commits)?;
            if let Some((index, bytes)) = applied.filter(|(index, _)| *index > 0) {
                // Report through the inbox, as the apply thread does, so that reports stay in order.
                ports.inbox().applied(index, bytes);
            }
        }
        for request in output.read_backs {
            ports.read_back(request)?;
        }
        if let Some(exit) = output.exit {
            ports.exit(exit);
        }
        // Do this last, since it may take the time of an fdatasync.
        if let Some(job) = output.job {
            let meanwhile = match ports.inbox().is_quiet() {
                true => Meanwhile::Nothing,
                false => Meanwhile::Other,
            };
            if let Written::Here { number, messages } = ports.write(job, meanwhile)? {
                self.node.persisted(number);
                if !messages.is_empty() {
                    ports.send(messages);
                }
            }
        }
        Ok(())
    }
}
