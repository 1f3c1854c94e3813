//! Many keys at a time: the JSON API of hraftd, lists, and transactions.

use super::*;
use serde_json::{Value, json};

impl Response {
    fn json(&self) -> Value {
        assert_eq!(
            self.header("content-type"),
            Some("application/json"),
            "{self:?}"
        );
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Cluster {
    fn post(&self, target: &str, body: &str) -> Response {
        self.send("POST", target, &[], body.as_bytes())
    }

    /// Posts a transaction that has to be carried out or fail; returns the status and the answer.
    fn transact(&self, body: Value) -> (u16, Value) {
        let response = self.post("/-/txn", &body.to_string());
        if response.status == 200 {
            assert_eq!(response.json()["etag"], response.etag().trim_matches('"'));
        }
        (response.status, response.json())
    }

    fn list(&self, query: &str) -> Value {
        let response = self.get(&format!("/-/kv{query}"));
        assert_eq!(response.status, 200, "{query}: {response:?}");
        response.json()
    }
}

#[test]
fn pairs_are_set_shown_and_removed() {
    let cluster = Cluster::start();
    let set = cluster.post("/key", r#"{"user1":"batman", "user2":"robin"}"#);
    assert_eq!((set.status, &*set.body), (200, &b""[..]));
    let get = cluster.get("/key/user1");
    assert_eq!(
        (get.status, &*get.body),
        (200, &br#"{"user1":"batman"}"#[..])
    );
    assert_eq!(get.header("content-type"), Some("application/json"));
    assert_eq!(get.etag(), set.etag());
    assert_eq!(cluster.get("/user2").etag(), set.etag());
    assert_eq!(cluster.get("/user2").body, b"robin");
    let head = cluster.send("HEAD", "/key/user1", &[], b"");
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some("18"))
    );
    let same = format!("If-None-Match: {}", get.etag());
    assert_eq!(cluster.send("GET", "/key/user1", &[&same], b"").status, 304);
    assert_eq!(cluster.get("/key/user1?consistency=stale").status, 200);
    let delete = |headers: &[&str]| cluster.send("DELETE", "/key/user1", headers, b"");
    assert_eq!(delete(&["If-Match: \"1000\""]).status, 412);
    for _ in 0..2 {
        assert_eq!(delete(&[]).status, 200);
        assert_eq!(cluster.get("/key/user1").status, 404);
    }
    assert_eq!(cluster.post("/key", "{}").status, 200);
    // What JSON has to escape, and keys that are members or reserved elsewhere.
    let odd = json!({"a\"b\n\u{e4}": "\u{0}\u{1f600}\\", "7": "", "-/x": "y", "key": "z"});
    assert_eq!(cluster.post("/key", &odd.to_string()).status, 200);
    for (target, key) in [
        ("/key/a%22b%0A%C3%A4", "a\"b\n\u{e4}"),
        ("/key/7", "7"),
        ("/key/-/x", "-/x"),
        ("/key/key", "key"),
    ] {
        assert_eq!(
            cluster.get(target).json(),
            json!({key: odd[key]}),
            "{target}"
        );
    }
    assert_eq!(cluster.send("DELETE", "/key/7", &[], b"").status, 200);
    assert_eq!(cluster.get("/7").status, 404);
}

#[test]
fn what_is_no_text_has_its_raw_url_named() {
    let cluster = Cluster::start();
    cluster.put("/binary%20value", b"\xff\xfe");
    cluster.put("/%FF", b"text");
    for (target, raw) in [
        ("/key/binary%20value", "/-/kv/binary%20value"),
        ("/key/%ff", "/-/kv/%FF"),
    ] {
        let refused = cluster.get(target);
        assert_eq!(refused.status, 406, "{target}");
        assert!(refused.text().ends_with(raw), "{}", refused.text());
        assert_eq!(cluster.get(raw).status, 200);
    }
}

#[test]
fn json_that_slow_clients_have_not_read_is_bounded() {
    let mut limits = limits();
    limits.value_bytes_max = 8 << 20;
    limits.body_bytes_max = 16 << 20;
    let cluster = Cluster::with(limits);
    // Six times as long as JSON, and more than the kernel takes off the daemon's hands.
    assert_eq!(cluster.put("/long", &[1; 8 << 20]).status, 204);
    assert_eq!(cluster.put("/short", b"text").status, 204);
    let mut slow = cluster.connect();
    slow.write(b"GET /key/long HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(slow.line(), "HTTP/1.1 200 OK");
    let deadline = StdInstant::now() + Duration::from_secs(15);
    let refused = cluster.get("/key/short");
    assert_eq!(refused.status, 503, "{}", refused.text());
    let operations = json!([{"op": "put", "key": "a", "value": "b"}]);
    let (status, _) = cluster.transact(json!({ "conditions": [], "operations": operations }));
    assert_eq!(status, 200, "no reader refuses a write");
    assert_eq!(
        cluster.get("/short").status,
        200,
        "what is no JSON is shown"
    );
    drop(slow);
    while cluster.get("/key/short").status != 200 {
        assert!(StdInstant::now() < deadline, "it is refused for ever");
    }
    assert_eq!(
        cluster.get("/key/long").body.len(),
        6 * (8 << 20) + "{\"long\":\"\"}".len()
    );
}

#[test]
fn what_is_wrong_with_pairs_is_said_and_nothing_is_written() {
    let cluster = Cluster::start();
    let long_key = format!(r#"{{"a":"1","{}":"2"}}"#, "k".repeat(65));
    let long_value = format!(r#"{{"a":"{}"}}"#, "v".repeat(100_001));
    let many: Vec<String> = (0..=limits::TXN_OPERATIONS_MAX)
        .map(|i| format!("\"{i}\":\"\""))
        .collect();
    let many = format!("{{{}}}", many.join(","));
    let secret = "swordfish";
    for (status, body, words) in [
        (400, "", "not an object of strings: EOF"),
        (400, "nonsense", "line 1 column 2"),
        (400, "[]", "an object such as"),
        (400, "null", "an object such as"),
        (400, "7", "an object such as"),
        (400, r#""swordfish""#, "a string stands where an object"),
        (400, r#"{"a":"swordfish","b":7}"#, "a string for \"b\""),
        (400, r#"{"a":null}"#, "a string for \"a\""),
        (400, r#"{"a":["swordfish"]}"#, "a string for \"a\""),
        (400, r#"{"a":{"b":"swordfish"}}"#, "a string for \"a\""),
        (400, r#"{"a\nb":true}"#, r#"a string for "a\nb""#),
        (400, r#"{"a":"swordfish","a":"2"}"#, "\"a\" is there twice"),
        (400, r#"{"a":"1","":"swordfish"}"#, "the key is empty"),
        (400, r#"{"a":"swordfish"}{}"#, "trailing"),
        (400, r#"{"a":"swordfish"#, "EOF"),
        (400, "{\"a\":\"swordfish\\ud800\"}", "line 1"),
        (413, &long_key, "65 bytes, at most 64"),
        (413, &long_value, "100001 bytes, at most 100000"),
        (413, &many, "too many keys, at most 1024"),
    ] {
        let refused = cluster.post("/key", body);
        let shown = &body[..body.len().min(80)];
        assert_eq!(refused.status, status, "{shown}: {refused:?}");
        assert!(
            refused.text().contains(words),
            "{shown}: {}",
            refused.text()
        );
        assert!(!refused.text().contains(secret), "{}", refused.text());
    }
    let raw = cluster.send("POST", "/key", &[], b"{\"a\":\"\xff\"}");
    assert_eq!(raw.status, 400);
    let conditional = cluster.send("POST", "/key", &["If-Match: *"], b"{\"a\":\"1\"}");
    assert_eq!(conditional.status, 400);
    assert!(conditional.text().contains("/-/txn"));
    assert_eq!(cluster.post("/key?x", "{}").status, 400);
    for (method, target) in [("GET", "/key/"), ("DELETE", "/key/"), ("GET", "/key/a?x")] {
        assert_eq!(
            cluster.send(method, target, &[], b"").status,
            400,
            "{target}"
        );
    }
    assert_eq!(cluster.get(&format!("/key/{}", "k".repeat(65))).status, 414);
    assert_eq!(cluster.list("")["keys"], json!([]));
}

#[test]
fn keys_are_listed_page_by_page() {
    let cluster = Cluster::start();
    let empty = cluster.list("");
    assert_eq!((&empty["keys"], &empty["next"]), (&json!([]), &json!(null)));
    let mut etags = std::collections::BTreeMap::new();
    for (target, value) in [
        ("/a", &b"one"[..]),
        ("/b/1", b""),
        ("/b/%FF%00", b"\xff"),
        ("/b/%25FF", b"quote \" here"),
        ("/%00", b"x"),
        ("/c", b"x"),
    ] {
        etags.insert(
            target,
            cluster
                .put(target, value)
                .etag()
                .trim_matches('"')
                .to_owned(),
        );
    }
    let all = json!([
        {"key": "\u{0}", "size": 1, "etag": etags["/%00"]},
        {"key": "a", "size": 3, "etag": etags["/a"]},
        {"key": "b/%FF", "size": 12, "etag": etags["/b/%25FF"]},
        {"key": "b/1", "size": 0, "etag": etags["/b/1"]},
        {"key": "b/%FF%00", "encoded": true, "size": 1, "etag": etags["/b/%FF%00"]},
        {"key": "c", "size": 1, "etag": etags["/c"]},
    ]);
    let list = cluster.list("");
    assert_eq!((&list["keys"], &list["next"]), (&all, &json!(null)));
    assert_eq!(list["index"].to_string(), etags["/c"]);
    for limit in 1..=7 {
        let mut link = format!("?limit={limit}&consistency=stale");
        let mut found = Vec::new();
        let mut pages = 0;
        loop {
            let page = cluster.list(&link);
            found.extend(page["keys"].as_array().unwrap().iter().cloned());
            pages += 1;
            match page["next"].as_str() {
                Some(next) => link = next.strip_prefix("/-/kv").unwrap().to_owned(),
                None => break,
            }
        }
        assert_eq!(
            (Value::from(found), pages),
            (all.clone(), 6_usize.div_ceil(limit))
        );
    }
    let values = cluster.list("?prefix=b%2F&values=true&limit=2");
    let keys = values["keys"].as_array().unwrap();
    assert_eq!(keys[0]["value"], "quote \" here");
    assert_eq!(keys[1]["value"], "");
    let next = values["next"].as_str().unwrap();
    assert_eq!(next, "/-/kv?after=b/1&prefix=b/&limit=2&values=true");
    let rest = cluster.get(next).json();
    assert_eq!(
        rest["keys"],
        json!([
            {"key": "b/%FF%00", "encoded": true, "size": 1, "etag": etags["/b/%FF%00"], "value_base64": "/w=="},
        ])
    );
    let after = cluster.list("?prefix=b/&after=b/%FF");
    assert_eq!(after["keys"][0]["key"], "b/%FF%00");
    let head = cluster.send("HEAD", "/-/kv", &[], b"");
    assert_eq!(head.status, 200);
    for (query, words) in [
        ("?limit=0", "from 1 to 10000"),
        ("?limit=10001", "from 1 to 10000"),
        ("?limit=", "from 1 to 10000"),
        ("?limit=1&limit=2", "twice"),
        ("?prefix=%zz", "percent-encoded"),
        ("?values=yes", "true or false"),
        ("?consistency=eventual", "stale or linearizable"),
        ("?keys=1", "unknown option \"keys\""),
    ] {
        let refused = cluster.get(&format!("/-/kv{query}"));
        assert_eq!(refused.status, 400, "{query}");
        assert!(refused.text().contains(words), "{}", refused.text());
    }
    cluster.set(Mode::Refuse(NotProposed::NoLeader));
    assert_eq!(cluster.get("/-/kv").status, 503);
    assert_eq!(cluster.get("/-/kv?consistency=stale").status, 200);
}

#[test]
fn a_list_of_large_values_ends_early_and_goes_on() {
    let cluster = Cluster::start();
    let value = vec![0xff; 100_000];
    for i in 0..50 {
        assert_eq!(cluster.put(&format!("/key{i:02}"), &value).status, 204);
    }
    let first = cluster.get("/-/kv?values=true");
    assert!(first.body.len() < limits::LIST_BYTES_MAX + 1_000);
    let first = first.json();
    let count = first["keys"].as_array().unwrap().len();
    assert!((25..50).contains(&count), "{count}");
    let second = cluster.get(first["next"].as_str().unwrap()).json();
    assert_eq!(second["keys"].as_array().unwrap().len(), 50 - count);
    assert_eq!(second["next"], json!(null));
}

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
            " ".repeat(limits::TXN_BODY_BYTES_MAX + 1),
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

#[test]
fn failed_is_not_unknown_for_many_keys_either() {
    let cluster = Cluster::start();
    let txn = r#"{"operations":[{"op":"put","key":"a","value":"1"}]}"#;
    for (mode, status, outcome) in [
        (Mode::Refuse(NotProposed::QueueFull), 503, "none"),
        (Mode::Drop, 504, "unknown"),
    ] {
        cluster.set(mode);
        for (target, body) in [("/-/txn", txn), ("/key", r#"{"a":"1"}"#)] {
            let response = cluster.post(target, body);
            assert_eq!(response.status, status, "{target}");
            assert_eq!(
                response.header("x-raftkvd-outcome"),
                Some(outcome),
                "{target}"
            );
        }
    }
}
