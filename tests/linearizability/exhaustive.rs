//! The judgement that the checker is compared with: every order of every set of operations that can have taken effect
//! is tried, on a plain map.

use crate::checker::{Condition, Input, Key, Operation, Output};
use std::collections::{BTreeMap, BTreeSet};

pub struct Exhaustive<'a> {
    history: &'a [Operation],
    /// ETags that answers and successful conditions name.
    named: BTreeSet<(Key, u64)>,
}

#[derive(Clone, Default)]
struct Map {
    /// Values with their ETags, if they are named.
    keys: BTreeMap<Key, (Vec<u8>, Option<u64>)>,
    /// The newest known index that wrote each key.
    written: BTreeMap<Key, u64>,
    /// The newest index, and whether a list was as of it.
    place: (u64, bool),
}

impl Map {
    fn etag(&self, key: &Key) -> Option<Option<u64>> {
        self.keys.get(key).map(|(_, etag)| *etag)
    }

    fn holds(&self, key: &Key, condition: Condition) -> bool {
        match condition {
            Condition::None => true,
            Condition::IfMatch(etag) => self.etag(key) == Some(Some(etag)),
            Condition::IfAbsent => self.etag(key).is_none(),
            Condition::IfPresent => self.etag(key).is_some(),
        }
    }

    fn has(&self, key: &Key, current: Option<u64>) -> bool {
        self.etag(key) == current.map(Some)
    }

    /// The map after these writes.
    fn write(
        &self,
        writes: &[(Key, Option<Vec<u8>>)],
        index: Option<u64>,
        etag: Option<u64>,
    ) -> Option<Map> {
        let mut map = self.clone();
        let index = index.or(etag);
        if let Some(index) = index {
            if (index, false) < map.place {
                return None;
            }
            map.place = (index, false);
        }
        for (key, value) in writes {
            if let Some(index) = index
                && map.written.insert(key.clone(), index) >= Some(index)
            {
                return None;
            }
            match value {
                Some(value) => map.keys.insert(key.clone(), (value.clone(), index)),
                None => map.keys.remove(key),
            };
        }
        Some(map)
    }
}

/// Conditions and writes of what is no read.
type Parts = (Vec<(Key, Condition)>, Vec<(Key, Option<Vec<u8>>)>);

fn parts(input: &Input) -> Parts {
    match input {
        Input::Get { .. } | Input::List { .. } => (Vec::new(), Vec::new()),
        Input::Put {
            key,
            value,
            condition,
        } => (
            vec![(key.clone(), *condition)],
            vec![(key.clone(), Some(value.clone()))],
        ),
        Input::Delete { key, condition } => {
            (vec![(key.clone(), *condition)], vec![(key.clone(), None)])
        }
        Input::Transaction { checks, writes } => (checks.clone(), writes.clone()),
    }
}

/// The ETags that an operation was told.
pub fn answered(operation: &Operation) -> Vec<(Key, u64)> {
    let (checks, writes) = parts(&operation.input);
    let puts = |index: u64| {
        let puts = writes.iter().filter(|(_, value)| value.is_some());
        puts.map(|(key, _)| (key.clone(), index)).collect()
    };
    match (&operation.input, &operation.output) {
        (Input::Get { key }, Output::Value(Some((_, etag)))) => vec![(key.clone(), *etag)],
        (_, Output::Written(Some(index)) | Output::Transacted { index, .. }) => puts(*index),
        (_, Output::ConditionFailed(Some(etag))) => vec![(checks[0].0.clone(), *etag)],
        (_, Output::Listed { entries, .. }) => {
            let entries = entries.iter();
            entries
                .map(|entry| (entry.key.clone(), entry.etag))
                .collect()
        }
        (_, Output::ChecksFailed(failed)) => {
            let told = failed.iter().filter_map(|failed| {
                let (key, _) = checks.get(failed.position)?;
                Some((key.clone(), failed.current?))
            });
            told.collect()
        }
        _ => Vec::new(),
    }
}

impl Exhaustive<'_> {
    pub fn serializable(history: &[Operation]) -> bool {
        let mut named = BTreeSet::new();
        for operation in history {
            let (checks, _) = parts(&operation.input);
            let failed: Vec<usize> = match &operation.output {
                Output::Unknown | Output::NotApplied => continue,
                Output::ConditionFailed(_) => vec![0],
                Output::ChecksFailed(failed) => failed.iter().map(|f| f.position).collect(),
                _ => Vec::new(),
            };
            if !matches!(
                operation.output,
                Output::Written(_) | Output::Transacted { .. }
            ) {
                named.extend(answered(operation));
            }
            for (position, (key, condition)) in checks.into_iter().enumerate() {
                if let Condition::IfMatch(etag) = condition
                    && !failed.contains(&position)
                {
                    named.insert((key, etag));
                }
            }
        }
        let all = Exhaustive { history, named };
        all.search(&mut vec![false; history.len()], &Map::default())
    }

    fn search(&self, taken: &mut Vec<bool>, map: &Map) -> bool {
        let open = |i: &usize| !taken[*i];
        let required = |i: &usize| {
            let output = &self.history[*i].output;
            !matches!(output, Output::Unknown | Output::NotApplied)
        };
        let all = 0..self.history.len();
        let first_return = all
            .clone()
            .filter(open)
            .filter(required)
            .filter_map(|i| self.history[i].returned)
            .min();
        let Some(first_return) = first_return else {
            return true;
        };
        let next: Vec<usize> = all.filter(open).collect();
        for i in next {
            if self.history[i].invoked > first_return {
                continue;
            }
            for after in self.step(&self.history[i], map) {
                taken[i] = true;
                if self.search(taken, &after) {
                    return true;
                }
                taken[i] = false;
            }
        }
        false
    }

    /// The maps that there may be after an operation.
    fn step(&self, operation: &Operation, map: &Map) -> Vec<Map> {
        let (checks, writes) = parts(&operation.input);
        let all_hold = checks.iter().all(|(key, c)| map.holds(key, *c));
        let if_so = |fits: bool| fits.then(|| map.clone()).into_iter().collect();
        match (&operation.input, &operation.output) {
            (_, Output::NotApplied) => Vec::new(),
            (Input::Get { key }, Output::Value(seen)) => {
                let there = map.keys.get(key);
                let there = there.map(|(value, etag)| (value.clone(), *etag));
                if_so(there == seen.clone().map(|(value, etag)| (value, Some(etag))))
            }
            (Input::List { .. }, Output::Listed { .. }) => list(operation, map),
            (_, Output::ConditionFailed(current)) => {
                if_so(!all_hold && map.has(&checks[0].0, *current))
            }
            (_, Output::ChecksFailed(failed)) => {
                let mut expected = Vec::new();
                for (position, (key, condition)) in checks.iter().enumerate() {
                    if !map.holds(key, *condition) {
                        expected.push((position, map.etag(key)));
                    }
                }
                let failed = failed.iter().map(|f| (f.position, f.current.map(Some)));
                if_so(!expected.is_empty() && expected == failed.collect::<Vec<_>>())
            }
            (_, Output::Written(index)) if all_hold => {
                map.write(&writes, *index, None).into_iter().collect()
            }
            (_, Output::Transacted { index, existed }) if all_hold => {
                let there = writes.iter().map(|(key, _)| map.keys.contains_key(key));
                match there.eq(existed.iter().copied()) {
                    true => map.write(&writes, Some(*index), None).into_iter().collect(),
                    false => Vec::new(),
                }
            }
            (
                Input::Put { .. } | Input::Delete { .. } | Input::Transaction { .. },
                Output::Unknown,
            ) if all_hold => {
                let puts = |key: &Key| writes.iter().any(|(k, v)| k == key && v.is_some());
                let named = self.named.iter().filter(|(key, _)| puts(key));
                let etags: BTreeSet<u64> = named.map(|(_, etag)| *etag).collect();
                let etags = etags.into_iter().map(Some).chain([None]);
                etags
                    .filter_map(|etag| map.write(&writes, None, etag))
                    .collect()
            }
            _ => Vec::new(),
        }
    }
}

fn list(operation: &Operation, map: &Map) -> Vec<Map> {
    let (
        Input::List {
            prefix,
            after,
            limit,
            values,
        },
        Output::Listed {
            index,
            entries,
            more,
        },
    ) = (&operation.input, &operation.output)
    else {
        return Vec::new();
    };
    let after = after.clone().unwrap_or_default();
    let there = map.keys.iter();
    let there: Vec<_> = there
        .filter(|(key, _)| key.starts_with(prefix) && **key > after)
        .collect();
    let mut same = true;
    for ((key, (value, etag)), entry) in there.iter().zip(entries) {
        same &= **key == entry.key && *etag == Some(entry.etag);
        same &= entry.value == values.then(|| value.clone());
    }
    let fits = same
        && there.len() >= entries.len()
        && *more == (there.len() > entries.len())
        && (!entries.is_empty() || !more)
        && limit.is_none_or(|limit| entries.len() <= limit)
        && entries.iter().all(|entry| entry.etag <= *index)
        && (*index, true) >= map.place;
    let mut map = map.clone();
    map.place = (*index, true);
    fits.then_some(map).into_iter().collect()
}
