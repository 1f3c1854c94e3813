//! The search for an order over all keys at once, after Wing and Gong with Lowe's memory of where it has been, from
//! either end.
//!
//! Both searches are exact: what either finds is an order, and if it has tried everything there is none. They differ in
//! what they have to guess.
//! - `backward` knows what has to be there before it looks for what brings it about. An unknown write comes in only
//!   where something needs it and where nothing sees what it overwrites. That decides histories with hundreds of
//!   unknown writes, of which some take effect unseen or late.
//! - `forward` knows what the map is, so that it takes every read at once. That decides what is in doubt only
//!   for the order of what is in flight together: many keys, lists of all of them, DELETEs without an index.
//!
//! So the first has a short try, then the second one, and then the first again for as long as it takes.

mod backward;
mod forward;

use super::facts::{Facts, Group, KeyId, Need, Place};

/// Configurations of a short try, beside those that bring it further.
const SHORT: u64 = 20_000;

/// Looks for an order in about so many configurations at most.
pub fn search(facts: &Facts, tried_max: u64) -> Verdict {
    let short = SHORT.min(tried_max);
    match backward::search(facts, short) {
        Verdict::Good => return Verdict::Good,
        Verdict::Bad(_) => return refuse(forward::search(facts, short)),
        Verdict::Undecided(_) => {}
    }
    match forward::search(facts, tried_max) {
        Verdict::Undecided(stuck) => match backward::search(facts, tried_max) {
            Verdict::Good => Verdict::Good,
            Verdict::Bad(_) => Verdict::Bad(stuck),
            Verdict::Undecided(_) => Verdict::Undecided(stuck),
        },
        decided => decided,
    }
}

/// There is no order; how far one comes from the beginning is better to report than how far from the end.
fn refuse(forward: Verdict) -> Verdict {
    match forward {
        Verdict::Good => panic!("a search finds an order, and another one none"),
        Verdict::Bad(stuck) | Verdict::Undecided(stuck) => Verdict::Bad(stuck),
    }
}

/// A set of steps, and what keys are or have to be, as the sum of a random number for each part. Among a million that a search meets two
/// have the same sum with a probability of 2^-89; and then a good history would be reported, and never a bad one
/// passed over.
type Fingerprint = u128;

fn random(number: u64) -> u64 {
    // SplitMix64.
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn fingerprint(kind: u64, number: u64, what: u64) -> Fingerprint {
    let number = random(random(number.wrapping_mul(2).wrapping_add(kind)).wrapping_add(what));
    u128::from(number) << 64 | u128::from(random(number ^ 0x5555))
}

/// What became of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order.
    Good,
    /// There is none.
    Bad(Stuck),
    /// It was given up.
    Undecided(Stuck),
}

/// How far a search came at best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stuck {
    /// Steps that were taken, of how many.
    pub taken: usize,
    pub of: usize,
    /// The first return that could not be passed: what was called later was not looked at.
    pub limit: u64,
}

/// A part of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Link {
    Step(usize),
    Slot(usize),
}

/// What has an index, in its order.
fn chain(facts: &Facts) -> Vec<(Place, Link)> {
    let mut chain = Vec::new();
    for (at, step) in facts.steps.iter().enumerate() {
        chain.extend(step.place.map(|place| (place, Link::Step(at))));
    }
    let slots = facts.slots.iter().enumerate();
    chain.extend(slots.map(|(at, slot)| ((slot.index, false), Link::Slot(at))));
    chain.sort_unstable();
    chain
}

/// It can be used more than once, or not, without what the map is showing it.
fn counts(group: &Group) -> bool {
    let replaces = |(key, need): &(KeyId, Need)| {
        matches!(need, Need::Is(_)) && group.writes.iter().any(|(other, _)| other == key)
    };
    !group.needs.iter().any(replaces)
}
