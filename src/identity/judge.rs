//! Judges whether a claim is believed.

use super::claims::Claims;
use super::view::View;
use crate::mutants::{Mutant, is_planted};
use std::fmt;

/// What may pass on a connection whose ends believe each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The applied table binds this incarnation to this id.
    Bound,
    /// The claim can't be judged yet, because the binding that it names lies above the applied index. Messages pass
    /// both ways, but a contradiction in them ends no process.
    Ahead,
    /// The claimant has no power yet: it still has to be added or bound. The connection stays open, and no message
    /// passes.
    Waiting,
}

/// Why a claim is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The entry at this index removed the id.
    Removed {
        /// Index of the removing entry.
        removed_index: u64,
    },
    /// No member has this id.
    NotAMember,
    /// The id is bound to another incarnation.
    OtherIncarnation {
        /// Index of the binding entry.
        bound_index: u64,
        /// Whether the binding has the URL that the claimant gives as its own.
        same_url: bool,
    },
    /// The id was added at another URL. Whatever empty directory answers there will be bound.
    OtherPlace,
    /// The two ends belong to different clusters.
    WrongCluster {
        /// Whether this cluster, too, binds the claimant's id at the claimant's URL, but to another incarnation.
        other_life: bool,
    },
    /// The two ends belong to different clusters. This cluster has added the claimant's id at the claimant's URL, and waits
    /// for an empty directory there.
    Awaited,
    /// The connection reached another member than the claimant meant.
    WrongReceiver {
        /// The id of the member that answered.
        actual: u64,
    },
    /// Another process runs with this incarnation.
    Twice,
    /// The claimant is a voter but claims that no table binds it. Everything that it has acknowledged since it was let
    /// in is lost.
    StateLost,
    /// The claimant has proved itself with a key that was revoked when a member was removed. The key is a fact of the
    /// connection and not a claim, so [`judge()`] never gives this reason.
    KeyRevoked,
    /// The peer does not say why: this member has not proved that it belongs to the peer's cluster.
    Undisclosed,
}

impl fmt::Display for Reason {
    /// Says what is wrong with the claimant.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Removed { removed_index } => {
                write!(f, "it was removed at index {removed_index}")
            }
            Reason::NotAMember => write!(f, "no member has its id"),
            Reason::OtherIncarnation { bound_index: 0, .. } => {
                write!(f, "its id is bound to another data directory")
            }
            Reason::OtherIncarnation { bound_index, .. } => write!(
                f,
                "its id is bound to another data directory, at index {bound_index}"
            ),
            Reason::OtherPlace => write!(f, "its id was added at another peer URL"),
            Reason::WrongCluster { other_life: false } => {
                write!(f, "it belongs to another cluster")
            }
            Reason::WrongCluster { other_life: true } => write!(
                f,
                "it belongs to another cluster, and here its id and peer URL belong to another data directory"
            ),
            Reason::Awaited => write!(
                f,
                "it belongs to another cluster, and here its id was added and waits for an empty data directory"
            ),
            Reason::WrongReceiver { actual } => {
                write!(
                    f,
                    "member {actual} answers at its address: two addresses were mixed up"
                )
            }
            Reason::Twice => write!(f, "another process runs on a copy of its data directory"),
            Reason::StateLost => write!(
                f,
                "it is a voter, and its data directory is from before it was let in"
            ),
            Reason::KeyRevoked => write!(
                f,
                "the key of its certificate was revoked when its member was removed; make a new certificate with raftkvd cert member"
            ),
            Reason::Undisclosed => write!(
                f,
                "it does not say why to a process that it does not know; its log does"
            ),
        }
    }
}

/// Judges a peer's claims against this view, whose table is applied up to `applied`.
pub fn judge(claims: &Claims, view: &View, applied: u64) -> Result<Standing, Reason> {
    if claims.to != view.me {
        return Err(Reason::WrongReceiver { actual: view.me });
    }
    let row = view.members.members.get(&claims.from);
    let same_url = row.is_some_and(|row| row.url == claims.url);
    if view.cluster != 0 && claims.cluster != 0 && view.cluster != claims.cluster {
        let bound = row.is_some_and(|row| row.incarnation != 0);
        if row.is_some() && !bound && same_url {
            return Err(Reason::Awaited);
        }
        let other = row.is_some_and(|row| row.incarnation != claims.incarnation);
        return Err(Reason::WrongCluster {
            other_life: bound && other && same_url,
        });
    }
    if let Some(row) = row.filter(|row| row.incarnation == claims.incarnation) {
        // A learner becomes a voter only after it has stored its first state, so an empty voter has lost that state. A
        // learner that has just become a voter may have made these claims before; its next claims are different.
        let is_lost = claims.bound_index == 0 && !row.learner;
        return match is_lost && !is_planted(Mutant::PutBackLedOn) {
            true => Err(Reason::StateLost),
            false => Ok(Standing::Bound),
        };
    }
    // Members with a newer table know this member's incarnation. The cluster id does not suffice, because every client
    // may know it.
    let knows_me = claims
        .receiver
        .is_some_and(|receiver| receiver.incarnation == view.incarnation);
    if claims.bound_index > applied && knows_me {
        return Ok(match is_planted(Mutant::BindingAhead) {
            true => Standing::Bound,
            false => Standing::Ahead,
        });
    }
    if view.is_empty() {
        return Ok(Standing::Waiting);
    }
    match row {
        Some(row) if row.incarnation == 0 && claims.bound_index > 0 => {
            // The claimant belongs to an earlier life of the id.
            Err(Reason::Removed {
                removed_index: row.added_index,
            })
        }
        Some(row) if row.incarnation == 0 => match same_url || is_planted(Mutant::BoundAnywhere) {
            true => Ok(Standing::Waiting),
            false => Err(Reason::OtherPlace),
        },
        Some(row) => Err(Reason::OtherIncarnation {
            bound_index: row.bound_index,
            same_url,
        }),
        None => judge_stranger(claims, view),
    }
}

/// Judges the claims of an id that the table does not have.
fn judge_stranger(claims: &Claims, view: &View) -> Result<Standing, Reason> {
    if let Some(url) = view.members.forming.get(&claims.from)
        && claims.bound_index == 0
    {
        return match *url == claims.url {
            true => Ok(Standing::Waiting),
            false => Err(Reason::OtherPlace),
        };
    }
    match view.members.removed_at(claims.from, claims.bound_index) {
        // Until the removal is settled, the removed member must not leave: another member may need its vote.
        Some(removed_index) if !view.members.is_leaving(claims.from) => {
            Err(Reason::Removed { removed_index })
        }
        _ => Err(Reason::NotAMember),
    }
}

#[cfg(test)]
mod tests {
    use super::super::claims::Receiver;
    use super::super::fixtures::{claims, empty_view, url, view};
    use super::*;
    use crate::members::Members;

    fn judged(claims: Claims) -> Result<Standing, Reason> {
        judge(&claims, &view(), 60)
    }

    #[test]
    fn a_member_is_its_id_with_its_incarnation() {
        assert_eq!(judged(claims(2, 20, 1)), Ok(Standing::Bound));
        let moved = Claims {
            url: url(7),
            ..claims(2, 20, 1)
        };
        assert_eq!(judged(moved), Ok(Standing::Bound));
    }

    #[test]
    fn a_voter_that_is_empty_has_lost_its_state_and_a_learner_has_not_had_one() {
        let mut view = view();
        view.members.members.get_mut(&2).unwrap().learner = true;
        assert_eq!(judge(&claims(2, 20, 0), &view, 60), Ok(Standing::Bound));
        assert_eq!(judged(claims(2, 20, 0)), Err(Reason::StateLost));
        assert_eq!(judged(claims(2, 20, 1)), Ok(Standing::Bound));
    }

    #[test]
    fn an_id_is_bound_at_the_place_that_was_added_for_it() {
        assert_eq!(judged(claims(4, 44, 0)), Ok(Standing::Waiting));
        let elsewhere = Claims {
            url: url(7),
            ..claims(4, 44, 0)
        };
        assert_eq!(judged(elsewhere), Err(Reason::OtherPlace));
    }

    #[test]
    fn each_reason_to_refuse() {
        let other = |same_url| Reason::OtherIncarnation {
            bound_index: 1,
            same_url,
        };
        let misdirected = Claims {
            to: 2,
            ..claims(3, 30, 1)
        };
        let elsewhere = Claims {
            url: url(7),
            ..claims(2, 21, 0)
        };
        let foreign = Claims {
            cluster: 9,
            ..claims(2, 21, 1)
        };
        let stranger = Claims {
            cluster: 9,
            url: url(7),
            ..claims(2, 21, 1)
        };
        for (claims, reason) in [
            (misdirected, Reason::WrongReceiver { actual: 1 }),
            (claims(2, 21, 0), other(true)),
            (claims(2, 21, 60), other(true)),
            (elsewhere, other(false)),
            (foreign, Reason::WrongCluster { other_life: true }),
            (stranger, Reason::WrongCluster { other_life: false }),
            (claims(5, 55, 1), Reason::Removed { removed_index: 50 }),
            (claims(5, 55, 0), Reason::Removed { removed_index: 50 }),
            (claims(4, 41, 3), Reason::Removed { removed_index: 40 }),
            // The removal of member 9 is not settled.
            (claims(9, 90, 1), Reason::NotAMember),
            (claims(6, 66, 0), Reason::NotAMember),
        ] {
            assert_eq!(judged(claims.clone()), Err(reason), "{claims:?}");
        }
    }

    #[test]
    fn a_member_whose_removal_is_forgotten_is_refused_as_removed() {
        let mut view = view();
        view.members.forgotten_index = 40;
        let removed = Reason::Removed { removed_index: 40 };
        assert_eq!(judge(&claims(6, 66, 39), &view, 60), Err(removed));
        // An empty directory was never a member.
        let empty = judge(&claims(6, 66, 0), &view, 60);
        assert_eq!(empty, Err(Reason::NotAMember));
    }

    #[test]
    fn a_binding_above_what_is_applied_can_not_be_judged_yet() {
        for later in [claims(6, 66, 61), claims(2, 21, 61), claims(5, 55, 70)] {
            assert_eq!(judged(later.clone()), Ok(Standing::Ahead), "{later:?}");
            assert!(judge(&later, &view(), 70).is_err());
        }
        // A stranger knows the cluster id at most.
        for incarnation in [None, Some(11)] {
            let receiver = incarnation.map(|incarnation| Receiver {
                incarnation,
                formed: true,
                same_url: true,
            });
            let stranger = Claims {
                receiver,
                ..claims(6, 66, 61)
            };
            assert_eq!(judged(stranger), Err(Reason::NotAMember));
        }
        let foreign = Claims {
            cluster: 9,
            ..claims(6, 66, 61)
        };
        let wrong = Reason::WrongCluster { other_life: false };
        assert_eq!(judged(foreign), Err(wrong));
    }

    #[test]
    fn an_empty_member_hears_those_that_know_it_and_waits_beside_all_others() {
        let to_empty = |claims: Claims| judge(&claims, &empty_view(), 0);
        assert_eq!(to_empty(claims(2, 20, 1)), Ok(Standing::Ahead));
        assert_eq!(to_empty(claims(2, 20, 0)), Ok(Standing::Waiting));
        for receiver in [None, claims(2, 20, 1).receiver] {
            let mut stranger = claims(2, 20, 1);
            stranger.receiver = receiver.map(|receiver| Receiver {
                incarnation: 11,
                ..receiver
            });
            assert_eq!(to_empty(stranger), Ok(Standing::Waiting));
        }
        let pinned = View {
            cluster: 9,
            ..empty_view()
        };
        let wrong = Reason::WrongCluster { other_life: false };
        assert_eq!(judge(&claims(2, 20, 1), &pinned, 0), Err(wrong));
    }

    #[test]
    fn a_listed_member_waits_at_the_place_of_the_list() {
        let list = (1..=3).map(|id| (id, url(id))).collect();
        let forming = View {
            members: Members::first(&list, 10),
            ..view()
        };
        let judged = |claims: &Claims| judge(claims, &forming, 5);
        assert_eq!(judged(&claims(2, 20, 0)), Ok(Standing::Waiting));
        let elsewhere = Claims {
            url: url(7),
            ..claims(2, 20, 0)
        };
        assert_eq!(judged(&elsewhere), Err(Reason::OtherPlace));
        assert_eq!(judged(&claims(4, 40, 0)), Err(Reason::NotAMember));
    }
}
