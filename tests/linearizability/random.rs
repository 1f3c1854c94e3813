//! Random histories: good ones of any size pass, spoilt ones don't, and on small ones of every kind the checker says
//! what trying all orders says.

use crate::checker::{Condition, FailedCheck, Input, Key, Listed, Operation, Output, check};
use crate::exhaustive::{Exhaustive, answered};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

struct Shape {
    operations: u64,
    clients: u64,
    keys: u64,
    /// One operation in so many has an unknown outcome.
    unknown: u64,
    /// Lists and transactions too.
    across: bool,
    /// One in so many has none in stretches of [`STRETCH`] time units, of which every tenth is one of faults.
    faults: Option<u64>,
}

const STRETCH: u64 = 500;

/// An operation that takes effect at a point, or never.
struct Planned {
    point: Option<u64>,
    unknown: bool,
    operation: Operation,
}

/// The map, and what clients know of it.
struct Model<'a> {
    random: &'a mut Random,
    shape: &'a Shape,
    map: BTreeMap<Key, (Vec<u8>, u64)>,
    index: u64,
    /// Keys that were written at this index; a list as of it closes it.
    written: BTreeSet<Key>,
    closed: bool,
    told: BTreeMap<Key, Vec<u64>>,
}

/// A history that a map gave: every operation takes effect at a point between its call and its return, or, if its
/// outcome is unknown, at any later point or never.
fn good_history(random: &mut Random, shape: &Shape) -> Vec<Operation> {
    let mut planned = Vec::new();
    let mut clocks = vec![0; shape.clients as usize];
    for number in 0..shape.operations {
        let client = random.below(shape.clients) as usize;
        let invoked = clocks[client] + random.below(20);
        let in_faults = |_: &u64| (invoked / STRETCH).is_multiple_of(10);
        let unknown = random.one_in(shape.faults.filter(in_faults).unwrap_or(shape.unknown));
        let mut point = Some(invoked + random.below(30));
        let returned = invoked + 30;
        if unknown {
            point = match random.below(4) {
                0 => None,
                1 => Some(invoked + random.below(3_000)),
                _ => point,
            };
        }
        clocks[client] = returned;
        planned.push(Planned {
            point,
            unknown,
            operation: Operation {
                node: client as u64,
                invoked,
                returned: (!unknown).then_some(returned),
                input: Input::Put {
                    key: random.below(shape.keys).to_string().into_bytes(),
                    value: number.to_string().into_bytes(),
                    condition: Condition::None,
                },
                output: Output::Unknown,
            },
        });
    }
    planned.sort_by_key(|p| p.point.unwrap_or(u64::MAX));
    let mut model = Model {
        random,
        shape,
        map: BTreeMap::new(),
        index: 2,
        written: BTreeSet::new(),
        closed: false,
        told: BTreeMap::new(),
    };
    for planned in &mut planned {
        let Input::Put { key, value, .. } = planned.operation.input.clone() else {
            panic!("only PUTs were planned");
        };
        planned.operation.input = model.input(key, value);
        if planned.point.is_some() {
            let output = model.run(&planned.operation.input);
            if !planned.unknown {
                planned.operation.output = output;
                for (key, etag) in answered(&planned.operation) {
                    model.told.entry(key).or_default().push(etag);
                }
            }
        }
    }
    planned.into_iter().map(|p| p.operation).collect()
}

impl Model<'_> {
    /// Clients use the ETags that they were told, often the one that still holds; 1 is none.
    fn condition(&mut self, key: &Key) -> Condition {
        let current = self.map.get(key).map(|(_, etag)| *etag);
        let told = self.told.get(key).map_or(&[][..], |told| told);
        let newest = told.len() as u64;
        let at = self.random.below(newest + 1).max(newest.saturating_sub(9)) as usize;
        let recent = told.get(at).copied();
        let current_if_told = current.filter(|current| told.last() == Some(current));
        match self.random.below(9) {
            0 | 1 => Condition::IfAbsent,
            2 | 3 => Condition::IfMatch(current_if_told.unwrap_or(1)),
            4 => Condition::IfMatch(recent.unwrap_or(1)),
            5 if self.shape.across => Condition::IfPresent,
            _ => Condition::None,
        }
    }

    fn other_key(&mut self) -> Key {
        self.random.below(self.shape.keys).to_string().into_bytes()
    }

    fn input(&mut self, key: Key, value: Vec<u8>) -> Input {
        let condition = self.condition(&key);
        match self.random.below(if self.shape.across { 15 } else { 10 }) {
            0..4 => Input::Get { key },
            4..8 => Input::Put {
                key,
                value,
                condition,
            },
            8..10 => Input::Delete { key, condition },
            10..12 => Input::List {
                prefix: match self.random.below(3) {
                    0 => vec![b'0' + self.random.below(3) as u8],
                    _ => Vec::new(),
                },
                after: self.random.one_in(3).then_some(key),
                limit: self
                    .random
                    .one_in(2)
                    .then(|| 1 + self.random.below(4) as usize),
                values: self.random.one_in(2),
            },
            _ => {
                let mut checks = Vec::new();
                if self.random.one_in(3) {
                    checks.push((key.clone(), condition));
                }
                if self.random.one_in(3) {
                    let key = self.other_key();
                    let condition = self.condition(&key);
                    checks.push((key, condition));
                }
                checks.retain(|(_, condition)| *condition != Condition::None);
                let mut writes = BTreeMap::from([(key, Some(value.clone()))]);
                for _ in 0..self.random.below(3) {
                    let put = !self.random.one_in(3);
                    writes.insert(self.other_key(), put.then(|| value.clone()));
                }
                Input::Transaction {
                    checks,
                    writes: writes.into_iter().collect(),
                }
            }
        }
    }

    fn holds(&self, key: &Key, condition: Condition) -> bool {
        let current = self.map.get(key).map(|(_, etag)| *etag);
        match condition {
            Condition::None => true,
            Condition::IfMatch(etag) => current == Some(etag),
            Condition::IfAbsent => current.is_none(),
            Condition::IfPresent => current.is_some(),
        }
    }

    /// Writes at one index, which it may share with what came before if no key is written twice.
    fn write(&mut self, writes: &[(Key, Option<Vec<u8>>)]) -> u64 {
        let step = self.random.below(3);
        let twice = writes.iter().any(|(key, _)| self.written.contains(key));
        if step > 0 || twice || self.closed {
            self.index += step.max(1);
            self.written.clear();
            self.closed = false;
        }
        for (key, value) in writes {
            self.written.insert(key.clone());
            match value {
                Some(value) => self.map.insert(key.clone(), (value.clone(), self.index)),
                None => self.map.remove(key),
            };
        }
        self.index
    }

    fn run(&mut self, input: &Input) -> Output {
        let current = |key: &Key| self.map.get(key).map(|(_, etag)| *etag);
        match input {
            Input::Get { key } => Output::Value(self.map.get(key).cloned()),
            Input::Put { key, condition, .. } | Input::Delete { key, condition }
                if !self.holds(key, *condition) =>
            {
                Output::ConditionFailed(current(key))
            }
            Input::Put { key, value, .. } => {
                Output::Written(Some(self.write(&[(key.clone(), Some(value.clone()))])))
            }
            Input::Delete { key, .. } => {
                self.write(&[(key.clone(), None)]);
                Output::Written(None)
            }
            Input::List {
                prefix,
                after,
                limit,
                values,
            } => {
                self.closed = true;
                let after = after.clone().unwrap_or_default();
                let all = self.map.iter();
                let all = all.filter(|(key, _)| key.starts_with(prefix) && **key > after);
                let all: Vec<_> = all
                    .map(|(key, (value, etag))| Listed {
                        key: key.clone(),
                        etag: *etag,
                        value: values.then(|| value.clone()),
                    })
                    .collect();
                let limit = limit.unwrap_or(usize::MAX);
                Output::Listed {
                    index: self.index,
                    more: all.len() > limit,
                    entries: all.into_iter().take(limit).collect(),
                }
            }
            Input::Transaction { checks, writes } => {
                let failed = checks.iter().enumerate();
                let failed = failed.filter(|(_, (key, condition))| !self.holds(key, *condition));
                let failed: Vec<FailedCheck> = failed
                    .map(|(position, (key, _))| FailedCheck {
                        position,
                        current: current(key),
                    })
                    .collect();
                if !failed.is_empty() {
                    return Output::ChecksFailed(failed);
                }
                let existed = writes.iter().map(|(key, _)| self.map.contains_key(key));
                let existed = existed.collect();
                let index = self.write(writes);
                Output::Transacted { index, existed }
            }
        }
    }
}

#[test]
fn good_histories_pass() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let shape = Shape {
            operations: 20 + random.below(300),
            clients: 1 + random.below(12),
            keys: 1 + random.below(12),
            unknown: 2 + random.below(30),
            across: seed % 3 > 0,
            faults: None,
        };
        let history = good_history(&mut random, &shape);
        if let Err(violation) = check(&history) {
            panic!("seed {seed}: {violation}");
        }
    }
}

#[test]
fn a_read_of_what_was_overwritten_long_ago_is_found_in_any_history() {
    for seed in 0..200 {
        let mut random = Random(seed);
        let shape = Shape {
            operations: 400,
            clients: 1 + random.below(8),
            keys: 1,
            unknown: 3 + random.below(30),
            across: false,
            faults: None,
        };
        let mut history = good_history(&mut random, &shape);
        history.sort_by_key(|operation| operation.invoked);
        let old = history
            .iter()
            .find_map(|operation| match &operation.output {
                Output::Value(Some(seen)) => Some(seen.clone()),
                _ => None,
            });
        let newest_read = history
            .iter_mut()
            .rev()
            .find(|operation| matches!(&operation.output, Output::Value(seen) if *seen != old));
        let (Some(old), Some(newest_read)) = (old, newest_read) else {
            continue;
        };
        newest_read.output = Output::Value(Some(old));
        check(&history).expect_err("it is spoilt");
    }
}

/// Debug builds on a busy machine included; a search that explodes takes hours.
const FAST: Duration = Duration::from_secs(20);

#[test]
fn a_hundred_thousand_operations_take_seconds() {
    for (keys, unknown, across) in [
        (1, 50, false),
        (10, 3, false),
        (1, 1_000_000, false),
        (30, 300, true),
        (5, 100, true),
        (30, 60, true),
    ] {
        let mut random = Random(keys);
        let shape = Shape {
            operations: 100_000,
            clients: 12,
            keys,
            unknown,
            across,
            faults: None,
        };
        let mut history = good_history(&mut random, &shape);
        let begin = Instant::now();
        if let Err(violation) = check(&history) {
            panic!("{violation}");
        }
        let good = begin.elapsed();
        // A bad one must not take longer: lose the last write that somebody read.
        let seen: BTreeSet<(Key, u64)> = history
            .iter()
            .filter(|operation| matches!(operation.input, Input::Get { .. }))
            .flat_map(answered)
            .collect();
        let lost = history.iter_mut().rev().find(|operation| {
            let told = answered(operation);
            matches!(operation.output, Output::Written(_)) && told.iter().any(|t| seen.contains(t))
        });
        lost.expect("a write was read").output = Output::NotApplied;
        let begin = Instant::now();
        check(&history).expect_err("a write was lost");
        let bad = begin.elapsed();
        println!(
            "{keys} keys, one unknown in {unknown}, across {across}: good {good:?}, bad {bad:?}"
        );
        assert!(good < FAST && bad < FAST, "good {good:?}, bad {bad:?}");
    }
}

#[test]
fn a_hundred_thousand_operations_through_faults_take_seconds() {
    for (seed, faults) in [(1, 12), (2, 12), (3, 6)] {
        let mut random = Random(seed);
        let shape = Shape {
            operations: 100_000,
            clients: 12,
            keys: 5,
            unknown: 5_000,
            across: true,
            faults: Some(faults),
        };
        let history = good_history(&mut random, &shape);
        let unknown = |operation: &&Operation| operation.output == Output::Unknown;
        let unknown = history.iter().filter(unknown).count();
        let begin = Instant::now();
        if let Err(violation) = check(&history) {
            panic!("seed {seed}: {violation}");
        }
        let good = begin.elapsed();
        println!("one unknown in {faults} during faults, {unknown} in all: {good:?}");
        assert!(good < FAST, "{good:?}");
    }
}

#[test]
fn a_bad_history_with_many_unknown_writes_is_refused_quickly() {
    // Everything unknown is called before the end and may come at any time: the search has to see that none helps.
    let mut random = Random(7);
    let shape = Shape {
        operations: 20_000,
        clients: 16,
        keys: 1,
        unknown: 4,
        across: false,
        faults: None,
    };
    let mut history = good_history(&mut random, &shape);
    let end = history.iter().filter_map(|o| o.returned).max();
    let end = end.expect("an operation returned") + 10_000;
    let read = |invoked, output| Operation {
        node: 0,
        invoked,
        returned: Some(invoked + 1),
        input: Input::Get { key: b"0".to_vec() },
        output: Output::Value(output),
    };
    let put = Operation {
        input: Input::Put {
            key: b"0".to_vec(),
            value: b"last".to_vec(),
            condition: Condition::None,
        },
        output: Output::Written(Some(u64::MAX - 1)),
        ..read(end, None)
    };
    history.push(put);
    let old = history
        .iter()
        .find_map(|operation| match &operation.output {
            Output::Value(Some(seen)) => Some(seen.clone()),
            _ => None,
        });
    history.push(read(end + 2, old));
    let begin = Instant::now();
    check(&history).expect_err("the last read is stale");
    assert!(begin.elapsed() < FAST, "{:?}", begin.elapsed());
}

/// Clients take ETags from answers: a condition that names another one gets an ETag that no write has.
fn forget_guesses(history: &mut [Operation]) {
    let answered: BTreeSet<(Key, u64)> = history.iter().flat_map(answered).collect();
    for operation in history {
        if operation.output != Output::Unknown {
            continue;
        }
        match &mut operation.input {
            Input::Put { key, condition, .. } | Input::Delete { key, condition } => {
                forget_guess(&answered, key, condition);
            }
            Input::Transaction { checks, .. } => {
                for (key, condition) in checks {
                    forget_guess(&answered, key, condition);
                }
            }
            Input::Get { .. } | Input::List { .. } => {}
        }
    }
}

fn forget_guess(answered: &BTreeSet<(Key, u64)>, key: &Key, condition: &mut Condition) {
    if let Condition::IfMatch(etag) = condition
        && !answered.contains(&(key.clone(), *etag))
    {
        *etag = u64::MAX;
    }
}

/// Only two values, so that a value does not tell who wrote it.
fn repeat_values(history: &mut [Operation]) {
    let repeat = |value: &mut Vec<u8>| value[0] = b'0' + (value[0] - b'0') % 2;
    for operation in history {
        match &mut operation.input {
            Input::Put { value, .. } => repeat(value),
            Input::Transaction { writes, .. } => {
                writes
                    .iter_mut()
                    .filter_map(|(_, value)| value.as_mut())
                    .for_each(repeat);
            }
            _ => {}
        }
        match &mut operation.output {
            Output::Value(Some((value, _))) => repeat(value),
            Output::Listed { entries, .. } => {
                entries
                    .iter_mut()
                    .filter_map(|entry| entry.value.as_mut())
                    .for_each(repeat);
            }
            _ => {}
        }
    }
}

/// Changes something, so that the history is often bad.
fn spoil(random: &mut Random, history: &mut [Operation]) {
    let at = random.below(history.len() as u64) as usize;
    let other = random.below(history.len() as u64) as usize;
    let outputs: Vec<Output> = history.iter().map(|o| o.output.clone()).collect();
    let operation = &mut history[at];
    match random.below(6) {
        // At another time.
        0 => {
            let later = random.below(60);
            operation.invoked += later;
            operation.returned = operation.returned.map(|returned| returned + later);
            return;
        }
        1 => {
            operation.returned = operation
                .returned
                .map(|returned| returned - random.below(returned - operation.invoked + 1));
            return;
        }
        // A part of the answer is another.
        2 => {
            match &mut operation.output {
                Output::Value(Some((_, etag)))
                | Output::ConditionFailed(Some(etag))
                | Output::Written(Some(etag)) => *etag = *etag + random.below(3) - 1,
                Output::Transacted { index, existed } => match random.one_in(2) {
                    true => *index = *index + random.below(3) - 1,
                    false => existed[0] = !existed[0],
                },
                Output::Listed { index, .. } => *index = *index + random.below(3) - 1,
                _ => {}
            }
            return;
        }
        3 => {
            if let Output::Listed { entries, more, .. } = &mut operation.output {
                match random.one_in(2) {
                    true => *more = !*more,
                    false => drop(entries.pop()),
                }
                return;
            }
        }
        _ => {}
    }
    // That of another operation.
    let output = outputs[other].clone();
    let has_index = matches!(output, Output::Written(Some(_)));
    let fits = match (&operation.input, &output) {
        (_, Output::NotApplied) => true,
        (Input::Get { .. } | Input::List { .. }, Output::Unknown) => false,
        (_, Output::Unknown) => true,
        (Input::Get { .. }, Output::Value(_)) => true,
        (Input::Put { .. }, Output::Written(_)) => has_index,
        (Input::Delete { .. }, Output::Written(_)) => true,
        (Input::Put { .. } | Input::Delete { .. }, Output::ConditionFailed(_)) => true,
        (Input::Transaction { .. }, Output::ChecksFailed(_) | Output::Transacted { .. }) => true,
        (Input::List { .. }, Output::Listed { .. }) => true,
        _ => false,
    };
    if fits {
        operation.returned = (output != Output::Unknown).then_some(operation.invoked + 30);
        operation.output = output;
    }
}

#[test]
fn the_checker_agrees_with_trying_all_orders() {
    let seeds = std::env::var("RAFTKVD_CHECKER_SEEDS").map_or(30_000, |seeds| {
        seeds.parse().expect("RAFTKVD_CHECKER_SEEDS is a number")
    });
    let (mut good, mut bad) = ([0; 2], [0; 2]);
    for seed in 0..seeds {
        let mut random = Random(seed);
        let across = seed % 4 > 0;
        let shape = Shape {
            operations: 3 + random.below(5),
            clients: 1 + random.below(4),
            keys: if across { 2 + random.below(2) } else { 1 },
            unknown: 2 + random.below(3),
            across,
            faults: None,
        };
        let mut history = good_history(&mut random, &shape);
        if random.one_in(3) {
            repeat_values(&mut history);
        }
        for _ in 0..random.below(4) {
            spoil(&mut random, &mut history);
        }
        forget_guesses(&mut history);
        let expected = Exhaustive::serializable(&history);
        let got = check(&history);
        let told: Vec<String> = history.iter().map(Operation::to_string).collect();
        assert_eq!(
            got.is_ok(),
            expected,
            "seed {seed}: {got:?}\n{}",
            told.join("\n")
        );
        (if expected { &mut good } else { &mut bad })[usize::from(across)] += 1;
    }
    println!("one key and several: {good:?} good, {bad:?} bad");
    let least = good.into_iter().chain(bad).min();
    assert!(least > Some(500), "{good:?} good, {bad:?} bad");
}
