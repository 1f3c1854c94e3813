//! Linearizable reads: whom the leader asks, and when a read ends without an answer.

use super::*;

#[test]
fn reads_see_what_was_acknowledged_and_end_without_a_quorum() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    for id in 1..=3 {
        let mut read = cluster.read(id);
        cluster.settle();
        assert_eq!(read.try_recv(), Ok(Some(Ok(()))));
    }
    let follower = cluster.follower(leader);
    let other = 6 - leader - follower;
    cluster.crash(leader);
    cluster.crash(other);
    let mut read = cluster.read(follower);
    cluster.tick(25);
    assert!(matches!(read.try_recv(), Ok(Some(Err(_)))));
}

#[test]
fn a_read_on_a_deposed_leader_is_not_answered() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    for id in 1..=3 {
        if id != leader {
            cluster.cut.extend([(leader, id), (id, leader)]);
        }
    }
    let mut read = cluster.read(leader);
    cluster.tick(40);
    assert!(matches!(read.try_recv(), Ok(Some(Err(_)))));
}

#[test]
fn a_read_round_asks_a_majority_and_then_everybody() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.tick(10);
    let mut read = cluster.read(leader);
    let asked = empty(&cluster, MessageType::MsgHeartbeat);
    assert_eq!(asked.len(), 1);
    cluster.settle();
    assert_eq!(read.try_recv(), Ok(Some(Ok(()))));
    // The one that would be asked again has gone silent; a regular heartbeat asks the other.
    cluster.cut = vec![(leader, asked[0])];
    let mut read = cluster.read(leader);
    let heard = empty(&cluster, MessageType::MsgHeartbeat);
    assert_eq!(heard, asked);
    cluster.wires.clear();
    cluster.tick(10);
    assert_eq!(read.try_recv(), Ok(Some(Ok(()))));
    let mut read = cluster.read(leader);
    assert_ne!(empty(&cluster, MessageType::MsgHeartbeat), asked);
    cluster.settle();
    assert_eq!(read.try_recv(), Ok(Some(Ok(()))));
}
