//! The checker of strict serializability. Given the requests of clients, the answers, and their times: is there one
//! order of all operations on all keys, each between its call and its return, in which a single map would have given
//! the same answers? Transactions, lists and single operations are treated alike.
//!
//! The simulation and the cluster tests record [`Operation`]s and hand them to [`check`]: first what one answer shows
//! alone (`alone`), then what follows without a search (`facts`), then the search for an order (`search`), and if there
//! is none, the few operations that contradict each other (`explain`).
//!
//! What is required of ETags, beyond strict serializability, since the daemon promises it: an ETag is the place of a
//! write in the log. So
//! - all that a transaction puts has one ETag, and one ETag of one key belongs to one write;
//! - along the order ETags never fall, over all keys. Several writes of different keys may share one, as commands share
//!   an entry of the log; then their order is open;
//! - a list is as of its index: it comes behind all writes up to this index, and before all later ones.
//!
//! The checker does not trust the ETags, it checks them: a history whose ETags contradict its times or its values is
//! bad. This makes the checker stricter and faster. Operations without an index (reads of a key, failed conditions,
//! DELETEs, unknown outcomes) are left to the search.
//!
//! Clients must not guess the ETags of their conditions: each has to come from an answer, or be one that no write can
//! have. Every key is absent in the beginning. Stale reads have no place in a history. Times may be of any clock that
//! all clients share; an operation that is called at the very time at which another one returns counts as concurrent
//! with it.

// Compiled into several test binaries, of which none uses all of it.
#![allow(dead_code)]

mod alone;
mod explain;
mod facts;
mod history;
mod search;

#[allow(unused_imports)]
pub use history::{Condition, FailedCheck, Input, Key, Listed, Operation, Output};
use history::{shown, told};
use search::Verdict;
use std::fmt;

/// A search gives up after this many configurations, not counting about one for each write that every history takes.
/// The check then fails with an error that says so.
const TRIED_MAX: u64 = 2_000_000;

/// No map can have given the history, or it could not be decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What is wrong, and the operations that show it, one a line.
    pub text: String,
}

/// Checks a history; operations may come in any order.
pub fn check(history: &[Operation]) -> Result<(), Violation> {
    check_within(history, TRIED_MAX)
}

/// The same, with a search that gives up after so many configurations.
pub fn check_within(history: &[Operation], tried_max: u64) -> Result<(), Violation> {
    let mut operations: Vec<&Operation> = history.iter().collect();
    operations.sort_by_key(|operation| operation.invoked);
    let facts = facts::gather(&operations).map_err(|text| Violation { text })?;
    match search::search(&facts, tried_max) {
        Verdict::Good => Ok(()),
        verdict => Err(Violation {
            text: explain::explain(&operations, &facts, verdict),
        }),
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the history is not strictly serializable: {}", self.text)
    }
}

impl std::error::Error for Violation {}
