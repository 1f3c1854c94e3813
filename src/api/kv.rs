//! Keys: GET, HEAD, PUT, DELETE.

use super::body::Body;
use super::condition::{self, Conditions};
use super::error_code::Code;
use super::path::ReadOptions;
use super::reply::{self, Reply, ReplyResult, RequestKind, ValueForm};
use super::{Front, accept, hint, path};
use crate::command::outcome::Outcome;
use crate::command::{Command, Kind};
use crate::limits;
use crate::store::Value;
use bytes::Bytes;
use hyper::Method;
use hyper::http::request::Parts;
use std::borrow::Cow;
use tokio::task::yield_now;
use tokio::time::Instant;

impl Front {
    /// GET and HEAD of a key.
    pub(super) async fn read(
        &self,
        head: &Parts,
        key: &[u8],
        options: ReadOptions,
        deadline: Instant,
    ) -> ReplyResult {
        let value = self.look_up(head, key, options, deadline).await?;
        let form = match accept::is_wanted(&head.headers, &["text/html"]) {
            true => form(&value.bytes).await,
            false => ValueForm::Bytes,
        };
        Ok(reply::value(value.bytes, value.index, form))
    }

    /// The value for a GET. Every other answer is an `Err`.
    pub(super) async fn look_up(
        &self,
        head: &Parts,
        key: &[u8],
        options: ReadOptions,
        deadline: Instant,
    ) -> Result<Value, Box<Reply>> {
        let conditions = Conditions::of(&head.headers)?;
        if !options.stale {
            let caught_up = self.catch_up(deadline).await;
            caught_up.map_err(|why| self.not_proposed(RequestKind::Read, why))?;
        }
        let Some(value) = self.api.state_machine.store.get(key) else {
            // A condition is checked only if the request would succeed without the condition.
            return Err(no_such_key(head, key));
        };
        if let Some(etags) = &conditions.if_match
            && !condition::matches(etags, value.index)
        {
            return Err(reply::read_condition_failed(value.index));
        }
        if let Some(etags) = &conditions.if_none_match
            && condition::matches(etags, value.index)
        {
            return Err(Box::new(reply::not_modified(value.index)));
        }
        Ok(value)
    }

    /// PUT and DELETE of a key.
    pub(super) async fn write(
        &self,
        head: &Parts,
        key: Cow<'_, [u8]>,
        body: &mut Body,
        deadline: Instant,
    ) -> ReplyResult {
        let conditions = Conditions::of(&head.headers)?;
        let mut command = Command::new();
        command.if_match = conditions.if_match.into();
        command.if_none_match = conditions.if_none_match.into();
        command.key = match key {
            Cow::Borrowed(key) => Bytes::copy_from_slice(key),
            Cow::Owned(key) => Bytes::from(key),
        };
        let is_put = head.method == Method::PUT;
        let received = if is_put {
            let limit = self.api.limits.value_bytes_max;
            let received = body.receive(&self.body_bytes, limit, RequestKind::Write, deadline);
            Some(
                received
                    .await
                    .map_err(|refused| name_option(refused, limit))?,
            )
        } else {
            None
        };
        command.kind = if is_put { Kind::Put } else { Kind::Delete };
        if let Some(received) = &received {
            command.value = received.bytes.clone();
        }
        // The room is held until the request ends, with a known outcome or at the deadline.
        let _room = match is_put {
            true => self.take_room(command.key.len() + command.value.len())?,
            false => None,
        };
        match self.propose(command, deadline).await {
            Outcome::Applied { index } => Ok(reply::done(is_put.then_some(index))),
            Outcome::ConditionFailed { current } => Err(reply::condition_failed(current)),
            other @ (Outcome::Refused(_)
            | Outcome::Transacted { .. }
            | Outcome::ChecksFailed(_)) => {
                panic!("{other:?} is no outcome of a single write")
            }
            Outcome::NotProposed(why) => Err(self.not_proposed(RequestKind::Write, why)),
            Outcome::Unknown => Err(reply::unknown(RequestKind::Write)),
        }
    }
}

/// Whether a browser can show the value as text. Between the pieces of a large value, other requests get their turn.
async fn form(value: &[u8]) -> ValueForm {
    let mut rest = value;
    while !rest.is_empty() {
        let piece = &rest[..rest.len().min(limits::TEXT_PIECE_BYTES)];
        let read = match std::str::from_utf8(piece) {
            Ok(_) => piece.len(),
            // The piece ends within a character.
            Err(error) if error.error_len().is_none() && piece.len() < rest.len() => {
                error.valid_up_to()
            }
            Err(_) => return ValueForm::Bytes,
        };
        rest = &rest[read..];
        yield_now().await;
    }
    ValueForm::Text
}

/// 404, with a hint for clients that expect the paths of another store.
fn no_such_key(head: &Parts, key: &[u8]) -> Box<Reply> {
    let at_root = path::decode(head.uri.path()).is_ok_and(|path| *path == *key);
    match hint::meant(key).filter(|_| at_root) {
        Some(meant) => reply::error(
            Code::NoSuchKey,
            format!("there is no such key; did you mean {meant}?"),
        ),
        None => reply::error(Code::NoSuchKey, "there is no such key"),
    }
}

/// Names the option in the refusal of a value that is too large.
fn name_option(refused: Box<Reply>, limit: usize) -> Box<Reply> {
    match refused.extensions().get() {
        Some(Code::TooLarge) => reply::error(
            Code::TooLarge,
            format!(
                "the value is too large, at most {limit} bytes are allowed: see --max-value-bytes"
            ),
        ),
        _ => refused,
    }
}
