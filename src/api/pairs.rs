//! The JSON API of hraftd on the same map: `POST /key` sets the pairs of an object, `GET /key/<k>` shows a pair,
//! `DELETE /key/<k>` removes a pair. Successful answers are 200, as in hraftd.

use super::body::Body;
use super::error_code::Code;
use super::json_budget::{self, BudgetedText, SharedText, TextName};
use super::path::{self, ReadOptions};
use super::reply::{self, Reply, ReplyResult, RequestKind};
use super::txn::no_conditions;
use super::{Front, json};
use crate::command::Transaction;
use crate::limits;
use crate::workers::Stopped;
use bytes::Bytes;
use hyper::http::request::Parts;
use std::borrow::Cow;
use std::sync::Arc;
use tokio::time::Instant;

impl Front {
    /// `POST /key`: sets all pairs in one transaction.
    pub(super) async fn set_pairs(
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
        let writes = json::pairs(&received.bytes, &self.api.limits)?;
        if writes.is_empty() {
            return Ok(reply::empty(None));
        }
        let mut transaction = Transaction::new();
        transaction.writes = writes.into();
        match self.propose_transaction(transaction, deadline).await? {
            Ok(done) => Ok(reply::empty(Some(done.index))),
            Err(failed) => panic!("{failed:?} failed of no checks"),
        }
    }

    /// GET and HEAD of `/key/<k>`.
    pub(super) async fn read_pair(
        &self,
        head: &Parts,
        key: &[u8],
        options: ReadOptions,
        deadline: Instant,
    ) -> ReplyResult {
        let value = self.look_up(head, key, options, deadline).await?;
        let Ok(key) = std::str::from_utf8(key) else {
            return Err(not_utf8(key));
        };
        let Ok(text_of_value) = std::str::from_utf8(&value.bytes) else {
            return Err(not_utf8(key.as_bytes()));
        };
        // The answer has the same bytes as that of hraftd, so no newline follows.
        let bytes = "{:}".len() + json::quoted_bytes(key) + json::quoted_bytes(text_of_value);
        let make = || self.make_pair(key, &value.bytes, text_of_value, bytes);
        let text = match bytes > limits::JSON_SHARED_BYTES_MIN {
            true => {
                let text = self.json_texts.get(TextName::Pair {
                    key: key.as_bytes().to_vec(),
                    index: value.index,
                });
                text.get_or_try_init(make).await?;
                text
            }
            false => Arc::new(SharedText::new_with(Some(make().await?))),
        };
        let mut reply = json_budget::to_reply(text);
        reply::set_etag(&mut reply, Some(value.index));
        Ok(reply)
    }

    /// The JSON of a key and its value, of this many bytes.
    async fn make_pair(
        &self,
        key: &str,
        value: &Bytes,
        text: &str,
        bytes: usize,
    ) -> Result<BudgetedText, Box<Reply>> {
        let share = self.json_texts.share(bytes).ok_or_else(|| {
            let line = "not read: too much JSON is being sent; try again, or read the bytes at ";
            reply::unavailable(Code::QueueFull, line.to_owned() + &raw_url(key.as_bytes()))
        })?;
        if bytes <= limits::JSON_INLINE_BYTES_MAX {
            return Ok(share.text(json::pair(key, text, bytes)));
        }
        let (key, value) = (key.to_owned(), value.clone());
        let making = self.api.workers.run(move || {
            let text = std::str::from_utf8(&value).expect("it was UTF-8 before");
            share.text(json::pair(&key, text, bytes))
        });
        making.await.map_err(stopping)
    }

    /// `DELETE /key/<k>`.
    pub(super) async fn delete_pair(
        &self,
        head: &Parts,
        key: Cow<'_, [u8]>,
        body: &mut Body,
        deadline: Instant,
    ) -> ReplyResult {
        self.write(head, key, body, deadline).await?;
        Ok(reply::empty(None))
    }
}

/// 503: this member ends.
pub(super) fn stopping(why: Stopped) -> Box<Reply> {
    reply::unavailable(
        Code::Stopping,
        format!("not read: {why}; ask another member"),
    )
}

fn not_utf8(key: &[u8]) -> Box<Reply> {
    let line = "the key or its value is not UTF-8, which JSON has to be; the bytes are at ";
    reply::error(Code::NotUtf8, line.to_owned() + &raw_url(key))
}

fn raw_url(key: &[u8]) -> String {
    let path = path::percent_encode(key);
    if path.len() > 200 {
        "/-/kv/<key>".to_owned()
    } else {
        format!("/-/kv/{path}")
    }
}
