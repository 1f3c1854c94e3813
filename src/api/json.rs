//! JSON from clients (pairs for `POST /key`, transactions for `POST /-/txn`), and the JSON form of keys and values,
//! which is the same in both directions.
//!
//! A key is a string. A key that is not UTF-8 is percent-encoded, with `"encoded":true` beside it. A value is the
//! string `value`, or base64 in `value_base64`.

use super::error_code::Code;
use super::reply::{self, Reply};
use super::strict_json::{
    Flag, Object, ObjectMembers, Seed, Text, no_text, put, read, shown, unknown,
};
use super::{Limits, base64, path};
use crate::command::{Check, Etags, Transaction, Write};
use crate::limits;
use bytes::Bytes;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::ser::Formatter;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Not;
use std::{fmt, io};

/// Reads `{"key":"value",...}` as writes.
pub(super) fn pairs(body: &[u8], limits: &Limits) -> Result<Vec<Write>, Box<Reply>> {
    let mut refused = None;
    let members = Pairs {
        pairs: BTreeMap::new(),
        refused: &mut refused,
    };
    let read = read(body, members).map(|members| members.pairs);
    let pairs = read.map_err(|why| {
        refused.unwrap_or_else(|| bad(format!("the body is not an object of strings: {why}")))
    })?;
    let mut writes = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        let place = || format!("the pair {}", shown(&key));
        let mut write = Write::new();
        write.value = checked_value(value.into_bytes(), limits, &place)?;
        write.key = checked_key(key.clone().into_bytes(), limits.key_bytes_max, &place)?;
        writes.push(write);
    }
    Ok(writes)
}

/// Reads `{"conditions":[...],"operations":[...]}`.
pub(super) fn transaction(body: &[u8], limits: &Limits) -> Result<Transaction, Box<Reply>> {
    let mut refused = None;
    let members = Lists {
        conditions: None,
        operations: None,
        refused: &mut refused,
    };
    let read = read(body, members).map(|members| (members.conditions, members.operations));
    let (conditions, operations) = read.map_err(|why| {
        let form = "{\"conditions\":[...],\"operations\":[...]}";
        refused.unwrap_or_else(|| bad(format!("the body is not {form}: {why}")))
    })?;
    let mut transaction = Transaction::new();
    for (position, fields) in conditions.unwrap_or_default().into_iter().enumerate() {
        let place = || format!("conditions[{position}]");
        transaction.checks.push(check(fields, &place)?);
    }
    let mut written = BTreeSet::new();
    for (position, fields) in operations.unwrap_or_default().into_iter().enumerate() {
        let place = || format!("operations[{position}]");
        let write = write(fields, limits, &place)?;
        if !written.insert(write.key.clone()) {
            return Err(bad(format!(
                "{}: another operation writes the same key; one transaction writes a key once",
                place()
            )));
        }
        transaction.writes.push(write);
    }
    if transaction.checks.is_empty() && transaction.writes.is_empty() {
        return Err(bad(
            "the body has neither conditions nor operations".to_owned()
        ));
    }
    Ok(transaction)
}

// ---- keys and values ----

/// Names the position of an item in the body, for messages.
type MessagePlace<'a> = &'a dyn Fn() -> String;

fn check(fields: Fields, place: MessagePlace) -> Result<Check, Box<Reply>> {
    let mut check = Check::new();
    check.key = key(&fields, limits::KEY_BYTES_LIMIT, place)?;
    let any = || {
        let mut etags = Etags::new();
        etags.any = true;
        Some(etags).into()
    };
    match (fields.etag, fields.exists, fields.absent) {
        (Some(index), None, None) => {
            let mut etags = Etags::new();
            etags.indexes.push(index);
            check.if_match = Some(etags).into();
        }
        (None, Some(true), None) | (None, None, Some(false)) => check.if_match = any(),
        (None, Some(false), None) | (None, None, Some(true)) => check.if_none_match = any(),
        _ => {
            return Err(bad(format!(
                "{}: a condition has one of \"etag\":\"7\", \"exists\":true and \"absent\":true",
                place()
            )));
        }
    }
    Ok(check)
}

fn write(fields: Fields, limits: &Limits, place: MessagePlace) -> Result<Write, Box<Reply>> {
    let mut write = Write::new();
    // A key that was written under a larger limit can be deleted.
    let key_bytes_max = match fields.op.as_deref() {
        Some("put") => limits.key_bytes_max,
        _ => limits::KEY_BYTES_LIMIT,
    };
    write.key = key(&fields, key_bytes_max, place)?;
    write.delete = match fields.op.as_deref() {
        Some("put") => false,
        Some("delete") => true,
        _ => {
            return Err(bad(format!(
                "{}: \"op\" has to be \"put\" or \"delete\"",
                place()
            )));
        }
    };
    let value = match (fields.value, fields.value_base64) {
        (Some(text), None) => Some(text.into_bytes()),
        (None, Some(text)) => Some(
            base64::decode(&text)
                .ok_or_else(|| bad(format!("{}: \"value_base64\" is not base64", place())))?,
        ),
        (None, None) => None,
        (Some(_), Some(_)) => {
            return Err(bad(format!(
                "{}: it has both \"value\" and \"value_base64\"",
                place()
            )));
        }
    };
    match (value, write.delete) {
        (Some(value), false) => write.value = checked_value(value, limits, place)?,
        (None, true) => {}
        (None, false) => {
            return Err(bad(format!(
                "{}: a put has a \"value\" or a \"value_base64\"",
                place()
            )));
        }
        (Some(_), true) => return Err(bad(format!("{}: a delete has no value", place()))),
    }
    Ok(write)
}

fn key(fields: &Fields, limit: usize, place: MessagePlace) -> Result<Bytes, Box<Reply>> {
    let Some(text) = &fields.key else {
        return Err(bad(format!("{}: it has no \"key\"", place())));
    };
    let key = if fields.encoded == Some(true) {
        let key = path::percent_decode(text.as_bytes());
        let why = || {
            format!(
                "{}: the key has a % without two hexadecimal digits behind it",
                place()
            )
        };
        key.ok_or_else(|| bad(why()))?.into_owned()
    } else {
        text.clone().into_bytes()
    };
    checked_key(key, limit, place)
}

fn checked_key(key: Vec<u8>, limit: usize, place: MessagePlace) -> Result<Bytes, Box<Reply>> {
    if key.is_empty() {
        return Err(bad(format!("{}: the key is empty", place())));
    }
    let length = key.len();
    if length > limit {
        return Err(too_large(format!(
            "{}: the key has {length} bytes, at most {limit} are allowed: see --max-key-bytes",
            place()
        )));
    }
    Ok(Bytes::from(key))
}

fn checked_value(
    value: Vec<u8>,
    limits: &Limits,
    place: MessagePlace,
) -> Result<Bytes, Box<Reply>> {
    let (length, limit) = (value.len(), limits.value_bytes_max);
    if length > limit {
        return Err(too_large(format!(
            "{}: the value has {length} bytes, at most {limit} are allowed: see --max-value-bytes",
            place()
        )));
    }
    Ok(Bytes::from(value))
}

fn bad(line: String) -> Box<Reply> {
    reply::error(Code::BadBody, line)
}

fn too_large(line: String) -> Box<Reply> {
    reply::error(Code::TooLarge, line)
}

// ---- reading ----

/// The reply to a body with too many items. The reader sets this reply before it stops with an error.
type Refused = Option<Box<Reply>>;

/// Sets the reply, and returns the error that stops the reader.
fn too_many<E: Error>(refused: &mut Refused, what: &str) -> E {
    let limit = limits::TXN_OPERATIONS_MAX;
    let line =
        format!("there are too many {what}, at most {limit} are allowed; use several requests");
    *refused = Some(too_large(line));
    E::custom("refused")
}

/// The object of `POST /key`.
struct Pairs<'a> {
    pairs: BTreeMap<String, String>,
    refused: &'a mut Refused,
}

impl ObjectMembers for Pairs<'_> {
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object such as {\"user1\":\"batman\"}")
    }

    fn take<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        if self.pairs.len() == limits::TXN_OPERATIONS_MAX {
            return Err(too_many(self.refused, "keys"));
        }
        let value = map.next_value_seed(Seed(Text(name)))?;
        Ok(self.pairs.insert(name.to_owned(), value).is_none())
    }
}

/// The object of `POST /-/txn`.
struct Lists<'a> {
    conditions: Option<Vec<Fields>>,
    operations: Option<Vec<Fields>>,
    refused: &'a mut Refused,
}

const CONDITION: &[&str] = &["key", "encoded", "etag", "exists", "absent"];
const OPERATION: &[&str] = &["op", "key", "encoded", "value", "value_base64"];

impl ObjectMembers for Lists<'_> {
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn take<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        let (list, name, known) = match name {
            "conditions" => (&mut self.conditions, "conditions", CONDITION),
            "operations" => (&mut self.operations, "operations", OPERATION),
            other => return Err(unknown(other, &["conditions", "operations"])),
        };
        let refused = &mut *self.refused;
        let visitor = ListVisitor {
            name,
            known,
            refused,
        };
        put(list, map, visitor)
    }
}

/// One list of a transaction.
struct ListVisitor<'a> {
    name: &'static str,
    known: &'static [&'static str],
    refused: &'a mut Refused,
}

impl<'de> Visitor<'de> for ListVisitor<'_> {
    type Value = Vec<Fields>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "a list of {}", self.name)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Vec<Fields>, E> {
        Err(no_text(&self))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Fields>, A::Error> {
        let mut items = Vec::new();
        let item = || {
            Seed(Object(Fields {
                known: self.known,
                ..Fields::default()
            }))
        };
        while let Some(item) = list.next_element_seed(item())? {
            if items.len() == limits::TXN_OPERATIONS_MAX {
                return Err(too_many(self.refused, self.name));
            }
            items.push(item);
        }
        Ok(items)
    }
}

/// One object in a list, with the names that it may have.
#[derive(Default)]
struct Fields {
    known: &'static [&'static str],
    op: Option<String>,
    key: Option<String>,
    encoded: Option<bool>,
    value: Option<String>,
    value_base64: Option<String>,
    etag: Option<u64>,
    exists: Option<bool>,
    absent: Option<bool>,
}

impl ObjectMembers for Fields {
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "an object with some of {}", self.known.join(", "))
    }

    fn take<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        if !self.known.contains(&name) {
            return Err(unknown(name, self.known));
        }
        match name {
            "op" => put(&mut self.op, map, Text(name)),
            "key" => put(&mut self.key, map, Text(name)),
            "encoded" => put(&mut self.encoded, map, Flag(name)),
            "value" => put(&mut self.value, map, Text(name)),
            "value_base64" => put(&mut self.value_base64, map, Text(name)),
            "etag" => put(&mut self.etag, map, EtagVisitor),
            "exists" => put(&mut self.exists, map, Flag(name)),
            "absent" => put(&mut self.absent, map, Flag(name)),
            other => panic!("{other} is known and has no field"),
        }
    }
}

/// The index of an ETag: `"7"`, 7, or the full spelling of the header field.
struct EtagVisitor;

impl Visitor<'_> for EtagVisitor {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an etag such as \"7\"")
    }

    fn visit_u64<E: Error>(self, index: u64) -> Result<u64, E> {
        Ok(index)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
        let inner = text
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'));
        let digits = inner.unwrap_or(text);
        let index = digits.parse().ok();
        // Only the canonical spelling is valid, as in header fields.
        let index = index.filter(|index: &u64| index.to_string() == digits);
        index.ok_or_else(|| E::custom(format_args!("{} is not an etag such as \"7\"", shown(text))))
    }
}

// ---- writing ----

/// A JSON text of one line.
pub(super) fn line(value: &impl Serialize) -> Vec<u8> {
    let mut text = Vec::new();
    push(&mut text, value);
    text.push(b'\n');
    text
}

/// A JSON text with a line for each item of a list.
pub(super) fn items_in_lines(value: &impl Serialize) -> Vec<u8> {
    let mut text = Vec::new();
    let mut out = serde_json::Serializer::with_formatter(&mut text, ItemsInLines);
    value.serialize(&mut out).expect(NAMED);
    text.push(b'\n');
    text
}

struct ItemsInLines;

impl Formatter for ItemsInLines {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        out.write_all(separator(usize::from(!first)))
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b"\n]")
    }
}

/// The bytes before an item, which put the item on its own line.
pub(super) fn separator(position: usize) -> &'static [u8] {
    match position {
        0 => b"\n",
        _ => b",\n",
    }
}

/// Appends a value to a text.
pub(super) fn push(text: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(text, value).expect(NAMED);
}

const NAMED: &str = "what has named members can be written as JSON";

/// The members of an object that name a key.
#[derive(Serialize)]
pub(super) struct KeyJson<'a> {
    key: Cow<'a, str>,
    #[serde(skip_serializing_if = "Not::not")]
    encoded: bool,
}

impl KeyJson<'_> {
    pub(super) fn of(key: &[u8]) -> KeyJson<'_> {
        let text = std::str::from_utf8(key);
        KeyJson {
            encoded: text.is_err(),
            key: text.map_or_else(|_| path::percent_encode(key).into(), Cow::from),
        }
    }
}

/// The member of an object that holds a value.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ValueJson<'a> {
    Value(&'a str),
    ValueBase64(String),
}

impl ValueJson<'_> {
    pub(super) fn of(value: &[u8]) -> ValueJson<'_> {
        match std::str::from_utf8(value) {
            Ok(text) => ValueJson::Value(text),
            Err(_) => ValueJson::ValueBase64(base64::encode(value)),
        }
    }
}

/// The members of an object that describe a stored value.
#[derive(Serialize)]
pub(super) struct Stored<'a> {
    pub(super) size: usize,
    pub(super) etag: Etag,
    #[serde(flatten)]
    pub(super) value: Option<ValueJson<'a>>,
}

/// An index as a JSON string: JSON numbers are not exact beyond 2^53.
pub(super) struct Etag(pub(super) u64);

impl Serialize for Etag {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(&self.0)
    }
}

/// The length of a string as JSON, in bytes, with its quotes.
pub(super) fn quoted_bytes(text: &str) -> usize {
    let escaped = text.bytes().map(|byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => "\\n".len(),
        0..=0x1f => "\\u0000".len(),
        _ => 1,
    });
    escaped.sum::<usize>() + "\"\"".len()
}

/// An object of one pair. `bytes` is its length.
pub(super) fn pair(key: &str, value: &str, bytes: usize) -> Vec<u8> {
    let mut pair = Vec::with_capacity(bytes);
    let written = serde_json::Serializer::new(&mut pair).collect_map([(key, value)]);
    written.expect("a pair of strings can be written as JSON");
    assert_eq!(
        pair.len(),
        bytes,
        "the length of a pair of a key and a value"
    );
    pair
}
