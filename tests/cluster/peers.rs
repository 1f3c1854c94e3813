//! The peer port: whoever connects there without being a member gets nowhere.

use crate::harness::Cluster;
use crate::http::Connection;

/// Things that were never sent by a member.
fn garbage() -> Vec<Vec<u8>> {
    let request = |head: &str| format!("{head}\r\nHost: test\r\n").into_bytes();
    let upgrade = "Connection: Upgrade\r\nUpgrade: raftkvd\r\n";
    let mut all = vec![
        b"\0".to_vec(),
        vec![0; 100_000],
        vec![0xff; 100_000],
        b"\r\n\r\n\r\n".to_vec(),
        b"hello, who is there?\n".to_vec(),
        // The beginning of a TLS handshake.
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        [request("GET / HTTP/1.1"), b"\r\n".to_vec()].concat(),
        [request("GET /raft/stream HTTP/1.1"), b"\r\n".to_vec()].concat(),
        [request("POST /raft/stream HTTP/1.1"), b"\r\n".to_vec()].concat(),
        [
            request("POST /raft/snapshot HTTP/1.1"),
            b"Content-Length: 5\r\n\r\nhello".to_vec(),
        ]
        .concat(),
        [
            request("POST /raft/snapshot HTTP/1.1"),
            b"Content-Length: 18446744073709551615\r\n\r\n".to_vec(),
        ]
        .concat(),
        [
            request("POST /raft HTTP/1.1"),
            b"Content-Length: 1000000000\r\n\r\n".to_vec(),
        ]
        .concat(),
        [
            request("PUT /foo HTTP/1.1"),
            b"Content-Length: 3\r\n\r\nbad".to_vec(),
        ]
        .concat(),
    ];
    // An upgrade without a word about who asks, followed by frames whose length fields promise everything.
    for frame in [&[0xff; 64][..], &[0; 64], b"\xff\xff\xff\x7f\0\0\0\0"] {
        let head = request("POST /raft/stream HTTP/1.1");
        all.push([&head, upgrade.as_bytes(), b"\r\n", frame].concat());
    }
    // Noise of a fixed seed.
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    for length in [1, 10, 100, 1_000, 10_000] {
        let noise = (0..length).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        });
        all.push(noise.collect());
    }
    all
}

#[test]
fn garbage_on_the_peer_port_disturbs_nobody() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let before = cluster.nodes[&leader].status().expect("status");
    cluster.put(1, "foo", "bar");
    let mut open = Vec::new();
    for bytes in garbage() {
        for id in 1..=3 {
            let mut connection =
                Connection::open(cluster.nodes[&id].peer_address).expect("connect");
            // It may have closed before all is sent, and it may stay open: both are fine.
            let _ = connection.write(&bytes);
            open.push(connection);
        }
        let round = open.len().to_string();
        cluster.put(2, "foo", &round);
        cluster.assert_value(3, "foo", &round);
    }
    for id in 1..=3 {
        cluster.node(id).assert_alive();
    }
    let after = cluster.nodes[&leader].status().expect("status");
    assert_eq!(
        (after.leader, after.term),
        (leader, before.term),
        "no election"
    );
}

#[test]
fn the_peer_port_serves_no_clients_and_the_client_port_no_peers() {
    let cluster = Cluster::start(1);
    cluster.put(1, "foo", "bar");
    let mut peer = Connection::open(cluster.nodes[&1].peer_address).expect("connect");
    let response = peer.send("GET", "/foo", &[], b"").expect("an answer");
    assert!((400..500).contains(&response.status), "{response:?}");
    let headers = [("Connection", "Upgrade"), ("Upgrade", "raftkvd")];
    let response = cluster.send(1, "POST", "/raft/stream", &headers, b"");
    assert!((400..500).contains(&response.status), "{response:?}");
}

#[test]
fn a_thousand_idle_connections_on_the_peer_port_stop_nobody() {
    let mut cluster = Cluster::start(3);
    cluster.put(1, "foo", "bar");
    let idle: Vec<Connection> = (0..1_000)
        .filter_map(|_| Connection::open(cluster.nodes[&2].peer_address).ok())
        .collect();
    assert!(!idle.is_empty());
    for i in 0..20 {
        cluster.put(2, "foo", i.to_string());
        cluster.assert_value(1, "foo", &i.to_string());
    }
    // Its peers' connections keep their place, or get one again once the idle ones have been closed.
    cluster.node(1).kill();
    cluster.node(1).start();
    cluster.node(1).wait_ready();
    cluster.node(2).wait_ready();
    cluster.put(1, "foo", "back");
    cluster.assert_value(2, "foo", "back");
}
