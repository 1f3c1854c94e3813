//! The linearizability checker: given what clients asked and were told, and when, is there an order of all
//! operations on a key, each somewhere between its call and its return, in which a single map would have given the
//! same answers?
//!
//! The simulation and the cluster tests record [`Operation`]s and hand them to [`check`]. Keys are independent of
//! each other, so each is checked alone: first what can be said without a search (`facts`), then the search (`search`).
//!
//! Beyond plain linearizability the checker knows that an ETag is the place of a write in the log: one ETag belongs
//! to one write, and ETags grow in the order in which writes take effect. That makes it stricter, and fast: the order
//! of acknowledged PUTs is given, and only DELETEs (whose 204 has no ETag) and unknown outcomes are left to search.
//!
//! Clients must not guess the ETags of their conditions: each has to come from an answer, or be one that no write can
//! have. Every key is absent in the beginning. Times may be of any clock that all clients share; an operation that is called
//! at the very time at which another one returns counts as concurrent with it.

mod facts;
mod search;

pub use super::history::{Condition, Output, shown};
use std::collections::BTreeMap;
use std::fmt;

/// What a client asked, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    pub key: Vec<u8>,
    /// Which member was asked. Only printed.
    pub node: u64,
    /// When the client began to send it.
    pub invoked: u64,
    /// When the client had the answer; `None` if none came.
    pub returned: Option<u64>,
    pub input: Input,
    pub output: Output,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A linearizable read.
    Get,
    Put {
        value: Vec<u8>,
        condition: Condition,
    },
    Delete {
        condition: Condition,
    },
}

/// The history of a key that no map can have given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub key: Vec<u8>,
    /// What is wrong, and the operations that show it, one a line.
    pub text: String,
}

/// Checks a history; operations may come in any order.
pub fn check(history: &[Operation]) -> Result<(), Violation> {
    let mut keys: BTreeMap<&[u8], Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(&operation.key).or_default().push(operation);
    }
    for (key, mut operations) in keys {
        operations.sort_by_key(|operation| operation.invoked);
        let result = facts::gather(&operations).and_then(|facts| search::search(&facts));
        result.map_err(|text| Violation {
            key: key.to_owned(),
            text,
        })?;
    }
    Ok(())
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the history of key {} is not linearizable: {}",
            shown(&self.key),
            self.text
        )
    }
}

impl std::error::Error for Violation {}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let returned = self.returned.map_or("never".to_owned(), |t| t.to_string());
        write!(f, "[{} .. {returned}] node {}: ", self.invoked, self.node)?;
        let condition = match &self.input {
            Input::Get => {
                write!(f, "GET")?;
                &Condition::None
            }
            Input::Put { value, condition } => {
                write!(f, "PUT {}", shown(value))?;
                condition
            }
            Input::Delete { condition } => {
                write!(f, "DELETE")?;
                condition
            }
        };
        write!(f, "{condition} -> {}", self.output)
    }
}

/// A statement with the operations that show it.
fn told(what: String, operations: &[&Operation]) -> String {
    let mut text = what;
    for operation in operations {
        text += &format!("\n    {operation}");
    }
    text
}
