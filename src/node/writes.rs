//! Hands proposals and reads to raft.
//!
//! On the leader, a proposal that was handed over is in the log. On a follower it was forwarded to the leader, which
//! may drop it silently. On the leader, membership changes pass the gate in `membership.rs`.

use super::Node;
use super::pending::Coded;
use super::publish::membership_command;
use super::room::Fit;
use crate::command::outcome::{NotProposed, Outcome};
use crate::command::version;
use crate::command::{self, Command, Kind};
use crate::mutants::{Mutant, is_planted};
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

impl Node {
    pub(super) fn hand_proposals_to_raft(&mut self) {
        self.refuse_if_full();
        if self.raw.raft.leader_id == 0
            || self.pending.blocked == Some((self.now, self.watermarks.published))
        {
            return;
        }
        self.pending.blocked = None;
        if !self.resend() {
            return;
        }
        let mut deferred = 0;
        while let Some(mut coded) = self.pending.code_unsent() {
            if self.gives_up(&coded) {
                continue;
            }
            if self.waits_for_version(&coded) {
                return;
            }
            if self.is_crowded() {
                return self.block_proposals();
            }
            match self.fits_proposal(&coded.entries) {
                Fit::Fits => {}
                Fit::Later => return self.block_proposals(),
                Fit::Full => {
                    let count = coded.commands;
                    self.pending.refuse_unsent(count, NotProposed::DiskFull);
                    continue;
                }
            }
            let entries = std::mem::take(&mut coded.entries);
            if !self.hand_over_to_raft(entries, coded.membership.as_ref()) {
                // A membership change that has to wait lets the later writes pass.
                deferred += 1;
                if coded.membership.is_none() || !self.pending.defer_first(deferred) {
                    return;
                }
                continue;
            }
            if !self.pending.has_in_flight() {
                self.pending.last_news = self.now;
            }
            self.note_proposal(false);
            self.pending.handed_over(&coded);
            if is_planted(Mutant::AcknowledgeBeforeCommit) && self.is_leader() {
                let index = self.raw.raft.raft_log.last_index();
                let writes = [Kind::Put, Kind::Delete, Kind::Transaction];
                let is_write = |c: &Command| writes.contains(&c.kind);
                self.pending
                    .resolve_where(is_write, Outcome::Applied { index });
            }
        }
    }

    /// Hands over again the commands in flight. Returns false if unsent commands have to wait.
    fn resend(&mut self) -> bool {
        while let Some(after) = self.pending.resend_after {
            let Some(coded) = self.pending.code_in_flight(after) else {
                self.pending.resend_after = None;
                break;
            };
            if self.gives_up(&coded) {
                continue;
            }
            if self.waits_for_version(&coded) {
                return false;
            }
            let last = coded.last_sequence;
            match self.fits_proposal(&coded.entries) {
                Fit::Fits => {}
                Fit::Later => {
                    self.block_proposals();
                    return false;
                }
                // Raft may have these commands already. If raft does not have them, a later command that fits makes
                // them void, and they are refused, or they are sent when there is room. Otherwise their clients learn
                // at the deadline that the outcome is unknown.
                Fit::Full => {
                    self.pending.resend_after = Some(last);
                    continue;
                }
            }
            if !self.hand_over_to_raft(coded.entries, coded.membership.as_ref()) {
                if coded.membership.is_none() {
                    return false;
                }
                // A membership change may have to wait for the settlement of another change. That settlement comes
                // later in this queue, so the change must not block the queue. A later command that overtakes the
                // change makes it void, and the change is then proposed again under a new sequence.
                if self.pending.is_last_in_flight(last) {
                    break;
                }
            }
            self.pending.resend_after = Some(last);
        }
        true
    }

    /// Gives up commands whose kind some member does not know. The members, or the leader, have changed since the
    /// commands were made. Returns whether there were any.
    fn gives_up(&mut self, coded: &Coded) -> bool {
        let later = coded.version > 0 && coded.version > self.least_version();
        if later {
            self.pending.give_up_later(self.least_version());
        }
        later
    }

    /// Whether these commands have to wait: all members know them, but none may be proposed for now. They are tried
    /// again at the next tick or publication, until their clients' deadlines.
    fn waits_for_version(&mut self, coded: &Coded) -> bool {
        let waits = coded.version > 0 && coded.version > self.usable_version();
        if waits {
            self.block_proposals();
        }
        waits
    }

    /// Offers no proposals to raft before the next tick or publication.
    fn block_proposals(&mut self) {
        self.note_proposal(true);
        self.pending.blocked = Some((self.now, self.watermarks.published));
    }

    pub(super) fn hand_reads_to_raft(&mut self) {
        // Until a new leader has committed in its term, raft-rs silently drops its reads.
        let answers = !self.is_leader() || self.raw.raft.commit_to_current_term();
        if self.raw.raft.leader_id == 0 || !answers {
            return;
        }
        if let Some(context) = self.reads.begin(self.now) {
            if is_planted(Mutant::StaleRead) {
                self.reads.confirm(&context, self.watermarks.published);
            }
            self.raw.read_index(context.clone());
            if self.is_leader() {
                self.ask_a_majority(&context);
            }
        }
    }

    /// Returns whether raft took the entries. On a follower that means that they were forwarded. Otherwise nothing is
    /// offered to raft before the next tick or publication.
    fn hand_over_to_raft(&mut self, entries: Vec<Entry>, membership: Option<&Command>) -> bool {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.settings.id;
        if self.is_leader() {
            self.pledge(&entries);
        }
        message.set_entries(entries.into());
        // Raft refuses when there is no leader, while leadership is being transferred, or when too much is uncommitted.
        let taken = match membership.filter(|_| self.is_leader()) {
            Some(command) => self.step_conf_change(message, command),
            None => self.raw.step(message).is_ok(),
        };
        // A refused membership change waits only for another change, so the rest goes on.
        if !taken && membership.is_none() {
            self.block_proposals();
        }
        taken
    }

    /// Takes a proposal that a follower has forwarded to this leader.
    pub(super) fn step_proposal(&mut self, message: Message) {
        if self.ending.leaving.is_some()
            || message.entries.is_empty()
            || !self.is_of_sender(&message)
        {
            return;
        }
        let is_normal = |e: &Entry| e.get_entry_type() == EntryType::EntryNormal;
        // An unknown command in the log ends every member that does not know it, at every start, for as long as the log
        // holds the entry.
        let mut known = None;
        let mut last = None;
        for entry in message.entries.iter() {
            let Ok(Some(batch)) = command::of_entry(entry) else {
                return;
            };
            let needed = batch.version;
            if needed > 0 && needed > *known.get_or_insert_with(|| self.usable_version()) {
                return;
            }
            last = Some(batch);
        }
        if self.fits_proposal(&message.entries) != Fit::Fits {
            // The proposer sends it again, and then perhaps to another leader.
            return;
        }
        if message.entries.iter().all(is_normal) {
            self.pledge(&message.entries);
            // If raft drops the message here, the proposer sends it again.
            let _ = self.raw.step(message);
            return;
        }
        // Membership commands come one by one: see pending::message_len.
        let command = last.and_then(membership_command);
        if let Some((batch, command)) = command.filter(|_| message.entries.len() == 1) {
            self.step_forwarded_change(message, &batch, &command);
        }
    }

    /// Proposes a command of this node itself, unless the same command is already open. Returns whether it was
    /// proposed.
    pub(super) fn propose_own(&mut self, command: Command) -> bool {
        // A member that does not know the kind would end.
        if version::needed_by(&command) > self.usable_version() {
            return false;
        }
        let same = |other: &Command| *other == command_without_sequence(&command, other);
        if self.pending.any(same) {
            return false;
        }
        let deadline = self.now + 2 * self.settings.election_ticks as u64;
        self.pending.add_own(command, deadline);
        true
    }
}

/// The command, with the sequence of another.
fn command_without_sequence(command: &Command, other: &Command) -> Command {
    Command {
        sequence: other.sequence,
        ..command.clone()
    }
}
