//! Members that contradict each other: what a member would say whose log has parted from that of the others, and what is
//! proposed in another's name.
//!
//! No fault of this simulation loses so much that logs part, since no protocol survives that. So a message of such a member
//! is made up, and comes as from the true member. The member that hears it has to end; and what was proposed in another's
//! name must not be written. In truth nothing is lost, so the operator starts the member again.

use crate::strangers::{entry, proposal};
use crate::world::{Event, SECOND, Target, World};
use raft::eraftpb::{Message, MessageType};
use raftkvd::channels::inbox::encoded_bytes;

/// A proof that a member has heard.
pub struct Proof {
    term: u64,
    leader: u64,
    /// Index of an entry that it holds to be committed.
    committed: u64,
}

impl World {
    /// Something that can't be comes to this machine, from a member that its member knows.
    pub fn contradict(&mut self, place: usize) {
        let target = self.target(place);
        let Some(process) = self.machines[place].process.as_ref() else {
            return;
        };
        let (me, position) = (process.id, process.node().position());
        let own = process.view.incarnation;
        let rows = process.view.members.members.iter();
        let bound = rows.filter(|(id, row)| **id != me && row.incarnation != 0);
        let bound: Vec<u64> = bound.map(|(id, _)| *id).collect();
        if bound.is_empty() || self.formed_at.is_none() || position.leader == 0 {
            return;
        }
        let leads = position.leader == me;
        // Nobody ends at the word of a leader that its table does not have yet.
        if !leads && !bound.contains(&position.leader) {
            return;
        }
        let from = *self.faults.pick(&bound);
        let mut message = match (leads, self.faults.below(3)) {
            (true, 0) => {
                self.count("proposals in another's name");
                let random = &mut self.faults;
                let name = match random.chance(500) {
                    // Of another directory with its id.
                    true => (from, random.next() | 1),
                    false => (me, own),
                };
                let mut message = Message::default();
                message.set_msg_type(MessageType::MsgPropose);
                message.entries = vec![entry(0, 0, proposal(name.0, name.1))].into();
                (message.from, message.to) = (from, me);
                self.hears_from_member(target, message);
                return;
            }
            (true, _) => self.holds_too_much(position.last),
            (false, _) => match self.holds_another(target) {
                Some(message) => message,
                None => return,
            },
        };
        message.from = if leads { from } else { position.leader };
        (message.to, message.term) = (me, position.term);
        self.count("logs that seem to have parted");
        self.tell(|| {
            let (kind, from, index) = (message.get_msg_type(), message.from, message.index);
            format!(
                "member {from} seems to have another log than machine {place}: {kind:?} {index}"
            )
        });
        let (term, leader, committed) = (position.term, position.leader, position.committed);
        self.machines[place].contradicted = Some(target.epoch);
        if self.hears_from_member(target, message) {
            let proof = Proof {
                term,
                leader,
                committed,
            };
            self.after(2 * SECOND, Event::Contradicted(target, Box::new(proof)));
        }
    }

    /// False: its inbox is full.
    fn hears_from_member(&mut self, target: Target, message: Message) -> bool {
        let process = self.at(target);
        let row = process.view.members.members.get(&message.from);
        let sender = row.map(|row| row.incarnation);
        let messages = vec![message];
        let bytes = encoded_bytes(&messages);
        let taken = process.inbox.receive(messages, bytes, sender);
        self.wake(target.machine);
        taken
    }

    /// A follower holds more of this term's log than its leader.
    fn holds_too_much(&mut self, last: u64) -> Message {
        let mut message = Message::default();
        // More than is appended before it is heard.
        let index = last + 1_000_000;
        match self.faults.chance(500) {
            true => {
                message.set_msg_type(MessageType::MsgAppendResponse);
                message.index = index;
            }
            false => {
                message.set_msg_type(MessageType::MsgHeartbeatResponse);
                message.commit = index;
            }
        }
        message
    }

    /// A leader sends another entry than the newest that is committed here.
    fn holds_another(&mut self, target: Target) -> Option<Message> {
        let process = self.at(target);
        let position = process.node().position();
        let committed = position.committed;
        let before = process.term_at(committed.checked_sub(1)?)?;
        let term = process.term_at(committed)?;
        // Of an earlier term than the right one, or of a later one.
        let other = if term < position.term {
            term + 1
        } else {
            term - 1
        };
        if other < before.max(1) {
            return None;
        }
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgAppend);
        (message.index, message.log_term) = (committed - 1, before);
        message.entries = vec![entry(committed, other, Vec::new())].into();
        Some(message)
    }

    /// A member was contradicted a while ago, and has not ended.
    pub fn contradicted(&mut self, target: Target, proof: Box<Proof>) {
        // A process that was paused has not looked at its inbox yet.
        if self.machines[target.machine].paused_until + SECOND > self.now {
            self.after(2 * SECOND, Event::Contradicted(target, proof));
            return;
        }
        let process = self.at(target);
        let position = process.node().position();
        let same = (position.term, position.leader) == (proof.term, proof.leader);
        // The entry was there to compare.
        let there = position.snapshot < proof.committed;
        let leads = proof.leader == process.id;
        assert!(
            !same || !(there || leads),
            "member {} goes on, and a log has parted from its own at {}",
            process.id,
            proof.committed
        );
    }
}
