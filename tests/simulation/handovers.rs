//! Handovers of leadership that clients ask for, and what the answers say about the members.
//!
//! "Done" says that the member leads as far as the one that was asked knows. That one may be behind, but not further than
//! it was when it was asked. A refusal says why, in the view of a leader, which may be behind too: what is checked is
//! that the view was true at some time.

use crate::clients::Wish;
use crate::world::World;
use raftkvd::command::outcome::NotTransferred;
use raftkvd::members::Members;
use std::collections::BTreeSet;

/// What has been true of members at some time.
#[derive(Default)]
pub struct Standings {
    first: BTreeSet<u64>,
    removed: BTreeSet<u64>,
    learners: BTreeSet<u64>,
}

impl Standings {
    /// These are the members at an index.
    pub fn add(&mut self, members: &Members) {
        if self.first.is_empty() && members.is_formed() {
            self.first.extend(members.members.keys());
        }
        self.removed.extend(members.removed.keys());
        self.learners.extend(members.learners());
    }

    pub fn was_removed(&self, member: u64) -> bool {
        self.removed.contains(&member)
    }

    /// A client was told this of a member.
    fn refuse(&self, to: u64, why: NotTransferred) {
        let possible = match why {
            NotTransferred::NotFound => !self.first.contains(&to) || self.removed.contains(&to),
            NotTransferred::Learner => self.learners.contains(&to),
            _ => true,
        };
        assert!(
            possible,
            "member {to} was said to be what it never was: {why}"
        );
    }
}

impl World {
    /// A member that a client wants to lead: now and then one that was removed, or never was.
    pub fn handover(&mut self) -> Wish {
        let members = self.oracle.told_members();
        let mut ids: Vec<u64> = members.members.keys().copied().collect();
        if self.clients.random.chance(100) {
            ids.extend(members.removed.keys());
            ids.push(99);
        }
        if ids.is_empty() {
            ids.push(1);
        }
        let to = *self.clients.random.pick(&ids);
        Wish::Handover { to }
    }

    /// A client is told this by a member that knew `term` when it was asked.
    pub fn handed_over(&mut self, to: u64, term: u64, outcome: Result<(), NotTransferred>) {
        self.count(match outcome {
            Ok(()) => "handovers done",
            Err(NotTransferred::Unknown) => "handovers unknown",
            Err(_) => "handovers refused",
        });
        match outcome {
            Ok(()) => assert!(
                self.oracle.led_since(to, term),
                "member {to} was said to lead, which it did not since term {term}"
            ),
            Err(why) => self.oracle.standings.refuse(to, why),
        }
    }
}
