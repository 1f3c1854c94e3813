//! What all answers have in common: how long they may be kept, what a browser may do with them, and that an answer that
//! breaks off is never taken for a whole one.

use crate::harness::{Cluster, PATIENCE, eventually, require};
use crate::http::{Connection, Response};
use crate::skipped::skipped;
use std::io::Write as _;
use std::process::{Command, Stdio};

const OPEN_METRICS: &str =
    "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";

/// The head of an answer, without waiting for the end of a stream.
fn head(cluster: &Cluster, method: &str, path: &str, lines: &str) -> Response {
    let mut connection = Connection::open(cluster.address(1)).expect("connect");
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{lines}Content-Length: 0\r\n\r\n");
    connection.write(request.as_bytes()).expect("send");
    connection.head().expect("an answer")
}

#[test]
fn answers_say_how_long_they_may_be_kept() {
    let cluster = Cluster::start(1);
    let etag = format!("If-None-Match: \"{}\"\r\n", cluster.put(1, "a", "x"));
    let (checked, never) = (Some("no-cache"), Some("no-store"));
    for (path, lines, status, control) in [
        ("/a", "", 200, checked),
        ("/a", &*etag, 304, checked),
        ("/absent", "", 404, checked),
        ("/a", "If-Match: \"1\"\r\n", 412, checked),
        ("/a?x", "", 400, checked),
        ("/-/kv/a", "", 200, checked),
        ("/-/kv", "", 200, checked),
        ("/key/a", "", 200, checked),
        ("/", "", 200, checked),
        ("/-/other", "", 404, checked),
        ("/-/status", "", 200, never),
        ("/-/members", "", 200, never),
        ("/-/hash", "", 200, never),
        ("/-/metrics", "", 200, never),
        ("/-/live", "", 200, never),
        ("/-/ready", "", 200, never),
        ("/-/snapshot", "", 200, never),
        ("/-/snapshot?x", "", 400, never),
        ("/-/watch", "", 200, never),
    ] {
        // A backup under way would refuse the next one.
        for method in ["HEAD", "GET"] {
            let answer = head(&cluster, method, path, lines);
            assert_eq!(answer.status, status, "{path}: {answer:?}");
            assert_eq!(
                answer.header("cache-control"),
                control,
                "{path}: {answer:?}"
            );
            assert_eq!(answer.header("vary"), Some("accept"), "{path}: {answer:?}");
        }
    }
    for credentials in ["Authorization: Bearer x\r\n", "cookie: a=b\r\n"] {
        for path in ["/a", "/absent", "/-/kv"] {
            let answer = head(&cluster, "GET", path, credentials);
            assert_eq!(answer.header("cache-control"), Some("private, no-cache"));
        }
        let answer = head(&cluster, "GET", "/-/status", credentials);
        assert_eq!(answer.header("cache-control"), never);
    }
}

#[test]
fn no_page_of_another_site_may_embed_an_answer_or_guess_its_type() {
    let cluster = Cluster::start(1);
    cluster.put(1, "a", "x");
    for (method, path, lines) in [
        ("GET", "/a", ""),
        ("HEAD", "/a", ""),
        ("PUT", "/b", ""),
        ("DELETE", "/b", ""),
        ("GET", "/absent", ""),
        ("GET", "/a", "If-None-Match: *\r\n"),
        ("GET", "/a", "Accept: text/html\r\n"),
        ("GET", "/", ""),
        ("GET", "/-/kv", ""),
        ("GET", "/-/status", ""),
        ("GET", "/-/metrics", ""),
        ("GET", "/-/snapshot", ""),
        ("GET", "/-/watch", ""),
        ("PATCH", "/a", ""),
        ("GET", "/a", "Origin: null\r\n"),
    ] {
        let answer = head(&cluster, method, path, lines);
        let nosniff = answer.header("x-content-type-options");
        assert_eq!(nosniff, Some("nosniff"), "{method} {path}: {answer:?}");
        let policy = answer.header("cross-origin-resource-policy");
        assert_eq!(policy, Some("same-origin"), "{method} {path}: {answer:?}");
        let is_stream = matches!(path, "/-/snapshot" | "/-/watch");
        let buffering = answer.header("x-accel-buffering");
        assert_eq!(buffering, is_stream.then_some("no"), "{path}: {answer:?}");
    }
}

#[test]
fn a_browser_is_shown_a_value_as_text() {
    let cluster = Cluster::start(1);
    let page = "<script>alert(1)</script> \u{2603}";
    let etag = cluster.put(1, "page", page);
    cluster.put(1, "bytes", b"\xff\xfe");
    cluster.put(1, "large", vec![b'x'; 900_000]);
    let browser = [("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")];
    let kind = |key: &str, accept: &[(&str, &str)]| {
        let answer = cluster.send(1, "GET", key, accept, b"");
        let head = cluster.send(1, "HEAD", key, accept, b"");
        assert_eq!(answer.header("content-type"), head.header("content-type"));
        let kind = answer.header("content-type").expect("a type").to_owned();
        (kind, answer)
    };
    let text = "text/plain; charset=utf-8";
    let (of_page, answer) = kind("/page", &browser);
    assert_eq!((&*of_page, answer.text().as_str()), (text, page));
    assert_eq!(answer.etag(), etag);
    assert_eq!(kind("/-/kv/large", &browser).0, text);
    assert_eq!(kind("/bytes", &browser).0, "application/octet-stream");
    for accept in ["*/*", "text/html;q=0", "text/plain", "text/*"] {
        let (of_page, answer) = kind("/page", &[("Accept", accept)]);
        assert_eq!(of_page, "application/octet-stream", "{accept}");
        assert_eq!(answer.etag(), etag);
    }
}

#[test]
fn the_root_lists_what_there_is_and_a_404_names_what_was_meant() {
    let cluster = Cluster::start(1);
    for path in ["/", "/-", "/-/", "/%2D/"] {
        let answer = cluster.send(1, "GET", path, &[], b"");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(
            answer.header("content-type"),
            Some("text/plain; charset=utf-8")
        );
        for word in ["/-/kv", "/-/status", "/-/metrics", "/-/members"] {
            assert!(answer.text().contains(word), "{}", answer.text());
        }
        assert_eq!(cluster.send(1, "HEAD", path, &[], b"").status, 200);
    }
    for (key, meant) in [
        ("/metrics", "/-/metrics"),
        ("/health", "/-/ready"),
        ("/status", "/-/status"),
        ("/v2/keys/x", "/-/kv/x"),
        ("/v1/kv/x", "/-/kv/x"),
        ("/%73tats", "/-/metrics"),
    ] {
        let answer = cluster.send(1, "GET", key, &[], b"");
        assert_eq!(answer.status, 404, "{key}: {answer:?}");
        let hint = format!("did you mean {meant}?");
        assert!(answer.text().contains(&hint), "{key}: {answer:?}");
        // They are keys all the same.
        assert_eq!(cluster.send(1, "PUT", key, &[], b"value").status, 204);
        assert_eq!(cluster.send(1, "GET", key, &[], b"").text(), "value");
    }
}

#[test]
fn each_scraper_gets_the_metrics_in_the_format_that_it_asks_for() {
    let cluster = Cluster::start(1);
    cluster.put(1, "a", "x");
    for accept in [
        None,
        Some("*/*"),
        Some("text/plain"),
        Some("text/plain;version=0.0.4"),
        Some("application/openmetrics-text;q=0.1, text/plain"),
        Some("application/openmetrics-text;q=0"),
    ] {
        let fields = accept.map(|accept| ("Accept", accept));
        let answer = cluster.send(1, "GET", "/-/metrics", fields.as_slice(), b"");
        let kind = answer.header("content-type");
        assert_eq!(
            kind,
            Some("text/plain; version=0.0.4; charset=utf-8"),
            "{accept:?}"
        );
        let text = answer.text();
        for line in text.lines() {
            let known = ["# HELP ", "# TYPE ", "raftkvd_", "process_"];
            assert!(known.iter().any(|start| line.starts_with(start)), "{line}");
            assert!(
                !line.starts_with("# TYPE") || !line.ends_with(" info"),
                "{line}"
            );
        }
        for line in [
            "# TYPE raftkvd_http_requests_total counter",
            "# TYPE raftkvd_build_info gauge",
            "# TYPE raftkvd_wal_fsync_duration_seconds histogram",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line} in {text}");
        }
    }
    for accept in [OPEN_METRICS, "Application/OpenMetrics-Text"] {
        let answer = cluster.send(1, "GET", "/-/metrics", &[("Accept", accept)], b"");
        let kind = answer.header("content-type").expect("a type");
        assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
        assert!(answer.text().ends_with("\n# EOF\n"), "{accept}");
    }
}

#[test]
fn promtool_finds_nothing_to_complain_of() {
    let cluster = Cluster::start(3);
    cluster.put(1, "a", "x");
    let answer = cluster.send(1, "GET", "/-/metrics", &[], b"");
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        skipped("promtool");
        return;
    };
    let mut stdin = promtool.stdin.take().expect("a pipe");
    stdin.write_all(&answer.body).expect("write the metrics");
    drop(stdin);
    let ended = promtool.wait_with_output().expect("wait for promtool");
    assert!(ended.status.success(), "{ended:?}");
}

/// Starts a request of HTTP/1.0 and reads the start of its answer.
fn begin_1_0(cluster: &Cluster, path: &str) -> Connection {
    let mut connection = Connection::open(cluster.address(1)).expect("connect");
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    connection.write(request.as_bytes()).expect("send");
    connection
}

#[test]
fn a_client_of_http_1_0_sees_when_a_stream_breaks_off() {
    let mut cluster = Cluster::start(1);
    for i in 0..20_u8 {
        cluster.put(1, &format!("key-{i}"), vec![i; 1_000_000]);
    }
    // A backup that is whole ends in an ordinary way.
    let mut whole = begin_1_0(&cluster, "/-/snapshot");
    let bytes = whole.whole().expect("an orderly end");
    assert!(bytes.len() > 20_000_000, "{}", bytes.len());
    // A killed process ends the connection, as the end of a whole answer does: it has to be a reset.
    let mut half = begin_1_0(&cluster, "/-/snapshot");
    let mut watch = begin_1_0(&cluster, "/-/watch");
    for stream in [&mut half, &mut watch] {
        stream.start(100).expect("the start of the stream");
    }
    cluster.node(1).kill();
    for stream in [&mut half, &mut watch] {
        let error = stream.whole().expect_err("it broke off");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[test]
fn what_is_refused_before_it_can_be_read_is_counted() {
    let cluster = Cluster::start(1);
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000));
    let large = format!("GET /a HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(200_000));
    for bytes in [
        &b"GET /a b HTTP/1.1\r\n\r\n"[..],
        b"PUT /a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"PUT /a HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        long.as_bytes(),
        large.as_bytes(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut connection = Connection::open(cluster.address(1)).expect("connect");
        let _ = connection.write(bytes);
        let _ = connection.rest();
    }
    eventually("all are counted", PATIENCE, || {
        let text = cluster.send(1, "GET", "/-/metrics", &[], b"").text();
        let shows = |line: &str| text.lines().any(|shown| shown == line);
        let counted = [("malformed", 3), ("too-large", 2), ("http-2", 1)];
        let missing = counted.into_iter().find(|(reason, count)| {
            let series = format!("raftkvd_http_requests_refused_total{{reason=\"{reason}\"}}");
            !shows(&format!("{series} {count}"))
        });
        require(missing.is_none(), || format!("{missing:?} in\n{text}"))
    });
}
