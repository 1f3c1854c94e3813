//! Refusals for programs: with `Accept: application/json`, the line becomes `application/problem+json` (RFC 9457) with
//! the [`Code`] of the refusal.

use super::accept;
use super::error_code::Code;
use super::json;
use super::reply::{OLDEST, OUTCOME, Reply, ReplyBody};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;

/// The media types that ask for JSON.
const JSON: [&str; 2] = ["application/json", "application/problem+json"];

const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

#[derive(Serialize)]
struct Problem<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest: Option<u64>,
}

/// The reply in the form that this request accepts.
pub(super) async fn fit(reply: Reply, request: &HeaderMap) -> Reply {
    match reply.extensions().get::<Code>() {
        Some(code) if accept::is_wanted(request, &JSON) => to_problem(*code, reply).await,
        _ => reply,
    }
}

async fn to_problem(code: Code, reply: Reply) -> Reply {
    let (mut head, body) = reply.into_parts();
    let ReplyBody::Whole(line) = body else {
        panic!("{} is refused by a stream", head.status);
    };
    let Ok(line) = line.collect().await;
    let line = line.to_bytes();
    let line = String::from_utf8_lossy(line.trim_ascii_end());
    let field = |name: HeaderName| head.headers.get(name)?.to_str().ok();
    let problem = Problem {
        kind: "about:blank",
        title: head.status.canonical_reason().unwrap_or_default(),
        status: head.status.as_u16(),
        detail: &line,
        code: code.text(),
        outcome: field(OUTCOME),
        oldest: field(OLDEST).and_then(|index| index.parse().ok()),
    };
    let text = json::line(&problem);
    head.headers.insert(CONTENT_TYPE, PROBLEM);
    Reply::from_parts(head, Bytes::from(text).into())
}
