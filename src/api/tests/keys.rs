//! Every row of the API's table of requests, and conditional requests.

use super::*;

#[test]
fn a_value_comes_back_byte_for_byte() {
    let cluster = Cluster::start();
    let value: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    for (target, value) in [
        ("/hello", &b"world"[..]),
        ("/empty", b""),
        ("/large", &value),
        ("/-/kv/-/status", b"a key"),
        ("/123", b"digits"),
        ("//a//b/..", b"not normalised"),
        ("/%00%ff", b"binary"),
        ("http://127.0.0.1:80/absolute", b"absolute"),
    ] {
        let put = cluster.put(target, value);
        assert_eq!((put.status, &*put.body), (204, &b""[..]), "{target}");
        let get = cluster.get(target);
        assert_eq!((get.status, &*get.body), (200, value), "{target}");
        assert_eq!(get.etag(), put.etag());
        assert!(get.etag().starts_with('"') && get.etag().ends_with('"'));
        assert_eq!(get.header("content-type"), Some("application/octet-stream"));
        assert_eq!(get.header("x-content-type-options"), Some("nosniff"));
        let head = cluster.send("HEAD", target, &[], b"");
        assert_eq!(head.status, 200);
        let length = value.len().to_string();
        assert_eq!(head.header("content-length"), Some(length.as_str()));
        assert_eq!(head.etag(), put.etag());
    }
    assert_eq!(cluster.get("/absolute").body, b"absolute");
}

#[test]
fn keys_are_equal_when_they_are_decoded() {
    let cluster = Cluster::start();
    cluster.put("/a%2Fb", b"1");
    for target in ["/a/b", "/a%2fb", "/%61/b", "/-/kv/a/b", "/%2D/kv/a%2Fb"] {
        assert_eq!(cluster.get(target).body, b"1", "{target}");
    }
    for target in ["/a//b", "//a/b", "/a/b/", "/A/b"] {
        let absent = cluster.get(target);
        assert_eq!(
            (absent.status, absent.text()),
            (404, "there is no such key")
        );
    }
}

#[test]
fn a_delete_succeeds_also_when_there_is_nothing() {
    let cluster = Cluster::start();
    cluster.put("/a", b"1");
    for _ in 0..2 {
        let delete = cluster.send("DELETE", "/a", &[], b"");
        assert_eq!((delete.status, delete.header("etag")), (204, None));
        assert_eq!(cluster.get("/a").status, 404);
    }
    cluster.put("/7", b"1");
    assert_eq!(cluster.send("DELETE", "/-/kv/7", &[], b"").status, 204);
    assert_eq!(cluster.get("/7").status, 404);
}

#[test]
fn chunked_bodies_are_joined() {
    let cluster = Cluster::start();
    let mut client = cluster.connect();
    client.write(b"PUT /a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.write(b"3\r\nabc\r\n");
    client.write(b"2\r\nde\r\n0\r\n\r\n");
    assert_eq!(client.receive("PUT").status, 204);
    assert_eq!(client.send("GET", "/a", &[], b"").body, b"abcde");
}

#[test]
fn writes_to_reserved_paths_are_refused_with_the_way_out() {
    let cluster = Cluster::start();
    for target in [
        "/-/x",
        "/-",
        "/-/kv",
        "/-/status",
        "/-/txn",
        "/key",
        "/key/a",
        "/%6bey/a",
    ] {
        for method in ["PUT", "DELETE", "POST"] {
            let is_pair = target.ends_with("ey/a");
            let served = match method {
                "POST" => matches!(target, "/key" | "/-/txn"),
                "DELETE" => is_pair,
                _ => false,
            };
            if served {
                continue;
            }
            let refused = cluster.send(method, target, &[], b"");
            assert_eq!(refused.status, 403, "{method} {target}");
            let way_out = format!("/-/kv{target}");
            assert!(refused.text().ends_with(&way_out), "{}", refused.text());
            if method == "PUT" {
                assert_eq!(cluster.put(&way_out, b"1").status, 204);
                assert_eq!(cluster.get(&way_out).body, b"1");
            }
        }
        if matches!(target, "/-/x" | "/key") {
            let absent = cluster.get(target);
            assert_eq!(absent.status, 404, "{target}");
            assert!(absent.text().ends_with(&format!("/-/kv{target}")));
        }
    }
}

#[test]
fn other_methods_are_405_with_what_is_allowed() {
    let cluster = Cluster::start();
    let root = "GET, HEAD, PUT, DELETE, POST";
    for (method, target, allowed) in [
        ("PATCH", "/a", root),
        ("OPTIONS", "/", root),
        ("OPTIONS", "*", root),
        ("TRACE", "/key/a", "GET, HEAD, DELETE"),
        ("TRACE", "/key", "POST"),
        ("GET", "/-/txn", "POST"),
        ("HEAD", "/-/txn", "POST"),
        ("PATCH", "/-/kv", "GET, HEAD"),
        ("CONNECT", "localhost:80", root),
        ("BREW", "/-/x", root),
        ("POST", "/-/kv/a", "GET, HEAD, PUT, DELETE"),
        ("PATCH", "/-/kv/a", "GET, HEAD, PUT, DELETE"),
        ("PATCH", "/-/status", "GET, HEAD"),
        ("GET", "/-/members/4", "PUT, DELETE, POST"),
        ("HEAD", "/-/members/4", "PUT, DELETE, POST"),
        ("PATCH", "/-/members/4", "PUT, DELETE, POST"),
        ("PUT", "/-/members", "GET, HEAD"),
        ("POST", "/-/members", "GET, HEAD"),
        ("OPTIONS", "/-/live", "GET, HEAD"),
    ] {
        let response = cluster.send(method, target, &[], b"");
        assert_eq!(response.status, 405, "{method} {target}");
        assert_eq!(response.header("allow"), Some(allowed), "{method} {target}");
    }
}

#[test]
fn what_is_wrong_with_a_target_is_said() {
    let cluster = Cluster::start();
    let long = format!("/{}", "%41".repeat(65));
    let longest = format!("/{}", "%41".repeat(64));
    let too_long = format!("/{}", "a".repeat((16 << 10) + 1));
    assert_eq!(cluster.put(&longest, b"").status, 204);
    for (method, target, status, words) in [
        ("PUT", "/", 400, "key is empty"),
        ("DELETE", "/", 400, "key is empty"),
        ("GET", "/-/kv/", 400, "key is empty"),
        ("PUT", "/-/kv/", 400, "key is empty"),
        ("GET", "/a%zz", 400, "%25"),
        ("PUT", "/a%4", 400, "%25"),
        ("GET", long.as_str(), 404, "no such key"),
        (
            "PUT",
            long.as_str(),
            414,
            "65 bytes, at most 64 are allowed: see --max-key-bytes",
        ),
        ("GET", too_long.as_str(), 414, "--max-key-bytes"),
        ("DELETE", too_long.as_str(), 414, "--max-key-bytes"),
        ("GET", "/a?x=1", 400, "\"x\""),
        (
            "GET",
            "a",
            400,
            "has no slash; write one before the key, as in GET /hello",
        ),
        ("DELETE", "greeting", 400, "has no slash"),
        (
            "GET",
            "/a?consistency=eventual",
            400,
            "stale or linearizable",
        ),
        (
            "GET",
            "/a?consistency=stale&consistency=stale",
            400,
            "twice",
        ),
        ("PUT", "/a?consistency=stale", 400, "\"consistency\""),
        ("DELETE", "/a?x", 400, "\"x\""),
        ("POST", "/4?x", 400, "\"x\""),
        ("DELETE", "/4?x", 400, "\"x\""),
        ("GET", "/-/status?x", 400, "\"x\""),
    ] {
        let response = cluster.send(method, target, &[], b"");
        assert_eq!(response.status, status, "{method} {target}");
        assert!(response.text().contains(words), "{}", response.text());
    }
    assert_eq!(cluster.get("/-/status?").status, 200);
}

#[test]
fn conditional_writes_follow_http() {
    let cluster = Cluster::start();
    let put = |header: &str| cluster.send("PUT", "/a", &[header], b"x");
    let absent = put("If-Match: *");
    assert_eq!((absent.status, absent.header("etag")), (412, None));
    assert!(absent.text().contains("absent"));
    let first = put("If-None-Match: *");
    assert_eq!(first.status, 204);
    let exists = put("If-None-Match: *");
    assert_eq!((exists.status, exists.etag()), (412, first.etag()));
    assert_eq!(put("If-Match: \"1000\"").etag(), first.etag());
    assert_eq!(put(&format!("If-Match: W/{}", first.etag())).status, 412);
    assert_eq!(put("If-Match: \"not ours\"").status, 400);
    assert_eq!(put("If-Match: \"notours\"").status, 412);
    assert_eq!(
        put(&format!("If-None-Match: W/{}", first.etag())).status,
        412
    );
    let second = put(&format!("If-Match: \"1000\", {}", first.etag()));
    assert_eq!(second.status, 204);
    assert_ne!(second.etag(), first.etag());
    for header in ["If-Match: 7", "If-None-Match: *, \"7\"", "If-Match:"] {
        assert_eq!(put(header).status, 400, "{header}");
    }
    let delete = |header: &str| cluster.send("DELETE", "/a", &[header], b"");
    assert_eq!(delete(&format!("If-Match: {}", first.etag())).status, 412);
    assert_eq!(delete(&format!("If-Match: {}", second.etag())).status, 204);
    assert_eq!(delete("If-Match: *").status, 412);
    assert_eq!(delete("If-None-Match: *").status, 204);
}

#[test]
fn conditional_reads_follow_http() {
    let cluster = Cluster::start();
    let etag = cluster.put("/a", b"value").etag().to_owned();
    for method in ["GET", "HEAD"] {
        let read = |header: &str| cluster.send(method, "/a", &[header], b"");
        let same = read(&format!("If-None-Match: {etag}"));
        assert_eq!((same.status, same.etag()), (304, etag.as_str()));
        assert_eq!(read(&format!("If-None-Match: W/{etag}")).status, 304);
        assert_eq!(read("If-None-Match: *").status, 304);
        assert_eq!(read("If-None-Match: \"1000\"").status, 200);
        assert_eq!(read(&format!("If-Match: {etag}")).status, 200);
        let other = read("If-Match: \"1000\"");
        assert_eq!((other.status, other.etag()), (412, etag.as_str()));
        assert_eq!(read(&format!("If-Match: W/{etag}")).status, 412);
        assert_eq!(read("If-None-Match: 7").status, 400);
    }
    let absent = cluster.send("GET", "/b", &["If-Match: *"], b"");
    assert_eq!(absent.status, 404, "it would be 404 without the condition");
}

#[test]
fn status_live_and_ready_answer() {
    let cluster = Cluster::start();
    let status = cluster.get("/-/status");
    assert_eq!(status.status, 200);
    assert_eq!(status.header("content-type"), Some("application/json"));
    let status: serde_json::Value = serde_json::from_slice(&status.body).unwrap();
    assert_eq!(status["role"], "leader");
    assert_eq!(status["members"][0]["url"], "http://127.0.0.1:9021");
    for name in ["live", "ready"] {
        let target = format!("/-/{name}");
        let get = cluster.get(&target);
        assert_eq!((get.status, get.text()), (200, name));
        assert_eq!(cluster.send("HEAD", &target, &[], b"").status, 200);
    }
}

#[test]
fn an_option_of_another_store_is_refused_with_what_serves_the_same_purpose() {
    let cluster = Cluster::start();
    cluster.put("/a", b"1");
    let written = "a question mark in a key is written %3F";
    let list = "a read gives one key; to list keys, use GET /-/kv?prefix=PREFIX";
    let follow =
        "a read gives the current value; to follow changes, use GET /-/watch?prefix=PREFIX";
    let expiry = "keys do not expire; delete a key when it is no longer needed";
    let many = "to delete many, list them with GET /-/kv?prefix=PREFIX, and delete each one, or up to 1024 in a \
                transaction (POST /-/txn)";
    for (method, target, says) in [
        (
            "GET",
            "/a?prefix=b",
            format!("unknown option \"prefix\": {list}; {written}"),
        ),
        (
            "GET",
            "/-/kv/a?recurse",
            format!("unknown option \"recurse\": {list}; {written}"),
        ),
        (
            "GET",
            "/a?wait=true",
            format!("unknown option \"wait\": {follow}; {written}"),
        ),
        (
            "GET",
            "/key/a?wait=true",
            format!("unknown option \"wait\": {follow}; {written}"),
        ),
        (
            "GET",
            "/a?ttl=5",
            format!("unknown option \"ttl\": {expiry}; {written}"),
        ),
        (
            "PUT",
            "/a?ttl=5",
            format!("unknown option \"ttl\": {expiry}; {written}"),
        ),
        (
            "PUT",
            "/a?cas=7",
            format!(
                "unknown option \"cas\": conditions are headers: send If-Match with the ETag of a read, or If-None-Match: * \
                 for a key that must be absent; {written}"
            ),
        ),
        (
            "DELETE",
            "/a?recursive=true",
            format!("unknown option \"recursive\": a request deletes one key; {many}; {written}"),
        ),
    ] {
        let refused = cluster.send(method, target, &[], b"");
        assert_eq!((refused.status, refused.text()), (400, &*says), "{target}");
    }
    for target in ["/-/kv?prefix=a", "/-/kv"] {
        let refused = cluster.send("DELETE", target, &[], b"");
        let says = format!(
            "a list of keys can't be deleted by one request; {many}; the key of that name is at /-/kv/-/kv"
        );
        assert_eq!((refused.status, refused.text()), (403, &*says), "{target}");
    }
    assert_eq!(cluster.get("/a").body, b"1");
}
