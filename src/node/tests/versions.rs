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
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let mut before = cluster.put(leader, "before");
    cluster.settle();
    let index = applied(&mut before) + 1;
    let data = command::encode(&later_batch(cluster.node(leader)));
    cluster
        .node(leader)
        .raw
        .propose(vec![], data.to_vec())
        .unwrap();
    let _behind = cluster.put(leader, "behind");
    cluster.settle();
    for id in 1..=3 {
        cluster.tick(1);
        assert_eq!(cluster.hosts[&id].exit, later("entry", index), "{id}");
        assert_eq!(cluster.hosts[&id].map.len(), 1, "{id}");
        assert_eq!(cluster.node(id).published, index - 1);
        cluster.crash(id);
        cluster.hosts.get_mut(&id).unwrap().exit = None;
    }
    for id in 1..=3 {
        cluster.start(id);
    }
    cluster.elect();
    cluster.settle();
    for id in 1..=3 {
        assert_eq!(cluster.hosts[&id].exit, later("entry", index), "{id}");
        assert_eq!(cluster.node(id).published, index - 1);
    }
}

#[test]
fn a_leader_puts_nothing_into_the_log_that_it_does_not_know() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = cluster.follower(leader);
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgPropose);
    (message.from, message.to) = (follower, leader);
    let batch = later_batch(cluster.node(follower));
    message.set_entries(vec![pending::normal_entry(&batch)].into());
    let last = cluster.node(leader).raw.raft.raft_log.last_index();
    cluster.node(leader).step(of_member(message.clone()));
    cluster.settle();
    assert_eq!(cluster.node(leader).raw.raft.raft_log.last_index(), last);
    // The same with what it knows.
    let mut known = cluster.node(follower).settings.batch();
    known.version = VERSION;
    known.commands.push(Command::new());
    message.set_entries(vec![pending::normal_entry(&known)].into());
    cluster.node(leader).step(of_member(message));
    cluster.settle();
    assert_eq!(
        cluster.node(leader).raw.raft.raft_log.last_index(),
        last + 1
    );
}

#[test]
fn a_later_snapshot_ends_whoever_would_have_taken_it() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = cluster.follower(leader);
    let snapshot = |cluster: &mut Cluster, id: u64| {
        let mut meta = cluster.node(leader).snapshot_meta();
        let incarnation = cluster.node(id).settings.incarnation;
        let mut row = command::Member::new();
        (row.id, row.incarnation) = (id, incarnation);
        meta.state.members.push(row);
        meta.state.version = 9;
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgSnapshot);
        (message.from, message.to) = (leader, id);
        message.term = cluster.node(leader).raw.raft.term;
        message.mut_snapshot().data = protobuf::Message::write_to_bytes(&meta.state)
            .unwrap()
            .into();
        message.mut_snapshot().mut_metadata().index = 50;
        message.mut_snapshot().mut_metadata().term = message.term;
        message
    };
    let message = snapshot(&mut cluster, follower);
    let bound = None;
    cluster.node(follower).step(Received {
        message: message.clone(),
        bound,
    });
    cluster.work(follower);
    assert_eq!(cluster.hosts[&follower].exit, None);
    cluster.node(follower).step(of_member(message));
    cluster.work(follower);
    assert_eq!(cluster.hosts[&follower].exit, later("snapshot", 50));

    cluster.add_host(4, Recovered::default());
    let message = snapshot(&mut cluster, 4);
    cluster.node(4).step(Received { message, bound });
    cluster.work(4);
    assert_eq!(cluster.hosts[&4].exit, later("snapshot", 50));
}

#[test]
fn the_leader_writes_down_which_version_each_member_knows() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = cluster.follower(leader);
    let met = |incarnation, version| Met {
        id: follower,
        incarnation,
        empty: false,
        url: url(follower),
        dialled: true,
        version,
    };
    let versions = |cluster: &mut Cluster, id: u64| {
        let rows = cluster.node(id).members().members.values();
        rows.map(|row| row.description.version).collect::<Vec<_>>()
    };
    for said in [met(7, VERSION + 1), met(10 * follower, 0)] {
        cluster.node(leader).met(said);
        cluster.tick(3);
        assert_eq!(versions(&mut cluster, leader), [VERSION; 3]);
    }
    let last = cluster.node(leader).raw.raft.raft_log.last_index();
    cluster.node(leader).met(met(10 * follower, VERSION + 1));
    cluster.tick(30);
    let mut expected = [VERSION; 3];
    expected[follower as usize - 1] = VERSION + 1;
    for id in 1..=3 {
        assert_eq!(versions(&mut cluster, id), expected, "{id}");
        assert_eq!(cluster.node(id).members().known_version(), VERSION);
    }
    assert_eq!(
        cluster.node(leader).raw.raft.raft_log.last_index(),
        last + 1,
        "one entry"
    );
    // It went back.
    cluster.node(leader).met(met(10 * follower, VERSION));
    cluster.tick(3);
    assert_eq!(versions(&mut cluster, leader), [VERSION; 3]);
}

#[test]
fn a_member_that_was_met_by_a_follower_is_described_once_that_leads() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let next = cluster.follower(leader);
    let third = (1..=3).find(|id| ![leader, next].contains(id)).unwrap();
    cluster.node(next).met(Met {
        id: third,
        incarnation: 10 * third,
        empty: false,
        url: url(third),
        dialled: true,
        version: VERSION + 1,
    });
    cluster.tick(3);
    let version = |cluster: &mut Cluster| {
        cluster.node(next).members().members[&third]
            .description
            .version
    };
    assert_eq!(version(&mut cluster), VERSION);
    cluster.node(leader).raw.transfer_leader(next);
    cluster.work(leader);
    cluster.settle();
    cluster.tick(3);
    assert!(cluster.node(next).is_leader());
    assert_eq!(version(&mut cluster), VERSION + 1);
}
