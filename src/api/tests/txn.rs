//! Transactions: all of one or nothing, and what is wrong with it.

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
    for (target, value) in [("/from", &b"90"[..]), ("/to", b"10"), ("/%FF", b"\xff\0")] {
        let get = cluster.get(target);
        assert_eq!(
            (&*get.body, get.etag().trim_matches('"')),
            (value, done["etag"].as_str().unwrap())
        );
    }
    // An etag as a number, and as it stands in the header field.
    for etag in [
        json!(done["etag"].as_str().unwrap().parse::<u64>().unwrap()),
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

#[test]
fn what_is_wrong_with_a_transaction_is_said_and_nothing_is_written() {
    let cluster = Cluster::start();
    let operations = |operations: &str| {
        format!(r#"{{"operations":[{{"op":"put","key":"a","value":"swordfish"}},{operations}]}}"#)
    };
    let condition = |condition: &str| {
        format!(
            r#"{{"conditions":[{condition}],"operations":[{{"op":"put","key":"a","value":"swordfish"}}]}}"#
        )
    };
    let delete = r#"{"op":"delete","key":"k"}"#;
    let many = format!(r#"{{"operations":[{}]}}"#, vec![delete; 1_025].join(","));
    let long = "k".repeat(65);
    for (status, body, words) in [
        (400, String::new(), "EOF"),
        (400, "[]".to_owned(), "an object"),
        (400, "{}".to_owned(), "neither conditions nor operations"),
        (
            400,
            r#"{"operations":[],"conditions":[]}"#.to_owned(),
            "neither",
        ),
        (
            400,
            r#"{"operations":[],"operations":[]}"#.to_owned(),
            "\"operations\" is there twice",
        ),
        (
            400,
            r#"{"ops":[]}"#.to_owned(),
            "unknown name \"ops\": there are conditions, operations",
        ),
        (
            400,
            r#"{"operations":{"swordfish":1}}"#.to_owned(),
            "a list of operations",
        ),
        (
            400,
            r#"{"operations":"swordfish"}"#.to_owned(),
            "a list of operations",
        ),
        (
            400,
            r#"{"operations":["swordfish"]}"#.to_owned(),
            "an object with some of op, key",
        ),
        (
            400,
            operations(r#"{"op":"put","key":"a","value":"2"}"#),
            "operations[1]: another operation writes the same key",
        ),
        (
            400,
            operations(r#"{"op":"delete","key":"%61","encoded":true}"#),
            "operations[1]: another",
        ),
        (
            400,
            operations(r#"{"op":"put","key":"b"}"#),
            "a put has a \"value\"",
        ),
        (
            400,
            operations(r#"{"op":"put","value":"swordfish"}"#),
            "operations[1]: it has no \"key\"",
        ),
        (
            400,
            operations(r#"{"op":"delete","key":"b","value":"swordfish"}"#),
            "a delete has no value",
        ),
        (
            400,
            operations(r#"{"op":"put","key":"b","value":"swordfish","value_base64":""}"#),
            "both",
        ),
        (
            400,
            operations(r#"{"op":"put","key":"b","value_base64":"swordfish!"}"#),
            "not base64",
        ),
        (
            400,
            operations(r#"{"op":"put","key":"b","value":7}"#),
            "a string for \"value\"",
        ),
        (
            400,
            operations(r#"{"op":"swap","key":"b"}"#),
            "\"op\" has to be",
        ),
        (400, operations(r#"{"key":"b"}"#), "\"op\" has to be"),
        (
            400,
            operations(r#"{"op":"delete","key":""}"#),
            "operations[1]: the key is empty",
        ),
        (
            400,
            operations(r#"{"op":"delete","key":"%F","encoded":true}"#),
            "two hexadecimal digits",
        ),
        (
            400,
            operations(r#"{"op":"delete","key":"b","key":"c"}"#),
            "\"key\" is there twice",
        ),
        (
            400,
            operations(r#"{"op":"delete","key":"b","if":"x"}"#),
            "unknown name \"if\"",
        ),
        (
            400,
            operations(r#"{"op":"delete","key":"b","encoded":"yes"}"#),
            "true or false for \"encoded\"",
        ),
        (
            400,
            condition(r#"{"key":"a"}"#),
            "conditions[0]: a condition has one of",
        ),
        (
            400,
            condition(r#"{"key":"a","etag":"7","exists":true}"#),
            "has one of",
        ),
        (
            400,
            condition(r#"{"key":"a","etag":"07"}"#),
            "is not an etag",
        ),
        (
            400,
            condition(r#"{"key":"a","etag":"W/\"7\""}"#),
            "is not an etag",
        ),
        (
            400,
            condition(r#"{"key":"a","etag":-1}"#),
            "an etag such as",
        ),
        (
            400,
            condition(r#"{"key":"a","etag":"*"}"#),
            "is not an etag",
        ),
        (
            400,
            condition(r#"{"key":"a","exists":1}"#),
            "true or false for \"exists\"",
        ),
        (
            400,
            condition(r#"{"key":"a","value":"swordfish"}"#),
            "unknown name \"value\"",
        ),
        (
            413,
            operations(&format!(r#"{{"op":"delete","key":"{long}"}}"#)),
            "65 bytes, at most 64",
        ),
        (
            413,
            operations(&format!(
                r#"{{"op":"put","key":"b","value":"{}"}}"#,
                "v".repeat(100_001)
            )),
            "100001 bytes",
        ),
        (413, many, "too many operations, at most 1024"),
        (
            413,
            " ".repeat(config::TXN_BODY_BYTES_MAX + 1),
            "the body is too large",
        ),
    ] {
        let refused = cluster.post("/-/txn", &body);
        let shown = &body[..body.len().min(200)];
        assert_eq!(refused.status, status, "{shown}: {refused:?}");
        assert!(
            refused.text().contains(words),
            "{shown}: {}",
            refused.text()
        );
        assert!(!refused.text().contains("swordfish"), "{}", refused.text());
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
