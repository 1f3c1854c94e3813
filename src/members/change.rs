//! Applies committed commands to the members table.

use super::decide::parse_url;
use super::list::listed;
use super::{Description, Member, Members, Unsettled};
use crate::command::version::REVOKES;
use crate::command::{Command, Kind};
use crate::limits::{FORMER_PLACES_MAX, REMOVED_MAX};
use crate::peer_url::PeerUrl;

impl Members {
    /// Carries out a command that [`Members::decide`] accepted as a change, at the entry with this index.
    pub fn apply(&mut self, command: &Command, index: u64) {
        let id = command.member_id;
        let incarnation = command.member_incarnation;
        match command.kind {
            Kind::AddMember => {
                self.removed.remove(&id);
                self.gone.remove(&id);
                let mut description = Description {
                    key_fingerprint: command.member_key_fingerprint.to_vec(),
                    ..Description::default()
                };
                if !description.fits() {
                    description = Description::default();
                }
                let member = Member {
                    url: parse_url(command).expect("decide parsed this URL"),
                    learner: true,
                    added_index: index,
                    incarnation,
                    bound_index: if incarnation == 0 { 0 } else { index },
                    description,
                };
                self.highest_id = self.highest_id.max(id);
                let previous = self.members.insert(id, member);
                assert_eq!(previous, None, "member {id} was added twice");
            }
            Kind::BindMember => {
                let member = self.decided(id);
                member.incarnation = incarnation;
                member.bound_index = index;
            }
            Kind::PromoteMember => self.decided(id).learner = false,
            Kind::MoveMember => {
                let url = parse_url(command).expect("decide parsed this URL");
                let before = std::mem::replace(&mut self.decided(id).url, url);
                self.leaves(id, before);
            }
            Kind::RemoveMember => {
                let row = self.members.remove(&id).expect("decide found the member");
                self.revoke(command, &row, index);
                self.leaves(id, row.url);
                self.removed.insert(id, index);
                if row.incarnation != 0 {
                    self.gone.insert(id, row.incarnation);
                }
                self.forget_oldest_removals();
            }
            Kind::Formed => self.forming.clear(),
            Kind::CorrectList => {
                self.forming = listed(&command.listed).expect("decide parsed these URLs");
            }
            _ => panic!("{:?} changes no members", command.kind),
        }
        // `Formed` changes no configuration, so it needs no settlement. A member that has lost the commit index of
        // `Formed` learns it again from the leader.
        self.unsettled = (command.kind != Kind::Formed).then_some(Unsettled {
            index,
            kind: command.kind,
            member: id,
        });
    }

    /// Carries out a command that describes a member. Returns whether that changed anything. A description of an
    /// earlier life of the id, or one too long for a row, is ignored.
    ///
    /// A description changes no configuration, so it needs no settlement. A member that has applied the entry knows
    /// that it is committed, and everything that is proposed because of the entry comes after it in every log.
    ///
    /// Since the command version that revokes keys, a new key revokes the former one, and a revoked key does not come back:
    /// a leader may have an old statement of the member. `version` is what the entry names, and `index` is its index. A
    /// leader of an earlier version names an earlier version, and its entry means the same on all members.
    pub fn describe(&mut self, command: &Command, version: u64, index: u64) -> bool {
        let revokes = version >= REVOKES;
        let is_back = revokes && self.revokes(&command.member_key_fingerprint);
        let Some(row) = self.members.get_mut(&command.member_id) else {
            return false;
        };
        let mut description = row.description.clone();
        if command.member_version != 0 {
            description.version = command.member_version;
        }
        if !command.member_client_url.is_empty() {
            description.client_url = command.member_client_url.clone();
        }
        if !command.member_key_fingerprint.is_empty() && !is_back {
            description.key_fingerprint = command.member_key_fingerprint.to_vec();
        }
        let is_it = row.incarnation != 0 && row.incarnation == command.member_incarnation;
        let changes = is_it && description.fits() && row.description != description;
        if !changes {
            return false;
        }
        let before = std::mem::replace(&mut row.description, description);
        if revokes {
            // If the row keeps its key, a member still uses that key.
            self.revoke_key(&before.key_fingerprint, command.member_id, index);
        }
        true
    }

    fn decided(&mut self, id: u64) -> &mut Member {
        let member = self.members.get_mut(&id);
        member.expect("decide found the member")
    }

    fn leaves(&mut self, id: u64, url: PeerUrl) {
        self.former.retain(|place| *place != (id, url.clone()));
        self.former.push((id, url));
        let surplus = self.former.len().saturating_sub(FORMER_PLACES_MAX);
        self.former.drain(..surplus);
    }

    /// Forgets the oldest removals beyond the limit. A very late request could then add the directory of such a
    /// forgotten id again. That is safe: if the directory knows of its removal, its process does not start. Otherwise
    /// it still has its votes, and may come back.
    fn forget_oldest_removals(&mut self) {
        while self.removed.len() > REMOVED_MAX {
            let oldest = self.removed.iter().min_by_key(|(_, index)| **index);
            let (id, index) = oldest
                .map(|(id, index)| (*id, *index))
                .expect("there are many");
            self.removed.remove(&id);
            self.gone.remove(&id);
            self.forgotten_index = self.forgotten_index.max(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{command, description, fullest, three, url};
    use super::*;
    use crate::command::ReplicatedState;
    use crate::command::version::VERSION;
    use crate::limits::{CLIENT_URL_BYTES_MAX, INDEX_MAX, KEY_FINGERPRINT_BYTES_MAX};

    #[test]
    fn of_removed_ids_the_newest_are_kept_and_the_others_are_still_known_to_be_removed() {
        let members = fullest();
        assert_eq!(members.removed.len(), REMOVED_MAX);
        assert_eq!(members.gone.len(), REMOVED_MAX);
        let first = INDEX_MAX / 2;
        let (oldest, newest) = (4, 3 + REMOVED_MAX as u64 + 10);
        assert!(!members.removed.contains_key(&oldest));
        assert_eq!(members.forgotten_index, first + 19);
        // An id that was bound before the newest forgotten removal, and is no member, counts as removed by that
        // removal.
        assert_eq!(members.removed_at(oldest, first), Some(first + 19));
        assert_eq!(members.removed_at(oldest, 0), None, "it never was a member");
        assert_eq!(members.removed_at(oldest, first + 20), None);
        assert_eq!(members.removed_at(1, 1), None, "it is a member");
        let removed = first + 2 * (newest - 4) + 1;
        assert_eq!(members.removed_at(newest, removed - 1), Some(removed));
    }

    #[test]
    fn a_row_is_described_for_its_own_life_and_within_bounds() {
        let mut members = three();
        let before = members.clone();
        let mut long_url = description(2, 20);
        long_url.member_client_url.push('u');
        let mut long_fingerprint = description(2, 20);
        long_fingerprint.member_key_fingerprint = vec![7; KEY_FINGERPRINT_BYTES_MAX + 1].into();
        let refused = [
            description(2, 21),
            description(2, 0),
            description(4, 40),
            long_url,
            long_fingerprint,
        ];
        for command in refused {
            assert!(!members.describe(&command, REVOKES, 4), "{command:?}");
        }
        let open = command(Kind::AddMember, 4, "http://a:4");
        members.apply(&open, 5);
        assert!(!members.describe(&description(4, 0), REVOKES, 4));
        members.apply(&command(Kind::RemoveMember, 4, ""), 6);
        assert_eq!(members.members, before.members);
        assert!(members.describe(&description(2, 20), REVOKES, 4));
        assert!(
            !members.describe(&description(2, 20), REVOKES, 4),
            "it is so already"
        );
        // Fields that a command leaves out keep their values.
        let mut version = command(Kind::DescribeMember, 2, "");
        (version.member_incarnation, version.member_version) = (20, VERSION);
        assert!(members.describe(&version, REVOKES, 4));
        let described = &members.members[&2].description;
        assert_eq!(described.version, VERSION);
        assert_eq!(described.client_url.len(), CLIENT_URL_BYTES_MAX);
        assert_eq!(described.key_fingerprint.len(), KEY_FINGERPRINT_BYTES_MAX);
    }

    #[test]
    fn the_highest_id_is_that_of_all_members_that_ever_were() {
        let mut members = three();
        assert_eq!(members.highest_id, 3);
        members.apply(&command(Kind::AddMember, 9, "http://a:9"), 5);
        members.apply(&command(Kind::RemoveMember, 9, ""), 6);
        members.apply(&command(Kind::AddMember, 4, "http://a:4"), 7);
        assert_eq!(members.highest_id, 9);
        let mut state = ReplicatedState::new();
        members.write_to(&mut state);
        assert_eq!(Members::from_state(&state).unwrap().highest_id, 9);
    }

    #[test]
    fn former_places_are_remembered_and_bounded() {
        let mut members = three();
        members.apply(&command(Kind::MoveMember, 2, "http://b:2"), 5);
        members.apply(&command(Kind::RemoveMember, 3, ""), 6);
        let b2 = "http://b:2".parse().unwrap();
        assert!(members.was_at(2, &url(2)) && members.was_at(2, &b2) && members.was_at(3, &url(3)));
        assert!(!members.was_at(2, &url(3)) && !members.was_at(3, &b2));
        assert!(members.had(1) && members.had(3) && !members.had(4));
        for port in 1..=FORMER_PLACES_MAX + 1 {
            let to = format!("http://c:{port}");
            members.apply(&command(Kind::MoveMember, 2, &to), 7);
            members.apply(&command(Kind::MoveMember, 2, "http://b:2"), 8);
        }
        assert_eq!(members.former.len(), FORMER_PLACES_MAX);
        assert!(members.was_at(2, &"http://c:257".parse().unwrap()));
        assert!(!members.was_at(2, &"http://c:1".parse().unwrap()));
    }
}
