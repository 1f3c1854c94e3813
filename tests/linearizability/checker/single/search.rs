//! The search for an order, after Wing and Gong with Lowe's memory of where it has been.
//!
//! Calls and returns stand in one list in the order of time. An operation may come next if its call stands before the
//! first return in the list; taking it removes both. A configuration (what was taken, and what the key is then) that
//! was tried before is not tried again.
//!
//! What keeps it from branching:
//! - A read or a failed condition that fits what the key is now is taken at once: taken later it would see the same,
//!   and nothing waits for it not to be taken.
//! - ETags grow. So everything that names an ETag comes in the order of these ETags, and a configuration that has left
//!   one behind is dead.
//! - An optional write (see `facts`) is tried last, and only directly before an operation that depends on it.
//! - A configuration is no better than another one that differs only in having used fewer optional writes. Those on
//!   the condition of an ETag don't even count: once one of them was used its ETag is gone for good.

use super::facts::{Facts, Step, UNREAD, ValueId};
use super::{Condition, shown};
use std::collections::HashMap;

/// Operations before the dead end that a report shows.
const TOLD_BEFORE: usize = 6;

/// Configurations after which a search gives up. Real histories take about one for each write.
const TRIED_MAX: u64 = 20_000_000;

/// What the key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    /// The value, with its ETag once something has told it.
    present: Option<(ValueId, Option<u64>)>,
    /// ETags grow: all that are still to come are larger.
    newest: u64,
}

/// A set of steps as the sum of a random number for each. Among a million sets that a search meets two have the same
/// sum with a probability of 2^-89; and then a good history would be reported, and never a bad one passed over.
type Fingerprint = u128;

fn random(number: u64) -> u64 {
    // SplitMix64.
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn fingerprint(number: u64) -> Fingerprint {
    u128::from(random(2 * number + 1)) << 64 | u128::from(random(2 * number + 2))
}

/// A way to go on.
#[derive(Debug, Clone, Copy)]
enum Choice {
    Step(usize),
    Optional { group: usize },
}

/// A configuration on the way to where the search is.
struct Frame {
    state: State,
    /// The choice that led here was optional, and nothing has seen it so far.
    unseen: bool,
    /// Steps taken at once on arrival.
    at_once: Vec<usize>,
    choices: Vec<(Choice, State)>,
    tried: usize,
    optional_listed: bool,
}

/// How far the search has come at best, for the report.
#[derive(Default)]
struct Best {
    taken: usize,
    last: Vec<Choice>,
    present: Option<(ValueId, Option<u64>)>,
    /// Steps that could have come next.
    window: Vec<usize>,
    /// A step that names an ETag which can't come any more.
    left_behind: Option<usize>,
}

struct Search<'a> {
    facts: &'a Facts<'a>,
    /// Links between events. Call of step `i` is `i + 1`, its return `steps + i + 1`; 0 is both ends.
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Steps that write with a known ETag, by ETag, and how many of them were taken.
    by_etag: Vec<usize>,
    etags_taken: usize,
    /// Every ETag that a step has, sees or requires, in order, with the step.
    named: Vec<(u64, usize)>,
    /// All steps of `named` before this position were taken.
    named_taken: usize,
    /// Where each step stands first in `named`.
    first_named: Vec<usize>,
    /// The groups on the condition of an ETag, and the others.
    groups_on: HashMap<u64, Vec<usize>>,
    free_groups: Vec<usize>,
    /// How many of each group were taken.
    used: Vec<usize>,
    is_taken: Vec<bool>,
    taken: usize,
    fingerprint: Fingerprint,
    order: Vec<Choice>,
    tried: u64,
    best: Best,
}

/// Looks for an order; the error tells where it is stuck.
pub fn search(facts: &Facts) -> Result<(), String> {
    let mut search = Search::new(facts);
    match search.run() {
        true => Ok(()),
        false => Err(search.report()),
    }
}

impl<'a> Search<'a> {
    fn new(facts: &'a Facts<'a>) -> Search<'a> {
        let steps = &facts.steps;
        let mut events = Vec::with_capacity(steps.len() * 2);
        for (i, (operation, returned, _)) in steps.iter().enumerate() {
            // At the same time calls come before returns, so that the operations count as concurrent.
            events.push((operation.invoked, 0, i + 1));
            if let Some(returned) = returned {
                events.push((*returned, 1, steps.len() + i + 1));
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
        let etag_of = |step: usize| match steps[step].2 {
            Step::Write { etag, .. } => etag,
            _ => None,
        };
        let mut by_etag: Vec<usize> = (0..steps.len()).filter(|&i| etag_of(i).is_some()).collect();
        by_etag.sort_by_key(|&i| etag_of(i));
        let mut named: Vec<(u64, usize)> = Vec::new();
        for (i, (_, _, step)) in steps.iter().enumerate() {
            match *step {
                Step::Read(Some((_, etag))) | Step::Failed(Some(etag)) => named.push((etag, i)),
                Step::Read(None) | Step::Failed(None) => {}
                Step::Write {
                    condition, etag, ..
                } => {
                    named.extend(etag.map(|etag| (etag, i)));
                    if let Condition::IfMatch(etag) = condition {
                        named.push((etag, i));
                    }
                }
            }
        }
        named.sort_unstable();
        let mut first_named = vec![usize::MAX; steps.len()];
        for (at, &(_, step)) in named.iter().enumerate().rev() {
            first_named[step] = at;
        }
        let mut groups_on: HashMap<u64, Vec<usize>> = HashMap::new();
        let mut free_groups = Vec::new();
        for (at, group) in facts.groups.iter().enumerate() {
            match group.condition {
                Condition::IfMatch(etag) => groups_on.entry(etag).or_default().push(at),
                // Deletes nothing, ever.
                Condition::IfAbsent if group.value.is_none() => {}
                Condition::IfAbsent | Condition::IfPresent | Condition::None => {
                    free_groups.push(at)
                }
            }
        }
        Search {
            facts,
            next,
            previous,
            by_etag,
            etags_taken: 0,
            named,
            named_taken: 0,
            first_named,
            groups_on,
            free_groups,
            is_taken: vec![false; steps.len()],
            used: vec![0; facts.groups.len()],
            taken: 0,
            fingerprint: 0,
            order: Vec::new(),
            tried: 0,
            best: Best::default(),
        }
    }

    fn run(&mut self) -> bool {
        let mut seen: HashMap<(Fingerprint, State, bool), Vec<Vec<usize>>> = HashMap::new();
        let start = State {
            present: None,
            newest: 0,
        };
        let mut frames = Vec::new();
        let mut arrival = Some((start, false));
        loop {
            if let Some((state, unseen)) = arrival.take() {
                self.tried += 1;
                if self.tried > TRIED_MAX {
                    return false;
                }
                let frame = self.arrive(state, unseen);
                if self.taken == self.facts.steps.len() {
                    return true;
                }
                let key = (self.fingerprint, frame.state, frame.unseen);
                let used: Vec<usize> = self.free_groups.iter().map(|&g| self.used[g]).collect();
                let before = seen.entry(key).or_default();
                let no_better = |other: &Vec<usize>| other.iter().zip(&used).all(|(o, u)| o <= u);
                if !before.iter().any(no_better) {
                    before.push(used);
                    self.remember_best(&frame);
                    frames.push(frame);
                } else {
                    self.leave(&frame);
                    self.untake();
                }
            }
            // Go on from the newest configuration that has a choice left.
            let Some(frame) = frames.last_mut() else {
                return false;
            };
            if frame.tried == frame.choices.len() && !frame.optional_listed {
                frame.optional_listed = true;
                let (state, unseen) = (frame.state, frame.unseen);
                let mut choices = std::mem::take(&mut frame.choices);
                self.list_optional(state, unseen, &mut choices);
                frame.choices = choices;
            }
            if let Some(&(choice, state)) = frame.choices.get(frame.tried) {
                frame.tried += 1;
                self.take(choice);
                arrival = Some((state, matches!(choice, Choice::Optional { .. })));
            } else {
                let frame = frames.pop().expect("there is one");
                self.leave(&frame);
                if frames.is_empty() {
                    return false;
                }
                self.untake();
            }
        }
    }

    /// Takes at once what fits, and lists the steps that may come next.
    fn arrive(&mut self, mut state: State, mut unseen: bool) -> Frame {
        let mut at_once = Vec::new();
        let mut again = true;
        while again {
            again = false;
            let mut event = self.next[0];
            // Taking a step only unlinks it, so walking on from it is fine.
            while event != 0 && event <= self.facts.steps.len() {
                let step = event - 1;
                if let Some(after) = self.fits(step, state) {
                    state = after;
                    unseen = false;
                    self.take(Choice::Step(step));
                    at_once.push(step);
                    // Its return may have been the first.
                    again = true;
                }
                event = self.next[event];
            }
        }
        let mut choices = Vec::new();
        if !self.is_dead(state) {
            let mut event = self.next[0];
            while event != 0 && event <= self.facts.steps.len() {
                let step = event - 1;
                if let Some(after) = self.write(step, state, unseen) {
                    choices.push((Choice::Step(step), after));
                }
                event = self.next[event];
            }
        }
        Frame {
            state,
            unseen,
            at_once,
            choices,
            tried: 0,
            optional_listed: self.is_dead(state),
        }
    }

    /// An ETag that some step has, sees or requires can't come any more.
    fn is_dead(&self, state: State) -> bool {
        self.next_named().is_some_and(|etag| {
            let here = state.present.is_some_and(|(_, known)| known == Some(etag));
            etag < state.newest || (etag == state.newest && !here)
        })
    }

    /// The smallest ETag that a step names which was not taken.
    fn next_named(&self) -> Option<u64> {
        self.named.get(self.named_taken).map(|&(etag, _)| etag)
    }

    fn etag(&self, step: usize) -> Option<u64> {
        match self.facts.steps[step].2 {
            Step::Write { etag, .. } => etag,
            _ => None,
        }
    }

    /// If this step sees and does not write, and what it sees fits: what the key is, as far as is known after it.
    fn fits(&self, step: usize, state: State) -> Option<State> {
        match self.facts.steps[step].2 {
            Step::Read(None) | Step::Failed(None) => state.present.is_none().then_some(state),
            Step::Read(Some((value, etag))) => {
                let (present, _) = state.present?;
                (present == value).then(|| self.has_etag(state, etag))?
            }
            Step::Failed(Some(etag)) => self.has_etag(state, etag),
            Step::Write { .. } => None,
        }
    }

    /// If what is there can have this ETag: the state in which it has.
    fn has_etag(&self, state: State, etag: u64) -> Option<State> {
        let (value, known) = state.present?;
        if let Some(known) = known {
            return (known == etag).then_some(state);
        }
        let tied = self.facts.open_etags.get(&etag)?;
        // Whoever names an ETag between would be left behind.
        let next = self.next_named().is_none_or(|next| etag <= next);
        let fits = next && etag > state.newest && tied.is_none_or(|tied| tied == value);
        fits.then_some(State {
            present: Some((value, Some(etag))),
            newest: etag,
        })
    }

    fn holds(&self, condition: Condition, state: State) -> Option<State> {
        match condition {
            Condition::None => Some(state),
            Condition::IfAbsent => state.present.is_none().then_some(state),
            Condition::IfPresent => state.present.map(|_| state),
            Condition::IfMatch(etag) => self.has_etag(state, etag),
        }
    }

    /// What the key is after this step, if it is a write that may come now.
    fn write(&self, step: usize, state: State, unseen: bool) -> Option<State> {
        let Step::Write {
            value,
            condition,
            etag,
        } = self.facts.steps[step].2
        else {
            return None;
        };
        if unseen && condition == Condition::None {
            return None;
        }
        if etag.is_some() && self.by_etag[self.etags_taken] != step {
            return None;
        }
        let before = self.holds(condition, state)?;
        if etag.is_some_and(|etag| etag <= before.newest) {
            return None;
        }
        Some(State {
            present: value.map(|value| (value, etag)),
            newest: etag.unwrap_or(before.newest),
        })
    }

    fn list_optional(&self, state: State, unseen: bool, choices: &mut Vec<(Choice, State)>) {
        // The first return, if any: what is called after it can't come before it.
        let mut event = self.next[0];
        while event != 0 && event <= self.facts.steps.len() {
            event = self.next[event];
        }
        let limit = match event {
            0 => u64::MAX,
            event => {
                let returned = self.facts.steps[event - self.facts.steps.len() - 1].1;
                returned.expect("a step with a return event has returned")
            }
        };
        // What is there may turn out to have the next ETag of all, and no other.
        let etag = match state.present {
            None => None,
            Some((_, None)) => self.next_named(),
            Some((_, known)) => known,
        };
        let conditional = etag.and_then(|etag| self.groups_on.get(&etag));
        let conditional = conditional.into_iter().flatten();
        for &at in conditional.chain(&self.free_groups) {
            let group = &self.facts.groups[at];
            let Some(&invoked) = group.calls.get(self.used[at]) else {
                continue;
            };
            let nothing_new = group.value.is_none() && state.present.is_none();
            let not_seeing = unseen && group.condition == Condition::None;
            if invoked > limit || nothing_new || not_seeing {
                continue;
            }
            if let Some(before) = self.holds(group.condition, state) {
                let after = State {
                    present: group.value.map(|value| (value, None)),
                    newest: before.newest,
                };
                choices.push((Choice::Optional { group: at }, after));
            }
        }
    }

    fn take(&mut self, choice: Choice) {
        match choice {
            Choice::Step(step) => {
                self.unlink(step + 1);
                if self.facts.steps[step].1.is_some() {
                    self.unlink(self.facts.steps.len() + step + 1);
                }
                self.taken += 1;
                self.is_taken[step] = true;
                while let Some(&(_, step)) = self.named.get(self.named_taken)
                    && self.is_taken[step]
                {
                    self.named_taken += 1;
                }
                self.etags_taken += usize::from(self.etag(step).is_some());
                self.fingerprint = self.fingerprint.wrapping_add(fingerprint(step as u64));
            }
            Choice::Optional { group } => self.used[group] += 1,
        }
        self.order.push(choice);
    }

    /// Undoes the newest [`Search::take`].
    fn untake(&mut self) {
        let Some(choice) = self.order.pop() else {
            return;
        };
        match choice {
            Choice::Step(step) => {
                if self.facts.steps[step].1.is_some() {
                    self.relink(self.facts.steps.len() + step + 1);
                }
                self.relink(step + 1);
                self.fingerprint = self.fingerprint.wrapping_sub(fingerprint(step as u64));
                self.taken -= 1;
                self.is_taken[step] = false;
                self.named_taken = self.named_taken.min(self.first_named[step]);
                self.etags_taken -= usize::from(self.etag(step).is_some());
            }
            Choice::Optional { group } => self.used[group] -= 1,
        }
    }

    /// Undoes what was taken on arrival.
    fn leave(&mut self, frame: &Frame) {
        for _ in &frame.at_once {
            self.untake();
        }
    }

    fn unlink(&mut self, event: usize) {
        let (previous, next) = (self.previous[event], self.next[event]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    /// Undoes an unlink, in reverse order: the event still knows where it stood.
    fn relink(&mut self, event: usize) {
        let (previous, next) = (self.previous[event], self.next[event]);
        self.next[previous] = event;
        self.previous[next] = event;
    }

    fn remember_best(&mut self, frame: &Frame) {
        if !self.best.window.is_empty() && self.taken <= self.best.taken {
            return;
        }
        let dead = self.is_dead(frame.state);
        self.best.left_behind = dead.then(|| self.named[self.named_taken].1);
        self.best.taken = self.taken;
        self.best.present = frame.state.present;
        self.best.last.clear();
        let from = self.order.len().saturating_sub(TOLD_BEFORE);
        self.best.last.extend_from_slice(&self.order[from..]);
        self.best.window.clear();
        let mut event = self.next[0];
        while event != 0 && event <= self.facts.steps.len() {
            self.best.window.push(event - 1);
            event = self.next[event];
        }
    }

    fn report(&self) -> String {
        let steps = &self.facts.steps;
        let undecided = match self.tried > TRIED_MAX {
            true => "it could not be decided, the search was too long; so far, ",
            false => "",
        };
        let mut text = format!(
            "{undecided}of {} operations at most {} can be put in order. The last of them:",
            steps.len(),
            self.best.taken
        );
        for choice in &self.best.last {
            text += "\n    ";
            text += &match choice {
                Choice::Step(step) => steps[*step].0.to_string(),
                Choice::Optional { group } => {
                    let group = &self.facts.groups[*group];
                    let what = group.value.map_or("DELETE", |_| "PUT");
                    format!("a {what} of unknown outcome, {:?}", group.condition)
                }
            };
        }
        let value = |id: ValueId| match id {
            UNREAD => "a value that nobody read".to_owned(),
            id => shown(self.facts.values[id as usize]),
        };
        let state = match self.best.present {
            None => "absent".to_owned(),
            Some((id, None)) => value(id),
            Some((id, Some(etag))) => format!("{}, etag {etag}", value(id)),
        };
        text += &format!("\nThen the key is {state}");
        if let Some(step) = self.best.left_behind {
            text += ", which is newer than what this one needs or sees:";
            text += &format!("\n    {}", steps[step].0);
            return text;
        }
        text += ", and none of these can come next:";
        for &step in &self.best.window {
            text += &format!("\n    {}", steps[step].0);
        }
        text
    }
}
