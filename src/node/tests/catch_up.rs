//! Lagging members: followers that need entries which the leader no longer has in memory, and members that start with a
//! long log.

use super::*;

#[test]
fn a_follower_that_is_behind_is_sent_entries_that_are_read_back() {
    let (mut cluster, leader) = Cluster::forgetful(u64::MAX, u64::MAX);
    let behind = cluster.follower(leader);
    cluster.crash(behind);
    cluster.write_many(leader, "k", 200);
    let log = cluster.log(leader);
    assert!(log.bytes() <= 1_000 && log.cached_from() > 150);
    cluster.start(behind);
    cluster.slow_snapshots = true;
    cluster.tick(20);
    cluster.assert_same_maps();
    assert!(cluster.hosts[&leader].pieces > 10 && cluster.sent.is_empty());
    assert_eq!(cluster.log(behind).compacted(), 1);

    // The same while the leader's log is read back slowly.
    cluster.host(leader).slow_reader = true;
    cluster.crash(behind);
    cluster.write_many(leader, "l", 50);
    cluster.start(behind);
    cluster.tick(20);
    assert!(cluster.published(behind) < 220);
    assert!(!cluster.hosts[&leader].read_backs.is_empty());
    cluster.host(leader).slow_reader = false;
    cluster.tick(20);
    cluster.assert_same_maps();
}

#[test]
fn a_follower_whose_entries_are_deleted_before_they_are_read_is_sent_a_snapshot() {
    let (mut cluster, leader) = Cluster::forgetful(u64::MAX, u64::MAX);
    let behind = cluster.follower(leader);
    cluster.crash(behind);
    cluster.write_many(leader, "k", 50);
    cluster.host(leader).slow_reader = true;
    cluster.start(behind);
    cluster.tick(5);
    assert!(!cluster.hosts[&leader].read_backs.is_empty());
    // Two snapshots are taken in the meantime.
    cluster.node(leader).settings.snapshot_bytes = 1_000;
    cluster.write_many(leader, "l", 50);
    assert!(cluster.log(leader).compacted() > 30);
    cluster.host(leader).slow_reader = false;
    cluster.tick(20);
    cluster.assert_same_maps();
    assert!(cluster.log(behind).snapshot_index() > 30);
}

#[test]
fn a_restart_publishes_what_memory_does_not_hold_and_leads_only_then() {
    for size in [1, 3] {
        let (mut cluster, leader) = Cluster::elected(size);
        cluster.write_many(leader, "k", 200);
        cluster.log_cache_bytes = 1_000;
        for id in 1..=size {
            cluster.crash(id);
            cluster.host(id).slow_reader = true;
            cluster.start(id);
        }
        cluster.tick(60);
        for id in 1..=size {
            assert_eq!(cluster.node(id).leadership.role, StateRole::Follower);
            assert_eq!(cluster.published(id), 1);
            assert!(cluster.log(id).bytes() < 2_000);
            cluster.host(id).slow_reader = false;
        }
        let leader = cluster.elect();
        cluster.write_many(leader, "l", 5);
        cluster.assert_same_maps();
        assert_eq!(cluster.hosts[&1].map.len(), 205);
    }
}

#[test]
fn a_restart_reads_no_further_ahead_than_the_map_follows() {
    let (mut cluster, _) = Cluster::elected(1);
    cluster.write_many(1, "k", 200);
    cluster.log_cache_bytes = 1_000;
    cluster.crash(1);
    cluster.host(1).slow_store = true;
    cluster.start(1);
    cluster.tick(20);
    let published = cluster.published(1);
    assert!((5..100).contains(&published), "{published}");
    cluster.host(1).slow_store = false;
    let bytes = cluster.node(1).watermarks.unapplied_bytes;
    cluster.node(1).applied(published, bytes);
    cluster.elect();
    assert_eq!(cluster.hosts[&1].map.len(), 200);
}

#[test]
fn a_member_that_still_reads_its_log_votes_for_another() {
    let (mut cluster, leader) = Cluster::elected(3);
    cluster.write_many(leader, "k", 200);
    let [reading, other] = cluster.others(leader);
    cluster.log_cache_bytes = 1_000;
    cluster.crash(reading);
    cluster.host(reading).slow_reader = true;
    cluster.start(reading);
    cluster.tick(10);
    assert_eq!(cluster.node(reading).raw.raft.leader_id, leader);
    cluster.crash(leader);
    cluster.tick(60);
    assert!(cluster.node(other).is_leader());
    assert_eq!(cluster.published(reading), 1);
}
