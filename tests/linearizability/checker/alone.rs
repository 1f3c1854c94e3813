//! What a single answer shows to be wrong, without any other.

use super::{Condition, Input, Operation, Output, told};

/// An answer contradicts its own request, or itself. Panics if it is no answer to such a request at all.
pub fn check_alone(operation: &Operation) -> Result<(), String> {
    let what = match (&operation.input, &operation.output) {
        (_, Output::Unknown | Output::NotApplied) => return Ok(()),
        (Input::Get { .. }, Output::Value(_))
        | (Input::Put { .. }, Output::Written(Some(_)))
        | (Input::Delete { .. }, Output::Written(_)) => None,
        (
            Input::Put { condition, .. } | Input::Delete { condition, .. },
            Output::ConditionFailed(current),
        ) => refusal(*condition, *current),
        (Input::Transaction { checks, .. }, Output::ChecksFailed(failed)) => {
            let ascending = failed.is_sorted_by(|a, b| a.position < b.position);
            let mut wrong = match failed.last() {
                None => Some("nothing is told that failed"),
                Some(last) if !ascending || last.position >= checks.len() => {
                    Some("it tells checks that it was not asked, or not in their order")
                }
                Some(_) => None,
            };
            for check in failed {
                let condition = checks.get(check.position).map(|(_, condition)| *condition);
                let condition = condition.unwrap_or(Condition::None);
                wrong = wrong.or_else(|| refusal(condition, check.current));
            }
            wrong
        }
        (Input::Transaction { writes, .. }, Output::Transacted { existed, .. }) => {
            (writes.len() != existed.len()).then_some("it does not tell of each write")
        }
        (Input::List { .. }, Output::Listed { .. }) => page(operation),
        _ => panic!("no such answer to this request: {operation}"),
    };
    let returned = operation
        .returned
        .expect("an operation with an answer has returned");
    assert!(operation.invoked <= returned, "{operation}");
    what.map_or(Ok(()), |what| Err(told(what, &[operation])))
}

/// A condition that does not fail where it is said to have failed.
fn refusal(condition: Condition, current: Option<u64>) -> Option<&'static str> {
    let fails = match condition {
        Condition::None => false,
        Condition::IfMatch(etag) => current != Some(etag),
        Condition::IfAbsent => current.is_some(),
        Condition::IfPresent => current.is_none(),
    };
    (!fails).then_some("the condition holds for the very ETag that the refusal names")
}

fn page(operation: &Operation) -> Option<&'static str> {
    let Input::List {
        prefix,
        after,
        limit,
        values,
    } = &operation.input
    else {
        return None;
    };
    let Output::Listed {
        index,
        entries,
        more,
    } = &operation.output
    else {
        return None;
    };
    let after = after.as_deref().unwrap_or_default();
    let in_range = |key: &[u8]| key > after && key.starts_with(prefix);
    if !entries.is_sorted_by(|a, b| a.key < b.key) {
        Some("the keys of a list don't ascend")
    } else if entries.iter().any(|entry| !in_range(&entry.key)) {
        Some("a list has a key that it was not asked for")
    } else if limit.is_some_and(|limit| entries.len() > limit) {
        Some("a list is longer than it was asked to be")
    } else if entries.is_empty() && *more {
        Some("a page without a key says that there are more")
    } else if entries.iter().any(|entry| entry.etag > *index) {
        Some("a list has an ETag that is newer than the list")
    } else if entries.iter().any(|entry| entry.value.is_some() != *values) {
        Some("a list has values and was not asked for them, or the other way round")
    } else {
        None
    }
}
