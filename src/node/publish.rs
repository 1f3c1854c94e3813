//! Publication: turns committed entries, in log order, into commits for the store.
//!
//! This is the only place that decides whether a command is stale, refused or applied. The decision depends on
//! replicated state only, so every node decides alike.

use super::membership::MembersNews;
use super::pending::{answer, is_membership};
use super::{Exit, Node, Output, bound_index, sorted};
use crate::channels::commit::{Apply, Commit};
use crate::command::outcome::{NotProposed, Outcome, Refusal};
use crate::command::proposal::ReplySender;
use crate::command::version::{self, Later};
use crate::command::{self, Batch, Command, DecodeError, Kind};
use crate::members::Decision;
use crate::mutants::{Mutant, is_planted};
use crate::storage::log_index::entry_bytes;
use raft::eraftpb::{ConfChange, Entry, EntryType};
use slog::{info, warn};
use std::cmp::Ordering;
use std::sync::Arc;

/// How far entries have come: `applied <= published`.
#[derive(Debug)]
pub(super) struct Watermarks {
    pub published: u64,
    pub applied: u64,
    /// Bytes of the entries that are published and not applied.
    pub unapplied_bytes: usize,
    /// The next entry needs a later version, so nothing more is published.
    pub halted: bool,
    #[cfg(feature = "later")]
    pub later_published: bool,
    /// Index of the snapshot that ended this node's empty state in this start, or 0.
    pub first_state: u64,
    /// While this node is the only member: the index that the map must reach before [`Node::map_is_current`].
    pub current_from: Option<u64>,
}

impl Watermarks {
    pub fn new(published: u64) -> Watermarks {
        Watermarks {
            published,
            applied: published,
            unapplied_bytes: 0,
            halted: false,
            #[cfg(feature = "later")]
            later_published: false,
            first_state: 0,
            current_from: None,
        }
    }
}

impl Node {
    /// Publishes committed entries.
    pub(super) fn publish(&mut self, entries: Vec<Entry>, output: &mut Output) {
        for entry in entries {
            if self.watermarks.halted {
                return;
            }
            assert_eq!(
                entry.index,
                self.watermarks.published + 1,
                "a gap in what is published"
            );
            let batch = match self.read_entry(&entry) {
                Ok(batch) => batch,
                Err(later) => {
                    self.halt(&entry, later);
                    return;
                }
            };
            self.watermarks.published = entry.index;
            let bytes = entry_bytes(&entry);
            self.snapshots.log_bytes += bytes;
            self.watermarks.unapplied_bytes += bytes as usize;
            let mut apply = Apply {
                index: entry.index,
                bytes: bytes as usize,
                data: entry.data.clone(),
                commands: Vec::new(),
            };
            match (entry.get_entry_type(), batch) {
                (_, None) => {}
                (EntryType::EntryNormal, Some(batch)) => {
                    self.publish_commands(&entry, batch, &mut apply);
                }
                (EntryType::EntryConfChange | EntryType::EntryConfChangeV2, Some(batch)) => {
                    self.publish_conf_change(&entry, batch);
                }
            }
            output.commits.push(Commit::Apply(apply));
        }
    }

    /// The batch of an entry. `None`: the entry carries none, or one that can't be decoded.
    fn read_entry(&self, entry: &Entry) -> Result<Option<Batch>, Later> {
        let index = entry.index;
        match command::of_entry(entry) {
            Ok(batch) => Ok(batch),
            Err(DecodeError::Later(later)) => Err(later),
            Err(DecodeError::Malformed(error)) => {
                // The entry came from a peer with another encoding. Every node skips such an entry.
                warn!(self.logger, "skipping an entry that can't be decoded, as every member does; compare \
                    /-/hash of all members"; "index" => index, "error" => %error);
                Ok(None)
            }
        }
    }

    /// Stops publishing before an entry of a later version, and ends the process. This node does not know the entry's
    /// effect. Skipping the entry, or guessing, would make this map differ from the others for ever.
    fn halt(&mut self, entry: &Entry, later: Later) {
        self.watermarks.halted = true;
        self.end(Exit::Later {
            what: "entry",
            index: entry.index,
            later,
        });
    }

    fn publish_commands(&mut self, entry: &Entry, mut batch: Batch, apply: &mut Apply) {
        let commands = std::mem::take(&mut batch.commands);
        for command in commands {
            let Some(reply) = self.admit(&batch, command.sequence) else {
                continue;
            };
            match command.kind {
                Kind::Put | Kind::Delete | Kind::Transaction => {
                    self.formation.is_used = true;
                    apply.commands.push((command, reply));
                }
                Kind::Settle => self.publish_settlement(&command, entry),
                Kind::DescribeMember => {
                    self.publish_description(&command, batch.version, entry);
                    let index = entry.index;
                    answer(reply, Outcome::Applied { index });
                }
                #[cfg(feature = "later")]
                Kind::Later => self.publish_later(entry.index),
                // A change that waited too long for another change: see refused_entry.
                _ => answer(reply, Outcome::Refused(Refusal::ChangeUnderWay)),
            }
        }
    }

    fn publish_conf_change(&mut self, entry: &Entry, batch: Batch) {
        let index = entry.index;
        let Some((batch, mut command)) = membership_command(batch) else {
            warn!(self.logger, "skipping an entry that holds no membership command, as every member does; compare \
                /-/hash of all members"; "index" => index);
            return;
        };
        let Some(reply) = self.admit(&batch, command.sequence) else {
            return;
        };
        self.formation.is_used = true;
        if batch.version < version::REVOKES {
            // A leader of an earlier version passes the key of an addition on, and ignores it.
            command.member_key_fingerprint.clear();
        }
        let change = match self.members.decide(&command) {
            Ok(Decision::Change(change)) => change,
            Ok(Decision::Nothing) => return self.answer_when_settled(reply, index),
            Err(refusal) => {
                answer(reply, Outcome::Refused(refusal));
                return;
            }
        };
        let id = command.member_id;
        if self.is_news(index) {
            self.log_change(&command, index);
        }
        let before = self.members.members.get(&id).cloned();
        self.members.apply(&command, index);
        self.apply_conf_change(id, &change);
        match command.kind {
            Kind::RemoveMember if is_planted(Mutant::SessionKept) => {}
            Kind::RemoveMember => drop(self.sessions.remove(&id)),
            Kind::MoveMember => {
                self.note_moved(&command, index, before.as_ref().map(|row| row.url.clone()));
            }
            _ => {}
        }
        if let Some(row) = before.filter(|_| index > self.found_last) {
            self.log_revocation(&row, &command, index);
        }
        self.answer_when_settled(reply, index);
        self.tell_members(0);
    }

    /// Whether the entry at this index is newer than the start. An earlier start may have logged the effect of an older
    /// entry.
    pub(super) fn is_news(&self, index: u64) -> bool {
        index > self.found_last
    }

    /// Logs a change that is about to be applied.
    fn log_change(&self, command: &Command, index: u64) {
        let change = match command.kind {
            Kind::AddMember => "added as a learner",
            Kind::BindMember => "bound to its data directory",
            Kind::PromoteMember => "made a voter",
            Kind::MoveMember => "moved",
            Kind::RemoveMember => "removed",
            Kind::CorrectList => {
                info!(self.logger, "the cluster forms from another list"; "members" => command.listed.len(), "index" => index);
                return;
            }
            _ => {
                info!(self.logger, "the cluster has formed"; "members" => self.members.members.len(), "index" => index);
                return;
            }
        };
        let id = command.member_id;
        let url = match command.member_url.is_empty() {
            true => {
                let row = self.members.members.get(&id);
                row.map_or_else(String::new, |row| row.url.to_string())
            }
            false => command.member_url.clone(),
        };
        info!(self.logger, "membership changed"; "change" => change, "member" => id, "url" => url, "index" => index);
    }

    /// Records that the members have changed. They are reported once the ready `after` is durable; 0: at once.
    pub(super) fn tell_members(&mut self, after: u64) {
        let members = Arc::new(self.members.clone());
        self.membership
            .news
            .push_back(MembersNews { after, members });
    }

    fn apply_conf_change(&mut self, id: u64, change: &ConfChange) {
        let index = self.watermarks.published;
        if id == self.settings.id && !self.members.members.contains_key(&id) {
            // Raft is not informed, because raft-rs panics in a leader that has removed itself. And a node that left at
            // once could strand the remaining members, which may need its vote to learn of the removal. So this node
            // goes on in the old configuration, without proposing, until a member reports that the removal is settled.
            self.ending.leaving = Some(index);
            self.pending.stop(NotProposed::Stopping);
            return;
        }
        if self.ending.leaving.is_some() {
            return;
        }
        if id == self.settings.id {
            self.membership.own_bound_index = bound_index(&self.members, &self.settings);
        }
        if is_planted(Mutant::RemovedCounts)
            && change.node_id == id
            && !self.members.members.contains_key(&id)
        {
            return;
        }
        self.raw
            .apply_conf_change(change)
            .expect("the rules of membership allow only what raft can do");
        self.members_changed();
    }

    /// Decides whether a command is carried out. `None`: it was carried out before, or its sender's directory belongs
    /// to no member. Otherwise the reply, if this node proposed the command and the client still waits.
    fn admit(&mut self, batch: &Batch, sequence: u64) -> Option<Option<ReplySender>> {
        let row = self.members.members.get(&batch.member)?;
        if row.incarnation != batch.incarnation && !is_planted(Mutant::IncarnationIgnored) {
            return None;
        }
        let newest = self.sessions.entry(batch.member).or_default();
        let is_stale = match batch.boot.cmp(&newest.boot) {
            Ordering::Less => true,
            // Two processes have used the same boot number: one of them runs on a copy of the directory. The process
            // whose command was published first goes on.
            Ordering::Equal => {
                let is_other = batch.run != newest.run && !is_planted(Mutant::RunIgnored);
                is_other || sequence <= newest.sequence
            }
            Ordering::Greater => false,
        };
        if is_stale && !is_planted(Mutant::AppliedTwice) {
            return None;
        }
        newest.member = batch.member;
        (newest.boot, newest.run, newest.sequence) = (batch.boot, batch.run, sequence);
        let own = (self.settings.id, self.settings.incarnation);
        if (batch.member, batch.incarnation) != own {
            return Some(None);
        }
        let is_other_run = batch.run != self.settings.run && !is_planted(Mutant::RunIgnored);
        if batch.boot != self.settings.boot || is_other_run {
            self.check_own_session();
            return Some(None);
        }
        self.pending.last_news = self.now;
        Some(self.pending.applied(sequence))
    }

    pub(super) fn release_reads(&mut self, output: &mut Output) {
        let released = self.reads.release(self.watermarks.published);
        if released.is_empty() {
            return;
        }
        let is_applied =
            self.watermarks.applied == self.watermarks.published && output.commits.is_empty();
        if is_applied || is_planted(Mutant::ReadBeforeApplied) {
            for reply in released {
                // The receiver may be gone: its client has given up.
                let _ = reply.send(Ok(()));
            }
        } else {
            output.commits.push(Commit::Read(released));
        }
    }

    /// Updates what depends on the members. Raft's configuration and `members` have changed together.
    pub(super) fn members_changed(&mut self) {
        // A snapshot for a member must hold the row that binds it.
        let added = self.members.members.iter();
        let added = added
            .map(|(id, member)| (*id, member.added_index.max(member.bound_index)))
            .collect();
        self.raw.mut_store().set_added(added);
        let members = &self.members.members;
        self.leadership.heard.retain(|id| members.contains_key(id));
        self.asked.keep(|id| members.contains_key(id));
        let forming = &self.members.forming;
        let known = |id: &u64| members.contains_key(id) || forming.contains_key(id);
        self.membership.answered.retain(|id, _| known(id));
        // Claims of peers that are not members stay: there are few, and these peers may become members.
        let mut claimed = std::mem::take(&mut self.membership.claimed);
        claimed.retain(|_, met| self.may_be_member(met));
        self.membership.claimed = claimed;
        let members = &self.members.members;
        self.membership.statements.retain(|id, said| {
            let row = members.get(id);
            row.is_none_or(|row| [0, said.incarnation].contains(&row.incarnation))
        });
        self.note_care();
        let raft = self.raw.raft.prs().conf().to_conf_state();
        let ours = self.members.conf_state();
        assert!(
            sorted(raft.clone()) == ours || is_planted(Mutant::RemovedCounts),
            "raft's configuration {raft:?} is not that of the members {ours:?}"
        );
    }
}

/// The membership command of a conf change entry, and its batch without the command.
pub(super) fn membership_command(mut batch: Batch) -> Option<(Batch, Command)> {
    let command = batch.commands.pop()?;
    (is_membership(&command) && batch.commands.is_empty()).then_some((batch, command))
}
