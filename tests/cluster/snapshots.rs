//! Ten thousand writes with small snapshots: the disk holds what is needed and no more, and a restart from snapshot
//! and log brings back every byte.

use crate::harness::{Cluster, PATIENCE, eventually, require};
use crate::http::{self, Connection};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

const WRITES: usize = 10_000;
/// Every tenth write is large, and overwrites one of a few keys: together they fill more than two segments of the
/// log (of 64 MiB), while what is alive stays small.
const LARGE_EVERY: usize = 10;
const LARGE_KEYS: usize = 20;
const LARGE_BYTES: usize = 150 << 10;
const CONNECTIONS: usize = 8;

/// The key of a write: binary, with NUL, `%`, `/` and bytes that are no UTF-8.
fn key(write: usize) -> Vec<u8> {
    if write.is_multiple_of(LARGE_EVERY) {
        return format!("large/{}", write / LARGE_EVERY % LARGE_KEYS).into_bytes();
    }
    let mut key = b"k\0\xff%/".to_vec();
    key.extend_from_slice(write.to_string().as_bytes());
    key
}

/// Its value: every byte value occurs, every 97th value is empty.
fn value(write: usize) -> Vec<u8> {
    if write.is_multiple_of(97) && !write.is_multiple_of(LARGE_EVERY) {
        return Vec::new();
    }
    let length = if write.is_multiple_of(LARGE_EVERY) {
        LARGE_BYTES
    } else {
        write % 300
    };
    (0..length)
        .map(|i| (write.wrapping_mul(31) + i) as u8)
        .collect()
}

/// Reads every key on this node and compares it byte for byte. A first linearizable read makes the local ones good.
fn assert_holds_everything(cluster: &Cluster, id: u64) {
    assert!(cluster.get(id, "large/0").is_some());
    let mut connection = Connection::open(cluster.address(id)).expect("connect");
    for write in 0..WRITES {
        let last_of_its_key =
            !write.is_multiple_of(LARGE_EVERY) || write + LARGE_EVERY * LARGE_KEYS >= WRITES;
        if !last_of_its_key {
            continue;
        }
        let path = http::encode(&key(write)) + "?consistency=stale";
        let response = connection.send("GET", &path, &[], b"").expect("GET");
        assert_eq!(
            response.status, 200,
            "write {write} on node {id}: {response:?}"
        );
        assert!(
            response.body == value(write),
            "write {write} on node {id} differs"
        );
    }
}

#[test]
fn ten_thousand_writes_with_small_snapshots_come_back_byte_for_byte() {
    let mut cluster = Cluster::start_with(3, &["--snapshot-bytes", "65536"]);
    let first_segments: Vec<String> = (1..=3)
        .map(|id| cluster.nodes[&id].files("wal", ".wal")[0].clone())
        .collect();
    let written = AtomicUsize::new(0);
    thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            let address = cluster.address(connection as u64 % 3 + 1);
            let written = &written;
            scope.spawn(move || {
                let mut open = Connection::open(address).expect("connect");
                // A key is written by one connection only, in order, so that the last write is known.
                for write in 0..WRITES {
                    let owner = if write.is_multiple_of(LARGE_EVERY) {
                        write / LARGE_EVERY % LARGE_KEYS % CONNECTIONS
                    } else {
                        write % CONNECTIONS
                    };
                    if owner != connection {
                        continue;
                    }
                    let path = http::encode(&key(write));
                    let response = open.send("PUT", &path, &[], &value(write)).expect("PUT");
                    assert_eq!(response.status, 204, "write {write}: {response:?}");
                    written.fetch_add(1, SeqCst);
                }
            });
        }
    });
    assert_eq!(written.load(SeqCst), WRITES);

    for (id, first_segment) in (1..=3).zip(&first_segments) {
        let node = &cluster.nodes[&id];
        // Deleting is done behind the writes, so it may lag a little.
        eventually("old files are deleted", PATIENCE, || {
            let status = node.status()?;
            require(status.snapshot > 1, || format!("no snapshot: {status:?}"))?;
            let snapshots = node.files("snap", ".snap");
            require((1..=2).contains(&snapshots.len()), || {
                format!("{snapshots:?}")
            })?;
            let segments = node.files("wal", ".wal");
            let bounded = segments.len() <= 4 && !segments.contains(first_segment);
            require(bounded, || format!("{segments:?} with {first_segment}"))
        });
        assert_holds_everything(&cluster, id);
    }

    cluster.kill_all();
    cluster.start_all();
    for id in 1..=3 {
        assert_holds_everything(&cluster, id);
        let status = cluster.nodes[&id].status().expect("status");
        assert!(
            status.snapshot > 1,
            "it began from its snapshot: {status:?}"
        );
    }
    cluster.put(1, "after", "the restart");
    cluster.assert_value(2, "after", "the restart");
}

#[test]
fn a_single_node_restarts_from_snapshot_and_log_again_and_again() {
    let mut cluster = Cluster::start_with(1, &["--snapshot-bytes", "4096"]);
    for round in 0..5 {
        for i in 0..40 {
            cluster.put(
                1,
                &format!("key-{i}"),
                format!("{round}-{i}-{}", "x".repeat(200)),
            );
        }
        cluster.send(1, "DELETE", &format!("/key-{round}"), &[], b"");
        cluster.node(1).kill();
        cluster.node(1).start();
        cluster.node(1).wait_ready();
        for i in 0..40 {
            let got = cluster.get(1, &format!("key-{i}"));
            let expected = format!("{round}-{i}-{}", "x".repeat(200)).into_bytes();
            let expected = (i != round).then_some(expected);
            assert!(got == expected, "key-{i} in round {round}");
        }
    }
    let status = cluster.nodes[&1].status().expect("status");
    assert!(status.snapshot > 1, "{status:?}");
    assert!(cluster.nodes[&1].files("snap", ".snap").len() <= 2);
}

#[test]
fn a_member_that_was_away_and_one_that_restarts_read_what_memory_does_not_hold() {
    const KEYS: usize = 600;
    let value = |i: usize| format!("{i}-{}", "v".repeat(8 << 10));
    // About five megabytes of log, and no snapshot of it.
    let mut cluster = Cluster::start_with(3, &["--log-cache-bytes", "64K"]);
    // Those by which the cluster has formed.
    let snapshot =
        |cluster: &Cluster, id: u64| cluster.nodes[&id].status().expect("status").snapshot;
    let before = [1, 2, 3].map(|id| snapshot(&cluster, id));
    cluster.node(3).kill();
    for i in 0..KEYS {
        cluster.put(1, &format!("key-{i}"), value(i));
    }
    cluster.node(3).start();
    cluster.node(3).wait_ready();
    let assert_holds_all = |cluster: &Cluster, id: u64| {
        for i in (0..KEYS).step_by(7) {
            cluster.assert_value(id, &format!("key-{i}"), &value(i));
        }
        let before = before[id as usize - 1];
        let after = snapshot(cluster, id);
        assert_eq!(after, before, "node {id} had no need of a snapshot");
    };
    assert_holds_all(&cluster, 3);
    cluster.kill_all();
    cluster.start_all();
    for id in 1..=3 {
        assert_holds_all(&cluster, id);
    }
    cluster.put(2, "after", "the restart");
    cluster.assert_value(3, "after", "the restart");
}
