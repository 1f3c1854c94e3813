//! The table of the REST API, row by row, through a follower wherever that could make a difference.

use crate::harness::{Cluster, leader_and_followers};
use crate::http;

#[test]
fn put_get_head_delete() {
    let cluster = Cluster::start(3);
    let (_, followers) = leader_and_followers(&cluster);
    let via = followers[0];
    assert_eq!(cluster.send(via, "GET", "/foo", &[], b"").status, 404);
    assert_eq!(cluster.send(via, "HEAD", "/foo", &[], b"").status, 404);
    let etag = cluster.put(via, "foo", "bar");

    let get = cluster.send(via, "GET", "/foo", &[], b"");
    let head = cluster.send(via, "HEAD", "/foo", &[], b"");
    for response in [&get, &head] {
        assert_eq!(response.status, 200, "{response:?}");
        assert_eq!(response.etag(), etag);
        assert_eq!(
            response.header("content-type"),
            Some("application/octet-stream")
        );
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(response.header("content-length"), Some("3"));
    }
    assert_eq!((get.text().as_str(), head.body.len()), ("bar", 0));

    for _ in 0..2 {
        let deleted = cluster.send(via, "DELETE", "/foo", &[], b"");
        assert_eq!(deleted.status, 204, "also when absent: {deleted:?}");
        assert_eq!(cluster.get(followers[1], "foo"), None);
    }
}

#[test]
fn conditions_are_decided_alike_on_every_member() {
    let cluster = Cluster::start(3);
    let only_new = ("If-None-Match", "*");
    let any = ("If-Match", "*");
    for via in 1..=3 {
        let path = format!("/conditional-{via}");
        let send = |method: &str, condition: (&str, &str), value: &str| {
            cluster.send(via, method, &path, &[condition], value.as_bytes())
        };
        // Absent.
        for response in [
            send("PUT", any, "x"),
            send("PUT", ("If-Match", "\"1\""), "x"),
            send("DELETE", any, ""),
        ] {
            assert_eq!(response.status, 412, "{response:?}");
            assert_eq!(response.header("etag"), None, "{response:?}");
        }
        let created = send("PUT", only_new, "one");
        assert_eq!(created.status, 204, "{created:?}");
        let first = format!("\"{}\"", created.etag());
        // Present.
        for response in [
            send("PUT", only_new, "x"),
            send("DELETE", only_new, ""),
            send("PUT", ("If-Match", "\"1\""), "x"),
            send("PUT", ("If-None-Match", &first), "x"),
        ] {
            assert_eq!(response.status, 412, "{response:?}");
            assert_eq!(
                response.header("etag"),
                Some(first.as_str()),
                "{response:?}"
            );
        }
        let list = format!("\"1\", {first}");
        let second = send("PUT", ("If-Match", &list), "two");
        assert_eq!(second.status, 204, "one of the list matches: {second:?}");
        let stale = send("DELETE", ("If-Match", &first), "");
        assert_eq!(stale.status, 412, "{stale:?}");
        assert_eq!(stale.etag(), second.etag());
        let second = format!("\"{}\"", second.etag());
        let deleted = send("DELETE", ("If-Match", &second), "");
        assert_eq!(deleted.status, 204, "{deleted:?}");
        assert_eq!(cluster.get(via, &path[1..]), None);
        let again = send("PUT", only_new, "three");
        assert_eq!(again.status, 204, "a deleted key is absent: {again:?}");
    }
}

#[test]
fn keys_are_bytes_and_are_not_normalised() {
    let cluster = Cluster::start(1);
    let keys: [&[u8]; 13] = [
        b"a//b",
        b"a/b",
        b"a/./b",
        b"a/../b",
        b"..",
        b"../../etc/passwd",
        b".",
        b"a/",
        b" ",
        b"%2F",
        b"\0\xff\xfe",
        "\u{e4}\u{20ac}".as_bytes(),
        b"123",
    ];
    for (i, key) in keys.iter().enumerate() {
        let response = cluster.send(1, "PUT", &http::encode(key), &[], &[i as u8]);
        assert_eq!(response.status, 204, "{key:?}: {response:?}");
    }
    for (i, key) in keys.iter().enumerate() {
        for path in [http::encode(key), format!("/-/kv{}", http::encode(key))] {
            let response = cluster.send(1, "GET", &path, &[], b"");
            assert_eq!(response.status, 200, "{path}: {response:?}");
            assert_eq!(response.body, [i as u8], "{path}");
        }
    }
    // As they are in the request line, without any encoding.
    for (path, expected) in [("/a//b", 0), ("/a/../b", 3), ("/..", 4), ("/a%2fb", 1)] {
        let response = cluster.send(1, "GET", path, &[], b"");
        assert_eq!(
            (response.status, &response.body[..]),
            (200, &[expected][..]),
            "{path}"
        );
    }
}

#[test]
fn every_key_can_be_named_under_kv() {
    let cluster = Cluster::start(1);
    for key in ["123", "-/status", "-/kv/x", "key/foo", "-", "key", "plain"] {
        let path = format!("/-/kv/{key}");
        let put = cluster.send(1, "PUT", &path, &[], key.as_bytes());
        assert_eq!(put.status, 204, "{path}: {put:?}");
        let get = cluster.send(1, "GET", &path, &[], b"");
        assert_eq!((get.status, get.text().as_str()), (200, key), "{path}");
    }
    // A key of digits: written and read at the root, deleted here, because there it names a member.
    cluster.put(1, "9", "digits");
    let member = cluster.send(1, "DELETE", "/9", &[], b"");
    assert_eq!(member.status, 404, "{member:?}");
    assert!(member.text().contains("/-/kv/9"), "the hint: {member:?}");
    cluster.assert_value(1, "9", "digits");
    for key in ["9", "123", "-/status", "key/foo"] {
        let path = format!("/-/kv/{key}");
        assert_eq!(cluster.send(1, "DELETE", &path, &[], b"").status, 204);
        assert_eq!(cluster.send(1, "GET", &path, &[], b"").status, 404);
    }
    assert_eq!(cluster.send(1, "GET", "/-/status", &[], b"").status, 200);
}

#[test]
fn binary_and_empty_values_come_back_byte_for_byte() {
    let cluster = Cluster::start(3);
    let all_bytes: Vec<u8> = (0..=255).collect();
    let large: Vec<u8> = (0..1 << 20)
        .map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    for (i, value) in [&b""[..], b"\0", b"\r\n\r\n", &all_bytes, &large]
        .iter()
        .enumerate()
    {
        let key = format!("value-{i}");
        cluster.put(i as u64 % 3 + 1, &key, value);
        let got = cluster
            .get((i as u64 + 1) % 3 + 1, &key)
            .expect("it is there");
        assert!(got == *value, "value {i} of {} bytes", value.len());
    }
}
