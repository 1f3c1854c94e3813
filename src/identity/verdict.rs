//! What a member does about being refused: a pure function, one row a case.

use super::claims::Claims;
use super::judge::Reason;
use super::view::View;

/// Why a peer refuses this member, in the peer's own view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerRefusal {
    /// The peer that refuses.
    pub by: u64,
    /// Up to where its table is applied.
    pub applied: u64,
    /// Its cluster has formed.
    pub formed: bool,
    /// It was dialled where this member expects it. Otherwise it came by itself, and may be anybody.
    pub dialled: bool,
    /// Its reason.
    pub reason: Reason,
}

impl PeerRefusal {
    /// What a claim itself says against the member that it was made to: the claimant's table binds this id, at this
    /// place, to another incarnation. It does not say with which index.
    pub fn of_claim(claims: &Claims, view: &View) -> Option<PeerRefusal> {
        let receiver = claims.receiver?;
        let other_cluster = view.cluster != 0 && claims.cluster != view.cluster;
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

/// The life and state of the member that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// It has no table: it was never let in, or its directory was emptied.
    Empty,
    /// It belongs to a cluster that has not formed, as far as it knows.
    Forming {
        /// Index of the entry that bound it.
        bound_index: u64,
    },
    /// It is, and always was, the only member of a cluster of one.
    Sole,
    /// It belongs to a cluster that has formed, by the binding at this index.
    Member {
        /// Index of the entry that bound it.
        bound_index: u64,
    },
}

/// What a member does about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing follows from it.
    GoOn,
    /// It waits to be added, and says so once.
    Wait,
    /// It goes on, and a person should look.
    Warn,
    /// It answers 503 `other-life` to everything for as long as this is heard.
    RefuseService,
    /// It ends with 5: its directory is not the one that its id is bound to.
    EndAsReplaced,
    /// The same, if that goes on to be said and nobody else lets it in: the table that says so may be an old one.
    EndAsReplacedUnlessLetIn,
    /// It ends with 5: its directory is from before it was let in, and it has voted since.
    EndAsStateLost,
    /// It ends with 5: another process runs with its incarnation.
    EndAsTwice,
    /// It ends with 0, and no later start succeeds: it was removed by the entry at this index.
    EndAsRemoved {
        /// Index of the removing entry, or of one behind it.
        index: u64,
    },
}

/// What a member does about being refused.
pub fn verdict(own: Own, refusal: &PeerRefusal) -> Verdict {
    use Reason::*;
    // Whoever came by itself may be anybody: it ends no process.
    let known = refusal.dialled;
    match (own, refusal.reason) {
        (_, Twice) if known => Verdict::EndAsTwice,
        (_, Twice) => Verdict::Warn,
        (_, WrongReceiver { .. }) => Verdict::GoOn,

        (Own::Empty, StateLost) if known && refusal.formed => Verdict::EndAsStateLost,
        (Own::Empty, StateLost) => Verdict::Warn,
        // It was let in after it had made the claims that were refused.
        (_, StateLost) => Verdict::GoOn,

        (Own::Empty, OtherIncarnation { same_url: true, .. }) => match known && refusal.formed {
            true => Verdict::EndAsReplacedUnlessLetIn,
            false => Verdict::Warn,
        },
        (Own::Empty, NotAMember | Removed { .. }) => Verdict::Wait,
        (Own::Empty, OtherIncarnation { .. } | OtherPlace | WrongCluster { .. }) => Verdict::Warn,

        (Own::Forming { .. }, WrongCluster { other_life: true }) if known && refusal.formed => {
            Verdict::EndAsReplaced
        }
        // It was away when its cluster had formed, and may be a member no more.
        (Own::Forming { bound_index }, Removed { .. } | OtherIncarnation { .. })
            if refusal.formed =>
        {
            verdict(Own::Member { bound_index }, refusal)
        }
        (Own::Forming { .. }, _) => Verdict::Warn,

        (Own::Sole, WrongCluster { other_life: true }) if refusal.formed => Verdict::RefuseService,
        (Own::Sole, _) => Verdict::Warn,

        (Own::Member { .. }, _) if !known => Verdict::GoOn,
        // Its table may be older than this member's binding.
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
        // While its removal is not settled, for a moment, or a contradiction.
        (Own::Member { .. }, NotAMember) => Verdict::GoOn,
        (Own::Member { .. }, _) => Verdict::Warn,
    }
}

#[cfg(test)]
mod tests {
    use super::super::claims::Receiver;
    use super::super::fixtures::{CLUSTER, claims, view};
    use super::*;
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

    /// What the peer says, its cluster has formed, it was dialled, its applied index; and what follows.
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
                (OTHER_LIFE, true, true, 90, Warn),
                (StateLost, true, true, 90, EndAsStateLost),
                (StateLost, false, true, 90, Warn),
                (StateLost, true, false, 90, Warn),
                (misdirected, true, true, 90, GoOn),
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
                (OTHER_LIFE, true, false, 0, GoOn),
                (Twice, true, true, 90, EndAsTwice),
                (Twice, true, false, 90, Warn),
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
}
