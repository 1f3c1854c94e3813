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

mod change;
mod decide;
mod fingerprint;
#[cfg(test)]
mod fixtures;
mod list;
mod state;

pub use decide::{Decision, conf_change, is_change};
pub use fingerprint::{cluster_id, fingerprint};
pub use list::to_listed;

use crate::command::Kind;
use crate::command::version::VERSION;
use crate::limits::{CLIENT_URL_BYTES_MAX, KEY_FINGERPRINT_BYTES_MAX};
use crate::mutants::{Mutant, is_planted};
use crate::peer_url::PeerUrl;
use raft::eraftpb::ConfState;
use std::collections::BTreeMap;

/// Members and removed ids, as of some index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// By id.
    pub members: BTreeMap<u64, Member>,
    /// Removed ids, with the index of the entry that removed them; an id added again leaves this map. The newest
    /// [`REMOVED_MAX`](crate::limits::REMOVED_MAX) of them: see [`Members::removed_at`].
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
    /// place is an old one, and not that of another cluster. At most
    /// [`FORMER_PLACES_MAX`](crate::limits::FORMER_PLACES_MAX).
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

    /// The command version that all members know, learners too. 0: somebody has not said, or there is nobody.
    pub fn known_version(&self) -> u64 {
        let versions = self.members.values().map(|row| row.description.version);
        versions.min().unwrap_or_default()
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
}

impl Description {
    fn fits(&self) -> bool {
        self.client_url.len() <= CLIENT_URL_BYTES_MAX
            && self.key_fingerprint.len() <= KEY_FINGERPRINT_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::fixtures::{command, description, three};
    use super::*;

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
}
