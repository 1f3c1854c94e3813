//! What follows from a key's history without a search: which write every ETag belongs to, which of the unknown
//! writes surely took effect, and which of them can be left out.
//!
//! An unknown PUT whose value was read took effect: it becomes a write like any other, with the ETag that was read
//! and no return. The others may or may not have; they are *optional*, and sorted into groups of which the search
//! needs to try only the first that is left.
//!
//! Why an optional write can be left out when nothing shows it: suppose that some order of the operations is a
//! witness, and that in it the next operation after the optional write w which changes the key, if there is one, is
//! unconditional, and that no answer between the two depends on w. Then the same order without w is a witness as
//! well: every answer before w is the same, there is none between, and after the unconditional write the key is what
//! it was. So an optional write is worth trying only directly before an operation whose answer depends on it: a read
//! or a failed condition that sees what it wrote, or a conditional write that it enables. (The search holds to that.)
//!
//! For a PUT this takes an answer that names its value or its ETag. If its value was never read, and every ETag that
//! any answer or condition names belongs to another write, there is no such operation, and the PUT is dropped here.
//! A DELETE can be seen by any answer that says "absent", so DELETEs stay.
//!
//! One assumption about clients: they take the ETags of their conditions from answers, they don't guess them. So the
//! condition of an optional write does not hold for an ETag that no answer named.

use super::{Condition, Input, Operation, Output, shown, told};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A value, by number.
pub type ValueId = u32;

/// The value of every write whose value nobody read.
pub const UNREAD: ValueId = u32::MAX;

/// What an operation that surely took place needs and does.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// Sees the value and its ETag, or nothing.
    Read(Option<(ValueId, u64)>),
    /// Sees the ETag, or nothing.
    Failed(Option<u64>),
    Write {
        /// `None`: deletes.
        value: Option<ValueId>,
        condition: Condition,
        etag: Option<u64>,
    },
}

/// Optional writes that differ in nothing but when they were called: any order of them is as good as that of their
/// calls.
#[derive(Debug)]
pub struct Group {
    pub value: Option<ValueId>,
    pub condition: Condition,
    /// When each was called; in order.
    pub calls: Vec<u64>,
}

/// All that the search needs.
pub struct Facts<'a> {
    /// Everything that took place: call, return if it bounds anything, and effect; in the order of calls.
    pub steps: Vec<(&'a Operation, Option<u64>, Step)>,
    pub groups: Vec<Group>,
    /// Values in the order of their numbers.
    pub values: Vec<&'a [u8]>,
    /// ETags that an answer names or implies, and of which it is open whose they are; with the value if a read
    /// told it. Every other ETag that is named belongs to a write of `steps`.
    pub open_etags: BTreeMap<u64, Option<ValueId>>,
}

fn condition_of(input: &Input) -> Option<Condition> {
    match input {
        Input::Get => None,
        Input::Put { condition, .. } | Input::Delete { condition } => Some(*condition),
    }
}

fn value_of(input: &Input) -> Option<&[u8]> {
    match input {
        Input::Put { value, .. } => Some(value),
        _ => None,
    }
}

/// An answer that a single glance shows to be wrong.
fn check_alone(operation: &Operation) -> Result<(), String> {
    match (&operation.output, condition_of(&operation.input)) {
        (Output::Unknown | Output::NotApplied, _) => return Ok(()),
        (Output::ConditionFailed(current), Some(condition)) => {
            let fails = match condition {
                Condition::None => false,
                Condition::IfMatch(etag) => *current != Some(etag),
                Condition::IfAbsent => current.is_some(),
                Condition::IfPresent => current.is_none(),
            };
            if !fails {
                let what = "the condition holds for the very ETag that the refusal names";
                return Err(told(what.to_owned(), &[operation]));
            }
        }
        (Output::Value(_), None) | (Output::Written(_), Some(_)) => {}
        _ => panic!("no such answer to this request: {operation:?}"),
    }
    let returned = operation
        .returned
        .expect("an operation with an answer has returned");
    assert!(operation.invoked <= returned, "{operation:?}");
    Ok(())
}

/// `operations` are those of one key in the order of their calls.
pub fn gather<'a>(operations: &[&'a Operation]) -> Result<Facts<'a>, String> {
    for operation in operations {
        check_alone(operation)?;
    }
    let mut owners = owners_by_answer(operations)?;
    let tied = tie_reads(operations, &mut owners)?;
    let open_etags = open_etags(operations, &owners, tied)?;
    let bound: HashMap<usize, u64> = owners.iter().map(|(&etag, &at)| (at, etag)).collect();

    let mut values: Vec<&[u8]> = Vec::new();
    let mut ids: HashMap<&[u8], ValueId> = HashMap::new();
    for operation in operations {
        if let Output::Value(Some((value, _))) = &operation.output {
            ids.entry(value).or_insert_with(|| {
                values.push(value);
                (values.len() - 1) as ValueId
            });
        }
    }
    let id = |value: &[u8]| ids.get(value).copied().unwrap_or(UNREAD);

    let mut steps = Vec::new();
    let mut groups: Vec<Group> = Vec::new();
    let mut group_of: HashMap<(Option<ValueId>, Condition), usize> = HashMap::new();
    for (at, &operation) in operations.iter().enumerate() {
        let step = match &operation.output {
            Output::NotApplied => continue,
            Output::Value(seen) => Step::Read(seen.as_ref().map(|(v, etag)| (id(v), *etag))),
            Output::ConditionFailed(current) => Step::Failed(*current),
            Output::Listed { .. } | Output::Transacted { .. } | Output::ChecksFailed(_) => {
                panic!("no answer of one key: {operation}")
            }
            Output::Written(_) | Output::Unknown => {
                let Some(condition) = condition_of(&operation.input) else {
                    continue;
                };
                let value = value_of(&operation.input).map(id);
                let etag = bound.get(&at).copied();
                if operation.output == Output::Unknown && etag.is_none() {
                    if value == Some(UNREAD) && open_etags.is_empty() {
                        continue;
                    }
                    let group = *group_of.entry((value, condition)).or_insert_with(|| {
                        groups.push(Group {
                            value,
                            condition,
                            calls: Vec::new(),
                        });
                        groups.len() - 1
                    });
                    groups[group].calls.push(operation.invoked);
                    continue;
                }
                Step::Write {
                    value,
                    condition,
                    etag,
                }
            }
        };
        let returned = match operation.output {
            Output::Unknown => None,
            _ => operation.returned,
        };
        steps.push((operation, returned, step));
    }
    let open_etags = open_etags
        .into_iter()
        .map(|(etag, value)| (etag, value.map(id)))
        .collect();
    Ok(Facts {
        steps,
        groups,
        values,
        open_etags,
    })
}

/// The write that each ETag belongs to, as the writes were answered.
fn owners_by_answer(operations: &[&Operation]) -> Result<HashMap<u64, usize>, String> {
    let mut owners = HashMap::new();
    for (at, operation) in operations.iter().enumerate() {
        if let Output::Written(Some(etag)) = operation.output
            && let Some(other) = owners.insert(etag, at)
        {
            let what = format!("two writes have the ETag {etag}");
            return Err(told(what, &[operations[other], operation]));
        }
    }
    Ok(owners)
}

/// Finds the write behind every read. Where only one write without an ETag can be meant, it gets the ETag; ETags for
/// which several writes of the same value remain are returned with that value.
fn tie_reads<'a>(
    operations: &[&'a Operation],
    owners: &mut HashMap<u64, usize>,
) -> Result<BTreeMap<u64, &'a [u8]>, String> {
    let mut writes: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (at, operation) in operations.iter().enumerate() {
        if let Some(value) = value_of(&operation.input) {
            writes.entry(value).or_default().push(at);
        }
    }
    let mut etags: HashMap<usize, u64> = owners.iter().map(|(&etag, &at)| (at, etag)).collect();
    let mut tied: BTreeMap<u64, &[u8]> = BTreeMap::new();
    for &read in operations {
        let Output::Value(Some((value, etag))) = &read.output else {
            continue;
        };
        if let Some(&owner) = owners.get(etag) {
            if value_of(&operations[owner].input) != Some(value) {
                let what = format!("the ETag {etag} came with two values");
                return Err(told(what, &[operations[owner], read]));
            }
            continue;
        }
        let of_value = writes.get(value.as_slice()).map_or(&[][..], |w| w);
        let effective = of_value
            .iter()
            .filter(|&&at| matches!(operations[at].output, Output::Written(_) | Output::Unknown));
        let mut open = effective.filter(|at| !etags.contains_key(at));
        match (open.next(), open.next()) {
            (Some(&at), None) if !tied.values().any(|other| other == value) => {
                owners.insert(*etag, at);
                etags.insert(at, *etag);
            }
            (Some(_), _) => {
                if let Some(other) = tied.insert(*etag, value)
                    && other != value
                {
                    let what = format!("the ETag {etag} came with two values");
                    return Err(told(format!("{what}, the other {}", shown(other)), &[read]));
                }
            }
            (None, _) => {
                let mut shown: Vec<&Operation> =
                    of_value.iter().map(|&at| operations[at]).collect();
                let what = match shown.first().map(|write| &write.output) {
                    None => "a read saw a value that nobody wrote",
                    Some(Output::NotApplied | Output::ConditionFailed(_)) => {
                        "a read saw a value whose write surely had no effect"
                    }
                    Some(_) => "a read saw the value of a write under another ETag than its own",
                };
                shown.push(read);
                return Err(told(what.to_owned(), &shown));
            }
        }
    }
    Ok(tied)
}

/// The ETags that are named and that no write is known to have. An optional write names none: see the module.
fn open_etags<'a>(
    operations: &[&Operation],
    owners: &HashMap<u64, usize>,
    tied: BTreeMap<u64, &'a [u8]>,
) -> Result<BTreeMap<u64, Option<&'a [u8]>>, String> {
    let bound: BTreeSet<usize> = owners.values().copied().collect();
    let any_open_put = operations.iter().enumerate().any(|(at, operation)| {
        value_of(&operation.input).is_some()
            && matches!(operation.output, Output::Written(_) | Output::Unknown)
            && !bound.contains(&at)
    });
    let mut open: BTreeMap<u64, Option<&[u8]>> = BTreeMap::new();
    for (at, operation) in operations.iter().enumerate() {
        let answered = match operation.output {
            Output::ConditionFailed(current) => current,
            _ => None,
        };
        let took_effect = matches!(operation.output, Output::Written(_)) || bound.contains(&at);
        let required = match condition_of(&operation.input) {
            Some(Condition::IfMatch(etag)) if took_effect => Some(etag),
            _ => None,
        };
        for etag in answered.into_iter().chain(required) {
            if let Some(&owner) = owners.get(&etag) {
                // A condition may name any ETag, an answer only that of a value.
                if answered == Some(etag) && value_of(&operations[owner].input).is_none() {
                    let what = format!("the ETag {etag} is that of a DELETE");
                    return Err(told(what, &[operations[owner], operation]));
                }
                continue;
            }
            if !any_open_put {
                let what = format!("no write can have the ETag {etag}");
                return Err(told(what, &[operation]));
            }
            open.entry(etag).or_insert(None);
        }
    }
    for (etag, value) in tied {
        open.insert(etag, Some(value));
    }
    Ok(open)
}
