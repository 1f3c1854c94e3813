//! Taking what comes next in a search, and undoing that.

use super::super::super::facts::{ABSENT, KeyId, NAMED, Need, State, UNNAMED};
use super::needs::makes;
use super::{Choice, Search, Taken, demand, fingerprint};
use std::collections::BTreeSet;

impl Search<'_> {
    /// Takes what was chosen, and with it
    /// - the reads that have to come after it, because they were called after its return, and
    /// - the reads that may come after it and find what it leaves, and need nothing else that is not needed anyway.
    ///
    /// Takes nothing if that contradicts what was taken before.
    pub(super) fn attempt(&mut self, choice: Choice) -> bool {
        let before = self.order.len();
        let done = match choice {
            Choice::Beginning => self.begin(),
            Choice::Step(at) => {
                let step = &self.facts.steps[at];
                let returned = step.returned.unwrap_or(u64::MAX);
                self.take_called_after(choice, returned) && self.take_behind(choice, step.invoked)
            }
            Choice::Fill { group, .. } | Choice::Optional(group) => {
                let seen = self.first_seen(choice).unwrap_or(u64::MAX);
                match self.call(group, seen) {
                    Some(call) => self.take_behind(choice, self.facts.groups[group].calls[call]),
                    None => false,
                }
            }
        };
        if !done {
            self.untake_to(before);
        }
        done
    }

    /// All that is left are reads of an empty map.
    fn begin(&mut self) -> bool {
        while let Some(step) = self.limit() {
            if !self.take(Choice::Step(step)) {
                return false;
            }
        }
        let absent = |need: &Option<Need>| matches!(need, None | Some(Need::Absent));
        self.one_of.is_empty() && self.needs.iter().all(absent)
    }

    /// The write of a group that would be used: the latest that may still come, and before this return.
    pub(super) fn call(&self, group: usize, returned: u64) -> Option<usize> {
        let calls = &self.facts.groups[group].calls[..self.left[group]];
        calls
            .partition_point(|&invoked| invoked <= self.bound.min(returned))
            .checked_sub(1)
    }

    /// Takes what was chosen, which was called then, behind those that find what it leaves.
    fn take_behind(&mut self, choice: Choice, invoked: u64) -> bool {
        // What has to see an ETag comes behind its write; and so does what was called after that.
        if let Some(returned) = self.first_seen(choice)
            && !self.take_called_after(choice, returned)
        {
            return false;
        }
        self.take_readers(choice, invoked);
        self.take(choice)
    }

    /// The first return of a step that has to see an ETag of these writes.
    fn first_seen(&self, choice: Choice) -> Option<u64> {
        let named = self.written_by(choice).into_iter();
        let named = named.filter(|(_, state)| *state >= NAMED);
        let returns = named.map(|(_, state)| self.first_seen[(state - NAMED) as usize]);
        returns.min()
    }

    fn take_called_after(&mut self, choice: Choice, returned: u64) -> bool {
        while let Some(step) = self.limit() {
            if choice == Choice::Step(step) || self.facts.steps[step].invoked <= returned {
                return true;
            }
            if !self.is_read(step) || !self.take(Choice::Step(step)) {
                return false;
            }
        }
        true
    }

    fn take_readers(&mut self, choice: Choice, invoked: u64) {
        let writes = self.written_by(choice);
        if writes.is_empty() {
            return;
        }
        let finds = |search: &Self, step: &usize| {
            let step = &search.facts.steps[*step];
            let may_come = step.returned.is_none_or(|returned| returned >= invoked);
            may_come
                && step.writes.is_empty()
                && !search.ends_use(step)
                && step.needs.iter().all(|&(key, need)| {
                    let mut writes = writes.iter();
                    match writes.find(|(written, _)| *written == key) {
                        Some((_, state)) => makes(*state, need),
                        None => search.is_implied((key, need)),
                    }
                })
        };
        loop {
            let reader = self.open().find(|step| finds(self, step));
            let Some(step) = reader else { return };
            self.take_seen(step);
        }
    }

    pub(super) fn written_by(&self, choice: Choice) -> Vec<(KeyId, State)> {
        let of_group = |group: usize, index: Option<u64>| {
            let writes = self.facts.groups[group].writes.iter();
            let state = |key: KeyId| {
                let slot = index.and_then(|index| self.slot_of.get(&(key, index)));
                slot.map_or(UNNAMED, |slot| self.facts.slots[*slot].name)
            };
            writes
                .map(|&(key, value)| (key, value.map_or(ABSENT, |_| state(key))))
                .collect()
        };
        match choice {
            Choice::Step(at) => self.facts.steps[at].writes.clone(),
            Choice::Fill { slot, group } => of_group(group, Some(self.facts.slots[slot].index)),
            Choice::Optional(group) => of_group(group, None),
            Choice::Beginning => Vec::new(),
        }
    }

    /// Takes this alone. What it needs is needed from here back, in place of what is needed behind its writes.
    fn take(&mut self, choice: Choice) -> bool {
        let facts = self.facts;
        let writes = self.written_by(choice);
        let fits = writes.iter().all(|&(key, state)| {
            let seen = state < NAMED || self.waiting[(state - NAMED) as usize] == 0;
            seen && self.may_become(key, state)
        });
        if !fits {
            return false;
        }
        self.note(choice);
        let (needs, beyond) = match choice {
            Choice::Step(at) => {
                self.mark_step(at);
                (&facts.steps[at].needs, facts.steps[at].beyond.clone())
            }
            Choice::Fill { group, .. } | Choice::Optional(group) => {
                self.left[group] = self.call(group, u64::MAX).expect("one is left");
                *self.used.entry(group).or_default() += 1;
                if let Choice::Fill { slot, group } = choice {
                    self.mark_slots(slot, group);
                }
                (&facts.groups[group].needs, None)
            }
            Choice::Beginning => panic!("it is not taken"),
        };
        for &(key, state) in &writes {
            self.set_need(key, None);
            if !self.tell_sets(key, state != ABSENT) {
                return false;
            }
        }
        needs.iter().all(|&(key, need)| self.require(key, need))
            && beyond.is_none_or(|keys| self.require_one_of(keys))
    }

    /// Takes a read that needs nothing new.
    pub(super) fn take_seen(&mut self, step: usize) {
        self.note(Choice::Step(step));
        self.mark_step(step);
    }

    fn note(&mut self, choice: Choice) {
        let left = match choice {
            Choice::Fill { group, .. } | Choice::Optional(group) => self.left[group],
            _ => 0,
        };
        self.order.push(Taken {
            choice,
            trail: self.trail.len(),
            bound: self.bound,
            left,
            one_of: self.one_of.clone(),
        });
    }

    fn mark_step(&mut self, at: usize) {
        let step = &self.facts.steps[at];
        self.unlink(self.facts.steps.len() + at + 1);
        match self.step_link[at] {
            usize::MAX => {
                self.unlink(at + 1);
                for (key, _) in &step.writes {
                    let delete = (step.returned.unwrap_or(u64::MAX), at);
                    assert!(self.deletes[*key].remove(&delete), "{delete:?} was taken");
                    self.deletes_left -= 1;
                }
            }
            link => {
                self.take_link(link);
                for (key, _) in &step.writes {
                    self.written_left[*key] -= 1;
                }
            }
        }
        self.count_needs(at, false);
        self.taken += 1;
        self.fingerprint = self.fingerprint.wrapping_add(fingerprint(0, at as u64, 0));
        self.bound = self.bound.min(step.returned.unwrap_or(u64::MAX));
    }

    fn unmark_step(&mut self, at: usize) {
        let step = &self.facts.steps[at];
        match self.step_link[at] {
            usize::MAX => {
                self.relink(at + 1);
                for (key, _) in &step.writes {
                    self.deletes[*key].insert((step.returned.unwrap_or(u64::MAX), at));
                    self.deletes_left += 1;
                }
            }
            link => {
                self.untake_link(link);
                for (key, _) in &step.writes {
                    self.written_left[*key] += 1;
                }
            }
        }
        self.relink(self.facts.steps.len() + at + 1);
        self.count_needs(at, true);
        self.taken -= 1;
        self.fingerprint = self.fingerprint.wrapping_sub(fingerprint(0, at as u64, 0));
    }

    /// Slots that a write of the group fills: those of its keys at this index.
    fn filled(&self, slot: usize, group: usize) -> Vec<usize> {
        let index = self.facts.slots[slot].index;
        let keys = self.facts.groups[group].writes.iter().map(|(key, _)| *key);
        keys.filter_map(|key| self.slot_of.get(&(key, index)).copied())
            .collect()
    }

    fn mark_slots(&mut self, slot: usize, group: usize) {
        for slot in self.filled(slot, group) {
            self.take_link(self.slot_link[slot]);
            self.written_left[self.facts.slots[slot].key] -= 1;
            self.slots_left[self.facts.slots[slot].key] -= 1;
            self.taken += 1;
            let mark = fingerprint(0, (self.facts.steps.len() + slot) as u64, 0);
            self.fingerprint = self.fingerprint.wrapping_add(mark);
        }
    }

    fn unmark_slots(&mut self, slot: usize, group: usize) {
        for slot in self.filled(slot, group) {
            self.untake_link(self.slot_link[slot]);
            self.written_left[self.facts.slots[slot].key] += 1;
            self.slots_left[self.facts.slots[slot].key] += 1;
            self.taken -= 1;
            let mark = fingerprint(0, (self.facts.steps.len() + slot) as u64, 0);
            self.fingerprint = self.fingerprint.wrapping_sub(mark);
        }
    }

    /// Undoes what was taken since so much was taken.
    pub(super) fn untake_to(&mut self, length: usize) {
        while self.order.len() > length {
            let taken = self.order.pop().expect("it is longer");
            while self.trail.len() > taken.trail {
                let (key, before) = self.trail.pop().expect("it is longer");
                self.change(key, before);
            }
            self.bound = taken.bound;
            self.one_of = taken.one_of;
            match taken.choice {
                Choice::Step(at) => self.unmark_step(at),
                Choice::Fill { group, .. } | Choice::Optional(group) => {
                    self.left[group] = taken.left;
                    let used = self.used.get_mut(&group).expect("it was used");
                    *used -= 1;
                    if *used == 0 {
                        self.used.remove(&group);
                    }
                    if let Choice::Fill { slot, group } = taken.choice {
                        self.unmark_slots(slot, group);
                    }
                }
                Choice::Beginning => panic!("it is not taken"),
            }
        }
    }

    /// What a step asks of keys is asked no more, or again.
    fn count_needs(&mut self, at: usize, back: bool) {
        let step = &self.facts.steps[at];
        let place = (step.returned.unwrap_or(u64::MAX), at);
        let change = |set: &mut BTreeSet<(u64, usize)>| {
            if back {
                set.insert(place)
            } else {
                set.remove(&place)
            };
        };
        for &(key, need) in &step.needs {
            match need {
                Need::Is(name) => {
                    let waiting = &mut self.waiting[(name - NAMED) as usize];
                    *waiting = if back { *waiting + 1 } else { *waiting - 1 };
                }
                Need::Absent => change(&mut self.demands[demand(key, false)]),
                Need::Present => change(&mut self.demands[demand(key, true)]),
            }
        }
        if step.beyond.is_some() {
            change(&mut self.lists);
        }
    }

    fn take_link(&mut self, link: usize) {
        self.link_taken[link] = true;
        while self.chain_end > 0 && self.link_taken[self.chain_end - 1] {
            self.chain_end -= 1;
        }
    }

    fn untake_link(&mut self, link: usize) {
        self.link_taken[link] = false;
        self.chain_end = self.chain_end.max(link + 1);
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
}
