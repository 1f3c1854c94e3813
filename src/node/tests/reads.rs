//! Linearizable reads: which members the leader asks, and when a read ends without an answer.

use super::*;

#[test]
fn reads_see_what_was_acknowledged_and_end_without_a_quorum() {
    let (mut cluster, leader) = Cluster::elected(3);
    for id in 1..=3 {
        let mut read = cluster.read(id);
        cluster.settle();
        done(&mut read);
    }
    let [follower, other] = cluster.others(leader);
    cluster.crash(leader);
    cluster.crash(other);
    let mut read = cluster.read(follower);
    cluster.tick(25);
    assert!(matches!(read.try_recv(), Ok(Some(Err(_)))));
}

#[test]
fn a_read_on_a_deposed_leader_is_not_answered() {
    let (mut cluster, leader) = Cluster::elected(3);
    for id in cluster.others::<2>(leader) {
        cluster.cut.extend([(leader, id), (id, leader)]);
    }
    let mut read = cluster.read(leader);
    cluster.tick(40);
    assert!(matches!(read.try_recv(), Ok(Some(Err(_)))));
}

#[test]
fn a_read_round_asks_a_majority_and_then_everybody() {
    let (mut cluster, leader) = Cluster::elected(3);
    cluster.tick(10);
    let mut read = cluster.read(leader);
    let asked = cluster.under_way(MessageType::MsgHeartbeat);
    assert_eq!(asked.len(), 1);
    cluster.settle();
    done(&mut read);
    // The member that would be asked first no longer answers. A regular heartbeat asks the other one.
    cluster.cut = vec![(leader, asked[0])];
    let mut read = cluster.read(leader);
    assert_eq!(cluster.under_way(MessageType::MsgHeartbeat), asked);
    cluster.wires.clear();
    cluster.tick(10);
    done(&mut read);
    let mut read = cluster.read(leader);
    assert_ne!(cluster.under_way(MessageType::MsgHeartbeat), asked);
    cluster.settle();
    done(&mut read);
}

#[test]
fn every_member_learns_from_heartbeats_how_far_behind_the_others_are() {
    let (mut cluster, leader) = Cluster::elected(3);
    let [near, far] = cluster.others(leader);
    cluster.cut.push((leader, far));
    cluster.write_many(leader, "a", 7);
    cluster.tick(4);
    for id in [leader, near] {
        let behind = |of| cluster.hosts[&id].node.as_ref().unwrap().behind(of);
        assert_eq!(behind(leader), Some(0), "on {id}");
        assert_eq!(behind(near), Some(0), "on {id}");
        assert!(behind(far).is_some_and(|entries| entries >= 1), "on {id}");
        assert_eq!(behind(9), None);
    }
    // What a leader has said is of no use when it has fallen silent.
    cluster.kill(leader);
    cluster.cut.push((far, near));
    cluster.cut.push((near, far));
    let election = cluster.node(near).settings.election_ticks;
    cluster.tick(2 * election);
    assert_eq!(cluster.node(near).behind(far), None);
}
