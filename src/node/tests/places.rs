//! The places of members: moves, and the place that a member reports for itself.

use super::*;

#[test]
fn a_member_tells_where_it_is_once_what_was_committed_is_replayed_and_when_it_moves() {
    let mut cluster = Cluster::new(1);
    let places = |cluster: &Cluster| cluster.hosts[&1].places.clone();
    assert_eq!(places(&cluster), [url(1)]);
    for place in [8, 9] {
        cluster.moved = Some(url(place));
        cluster.restart(1);
        cluster.tick(3);
    }
    assert_eq!(places(&cluster).last(), Some(&url(9)));
    let count = places(&cluster).len();
    cluster.restart(1);
    cluster.tick(3);
    // Moves that are replayed from the log are not reported again.
    assert_eq!(places(&cluster)[count..], [url(9)]);
}

#[test]
fn a_member_that_comes_from_another_place_is_moved_there() {
    let (mut cluster, leader) = Cluster::elected(3);
    let follower = cluster.follower(leader);
    let claim = |incarnation, url| Met {
        incarnation,
        ..claim(follower, url)
    };
    for refused in [claim(7, url(8)), claim(10 * follower, url(leader))] {
        cluster.node(leader).met(refused);
        cluster.tick(5);
        let members = cluster.members(leader);
        assert_eq!(members.members[&follower].url, url(follower));
    }
    cluster.node(leader).met(claim(10 * follower, url(8)));
    cluster.tick(5);
    for id in 1..=3 {
        let members = cluster.members(id);
        assert_eq!(members.members[&follower].url, url(8));
        assert_eq!(members.unsettled, None);
    }
}

#[test]
fn a_leader_moves_itself() {
    let mut cluster = Cluster::new(1);
    cluster.moved = Some(url(8));
    cluster.restart(1);
    cluster.tick(3);
    assert_eq!(cluster.members(1).members[&1].url, url(8));
}

#[test]
fn a_member_that_is_moved_because_of_an_old_statement_asks_to_be_moved_back() {
    let (mut cluster, leader) = Cluster::elected(3);
    let follower = cluster.follower(leader);
    cluster.node(leader).met(claim(follower, url(8)));
    cluster.tick(5);
    assert_eq!(place(&cluster, leader, follower), url(8));
    cluster.tick_until(|cluster| place(cluster, leader, follower) == url(follower));
    for _ in 0..100 {
        cluster.tick(1);
        assert_eq!(place(&cluster, leader, follower), url(follower));
    }
}

#[test]
fn a_member_does_not_undo_the_move_of_an_operator() {
    let (mut cluster, leader) = Cluster::elected(3);
    let follower = cluster.follower(leader);
    let mut command = change(Kind::MoveMember, follower);
    command.member_url = url(8).to_string();
    let mut outcome = cluster.propose(leader, command);
    cluster.settle();
    applied(&mut outcome);
    cluster.tick(200);
    assert_eq!(place(&cluster, leader, follower), url(8));
}

#[test]
fn a_statement_from_before_a_snapshot_moves_nobody() {
    let (mut cluster, leader) = Cluster::forgetful(2_000, u64::MAX);
    let [behind, moved] = cluster.others(leader);
    cluster.node(behind).met(claim(moved, url(8)));
    for other in [leader, moved] {
        cluster.cut.extend([(behind, other), (other, behind)]);
    }
    for place in [8, 9] {
        cluster.moved = Some(url(place));
        cluster.restart(moved);
        cluster.node(leader).met(claim(moved, url(place)));
        cluster.tick(5);
    }
    cluster.write_many(leader, "k", 100);
    let end = cluster.committed(leader);
    assert!(cluster.log(leader).compacted() > cluster.published(behind));
    cluster.cut.clear();
    cluster.tick_until(|cluster| cluster.published(behind) >= end);
    let before = cluster.published(behind);
    let mut transfer = cluster.hand_over(leader, behind);
    cluster.tick_until(|cluster| cluster.leader() == behind);
    done(&mut transfer);
    cluster.tick(5);
    assert!(cluster.published(behind) > before);
    assert_eq!(place(&cluster, behind, moved), url(9));
}

/// The statement of a member that has connected by itself.
fn claim(id: u64, url: PeerUrl) -> Met {
    Met {
        id,
        incarnation: 10 * id,
        bound_index: 1,
        url,
        dialled: false,
        version: 0,
        key: None,
    }
}

/// The URL of a member in the table of another one.
fn place(cluster: &Cluster, by: u64, id: u64) -> PeerUrl {
    cluster.members(by).members[&id].url.clone()
}
