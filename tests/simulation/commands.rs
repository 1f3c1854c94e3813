//! What a client's operation is to a member, and what the member's answer is to the client: as the API translates them.

use crate::checker::{Condition, FailedCheck, Input, Key, Output};
use raftkvd::command::outcome::Outcome;
use raftkvd::command::{Check, Command, Etags, Kind, Transaction, Write};

/// The command of a write. The unique value stays in it also where the daemon ignores it, in a deletion and in a
/// transaction: the oracle knows the command by that.
pub fn command(input: &Input, unique: &[u8]) -> Command {
    let mut command = Command::new();
    command.value = unique.to_vec().into();
    match input {
        Input::Put { key, condition, .. } | Input::Delete { key, condition } => {
            command.kind = match input {
                Input::Put { .. } => Kind::Put,
                _ => Kind::Delete,
            };
            command.key = key.clone().into();
            let (if_match, if_none_match) = etags(*condition);
            command.if_match = if_match.into();
            command.if_none_match = if_none_match.into();
        }
        Input::Transaction { checks, writes } => {
            command.kind = Kind::Transaction;
            command.transaction = Some(transaction(checks, writes)).into();
        }
        Input::Get { .. } | Input::List { .. } => panic!("a read is no command: {input}"),
    }
    command
}

fn etags(condition: Condition) -> (Option<Etags>, Option<Etags>) {
    let mut etags = Etags::new();
    etags.any = matches!(condition, Condition::IfAbsent | Condition::IfPresent);
    match condition {
        Condition::None => (None, None),
        Condition::IfMatch(etag) => {
            etags.indexes = vec![etag];
            (Some(etags), None)
        }
        Condition::IfPresent => (Some(etags), None),
        Condition::IfAbsent => (None, Some(etags)),
    }
}

fn transaction(checks: &[(Key, Condition)], writes: &[(Key, Option<Vec<u8>>)]) -> Transaction {
    let mut transaction = Transaction::new();
    for (key, condition) in checks {
        let mut check = Check::new();
        check.key = key.clone().into();
        let (if_match, if_none_match) = etags(*condition);
        check.if_match = if_match.into();
        check.if_none_match = if_none_match.into();
        transaction.checks.push(check);
    }
    for (key, value) in writes {
        let mut write = Write::new();
        write.key = key.clone().into();
        write.delete = value.is_none();
        write.value = value.clone().unwrap_or_default().into();
        transaction.writes.push(write);
    }
    transaction
}

/// What the client of a write is told.
pub fn output(outcome: Outcome) -> Output {
    match outcome {
        Outcome::Applied { index } => Output::Written(Some(index)),
        Outcome::Transacted { index, existed } => Output::Transacted {
            index,
            existed: existed.into(),
        },
        Outcome::ConditionFailed { current } => Output::ConditionFailed(current),
        Outcome::ChecksFailed(failed) => {
            let failed = failed.iter().map(|check| FailedCheck {
                position: check.position,
                current: check.current,
            });
            Output::ChecksFailed(failed.collect())
        }
        Outcome::NotProposed(_) => Output::NotApplied,
        Outcome::Unknown => Output::Unknown,
        Outcome::Refused(why) => panic!("a write was refused: {why}"),
    }
}

/// The ETags that an answer names.
pub fn told<'a>(input: &'a Input, output: &Output) -> Vec<(&'a Key, u64)> {
    match (input, output) {
        (Input::Get { key }, Output::Value(Some((_, etag))))
        | (Input::Put { key, .. }, Output::Written(Some(etag))) => vec![(key, *etag)],
        (Input::Transaction { writes, .. }, Output::Transacted { index, .. }) => {
            let puts = writes.iter().filter(|(_, value)| value.is_some());
            puts.map(|(key, _)| (key, *index)).collect()
        }
        _ => Vec::new(),
    }
}
