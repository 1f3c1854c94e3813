//! What clients asked and what they were told: the history that is judged.

use std::fmt;

pub type Key = Vec<u8>;

/// What a client asked, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Operation {
    /// Which member was asked. Only printed.
    pub node: u64,
    /// When the client began to send it.
    pub invoked: u64,
    /// When the client had the answer; `None` if none came.
    pub returned: Option<u64>,
    pub input: Input,
    pub output: Output,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Input {
    /// A linearizable read.
    Get {
        key: Key,
    },
    Put {
        key: Key,
        value: Vec<u8>,
        condition: Condition,
    },
    Delete {
        key: Key,
        condition: Condition,
    },
    /// One page of a linearizable list: the least keys of those with the prefix and behind `after`.
    List {
        prefix: Vec<u8>,
        after: Option<Key>,
        /// The most keys that the page may have, if the client said so.
        limit: Option<usize>,
        /// With their values.
        values: bool,
    },
    /// All writes if all checks hold; a write without a value deletes. No key is written twice.
    Transaction {
        checks: Vec<(Key, Condition)>,
        writes: Vec<(Key, Option<Vec<u8>>)>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    None,
    /// `If-Match: "<etag>"`
    IfMatch(u64),
    /// `If-None-Match: *`
    IfAbsent,
    /// `If-Match: *`
    IfPresent,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Output {
    /// A read's answer: the value and its ETag, or that there is none.
    Value(Option<(Vec<u8>, u64)>),
    /// A PUT or a DELETE took effect (204); its ETag, which the answer to a PUT always has.
    Written(Option<u64>),
    /// A PUT or a DELETE did not take effect (412); the ETag of what is there.
    ConditionFailed(Option<u64>),
    /// A page of a list, as of an index.
    Listed {
        index: u64,
        entries: Vec<Listed>,
        /// There are further keys behind the last one (`next` is not null).
        more: bool,
    },
    /// A transaction took effect (200): its ETag, and for each of its writes whether the key was there before.
    Transacted { index: u64, existed: Vec<bool> },
    /// A transaction did not take effect (412): the checks that failed, in their order. All others held.
    ChecksFailed(Vec<FailedCheck>),
    /// It had no effect and never will (503, outcome "none").
    NotApplied,
    /// A write may take effect at any later time, or never; a read got no answer.
    Unknown,
}

/// A key of a list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Listed {
    pub key: Key,
    pub etag: u64,
    /// If values were asked for.
    pub value: Option<Vec<u8>>,
}

/// A check of a transaction that did not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FailedCheck {
    /// Its place among the checks, from 0.
    pub position: usize,
    /// The ETag of what is there.
    pub current: Option<u64>,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let returned = self.returned.map_or("never".to_owned(), |t| t.to_string());
        let (invoked, node) = (self.invoked, self.node);
        write!(
            f,
            "[{invoked} .. {returned}] node {node}: {} -> ",
            self.input
        )?;
        match (&self.output, &self.input) {
            (Output::ChecksFailed(failed), Input::Transaction { checks, .. }) => {
                write!(f, "checks failed")?;
                for (position, check) in failed.iter().enumerate() {
                    write!(f, "{}", if position == 0 { ": " } else { ", " })?;
                    match checks.get(check.position) {
                        Some((key, _)) => write!(f, "{} is ", shown(key))?,
                        None => write!(f, "number {} is ", check.position)?,
                    }
                    write_etag(f, check.current)?;
                }
                Ok(())
            }
            (output, _) => write!(f, "{output}"),
        }
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Input::Get { key } => write!(f, "GET {}", shown(key)),
            Input::Put {
                key,
                value,
                condition,
            } => write!(f, "PUT {} = {}{condition}", shown(key), shown(value)),
            Input::Delete { key, condition } => write!(f, "DELETE {}{condition}", shown(key)),
            Input::List {
                prefix,
                after,
                limit,
                values,
            } => {
                write!(f, "LIST {}*", shown(prefix))?;
                if let Some(after) = after {
                    write!(f, " after {}", shown(after))?;
                }
                if let Some(limit) = limit {
                    write!(f, " limit {limit}")?;
                }
                write!(f, "{}", if *values { " with values" } else { "" })
            }
            Input::Transaction { checks, writes } => {
                write!(f, "TXN {{")?;
                for (position, (key, value)) in writes.iter().enumerate() {
                    write!(f, "{}", if position == 0 { "" } else { ", " })?;
                    match value {
                        Some(value) => write!(f, "{} = {}", shown(key), shown(value))?,
                        None => write!(f, "delete {}", shown(key))?,
                    }
                }
                write!(f, "}}")?;
                for (key, condition) in checks {
                    write!(f, ", {}{condition}", shown(key))?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::None => Ok(()),
            Condition::IfMatch(etag) => write!(f, " if the etag is {etag}"),
            Condition::IfAbsent => write!(f, " if absent"),
            Condition::IfPresent => write!(f, " if present"),
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Output::Value(None) => write!(f, "absent"),
            Output::Value(Some((value, etag))) => write!(f, "{}, etag {etag}", shown(value)),
            Output::Written(None) => write!(f, "written"),
            Output::Written(Some(etag)) => write!(f, "written, etag {etag}"),
            Output::ConditionFailed(current) => {
                write!(f, "condition failed: it is ")?;
                write_etag(f, *current)
            }
            Output::Listed {
                index,
                entries,
                more,
            } => {
                write!(f, "as of {index}: ")?;
                for entry in entries {
                    write!(f, "{}", shown(&entry.key))?;
                    if let Some(value) = &entry.value {
                        write!(f, " = {}", shown(value))?;
                    }
                    write!(f, " (etag {}), ", entry.etag)?;
                }
                write!(f, "{}", if *more { "and more" } else { "no more" })
            }
            Output::Transacted { index, existed } => {
                write!(f, "done, etag {index}, before ")?;
                for (position, existed) in existed.iter().enumerate() {
                    write!(f, "{}", if position == 0 { "" } else { ", " })?;
                    write!(f, "{}", if *existed { "present" } else { "absent" })?;
                }
                Ok(())
            }
            Output::ChecksFailed(failed) => write!(f, "checks failed: {failed:?}"),
            Output::NotApplied => write!(f, "surely not applied"),
            Output::Unknown => write!(f, "unknown"),
        }
    }
}

fn write_etag(f: &mut fmt::Formatter<'_>, etag: Option<u64>) -> fmt::Result {
    match etag {
        Some(etag) => write!(f, "of etag {etag}"),
        None => write!(f, "absent"),
    }
}

/// Bytes for people; the beginning of long ones.
pub fn shown(bytes: &[u8]) -> String {
    const SHOWN: usize = 40;
    let text = bytes[..bytes.len().min(SHOWN)].escape_ascii();
    match bytes.len() {
        0..=SHOWN => format!("\"{text}\""),
        length => format!("\"{text}...\" ({length} bytes)"),
    }
}

/// A statement with the operations that show it.
pub fn told(what: &str, operations: &[&Operation]) -> String {
    let mut text = what.to_owned();
    for operation in operations {
        text += &format!("\n    {operation}");
    }
    text
}
