//! Which data directory a member is bound to: replaced directories, older copies, forged names.

use super::*;
use crate::certificates::KeyFingerprint;

#[test]
fn an_empty_member_ends_when_one_that_has_formed_knows_another_directory_at_its_place() {
    let mut cluster = Cluster::new(1);
    cluster.start_empty(2);
    let at = |same_url| Reason::OtherIncarnation {
        bound_index: 9,
        same_url,
    };
    let mut forming = refusal(1, at(true));
    forming.formed = false;
    let mut by_itself = refusal(1, at(true));
    by_itself.dialled = false;
    for harmless in [forming, by_itself, refusal(1, at(false))] {
        cluster.refuse(2, harmless);
        assert_eq!(cluster.exit(2), None);
    }
    // The peer's table may be an old one, so member 2 ends only if no other peer contradicts it.
    let says_so = |cluster: &mut Cluster| {
        cluster.node(2).refused(refusal(1, at(true)));
        cluster.tick(15);
        cluster.node(2).refused(refusal(1, at(true)));
    };
    says_so(&mut cluster);
    cluster.node(2).refused(refusal(3, Reason::NotAMember));
    says_so(&mut cluster);
    assert_eq!(cluster.exit(2), None, "another one knows no such member");
    let mut lets_in = cluster.met(3);
    lets_in.bound_index = 1;
    cluster.node(2).met(lets_in);
    says_so(&mut cluster);
    says_so(&mut cluster);
    assert_eq!(cluster.exit(2), None, "another one lets it in");
    cluster.node(2).unreachable(3);
    says_so(&mut cluster);
    says_so(&mut cluster);
    cluster.settle();
    assert_eq!(cluster.exit(2), Some(Exit::Replaced { by: 1 }));
}

#[test]
fn a_joiner_that_is_not_told_why_it_is_refused_names_the_log_that_says_so() {
    let mut cluster = Cluster::new(1);
    cluster.start_empty(2);
    cluster.node(2).settings.list.clear();
    let why = |cluster: &Cluster| cluster.closed(2).unwrap().1;
    let before = why(&cluster);
    assert!(before.contains("curl -X POST"), "{before}");
    cluster.refuse(2, refusal(1, Reason::Undisclosed));
    let log = "; the log of member 1 says why member 1 refuses this member";
    assert_eq!(why(&cluster), format!("{before}{log}"));
    let mut lets_in = cluster.met(1);
    lets_in.bound_index = 1;
    cluster.node(2).met(lets_in);
    assert_eq!(why(&cluster), before);
}

#[test]
fn a_stale_refusal_of_a_lagging_peer_counts_for_nothing() {
    let (mut cluster, leader) = Cluster::elected(3);
    drop(cluster.put(leader, "a"));
    cluster.tick(5);
    for reason in [
        Reason::Removed { removed_index: 1 },
        Reason::OtherIncarnation {
            bound_index: 1,
            same_url: true,
        },
        Reason::NotAMember,
        Reason::WrongCluster { other_life: true },
    ] {
        cluster.node(1).refused(refusal(2, reason));
        let mut lagging = refusal(2, Reason::Removed { removed_index: 9 });
        lagging.applied = 0;
        cluster.refuse(1, lagging);
        assert_eq!(cluster.exit(1), None, "{reason:?}");
    }
}

#[test]
fn a_forwarded_proposal_in_the_name_of_another_member_is_dropped() {
    let (mut cluster, leader) = Cluster::elected(3);
    let [follower, other] = cluster.others(leader);
    let mut batch = Batch::new();
    batch.commands.push({
        let mut command = Command::new();
        command.key = "forged".to_owned().into();
        command.sequence = 1 << 40;
        command
    });
    for (member, incarnation) in [(other, 10 * other), (leader, 10 * leader), (follower, 7)] {
        (batch.member, batch.incarnation) = (member, incarnation);
        (batch.boot, batch.run) = (1 << 40, 1);
        let entry = pending::normal_entry(&batch);
        cluster.hear(forward(follower, leader, entry));
        cluster.settle();
    }
    for id in 1..=3 {
        cluster.write(id, "a");
        assert!(!cluster.has(id, "forged"));
    }
}

#[test]
fn a_start_on_an_older_copy_ends_when_it_hears_of_the_later_one() {
    for copied in [0, 1] {
        let (mut cluster, leader) = Cluster::elected(3);
        let follower = cluster.follower(leader);
        // 0: the copy is from just before the newest start, so both starts get the same boot number. 1: the copy is one
        // start older.
        cluster.restart(follower);
        cluster.tick(5);
        drop(cluster.put(follower, "a"));
        cluster.tick(5);
        cluster.crash(follower);
        cluster.host(follower).boot -= 1 + copied;
        cluster.start(follower);
        let run = 7;
        cluster.node(follower).settings.run = run;
        cluster.tick(20);
        let exit = cluster.exit(follower);
        assert!(
            matches!(exit, Some(Exit::OlderCopy { known: 2, .. })),
            "{exit:?}"
        );
    }
}

#[test]
fn an_emptied_first_member_ends_when_it_hears_of_its_cluster_and_serves_nothing_before() {
    let mut cluster = Cluster::of(Members::first(&list(3), 17));
    cluster.tick(50);
    assert!(cluster.closed(1).is_some());
    let formed = refusal(2, Reason::WrongCluster { other_life: true });
    let mut forming = formed.clone();
    forming.formed = false;
    cluster.refuse(1, forming);
    assert_eq!(cluster.exit(1), None);
    cluster.refuse(1, formed);
    assert_eq!(cluster.exit(1), Some(Exit::Replaced { by: 2 }));
}

#[test]
fn a_sole_member_serves_nothing_while_another_cluster_knows_it_with_another_directory() {
    let mut cluster = Cluster::new(1);
    let mut evidence = refusal(2, Reason::WrongCluster { other_life: true });
    evidence.dialled = false;
    cluster.refuse(1, evidence.clone());
    assert_eq!(cluster.closed(1).unwrap().0, ClosedKind::OtherLife);
    cluster.tick(40);
    cluster.node(1).refused(evidence);
    cluster.tick(40);
    assert!(cluster.closed(1).is_some(), "it was heard again");
    cluster.tick(20);
    assert_eq!(cluster.closed(1), None);
    assert_eq!(cluster.exit(1), None);
}

#[test]
fn a_sole_member_that_is_awaited_elsewhere_ends_only_if_no_client_has_written_to_it() {
    let awaited = || {
        let mut awaited = refusal(2, Reason::Awaited);
        awaited.dialled = false;
        awaited
    };
    let mut cluster = Cluster::new(1);
    let mut forming = awaited();
    forming.formed = false;
    cluster.refuse(1, forming);
    assert_eq!(cluster.exit(1), None);
    cluster.refuse(1, awaited());
    assert_eq!(cluster.exit(1), Some(Exit::NotJoined { by: 2 }));
    // After the decision the member takes no write that its end would lose.
    let mut outcome = cluster.put(1, "late");
    cluster.settle();
    let stopping = Outcome::NotProposed(NotProposed::Stopping);
    assert_eq!(outcome.try_recv(), Ok(Some(stopping)));

    let mut used = Cluster::new(1);
    used.write(1, "a");
    used.refuse(1, awaited());
    used.restart(1);
    used.tick(5);
    used.refuse(1, awaited());
    assert_eq!(used.exit(1), None);
    used.write(1, "b");
    // A change of members counts as a write.
    let mut changed = Cluster::new(1);
    drop(changed.propose(1, change(Kind::RemoveMember, 7)));
    changed.tick(5);
    changed.refuse(1, awaited());
    assert_eq!(changed.exit(1), None);
    // A write that is under way decides.
    let mut busy = Cluster::new(1);
    drop(busy.put(1, "a"));
    busy.node(1).refused(awaited());
    busy.settle();
    assert_eq!(busy.exit(1), None);
    assert!(busy.has(1, "a"));
}

#[test]
fn what_a_sole_member_writes_about_itself_is_no_write_of_a_client() {
    for restarted in [false, true] {
        let mut cluster = Cluster::new(1);
        cluster.tick(5);
        let key = KeyFingerprint([7; 32]);
        cluster.node(1).set_own_key(key);
        cluster.tick(5);
        let row = &cluster.members(1).members[&1];
        assert_eq!(row.description.key_fingerprint, key.0);
        if restarted {
            cluster.restart(1);
            cluster.node(1).set_own_key(key);
            cluster.tick(20);
        }
        let mut awaited = refusal(2, Reason::Awaited);
        awaited.dialled = false;
        cluster.refuse(1, awaited);
        assert_eq!(cluster.exit(1), Some(Exit::NotJoined { by: 2 }));
    }
}

#[test]
fn an_empty_member_has_no_power() {
    let mut cluster = Cluster::new(1);
    cluster.start_empty(2);
    for kind in [
        MessageType::MsgRequestVote,
        MessageType::MsgRequestPreVote,
        MessageType::MsgTimeoutNow,
        MessageType::MsgReadIndex,
    ] {
        cluster.hear(message(kind, 1, 2, 7));
        assert!(cluster.wires.is_empty(), "{kind:?}: {:?}", cluster.wires);
    }
    let mut append = message(MessageType::MsgAppend, 1, 2, 7);
    append.index = 12;
    cluster.hear(append);
    let answer = cluster
        .wires
        .pop_front()
        .expect("the leader learns that member 2 is running");
    assert!(answer.reject && answer.index == 12);
    assert_eq!(cluster.term(2), 0);
    assert_eq!(cluster.hosts[&2].disk.hard_state, HardState::default());
    // A state that binds the id to another directory changes nothing either.
    let members = Members::of([(1, url(1), 10), (2, url(2), 99)]);
    let mut state = ReplicatedState::new();
    members.write_to(&mut state);
    let mut snapshot = snapshot(1, 2, 7, 5, &state);
    let metadata = snapshot.mut_snapshot().mut_metadata();
    metadata.set_conf_state(members.conf_state());
    cluster.hear(snapshot);
    assert!(cluster.node(2).is_empty());
}

#[test]
fn an_id_that_was_added_by_hand_is_bound_to_the_directory_that_answers_at_its_place() {
    let mut cluster = Cluster::new(1);
    let mut added = cluster.propose(1, change(Kind::AddMember, 2));
    cluster.settle();
    applied(&mut added);
    cluster.tick(20);
    let bound = |cluster: &Cluster| cluster.members(1).members[&2].incarnation;
    assert_eq!(bound(&cluster), 0);
    let mut elsewhere = cluster.met(2);
    elsewhere.url = url(9);
    let mut not_empty = cluster.met(2);
    not_empty.bound_index = 1;
    let mut by_itself = cluster.met(2);
    by_itself.dialled = false;
    for wrong in [elsewhere, not_empty, by_itself] {
        cluster.node(1).met(wrong);
        cluster.tick(3);
        assert_eq!(bound(&cluster), 0);
    }
    cluster.start_empty(2);
    cluster.dial(1, 2);
    cluster.tick(10);
    assert_eq!(bound(&cluster), 20);
    assert!(cluster.members(1).is_settled_voter(2));
    cluster.write(2, "a");
}
