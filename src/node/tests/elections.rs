//! Elections after a leader is gone or after a restart, and elections that must not happen.

use super::*;

#[test]
fn a_sole_voter_says_nothing_in_a_term_that_its_disk_does_not_know() {
    let mut cluster = Cluster::new(1);
    let mut outcome = cluster.change(1, Kind::AddMember, 2);
    cluster.start_empty(2);
    cluster.deliver_until(|cluster| !cluster.members(2).members.is_empty());
    // Member 2 does not become a voter, because its acknowledgements are lost.
    cluster.cut.push((2, 1));
    cluster.settle();
    applied(&mut outcome);
    assert!(cluster.node(1).is_alone(), "2 is no learner any more");
    let before = cluster.node(1).status().term;
    cluster.crash(1);
    cluster.host(1).slow_disk = true;
    cluster.start(1);
    assert!(cluster.node(1).is_leader());
    let mut outcome = cluster.put(1, "a");
    cluster.tick(5);
    assert_eq!(cluster.hosts[&1].disk.hard_state.term, before);
    // If the voter sent in the new term now, a crash would let it lead in that term again, with another entry at this
    // index.
    assert_eq!(cluster.node(2).status().term, before);
    cluster.host(1).slow_disk = false;
    cluster.tick(5);
    applied(&mut outcome);
    assert_eq!(cluster.node(2).status().term, before + 1);
}

#[test]
fn survivors_of_a_leader_that_is_gone_elect_one_of_them_within_ticks_and_one_term() {
    for (size, killed) in [(3, 1), (3, 2), (3, 3), (5, 1), (5, 4)] {
        let (mut cluster, _) = Cluster::elected(size);
        while cluster.leader() != killed {
            let current = cluster.elect();
            cluster.node(current).raw.transfer_leader(killed);
            cluster.tick(1);
        }
        let term = cluster.term(killed);
        // The follower with the highest id does not win the election, so it has to ask the new leader.
        let follower = (1..=size).rfind(|id| *id != killed).unwrap();
        // The write and the read are lost on their way to the dead leader.
        let mut outcome = cluster.put(follower, "a");
        let mut read = cluster.read(follower);
        cluster.kill(killed);
        cluster.tick(3);
        let next = cluster.leader();
        assert!(next != 0 && next != killed, "no leader after 3 ticks");
        assert_eq!(cluster.term(next), term + 1);
        applied(&mut outcome);
        done(&mut read);
    }
}

#[test]
fn survivors_whose_votes_cross_are_kept_apart_by_their_turns() {
    let (mut cluster, gone) = Cluster::elected(3);
    cluster.kill(gone);
    // Messages take almost a heartbeat interval to arrive.
    let mut late = VecDeque::new();
    for _ in 0..8 {
        for id in cluster.running() {
            cluster.node(id).tick();
            cluster.work(id);
        }
        let said = std::mem::take(&mut cluster.wires);
        cluster.wires = std::mem::replace(&mut late, said);
        while let Some(message) = cluster.wires.pop_front() {
            if message.to != gone {
                let answers = cluster.wires.len();
                cluster.hear(message);
                late.extend(cluster.wires.drain(answers..));
            }
        }
    }
    assert_ne!(cluster.leader(), 0, "no leader after 8 ticks");
}

#[test]
fn a_survivor_that_lags_leaves_the_next_turn_to_the_other() {
    let (mut cluster, gone) = Cluster::elected(3);
    let [first, second] = cluster.others(gone);
    cluster.cut.push((gone, first));
    cluster.write(gone, "a");
    cluster.kill(gone);
    cluster.tick(6);
    assert_eq!(cluster.leader(), second);
}

#[test]
fn a_wrong_report_does_not_depose_a_leader_that_lives() {
    let (mut cluster, living) = Cluster::elected(3);
    let term = cluster.term(living);
    let follower = cluster.follower(living);
    for _ in 0..50 {
        cluster.node(follower).peer_gone(living);
        let mut outcome = cluster.put(follower, "a");
        cluster.tick(1);
        // Wrong reports about other members have no effect.
        cluster.node(living).peer_gone(follower);
        cluster.node(living).peer_gone(living);
        cluster.tick(5);
        assert_eq!(cluster.leader(), living);
        assert_eq!(cluster.term(living), term);
        applied(&mut outcome);
    }
}

#[test]
fn the_last_words_of_a_leader_that_is_gone_delay_its_successor_by_heartbeats_only() {
    let (mut cluster, gone) = Cluster::elected(3);
    cluster.tick(1);
    let mut words = Vec::new();
    for _ in 0..2 {
        cluster.node(gone).tick();
        cluster.work(gone);
        words.extend(cluster.wires.drain(..));
    }
    assert!(!words.is_empty());
    cluster.kill(gone);
    cluster.tick(1);
    for message in words {
        cluster.hear(message);
    }
    assert_eq!(cluster.leader(), gone);
    cluster.tick(8);
    let next = cluster.leader();
    assert!(next != 0 && next != gone, "{next}");
}

#[test]
fn a_restarted_cluster_elects_without_its_timeout_and_a_restarted_member_does_not_campaign() {
    let (mut cluster, _) = Cluster::elected(3);
    drop(cluster.put(1, "a"));
    cluster.tick(3);
    let start = |cluster: &mut Cluster, id: u64| {
        cluster.start(id);
        for peer in cluster.others::<2>(id) {
            cluster.node(id).peer_connected(peer);
        }
    };
    cluster.crash_all();
    for id in 1..=3 {
        start(&mut cluster, id);
    }
    cluster.tick(4);
    let living = cluster.leader();
    assert_ne!(living, 0);
    let term = cluster.term(living);
    let follower = cluster.follower(living);
    cluster.crash(follower);
    start(&mut cluster, follower);
    cluster.tick(20);
    assert_eq!(cluster.leader(), living);
    assert_eq!(cluster.term(living), term);
}

#[test]
fn a_learner_that_hears_nothing_waits_although_raft_keeps_its_leader() {
    let mut cluster = Cluster::new(1);
    let election = cluster.node(1).settings.election_ticks;
    let mut outcome = cluster.change(1, Kind::AddMember, 2);
    cluster.start_empty(2);
    cluster.deliver_until(|cluster| !cluster.members(2).members.is_empty());
    // Member 2 does not become a voter, because its acknowledgements are lost.
    cluster.cut.push((2, 1));
    cluster.settle();
    applied(&mut outcome);
    cluster.tick(3 * election);
    assert_eq!(cluster.node(2).waiting_at_start(), None);
    cluster.cut.push((1, 2));
    cluster.tick(election);
    assert_eq!(cluster.node(2).waiting_at_start(), None);
    cluster.tick(2 * election);
    let waiting = cluster.node(2).waiting_at_start().expect("it waits");
    assert!(waiting.why.starts_with("waiting: "), "{waiting:?}");
    assert!(!waiting.is_long);
    cluster.tick(3 * election);
    assert!(
        cluster
            .node(2)
            .waiting_at_start()
            .is_some_and(|w| w.is_long)
    );
    assert_eq!(cluster.node(2).position().leader, 1);
    assert_eq!(cluster.node(1).waiting_at_start(), None);
}
