//! Keys of the simulated members, and the keys that the removal of a member has to revoke.

use crate::oracle::Shadow;
use raftkvd::certificates::KeyFingerprint;
use raftkvd::command::version::REVOKES;
use raftkvd::command::{Command, Kind};
use raftkvd::members::Members;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// The key of the member with this data directory. A quarter of the directories have none, as without TLS.
pub fn key_of(incarnation: u64) -> Option<KeyFingerprint> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&incarnation.to_be_bytes());
    (!incarnation.is_multiple_of(4)).then_some(KeyFingerprint(bytes))
}

/// A removal that the log of some member holds.
struct Removal {
    index: u64,
    term: u64,
    member: u64,
    /// The key that the removal revokes. Empty: none.
    key: Vec<u8>,
}

/// The removals that the logs hold, whether they were committed or not.
#[derive(Default)]
pub struct Removals(Vec<Removal>);

impl Removals {
    /// A membership command is on a disk.
    pub fn store(&mut self, index: u64, term: u64, command: &Command) {
        let is_known = |removal: &Removal| (removal.index, removal.term) == (index, term);
        if command.kind == Kind::RemoveMember && !self.0.iter().any(is_known) {
            self.0.push(Removal {
                index,
                term,
                member: command.member_id,
                key: command.member_key_fingerprint.to_vec(),
            });
        }
    }

    /// These are the members at this index: each key is revoked that a committed removal has named. `lives` has the
    /// removals that were carried out.
    pub fn check(
        &self,
        members: &Members,
        index: u64,
        committed: &BTreeMap<u64, Shadow>,
        lives: &BTreeSet<(u64, u64)>,
    ) {
        let happened = |removal: &&Removal| {
            let entry = committed.get(&removal.index);
            removal.index <= index
                && entry.is_some_and(|entry| entry.term == removal.term)
                && lives.contains(&(removal.member, removal.index))
        };
        for removal in self.0.iter().filter(happened) {
            let mut revoked = members.revoked.iter();
            assert!(
                removal.key.is_empty() || revoked.any(|r| r.key_fingerprint == removal.key),
                "the removal of member {} at {} revokes a key, and at {index} the key is not revoked",
                removal.member,
                removal.index
            );
        }
    }
}

/// Between two states of the table there is one change of a member, in one of `entries`. If it is the removal of a
/// member with a key, and the version of every bound member is known, then the key is revoked.
pub fn check_removal(before: &Members, after: &Members, entries: &RangeInclusive<u64>) {
    let mut rows = before.members.values();
    if rows.any(|row| row.incarnation != 0 && row.description.version < REVOKES) {
        return;
    }
    for (id, row) in &before.members {
        let key = &row.description.key_fingerprint;
        assert!(
            key.is_empty()
                || after.members.contains_key(id)
                || after.revoked.iter().any(|r| r.key_fingerprint == *key),
            "member {id} was removed in {entries:?}, and its key is not revoked: {before:?}"
        );
    }
}
