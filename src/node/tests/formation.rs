//! A cluster that forms, bindings, and moves.

use super::*;
use crate::channels::status::ClosedKind;

fn list(size: u64) -> BTreeMap<u64, PeerUrl> {
    (1..=size).map(|id| (id, url(id))).collect()
}

/// The first of so many, and the others with empty disks.
fn unformed(size: u64) -> Cluster {
    let mut cluster = Cluster::of(Members::first(&list(size), 10));
    for id in 2..=size {
        cluster.add_host(id, Recovered::default());
    }
    cluster.settle();
    cluster
}

fn met(cluster: &Cluster, id: u64, empty: bool) -> Met {
    Met {
        id,
        incarnation: cluster.incarnation(id),
        empty,
        url: url(id),
        dialled: true,
        version: 0,
    }
}

fn answers(cluster: &mut Cluster, to: u64, id: u64) {
    let met = met(cluster, id, true);
    cluster.node(to).met(met);
    cluster.work(to);
}

fn closed(cluster: &mut Cluster, id: u64) -> Option<(ClosedKind, String)> {
    let closed = cluster.node(id).closed();
    closed.map(|closed| (closed.kind, closed.why.clone()))
}

#[test]
fn a_cluster_forms_within_ticks_once_all_listed_have_answered() {
    for size in [2, 3, 5] {
        let mut cluster = unformed(size);
        for id in 2..=size {
            cluster.tick(20);
            assert_eq!(cluster.node(1).members().members.len(), 1);
            answers(&mut cluster, 1, id);
        }
        cluster.settle();
        // No step of it waits for a tick.
        for id in 1..=size {
            assert_eq!(closed(&mut cluster, id), None, "member {id} of {size}");
            assert_eq!(cluster.node(id).members().voters().count(), size as usize);
            let mut outcome = cluster.put(id, "a");
            cluster.settle();
            applied(&mut outcome);
        }
    }
}

#[test]
fn a_member_says_whom_a_cluster_that_forms_waits_for() {
    let mut cluster = unformed(3);
    let first = closed(&mut cluster, 1).unwrap();
    assert_eq!(first.0, ClosedKind::Forming);
    assert_eq!(
        first.1,
        "forming: 1 of 3 members are in; start member 2 (http://host:2); start member 3 (http://host:3)"
    );
    let other = closed(&mut cluster, 2).unwrap();
    assert_eq!(
        other.1,
        "forming: member 2 waits for member 1 (http://host:1), which begins the cluster and adds it"
    );
    answers(&mut cluster, 1, 2);
    let first = closed(&mut cluster, 1).unwrap().1;
    assert!(
        first.contains("member 2 (http://host:2) is being added; start member 3"),
        "{first}"
    );
    let stranger = refusal(3, Reason::WrongCluster { other_life: false });
    cluster.node(1).refused(stranger);
    let first = closed(&mut cluster, 1).unwrap().1;
    assert!(
        first.contains("member 3 (http://host:3) belongs to another cluster"),
        "{first}"
    );
}

/// Starts it again with another list.
fn start_with_list(cluster: &mut Cluster, id: u64, list: BTreeMap<u64, PeerUrl>) {
    cluster.crash(id);
    cluster.list = list;
    cluster.start(id);
    cluster.tick(5);
}

#[test]
fn a_first_that_has_added_nobody_forms_by_the_list_of_its_newest_start() {
    let mut cluster = unformed(3);
    answers(&mut cluster, 1, 2);
    let mut right = list(3);
    right.insert(3, url(9));
    start_with_list(&mut cluster, 1, right.clone());
    assert_eq!(cluster.node(1).members().forming, right);
    assert_eq!(cluster.node(1).members().members.len(), 1);
    // It is in the log: a start without it goes on with it.
    start_with_list(&mut cluster, 1, BTreeMap::new());
    assert_eq!(cluster.node(1).members().forming, right);
    // Whoever is at the mistaken place is nobody.
    answers(&mut cluster, 1, 2);
    answers(&mut cluster, 1, 3);
    cluster.tick(20);
    assert_eq!(cluster.node(1).members().members.len(), 1);
    let mut there = met(&cluster, 3, true);
    there.url = url(9);
    cluster.node(1).met(there);
    cluster.settle();
    assert_eq!(closed(&mut cluster, 1), None);
    assert_eq!(cluster.node(1).members().members[&3].url, url(9));
}

#[test]
fn a_first_that_was_to_be_one_of_several_may_become_a_cluster_of_one() {
    let mut cluster = unformed(3);
    start_with_list(&mut cluster, 1, list(1));
    assert_eq!(closed(&mut cluster, 1), None);
    let mut outcome = cluster.put(1, "a");
    cluster.settle();
    applied(&mut outcome);
}

#[test]
fn a_list_stays_once_a_member_was_added_by_it() {
    let mut cluster = unformed(3);
    answers(&mut cluster, 1, 2);
    cluster.cut = vec![(1, 3)];
    answers(&mut cluster, 1, 3);
    cluster.settle();
    assert!(cluster.node(1).members().members.len() > 1);
    let mut other = list(3);
    other.insert(3, url(9));
    start_with_list(&mut cluster, 1, other);
    assert_ne!(cluster.node(1).members().forming.get(&3), Some(&url(9)));
}

#[test]
fn a_member_tells_where_it_is_once_what_was_committed_is_replayed_and_when_it_moves() {
    let mut cluster = Cluster::new(1);
    let places = |cluster: &Cluster| cluster.hosts[&1].places.clone();
    assert_eq!(places(&cluster), [url(1)]);
    for place in [8, 9] {
        cluster.crash(1);
        cluster.moved = Some(url(place));
        cluster.start(1);
        cluster.tick(3);
    }
    assert_eq!(places(&cluster).last(), Some(&url(9)));
    let count = places(&cluster).len();
    cluster.crash(1);
    cluster.start(1);
    cluster.tick(3);
    // The moves before stand in the log, and nobody is told of them again.
    assert_eq!(places(&cluster)[count..], [url(9)]);
}

#[test]
fn an_emptied_first_member_ends_when_it_hears_of_its_cluster_and_serves_nothing_before() {
    let mut cluster = Cluster::of(Members::first(&list(3), 17));
    cluster.tick(50);
    assert!(closed(&mut cluster, 1).is_some());
    let mut forming = refusal(2, Reason::WrongCluster { other_life: true });
    forming.formed = false;
    cluster.node(1).refused(forming);
    cluster.settle();
    assert_eq!(cluster.hosts[&1].exit, None);
    let formed = refusal(2, Reason::WrongCluster { other_life: true });
    cluster.node(1).refused(formed);
    cluster.settle();
    assert_eq!(cluster.hosts[&1].exit, Some(Exit::Replaced { by: 2 }));
}

#[test]
fn a_sole_member_serves_nothing_while_another_cluster_knows_it_with_another_directory() {
    let mut cluster = Cluster::new(1);
    let mut evidence = refusal(2, Reason::WrongCluster { other_life: true });
    evidence.dialled = false;
    cluster.node(1).refused(evidence.clone());
    cluster.settle();
    assert_eq!(closed(&mut cluster, 1).unwrap().0, ClosedKind::OtherLife);
    cluster.tick(40);
    cluster.node(1).refused(evidence);
    cluster.tick(40);
    assert!(closed(&mut cluster, 1).is_some(), "it was heard again");
    cluster.tick(20);
    assert_eq!(closed(&mut cluster, 1), None);
    assert_eq!(cluster.hosts[&1].exit, None);
}

#[test]
fn an_empty_member_has_no_power() {
    let mut cluster = Cluster::new(1);
    cluster.add_host(2, Recovered::default());
    for kind in [
        MessageType::MsgRequestVote,
        MessageType::MsgRequestPreVote,
        MessageType::MsgTimeoutNow,
        MessageType::MsgReadIndex,
    ] {
        let mut message = heartbeat(1, 2, 7, 0);
        message.set_msg_type(kind);
        cluster.node(2).step(of_member(message));
        cluster.work(2);
        assert!(cluster.wires.is_empty(), "{kind:?}: {:?}", cluster.wires);
    }
    let mut append = heartbeat(1, 2, 7, 0);
    append.set_msg_type(MessageType::MsgAppend);
    append.index = 12;
    cluster.node(2).step(of_member(append));
    cluster.work(2);
    let answer = cluster
        .wires
        .pop_front()
        .expect("whoever leads learns that it is there");
    assert!(answer.reject && answer.index == 12);
    assert_eq!(cluster.node(2).raw.raft.term, 0);
    assert_eq!(cluster.hosts[&2].disk.hard_state, HardState::default());
    // Another directory's state changes nothing either.
    let members = Members::of([(1, url(1), 10), (2, url(2), 99)]);
    let mut snapshot = heartbeat(1, 2, 7, 0);
    snapshot.set_msg_type(MessageType::MsgSnapshot);
    let mut state = ReplicatedState::new();
    members.write_to(&mut state);
    let content = snapshot.mut_snapshot();
    content.data = protobuf::Message::write_to_bytes(&state).unwrap().into();
    content.mut_metadata().index = 5;
    content.mut_metadata().term = 7;
    content.mut_metadata().set_conf_state(members.conf_state());
    cluster.node(2).step(of_member(snapshot));
    cluster.work(2);
    assert!(cluster.node(2).is_empty());
}

#[test]
fn an_id_that_was_added_by_hand_is_bound_to_whoever_answers_at_its_place() {
    let mut cluster = Cluster::new(1);
    let mut add = Command::new();
    add.kind = Kind::AddMember;
    add.member_id = 2;
    add.member_url = url(2).to_string();
    let mut added = cluster.propose(1, add);
    cluster.settle();
    applied(&mut added);
    cluster.tick(20);
    assert_eq!(cluster.node(1).members().members[&2].incarnation, 0);
    let mut elsewhere = met(&cluster, 2, true);
    elsewhere.url = url(9);
    let not_empty = met(&cluster, 2, false);
    let mut by_itself = met(&cluster, 2, true);
    by_itself.dialled = false;
    for wrong in [elsewhere, not_empty, by_itself] {
        cluster.node(1).met(wrong);
        cluster.tick(3);
        assert_eq!(cluster.node(1).members().members[&2].incarnation, 0);
    }
    cluster.add_host(2, Recovered::default());
    answers(&mut cluster, 1, 2);
    cluster.tick(10);
    assert_eq!(cluster.node(1).members().members[&2].incarnation, 20);
    assert!(cluster.node(1).members().is_settled_voter(2));
    let mut outcome = cluster.put(2, "a");
    cluster.settle();
    applied(&mut outcome);
}

#[test]
fn a_member_that_comes_from_another_place_is_moved_there() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = cluster.follower(leader);
    let claim = |incarnation, url: PeerUrl| Met {
        id: follower,
        incarnation,
        empty: false,
        url,
        dialled: false,
        version: 0,
    };
    for refused in [claim(7, url(8)), claim(10 * follower, url(leader))] {
        cluster.node(leader).met(refused);
        cluster.tick(5);
        let members = cluster.node(leader).members();
        assert_eq!(members.members[&follower].url, url(follower));
    }
    cluster.node(leader).met(claim(10 * follower, url(8)));
    cluster.tick(5);
    for id in 1..=3 {
        let members = cluster.node(id).members();
        assert_eq!(members.members[&follower].url, url(8));
        assert_eq!(members.unsettled, None);
    }
}

#[test]
fn a_leader_moves_itself() {
    let mut cluster = Cluster::new(1);
    cluster.crash(1);
    cluster.moved = Some(url(8));
    cluster.start(1);
    cluster.tick(3);
    assert_eq!(cluster.node(1).members().members[&1].url, url(8));
}

#[test]
fn a_promotion_outlasts_a_power_cut_once_it_is_told() {
    for back in [[1, 3], [2, 3], [1, 2]] {
        let mut cluster = Cluster::new(1);
        for id in [2, 3] {
            let mut added = cluster.change(1, Kind::AddMember, id);
            cluster.add_host(id, Recovered::default());
            cluster.tick(1);
            applied(&mut added);
            while !cluster.node(1).members().is_settled_voter(id) {
                cluster.tick(1);
            }
        }
        for id in 1..=3 {
            cluster.crash(id);
        }
        for id in back {
            cluster.start(id);
        }
        cluster.elect();
        let mut outcome = cluster.put(back[0], "a");
        cluster.settle();
        applied(&mut outcome);
    }
}
