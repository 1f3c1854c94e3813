//! Elections: after a leader is gone, after a restart, and those that must not happen.

use super::*;

#[test]
fn a_sole_voter_says_nothing_in_a_term_that_its_disk_does_not_know() {
    let mut cluster = Cluster::new(1);
    let mut outcome = cluster.change(1, Kind::AddMember, 2);
    cluster.add_host(2, Recovered::default());
    cluster.deliver_until(|cluster| !cluster.node(2).members().members.is_empty());
    // It does not become a voter, for nobody hears that it has caught up.
    cluster.cut.push((2, 1));
    cluster.settle();
    applied(&mut outcome);
    assert!(cluster.node(1).is_alone(), "2 is no learner any more");
    let before = cluster.node(1).status().term;
    cluster.crash(1);
    cluster.hosts.get_mut(&1).unwrap().slow_disk = true;
    cluster.start(1);
    assert!(cluster.node(1).is_leader());
    let mut outcome = cluster.put(1, "a");
    cluster.tick(5);
    assert_eq!(cluster.hosts[&1].disk.hard_state.term, before);
    // A crash here would let it lead in the same term again, with another entry in the place of this one.
    assert_eq!(cluster.node(2).status().term, before);
    cluster.hosts.get_mut(&1).unwrap().slow_disk = false;
    cluster.tick(5);
    applied(&mut outcome);
    assert_eq!(cluster.node(2).status().term, before + 1);
}

/// Every survivor's host learns that this process is gone.
fn kill(cluster: &mut Cluster, id: u64) {
    cluster.crash(id);
    for other in 1..=cluster.hosts.len() as u64 {
        if cluster.hosts[&other].node.is_some() {
            cluster.node(other).peer_gone(id);
        }
    }
}

#[test]
fn survivors_of_a_leader_that_is_gone_elect_one_of_them_within_ticks_and_one_term() {
    for (size, killed) in [(3, 1), (3, 2), (3, 3), (5, 1), (5, 4)] {
        let mut cluster = Cluster::new(size);
        cluster.elect();
        while leader(&mut cluster) != killed {
            let current = cluster.elect();
            cluster.node(current).raw.transfer_leader(killed);
            cluster.tick(1);
        }
        let term = cluster.node(killed).raw.raft.term;
        // The highest id does not win, so it has to ask.
        let follower = (1..=size).rfind(|id| *id != killed).unwrap();
        // They are lost on their way to a leader that is no more.
        let mut outcome = cluster.put(follower, "a");
        let mut read = cluster.read(follower);
        kill(&mut cluster, killed);
        cluster.tick(3);
        let next = leader(&mut cluster);
        assert!(next != 0 && next != killed, "no leader after 3 ticks");
        assert_eq!(cluster.node(next).raw.raft.term, term + 1);
        applied(&mut outcome);
        assert_eq!(read.try_recv(), Ok(Some(Ok(()))));
    }
}

#[test]
fn survivors_whose_votes_cross_are_kept_apart_by_their_turns() {
    let mut cluster = Cluster::new(3);
    let gone = cluster.elect();
    kill(&mut cluster, gone);
    // What is said takes almost a heartbeat to arrive.
    let mut late = VecDeque::new();
    for _ in 0..8 {
        for id in (1..=3).filter(|id| *id != gone) {
            cluster.node(id).tick();
            cluster.work(id);
        }
        let said = std::mem::take(&mut cluster.wires);
        cluster.wires = std::mem::replace(&mut late, said);
        while let Some(message) = cluster.wires.pop_front() {
            let to = message.to;
            if to != gone {
                cluster.node(to).step(of_member(message));
                let answers = cluster.wires.len();
                cluster.work(to);
                late.extend(cluster.wires.drain(answers..));
            }
        }
    }
    assert_ne!(leader(&mut cluster), 0, "no leader after 8 ticks");
}

#[test]
fn a_survivor_that_lags_leaves_the_next_turn_to_the_other() {
    let mut cluster = Cluster::new(3);
    let gone = cluster.elect();
    let [first, second]: [u64; 2] = (1..=3)
        .filter(|id| *id != gone)
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    cluster.cut.push((gone, first));
    let mut outcome = cluster.put(gone, "a");
    cluster.settle();
    applied(&mut outcome);
    kill(&mut cluster, gone);
    cluster.tick(6);
    assert_eq!(leader(&mut cluster), second);
}

#[test]
fn a_wrong_report_does_not_depose_a_leader_that_lives() {
    let mut cluster = Cluster::new(3);
    let living = cluster.elect();
    let term = cluster.node(living).raw.raft.term;
    let follower = cluster.follower(living);
    for _ in 0..50 {
        cluster.node(follower).peer_gone(living);
        let mut outcome = cluster.put(follower, "a");
        cluster.tick(1);
        // And nobody takes the word for more than it is.
        cluster.node(living).peer_gone(follower);
        cluster.node(living).peer_gone(living);
        cluster.tick(5);
        assert_eq!(leader(&mut cluster), living);
        assert_eq!(cluster.node(living).raw.raft.term, term);
        applied(&mut outcome);
    }
}

#[test]
fn the_last_words_of_a_leader_that_is_gone_delay_its_successor_by_heartbeats_only() {
    let mut cluster = Cluster::new(3);
    let gone = cluster.elect();
    cluster.tick(1);
    let mut words = Vec::new();
    for _ in 0..2 {
        cluster.node(gone).tick();
        cluster.work(gone);
        words.extend(cluster.wires.drain(..));
    }
    assert!(!words.is_empty());
    kill(&mut cluster, gone);
    cluster.tick(1);
    for message in words {
        let to = message.to;
        cluster.node(to).step(of_member(message));
        cluster.work(to);
    }
    assert_eq!(leader(&mut cluster), gone);
    cluster.tick(8);
    let next = leader(&mut cluster);
    assert!(next != 0 && next != gone, "{next}");
}

#[test]
fn a_cluster_that_was_restarted_elects_without_its_timeout_and_a_member_that_was_keeps_still() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    drop(cluster.put(1, "a"));
    cluster.tick(3);
    let connect = |cluster: &mut Cluster, id: u64| {
        for peer in (1..=3).filter(|peer| *peer != id) {
            cluster.node(id).peer_connected(peer);
        }
    };
    for id in 1..=3 {
        cluster.crash(id);
    }
    for id in 1..=3 {
        cluster.start(id);
        connect(&mut cluster, id);
    }
    cluster.tick(4);
    let living = leader(&mut cluster);
    assert_ne!(living, 0);
    let term = cluster.node(living).raw.raft.term;
    let follower = cluster.follower(living);
    cluster.crash(follower);
    cluster.start(follower);
    connect(&mut cluster, follower);
    cluster.tick(20);
    assert_eq!(leader(&mut cluster), living);
    assert_eq!(cluster.node(living).raw.raft.term, term);
}
