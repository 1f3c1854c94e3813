//! The gate: which requests a member answers at all. A web page that somebody has open must not reach a member on
//! loopback, neither by a request to another site nor by a name that resolves to the member.

use crate::harness::{Cluster, PATIENCE, eventually, require};
use crate::http::{Connection, Response};
use crate::process::{daemon, run_to_end};
use serde_json::Value;

/// Sends a head as it is, with a body if there is one, and reads the answer.
fn raw(cluster: &Cluster, head: &str, body: &str) -> Response {
    let mut connection = Connection::open(cluster.address(1)).expect("connect");
    let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    connection.write(request.as_bytes()).expect("send");
    let method = head.split(' ').next().unwrap_or_default();
    connection.response(method == "HEAD").expect("an answer")
}

/// A GET with these header lines.
fn get(cluster: &Cluster, lines: &[&str]) -> Response {
    raw(
        cluster,
        &format!("GET /mine HTTP/1.1\r\n{}", lines.join("\r\n")),
        "",
    )
}

#[track_caller]
fn assert_line(response: &Response, status: u16, words: &[&str]) {
    assert_eq!(response.status, status, "{response:?}");
    let text = response.text();
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    for word in words {
        assert!(text.contains(word), "no {word} in {text}");
    }
}

#[test]
fn only_hosts_that_the_member_is_known_by_are_served() {
    let cluster = Cluster::start_with(1, &["--allow-host", "kv.example,*.apps.example"]);
    cluster.put(1, "mine", "x");
    let machine = rustix::system::uname();
    let machine = machine.nodename().to_string_lossy().into_owned();
    for host in [
        "127.0.0.1",
        "127.0.0.1:1",
        "127.0.0.1.:9121",
        "203.0.113.7:80",
        "[::1]",
        "[::1]:9121",
        "[fe80::1%25eth0]:9121",
        "localhost",
        "LocalHost.:9121",
        "kv.example",
        "KV.EXAMPLE:443",
        "kv.example.",
        "a.apps.example",
        "a.b.apps.example:80",
        &machine,
    ] {
        for spelled in ["Host: ", "HOST:", "host:\t"] {
            let answer = get(&cluster, &[&format!("{spelled}{host}")]);
            assert_eq!(answer.status, 200, "{spelled}{host}: {answer:?}");
        }
    }
    for host in [
        "evil.example",
        "evil.example:9121",
        "apps.example",
        "xapps.example",
        "kv.example.evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "xn--kv-example-x.example",
        "127.1",
        "2130706433",
    ] {
        let answer = get(&cluster, &[&format!("Host: {host}")]);
        let name = host.split(':').next().unwrap_or_default();
        let option = format!("--allow-host {name}");
        assert_line(&answer, 421, &[&option, "proxy", "pass on the Host"]);
        // The target takes precedence over the header.
        let head = format!("GET http://{host}/mine HTTP/1.1\r\nHost: 127.0.0.1");
        assert_line(&raw(&cluster, &head, ""), 421, &[&option]);
        let head = format!("PUT /mine HTTP/1.0\r\nHost: {host}");
        let mut connection = Connection::open(cluster.address(1)).expect("connect");
        connection
            .write(format!("{head}\r\nContent-Length: 1\r\n\r\ny").as_bytes())
            .expect("send");
        let told = connection.rest().expect("an answer");
        assert!(told.starts_with(b"HTTP/1.0 421 "), "{told:?}");
    }
    assert_eq!(cluster.get(1, "mine").as_deref(), Some(&b"x"[..]));
}

#[test]
fn a_request_has_one_host_that_is_well_formed() {
    let cluster = Cluster::start(1);
    cluster.put(1, "mine", "x");
    for lines in [
        &["Accept: */*"][..],
        &["Host: localhost", "Host: localhost"],
        &["Host: localhost", "hOST: evil.example"],
        &["Host: localhost, evil.example"],
        &["Host:"],
        &["Host: :9121"],
        &["Host: localhost:port"],
        &["Host: localhost:65536"],
        &["Host: localhost:9121:9121"],
        &["Host: ::1"],
        &["Host: [::1"],
        &["Host: [localhost]"],
        &["Host: user@localhost"],
        &["Host: user:password@localhost:9121"],
        &["Host: local host"],
        &["Host: http://localhost"],
        &["Host: localhost/"],
        &["Host: loc%61lhost"],
        &["Host: a..b"],
        &["Host: b\u{fc}cher.example"],
    ] {
        assert_line(&get(&cluster, lines), 400, &[]);
    }
    for (head, status) in [
        ("GET http://127.0.0.1/mine HTTP/1.1\r\nHost: 127.0.0.1", 200),
        (
            "GET HTTP://LOCALHOST:9121/mine HTTP/1.1\r\nHost: localhost:9121",
            200,
        ),
        (
            "GET http://user@127.0.0.1/mine HTTP/1.1\r\nHost: 127.0.0.1",
            400,
        ),
        ("GET http://127.0.0.1/mine HTTP/1.1", 400),
        (
            "GET http://127.0.0.1/mine HTTP/1.1\r\nHost: evil.example",
            421,
        ),
    ] {
        let answer = raw(&cluster, head, "");
        assert_eq!(answer.status, status, "{head}: {answer:?}");
    }
    // HTTP/1.0 need not name a host.
    let mut connection = Connection::open(cluster.address(1)).expect("connect");
    connection
        .write(b"GET /mine HTTP/1.0\r\n\r\n")
        .expect("send");
    let answer = connection.rest().expect("an answer");
    assert!(answer.starts_with(b"HTTP/1.0 200 "), "{answer:?}");
    assert!(answer.ends_with(b"\r\n\r\nx"), "{answer:?}");
}

#[test]
fn probes_and_scrapers_may_use_any_host() {
    let cluster = Cluster::start(1);
    for path in ["/-/live", "/-/ready", "/-/metrics", "/%2D/live"] {
        for host in ["evil.example", "a b"] {
            let head = format!("GET {path} HTTP/1.1\r\nHost: {host}");
            let answer = raw(&cluster, &head, "");
            assert_eq!(answer.status, 200, "{path} {host}: {answer:?}");
        }
    }
    for path in ["/-/status", "/-/kv", "/-/live/", "/live", "/", "/-/members"] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: evil.example");
        assert_eq!(raw(&cluster, &head, "").status, 421, "{path}");
    }
}

#[test]
fn the_hosts_of_members_are_known_as_soon_as_they_are_members() {
    let cluster = Cluster::start(1);
    cluster.put(1, "mine", "x");
    let host = "Host: node-4.example:9121";
    assert_eq!(get(&cluster, &[host]).status, 421);
    let url = b"http://Node-4.example:1";
    let added = cluster.send(1, "POST", "/-/members/4", &[], url);
    assert_eq!(added.status, 204, "{added:?}");
    eventually("its host is known", PATIENCE, || {
        let answer = get(&cluster, &[host]);
        require(answer.status == 200, || format!("{answer:?}"))
    });
    assert_eq!(
        cluster.send(1, "DELETE", "/-/members/4", &[], b"").status,
        204
    );
    eventually("its host is unknown", PATIENCE, || {
        let answer = get(&cluster, &[host]);
        require(answer.status == 421, || format!("{answer:?}"))
    });
}

#[test]
fn allowed_hosts_come_from_options_and_the_environment() {
    let mut cluster = Cluster::prepare(1, &[]);
    let node = cluster.node(1);
    node.environment = vec![("RAFTKVD_ALLOW_HOST".into(), "*".into())];
    cluster.start_all();
    cluster.put(1, "mine", "x");
    assert_eq!(get(&cluster, &["Host: anything.example"]).status, 200);
    assert_eq!(get(&cluster, &["Host: any thing"]).status, 400);
    cluster.kill_all();
    let flags = ["--allow-host", "a.example", "--allow-host", "b.example"];
    cluster.node(1).environment.clear();
    cluster.node(1).arguments.extend(flags.map(str::to_owned));
    cluster.start_all();
    for (host, status) in [("a.example", 200), ("b.example", 200), ("c.example", 421)] {
        let answer = get(&cluster, &[&format!("Host: {host}")]);
        assert_eq!(answer.status, status, "{host}");
    }
    for name in ["kv.example:443", "http://kv.example", "*.", "a b"] {
        let mut command = daemon(cluster.path());
        let ended = run_to_end(command.args(["--allow-host", name]));
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        assert!(ended.stderr.contains("--allow-host"), "{ended:?}");
    }
}

/// Requests that change something.
const CHANGES: [(&str, &str, &str); 9] = [
    ("PUT", "/mine", "theirs"),
    ("DELETE", "/mine", ""),
    ("POST", "/key", "{\"mine\":\"theirs\"}"),
    ("DELETE", "/key/mine", ""),
    (
        "POST",
        "/-/txn",
        "{\"operations\":[{\"op\":\"delete\",\"key\":\"mine\"}]}",
    ),
    ("POST", "/7", "http://127.0.0.1:1"),
    ("POST", "/-/members/7", "http://127.0.0.1:1"),
    ("POST", "/join", "{\"id\":7,\"addr\":\"127.0.0.1:1\"}"),
    ("POST", "/-/leader", "1"),
];

#[test]
fn requests_of_pages_of_other_sites_are_refused() {
    let cluster = Cluster::start(1);
    cluster.put(1, "mine", "x");
    let navigates = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate";
    for lines in [
        "Sec-Fetch-Site: cross-site",
        "sec-fetch-site: same-site",
        "SEC-FETCH-SITE: Same-Origin",
        "Sec-Fetch-Site:",
        "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Site: cross-site",
        "Origin: http://evil.example",
        "origin: null",
        "Origin:",
        "Origin: http://localhost:1",
        "Origin: http://127.0.0.1:9121",
        "Origin: http://localhost:9121/",
        "Origin: http://user@localhost:9121",
        "Origin: ftp://localhost:9121",
        "Origin: http://localhost:9121\r\nOrigin: http://localhost:9121",
        "Origin: http://localhost:9121\r\nSec-Fetch-Site: cross-site",
        // A form navigates, and so does a frame.
        &format!("{navigates}\r\nSec-Fetch-Dest: document\r\nOrigin: http://evil.example"),
        &format!("{navigates}\r\nSec-Fetch-Dest: iframe"),
    ] {
        for (method, path, body) in CHANGES {
            let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost:9121\r\n{lines}");
            let answer = raw(&cluster, &head, body);
            assert_line(&answer, 403, &["another site"]);
        }
        if lines.contains("document") {
            continue;
        }
        for path in [
            "/mine",
            "/-/kv",
            "/-/watch",
            "/-/snapshot",
            "/-/metrics",
            "/%2D/live",
        ] {
            let head = format!("GET {path} HTTP/1.1\r\nHost: localhost:9121\r\n{lines}");
            assert_line(&raw(&cluster, &head, ""), 403, &["another site"]);
        }
    }
    let json = [
        ("Accept", "application/json"),
        ("Sec-Fetch-Site", "cross-site"),
    ];
    let problem = cluster.send(1, "GET", "/mine", &json, b"");
    let problem: Value = serde_json::from_slice(&problem.body).expect("JSON");
    assert_eq!(problem["code"], "cross-site");
    assert_eq!(cluster.get(1, "mine").as_deref(), Some(&b"x"[..]));
    cluster.wait_voters(1, &[1]);
}

#[test]
fn own_pages_links_and_clients_that_are_no_browsers_are_served() {
    let cluster = Cluster::start_with(1, &["--allow-host", "kv.example"]);
    cluster.put(1, "mine", "x");
    let link = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document";
    for lines in [
        "Host: localhost:9121\r\nOrigin: http://localhost:9121\r\nSec-Fetch-Site: same-origin",
        "Host: localhost:9121\r\nSec-Fetch-Site: none",
        "Host: localhost\r\nOrigin: http://localhost:80",
        "Host: [::1]:9121\r\nOrigin: http://[0:0::1]:9121",
        // Behind a proxy that ends TLS.
        "Host: kv.example\r\nOrigin: https://KV.example",
        "Host: kv.example:443\r\nOrigin: https://kv.example",
        &format!("Host: localhost:9121\r\n{link}"),
        &format!("Host: localhost:9121\r\nReferer: http://wiki.example/\r\n{link}"),
    ] {
        let answer = get(&cluster, &[lines]);
        assert_eq!(answer.status, 200, "{lines}: {answer:?}");
    }
    let own = "Host: kv.example\r\nOrigin: https://kv.example\r\nSec-Fetch-Site: same-origin";
    let put = raw(&cluster, &format!("PUT /mine HTTP/1.1\r\n{own}"), "y");
    assert_eq!(put.status, 204, "{put:?}");
    // A rebound name is the same site to the browser. Only the Host gives it away.
    let rebound = own.replace("kv.example", "evil.example");
    let put = raw(&cluster, &format!("PUT /mine HTTP/1.1\r\n{rebound}"), "z");
    assert_line(&put, 421, &["--allow-host"]);
    assert_eq!(cluster.get(1, "mine").as_deref(), Some(&b"y"[..]));
}

#[test]
fn a_part_of_a_value_and_unknown_codings_are_not_written() {
    let cluster = Cluster::start(1);
    cluster.put(1, "mine", "whole");
    for line in [
        "Content-Range: bytes 3-4/5",
        "content-range: bytes */5",
        "CONTENT-RANGE: x",
        "Content-Range: bytes 0-1/2\r\nContent-Range: bytes 0-1/2",
    ] {
        for path in ["/mine", "/-/kv/mine", "/%6Dine"] {
            let head = format!("PUT {path} HTTP/1.1\r\nHost: localhost\r\n{line}");
            assert_line(&raw(&cluster, &head, "le"), 400, &["Content-Range"]);
        }
    }
    for codings in [
        "Transfer-Encoding: gzip, chunked",
        "transfer-encoding: x\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: identity,chunked",
        "Transfer-Encoding: chunked, chunked",
    ] {
        let mut connection = Connection::open(cluster.address(1)).expect("connect");
        let head = format!("PUT /mine HTTP/1.1\r\nHost: localhost\r\n{codings}\r\n\r\n");
        let body = "1\r\nx\r\n0\r\n\r\n";
        connection.write((head + body).as_bytes()).expect("send");
        let answer = connection.response(false).expect("an answer");
        assert_line(&answer, 501, &["chunked"]);
    }
    // The gate has its own lines for refusals, and this one is no fault of the member.
    let log = cluster.nodes[&1].log_text();
    assert!(!log.contains("status: 501"), "{log}");
    assert_eq!(cluster.get(1, "mine").as_deref(), Some(&b"whole"[..]));
    let mut connection = Connection::open(cluster.address(1)).expect("connect");
    connection
        .write(b"PUT /mine HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: Chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n")
        .expect("send");
    assert_eq!(connection.response(false).expect("an answer").status, 204);
}

#[test]
fn a_plus_sign_is_a_space_in_a_query_and_itself_in_a_path() {
    let cluster = Cluster::start(1);
    let keys = ["a b", "a+b", "a%20b"];
    for key in keys {
        let path = crate::http::encode(key.as_bytes());
        assert_eq!(cluster.send(1, "PUT", &path, &[], b"x").status, 204);
    }
    assert_eq!(cluster.send(1, "GET", "/a+b", &[], b"").status, 200);
    let list = |query: &str| {
        let listed = cluster.send(1, "GET", &format!("/-/kv?{query}"), &[], b"");
        let listed: Value = serde_json::from_slice(&listed.body).expect("JSON");
        let names = listed["keys"].as_array().expect("keys").iter();
        let names = names.map(|key| key["key"].as_str().expect("a key").to_owned());
        (names.collect::<Vec<_>>(), listed["next"].clone())
    };
    assert_eq!(list("prefix=a+b").0, ["a b"]);
    assert_eq!(list("prefix=a%20b").0, ["a b"]);
    assert_eq!(list("prefix=a%2Bb").0, ["a+b"]);
    assert_eq!(list("prefix=a%2520b").0, ["a%20b"]);
    assert_eq!(list("after=a+b").0, ["a%20b", "a+b"]);
    // The links of a list say the same.
    let (mut found, mut next) = list("limit=1");
    while let Some(link) = next.as_str() {
        let (names, after) = list(link.strip_prefix("/-/kv?").expect("a list"));
        found.extend(names);
        next = after;
    }
    assert_eq!(found, ["a b", "a%20b", "a+b"]);
}
