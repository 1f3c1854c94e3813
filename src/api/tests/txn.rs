//! Transactions: all or nothing, and the refusals of invalid transactions.

use super::*;
use serde_json::json;

#[test]
fn a_transaction_does_all_or_says_which_conditions_fail() {
    let cluster = Cluster::start();
    cluster.put("/from", b"100");
    let etag = cluster.put("/to", b"0").etag().to_owned();
    let index = etag.trim_matches('"');
    let body = |to: Value| {
        json!({
            "conditions": [
                {"key": "from", "exists": true},
                {"key": "to", "etag": to},
                {"key": "%FF", "encoded": true, "absent": true},
            ],
            "operations": [
                {"op": "put", "key": "from", "value": "90"},
                {"op": "put", "key": "to", "value": "10"},
                {"op": "put", "key": "%FF", "encoded": true, "value_base64": "/wA="},
                {"op": "delete", "key": "nothing"},
            ],
        })
    };
    let (status, failed) = cluster.transact(body(json!("1000")));
    assert_eq!(
        (status, failed),
        (
            412,
            json!({"succeeded": false, "failed": [{"condition": 1, "key": "to", "etag": index}]})
        )
    );
    assert_eq!(cluster.get("/from").body, b"100");
    let (status, done) = cluster.transact(body(json!(index)));
    assert_eq!(status, 200);
    assert_eq!(done["succeeded"], true);
    assert_eq!(
        done["operations"],
        json!([
            {"op": "put", "key": "from", "outcome": "replaced"},
            {"op": "put", "key": "to", "outcome": "replaced"},
            {"op": "put", "key": "%FF", "encoded": true, "outcome": "created"},
            {"op": "delete", "key": "nothing", "outcome": "absent"},
        ])
    );
    let done_etag = done["etag"].as_str().unwrap();
    for (target, value) in [("/from", &b"90"[..]), ("/to", b"10"), ("/%FF", b"\xff\0")] {
        let get = cluster.get(target);
        let found = (&*get.body, get.etag().trim_matches('"'));
        assert_eq!(found, (value, done_etag));
    }
    // An ETag as a number, and in the full spelling of the header field.
    for etag in [
        json!(done_etag.parse::<u64>().unwrap()),
        json!(format!("{}", done["etag"])),
    ] {
        let check = json!({"conditions": [{"key": "to", "etag": etag}, {"key": "nothing", "exists": false}]});
        let (status, answer) = cluster.transact(check);
        assert_eq!((status, &answer["operations"]), (200, &json!([])));
    }
    let (status, failed) = cluster.transact(json!({
        "conditions": [{"key": "%FF", "encoded": true, "absent": true}, {"key": "nothing", "absent": false}],
    }));
    assert_eq!(
        (status, &failed["failed"]),
        (
            412,
            &json!([
                {"condition": 0, "key": "%FF", "encoded": true, "etag": done["etag"]},
                {"condition": 1, "key": "nothing", "etag": null},
            ])
        )
    );
    let (_, deleted) = cluster.transact(json!({"operations": [{"op": "delete", "key": "to"}]}));
    assert_eq!(deleted["operations"][0]["outcome"], "deleted");
    assert_eq!(cluster.get("/to").status, 404);
}

/// Bodies that are not transactions.
const WRONG_BODIES: [(&str, &str); 9] = [
    ("", "EOF"),
    ("[]", "an object"),
    ("{}", "neither conditions nor operations"),
    (r#"{"operations":[],"conditions":[]}"#, "neither"),
    (
        r#"{"operations":[],"operations":[]}"#,
        "\"operations\" appears twice",
    ),
    (
        r#"{"ops":[]}"#,
        "unknown name \"ops\": there are conditions, operations",
    ),
    (r#"{"operations":{"swordfish":1}}"#, "a list of operations"),
    (r#"{"operations":"swordfish"}"#, "a list of operations"),
    (
        r#"{"operations":["swordfish"]}"#,
        "an object with some of op, key",
    ),
];

/// Operations that are invalid after an operation that puts a value at the key `a`.
const WRONG_OPERATIONS: [(&str, &str); 15] = [
    (
        r#"{"op":"put","key":"a","value":"2"}"#,
        "operations[1]: another operation writes the same key",
    ),
    (
        r#"{"op":"delete","key":"%61","encoded":true}"#,
        "operations[1]: another",
    ),
    (r#"{"op":"put","key":"b"}"#, "a put has a \"value\""),
    (
        r#"{"op":"put","value":"swordfish"}"#,
        "operations[1]: it has no \"key\"",
    ),
    (
        r#"{"op":"delete","key":"b","value":"swordfish"}"#,
        "a delete has no value",
    ),
    (
        r#"{"op":"put","key":"b","value":"swordfish","value_base64":""}"#,
        "both",
    ),
    (
        r#"{"op":"put","key":"b","value_base64":"swordfish!"}"#,
        "not base64",
    ),
    (
        r#"{"op":"put","key":"b","value":7}"#,
        "a string for \"value\"",
    ),
    (r#"{"op":"swap","key":"b"}"#, "\"op\" has to be"),
    (r#"{"key":"b"}"#, "\"op\" has to be"),
    (
        r#"{"op":"delete","key":""}"#,
        "operations[1]: the key is empty",
    ),
    (
        r#"{"op":"delete","key":"%F","encoded":true}"#,
        "two hexadecimal digits",
    ),
    (
        r#"{"op":"delete","key":"b","key":"c"}"#,
        "\"key\" appears twice",
    ),
    (
        r#"{"op":"delete","key":"b","if":"x"}"#,
        "unknown name \"if\"",
    ),
    (
        r#"{"op":"delete","key":"b","encoded":"yes"}"#,
        "true or false for \"encoded\"",
    ),
];

const WRONG_CONDITIONS: [(&str, &str); 8] = [
    (r#"{"key":"a"}"#, "conditions[0]: a condition has one of"),
    (r#"{"key":"a","etag":"7","exists":true}"#, "has one of"),
    (r#"{"key":"a","etag":"07"}"#, "is not an etag"),
    (r#"{"key":"a","etag":"W/\"7\""}"#, "is not an etag"),
    (r#"{"key":"a","etag":-1}"#, "an etag such as"),
    (r#"{"key":"a","etag":"*"}"#, "is not an etag"),
    (r#"{"key":"a","exists":1}"#, "true or false for \"exists\""),
    (
        r#"{"key":"a","value":"swordfish"}"#,
        "unknown name \"value\"",
    ),
];

fn with_operation(operation: &str) -> String {
    format!(r#"{{"operations":[{{"op":"put","key":"a","value":"swordfish"}},{operation}]}}"#)
}

fn with_condition(condition: &str) -> String {
    format!(
        r#"{{"conditions":[{condition}],"operations":[{{"op":"put","key":"a","value":"swordfish"}}]}}"#
    )
}

/// Asserts that the body is refused with this status and these words, and that the message shows none of the values.
fn assert_refused(cluster: &Cluster, status: u16, body: &str, words: &str) {
    let refused = cluster.post("/-/txn", body);
    let shown = &body[..body.len().min(200)];
    assert_eq!(refused.status, status, "{shown}: {refused:?}");
    let text = refused.text();
    assert!(text.contains(words), "{shown}: {text}");
    assert!(!text.contains("swordfish"), "{text}");
}

#[test]
fn what_is_wrong_with_a_transaction_is_said_and_nothing_is_written() {
    let cluster = Cluster::start();
    let bodies = WRONG_BODIES.map(|(body, words)| (body.to_owned(), words));
    let operations = WRONG_OPERATIONS.map(|(wrong, words)| (with_operation(wrong), words));
    let conditions = WRONG_CONDITIONS.map(|(wrong, words)| (with_condition(wrong), words));
    for (body, words) in bodies.iter().chain(&operations).chain(&conditions) {
        assert_refused(&cluster, 400, body, words);
    }
    let delete = r#"{"op":"delete","key":"k"}"#;
    let many = format!(r#"{{"operations":[{}]}}"#, vec![delete; 1_025].join(","));
    let (key, value) = ("k".repeat(65), "v".repeat(100_001));
    let long_key = with_operation(&format!(r#"{{"op":"put","key":"{key}","value":""}}"#));
    let long_value = format!(r#"{{"op":"put","key":"b","value":"{value}"}}"#);
    for (body, words) in [
        (long_key, "65 bytes, at most 64"),
        (with_operation(&long_value), "100001 bytes"),
        (many, "too many operations, at most 1024"),
        (
            " ".repeat(limits::TXN_BODY_BYTES_MAX + 1),
            "the body is too large",
        ),
    ] {
        assert_refused(&cluster, 413, &body, words);
    }
    let valid = r#"{"operations":[{"op":"put","key":"a","value":"1"}]}"#;
    let conditional = cluster.send("POST", "/-/txn", &["If-None-Match: *"], valid.as_bytes());
    assert_eq!(conditional.status, 400);
    assert_eq!(cluster.post("/-/txn?x", valid).status, 400);
    assert_eq!(cluster.list("")["keys"], json!([]));
    let most = vec![delete; 1]
        .into_iter()
        .map(str::to_owned)
        .chain((1..1_024).map(|i| format!(r#"{{"op":"put","key":"{i}","value":""}}"#)));
    let most = format!(
        r#"{{"operations":[{}]}}"#,
        most.collect::<Vec<_>>().join(",")
    );
    assert_eq!(cluster.post("/-/txn", &most).status, 200);
    assert_eq!(
        cluster.list("?limit=10000")["keys"]
            .as_array()
            .unwrap()
            .len(),
        1_023
    );
}

#[test]
fn lists_and_transactions_have_a_line_for_each_item() {
    let cluster = Cluster::start();
    let text = |response: &Response| String::from_utf8(response.body.clone()).unwrap();
    let empty = text(&cluster.get("/-/kv"));
    assert!(
        empty.ends_with(",\"keys\":[\n],\"next\":null}\n"),
        "{empty}"
    );
    let transact = |body: Value| cluster.post("/-/txn", &body.to_string());
    let nothing = transact(json!({"conditions": [{"key": "a", "absent": true}]}));
    let etag = nothing.etag().trim_matches('"').to_owned();
    assert_eq!(
        text(&nothing),
        format!("{{\"succeeded\":true,\"etag\":\"{etag}\",\"operations\":[\n]}}\n")
    );
    let done = transact(json!({"operations": [
        {"op": "put", "key": "a\"\u{1}", "value": "\u{e4}\n"},
        {"op": "put", "key": "%FF", "encoded": true, "value_base64": "/wA="},
    ]}));
    let etag = done.etag().trim_matches('"').to_owned();
    assert_eq!(
        text(&done),
        [
            &format!("{{\"succeeded\":true,\"etag\":\"{etag}\",\"operations\":["),
            r#"{"op":"put","key":"a\"\u0001","outcome":"created"},"#,
            r#"{"op":"put","key":"%FF","encoded":true,"outcome":"created"}"#,
            "]}\n"
        ]
        .join("\n")
    );
    let failed = transact(json!({"conditions": [
        {"key": "%FF", "encoded": true, "absent": true},
        {"key": "b", "exists": true},
    ]}));
    assert_eq!(
        text(&failed),
        [
            r#"{"succeeded":false,"failed":["#,
            &format!(r#"{{"condition":0,"key":"%FF","encoded":true,"etag":"{etag}"}},"#),
            r#"{"condition":1,"key":"b","etag":null}"#,
            "]}\n"
        ]
        .join("\n")
    );
    let list = cluster.get("/-/kv?values=true");
    let index = &list.json()["index"];
    let stored = |size| format!("\"size\":{size},\"etag\":\"{etag}\"");
    let (first, second) = (stored(3), stored(2));
    assert_eq!(
        text(&list),
        [
            &format!("{{\"index\":{index},\"keys\":["),
            &format!("{{\"key\":\"a\\\"\\u0001\",{first},\"value\":\"\u{e4}\\n\"}},"),
            &format!(r#"{{"key":"%FF","encoded":true,{second},"value_base64":"/wA="}}"#),
            "],\"next\":null}\n"
        ]
        .join("\n")
    );
}
