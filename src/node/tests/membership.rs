//! Changes of members: learners that become voters, removals, and changes that wait for one another.

use super::*;

#[test]
fn a_joiner_catches_up_by_snapshot_and_becomes_a_voter() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    for i in 0..20 {
        drop(cluster.put(leader, &format!("k{i}")));
    }
    let follower = cluster.follower(leader);
    let mut outcome = cluster.change(follower, Kind::AddMember, 4);
    cluster.settle();
    applied(&mut outcome);
    cluster.add_host(4, Recovered::default());
    cluster.tick(30);
    cluster.assert_same_maps();
    assert_eq!(cluster.node(4).members().voters().count(), 4);
    let mut outcome = cluster.put(4, "through the new one");
    cluster.settle();
    applied(&mut outcome);
    let mut again = cluster.change(4, Kind::AddMember, 4);
    cluster.settle();
    applied(&mut again);
}

#[test]
fn a_change_that_waits_in_a_new_leader_does_not_keep_it_from_settling_the_one_before() {
    let mut cluster = Cluster::new(3);
    let first = cluster.elect();
    let [next, other]: [u64; 2] = (1..=3)
        .filter(|id| *id != first)
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    // The first leader carries a change out, and dies before anybody has heard what settles it. The next one has
    // forwarded another change meanwhile.
    drop(cluster.change(first, Kind::AddMember, 4));
    cluster.deliver_until(|cluster| cluster.node(first).members().unsettled.is_some());
    let mut waits = cluster.change(next, Kind::AddMember, 5);
    cluster.cut.extend([(first, next), (first, other)]);
    let commit = cluster.node(first).raw.raft.raft_log.committed;
    for id in [next, other] {
        let term = cluster.node(first).raw.raft.term;
        cluster
            .node(id)
            .step(of_member(heartbeat(first, id, term, commit)));
    }
    cluster.settle();
    assert!(cluster.node(next).members().unsettled.is_some());
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
    let mut cluster = Cluster::new(3);
    let first = cluster.elect();
    let next = cluster.follower(first);
    let mut change = cluster.change(next, Kind::AddMember, 4);
    let mut write = cluster.put(next, "a");
    // Neither has reached the leader before it dies.
    cluster.wires.clear();
    cluster.crash(first);
    let before = cluster.node(next).raw.raft.raft_log.last_index();
    cluster.node(next).raw.campaign().unwrap();
    cluster.deliver_until(|cluster| cluster.node(next).is_leader());
    cluster.work(next);
    // A new leader changes no members before it has committed the entry of its term. The write stands behind that.
    let log = &cluster.node(next).raw.raft.raft_log;
    assert!(log.committed <= before, "{} is committed", log.committed);
    let entries = log.all_entries();
    let batches = entries.iter().filter(|entry| entry.index > before + 1);
    let batches = batches.map(|entry| command::decode(&entry.data).unwrap());
    let keys: Vec<_> = batches
        .flat_map(|batch| batch.commands)
        .map(|c| c.key)
        .collect();
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
    let mut outcome = cluster.put(1, "a");
    cluster.settle();
    applied(&mut outcome);
}

#[test]
fn a_change_of_members_waits_for_the_one_before_and_holds_up_no_write() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
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
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = cluster.follower(leader);
    // Without the followers' disks the first change does not get through.
    for id in 1..=3 {
        cluster.hosts.get_mut(&id).unwrap().slow_disk = id != leader;
    }
    let _first = cluster.change(leader, Kind::AddMember, 4);
    let mut command = Command::new();
    command.kind = Kind::AddMember;
    command.member_id = 5;
    command.member_url = url(5).to_string();
    command.wait_ticks = 40;
    let mut through_follower = cluster.propose(follower, command.clone());
    let mut through_leader = cluster.propose(leader, command);
    cluster.tick(35);
    for id in 1..=3 {
        cluster.hosts.get_mut(&id).unwrap().slow_disk = false;
    }
    cluster.tick(5);
    let refused = Ok(Some(Outcome::Refused(Refusal::ChangeUnderWay)));
    assert_eq!(through_follower.try_recv(), refused);
    // It was not in the log yet, and now it is its turn.
    cluster.tick(10);
    applied(&mut through_leader);
}

#[test]
fn a_promotion_outlasts_a_power_cut_once_it_is_told() {
    for back in [[1, 3], [2, 3], [1, 2]] {
        let mut cluster = Cluster::new(1);
        for id in [2, 3] {
            let mut added = cluster.change(1, Kind::AddMember, id);
            cluster.add_host(id, Recovered::default());
            cluster.tick(1);
            applied(&mut added);
            while !cluster.node(1).members().is_settled_voter(id) {
                cluster.tick(1);
            }
        }
        for id in 1..=3 {
            cluster.crash(id);
        }
        for id in back {
            cluster.start(id);
        }
        cluster.elect();
        let mut outcome = cluster.put(back[0], "a");
        cluster.settle();
        applied(&mut outcome);
    }
}
