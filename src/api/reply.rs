//! Responses: one-line messages, and the HTTP form of each outcome.

use super::error_code::Code;
use crate::command::outcome::NotProposed;
use bytes::Bytes;
use http_body_util::Full;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderName,
    HeaderValue, RETRY_AFTER,
};
use hyper::{Response, StatusCode};
use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

pub(super) type Reply = Response<ReplyBody>;

/// The body of a response.
#[derive(Debug)]
pub(super) enum ReplyBody {
    /// One piece or no piece: all but a few responses.
    Whole(Full<Bytes>),
    /// Pieces that are made while they are sent. An error ends the connection without the final chunk, so that no
    /// client mistakes a part for the whole body.
    Stream(UnsyncBoxBody<Bytes, io::Error>),
    /// The same, without an end: only the client or this member ends the response. A client that closes its sending side
    /// counts as gone.
    Endless(UnsyncBoxBody<Bytes, io::Error>),
}

impl Default for ReplyBody {
    fn default() -> ReplyBody {
        ReplyBody::Whole(Full::default())
    }
}

impl From<Bytes> for ReplyBody {
    fn from(bytes: Bytes) -> ReplyBody {
        ReplyBody::Whole(Full::new(bytes))
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            ReplyBody::Whole(whole) => Pin::new(whole)
                .poll_frame(cx)
                .map_err(|never| match never {}),
            ReplyBody::Stream(stream) | ReplyBody::Endless(stream) => {
                Pin::new(stream).poll_frame(cx)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ReplyBody::Whole(whole) => whole.is_end_stream(),
            ReplyBody::Stream(stream) | ReplyBody::Endless(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ReplyBody::Whole(whole) => whole.size_hint(),
            ReplyBody::Stream(stream) | ReplyBody::Endless(stream) => stream.size_hint(),
        }
    }
}

/// The result of a handler. A refusal is boxed because it passes through many results that are otherwise small.
pub(super) type ReplyResult = Result<Reply, Box<Reply>>;

/// The header field of refused requests. `none`: the request certainly had no effect and never will have one.
/// `unknown`: the request may have had an effect, or may still have one.
pub(super) const OUTCOME: HeaderName = HeaderName::from_static("x-raftkvd-outcome");

/// The lowest index from which changes can be watched.
pub(super) const OLDEST: HeaderName = HeaderName::from_static("x-raftkvd-oldest");

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// Asks nginx to pass each piece on at once.
const UNBUFFERED: (HeaderName, HeaderValue) = (
    HeaderName::from_static("x-accel-buffering"),
    HeaderValue::from_static("no"),
);

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
pub(super) const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// The kind of a request, which chooses the words of the line that reports a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestKind {
    /// To read a key.
    Read,
    /// To write or delete a key.
    Write,
    /// To add, move or remove a member.
    Change,
}

/// How a value is labelled. The bytes are the same in all forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueForm {
    Bytes,
    /// A browser shows the value, which has to be UTF-8.
    Text,
}

/// 204, without a body.
pub(super) fn done(etag: Option<u64>) -> Reply {
    let mut reply = Reply::default();
    *reply.status_mut() = StatusCode::NO_CONTENT;
    set_etag(&mut reply, etag);
    reply
}

/// A value, as text or as bytes. The same reply serves HEAD: hyper leaves out the body and keeps its length.
pub(super) fn value(bytes: Bytes, etag: u64, form: ValueForm) -> Reply {
    let is_text = form == ValueForm::Text;
    let is_empty = bytes.is_empty();
    let mut reply = Reply::new(bytes.into());
    // Room for the fields set here and in `answer_headers`. Otherwise the map of fields would grow once on the way.
    *reply.headers_mut() = HeaderMap::with_capacity(7);
    set_etag(&mut reply, Some(etag));
    let headers = reply.headers_mut();
    if is_empty {
        // hyper does not send a length of zero in the answer to HEAD.
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    headers.insert(CONTENT_TYPE, if is_text { TEXT } else { OCTETS });
    reply
}

/// A reply whose body is made while it is sent.
pub(super) fn stream(body: UnsyncBoxBody<Bytes, io::Error>) -> Reply {
    let mut reply = Reply::new(ReplyBody::Stream(body));
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, OCTETS);
    let (name, value) = UNBUFFERED;
    headers.insert(name, value);
    reply
}

/// 304: the client has this value already.
pub(super) fn not_modified(etag: u64) -> Reply {
    let mut reply = Reply::default();
    *reply.status_mut() = StatusCode::NOT_MODIFIED;
    set_etag(&mut reply, Some(etag));
    reply
}

/// 200 without a body, for clients that expect 200.
pub(super) fn empty(etag: Option<u64>) -> Reply {
    let mut reply = Reply::default();
    set_etag(&mut reply, etag);
    reply
}

/// A JSON text.
pub(super) fn json(text: impl Into<Bytes>) -> Reply {
    let mut reply = Reply::new(text.into().into());
    reply.headers_mut().insert(CONTENT_TYPE, JSON);
    reply
}

/// Server-sent events. They must not be cached.
pub(super) fn events(body: ReplyBody) -> Reply {
    let mut reply = Reply::new(body);
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, EVENTS);
    headers.insert(CACHE_CONTROL, NO_STORE);
    let (name, value) = UNBUFFERED;
    headers.insert(name, value);
    reply
}

/// A message of one line.
pub(super) fn text(status: StatusCode, line: impl Into<Cow<'static, str>>) -> Reply {
    let mut line = line.into().into_owned();
    debug_assert!(!line.contains('\n'), "a message is one line: {line:?}");
    line.push('\n');
    let mut reply = Reply::new(Bytes::from(line).into());
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, TEXT);
    reply
}

/// Text of several lines.
pub(super) fn page(text: Bytes) -> Reply {
    let mut reply = Reply::new(text.into());
    reply.headers_mut().insert(CONTENT_TYPE, TEXT);
    reply
}

/// Forbids every cache to keep the answer.
pub(super) fn not_kept(mut reply: Reply) -> Reply {
    reply.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    reply
}

/// A refusal with a message of one line.
pub(super) fn error(code: Code, line: impl Into<Cow<'static, str>>) -> Box<Reply> {
    let mut reply = text(code.status(), line);
    reply.extensions_mut().insert(code);
    Box::new(reply)
}

/// 405: this path supports only these methods, or none.
pub(super) fn not_allowed(methods: &str) -> Box<Reply> {
    let line = match methods {
        "" => "no method is supported here".to_owned(),
        _ => format!("this method is not supported here; use {methods}"),
    };
    let mut reply = error(Code::MethodNotAllowed, line);
    let methods = HeaderValue::from_str(methods).expect("names of methods are ASCII");
    reply.headers_mut().insert(ALLOW, methods);
    reply
}

/// 412, with the current ETag of the key.
pub(super) fn condition_failed(current: Option<u64>) -> Box<Reply> {
    let line = match current {
        Some(index) => format!("not written: the condition does not hold, the etag is \"{index}\""),
        None => "not written: the condition does not hold, the key is absent".to_owned(),
    };
    let mut reply = error(Code::ConditionFailed, line);
    set_etag(&mut reply, current);
    reply
}

/// 410, with the lowest index from which changes can be watched.
pub(super) fn compacted(oldest: u64, line: String) -> Box<Reply> {
    let mut reply = error(Code::Compacted, line);
    reply.headers_mut().insert(OLDEST, oldest.into());
    reply
}

/// 412 of a read.
pub(super) fn read_condition_failed(current: u64) -> Box<Reply> {
    let line = format!("the condition does not hold, the etag is \"{current}\"");
    let mut reply = error(Code::ConditionFailed, line);
    set_etag(&mut reply, Some(current));
    reply
}

/// 503, or 507 if the disk is full: certainly without effect.
pub(super) fn not_proposed(kind: RequestKind, why: NotProposed) -> Box<Reply> {
    without_effect(kind, code(why), why)
}

/// 503, or 507 if the disk is full: certainly without effect, for the reason `why`.
pub(super) fn without_effect(
    kind: RequestKind,
    code: Code,
    why: impl std::fmt::Display,
) -> Box<Reply> {
    let line = match kind {
        RequestKind::Read => format!("not read: {why}; try again"),
        RequestKind::Write => format!("not written: {why}; it is safe to send it again"),
        RequestKind::Change => format!("not changed: {why}; it is safe to send it again"),
    };
    let mut reply = error(code, line);
    retry(&mut reply);
    set_outcome(&mut reply, "none");
    reply
}

/// 504: the outcome is unknown.
pub(super) fn unknown(kind: RequestKind) -> Box<Reply> {
    let line = match kind {
        RequestKind::Change => {
            "unknown: the change may or may not be made; look at /-/status before sending it again"
        }
        RequestKind::Read | RequestKind::Write => {
            "unknown: the write may or may not have been applied; read the key before sending it again"
        }
    };
    let mut reply = error(Code::UnknownOutcome, line);
    set_outcome(&mut reply, "unknown");
    reply
}

/// 503 with `Retry-After`: this member can't serve the request at present. The header does not state an outcome.
pub(super) fn unavailable(code: Code, why: impl Into<Cow<'static, str>>) -> Box<Reply> {
    let mut reply = error(code, why);
    retry(&mut reply);
    reply
}

/// The error code for the reason why a request had no effect.
pub(super) fn code(why: NotProposed) -> Code {
    match why {
        NotProposed::NoLeader => Code::NoLeader,
        NotProposed::NotTaken => Code::LeaderBusy,
        NotProposed::NoQuorum => Code::NoQuorum,
        NotProposed::DiskFull => Code::DiskFull,
        NotProposed::QueueFull => Code::QueueFull,
        NotProposed::Stopping => Code::Stopping,
    }
}

/// States in the header whether a refused request had an effect.
pub(super) fn set_outcome(reply: &mut Reply, outcome: &'static str) {
    reply
        .headers_mut()
        .insert(OUTCOME, HeaderValue::from_static(outcome));
}

/// Announces that the connection ends with this response.
pub(super) fn close(reply: &mut Reply) {
    reply
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
}

fn retry(reply: &mut Reply) {
    reply
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from_static("1"));
}

pub(super) fn set_etag(reply: &mut Reply, index: Option<u64>) {
    if let Some(index) = index {
        reply.headers_mut().insert(ETAG, etag(index));
    }
}

/// The decimal index in quotes. Formatting with the standard library would be the most expensive part of many
/// responses.
fn etag(index: u64) -> HeaderValue {
    // 2^64 has 20 digits.
    let mut text = [b'"'; 22];
    let mut start = text.len() - 1;
    let mut rest = index;
    loop {
        start -= 1;
        text[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    HeaderValue::from_bytes(&text[start - 1..]).expect("digits in quotes are valid in a header")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_is_the_index_in_quotes() {
        for index in [0, 7, 10, 1_234_567_890, u64::MAX] {
            assert_eq!(etag(index), format!("\"{index}\""));
        }
    }
}
