//! Snapshots: the log is compacted behind them, it is kept while one is transferred, and a member does not lead before
//! it has loaded one.

use super::*;

#[test]
fn a_member_that_still_loads_a_snapshot_does_not_campaign() {
    let mut cluster = Cluster::new(3);
    cluster.snapshot_bytes = 1_000;
    cluster.restart_all();
    let leader = cluster.elect();
    let [behind, other] = cluster.others(leader);
    cluster.crash(behind);
    for i in 0..300 {
        drop(cluster.put(leader, &format!("k{i}")));
        cluster.settle();
    }
    cluster.start(behind);
    cluster.host(behind).slow_store = true;
    cluster.tick_until(|cluster| cluster.published(behind) > 1);
    assert_eq!(cluster.node(behind).watermarks.applied, 1);
    // The other members are gone, and several election timeouts pass.
    cluster.crash(leader);
    cluster.crash(other);
    cluster.tick(50);
    assert_eq!(cluster.node(behind).leadership.role, StateRole::Follower);
}

#[test]
fn snapshots_compact_the_log_and_a_restart_starts_there() {
    let mut cluster = Cluster::new(3);
    cluster.snapshot_bytes = 2_000;
    cluster.restart_all();
    let leader = cluster.elect();
    cluster.write_many(leader, "k", 100);
    for id in 1..=3 {
        let log = cluster.log(id);
        assert!(log.snapshot_index() > 50 && log.bytes() < 10_000);
    }
    cluster.restart_all();
    cluster.elect();
    cluster.tick(10);
    cluster.assert_same_maps();
    assert_eq!(cluster.hosts[&1].map.len(), 100);
}

/// Sends a follower a snapshot that does not arrive yet, while the leader writes on and takes further snapshots.
/// Returns the follower and the index of its snapshot.
fn snapshot_under_way(cluster: &mut Cluster, leader: u64) -> (u64, u64) {
    let behind = cluster.follower(leader);
    cluster.crash(behind);
    cluster.write_many(leader, "k", 100);
    cluster.start(behind);
    cluster.slow_snapshots = true;
    cluster.tick(10);
    let [message] = &cluster.sent[..] else {
        panic!("{} snapshots were sent", cluster.sent.len());
    };
    let index = message.get_snapshot().get_metadata().index;
    cluster.write_many(leader, "l", 200);
    assert!(cluster.log(leader).snapshot_index() > index + 100);
    (behind, index)
}

fn arrive(cluster: &mut Cluster, leader: u64, behind: u64) {
    let message = cluster.sent.pop().unwrap();
    cluster.hear(message);
    cluster.settle();
    cluster
        .node(leader)
        .snapshot_sent(behind, SnapshotStatus::Finish);
    cluster.settle();
}

#[test]
fn a_follower_needs_one_snapshot_whatever_is_written_and_compacted_meanwhile() {
    let (mut cluster, leader) = Cluster::forgetful(2_000, u64::MAX);
    let (behind, index) = snapshot_under_way(&mut cluster, leader);
    assert_eq!(cluster.log(leader).compacted(), index);
    arrive(&mut cluster, leader, behind);
    cluster.tick(20);
    cluster.assert_same_maps();
    assert!(cluster.sent.is_empty(), "it was sent another one");
    // The follower has caught up, so the log is compacted as usual.
    let compacted = cluster.log(leader).compacted();
    assert!(compacted > index + 100, "{compacted}");
}

#[test]
fn the_log_is_kept_for_a_snapshot_under_way_up_to_a_limit() {
    let (mut cluster, leader) = Cluster::forgetful(2_000, 3_000);
    let (behind, index) = snapshot_under_way(&mut cluster, leader);
    assert!(cluster.log(leader).compacted() > index + 50);
    cluster.slow_snapshots = false;
    arrive(&mut cluster, leader, behind);
    cluster.tick(20);
    cluster.assert_same_maps();
}

#[test]
fn the_log_is_kept_for_no_transfer_that_failed_and_for_no_follower_that_was_removed() {
    for removed in [true, false] {
        let (mut cluster, leader) = Cluster::forgetful(2_000, u64::MAX);
        let (behind, index) = snapshot_under_way(&mut cluster, leader);
        assert_eq!(cluster.log(leader).compacted(), index);
        if removed {
            cluster.remove(leader, behind);
        } else {
            cluster.crash(behind);
            cluster
                .node(leader)
                .snapshot_sent(behind, SnapshotStatus::Failure);
        }
        cluster.tick(3);
        assert!(cluster.log(leader).compacted() > index + 50);
    }
}

#[test]
fn a_deposed_leader_keeps_the_log_for_no_follower() {
    let (mut cluster, leader) = Cluster::forgetful(2_000, u64::MAX);
    let (_, index) = snapshot_under_way(&mut cluster, leader);
    cluster.node(leader).hand_over();
    cluster.tick(5);
    assert!(!cluster.node(leader).is_leader());
    assert!(cluster.log(leader).compacted() > index + 50);
}

#[test]
fn a_learner_gets_no_snapshot_of_a_leader_that_does_not_know_what_it_inherited() {
    let (mut cluster, leader) = Cluster::elected(3);
    cluster.add(leader, 4);
    let next = cluster.follower(leader);
    let early = |cluster: &mut Cluster, to| {
        let snapshot = message(MessageType::MsgSnapshot, next, to, 0);
        cluster.node(next).is_too_early(&snapshot)
    };
    cluster.node(leader).raw.transfer_leader(next);
    cluster.work(leader);
    cluster.deliver_until(|cluster| cluster.node(next).is_leader());
    assert!(early(&mut cluster, 4));
    assert!(!early(&mut cluster, leader), "a quorum may need it");
    cluster.settle();
    assert!(!early(&mut cluster, 4));
}
