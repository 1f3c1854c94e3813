//! Copies of data directories: older ones, and two that are used at the same time.

use crate::harness::{Cluster, Node, PATIENCE, PATIENT, eventually, leader_and_followers, require};
use crate::http;
use crate::ports::free_port;
use std::collections::BTreeMap;

/// Writes other keys through this node until it has ended. Gives what was acknowledged meanwhile, and its exit code.
fn write_until_it_ends(node: &mut Node, name: &str) -> (BTreeMap<String, String>, Option<i32>) {
    let mut acknowledged = BTreeMap::new();
    let mut number = 0;
    let code = eventually("it ends", PATIENCE, || {
        number += 1;
        let (key, value) = (format!("{name}-{number}"), number.to_string());
        let put = http::request(
            node.address,
            "PUT",
            &format!("/{key}"),
            &[],
            value.as_bytes(),
        );
        if put.is_ok_and(|response| response.status == 204) {
            acknowledged.insert(key, value);
        }
        node.ended().ok_or_else(|| "it runs".to_owned())
    });
    (acknowledged, code)
}

/// A member comes back on the copy of its directory that was made before its last start, in which it has proposed. Both
/// starts have the same number.
fn older_copy(of_the_leader: bool) {
    let mut cluster = Cluster::start_with(3, &["--request-timeout", "2s"]);
    let (leader, followers) = leader_and_followers(&cluster);
    let id = if of_the_leader { leader } else { followers[0] };
    let others: Vec<u64> = (1..=3).filter(|other| *other != id).collect();
    cluster.put(id, "before", "x");
    cluster.node(id).kill();
    let copy = cluster.path().join("copy");
    cluster.nodes[&id].copy_data_to(&copy);
    cluster.node(id).start();
    cluster.node(id).wait_ready();
    for number in 0..20 {
        cluster.put(id, &format!("since-{number}"), number.to_string());
    }
    cluster.node(id).kill();
    cluster.node(id).put_back(&copy);
    // The others agree on all that it has forgotten.
    for other in &others {
        eventually("the others go on", PATIENCE, || {
            let put = cluster.send(*other, "PUT", "/foo", &[], b"bar");
            require(put.status == 204, || format!("{put:?}"))
        });
    }
    cluster.node(id).start();
    let (acknowledged, code) = write_until_it_ends(cluster.node(id), "late");
    let said = cluster.nodes[&id].last_log();
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("older copy"), "{said}");
    for (key, value) in &acknowledged {
        for other in &others {
            cluster.assert_value(*other, key, value);
        }
    }
    // Its next start is a later one than the cluster knows, and is no better.
    for _ in 0..2 {
        cluster.node(id).start_expecting_exit(5);
        let said = cluster.nodes[&id].last_log();
        assert!(said.contains("older copy"), "{said}");
    }
    for number in 0..20 {
        let key = format!("since-{number}");
        cluster.assert_value(others[0], &key, &number.to_string());
    }
    cluster.put(others[1], "after", "wards");
}

#[test]
fn an_older_copy_of_a_follower_ends_and_acknowledges_nothing_that_is_not_there() {
    older_copy(false);
}

#[test]
fn an_older_copy_of_a_leader_ends_and_acknowledges_nothing_that_is_not_there() {
    older_copy(true);
}

/// A voter comes back on the copy of its directory that was made when it waited to be let in.
#[test]
fn a_copy_from_before_a_member_was_let_in_ends_whomever_it_meets() {
    let mut cluster = Cluster::prepare(3, &[]);
    cluster.node(3).start();
    cluster.node(3).wait_closed("forming");
    cluster.node(3).kill();
    let copy = cluster.path().join("copy");
    cluster.nodes[&3].copy_data_to(&copy);
    cluster.start_all();
    cluster.put(1, "foo", "bar");
    cluster.assert_value(3, "foo", "bar");
    cluster.node(3).kill();
    cluster.node(3).put_back(&copy);
    for met in [2, 1] {
        cluster.kill_all();
        cluster.node(met).start();
        cluster.node(3).start_expecting_exit(5);
        let said = cluster.nodes[&3].last_log();
        assert!(said.contains("from before the cluster added"), "{said}");
    }
    // The others go on without it.
    cluster.node(2).start();
    cluster.node(2).wait_ready();
    cluster.put(2, "after", "wards");
    cluster.node(3).start_expecting_exit(5);
    cluster.assert_value(1, "foo", "bar");
}

/// Starts a second process on a copy of a member's directory, with ports of its own, while the first one runs.
fn two_processes(id: u64) {
    let mut cluster = Cluster::start_with(3, &PATIENT);
    cluster.put(id, "foo", "bar");
    cluster.node(id).kill();
    let mut twins = Cluster::prepare_beside(&cluster, 0, &[]);
    let directory = twins.path().join("twin");
    cluster.nodes[&id].copy_data_to(&directory);
    cluster.node(id).start();
    cluster.node(id).wait_ready();
    let url = cluster.nodes[&id].url();
    let before = cluster.nodes[&id].status().expect("status");
    let (port, peer_port) = (free_port(), free_port());
    let arguments =
        format!("--id {id} --peer-url http://127.0.0.1:{peer_port} --port {port} --data-dir twin");
    let arguments = arguments.split(' ').map(str::to_owned).collect();
    let home = twins.path().to_owned();
    let twin = Node::with_arguments(id, port, peer_port, &home, directory, arguments);
    twins.nodes.insert(id, twin);
    twins.node(id).start();
    let (acknowledged, code) = write_until_it_ends(twins.node(id), "twin");
    let said = twins.nodes[&id].last_log();
    assert_eq!(code, Some(5), "{said}");
    assert!(
        said.contains("another process that runs as member"),
        "{said}"
    );
    assert!(acknowledged.is_empty(), "{acknowledged:?}");
    // The others name the member.
    let names =
        |line: &str| line.contains(&format!("member: {id}")) && line.contains("another process");
    let told = |member: &u64| cluster.nodes[member].log_text().lines().any(names);
    assert!(cluster.others(id).iter().any(told));
    // The first has not noticed.
    for member in 1..=3 {
        cluster.node(member).assert_alive();
        let status = cluster.nodes[&member].status().expect("status");
        assert_eq!((status.leader, status.term), (before.leader, before.term));
        assert_eq!(status.member(id).map(|m| &*m.url), Some(&*url));
        cluster.put(member, "foo", member.to_string());
    }
}

#[test]
fn of_two_processes_on_copies_of_a_followers_directory_the_later_ends() {
    two_processes(2);
}

#[test]
fn of_two_processes_on_copies_of_the_first_members_directory_the_later_ends() {
    two_processes(1);
}
