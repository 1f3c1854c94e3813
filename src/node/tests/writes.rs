//! Writes: through any member, lost, forwarded twice, and when they are acknowledged.

use super::*;

#[test]
fn a_write_through_any_member_is_applied_on_all() {
    let (mut cluster, _) = Cluster::elected(3);
    for id in 1..=3 {
        cluster.write(id, &format!("k{id}"));
    }
    cluster.tick(2);
    cluster.assert_same_maps();
    assert_eq!(cluster.hosts[&1].map.len(), 3);
}

#[test]
fn a_sole_voter_leads_at_once_and_its_promises_wait_for_its_disk() {
    let mut cluster = Cluster::new(1);
    assert!(cluster.node(1).is_leader());
    cluster.host(1).slow_disk = true;
    let mut outcome = cluster.put(1, "a");
    cluster.tick(50);
    assert_eq!(
        outcome.try_recv(),
        Ok(None),
        "acknowledged before it was durable"
    );
    cluster.host(1).slow_disk = false;
    cluster.settle();
    applied(&mut outcome);
    cluster.restart(1);
    cluster.settle();
    assert_eq!(cluster.hosts[&1].map.len(), 1);
}

#[test]
fn a_write_in_flight_when_its_leader_dies_succeeds_once_under_the_next() {
    let (mut cluster, leader) = Cluster::elected(3);
    let follower = cluster.follower(leader);
    // The forward is lost.
    let mut outcome = cluster.put(follower, "a");
    cluster.crash(leader);
    cluster.elect();
    cluster.tick(20);
    applied(&mut outcome);
    cluster.start(leader);
    cluster.tick(20);
    cluster.assert_same_maps();
}

#[test]
fn a_dropped_forward_is_sent_again_under_the_same_leader() {
    let (mut cluster, leader) = Cluster::elected(3);
    let follower = cluster.follower(leader);
    let mut outcome = cluster.put(follower, "a");
    let is_forward = |m: &Message| m.get_msg_type() == MessageType::MsgPropose;
    cluster.wires.retain(|message| !is_forward(message));
    cluster.tick(5);
    assert_eq!(outcome.try_recv(), Ok(None));
    cluster.tick(10);
    applied(&mut outcome);
}

#[test]
fn a_command_that_is_delivered_twice_applies_once() {
    let (mut cluster, leader) = Cluster::elected(3);
    let follower = cluster.follower(leader);
    let mut outcome = cluster.put(follower, "a");
    let forwards = cluster.wires.iter().filter(|m| m.to == leader);
    let copies: Vec<_> = forwards.cloned().collect();
    assert_eq!(copies.len(), 1);
    cluster.wires.extend(copies);
    cluster.settle();
    let first = applied(&mut outcome);
    // The second copy is in the log but is skipped: applied, it would undo a later write of the key.
    cluster.tick(2);
    assert!(cluster.published(leader) > first);
    let session = cluster.node(leader).sessions[&follower].clone();
    assert_eq!((session.boot, session.sequence), (1, 1));
}

#[test]
fn garbage_in_the_log_is_skipped_by_every_node() {
    let (mut cluster, leader) = Cluster::elected(3);
    let follower = cluster.follower(leader);
    for (kind, data) in [
        (EntryType::EntryNormal, &b"\xff\xff\xff garbage"[..]),
        (EntryType::EntryConfChange, b"\xff garbage"),
        (EntryType::EntryConfChangeV2, b""),
    ] {
        let mut entry = Entry::default();
        entry.set_entry_type(kind);
        entry.data = data.to_vec().into();
        cluster.hear(forward(follower, leader, entry));
        cluster.settle();
    }
    cluster.write(follower, "a");
}

#[test]
fn followers_learn_of_a_commit_once_nothing_is_under_way() {
    let (mut cluster, leader) = Cluster::elected(3);
    cluster.host(leader).slow_disk = true;
    let _first = cluster.put(leader, "a");
    cluster.settle();
    // Both followers have the entry, so it is committed, although the leader's own disk is still busy.
    assert_eq!(cluster.committed(leader), cluster.last(leader));
    let follower = cluster.follower(leader);
    assert!(!cluster.has(follower, "a"));
    // Only the next entry carries the new commit index.
    let _second = cluster.put(leader, "b");
    assert!(cluster.under_way(MessageType::MsgAppend).is_empty());
    cluster.settle();
    assert!(cluster.has(follower, "a"));
    // After the last entry, the followers learn of the commit without a tick.
    cluster.host(leader).slow_disk = false;
    cluster.settle();
    cluster.assert_same_maps();
    assert!(cluster.has(follower, "b"));
}

#[test]
fn what_the_map_can_not_take_yet_stays_in_the_log() {
    let (mut cluster, leader) = Cluster::elected(3);
    cluster.host(leader).slow_store = true;
    let value_bytes = 3 << 20;
    for key in 0..12_u8 {
        let mut command = Command::new();
        command.kind = Kind::Put;
        command.key = vec![key].into();
        command.value = vec![key; value_bytes].into();
        drop(cluster.propose(leader, command));
        cluster.settle();
    }
    assert_eq!(cluster.committed(leader), cluster.log(leader).last());
    assert!(cluster.published(leader) < cluster.committed(leader));
    let most = limits::PUBLISHED_BYTES_MAX + value_bytes + 1_000;
    let node = cluster.node(leader);
    assert!((limits::PUBLISHED_BYTES_MAX..most).contains(&node.watermarks.unapplied_bytes));
    assert!(node.ready().is_none(), "there is nothing to be done before");

    cluster.host(leader).slow_store = false;
    let node = cluster.node(leader);
    node.applied(node.watermarks.published, node.watermarks.unapplied_bytes);
    cluster.settle();
    assert_eq!(cluster.published(leader), cluster.committed(leader));
    assert_eq!(cluster.node(leader).watermarks.unapplied_bytes, 0);
    cluster.tick(5);
    cluster.assert_same_maps();
}
