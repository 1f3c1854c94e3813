//! Membership changes: learners that become voters, and changes that wait for one another.

use super::*;

#[test]
fn a_joiner_catches_up_by_snapshot_and_becomes_a_voter() {
    let (mut cluster, leader) = Cluster::elected(3);
    for i in 0..20 {
        drop(cluster.put(leader, &format!("k{i}")));
    }
    let follower = cluster.follower(leader);
    cluster.add(follower, 4);
    cluster.start_empty(4);
    cluster.tick(30);
    cluster.assert_same_maps();
    assert_eq!(cluster.members(4).voters().count(), 4);
    cluster.write(4, "through the new one");
    // Adding the same member again changes nothing.
    cluster.add(4, 4);
}

#[test]
fn an_addition_that_was_asked_for_before_the_newest_removal_is_refused() {
    let (mut cluster, leader) = Cluster::elected(3);
    let follower = cluster.follower(leader);
    let mut addition = change(Kind::AddMember, follower);
    addition.member_incarnation = 10 * follower;
    // It was asked for before the removal, and waits elsewhere.
    addition.member_added_index = cluster.node(leader).watermarks.published;
    cluster.remove(leader, follower);
    let node = cluster.node(leader);
    assert!(node.is_outdated_addition(&addition));
    let mut message = message(MessageType::MsgPropose, leader, leader, 0);
    let mut entry = Entry::default();
    entry.set_entry_type(EntryType::EntryConfChange);
    message.entries = vec![entry].into();
    assert!(node.step_conf_change(message, &addition));
    cluster.settle();
    assert!(!cluster.members(leader).members.contains_key(&follower));
    // The same request, asked again.
    addition.member_added_index = cluster.node(leader).watermarks.published;
    assert!(!cluster.node(leader).is_outdated_addition(&addition));
}

#[test]
fn a_change_that_waits_in_a_new_leader_does_not_keep_it_from_settling_the_one_before() {
    let (mut cluster, first) = Cluster::elected(3);
    let [next, other] = cluster.others(first);
    // The first leader carries a change out, and crashes before its settlement reaches any other member. Meanwhile the
    // next leader has forwarded another change.
    drop(cluster.change(first, Kind::AddMember, 4));
    cluster.deliver_until(|cluster| cluster.members(first).unsettled.is_some());
    let mut waits = cluster.change(next, Kind::AddMember, 5);
    cluster.cut.extend([(first, next), (first, other)]);
    let (term, commit) = (cluster.term(first), cluster.committed(first));
    for id in [next, other] {
        cluster.hear(heartbeat(first, id, term, commit));
    }
    cluster.settle();
    assert!(cluster.members(next).unsettled.is_some());
    cluster.crash(first);
    cluster.node(next).raw.campaign().unwrap();
    cluster.tick(30);
    assert!(cluster.node(next).is_leader());
    let mut write = cluster.put(next, "a");
    cluster.tick(3);
    applied(&mut write);
    applied(&mut waits);
}

#[test]
fn a_change_that_comes_again_and_waits_holds_up_no_write_behind_it() {
    let (mut cluster, first) = Cluster::elected(3);
    let next = cluster.follower(first);
    let mut change = cluster.change(next, Kind::AddMember, 4);
    let mut write = cluster.put(next, "a");
    // Neither reaches the leader before it crashes.
    cluster.wires.clear();
    cluster.crash(first);
    let before = cluster.last(next);
    cluster.node(next).raw.campaign().unwrap();
    cluster.deliver_until(|cluster| cluster.node(next).is_leader());
    cluster.work(next);
    // A new leader changes no members before it has committed an entry of its term. The write stands behind that entry.
    let committed = cluster.committed(next);
    assert!(committed <= before, "{committed} is committed");
    let entries = cluster.node(next).raw.raft.raft_log.all_entries();
    let batches = entries.iter().filter(|entry| entry.index > before + 1);
    let batches = batches.map(|entry| command::decode(&entry.data).unwrap());
    let commands = batches.flat_map(|batch| batch.commands);
    let keys: Vec<_> = commands.map(|command| command.key).collect();
    assert!(
        keys.iter().any(|key| &key[..] == b"a"),
        "the write waits: {keys:?}"
    );
    cluster.tick(20);
    applied(&mut write);
    applied(&mut change);
}

#[test]
fn adding_an_absent_member_costs_no_quorum() {
    let mut cluster = Cluster::new(1);
    let mut outcome = cluster.change(1, Kind::AddMember, 2);
    cluster.tick(50);
    applied(&mut outcome);
    cluster.write(1, "a");
}

#[test]
fn a_change_of_members_waits_for_the_one_before_and_holds_up_no_write() {
    let (mut cluster, leader) = Cluster::elected(3);
    for (via, ids) in [(leader, [4, 5, 6]), (cluster.follower(leader), [7, 8, 9])] {
        for kind in [Kind::AddMember, Kind::RemoveMember] {
            let mut changes = ids.map(|id| cluster.change(via, kind, id));
            let mut write = cluster.put(via, "a");
            cluster.tick(1);
            applied(&mut write);
            cluster.tick(60);
            for change in &mut changes {
                applied(change);
            }
        }
    }
}

#[test]
fn a_change_that_has_waited_until_its_deadline_is_refused_and_not_unknown() {
    let (mut cluster, leader) = Cluster::elected(3);
    let followers: [u64; 2] = cluster.others(leader);
    // Without the followers' disks the first change is not committed.
    for id in followers {
        cluster.host(id).slow_disk = true;
    }
    let _first = cluster.change(leader, Kind::AddMember, 4);
    let mut second = change(Kind::AddMember, 5);
    second.wait_ticks = 40;
    let mut through_follower = cluster.propose(followers[0], second.clone());
    let mut through_leader = cluster.propose(leader, second);
    cluster.tick(35);
    for id in followers {
        cluster.host(id).slow_disk = false;
    }
    cluster.tick(5);
    let refused = Ok(Some(Outcome::Refused(Refusal::ChangeUnderWay)));
    assert_eq!(through_follower.try_recv(), refused);
    // This change was not in the log yet, so it is proposed now.
    cluster.tick(10);
    applied(&mut through_leader);
}

#[test]
fn a_promotion_outlasts_a_power_cut_once_it_is_settled() {
    for back in [[1, 3], [2, 3], [1, 2]] {
        let mut cluster = Cluster::new(1);
        for id in [2, 3] {
            let mut added = cluster.change(1, Kind::AddMember, id);
            cluster.start_empty(id);
            cluster.tick(1);
            applied(&mut added);
            cluster.tick_until(|cluster| cluster.members(1).is_settled_voter(id));
        }
        cluster.crash_all();
        for id in back {
            cluster.start(id);
        }
        cluster.elect();
        cluster.write(back[0], "a");
    }
}
