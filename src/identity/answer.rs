//! What a member answers to a claim that it does not refuse, and how the claimant judges that answer.

use super::claims::Claims;
use super::judge::{Reason, Standing, judge};
use super::view::View;
use crate::members::fingerprint;
use crate::peer_url::PeerUrl;

/// The answer to claims that are not refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerAnswer {
    /// The claims of the member that answers, and its leader, if it knows a leader that its table holds. The claimant may
    /// have an older table and may have moved. Then the claimant and the leader find each other only by this answer.
    Claims(Claims, Option<Leader>),
    /// A greeting: to a peer that waits to be let in, and, from an empty member, to every peer that does not know its
    /// incarnation.
    Greeting(Greeting),
}

/// The id and the URL of a leader.
pub type Leader = (u64, PeerUrl);

/// What a member says to a peer that may be a stranger. A stranger can't use any of this to pass for a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// The id of the member that answers.
    pub from: u64,
    /// The state of the member that answers.
    pub state: GreetingState,
}

/// The state of a member that greets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GreetingState {
    /// The member is empty. Carries the fingerprint of its incarnation. An empty member reveals its incarnation itself
    /// only to peers that it dials. A peer that connects with an incarnation of this fingerprint is therefore the
    /// member that was dialled.
    Empty(u64),
    /// The member has a table. Carries id and URL of its leader, if it knows a leader that its table holds.
    Member(Option<Leader>),
}

impl PeerAnswer {
    /// The leader that the answer names.
    pub fn leader(&self) -> Option<&Leader> {
        match self {
            PeerAnswer::Claims(_, leader) => leader.as_ref(),
            PeerAnswer::Greeting(greeting) => match &greeting.state {
                GreetingState::Member(leader) => leader.as_ref(),
                GreetingState::Empty(_) => None,
            },
        }
    }

    /// The id of the member that answers.
    pub fn from(&self) -> u64 {
        match self {
            PeerAnswer::Claims(claims, _) => claims.from,
            PeerAnswer::Greeting(greeting) => greeting.from,
        }
    }

    /// Whether no table binds the member that answers.
    pub fn is_empty(&self) -> bool {
        match self {
            PeerAnswer::Claims(claims, _) => claims.bound_index == 0,
            PeerAnswer::Greeting(greeting) => matches!(greeting.state, GreetingState::Empty(_)),
        }
    }
}

impl View {
    /// The answer to claims of this standing. `leader` is the id of the leader, or 0 if none is known.
    pub fn answer(&self, claims: &Claims, standing: Standing, leader: u64) -> PeerAnswer {
        let leader = self.members.members.get_key_value(&leader);
        let leader = leader.map(|(id, row)| (*id, row.url.clone()));
        if standing != Standing::Waiting {
            let mut answer = self.claims(claims.from, None);
            // If the claimant's id belongs to another incarnation, the claimant need not learn which.
            answer
                .receiver
                .take_if(|receiver| receiver.incarnation != claims.incarnation);
            return PeerAnswer::Claims(answer, leader);
        }
        let state = match self.is_empty() {
            true => GreetingState::Empty(fingerprint(self.incarnation)),
            false => GreetingState::Member(leader),
        };
        PeerAnswer::Greeting(Greeting {
            from: self.me,
            state,
        })
    }
}

/// Judges the answer of a peer that was dialled at `url`.
///
/// `come` holds the claims of peers that connected by themselves and were let in. The dialled peer may be one of them,
/// and may have become bound since it answered; then the newer claims count. A greeting proves nothing. So a peer that
/// greets is taken for one of `come` only if those claims name this URL.
pub fn judge_answer<'a>(
    answer: &PeerAnswer,
    url: &PeerUrl,
    come: impl IntoIterator<Item = &'a Claims>,
    view: &View,
    applied: u64,
) -> Result<Standing, Reason> {
    let mut come = come.into_iter();
    let claims = match answer {
        PeerAnswer::Claims(claims, _) => {
            let is_later = |other: &&Claims| {
                other.incarnation == claims.incarnation && other.bound_index > claims.bound_index
            };
            Some(come.find(is_later).unwrap_or(claims))
        }
        PeerAnswer::Greeting(greeting) => match greeting.state {
            GreetingState::Member(_) => come.find(|claims| claims.url == *url),
            GreetingState::Empty(print) => {
                let row = view.members.members.get(&greeting.from);
                if let Some(row) = row.filter(|row| row.incarnation != 0)
                    && fingerprint(row.incarnation) != print
                {
                    return Err(Reason::OtherIncarnation {
                        bound_index: row.bound_index,
                        same_url: false,
                    });
                }
                // The peer was empty, and it greets only claimants that it does not let in. So only claims with a table
                // count: they show that the peer has been let in since.
                let has_table = |claims: &&Claims| claims.bound_index > 0;
                come.filter(has_table)
                    .find(|claims| fingerprint(claims.incarnation) == print && claims.url == *url)
            }
        },
    };
    match claims.map_or(Ok(Standing::Waiting), |claims| judge(claims, view, applied)) {
        // The peer may have been let in since it answered. If not, it ignores every state that has it as a voter.
        Err(Reason::StateLost) => Ok(Standing::Bound),
        judged => judged,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{claims, empty_view, url, view};
    use super::*;

    #[test]
    fn an_answer_reveals_an_incarnation_only_to_claimants_that_know_it() {
        let answer = |view: &View, claims: &Claims| {
            let standing = judge(claims, view, 60).unwrap();
            view.answer(claims, standing, 2)
        };
        let greeting = |state| PeerAnswer::Greeting(Greeting { from: 1, state });
        let open = answer(&view(), &claims(4, 44, 0));
        assert_eq!(open, greeting(GreetingState::Member(Some((2, url(2))))));
        let stranger = Claims {
            receiver: None,
            ..claims(2, 20, 1)
        };
        let empty = answer(&empty_view(), &stranger);
        assert_eq!(empty, greeting(GreetingState::Empty(fingerprint(10))));
        let own = |claims: &Claims| {
            PeerAnswer::Claims(view().claims(claims.from, None), Some((2, url(2))))
        };
        let bound = claims(2, 20, 1);
        assert_eq!(answer(&view(), &bound), own(&bound));
        let ahead = claims(2, 21, 61);
        match answer(&view(), &ahead) {
            PeerAnswer::Claims(said, _) => {
                assert_eq!((said.incarnation, said.receiver), (10, None))
            }
            greeting => panic!("{greeting:?}"),
        }
    }

    #[test]
    fn what_has_greeted_is_judged_by_what_it_said_when_it_came() {
        let greets = |from, state| PeerAnswer::Greeting(Greeting { from, state });
        let empty =
            |from, incarnation| greets(from, GreetingState::Empty(fingerprint(incarnation)));
        let judged = |answer: &PeerAnswer, come: &[Claims]| {
            judge_answer(answer, &url(answer.from()), come, &view(), 60)
        };
        assert_eq!(judged(&empty(2, 20), &[]), Ok(Standing::Waiting));
        assert_eq!(
            judged(&empty(2, 20), &[claims(2, 20, 0)]),
            Ok(Standing::Waiting)
        );
        let come = [claims(2, 20, 1)];
        assert_eq!(judged(&empty(2, 20), &come), Ok(Standing::Bound));
        let other = Reason::OtherIncarnation {
            bound_index: 1,
            same_url: false,
        };
        assert_eq!(judged(&empty(2, 21), &come), Err(other));
        // None of the peers that connected is the one that answered.
        let come = [claims(4, 44, 61)];
        assert_eq!(judged(&empty(4, 45), &come), Ok(Standing::Waiting));
        assert_eq!(judged(&empty(4, 44), &come), Ok(Standing::Ahead));
        let member = greets(2, GreetingState::Member(None));
        let to_empty =
            |at, come: &[Claims]| judge_answer(&member, &url(at), come, &empty_view(), 0);
        assert_eq!(to_empty(2, &[]), Ok(Standing::Waiting));
        assert_eq!(to_empty(2, &[claims(2, 20, 1)]), Ok(Standing::Ahead));
        // A peer greets at a place that is not the member's.
        assert_eq!(to_empty(7, &[claims(2, 20, 1)]), Ok(Standing::Waiting));
    }

    #[test]
    fn what_a_voter_answered_may_be_from_before_it_was_let_in() {
        // The peer has not connected again yet.
        let before = PeerAnswer::Claims(claims(2, 20, 0), None);
        let answered = judge_answer(&before, &url(2), [], &view(), 60);
        assert_eq!(answered, Ok(Standing::Bound));
    }
}
