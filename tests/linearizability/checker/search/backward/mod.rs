//! The search for an order, from its end to its beginning, over all keys at once: what comes last is taken first. It has
//! Lowe's memory of where it has been.
//!
//! From the end, because what has to be there is known before what brings it about. A search from the beginning knows
//! what the map is; it would have to guess which of hundreds of unknown writes took effect, long before anything shows
//! it. From the end a configuration is what was taken and what each key still *has to be* ([`Need`], or nothing) before
//! it; an unknown write comes in only where a key has to be what it makes of it and where nothing needs what it
//! overwrites. Any place where it hides is seen as such at once.
//!
//! Calls and returns stand in one list in the order of time. A step may be taken if its return stands behind the last
//! call of what is left; taking it removes both.
//!
//! What keeps it from branching:
//! - Writes whose index is known, ETags that some unknown write must have, and lists, which are as of an index, come
//!   in the order of their indexes: the *chain*. Only what shares an index is a choice. That is required, not trusted:
//!   if no order of this kind explains the answers and the times, the history is bad.
//! - A read or a failed condition that needs nothing new is taken at once: nothing waits for it not to be taken.
//! - Others can be moved to before all that does not touch their keys and that may come after them. So one of a single
//!   key is taken together with the write that makes its key what it reads, or with what has to come before it in time
//!   ([`Search::attempt`]). Those of several keys may also be taken by themselves.
//! - A key has to have a named ETag only while the newest write of it that is left in the chain is the one of this
//!   ETag: an ETag does not come back. And that write is taken only when nothing is left that has to see the ETag.
//! - An optional write (see `facts`) by which no key becomes what it has to be can be left out of an order.
//! - A configuration is no better than another one that differs only in having more optional writes left. Of a group
//!   the latest that was called early enough is used; what was called after the return of something that was taken is
//!   of no use to either. Those on the condition of an ETag that they replace don't count: while the key has to have
//!   the ETag they don't fit, and then it is gone for good.

mod choices;
mod needs;
mod taking;

use super::super::facts::{Facts, KeyId, NAMED, Need, Place, Slot, State, Step};
use super::{Fingerprint, Link, Stuck, Verdict, chain, counts, fingerprint, random};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::rc::Rc;

/// A way to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    Step(usize),
    /// A write of the group has the ETag of the slot.
    Fill {
        slot: usize,
        group: usize,
    },
    Optional(usize),
    /// Nothing comes before but reads of an empty map.
    Beginning,
}

/// A configuration that was reached.
struct Node {
    parent: usize,
    depth: usize,
    /// What led to it from its parent.
    choice: Choice,
    /// How much was taken when its choices were listed, and before.
    taken: usize,
    before: usize,
    /// What was paid on the way for choices that are less likely than others.
    paid: i64,
    /// What will have to be paid for optional writes that are surely needed.
    owed: i64,
    /// With the price of each; cheap ones first.
    choices: Vec<(i64, Choice)>,
    tried: usize,
}

/// What was taken, and what to restore.
struct Taken {
    choice: Choice,
    trail: usize,
    bound: u64,
    /// Writes that were left of its group.
    left: usize,
    one_of: Rc<[Rc<[KeyId]>]>,
}

/// A write of a key in the chain.
#[derive(Debug, Clone, Copy)]
struct Written {
    state: State,
    invoked: u64,
}

struct Search<'a> {
    facts: &'a Facts,
    /// Links between events, from the last to the first. Return of step `i` is `i + 1`, its call `steps + i + 1`; 0 is
    /// both ends. The chain's returns are left out.
    next: Vec<usize>,
    previous: Vec<usize>,
    chain: Vec<(Place, Link)>,
    link_taken: Vec<bool>,
    /// All links from this one on were taken.
    chain_end: usize,
    step_link: Vec<usize>,
    slot_link: Vec<usize>,
    slot_of: HashMap<(KeyId, u64), usize>,
    /// What each key has to be before what was taken.
    needs: Vec<Option<Need>>,
    /// Keys that have to be absent, or present under any ETag.
    needed: BTreeSet<KeyId>,
    /// Of each of these sets one key has to be present.
    one_of: Rc<[Rc<[KeyId]>]>,
    /// What keys had to be before it changed.
    trail: Vec<(KeyId, Option<Need>)>,
    /// The writes of each key in the chain, and how many of them are left.
    written: Vec<Vec<Written>>,
    written_left: Vec<usize>,
    /// Slots that are left of each key.
    slots_left: Vec<usize>,
    /// Acknowledged DELETEs that are left of each key, by their returns.
    deletes: Vec<BTreeSet<(u64, usize)>>,
    deletes_left: usize,
    /// How many steps that were not taken need each named ETag.
    waiting: Vec<u32>,
    /// The first return of these steps.
    first_seen: Vec<u64>,
    /// Groups that put a key.
    putters: Vec<Vec<usize>>,
    /// How many of each group are left, the earliest of them; and which groups were used, and how often.
    left: Vec<usize>,
    used: BTreeMap<usize, usize>,
    counts: Vec<bool>,
    /// The calls of all optional writes, with their groups.
    calls: Vec<(u64, usize)>,
    /// Steps that are left and need a key absent or present (see [`demand`]), by their returns; and lists that need one
    /// key of several.
    demands: Vec<BTreeSet<(u64, usize)>>,
    lists: BTreeSet<(u64, usize)>,
    /// Groups that make each key absent or present, and the demands that this may help to meet: this one, and those
    /// that are met by groups which need it themselves.
    suppliers: Vec<Suppliers>,
    helps: Vec<Vec<usize>>,
    /// Groups on the condition of an ETag.
    matching: HashMap<State, Vec<usize>>,
    /// The first return of what was taken: nothing that was called later may come before.
    bound: u64,
    taken: usize,
    fingerprint: Fingerprint,
    order: Vec<Taken>,
    tried: u64,
    stuck: Stuck,
}

/// Looks for an order, in so many configurations at most beside one for each step that was taken.
pub fn search(facts: &Facts, tried_max: u64) -> Verdict {
    Search::new(facts).run(tried_max)
}

impl<'a> Search<'a> {
    fn new(facts: &'a Facts) -> Search<'a> {
        let steps = &facts.steps;
        let chain = chain(facts);
        let mut step_link = vec![usize::MAX; steps.len()];
        let mut slot_link = vec![usize::MAX; facts.slots.len()];
        let mut slots_left = vec![0; facts.keys];
        for (at, (_, link)) in chain.iter().enumerate() {
            match *link {
                Link::Step(step) => step_link[step] = at,
                Link::Slot(slot) => {
                    slot_link[slot] = at;
                    slots_left[facts.slots[slot].key] += 1;
                }
            }
        }
        let written = written(facts, &chain);
        let (waiting, first_seen) = waiting(facts);
        let deletes = deletes(facts);
        let groups = facts.groups.iter().enumerate();
        let calls = groups.flat_map(|(at, group)| group.calls.iter().map(move |call| (*call, at)));
        let mut calls: Vec<(u64, usize)> = calls.collect();
        calls.sort_unstable();
        let (demands, lists) = demands(facts);
        let (suppliers, matching) = suppliers(facts);
        let (next, previous) = events(steps);
        let slots = facts.slots.iter().enumerate();
        Search {
            facts,
            next,
            previous,
            link_taken: vec![false; chain.len()],
            chain_end: chain.len(),
            chain,
            step_link,
            slot_link,
            slot_of: slots
                .map(|(at, slot)| ((slot.key, slot.index), at))
                .collect(),
            needs: vec![None; facts.keys],
            needed: BTreeSet::new(),
            one_of: Rc::from([]),
            trail: Vec::new(),
            slots_left,
            written_left: written.iter().map(Vec::len).collect(),
            written,
            deletes_left: deletes.iter().map(BTreeSet::len).sum(),
            deletes,
            waiting,
            first_seen,
            putters: putters(facts),
            demands,
            lists,
            suppliers,
            helps: helps(facts),
            matching,
            left: facts.groups.iter().map(|group| group.calls.len()).collect(),
            used: BTreeMap::new(),
            calls,
            counts: facts.groups.iter().map(counts).collect(),
            bound: u64::MAX,
            taken: 0,
            fingerprint: 0,
            order: Vec::new(),
            tried: 0,
            stuck: Stuck {
                of: steps.len() + facts.slots.len(),
                limit: u64::MAX,
                ..Stuck::default()
            },
        }
    }

    /// Goes on from where the most was taken, less what was paid for unlikely choices: so likely ones a little further
    /// back are tried before unlikely ones, and an unlikely one before all that are far back.
    fn run(&mut self, tried_max: u64) -> Verdict {
        let mut seen: HashMap<Fingerprint, Vec<Vec<(usize, usize)>>> = HashMap::new();
        let mut nodes: Vec<Node> = Vec::new();
        let mut path: Vec<usize> = Vec::new();
        let mut open: BinaryHeap<(i64, usize)> = BinaryHeap::new();
        let mut arrived = Some((Choice::Beginning, 0, 0));
        loop {
            if let Some((choice, before, paid)) = arrived.take() {
                self.tried += 1;
                if self.tried > tried_max + self.stuck.taken as u64 {
                    return Verdict::Undecided(self.stuck);
                }
                self.take_at_once();
                let others = seen.entry(self.configuration()).or_default();
                let now = self.used_up();
                if others.iter().any(|other| is_no_more(other, &now)) {
                    self.untake_to(before);
                } else {
                    others.push(now);
                    self.remember_stuck();
                    let node = Node {
                        parent: path.last().copied().unwrap_or(0),
                        depth: path.len(),
                        choice,
                        taken: self.taken,
                        before,
                        paid,
                        owed: OWED * self.certain() as i64,
                        choices: self.choices(),
                        tried: 0,
                    };
                    open.extend(node.worth().map(|worth| (worth, nodes.len())));
                    path.push(nodes.len());
                    nodes.push(node);
                }
            }
            let Some((_, at)) = open.pop() else {
                return Verdict::Bad(self.stuck);
            };
            self.go_to(at, &nodes, &mut path);
            let node = &mut nodes[at];
            let (price, choice) = node.choices[node.tried];
            node.tried += 1;
            open.extend(node.worth().map(|worth| (worth, at)));
            let before = self.order.len();
            if self.attempt(choice) {
                if choice == Choice::Beginning {
                    return Verdict::Good;
                }
                arrived = Some((choice, before, node.paid + price));
            }
        }
    }

    /// Undoes what was taken, and takes other things, until this node is reached again.
    fn go_to(&mut self, at: usize, nodes: &[Node], path: &mut Vec<usize>) {
        let mut way = Vec::new();
        let mut above = at;
        while path.get(nodes[above].depth) != Some(&above) {
            way.push(above);
            above = nodes[above].parent;
        }
        if let Some(&below) = path.get(nodes[above].depth + 1) {
            self.untake_to(nodes[below].before);
        }
        path.truncate(nodes[above].depth + 1);
        for &node in way.iter().rev() {
            let taken = self.attempt(nodes[node].choice);
            assert!(taken, "{:?} was taken before", nodes[node].choice);
            self.take_at_once();
            path.push(node);
        }
        assert_eq!(self.taken, nodes[at].taken, "the same was taken");
    }

    fn configuration(&self) -> Fingerprint {
        let mut all = self.fingerprint;
        for set in self.one_of.iter() {
            let mut hash = 0;
            for key in set.iter() {
                hash = random(random(hash).wrapping_add(*key as u64));
            }
            all = all.wrapping_add(fingerprint(2, hash, 0));
        }
        all
    }

    /// Of each group that counts, how many writes that could still be used were used before.
    fn used_up(&self) -> Vec<(usize, usize)> {
        let used = self.used.keys().filter(|group| self.counts[**group]);
        let used = used.map(|&group| {
            let calls = &self.facts.groups[group].calls;
            let usable = calls.partition_point(|&invoked| invoked <= self.bound);
            (group, usable.saturating_sub(self.left[group]))
        });
        used.filter(|(_, lost)| *lost > 0).collect()
    }

    fn remember_stuck(&mut self) {
        if self.taken >= self.stuck.taken {
            let limit = self
                .limit()
                .map_or(0, |step| self.facts.steps[step].invoked);
            self.stuck.taken = self.taken;
            self.stuck.limit = limit.min(self.stuck.limit);
        }
    }
}

/// The writes of each key in the chain.
fn written(facts: &Facts, chain: &[(Place, Link)]) -> Vec<Vec<Written>> {
    let mut written = vec![Vec::new(); facts.keys];
    for (_, link) in chain {
        match *link {
            Link::Step(step) => {
                let invoked = facts.steps[step].invoked;
                for &(key, state) in &facts.steps[step].writes {
                    written[key].push(Written { state, invoked });
                }
            }
            Link::Slot(slot) => {
                let Slot { key, name, .. } = facts.slots[slot];
                let (state, invoked) = (name, 0);
                written[key].push(Written { state, invoked });
            }
        }
    }
    written
}

/// How many steps need each named ETag, and the first return of one.
fn waiting(facts: &Facts) -> (Vec<u32>, Vec<u64>) {
    let mut waiting = vec![0; facts.names];
    let mut first_seen = vec![u64::MAX; facts.names];
    for step in &facts.steps {
        for (_, need) in &step.needs {
            if let Need::Is(name) = need {
                let name = (name - NAMED) as usize;
                waiting[name] += 1;
                first_seen[name] = first_seen[name].min(step.returned.unwrap_or(u64::MAX));
            }
        }
    }
    (waiting, first_seen)
}

/// The DELETEs of each key that have no place in the chain, by their returns.
fn deletes(facts: &Facts) -> Vec<BTreeSet<(u64, usize)>> {
    let mut deletes = vec![BTreeSet::new(); facts.keys];
    for (at, step) in facts.steps.iter().enumerate() {
        if step.place.is_none() {
            for (key, _) in &step.writes {
                deletes[*key].insert((step.returned.unwrap_or(u64::MAX), at));
            }
        }
    }
    deletes
}

/// For each key that only an optional write can make what it has to be.
const OWED: i64 = 15;

impl Node {
    /// How good it is to go on from here, if there is a way left.
    fn worth(&self) -> Option<i64> {
        let (price, _) = self.choices.get(self.tried)?;
        Some(self.taken as i64 - self.paid - self.owed - price)
    }
}

/// The number of the demand that a key be present, or absent.
fn demand(key: KeyId, present: bool) -> usize {
    2 * key + usize::from(present)
}

fn putters(facts: &Facts) -> Vec<Vec<usize>> {
    let mut putters = vec![Vec::new(); facts.keys];
    for (at, group) in facts.groups.iter().enumerate() {
        for (key, value) in &group.writes {
            if value.is_some() {
                putters[*key].push(at);
            }
        }
    }
    putters
}

type Demands = BTreeSet<(u64, usize)>;

fn demands(facts: &Facts) -> (Vec<Demands>, Demands) {
    let mut demands = vec![BTreeSet::new(); 2 * facts.keys];
    let mut lists = BTreeSet::new();
    for (at, step) in facts.steps.iter().enumerate() {
        let place = (step.returned.unwrap_or(u64::MAX), at);
        for &(key, need) in &step.needs {
            if !matches!(need, Need::Is(_)) {
                demands[demand(key, need == Need::Present)].insert(place);
            }
        }
        if step.beyond.is_some() {
            lists.insert(place);
        }
    }
    (demands, lists)
}

/// Groups that meet a demand.
#[derive(Debug, Clone, Default)]
struct Suppliers {
    /// Without the condition of an ETag.
    others: Vec<usize>,
    /// Keys whose ETags are the conditions of the rest.
    matched: BTreeSet<KeyId>,
}

fn suppliers(facts: &Facts) -> (Vec<Suppliers>, HashMap<State, Vec<usize>>) {
    let mut suppliers = vec![Suppliers::default(); 2 * facts.keys];
    let mut matching: HashMap<State, Vec<usize>> = HashMap::new();
    for (at, group) in facts.groups.iter().enumerate() {
        let named = group.needs.iter().find_map(|(key, need)| match need {
            Need::Is(name) => Some((*key, *name)),
            _ => None,
        });
        for (key, value) in &group.writes {
            let suppliers = &mut suppliers[demand(*key, value.is_some())];
            match named {
                Some((matched, _)) => drop(suppliers.matched.insert(matched)),
                None => suppliers.others.push(at),
            }
        }
        if let Some((_, name)) = named {
            matching.entry(name).or_default().push(at);
        }
    }
    (suppliers, matching)
}

/// See [`Search::helps`].
fn helps(facts: &Facts) -> Vec<Vec<usize>> {
    let mut met_with: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); 2 * facts.keys];
    for group in &facts.groups {
        for &(key, need) in &group.needs {
            if !matches!(need, Need::Is(_)) {
                let writes = group.writes.iter();
                let met = writes.map(|(key, value)| demand(*key, value.is_some()));
                met_with[demand(key, need == Need::Present)].extend(met);
            }
        }
    }
    let all = (0..2 * facts.keys).map(|first| {
        let (mut helped, mut new) = (BTreeSet::from([first]), vec![first]);
        while let Some(demand) = new.pop() {
            new.extend(met_with[demand].iter().filter(|met| helped.insert(**met)));
        }
        helped.into_iter().collect()
    });
    all.collect()
}

/// The list of calls and returns; see [`Search::next`].
fn events(steps: &[Step]) -> (Vec<usize>, Vec<usize>) {
    let mut events = Vec::with_capacity(steps.len() * 2);
    for (i, step) in steps.iter().enumerate() {
        // At the same time calls come before returns, so that the operations count as concurrent.
        if step.place.is_none() {
            events.push((step.returned.unwrap_or(u64::MAX), 1, i + 1));
        }
        events.push((step.invoked, 0, steps.len() + i + 1));
    }
    events.sort_unstable_by(|one, other| other.cmp(one));
    let mut next = vec![0; steps.len() * 2 + 1];
    let mut previous = next.clone();
    let mut last = 0;
    for (_, _, event) in events {
        next[last] = event;
        previous[event] = last;
        last = event;
    }
    previous[0] = last;
    (next, previous)
}

/// Of each group no more was used.
fn is_no_more(one: &[(usize, usize)], other: &[(usize, usize)]) -> bool {
    one.len() <= other.len()
        && one.iter().all(|(group, used)| {
            let at = other.binary_search_by_key(group, |(group, _)| *group);
            at.is_ok_and(|at| *used <= other[at].1)
        })
}
