//! Members that are reached at another place from now on.

use crate::harness::{Cluster, PATIENCE, PATIENT, eventually, leader_and_followers, require};
use crate::ports::free_port;
use rustix::process::Signal;

/// Waits until this node has these peer URLs, by id.
#[track_caller]
fn wait_urls(cluster: &Cluster, on: u64) {
    let nodes = cluster.nodes.values();
    let known: Vec<(u64, String)> = nodes.map(|node| (node.id, node.url())).collect();
    let what = format!("node {on} knows where everybody is");
    eventually(&what, PATIENCE, || {
        let status = cluster.nodes[&on].status()?;
        let urls: Vec<(u64, String)> = (status.members.iter())
            .map(|member| (member.id, member.url.clone()))
            .collect();
        require(urls == known, || format!("{urls:?}, not {known:?}"))
    });
}

/// Stops it, and starts it at another peer port with its old data, and nothing but `--peer-url` to say so.
#[track_caller]
fn move_alone(cluster: &mut Cluster, id: u64) {
    let node = cluster.node(id);
    node.signal(Signal::TERM);
    assert_eq!(node.exit_code(PATIENCE), Some(0));
    node.move_to(free_port());
    let url = node.url();
    if let Some(at) = node.arguments.iter().position(|a| a == "--cluster") {
        node.arguments.drain(at..at + 2);
    }
    node.set_flag("--peer-url", &url);
    node.start();
    node.wait_ready();
}

#[test]
fn a_follower_that_has_moved_is_taken_back_by_its_peer_url() {
    let mut cluster = Cluster::start_with(3, &PATIENT);
    let (leader, followers) = leader_and_followers(&cluster);
    cluster.put(1, "a", "1");
    move_alone(&mut cluster, followers[0]);
    for id in 1..=3 {
        wait_urls(&cluster, id);
        cluster.assert_value(id, "a", "1");
    }
    // It counts.
    cluster.node(followers[1]).kill();
    cluster.put(leader, "a", "2");
    cluster.assert_value(followers[0], "a", "2");
    // The others find it also when all have been down, by what is on their disks.
    cluster.node(followers[1]).start();
    cluster.node(followers[1]).wait_ready();
    cluster.kill_all();
    cluster.start_all();
    cluster.assert_value(followers[0], "a", "2");
}

#[test]
fn a_leader_that_has_moved_is_taken_back_by_its_own_entry_of_the_list() {
    let mut cluster = Cluster::start_with(3, &PATIENT);
    let (leader, _) = leader_and_followers(&cluster);
    cluster.node(leader).kill();
    // The others keep their list, which names the old place.
    cluster.node(leader).move_to(free_port());
    cluster.node(leader).start();
    cluster.node(leader).wait_ready();
    for id in 1..=3 {
        wait_urls(&cluster, id);
        cluster.put(id, "by", id.to_string());
    }
    // And back again, as often as it likes.
    for _ in 0..3 {
        cluster.node(leader).kill();
        cluster.node(leader).move_to(free_port());
        cluster.node(leader).start();
        cluster.node(leader).wait_ready();
        wait_urls(&cluster, leader);
    }
}

#[test]
fn the_sole_member_moves_and_then_grows() {
    let mut cluster = Cluster::start(1);
    cluster.put(1, "a", "1");
    move_alone(&mut cluster, 1);
    wait_urls(&cluster, 1);
    cluster.assert_value(1, "a", "1");
    for id in [2, 3] {
        cluster.lay_out_alone(id, &[1]);
        cluster.node(id).start();
        cluster.node(id).wait_ready();
        cluster.wait_voters(id, &(1..=id).collect::<Vec<_>>());
    }
    for id in 1..=3 {
        wait_urls(&cluster, id);
        cluster.put(id, "a", id.to_string());
    }
}

#[test]
fn all_members_move_at_once_with_new_lists() {
    let mut cluster = Cluster::start_with(3, &PATIENT);
    for id in 1..=3 {
        cluster.put(id, &format!("by-{id}"), "x");
    }
    cluster.kill_all();
    for id in 1..=3 {
        let before = cluster.nodes[&id].url();
        cluster.node(id).move_to(free_port());
        let after = cluster.nodes[&id].url();
        for other in 1..=3 {
            cluster.node(other).replace_in_arguments(&before, &after);
        }
    }
    cluster.start_all();
    for id in 1..=3 {
        wait_urls(&cluster, id);
        for by in 1..=3 {
            cluster.assert_value(id, &format!("by-{by}"), "x");
        }
        cluster.put(id, "after", id.to_string());
    }
}

#[test]
fn an_operator_says_where_a_member_is_reached_and_it_is_dialled_there() {
    let mut cluster = Cluster::start_with(3, &PATIENT);
    let (leader, followers) = leader_and_followers(&cluster);
    let (moved, via) = (followers[0], followers[1]);
    cluster.node(moved).kill();
    cluster.node(moved).move_to(free_port());
    let url = cluster.nodes[&moved].url();
    let path = format!("/-/members/{moved}");
    // Twice is the same as once.
    for _ in 0..2 {
        let answer = cluster.send(via, "PUT", &path, &[], url.as_bytes());
        assert_eq!(answer.status, 204, "{answer:?}");
    }
    wait_urls(&cluster, leader);
    // Its own line says the same.
    cluster.node(moved).start();
    cluster.node(moved).wait_ready();
    for id in 1..=3 {
        wait_urls(&cluster, id);
    }
    cluster.node(via).kill();
    cluster.put(leader, "foo", "bar");
    cluster.assert_value(moved, "foo", "bar");
}
