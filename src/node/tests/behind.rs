//! Members that are behind: followers that lack what the leader's memory does not hold any more, or a snapshot; and
//! members that were started with a long log.

use super::*;

/// A cluster of three that has little of its log in memory.
fn forgetful(snapshot_bytes: u64, pinned_log_bytes: u64) -> (Cluster, u64) {
    let mut cluster = Cluster::new(3);
    cluster.snapshot_bytes = snapshot_bytes;
    cluster.pinned_log_bytes = pinned_log_bytes;
    cluster.log_cache_bytes = 1_000;
    for id in 1..=3 {
        cluster.crash(id);
        cluster.start(id);
    }
    let leader = cluster.elect();
    (cluster, leader)
}

fn put_many(cluster: &mut Cluster, leader: u64, name: &str, count: usize) {
    for i in 0..count {
        let mut outcome = cluster.put(leader, &format!("{name}{i}"));
        cluster.settle();
        applied(&mut outcome);
    }
    cluster.tick(5);
}

#[test]
fn a_follower_that_is_behind_is_sent_entries_that_are_read_back() {
    let (mut cluster, leader) = forgetful(u64::MAX, u64::MAX);
    let behind = cluster.follower(leader);
    cluster.crash(behind);
    put_many(&mut cluster, leader, "k", 200);
    let log = cluster.node(leader).raw.store();
    assert!(log.bytes() <= 1_000 && log.cached_from() > 150);
    cluster.start(behind);
    cluster.slow_snapshots = true;
    cluster.tick(20);
    cluster.assert_same_maps();
    assert!(cluster.hosts[&leader].pieces > 10 && cluster.sent.is_empty());
    assert_eq!(cluster.node(behind).raw.store().compacted(), 1);

    // And when it is found only later.
    cluster.hosts.get_mut(&leader).unwrap().slow_reader = true;
    cluster.crash(behind);
    put_many(&mut cluster, leader, "l", 50);
    cluster.start(behind);
    cluster.tick(20);
    assert!(cluster.node(behind).published < 220);
    assert!(!cluster.hosts[&leader].read_backs.is_empty());
    cluster.hosts.get_mut(&leader).unwrap().slow_reader = false;
    cluster.tick(20);
    cluster.assert_same_maps();
}

#[test]
fn a_follower_whose_entries_are_deleted_before_they_are_read_is_sent_a_snapshot() {
    let (mut cluster, leader) = forgetful(u64::MAX, u64::MAX);
    let behind = cluster.follower(leader);
    cluster.crash(behind);
    put_many(&mut cluster, leader, "k", 50);
    cluster.hosts.get_mut(&leader).unwrap().slow_reader = true;
    cluster.start(behind);
    cluster.tick(5);
    assert!(!cluster.hosts[&leader].read_backs.is_empty());
    // Two snapshots are taken meanwhile.
    cluster.node(leader).settings.snapshot_bytes = 1_000;
    put_many(&mut cluster, leader, "l", 50);
    assert!(cluster.node(leader).raw.store().compacted() > 30);
    cluster.hosts.get_mut(&leader).unwrap().slow_reader = false;
    cluster.tick(20);
    cluster.assert_same_maps();
    assert!(cluster.node(behind).raw.store().snapshot_index() > 30);
}

/// Index of the snapshot that is under way to a follower, while the leader goes on and takes others.
fn snapshot_under_way(cluster: &mut Cluster, leader: u64) -> (u64, u64) {
    let behind = cluster.follower(leader);
    cluster.crash(behind);
    put_many(cluster, leader, "k", 100);
    cluster.start(behind);
    cluster.slow_snapshots = true;
    cluster.tick(10);
    let [message] = &cluster.sent[..] else {
        panic!("{} snapshots were sent", cluster.sent.len());
    };
    let index = message.get_snapshot().get_metadata().index;
    put_many(cluster, leader, "l", 200);
    assert!(cluster.node(leader).raw.store().snapshot_index() > index + 100);
    (behind, index)
}

fn arrive(cluster: &mut Cluster, leader: u64, behind: u64) {
    let message = cluster.sent.pop().unwrap();
    cluster.node(behind).step(of_member(message));
    cluster.work(behind);
    cluster.settle();
    cluster.node(leader).snapshot_sent(behind, true);
    cluster.settle();
}

#[test]
fn a_follower_needs_one_snapshot_whatever_is_written_and_compacted_meanwhile() {
    let (mut cluster, leader) = forgetful(2_000, u64::MAX);
    let (behind, index) = snapshot_under_way(&mut cluster, leader);
    assert_eq!(cluster.node(leader).raw.store().compacted(), index);
    arrive(&mut cluster, leader, behind);
    cluster.tick(20);
    cluster.assert_same_maps();
    assert!(cluster.sent.is_empty(), "it was sent another one");
    // It has caught up, and the log goes as ever.
    let log = cluster.node(leader).raw.store();
    assert!(log.compacted() > index + 100, "{}", log.compacted());
}

#[test]
fn the_log_is_kept_for_a_snapshot_under_way_up_to_a_limit() {
    let (mut cluster, leader) = forgetful(2_000, 3_000);
    let (behind, index) = snapshot_under_way(&mut cluster, leader);
    assert!(cluster.node(leader).raw.store().compacted() > index + 50);
    cluster.slow_snapshots = false;
    arrive(&mut cluster, leader, behind);
    cluster.tick(20);
    cluster.assert_same_maps();
}

#[test]
fn the_log_is_kept_for_no_transfer_that_failed_and_for_no_follower_that_was_removed() {
    for removed in [true, false] {
        let (mut cluster, leader) = forgetful(2_000, u64::MAX);
        let (behind, index) = snapshot_under_way(&mut cluster, leader);
        assert_eq!(cluster.node(leader).raw.store().compacted(), index);
        if removed {
            let mut outcome = cluster.change(leader, Kind::RemoveMember, behind);
            cluster.settle();
            applied(&mut outcome);
        } else {
            cluster.crash(behind);
            cluster.node(leader).snapshot_sent(behind, false);
        }
        cluster.tick(3);
        assert!(cluster.node(leader).raw.store().compacted() > index + 50);
    }
}

#[test]
fn a_leader_that_is_none_any_more_keeps_the_log_for_nobody() {
    let (mut cluster, leader) = forgetful(2_000, u64::MAX);
    let (_, index) = snapshot_under_way(&mut cluster, leader);
    cluster.node(leader).hand_over();
    cluster.tick(5);
    assert!(!cluster.node(leader).is_leader());
    assert!(cluster.node(leader).raw.store().compacted() > index + 50);
}

#[test]
fn a_restart_publishes_what_memory_does_not_hold_and_leads_only_then() {
    for size in [1, 3] {
        let mut cluster = Cluster::new(size);
        let leader = cluster.elect();
        put_many(&mut cluster, leader, "k", 200);
        cluster.log_cache_bytes = 1_000;
        for id in 1..=size {
            cluster.crash(id);
            cluster.hosts.get_mut(&id).unwrap().slow_reader = true;
            cluster.start(id);
        }
        cluster.tick(60);
        for id in 1..=size {
            assert_eq!(cluster.node(id).role, StateRole::Follower);
            assert_eq!(cluster.node(id).published, 1);
            assert!(cluster.node(id).raw.store().bytes() < 2_000);
            cluster.hosts.get_mut(&id).unwrap().slow_reader = false;
        }
        let leader = cluster.elect();
        put_many(&mut cluster, leader, "l", 5);
        cluster.assert_same_maps();
        assert_eq!(cluster.hosts[&1].map.len(), 205);
    }
}

#[test]
fn a_restart_reads_no_further_ahead_than_the_map_follows() {
    let mut cluster = Cluster::new(1);
    cluster.elect();
    put_many(&mut cluster, 1, "k", 200);
    cluster.log_cache_bytes = 1_000;
    cluster.crash(1);
    cluster.hosts.get_mut(&1).unwrap().slow_store = true;
    cluster.start(1);
    cluster.tick(20);
    let published = cluster.node(1).published;
    assert!((5..100).contains(&published), "{published}");
    cluster.hosts.get_mut(&1).unwrap().slow_store = false;
    let bytes = cluster.node(1).unapplied_bytes;
    cluster.node(1).applied(published, bytes);
    cluster.elect();
    assert_eq!(cluster.hosts[&1].map.len(), 200);
}

#[test]
fn a_member_that_still_reads_its_log_votes_for_another() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    put_many(&mut cluster, leader, "k", 200);
    let reading = cluster.follower(leader);
    cluster.log_cache_bytes = 1_000;
    cluster.crash(reading);
    cluster.hosts.get_mut(&reading).unwrap().slow_reader = true;
    cluster.start(reading);
    cluster.tick(10);
    assert_eq!(cluster.node(reading).raw.raft.leader_id, leader);
    cluster.crash(leader);
    cluster.tick(60);
    let other = 6 - leader - reading;
    assert!(cluster.node(other).is_leader());
    assert_eq!(cluster.node(reading).published, 1);
}

#[test]
fn what_the_map_can_not_take_yet_stays_in_the_log() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.hosts.get_mut(&leader).unwrap().slow_store = true;
    let value_bytes = 3 << 20;
    for key in 0..12_u8 {
        let mut command = Command::new();
        command.kind = Kind::Put;
        command.key = vec![key].into();
        command.value = vec![key; value_bytes].into();
        drop(cluster.propose(leader, command));
        cluster.settle();
    }
    let node = cluster.node(leader);
    assert_eq!(node.raw.raft.raft_log.committed, node.raw.store().last());
    assert!(node.published < node.raw.raft.raft_log.committed);
    let most = limits::PUBLISHED_BYTES_MAX + value_bytes + 1_000;
    assert!((limits::PUBLISHED_BYTES_MAX..most).contains(&node.unapplied_bytes));
    assert!(node.ready().is_none(), "there is nothing to be done before");

    cluster.hosts.get_mut(&leader).unwrap().slow_store = false;
    let node = cluster.node(leader);
    node.applied(node.published, node.unapplied_bytes);
    cluster.settle();
    let node = cluster.node(leader);
    assert_eq!(node.published, node.raw.raft.raft_log.committed);
    assert_eq!(node.unapplied_bytes, 0);
    cluster.tick(5);
    cluster.assert_same_maps();
}
