//! The plain case: what was written is read, on one node and on three.

use crate::harness::Cluster;
use crate::http::Connection;

#[test]
fn one_node_keeps_what_was_written_over_kill_9() {
    let mut cluster = Cluster::start(1);
    let etag = cluster.put(1, "hello", "world-1");
    let before = cluster.send(1, "GET", "/hello", &[], b"");
    assert_eq!(
        (before.status, before.body.as_slice()),
        (200, &b"world-1"[..])
    );
    assert_eq!(before.etag(), etag);
    assert_eq!(
        before.header("content-type"),
        Some("application/octet-stream")
    );
    assert_eq!(before.header("x-content-type-options"), Some("nosniff"));

    // The second time it starts from a log that was already recovered once.
    for round in 0..2 {
        cluster.node(1).kill();
        cluster.node(1).start();
        cluster.node(1).wait_ready();
        let after = cluster.send(1, "GET", "/hello", &[], b"");
        assert_eq!(after.body, b"world-1", "round {round}");
        assert_eq!(after.etag(), etag, "an ETag is for good");
    }
    assert!(cluster.put(1, "hello", "world-2") > etag);
    cluster.assert_value(1, "hello", "world-2");
}

#[test]
fn a_write_on_any_member_is_read_on_any_other_at_once() {
    let cluster = Cluster::start(3);
    let mut connections: Vec<Connection> = (1..=3)
        .map(|id| Connection::open(cluster.address(id)).expect("connect"))
        .collect();
    let mut last_etag = 0;
    for round in 0..1_000 {
        let writer = round % 3;
        let reader = (writer + 1 + round / 3 % 2) % 3;
        let value = format!("value {round}");
        let written = connections[writer]
            .send("PUT", "/alternating", &[], value.as_bytes())
            .expect("PUT");
        assert_eq!(written.status, 204, "round {round}: {written:?}");
        assert!(written.etag() > last_etag, "round {round}: ETags grow");
        last_etag = written.etag();
        let read = connections[reader]
            .send("GET", "/alternating", &[], b"")
            .expect("GET");
        assert_eq!(read.status, 200, "round {round}: {read:?}");
        assert_eq!(read.text(), value, "round {round}: {writer} -> {reader}");
        assert_eq!(read.etag(), last_etag, "round {round}");
    }
}

#[test]
fn status_names_leader_and_members_alike_on_every_node() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    cluster.put(leader, "a", "b");
    let mut clusters = Vec::new();
    for id in 1..=3 {
        let status = cluster.nodes[&id].status().expect("status");
        assert_eq!(status.id, id);
        assert_eq!(status.leader, leader);
        assert_eq!(status.role == "leader", id == leader, "{status:?}");
        assert!(status.committed >= status.applied, "{status:?}");
        let ids: Vec<u64> = status.members.iter().map(|m| m.id).collect();
        assert_eq!(ids, [1, 2, 3]);
        for member in &status.members {
            assert!(!member.learner, "{status:?}");
            assert_eq!(member.url, cluster.nodes[&member.id].url());
            if id == leader {
                assert!(member.matched.is_some(), "{status:?}");
            }
        }
        clusters.push(status.cluster);
        assert_eq!(cluster.send(id, "GET", "/-/live", &[], b"").status, 200);
    }
    assert!(clusters.iter().all(|c| *c == clusters[0]), "{clusters:?}");
}
