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
    let claim = |incarnation, url: PeerUrl| Met {
        id: follower,
        incarnation,
        bound_index: 1,
        url,
        dialled: false,
        version: 0,
        key: None,
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
