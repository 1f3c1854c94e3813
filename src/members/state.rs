//! Reads and writes the members in the replicated state of a snapshot header.

use super::list::{listed, places};
use super::{Description, Member, Members, RevokedKey, Unsettled, to_listed};
use crate::command::{self, ReplicatedState, version};
use crate::limits::{KEY_FINGERPRINT_BYTES_MAX, MEMBERS_MAX, REMOVED_MAX, REVOKED_KEYS_MAX};
use std::collections::BTreeMap;

impl Members {
    /// Reads the members from a snapshot header's state. A URL that does not parse is an error, whose text names it.
    /// More rows than the limits allow are an error too.
    pub fn from_state(state: &ReplicatedState) -> Result<Members, String> {
        for (what, count, most) in [
            ("members", state.members.len(), MEMBERS_MAX),
            ("first members", state.forming.len(), MEMBERS_MAX),
            ("sessions", state.sessions.len(), MEMBERS_MAX),
            ("removed ids", state.removed.len(), REMOVED_MAX),
            ("revoked keys", state.revoked_keys.len(), REVOKED_KEYS_MAX),
        ] {
            if count > most {
                return Err(format!(
                    "there are {count} {what}, more than the maximum of {most}"
                ));
            }
        }
        let mut members = BTreeMap::new();
        for member in state.members.iter() {
            let description = Description {
                version: member.version,
                client_url: member.client_url.clone(),
                key_fingerprint: member.key_fingerprint.to_vec(),
            };
            if !description.fits() {
                let id = member.id;
                return Err(format!("the description of member {id} is too long"));
            }
            members.insert(
                member.id,
                Member {
                    url: member.url.parse()?,
                    learner: member.learner,
                    added_index: member.added_index,
                    incarnation: member.incarnation,
                    bound_index: member.bound_index,
                    description,
                },
            );
        }
        let removed = state.removed.iter().map(|r| (r.id, r.removed_index));
        let gone = state.removed.iter().filter(|r| r.incarnation != 0);
        Ok(Members {
            members,
            removed: removed.collect(),
            gone: gone.map(|r| (r.id, r.incarnation)).collect(),
            forgotten_index: state.forgotten_index,
            unsettled: state.unsettled.as_ref().map(|u| Unsettled {
                index: u.index,
                kind: u.kind,
                member: u.member,
            }),
            forming: listed(&state.forming)?,
            former: places(&state.former)?,
            highest_id: state.highest_id,
            revoked: revoked(&state.revoked_keys)?,
        })
    }

    /// Writes the members into a snapshot header's state.
    pub fn write_to(&self, state: &mut ReplicatedState) {
        let unsettled = self.unsettled.map(|unsettled| {
            let mut out = command::Unsettled::new();
            out.index = unsettled.index;
            out.kind = unsettled.kind;
            out.member = unsettled.member;
            out
        });
        state.unsettled = unsettled.into();
        let members = self.members.iter().map(|(id, member)| {
            let mut out = command::Member::new();
            out.id = *id;
            out.url = member.url.to_string();
            out.learner = member.learner;
            out.added_index = member.added_index;
            out.incarnation = member.incarnation;
            out.bound_index = member.bound_index;
            out.version = member.description.version;
            out.client_url = member.description.client_url.clone();
            out.key_fingerprint = member.description.key_fingerprint.clone().into();
            out
        });
        state.members = members.collect();
        let removed = self.removed.iter().map(|(id, index)| {
            let mut out = command::RemovedMember::new();
            out.id = *id;
            out.removed_index = *index;
            out.incarnation = self.gone.get(id).copied().unwrap_or(0);
            out
        });
        state.removed = removed.collect();
        state.forgotten_index = self.forgotten_index;
        state.forming = to_listed(&self.forming);
        state.former = to_listed(self.former.iter().map(|(id, url)| (id, url)));
        state.highest_id = self.highest_id;
        let revoked = self.revoked.iter().map(|revoked| {
            let mut out = command::RevokedKey::new();
            out.key_fingerprint = revoked.key_fingerprint.clone().into();
            out.member = revoked.member;
            out.revoked_index = revoked.index;
            out
        });
        state.revoked_keys = revoked.collect();
        if !self.revoked.is_empty() {
            state.version = state.version.max(version::REVOKES);
        }
    }
}

/// Decodes the revoked keys in their order.
fn revoked(keys: &[command::RevokedKey]) -> Result<Vec<RevokedKey>, String> {
    let fits = |key: &command::RevokedKey| {
        (1..=KEY_FINGERPRINT_BYTES_MAX).contains(&key.key_fingerprint.len())
    };
    if let Some(key) = keys.iter().find(|key| !fits(key)) {
        let (member, bytes) = (key.member, key.key_fingerprint.len());
        return Err(format!(
            "the fingerprint of the revoked key of member {member} has {bytes} bytes, and the maximum is \
             {KEY_FINGERPRINT_BYTES_MAX}"
        ));
    }
    let read = |key: &command::RevokedKey| RevokedKey {
        key_fingerprint: key.key_fingerprint.to_vec(),
        member: key.member,
        index: key.revoked_index,
    };
    Ok(keys.iter().map(read).collect())
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{command, description, fullest, three, url};
    use super::*;
    use crate::command::Kind;
    use crate::limits::SNAPSHOT_HEADER_BYTES_MAX;
    use protobuf::Message as _;

    #[test]
    fn state_survives_a_round_trip() {
        let mut members = three();
        members.apply(&command(Kind::AddMember, 9, "http://a:9"), 5);
        let mut removal = command(Kind::RemoveMember, 2, "");
        removal.member_key_fingerprint = vec![7; 32].into();
        members.apply(&removal, 6);
        assert_eq!(members.revoked.len(), 1);
        members.apply(&command(Kind::MoveMember, 3, "http://b:3"), 7);
        members.forming = BTreeMap::from([(1, url(1)), (2, url(7))]);
        members.forgotten_index = 4;
        members.describe(&description(3, 30), 0, 4);
        let mut state = ReplicatedState::new();
        members.write_to(&mut state);
        assert_eq!(state.version, version::REVOKES);
        assert_eq!(Members::from_state(&state), Ok(members));
    }

    #[test]
    fn the_fullest_members_fit_into_a_header() {
        let members = fullest();
        let mut state = ReplicatedState::new();
        members.write_to(&mut state);
        for id in members.members.keys() {
            let mut session = command::Session::new();
            (session.member, session.boot) = (u64::MAX - id, u64::MAX);
            (session.run, session.sequence) = (u64::MAX, u64::MAX);
            state.sessions.push(session);
        }
        let bytes = state.write_to_bytes().unwrap().len();
        assert!(bytes < SNAPSHOT_HEADER_BYTES_MAX / 4, "{bytes} bytes");
        assert_eq!(Members::from_state(&state), Ok(members));
        state.removed.push(command::RemovedMember::new());
        let error = Members::from_state(&state).unwrap_err();
        assert!(error.contains("1025 removed ids"), "{error}");
        state.removed.pop();
        state.revoked_keys[0].key_fingerprint = vec![7; KEY_FINGERPRINT_BYTES_MAX + 1].into();
        let error = Members::from_state(&state).unwrap_err();
        assert!(error.contains("has 65 bytes"), "{error}");
        state.revoked_keys.push(command::RevokedKey::new());
        let error = Members::from_state(&state).unwrap_err();
        assert!(error.contains("1025 revoked keys"), "{error}");
    }
}
