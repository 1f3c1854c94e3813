//! New clusters: they form of the members in their list, and serve once all are in.

use crate::harness::{Cluster, PATIENCE, PATIENT, daemon, eventually, require, run_to_end};
use std::time::{Duration, Instant};

/// A refusal waits for nothing; this much is for a noisy machine.
const AT_ONCE: Duration = Duration::from_secs(1);

/// All but what tells people and supervisors how things are.
const REQUESTS: [(&str, &str, &str); 16] = [
    ("GET", "/foo", ""),
    ("HEAD", "/foo", ""),
    ("GET", "/foo?consistency=stale", ""),
    ("PUT", "/foo", "bar"),
    ("DELETE", "/foo", ""),
    ("GET", "/-/kv/foo", ""),
    ("GET", "/-/kv", ""),
    ("GET", "/-/watch", ""),
    ("POST", "/-/txn", "{}"),
    ("GET", "/key/foo", ""),
    ("POST", "/4", "http://127.0.0.1:1"),
    ("POST", "/join", "{\"id\":4,\"addr\":\"127.0.0.1:1\"}"),
    ("PUT", "/-/members/2", "http://127.0.0.1:1"),
    ("DELETE", "/2", ""),
    ("POST", "/-/leader", "2"),
    ("GET", "/-/hash", ""),
];

/// This member serves no client, and says at once with which code.
#[track_caller]
fn assert_serves_nobody(cluster: &Cluster, id: u64, code: &str) {
    for (method, path, body) in REQUESTS {
        let begin = Instant::now();
        let headers = [("Accept", "application/json")];
        let refused = cluster.send(id, method, path, &headers, body.as_bytes());
        let took = begin.elapsed();
        assert_eq!(
            refused.status, 503,
            "{method} {path} on node {id}: {refused:?}"
        );
        assert!(took < AT_ONCE, "{method} {path} took {took:?}");
        let outcome = refused.header("x-raftkvd-outcome");
        assert_eq!(outcome, Some("none"), "{method} {path}: {refused:?}");
        if method != "HEAD" {
            let problem: serde_json::Value =
                serde_json::from_slice(&refused.body).expect("a problem");
            assert_eq!(problem["code"], code, "{method} {path}: {refused:?}");
        }
    }
    for path in ["/-/live", "/-/status", "/-/metrics"] {
        let shown = cluster.send(id, "GET", path, &[], b"");
        assert_eq!(shown.status, 200, "{path} on node {id}: {shown:?}");
    }
}

#[test]
fn two_of_three_serve_nobody_and_say_whom_they_wait_for() {
    let mut cluster = Cluster::prepare(3, &[]);
    let url = |cluster: &Cluster, id: u64| cluster.nodes[&id].url();
    cluster.node(1).start();
    cluster.node(2).start();
    let third = format!("start member 3 ({})", url(&cluster, 3));
    eventually("the first says whom it waits for", PATIENCE, || {
        let why = cluster.node(1).wait_closed("forming");
        // Until it has met the second it waits for that one, too.
        let second = why.contains("start member 2");
        require(why.contains(&third) && !second, || why)
    });
    let why = cluster.node(2).wait_closed("forming");
    let first = format!("member 1 ({})", url(&cluster, 1));
    assert!(why.contains(&first), "{why}");
    for id in [1, 2] {
        assert_serves_nobody(&cluster, id, "forming");
    }
    let said = cluster.nodes[&1].last_log();
    let told = said
        .lines()
        .filter(|line| line.contains("serving no clients"));
    let told: Vec<&str> = told.collect();
    assert!(told.iter().any(|line| line.contains(&third)), "{said}");
    assert!(told.len() <= 4, "once a change: {told:#?}");

    cluster.start_all();
    for id in 1..=3 {
        cluster.put(id, "foo", id.to_string());
        let said = cluster.nodes[&id].last_log();
        assert!(said.contains("serving clients"), "{said}");
        cluster.wait_voters(id, &[1, 2, 3]);
    }
    // From now on one may be missing.
    for id in 1..=3 {
        cluster.node(id).kill();
        let other = id % 3 + 1;
        eventually("two of three serve", PATIENCE, || {
            let put = cluster.send(other, "PUT", "/foo", &[], b"two of three");
            require(put.status == 204, || format!("{put:?}"))
        });
        cluster.node(id).start();
        cluster.node(id).wait_ready();
        cluster.assert_value(id, "foo", "two of three");
    }
}

#[test]
fn members_that_are_killed_while_they_form_form_when_all_are_back() {
    // In each order, and whichever is killed while it waits.
    for (first, second) in [(1, 2), (2, 1), (2, 3), (3, 1)] {
        let third = 6 - first - second;
        let mut cluster = Cluster::prepare(3, &PATIENT);
        cluster.node(first).start();
        cluster.node(first).wait_closed("forming");
        cluster.node(second).start();
        cluster.node(second).wait_closed("forming");
        cluster.kill_all();
        cluster.node(second).start();
        cluster.node(third).start();
        cluster.node(second).wait_closed("forming");
        cluster.node(second).kill();
        cluster.start_all();
        for id in 1..=3 {
            cluster.put(id, "foo", id.to_string());
            cluster.wait_voters(id, &[1, 2, 3]);
        }
    }
}

#[test]
fn a_disk_that_is_lost_while_nobody_was_added_is_no_loss() {
    for lost in [1, 2] {
        let mut cluster = Cluster::prepare(3, &PATIENT);
        for id in [1, 2] {
            cluster.node(id).start();
        }
        for id in [1, 2] {
            cluster.node(id).wait_closed("forming");
        }
        cluster.node(lost).kill();
        cluster.node(lost).wipe();
        cluster.start_all();
        cluster.put(1, "foo", "bar");
        cluster.assert_value(3, "foo", "bar");
    }
}

/// A member loses its disk beside one that starts for the first time, while the only one that knew it is down.
fn lost_disk_beside_a_first_start(join: bool) {
    let mut cluster = Cluster::prepare(3, &["--request-timeout", "2s"]);
    cluster.node(1).start();
    cluster.node(3).start();
    for id in [1, 3] {
        cluster.node(id).wait_closed("forming");
    }
    // Not even by trying for a while.
    for _ in 0..20 {
        let put = cluster.send(1, "PUT", "/k", &[], b"precious");
        assert_eq!(put.status, 503, "{put:?}");
    }
    cluster.node(3).kill();
    cluster.node(3).wipe();
    cluster.node(1).kill();
    if join {
        cluster.node(3).arguments.push("--join".to_owned());
    }
    cluster.node(2).start();
    cluster.node(3).start();
    for id in [2, 3] {
        cluster.node(id).wait_closed(if join && id == 3 {
            "joining"
        } else {
            "forming"
        });
        let put = cluster.send(id, "PUT", "/k", &[], b"split");
        assert_eq!(put.status, 503, "{put:?}");
    }
    cluster.start_all();
    for id in 1..=3 {
        assert_eq!(cluster.get(id, "k"), None);
    }
    cluster.put(2, "k", "precious");
    cluster.node(1).kill();
    cluster.assert_value(3, "k", "precious");
}

#[test]
fn a_lost_disk_beside_a_first_start_elects_nobody() {
    lost_disk_beside_a_first_start(false);
}

#[test]
fn a_lost_disk_beside_a_first_start_elects_nobody_with_join_either() {
    lost_disk_beside_a_first_start(true);
}

#[test]
fn inspect_tells_whether_a_cluster_has_formed() {
    let mut cluster = Cluster::prepare(2, &[]);
    let inspect = |cluster: &Cluster, id: u64| {
        let mut command = daemon(cluster.path());
        let ended = run_to_end(command.arg("inspect").arg(&cluster.nodes[&id].data_dir));
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.stdout
    };
    cluster.node(1).start();
    cluster.node(1).wait_closed("forming");
    cluster.kill_all();
    let told = inspect(&cluster, 1);
    assert!(
        told.contains("\nunformed: Formed is not in the log"),
        "{told}"
    );
    cluster.node(2).start();
    cluster.node(2).wait_closed("forming");
    let told = inspect(&cluster, 2);
    assert!(told.contains("no cluster yet"), "{told}");
    cluster.start_all();
    cluster.put(1, "foo", "bar");
    cluster.assert_value(2, "foo", "bar");
    cluster.kill_all();
    for id in [1, 2] {
        let told = inspect(&cluster, id);
        assert!(told.contains("\nformed"), "{told}");
    }
}
