//! Everything that the raft loop waits for, in one place: what clients propose and read, what peers say, what has
//! become durable or was applied, and a few rare notices.
//!
//! One lock and one condition variable, so that a pass of the loop costs one wake-up however many events wait, and
//! so that the loop sees them in a consistent cut: an event that was caused by another (a vote answers a request
//! that was sent after its fsync) is never taken without it.
//!
//! What could only wait in the node anyway gathers here and wakes nobody: proposals while the leader's disk is busy with
//! the ones before (the next write will take them all), and reads while a read-index round is under way. So batches grow
//! with the load, and a lone request waits for nothing.
//!
//! Every lane has a limit. Clients are told that the queue is full; peer messages are dropped, since raft resends.

use crate::channels::notice::Notice;
use crate::channels::notice::Received;
use crate::channels::status::Closed;
use crate::command::outcome::{NotProposed, NotTransferred, Outcome};
use crate::command::proposal::{Proposal, Read, Transfer};
use crate::limits;
use parking_lot::{Condvar, Mutex, MutexGuard};
use protobuf::Message as _;
use raft::eraftpb::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// The raft loop's inbox. Shared by the API, the transport, the WAL thread and the apply thread.
#[derive(Debug, Default)]
pub struct Inbox {
    events: Mutex<Events>,
    wake: Condvar,
    /// See [`Inbox::set_map_is_current`].
    map_is_current: AtomicBool,
    passes: AtomicU64,
    /// See [`Inbox::set_closed`].
    closed: Mutex<Option<Arc<Closed>>>,
}

/// What the loop takes in one pass.
#[derive(Debug, Default)]
pub struct Events {
    /// New proposals, in order of arrival.
    pub proposals: Vec<Proposal>,
    /// New linearizable reads.
    pub reads: Vec<Read>,
    /// Messages of peers, checked by the transport to come from whom they name and to be for this member.
    pub messages: Vec<Received>,
    /// Number of the newest ready whose save is durable, 0 when there is no news.
    pub persisted: u64,
    /// Index of the newest entry in the map, 0 when there is no news.
    pub applied: u64,
    /// Bytes of entry data applied since the last pass.
    pub applied_bytes: usize,
    /// The rest.
    pub notices: Vec<Notice>,
    message_bytes: usize,
    proposal_bytes: usize,
    messages_dropped: u64,
    /// What the node already holds; see [`Inbox::take`].
    held: Held,
    /// The loop sleeps and was not woken yet.
    asleep: bool,
}

/// What the node holds of proposals and reads whose outcome is open. They count towards the inbox's limits.
#[derive(Debug, Default, Clone, Copy)]
pub struct Held {
    /// Proposals.
    pub proposals: usize,
    /// Bytes of their keys and values.
    pub proposal_bytes: usize,
    /// Reads.
    pub reads: usize,
    /// As the leader it is writing entries: new proposals would wait for the end of that.
    pub writing: bool,
    /// A round is under way: new reads would wait for its end.
    pub reading: bool,
    /// What comes next is held back until the map has followed.
    pub ahead: bool,
}

impl Inbox {
    /// Queues a proposal. Its outcome, `QueueFull` included, comes by its reply.
    pub fn propose(&self, proposal: Proposal) {
        let bytes = proposal.command.payload_bytes();
        let mut events = self.lock();
        let open = events.open();
        let (count, total) = (open.proposals, open.proposal_bytes + bytes);
        // A lone command always fits, whatever --max-value-bytes is.
        if count >= limits::PROPOSALS_MAX || (count > 0 && total > limits::PROPOSAL_BYTES_MAX) {
            drop(events);
            // The receiver may be gone: then nobody wants to know.
            let _ = proposal
                .reply
                .send(Outcome::NotProposed(NotProposed::QueueFull));
            return;
        }
        events.proposal_bytes += bytes;
        events.proposals.push(proposal);
        self.notify(events);
    }

    /// The map holds every acknowledged write: see `Node::map_is_current`. The loop sets it, and clears it before it
    /// sends a message to a peer.
    pub fn set_map_is_current(&self, is_current: bool) {
        self.map_is_current.store(is_current, Ordering::SeqCst);
    }

    /// This member serves no clients, or (`None`) it does. The loop says so before it hands anything to the store that a
    /// client could see.
    pub fn set_closed(&self, closed: Option<Arc<Closed>>) {
        *self.lock_closed() = closed;
    }

    /// Why this member serves no clients, if it does not.
    pub fn closed(&self) -> Option<Arc<Closed>> {
        self.lock_closed().clone()
    }

    fn lock_closed(&self) -> MutexGuard<'_, Option<Arc<Closed>>> {
        self.closed.lock()
    }

    /// Queues a linearizable read, if there is anything to wait for. Its outcome, `QueueFull` included, comes by its
    /// reply.
    pub fn read(&self, read: Read) {
        if self.map_is_current.load(Ordering::SeqCst) {
            // The receiver may be gone: then nobody wants to know.
            let _ = read.reply.send(Ok(()));
            return;
        }
        let mut events = self.lock();
        if events.open().reads >= limits::READS_MAX {
            drop(events);
            let _ = read.reply.send(Err(NotProposed::QueueFull));
            return;
        }
        events.reads.push(read);
        self.notify(events);
    }

    /// Queues messages of a peer; `bytes` is their encoded size. Over the limit they are dropped and counted: false.
    /// `bound`: see [`Received::bound`].
    pub fn receive(&self, messages: Vec<Message>, bytes: usize, bound: Option<u64>) -> bool {
        let mut events = self.lock();
        let count = events.messages.len() + messages.len();
        let total = events.message_bytes + bytes;
        if !events.messages.is_empty()
            && (count > limits::INBOX_MESSAGES_MAX || total > limits::INBOX_MESSAGE_BYTES_MAX)
        {
            events.messages_dropped += messages.len() as u64;
            return false;
        }
        events.message_bytes = total;
        let received = messages.into_iter();
        events
            .messages
            .extend(received.map(|message| Received { message, bound }));
        self.notify(events);
        true
    }

    /// The save of this ready, and so of all before it, is durable.
    pub fn persisted(&self, number: u64) {
        let mut events = self.lock();
        events.persisted = number;
        self.notify(events);
    }

    /// The map holds everything up to this index; `bytes` of entry data were applied for it. Mostly nothing
    /// waits for that, and the loop learns it with its next event, by the next tick at the latest.
    pub fn applied(&self, index: u64, bytes: usize) {
        let mut events = self.lock();
        events.applied = index;
        events.applied_bytes += bytes;
        self.notify(events);
    }

    /// Queues a notice. Of those that say how a peer is reached, one of each kind waits at most, so that a connection
    /// that comes and goes fills nothing; the newest comes last.
    pub fn notice(&self, notice: Notice) {
        let mut events = self.lock();
        if let Some(peer) = notice.of_peer() {
            let kind = std::mem::discriminant(&notice);
            let same = |other: &Notice| {
                std::mem::discriminant(other) == kind && other.of_peer() == Some(peer)
            };
            events.notices.retain(|other| !same(other));
        }
        events.notices.push(notice);
        self.notify(events);
    }

    /// Queues a client's request for another leader. Its outcome, `QueueFull` included, comes by its reply.
    pub fn transfer(&self, transfer: Transfer) {
        let mut events = self.lock();
        let waits = |notice: &&Notice| matches!(notice, Notice::Transfer(_));
        if events.notices.iter().filter(waits).count() >= limits::TRANSFERS_MAX {
            drop(events);
            let full = NotTransferred::NotProposed(NotProposed::QueueFull);
            // The receiver may be gone: then nobody wants to know.
            let _ = transfer.reply.send(Err(full));
            return;
        }
        events.notices.push(Notice::Transfer(transfer));
        self.notify(events);
    }

    /// Takes all events. If there is none that the node can use, waits for one until the deadline. `held` is what the
    /// node holds now: while it writes, proposals stay here until the write is durable, or until the deadline, since
    /// the node answers the clients whose own deadlines have passed.
    pub fn take(&self, deadline: Instant, held: Held) -> Events {
        let mut events = self.lock();
        events.held = held;
        loop {
            let wait = deadline.saturating_duration_since(Instant::now());
            if events.is_due(!wait.is_zero()) {
                self.passes.fetch_add(1, Ordering::Relaxed);
                return events.take(!wait.is_zero());
            }
            self.wake.wait_for(&mut events, wait);
        }
    }

    /// The first half of [`Inbox::take`], for a loop without a thread that could wait: there is nothing to go on with, so
    /// the loop sleeps until the deadline, or until [`Inbox::is_asleep`] says that it was woken.
    pub fn falls_asleep(&self, now: Instant, deadline: Instant, held: Held) -> bool {
        let mut events = self.lock();
        events.held = held;
        !events.is_due(now < deadline)
    }

    /// The second half: takes what waits.
    pub fn take_now(&self, now: Instant, deadline: Instant, held: Held) -> Events {
        let mut events = self.lock();
        events.held = held;
        events.take(now < deadline)
    }

    /// The loop sleeps, and nothing has come since that it could go on with.
    pub fn is_asleep(&self) -> bool {
        self.lock().asleep
    }

    /// Proposals and reads without an outcome: what waits here, and what the node holds.
    pub fn open(&self) -> Held {
        self.lock().open()
    }

    /// Nothing is here that the loop could do while its disk is busy.
    pub fn is_quiet(&self) -> bool {
        let events = self.lock();
        events.reads.is_empty() && events.messages.is_empty() && events.notices.is_empty()
    }

    /// Peer messages dropped so far because the loop could not keep up.
    pub fn messages_dropped(&self) -> u64 {
        self.lock().messages_dropped
    }

    /// How often the loop has taken what waits. It does so at least once a tick, unless it hangs.
    pub fn passes(&self) -> u64 {
        self.passes.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Events> {
        self.events.lock()
    }

    fn notify(&self, mut events: MutexGuard<'_, Events>) {
        // A notification is a system call whether somebody waits or not: only the first event of a pass makes it.
        let wakes = events.asleep && events.can_go_on();
        events.asleep &= !wakes;
        drop(events);
        if wakes {
            self.wake.notify_one();
        }
    }
}

impl Events {
    /// The loop has something to do. Otherwise it sleeps from now on. `in_time`: its deadline has not passed.
    fn is_due(&mut self, in_time: bool) -> bool {
        self.asleep = in_time && !self.can_go_on();
        !self.asleep
    }

    /// Takes everything except proposals that should gather.
    fn take(&mut self, in_time: bool) -> Events {
        let mut taken = std::mem::take(self);
        // Also when other events leave no time to sleep.
        if in_time && taken.gathers() {
            self.proposals = std::mem::take(&mut taken.proposals);
            self.proposal_bytes = std::mem::take(&mut taken.proposal_bytes);
        }
        // Until the next pass the node holds also what was just taken.
        self.held = taken.open();
        self.messages_dropped = taken.messages_dropped;
        taken
    }

    /// What is here, and what the node holds.
    fn open(&self) -> Held {
        Held {
            proposals: self.held.proposals + self.proposals.len(),
            proposal_bytes: self.held.proposal_bytes + self.proposal_bytes,
            reads: self.held.reads + self.reads.len(),
            ..self.held
        }
    }

    /// Proposals wait for the end of the write, unless they are large: then they fill a write of their own, and
    /// encoding them takes as long as writing, so that both should overlap.
    fn gathers(&self) -> bool {
        self.held.writing && self.persisted == 0 && self.proposal_bytes < limits::GATHERED_BYTES_MAX
    }

    /// Something is there for the node to go on with.
    fn can_go_on(&self) -> bool {
        (!self.proposals.is_empty() && !self.gathers())
            || (!self.reads.is_empty() && !self.held.reading)
            || !self.messages.is_empty()
            || self.persisted > 0
            || (self.applied > 0 && self.held.ahead)
            || !self.notices.is_empty()
    }
}

/// The encoded size of messages, as [`Inbox::receive`] and the transport's queues count it.
pub fn encoded_bytes(messages: &[Message]) -> usize {
    messages.iter().map(|m| m.compute_size() as usize).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_channel::oneshot;

    #[test]
    fn at_the_deadline_the_node_gets_the_proposals_that_gather_whatever_else_there_is() {
        let inbox = Inbox::default();
        let (reply, _outcome) = oneshot::channel();
        inbox.propose(Proposal {
            command: crate::command::Command::new(),
            deadline_ticks: 1,
            reply,
        });
        let held = Held {
            writing: true,
            ..Held::default()
        };
        let later = Instant::now() + std::time::Duration::from_secs(600);
        inbox.receive(vec![Message::default()], 1, None);
        assert_eq!(inbox.take(later, held).proposals.len(), 0);
        inbox.receive(vec![Message::default()], 1, None);
        assert_eq!(inbox.take(Instant::now(), held).proposals.len(), 1);
    }

    #[test]
    fn a_connection_that_comes_and_goes_fills_nothing_and_its_last_word_is_the_last() {
        let inbox = Inbox::default();
        for _ in 0..1_000 {
            for peer in [2, 3] {
                inbox.notice(Notice::Connected(peer));
                inbox.notice(Notice::Unreachable(peer));
                inbox.notice(Notice::Gone(peer));
            }
        }
        inbox.notice(Notice::Connected(3));
        let taken = inbox.take(Instant::now(), Held::default()).notices;
        assert_eq!(taken.len(), 6, "{taken:?}");
        let of = |peer| taken.iter().rfind(|n| n.of_peer() == Some((peer, false)));
        assert!(matches!(of(2), Some(Notice::Gone(2))), "{taken:?}");
        assert!(matches!(of(3), Some(Notice::Connected(3))), "{taken:?}");
    }
}
