//! What no proper client would send: the node says no, in one line, and serves on.

use crate::harness::{Cluster, PATIENCE, eventually, require};
use crate::http::Connection;
use std::time::{Duration, Instant};

/// Asserts the status of a request and that one line says why.
#[track_caller]
fn assert_refused(cluster: &Cluster, status: u16, method: &str, path: &str, body: &[u8]) -> String {
    let response = cluster.send(1, method, path, &[], body);
    let shown = &path[..path.len().min(100)];
    assert_eq!(response.status, status, "{method} {shown}: {response:?}");
    let text = response.text();
    let lines = text.trim_end().lines().count();
    assert_eq!(lines, 1, "{method} {shown}: one line says why: {text:?}");
    text
}

#[test]
fn bad_member_ids_and_urls_are_400() {
    let cluster = Cluster::start(1);
    let good = b"http://127.0.0.1:1";
    for id in [
        "0",
        "01",
        "00",
        "-1",
        "+1",
        "1x",
        "one",
        "18446744073709551616",
        "%31%20",
        "1/",
        "1/2",
    ] {
        assert_refused(&cluster, 400, "POST", &format!("/{id}"), good);
    }
    for url in [
        &b""[..],
        b"nonsense",
        b"127.0.0.1",
        b"http://127.0.0.1",
        b"http://127.0.0.1:0",
        b"http://127.0.0.1:65536",
        b"http://127.0.0.1:1/path",
        b"http://127.0.0.1:1//",
        b"http://127.0.0.1:1?a=b",
        b"http://127.0.0.1:1,http://127.0.0.1:2",
        b"http://user@127.0.0.1:1",
        b"ftp://127.0.0.1:1",
        b"http://:1",
        b"http://127.0.0.1:1\nhttp://127.0.0.1:2",
        b"\xff\xfe",
    ] {
        assert_refused(&cluster, 400, "POST", "/2", url);
    }
    let long = vec![b'x'; 100_000];
    let response = cluster.send(1, "POST", "/2", &[], &long);
    assert!(matches!(response.status, 400 | 413), "{response:?}");
    assert_refused(&cluster, 404, "DELETE", "/2", b"");
    assert_refused(&cluster, 404, "DELETE", "/18446744073709551615", b"");
    assert_refused(&cluster, 409, "DELETE", "/1", b"");
    cluster.wait_voters(1, &[1]);
    cluster.put(1, "foo", "bar");
}

#[test]
fn bad_keys_queries_and_methods() {
    let cluster = Cluster::start(1);
    cluster.put(1, "foo", "bar");
    for (status, method, path) in [
        (400, "PUT", "/"),
        (400, "DELETE", "/"),
        (400, "PUT", "/-/kv/"),
        (400, "GET", "/foo?consistency=sometimes"),
        (400, "GET", "/foo?colour=blue"),
        (400, "PUT", "/foo?colour=blue"),
        (400, "DELETE", "/foo?x"),
        (400, "GET", "/%zz"),
        (400, "GET", "/%f"),
        (400, "PUT", "/foo%"),
        (405, "PATCH", "/foo"),
        (405, "OPTIONS", "/foo"),
        (405, "BREW", "/foo"),
        (403, "PUT", "/-/other"),
        (403, "DELETE", "/-/other"),
        (403, "PUT", "/key/foo"),
        (403, "POST", "/key/foo"),
        (403, "PUT", "/key"),
        (403, "DELETE", "/key"),
        (403, "DELETE", "/-/kv"),
        (403, "PUT", "/-"),
        (405, "POST", "/-/live"),
        (405, "POST", "/-/ready"),
        (405, "DELETE", "/-/ready"),
    ] {
        let text = assert_refused(&cluster, status, method, path, b"");
        if status == 403 {
            let url = format!("/-/kv{path}");
            assert!(text.contains(&url), "{method} {path}: no {url} in {text:?}");
        }
        if status == 405 {
            let allow = cluster.send(1, method, path, &[], b"");
            let allow = allow.header("allow").expect("Allow").to_owned();
            assert!(allow.contains("GET"), "{method} {path}: Allow: {allow}");
        }
    }
    // Both a reserved segment and a page that can only be read: either reason is right.
    for (method, path) in [
        ("PUT", "/-/status"),
        ("DELETE", "/-/ready"),
        ("POST", "/-/status"),
    ] {
        let response = cluster.send(1, method, path, &[], b"");
        assert!(
            matches!(response.status, 400 | 403 | 405),
            "{method} {path}: {response:?}"
        );
    }
    cluster.assert_value(1, "foo", "bar");
}

#[test]
fn sizes_at_and_over_the_limits() {
    let flags = ["--max-key-bytes", "100", "--max-value-bytes", "1000"];
    let cluster = Cluster::start_with(1, &flags);
    let key = "k".repeat(100);
    let value = "v".repeat(1_000);
    cluster.put(1, &key, &value);
    cluster.assert_value(1, &key, &value);
    // The limit is on the key, not on how it is spelled in the path.
    let spelled = "/".to_owned() + &"%6b".repeat(100);
    assert_eq!(cluster.send(1, "GET", &spelled, &[], b"").text(), value);

    let long_path = format!("/{key}k");
    let refused = assert_refused(&cluster, 414, "PUT", &long_path, b"");
    assert!(refused.contains("--max-key-bytes"), "{refused}");
    assert_refused(&cluster, 404, "GET", &long_path, b"");
    let longer = value.clone() + "v";
    let refused = assert_refused(&cluster, 413, "PUT", "/large", longer.as_bytes());
    assert!(refused.contains("--max-value-bytes"), "{refused}");

    // Refused by its announced length, before any of it is sent.
    let mut connection = Connection::open(cluster.address(1)).expect("connect");
    let head = "PUT /large HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000000\r\n\r\n";
    connection.write(head.as_bytes()).expect("send the head");
    let response = connection.response(false).expect("an answer");
    assert_eq!(response.status, 413, "{response:?}");

    // Without an announced length: refused as soon as it is too much.
    let mut connection = Connection::open(cluster.address(1)).expect("connect");
    let head = "PUT /large HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    connection.write(head.as_bytes()).expect("send the head");
    let chunk = format!("258\r\n{}\r\n", "v".repeat(600));
    // The second chunk is over the limit; the last chunk never comes.
    connection
        .write((chunk.clone() + &chunk).as_bytes())
        .expect("send two chunks");
    let response = connection.response(false).expect("an answer");
    assert_eq!(response.status, 413, "{response:?}");

    // A chunked body that fits is a body like any other.
    let mut connection = Connection::open(cluster.address(1)).expect("connect");
    let whole = "PUT /chunked HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
                 3\r\nfoo\r\n3\r\nbar\r\n0\r\n\r\n";
    connection.write(whole.as_bytes()).expect("send");
    assert_eq!(connection.response(false).expect("an answer").status, 204);
    cluster.assert_value(1, "chunked", "foobar");
    assert_eq!(cluster.get(1, "large"), None);
}

#[test]
fn the_default_limits_are_4_kib_and_1_mib() {
    let cluster = Cluster::start(1);
    let (key, value) = ("k".repeat(4 << 10), "v".repeat(1 << 20));
    cluster.put(1, &key, &value);
    cluster.assert_value(1, &key, &value);
    assert_refused(&cluster, 414, "PUT", &format!("/{key}k"), b"");
    assert_refused(&cluster, 413, "PUT", "/large", (value + "v").as_bytes());
}

#[test]
fn what_is_no_http_gets_an_error_or_a_closed_connection() {
    let cluster = Cluster::start(1);
    let long_head = format!("GET /foo HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let many_headers = format!("GET /foo HTTP/1.1\r\n{}\r\n", "X: x\r\n".repeat(10_000));
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET foo HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /foo HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PUT /foo HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"PUT /foo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"PUT /foo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        long_head.as_bytes(),
        many_headers.as_bytes(),
    ] {
        let mut connection = Connection::open(cluster.address(1)).expect("connect");
        // It may have had enough before all is sent.
        let _ = connection.write(garbage);
        if let Ok(response) = connection.response(false) {
            assert!((400..=505).contains(&response.status), "{response:?}");
        }
        cluster.put(1, "foo", "bar");
    }
    assert_eq!(cluster.get(1, "foo").as_deref(), Some(&b"bar"[..]));
}

#[test]
fn a_request_whose_body_never_ends_is_ended_by_its_timeout() {
    let cluster = Cluster::start_with(1, &["--request-timeout", "1s"]);
    let begin = Instant::now();
    let mut connection = Connection::open(cluster.address(1)).expect("connect");
    connection
        .write(b"PUT /half HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
        .expect("send half a request");
    cluster.put(1, "foo", "bar");
    // An answer, or the end of the connection; never 204.
    match connection.response(false) {
        Ok(response) => assert!(
            response.status == 503,
            "it was surely not proposed: {response:?}"
        ),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof),
    }
    let took = begin.elapsed();
    assert!(
        took < Duration::from_secs(10),
        "the timeout is 1 s, it took {took:?}"
    );
    assert_eq!(cluster.get(1, "half"), None);
}

#[test]
fn idle_half_open_connections_stop_nobody_and_are_closed() {
    const IDLE: usize = 1_000;
    let cluster = Cluster::start(1);
    let mut idle: Vec<Connection> = (0..IDLE)
        .map(|i| {
            let mut connection = Connection::open(cluster.address(1)).expect("connect");
            match i % 3 {
                0 => {}
                1 => connection.write(b"PUT /idle HT").expect("send"),
                _ => connection
                    .write(b"PUT /idle HTTP/1.1\r\nHost: localhost\r\nX-Never: ")
                    .expect("send"),
            }
            connection
        })
        .collect();
    for i in 0..50 {
        cluster.put(1, "foo", i.to_string());
        cluster.assert_value(1, "foo", &i.to_string());
    }
    // The deadline for the head of a request passes, and each of them is closed; some may be told why.
    for connection in &mut idle[..3] {
        let told = connection
            .rest()
            .expect("it is closed within the client's timeout");
        assert!(
            told.is_empty() || told.starts_with(b"HTTP/1.1 4"),
            "{told:?}"
        );
    }
    cluster.assert_value(1, "foo", "49");
}

#[test]
fn clients_that_vanish_in_the_middle_leave_nothing_behind() {
    let cluster = Cluster::start(1);
    for i in 0..200 {
        let mut connection = Connection::open(cluster.address(1)).expect("connect");
        let request =
            format!("PUT /gone-{i} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nvalue");
        // Cut at every place in turn, the last ones after the whole request.
        connection
            .write(&request.as_bytes()[..request.len().min(i)])
            .expect("send a part");
    }
    // A whole request whose client has gone may be carried out or not; the node serves either way.
    eventually("it serves", PATIENCE, || {
        let response = cluster.send(1, "PUT", "/foo", &[], b"bar");
        require(response.status == 204, || format!("{response:?}"))
    });
    cluster.assert_value(1, "foo", "bar");
    let half = cluster.get(1, "gone-20");
    assert_eq!(half, None, "a part of a request is no request");
}
