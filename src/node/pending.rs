//! This node's proposals whose outcome is open, and how they are encoded into entries.
//!
//! A command gets its sequence when it is first handed to raft, and keeps it through every resend, so that it is
//! applied at most once. Commands leave in the order of their sequences. When a later command of this node is applied,
//! an earlier one that is still open was dropped on its way. It can't be applied any more, because its sequence is
//! stale, so it returns to the unsent commands.
//!
//! Invariants:
//! - Sequences in `in_flight` ascend.
//! - An entry never writes a key twice.
//! - At its deadline, a command that was never handed to raft, or is known to be lost, is `NotProposed`. Any other is
//!   `Unknown`.

use crate::channels::inbox::Held;
use crate::command::outcome::{NotProposed, Outcome};
use crate::command::proposal::{Proposal, ReplySender};
use crate::command::version;
use crate::command::{self, Batch, Command};
use crate::limits;
use crate::members;
use crate::numbers::{Index, Ticks};
use protobuf::Message as _;
use raft::eraftpb::{Entry, EntryType};
use std::collections::{HashSet, VecDeque};

/// A command whose outcome is open.
#[derive(Debug)]
struct OpenCommand {
    command: Command,
    /// Tick at which the client gives up.
    deadline: u64,
    /// `None` for a command that the node itself proposes.
    reply: Option<ReplySender>,
}

impl OpenCommand {
    fn bytes(&self) -> usize {
        self.command.payload_bytes()
    }

    /// Sends the outcome. The receiver may be gone: its client has given up.
    fn resolve(self, outcome: Outcome) {
        if let Some(reply) = self.reply {
            let _ = reply.send(outcome);
        }
    }
}

/// All open proposals of this node.
#[derive(Debug)]
pub struct Pending {
    /// An empty batch that names the proposer of all commands.
    batch: Batch,
    sequence: u64,
    /// Not handed to raft, or known to be lost. Without a sequence.
    unsent: VecDeque<OpenCommand>,
    /// Handed to raft, by sequence.
    in_flight: VecDeque<OpenCommand>,
    bytes: usize,
    /// Resend what is in flight, from the first command whose sequence is above this.
    pub resend_after: Option<u64>,
    /// Tick and published index at which raft last took no proposal. Nothing is offered again before either changes.
    pub blocked: Option<(Ticks, Index)>,
    /// Tick of the last sign that commands in flight make progress: an own command was published, a new leader was
    /// found, or commands were sent.
    pub last_news: u64,
}

/// Commands encoded for one proposal message.
#[derive(Debug)]
pub struct Coded {
    pub entries: Vec<Entry>,
    /// The membership command, if this message carries one. It is the only command then.
    pub membership: Option<Command>,
    /// How many commands there are.
    pub commands: usize,
    /// Sequence of the last command.
    pub last_sequence: u64,
    /// The lowest command version that knows all of them, as in [`Batch::version`].
    pub version: u64,
}

impl Pending {
    /// Creates an empty set. The empty batch names the proposer.
    pub fn new(batch: Batch) -> Pending {
        Pending {
            batch,
            sequence: 0,
            unsent: VecDeque::new(),
            in_flight: VecDeque::new(),
            bytes: 0,
            resend_after: None,
            blocked: None,
            last_news: 0,
        }
    }

    /// Takes a client's proposal.
    pub fn add(&mut self, proposal: Proposal, now: u64) {
        self.push(OpenCommand {
            command: proposal.command,
            deadline: now + proposal.deadline_ticks.max(1),
            reply: Some(proposal.reply),
        });
    }

    /// Takes a command that the node itself proposes.
    pub fn add_own(&mut self, command: Command, deadline: u64) {
        self.push(OpenCommand {
            command,
            deadline,
            reply: None,
        });
    }

    fn push(&mut self, open: OpenCommand) {
        self.bytes += open.bytes();
        self.unsent.push_back(open);
    }

    /// What is held here, for the limits of the inbox.
    pub fn held(&self) -> Held {
        Held {
            proposals: self.unsent.len() + self.in_flight.len(),
            proposal_bytes: self.bytes,
            ..Held::default()
        }
    }

    /// Whether a command was handed to raft and has no outcome.
    pub fn has_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Whether any open command satisfies the predicate.
    pub fn any(&self, which: impl Fn(&Command) -> bool) -> bool {
        let mut all = self.in_flight.iter().chain(&self.unsent);
        all.any(|open| which(&open.command))
    }

    /// Encodes the first unsent commands under new sequences: as many as fit into a message, or a single membership
    /// command. They stay unsent until [`Pending::handed_over`] is called.
    pub fn code_unsent(&mut self) -> Option<Coded> {
        let count = message_len(self.unsent.iter());
        for (sequence, open) in (self.sequence + 1..).zip(self.unsent.iter_mut().take(count)) {
            open.command.sequence = sequence;
        }
        self.code(self.unsent.iter().take(count))
    }

    /// Raft took what [`Pending::code_unsent`] returned.
    pub fn handed_over(&mut self, coded: &Coded) {
        self.sequence = coded.last_sequence;
        self.in_flight.extend(self.unsent.drain(..coded.commands));
    }

    /// Moves the first unsent command to the end and returns true, unless all unsent commands were tried: `count` is
    /// the number tried so far. The command has no sequence yet, so the order of sequences is kept.
    pub fn defer_first(&mut self, count: usize) -> bool {
        let more = count < self.unsent.len();
        if more {
            self.unsent.rotate_left(1);
        }
        more
    }

    /// Encodes commands in flight for a resend, starting with the first whose sequence is above `after`. The limits are
    /// those of [`Pending::code_unsent`].
    pub fn code_in_flight(&self, after: u64) -> Option<Coded> {
        let start = self
            .in_flight
            .partition_point(|open| open.command.sequence <= after);
        let count = message_len(self.in_flight.range(start..));
        self.code(self.in_flight.range(start..start + count))
    }

    /// Whether the command with this sequence is the last that was handed over.
    pub fn is_last_in_flight(&self, sequence: u64) -> bool {
        let last = self.in_flight.back();
        last.is_none_or(|open| open.command.sequence <= sequence)
    }

    /// A command of this node with this sequence is being applied. Returns its reply, if it is still open. Earlier
    /// commands in flight were lost on their way and are unsent again.
    pub fn applied(&mut self, sequence: u64) -> Option<ReplySender> {
        let overtaken = self
            .in_flight
            .partition_point(|open| open.command.sequence < sequence);
        if overtaken > 0 {
            let lost: Vec<OpenCommand> = self.in_flight.drain(..overtaken).collect();
            for open in lost.into_iter().rev() {
                self.unsent.push_front(open);
            }
        }
        let open = self
            .in_flight
            .pop_front_if(|open| open.command.sequence == sequence)?;
        self.bytes -= open.bytes();
        open.reply
    }

    /// A snapshot replaced the map, and its session of this member has reached `sequence`. Commands in flight up to
    /// there may or may not have been applied.
    pub fn jumped(&mut self, sequence: u64) {
        while let Some(open) = self
            .in_flight
            .pop_front_if(|open| open.command.sequence <= sequence)
        {
            self.bytes -= open.bytes();
            open.resolve(Outcome::Unknown);
        }
    }

    /// Ends commands past their deadline. `reason` applies to commands that were never handed to raft, or are known to
    /// be lost.
    pub fn expire(&mut self, now: u64, reason: NotProposed) {
        self.end(
            |open| open.deadline <= now,
            Outcome::NotProposed(reason),
            Outcome::Unknown,
        );
    }

    /// Ends membership changes past their deadline. `unsent` is the outcome of those that were never handed to raft, or
    /// are known to be lost.
    pub fn expire_changes(&mut self, now: u64, unsent: Outcome) {
        self.end(
            |open| open.deadline <= now && is_membership(&open.command),
            unsent,
            Outcome::Unknown,
        );
    }

    /// Ends the commands that need a later command version than `known`.
    pub fn give_up_later(&mut self, known: u64) {
        self.end(
            |open| version::awaited_by(&open.command) > known,
            Outcome::NotProposed(NotProposed::NotTaken),
            Outcome::Unknown,
        );
    }

    /// Ends the first commands that were never handed to raft, or all of them.
    pub fn refuse_unsent(&mut self, count: usize, reason: NotProposed) {
        let count = count.min(self.unsent.len());
        for open in self.unsent.drain(..count) {
            self.bytes -= open.bytes();
            open.resolve(Outcome::NotProposed(reason));
        }
    }

    /// Ends all commands, because the node stops.
    pub fn stop(&mut self, reason: NotProposed) {
        self.end(|_| true, Outcome::NotProposed(reason), Outcome::Unknown);
    }

    /// Ends the open commands that `which` selects, with this outcome.
    pub fn resolve_where(&mut self, which: impl Fn(&Command) -> bool, outcome: Outcome) {
        self.end(|open| which(&open.command), outcome.clone(), outcome);
    }

    fn end(&mut self, which: impl Fn(&OpenCommand) -> bool, unsent: Outcome, in_flight: Outcome) {
        let queues = [(&mut self.unsent, unsent), (&mut self.in_flight, in_flight)];
        for (queue, outcome) in queues {
            if !queue.iter().any(&which) {
                continue;
            }
            let (ended, keep) = std::mem::take(queue).into_iter().partition(&which);
            *queue = keep;
            let ended: VecDeque<OpenCommand> = ended;
            for open in ended {
                self.bytes -= open.bytes();
                open.resolve(outcome.clone());
            }
        }
    }

    /// Puts numbered commands into as few entries as the limits allow.
    fn code<'a>(&self, commands: impl Iterator<Item = &'a OpenCommand>) -> Option<Coded> {
        let mut coded = Coded {
            entries: Vec::new(),
            membership: None,
            commands: 0,
            last_sequence: 0,
            version: 0,
        };
        let mut batch = self.batch();
        let mut keys = HashSet::new();
        let mut bytes = 0;
        for open in commands {
            let command = &open.command;
            coded.commands += 1;
            coded.last_sequence = command.sequence;
            coded.version = coded.version.max(version::awaited_by(command));
            if is_membership(command) {
                coded.entries.push(self.conf_change_entry(command));
                coded.membership = Some(command.clone());
                continue;
            }
            let full = bytes + open.bytes() > limits::ENTRY_BYTES_MAX
                || batch.commands.len() >= limits::ENTRY_COMMANDS_MAX
                || command.written_keys().any(|key| keys.contains(key));
            if full && !batch.commands.is_empty() {
                let filled = std::mem::replace(&mut batch, self.batch());
                coded.entries.push(normal_entry(&filled));
                keys.clear();
                bytes = 0;
            }
            keys.extend(command.written_keys());
            bytes += open.bytes();
            batch.version = batch.version.max(version::needed_by(command));
            batch.commands.push(command.clone());
        }
        if !batch.commands.is_empty() {
            coded.entries.push(normal_entry(&batch));
        }
        (coded.commands > 0).then_some(coded)
    }

    fn batch(&self) -> Batch {
        self.batch.clone()
    }

    fn conf_change_entry(&self, command: &Command) -> Entry {
        let mut batch = self.batch();
        // The leader writes the version of a change with a key.
        batch.version = version::awaited_by(command);
        batch.commands.push(command.clone());
        let mut entry = Entry::default();
        entry.set_entry_type(EntryType::EntryConfChange);
        entry.data = members::conf_change(command)
            .write_to_bytes()
            .expect("a conf change has no required field")
            .into();
        entry.context = command::encode(&batch);
        entry
    }
}

pub fn normal_entry(batch: &Batch) -> Entry {
    let mut entry = Entry::default();
    entry.data = command::encode(batch);
    entry
}

/// Whether the command changes the members, and so needs a conf change entry of its own.
pub fn is_membership(command: &Command) -> bool {
    members::is_change(command.kind)
}

/// How many commands at the front of a queue go into one proposal message. A membership command goes alone. A single
/// command goes whatever its size.
fn message_len<'a>(queue: impl Iterator<Item = &'a OpenCommand>) -> usize {
    let mut bytes = 0;
    let mut count = 0;
    for open in queue {
        bytes += open.bytes();
        let alone = is_membership(&open.command) || bytes > limits::PROPOSE_BYTES_MAX;
        if alone {
            return count.max(1);
        }
        count += 1;
    }
    count
}

pub(super) fn answer(reply: Option<ReplySender>, outcome: Outcome) {
    if let Some(reply) = reply {
        // The receiver may be gone: its client has given up.
        let _ = reply.send(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Kind;
    use futures_channel::oneshot;

    type Receiver = oneshot::Receiver<Outcome>;

    fn put(pending: &mut Pending, key: &str) -> Receiver {
        let mut command = Command::new();
        command.key = key.to_owned().into();
        let (reply, receiver) = oneshot::channel();
        let proposal = Proposal {
            command,
            deadline_ticks: 10,
            reply,
        };
        pending.add(proposal, 0);
        receiver
    }

    /// Hands commands over and returns their sequences.
    fn send(pending: &mut Pending) -> Vec<u64> {
        let coded = pending.code_unsent().unwrap();
        pending.handed_over(&coded);
        sequences(&coded)
    }

    fn sequences(coded: &Coded) -> Vec<u64> {
        let batches = coded
            .entries
            .iter()
            .map(|e| command::decode(&e.data).unwrap());
        batches
            .flat_map(|batch| batch.commands.into_iter().map(|c| c.sequence))
            .collect()
    }

    #[test]
    fn writes_of_one_key_never_share_an_entry() {
        let mut pending = Pending::new(Batch::new());
        let _receivers = ["a", "b", "a", "c", "a"].map(|key| put(&mut pending, key));
        let coded = pending.code_unsent().unwrap();
        let batches = coded
            .entries
            .iter()
            .map(|e| command::decode(&e.data).unwrap());
        let sizes: Vec<_> = batches.map(|batch| batch.commands.len()).collect();
        assert_eq!(sizes, [2, 2, 1]);
        assert_eq!(sequences(&coded), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_transaction_shares_an_entry_with_writes_of_other_keys_only() {
        let mut pending = Pending::new(Batch::new());
        let transaction = |pending: &mut Pending, keys: [&str; 2]| {
            let mut command = Command::new();
            command.kind = Kind::Transaction;
            let mut body = command::Transaction::new();
            for key in keys {
                let mut write = command::Write::new();
                write.key = key.to_owned().into();
                body.writes.push(write);
            }
            command.transaction = Some(body).into();
            pending.add_own(command, 10);
        };
        let _a = put(&mut pending, "a");
        transaction(&mut pending, ["b", "c"]);
        let _c = put(&mut pending, "c");
        transaction(&mut pending, ["d", "e"]);
        transaction(&mut pending, ["f", "d"]);
        let _f = put(&mut pending, "f");
        let coded = pending.code_unsent().unwrap();
        let batches = coded
            .entries
            .iter()
            .map(|e| command::decode(&e.data).unwrap());
        let sizes: Vec<_> = batches.map(|batch| batch.commands.len()).collect();
        assert_eq!(sizes, [2, 2, 1, 1]);
        assert!(pending.held().proposal_bytes > 3 + 6);
        pending.stop(NotProposed::Stopping);
        assert_eq!(pending.held().proposal_bytes, 0);
    }

    #[test]
    fn a_membership_command_goes_alone() {
        let mut pending = Pending::new(Batch::new());
        let _first = put(&mut pending, "a");
        let mut command = Command::new();
        command.kind = Kind::RemoveMember;
        pending.add_own(command, 10);
        let _second = put(&mut pending, "b");
        assert_eq!(send(&mut pending), [1]);
        let coded = pending.code_unsent().unwrap();
        assert_eq!(coded.membership.as_ref().unwrap().sequence, 2);
        assert_eq!(coded.entries.len(), 1);
        assert_eq!(
            coded.entries[0].get_entry_type(),
            EntryType::EntryConfChange
        );
        pending.handed_over(&coded);
        assert_eq!(send(&mut pending), [3]);
        assert!(pending.code_unsent().is_none());
    }

    #[test]
    fn what_raft_did_not_take_stays_unsent() {
        let mut pending = Pending::new(Batch::new());
        let mut receiver = put(&mut pending, "a");
        assert_eq!(sequences(&pending.code_unsent().unwrap()), [1]);
        assert_eq!(sequences(&pending.code_unsent().unwrap()), [1]);
        assert!(!pending.has_in_flight());
        pending.expire(10, NotProposed::NoLeader);
        let outcome = Outcome::NotProposed(NotProposed::NoLeader);
        assert_eq!(receiver.try_recv(), Ok(Some(outcome)));
    }

    #[test]
    fn an_overtaken_command_is_sent_again_under_a_new_sequence() {
        let mut pending = Pending::new(Batch::new());
        let mut first = put(&mut pending, "a");
        let _second = put(&mut pending, "b");
        assert_eq!(send(&mut pending), [1, 2]);
        assert!(pending.applied(2).is_some());
        assert_eq!(first.try_recv(), Ok(None));
        assert_eq!(send(&mut pending), [3]);
        assert!(pending.applied(3).is_some());
        assert_eq!(pending.held().proposals, 0);
    }

    #[test]
    fn a_resend_keeps_sequences_and_order() {
        let mut pending = Pending::new(Batch::new());
        let _receivers = ["a", "b", "c"].map(|key| put(&mut pending, key));
        send(&mut pending);
        assert_eq!(sequences(&pending.code_in_flight(1).unwrap()), [2, 3]);
        assert_eq!(sequences(&pending.code_in_flight(0).unwrap()), [1, 2, 3]);
        assert!(pending.code_in_flight(3).is_none());
    }

    #[test]
    fn the_deadline_distinguishes_unsent_from_unknown() {
        let mut pending = Pending::new(Batch::new());
        let mut sent = put(&mut pending, "a");
        send(&mut pending);
        let mut unsent = put(&mut pending, "b");
        pending.expire(9, NotProposed::NoLeader);
        assert_eq!(sent.try_recv(), Ok(None));
        pending.expire(10, NotProposed::NoLeader);
        assert_eq!(sent.try_recv(), Ok(Some(Outcome::Unknown)));
        let outcome = Outcome::NotProposed(NotProposed::NoLeader);
        assert_eq!(unsent.try_recv(), Ok(Some(outcome)));
        assert_eq!(pending.held().proposal_bytes, 0);
    }

    #[test]
    fn a_snapshot_makes_what_it_may_hold_unknown() {
        let mut pending = Pending::new(Batch::new());
        let mut receivers = ["a", "b", "c"].map(|key| put(&mut pending, key));
        send(&mut pending);
        pending.jumped(1);
        let outcomes = receivers.each_mut().map(|r| r.try_recv().unwrap());
        assert_eq!(outcomes, [Some(Outcome::Unknown), None, None]);
    }
}
