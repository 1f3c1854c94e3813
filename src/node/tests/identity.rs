//! Which data directory a member is bound to: replaced directories, older copies, forged names.

use super::*;

#[test]
fn an_empty_member_ends_when_one_that_has_formed_knows_another_directory_at_its_place() {
    let mut cluster = Cluster::new(1);
    cluster.add_host(2, Recovered::default());
    let at = |same_url| Reason::OtherIncarnation {
        bound_index: 9,
        same_url,
    };
    let mut forming = refusal(1, at(true));
    forming.formed = false;
    let mut by_itself = refusal(1, at(true));
    by_itself.dialled = false;
    for harmless in [forming, by_itself, refusal(1, at(false))] {
        cluster.node(2).refused(harmless);
        cluster.settle();
        assert_eq!(cluster.hosts[&2].exit, None);
    }
    // The table of whoever says so may be an old one: it goes on only while nobody knows better.
    let says_so = |cluster: &mut Cluster| {
        cluster.node(2).refused(refusal(1, at(true)));
        cluster.tick(15);
        cluster.node(2).refused(refusal(1, at(true)));
    };
    says_so(&mut cluster);
    cluster.node(2).refused(refusal(3, Reason::NotAMember));
    says_so(&mut cluster);
    assert_eq!(
        cluster.hosts[&2].exit, None,
        "another one knows no such member"
    );
    cluster.node(2).met(Met {
        id: 3,
        incarnation: 30,
        empty: false,
        url: url(3),
        dialled: true,
        version: 0,
    });
    says_so(&mut cluster);
    says_so(&mut cluster);
    assert_eq!(cluster.hosts[&2].exit, None, "another one lets it in");
    cluster.node(2).unreachable(3);
    says_so(&mut cluster);
    says_so(&mut cluster);
    cluster.settle();
    assert_eq!(cluster.hosts[&2].exit, Some(Exit::Replaced { by: 1 }));
}

#[test]
fn a_stale_refusal_of_a_lagging_peer_counts_for_nothing() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
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
        cluster.node(1).refused(lagging);
        cluster.settle();
        assert_eq!(cluster.hosts[&1].exit, None, "{reason:?}");
    }
}

#[test]
fn a_forwarded_proposal_in_the_name_of_another_member_is_dropped() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = cluster.follower(leader);
    let other = 6 - leader - follower;
    let mut batch = crate::command::Batch::new();
    batch.commands.push({
        let mut command = Command::new();
        command.key = "forged".to_owned().into();
        command.sequence = 1 << 40;
        command
    });
    for (member, incarnation) in [(other, 10 * other), (leader, 10 * leader), (follower, 7)] {
        (batch.member, batch.incarnation) = (member, incarnation);
        (batch.boot, batch.run) = (1 << 40, 1);
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        (message.from, message.to) = (follower, leader);
        message.set_entries(vec![pending::normal_entry(&batch)].into());
        cluster.node(leader).step(of_member(message));
        cluster.settle();
    }
    for id in 1..=3 {
        let mut outcome = cluster.put(id, "a");
        cluster.settle();
        applied(&mut outcome);
        assert!(!cluster.hosts[&id].map.contains_key(&b"forged"[..]));
    }
}

#[test]
fn a_start_on_an_older_copy_ends_when_it_hears_of_the_later_one() {
    for copied in [0, 1] {
        let mut cluster = Cluster::new(3);
        let leader = cluster.elect();
        let follower = cluster.follower(leader);
        cluster.crash(follower);
        // The copy is of one start ago, or of the very directory that has been started since.
        cluster.start(follower);
        cluster.tick(5);
        drop(cluster.put(follower, "a"));
        cluster.tick(5);
        cluster.crash(follower);
        let host = cluster.hosts.get_mut(&follower).unwrap();
        host.boot -= 1 + copied;
        cluster.start(follower);
        let run = 7;
        cluster.node(follower).settings.run = run;
        cluster.tick(20);
        let exit = cluster.hosts[&follower].exit.clone();
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
    assert!(closed(&mut cluster, 1).is_some());
    let mut forming = refusal(2, Reason::WrongCluster { other_life: true });
    forming.formed = false;
    cluster.node(1).refused(forming);
    cluster.settle();
    assert_eq!(cluster.hosts[&1].exit, None);
    let formed = refusal(2, Reason::WrongCluster { other_life: true });
    cluster.node(1).refused(formed);
    cluster.settle();
    assert_eq!(cluster.hosts[&1].exit, Some(Exit::Replaced { by: 2 }));
}

#[test]
fn a_sole_member_serves_nothing_while_another_cluster_knows_it_with_another_directory() {
    let mut cluster = Cluster::new(1);
    let mut evidence = refusal(2, Reason::WrongCluster { other_life: true });
    evidence.dialled = false;
    cluster.node(1).refused(evidence.clone());
    cluster.settle();
    assert_eq!(closed(&mut cluster, 1).unwrap().0, ClosedKind::OtherLife);
    cluster.tick(40);
    cluster.node(1).refused(evidence);
    cluster.tick(40);
    assert!(closed(&mut cluster, 1).is_some(), "it was heard again");
    cluster.tick(20);
    assert_eq!(closed(&mut cluster, 1), None);
    assert_eq!(cluster.hosts[&1].exit, None);
}

#[test]
fn an_empty_member_has_no_power() {
    let mut cluster = Cluster::new(1);
    cluster.add_host(2, Recovered::default());
    for kind in [
        MessageType::MsgRequestVote,
        MessageType::MsgRequestPreVote,
        MessageType::MsgTimeoutNow,
        MessageType::MsgReadIndex,
    ] {
        let mut message = heartbeat(1, 2, 7, 0);
        message.set_msg_type(kind);
        cluster.node(2).step(of_member(message));
        cluster.work(2);
        assert!(cluster.wires.is_empty(), "{kind:?}: {:?}", cluster.wires);
    }
    let mut append = heartbeat(1, 2, 7, 0);
    append.set_msg_type(MessageType::MsgAppend);
    append.index = 12;
    cluster.node(2).step(of_member(append));
    cluster.work(2);
    let answer = cluster
        .wires
        .pop_front()
        .expect("whoever leads learns that it is there");
    assert!(answer.reject && answer.index == 12);
    assert_eq!(cluster.node(2).raw.raft.term, 0);
    assert_eq!(cluster.hosts[&2].disk.hard_state, HardState::default());
    // Another directory's state changes nothing either.
    let members = Members::of([(1, url(1), 10), (2, url(2), 99)]);
    let mut snapshot = heartbeat(1, 2, 7, 0);
    snapshot.set_msg_type(MessageType::MsgSnapshot);
    let mut state = ReplicatedState::new();
    members.write_to(&mut state);
    let content = snapshot.mut_snapshot();
    content.data = protobuf::Message::write_to_bytes(&state).unwrap().into();
    content.mut_metadata().index = 5;
    content.mut_metadata().term = 7;
    content.mut_metadata().set_conf_state(members.conf_state());
    cluster.node(2).step(of_member(snapshot));
    cluster.work(2);
    assert!(cluster.node(2).is_empty());
}

#[test]
fn an_id_that_was_added_by_hand_is_bound_to_whoever_answers_at_its_place() {
    let mut cluster = Cluster::new(1);
    let mut add = Command::new();
    add.kind = Kind::AddMember;
    add.member_id = 2;
    add.member_url = url(2).to_string();
    let mut added = cluster.propose(1, add);
    cluster.settle();
    applied(&mut added);
    cluster.tick(20);
    assert_eq!(cluster.node(1).members().members[&2].incarnation, 0);
    let mut elsewhere = met(&cluster, 2, true);
    elsewhere.url = url(9);
    let not_empty = met(&cluster, 2, false);
    let mut by_itself = met(&cluster, 2, true);
    by_itself.dialled = false;
    for wrong in [elsewhere, not_empty, by_itself] {
        cluster.node(1).met(wrong);
        cluster.tick(3);
        assert_eq!(cluster.node(1).members().members[&2].incarnation, 0);
    }
    cluster.add_host(2, Recovered::default());
    answers(&mut cluster, 1, 2);
    cluster.tick(10);
    assert_eq!(cluster.node(1).members().members[&2].incarnation, 20);
    assert!(cluster.node(1).members().is_settled_voter(2));
    let mut outcome = cluster.put(2, "a");
    cluster.settle();
    applied(&mut outcome);
}
