//! The audit: who asked for what, and what came of it, in one line each, at every level.

use crate::harness::{Cluster, PATIENCE, eventually, require};
use crate::http::{self, Connection};
use rustix::process::Signal;
use serde_json::{Value, json};

/// The lines of the audit of this kind.
fn audit(cluster: &Cluster, id: u64, kind: &str) -> Vec<Value> {
    let log = cluster.nodes[&id].log_text();
    let lines = log
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    lines.filter(|line: &Value| line["audit"] == kind).collect()
}

/// What the newest line says of these fields, once there are so many lines.
#[track_caller]
fn newest(cluster: &Cluster, kind: &str, count: usize) -> Value {
    let lines = eventually("it is in the audit", PATIENCE, || {
        let lines = audit(cluster, 1, kind);
        require(lines.len() >= count, || format!("{lines:?}"))?;
        Ok(lines)
    });
    assert_eq!(lines.len(), count, "{lines:#?}");
    let mut newest = lines.last().expect("a line").clone();
    let from = newest["from"].as_str().unwrap_or_default();
    assert!(from.starts_with("127.0.0.1:"), "{newest}");
    let fields = newest.as_object_mut().expect("an object");
    for name in ["audit", "from", "msg", "ts"] {
        assert!(fields.remove(name).is_some(), "{name}");
    }
    newest
}

#[test]
fn each_refusal_at_the_gate_is_told_without_what_the_request_says() {
    let cluster = Cluster::start_with(1, &["--log-format", "json", "--log-level", "error"]);
    let get = |lines: &str| {
        let mut connection = Connection::open(cluster.address(1)).expect("connect");
        let request = format!("GET /secret HTTP/1.1\r\n{lines}\r\n\r\n");
        connection.write(request.as_bytes()).expect("send");
        connection.response(false).expect("an answer").status
    };
    assert_eq!(get("Host: evil.example"), 421);
    assert_eq!(
        newest(&cluster, "gate", 1),
        json!({"level": "warn", "code": "unknown-host"})
    );
    assert_eq!(get("Host: localhost\r\nOrigin: http://evil.example"), 403);
    assert_eq!(newest(&cluster, "gate", 2)["code"], "cross-site");
    let log = cluster.nodes[&1].log_text();
    assert!(!log.contains("evil") && !log.contains("secret"), "{log}");
}

#[test]
fn changes_of_members_and_leadership_and_backups_are_told_with_who_asked() {
    let cluster = Cluster::start_with(1, &["--log-format", "json", "--log-level", "error"]);
    let send =
        |method, path: &str, body: &str| cluster.send(1, method, path, &[], body.as_bytes()).status;
    let (url, other) = ("http://127.0.0.1:7", "http://127.0.0.1:8");
    assert_eq!(send("POST", "/2", url), 204);
    assert_eq!(
        newest(&cluster, "members", 1),
        json!({"level": "info", "asked": "add", "member": 2, "url": url, "result": "done"})
    );
    assert_eq!(send("POST", "/2", other), 409);
    assert_eq!(
        newest(&cluster, "members", 2),
        json!({"level": "warn", "asked": "add", "member": 2, "url": other, "result": "refused", "code": "id-taken"})
    );
    assert_eq!(send("PUT", "/-/members/2", other), 204);
    assert_eq!(newest(&cluster, "members", 3)["asked"], "move");
    let joiner = format!("{{\"id\":\"3\",\"addr\":\"{other}\"}}");
    assert_eq!(send("POST", "/join", &joiner), 409);
    assert_eq!(newest(&cluster, "members", 4)["code"], "url-taken");
    assert_eq!(send("POST", "/-/leader", "2"), 409);
    assert_eq!(
        newest(&cluster, "leadership", 1),
        json!({"level": "warn", "asked": "transfer", "member": 2, "result": "refused", "code": "learner"})
    );
    assert_eq!(send("POST", "/-/leader", "1"), 204);
    assert_eq!(newest(&cluster, "leadership", 2)["result"], "done");
    assert_eq!(send("DELETE", "/2", ""), 204);
    assert_eq!(
        newest(&cluster, "members", 5),
        json!({"level": "info", "asked": "remove", "member": 2, "result": "done"})
    );
    assert_eq!(send("DELETE", "/1", ""), 409);
    assert_eq!(newest(&cluster, "members", 6)["code"], "last-voter");

    cluster.put(1, "foo", "bar");
    assert_eq!(send("HEAD", "/-/snapshot", ""), 200);
    assert_eq!(send("GET", "/-/snapshot", ""), 200);
    let backup = newest(&cluster, "backup", 1);
    assert_eq!(
        (&backup["asked"], &backup["result"]),
        (&json!("current"), &json!("sent"))
    );
    assert!(backup["index"].as_u64() > Some(0), "{backup}");
    // Each of many is logged. The next one may start when the line of the last one is there.
    for number in 2..16 {
        assert_eq!(send("GET", "/-/snapshot?consistency=stale", ""), 200);
        assert_eq!(newest(&cluster, "backup", number)["asked"], "stale");
    }
}

#[test]
fn a_client_that_goes_away_in_a_backup_is_told_too() {
    let cluster = Cluster::start_with(1, &["--log-format", "json", "--max-value-bytes", "8M"]);
    for number in 0..8 {
        cluster.put(1, &format!("key-{number}"), vec![7; 8 << 20]);
    }
    let mut client = Connection::open(cluster.address(1)).expect("connect");
    client
        .write(b"GET /-/snapshot HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("ask for a backup");
    assert_eq!(client.head().expect("a head").status, 200);
    drop(client);
    let backup = newest(&cluster, "backup", 1);
    assert_eq!(
        (&backup["result"], &backup["code"]),
        (&json!("broken-off"), &json!("client-gone"))
    );
}

#[test]
fn refusals_that_repeat_are_a_few_lines_and_a_count() {
    const TIMES: u64 = 60;
    let mut cluster = Cluster::start_with(1, &["--log-format", "json"]);
    for number in 0..TIMES {
        // Strangers at the peer port, and clients whose change is against a rule.
        let peer = cluster.nodes[&1].peer_address;
        let stranger = http::request(peer, "POST", "/raft/stream", &[], b"");
        assert_eq!(stranger.expect("an answer").status, 400);
        let path = format!("/{}", number + 1);
        let refused = cluster.send(1, "DELETE", &path, &[], b"");
        assert!([404, 409].contains(&refused.status), "{refused:?}");
    }
    cluster.node(1).signal(Signal::TERM);
    assert_eq!(cluster.node(1).exit_code(PATIENCE), Some(0));
    for (kind, times) in [("peer", TIMES), ("members", TIMES)] {
        let lines = audit(&cluster, 1, kind);
        assert!(lines.len() <= 22, "{kind}: {lines:#?}");
        let counted = lines.iter().map(|line| {
            assert!(
                line["from"]
                    .as_str()
                    .is_some_and(|from| from.starts_with("127.0.0.1:"))
            );
            let text = line["msg"].as_str().expect("a text");
            match text.split_once("(repeated ") {
                None => 1,
                Some((_, rest)) => rest.split(' ').next().unwrap().parse().expect("a number"),
            }
        });
        assert_eq!(counted.sum::<u64>(), times, "{kind}: {lines:#?}");
    }
}

#[test]
fn changes_that_change_nothing_are_a_few_lines_and_a_count() {
    let cluster = Cluster::start_with(1, &["--log-format", "json"]);
    let url = "http://127.0.0.1:7";
    let send = |path, body: &str| cluster.send(1, "POST", path, &[], body.as_bytes()).status;
    for _ in 0..60 {
        assert_eq!(send("/-/leader", "1"), 204);
        assert_eq!(send("/2", url), 204);
    }
    // A change that changes something is told each time.
    assert_eq!(cluster.send(1, "DELETE", "/2", &[], b"").status, 204);
    eventually("the removal is in the audit", PATIENCE, || {
        let lines = audit(&cluster, 1, "members");
        let told = lines.iter().any(|line| line["asked"] == "remove");
        require(told, || format!("{lines:?}"))
    });
    for kind in ["leadership", "members"] {
        let lines = audit(&cluster, 1, kind);
        assert!(lines.len() <= 24, "{kind}: {lines:#?}");
    }
}

#[test]
fn a_member_of_another_cluster_is_refused_with_its_address() {
    let mut cluster = Cluster::start_with(1, &["--log-format", "json"]);
    // It believes that the first one is its second member.
    let mut other = Cluster::prepare_beside(&cluster, 2, &[]);
    let wrong = other.nodes[&2].url();
    let right = cluster.nodes[&1].url();
    other.node(1).replace_in_arguments(&wrong, &right);
    other.node(1).start();
    let refused = newest(&cluster, "peer", 1);
    assert_eq!(refused["member"], 1, "{refused}");
    assert!(refused["why"].is_string(), "{refused}");
    cluster.node(1).assert_alive();
}
