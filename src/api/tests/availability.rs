//! A closed member serves no client, whatever the request and however it is sent.

use super::*;
use crate::channels::status::{Closed, ClosedKind};

const KINDS: [(ClosedKind, &str); 3] = [
    (ClosedKind::Forming, "forming"),
    (ClosedKind::Joining, "joining"),
    (ClosedKind::OtherLife, "other-life"),
];

const WHY: &str = "not served: waits for member 3";

/// One request of each kind. Some of them would be invalid if they were served.
const REFUSED: [(&str, &str, &[u8]); 32] = [
    ("GET", "/a", b""),
    ("HEAD", "/a", b""),
    ("GET", "/a?consistency=stale", b""),
    ("PUT", "/a", b"1"),
    ("DELETE", "/a", b""),
    ("GET", "/-/kv/a?consistency=stale", b""),
    ("PUT", "/-/kv/a", b"1"),
    ("DELETE", "/-/kv/a", b""),
    ("POST", "/-/kv/a", b""),
    ("GET", "/-/kv", b""),
    ("GET", "/-/kv?consistency=stale&values=true", b""),
    ("GET", "/-/watch", b""),
    ("GET", "/-/watch?after=1", b""),
    ("GET", "/-/snapshot", b""),
    ("GET", "/-/snapshot?consistency=stale", b""),
    ("GET", "/-/hash", b""),
    ("POST", "/-/txn", b"{\"operations\":[]}"),
    ("POST", "/-/leader", b"1"),
    ("GET", "/key/a?consistency=stale", b""),
    ("DELETE", "/key/a", b""),
    ("GET", "/key", b""),
    ("POST", "/key", b"{\"a\":\"1\"}"),
    ("POST", "/4", b"http://h:1"),
    ("POST", "/join", b"{\"id\":4,\"addr\":\"h:1\"}"),
    ("DELETE", "/4", b""),
    ("PUT", "/-/members/1", b"http://h:1"),
    ("GET", "/-/members/1", b""),
    ("GET", "/-/members", b""),
    ("GET", "/-/x", b""),
    ("PUT", "/-/x", b"1"),
    ("POST", "/-/status", b""),
    ("PUT", "/-/metrics", b"1"),
];

fn close(cluster: &Cluster, kind: ClosedKind) {
    let why = WHY.to_owned();
    cluster
        .inbox
        .set_closed(Some(Arc::new(Closed { kind, why })));
}

#[test]
fn a_closed_member_refuses_every_request_at_once_and_says_why() {
    let cluster = Cluster::start();
    cluster.put("/a", b"before");
    let asked = cluster.deadlines.lock().unwrap().len();
    for (kind, code) in KINDS {
        close(&cluster, kind);
        for (method, target, body) in REFUSED {
            let refused = cluster.send(method, target, &[], body);
            assert_eq!(refused.status, 503, "{code}: {method} {target}");
            assert_eq!(refused.header("x-raftkvd-outcome"), Some("none"));
            assert_eq!(refused.header("retry-after"), Some("1"));
            if method == "HEAD" {
                continue;
            }
            assert_eq!(refused.text(), WHY);
            let accept = "Accept: application/json";
            let refused = cluster.send(method, target, &[accept], body);
            let problem: serde_json::Value = serde_json::from_slice(&refused.body).unwrap();
            assert_eq!(problem["code"], code, "{method} {target}");
            assert_eq!(problem["outcome"], "none");
            assert_eq!(problem["detail"], WHY);
        }
    }
    assert_eq!(
        cluster.deadlines.lock().unwrap().len(),
        asked,
        "the loop was asked"
    );
    cluster.inbox.set_closed(None);
    assert_eq!(cluster.get("/a").body, b"before");
    assert_eq!(cluster.put("/a", b"after").status, 204);
}

#[test]
fn how_a_closed_member_stands_is_still_shown() {
    let cluster = Cluster::start();
    for (kind, code) in KINDS {
        close(&cluster, kind);
        // `/-/ready` answers at once, and does not wait for a read that would never be confirmed.
        cluster.set(Mode::Refuse(NotProposed::NoLeader));
        let live = cluster.get("/-/live");
        assert_eq!((live.status, live.text()), (200, "live"));
        for path in ["/-/live", "/-/ready"] {
            let refused = cluster.send("POST", path, &[], b"");
            assert_eq!(refused.status, 405, "{code}: {path}");
            assert_eq!(refused.header("allow"), Some("GET, HEAD"));
        }
        let status = cluster.get("/-/status");
        let status: serde_json::Value = serde_json::from_slice(&status.body).unwrap();
        assert_eq!(status["id"], 1);
        let metrics = cluster.get("/-/metrics");
        let metrics = String::from_utf8(metrics.body).unwrap();
        assert!(metrics.contains("\nraftkvd_live 1\n"), "{metrics}");
        let ready = cluster.get("/-/ready");
        let line = format!("not ready: {WHY}");
        assert_eq!((ready.status, ready.text()), (503, &*line), "{code}");
        assert_eq!(ready.header("retry-after"), Some("1"));
        let ready = cluster.send("GET", "/-/ready", &["Accept: application/json"], b"");
        let problem: serde_json::Value = serde_json::from_slice(&ready.body).unwrap();
        assert_eq!(problem["code"], code);
        for target in ["/-/live", "/-/status", "/-/metrics"] {
            assert_eq!(cluster.send("HEAD", target, &[], b"").status, 200);
        }
    }
    assert!(
        cluster.deadlines.lock().unwrap().is_empty(),
        "the loop was asked for a read"
    );
    cluster.set(Mode::Serve);
    cluster.inbox.set_closed(None);
    assert_eq!(cluster.get("/-/ready").status, 200);
}

#[test]
fn a_closed_member_refuses_a_body_before_it_comes() {
    let cluster = Cluster::start();
    close(&cluster, ClosedKind::Forming);
    let mut client = cluster.connect();
    client.write(
        b"PUT /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n",
    );
    let refused = client.receive("PUT");
    assert_eq!((refused.status, refused.text()), (503, WHY));
    assert_eq!(refused.header("connection"), Some("close"));
}

#[test]
fn while_the_snapshot_loads_that_is_said_of_a_closed_member() {
    let replay = Arc::new(Replay::new());
    let cluster = Cluster::replaying(limits(), Arc::clone(&replay));
    close(&cluster, ClosedKind::Forming);
    let loading = cluster.get("/a");
    assert_eq!(loading.status, 503);
    assert!(loading.text().contains("replaying"), "{}", loading.text());
    assert_eq!(cluster.get("/-/live").status, 200);
    assert_eq!(cluster.get("/-/metrics").status, 200);
    replay.begin_log(10, 110, &Logger::root(slog::Discard, slog::o!()));
    assert_eq!(cluster.get("/a").text(), WHY);
    // The member stays closed when the log was replayed, so the reason is not the replay.
    assert_eq!(cluster.get("/-/ready").text(), format!("not ready: {WHY}"));
}
