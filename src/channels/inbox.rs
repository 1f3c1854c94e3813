//! The inbox: everything that the raft loop waits for. It holds clients' proposals and reads, peers' messages, news of
//! what became durable or was applied, and a few rare notices.
//!
//! One lock and one condition variable guard all of it. So a pass of the loop costs one wake-up, however many events
//! wait. The loop also sees a consistent cut: it never takes an event without the event that caused it. For example, a
//! vote answers a request that was sent after an fsync, so the loop never takes the vote without the news of that
//! fsync.
//!
//! Events that could only wait in the node gather here and do not wake the loop. Proposals gather while the leader's
//! disk writes the previous ones, and the next write takes them all. Reads gather while a read-index round is under
//! way. So batches grow with the load, and a single request does not wait.
//!
//! Every kind of event has a limit. Over the limit, clients are answered that the queue is full, and peer messages are
//! dropped, because raft sends them again.

use crate::channels::notice::Notice;
use crate::channels::notice::Received;
use crate::channels::status::{Closed, Waiting};
use crate::command::outcome::{NotProposed, NotTransferred, Outcome};
use crate::command::proposal::{Proposal, Read, Transfer};
use crate::limits;
use parking_lot::{Condvar, Mutex, MutexGuard};
use protobuf::Message as _;
use raft::eraftpb::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::watch;

/// The raft loop's inbox. Shared by the API, the transport, the WAL thread and the apply thread.
#[derive(Debug, Default)]
pub struct Inbox {
    events: Mutex<Events>,
    wake: Condvar,
    /// See [`Inbox::set_map_is_current`].
    map_is_current: AtomicBool,
    /// See [`Inbox::set_disk_is_full`].
    disk_is_full: AtomicBool,
    passes: AtomicU64,
    /// See [`Inbox::set_closed`].
    closed: watch::Sender<Option<Arc<Closed>>>,
    /// See [`Inbox::set_waiting`].
    waiting: watch::Sender<Option<Arc<Waiting>>>,
}

/// What the loop takes in one pass.
#[derive(Debug, Default)]
pub struct Events {
    /// New proposals, in order of arrival.
    pub proposals: Vec<Proposal>,
    /// New linearizable reads.
    pub reads: Vec<Read>,
    /// Messages of peers. The transport has checked that the sender is the member that the message names, and that the
    /// message is for this member.
    pub messages: Vec<Received>,
    /// Number of the newest ready whose job is durable, or 0 without news.
    pub persisted: u64,
    /// Index of the newest entry in the map, or 0 without news.
    pub applied: u64,
    /// Bytes of entry data applied since the last pass.
    pub applied_bytes: usize,
    /// Rare events, in order of arrival.
    pub notices: Vec<Notice>,
    message_bytes: usize,
    proposal_bytes: usize,
    messages_dropped: u64,
    /// What the node holds; see [`Inbox::take`].
    held: Held,
    /// The loop sleeps and has not been woken yet.
    asleep: bool,
}

/// Proposals and reads that the node holds without an outcome. They count towards the limits of the inbox.
#[derive(Debug, Default, Clone, Copy)]
pub struct Held {
    /// Number of proposals.
    pub proposals: usize,
    /// Bytes of the proposals' keys and values.
    pub proposal_bytes: usize,
    /// Number of reads.
    pub reads: usize,
    /// The node leads and is writing entries, so new proposals would wait for the end of the write.
    pub writing: bool,
    /// A read-index round is under way, so new reads would wait for its end.
    pub reading: bool,
    /// The next entries are held back until the map has caught up.
    pub ahead: bool,
}

impl Inbox {
    /// Queues a proposal. The outcome, including `QueueFull`, is sent through its reply channel.
    pub fn propose(&self, proposal: Proposal) {
        let bytes = proposal.command.payload_bytes();
        let mut events = self.lock();
        let open = events.open();
        let (count, total) = (open.proposals, open.proposal_bytes + bytes);
        // If no proposal is open, there is room for any command, whatever --max-value-bytes is.
        if count >= limits::PROPOSALS_MAX || (count > 0 && total > limits::PROPOSAL_BYTES_MAX) {
            drop(events);
            // The receiver may be gone: its client has given up.
            let _ = proposal
                .reply
                .send(Outcome::NotProposed(NotProposed::QueueFull));
            return;
        }
        events.proposal_bytes += bytes;
        events.proposals.push(proposal);
        self.notify(events);
    }

    /// Sets whether the map holds every acknowledged write: see `Node::map_is_current`. The loop clears this before it
    /// sends a message to a peer, because that peer could then acknowledge a write.
    pub fn set_map_is_current(&self, is_current: bool) {
        self.map_is_current.store(is_current, Ordering::SeqCst);
    }

    /// Sets whether the log of this member has no room for entries: see `Node::disk_is_full`.
    pub fn set_disk_is_full(&self, is_full: bool) {
        self.disk_is_full.store(is_full, Ordering::Relaxed);
    }

    /// Whether the log of this member has no room for entries. Then this member takes no writes.
    pub fn disk_is_full(&self) -> bool {
        self.disk_is_full.load(Ordering::Relaxed)
    }

    /// Sets why this member serves no clients, or `None` if it serves them. The loop calls this before it hands
    /// anything to the store that a client could see.
    pub fn set_closed(&self, closed: Option<Arc<Closed>>) {
        self.closed.send_replace(closed);
    }

    /// Why this member serves no clients, or `None` if it serves them.
    pub fn closed(&self) -> Option<Arc<Closed>> {
        self.closed.borrow().clone()
    }

    /// Sets what this member waits for, or `None` if it has a leader.
    pub fn set_waiting(&self, waiting: Option<Arc<Waiting>>) {
        self.waiting.send_replace(waiting);
    }

    /// What this member waits for, and a notification of each change. `None` while the member has a leader.
    pub fn waiting(&self) -> watch::Receiver<Option<Arc<Waiting>>> {
        self.waiting.subscribe()
    }

    /// What this member waits for before it can serve clients, in one line. `None`: the member serves clients.
    pub fn waits_for(&self) -> Option<String> {
        let closed = self.closed().map(|closed| closed.why.clone());
        closed.or_else(|| self.waiting.borrow().as_ref().map(|said| said.why.clone()))
    }

    /// Completes when this member serves clients.
    pub async fn serves(&self) {
        let (mut closed, mut waiting) = (self.closed.subscribe(), self.waiting.subscribe());
        while self.waits_for().is_some() {
            // The senders live in this inbox.
            tokio::select! {
                _ = closed.changed() => {}
                _ = waiting.changed() => {}
            }
        }
    }

    /// Queues a linearizable read, unless the map is current: then the read succeeds at once. The outcome, including
    /// `QueueFull`, is sent through its reply channel.
    pub fn read(&self, read: Read) {
        if self.map_is_current.load(Ordering::SeqCst) {
            // The receiver may be gone: its client has given up.
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

    /// Queues messages of a peer. `bytes` is their encoded size; for `bound` see [`Received::bound`]. Returns false if
    /// the messages exceeded the limit: they are dropped and counted.
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

    /// Records that the job with this number, and so all jobs before it, are durable.
    pub fn persisted(&self, number: u64) {
        let mut events = self.lock();
        events.persisted = number;
        self.notify(events);
    }

    /// Records that the map holds everything up to this index, and that `bytes` of entry data were applied since the
    /// last call. Wakes the loop only if the node holds entries back until the map has caught up. Otherwise the loop
    /// learns of this with its next event, at the next tick at the latest.
    pub fn applied(&self, index: u64, bytes: usize) {
        let mut events = self.lock();
        events.applied = index;
        events.applied_bytes += bytes;
        self.notify(events);
    }

    /// Queues a notice. A notice about the state of a peer replaces an older notice of the same kind about the same
    /// peer. So a connection that flaps does not fill the inbox.
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

    /// Queues a client's request for another leader. The outcome, including `QueueFull`, is sent through its reply
    /// channel.
    pub fn transfer(&self, transfer: Transfer) {
        let mut events = self.lock();
        let waits = |notice: &&Notice| matches!(notice, Notice::Transfer(_));
        if events.notices.iter().filter(waits).count() >= limits::TRANSFERS_MAX {
            drop(events);
            let full = NotTransferred::NotProposed(NotProposed::QueueFull);
            // The receiver may be gone: its client has given up.
            let _ = transfer.reply.send(Err(full));
            return;
        }
        events.notices.push(Notice::Transfer(transfer));
        self.notify(events);
    }

    /// Takes all events. If none of them lets the node go on, waits for such an event until the deadline. `held` is
    /// what the node holds now. While the node writes, proposals stay here until the write is durable or the deadline
    /// passes. At the deadline they go to the node, which answers clients whose own deadlines have passed.
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

    /// The first half of [`Inbox::take`], for a loop without a thread of its own. Returns whether the loop sleeps
    /// because there is nothing to go on with: until the deadline, or until [`Inbox::is_asleep`] returns false.
    pub fn falls_asleep(&self, now: Instant, deadline: Instant, held: Held) -> bool {
        let mut events = self.lock();
        events.held = held;
        !events.is_due(now < deadline)
    }

    /// The second half of [`Inbox::take`]: takes what waits.
    pub fn take_now(&self, now: Instant, deadline: Instant, held: Held) -> Events {
        let mut events = self.lock();
        events.held = held;
        events.take(now < deadline)
    }

    /// Whether the loop sleeps, and no event that lets it go on has arrived since.
    pub fn is_asleep(&self) -> bool {
        self.lock().asleep
    }

    /// Proposals and reads without an outcome, here and in the node.
    pub fn open(&self) -> Held {
        self.lock().open()
    }

    /// Whether nothing waits here that the loop could do while its disk is busy.
    pub fn is_quiet(&self) -> bool {
        let events = self.lock();
        events.reads.is_empty() && events.messages.is_empty() && events.notices.is_empty()
    }

    /// Number of peer messages dropped so far because the loop could not keep up.
    pub fn messages_dropped(&self) -> u64 {
        self.lock().messages_dropped
    }

    /// Number of passes: how often the loop has taken events. It takes them at least once a tick, unless it hangs.
    pub fn passes(&self) -> u64 {
        self.passes.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Events> {
        self.events.lock()
    }

    fn notify(&self, mut events: MutexGuard<'_, Events>) {
        // A notification is a system call even if nothing waits, so only the first event of a pass notifies.
        let wakes = events.asleep && events.can_go_on();
        events.asleep &= !wakes;
        drop(events);
        if wakes {
            self.wake.notify_one();
        }
    }
}

impl Events {
    /// Whether the loop has something to do. If not, marks the loop as asleep. `in_time`: the loop's deadline has not
    /// passed.
    fn is_due(&mut self, in_time: bool) -> bool {
        self.asleep = in_time && !self.can_go_on();
        !self.asleep
    }

    /// Takes everything except proposals that should gather.
    fn take(&mut self, in_time: bool) -> Events {
        let mut taken = std::mem::take(self);
        // Proposals gather here too, when other events keep the loop awake.
        if in_time && taken.gathers() {
            self.proposals = std::mem::take(&mut taken.proposals);
            self.proposal_bytes = std::mem::take(&mut taken.proposal_bytes);
        }
        // Until the next pass, what was just taken counts as held by the node.
        self.held = taken.open();
        self.messages_dropped = taken.messages_dropped;
        taken
    }

    /// What waits here, and what the node holds.
    fn open(&self) -> Held {
        Held {
            proposals: self.held.proposals + self.proposals.len(),
            proposal_bytes: self.held.proposal_bytes + self.proposal_bytes,
            reads: self.held.reads + self.reads.len(),
            ..self.held
        }
    }

    /// Whether proposals wait for the end of the current write. Large ones do not: they fill a write of their own, and
    /// encoding them takes as long as writing, so the two should overlap.
    fn gathers(&self) -> bool {
        self.held.writing && self.persisted == 0 && self.proposal_bytes < limits::GATHERED_BYTES_MAX
    }

    /// Whether there is an event that lets the node go on.
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
    fn a_flapping_connection_does_not_fill_the_inbox_and_its_newest_notice_comes_last() {
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
