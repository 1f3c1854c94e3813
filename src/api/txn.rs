//! Transactions: `POST /-/txn` takes conditions and operations on many keys, and applies all operations or none.

use super::body::Body;
use super::condition::Conditions;
use super::error_code::Code;
use super::reply::{self, Reply, ReplyResult, RequestKind};
use super::{Front, json};
use crate::command::outcome::{FailedCheck, NotProposed, Outcome};
use crate::command::{Command, Kind, Transaction};
use crate::limits;
use hyper::StatusCode;
use hyper::http::request::Parts;
use serde::Serialize;
use tokio::time::Instant;

/// The outcome of a transaction whose conditions held.
pub(super) struct Transacted {
    /// The ETag of every key that the transaction put.
    pub(super) index: u64,
    /// For each write, whether the key existed before.
    pub(super) existed: Box<[bool]>,
}

impl Front {
    /// `POST /-/txn`.
    pub(super) async fn transact(
        &self,
        head: &Parts,
        body: &mut Body,
        deadline: Instant,
    ) -> ReplyResult {
        no_conditions(head)?;
        let limit = limits::TXN_BODY_BYTES_MAX;
        let received = body
            .receive(&self.body_bytes, limit, RequestKind::Write, deadline)
            .await?;
        let transaction = json::transaction(&received.bytes, &self.api.limits)?;
        // The copy shares the keys and values.
        let asked = transaction.clone();
        // The share is taken before the transaction is proposed, because the result of an applied transaction must be
        // reported.
        let share = self.share_of_answers(answer_bytes_max(&asked));
        let share = share.ok_or_else(|| {
            let failed = &self.api.metrics.proposals_failed;
            failed.add(Code::QueueFull.text());
            reply::not_proposed(RequestKind::Write, NotProposed::QueueFull)
        })?;
        match self.propose_transaction(transaction, deadline).await? {
            Ok(done) => {
                let mut reply = share.json(done_json(&asked, &done));
                reply::set_etag(&mut reply, Some(done.index));
                Ok(reply)
            }
            Err(failed) => {
                let mut reply = share.json(failed_json(&asked, &failed));
                *reply.status_mut() = StatusCode::PRECONDITION_FAILED;
                Ok(reply)
            }
        }
    }

    /// Proposes a transaction. Returns its result, or the checks that failed.
    pub(super) async fn propose_transaction(
        &self,
        transaction: Transaction,
        deadline: Instant,
    ) -> Result<Result<Transacted, Box<[FailedCheck]>>, Box<Reply>> {
        let puts = transaction.writes.iter().filter(|write| !write.delete);
        let bytes: usize = puts.map(|put| put.key.len() + put.value.len()).sum();
        let _room = match bytes {
            0 => None,
            _ => self.take_room(bytes)?,
        };
        let mut command = Command::new();
        command.kind = Kind::Transaction;
        command.transaction = Some(transaction).into();
        match self.propose(command, deadline).await {
            Outcome::Transacted { index, existed } => Ok(Ok(Transacted { index, existed })),
            Outcome::ChecksFailed(failed) => Ok(Err(failed)),
            Outcome::NotProposed(why) => Err(self.not_proposed(RequestKind::Write, why)),
            Outcome::Unknown => Err(reply::unknown(RequestKind::Write)),
            other @ (Outcome::Applied { .. }
            | Outcome::ConditionFailed { .. }
            | Outcome::Refused(_)) => panic!("{other:?} is no outcome of a transaction"),
        }
    }
}

/// Refuses conditions in the header. Such a condition applies to one key, and the path of a transaction has no key.
pub(super) fn no_conditions(head: &Parts) -> Result<(), Box<Reply>> {
    if Conditions::of(&head.headers)?.is_empty() {
        return Ok(());
    }
    Err(reply::error(
        Code::BadCondition,
        "If-Match and If-None-Match don't apply here: POST /-/txn takes conditions in its body",
    ))
}

/// An upper bound of the length of the answer. A byte of a key takes at most six bytes as an escape.
fn answer_bytes_max(asked: &Transaction) -> usize {
    const REST_BYTES_MAX: usize = 128;
    let checks = asked.checks.iter().map(|check| check.key.len());
    let keys = checks.chain(asked.writes.iter().map(|write| write.key.len()));
    keys.map(|bytes| 6 * bytes + REST_BYTES_MAX).sum::<usize>() + REST_BYTES_MAX
}

/// The answer to a transaction whose conditions hold.
#[derive(Serialize)]
struct DoneAnswer<'a> {
    succeeded: bool,
    etag: json::Etag,
    operations: Vec<OperationOutcome<'a>>,
}

#[derive(Serialize)]
struct OperationOutcome<'a> {
    op: &'static str,
    #[serde(flatten)]
    key: json::KeyJson<'a>,
    outcome: &'static str,
}

fn done_json(asked: &Transaction, done: &Transacted) -> Vec<u8> {
    let operations = asked.writes.iter().zip(&done.existed);
    let operations = operations.map(|(write, existed)| {
        let (op, outcome) = match (write.delete, existed) {
            (false, false) => ("put", "created"),
            (false, true) => ("put", "replaced"),
            (true, true) => ("delete", "deleted"),
            (true, false) => ("delete", "absent"),
        };
        let key = json::KeyJson::of(&write.key);
        OperationOutcome { op, key, outcome }
    });
    json::items_in_lines(&DoneAnswer {
        succeeded: true,
        etag: json::Etag(done.index),
        operations: operations.collect(),
    })
}

/// The answer to a transaction whose conditions do not hold.
#[derive(Serialize)]
struct FailedAnswer<'a> {
    succeeded: bool,
    failed: Vec<Failed<'a>>,
}

#[derive(Serialize)]
struct Failed<'a> {
    condition: usize,
    #[serde(flatten)]
    key: json::KeyJson<'a>,
    etag: Option<json::Etag>,
}

fn failed_json(asked: &Transaction, failed: &[FailedCheck]) -> Vec<u8> {
    let condition = |check: &FailedCheck| Failed {
        condition: check.position,
        key: json::KeyJson::of(&asked.checks[check.position].key),
        etag: check.current.map(json::Etag),
    };
    json::items_in_lines(&FailedAnswer {
        succeeded: false,
        failed: failed.iter().map(condition).collect(),
    })
}
