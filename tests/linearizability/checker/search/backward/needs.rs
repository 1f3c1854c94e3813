//! What keys have to be before what a search took so far.

use super::super::super::facts::{ABSENT, KeyId, Need, State, Step};
use super::{Search, Written, fingerprint};
use std::rc::Rc;

impl Search<'_> {
    /// The newest write of the key that is left in the chain.
    pub(super) fn newest(&self, key: KeyId) -> Option<Written> {
        let left = self.written_left[key].checked_sub(1)?;
        Some(self.written[key][left])
    }

    /// Something that is not in the chain has to make the key what it has to be.
    pub(super) fn is_unmet(&self, key: KeyId) -> bool {
        let newest = self.newest(key).map_or(ABSENT, |write| write.state);
        match self.needs[key] {
            Some(Need::Absent) => newest != ABSENT,
            Some(Need::Present) => newest == ABSENT,
            _ => false,
        }
    }

    pub(super) fn is_implied(&self, (key, need): (KeyId, Need)) -> bool {
        match (self.needs[key], need) {
            (Some(Need::Is(_)), Need::Present) => true,
            (now, need) => now == Some(need),
        }
    }

    pub(super) fn are_implied(&self, step: &Step) -> bool {
        let is_present = |key| self.is_implied((key, Need::Present));
        let mut beyond = step.beyond.iter();
        step.needs.iter().all(|need| self.is_implied(*need))
            && beyond.all(|keys| keys.clone().any(is_present))
    }

    /// A write that makes this of the key leaves it what it has to be.
    pub(super) fn may_become(&self, key: KeyId, state: State) -> bool {
        match self.needs[key] {
            None => true,
            Some(need) => makes(state, need),
        }
    }

    /// From here back the key has to be this as well.
    pub(super) fn require(&mut self, key: KeyId, need: Need) -> bool {
        let both = match (self.needs[key], need) {
            (None, need) | (Some(Need::Present), need @ Need::Is(_)) => need,
            (Some(now), need) => {
                return now == need || need == Need::Present && now != Need::Absent;
            }
        };
        if let Need::Is(name) = both
            && self.newest(key).is_none_or(|newest| newest.state != name)
        {
            return false;
        }
        self.set_need(key, Some(both));
        self.tell_sets(key, both != Need::Absent)
    }

    /// One of these keys has to be present.
    pub(super) fn require_one_of(&mut self, keys: impl Iterator<Item = KeyId> + Clone) -> bool {
        let is_present = |key| self.is_implied((key, Need::Present));
        if keys.clone().any(is_present) {
            return true;
        }
        let may_be = |key: &KeyId| self.needs[*key] != Some(Need::Absent);
        let set: Rc<[KeyId]> = keys.filter(may_be).collect();
        match set[..] {
            [] => return false,
            [key] => return self.require(key, Need::Present),
            _ => {}
        }
        if !self.one_of.contains(&set) {
            self.one_of = self.one_of.iter().cloned().chain([set]).collect();
        }
        true
    }

    /// The key is present where sets were required to have such a key, or is absent there.
    pub(super) fn tell_sets(&mut self, key: KeyId, present: bool) -> bool {
        if !self.one_of.iter().any(|set| set.contains(&key)) {
            return true;
        }
        let before = self.one_of.clone();
        let (told, others): (Vec<_>, Vec<_>) =
            before.iter().cloned().partition(|set| set.contains(&key));
        self.one_of = others.into();
        let mut told = told.iter();
        present
            || told.all(|set| {
                let others = set.iter().copied().filter(|other| *other != key);
                self.require_one_of(others)
            })
    }

    pub(super) fn set_need(&mut self, key: KeyId, need: Option<Need>) {
        self.trail.push((key, self.needs[key]));
        self.change(key, need);
    }

    pub(super) fn change(&mut self, key: KeyId, need: Option<Need>) {
        let part = |need: Option<Need>| {
            let number = match need {
                None => return 0,
                Some(Need::Absent) => 0,
                Some(Need::Present) => 1,
                Some(Need::Is(name)) => u64::from(name),
            };
            fingerprint(1, key as u64, number)
        };
        let without = self.fingerprint.wrapping_sub(part(self.needs[key]));
        self.fingerprint = without.wrapping_add(part(need));
        self.needs[key] = need;
        match need {
            Some(Need::Absent | Need::Present) => self.needed.insert(key),
            _ => self.needed.remove(&key),
        };
    }
}

/// A key of this state is what it has to be.
pub(super) fn makes(state: State, need: Need) -> bool {
    match need {
        Need::Absent => state == ABSENT,
        Need::Present => state != ABSENT,
        Need::Is(name) => state == name,
    }
}
