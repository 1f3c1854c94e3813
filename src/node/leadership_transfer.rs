//! Transfers of leadership to a member that a client names. A client may ask any member.
//!
//! The leader decides. Any other member asks the leader by a `MsgTransferLeader`: `index` is the target member, and
//! `log_term` numbers the question. (Raft-rs puts the target into the sender's field, which would name another member
//! as the sender.) The leader answers only to refuse: it sends the same message with `reject` set and the reason in
//! `reject_hint`. The member that asked recognizes success by the change of leader.
//!
//! Invariants:
//! - A request has at most one question under way.
//! - A request is asked again only after a refusal, or in another term, in which the first question is void.
//! - So a refusal says that no transfer was started. With a question under way at the deadline, the outcome is unknown.

use super::Node;
use crate::command::outcome::{NotProposed, NotTransferred};
use crate::command::proposal::{Transfer, TransferReply};
use crate::limits;
use raft::ProgressState;
use raft::eraftpb::{Message, MessageType};
use slog::info;

#[derive(Debug)]
pub(super) struct OpenTransfer {
    to: u64,
    /// Tick at which the client gives up.
    deadline: u64,
    /// Until this tick, a refusal that may be temporary leads to another try.
    patience: u64,
    /// The question that was not refused yet.
    asked: Option<Question>,
    /// The newest refusal, and the tick of the next try.
    refused: Option<(NotTransferred, u64)>,
    reply: TransferReply,
}

/// A question to the leader of a term. The number is unique among all questions of this member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Question {
    term: u64,
    number: u64,
}

/// The requests of this node's clients for another leader.
#[derive(Debug)]
pub(super) struct Transfers {
    pub open: Vec<OpenTransfer>,
    /// The number of the last question.
    pub asked: u64,
}

impl Transfers {
    /// `boot` makes numbers unique across restarts, because an old answer may arrive late.
    pub fn new(boot: u64) -> Transfers {
        Transfers {
            open: Vec::new(),
            asked: boot << 32,
        }
    }
}

impl Node {
    /// Takes a client's request. The outcome is sent through the request's reply channel, by its deadline.
    pub fn transfer(&mut self, transfer: Transfer) {
        let Transfer {
            to,
            deadline_ticks,
            reply,
        } = transfer;
        let refusal = match (self.ending.leaving, self.transfers.open.len()) {
            (Some(_), _) => NotProposed::Stopping,
            (None, limits::TRANSFERS_MAX..) => NotProposed::QueueFull,
            (None, _) => {
                self.transfers.open.push(OpenTransfer {
                    to,
                    deadline: self.now + deadline_ticks.max(1),
                    patience: self.now + self.settings.election_ticks as u64,
                    asked: None,
                    refused: None,
                    reply,
                });
                return;
            }
        };
        // The receiver may be gone: its client has given up.
        let _ = reply.send(Err(NotTransferred::NotProposed(refusal)));
    }

    /// Takes all open requests one step further.
    pub(super) fn pursue_transfers(&mut self) {
        for mut open in std::mem::take(&mut self.transfers.open) {
            match self.pursue(&mut open) {
                // The receiver may be gone: its client has given up.
                Some(outcome) => drop(open.reply.send(outcome)),
                None => self.transfers.open.push(open),
            }
        }
    }

    /// The outcome, if it is known.
    fn pursue(&mut self, open: &mut OpenTransfer) -> Option<Result<(), NotTransferred>> {
        let (term, leader) = (self.raw.raft.term, self.raw.raft.leader_id);
        if leader == open.to {
            return Some(Ok(()));
        }
        if self.now >= open.deadline {
            return Some(Err(open.how_it_stands()));
        }
        let waits = open.refused.is_some_and(|(_, next)| self.now < next);
        if leader == 0 || waits || open.asked.is_some_and(|asked| asked.term == term) {
            return None;
        }
        self.transfers.asked += 1;
        let number = self.transfers.asked;
        open.asked = Some(Question { term, number });
        if !self.is_leader() {
            self.say_transfer(leader, open.to, number, None);
            return None;
        }
        let why = self.begin_transfer(open.to).err()?;
        self.refuse_transfer(open, why)
    }

    /// A peer asks for a transfer, or refuses one.
    pub(super) fn step_transfer(&mut self, message: &Message) {
        let (to, number) = (message.index, message.log_term);
        if !message.reject {
            // A member that asked in another term has given up its question, or will give it up.
            if self.is_leader()
                && message.term == self.raw.raft.term
                && self.ending.leaving.is_none()
                && let Err(why) = self.begin_transfer(to)
            {
                self.say_transfer(message.from, to, number, Some(why));
            }
            return;
        }
        let refused = Question {
            term: message.term,
            number,
        };
        for mut open in std::mem::take(&mut self.transfers.open) {
            let meant = open.to == to && open.asked == Some(refused);
            let why = of_code(message.reject_hint).filter(|_| meant);
            match why.and_then(|why| self.refuse_transfer(&mut open, why)) {
                Some(outcome) => drop(open.reply.send(outcome)),
                None => self.transfers.open.push(open),
            }
        }
    }

    /// Handles a refusal by the leader. Returns the outcome, unless the refusal may be temporary: raft sometimes
    /// forgets which members were active.
    fn refuse_transfer(
        &self,
        open: &mut OpenTransfer,
        why: NotTransferred,
    ) -> Option<Result<(), NotTransferred>> {
        let lasts = matches!(why, NotTransferred::NotFound | NotTransferred::Learner);
        open.asked = None;
        open.refused = Some((why, self.now + self.settings.heartbeat_ticks as u64));
        (lasts || self.now >= open.patience).then_some(Err(why))
    }

    /// Starts a transfer, as the leader. Raft takes no proposals until the transfer ends, at most for an election
    /// timeout.
    fn begin_transfer(&mut self, to: u64) -> Result<(), NotTransferred> {
        let member = self.members.members.get(&to);
        let raft = &self.raw.raft;
        let (Some(member), Some(progress)) = (member, raft.prs().get(to)) else {
            return Err(NotTransferred::NotFound);
        };
        if member.learner {
            return Err(NotTransferred::Learner);
        }
        if to == self.settings.id || raft.lead_transferee == Some(to) {
            return Ok(());
        }
        if raft.lead_transferee.is_some() {
            return Err(NotTransferred::UnderWay);
        }
        // Raft knows which members were active within an election timeout. If such a member's connection has broken
        // since, the transfer would block proposals for a whole election timeout.
        if !progress.recent_active || !self.leadership.heard.contains(&to) {
            return Err(NotTransferred::Inactive);
        }
        let behind = raft.raft_log.committed.saturating_sub(progress.matched);
        let receives_snapshot = progress.state == ProgressState::Snapshot;
        if receives_snapshot || behind > limits::PROMOTION_LAG_ENTRIES_MAX {
            return Err(NotTransferred::Behind);
        }
        info!(self.logger, "handing leadership over at a client's request"; "member" => to);
        self.raw.transfer_leader(to);
        Ok(())
    }

    /// Asks the leader for a transfer, or refuses one.
    fn say_transfer(
        &mut self,
        receiver: u64,
        to: u64,
        number: u64,
        refusal: Option<NotTransferred>,
    ) {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgTransferLeader);
        message.from = self.settings.id;
        message.to = receiver;
        message.term = self.raw.raft.term;
        message.index = to;
        message.log_term = number;
        message.reject = refusal.is_some();
        message.reject_hint = refusal.map_or(0, code);
        self.raw.raft.msgs.push(message);
    }

    /// Ends all requests, because the process stops.
    pub(super) fn stop_transfers(&mut self) {
        for mut open in self.transfers.open.drain(..) {
            open.refused = Some((NotTransferred::NotProposed(NotProposed::Stopping), 0));
            let why = open.how_it_stands();
            let _ = open.reply.send(Err(why));
        }
    }
}

impl OpenTransfer {
    /// The outcome of a request that ends without a transfer.
    fn how_it_stands(&self) -> NotTransferred {
        match (self.asked, self.refused) {
            (Some(_), _) => NotTransferred::Unknown,
            (None, Some((why, _))) => why,
            (None, None) => NotTransferred::NotProposed(NotProposed::NoLeader),
        }
    }
}

const CODES: [(u64, NotTransferred); 5] = [
    (1, NotTransferred::NotFound),
    (2, NotTransferred::Learner),
    (3, NotTransferred::Inactive),
    (4, NotTransferred::Behind),
    (5, NotTransferred::UnderWay),
];

fn code(why: NotTransferred) -> u64 {
    let found = CODES.iter().find(|(_, other)| *other == why);
    found
        .unwrap_or_else(|| panic!("a leader does not refuse with {why:?}"))
        .0
}

fn of_code(code: u64) -> Option<NotTransferred> {
    let found = CODES.iter().find(|(known, _)| *known == code);
    found.map(|(_, why)| *why)
}
