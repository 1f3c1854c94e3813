//! Towards raft: hands over proposals and reads, and gates membership changes on the leader.
//!
//! On a follower "handed over" means forwarded to the leader, who may drop it without a word; on the leader it means
//! in the log. Invariant: at most one conf change of this leader is in the log and not published.

use super::Node;
use super::publish::conf_change_command;
use crate::command::{Command, Kind};
use crate::config;
use crate::members::Decision;
use crate::mutants::{Mutant, is_planted};
use crate::proposal::Outcome;
use raft::ProgressState;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

/// What a leader does with a conf change.
enum Admission {
    Propose,
    Refuse,
    Later,
}

impl Node {
    pub(super) fn hand_proposals_to_raft(&mut self) {
        if self.raw.raft.leader_id == 0 || self.blocked == Some((self.now, self.published)) {
            return;
        }
        self.blocked = None;
        while let Some(after) = self.resend_after {
            let Some(coded) = self.pending.code_in_flight(after) else {
                self.resend_after = None;
                break;
            };
            let last = coded.last_sequence;
            if !self.hand_over_to_raft(coded.entries, coded.membership.as_ref()) {
                return;
            }
            self.resend_after = Some(last);
        }
        let mut deferred = 0;
        while let Some(mut coded) = self.pending.code_unsent() {
            let entries = std::mem::take(&mut coded.entries);
            if !self.hand_over_to_raft(entries, coded.membership.as_ref()) {
                // A change of membership that has to wait lets the writes behind it pass.
                deferred += 1;
                if coded.membership.is_none() || !self.pending.defer_first(deferred) {
                    return;
                }
                continue;
            }
            if !self.pending.has_in_flight() {
                self.last_news = self.now;
            }
            self.pending.handed_over(&coded);
            if is_planted(Mutant::AcknowledgeBeforeCommit) && self.is_leader() {
                let index = self.raw.raft.raft_log.last_index();
                self.pending
                    .resolve_where(|_| true, Outcome::Applied { index });
            }
        }
    }

    pub(super) fn hand_reads_to_raft(&mut self) {
        // A new leader answers reads only once it has committed in its term: until then raft-rs drops them silently.
        let answers = !self.is_leader() || self.raw.raft.commit_to_current_term();
        if self.raw.raft.leader_id == 0 || !answers {
            return;
        }
        if let Some(context) = self.reads.begin(self.now, self.own_added_index) {
            if is_planted(Mutant::StaleRead) {
                self.reads.confirm(&context, self.published);
            }
            self.raw.read_index(context.clone());
            if self.is_leader() {
                self.ask_a_majority(&context);
            }
        }
    }

    /// True when raft took the entries (which on a follower means: forwarded them). Otherwise nothing is offered
    /// before the next tick or publication.
    fn hand_over_to_raft(&mut self, entries: Vec<Entry>, membership: Option<&Command>) -> bool {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.settings.id;
        message.set_entries(entries.into());
        // Raft refuses when there is no leader, while leadership moves, or when too much is uncommitted.
        let taken = match membership.filter(|_| self.is_leader()) {
            Some(command) => self.step_conf_change(message, command),
            None => self.raw.step(message).is_ok(),
        };
        if !taken {
            self.blocked = Some((self.now, self.published));
        }
        taken
    }

    /// A follower's proposal has reached this leader.
    pub(super) fn step_proposal(&mut self, message: Message) {
        if self.leaving.is_some() || message.entries.is_empty() {
            return;
        }
        let is_normal = |e: &Entry| e.get_entry_type() == EntryType::EntryNormal;
        if message.entries.iter().all(is_normal) {
            // What raft drops here, its proposer sends again.
            let _ = self.raw.step(message);
            return;
        }
        // Membership commands come one by one: see Pending::code.
        let command = message.entries.first().and_then(conf_change_command);
        if let Some((_, command)) = command.filter(|_| message.entries.len() == 1) {
            self.step_conf_change(message, &command);
        }
    }

    /// Proposes a conf change as the leader; false when it was not taken, and its proposer has to come again.
    fn step_conf_change(&mut self, mut message: Message, command: &Command) -> bool {
        match self.admit_conf_change(command) {
            Admission::Later => false,
            Admission::Refuse => {
                let entries = message.take_entries().into_iter().map(refused_entry);
                message.set_entries(entries.collect());
                self.raw.step(message).is_ok()
            }
            Admission::Propose => {
                let taken = self.raw.step(message).is_ok();
                if taken {
                    self.conf_change_in_flight = self.raw.raft.raft_log.last_index();
                }
                taken
            }
        }
    }

    /// Decides as the leader what to do with a conf change. Raft-rs would turn one that it can't take into an empty
    /// entry without a word.
    fn admit_conf_change(&mut self, command: &Command) -> Admission {
        if self.conf_change_in_flight > self.published {
            return Admission::Refuse;
        }
        if self.raw.raft.has_pending_conf() {
            // A new leader can't know whether one is among the entries it inherited, until it has applied them.
            return Admission::Later;
        }
        let own = command.kind == Kind::RemoveMember && command.member_id == self.settings.id;
        if own && matches!(self.members.decide(command), Ok(Decision::Change(_))) {
            // A leader does not propose its own removal: the cluster would be without one until a timeout.
            self.hand_over();
            return Admission::Later;
        }
        Admission::Propose
    }

    pub(super) fn promote_learners(&mut self) {
        let raft = &self.raw.raft;
        let committed = raft.raft_log.committed;
        let caught_up = |id: &u64| {
            raft.prs().get(*id).is_some_and(|progress| {
                let behind = committed.saturating_sub(progress.matched);
                // After a snapshot a member is probed until there is an entry to send it: in an idle cluster, for ever.
                let replicates = progress.state == ProgressState::Replicate
                    || (behind == 0 && !is_planted(Mutant::PromotionForgotten));
                let close = behind <= config::PROMOTION_LAG_ENTRIES_MAX;
                progress.recent_active && replicates && close
            })
        };
        let ready: Vec<u64> = self.members.learners().filter(caught_up).collect();
        for id in ready {
            let same = |c: &Command| c.kind == Kind::PromoteMember && c.member_id == id;
            if self.conf_change_in_flight <= self.published && !self.pending.any(same) {
                let mut command = Command::new();
                command.kind = Kind::PromoteMember;
                command.member_id = id;
                command.member_added_index = self.members.members[&id].added_index;
                self.propose_own(command);
            }
        }
    }

    /// Proposes, as the leader, what lets the member that was removed last go home: see
    /// [`Members::unsettled_removal`](crate::members::Members::unsettled_removal).
    pub(super) fn settle_removal(&mut self) {
        let (term, removed) = (self.raw.raft.term, self.members.unsettled_removal);
        let same = |c: &Command| {
            c.kind == Kind::SettleRemoval && (c.leader_term, c.removed_index) == (term, removed)
        };
        if removed == 0 || self.leaving.is_some() || !self.is_leader() || self.pending.any(same) {
            return;
        }
        let mut command = Command::new();
        command.kind = Kind::SettleRemoval;
        command.leader_term = term;
        command.removed_index = removed;
        self.propose_own(command);
    }

    fn propose_own(&mut self, command: Command) {
        let deadline = self.now + 2 * self.settings.election_ticks as u64;
        self.pending.add_own(command, deadline);
    }
}

/// A conf change that comes while another is under way goes into the log as a normal entry: at publication it is
/// refused on every node alike, and its proposer learns of it.
fn refused_entry(entry: Entry) -> Entry {
    let mut normal = Entry::default();
    normal.data = entry.context;
    normal
}
