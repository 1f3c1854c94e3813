//! `--max-store-bytes`: over it a member refuses writes and takes deletions.

use crate::harness::{Cluster, PATIENCE, eventually, require};
use crate::http::Response;

#[track_caller]
fn assert_full(response: &Response) {
    assert_eq!(response.status, 507, "{response:?}");
    assert_eq!(response.header("x-raftkvd-outcome"), Some("none"));
    let text = response.text();
    assert!(text.contains("delete keys") && text.contains("--max-store-bytes"));
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
}

#[test]
fn over_the_quota_writes_are_507_on_every_member_and_deletions_make_room() {
    let mut cluster = Cluster::start_with(3, &["--max-store-bytes", "100K"]);
    let value = vec![7; 10 << 10];
    for i in 0..9 {
        cluster.put(i % 3 + 1, &format!("key-{i}"), &value);
    }
    for id in 1..=3 {
        // A member goes by its own map, which may be a moment behind.
        eventually("the member has all nine", PATIENCE, || {
            let ninth = cluster.get_stale(id, "key-8");
            require(ninth.is_some(), || format!("node {id} lacks key-8"))
        });
        assert_full(&cluster.send(id, "PUT", "/another", &[], &value));
    }
    assert_eq!(cluster.get(1, "another"), None);
    // What fits still fits.
    cluster.put(1, "small", "x");

    // A restart counts what is there, from the snapshot or the log.
    cluster.node(2).kill();
    cluster.node(2).start();
    cluster.node(2).wait_ready();
    assert_full(&cluster.send(2, "PUT", "/another", &[], &value));

    let deleted = cluster.send(2, "DELETE", "/key-0", &[], b"");
    assert_eq!(deleted.status, 204, "{deleted:?}");
    cluster.put(2, "another", &value);
    eventually("the others have the deletion", PATIENCE, || {
        let gone = cluster.get_stale(1, "key-0").is_none();
        require(gone, || "key-0 is still there".to_owned())
    });
    cluster.assert_hashes_agree(&[1, 2, 3]);
}

#[test]
fn the_quota_is_each_members_own_flag() {
    let mut cluster = Cluster::prepare(2, &[]);
    cluster.node(2).set_flag("--max-store-bytes", "10");
    cluster.start_all();
    cluster.put(1, "larger", "than ten bytes");
    assert_eq!(
        cluster.get(2, "larger").as_deref(),
        Some(&b"than ten bytes"[..])
    );
    assert_full(&cluster.send(2, "PUT", "/a", &[], b""));
    let deleted = cluster.send(2, "DELETE", "/larger", &[], b"");
    assert_eq!(deleted.status, 204, "{deleted:?}");
    cluster.put(2, "a", "");
}
