//! What may come next in a search.

use super::super::super::facts::{ABSENT, KeyId, NAMED, Need, Step};
use super::{Choice, Link, Search};
use std::collections::BTreeSet;

impl Search<'_> {
    /// Steps whose calls stand before the first return, without those of the chain.
    pub(super) fn open(&self) -> impl Iterator<Item = usize> {
        let steps = self.facts.steps.len();
        let events = std::iter::successors(Some(self.next[0]), |&event| Some(self.next[event]));
        events
            .take_while(move |&event| event != 0 && event <= steps)
            .map(|event| event - 1)
    }

    /// What is called after this can't come next.
    pub(super) fn limit(&self) -> u64 {
        let steps = self.facts.steps.len();
        let mut event = self.next[0];
        while event != 0 && event <= steps {
            event = self.next[event];
        }
        match event {
            0 => u64::MAX,
            event => {
                let returned = self.facts.steps[event - steps - 1].returned;
                returned.expect("a step with a return event has returned")
            }
        }
    }

    /// A step that changes nothing, and fits.
    pub(super) fn fitting(&self) -> Option<usize> {
        let fits = |step: &usize| {
            let step = &self.facts.steps[*step];
            step.writes.is_empty() && self.fits(step)
        };
        let fitting = self.open().find(fits);
        fitting.or_else(|| {
            let &(_, Link::Step(step)) = self.chain.get(self.chain_at)? else {
                return None;
            };
            let called = || self.facts.steps[step].invoked <= self.limit();
            (fits(&step) && called()).then_some(step)
        })
    }

    pub(super) fn holds(&self, (key, need): (KeyId, Need)) -> bool {
        match need {
            Need::Absent => self.map[key] == ABSENT,
            Need::Present => self.map[key] != ABSENT,
            Need::Is(name) => self.map[key] == name,
        }
    }

    pub(super) fn all_hold(&self, needs: &[(KeyId, Need)]) -> bool {
        needs.iter().all(|need| self.holds(*need))
    }

    pub(super) fn fits(&self, step: &Step) -> bool {
        let mut beyond = step.beyond.iter();
        self.all_hold(&step.needs)
            && beyond.all(|keys| self.map[keys.clone()].iter().any(|state| *state != ABSENT))
    }

    /// A write of this key replaces nothing that others than a step with these needs still have to see.
    pub(super) fn may_replace(&self, key: KeyId, own: &[(KeyId, Need)]) -> bool {
        let now = self.map[key];
        if now < NAMED {
            return true;
        }
        let own = own.iter().filter(|need| **need == (key, Need::Is(now)));
        self.waiting[(now - NAMED) as usize] as usize == own.count()
    }

    pub(super) fn may_write(&self, step: &Step) -> bool {
        let mut writes = step.writes.iter();
        self.fits(step) && writes.all(|(key, _)| self.may_replace(*key, &step.needs))
    }

    /// Acknowledged DELETEs that may come next.
    pub(super) fn deletes(&self) -> Vec<Choice> {
        let writes = |step: &usize| {
            let step = &self.facts.steps[*step];
            !step.writes.is_empty() && self.may_write(step)
        };
        self.open().filter(writes).map(Choice::Step).collect()
    }

    /// What has the next place of the chain and was not taken.
    pub(super) fn next_links(&self) -> impl Iterator<Item = Link> {
        let links = &self.chain[self.chain_at..];
        let taken = &self.link_taken[self.chain_at..];
        let place = links.first().map(|(place, _)| *place);
        let same = links.iter().zip(taken);
        same.take_while(move |((other, _), _)| Some(*other) == place)
            .filter(|(_, taken)| !**taken)
            .map(|((_, link), _)| *link)
    }

    pub(super) fn chain_choices(&self) -> Vec<Choice> {
        let mut choices = Vec::new();
        let limit = self.limit();
        for link in self.next_links() {
            match link {
                Link::Step(at) => {
                    let step = &self.facts.steps[at];
                    if step.invoked <= limit && self.may_write(step) {
                        choices.push(Choice::Step(at));
                    }
                }
                Link::Slot(slot) => {
                    let groups = self.putters[self.facts.slots[slot].key].iter();
                    let groups = groups.filter(|group| {
                        self.can_fill(slot, **group)
                            && self.may_come(**group, limit)
                            && self.all_hold(&self.facts.groups[**group].needs)
                    });
                    choices.extend(groups.map(|&group| Choice::Fill { slot, group }));
                }
            }
        }
        choices
    }

    /// There is a write of the group left that was called and replaces nothing that others have to see.
    pub(super) fn may_come(&self, group: usize, limit: u64) -> bool {
        let used = self.used[group] as usize;
        let group = &self.facts.groups[group];
        let called = group
            .calls
            .get(used)
            .is_some_and(|&invoked| invoked <= limit);
        let mut writes = group.writes.iter();
        called && writes.all(|(key, _)| self.may_replace(*key, &[]))
    }

    /// The values fit, and nobody else writes the other keys at this index.
    pub(super) fn can_fill(&self, slot: usize, group: usize) -> bool {
        let (of, index) = (self.facts.slots[slot].key, self.facts.slots[slot].index);
        let mut writes = self.facts.groups[group].writes.iter();
        writes.all(|&(key, value)| {
            if let Some(&slot) = self.slot_of.get(&(key, index)) {
                let wanted = self.facts.slots[slot].value;
                return !self.link_taken[self.slot_link[slot]]
                    && value.is_some_and(|value| wanted.is_none_or(|wanted| wanted == value));
            }
            assert_ne!(key, of, "the slot of a key is found by its index");
            !self.facts.written.contains_key(&(key, index))
        })
    }

    /// What waiting steps need and don't find: keys present, or absent. An optional write that would give it, but on
    /// a condition that does not hold, is waiting too.
    pub(super) fn demands(&self) -> BTreeSet<(KeyId, bool)> {
        let mut demands = BTreeSet::new();
        let mut new = Vec::new();
        let unmet = |needs: &[(KeyId, Need)], new: &mut Vec<(KeyId, bool)>| {
            for &(key, need) in needs {
                match need {
                    Need::Absent if self.map[key] != ABSENT => new.push((key, false)),
                    Need::Present if self.map[key] == ABSENT => new.push((key, true)),
                    _ => {}
                }
            }
        };
        let limit = self.limit();
        let links = self.next_links().filter_map(|link| match link {
            Link::Step(step) => (self.facts.steps[step].invoked <= limit).then_some(step),
            Link::Slot(_) => None,
        });
        for step in self.open().chain(links) {
            let step = &self.facts.steps[step];
            unmet(&step.needs, &mut new);
            if let Some(keys) = &step.beyond
                && self.map[keys.clone()].iter().all(|state| *state == ABSENT)
            {
                new.extend(keys.clone().map(|key| (key, true)));
            }
        }
        for link in self.next_links() {
            if let Link::Slot(slot) = link {
                for &group in &self.putters[self.facts.slots[slot].key] {
                    if self.can_fill(slot, group) {
                        unmet(&self.facts.groups[group].needs, &mut new);
                    }
                }
            }
        }
        while let Some((key, present)) = new.pop() {
            if demands.insert((key, present)) {
                for &group in self.suppliers(key, present) {
                    if self.calls_left(group, limit) {
                        unmet(&self.facts.groups[group].needs, &mut new);
                    }
                }
            }
        }
        demands
    }

    pub(super) fn suppliers(&self, key: KeyId, present: bool) -> &[usize] {
        let suppliers = if present {
            &self.putters
        } else {
            &self.deleters
        };
        &suppliers[key]
    }

    pub(super) fn calls_left(&self, group: usize, limit: u64) -> bool {
        let next = self.facts.groups[group]
            .calls
            .get(self.used[group] as usize);
        next.is_some_and(|&invoked| invoked <= limit)
    }

    /// Optional writes that may come next: those that waiting steps need, if these were not listed yet, and those
    /// wanted from there on.
    pub(super) fn optional(&mut self, listed: Option<usize>, unseen: &[usize]) -> Vec<Choice> {
        let limit = self.limit();
        let mut groups = BTreeSet::new();
        if listed.is_none() {
            for (key, present) in self.demands() {
                groups.extend(self.suppliers(key, present));
            }
            for &group in &groups {
                let of_many = self.of_many[group] && self.calls_left(group, limit);
                if of_many && !self.is_wanted[group] {
                    self.is_wanted[group] = true;
                    self.wanted.push(group);
                }
            }
        }
        // In the first pass one at a time.
        if self.everywhere || unseen.is_empty() {
            let from = listed.unwrap_or(0).max(self.wanted_from);
            groups.extend(&self.wanted[from..]);
        }
        let changes = |at: &usize| {
            let mut writes = self.facts.groups[*at].writes.iter();
            writes.any(|(key, value)| value.is_some() || self.map[*key] != ABSENT)
        };
        let groups = groups.into_iter().filter(|at| {
            self.may_come(*at, limit) && self.all_hold(&self.facts.groups[*at].needs) && changes(at)
        });
        groups.map(Choice::Optional).collect()
    }

    /// It reads or writes a key that the group writes, or writes one that the group needs.
    pub(super) fn touches(&self, choice: Choice, group: usize) -> bool {
        let of = &self.facts.groups[group];
        let written = |key: KeyId| of.writes.iter().any(|(other, _)| *other == key);
        let needed = |key: KeyId| of.needs.iter().any(|(other, _)| *other == key);
        let (needs, writes): (&[_], Vec<KeyId>) = match choice {
            Choice::Step(step) => {
                let step = &self.facts.steps[step];
                if step
                    .beyond
                    .clone()
                    .is_some_and(|mut keys| keys.any(written))
                {
                    return true;
                }
                let writes = step.writes.iter();
                (&step.needs, writes.map(|(key, _)| *key).collect())
            }
            Choice::Fill { group, .. } | Choice::Optional(group) => {
                let group = &self.facts.groups[group];
                let writes = group.writes.iter();
                (&group.needs, writes.map(|(key, _)| *key).collect())
            }
        };
        needs.iter().any(|(key, _)| written(*key))
            || writes.iter().any(|key| written(*key) || needed(*key))
    }
}
