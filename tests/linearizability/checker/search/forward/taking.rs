//! Taking what comes next in a search, and undoing that.

use super::super::super::facts::{ABSENT, KeyId, NAMED, Need, State, UNNAMED};
use super::{Choice, Search, fingerprint};

impl Search<'_> {
    pub(super) fn take(&mut self, choice: Choice) {
        self.order.push((choice, self.trail.len()));
        let facts = self.facts;
        match choice {
            Choice::Step(at) => {
                let step = &facts.steps[at];
                if step.returned.is_some() {
                    self.unlink(facts.steps.len() + at + 1);
                }
                match self.step_link[at] {
                    usize::MAX => self.unlink(at + 1),
                    link => self.take_link(link),
                }
                self.count_needs(&step.needs, false);
                self.taken += 1;
                let mark = fingerprint(0, at as u64, 0);
                self.fingerprint = self.fingerprint.wrapping_add(mark);
                for &(key, state) in &step.writes {
                    self.write(key, state);
                }
            }
            Choice::Fill { slot, group } => {
                let index = facts.slots[slot].index;
                for &(key, value) in &facts.groups[group].writes {
                    let slot = self.slot_of.get(&(key, index)).copied();
                    if let Some(slot) = slot {
                        self.take_link(self.slot_link[slot]);
                        self.taken += 1;
                        let mark = fingerprint(0, (facts.steps.len() + slot) as u64, 0);
                        self.fingerprint = self.fingerprint.wrapping_add(mark);
                    }
                    let name = slot.map_or(UNNAMED, |slot| facts.slots[slot].name);
                    self.write(key, value.map_or(ABSENT, |_| name));
                }
                self.used[group] += 1;
                self.sum_used(group);
            }
            Choice::Optional(group) => {
                for &(key, value) in &facts.groups[group].writes {
                    self.write(key, value.map_or(ABSENT, |_| UNNAMED));
                }
                self.used[group] += 1;
                self.sum_used(group);
            }
        }
    }

    /// Undoes the newest [`Search::take`].
    pub(super) fn untake(&mut self) {
        let (choice, trail) = self.order.pop().expect("what is undone was taken");
        let facts = self.facts;
        while self.trail.len() > trail {
            let (key, before) = self.trail.pop().expect("it is longer");
            self.change(key, before);
        }
        match choice {
            Choice::Step(at) => {
                let step = &facts.steps[at];
                match self.step_link[at] {
                    usize::MAX => self.relink(at + 1),
                    link => self.untake_link(link),
                }
                if step.returned.is_some() {
                    self.relink(facts.steps.len() + at + 1);
                }
                self.count_needs(&step.needs, true);
                self.taken -= 1;
                let mark = fingerprint(0, at as u64, 0);
                self.fingerprint = self.fingerprint.wrapping_sub(mark);
            }
            Choice::Fill { slot, group } => {
                let index = facts.slots[slot].index;
                for (key, _) in &facts.groups[group].writes {
                    if let Some(&slot) = self.slot_of.get(&(*key, index)) {
                        self.untake_link(self.slot_link[slot]);
                        self.taken -= 1;
                        let mark = fingerprint(0, (facts.steps.len() + slot) as u64, 0);
                        self.fingerprint = self.fingerprint.wrapping_sub(mark);
                    }
                }
                self.used[group] -= 1;
                self.sum_used(group);
            }
            Choice::Optional(group) => {
                self.used[group] -= 1;
                self.sum_used(group);
            }
        }
    }

    pub(super) fn untake_many(&mut self, count: usize) {
        for _ in 0..count {
            self.untake();
        }
    }

    pub(super) fn write(&mut self, key: KeyId, state: State) {
        self.trail.push((key, self.map[key]));
        self.change(key, state);
    }

    pub(super) fn change(&mut self, key: KeyId, state: State) {
        let part = |state: State| fingerprint(1, key as u64, u64::from(state));
        let without = self.fingerprint.wrapping_sub(part(self.map[key]));
        self.fingerprint = without.wrapping_add(part(state));
        self.map[key] = state;
    }

    pub(super) fn count_needs(&mut self, needs: &[(KeyId, Need)], back: bool) {
        for (_, need) in needs {
            if let Need::Is(name) = need {
                let waiting = &mut self.waiting[(name - NAMED) as usize];
                *waiting = if back { *waiting + 1 } else { *waiting - 1 };
            }
        }
    }

    pub(super) fn sum_used(&mut self, group: usize) {
        if self.counts[group] {
            let mut used: Vec<_> = self.used_counting.to_vec();
            match used.binary_search_by_key(&group, |(group, _)| *group) {
                Ok(at) => used[at].1 = self.used[group],
                Err(at) => used.insert(at, (group, self.used[group])),
            }
            used.retain(|(_, count)| *count > 0);
            self.used_counting = used.into();
        }
    }

    pub(super) fn take_link(&mut self, link: usize) {
        self.link_taken[link] = true;
        while self.link_taken.get(self.chain_at) == Some(&true) {
            self.chain_at += 1;
        }
    }

    pub(super) fn untake_link(&mut self, link: usize) {
        self.link_taken[link] = false;
        self.chain_at = self.chain_at.min(link);
    }

    pub(super) fn unlink(&mut self, event: usize) {
        let (previous, next) = (self.previous[event], self.next[event]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    /// Undoes an unlink, in reverse order: the event still knows where it stood.
    pub(super) fn relink(&mut self, event: usize) {
        let (previous, next) = (self.previous[event], self.next[event]);
        self.next[previous] = event;
        self.previous[next] = event;
    }
}
