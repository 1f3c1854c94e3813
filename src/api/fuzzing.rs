//! Entry points for the fuzzers, which are separate crates (`tests/fuzz/`). The parsers behind the entry points stay
//! private, so that nothing else depends on them.

use super::condition::{self, Conditions};
use super::route::Resource;
use super::{Limits, json, list, path, watch};
use crate::command::Transaction;
use crate::store::Range;
use hyper::HeaderMap;
use std::collections::BTreeMap;

/// The key of a path, or the HTTP status of the refusal. Runs every parser that reads a path.
pub fn key(text: &str) -> Result<Vec<u8>, u16> {
    let key = path::decode(text).map_err(|reply| reply.status().as_u16())?;
    let _ = path::hint(text);
    let bytes = key.to_vec();
    let _ = Resource::find(&key).key(key);
    Ok(bytes)
}

/// The member id that a key spells.
pub fn member_id(key: &[u8]) -> Option<u64> {
    path::member_id(key)
}

/// Whether a query asks for a stale read, or the HTTP status of the refusal.
pub fn stale(query: Option<&str>) -> Result<bool, u16> {
    let none = path::no_options(query);
    let read = path::read_options(query);
    assert!(none.is_err() || read.is_ok(), "{query:?}");
    match read {
        Ok(options) => Ok(options.stale),
        Err(reply) => Err(reply.status().as_u16()),
    }
}

/// The keys and values of the body of `POST /key`, or the HTTP status of the refusal.
pub fn pairs(body: &[u8], limits: &Limits) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, u16> {
    let writes = json::pairs(body, limits).map_err(|reply| reply.status().as_u16())?;
    let pairs = writes.iter();
    Ok(pairs
        .map(|write| (write.key.to_vec(), write.value.to_vec()))
        .collect())
}

/// The transaction in the body of `POST /-/txn`, or the HTTP status of the refusal.
pub fn transaction(body: &[u8], limits: &Limits) -> Result<Transaction, u16> {
    json::transaction(body, limits).map_err(|reply| reply.status().as_u16())
}

/// The JSON members that represent this key, and the JSON member that represents this value.
pub fn members(key: &[u8], value: &[u8]) -> (String, String) {
    let inner = |object: Vec<u8>| {
        let object = String::from_utf8(object).expect("JSON is UTF-8");
        object[1..object.len() - "}\n".len()].to_owned()
    };
    (
        inner(json::line(&json::KeyJson::of(key))),
        inner(json::line(&json::ValueJson::of(value))),
    )
}

/// Prefix, last key and limit in the query of a list, or the HTTP status of the refusal.
pub fn range(query: Option<&str>) -> Result<Range, u16> {
    let options = list::list_options(query).map_err(|reply| reply.status().as_u16())?;
    Ok(options.range)
}

/// Prefix and index in the query of a watch, or the HTTP status of the refusal.
pub fn watched(query: Option<&str>) -> Result<(Vec<u8>, Option<u64>), u16> {
    let options = watch::watch_options(query).map_err(|reply| reply.status().as_u16())?;
    Ok((options.prefix, options.after))
}

/// The number of ETags in the conditions of a request, or the HTTP status of the refusal.
pub fn conditions(headers: &HeaderMap) -> Result<usize, u16> {
    let conditions = Conditions::of(headers).map_err(|reply| reply.status().as_u16())?;
    let lists = [&conditions.if_match, &conditions.if_none_match];
    let mut count = 0;
    for etags in lists.into_iter().flatten() {
        let named = |index: &u64| condition::matches(etags, *index);
        assert!(etags.indexes.iter().all(named));
        count += etags.indexes.len();
    }
    Ok(count)
}
