//! Messages that contradict what a member knows: lost tails, two leaders in one term, logs that differ.

use super::*;

#[test]
fn a_commit_beyond_the_log_ends_the_node_when_its_leader_says_so_twice() {
    let mut cluster = Cluster::new(3);
    let said = heartbeat(2, 1, 5, 99);
    // A sender that can't be judged does not end the node, however often it sends this.
    for _ in 0..5 {
        cluster.hear_as(said.clone(), None);
        assert_eq!(cluster.exit(1), None);
    }
    // The first message makes the sender the leader of this term. Only then does a repeated one count.
    for _ in 0..2 {
        cluster.hear(said.clone());
        assert_eq!(cluster.exit(1), None);
    }
    cluster.hear(said);
    let exit = Exit::LostTail {
        by: 2,
        committed: 99,
        last: 1,
    };
    assert_eq!(cluster.exit(1), Some(exit));
}

#[test]
fn an_older_copy_is_led_on_by_a_leader_that_it_can_not_judge_yet() {
    let (mut cluster, leader) = Cluster::elected(3);
    let [old, again] = cluster.others(leader);
    let copy = cluster.hosts[&old].copy();
    cluster.remove(leader, again);
    cluster.crash(again);
    cluster.start_empty(again);
    cluster.add(leader, again);
    cluster.tick_until(|cluster| cluster.members(leader).is_settled_voter(again));
    done(&mut cluster.hand_over(leader, again));
    cluster.write(again, "a");
    cluster.crash(old);
    cluster.hosts.insert(old, copy);
    cluster.start(old);
    // The leader counts on entries that the copy lacks, and so would send nothing that the copy can take.
    cluster.tick_until(|cluster| cluster.has(old, "a"));
    assert!(cluster.node(again).is_leader());
    assert_eq!(cluster.exit(old), None);
    cluster.write(again, "b");
    assert!(cluster.has(old, "b"));
}

#[test]
fn entries_are_sent_again_to_a_follower_that_lacks_them_for_an_election_timeout() {
    let (mut cluster, leader) = Cluster::elected(3);
    drop(cluster.put(leader, "a"));
    cluster.tick(5);
    let follower = cluster.follower(leader);
    let (term, last) = (cluster.term(leader), cluster.last(leader));
    let matched = |cluster: &mut Cluster| {
        let raft = &cluster.node(leader).raw.raft;
        raft.prs().get(follower).unwrap().matched
    };
    let mut refusal = message(MessageType::MsgAppendResponse, follower, leader, term);
    (refusal.reject, refusal.index, refusal.reject_hint) = (true, last, last - 1);
    // A follower that can judge its leader ends meanwhile.
    let received = |message: &Message| Received {
        message: message.clone(),
        bound: Some(10 * follower),
    };
    for _ in 0..3 {
        cluster.node(leader).step(received(&refusal));
        assert_eq!(matched(&mut cluster), last, "a late refusal");
    }
    let ticks = cluster.node(leader).settings.election_ticks;
    cluster.tick(ticks);
    cluster.node(leader).step(received(&refusal));
    assert_eq!(matched(&mut cluster), 0);
}

#[test]
fn two_leaders_in_one_term_end_the_node_that_hears_both() {
    let (mut cluster, leader) = Cluster::elected(3);
    let term = cluster.term(leader);
    let [hears, other] = cluster.others(leader);
    let sender = 10 * other;
    for (bound, ends) in [
        (None, false),
        (Some(sender + 1), false),
        (Some(sender), true),
    ] {
        cluster.hear_as(heartbeat(other, hears, term, 1), bound);
        let exit = cluster.exit(hears);
        let told = matches!(exit, Some(Exit::TwoLeaders { known, .. }) if known == leader);
        assert_eq!(told, ends, "{exit:?}");
    }
}

#[test]
fn a_parted_log_ends_the_member_that_has_proof_of_it() {
    let (mut cluster, leader) = Cluster::elected(3);
    drop(cluster.put(leader, "a"));
    cluster.tick(5);
    let (term, last) = (cluster.term(leader), cluster.last(leader));
    let [follower, other] = cluster.others(leader);
    // On the leader: a follower has more entries of this term than the leader.
    let mut answer = message(MessageType::MsgAppendResponse, follower, leader, term);
    answer.index = last + 18;
    cluster.hear(answer);
    let (by, index) = (follower, last + 18);
    assert_eq!(cluster.exit(leader), Some(Exit::PartedLog { by, index }));
    // On a follower: another leader has a different entry at an index that this follower knows to be committed.
    let mut append = message(MessageType::MsgAppend, other, follower, term + 5);
    (append.index, append.log_term) = (1, 1);
    let mut entry = Entry::default();
    (entry.index, entry.term) = (2, term + 5);
    append.set_entries(vec![entry].into());
    cluster.hear(append);
    let (by, index) = (other, 2);
    assert_eq!(cluster.exit(follower), Some(Exit::PartedLog { by, index }));
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
        let mut append = message(MessageType::MsgAppend, 2, 1, 2);
        change(&mut append, &entry);
        cluster.hear(append);
        assert_eq!(cluster.node(1).status(), before);
    }
    // A sender that can't be judged may not send a term far above the own one, either.
    cluster.hear_as(heartbeat(2, 1, 1 << 33, 0), None);
    assert_eq!(cluster.node(1).status(), before);
}
