//! The members table: id, peer URL, voter or learner, incarnation, the removed ids, and the revoked keys.
//!
//! The table is replicated state. It changes only by committed entries, is equal on every node at the same index, and
//! travels in every snapshot. [`Members::decide`] holds all rules of membership.
//!
//! A member *is* an id and an incarnation, the random number of its data directory. The entry that adds a member either
//! binds both, or leaves the incarnation open for a later entry to bind. Until it is bound, the id has no power.
//!
//! A cluster *forms* from the list of its first members: the first one starts alone and adds the others. `forming`
//! holds that list until the entry `Formed`. Before the first has added any member, the entry `CorrectList` can replace
//! the list.
//!
//! Raft makes a configuration effective when its entry is applied, so a configuration is only as durable as the commit
//! index that covers it. Therefore every change is *settled*. After the leader has applied the change, it proposes a
//! settlement entry. A member that stores the settlement also stores the commit index that came with it, and that index
//! covers the change. Until the settlement is committed:
//! - no other change is proposed;
//! - no client is answered that the change succeeded;
//! - a removed member keeps running.
//!
//! Otherwise the members that know of the change may be too few to elect a leader, while the others still need the old
//! configuration.

mod change;
mod decide;
mod fingerprint;
#[cfg(test)]
mod fixtures;
mod list;
mod revoked;
mod state;

pub use decide::{Decision, conf_change, is_change};
pub use fingerprint::{cluster_id, fingerprint};
pub use list::to_listed;
pub use revoked::RevokedKey;

use crate::command::Kind;
use crate::command::version::VERSION;
use crate::limits::{CLIENT_URL_BYTES_MAX, KEY_FINGERPRINT_BYTES_MAX};
use crate::mutants::{Mutant, is_planted};
use crate::peer_url::PeerUrl;
use raft::eraftpb::ConfState;
use std::collections::BTreeMap;

/// Members and removed ids, as of one index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// The members by id.
    pub members: BTreeMap<u64, Member>,
    /// Removed ids, each with the index of the removing entry. An id that is added again leaves this map. Only the
    /// newest [`REMOVED_MAX`](crate::limits::REMOVED_MAX) removals are kept: see [`Members::removed_at`].
    pub removed: BTreeMap<u64, u64>,
    /// The incarnation of each removed id that was bound. That incarnation can't be added again. Otherwise a duplicate
    /// of the old add request would add a directory that knows itself to be removed.
    pub gone: BTreeMap<u64, u64>,
    /// The highest index of a removal that was dropped from `removed` to keep the limit, or 0.
    pub forgotten_index: u64,
    /// The newest change, while it is not settled.
    pub unsettled: Option<Unsettled>,
    /// The list of first members while the cluster forms. Empty once the cluster has formed.
    pub forming: BTreeMap<u64, PeerUrl>,
    /// Places of members before they moved or were removed, the newest last. A list that names such a place is an old
    /// list of this cluster, and not the list of another one. At most
    /// [`FORMER_PLACES_MAX`](crate::limits::FORMER_PLACES_MAX).
    pub former: Vec<(u64, PeerUrl)>,
    /// The highest id that any member has ever had.
    pub highest_id: u64,
    /// The keys of removed members, the newest last: see [`Members::is_revoked`]. At most
    /// [`REVOKED_KEYS_MAX`](crate::limits::REVOKED_KEYS_MAX).
    pub revoked: Vec<RevokedKey>,
}

/// One row of the members table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The URL at which peers reach the member, in the canonical form of [`PeerUrl`].
    pub url: PeerUrl,
    /// A learner replicates and does not vote.
    pub learner: bool,
    /// Index of the entry that added the member; 1 for the first member.
    pub added_index: u64,
    /// The random number of the member's data directory, or 0 while it is open.
    pub incarnation: u64,
    /// Index of the entry that bound the incarnation, or 0 while it is open. Of two views of a member, the one with the
    /// higher index is newer.
    pub bound_index: u64,
    /// What the member has stated about itself.
    pub description: Description,
}

/// What a member states about itself. No rule of membership depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// The command version that the member's build knows (see [`crate::command::version`]), or 0 if it is not known.
    pub version: u64,
    /// The URL at which clients reach the member. Empty if it is not known.
    pub client_url: String,
    /// The fingerprint of the key with which the member last proved itself. Empty if it has never used TLS. A member that
    /// is started without TLS keeps its fingerprint: its directory still has the key, and a removal has to revoke it.
    pub key_fingerprint: Vec<u8>,
}

/// A membership change that is not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsettled {
    /// Index of the entry that made the change.
    pub index: u64,
    /// The kind of the change.
    pub kind: Kind,
    /// The id of the changed member.
    pub member: u64,
}

impl Members {
    /// The table of a new cluster: only its first member, the lowest id of `list`, with the incarnation of its data
    /// directory. With a list of one member, the cluster has formed.
    pub fn first(list: &BTreeMap<u64, PeerUrl>, incarnation: u64) -> Members {
        let (id, url) = list.first_key_value().expect("a cluster has a member");
        let mut members = Members::of([(*id, url.clone(), incarnation)]);
        if list.len() > 1 {
            members.forming = list.clone();
        }
        members
    }

    /// The table of a formed cluster with these voters, given as id, peer URL and incarnation.
    pub fn of(voters: impl IntoIterator<Item = (u64, PeerUrl, u64)>) -> Members {
        let member = |(id, url, incarnation)| {
            let member = Member {
                url,
                learner: false,
                added_index: 1,
                incarnation,
                bound_index: 1,
                description: Description {
                    // The process that creates the table is one of the members.
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

    /// Whether the cluster has formed: all its first members have become voters, and it serves clients.
    pub fn is_formed(&self) -> bool {
        self.forming.is_empty()
    }

    /// Whether this can be the first state of the member with this incarnation: the state binds it, and as a learner. A
    /// learner becomes a voter only after it has stored its first state.
    pub fn lets_in(&self, id: u64, incarnation: u64) -> bool {
        let row = self.members.get(&id);
        let row = row.filter(|row| row.incarnation == incarnation);
        row.is_some_and(|row| row.learner || is_planted(Mutant::PutBackLedOn))
    }

    /// Whether the cluster has not formed, and its first member has not added any other.
    pub fn has_only(&self, first: u64) -> bool {
        !self.is_formed() && self.members.keys().eq([&first]) && self.removed.is_empty()
    }

    /// Whether the member with this id is, or once was, at this URL, as far as `former` still knows.
    pub fn was_at(&self, id: u64, url: &PeerUrl) -> bool {
        let member = self.members.get(&id);
        member.is_some_and(|member| member.url == *url)
            || (self.former.iter()).any(|(other, place)| *other == id && place == url)
    }

    /// Whether there is, or once was, a member with this id, as far as `removed` and `former` still know.
    pub fn had(&self, id: u64) -> bool {
        self.members.contains_key(&id)
            || self.removed.contains_key(&id)
            || self.former.iter().any(|(other, _)| *other == id)
    }

    /// The command version that all members know, including learners. 0 if some member's version is not known, or if
    /// there is no member.
    pub fn known_version(&self) -> u64 {
        let versions = self.members.values().map(|row| row.description.version);
        versions.min().unwrap_or_default()
    }

    /// Index of the entry that removed the member with this id, or of a later entry. `bound_index` is the index that
    /// bound the member, or 0 if none did. `None`: the member was not removed, as far as this table knows.
    ///
    /// A member that was bound, but is neither in the table nor among the newest removals, was removed by an entry that
    /// the table has forgotten.
    pub fn removed_at(&self, id: u64, bound_index: u64) -> Option<u64> {
        let known = self.removed.get(&id).copied();
        let long_ago =
            (1..self.forgotten_index).contains(&bound_index) && !self.members.contains_key(&id);
        known.or(long_ago.then_some(self.forgotten_index))
    }

    /// Whether the member was removed and the removal is not settled.
    pub fn is_leaving(&self, id: u64) -> bool {
        let removal = |u: &Unsettled| u.kind == Kind::RemoveMember && u.member == id;
        self.unsettled.as_ref().is_some_and(removal)
    }

    /// Whether the member is a voter and its promotion is settled.
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

    /// The same members as raft's configuration.
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
    fn the_known_version_is_the_lowest_of_all_members() {
        assert_eq!(Members::default().known_version(), 0);
        let mut members = three();
        assert_eq!(members.known_version(), VERSION);
        let later = |id| {
            let mut command = description(id, 10 * id);
            command.member_version = VERSION + 1;
            command
        };
        for id in [1, 2] {
            assert!(members.describe(&later(id), 0, 4));
            assert_eq!(members.known_version(), VERSION);
        }
        assert!(members.describe(&later(3), 0, 4));
        assert_eq!(members.known_version(), VERSION + 1);
        // A learner counts as soon as it is added, and its version is not known then.
        members.apply(&command(Kind::AddMember, 4, "http://a:4"), 5);
        assert_eq!(members.known_version(), 0);
        members.apply(&command(Kind::RemoveMember, 4, ""), 6);
        assert_eq!(members.known_version(), VERSION + 1);
    }
}
