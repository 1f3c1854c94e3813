//! Messages that contradict what a member knows: lost tails, two leaders in one term, logs that differ.

use super::*;

#[test]
fn a_commit_beyond_the_log_ends_the_node_when_its_leader_says_so_twice() {
    let mut cluster = Cluster::new(3);
    let once = |cluster: &mut Cluster, received: Received| {
        cluster.node(1).step(received);
        cluster.work(1);
        cluster.hosts[&1].exit.clone()
    };
    // Nobody that can't be judged ends it, however often.
    for _ in 0..5 {
        let message = heartbeat(2, 1, 5, 99);
        let bound = None;
        assert_eq!(once(&mut cluster, Received { message, bound }), None);
    }
    // A first word of whoever leads this term, and then two more.
    for expected in [None, None] {
        let said = of_member(heartbeat(2, 1, 5, 99));
        assert_eq!(once(&mut cluster, said), expected);
    }
    let exit = Exit::LostTail {
        by: 2,
        committed: 99,
        last: 1,
    };
    assert_eq!(
        once(&mut cluster, of_member(heartbeat(2, 1, 5, 99))),
        Some(exit)
    );
}

#[test]
fn two_leaders_in_one_term_end_the_node_that_hears_both() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let term = cluster.node(leader).raw.raft.term;
    let [hears, other]: [u64; 2] = (1..=3)
        .filter(|id| *id != leader)
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    let sender = 10 * other;
    for (bound, ends) in [
        (None, false),
        (Some(sender + 1), false),
        (Some(sender), true),
    ] {
        let message = heartbeat(other, hears, term, 1);
        cluster.node(hears).step(Received { message, bound });
        cluster.work(hears);
        let exit = cluster.hosts[&hears].exit.as_ref();
        let told = matches!(exit, Some(Exit::TwoLeaders { known, .. }) if *known == leader);
        assert_eq!(told, ends, "{exit:?}");
    }
}

#[test]
fn a_parted_log_ends_the_member_that_has_proof_of_it() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    drop(cluster.put(leader, "a"));
    cluster.tick(5);
    let term = cluster.node(leader).raw.raft.term;
    let last = cluster.node(leader).raw.raft.raft_log.last_index();
    let [follower, other]: [u64; 2] = (1..=3)
        .filter(|id| *id != leader)
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    // The leader: a follower has more of this term than there is.
    let mut answer = Message::default();
    answer.set_msg_type(MessageType::MsgAppendResponse);
    (answer.from, answer.to, answer.term) = (follower, leader, term);
    answer.index = last + 18;
    cluster.node(leader).step(of_member(answer));
    cluster.work(leader);
    let (by, index) = (follower, last + 18);
    let exit = Some(Exit::PartedLog { by, index });
    assert_eq!(cluster.hosts[&leader].exit, exit);
    // A follower: another leader has another entry where this one's is committed.
    let mut append = Message::default();
    append.set_msg_type(MessageType::MsgAppend);
    (append.from, append.to, append.term) = (other, follower, term + 5);
    (append.index, append.log_term) = (1, 1);
    let mut entry = Entry::default();
    (entry.index, entry.term) = (2, term + 5);
    append.set_entries(vec![entry].into());
    cluster.node(follower).step(of_member(append));
    cluster.work(follower);
    let (by, index) = (other, 2);
    let exit = Some(Exit::PartedLog { by, index });
    assert_eq!(cluster.hosts[&follower].exit, exit);
}

#[test]
fn what_no_member_would_send_never_reaches_raft() {
    let mut cluster = Cluster::new(3);
    let before = cluster.node(1).status();
    let mut entry = Entry::default();
    (entry.index, entry.term) = (7, 1);
    for change in [
        |m: &mut Message, _: &Entry| m.term = u64::MAX - 1,
        |m: &mut Message, _: &Entry| m.commit = 1 << 62,
        |m: &mut Message, _: &Entry| m.index = u64::MAX,
        |m: &mut Message, _: &Entry| m.log_term = u64::MAX,
        |m: &mut Message, entry: &Entry| m.set_entries(vec![entry.clone()].into()),
    ] {
        let mut message = heartbeat(2, 1, 2, 0);
        message.set_msg_type(MessageType::MsgAppend);
        change(&mut message, &entry);
        cluster.node(1).step(of_member(message));
        cluster.work(1);
        assert_eq!(cluster.node(1).status(), before);
    }
    // From somebody who can't be judged, no term far above the own one either.
    let message = heartbeat(2, 1, 1 << 33, 0);
    let bound = None;
    cluster.node(1).step(Received { message, bound });
    assert_eq!(cluster.node(1).status(), before);
}
