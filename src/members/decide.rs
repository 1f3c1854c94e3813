//! The rules of membership: which change a command makes, and which conf change that needs in raft.

use super::list::listed;
use super::{Member, Members};
use crate::command::outcome::Refusal;
use crate::command::{Command, Kind};
use crate::limits::MEMBERS_MAX;
use crate::peer_url::PeerUrl;
use raft::eraftpb::{ConfChange, ConfChangeType};

/// The effect of an accepted membership command.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// The members change. Raft's configuration changes by this conf change; node id 0 means that it stays as it is.
    Change(ConfChange),
    /// The requested state already holds: a success without effect.
    Nothing,
}

impl Members {
    /// Decides on a membership command against this state. Every node decides alike at the same index.
    pub fn decide(&self, command: &Command) -> Result<Decision, Refusal> {
        let id = command.member_id;
        let incarnation = command.member_incarnation;
        let change = Ok(Decision::Change(conf_change(command)));
        if command.kind == Kind::Formed {
            let is_voter = |id| self.members.get(id).is_some_and(|member| !member.learner);
            return match self.forming.keys().all(is_voter) {
                _ if self.is_formed() => Ok(Decision::Nothing),
                true => change,
                false => Err(Refusal::NotFound),
            };
        }
        if command.kind == Kind::CorrectList {
            let list = listed(&command.listed).map_err(|_| Refusal::NotFound)?;
            let lowest = list.keys().next();
            return match lowest.is_some_and(|id| self.has_only(*id)) {
                true if list == self.forming => Ok(Decision::Nothing),
                true => change,
                false => Err(Refusal::NotFound),
            };
        }
        let known = self.members.get(&id);
        if command.kind == Kind::AddMember {
            let url = parse_url(command)?;
            return match known {
                Some(member) if member.url != url => Err(Refusal::IdTaken(member.url.clone())),
                Some(member) if !member.may_be(incarnation) => Err(Refusal::OtherIncarnation),
                Some(_) => Ok(Decision::Nothing),
                None if id == 0 => Err(Refusal::NotFound),
                None if incarnation != 0 && self.gone.get(&id) == Some(&incarnation) => {
                    Err(Refusal::OtherIncarnation)
                }
                None => match self.other_at(&url, id) {
                    Some(other) => Err(Refusal::UrlTaken(other)),
                    None if self.members.len() >= MEMBERS_MAX => Err(Refusal::TooManyMembers),
                    None => change,
                },
            };
        }
        let member = known.ok_or(Refusal::NotFound)?;
        // A late command must not affect the next life of an id, whose process may not even be running.
        let same_life = member.added_index == command.member_added_index;
        match command.kind {
            Kind::BindMember if same_life && member.incarnation == 0 && incarnation != 0 => change,
            Kind::PromoteMember if same_life && member.learner && member.incarnation != 0 => change,
            Kind::BindMember | Kind::PromoteMember => Ok(Decision::Nothing),
            Kind::MoveMember => {
                let url = parse_url(command)?;
                match self.other_at(&url, id) {
                    _ if !member.may_be(incarnation) => Err(Refusal::OtherIncarnation),
                    _ if member.url == url => Ok(Decision::Nothing),
                    Some(other) => Err(Refusal::UrlTaken(other)),
                    None => change,
                }
            }
            Kind::RemoveMember if !member.learner && self.voters().count() == 1 => {
                Err(Refusal::LastVoter)
            }
            Kind::RemoveMember => change,
            _ => panic!("{:?} changes no members", command.kind),
        }
    }

    /// The id of another member at this URL.
    fn other_at(&self, url: &PeerUrl, id: u64) -> Option<u64> {
        let mut members = self.members.iter();
        let (other, _) = members.find(|(other, member)| **other != id && member.url == *url)?;
        Some(*other)
    }
}

impl Member {
    /// Whether the incarnations are equal, or one of them is open.
    fn may_be(&self, incarnation: u64) -> bool {
        incarnation == 0 || self.incarnation == 0 || self.incarnation == incarnation
    }
}

/// Whether a command of this kind changes the members, and so needs an entry of its own.
pub fn is_change(kind: Kind) -> bool {
    match kind {
        Kind::AddMember
        | Kind::BindMember
        | Kind::PromoteMember
        | Kind::MoveMember
        | Kind::RemoveMember
        | Kind::Formed
        | Kind::CorrectList => true,
        Kind::Put | Kind::Delete | Kind::Transaction | Kind::Settle | Kind::DescribeMember => false,
        #[cfg(feature = "later")]
        Kind::Later => false,
    }
}

/// The conf change that a membership change needs in raft. Every membership change goes through a conf change, because
/// raft admits only one conf change at a time. Node id 0 leaves raft's configuration as it is.
pub fn conf_change(command: &Command) -> ConfChange {
    let mut change = ConfChange::default();
    let (kind, id) = match command.kind {
        Kind::AddMember => (ConfChangeType::AddLearnerNode, command.member_id),
        Kind::PromoteMember => (ConfChangeType::AddNode, command.member_id),
        Kind::RemoveMember => (ConfChangeType::RemoveNode, command.member_id),
        _ => (ConfChangeType::AddNode, 0),
    };
    change.set_change_type(kind);
    change.node_id = id;
    change
}

/// The peer URL that the command names.
pub(super) fn parse_url(command: &Command) -> Result<PeerUrl, Refusal> {
    command.member_url.parse().map_err(|_| Refusal::NotFound)
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{command, fullest, three, url};
    use super::super::to_listed;
    use super::*;
    use crate::limits::INDEX_MAX;
    use std::collections::BTreeMap;

    #[test]
    fn an_existing_state_is_a_success_and_what_is_taken_or_unknown_is_refused() {
        use Kind::*;
        for (kind, id, to, decided) in [
            (AddMember, 3, "http://a:3/", Ok(Decision::Nothing)),
            (AddMember, 3, "http://a:4", Err(Refusal::IdTaken(url(3)))),
            (AddMember, 4, "http://a:3", Err(Refusal::UrlTaken(3))),
            (RemoveMember, 4, "", Err(Refusal::NotFound)),
            (PromoteMember, 4, "", Err(Refusal::NotFound)),
        ] {
            let command = command(kind, id, to);
            assert_eq!(three().decide(&command), decided, "{command:?}");
        }
    }

    #[test]
    fn a_member_is_bound_once_and_then_promoted_both_in_its_own_life() {
        let mut members = three();
        let add = command(Kind::AddMember, 4, "http://a:4");
        assert!(matches!(members.decide(&add), Ok(Decision::Change(_))));
        members.apply(&add, 7);
        assert_eq!(members.learners().collect::<Vec<_>>(), [4]);
        let mut promote = command(Kind::PromoteMember, 4, "");
        promote.member_added_index = 7;
        assert_eq!(members.decide(&promote), Ok(Decision::Nothing), "not bound");
        let mut bind = command(Kind::BindMember, 4, "");
        bind.member_incarnation = 40;
        for (added, decided) in [(5, Decision::Nothing), (7, no_conf_change())] {
            bind.member_added_index = added;
            assert_eq!(members.decide(&bind), Ok(decided));
        }
        members.apply(&bind, 8);
        let again = members.decide(&bind);
        assert_eq!(again, Ok(Decision::Nothing), "the first wins");
        promote.member_added_index = 5;
        let earlier = members.decide(&promote);
        assert_eq!(earlier, Ok(Decision::Nothing), "an earlier life");
        promote.member_added_index = 7;
        assert!(matches!(members.decide(&promote), Ok(Decision::Change(_))));
        members.apply(&promote, 8);
        assert!(!members.is_settled_voter(4));
        assert_eq!(members.conf_state().get_voters(), [1, 2, 3, 4]);
    }

    #[test]
    fn the_last_voter_stays_and_a_removed_directory_does_not_come_back() {
        let mut members = three();
        let mut add = command(Kind::AddMember, 4, "http://a:4");
        add.member_incarnation = 40;
        members.apply(&add, 7);
        members.apply(&command(Kind::PromoteMember, 4, ""), 8);
        for id in [1, 2, 3] {
            members.apply(&command(Kind::RemoveMember, id, ""), 8 + id);
        }
        let last = command(Kind::RemoveMember, 4, "");
        assert_eq!(members.decide(&last), Err(Refusal::LastVoter));
        assert_eq!(members.removed, BTreeMap::from([(1, 9), (2, 10), (3, 11)]));
        assert!(members.is_leaving(3) && !members.is_leaving(2));
        assert!(members.is_settled_voter(4));
        let mut same = command(Kind::AddMember, 2, "http://b:2");
        same.member_incarnation = 20;
        assert_eq!(members.decide(&same), Err(Refusal::OtherIncarnation));
        members.apply(&command(Kind::AddMember, 2, "http://b:2"), 12);
        assert!(!members.is_leaving(3));
        assert!(!members.removed.contains_key(&2));
    }

    #[test]
    fn one_member_too_many_is_refused_and_existing_members_stay() {
        let mut members = fullest();
        let add = |id| command(Kind::AddMember, id, &format!("http://b:{id}"));
        assert_eq!(members.decide(&add(20_000)), Err(Refusal::TooManyMembers));
        let again = members.members[&3].url.to_string();
        let again = command(Kind::AddMember, 3, &again);
        assert_eq!(members.decide(&again), Ok(Decision::Nothing));
        members.apply(&command(Kind::RemoveMember, 3, ""), INDEX_MAX - 1);
        assert!(matches!(
            members.decide(&add(20_000)),
            Ok(Decision::Change(_))
        ));
    }

    fn no_conf_change() -> Decision {
        let mut change = ConfChange::default();
        change.set_change_type(ConfChangeType::AddNode);
        Decision::Change(change)
    }

    #[test]
    fn a_member_moves_to_a_free_place_under_its_own_incarnation() {
        let mut members = three();
        for (to, incarnation, decided) in [
            ("http://a:2", 20, Ok(Decision::Nothing)),
            ("http://a:3", 20, Err(Refusal::UrlTaken(3))),
            ("http://b:2", 21, Err(Refusal::OtherIncarnation)),
            ("http://b:2", 20, Ok(no_conf_change())),
            ("http://b:2", 0, Ok(no_conf_change())),
        ] {
            let mut command = command(Kind::MoveMember, 2, to);
            command.member_incarnation = incarnation;
            assert_eq!(members.decide(&command), decided, "{to}");
        }
        members.apply(&command(Kind::MoveMember, 2, "http://b:2"), 5);
        assert_eq!(members.members[&2].url.to_string(), "http://b:2");
        assert_eq!(members.members[&2].bound_index, 1);
        let again = command(Kind::AddMember, 2, "http://a:2");
        let moved = "http://b:2".parse().unwrap();
        assert_eq!(members.decide(&again), Err(Refusal::IdTaken(moved)));
        let mut other = command(Kind::AddMember, 2, "http://b:2");
        other.member_incarnation = 21;
        assert_eq!(members.decide(&other), Err(Refusal::OtherIncarnation));
    }

    #[test]
    fn a_cluster_has_formed_once_all_listed_are_voters_and_the_entry_says_so() {
        let list = BTreeMap::from([(1, url(1)), (2, url(2))]);
        assert!(Members::first(&BTreeMap::from([(1, url(1))]), 7).is_formed());
        let mut members = Members::first(&list, 7);
        let formed = command(Kind::Formed, 0, "");
        assert_eq!(members.decide(&formed), Err(Refusal::NotFound));
        let mut add = command(Kind::AddMember, 2, "http://a:2");
        add.member_incarnation = 8;
        members.apply(&add, 3);
        assert_eq!(members.decide(&formed), Err(Refusal::NotFound));
        members.apply(&command(Kind::PromoteMember, 2, ""), 5);
        assert!(!members.is_formed());
        assert_eq!(members.decide(&formed), Ok(no_conf_change()));
        members.apply(&formed, 8);
        assert!(members.is_formed() && members.unsettled.is_none());
        assert_eq!(members.decide(&formed), Ok(Decision::Nothing));
    }

    #[test]
    fn a_list_is_corrected_while_the_first_has_added_nobody() {
        let list = |ids: &[u64]| {
            ids.iter()
                .map(|id| (*id, url(*id)))
                .collect::<BTreeMap<_, _>>()
        };
        let correct = |ids: &[u64]| {
            let mut command = command(Kind::CorrectList, 0, "");
            command.listed = to_listed(&list(ids));
            command
        };
        let mut members = Members::first(&list(&[1, 2, 3]), 7);
        assert_eq!(members.decide(&correct(&[1, 2, 3])), Ok(Decision::Nothing));
        for not_its_own in [&[][..], &[2, 3]] {
            let refused = members.decide(&correct(not_its_own));
            assert_eq!(refused, Err(Refusal::NotFound), "{not_its_own:?}");
        }
        assert_eq!(members.decide(&correct(&[1, 4])), Ok(no_conf_change()));
        members.apply(&correct(&[1, 4]), 3);
        assert_eq!(members.forming, list(&[1, 4]));
        let mut add = command(Kind::AddMember, 4, "http://a:4");
        add.member_incarnation = 8;
        members.apply(&add, 5);
        assert_eq!(members.decide(&correct(&[1, 2])), Err(Refusal::NotFound));
        let formed = Members::first(&list(&[1]), 7);
        assert_eq!(formed.decide(&correct(&[1, 2])), Err(Refusal::NotFound));
    }
}
