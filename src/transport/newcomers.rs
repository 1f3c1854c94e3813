//! The connections to the peer port that belong to no bound member.
//!
//! Any process that reaches the port can hold such connections, so their number is limited. When it is reached, one of
//! them ends, and never the stream of a member. A member that comes back is a newcomer too until the head of its request is read.
//! So the connection that ends is the oldest of the source address that holds most of them: it takes a flood from
//! many addresses to end the connection of a member in that moment, and then the member dials again.
//!
//! Invariants:
//! - A connection is here from its accept until its claims are bound, or until it ends.
//! - A connection whose claims are ahead of the applied table ends only if there is no other: the claimant knows this
//!   member's incarnation, and may be the leader that this member needs. It counts only against the limit of all
//!   connections.

use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::task::AbortHandle;

/// Newcomers by the serial numbers of their connections, so oldest first.
#[derive(Default)]
pub(super) struct Newcomers(Mutex<BTreeMap<u64, Entry>>);

struct Entry {
    address: IpAddr,
    rank: Rank,
    /// `None` until the task exists: the entry is made first.
    task: Option<AbortHandle>,
}

/// Newcomers of a lower rank end first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// The head of the request is not complete, or the claimant waits to be bound.
    Unproved,
    /// The claims name this member's incarnation, and can't be judged yet.
    Ahead,
}

impl Newcomers {
    /// The number of those of the lowest rank. Only these count against their own limit: a member that is ahead has as
    /// many connections as a bound one, and an empty member of a large cluster has no others.
    pub(super) fn unproved(&self) -> usize {
        let entries = self.0.lock();
        let unproved = entries
            .values()
            .filter(|entry| entry.rank == Rank::Unproved);
        unproved.count()
    }

    /// Adds a connection. Dropping the returned value removes it.
    pub(super) fn enter(self: &Arc<Newcomers>, serial: u64, address: IpAddr) -> Newcomer {
        let entry = Entry {
            address,
            rank: Rank::Unproved,
            task: None,
        };
        self.0.lock().insert(serial, entry);
        Newcomer {
            serial,
            newcomers: self.clone(),
        }
    }

    /// Sets the task of a connection that has entered, unless the connection has left already.
    pub(super) fn runs(&self, serial: u64, task: AbortHandle) {
        if let Some(entry) = self.0.lock().get_mut(&serial) {
            entry.task = Some(task);
        }
    }

    /// Ends one connection to make room for another. Returns false if there is none to end.
    pub(super) fn end_one(&self) -> bool {
        let mut entries = self.0.lock();
        let ended = first_to_end(&entries).and_then(|serial| entries.remove(&serial));
        // The lock is not held while the task is aborted: a stopping runtime drops a task on the spot, and dropping the
        // task takes the lock.
        drop(entries);
        let task = ended.and_then(|entry| entry.task);
        task.inspect(AbortHandle::abort).is_some()
    }
}

/// The oldest connection of the address that holds the most connections of the lowest rank.
fn first_to_end(entries: &BTreeMap<u64, Entry>) -> Option<u64> {
    let ending = entries.values().filter(|entry| entry.task.is_some());
    let rank = ending.map(|entry| entry.rank).min()?;
    let is_candidate = |entry: &Entry| entry.rank == rank && entry.task.is_some();
    let mut counts: HashMap<IpAddr, usize> = HashMap::new();
    for entry in entries.values().filter(|entry| is_candidate(entry)) {
        *counts.entry(entry.address).or_default() += 1;
    }
    let most = counts.values().copied().max()?;
    let is_first = |entry: &Entry| is_candidate(entry) && counts[&entry.address] == most;
    let first = entries.iter().find(|(_, entry)| is_first(entry));
    first.map(|(serial, _)| *serial)
}

/// A connection among the [`Newcomers`]. Dropping the value removes the connection from them.
pub(super) struct Newcomer {
    pub(super) serial: u64,
    newcomers: Arc<Newcomers>,
}

impl Newcomer {
    /// The claims of the connection were judged again.
    pub(super) fn ranks(&self, rank: Rank) {
        if let Some(entry) = self.newcomers.0.lock().get_mut(&self.serial) {
            entry.rank = rank;
        }
    }

    /// Removes the connection, because it belongs to a member now or has ended.
    pub(super) fn leave(&self) {
        self.newcomers.0.lock().remove(&self.serial);
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_of_the_most_crowded_address_ends_and_one_that_is_ahead_ends_last() {
        let newcomers = Arc::new(Newcomers::default());
        assert!(!newcomers.end_one());
        let [few, many] = [1, 2].map(|last| IpAddr::from([127, 0, 0, last]));
        let enter = |serial, address| {
            let newcomer = newcomers.enter(serial, address);
            let task = tokio::spawn(std::future::pending::<()>());
            newcomers.runs(serial, task.abort_handle());
            newcomer
        };
        let entered = [
            enter(0, many),
            enter(1, few),
            enter(2, many),
            enter(3, many),
            enter(4, few),
        ];
        entered[0].ranks(Rank::Ahead);
        // This one has no task yet.
        let _new = newcomers.enter(5, few);
        let mut ended = Vec::new();
        while newcomers.end_one() {
            let left: Vec<u64> = newcomers.0.lock().keys().copied().collect();
            let is_gone = |serial: &u64| !left.contains(serial) && !ended.contains(serial);
            ended.extend((0..6).filter(is_gone).collect::<Vec<_>>());
        }
        assert_eq!(ended, [1, 2, 3, 4, 0]);
        assert_eq!(newcomers.unproved(), 1);
    }
}
