//! Removals: the remaining members keep a quorum, and a removed member ends only when it is no longer needed.

use super::*;

#[test]
fn a_removed_follower_learns_of_it_and_leaves() {
    let (mut cluster, leader) = Cluster::elected(3);
    let follower = cluster.follower(leader);
    cluster.remove(leader, follower);
    cluster.tick(40);
    cluster.assert_removed(follower);
    assert_eq!(cluster.members(leader).voters().count(), 2);
}

#[test]
fn a_leader_that_is_removed_hands_over_first_and_leaves() {
    for size in [2, 3] {
        let (mut cluster, leader) = Cluster::elected(size);
        let mut outcome = cluster.change(leader, Kind::RemoveMember, leader);
        cluster.tick(60);
        applied(&mut outcome);
        cluster.assert_removed(leader);
        cluster.crash(leader);
        let next = cluster.elect();
        assert_ne!(next, leader);
        let mut outcome = cluster.put(next, "a");
        cluster.tick(5);
        applied(&mut outcome);
    }
}

#[test]
fn from_two_members_to_one_a_crash_of_the_survivor_strands_nobody() {
    let (mut cluster, leader) = Cluster::elected(2);
    let other = cluster.follower(leader);
    let mut outcome = cluster.change(leader, Kind::RemoveMember, other);
    // The survivor commits and applies the removal, and crashes before anything further reaches its disk.
    while cluster.members(leader).voters().count() == 2 {
        let message = cluster.wires.pop_front().expect("the removal commits");
        cluster.host(leader).slow_disk |= message.to == leader;
        cluster.hear(message);
    }
    assert_eq!(
        outcome.try_recv(),
        Ok(None),
        "the removal was acknowledged before the survivor could do without the other member"
    );
    cluster.crash(leader);
    cluster.host(leader).slow_disk = false;
    cluster.tick(30);
    assert_eq!(
        cluster.exit(other),
        None,
        "the removed member ended before the survivor could do without it"
    );
    cluster.start(leader);
    cluster.tick(100);
    cluster.assert_removed(other);
    cluster.crash(other);
    cluster.restart(leader);
    cluster.tick(50);
    assert!(cluster.node(leader).is_leader());
}

#[test]
fn a_learner_that_knows_of_a_removal_does_not_end_the_removed_member() {
    let (mut cluster, leader) = Cluster::elected(2);
    let other = cluster.follower(leader);
    cluster.slow_snapshots = true;
    let mut outcome = cluster.change(leader, Kind::AddMember, 3);
    cluster.start_empty(3);
    cluster.tick(5);
    applied(&mut outcome);
    assert!(!cluster.sent.is_empty());
    // All members learn that the removal is committed. The only remaining voter then forgets it in a crash.
    cluster.host(leader).slow_disk = true;
    let mut outcome = cluster.change(leader, Kind::RemoveMember, other);
    let knows = |cluster: &Cluster, id| !cluster.members(id).members.contains_key(&other);
    for _ in 0..10 {
        cluster.work(leader);
        let job = cluster.host(leader).jobs.pop_front();
        // The entry of the removal becomes durable, its commit index does not.
        if let Some(job) = job.filter(|_| !knows(&cluster, leader)) {
            cluster.make_durable(leader, job);
        }
        cluster.settle();
    }
    // The learner catches up only now.
    cluster.deliver_snapshots();
    cluster.settle();
    for id in [leader, other, 3] {
        assert!(knows(&cluster, id), "{id} does not know of the removal");
    }
    assert_eq!(
        outcome.try_recv(),
        Ok(None),
        "acknowledged before it was settled"
    );
    cluster.crash(leader);
    cluster.host(leader).slow_disk = false;
    cluster.tick(50);
    assert_eq!(cluster.exit(other), None);
    cluster.start(leader);
    assert!(!knows(&cluster, leader), "nothing was forgotten");
    cluster.tick(100);
    cluster.assert_removed(other);
    cluster.crash(other);
    let mut outcome = cluster.put(leader, "a");
    cluster.tick(50);
    applied(&mut outcome);
}

#[test]
fn an_id_that_was_removed_can_be_added_again_on_an_empty_disk() {
    let (mut cluster, leader) = Cluster::elected(3);
    let follower = cluster.follower(leader);
    let mut outcome = cluster.change(leader, Kind::RemoveMember, follower);
    cluster.tick(30);
    applied(&mut outcome);
    cluster.assert_removed(follower);
    cluster.crash(follower);
    let mut outcome = cluster.change(leader, Kind::AddMember, follower);
    cluster.tick(5);
    applied(&mut outcome);
    // The only snapshot so far is the first one, which still holds the earlier life of the id.
    cluster.start_empty(follower);
    cluster.tick(40);
    assert_eq!(cluster.exit(follower), None);
    assert_eq!(cluster.members(follower).voters().count(), 3);
    let mut read = cluster.read(follower);
    let mut outcome = cluster.put(follower, "a");
    cluster.settle();
    done(&mut read);
    applied(&mut outcome);
    cluster.tick(2);
    cluster.assert_same_maps();
}

#[test]
fn the_last_voter_stays() {
    let mut cluster = Cluster::new(1);
    let mut outcome = cluster.change(1, Kind::RemoveMember, 1);
    cluster.settle();
    let refused = Outcome::Refused(Refusal::LastVoter);
    assert_eq!(outcome.try_recv(), Ok(Some(refused)));
}
