//! The header fields of all answers, also of refusals: how long an answer may be kept, and what a browser may do with
//! the answer.

use super::error_code::Code;
use super::reply::{NOSNIFF, Reply};
use hyper::Method;
use hyper::header::{
    AUTHORIZATION, CACHE_CONTROL, COOKIE, HeaderName, HeaderValue, VARY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request::Parts;

/// No page of another site may embed an answer.
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
const SAME_ORIGIN: HeaderValue = HeaderValue::from_static("same-origin");
/// A copy may be kept, and has to be checked with its ETag before each use.
const CHECKED: HeaderValue = HeaderValue::from_static("no-cache");
/// The same, and no shared cache may keep a copy.
const PRIVATE: HeaderValue = HeaderValue::from_static("private, no-cache");
const ACCEPT: HeaderValue = HeaderValue::from_static("accept");

/// Adds the fields to the answer to this request. A `Cache-Control` that the answer has already stays.
pub(super) fn complete(reply: &mut Reply, request: &Parts) {
    let is_read = request.method == Method::GET || request.method == Method::HEAD;
    let is_refusal = reply.extensions().get::<Code>().is_some();
    let headers = reply.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    headers.insert(RESOURCE_POLICY, SAME_ORIGIN);
    if is_read && !headers.contains_key(CACHE_CONTROL) {
        let names = &mut request.headers.keys();
        let control = match names.any(|name| name == AUTHORIZATION || name == COOKIE) {
            true => PRIVATE,
            false => CHECKED,
        };
        headers.insert(CACHE_CONTROL, control);
    }
    // `Accept` decides between the forms of a value, of the metrics and of each refusal. All answers to reads of one
    // URL need the same `Vary`, also a 304 and a 404.
    if is_read || is_refusal {
        headers.insert(VARY, ACCEPT);
    }
}
