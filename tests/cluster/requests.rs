//! Operations over the wire: an [`Input`] as a request, and its answer as an [`Output`].
//!
//! Keys and values of these clients are harmless ASCII, so JSON has them as they are. An answer that the book does not
//! know ends the test.

use crate::checker::{Condition, FailedCheck, Input, Listed, Output};
use crate::http::{Response, encode};
use serde_json::{Value, json};

/// What goes into one request.
pub struct Request {
    pub method: &'static str,
    pub path: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

/// The request that asks for this.
pub fn request(input: &Input) -> Request {
    let (method, path, condition, body) = match input {
        Input::Get { key } => ("GET", encode(key), Condition::None, Vec::new()),
        Input::Put {
            key,
            value,
            condition,
        } => ("PUT", encode(key), *condition, value.clone()),
        Input::Delete { key, condition } => ("DELETE", encode(key), *condition, Vec::new()),
        Input::List { .. } => ("GET", list_path(input), Condition::None, Vec::new()),
        Input::Transaction { .. } => {
            let body = transaction_body(input).to_string();
            ("POST", "/-/txn".to_owned(), Condition::None, body.into())
        }
    };
    let headers = match condition {
        Condition::None => Vec::new(),
        Condition::IfAbsent => vec![("If-None-Match", "*".to_owned())],
        Condition::IfPresent => vec![("If-Match", "*".to_owned())],
        Condition::IfMatch(etag) => vec![("If-Match", format!("\"{etag}\""))],
    };
    Request {
        method,
        path,
        headers,
        body,
    }
}

fn list_path(input: &Input) -> String {
    let Input::List {
        prefix,
        after,
        limit,
        values,
    } = input
    else {
        panic!("{input} is no list");
    };
    let mut path = format!("/-/kv?values={values}&prefix={}", ascii(prefix));
    if let Some(after) = after {
        path += &format!("&after={}", ascii(after));
    }
    if let Some(limit) = limit {
        path += &format!("&limit={limit}");
    }
    path
}

fn transaction_body(input: &Input) -> Value {
    let Input::Transaction { checks, writes } = input else {
        panic!("{input} is no transaction");
    };
    let checks = checks.iter().map(|(key, condition)| match condition {
        Condition::None => panic!("a check without a condition: {input}"),
        Condition::IfMatch(etag) => json!({"key": ascii(key), "etag": etag.to_string()}),
        Condition::IfAbsent => json!({"key": ascii(key), "absent": true}),
        Condition::IfPresent => json!({"key": ascii(key), "exists": true}),
    });
    let writes = writes.iter().map(|(key, value)| match value {
        Some(value) => json!({"op": "put", "key": ascii(key), "value": ascii(value)}),
        None => json!({"op": "delete", "key": ascii(key)}),
    });
    json!({"conditions": checks.collect::<Vec<_>>(), "operations": writes.collect::<Vec<_>>()})
}

pub fn ascii(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("keys and values are ASCII")
}

/// What an answer says about the operation.
pub fn outcome(input: &Input, response: Response) -> Output {
    let etag = response.header("etag").map(|_| response.etag());
    let told = response.header("x-raftkvd-outcome");
    let is_read = matches!(input, Input::Get { .. } | Input::List { .. });
    match (response.status, input, told) {
        (200, Input::Get { .. }, _) => {
            let etag = etag.expect("a value has an ETag");
            Output::Value(Some((response.body, etag)))
        }
        (404, Input::Get { .. }, _) => Output::Value(None),
        (200, Input::List { values, .. }, _) => listed(&json_of(&response), *values),
        (204, Input::Put { .. }, _) => {
            assert!(etag.is_some(), "a PUT without ETag: {response:?}");
            Output::Written(etag)
        }
        (204, Input::Delete { .. }, _) => Output::Written(None),
        (412, Input::Put { .. } | Input::Delete { .. }, _) => Output::ConditionFailed(etag),
        (200, Input::Transaction { .. }, _) => {
            let done = transacted(&json_of(&response));
            assert!(
                matches!(&done, Output::Transacted { index, .. } if Some(*index) == etag),
                "{response:?}"
            );
            done
        }
        (412, Input::Transaction { .. }, _) => checks_failed(&json_of(&response)),
        // A read without an answer says nothing at all.
        (503 | 408, ..) if is_read => Output::Unknown,
        (503 | 408, _, Some("none")) => Output::NotApplied,
        (504, _, Some("unknown")) if !is_read => Output::Unknown,
        _ => panic!("to {input}: {response:?}"),
    }
}

fn json_of(response: &Response) -> Value {
    serde_json::from_slice(&response.body).unwrap_or_else(|_| panic!("no JSON: {response:?}"))
}

fn listed(page: &Value, values: bool) -> Output {
    let keys = page["keys"].as_array().expect("a list").iter();
    let entries = keys.map(|entry| Listed {
        key: text(entry, "key").into(),
        etag: number(entry, "etag"),
        value: values.then(|| text(entry, "value").into()),
    });
    Output::Listed {
        index: page["index"].as_u64().expect("a list has an index"),
        entries: entries.collect(),
        more: !page["next"].is_null(),
    }
}

fn transacted(done: &Value) -> Output {
    assert_eq!(done["succeeded"], true, "{done}");
    let operations = done["operations"].as_array().expect("operations").iter();
    let existed = operations.map(|operation| match text(operation, "outcome") {
        "replaced" | "deleted" => true,
        "created" | "absent" => false,
        _ => panic!("{done}"),
    });
    Output::Transacted {
        index: number(done, "etag"),
        existed: existed.collect(),
    }
}

fn checks_failed(answer: &Value) -> Output {
    assert_eq!(answer["succeeded"], false, "{answer}");
    let failed = answer["failed"].as_array().expect("failed checks").iter();
    let failed = failed.map(|check| FailedCheck {
        position: check["condition"].as_u64().expect("a position") as usize,
        current: (!check["etag"].is_null()).then(|| number(check, "etag")),
    });
    Output::ChecksFailed(failed.collect())
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    let text = value[name].as_str();
    text.unwrap_or_else(|| panic!("no text {name:?} in {value}"))
}

fn number(value: &Value, name: &str) -> u64 {
    let text = text(value, name);
    text.parse()
        .unwrap_or_else(|_| panic!("{name:?} is no number in {value}"))
}
