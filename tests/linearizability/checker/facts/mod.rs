//! What follows from a history without a search: which write every ETag belongs to, which of the unknown writes surely
//! took effect, and what each operation needs the map to be and makes of it.
//!
//! An unknown write of which a value was read took effect: it becomes a write like any other, at the index that was
//! read, without a return. The others may or may not have; they are *optional*, in groups of those that differ in
//! nothing but when they were called: any order of them is as good as that of their calls.
//!
//! In the search a key is absent, or one that answers name by its ETag, or present with an ETag that nobody names
//! ([`State`]); values are compared here. An ETag that is named and that no write is known to have is a [`Slot`]: one
//! of the unknown writes has to fill it, at its place in the order.
//!
//! One assumption about clients: they take the ETags of their conditions from answers, they don't guess them. So the
//! condition of an optional write does not hold for an ETag that no answer names and no acknowledged write has.

mod ties;

use super::alone::check_alone;
use super::{Condition, Input, Operation, Output, shown, told};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

/// A key, by its place in the order of all keys.
pub type KeyId = usize;

/// What a key is: one of the constants, or the number of a named ETag.
pub type State = u32;

pub const ABSENT: State = 0;
/// Present, and no answer tells its ETag.
pub const UNNAMED: State = 1;
pub const NAMED: State = 2;

/// A value that a slot asks for, by number.
pub type ValueId = usize;

/// What a key has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Need {
    Absent,
    Present,
    Is(State),
}

/// The place of an operation in the log: its index, and `true` for a list, which comes after all writes of that index.
pub type Place = (u64, bool);

/// What surely took place.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its place among the operations.
    pub at: usize,
    pub invoked: u64,
    /// What it bounds.
    pub returned: Option<u64>,
    pub needs: Vec<(KeyId, Need)>,
    /// One of these keys has to be present: a list that says that there are more.
    pub beyond: Option<Range<KeyId>>,
    pub writes: Vec<(KeyId, State)>,
    pub place: Option<Place>,
}

/// Optional writes.
#[derive(Debug, Clone)]
pub struct Group {
    pub needs: Vec<(KeyId, Need)>,
    /// `None` deletes.
    pub writes: Vec<(KeyId, Option<ValueId>)>,
    /// When each was called; in order.
    pub calls: Vec<u64>,
}

/// A named ETag, of which it is not known which write has it.
#[derive(Debug, Clone)]
pub struct Slot {
    pub key: KeyId,
    pub index: u64,
    pub name: State,
    /// If a read told it.
    pub value: Option<ValueId>,
}

/// All that the search needs.
#[derive(Debug, Clone)]
pub struct Facts {
    pub keys: usize,
    /// Named ETags; their states are `NAMED..NAMED + names`.
    pub names: usize,
    pub steps: Vec<Step>,
    pub groups: Vec<Group>,
    pub slots: Vec<Slot>,
    /// Where writes are known to be: nothing else writes such a key at such an index.
    pub written: HashMap<(KeyId, u64), usize>,
}

/// The value of every optional PUT that no slot asks for.
const OTHER: ValueId = usize::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Absent,
    Present,
    Etag(u64),
}

/// `operations` are in the order of their calls.
pub fn gather(operations: &[&Operation]) -> Result<Facts, String> {
    for operation in operations {
        check_alone(operation)?;
    }
    let mut gathering = Gathering::new(operations);
    gathering.place_acknowledged()?;
    gathering.tie_values()?;
    gathering.facts()
}

/// All keys of a history, in their order: a [`KeyId`] is a place in it.
pub fn keys<'a>(operations: &[&'a Operation]) -> Vec<&'a [u8]> {
    let mut keys: BTreeSet<&[u8]> = BTreeSet::new();
    for operation in operations {
        match &operation.input {
            Input::Get { key } | Input::Put { key, .. } | Input::Delete { key, .. } => {
                keys.insert(key);
            }
            Input::List { .. } => {}
            Input::Transaction { checks, writes } => {
                keys.extend(checks.iter().map(|(key, _)| &key[..]));
                keys.extend(writes.iter().map(|(key, _)| &key[..]));
            }
        }
        if let Output::Listed { entries, .. } = &operation.output {
            keys.extend(entries.iter().map(|entry| &entry.key[..]));
        }
    }
    keys.into_iter().collect()
}

struct Gathering<'a> {
    operations: &'a [&'a Operation],
    /// All keys in their order; and the place of each.
    keys: Vec<&'a [u8]>,
    ids: HashMap<&'a [u8], KeyId>,
    /// The index of each operation that is known to have taken effect at one.
    indexes: Vec<Option<u64>>,
    /// Where writes are known to be, and whose.
    written: HashMap<(KeyId, u64), usize>,
    /// Values that were read under ETags that no write is known to have.
    tied: BTreeMap<(KeyId, u64), &'a [u8]>,
}

impl<'a> Gathering<'a> {
    fn new(operations: &'a [&'a Operation]) -> Gathering<'a> {
        let keys = keys(operations);
        let ids = keys
            .iter()
            .enumerate()
            .map(|(id, key)| (*key, id))
            .collect();
        Gathering {
            operations,
            keys,
            ids,
            indexes: vec![None; operations.len()],
            written: HashMap::new(),
            tied: BTreeMap::new(),
        }
    }

    fn id(&self, key: &[u8]) -> KeyId {
        self.ids[key]
    }

    /// What an operation writes if it takes effect.
    fn writes(&self, at: usize) -> Vec<(KeyId, Option<&'a [u8]>)> {
        match &self.operations[at].input {
            Input::Get { .. } | Input::List { .. } => Vec::new(),
            Input::Put { key, value, .. } => vec![(self.id(key), Some(&value[..]))],
            Input::Delete { key, .. } => vec![(self.id(key), None)],
            Input::Transaction { writes, .. } => {
                let writes = writes.iter();
                let writes = writes.map(|(key, value)| (self.id(key), value.as_deref()));
                writes.collect()
            }
        }
    }

    /// It takes effect at this index, and nothing else may write its keys there.
    fn place(&mut self, at: usize, index: u64) -> Result<(), String> {
        self.indexes[at] = Some(index);
        for (key, _) in self.writes(at) {
            if let Some(other) = self.written.insert((key, index), at) {
                let name = shown(self.keys[key]);
                let what = format!("two writes of {name} have the ETag {index}");
                return Err(told(&what, &[self.operations[other], self.operations[at]]));
            }
        }
        Ok(())
    }

    fn place_acknowledged(&mut self) -> Result<(), String> {
        for at in 0..self.operations.len() {
            if let Output::Written(Some(index)) | Output::Transacted { index, .. } =
                self.operations[at].output
            {
                self.place(at, index)?;
            }
        }
        Ok(())
    }

    /// What an operation was told of the map, or needs it to be.
    fn told(&self, at: usize) -> Vec<(KeyId, Told)> {
        let operation = self.operations[at];
        let seen = |etag: Option<u64>| etag.map_or(Told::Absent, Told::Etag);
        let holds = |key: &[u8], condition: Condition| match condition {
            Condition::None => None,
            Condition::IfMatch(etag) => Some((self.id(key), Told::Etag(etag))),
            Condition::IfAbsent => Some((self.id(key), Told::Absent)),
            Condition::IfPresent => Some((self.id(key), Told::Present)),
        };
        match (&operation.input, &operation.output) {
            (Input::Get { key }, Output::Value(value)) => {
                let etag = value.as_ref().map(|(_, etag)| *etag);
                vec![(self.id(key), seen(etag))]
            }
            (
                Input::Put { key, .. } | Input::Delete { key, .. },
                Output::ConditionFailed(current),
            ) => vec![(self.id(key), seen(*current))],
            (Input::Put { key, condition, .. } | Input::Delete { key, condition }, _) => {
                holds(key, *condition).into_iter().collect()
            }
            (Input::Transaction { checks, writes }, output) => {
                let mut all = Vec::new();
                for (position, (key, condition)) in checks.iter().enumerate() {
                    let failed = match output {
                        Output::ChecksFailed(failed) => {
                            failed.iter().find(|failed| failed.position == position)
                        }
                        _ => None,
                    };
                    all.extend(match failed {
                        Some(failed) => Some((self.id(key), seen(failed.current))),
                        None => holds(key, *condition),
                    });
                }
                if let Output::Transacted { existed, .. } = output {
                    for ((key, _), existed) in writes.iter().zip(existed) {
                        let told = if *existed {
                            Told::Present
                        } else {
                            Told::Absent
                        };
                        all.push((self.id(key), told));
                    }
                }
                all
            }
            (Input::List { .. }, Output::Listed { entries, .. }) => {
                let (covered, _) = self.covered(at);
                let mut entries = entries.iter().peekable();
                covered
                    .map(|id| {
                        let entry = entries.next_if(|entry| entry.key == self.keys[id]);
                        (
                            id,
                            entry.map_or(Told::Absent, |entry| Told::Etag(entry.etag)),
                        )
                    })
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    /// The keys that a list tells all about, and those of which it says that one of them is there.
    fn covered(&self, at: usize) -> (Range<KeyId>, Option<Range<KeyId>>) {
        let operation = self.operations[at];
        let (Input::List { prefix, after, .. }, Output::Listed { entries, more, .. }) =
            (&operation.input, &operation.output)
        else {
            return (0..0, None);
        };
        let after = after.as_deref().unwrap_or_default();
        let outside = |key: &&[u8]| *key <= after || *key < &prefix[..];
        let start = self.keys.partition_point(outside);
        let inside = |key: &&[u8]| key.starts_with(prefix);
        let end = start + self.keys[start..].partition_point(inside);
        match entries.last() {
            Some(last) if *more => {
                let last = self.id(&last.key) + 1;
                (start..last, Some(last..end))
            }
            _ => (start..end, None),
        }
    }

    fn facts(&self) -> Result<Facts, String> {
        let mut names: HashMap<(KeyId, u64), State> = HashMap::new();
        let mut slots = Vec::new();
        let mut steps = Vec::new();
        let mut values: BTreeMap<&[u8], ValueId> = BTreeMap::new();
        for value in self.tied.values() {
            let id = values.len();
            values.entry(value).or_insert(id);
        }
        let mut told = Vec::new();
        for (at, operation) in self.operations.iter().enumerate() {
            let took_place = match operation.output {
                Output::NotApplied => false,
                Output::Unknown => self.indexes[at].is_some(),
                _ => true,
            };
            if took_place {
                told.push((at, self.told(at)));
            }
        }
        for (at, told) in &told {
            for &(key, told) in told {
                let Told::Etag(index) = told else { continue };
                let name = NAMED + names.len() as State;
                if names.contains_key(&(key, index)) {
                    continue;
                }
                names.insert((key, index), name);
                match self.written.get(&(key, index)) {
                    Some(&owner) => self.must_put(owner, key, index, *at)?,
                    None => slots.push(Slot {
                        key,
                        index,
                        name,
                        value: self.tied.get(&(key, index)).map(|value| values[value]),
                    }),
                }
                if !self.written.contains_key(&(key, index)) {
                    self.can_be_filled(key, index, *at)?;
                }
            }
        }
        let groups = self.groups(&mut names, &values);
        for (at, told) in told {
            steps.push(self.step(at, told, &names));
        }
        Ok(Facts {
            keys: self.keys.len(),
            names: names.len(),
            steps,
            groups,
            slots,
            written: self.written.clone(),
        })
    }

    /// The ETag of a key is that of a PUT.
    fn must_put(&self, owner: usize, key: KeyId, index: u64, at: usize) -> Result<(), String> {
        let writes = self.writes(owner);
        let puts = writes
            .iter()
            .any(|(of, value)| *of == key && value.is_some());
        // A condition that names it is no better.
        if puts {
            return Ok(());
        }
        let what = format!("the ETag {index} is that of a DELETE");
        Err(told(&what, &[self.operations[owner], self.operations[at]]))
    }

    fn can_be_filled(&self, key: KeyId, index: u64, at: usize) -> Result<(), String> {
        let puts = |at: usize| {
            let writes = self.writes(at);
            writes
                .iter()
                .any(|(of, value)| *of == key && value.is_some())
        };
        let mut all = 0..self.operations.len();
        if all.any(|at| self.is_open(at) && puts(at)) {
            return Ok(());
        }
        let what = format!(
            "no write of {} can have the ETag {index}",
            shown(self.keys[key])
        );
        Err(told(&what, &[self.operations[at]]))
    }

    fn step(
        &self,
        at: usize,
        told: Vec<(KeyId, Told)>,
        names: &HashMap<(KeyId, u64), State>,
    ) -> Step {
        let operation = self.operations[at];
        let needs = told.into_iter().map(|(key, told)| {
            let need = match told {
                Told::Absent => Need::Absent,
                Told::Present => Need::Present,
                Told::Etag(index) => Need::Is(names[&(key, index)]),
            };
            (key, need)
        });
        let mut needs: Vec<_> = needs.collect();
        needs.sort_unstable();
        needs.dedup();
        use Output::{Listed, Transacted, Unknown, Written};
        let writes = match operation.output {
            Written(_) | Transacted { .. } | Unknown => self.writes(at),
            _ => Vec::new(),
        };
        let index = self.indexes[at];
        let writes = writes.into_iter().map(|(key, value)| {
            let named = index.and_then(|index| names.get(&(key, index)));
            let put = || named.copied().unwrap_or(UNNAMED);
            (key, value.map_or(ABSENT, |_| put()))
        });
        let place = match operation.output {
            Listed { index, .. } => Some((index, true)),
            _ => index.map(|index| (index, false)),
        };
        let unknown = operation.output == Unknown;
        Step {
            at,
            invoked: operation.invoked,
            returned: operation.returned.filter(|_| !unknown),
            needs,
            beyond: self.covered(at).1,
            writes: writes.collect(),
            place,
        }
    }

    fn groups(
        &self,
        names: &mut HashMap<(KeyId, u64), State>,
        values: &BTreeMap<&[u8], ValueId>,
    ) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut group_of: HashMap<_, usize> = HashMap::new();
        'operations: for (at, operation) in self.operations.iter().enumerate() {
            let writes = self.writes(at);
            if !self.is_open(at) || writes.is_empty() {
                continue;
            }
            let mut needs = Vec::new();
            for (key, told) in self.told(at) {
                needs.push(match told {
                    Told::Absent => (key, Need::Absent),
                    Told::Present => (key, Need::Present),
                    Told::Etag(index) => {
                        let name = NAMED + names.len() as State;
                        let known = names.get(&(key, index)).copied();
                        let owner = self.written.get(&(key, index)).copied();
                        let name = match (known, owner) {
                            (Some(known), _) => known,
                            (None, Some(owner)) if self.must_put(owner, key, index, at).is_ok() => {
                                names.insert((key, index), name);
                                name
                            }
                            // It never holds.
                            _ => continue 'operations,
                        };
                        (key, Need::Is(name))
                    }
                });
            }
            let value_id = |value: &[u8]| values.get(value).copied().unwrap_or(OTHER);
            let writes = writes
                .into_iter()
                .map(|(key, value)| (key, value.map(value_id)));
            let writes: Vec<_> = writes.collect();
            let group = *group_of
                .entry((needs.clone(), writes.clone()))
                .or_insert_with(|| {
                    groups.push(Group {
                        needs,
                        writes,
                        calls: Vec::new(),
                    });
                    groups.len() - 1
                });
            groups[group].calls.push(operation.invoked);
        }
        groups
    }
}

impl Facts {
    /// What these keys alone have to do with each other. Whatever orders the whole orders this as well.
    pub fn of_keys(&self, wanted: &dyn Fn(KeyId) -> bool) -> Facts {
        let mut facts = Facts {
            steps: Vec::new(),
            groups: Vec::new(),
            ..self.clone()
        };
        for step in &self.steps {
            let mut step = step.clone();
            step.needs.retain(|(key, _)| wanted(*key));
            step.writes.retain(|(key, _)| wanted(*key));
            step.beyond = step.beyond.filter(|keys| keys.clone().all(wanted));
            if !step.needs.is_empty() || !step.writes.is_empty() || step.beyond.is_some() {
                facts.steps.push(step);
            }
        }
        for group in &self.groups {
            let mut group = group.clone();
            group.needs.retain(|(key, _)| wanted(*key));
            group.writes.retain(|(key, _)| wanted(*key));
            if !group.writes.is_empty() {
                facts.groups.push(group);
            }
        }
        facts.slots.retain(|slot| wanted(slot.key));
        facts
    }
}
