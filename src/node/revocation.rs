//! Revocation: the removal of a member revokes the member's key (see [`crate::members`]).
//!
//! Clients, and the followers that forward their requests, ask for a removal without a key. The leader that proposes
//! the removal adds the key, if all members know a command version in which a removal revokes: an earlier version would
//! remove the member and revoke nothing, and the tables would differ. With an earlier version in the cluster, the
//! removal goes on without the key, and each member logs that. A removal that can't revoke is better than none.
//!
//! A member that adds itself has proved itself with a key before it connects as a peer. The addition carries that key into
//! the new row, so that a removal can revoke it. A member that replaces its key loses the former one in the same way. Both
//! need the same command version.

use super::Node;
use crate::certificates::KeyFingerprint;
use crate::command::{self, Command, Kind, version};
use crate::limits;
use crate::members::{Member, Members};
use raft::eraftpb::{Entry, Message};
use slog::{info, warn};

impl Node {
    /// The certificate of this member has this key from now on.
    pub fn set_own_key(&mut self, key: KeyFingerprint) {
        self.settings.key = Some(key);
        self.note_care();
    }

    /// Whether this change has to wait until this leader knows whether it can revoke a key. A member's newest statement, or
    /// the key, may be among the entries that this leader has inherited and not published. Or the table is about to have
    /// the version of a member that was just bound.
    pub(super) fn waits_to_revoke(&self, command: &Command) -> bool {
        let is_late = |row: &Member| row.description.version < version::REVOKES;
        let raises = |description: &Command| {
            let row = self.members.members.get(&description.member_id);
            description.member_version >= version::REVOKES && row.is_some_and(is_late)
        };
        let has_key = command.kind == Kind::AddMember && !command.member_key_fingerprint.is_empty();
        (command.kind == Kind::RemoveMember || has_key)
            && (self.inherits() || self.due_descriptions().any(|due| raises(&due)))
    }

    /// The proposal of a removal, with the key that it revokes, or of an addition, with the key that the new row gets. Any
    /// other proposal stays as it is.
    pub(super) fn with_usable_key(&self, mut message: Message, command: &Command) -> Message {
        let key = match command.kind {
            Kind::RemoveMember => self.key_to_revoke(command.member_id),
            Kind::AddMember => self.key_to_add(command),
            _ => return message,
        };
        let entries = message.take_entries();
        let entries = entries.into_iter().map(|entry| with_key(entry, &key));
        message.set_entries(entries.collect());
        message
    }

    /// Whether a member adds itself with a key that was revoked after the member that received the request had looked.
    pub(super) fn adds_revoked_key(&self, command: &Command) -> bool {
        command.kind == Kind::AddMember && self.members.revokes(&command.member_key_fingerprint)
    }

    /// The key with which a member asks for its own addition. Empty if there is none, or if a member does not know what the
    /// key means.
    fn key_to_add(&self, command: &Command) -> Vec<u8> {
        let key = &command.member_key_fingerprint;
        let fits = key.len() <= limits::KEY_FINGERPRINT_BYTES_MAX;
        match fits && self.bound_version(None) >= version::REVOKES {
            true => key.to_vec(),
            false => Vec::new(),
        }
    }

    /// The fingerprint of the key that a removal of this member revokes, as far as this leader knows. Empty if the
    /// member has none, or if the removal can't revoke it.
    fn key_to_revoke(&self, id: u64) -> Vec<u8> {
        let Some(row) = self.members.members.get(&id) else {
            return Vec::new();
        };
        let said = self.statement(id, row).and_then(|said| said.key);
        // The vote of a learner is not needed, so the version of a learner that leaves does not matter. The learner may
        // never have had a process.
        let leaves = row.learner.then_some(id);
        match self.bound_version(leaves) >= version::REVOKES {
            true => said.map_or_else(
                || row.description.key_fingerprint.clone(),
                |key| key.0.into(),
            ),
            false => Vec::new(),
        }
    }

    /// The command version that all members with a log know. An open id does not count: it has no process yet that a later
    /// command could end. The same holds for a learner that has never come up: it has stated no version, and stored
    /// nothing. The member `without` does not count either.
    fn bound_version(&self, without: Option<u64>) -> u64 {
        let rows = self.members.members.iter();
        let counted = rows.filter(|(id, row)| {
            row.incarnation != 0 && Some(**id) != without && !self.never_came(**id, row)
        });
        let versions = counted.map(|(id, row)| self.version_of(*id, row));
        versions.min().unwrap_or_default()
    }

    /// Whether this leader knows of nothing that this learner has said or stored.
    fn never_came(&self, id: u64, row: &Member) -> bool {
        let progress = self.raw.raft.prs().get(id);
        let is_bare = progress.is_none_or(|progress| progress.matched == 0);
        row.learner && row.description.version == 0 && is_bare
    }

    /// Logs which key the removal of this row has revoked, or why it has revoked none.
    pub(super) fn log_revocation(&self, row: &Member, command: &Command, index: u64) {
        let key = match row.description.key_fingerprint.is_empty() {
            true => &command.member_key_fingerprint[..],
            false => &row.description.key_fingerprint[..],
        };
        if command.kind != Kind::RemoveMember || key.is_empty() {
            return;
        }
        let id = command.member_id;
        for revoked in keys_revoked_at(&self.members, index) {
            info!(self.logger, "revoked the key of a removed member"; "member" => id, "key" => revoked);
        }
        if self.members.revokes(key) {
            return;
        }
        let why = match self.members.member_with_key(key) {
            Some(other) => format!("member {other} has the same key"),
            None => self.why_not_revoked(),
        };
        warn!(self.logger, "did not revoke the key of a removed member: {why}; add the key to the file `revoked` of each member";
            "member" => id, "key" => hexadecimal(key));
    }

    /// Which member kept a removal from revoking a key that no other member has.
    fn why_not_revoked(&self) -> String {
        let bound = self.members.members.iter();
        let bound = bound.filter(|(_, row)| row.incarnation != 0);
        let versions: Vec<_> = bound
            .map(|(id, row)| (id, self.version_of(*id, row)))
            .collect();
        let is_early = |(_, known): &&(_, u64)| (1..version::REVOKES).contains(known);
        let silent = versions.iter().find(|(_, known)| *known == 0);
        match (versions.iter().find(is_early), silent) {
            (None, Some((id, _))) => {
                format!("member {id} has not said yet which version it runs")
            }
            _ => "a member runs a version that can't revoke keys".to_owned(),
        }
    }

    /// Logs that the new key of this member has revoked its former key.
    pub(super) fn log_former_key(&self, id: u64, former: &[u8]) {
        if !former.is_empty() && self.members.revokes(former) {
            info!(self.logger, "revoked the former key of a member"; "member" => id, "key" => hexadecimal(former));
        }
    }
}

/// The fingerprints that the entry with this index has revoked.
fn keys_revoked_at(members: &Members, index: u64) -> impl Iterator<Item = String> + '_ {
    let revoked = members.revoked.iter();
    let here = revoked.filter(move |revoked| revoked.index == index);
    here.map(|revoked| hexadecimal(&revoked.key_fingerprint))
}

/// A fingerprint as in the file `revoked`.
pub(super) fn hexadecimal(fingerprint: &[u8]) -> String {
    let digits = fingerprint.iter().map(|byte| format!("{byte:02x}"));
    digits.collect()
}

/// The entry of a change, with this key in place of the one that it has.
fn with_key(mut entry: Entry, key: &[u8]) -> Entry {
    let Ok(Some(mut batch)) = command::of_entry(&entry) else {
        return entry;
    };
    batch.version = 0;
    for command in batch.commands.iter_mut() {
        command.member_key_fingerprint = key.to_vec().into();
        batch.version = batch.version.max(version::needed_by(command));
    }
    entry.context = command::encode(&batch);
    entry
}
