//! What a member does when it is refused: a pure function, with one row for each case.

use super::claims::Claims;
use super::judge::Reason;
use super::view::View;

/// A refusal of this member, as the refusing peer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerRefusal {
    /// The id of the peer that refuses.
    pub by: u64,
    /// The index up to which the peer's table is applied.
    pub applied: u64,
    /// Whether the peer's cluster has formed.
    pub formed: bool,
    /// Whether this member dialled the peer where it expects that peer. Otherwise the peer connected by itself, and may
    /// be any process.
    pub dialled: bool,
    /// The reason for the refusal.
    pub reason: Reason,
}

impl PeerRefusal {
    /// The refusal that a claim implies for the member that receives it: at the URL that was dialled, the claimant's table
    /// binds the receiver's id to another incarnation, or waits for an empty data directory. A claim does not carry the
    /// index up to which the claimant's table is applied. A claimant that waits for an empty directory names no cluster:
    /// see [`View::claims_to_dial`].
    pub fn of_claim(claims: &Claims, view: &View) -> Option<PeerRefusal> {
        let other_cluster = view.cluster != 0 && claims.cluster != view.cluster;
        if claims.to == view.me && claims.awaits && other_cluster {
            return Some(PeerRefusal {
                by: claims.from,
                applied: 0,
                formed: true,
                dialled: false,
                reason: Reason::Awaited,
            });
        }
        let receiver = claims.receiver?;
        let is_me = receiver.incarnation == view.incarnation;
        if claims.to != view.me || is_me || !receiver.same_url {
            return None;
        }
        Some(PeerRefusal {
            by: claims.from,
            applied: 0,
            formed: receiver.formed,
            dialled: false,
            reason: match other_cluster {
                true => Reason::WrongCluster { other_life: true },
                false => Reason::OtherIncarnation {
                    bound_index: claims.bound_index,
                    same_url: true,
                },
            },
        })
    }
}

/// The life and state of the refused member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// The member has no table: it was never let in, or its directory was emptied.
    Empty,
    /// The member belongs to a cluster that has not formed, as far as it knows.
    Forming {
        /// Index of the entry that bound the member.
        bound_index: u64,
    },
    /// The member is, and always was, the only member of its cluster.
    Sole,
    /// The member belongs to a cluster that has formed.
    Member {
        /// Index of the entry that bound the member.
        bound_index: u64,
    },
}

/// What a member does about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Do nothing.
    GoOn,
    /// Wait to be added, and say so once.
    Wait,
    /// Go on, and tell a person to look.
    Warn,
    /// Answer every request with 503 `other-life` while the refusal is repeated.
    RefuseService,
    /// End with exit code 5: the id is bound to a different directory.
    EndAsReplaced,
    /// End with exit code 5 if the refusal is repeated and no other peer lets this member in. A single refusal may come
    /// from an old table.
    EndAsReplacedUnlessLetIn,
    /// End with exit code 5: the directory dates from before the member was let in, but the member has been a voter
    /// since.
    EndAsStateLost,
    /// End with exit code 5: a cluster has added this member, but the member has started a cluster of its own.
    EndAsNotJoined,
    /// The same, but only if no client has ever written to the cluster of this member. Otherwise continue, and log a
    /// warning.
    EndAsNotJoinedIfUnused,
    /// End with exit code 5: another process runs with this incarnation.
    EndAsTwice,
    /// End with exit code 0: the member was removed. No later start succeeds.
    EndAsRemoved {
        /// Index of the removing entry, or of a later one.
        index: u64,
    },
}

/// Decides what a member does about a refusal.
pub fn verdict(own: Own, refusal: &PeerRefusal) -> Verdict {
    use Reason::*;
    // A peer that connected by itself may be any process, so its refusal ends no process.
    let known = refusal.dialled;
    match (own, refusal.reason) {
        (_, Twice) if known => Verdict::EndAsTwice,
        (_, Twice) => Verdict::Warn,
        (_, WrongReceiver { .. }) => Verdict::GoOn,
        // With a new certificate the member may be let in. Whether the member itself was removed is another reason.
        (_, KeyRevoked) => Verdict::Warn,

        (Own::Empty, StateLost) if known && refusal.formed => Verdict::EndAsStateLost,
        (Own::Empty, StateLost) => Verdict::Warn,
        // The member was let in after it had made the claims that were refused.
        (_, StateLost) => Verdict::GoOn,

        (Own::Empty, OtherIncarnation { same_url: true, .. }) => match known && refusal.formed {
            true => Verdict::EndAsReplacedUnlessLetIn,
            false => Verdict::Warn,
        },
        (Own::Empty, NotAMember | Removed { .. } | Undisclosed) => Verdict::Wait,
        (Own::Empty, OtherIncarnation { .. } | OtherPlace | WrongCluster { .. } | Awaited) => {
            Verdict::Warn
        }

        (Own::Forming { .. }, WrongCluster { other_life: true }) if known && refusal.formed => {
            Verdict::EndAsReplaced
        }
        (Own::Forming { .. }, Awaited) if known && refusal.formed => Verdict::EndAsNotJoined,
        // The member was away when its cluster formed, and may have been removed since.
        (Own::Forming { bound_index }, Removed { .. } | OtherIncarnation { .. })
            if refusal.formed =>
        {
            verdict(Own::Member { bound_index }, refusal)
        }
        (Own::Forming { .. }, _) => Verdict::Warn,

        (Own::Sole, WrongCluster { other_life: true }) if refusal.formed => Verdict::RefuseService,
        (Own::Sole, Awaited) if refusal.formed => Verdict::EndAsNotJoinedIfUnused,
        (Own::Sole, _) => Verdict::Warn,

        (Own::Member { .. }, _) if !known => Verdict::GoOn,
        // The indexes of two clusters can't be compared.
        (Own::Member { .. }, WrongCluster { .. } | Awaited) => Verdict::Warn,
        // The peer's table may be older than this member's binding.
        (Own::Member { bound_index }, _) if refusal.applied < bound_index => Verdict::GoOn,
        (Own::Member { bound_index }, Removed { removed_index }) if removed_index > bound_index => {
            Verdict::EndAsRemoved {
                index: removed_index,
            }
        }
        (
            Own::Member { bound_index },
            OtherIncarnation {
                bound_index: later, ..
            },
        ) if later > bound_index => Verdict::EndAsRemoved { index: later },
        // Either the removal is not settled yet, which lasts a moment, or the tables contradict each other.
        (Own::Member { .. }, NotAMember | Undisclosed) => Verdict::GoOn,
        (Own::Member { .. }, _) => Verdict::Warn,
    }
}

#[cfg(test)]
mod tests {
    use super::super::claims::Receiver;
    use super::super::fixtures::{CLUSTER, claims, url, view};
    use super::*;
    use crate::members::Members;
    use Reason::*;
    use Verdict::*;

    const REMOVED: Reason = Removed { removed_index: 70 };
    const BOUND_HERE: Reason = other_incarnation(true);
    const BOUND_ELSEWHERE: Reason = other_incarnation(false);
    const OTHER_LIFE: Reason = WrongCluster { other_life: true };
    const OTHER_CLUSTER: Reason = WrongCluster { other_life: false };
    const END_AS_REMOVED: Verdict = EndAsRemoved { index: 70 };

    const fn other_incarnation(same_url: bool) -> Reason {
        OtherIncarnation {
            bound_index: 70,
            same_url,
        }
    }

    /// The peer's reason, whether its cluster has formed, whether it was dialled, its applied index, and the expected
    /// verdict.
    type Row = (Reason, bool, bool, u64, Verdict);

    fn check(own: Own, rows: &[Row]) {
        for &(reason, formed, dialled, applied, expected) in rows {
            let refusal = PeerRefusal {
                by: 2,
                applied,
                formed,
                dialled,
                reason,
            };
            assert_eq!(verdict(own, &refusal), expected, "{own:?}: {refusal:?}");
        }
    }

    #[test]
    fn an_empty_member_waits_or_ends_by_the_word_of_a_formed_cluster_that_it_dialled() {
        let misdirected = WrongReceiver { actual: 3 };
        check(
            Own::Empty,
            &[
                (BOUND_HERE, true, true, 90, EndAsReplacedUnlessLetIn),
                (BOUND_HERE, false, true, 90, Warn),
                (BOUND_HERE, true, false, 0, Warn),
                (BOUND_ELSEWHERE, true, true, 90, Warn),
                (OtherPlace, true, true, 90, Warn),
                (NotAMember, true, true, 90, Wait),
                (REMOVED, true, true, 90, Wait),
                (Undisclosed, true, true, 0, Wait),
                (OTHER_LIFE, true, true, 90, Warn),
                (StateLost, true, true, 90, EndAsStateLost),
                (StateLost, false, true, 90, Warn),
                (StateLost, true, false, 90, Warn),
                (misdirected, true, true, 90, GoOn),
                (KeyRevoked, true, true, 90, Warn),
            ],
        );
    }

    #[test]
    fn a_member_of_a_cluster_that_forms_ends_by_the_word_of_a_formed_one_that_it_dialled() {
        check(
            Own::Forming { bound_index: 60 },
            &[
                (StateLost, true, true, 90, GoOn),
                (OTHER_LIFE, true, true, 90, EndAsReplaced),
                (OTHER_LIFE, false, true, 90, Warn),
                (OTHER_LIFE, true, false, 0, Warn),
                (OTHER_CLUSTER, true, true, 90, Warn),
                (Awaited, true, true, 90, EndAsNotJoined),
                (Awaited, false, true, 90, Warn),
                (Awaited, true, false, 0, Warn),
                (KeyRevoked, true, true, 90, Warn),
                (NotAMember, true, true, 90, Warn),
                (REMOVED, true, true, 90, END_AS_REMOVED),
                (REMOVED, false, true, 90, Warn),
                (REMOVED, true, true, 59, GoOn),
                (REMOVED, true, false, 90, GoOn),
            ],
        );
    }

    #[test]
    fn a_sole_member_refuses_service_while_it_hears_of_its_other_life() {
        check(
            Own::Sole,
            &[
                (OTHER_LIFE, true, false, 0, RefuseService),
                (OTHER_LIFE, false, false, 0, Warn),
                (OTHER_CLUSTER, true, true, 90, Warn),
                (Awaited, true, false, 0, EndAsNotJoinedIfUnused),
                (Awaited, false, false, 0, Warn),
            ],
        );
    }

    #[test]
    fn a_member_ends_by_the_word_of_a_table_that_is_as_new_as_its_binding() {
        check(
            Own::Member { bound_index: 60 },
            &[
                (StateLost, true, true, 90, GoOn),
                (REMOVED, true, true, 90, END_AS_REMOVED),
                (BOUND_HERE, true, true, 90, END_AS_REMOVED),
                (REMOVED, true, true, 59, GoOn),
                (REMOVED, true, false, u64::MAX, GoOn),
                (BOUND_HERE, true, false, u64::MAX, GoOn),
                (NotAMember, true, true, 90, GoOn),
                (OTHER_LIFE, true, true, 90, Warn),
                (OTHER_LIFE, true, true, 0, Warn),
                (OTHER_LIFE, true, false, 0, GoOn),
                (Twice, true, true, 90, EndAsTwice),
                (Twice, true, false, 90, Warn),
                (KeyRevoked, true, true, 90, Warn),
                (KeyRevoked, true, true, 59, Warn),
            ],
        );
        let bound_later = Own::Member { bound_index: 80 };
        check(
            bound_later,
            &[
                (REMOVED, true, true, 90, Warn),
                (BOUND_HERE, true, true, 90, Warn),
            ],
        );
    }

    #[test]
    fn a_claim_speaks_against_a_member_whose_id_it_binds_to_another_incarnation() {
        let to = |incarnation, cluster| {
            let mut said = claims(2, 20, 1);
            said.cluster = cluster;
            said.receiver = Some(Receiver {
                incarnation,
                formed: true,
                same_url: true,
            });
            PeerRefusal::of_claim(&said, &view()).map(|refusal| refusal.reason)
        };
        assert_eq!(to(10, CLUSTER), None);
        assert_eq!(to(11, 9), Some(OTHER_LIFE));
    }

    #[test]
    fn a_member_of_another_cluster_that_awaits_this_member_says_so_by_its_claim() {
        let of = |cluster, bound_index, awaits| {
            let mut said = claims(2, 20, 1);
            (said.cluster, said.bound_index) = (cluster, bound_index);
            (said.receiver, said.awaits) = (None, awaits);
            PeerRefusal::of_claim(&said, &view()).map(|refusal| refusal.reason)
        };
        assert_eq!(of(9, 1, true), Some(Awaited));
        assert_eq!(of(9, 1, false), None);
        assert_eq!(of(0, 0, true), Some(Awaited), "it hides its cluster");
        assert_eq!(of(0, 0, false), None);
        assert_eq!(of(CLUSTER, 1, true), None);
    }

    #[test]
    fn the_claims_that_an_open_url_gets_tell_a_lone_member_there_that_it_is_awaited() {
        let said = view().claims_to_dial(4, &url(4), false);
        let mut alone = View {
            me: 4,
            incarnation: 40,
            url: url(4),
            cluster: 9,
            members: Members::of([(4, url(4), 40)]),
            ..view()
        };
        let refusal = PeerRefusal::of_claim(&said, &alone).unwrap();
        assert_eq!((refusal.by, refusal.reason), (1, Awaited));
        let ends = verdict(Own::Sole, &refusal);
        assert_eq!(ends, EndAsNotJoinedIfUnused);
        // An empty directory is what the claimant waits for.
        (alone.cluster, alone.members) = (0, Members::default());
        assert_eq!(PeerRefusal::of_claim(&said, &alone), None);
    }
}
