//! Small histories, good and bad, of every kind that the checker has to tell apart.

use crate::checker::{Condition, Input, Key, Operation, Output, check};

fn key() -> Key {
    b"k".to_vec()
}

fn operation(invoked: u64, returned: u64, input: Input, output: Output) -> Operation {
    Operation {
        node: 1,
        invoked,
        returned: (output != Output::Unknown).then_some(returned),
        input,
        output,
    }
}

fn put_if(times: (u64, u64), value: &str, condition: Condition, output: Output) -> Operation {
    let value = value.as_bytes().to_vec();
    operation(
        times.0,
        times.1,
        Input::Put {
            key: key(),
            value,
            condition,
        },
        output,
    )
}

/// An acknowledged PUT.
fn put(times: (u64, u64), value: &str, etag: u64) -> Operation {
    put_if(times, value, Condition::None, Output::Written(Some(etag)))
}

/// A PUT that may take effect at any time.
fn put_unknown(invoked: u64, value: &str) -> Operation {
    put_if((invoked, 0), value, Condition::None, Output::Unknown)
}

fn delete_if(times: (u64, u64), condition: Condition, output: Output) -> Operation {
    operation(
        times.0,
        times.1,
        Input::Delete {
            key: key(),
            condition,
        },
        output,
    )
}

fn delete(times: (u64, u64)) -> Operation {
    delete_if(times, Condition::None, Output::Written(None))
}

fn get(times: (u64, u64), seen: Option<(&str, u64)>) -> Operation {
    let seen = seen.map(|(value, etag)| (value.as_bytes().to_vec(), etag));
    operation(
        times.0,
        times.1,
        Input::Get { key: key() },
        Output::Value(seen),
    )
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
fn one_client_sees_what_it_wrote() {
    good(&[]);
    good(&[
        get((1, 2), None),
        put((3, 4), "a", 5),
        get((5, 6), Some(("a", 5))),
        put((7, 8), "b", 6),
        get((9, 10), Some(("b", 6))),
        delete((11, 12)),
        get((13, 14), None),
        delete((15, 16)),
    ]);
}

#[test]
fn keys_are_checked_apart() {
    let mut other = get((3, 4), None);
    other.input = Input::Get {
        key: b"other".to_vec(),
    };
    good(&[put((1, 2), "a", 5), other.clone()]);
    let mut wrong = get((5, 6), Some(("a", 5)));
    wrong.input = other.input.clone();
    let text = bad(&[put((1, 2), "a", 5), other, wrong]);
    assert!(text.contains("GET \"other\""), "{text}");
}

#[test]
fn concurrent_operations_may_come_in_either_order() {
    for seen in [("a", 5), ("b", 6)] {
        good(&[
            put((1, 10), "a", 5),
            put((1, 10), "b", 6),
            get((2, 9), Some(seen)),
        ]);
    }
    good(&[put((1, 10), "a", 5), get((2, 3), None)]);
    good(&[put((1, 10), "a", 5), get((2, 3), Some(("a", 5)))]);
    // What one read saw, a later one can't unsee.
    bad(&[
        put((1, 10), "a", 5),
        get((2, 3), Some(("a", 5))),
        get((4, 5), None),
    ]);
}

#[test]
fn touching_times_are_concurrent() {
    good(&[put((1, 2), "a", 5), get((2, 3), None)]);
    bad(&[put((1, 2), "a", 5), get((3, 4), None)]);
}

#[test]
fn a_stale_read_is_caught() {
    let text = bad(&[
        put((1, 2), "a", 5),
        put((3, 4), "b", 6),
        get((5, 6), Some(("a", 5))),
    ]);
    assert!(
        text.contains("GET \"k\" -> \"a\", etag 5") && text.contains("etag 6"),
        "{text}"
    );
    // Also when it is the answer to a condition.
    bad(&[
        put((1, 2), "a", 5),
        put((3, 4), "b", 6),
        put_if(
            (5, 6),
            "c",
            Condition::IfAbsent,
            Output::ConditionFailed(Some(5)),
        ),
    ]);
}

#[test]
fn a_lost_write_is_caught() {
    bad(&[put((1, 2), "a", 5), get((3, 4), None)]);
    bad(&[
        put((1, 2), "a", 5),
        put((3, 4), "b", 6),
        put_if((5, 6), "c", Condition::IfMatch(5), Output::Written(Some(7))),
    ]);
    bad(&[
        put((1, 2), "a", 5),
        delete((3, 4)),
        get((5, 6), Some(("a", 5))),
    ]);
}

#[test]
fn a_write_that_comes_twice_is_caught() {
    // Under its first ETag,
    bad(&[
        put((1, 2), "a", 5),
        put((3, 4), "b", 6),
        get((5, 6), Some(("b", 6))),
        get((7, 8), Some(("a", 5))),
    ]);
    // under a second one,
    let text = bad(&[
        put((1, 2), "a", 5),
        put((3, 4), "b", 6),
        get((5, 6), Some(("a", 7))),
    ]);
    assert!(text.contains("another ETag than its own"), "{text}");
    // and when its outcome was unknown.
    bad(&[
        put_unknown(1, "a"),
        get((2, 3), Some(("a", 5))),
        put((4, 5), "b", 6),
        get((6, 7), Some(("a", 7))),
    ]);
}

#[test]
fn a_read_of_what_nobody_wrote_is_caught() {
    let text = bad(&[put((1, 2), "a", 5), get((3, 4), Some(("z", 6)))]);
    assert!(text.contains("nobody wrote"), "{text}");
    bad(&[put((1, 2), "a", 5), get((3, 4), Some(("a", 6)))]);
    bad(&[
        put((1, 2), "a", 5),
        put((1, 2), "b", 6),
        get((3, 4), Some(("a", 6))),
    ]);
}

#[test]
fn a_read_from_the_future_is_caught() {
    bad(&[get((1, 2), Some(("a", 5))), put((3, 4), "a", 5)]);
    bad(&[get((1, 2), Some(("a", 5))), put_unknown(3, "a")]);
}

#[test]
fn a_write_that_surely_failed_must_not_be_seen() {
    let refused = put_if((1, 2), "a", Condition::None, Output::NotApplied);
    good(&[refused.clone(), get((3, 4), None)]);
    let text = bad(&[refused, get((3, 4), Some(("a", 5)))]);
    assert!(text.contains("surely had no effect"), "{text}");
    let refused = delete_if((3, 4), Condition::None, Output::NotApplied);
    bad(&[put((1, 2), "a", 5), refused, get((5, 6), None)]);
    let failed = Output::ConditionFailed(Some(5));
    let failed = put_if((3, 4), "b", Condition::IfAbsent, failed);
    good(&[
        put((1, 2), "a", 5),
        failed.clone(),
        get((5, 6), Some(("a", 5))),
    ]);
    bad(&[put((1, 2), "a", 5), failed, get((5, 6), Some(("b", 6)))]);
}

#[test]
fn a_failed_condition_that_held_is_caught() {
    // It says so itself,
    for (condition, current) in [
        (Condition::IfMatch(5), Some(5)),
        (Condition::IfAbsent, None),
        (Condition::None, Some(5)),
    ] {
        let failed = put_if((3, 4), "b", condition, Output::ConditionFailed(current));
        bad(&[put((1, 2), "a", 5), failed]);
    }
    // or what it says was not so.
    let failed = |current| {
        let output = Output::ConditionFailed(current);
        put_if((3, 4), "b", Condition::IfMatch(4), output)
    };
    good(&[put((1, 2), "a", 5), failed(Some(5))]);
    bad(&[put((1, 2), "a", 5), failed(None)]);
    good(&[delete((1, 2)), failed(None)]);
    let text = bad(&[put((1, 2), "a", 5), failed(Some(9))]);
    assert!(
        text.contains("no write of \"k\" can have the ETag 9"),
        "{text}"
    );
}

#[test]
fn a_conditional_write_that_should_have_failed_is_caught() {
    let matching = |etag| {
        put_if(
            (5, 6),
            "c",
            Condition::IfMatch(etag),
            Output::Written(Some(9)),
        )
    };
    let two = [put((1, 2), "a", 5), put((3, 4), "b", 6)];
    good(&[&two[..], &[matching(6)]].concat());
    bad(&[&two[..], &[matching(5)]].concat());
    let creating = put_if((5, 6), "c", Condition::IfAbsent, Output::Written(Some(9)));
    bad(&[two[0].clone(), two[1].clone(), creating.clone()]);
    good(&[put((1, 2), "a", 5), delete((3, 4)), creating.clone()]);
    // Of two creators one has to fail.
    let mut other = put_if((5, 6), "d", Condition::IfAbsent, Output::Written(Some(8)));
    bad(&[creating.clone(), other.clone()]);
    other.output = Output::ConditionFailed(Some(9));
    good(&[creating, other]);
    let deleting = |etag| delete_if((5, 6), Condition::IfMatch(etag), Output::Written(None));
    good(&[&two[..], &[deleting(6), get((7, 8), None)]].concat());
    bad(&[&two[..], &[deleting(5)]].concat());
}

#[test]
fn an_unknown_write_may_come_late_or_never() {
    let unknown = put_unknown(1, "u");
    good(&[unknown.clone(), get((2, 3), None)]);
    good(&[unknown.clone(), get((2, 3), Some(("u", 5)))]);
    good(&[
        unknown.clone(),
        get((2, 3), None),
        put((4, 5), "a", 5),
        get((6, 7), Some(("a", 5))),
        get((8, 9), Some(("u", 6))),
        get((10, 11), Some(("u", 6))),
    ]);
    // Once it is there it stays until something else comes.
    bad(&[
        unknown.clone(),
        get((2, 3), Some(("u", 5))),
        get((4, 5), None),
    ]);
    // Its ETag has to be larger than that of what came before.
    bad(&[
        unknown,
        put((2, 3), "a", 5),
        get((4, 5), Some(("a", 5))),
        get((6, 7), Some(("u", 4))),
    ]);
}

#[test]
fn an_unknown_delete_may_come_late_or_never() {
    let unknown = delete_if((3, 0), Condition::None, Output::Unknown);
    let before = [put((1, 2), "a", 5), unknown.clone()];
    good(&[&before[..], &[get((4, 5), Some(("a", 5)))]].concat());
    good(&[&before[..], &[get((4, 5), None)]].concat());
    let late = [get((4, 5), Some(("a", 5))), get((6, 7), None)];
    good(&[&before[..], &late].concat());
    // It enables a creation, but only one; and it does not bring back what it deleted.
    let create = |times, value, etag| {
        let output = Output::Written(Some(etag));
        put_if(times, value, Condition::IfAbsent, output)
    };
    good(&[&before[..], &[create((4, 5), "b", 6)]].concat());
    let two = [create((4, 5), "b", 6), create((6, 7), "c", 7)];
    bad(&[&before[..], &two].concat());
    let back = [get((4, 5), None), get((6, 7), Some(("a", 5)))];
    bad(&[&before[..], &back].concat());
}

#[test]
fn unknown_conditional_writes_take_effect_only_where_their_condition_holds() {
    let unknown = put_if((3, 0), "u", Condition::IfMatch(5), Output::Unknown);
    let seen = get((7, 8), Some(("u", 7)));
    good(&[put((1, 2), "a", 5), unknown.clone(), seen.clone()]);
    bad(&[
        put((1, 2), "a", 5),
        unknown,
        put((4, 5), "b", 6),
        get((5, 6), Some(("b", 6))),
        seen,
    ]);
}

#[test]
fn an_unknown_write_that_only_a_condition_names_counts() {
    // Nobody read it, but its ETag came with a 412.
    let named = put_if(
        (4, 5),
        "b",
        Condition::IfMatch(5),
        Output::ConditionFailed(Some(7)),
    );
    good(&[put((1, 2), "a", 5), put_unknown(3, "u"), named.clone()]);
    bad(&[put((1, 2), "a", 5), named.clone()]);
    // A write on the condition that it is there shows it as well.
    let on_top = put_if((6, 7), "c", Condition::IfMatch(7), Output::Written(Some(8)));
    good(&[
        put((1, 2), "a", 5),
        put_unknown(3, "u"),
        named,
        on_top,
        get((8, 9), Some(("c", 8))),
    ]);
}

#[test]
fn conditions_that_name_two_unknown_writes_may_see_them_in_either_order_of_calls() {
    let failed = |etag| Output::ConditionFailed(Some(etag));
    // Who was called first saw the later write.
    good(&[
        put((1, 2), "a", 5),
        put_unknown(3, "b"),
        put_unknown(4, "c"),
        put_if((5, 20), "d", Condition::IfAbsent, failed(8)),
        delete_if((6, 19), Condition::IfMatch(5), failed(7)),
    ]);
    bad(&[
        put((1, 2), "a", 5),
        put_unknown(3, "b"),
        put_unknown(4, "c"),
        put_if((5, 6), "d", Condition::IfAbsent, failed(8)),
        delete_if((7, 8), Condition::IfMatch(5), failed(7)),
    ]);
}

#[test]
fn equal_values_are_told_apart_by_their_etags() {
    good(&[
        put_unknown(1, "same"),
        put_unknown(1, "same"),
        get((2, 3), Some(("same", 5))),
        delete((4, 5)),
        get((6, 7), Some(("same", 6))),
    ]);
    bad(&[
        put_unknown(1, "same"),
        put_unknown(1, "same"),
        get((2, 3), Some(("same", 5))),
        get((4, 5), Some(("same", 6))),
        get((6, 7), Some(("same", 7))),
    ]);
    bad(&[
        put((1, 2), "same", 5),
        put((3, 4), "same", 6),
        get((5, 6), Some(("same", 5))),
    ]);
}

#[test]
fn etags_grow_in_the_order_of_the_writes() {
    bad(&[put((1, 2), "a", 6), put((3, 4), "b", 5)]);
    let text = bad(&[put((1, 2), "a", 5), put((1, 2), "b", 5)]);
    assert!(
        text.contains("two writes of \"k\" have the ETag 5"),
        "{text}"
    );
}

#[test]
fn a_report_shows_the_place_and_not_the_whole_history() {
    let mut history: Vec<Operation> = (0..200)
        .map(|i| put((2 * i, 2 * i + 1), &format!("value {i}"), i + 1))
        .collect();
    history.push(get((221, 222), Some(("value 50", 51))));
    let text = bad(&history);
    assert!(text.lines().count() < 6, "{text}");
    for part in ["GET \"k\" -> \"value 50\"", "PUT \"k\" = \"value 50\""] {
        assert!(text.contains(part), "no {part} in: {text}");
    }
}
