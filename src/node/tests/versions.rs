//! What only a later version knows.

use super::*;
use crate::command::version::{Later, VERSION};

/// A batch of this member with a command of which this build knows nothing.
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
    // The same with what it knows.
    let mut known = cluster.node(follower).settings.batch();
    known.version = VERSION;
    known.commands.push(Command::new());
    let entry = pending::normal_entry(&known);
    cluster.hear(forward(follower, leader, entry));
    cluster.settle();
    assert_eq!(cluster.last(leader), last + 1);
}

#[test]
fn a_later_snapshot_ends_whoever_would_have_taken_it() {
    let (mut cluster, leader) = Cluster::elected(3);
    let follower = cluster.follower(leader);
    let later_snapshot = |cluster: &mut Cluster, id: u64| {
        let mut state = cluster.node(leader).snapshot_meta().state;
        let mut row = command::Member::new();
        (row.id, row.incarnation) = (id, cluster.incarnation(id));
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
        empty: false,
        url: url(follower),
        dialled: true,
        version,
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
    // It went back.
    cluster.node(leader).met(met(10 * follower, VERSION));
    cluster.tick(3);
    assert_eq!(versions(&cluster, leader), [VERSION; 3]);
}

#[test]
fn a_member_that_was_met_by_a_follower_is_described_once_that_leads() {
    let (mut cluster, leader) = Cluster::elected(3);
    let [next, third] = cluster.others(leader);
    let mut met = cluster.met(third);
    (met.empty, met.version) = (false, VERSION + 1);
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
