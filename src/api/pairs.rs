//! The JSON API of hraftd, on the same map: `POST /key` sets the pairs of an object, `GET /key/<k>` shows one,
//! `DELETE /key/<k>` removes it. Answers are 200, as hraftd's are.

use super::body::Body;
use super::code::Code;
use super::path::{self, ReadOptions};
use super::reply::{self, Answer, Wish};
use super::txn::no_conditions;
use super::{Front, json};
use crate::command::Transaction;
use crate::config;
use hyper::http::request::Parts;
use std::borrow::Cow;
use tokio::time::Instant;

impl Front {
    /// `POST /key`: all pairs at once.
    pub(super) async fn set_pairs(
        &self,
        head: &Parts,
        body: &mut Body,
        deadline: Instant,
    ) -> Answer {
        no_conditions(head)?;
        let limit = config::TXN_BODY_BYTES_MAX;
        let received = body
            .receive(&self.body_bytes, limit, Wish::Write, deadline)
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
    ) -> Answer {
        let value = self.look_up(head, key, options, deadline).await?;
        let texts = std::str::from_utf8(key).and_then(|key| {
            let text = std::str::from_utf8(&value.bytes)?;
            Ok((key, text))
        });
        let Ok((key, text)) = texts else {
            return Err(reply::error(
                Code::NotUtf8,
                format!(
                    "the key or its value is not UTF-8, which JSON has to be; the bytes are at {}",
                    raw_url(key)
                ),
            ));
        };
        // Byte for byte what hraftd answers, so without a newline.
        let pair = format!("{{{}:{}}}", json::quoted(key), json::quoted(text));
        let mut reply = reply::json(pair);
        reply::set_etag(&mut reply, Some(value.index));
        Ok(reply)
    }

    /// `DELETE /key/<k>`.
    pub(super) async fn delete_pair(
        &self,
        head: &Parts,
        key: Cow<'_, [u8]>,
        body: &mut Body,
        deadline: Instant,
    ) -> Answer {
        self.write(head, key, body, deadline).await?;
        Ok(reply::empty(None))
    }
}

fn raw_url(key: &[u8]) -> String {
    let path = path::percent_encode(key);
    if path.len() > 200 {
        "/-/kv/<key>".to_owned()
    } else {
        format!("/-/kv/{path}")
    }
}
