//! Why a history is bad: the few operations whose answers contradict each other.
//!
//! First the keys: one, if it is bad by itself, and otherwise as few as are bad together. Then operations are taken out
//! for as long as the rest stays bad. To take one out is to forget its answer: a read is left out, a write counts as
//! one of unknown outcome. Whatever orders the whole history orders what is left as well, so what is shown at the end
//! is a contradiction by itself.

use super::facts::{self, Facts, KeyId, NAMED, Need};
use super::search::{self, Stuck, Verdict};
use super::{Input, Operation, Output, told};
use std::collections::BTreeSet;

/// Configurations that a try may take.
const TRIED_MAX: u64 = 20_000;

/// Operations that all tries together may look at, so that a report takes seconds at most.
const LOOKED_AT_MAX: usize = 2_000_000;

/// Operations that are shown.
const SHOWN_MAX: usize = 24;

/// What is left of a history.
struct Core<'a> {
    operations: &'a [&'a Operation],
    /// The same with their answers forgotten.
    forgotten: Vec<Operation>,
    keys: BTreeSet<&'a [u8]>,
    /// Whether each operation is there with its answer, without it, or not at all.
    parts: Vec<Part>,
    looked_at: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Answered,
    Forgotten,
    Dropped,
}

/// Of a history for which a search found no order.
pub fn explain(operations: &[&Operation], facts: &Facts, verdict: Verdict) -> String {
    let (mut stuck, decided) = match verdict {
        Verdict::Good => panic!("there is nothing to explain"),
        Verdict::Bad(stuck) => (stuck, true),
        Verdict::Undecided(stuck) => (stuck, false),
    };
    let Some((keys, where_stuck)) = bad_keys(facts, decided) else {
        let Stuck { taken, of, limit } = stuck;
        return format!(
            "it could not be decided, the search was too long; of {of} operations at most {taken} were put in order, \
             and none that were called after {limit}"
        );
    };
    stuck = where_stuck.unwrap_or(stuck);
    let mut core = Core::new(operations, &keys);
    core.forget_what_is_later(stuck.limit);
    core.forget_what_is_earlier();
    core.forget_pieces();
    core.told(facts.keys)
}

/// Keys that are bad together, as few as possible; and where the search is stuck with them.
fn bad_keys(facts: &Facts, decided: bool) -> Option<(BTreeSet<KeyId>, Option<Stuck>)> {
    let judge = |keys: &BTreeSet<KeyId>| {
        let some = facts.of_keys(&|key| keys.contains(&key));
        match search::search(&some, TRIED_MAX) {
            Verdict::Bad(stuck) => Some(stuck),
            _ => None,
        }
    };
    for key in 0..facts.keys {
        let keys = BTreeSet::from([key]);
        if let Some(stuck) = judge(&keys) {
            return Some((keys, Some(stuck)));
        }
    }
    if !decided {
        return None;
    }
    let mut keys: BTreeSet<KeyId> = (0..facts.keys).collect();
    let mut stuck = None;
    for key in 0..facts.keys {
        let mut fewer = keys.clone();
        fewer.remove(&key);
        if let Some(found) = judge(&fewer) {
            (keys, stuck) = (fewer, Some(found));
        }
    }
    Some((keys, stuck))
}

impl<'a> Core<'a> {
    fn new(operations: &'a [&'a Operation], keys: &BTreeSet<KeyId>) -> Core<'a> {
        let forgotten = operations.iter().map(|operation| Operation {
            returned: None,
            output: Output::Unknown,
            ..(*operation).clone()
        });
        let names = facts::keys(operations);
        let mut core = Core {
            operations,
            forgotten: forgotten.collect(),
            keys: keys.iter().map(|key| names[*key]).collect(),
            parts: vec![Part::Answered; operations.len()],
            looked_at: 0,
        };
        // What has nothing to do with these keys.
        let relevant = |at: &usize| {
            let input = &operations[*at].input;
            let keys = &core.keys;
            match input {
                Input::Get { key } | Input::Put { key, .. } | Input::Delete { key, .. } => {
                    keys.contains(&key[..])
                }
                Input::List { prefix, .. } => keys.iter().any(|key| key.starts_with(prefix)),
                Input::Transaction { checks, writes } => {
                    let checks = checks.iter().map(|(key, _)| key);
                    let mut all = checks.chain(writes.iter().map(|(key, _)| key));
                    all.any(|key| keys.contains(&key[..]))
                }
            }
        };
        let irrelevant: Vec<usize> = (0..operations.len()).filter(|at| !relevant(at)).collect();
        core.attempt(&irrelevant, Part::Dropped);
        core
    }

    fn present(&self) -> (Vec<&Operation>, Vec<usize>) {
        let parts = self.parts.iter().enumerate();
        let present = parts.filter_map(|(at, part)| match (part, &self.operations[at].input) {
            (Part::Answered, _) => Some((self.operations[at], at)),
            (Part::Forgotten, Input::Get { .. } | Input::List { .. }) => None,
            (Part::Forgotten, _) => Some((&self.forgotten[at], at)),
            (Part::Dropped, _) => None,
        });
        present.unzip()
    }

    fn is_bad(&mut self) -> bool {
        let (operations, _) = self.present();
        let looked_at = operations.len();
        let bad = facts::gather(&operations).is_ok_and(|facts| {
            let names = facts::keys(&operations);
            let facts = facts.of_keys(&|key| self.keys.contains(names[key]));
            let verdict = search::search(&facts, TRIED_MAX);
            matches!(verdict, Verdict::Bad(_))
        });
        self.looked_at += looked_at;
        bad
    }

    /// Makes this of operations if the rest stays bad.
    fn attempt(&mut self, operations: &[usize], part: Part) -> bool {
        if self.looked_at > LOOKED_AT_MAX || operations.is_empty() {
            return false;
        }
        let before = self.parts.clone();
        for &at in operations {
            self.parts[at] = part;
        }
        let bad = self.is_bad();
        if !bad {
            self.parts = before;
        }
        bad
    }

    fn answered(&self) -> Vec<usize> {
        let all = 0..self.parts.len();
        let answered = |at: &usize| {
            let unknown = matches!(self.operations[*at].output, Output::Unknown);
            self.parts[*at] == Part::Answered && !unknown
        };
        all.filter(answered).collect()
    }

    /// The search did not come beyond this return.
    fn forget_what_is_later(&mut self, limit: u64) {
        let is_later = |at: &usize| self.operations[*at].returned.is_none_or(|end| end > limit);
        let later: Vec<usize> = self.answered().into_iter().filter(is_later).collect();
        self.attempt(&later, Part::Forgotten);
        let is_later = |at: &usize| self.operations[*at].invoked > limit;
        let later: Vec<usize> = (0..self.parts.len()).filter(is_later).collect();
        self.attempt(&later, Part::Dropped);
    }

    /// Finds how much of the beginning can be forgotten.
    fn forget_what_is_earlier(&mut self) {
        let all = self.answered();
        let (mut least, mut most) = (0, all.len());
        while least < most {
            let middle = (least + most).div_ceil(2);
            match self.attempt(&all[..middle], Part::Forgotten) {
                true => least = middle,
                false => most = middle - 1,
            }
        }
    }

    /// Forgets pieces of what is left, smaller ones from turn to turn.
    fn forget_pieces(&mut self) {
        let mut length = self.answered().len() / 2;
        while length > 0 {
            let mut forgotten = false;
            for piece in self.answered().chunks(length) {
                forgotten |= self.attempt(piece, Part::Forgotten);
            }
            // Once something is gone, single operations may have become needless that were not before.
            if length > 1 || !forgotten {
                length /= 2;
            }
        }
    }

    /// What is left, and the writes of which it tells.
    fn told(&self, of: usize) -> String {
        let (operations, places) = self.present();
        let mut shown: BTreeSet<usize> = self.answered().into_iter().collect();
        if let Ok(facts) = facts::gather(&operations) {
            let steps = facts.steps.iter();
            let seen = steps
                .clone()
                .filter(|step| shown.contains(&places[step.at]));
            let needs = seen.flat_map(|step| &step.needs);
            let seen: BTreeSet<Need> = needs.map(|(_, need)| *need).collect();
            let writes = steps.filter(|step| {
                let mut writes = step.writes.iter();
                writes.any(|(_, state)| *state >= NAMED && seen.contains(&Need::Is(*state)))
            });
            shown.extend(writes.map(|step| places[step.at]).collect::<Vec<_>>());
        }
        let mut lines: Vec<&Operation> = shown.iter().map(|&at| self.operations[at]).collect();
        let more = lines.len().saturating_sub(SHOWN_MAX);
        lines.drain(..more);
        let keys: Vec<String> = self.keys.iter().map(|key| super::shown(key)).collect();
        let mut what = match (keys.len(), of) {
            (1, _) => format!("no order of the operations on key {}", keys[0]),
            (some, of) if some < of => {
                format!("no order of the operations on the keys {}", keys.join(", "))
            }
            _ => "no order of the operations".to_owned(),
        };
        what += " gives these answers at these times, whatever else happened";
        if more > 0 {
            what += &format!(" (the last {SHOWN_MAX} of {})", SHOWN_MAX + more);
        }
        told(&(what + ":"), &lines)
    }
}
