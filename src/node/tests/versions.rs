//! Entries, snapshots and commands of a later version.

use super::*;
use crate::command::version::{Later, VERSION};

/// A batch of this member with a command that this build does not know.
fn later_batch(node: &Node) -> Batch {
    let mut command = Command::new();
    command.sequence = 1_000;
    let fields = protobuf::Message::mut_unknown_fields(&mut command);
    fields.add_value(1, protobuf::UnknownValue::Varint(900));
    let mut batch = node.settings.batch();
    batch.version = 9;
    batch.commands.push(command);
    batch
}

fn later(what: &'static str, index: u64) -> Option<Exit> {
    let later = Later { needed: 9 };
    Some(Exit::Later { what, index, later })
}

#[test]
fn a_later_entry_ends_the_process_and_nothing_from_it_on_is_applied() {
    let (mut cluster, leader) = Cluster::elected(3);
    let index = cluster.write(leader, "before") + 1;
    let data = command::encode(&later_batch(cluster.node(leader)));
    let raw = &mut cluster.node(leader).raw;
    raw.propose(vec![], data.to_vec()).unwrap();
    let _behind = cluster.put(leader, "behind");
    cluster.settle();
    for id in 1..=3 {
        cluster.tick(1);
        assert_eq!(cluster.exit(id), later("entry", index), "{id}");
        assert_eq!(cluster.hosts[&id].map.len(), 1, "{id}");
        assert_eq!(cluster.published(id), index - 1);
        cluster.crash(id);
        cluster.host(id).exit = None;
    }
    for id in 1..=3 {
        cluster.start(id);
    }
    cluster.elect();
    cluster.settle();
    for id in 1..=3 {
        assert_eq!(cluster.exit(id), later("entry", index), "{id}");
        assert_eq!(cluster.published(id), index - 1);
    }
}

#[test]
fn a_leader_puts_nothing_into_the_log_that_it_does_not_know() {
    let (mut cluster, leader) = Cluster::elected(3);
    let follower = cluster.follower(leader);
    let unknown = later_batch(cluster.node(follower));
    let last = cluster.last(leader);
    let entry = pending::normal_entry(&unknown);
    cluster.hear(forward(follower, leader, entry));
    cluster.settle();
    assert_eq!(cluster.last(leader), last);
    // A command that the leader knows is taken.
    let mut known = cluster.node(follower).settings.batch();
    known.version = VERSION;
    known.commands.push(Command::new());
    let entry = pending::normal_entry(&known);
    cluster.hear(forward(follower, leader, entry));
    cluster.settle();
    assert_eq!(cluster.last(leader), last + 1);
}

#[test]
fn a_later_snapshot_ends_a_member_that_would_have_installed_it() {
    let (mut cluster, leader) = Cluster::elected(3);
    let follower = cluster.follower(leader);
    let later_snapshot = |cluster: &mut Cluster, id: u64| {
        let mut state = cluster.node(leader).snapshot_meta().state;
        let mut row = command::Member::new();
        (row.id, row.incarnation) = (id, cluster.incarnation(id));
        row.learner = id == 4;
        state.members.push(row);
        state.version = 9;
        snapshot(leader, id, cluster.term(leader), 50, &state)
    };
    let message = later_snapshot(&mut cluster, follower);
    cluster.hear_as(message.clone(), None);
    assert_eq!(cluster.exit(follower), None);
    cluster.hear(message);
    assert_eq!(cluster.exit(follower), later("snapshot", 50));

    cluster.start_empty(4);
    let message = later_snapshot(&mut cluster, 4);
    cluster.hear_as(message, None);
    assert_eq!(cluster.exit(4), later("snapshot", 50));
}

fn known_version(cluster: &Cluster, by: u64, of: u64) -> u64 {
    cluster.members(by).members[&of].description.version
}

#[test]
fn the_leader_writes_down_which_version_each_member_knows() {
    let (mut cluster, leader) = Cluster::elected(3);
    let follower = cluster.follower(leader);
    let met = |incarnation, version| Met {
        id: follower,
        incarnation,
        bound_index: 1,
        url: url(follower),
        dialled: true,
        version,
        key: None,
    };
    let versions = |cluster: &Cluster, by| [1, 2, 3].map(|id| known_version(cluster, by, id));
    for said in [met(7, VERSION + 1), met(10 * follower, 0)] {
        cluster.node(leader).met(said);
        cluster.tick(3);
        assert_eq!(versions(&cluster, leader), [VERSION; 3]);
    }
    let last = cluster.last(leader);
    cluster.node(leader).met(met(10 * follower, VERSION + 1));
    cluster.tick(30);
    let mut expected = [VERSION; 3];
    expected[follower as usize - 1] = VERSION + 1;
    for id in 1..=3 {
        assert_eq!(versions(&cluster, id), expected, "{id}");
        assert_eq!(cluster.members(id).known_version(), VERSION);
    }
    assert_eq!(cluster.last(leader), last + 1, "one entry");
    // The follower went back to the earlier version.
    cluster.node(leader).met(met(10 * follower, VERSION));
    cluster.tick(3);
    assert_eq!(versions(&cluster, leader), [VERSION; 3]);
}

#[test]
fn a_member_that_was_met_by_a_follower_is_described_once_that_leads() {
    let (mut cluster, leader) = Cluster::elected(3);
    let [next, third] = cluster.others(leader);
    let mut met = cluster.met(third);
    (met.bound_index, met.version) = (1, VERSION + 1);
    cluster.node(next).met(met);
    cluster.tick(3);
    assert_eq!(known_version(&cluster, next, third), VERSION);
    cluster.node(leader).raw.transfer_leader(next);
    cluster.work(leader);
    cluster.settle();
    cluster.tick(3);
    assert!(cluster.node(next).is_leader());
    assert_eq!(known_version(&cluster, next, third), VERSION + 1);
}

/// What a later version of this member would forward: a batch that states the command version it needs.
fn forwarded(cluster: &mut Cluster, from: u64, to: u64, command: Command) -> Message {
    let mut batch = cluster.node(from).settings.batch();
    batch.version = VERSION;
    batch.commands.push(command);
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgPropose);
    (message.from, message.to) = (from, to);
    message.set_entries(vec![pending::normal_entry(&batch)].into());
    message
}

fn met_at_its_place(id: u64, version: u64) -> Met {
    Met {
        id,
        incarnation: 10 * id,
        bound_index: 1,
        url: url(id),
        dialled: true,
        version,
        key: None,
    }
}

#[test]
fn a_leader_takes_nothing_that_a_member_does_not_know() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = cluster.follower(leader);
    let third = (1..=3).find(|id| ![leader, follower].contains(id)).unwrap();
    let takes = |cluster: &mut Cluster| {
        let sequence = cluster.node(leader).watermarks.published;
        let mut command = Command::new();
        command.sequence = 1_000 + sequence;
        let message = forwarded(cluster, follower, leader, command);
        let before = cluster.node(leader).raw.raft.raft_log.last_index();
        cluster.node(leader).step(Received {
            bound: Some(10 * message.from),
            message,
        });
        cluster.node(leader).raw.raft.raft_log.last_index() > before
    };
    // The leader has heard of the older version, and the table does not have it yet.
    let older = met_at_its_place(third, VERSION - 1);
    cluster.node(leader).met(older);
    assert!(!takes(&mut cluster), "before the table has it");
    cluster.settle();
    assert_eq!(cluster.node(leader).members().known_version(), VERSION - 1);
    assert!(!takes(&mut cluster), "when the table has it");
    cluster.node(leader).met(met_at_its_place(third, VERSION));
    assert!(!takes(&mut cluster), "the table is behind");
    cluster.settle();
    assert!(takes(&mut cluster));
    cluster.settle();

    // A removed member may be needed until its removal is settled.
    cluster.node(leader).members.unsettled = Some(crate::members::Unsettled {
        index: 1,
        kind: Kind::RemoveMember,
        member: 4,
    });
    assert!(!takes(&mut cluster), "not settled");
    cluster.settle();
    cluster.tick(3);
    assert!(takes(&mut cluster), "settled");
}

#[test]
fn what_a_member_said_before_it_fell_silent_is_not_written_down() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let next = cluster.follower(leader);
    let third = (1..=3).find(|id| ![leader, next].contains(id)).unwrap();
    let version = |cluster: &mut Cluster| {
        let row = &cluster.node(next).members().members[&third];
        row.description.version
    };
    // Another process has taken the third member's place since then. Only the others have heard of it.
    let earlier = met_at_its_place(third, VERSION + 1);
    cluster.node(next).met(earlier);
    cluster.cut = vec![(next, third), (third, next)];
    cluster.node(leader).raw.transfer_leader(next);
    cluster.work(leader);
    cluster.settle();
    cluster.tick(5);
    assert!(cluster.node(next).is_leader());
    assert_eq!(version(&mut cluster), VERSION);
    cluster.cut.clear();
    cluster.tick(5);
    assert_eq!(version(&mut cluster), VERSION + 1);
}

#[test]
fn a_late_description_by_an_earlier_leader_is_ignored() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = cluster.follower(leader);
    let term = cluster.node(leader).raw.raft.term;
    let mut command = Command::new();
    command.kind = Kind::DescribeMember;
    command.sequence = 1_000;
    command.member_id = leader;
    command.member_incarnation = 10 * leader;
    for (leader_term, expected) in [(term - 1, VERSION), (term, VERSION + 1)] {
        command.sequence += 1;
        command.member_version = VERSION + 1;
        command.leader_term = leader_term;
        let message = forwarded(&mut cluster, follower, leader, command.clone());
        let next = cluster.node(leader).watermarks.published + 1;
        cluster.node(leader).step(Received {
            bound: Some(10 * message.from),
            message,
        });
        cluster.deliver_until(|cluster| cluster.node(leader).watermarks.published >= next);
        let row = &cluster.node(leader).members().members[&leader];
        assert_eq!(row.description.version, expected, "{leader_term}");
    }
}

/// A command that was made for other members, or under another leader, does not wait either, so the commands behind it
/// go on.
#[cfg(feature = "later")]
#[test]
fn a_later_command_is_given_up_when_a_member_does_not_know_it() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.settle();
    let third = (1..=3).rev().find(|id| *id != leader).unwrap();
    for on in 1..=3 {
        cluster.node(on).met(met_at_its_place(third, VERSION - 1));
    }
    cluster.tick(3);
    let is_later = |command: &Command| command.kind == Kind::Later;
    for on in [leader, cluster.follower(leader)] {
        let before = cluster.node(leader).raw.raft.raft_log.last_index();
        let mut command = Command::new();
        command.kind = Kind::Later;
        let deadline = cluster.node(on).now + 100;
        cluster.node(on).pending.add_own(command, deadline);
        let mut outcome = cluster.put(on, "behind");
        cluster.settle();
        assert!(!cluster.node(on).pending.any(is_later), "{on}");
        assert_eq!(applied(&mut outcome), before + 1);
    }
}

#[test]
fn a_sole_member_that_was_upgraded_writes_that_down() {
    for before in [VERSION - 1, VERSION + 1] {
        let mut members = Members::of([(1, url(1), 10)]);
        members.members.get_mut(&1).unwrap().description.version = before;
        let mut cluster = Cluster::of(members);
        cluster.elect();
        cluster.tick(3);
        let row = &cluster.node(1).members().members[&1];
        assert_eq!(row.description.version, VERSION, "was {before}");
    }
}

#[test]
fn a_new_leader_proposes_nothing_later_before_it_has_published_what_it_inherited() {
    let (mut cluster, leader) = Cluster::elected(3);
    cluster.settle();
    let next = cluster.follower(leader);
    assert_eq!(cluster.node(leader).usable_version(), VERSION);
    cluster.node(leader).raw.transfer_leader(next);
    cluster.work(leader);
    cluster.deliver_until(|cluster| cluster.node(next).is_leader());
    // A removal, or a member's newest statement, may be among the entries that are not published.
    assert_eq!(cluster.node(next).usable_version(), 0);
    cluster.settle();
    assert_eq!(cluster.node(next).usable_version(), VERSION);
}
