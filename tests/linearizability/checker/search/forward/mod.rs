//! The search for an order, after Wing and Gong with Lowe's memory of where it has been, over all keys at once.
//!
//! Calls and returns stand in one list in the order of time. A step may come next if its call stands before the first
//! return in the list; taking it removes both. A configuration (what was taken, and what the map is then) that was
//! tried before is not tried again.
//!
//! What keeps it from branching:
//! - Writes whose index is known, ETags that some unknown write must have, and lists, which are as of an index, come
//!   in the order of their indexes: the *chain*. Only what shares an index is a choice. That is required, not trusted:
//!   if no order of this kind explains the answers and the times, the history is bad.
//! - A read or a failed condition that fits what the map is now is taken at once: taken later it would see the same,
//!   and nothing waits for it not to be taken.
//! - A write must not replace what a step that is still to come has to see under its ETag: an ETag does not come back.
//! - DELETEs, whose 204 has no index, are tried before the chain where a waiting step needs them, and else behind it.
//! - An optional write (see `facts`) that nothing shows can be left out of an order; and it can be moved behind all
//!   that does not touch its keys. So it is tried last, only where what comes next touches its keys (other optional
//!   writes may stand between), and in the first of two passes only where a waiting step needs it. That finds all
//!   there is to find if optional writes are of one key each. A transaction may also have to come earlier, before writes
//!   that hide a part of it: where the search is stuck for want of one, the first pass tries it further back. The
//!   second pass, which decides if the first finds nothing, tries all of them everywhere.
//! - A configuration is no better than another one that differs only in having used fewer optional writes. Those on
//!   the condition of an ETag that they replace don't even count: once one was used its ETag is gone for good.

mod choices;
mod taking;

use super::super::facts::{ABSENT, Facts, Group, KeyId, NAMED, Need, Place, State, Step};
use super::{Fingerprint, Link, Stuck, Verdict, chain, counts, fingerprint};
use std::collections::HashMap;
use std::rc::Rc;

/// A way to go on.
#[derive(Debug, Clone, Copy)]
enum Choice {
    Step(usize),
    /// A write of the group has the ETag of the slot.
    Fill {
        slot: usize,
        group: usize,
    },
    Optional(usize),
}

/// A configuration on the way to where the search is.
struct Frame {
    /// Groups of optional writes that were taken last, and nothing has touched their keys so far.
    unseen: Vec<usize>,
    /// Steps taken at once on arrival.
    at_once: usize,
    choices: Vec<Choice>,
    tried: usize,
    /// How much of [`Search::wanted`] was listed among the choices; before that, the optional writes that are needed here.
    listed: Option<usize>,
}

struct Search<'a> {
    facts: &'a Facts,
    everywhere: bool,
    /// Groups of several keys that a waiting step needed where the search is stuck: they may have to come earlier. In the
    /// second pass all of them.
    wanted: Vec<usize>,
    /// Before this one are those of places where the search is stuck no longer.
    wanted_from: usize,
    is_wanted: Vec<bool>,
    of_many: Vec<bool>,
    /// Links between events. Call of step `i` is `i + 1`, its return `steps + i + 1`; 0 is both ends. The chain's calls
    /// are left out.
    next: Vec<usize>,
    previous: Vec<usize>,
    chain: Vec<(Place, Link)>,
    link_taken: Vec<bool>,
    /// All links before this one were taken.
    chain_at: usize,
    step_link: Vec<usize>,
    slot_link: Vec<usize>,
    slot_of: HashMap<(KeyId, u64), usize>,
    map: Vec<State>,
    /// What the keys were before the writes that were taken.
    trail: Vec<(KeyId, State)>,
    /// How many steps that were not taken need each named ETag.
    waiting: Vec<u32>,
    /// Groups that put or delete a key.
    putters: Vec<Vec<usize>>,
    deleters: Vec<Vec<usize>>,
    /// How many of each group were taken; and of those that count, the same for comparing.
    used: Vec<u32>,
    counts: Vec<bool>,
    used_counting: Rc<[(usize, u32)]>,
    taken: usize,
    fingerprint: Fingerprint,
    /// What was taken, with the length of the trail before it.
    order: Vec<(Choice, usize)>,
    tried: u64,
    stuck: Stuck,
}

/// Looks for an order in about so many configurations at most.
pub fn search(facts: &Facts, tried_max: u64) -> Verdict {
    let steps = facts.steps.len() as u64;
    let of_many = facts.groups.iter().any(is_of_many);
    let first_max = if of_many { tried_max / 4 } else { tried_max };
    let first = Search::new(facts, false).run(2 * steps + first_max);
    if first == Verdict::Good || !of_many {
        return first;
    }
    match Search::new(facts, true).run(2 * steps + tried_max) {
        Verdict::Undecided(_) => match first {
            Verdict::Bad(stuck) => Verdict::Undecided(stuck),
            first => first,
        },
        second => second,
    }
}

impl<'a> Search<'a> {
    fn new(facts: &'a Facts, everywhere: bool) -> Search<'a> {
        let steps = &facts.steps;
        let chain = chain(facts);
        let mut step_link = vec![usize::MAX; steps.len()];
        let mut slot_link = vec![usize::MAX; facts.slots.len()];
        for (at, (_, link)) in chain.iter().enumerate() {
            match *link {
                Link::Step(step) => step_link[step] = at,
                Link::Slot(slot) => slot_link[slot] = at,
            }
        }
        let mut waiting = vec![0; facts.names];
        for (_, need) in steps.iter().flat_map(|step| &step.needs) {
            if let Need::Is(name) = need {
                waiting[(name - NAMED) as usize] += 1;
            }
        }
        let (putters, deleters) = writers(facts);
        let (next, previous) = events(steps);
        let of_many: Vec<bool> = facts.groups.iter().map(is_of_many).collect();
        let slots = facts.slots.iter().enumerate();
        let link_taken = vec![false; chain.len()];
        let is_wanted = match everywhere {
            true => of_many.clone(),
            false => vec![false; of_many.len()],
        };
        let wanted = (0..of_many.len()).filter(|group| is_wanted[*group]);
        Search {
            facts,
            everywhere,
            wanted: wanted.collect(),
            wanted_from: 0,
            is_wanted,
            of_many,
            next,
            previous,
            chain,
            link_taken,
            chain_at: 0,
            step_link,
            slot_link,
            slot_of: slots
                .map(|(at, slot)| ((slot.key, slot.index), at))
                .collect(),
            map: vec![ABSENT; facts.keys],
            trail: Vec::new(),
            waiting,
            putters,
            deleters,
            used: vec![0; facts.groups.len()],
            counts: facts.groups.iter().map(counts).collect(),
            used_counting: Rc::from([]),
            taken: 0,
            fingerprint: 0,
            order: Vec::new(),
            tried: 0,
            stuck: Stuck {
                of: steps.len() + facts.slots.len(),
                ..Stuck::default()
            },
        }
    }

    fn run(&mut self, tried_max: u64) -> Verdict {
        type Seen = Vec<Rc<[(usize, u32)]>>;
        let mut seen: HashMap<(Fingerprint, Vec<usize>), Seen> = HashMap::new();
        let mut frames: Vec<Frame> = Vec::new();
        let mut arrival = Some(Vec::new());
        loop {
            if let Some(unseen) = arrival.take() {
                self.tried += 1;
                if self.tried > tried_max {
                    return Verdict::Undecided(self.stuck);
                }
                let frame = self.arrive(unseen);
                if self.taken == self.stuck.of {
                    return Verdict::Good;
                }
                let before = seen
                    .entry((self.fingerprint, frame.unseen.clone()))
                    .or_default();
                let now = &self.used_counting;
                if before.iter().any(|other| is_no_more(other, now)) {
                    self.untake_many(frame.at_once + usize::from(!frames.is_empty()));
                } else {
                    before.push(now.clone());
                    self.remember_stuck();
                    frames.push(frame);
                }
            }
            // Go on from the newest configuration that has a choice left.
            let Some(frame) = frames.last_mut() else {
                return Verdict::Bad(self.stuck);
            };
            if frame.tried == frame.choices.len() {
                let wanted = self.wanted.len();
                let optional = self.optional(frame.listed, &frame.unseen);
                frame.listed = Some(self.wanted.len());
                frame.choices.extend(optional);
                if self.wanted.len() > wanted {
                    // What was tried in vain may have wanted one of these.
                    seen.clear();
                }
            }
            if let Some(&choice) = frame.choices.get(frame.tried) {
                frame.tried += 1;
                let mut unseen = Vec::new();
                if let Choice::Optional(group) = choice {
                    let groups = frame.unseen.iter().copied();
                    unseen.extend(groups.filter(|group| !self.touches(choice, *group)));
                    unseen.push(group);
                    unseen.sort_unstable();
                }
                self.take(choice);
                arrival = Some(unseen);
            } else {
                let at_once = frame.at_once;
                frames.pop();
                self.untake_many(at_once + usize::from(!frames.is_empty()));
            }
        }
    }

    /// Takes at once what fits, and lists what may come next.
    fn arrive(&mut self, mut unseen: Vec<usize>) -> Frame {
        let before = self.order.len();
        while let Some(step) = self.fitting() {
            let choice = Choice::Step(step);
            unseen.retain(|group| !self.touches(choice, *group));
            self.take(choice);
        }
        let mut choices = self.deletes();
        let needed = match choices.is_empty() {
            true => 0,
            false => {
                let demands = self.demands();
                let is_needed = |choice: &Choice| {
                    let Choice::Step(step) = choice else {
                        return false;
                    };
                    let mut writes = self.facts.steps[*step].writes.iter();
                    writes.any(|(key, _)| demands.contains(&(*key, false)))
                };
                choices.sort_by_key(|choice| !is_needed(choice));
                choices.iter().filter(|choice| is_needed(choice)).count()
            }
        };
        let chain = self.chain_choices();
        choices.splice(needed..needed, chain);
        let sees_all = |choice: &Choice| {
            let mut unseen = unseen.iter();
            unseen.all(|group| self.touches(*choice, *group))
        };
        choices.retain(sees_all);
        Frame {
            unseen,
            at_once: self.order.len() - before,
            choices,
            tried: 0,
            listed: None,
        }
    }

    fn remember_stuck(&mut self) {
        if self.taken > self.stuck.taken && !self.everywhere {
            for group in &self.wanted[self.wanted_from..] {
                self.is_wanted[*group] = false;
            }
            self.wanted_from = self.wanted.len();
        }
        if self.taken >= self.stuck.taken {
            self.stuck.taken = self.taken;
            self.stuck.limit = self.limit().max(self.stuck.limit);
        }
    }
}

/// The list of calls and returns; see [`Search::next`].
fn events(steps: &[Step]) -> (Vec<usize>, Vec<usize>) {
    let mut events = Vec::with_capacity(steps.len() * 2);
    for (i, step) in steps.iter().enumerate() {
        // At the same time calls come before returns, so that the operations count as concurrent.
        if step.place.is_none() {
            events.push((step.invoked, 0, i + 1));
        }
        if let Some(returned) = step.returned {
            events.push((returned, 1, steps.len() + i + 1));
        }
    }
    events.sort_unstable();
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

/// The groups that put each key, and those that delete it.
fn writers(facts: &Facts) -> (Vec<Vec<usize>>, Vec<Vec<usize>>) {
    let mut putters = vec![Vec::new(); facts.keys];
    let mut deleters = putters.clone();
    for (at, group) in facts.groups.iter().enumerate() {
        for (key, value) in &group.writes {
            let writers = if value.is_some() {
                &mut putters
            } else {
                &mut deleters
            };
            writers[*key].push(at);
        }
    }
    (putters, deleters)
}

/// It may have to come before something that hides a part of it.
fn is_of_many(group: &Group) -> bool {
    let (first, _) = group.writes[0];
    let writes = group.writes.iter().map(|(key, _)| *key);
    let mut keys = writes.chain(group.needs.iter().map(|(key, _)| *key));
    keys.any(|key| key != first)
}

/// Of each group no more was used.
fn is_no_more(one: &[(usize, u32)], other: &[(usize, u32)]) -> bool {
    one.len() <= other.len()
        && one.iter().all(|(group, used)| {
            let at = other.binary_search_by_key(group, |(group, _)| *group);
            at.is_ok_and(|at| *used <= other[at].1)
        })
}
