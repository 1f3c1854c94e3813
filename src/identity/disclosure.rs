//! What a refusal tells the refused claimant.
//!
//! Any process that reaches the peer port can make claims, so a refusal tells a claimant only what the claimant has
//! proved to know, or has to know:
//! - A claimant that names the cluster id, or an incarnation that the claimed id has or had, belongs to the cluster or
//!   did belong to it. It gets the reason with all indexes, because a removed member ends only by them.
//! - A member whose directory was emptied can prove nothing. It names the id and the URL of a member, and learns that
//!   they belong to another directory. That suffices for its verdict. A stranger learns only that its guess is right.
//! - A claimant that meant another member learns which member it has reached, and a claimant of another cluster learns
//!   that this is another cluster.
//! - Every other claimant is a stranger, and learns no reason. The log of the refusing member has it.
//!
//! A cluster that has not formed serves no clients and still waits for its members. Its members give the reasons, because
//! most mistakes in a list are found then, but no index.

use super::claims::Claims;
use super::judge::Reason;
use super::verdict::PeerRefusal;
use super::view::View;

impl View {
    /// The refusal of these claims for this reason, as the claimant may see it. The table is applied up to `applied`.
    pub fn refusal(&self, claims: &Claims, reason: Reason, applied: u64) -> PeerRefusal {
        let formed = !self.is_empty() && self.members.is_formed();
        let whole = PeerRefusal {
            by: self.me,
            applied,
            formed,
            dialled: true,
            reason,
        };
        if self.is_proved(claims) {
            return whole;
        }
        let reason = match reason {
            Reason::OtherIncarnation { same_url, .. } if same_url || !formed => {
                Reason::OtherIncarnation {
                    bound_index: 0,
                    same_url,
                }
            }
            Reason::NotAMember
            | Reason::Removed { .. }
            | Reason::OtherIncarnation { .. }
            | Reason::OtherPlace
                if formed =>
            {
                Reason::Undisclosed
            }
            Reason::Removed { .. } => Reason::Removed { removed_index: 0 },
            reason => reason,
        };
        PeerRefusal {
            applied: 0,
            reason,
            ..whole
        }
    }

    /// Whether the claims contain something that only members, former members and clients of this cluster know.
    fn is_proved(&self, claims: &Claims) -> bool {
        let row = self.members.members.get(&claims.from);
        let now = row.map(|row| row.incarnation);
        let before = self.members.gone.get(&claims.from);
        let knows_cluster = self.cluster != 0 && claims.cluster == self.cluster;
        knows_cluster || [now, before.copied()].contains(&Some(claims.incarnation))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{claims, url, view};
    use super::super::judge::judge;
    use super::super::verdict::{Own, Verdict, verdict};
    use super::*;
    use crate::members::Members;

    /// What the view tells these claims.
    fn refusal_seen(view: &View, claims: &Claims) -> PeerRefusal {
        let reason = judge(claims, view, 60).unwrap_err();
        view.refusal(claims, reason, 60)
    }

    fn elsewhere(claims: Claims) -> Claims {
        Claims {
            url: url(77),
            ..claims
        }
    }

    #[test]
    fn a_stranger_learns_neither_a_number_nor_which_ids_there_are() {
        let strangers = [
            elsewhere(claims(2, 21, 0)),
            elsewhere(claims(4, 44, 0)),
            claims(5, 56, 0),
            claims(6, 66, 0),
            claims(9, 91, 0),
        ];
        for claims in strangers {
            let bare = PeerRefusal {
                by: 1,
                applied: 0,
                formed: true,
                dialled: true,
                reason: Reason::Undisclosed,
            };
            assert_eq!(refusal_seen(&view(), &claims), bare, "{claims:?}");
        }
    }

    #[test]
    fn an_emptied_member_learns_that_its_id_and_url_belong_to_another_directory() {
        let refusal = refusal_seen(&view(), &claims(2, 21, 0));
        let reason = Reason::OtherIncarnation {
            bound_index: 0,
            same_url: true,
        };
        assert_eq!((refusal.reason, refusal.applied), (reason, 0));
        let ends = verdict(Own::Empty, &refusal);
        assert_eq!(ends, Verdict::EndAsReplacedUnlessLetIn);
        // The emptied first member of a list has started a cluster of its own.
        let mut first = claims(2, 21, 1);
        first.cluster = 9;
        let refusal = refusal_seen(&view(), &first);
        let ends = verdict(Own::Forming { bound_index: 1 }, &refusal);
        assert_eq!((ends, refusal.applied), (Verdict::EndAsReplaced, 0));
    }

    #[test]
    fn a_claimant_that_belonged_to_the_cluster_learns_all_that_its_verdict_needs() {
        let mut view = view();
        view.members.gone.insert(5, 55);
        let removed = Reason::Removed { removed_index: 50 };
        let refusal = refusal_seen(&view, &claims(5, 55, 1));
        assert_eq!((refusal.reason, refusal.applied), (removed, 60));
        let own = Own::Member { bound_index: 1 };
        assert_eq!(verdict(own, &refusal), Verdict::EndAsRemoved { index: 50 });
        // Without the cluster id, the incarnation proves it.
        let before_its_first_state = refusal_seen(&view, &claims(5, 55, 0));
        assert_eq!(before_its_first_state.reason, removed);
        // A copy from before the member was let in.
        let lost = refusal_seen(&view, &claims(2, 20, 0));
        assert_eq!(lost.reason, Reason::StateLost);
        assert_eq!(verdict(Own::Empty, &lost), Verdict::EndAsStateLost);
    }

    #[test]
    fn a_cluster_that_forms_says_what_is_wrong_with_a_list_and_no_index() {
        let list = (1..=3).map(|id| (id, url(id))).collect();
        let forming = View {
            members: Members::first(&list, 10),
            ..view()
        };
        let reasons = [
            (elsewhere(claims(2, 20, 0)), Reason::OtherPlace),
            (claims(4, 40, 0), Reason::NotAMember),
        ];
        for (claims, reason) in reasons {
            let refusal = refusal_seen(&forming, &claims);
            let seen = (refusal.reason, refusal.formed, refusal.applied);
            assert_eq!(seen, (reason, false, 0));
        }
    }

    #[test]
    fn what_is_not_disclosed_changes_no_verdict_of_a_member() {
        // A claimant that has a table names this cluster, or another one.
        let forming = Own::Forming { bound_index: 1 };
        for own in [forming, Own::Sole, Own::Member { bound_index: 1 }] {
            for (from, incarnation) in [(2, 21), (4, 44), (5, 55), (6, 66), (9, 90)] {
                for (to, cluster) in [(1, view().cluster), (1, 9), (2, view().cluster)] {
                    let claims = Claims {
                        to,
                        cluster,
                        ..claims(from, incarnation, 1)
                    };
                    let reason = judge(&claims, &view(), 60).unwrap_err();
                    let whole = PeerRefusal {
                        by: 1,
                        applied: 60,
                        formed: true,
                        dialled: true,
                        reason,
                    };
                    let seen = refusal_seen(&view(), &claims);
                    assert_eq!(verdict(own, &seen), verdict(own, &whole), "{claims:?}");
                }
            }
        }
    }
}
