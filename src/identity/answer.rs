//! What a member answers to claims that it does not refuse, and how such an answer is judged.

use super::claims::Claims;
use super::judge::{Reason, Standing, judge};
use super::view::View;
use crate::members::fingerprint;
use crate::peer_url::PeerUrl;

/// What a member answers to claims that it does not refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerAnswer {
    /// Its own claims: to another member.
    Claims(Claims),
    /// To one that waits to be let in, and to everybody who does not know an empty member's incarnation.
    Greeting(Greeting),
}

/// What a member says to somebody who may be a stranger: nothing with which a stranger could pass for a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// Its member id.
    pub from: u64,
    /// Its state.
    pub state: GreetingState,
}

/// The state of a member that greets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GreetingState {
    /// It is empty. The fingerprint of its incarnation: it tells the incarnation itself only where it dials, so one that
    /// comes with that incarnation is the one that was dialled.
    Empty(u64),
    /// It has a table. Its leader, if it knows one that it can name.
    Member(Option<(u64, PeerUrl)>),
}

impl PeerAnswer {
    /// The id of the member that answers.
    pub fn from(&self) -> u64 {
        match self {
            PeerAnswer::Claims(claims) => claims.from,
            PeerAnswer::Greeting(greeting) => greeting.from,
        }
    }

    /// No table binds the member that answers.
    pub fn is_empty(&self) -> bool {
        match self {
            PeerAnswer::Claims(claims) => claims.bound_index == 0,
            PeerAnswer::Greeting(greeting) => matches!(greeting.state, GreetingState::Empty(_)),
        }
    }
}

impl View {
    /// The answer to claims with this standing. `leader`: who leads, 0 if that is not known.
    pub fn answer(&self, claims: &Claims, standing: Standing, leader: u64) -> PeerAnswer {
        if standing != Standing::Waiting {
            let mut answer = self.claims(claims.from, None);
            // It need not learn whose its id is, if that is another's.
            answer
                .receiver
                .take_if(|receiver| receiver.incarnation != claims.incarnation);
            return PeerAnswer::Claims(answer);
        }
        let leader = self.members.members.get_key_value(&leader);
        let state = match self.is_empty() {
            true => GreetingState::Empty(fingerprint(self.incarnation)),
            false => GreetingState::Member(leader.map(|(id, row)| (*id, row.url.clone()))),
        };
        PeerAnswer::Greeting(Greeting {
            from: self.me,
            state,
        })
    }
}

/// Judges what a peer has answered at this URL. `come`: the claims with which it has come by itself and was let in. It may
/// have said there that it was bound since it has answered. A greeting proves nothing, so what greets is only taken for one
/// that has come if that one says to be there.
pub fn judge_answer<'a>(
    answer: &PeerAnswer,
    url: &PeerUrl,
    come: impl IntoIterator<Item = &'a Claims>,
    view: &View,
    applied: u64,
) -> Result<Standing, Reason> {
    let mut come = come.into_iter();
    let claims = match answer {
        PeerAnswer::Claims(claims) => {
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
                // While it is empty it lets only those in that name it.
                let has_table = |claims: &&Claims| claims.bound_index > 0;
                come.filter(has_table)
                    .find(|claims| fingerprint(claims.incarnation) == print && claims.url == *url)
            }
        },
    };
    match claims.map_or(Ok(Standing::Waiting), |claims| judge(claims, view, applied)) {
        // It may have been let in since it has answered. If it was not, it takes nothing in which it is a voter.
        Err(Reason::StateLost) => Ok(Standing::Bound),
        judged => judged,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{claims, empty_view, url, view};
    use super::*;

    #[test]
    fn an_answer_tells_who_somebody_is_only_to_those_that_know_it() {
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
        let own = |claims: &Claims| PeerAnswer::Claims(view().claims(claims.from, None));
        let bound = claims(2, 20, 1);
        assert_eq!(answer(&view(), &bound), own(&bound));
        let ahead = claims(2, 21, 61);
        match answer(&view(), &ahead) {
            PeerAnswer::Claims(said) => assert_eq!((said.incarnation, said.receiver), (10, None)),
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
        // Nobody that came is the one that has answered.
        let come = [claims(4, 44, 61)];
        assert_eq!(judged(&empty(4, 45), &come), Ok(Standing::Waiting));
        assert_eq!(judged(&empty(4, 44), &come), Ok(Standing::Ahead));
        let member = greets(2, GreetingState::Member(None));
        let to_empty =
            |at, come: &[Claims]| judge_answer(&member, &url(at), come, &empty_view(), 0);
        assert_eq!(to_empty(2, &[]), Ok(Standing::Waiting));
        assert_eq!(to_empty(2, &[claims(2, 20, 1)]), Ok(Standing::Ahead));
        // Something greets at a place where that one is not.
        assert_eq!(to_empty(7, &[claims(2, 20, 1)]), Ok(Standing::Waiting));
    }

    #[test]
    fn what_a_voter_answered_may_be_from_before_it_was_let_in() {
        // It has not come again yet.
        let before = PeerAnswer::Claims(claims(2, 20, 0));
        let answered = judge_answer(&before, &url(2), [], &view(), 60);
        assert_eq!(answered, Ok(Standing::Bound));
    }
}
