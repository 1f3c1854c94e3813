//! A removal revokes the key of the removed member, and a new key the former one, on whichever member the client asks for it. If it can't revoke the
//! key, the log says so.

use super::*;
use crate::certificates::KeyFingerprint;
use crate::command::version::{REVOKES, VERSION};
use raft::Storage as _;

/// The key of this member. A member may have more than one in its life.
fn key(id: u64, number: u8) -> KeyFingerprint {
    KeyFingerprint([16 * number + id as u8; 32])
}

fn met_with(id: u64, version: u64, key: Option<KeyFingerprint>) -> Met {
    Met {
        id,
        incarnation: 10 * id,
        bound_index: 1,
        url: url(id),
        dialled: true,
        version,
        key,
    }
}

/// All members meet each other, each with its first key.
fn meet(cluster: &mut Cluster) {
    for by in 1..=3 {
        for id in (1..=3).filter(|id| *id != by) {
            let met = met_with(id, VERSION, Some(key(id, 1)));
            cluster.node(by).met(met);
        }
        cluster.node(by).set_own_key(key(by, 1));
    }
    cluster.tick(5);
}

fn elected_with_keys() -> (Cluster, u64) {
    let (mut cluster, leader) = Cluster::elected(3);
    meet(&mut cluster);
    (cluster, leader)
}

fn stored_key(cluster: &Cluster, by: u64, of: u64) -> Vec<u8> {
    let row = &cluster.members(by).members[&of];
    row.description.key_fingerprint.clone()
}

fn pass_leadership(cluster: &mut Cluster, from: u64, to: u64) {
    cluster.node(from).raw.transfer_leader(to);
    cluster.work(from);
    cluster.deliver_until(|cluster| cluster.node(to).is_leader());
}

#[test]
fn the_leader_writes_down_with_which_key_each_member_has_proved_itself() {
    let (mut cluster, leader) = elected_with_keys();
    for by in 1..=3 {
        for of in 1..=3 {
            assert_eq!(stored_key(&cluster, by, of), key(of, 1).0, "{of} on {by}");
        }
    }
    let [one, other] = cluster.others(leader);
    let last = cluster.last(leader);
    // Another directory, and a member without TLS.
    let mut stranger = met_with(one, VERSION, Some(key(one, 2)));
    stranger.incarnation = 7;
    cluster.node(leader).met(stranger);
    cluster.node(leader).met(met_with(other, VERSION, None));
    cluster.tick(5);
    assert_eq!(cluster.last(leader), last);
    // New certificates: that of the leader, and that of a follower.
    cluster.node(leader).set_own_key(key(leader, 2));
    let renewed = met_with(one, VERSION, Some(key(one, 2)));
    cluster.node(leader).met(renewed);
    cluster.tick(5);
    assert_eq!(cluster.last(leader), last + 2, "one entry each");
    for by in 1..=3 {
        let keys = [leader, one, other].map(|of| stored_key(&cluster, by, of));
        let expected = [key(leader, 2), key(one, 2), key(other, 1)].map(|key| key.0.to_vec());
        assert_eq!(keys, expected, "on {by}");
    }
}

#[test]
fn a_removal_revokes_the_key_of_the_removed_member_everywhere() {
    for through_leader in [true, false] {
        let (mut cluster, leader) = elected_with_keys();
        let [gone, other] = cluster.others(leader);
        let via = if through_leader { leader } else { other };
        let mut outcome = cluster.change(via, Kind::RemoveMember, gone);
        cluster.tick(20);
        applied(&mut outcome);
        for by in [leader, other] {
            let members = cluster.members(by);
            assert!(members.is_revoked(&key(gone, 1)), "through {via}, on {by}");
            assert_eq!(members.revoked.len(), 1);
        }
        // A replay of the log revokes the same keys.
        cluster.crash(gone);
        cluster.restart(leader);
        cluster.restart(other);
        let leader = cluster.elect();
        assert!(cluster.members(leader).is_revoked(&key(gone, 1)));
    }
}

#[test]
fn a_removed_leader_loses_its_key_too() {
    let (mut cluster, leader) = elected_with_keys();
    let [one, other] = cluster.others(leader);
    let mut outcome = cluster.change(leader, Kind::RemoveMember, leader);
    cluster.tick(60);
    applied(&mut outcome);
    for by in [one, other] {
        assert!(cluster.members(by).is_revoked(&key(leader, 1)), "on {by}");
    }
}

#[test]
fn a_removal_by_a_new_leader_waits_for_what_that_leader_has_inherited() {
    let (mut cluster, leader) = Cluster::elected(3);
    let [next, gone] = cluster.others(leader);
    for by in [leader, next] {
        cluster
            .node(by)
            .met(met_with(gone, VERSION, Some(key(gone, 1))));
    }
    cluster.tick(5);
    // The next leader has not met the member: it finds the key only in the table.
    cluster.node(next).membership.statements.clear();
    pass_leadership(&mut cluster, leader, next);
    let mut outcome = cluster.change(next, Kind::RemoveMember, gone);
    assert!(cluster.node(next).usable_version() < REVOKES);
    cluster.tick(20);
    applied(&mut outcome);
    assert!(cluster.members(next).is_revoked(&key(gone, 1)));
}

#[test]
fn a_removal_revokes_a_key_that_no_row_has_yet() {
    let (mut cluster, leader) = elected_with_keys();
    let [gone, other] = cluster.others(leader);
    cluster
        .node(leader)
        .met(met_with(gone, VERSION, Some(key(gone, 2))));
    let mut outcome = cluster.change(leader, Kind::RemoveMember, gone);
    cluster.tick(20);
    applied(&mut outcome);
    for number in [1, 2] {
        let revoked = cluster.members(other).is_revoked(&key(gone, number));
        assert!(revoked, "key {number}");
    }
}

#[test]
fn with_an_earlier_version_in_the_cluster_a_removal_revokes_nothing() {
    let (mut cluster, leader) = elected_with_keys();
    let [gone, older] = cluster.others(leader);
    cluster
        .node(leader)
        .met(met_with(older, REVOKES - 1, Some(key(older, 1))));
    let mut outcome = cluster.change(leader, Kind::RemoveMember, gone);
    cluster.tick(20);
    applied(&mut outcome);
    for by in [leader, older] {
        assert_eq!(cluster.members(by).revoked, [], "on {by}");
    }
    // The removal itself, and the state, are readable by the earlier version.
    let state = cluster.node(leader).snapshot_meta().state;
    assert_eq!(state.version, 0);
    let index = cluster.members(leader).removed[&gone];
    let entries = cluster.node(leader).raw.raft.raft_log.all_entries();
    let removal = entries.iter().find(|entry| entry.index == index).unwrap();
    let batch = command::of_entry(removal).unwrap().unwrap();
    assert_eq!(batch.version, 0);
    assert!(batch.commands[0].member_key_fingerprint.is_empty());
}

#[test]
fn an_id_without_a_directory_does_not_keep_a_removal_from_revoking() {
    let (mut cluster, leader) = elected_with_keys();
    let [gone, other] = cluster.others(leader);
    let mut outcome = cluster.propose(leader, change(Kind::AddMember, 4));
    cluster.tick(20);
    applied(&mut outcome);
    assert_eq!(cluster.members(leader).known_version(), 0);
    cluster.remove(leader, gone);
    assert!(cluster.members(other).is_revoked(&key(gone, 1)));
}

#[test]
fn a_learner_that_never_came_up_does_not_keep_a_removal_from_revoking() {
    let (mut cluster, leader) = elected_with_keys();
    let [gone, other] = cluster.others(leader);
    let mut command = change(Kind::AddMember, 4);
    command.member_incarnation = 40;
    let mut outcome = cluster.propose(leader, command);
    cluster.tick(20);
    applied(&mut outcome);
    assert_eq!(cluster.members(leader).members[&4].incarnation, 40);
    assert_eq!(cluster.members(leader).known_version(), 0);
    cluster.remove(leader, gone);
    assert!(cluster.members(other).is_revoked(&key(gone, 1)));
}

#[test]
fn a_follower_can_not_choose_which_key_a_removal_revokes() {
    let (mut cluster, leader) = elected_with_keys();
    let [gone, other] = cluster.others(leader);
    let mut command = change(Kind::RemoveMember, gone);
    command.member_key_fingerprint = key(9, 1).0.to_vec().into();
    let mut outcome = cluster.propose(other, command);
    cluster.tick(20);
    applied(&mut outcome);
    let members = cluster.members(leader);
    assert!(members.is_revoked(&key(gone, 1)) && !members.is_revoked(&key(9, 1)));
}

#[test]
fn an_id_that_is_added_again_has_no_key_until_its_new_directory_has_shown_one() {
    let (mut cluster, leader) = elected_with_keys();
    let [gone, other] = cluster.others(leader);
    cluster.remove(leader, gone);
    cluster.crash(gone);
    cluster.start_empty(gone);
    let mut outcome = cluster.change(leader, Kind::AddMember, gone);
    cluster.tick(20);
    applied(&mut outcome);
    assert_eq!(stored_key(&cluster, leader, gone), Vec::<u8>::new());
    let mut met = met_with(gone, VERSION, Some(key(gone, 2)));
    met.incarnation = cluster.incarnation(gone);
    for version_of in [leader, other] {
        cluster.node(version_of).met(met.clone());
    }
    cluster.tick(5);
    assert_eq!(stored_key(&cluster, other, gone), key(gone, 2).0);
    let members = cluster.members(gone);
    assert!(members.is_revoked(&key(gone, 1)) && !members.is_revoked(&key(gone, 2)));
    cluster.remove(leader, gone);
    assert_eq!(cluster.members(other).revoked.len(), 2);
}

#[test]
fn a_member_that_adds_itself_and_never_connects_loses_its_key_with_its_removal() {
    for (through_leader, incarnation) in [(true, 0), (false, 0), (true, 40), (false, 40)] {
        let (mut cluster, leader) = elected_with_keys();
        let [other, _] = cluster.others(leader);
        let via = if through_leader { leader } else { other };
        let mut addition = change(Kind::AddMember, 4);
        addition.member_incarnation = incarnation;
        addition.member_key_fingerprint = key(4, 1).0.to_vec().into();
        let mut outcome = cluster.propose(via, addition.clone());
        cluster.tick(20);
        applied(&mut outcome);
        for by in 1..=3 {
            assert_eq!(stored_key(&cluster, by, 4), key(4, 1).0, "on {by}");
        }
        cluster.remove(via, 4);
        for by in 1..=3 {
            assert!(cluster.members(by).is_revoked(&key(4, 1)), "on {by}");
        }
        // The leader refuses the key, also if the member that received the request does not know yet.
        let mut outcome = cluster.propose(via, addition);
        cluster.tick(20);
        let outcome = outcome.try_recv().unwrap().unwrap();
        let refused = Outcome::Refused(Refusal::ChangeUnderWay);
        assert_eq!(outcome, refused, "through {via}");
        assert!(!cluster.members(leader).members.contains_key(&4));
    }
}

#[test]
fn with_an_earlier_version_in_the_cluster_an_addition_and_a_new_key_carry_no_key() {
    let (mut cluster, leader) = elected_with_keys();
    let [older, renewed] = cluster.others(leader);
    let met = met_with(older, REVOKES - 1, Some(key(older, 1)));
    cluster.node(leader).met(met);
    cluster.tick(5);
    let met = met_with(renewed, VERSION, Some(key(renewed, 2)));
    cluster.node(leader).met(met);
    let mut addition = change(Kind::AddMember, 4);
    addition.member_key_fingerprint = key(4, 1).0.to_vec().into();
    let mut outcome = cluster.propose(renewed, addition);
    cluster.tick(20);
    applied(&mut outcome);
    assert_eq!(stored_key(&cluster, older, 4), Vec::<u8>::new());
    assert_eq!(stored_key(&cluster, older, renewed), key(renewed, 1).0);
    let state = cluster.node(leader).snapshot_meta().state;
    assert_eq!(state.version, 0);
    // The key is written down as soon as all members know what that means.
    let met = met_with(older, VERSION, Some(key(older, 1)));
    cluster.node(leader).met(met);
    cluster.tick(20);
    assert_eq!(stored_key(&cluster, older, renewed), key(renewed, 2).0);
    assert!(cluster.members(older).is_revoked(&key(renewed, 1)));
}

#[test]
fn a_new_key_revokes_the_former_one_and_an_old_statement_does_not_bring_it_back() {
    let (mut cluster, leader) = elected_with_keys();
    let [renewed, next] = cluster.others(leader);
    // An id without a directory does not delay this.
    let mut outcome = cluster.propose(leader, change(Kind::AddMember, 4));
    cluster.tick(20);
    applied(&mut outcome);
    let met = met_with(renewed, VERSION, Some(key(renewed, 2)));
    cluster.node(leader).met(met);
    cluster.tick(5);
    for by in 1..=3 {
        let members = cluster.members(by);
        assert!(members.is_revoked(&key(renewed, 1)), "on {by}");
        assert!(!members.is_revoked(&key(renewed, 2)), "on {by}");
    }
    // The next leader knows the member by its former key only.
    let last = cluster.last(leader);
    pass_leadership(&mut cluster, leader, next);
    cluster.tick(20);
    assert_eq!(stored_key(&cluster, leader, renewed), key(renewed, 2).0);
    assert_eq!(cluster.last(next), last + 1, "only the entry of the term");
    cluster.restart_all();
    let leader = cluster.elect();
    assert!(cluster.members(leader).is_revoked(&key(renewed, 1)));
}

#[test]
fn a_snapshot_brings_the_revoked_keys() {
    let (mut cluster, leader) = Cluster::forgetful(1_000, 0);
    meet(&mut cluster);
    let gone = cluster.follower(leader);
    cluster.remove(leader, gone);
    cluster.crash(gone);
    cluster.write_many(leader, "k", 300);
    cluster.start_empty(4);
    cluster.add(leader, 4);
    cluster.tick(60);
    let removed = cluster.members(leader).removed[&gone];
    assert!(cluster.log(4).first_index().unwrap() > removed);
    assert!(cluster.members(4).is_revoked(&key(gone, 1)));
}

#[test]
fn a_member_with_a_revoked_key_waits_and_names_the_reason() {
    let (mut cluster, leader) = Cluster::elected(3);
    let refused = cluster.follower(leader);
    for id in (1..=3).filter(|id| *id != refused) {
        cluster.crash(id);
        cluster
            .node(refused)
            .refused(refusal(id, Reason::KeyRevoked));
    }
    cluster.tick(60);
    assert_eq!(cluster.exit(refused), None);
    let waiting = cluster.node(refused).waiting_at_start().unwrap();
    assert!(
        waiting.why.contains("raftkvd cert member"),
        "{}",
        waiting.why
    );

    let mut joiner = Cluster::new(1);
    joiner.list.clear();
    joiner.start_empty(2);
    joiner.refuse(2, refusal(1, Reason::KeyRevoked));
    joiner.tick(60);
    assert_eq!(joiner.exit(2), None);
    let (_, why) = joiner.closed(2).unwrap();
    assert!(why.contains("raftkvd cert member"), "{why}");
}
