//! Revoked keys: the removal of a member revokes the key with which the member proved itself. A new key of a member revokes
//! the former key.
//!
//! A certificate stays valid until it expires, and no member asks the CA whether the owner is still a member. So the
//! members keep a list of the keys that members had, and believe no certificate with such a key. A key stays in the
//! list when its id is added again: the new directory needs a certificate with a new key.
//!
//! The list is bounded. The oldest keys leave it: by then their certificates have usually expired.

use super::{Member, Members};
use crate::certificates::KeyFingerprint;
use crate::command::Command;
use crate::limits::{KEY_FINGERPRINT_BYTES_MAX, REVOKED_KEYS_MAX};

/// A key that no longer proves anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedKey {
    /// The fingerprint of the key.
    pub key_fingerprint: Vec<u8>,
    /// The id of the member that had the key.
    pub member: u64,
    /// Index of the entry that removed that member or replaced the key.
    pub index: u64,
}

impl Members {
    /// Whether the removal of a member, or a new key, has revoked this key.
    pub fn is_revoked(&self, key: &KeyFingerprint) -> bool {
        self.revokes(&key.0)
    }

    /// The revoked keys.
    pub fn revoked_keys(&self) -> impl Iterator<Item = KeyFingerprint> + '_ {
        let bytes = self.revoked.iter().map(|revoked| &revoked.key_fingerprint);
        // Only another version knows keys of another length.
        bytes.filter_map(|bytes| Some(KeyFingerprint(bytes.as_slice().try_into().ok()?)))
    }

    /// Whether the key with these bytes as its fingerprint is revoked.
    pub(crate) fn revokes(&self, key_fingerprint: &[u8]) -> bool {
        let mut revoked = self.revoked.iter();
        revoked.any(|revoked| revoked.key_fingerprint == key_fingerprint)
    }

    /// The member whose row has this key, if there is one.
    pub(crate) fn member_with_key(&self, key_fingerprint: &[u8]) -> Option<u64> {
        let mut members = self.members.iter();
        let (id, _) =
            members.find(|(_, row)| row.description.key_fingerprint == key_fingerprint)?;
        Some(*id)
    }

    /// Revokes the keys of the removed member: that of its row, which has left the table, and the one that the leader
    /// knew when it proposed the removal. The two differ if the member has just replaced its key.
    ///
    /// A command without a key revokes none, as in the first command version. A key that another member uses too stays
    /// valid: otherwise a removal would shut out that member.
    pub(super) fn revoke(&mut self, command: &Command, row: &Member, index: u64) {
        if command.member_key_fingerprint.is_empty() {
            return;
        }
        let of_row = &row.description.key_fingerprint[..];
        for key in [of_row, &command.member_key_fingerprint[..]] {
            self.revoke_key(key, command.member_id, index);
        }
    }

    /// Revokes a key that this member had, unless a row has the key.
    pub(super) fn revoke_key(&mut self, key: &[u8], member: u64, index: u64) {
        let fits = (1..=KEY_FINGERPRINT_BYTES_MAX).contains(&key.len());
        if !fits || self.member_with_key(key).is_some() {
            return;
        }
        self.revoked
            .retain(|revoked| revoked.key_fingerprint != key);
        self.revoked.push(RevokedKey {
            key_fingerprint: key.to_vec(),
            member,
            index,
        });
        let surplus = self.revoked.len().saturating_sub(REVOKED_KEYS_MAX);
        self.revoked.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{command, three};
    use super::*;
    use crate::command::version::REVOKES;
    use crate::command::{Kind, ReplicatedState};

    fn key(byte: u8) -> KeyFingerprint {
        KeyFingerprint([byte; 32])
    }

    /// Each member has a key of bytes with its id.
    fn three_with_keys() -> Members {
        let mut members = three();
        for id in 1..=3 {
            describe(&mut members, id, key(id as u8), 4);
        }
        members
    }

    fn describe(members: &mut Members, id: u64, key: KeyFingerprint, index: u64) {
        let mut description = command(Kind::DescribeMember, id, "");
        description.member_incarnation = members.members[&id].incarnation;
        description.member_key_fingerprint = key.0.to_vec().into();
        assert!(members.describe(&description, REVOKES, index));
    }

    fn removal(id: u64, key: &[u8]) -> Command {
        let mut removal = command(Kind::RemoveMember, id, "");
        removal.member_key_fingerprint = key.to_vec().into();
        removal
    }

    #[test]
    fn a_removal_revokes_the_key_of_the_row_and_the_one_that_the_leader_knew() {
        let mut members = three_with_keys();
        members.apply(&removal(2, &key(9).0), 7);
        assert!(members.is_revoked(&key(2)) && members.is_revoked(&key(9)));
        assert!(!members.is_revoked(&key(3)));
        let of = |revoked: &RevokedKey| (revoked.member, revoked.index);
        assert_eq!(
            members.revoked.iter().map(of).collect::<Vec<_>>(),
            [(2, 7), (2, 7)]
        );
        assert_eq!(members.revoked_keys().collect::<Vec<_>>(), [key(2), key(9)]);
        // A description may come after the leader made the removal.
        let mut members = three();
        members.apply(&removal(3, &key(3).0), 8);
        assert!(members.is_revoked(&key(3)));
    }

    #[test]
    fn a_removal_by_a_leader_of_the_first_version_revokes_no_key() {
        let mut members = three_with_keys();
        members.apply(&removal(2, &[]), 7);
        assert_eq!(members.revoked, []);
        let mut state = ReplicatedState::new();
        members.write_to(&mut state);
        assert_eq!(state.version, 0, "the first version can read this");
    }

    #[test]
    fn a_key_stays_revoked_when_its_id_is_added_again_with_a_new_one() {
        let mut members = three_with_keys();
        members.apply(&removal(2, &key(2).0), 7);
        let mut add = command(Kind::AddMember, 2, "http://a:2");
        add.member_incarnation = 21;
        members.apply(&add, 9);
        assert_eq!(members.members[&2].description, Default::default());
        describe(&mut members, 2, key(12), 11);
        assert!(members.is_revoked(&key(2)) && !members.is_revoked(&key(12)));
    }

    #[test]
    fn a_key_that_another_member_uses_too_stays_valid() {
        let mut members = three();
        describe(&mut members, 2, key(2), 4);
        describe(&mut members, 3, key(2), 5);
        members.apply(&removal(2, &key(2).0), 7);
        assert!(!members.is_revoked(&key(2)));
        members.apply(&removal(3, &key(2).0), 9);
        assert!(members.is_revoked(&key(2)));
    }

    #[test]
    fn of_revoked_keys_the_newest_are_kept_and_a_key_is_there_once() {
        let mut members = three_with_keys();
        let numbered = |number: usize| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&(number as u64).to_be_bytes());
            KeyFingerprint(key)
        };
        let mut revoke = |number: usize, index: u64| {
            let mut add = command(Kind::AddMember, 4, "http://a:4");
            add.member_incarnation = 40;
            members.gone.remove(&4);
            members.apply(&add, index);
            members.apply(&removal(4, &numbered(number).0), index + 1);
            members.clone()
        };
        for number in 0..=REVOKED_KEYS_MAX {
            revoke(number, 10 + 2 * number as u64);
        }
        let members = revoke(1, 10_000);
        assert_eq!(members.revoked.len(), REVOKED_KEYS_MAX);
        assert!(!members.is_revoked(&numbered(0)));
        let last = members.revoked.last().unwrap();
        assert_eq!(
            (&last.key_fingerprint[..], last.index),
            (&numbered(1).0[..], 10_001)
        );
        assert!((1..=REVOKED_KEYS_MAX).all(|number| members.is_revoked(&numbered(number))));
    }

    #[test]
    fn a_new_key_revokes_the_former_one_which_does_not_come_back() {
        let mut members = three_with_keys();
        describe(&mut members, 3, key(13), 8);
        assert!(members.is_revoked(&key(3)) && !members.is_revoked(&key(13)));
        let last = members.revoked.last().unwrap();
        assert_eq!((last.member, last.index), (3, 8));
        let mut old = command(Kind::DescribeMember, 3, "");
        old.member_incarnation = 30;
        old.member_key_fingerprint = key(3).0.to_vec().into();
        assert!(!members.describe(&old, REVOKES, 9));
        assert_eq!(members.member_with_key(&key(13).0), Some(3));
        // Only a description that changes the key revokes one.
        old.member_version = REVOKES + 7;
        old.member_key_fingerprint.clear();
        assert!(members.describe(&old, REVOKES, 10));
        assert_eq!(members.revoked.len(), 1);
        members.apply(&removal(3, &key(13).0), 11);
        assert!(members.is_revoked(&key(3)) && members.is_revoked(&key(13)));
    }

    #[test]
    fn a_former_key_stays_valid_if_another_member_has_it_or_the_entry_is_of_an_earlier_version() {
        let mut members = three();
        describe(&mut members, 2, key(2), 4);
        describe(&mut members, 3, key(2), 5);
        describe(&mut members, 3, key(3), 6);
        assert_eq!(members.revoked, []);
        let mut earlier = command(Kind::DescribeMember, 3, "");
        earlier.member_incarnation = 30;
        earlier.member_key_fingerprint = key(13).0.to_vec().into();
        assert!(members.describe(&earlier, 0, 7));
        assert_eq!(members.revoked, []);
    }

    #[test]
    fn the_key_of_a_member_that_never_connected_is_revoked_with_its_removal() {
        let mut members = three();
        let mut add = command(Kind::AddMember, 4, "http://a:4");
        add.member_key_fingerprint = key(4).0.to_vec().into();
        members.apply(&add, 7);
        assert_eq!(members.member_with_key(&key(4).0), Some(4));
        members.apply(&removal(4, &key(4).0), 8);
        assert!(members.is_revoked(&key(4)));
        add.member_key_fingerprint = vec![7; KEY_FINGERPRINT_BYTES_MAX + 1].into();
        members.apply(&add, 9);
        assert_eq!(members.members[&4].description, Default::default());
    }

    #[test]
    fn a_key_longer_than_a_row_can_hold_is_not_revoked() {
        let mut members = three();
        members.apply(&removal(2, &[7; KEY_FINGERPRINT_BYTES_MAX + 1]), 7);
        assert_eq!(members.revoked, []);
    }
}
