//! The checker: given what clients asked and were told, and when, is there one order of all operations on all keys,
//! each somewhere between its call and its return, in which a single map would have given the same answers?

// Compiled into several test binaries, of which none uses all of it.
#![allow(dead_code, unused_imports)]

mod history;
mod single;

pub use history::{Condition, FailedCheck, Input, Key, Listed, Operation, Output, shown};
use std::fmt;

/// No map can have given the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What is wrong, and the operations that show it, one a line.
    pub text: String,
}

/// Checks a history; operations may come in any order.
pub fn check(history: &[Operation]) -> Result<(), Violation> {
    let of_keys: Vec<single::Operation> = history.iter().flat_map(of_keys).collect();
    single::check(&of_keys).map_err(|violation| Violation {
        text: violation.to_string(),
    })
}

/// What an operation is to each key alone.
fn of_keys(operation: &Operation) -> Vec<single::Operation> {
    let at = |key: &Key, input, output| single::Operation {
        key: key.clone(),
        node: operation.node,
        invoked: operation.invoked,
        returned: operation.returned,
        input,
        output,
    };
    let output = operation.output.clone();
    match &operation.input {
        Input::Get { key } => vec![at(key, single::Input::Get, output)],
        Input::Put {
            key,
            value,
            condition,
        } => {
            let (value, condition) = (value.clone(), *condition);
            vec![at(key, single::Input::Put { value, condition }, output)]
        }
        Input::Delete { key, condition } => {
            let condition = *condition;
            vec![at(key, single::Input::Delete { condition }, output)]
        }
        Input::List { .. } => Vec::new(),
        Input::Transaction { writes, .. } => {
            let condition = Condition::None;
            let output = match output {
                Output::Transacted { index, .. } => Output::Written(Some(index)),
                Output::ChecksFailed(_) => Output::NotApplied,
                output => output,
            };
            let writes = writes.iter().map(|(key, value)| match value {
                Some(value) => {
                    let value = value.clone();
                    at(key, single::Input::Put { value, condition }, output.clone())
                }
                None => at(key, single::Input::Delete { condition }, output.clone()),
            });
            writes.collect()
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.text)
    }
}

impl std::error::Error for Violation {}
