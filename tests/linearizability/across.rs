//! Small histories across several keys, good and bad: transactions, lists and single operations in one order.

use crate::checker::{
    Condition, FailedCheck, Input, Key, Listed, Operation, Output, check, check_within,
};

type Times = (u64, u64);

fn operation(times: Times, input: Input, output: Output) -> Operation {
    Operation {
        node: 1,
        invoked: times.0,
        returned: (output != Output::Unknown).then_some(times.1),
        input,
        output,
    }
}

fn bytes(text: &str) -> Key {
    text.as_bytes().to_vec()
}

/// An acknowledged PUT of the key's value `v<etag>`.
fn put(times: Times, key: &str, etag: u64) -> Operation {
    let input = Input::Put {
        key: bytes(key),
        value: value(etag),
        condition: Condition::None,
    };
    operation(times, input, Output::Written(Some(etag)))
}

fn value(etag: u64) -> Vec<u8> {
    format!("v{etag}").into_bytes()
}

fn delete(times: Times, key: &str) -> Operation {
    let (key, condition) = (bytes(key), Condition::None);
    operation(
        times,
        Input::Delete { key, condition },
        Output::Written(None),
    )
}

/// A GET that finds the value of this ETag, or none.
fn get(times: Times, key: &str, etag: Option<u64>) -> Operation {
    let seen = etag.map(|etag| (value(etag), etag));
    operation(times, Input::Get { key: bytes(key) }, Output::Value(seen))
}

/// Its writes: puts of `v<etag>`, and deletes of keys that begin with a minus sign.
fn transaction_input(keys: &[&str], etag: u64) -> Input {
    let write = |key: &&str| match key.strip_prefix('-') {
        Some(key) => (bytes(key), None),
        None => (bytes(key), Some(value(etag))),
    };
    Input::Transaction {
        checks: Vec::new(),
        writes: keys.iter().map(write).collect(),
    }
}

fn transaction(times: Times, keys: &[&str], etag: u64, existed: &[bool]) -> Operation {
    let output = Output::Transacted {
        index: etag,
        existed: existed.to_vec(),
    };
    operation(times, transaction_input(keys, etag), output)
}

fn transaction_unknown(invoked: u64, keys: &[&str], etag: u64) -> Operation {
    operation((invoked, 0), transaction_input(keys, etag), Output::Unknown)
}

/// With checks, which fail where an ETag, or absence, is told.
fn transaction_if(
    times: Times,
    checks: &[(&str, Condition)],
    key: &str,
    etag: u64,
    failed: &[(usize, Option<u64>)],
) -> Operation {
    let failed = failed
        .iter()
        .map(|&(position, current)| FailedCheck { position, current });
    let failed: Vec<FailedCheck> = failed.collect();
    let checks = checks
        .iter()
        .map(|(key, condition)| (bytes(key), *condition));
    let input = Input::Transaction {
        checks: checks.collect(),
        writes: vec![(bytes(key), Some(value(etag)))],
    };
    let output = match failed.is_empty() {
        true => Output::Transacted {
            index: etag,
            existed: vec![false],
        },
        false => Output::ChecksFailed(failed),
    };
    operation(times, input, output)
}

/// A list without values of all keys behind `after`.
fn page(
    times: Times,
    after: Option<&str>,
    index: u64,
    entries: &[(&str, u64)],
    more: bool,
) -> Operation {
    let input = Input::List {
        prefix: Vec::new(),
        after: after.map(bytes),
        limit: more.then_some(entries.len()),
        values: false,
    };
    let entries = entries.iter().map(|&(key, etag)| Listed {
        key: bytes(key),
        etag,
        value: None,
    });
    let output = Output::Listed {
        index,
        entries: entries.collect(),
        more,
    };
    operation(times, input, output)
}

fn list(times: Times, index: u64, entries: &[(&str, u64)]) -> Operation {
    page(times, None, index, entries, false)
}

#[track_caller]
fn good(history: &[Operation]) {
    if let Err(violation) = check(history) {
        panic!("{violation}");
    }
}

/// Gives what the checker says.
#[track_caller]
fn bad(history: &[Operation]) -> String {
    match check(history) {
        Ok(()) => panic!("the checker passes {history:#?}"),
        Err(violation) => violation.to_string(),
    }
}

#[test]
fn a_transaction_is_seen_whole_or_not_at_all() {
    let both = transaction((1, 20), &["a", "b"], 5, &[false, false]);
    good(&[
        both.clone(),
        get((2, 3), "a", None),
        get((4, 5), "b", Some(5)),
    ]);
    // One reader sees what is new, a later one what is old.
    let text = bad(&[both, get((2, 3), "a", Some(5)), get((4, 5), "b", None)]);
    assert!(text.contains("TXN") && text.lines().count() == 4, "{text}");
    // A key that it deletes is a part of it.
    let mixed = [
        put((1, 2), "b", 4),
        transaction((3, 20), &["a", "-b"], 5, &[false, true]),
    ];
    let reads = [get((4, 5), "a", Some(5)), get((6, 7), "b", None)];
    good(&[&mixed[..], &reads].concat());
    let reads = [get((4, 5), "a", Some(5)), get((6, 7), "b", Some(4))];
    bad(&[&mixed[..], &reads].concat());
}

#[test]
fn write_skew_is_caught() {
    // Each sees that the other key is absent, and writes its own.
    let absent = |key| [(key, Condition::IfAbsent)];
    let one = transaction_if((1, 10), &absent("b"), "a", 5, &[]);
    let other = transaction_if((1, 10), &absent("a"), "b", 6, &[]);
    bad(&[one.clone(), other]);
    let refused = transaction_if((1, 10), &absent("a"), "b", 6, &[(0, Some(5))]);
    good(&[one, refused]);
}

#[test]
fn checks_that_are_not_told_to_have_failed_held() {
    let checks = [("a", Condition::IfMatch(5)), ("b", Condition::IfPresent)];
    let failed = transaction_if((5, 6), &checks, "c", 9, &[(1, None)]);
    good(&[put((1, 2), "a", 5), failed.clone()]);
    bad(&[put((1, 2), "a", 5), put((3, 4), "a", 6), failed.clone()]);
    bad(&[put((1, 2), "a", 5), put((3, 4), "b", 6), failed]);
}

#[test]
fn keys_that_are_in_order_alone_may_not_be_together() {
    // Nothing returns before another one is called; but two transactions each find what the other one leaves.
    let puts = [put((1, 90), "a", 5), put((1, 90), "b", 6)];
    let present = |key, absent| [(key, Condition::IfPresent), (absent, Condition::IfAbsent)];
    let one = transaction_if((1, 90), &present("a", "b"), "c", 7, &[]);
    let other = transaction_if((1, 90), &present("b", "a"), "d", 7, &[]);
    let seen_early = transaction_if((1, 90), &present("a", "b"), "c", 5, &[]);
    good(&[&puts[..], std::slice::from_ref(&seen_early)].concat());
    // With a DELETE between, without an index, either is possible, and not both.
    let swap = [
        put((1, 90), "a", 5),
        delete((1, 90), "a"),
        put((1, 90), "b", 6),
    ];
    good(&[&swap[..], &[seen_early.clone(), other.clone()]].concat());
    bad(&[&swap[..], &[one.clone(), other.clone()]].concat());
    let text = bad(&[&puts[..], &[seen_early, other.clone()]].concat());
    assert!(text.contains("\"a\"") && text.contains("\"b\""), "{text}");
    // Each key by itself is in order.
    for key in ["a", "b"] {
        let seen = get((1, 90), key, Some(if key == "a" { 5 } else { 6 }));
        good(&[
            puts[0].clone(),
            puts[1].clone(),
            seen,
            get((1, 90), key, None),
        ]);
    }
}

#[test]
fn whether_a_key_was_there_before_counts() {
    good(&[transaction((3, 4), &["a"], 6, &[false])]);
    bad(&[transaction((3, 4), &["a"], 6, &[true])]);
    bad(&[
        put((1, 2), "a", 5),
        transaction((3, 4), &["a"], 6, &[false]),
    ]);
    // A write of unknown outcome may have been there, and is seen by nothing else.
    let unknown = transaction_unknown(1, &["a"], 5);
    for existed in [false, true] {
        good(&[unknown.clone(), transaction((3, 4), &["a"], 6, &[existed])]);
    }
    // So may two of them.
    let two = [
        transaction_unknown(1, &["a", "c"], 5),
        transaction_unknown(1, &["b", "d"], 6),
    ];
    let both = transaction((3, 4), &["a", "b"], 7, &[true, true]);
    good(&[&two[..], std::slice::from_ref(&both)].concat());
    bad(&[two[0].clone(), both]);
}

#[test]
fn a_list_is_as_of_one_moment() {
    let before = transaction((1, 2), &["a", "b"], 5, &[false, false]);
    let change = transaction((3, 20), &["a", "b"], 6, &[true, true]);
    for etag in [5, 6] {
        let all = list((4, 19), etag, &[("a", etag), ("b", etag)]);
        good(&[before.clone(), change.clone(), all]);
    }
    for (a, b) in [(5, 6), (6, 5)] {
        let mixed = list((4, 19), 6, &[("a", a), ("b", b)]);
        bad(&[before.clone(), change.clone(), mixed]);
    }
    // Nothing that is newer than its index, nothing of it left out, and no value that is not there.
    bad(&[before.clone(), list((4, 19), 4, &[("a", 5), ("b", 5)])]);
    bad(&[
        before.clone(),
        change,
        list((4, 19), 6, &[("a", 5), ("b", 5)]),
    ]);
    bad(&[before, list((4, 19), 5, &[("a", 5), ("b", 5), ("c", 5)])]);
}

#[test]
fn a_list_lacks_no_key_that_must_be_there() {
    let puts = [put((1, 2), "a", 5), put((3, 4), "b", 6)];
    let listed = |entries| [&puts[..], &[list((5, 6), 6, entries)]].concat();
    good(&listed(&[("a", 5), ("b", 6)]));
    let text = bad(&listed(&[("b", 6)]));
    assert!(
        text.contains("PUT \"a\"") && text.contains("LIST"),
        "{text}"
    );
    bad(&listed(&[("a", 5)]));
    // One that was deleted is missing, and must be.
    let deleted = |entries| [&puts[..], &[delete((5, 6), "a"), list((7, 8), 9, entries)]].concat();
    good(&deleted(&[("b", 6)]));
    bad(&deleted(&[("a", 5), ("b", 6)]));
    // One of unknown outcome may be.
    let unknown = operation(
        (1, 0),
        Input::Delete {
            key: bytes("a"),
            condition: Condition::None,
        },
        Output::Unknown,
    );
    good(&[&puts[..], &[unknown, list((5, 6), 9, &[("b", 6)])]].concat());
}

#[test]
fn pages_of_a_list_are_operations_of_their_own() {
    let puts = [
        put((1, 2), "a", 5),
        put((1, 2), "b", 6),
        put((1, 2), "c", 7),
    ];
    let first = page((3, 4), None, 7, &[("a", 5)], true);
    let rest = |entries| page((7, 8), Some("a"), 8, entries, false);
    let history = |rest| [&puts[..], &[first.clone(), put((5, 6), "b", 8), rest]].concat();
    good(&history(rest(&[("b", 8), ("c", 7)])));
    bad(&history(rest(&[("b", 6), ("c", 7)])));
    bad(&history(rest(&[("b", 8)])));
    // That there are more has to be true, and that there are none.
    bad(&[&puts[..], &[page((3, 4), Some("b"), 7, &[("c", 7)], true)]].concat());
    bad(&[
        &puts[..],
        &[page((3, 4), None, 7, &[("a", 5), ("b", 6)], false)],
    ]
    .concat());
    // What answers a request that was not made.
    bad(&[
        &puts[..],
        &[page((3, 4), Some("b"), 7, &[("b", 6), ("c", 7)], false)],
    ]
    .concat());
    bad(&[
        &puts[..],
        &[page((3, 4), None, 7, &[("b", 6), ("a", 5)], true)],
    ]
    .concat());
}

#[test]
fn an_unknown_transaction_that_is_seen_on_one_key_is_there_on_all() {
    let unknown = transaction_unknown(1, &["a", "b"], 5);
    good(&[
        unknown.clone(),
        get((2, 3), "a", None),
        get((4, 5), "b", None),
    ]);
    good(&[
        unknown.clone(),
        get((2, 3), "b", None),
        get((4, 5), "a", Some(5)),
    ]);
    let seen = get((2, 3), "a", Some(5));
    good(&[unknown.clone(), seen.clone(), get((4, 5), "b", Some(5))]);
    let text = bad(&[unknown.clone(), seen.clone(), get((4, 5), "b", None)]);
    assert!(text.contains("TXN") && text.contains("unknown"), "{text}");
    // Under one ETag on all.
    let mut other = get((4, 5), "b", Some(5));
    other.output = Output::Value(Some((value(5), 6)));
    bad(&[unknown, seen, other]);
}

#[test]
fn an_unknown_transaction_may_be_hidden_on_one_key_and_seen_on_another() {
    // Its put of "a" was overwritten before anybody looked; that it deleted "b" is seen much later.
    let history = [
        put((1, 2), "b", 4),
        transaction_unknown(3, &["a", "-b"], 5),
        put((4, 5), "a", 6),
        get((6, 7), "a", Some(6)),
        put((8, 9), "c", 7),
        get((10, 11), "b", None),
    ];
    good(&history);
    // Then it came before the PUT of "a", so "b" can't be there in between.
    let mut seen = history.to_vec();
    seen.insert(4, get((7, 8), "b", Some(4)));
    seen.push(get((12, 13), "a", Some(6)));
    bad(&seen);
}

#[test]
fn a_stale_read_after_a_list_is_caught() {
    let puts = [put((1, 2), "a", 5), put((3, 30), "a", 6)];
    let listed = list((4, 5), 6, &[("a", 6)]);
    good(&[&puts[..], &[listed.clone(), get((6, 7), "a", Some(6))]].concat());
    let text = bad(&[&puts[..], &[listed, get((6, 7), "a", Some(5))]].concat());
    assert!(text.contains("LIST") && text.contains("GET"), "{text}");
}

#[test]
fn etags_grow_with_time_over_all_keys() {
    good(&[put((1, 2), "a", 5), put((3, 4), "b", 6)]);
    let text = bad(&[put((1, 2), "a", 6), put((3, 4), "b", 5)]);
    assert!(text.lines().count() == 3, "{text}");
    good(&[put((1, 3), "a", 6), put((2, 4), "b", 5)]);
    bad(&[list((1, 2), 6, &[]), put((3, 4), "b", 5)]);
    bad(&[put((1, 2), "b", 7), list((3, 4), 6, &[("b", 7)])]);
}

#[test]
fn writes_of_one_entry_share_an_index_and_have_any_order() {
    let one = transaction((1, 90), &["a", "b"], 5, &[false, false]);
    let other = put((1, 90), "c", 5);
    for (first, second) in [(["a", "c"], 5), (["c", "b"], 5)] {
        let reads = [
            get((2, 3), first[0], Some(second)),
            get((4, 5), first[1], None),
        ];
        good(&[&[one.clone(), other.clone()][..], &reads].concat());
    }
    // A check of one may see the other,
    let checks = [("c", Condition::IfMatch(5))];
    good(&[other.clone(), transaction_if((1, 90), &checks, "d", 5, &[])]);
    // a list sees all,
    good(&[
        one.clone(),
        other.clone(),
        list((2, 3), 5, &[("a", 5), ("b", 5), ("c", 5)]),
    ]);
    bad(&[
        one.clone(),
        other.clone(),
        list((2, 3), 5, &[("a", 5), ("b", 5)]),
    ]);
    // and no key is written twice.
    let text = bad(&[one, put((1, 90), "b", 5)]);
    assert!(
        text.contains("two writes of \"b\" have the ETag 5"),
        "{text}"
    );
}

#[test]
fn what_can_not_be_decided_is_an_error() {
    // All of these have to come before the PUTs whose keys they delete, which nothing tells until all PUTs are done.
    let mut history = Vec::new();
    let created: Vec<String> = (0..40).map(|number| format!("y{number}")).collect();
    for (number, key) in created.iter().enumerate() {
        let deleted = format!("-x{}", number % 7);
        history.push(transaction_unknown(
            1,
            &[&deleted, key],
            1_000 + number as u64,
        ));
    }
    for number in 0..7 {
        let key = format!("x{number}");
        history.push(put((2 + number, 3 + number), &key, 10 + number));
    }
    let created: Vec<&str> = created.iter().map(String::as_str).collect();
    history.push(transaction((20, 21), &created, 50, &[true; 40]));
    history.push(get((22, 23), "x0", Some(10)));
    good(&history);
    let violation = check_within(&history, 10).expect_err("it takes longer");
    let text = violation.to_string();
    assert!(text.contains("could not be decided"), "{text}");
}
