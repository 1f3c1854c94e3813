//! The JSON API of hraftd: pairs of keys and values.

use super::*;
use serde_json::json;

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
    // Characters that JSON must escape, and keys that name members or reserved paths elsewhere.
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
    // As JSON, the value is six times as long, which is more than the kernel's socket buffers hold.
    assert_eq!(cluster.put("/long", &[1; 8 << 20]).status, 204);
    assert_eq!(cluster.put("/short", b"text").status, 204);
    let mut slow = cluster.connect();
    slow.write(b"GET /key/long HTTP/1.1\r\nHost: localhost\r\n\r\n");
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
        (400, r#""swordfish""#, "expected an object"),
        (400, r#"{"a":"swordfish","b":7}"#, "a string for \"b\""),
        (400, r#"{"a":null}"#, "a string for \"a\""),
        (400, r#"{"a":["swordfish"]}"#, "a string for \"a\""),
        (400, r#"{"a":{"b":"swordfish"}}"#, "a string for \"a\""),
        (400, r#"{"a\nb":true}"#, r#"a string for "a\nb""#),
        (400, r#"{"a":"swordfish","a":"2"}"#, "\"a\" appears twice"),
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
    // Only a key that is written has a limit of its own.
    assert_eq!(cluster.get(&format!("/key/{}", "k".repeat(65))).status, 404);
    assert_eq!(cluster.list("")["keys"], json!([]));
}
