//! Who led in which term: what every member said, and what `POST /-/leader` was answered, held against each other.
//!
//! Two members that name different leaders of one term are a violation at once. A 204 to a handover says that the
//! named member led at some time between request and answer, as far as the answering member could see. So in one of
//! the terms that the answering member was in meanwhile, the named member led, or no member was ever seen to lead.

use crate::http::{Connection, Response};
use crate::process::Status;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// A handover that was answered with 204.
#[derive(Debug)]
struct Claim {
    to: u64,
    /// The terms that the member which answered was in before and after.
    terms: (u64, u64),
}

#[derive(Debug, Default)]
struct Seen {
    /// Who led each term, and which member said so first.
    leaders: BTreeMap<u64, (u64, u64)>,
    claims: Vec<Claim>,
    /// How often each status came as an answer.
    answers: BTreeMap<u16, u32>,
}

/// Shared by all who ask.
#[derive(Debug, Default)]
pub struct Leaders {
    seen: Mutex<Seen>,
}

impl Leaders {
    /// Takes in what a member says of itself.
    pub fn note(&self, status: &Status) {
        if status.leader == 0 {
            return;
        }
        let mut seen = self.lock();
        let said = (status.leader, status.id);
        let (leader, by) = *seen.leaders.entry(status.term).or_insert(said);
        drop(seen);
        assert_eq!(
            leader, status.leader,
            "term {}: member {by} named leader {leader} and member {} named {}",
            status.term, status.id, status.leader
        );
    }

    /// Asks the member at this address to hand leadership to another. Its answer, if one came in this time.
    pub fn ask_for(
        &self,
        to: u64,
        (via, address): (u64, SocketAddr),
        patience: Duration,
    ) -> io::Result<Response> {
        let before = Status::of(address, patience).map_err(io::Error::other)?;
        let body = to.to_string();
        let response = Connection::impatient(address, patience)?.send(
            "POST",
            "/-/leader",
            &[],
            body.as_bytes(),
        )?;
        let known = [204, 404, 409, 503, 504].contains(&response.status);
        assert!(known, "leadership to {to} through {via}: {response:?}");
        *self.lock().answers.entry(response.status).or_default() += 1;
        let after = Status::of(address, patience);
        self.note(&before);
        if let (204, Ok(after)) = (response.status, after) {
            self.note(&after);
            let terms = (before.term, after.term);
            self.lock().claims.push(Claim { to, terms });
        }
        Ok(response)
    }

    /// Holds all answers against all that is known in the end. What was asked, for people.
    #[track_caller]
    pub fn check(&self) -> String {
        let seen = self.lock();
        let mut confirmed = 0;
        for claim in &seen.claims {
            let (first, last) = claim.terms;
            let mut known = (first..=last).map(|term| seen.leaders.get(&term).map(|l| l.0));
            confirmed += u32::from(known.clone().any(|leader| leader == Some(claim.to)));
            assert!(
                known.any(|leader| leader.is_none_or(|leader| leader == claim.to)),
                "{claim:?} was answered with 204, but these led: {:?}",
                seen.leaders
            );
        }
        let (terms, answers, claims) = (seen.leaders.len(), &seen.answers, seen.claims.len());
        assert!(
            confirmed > 0,
            "no handover was seen to be done: {answers:?}"
        );
        format!(
            "leaders of {terms} terms; handovers answered with {answers:?}, {confirmed} of {claims} seen to be done"
        )
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        // Every step of it is complete in itself.
        self.seen.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(id: u64, term: u64, leader: u64) -> Status {
        Status {
            id,
            cluster: String::new(),
            role: String::new(),
            leader,
            term,
            committed: 0,
            applied: 0,
            snapshot: 0,
            members: Vec::new(),
        }
    }

    #[test]
    #[should_panic(expected = "term 7: member 1 named leader 2 and member 3 named 1")]
    fn two_leaders_of_a_term_are_seen() {
        let leaders = Leaders::default();
        leaders.note(&status(1, 7, 2));
        leaders.note(&status(2, 7, 0));
        leaders.note(&status(3, 7, 1));
    }

    fn with_claim(to: u64, terms: (u64, u64)) -> Leaders {
        let leaders = Leaders::default();
        for (term, leader) in [(3, 1), (4, 2), (6, 1)] {
            leaders.note(&status(leader, term, leader));
        }
        leaders.lock().claims.push(Claim { to, terms });
        leaders
    }

    #[test]
    fn a_handover_may_have_been_followed_by_another() {
        with_claim(2, (3, 6)).check();
    }

    #[test]
    #[should_panic(expected = "was answered with 204, but these led")]
    fn a_handover_to_a_member_that_did_not_lead_is_seen() {
        with_claim(3, (3, 4)).check();
    }

    #[test]
    #[should_panic(expected = "no handover was seen to be done")]
    fn a_term_of_which_nothing_is_known_proves_nothing() {
        with_claim(3, (4, 6)).check();
    }
}
