//! Refusals for programs: with `Accept: application/json`, the line becomes `application/problem+json` (RFC 9457) with
//! the [`Code`] of the refusal.

use super::error_code::Code;
use super::json;
use super::reply::{OLDEST, OUTCOME, Reply, ReplyBody};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;

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
        Some(code) if is_wanted(request) => to_problem(*code, reply).await,
        _ => reply,
    }
}

/// Whether the client names JSON in `Accept`. `*/*` does not ask for JSON.
fn is_wanted(request: &HeaderMap) -> bool {
    let fields = request.get_all(ACCEPT).iter();
    fields
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(','))
        .any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let is_json = ["application/json", "application/problem+json"]
                .iter()
                .any(|json| name.eq_ignore_ascii_case(json));
            let refused = parts.any(|parameter| {
                let weight = parameter.split_once('=').filter(|(q, _)| q.trim() == "q");
                weight.is_some_and(|(_, weight)| weight.trim().parse() == Ok(0.0))
            });
            is_json && !refused
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_to_be_asked_for() {
        let wanted = |fields: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(ACCEPT, HeaderValue::from_static(field));
            }
            is_wanted(&headers)
        };
        for fields in [
            &["application/json"][..],
            &["text/html, Application/JSON;q=0.5"],
            &["text/plain", "application/problem+json; charset=utf-8"],
            &["*/*, application/json"],
        ] {
            assert!(wanted(fields), "{fields:?}");
        }
        for fields in [
            &[][..],
            &["*/*"],
            &["application/*"],
            &["application/json;q=0"],
            &["application/json ; q=0.000, text/plain"],
            &["application/jsonx"],
            &["text/plain;v=application/json"],
        ] {
            assert!(!wanted(fields), "{fields:?}");
        }
    }
}
