//! Random histories: good ones of any size pass, spoilt ones don't, and on small ones of every kind the checker says
//! what trying all orders says.

use crate::checker::{Condition, Input, Operation, Output, check};
use std::collections::BTreeSet;
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
}

/// A history that a map gave: every operation takes effect at a point between its call and its return, or, if its
/// outcome is unknown, at any later point or never.
fn good_history(random: &mut Random, shape: &Shape) -> Vec<Operation> {
    struct Planned {
        point: Option<u64>,
        unknown: bool,
        operation: Operation,
    }
    let mut planned = Vec::new();
    let mut clocks = vec![0; shape.clients as usize];
    for number in 0..shape.operations {
        let client = random.below(shape.clients) as usize;
        let invoked = clocks[client] + random.below(20);
        let unknown = random.one_in(shape.unknown);
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
    let mut map = vec![None::<(Vec<u8>, u64)>; shape.keys as usize];
    let mut told = vec![Vec::new(); shape.keys as usize];
    let mut index = 1;
    for Planned {
        point,
        unknown,
        operation,
    } in &mut planned
    {
        index += 1 + random.below(3);
        let Input::Put { key, value, .. } = operation.input.clone() else {
            panic!("only PUTs were planned");
        };
        let number: usize = String::from_utf8_lossy(&key).parse().expect("a number");
        let slot = &mut map[number];
        let current = slot.as_ref().map(|(_, etag)| *etag);
        // Clients use the ETags that they were told, often the one that still holds; 1 is none.
        let told = &mut told[number];
        let newest = told.len() as u64;
        let recent = told.get(random.below(newest + 1).max(newest.saturating_sub(9)) as usize);
        let current_if_told = current.filter(|current| told.last() == Some(current));
        let condition = match random.below(4) {
            0 => Condition::IfAbsent,
            1 => Condition::IfMatch(current_if_told.unwrap_or(1)),
            2 if random.one_in(2) => Condition::IfMatch(recent.copied().unwrap_or(1)),
            _ => Condition::None,
        };
        operation.input = match random.below(10) {
            0..4 => Input::Get { key },
            4..8 => Input::Put {
                key,
                value,
                condition,
            },
            _ => Input::Delete { key, condition },
        };
        if point.is_none() {
            continue;
        }
        let holds = match condition {
            Condition::None => true,
            Condition::IfMatch(etag) => current == Some(etag),
            Condition::IfAbsent => current.is_none(),
            Condition::IfPresent => current.is_some(),
        };
        let output = match &operation.input {
            Input::Get { .. } => Output::Value(slot.clone()),
            _ if !holds => Output::ConditionFailed(current),
            Input::Put { value, .. } => {
                *slot = Some((value.clone(), index));
                Output::Written(Some(index))
            }
            Input::Delete { .. } => {
                *slot = None;
                Output::Written(None)
            }
            input => panic!("not drawn: {input}"),
        };
        if *unknown {
            continue;
        }
        if let Output::Value(Some((_, etag)))
        | Output::Written(Some(etag))
        | Output::ConditionFailed(Some(etag)) = &output
        {
            told.push(*etag);
        }
        operation.output = output;
    }
    planned.into_iter().map(|p| p.operation).collect()
}

#[test]
fn good_histories_pass() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let shape = Shape {
            operations: 20 + random.below(300),
            clients: 1 + random.below(12),
            keys: 1 + random.below(3),
            unknown: 2 + random.below(30),
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
    for (keys, unknown) in [(1, 50), (10, 3), (1, 1_000_000)] {
        let mut random = Random(keys);
        let shape = Shape {
            operations: 100_000,
            clients: 16,
            keys,
            unknown,
        };
        let mut history = good_history(&mut random, &shape);
        let begin = Instant::now();
        if let Err(violation) = check(&history) {
            panic!("{violation}");
        }
        let good = begin.elapsed();
        // A bad one must not take longer: lose the last write that somebody read.
        let seen: BTreeSet<u64> = history
            .iter()
            .filter_map(|operation| match &operation.output {
                Output::Value(Some((_, etag))) => Some(*etag),
                _ => None,
            })
            .collect();
        let lost = history.iter_mut().rev().find(
            |operation| matches!(operation.output, Output::Written(Some(etag)) if seen.contains(&etag)),
        );
        lost.expect("a write was read").output = Output::NotApplied;
        let begin = Instant::now();
        check(&history).expect_err("a write was lost");
        let bad = begin.elapsed();
        println!("{keys} keys, one unknown in {unknown}: good {good:?}, bad {bad:?}");
        assert!(good < FAST && bad < FAST, "good {good:?}, bad {bad:?}");
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

/// Tries every order of every set of operations that can have taken effect.
struct Exhaustive<'a> {
    history: &'a [Operation],
    acknowledged: BTreeSet<u64>,
}

/// The value, the ETag if it is known, and the largest ETag so far.
type Map = (Option<(Vec<u8>, Option<u64>)>, u64);

impl Exhaustive<'_> {
    fn linearizable(history: &[Operation]) -> bool {
        let acknowledged = history
            .iter()
            .filter_map(|operation| match operation.output {
                Output::Written(etag) => etag,
                _ => None,
            });
        let all = Exhaustive {
            history,
            acknowledged: acknowledged.collect(),
        };
        all.search(&mut vec![false; history.len()], (None, 0))
    }

    fn search(&self, taken: &mut Vec<bool>, map: Map) -> bool {
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
            let operation = &self.history[i];
            if operation.invoked > first_return || operation.output == Output::NotApplied {
                continue;
            }
            if let Some(after) = self.step(operation, map.clone()) {
                taken[i] = true;
                if self.search(taken, after) {
                    return true;
                }
                taken[i] = false;
            }
        }
        false
    }

    fn has_etag(&self, map: Map, etag: u64) -> Option<Map> {
        let (value, known) = map.0.clone()?;
        match known {
            Some(known) => (known == etag).then_some(map),
            None if self.acknowledged.contains(&etag) || etag <= map.1 => None,
            None => Some((Some((value, Some(etag))), etag)),
        }
    }

    fn step(&self, operation: &Operation, map: Map) -> Option<Map> {
        let (value, condition) = match &operation.input {
            Input::Get { .. } => {
                return match &operation.output {
                    Output::Value(None) => map.0.is_none().then_some(map),
                    Output::Value(Some((value, etag))) => {
                        let fits = map.0.as_ref().is_some_and(|(v, _)| v == value);
                        fits.then(|| self.has_etag(map, *etag))?
                    }
                    _ => None,
                };
            }
            Input::Put {
                value, condition, ..
            } => (Some(value), *condition),
            Input::Delete { condition, .. } => (None, *condition),
            input => panic!("not drawn: {input}"),
        };
        if let Output::ConditionFailed(current) = operation.output {
            let fails = match condition {
                Condition::None => false,
                Condition::IfMatch(etag) => current != Some(etag),
                Condition::IfAbsent => current.is_some(),
                Condition::IfPresent => current.is_none(),
            };
            return match current {
                _ if !fails => None,
                None => map.0.is_none().then_some(map),
                Some(etag) => self.has_etag(map, etag),
            };
        }
        let map = match condition {
            Condition::None => map,
            Condition::IfAbsent => map.0.is_none().then_some(map)?,
            Condition::IfPresent => map.0.is_some().then_some(map)?,
            Condition::IfMatch(etag) => self.has_etag(map, etag)?,
        };
        let etag = match operation.output {
            Output::Written(etag) => etag,
            _ => None,
        };
        if etag.is_some_and(|etag| etag <= map.1) {
            return None;
        }
        let value = value.map(|value| (value.clone(), etag));
        Some((value, etag.unwrap_or(map.1)))
    }
}

/// Clients take ETags from answers: a condition that names another one gets an ETag that no write has.
fn forget_guesses(history: &mut [Operation]) {
    let answered = history.iter().filter_map(|o| match &o.output {
        Output::Value(Some((_, etag))) => Some(*etag),
        Output::ConditionFailed(etag) | Output::Written(etag) => *etag,
        _ => None,
    });
    let answered: BTreeSet<u64> = answered.collect();
    for operation in history {
        if let Input::Put { condition, .. } | Input::Delete { condition, .. } = &mut operation.input
            && let Condition::IfMatch(etag) = condition
            && operation.output == Output::Unknown
            && !answered.contains(etag)
        {
            *etag = 1;
        }
    }
}

#[test]
fn the_checker_agrees_with_trying_all_orders() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..20_000 {
        let mut random = Random(seed);
        let shape = Shape {
            operations: 3 + random.below(5),
            clients: 1 + random.below(4),
            keys: 1,
            unknown: 2 + random.below(3),
        };
        let mut history = good_history(&mut random, &shape);
        // Values that are not unique are harder; and half of the histories are spoilt.
        if random.one_in(3) {
            for operation in &mut history {
                let value = match (&mut operation.input, &mut operation.output) {
                    (Input::Put { value, .. }, _) => value,
                    (_, Output::Value(Some((value, _)))) => value,
                    _ => continue,
                };
                value[0] = b'0' + (value[0] - b'0') % 2;
            }
        }
        if random.one_in(2) {
            let outputs: Vec<Output> = history.iter().map(|o| o.output.clone()).collect();
            let at = random.below(history.len() as u64) as usize;
            let output = outputs[random.below(history.len() as u64) as usize].clone();
            let fits = match (&history[at].input, &output) {
                (Input::Get { .. }, Output::Value(_)) => true,
                (Input::Get { .. }, _) | (_, Output::Value(_)) => false,
                _ => true,
            };
            if fits {
                history[at].returned =
                    (output != Output::Unknown).then(|| history[at].invoked + 30);
                history[at].output = output;
            }
        }
        forget_guesses(&mut history);
        let expected = Exhaustive::linearizable(&history);
        let got = check(&history);
        let told: Vec<String> = history.iter().map(Operation::to_string).collect();
        assert_eq!(
            got.is_ok(),
            expected,
            "seed {seed}: {got:?}\n{}",
            told.join("\n")
        );
        *(if expected { &mut good } else { &mut bad }) += 1;
    }
    assert!(good > 500 && bad > 500, "{good} good, {bad} bad");
}
