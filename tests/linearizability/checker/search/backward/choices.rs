//! What may come next in a search.

use super::super::super::facts::{KeyId, Need, Step};
use super::needs::makes;
use super::{Choice, Link, Search, demand};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// Prices, in steps: of optional writes that will be needed, but could come further back as well; of those that
/// something else could stand for; and of both.
const OPTIONAL: i64 = 4;
const AGE: i64 = 2;
const EARLY: i64 = 8;
const OTHERS: i64 = 20;
const UNLIKELY: i64 = 60;

/// Steps that are tried next, by what they do.
#[derive(Default)]
struct StepChoices {
    /// Deletes of keys that have to be absent and are not yet.
    demanded: Vec<Choice>,
    deletes: Vec<Choice>,
    /// Reads behind which an optional write is of no use any more, and which need nothing that is not next in the chain.
    first: Vec<Choice>,
    reads: Vec<Choice>,
    /// Keys that optional writes can make what reads need them to be, and whether present.
    keys: BTreeSet<(KeyId, bool)>,
}

impl Search<'_> {
    fn events(&self) -> impl Iterator<Item = usize> {
        let events = std::iter::successors(Some(self.next[0]), |&event| Some(self.next[event]));
        events.take_while(|&event| event != 0)
    }

    /// Steps whose returns stand behind the last call of what is left, without those of the chain.
    pub(super) fn open(&self) -> impl Iterator<Item = usize> {
        let steps = self.facts.steps.len();
        let events = self.events().take_while(move |&event| event <= steps);
        events.map(|event| event - 1)
    }

    /// The step of this last call: what returned before it can't be taken.
    pub(super) fn limit(&self) -> Option<usize> {
        let steps = self.facts.steps.len();
        let event = self.events().find(|&event| event > steps);
        event.map(|event| event - steps - 1)
    }

    /// It reads keys, and has no index.
    pub(super) fn is_read(&self, step: usize) -> bool {
        self.step_link[step] == usize::MAX && self.facts.steps[step].writes.is_empty()
    }

    /// Steps that are open once some reads are taken that have to come later.
    fn reachable(&self) -> Vec<usize> {
        let steps = self.facts.steps.len();
        let events = self.events();
        let events = events
            .take_while(|&event| event <= steps || self.is_read(event - steps - 1))
            .filter(|&event| event <= steps);
        events.map(|event| event - 1).collect()
    }

    pub(super) fn take_at_once(&mut self) {
        while let Some(step) = self.needing_nothing() {
            self.take_seen(step);
        }
    }

    /// A step that changes nothing and needs nothing new.
    fn needing_nothing(&self) -> Option<usize> {
        let fits = |step: &usize| {
            let step = &self.facts.steps[*step];
            step.writes.is_empty() && self.are_implied(step) && !self.ends_use(step)
        };
        let open = self.open().find(fits);
        open.or_else(|| {
            let limit = self.limit()?;
            let may_come = |step: usize| {
                let invoked = self.facts.steps[limit].invoked;
                let returned = self.facts.steps[step].returned;
                step == limit || returned.is_none_or(|returned| returned >= invoked)
            };
            self.next_links().find_map(|link| match link {
                Link::Step(step) => (fits(&step) && may_come(step)).then_some(step),
                Link::Slot(_) => None,
            })
        })
    }

    /// Optional writes that can't be taken once the step was, since they were called after its return.
    fn called_after(&self, step: &Step) -> impl Iterator<Item = (u64, usize)> {
        let returned = step.returned.unwrap_or(u64::MAX);
        let after = self
            .calls
            .partition_point(|(invoked, _)| *invoked <= returned);
        let calls = self.calls[after..].iter().copied();
        calls.take_while(|(invoked, _)| *invoked <= self.bound)
    }

    /// Among them is one that may be needed for something.
    pub(super) fn ends_use(&self, step: &Step) -> bool {
        self.called_after(step).any(|(invoked, group)| {
            let mut writes = self.facts.groups[group].writes.iter();
            writes.any(|(key, value)| {
                let mut helps = self.helps[demand(*key, value.is_some())].iter();
                helps.any(|helped| self.is_demanded(*helped, invoked))
            })
        })
    }

    /// Among them is one that makes the key what the step needs, as one of its group does that was called earlier.
    fn is_passed(&self, step: &Step, (key, need): (KeyId, Need)) -> bool {
        let supplied = (key, need != Need::Absent);
        self.called_after(step).any(|(_, group)| {
            let mut writes = self.facts.groups[group].writes.iter();
            writes.any(|(key, value)| (*key, value.is_some()) == supplied)
        })
    }

    /// A key has to be present, or absent, or may have to be for what is left and returned no earlier.
    fn is_demanded(&self, demanded: usize, invoked: u64) -> bool {
        let (key, present) = (demanded / 2, demanded % 2 == 1);
        let need = if present { Need::Present } else { Need::Absent };
        let mut demands = self.demands[demanded].range((invoked, 0)..);
        let mut lists = self.lists.range((invoked, 0)..);
        self.needs[key] == Some(need)
            || demands.next().is_some()
            || present
                && (self.slots_left[key] > 0 || !self.one_of.is_empty() || lists.next().is_some())
    }

    /// The last link of the chain makes the key this.
    fn is_next(&self, (key, need): (KeyId, Need)) -> bool {
        self.next_links().any(|link| match link {
            Link::Step(step) => {
                let mut writes = self.facts.steps[step].writes.iter();
                writes.any(|(written, state)| *written == key && makes(*state, need))
            }
            Link::Slot(_) => false,
        })
    }

    /// What has the last place of the chain and was not taken.
    fn next_links(&self) -> impl Iterator<Item = Link> {
        let links = self.chain[..self.chain_end].iter().rev();
        let taken = self.link_taken[..self.chain_end].iter().rev();
        let place = links.clone().next().map(|(place, _)| *place);
        let same = links.zip(taken);
        same.take_while(move |((other, _), _)| Some(*other) == place)
            .filter(|(_, taken)| !**taken)
            .map(|((_, link), _)| *link)
    }

    /// Ways to go on with their prices, the likely ones first; not all of them fit.
    pub(super) fn choices(&self) -> Vec<(i64, Choice)> {
        let reachable = self.reachable();
        let StepChoices {
            demanded,
            first,
            deletes,
            reads,
            mut keys,
        } = self.step_choices(&reachable);
        let (certain, others): (Vec<_>, Vec<_>) =
            self.needed.iter().partition(|key| self.is_certain(**key));
        let present = |key: &KeyId| self.needs[*key] == Some(Need::Present);
        let certain: BTreeSet<_> = certain.iter().map(|key| (*key, present(key))).collect();
        keys.extend(others.iter().map(|key| (*key, present(key))));
        keys.extend(
            self.one_of
                .iter()
                .flat_map(|set| set.iter().map(|key| (*key, true))),
        );
        let certain = self.optional(&certain);
        let mut others = self.optional(&keys);
        others.retain(|choice| !certain.contains(choice));
        let chain = self.chain_choices();
        let next = self.next_steps(reachable);
        let is_due = |choice: &Choice| matches!(choice, Choice::Optional(group) if self.is_due(*group, &next));
        let (due, early): (Vec<_>, Vec<_>) = certain.into_iter().partition(is_due);
        let (others, unlikely): (Vec<_>, Vec<_>) = others.into_iter().partition(is_due);
        let optional = [
            (0, due),
            (EARLY, early),
            (OTHERS, others),
            (UNLIKELY, unlikely),
        ];
        let mut all = Vec::new();
        for (price, choices) in optional {
            all.extend(
                choices
                    .into_iter()
                    .map(|choice| (price + self.age(choice), choice)),
            );
        }
        for (price, choices) in [
            (0, [demanded, first, chain].concat()),
            (1, [deletes, reads].concat()),
        ] {
            // What is tried later is less likely.
            let choices = choices.into_iter().enumerate();
            all.extend(choices.map(|(number, choice)| (price + (number as i64).min(3), choice)));
        }
        all.sort_by_key(|(price, _)| *price);
        all
    }

    /// Which of these steps are tried, and why.
    fn step_choices(&self, reachable: &[usize]) -> StepChoices {
        let mut choices = StepChoices::default();
        for &step in reachable {
            let choice = Choice::Step(step);
            let of = &self.facts.steps[step];
            match (&of.writes[..], &of.needs[..]) {
                (&[(key, _), ..], _)
                    if self.needs[key] == Some(Need::Absent) && self.is_unmet(key) =>
                {
                    choices.demanded.push(choice);
                }
                ([_, ..], _) => choices.deletes.push(choice),
                ([], needs) => {
                    let mut passed = false;
                    if let &[(key, need)] = needs {
                        passed = self.is_passed(of, (key, need));
                        choices.keys.insert((key, need != Need::Absent));
                    }
                    // One that was called after another one's return may have to come for the sake of that one.
                    let is_earlier = |other: &usize| {
                        let returned = self.facts.steps[*other].returned;
                        returned.is_some_and(|returned| returned < of.invoked)
                    };
                    let ends_use = self.ends_use(of);
                    if ends_use
                        && needs
                            .iter()
                            .all(|need| self.is_implied(*need) || self.is_next(*need))
                    {
                        choices.first.push(choice);
                    } else if ends_use
                        || passed
                        || needs.len() > 1
                        || reachable.iter().any(is_earlier)
                    {
                        choices.reads.push(choice);
                    }
                }
            }
        }
        choices
    }

    /// What an optional write costs for how much was called since it was: most take effect soon, or never.
    fn age(&self, choice: Choice) -> i64 {
        let Choice::Optional(group) = choice else {
            return 0;
        };
        let Some(call) = self.call(group, u64::MAX) else {
            return 0;
        };
        let invoked = self.facts.groups[group].calls[call];
        let before = |time: u64| {
            self.facts
                .steps
                .partition_point(|step| step.invoked <= time)
        };
        let since = before(self.bound).saturating_sub(before(invoked)) as u64;
        AGE * i64::from((since + 1).ilog2()) + OPTIONAL
    }

    /// What may be taken next, and the last of the chain.
    fn next_steps(&self, reachable: Vec<usize>) -> Vec<usize> {
        let links = self.next_links().filter_map(|link| match link {
            Link::Step(step) => Some(step),
            Link::Slot(_) => None,
        });
        reachable.into_iter().chain(links).collect()
    }

    /// Something that may be taken next leaves no place for an optional write of this group further back, or needs it.
    fn is_due(&self, group: usize, next: &[usize]) -> bool {
        let writes = &self.facts.groups[group].writes;
        let call = self.call(group, u64::MAX);
        let invoked = call.map_or(0, |call| self.facts.groups[group].calls[call]);
        next.iter().any(|step| {
            let step = &self.facts.steps[*step];
            let mut needs = step.needs.iter();
            let mut written = step.writes.iter();
            step.returned.is_some_and(|returned| returned < invoked)
                || written.any(|&(key, state)| {
                    writes.iter().any(|(other, _)| *other == key) && !self.may_become(key, state)
                })
                || needs.any(|need| {
                    let (key, _) = need;
                    writes.iter().any(|(other, _)| other == key) && !self.is_implied(*need)
                })
        })
    }

    /// How many keys only optional writes can make what they have to be.
    pub(super) fn certain(&self) -> usize {
        self.needed
            .iter()
            .filter(|key| self.is_certain(**key))
            .count()
    }

    /// Only an optional write can make the key what it has to be.
    fn is_certain(&self, key: KeyId) -> bool {
        if !self.is_unmet(key) {
            return false;
        }
        let invoked = self.newest(key).map_or(0, |newest| newest.invoked);
        let mut deletes = self.deletes[key].range((invoked, 0)..);
        self.needs[key] == Some(Need::Present) || deletes.next().is_none()
    }

    fn chain_choices(&self) -> Vec<Choice> {
        let mut choices = Vec::new();
        for link in self.next_links() {
            match link {
                Link::Step(at) => choices.push(Choice::Step(at)),
                Link::Slot(slot) => {
                    let groups = self.putters[self.facts.slots[slot].key].iter();
                    let groups = groups.filter(|group| self.can_fill(slot, **group));
                    let groups = self.latest_first(groups.copied().collect());
                    choices.extend(groups.map(|group| Choice::Fill { slot, group }));
                }
            }
        }
        if self.chain_end == 0 && self.deletes_left == 0 {
            choices.push(Choice::Beginning);
        }
        choices
    }

    /// The values fit, and nobody else writes the other keys at this index.
    fn can_fill(&self, slot: usize, group: usize) -> bool {
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

    /// Optional writes that make one of these keys present, or absent.
    fn optional(&self, keys: &BTreeSet<(KeyId, bool)>) -> Vec<Choice> {
        let mut groups = BTreeSet::new();
        for &(key, present) in keys {
            let suppliers = &self.suppliers[demand(key, present)];
            groups.extend(&suppliers.others);
            for &matched in &suppliers.matched {
                let newest = self.newest(matched).map(|newest| newest.state);
                let matching = newest.and_then(|name| self.matching.get(&name));
                let supplies = |group: &&usize| {
                    let mut writes = self.facts.groups[**group].writes.iter();
                    writes.any(|(written, value)| (*written, value.is_some()) == (key, present))
                };
                groups.extend(matching.into_iter().flatten().filter(supplies));
            }
        }
        let fits = |group: &usize| {
            let mut writes = self.facts.groups[*group].writes.iter();
            writes.all(|&(key, value)| match self.needs[key] {
                None => true,
                Some(Need::Absent) => value.is_none(),
                Some(Need::Present) => value.is_some(),
                Some(Need::Is(_)) => false,
            })
        };
        let groups = groups.into_iter().filter(fits).collect();
        self.latest_first(groups).map(Choice::Optional).collect()
    }

    /// Those first that need nothing new, and the ones that were called last: there are the fewest places for them.
    fn latest_first(&self, groups: Vec<usize>) -> impl Iterator<Item = usize> {
        let with_calls = groups.into_iter().filter_map(|group| {
            let of = &self.facts.groups[group];
            let invoked = of.calls[self.call(group, u64::MAX)?];
            let is_written = |key: KeyId| of.writes.iter().any(|(written, _)| *written == key);
            let mut needs = of.needs.iter();
            let new = needs.any(|&(key, need)| is_written(key) || !self.is_implied((key, need)));
            Some((new, Reverse(invoked), group))
        });
        let mut groups: Vec<_> = with_calls.collect();
        groups.sort_unstable();
        groups.into_iter().map(|(_, _, group)| group)
    }
}
