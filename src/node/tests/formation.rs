//! A cluster that forms from its list of first members.

use super::*;

/// Member 1, which forms the cluster, and the other listed members with empty disks.
fn unformed(size: u64) -> Cluster {
    let mut cluster = Cluster::of(Members::first(&list(size), 10));
    for id in 2..=size {
        cluster.start_empty(id);
    }
    cluster.settle();
    cluster
}

#[test]
fn a_cluster_forms_within_ticks_once_all_listed_have_answered() {
    for size in [2, 3, 5] {
        let mut cluster = unformed(size);
        for id in 2..=size {
            cluster.tick(20);
            assert_eq!(cluster.members(1).members.len(), 1);
            cluster.dial(1, id);
        }
        cluster.settle();
        // No step of the formation waits for a tick.
        for id in 1..=size {
            assert_eq!(cluster.closed(id), None, "member {id} of {size}");
            assert_eq!(cluster.members(id).voters().count(), size as usize);
            cluster.write(id, "a");
        }
    }
}

#[test]
fn a_member_says_whom_a_cluster_that_forms_waits_for() {
    let mut cluster = unformed(3);
    let first = cluster.closed(1).unwrap();
    assert_eq!(first.0, ClosedKind::Forming);
    assert_eq!(
        first.1,
        "forming: 1 of 3 members are in; start member 2 (http://host:2); start member 3 (http://host:3)"
    );
    assert_eq!(
        cluster.closed(2).unwrap().1,
        "forming: member 2 waits for member 1 (http://host:1), which starts the cluster and adds it"
    );
    let assert_told = |cluster: &Cluster, words: &str| {
        let told = cluster.closed(1).unwrap().1;
        assert!(told.contains(words), "{told}");
    };
    cluster.dial(1, 2);
    let added = "member 2 (http://host:2) is being added; start member 3";
    assert_told(&cluster, added);
    let stranger = refusal(3, Reason::WrongCluster { other_life: false });
    cluster.node(1).refused(stranger);
    let elsewhere = "member 3 (http://host:3) belongs to another cluster";
    assert_told(&cluster, elsewhere);
}

/// Restarts a member with another list.
fn start_with_list(cluster: &mut Cluster, id: u64, list: BTreeMap<u64, PeerUrl>) {
    cluster.list = list;
    cluster.restart(id);
    cluster.tick(5);
}

#[test]
fn a_first_that_has_added_nobody_forms_by_the_list_of_its_newest_start() {
    let mut cluster = unformed(3);
    cluster.dial(1, 2);
    let mut right = list(3);
    right.insert(3, url(9));
    start_with_list(&mut cluster, 1, right.clone());
    assert_eq!(cluster.members(1).forming, right);
    assert_eq!(cluster.members(1).members.len(), 1);
    // The corrected list is in the log, so a start without a list keeps it.
    start_with_list(&mut cluster, 1, BTreeMap::new());
    assert_eq!(cluster.members(1).forming, right);
    // A process at the mistaken place is not added.
    cluster.dial(1, 2);
    cluster.dial(1, 3);
    cluster.tick(20);
    assert_eq!(cluster.members(1).members.len(), 1);
    let mut there = cluster.met(3);
    there.url = url(9);
    cluster.node(1).met(there);
    cluster.settle();
    assert_eq!(cluster.closed(1), None);
    assert_eq!(cluster.members(1).members[&3].url, url(9));
}

#[test]
fn a_first_that_was_to_be_one_of_several_may_become_a_cluster_of_one() {
    let mut cluster = unformed(3);
    start_with_list(&mut cluster, 1, list(1));
    assert_eq!(cluster.closed(1), None);
    cluster.write(1, "a");
}

#[test]
fn a_list_stays_once_a_member_was_added_by_it() {
    let mut cluster = unformed(3);
    cluster.dial(1, 2);
    cluster.cut = vec![(1, 3)];
    cluster.dial(1, 3);
    cluster.settle();
    assert!(cluster.members(1).members.len() > 1);
    let mut other = list(3);
    other.insert(3, url(9));
    start_with_list(&mut cluster, 1, other);
    assert_ne!(cluster.members(1).forming.get(&3), Some(&url(9)));
}

/// If it were let in as a voter, it would start without the votes that it has given.
#[test]
fn an_empty_member_is_let_in_as_a_learner_only() {
    let mut cluster = Cluster::new(1);
    cluster.start_empty(2);
    let mut members = Members::of([(1, url(1), 10), (2, url(2), 20)]);
    for learner in [false, true] {
        members.members.get_mut(&2).unwrap().learner = learner;
        let mut snapshot = heartbeat(1, 2, 7, 0);
        snapshot.set_msg_type(MessageType::MsgSnapshot);
        let mut state = ReplicatedState::new();
        members.write_to(&mut state);
        let content = snapshot.mut_snapshot();
        content.data = protobuf::Message::write_to_bytes(&state).unwrap().into();
        content.mut_metadata().index = 5;
        content.mut_metadata().term = 7;
        content.mut_metadata().set_conf_state(members.conf_state());
        cluster.node(2).step(Received {
            bound: Some(10 * snapshot.from),
            message: snapshot,
        });
        let is_taken = cluster.node(2).raw.raft.raft_log.committed == 5;
        assert_eq!(is_taken, learner);
    }
}

#[test]
fn a_voter_that_is_empty_ends_when_one_that_has_formed_says_so() {
    let mut cluster = Cluster::new(1);
    cluster.start_empty(2);
    let says = |to: &mut Cluster, id, formed| {
        let mut lost = refusal(1, Reason::StateLost);
        lost.formed = formed;
        to.node(id).refused(lost);
        to.settle();
    };
    says(&mut cluster, 2, false);
    assert_eq!(cluster.hosts[&2].exit, None);
    // A member that was let in meanwhile goes on.
    says(&mut cluster, 1, true);
    assert_eq!(cluster.hosts[&1].exit, None);
    says(&mut cluster, 2, true);
    assert_eq!(cluster.hosts[&2].exit, Some(Exit::StateLost { by: 1 }));
}
