//! Publication: committed entries, in log order, become commits for the store. Here, and nowhere else, is decided what
//! becomes of each command (stale, refused, to be applied), from replicated state only, so alike on every node.

use super::{MembersNews, Node, Output, added_index, sorted};
use crate::command::{self, Batch, Command, Kind};
use crate::commit::{Apply, Commit};
use crate::members::Decision;
use crate::proposal::{NotProposed, Outcome, Refusal, Reply};
use crate::storage::log::entry_bytes;
use bytes::Bytes;
use raft::eraftpb::{ConfChange, Entry, EntryType};
use slog::{info, warn};
use std::sync::Arc;

impl Node {
    /// Publishes committed entries. True when one of them removed a member.
    pub(super) fn publish(&mut self, entries: Vec<Entry>, output: &mut Output) -> bool {
        let mut removed = false;
        for entry in entries {
            assert_eq!(
                entry.index,
                self.published + 1,
                "a gap in what is published"
            );
            self.published = entry.index;
            let bytes = entry_bytes(&entry);
            self.log_bytes_since_snapshot += bytes;
            self.unapplied_bytes += bytes as usize;
            let mut apply = Apply {
                index: entry.index,
                bytes: bytes as usize,
                commands: Vec::new(),
            };
            match entry.get_entry_type() {
                EntryType::EntryNormal => self.publish_commands(&entry, &mut apply),
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                    removed |= self.publish_conf_change(&entry);
                }
            }
            output.commits.push(Commit::Apply(apply));
        }
        removed
    }

    fn publish_commands(&mut self, entry: &Entry, apply: &mut Apply) {
        if entry.data.is_empty() {
            return;
        }
        let Some(batch) = self.decode(&entry.data, entry.index) else {
            return;
        };
        for command in batch.commands {
            let Some(reply) = self.admit(batch.member, batch.boot, command.sequence) else {
                continue;
            };
            if let Kind::Put | Kind::Delete = command.kind {
                apply.commands.push((command, reply));
            } else {
                // The leader had another change under way when this one reached it: see refused_entry.
                answer(reply, Outcome::Refused(Refusal::ChangeUnderWay));
            }
        }
    }

    /// True when a member was removed.
    fn publish_conf_change(&mut self, entry: &Entry) -> bool {
        let index = entry.index;
        let Some((batch, command)) = conf_change_command(entry) else {
            warn!(self.logger, "skipping an entry that holds no membership command"; "index" => index);
            return false;
        };
        let Some(reply) = self.admit(batch.member, batch.boot, command.sequence) else {
            return false;
        };
        let change = match self.members.decide(&command) {
            Ok(Decision::Change(change)) => change,
            Ok(Decision::Nothing) => {
                answer(reply, Outcome::Applied { index });
                return false;
            }
            Err(refusal) => {
                answer(reply, Outcome::Refused(refusal));
                return false;
            }
        };
        let id = command.member_id;
        let url = &self.members.members.get(&id).map(|m| m.url.to_string());
        info!(self.logger, "membership changed"; "change" => ?command.kind, "member" => id,
            "url" => url.as_ref().unwrap_or(&command.member_url), "index" => index);
        self.members.apply(&command, index);
        self.apply_conf_change(id, &change, index);
        let removes = command.kind == Kind::RemoveMember;
        if removes {
            self.sessions.remove(&id);
        }
        // Who was told of a removal may take the removed member's disk away. From two voters to one, a survivor that
        // then crashes and does not know that the removal was committed would need that member's vote for ever.
        self.members_news.push_back(MembersNews {
            after: if removes { self.last_ready } else { 0 },
            index,
            members: Arc::new(self.members.clone()),
            reply,
        });
        removes
    }

    fn apply_conf_change(&mut self, id: u64, change: &ConfChange, index: u64) {
        if id == self.settings.id && !self.members.members.contains_key(&id) {
            // Raft is not told: raft-rs panics in a leader that has removed itself, and a node that went home at
            // once could leave behind a survivor that needs its vote to learn of the removal. It goes on as before,
            // proposing nothing, until a member that has the removal on its disk says so.
            self.leaving = Some(index);
            self.pending.stop(NotProposed::Stopping);
            return;
        }
        if self.leaving.is_some() {
            return;
        }
        if id == self.settings.id {
            self.own_added_index = added_index(&self.members, id);
        }
        if cfg!(raftkvd_mutant = "removed-counts") && !self.members.members.contains_key(&id) {
            return;
        }
        self.raw
            .apply_conf_change(change)
            .expect("the rules of membership allow only what raft can do");
        self.members_changed();
    }

    /// Whether a command is to be carried out: `None` for one that was already, or whose proposer is no member.
    /// Otherwise the reply, if this node proposed it and somebody still waits.
    fn admit(&mut self, member: u64, boot: u64, sequence: u64) -> Option<Option<Reply>> {
        if !self.members.members.contains_key(&member) {
            return None;
        }
        let newest = self.sessions.entry(member).or_default();
        if (boot, sequence) <= *newest && !cfg!(raftkvd_mutant = "applied-twice") {
            return None;
        }
        *newest = (boot, sequence);
        if (member, boot) != (self.settings.id, self.settings.boot) {
            return Some(None);
        }
        self.last_news = self.now;
        Some(self.pending.applied(sequence))
    }

    fn decode(&self, data: &Bytes, index: u64) -> Option<Batch> {
        match command::decode(data) {
            Ok(batch) => Some(batch),
            Err(error) => {
                // It came from a peer that speaks another language. Every node skips it alike.
                warn!(self.logger, "skipping an entry that can't be decoded"; "index" => index, "error" => %error);
                None
            }
        }
    }

    pub(super) fn release_reads(&mut self, output: &mut Output) {
        let released = self.reads.release(self.published);
        if released.is_empty() {
            return;
        }
        if self.applied == self.published && output.commits.is_empty() {
            for reply in released {
                // The receiver may be gone: then nobody wants to know.
                let _ = reply.send(Ok(()));
            }
        } else {
            output.commits.push(Commit::Read(released));
        }
    }

    /// Raft's configuration and the members have changed together.
    pub(super) fn members_changed(&mut self) {
        let added = self.members.members.iter();
        let added = added
            .map(|(id, member)| (*id, member.added_index))
            .collect();
        self.raw.mut_store().set_added(added);
        let raft = self.raw.raft.prs().conf().to_conf_state();
        let ours = self.members.conf_state();
        assert!(
            sorted(raft.clone()) == ours || cfg!(raftkvd_mutant = "removed-counts"),
            "raft's configuration {raft:?} is not that of the members {ours:?}"
        );
    }
}

/// The membership command of a conf change entry, with its batch.
pub(super) fn conf_change_command(entry: &Entry) -> Option<(Batch, Command)> {
    let mut batch = command::decode(&entry.context).ok()?;
    let command = batch.commands.pop()?;
    let membership = !matches!(command.kind, Kind::Put | Kind::Delete);
    (membership && batch.commands.is_empty()).then_some((batch, command))
}

pub(super) fn answer(reply: Option<Reply>, outcome: Outcome) {
    if let Some(reply) = reply {
        // The receiver may be gone: then nobody wants to know.
        let _ = reply.send(outcome);
    }
}
