//! The members of the cluster: id, peer URL, voter or learner, incarnation, and who was removed.
//!
//! This is replicated state: it changes only by committed entries, it is the same on every node at the same index,
//! and it travels in every snapshot. [`Members::decide`] is where the rules of membership are, and nowhere else.
//!
//! A member *is* an id and an incarnation, the random number of its data directory. The entry that adds a member binds
//! both, or leaves the incarnation open; then a later entry binds it. Until then the id has no power.
//!
//! A cluster *forms* from the list of its first members: the first of them begins alone and adds the others. `forming` is
//! that list until the entry `Formed`. Before it has added anybody it may take another list, by the entry `CorrectList`.
//!
//! Raft makes a configuration effective when its entry is applied, so a configuration is as volatile as the commit index
//! behind it. Therefore every change is *settled*: the leader proposes an entry after it has carried the change out, and
//! whoever stores that entry stores the commit index that came with it, which covers the change. Until the settlement is
//! committed there is no other change, nobody is told of the success, and a removed member stays: those who know of the
//! change may be too few to elect a leader, and the others still need the old configuration.

use crate::command::outcome::Refusal;
use crate::command::version::VERSION;
use crate::command::{self, Command, Kind, Listed, ReplicatedState};
use crate::limits::{
    CLIENT_URL_BYTES_MAX, FORMER_PLACES_MAX, KEY_FINGERPRINT_BYTES_MAX, MEMBERS_MAX, REMOVED_MAX,
};
use crate::mutants::{Mutant, is_planted};
use crate::peer_url::PeerUrl;
use protobuf::RepeatedField;
use raft::eraftpb::{ConfChange, ConfChangeType, ConfState};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// Members and removed ids, as of some index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// By id.
    pub members: BTreeMap<u64, Member>,
    /// Removed ids, with the index of the entry that removed them; an id added again leaves this map. The newest
    /// [`REMOVED_MAX`] of them: see [`Members::removed_at`].
    pub removed: BTreeMap<u64, u64>,
    /// The incarnation that each removed id had, if it was bound: it does not come back. A request that comes twice would
    /// otherwise add a directory that knows itself to be removed.
    pub gone: BTreeMap<u64, u64>,
    /// The highest index of a removal that is not in `removed` any more because there are too many, 0 if none is.
    pub forgotten_index: u64,
    /// The newest change while it is not settled.
    pub unsettled: Option<Unsettled>,
    /// While the cluster forms, where its first members are reached; empty once it has formed.
    pub forming: BTreeMap<u64, PeerUrl>,
    /// Where members were reached before they moved or were removed, the newest last: a list of members that names such a
    /// place is an old one, and not that of another cluster. At most [`FORMER_PLACES_MAX`].
    pub former: Vec<(u64, PeerUrl)>,
    /// The highest id that a member has had.
    pub highest_id: u64,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Where its peers reach it, in the canonical form of [`PeerUrl`].
    pub url: PeerUrl,
    /// A learner replicates and does not vote.
    pub learner: bool,
    /// Index of the entry that added it; 1 for the first member.
    pub added_index: u64,
    /// The random number of its data directory, 0 while that is open.
    pub incarnation: u64,
    /// Index of the entry that bound the incarnation, 0 while it is open. Tells whose view of a member is the newer one.
    pub bound_index: u64,
    /// What the others may know of it.
    pub description: Description,
}

/// What a member says of itself. No rule of membership depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// The command version that its build knows: see [`crate::command::version`]. 0: it has not said.
    pub version: u64,
    /// Where clients reach it. Empty: it has not said.
    pub client_url: String,
    /// A fingerprint of its key. Empty: it has none.
    pub key_fingerprint: Vec<u8>,
}

/// A change of members that is not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsettled {
    /// Index of its entry.
    pub index: u64,
    /// What it did.
    pub kind: Kind,
    /// To whom.
    pub member: u64,
}

/// What an accepted membership command does.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It changes the members, and raft's configuration in this way. Id 0: raft's stays as it is.
    Change(ConfChange),
    /// It asks for what is already so: a success without effect.
    Nothing,
}

impl Members {
    /// Where a new cluster begins: its first member alone, the lowest id of `list`, with the incarnation of its data
    /// directory. A list of one has formed.
    pub fn first(list: &BTreeMap<u64, PeerUrl>, incarnation: u64) -> Members {
        let (id, url) = list.first_key_value().expect("a cluster has a member");
        let mut members = Members::of([(*id, url.clone(), incarnation)]);
        if list.len() > 1 {
            members.forming = list.clone();
        }
        members
    }

    /// A cluster that has formed, of these voters: id, peer URL and incarnation.
    pub fn of(voters: impl IntoIterator<Item = (u64, PeerUrl, u64)>) -> Members {
        let member = |(id, url, incarnation)| {
            let member = Member {
                url,
                learner: false,
                added_index: 1,
                incarnation,
                bound_index: 1,
                description: Description {
                    // Whoever makes them is one of them.
                    version: VERSION,
                    ..Description::default()
                },
            };
            (id, member)
        };
        let members: BTreeMap<u64, Member> = voters.into_iter().map(member).collect();
        Members {
            highest_id: members.keys().next_back().copied().unwrap_or_default(),
            members,
            ..Members::default()
        }
    }

    /// The cluster serves clients: all of its first members are in.
    pub fn is_formed(&self) -> bool {
        self.forming.is_empty()
    }

    /// Decides on a membership command against this state. Every node gives the same answer at the same index.
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
        // What was long on its way must not hit the next life of an id, which may not even run.
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

    /// This state can be the first of the member with this incarnation: it binds it, and not yet as a voter. A learner becomes
    /// a voter when it has stored its first state.
    pub fn lets_in(&self, id: u64, incarnation: u64) -> bool {
        let row = self.members.get(&id);
        let row = row.filter(|row| row.incarnation == incarnation);
        row.is_some_and(|row| row.learner || is_planted(Mutant::PutBackLedOn))
    }

    /// The cluster has not formed, and its first member has not added anybody.
    pub fn has_only(&self, first: u64) -> bool {
        !self.is_formed() && self.members.keys().eq([&first]) && self.removed.is_empty()
    }

    /// The member with this id is, or once was, reached there.
    pub fn was_at(&self, id: u64, url: &PeerUrl) -> bool {
        let member = self.members.get(&id);
        member.is_some_and(|member| member.url == *url)
            || (self.former.iter()).any(|(other, place)| *other == id && place == url)
    }

    /// There is, or once was, a member with this id.
    pub fn had(&self, id: u64) -> bool {
        self.members.contains_key(&id)
            || self.removed.contains_key(&id)
            || self.former.iter().any(|(other, _)| *other == id)
    }

    fn leaves(&mut self, id: u64, url: PeerUrl) {
        self.former.retain(|place| *place != (id, url.clone()));
        self.former.push((id, url));
        let surplus = self.former.len().saturating_sub(FORMER_PLACES_MAX);
        self.former.drain(..surplus);
    }

    /// Another member than this one at this URL.
    fn other_at(&self, url: &PeerUrl, id: u64) -> Option<u64> {
        let mut members = self.members.iter();
        let (other, _) = members.find(|(other, member)| **other != id && member.url == *url)?;
        Some(*other)
    }

    /// Carries out a command that [`Members::decide`] accepted as a change, at the entry with this index.
    pub fn apply(&mut self, command: &Command, index: u64) {
        let id = command.member_id;
        let incarnation = command.member_incarnation;
        match command.kind {
            Kind::AddMember => {
                self.removed.remove(&id);
                self.gone.remove(&id);
                let member = Member {
                    url: parse_url(command).expect("decide parsed this URL"),
                    learner: true,
                    added_index: index,
                    incarnation,
                    bound_index: if incarnation == 0 { 0 } else { index },
                    description: Description::default(),
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
        // Formed changes no configuration, and who has lost its commit index learns of it again.
        self.unsettled = (command.kind != Kind::Formed).then_some(Unsettled {
            index,
            kind: command.kind,
            member: id,
        });
    }

    /// Carries out a command that describes a member; whether that changed anything. Not of an earlier life of the id, and
    /// not what is too long for a row.
    ///
    /// It changes no configuration, so it needs no settlement: whoever has applied the entry knows it to be committed, and
    /// what is proposed because of it stands behind it in every log.
    pub fn describe(&mut self, command: &Command) -> bool {
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
        if !command.member_key_fingerprint.is_empty() {
            description.key_fingerprint = command.member_key_fingerprint.to_vec();
        }
        let is_it = row.incarnation != 0 && row.incarnation == command.member_incarnation;
        let changes = is_it && description.fits() && row.description != description;
        if changes {
            row.description = description;
        }
        changes
    }

    /// The command version that all members know, learners too. 0: somebody has not said, or there is nobody.
    pub fn known_version(&self) -> u64 {
        let versions = self.members.values().map(|row| row.description.version);
        versions.min().unwrap_or_default()
    }

    /// The directory of an id that was removed long ago may then be added again by a request that was as long on its way.
    /// It starts no more, if it knows of its removal; or it has kept its votes, and may as well come back.
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

    /// The entry that removed the member with this id which was bound at `bound_index` (0: it never was), or one behind
    /// it. `None`: it was not removed, as far as this table knows.
    ///
    /// Whoever was bound, and is neither a member nor among the newest removed ones, was removed by an entry that is not
    /// known any more.
    pub fn removed_at(&self, id: u64, bound_index: u64) -> Option<u64> {
        let known = self.removed.get(&id).copied();
        let long_ago =
            (1..self.forgotten_index).contains(&bound_index) && !self.members.contains_key(&id);
        known.or(long_ago.then_some(self.forgotten_index))
    }

    fn decided(&mut self, id: u64) -> &mut Member {
        let member = self.members.get_mut(&id);
        member.expect("decide found the member")
    }

    /// The member was removed, and that is not settled.
    pub fn is_leaving(&self, id: u64) -> bool {
        let removal = |u: &Unsettled| u.kind == Kind::RemoveMember && u.member == id;
        self.unsettled.as_ref().is_some_and(removal)
    }

    /// The member was made a voter, and that is settled.
    pub fn is_settled_voter(&self, id: u64) -> bool {
        let promotion = |u: &Unsettled| u.kind == Kind::PromoteMember && u.member == id;
        let voter = self.members.get(&id).is_some_and(|m| !m.learner);
        voter && !self.unsettled.as_ref().is_some_and(promotion)
    }

    /// Ids of the voters, ascending.
    pub fn voters(&self) -> impl Iterator<Item = u64> + '_ {
        self.ids(false)
    }

    /// Ids of the learners, ascending.
    pub fn learners(&self) -> impl Iterator<Item = u64> + '_ {
        self.ids(true)
    }

    fn ids(&self, learner: bool) -> impl Iterator<Item = u64> + '_ {
        self.members
            .iter()
            .filter(move |(_, member)| member.learner == learner)
            .map(|(id, _)| *id)
    }

    /// The same members as raft-rs counts them.
    pub fn conf_state(&self) -> ConfState {
        let mut state = ConfState::default();
        state.set_voters(self.voters().collect());
        state.set_learners(self.learners().collect());
        state
    }

    /// Reads the members out of a snapshot header's state. A URL that does not parse is an error, with its text, and so is
    /// more than there can be.
    pub fn from_state(state: &ReplicatedState) -> Result<Members, String> {
        for (what, count, most) in [
            ("members", state.members.len(), MEMBERS_MAX),
            ("first members", state.forming.len(), MEMBERS_MAX),
            ("sessions", state.sessions.len(), MEMBERS_MAX),
            ("removed ids", state.removed.len(), REMOVED_MAX),
        ] {
            if count > most {
                return Err(format!(
                    "there are {count} {what}, at most {most} are possible"
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
                return Err(format!("what is said of member {id} is too long"));
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
    }
}

/// A list of members, as commands and snapshots carry it.
pub fn to_listed<'a>(
    list: impl IntoIterator<Item = (&'a u64, &'a PeerUrl)>,
) -> RepeatedField<Listed> {
    let listed = list.into_iter().map(|(id, url)| {
        let mut out = Listed::new();
        out.id = *id;
        out.url = url.to_string();
        out
    });
    listed.collect()
}

fn places(listed: &[Listed]) -> Result<Vec<(u64, PeerUrl)>, String> {
    let place = |listed: &Listed| Ok((listed.id, listed.url.parse()?));
    listed.iter().map(place).collect()
}

fn listed(listed: &[Listed]) -> Result<BTreeMap<u64, PeerUrl>, String> {
    Ok(places(listed)?.into_iter().collect())
}

impl Member {
    /// It has this incarnation, or one of the two is open.
    fn may_be(&self, incarnation: u64) -> bool {
        incarnation == 0 || self.incarnation == 0 || self.incarnation == incarnation
    }
}

impl Description {
    fn fits(&self) -> bool {
        self.client_url.len() <= CLIENT_URL_BYTES_MAX
            && self.key_fingerprint.len() <= KEY_FINGERPRINT_BYTES_MAX
    }
}

/// Whether a command of this kind changes the members, and so goes into an entry of its own.
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

/// What a change of members asks of raft. All of them are conf changes, since raft holds those back one by one; id 0 tells
/// it to change nothing.
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

/// The id of the cluster that this data directory begins. Never 0, which means "none yet".
pub fn cluster_id(incarnation: u64) -> u64 {
    digest(b"cluster", incarnation).max(1)
}

/// What anybody may know of an incarnation.
pub fn fingerprint(incarnation: u64) -> u64 {
    digest(b"fingerprint", incarnation)
}

/// The first 8 bytes of SHA-256, as a little-endian number. It does not tell the incarnation, which is for members only:
/// a hash that can be turned back, such as FNV or a CRC, would.
fn digest(purpose: &[u8], incarnation: u64) -> u64 {
    let mut hash = Sha256::new();
    hash.update(purpose);
    hash.update(incarnation.to_le_bytes());
    let first = hash.finalize().first_chunk().copied();
    u64::from_le_bytes(first.expect("SHA-256 has 32 bytes"))
}

fn parse_url(command: &Command) -> Result<PeerUrl, Refusal> {
    command.member_url.parse().map_err(|_| Refusal::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Claims, Reason, View, judge};
    use crate::limits::{INDEX_MAX, SNAPSHOT_HEADER_BYTES_MAX};
    use protobuf::Message as _;

    fn command(kind: Kind, id: u64, url: &str) -> Command {
        let mut command = Command::new();
        command.kind = kind;
        command.member_id = id;
        command.member_url = url.to_owned();
        command
    }

    fn url(id: u64) -> PeerUrl {
        format!("http://a:{id}").parse().unwrap()
    }

    fn three() -> Members {
        Members::of((1..=3).map(|id| (id, url(id), 10 * id)))
    }

    #[test]
    fn membership_rules() {
        let mut members = three();
        let decide = |m: &Members, kind, id, url| m.decide(&command(kind, id, url));
        use Kind::*;
        assert_eq!(
            decide(&members, AddMember, 3, "http://a:3/"),
            Ok(Decision::Nothing)
        );
        assert_eq!(
            decide(&members, AddMember, 3, "http://a:4"),
            Err(Refusal::IdTaken(url(3)))
        );
        assert_eq!(
            decide(&members, AddMember, 4, "http://a:3"),
            Err(Refusal::UrlTaken(3))
        );
        assert_eq!(
            decide(&members, RemoveMember, 4, ""),
            Err(Refusal::NotFound)
        );
        assert_eq!(
            decide(&members, PromoteMember, 4, ""),
            Err(Refusal::NotFound)
        );

        let add = command(AddMember, 4, "http://a:4");
        assert!(matches!(members.decide(&add), Ok(Decision::Change(_))));
        members.apply(&add, 7);
        assert_eq!(members.learners().collect::<Vec<_>>(), [4]);
        let mut promote = command(PromoteMember, 4, "");
        promote.member_added_index = 7;
        assert_eq!(members.decide(&promote), Ok(Decision::Nothing), "not bound");
        let mut bind = command(BindMember, 4, "");
        bind.member_incarnation = 40;
        for (added, decided) in [(5, Decision::Nothing), (7, no_conf_change())] {
            bind.member_added_index = added;
            assert_eq!(members.decide(&bind), Ok(decided));
        }
        members.apply(&bind, 8);
        assert_eq!(
            members.decide(&bind),
            Ok(Decision::Nothing),
            "the first wins"
        );
        promote.member_added_index = 5;
        assert_eq!(
            members.decide(&promote),
            Ok(Decision::Nothing),
            "an earlier life"
        );
        promote.member_added_index = 7;
        assert!(matches!(members.decide(&promote), Ok(Decision::Change(_))));
        members.apply(&promote, 8);
        assert!(!members.is_settled_voter(4));
        assert_eq!(members.conf_state().get_voters(), [1, 2, 3, 4]);
        for id in [1, 2, 3] {
            members.apply(&command(RemoveMember, id, ""), 8 + id);
        }
        assert_eq!(
            decide(&members, RemoveMember, 4, ""),
            Err(Refusal::LastVoter)
        );
        assert_eq!(members.removed, BTreeMap::from([(1, 9), (2, 10), (3, 11)]));
        assert!(members.is_leaving(3) && !members.is_leaving(2));
        assert!(members.is_settled_voter(4));
        let mut same = command(AddMember, 2, "http://b:2");
        same.member_incarnation = 20;
        assert_eq!(members.decide(&same), Err(Refusal::OtherIncarnation));
        members.apply(&command(AddMember, 2, "http://b:2"), 12);
        assert!(!members.is_leaving(3));
        assert!(!members.removed.contains_key(&2));
    }

    #[test]
    fn state_survives_a_round_trip() {
        let mut members = three();
        members.apply(&command(Kind::AddMember, 9, "http://a:9"), 5);
        members.apply(&command(Kind::RemoveMember, 2, ""), 6);
        members.apply(&command(Kind::MoveMember, 3, "http://b:3"), 7);
        members.forming = BTreeMap::from([(1, url(1)), (2, url(7))]);
        members.forgotten_index = 4;
        members.describe(&description(3, 30));
        let mut state = ReplicatedState::new();
        members.write_to(&mut state);
        assert_eq!(Members::from_state(&state), Ok(members));
    }

    /// As many as there can be, with the longest URLs, and so many removed ones that some are forgotten.
    fn fullest() -> Members {
        let mut members = three();
        let add = |id: u64| {
            let mut command = command(Kind::AddMember, id, "");
            command.member_url = format!("http://{}:{id}", "a".repeat(253));
            command.member_incarnation = u64::MAX - id;
            command
        };
        let mut index = INDEX_MAX / 2;
        for id in 4..=3 + REMOVED_MAX as u64 + 10 {
            members.apply(&add(id), index);
            members.apply(&command(Kind::RemoveMember, id, ""), index + 1);
            index += 2;
        }
        let free = MEMBERS_MAX - members.members.len();
        for id in (10_000..).take(free) {
            let change = members.decide(&add(id));
            assert!(
                matches!(change, Ok(Decision::Change(_))),
                "{id}: {change:?}"
            );
            members.apply(&add(id), index);
            index += 1;
        }
        for id in members.members.keys().copied().collect::<Vec<_>>() {
            let mut command = description(id, members.members[&id].incarnation);
            command.member_version = u64::MAX;
            assert!(members.describe(&command));
        }
        members.forming = members
            .members
            .iter()
            .map(|(id, m)| (*id, m.url.clone()))
            .collect();
        members
    }

    #[test]
    fn one_member_too_many_is_refused_and_those_that_are_stay() {
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

    #[test]
    fn of_removed_ids_the_newest_are_kept_and_the_others_are_still_known_to_be_removed() {
        let members = fullest();
        assert_eq!(members.removed.len(), REMOVED_MAX);
        assert_eq!(members.gone.len(), REMOVED_MAX);
        let first = INDEX_MAX / 2;
        let (oldest, newest) = (4, 3 + REMOVED_MAX as u64 + 10);
        assert!(!members.removed.contains_key(&oldest));
        assert_eq!(members.forgotten_index, first + 19);
        // Whoever was bound before the last removal that is forgotten, and is no member, is one of those.
        assert_eq!(members.removed_at(oldest, first), Some(first + 19));
        assert_eq!(members.removed_at(oldest, 0), None, "it never was a member");
        assert_eq!(members.removed_at(oldest, first + 20), None);
        assert_eq!(members.removed_at(1, 1), None, "it is a member");
        let removed = first + 2 * (newest - 4) + 1;
        assert_eq!(members.removed_at(newest, removed - 1), Some(removed));
    }

    #[test]
    fn a_member_whose_removal_is_forgotten_is_refused_as_removed() {
        let members = fullest();
        let index = members.forgotten_index;
        let view = View {
            me: 1,
            incarnation: 10,
            run: 1,
            url: url(1),
            url_given: true,
            cluster: 7,
            bound_index: 1,
            members,
        };
        let claims = |bound_index| Claims {
            cluster: 7,
            from: 4,
            to: 1,
            incarnation: u64::MAX - 4,
            bound_index,
            run: 2,
            url: url(4),
            url_given: false,
            version: VERSION,
            receiver: None,
        };
        let removed = Err(Reason::Removed {
            removed_index: index,
        });
        let applied = INDEX_MAX - 1;
        assert_eq!(judge(&claims(index - 1), &view, applied), removed);
        // An empty directory never was a member.
        assert_eq!(judge(&claims(0), &view, applied), Err(Reason::NotAMember));
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
    }

    /// The longest.
    fn description(id: u64, incarnation: u64) -> Command {
        let mut command = command(Kind::DescribeMember, id, "");
        command.member_incarnation = incarnation;
        command.member_version = VERSION + 1;
        command.member_client_url = "u".repeat(CLIENT_URL_BYTES_MAX);
        command.member_key_fingerprint = vec![7; KEY_FINGERPRINT_BYTES_MAX].into();
        command
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
            assert!(!members.describe(&command), "{command:?}");
        }
        let open = command(Kind::AddMember, 4, "http://a:4");
        members.apply(&open, 5);
        assert!(!members.describe(&description(4, 0)));
        members.apply(&command(Kind::RemoveMember, 4, ""), 6);
        assert_eq!(members.members, before.members);
        assert!(members.describe(&description(2, 20)));
        assert!(!members.describe(&description(2, 20)), "it is so already");
        // What a command does not say stays.
        let mut version = command(Kind::DescribeMember, 2, "");
        (version.member_incarnation, version.member_version) = (20, VERSION);
        assert!(members.describe(&version));
        let described = &members.members[&2].description;
        assert_eq!(described.version, VERSION);
        assert_eq!(described.client_url.len(), CLIENT_URL_BYTES_MAX);
        assert_eq!(described.key_fingerprint.len(), KEY_FINGERPRINT_BYTES_MAX);
    }

    #[test]
    fn all_members_know_what_the_one_knows_that_knows_least() {
        assert_eq!(Members::default().known_version(), 0);
        let mut members = three();
        assert_eq!(members.known_version(), VERSION);
        let later = |id| {
            let mut command = description(id, 10 * id);
            command.member_version = VERSION + 1;
            command
        };
        for id in [1, 2] {
            assert!(members.describe(&later(id)));
            assert_eq!(members.known_version(), VERSION);
        }
        assert!(members.describe(&later(3)));
        assert_eq!(members.known_version(), VERSION + 1);
        // A learner counts from its first moment, and nobody knows what it knows.
        members.apply(&command(Kind::AddMember, 4, "http://a:4"), 5);
        assert_eq!(members.known_version(), 0);
        members.apply(&command(Kind::RemoveMember, 4, ""), 6);
        assert_eq!(members.known_version(), VERSION + 1);
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

    #[test]
    fn a_cluster_id_is_not_the_incarnation_that_it_comes_from() {
        let ids: std::collections::BTreeSet<u64> = (0..100).map(cluster_id).collect();
        assert_eq!(ids.len(), 100);
        assert!((0..100).all(|incarnation| cluster_id(incarnation) != incarnation));
    }
}
