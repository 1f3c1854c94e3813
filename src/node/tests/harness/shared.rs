//! The initial state of a cluster of nodes in one thread, and clients' requests to a node. The bench of the node
//! includes this file by its path, so that both start alike. The bench sees only what is public, so this file uses
//! nothing else. The including file imports the names.
//!
//! The movement of messages, jobs and commits is not shared. The tests lose and hold back single ones, and keep disks
//! and maps. The bench moves everything that waits in one pass, as the raft loop does, and keeps nothing.

use super::{
    BTreeMap, Command, HardState, Logger, Members, Node, NodeSettings, NotProposed, Outcome,
    PeerUrl, Proposal, Read, Recovered, ReplicatedState, SnapshotMeta, oneshot,
};

pub const VALUE_BYTES: usize = 100;
pub const ELECTION_TICKS: usize = 10;
const HEARTBEAT_TICKS: usize = 2;

pub fn url(id: u64) -> PeerUrl {
    let url = format!("http://host:{id}").parse();
    url.expect("a name and a port are a peer URL")
}

/// The disk of each first member: a snapshot with the members, and no log behind it.
pub fn first_disk(members: &Members) -> Recovered {
    let mut state = ReplicatedState::new();
    members.write_to(&mut state);
    let snapshot = SnapshotMeta {
        index: 1,
        term: 1,
        conf_state: members.conf_state(),
        state,
    };
    Recovered {
        hard_state: HardState {
            term: 1,
            commit: 1,
            ..Default::default()
        },
        snapshot: Some(snapshot),
        ..Default::default()
    }
}

/// The settings of a first start, without limits.
pub fn settings(id: u64, incarnation: u64) -> NodeSettings {
    NodeSettings {
        id,
        incarnation,
        boot: 1,
        run: id,
        url: None,
        key: None,
        url_given: false,
        list: BTreeMap::new(),
        served_at: None,
        joins_through: None,
        election_ticks: ELECTION_TICKS,
        heartbeat_ticks: HEARTBEAT_TICKS,
        snapshot_bytes: u64::MAX,
        log_cache_bytes: u64::MAX,
        pinned_log_bytes: u64::MAX,
        seed: id,
    }
}

pub fn node(settings: NodeSettings, recovered: Recovered) -> Node {
    let logger = Logger::root(slog::Discard, slog::o!());
    Node::new(settings, recovered, &logger, &logger).expect("a node from what was recovered")
}

/// A command that puts a value at this key.
pub fn put(key: String) -> Command {
    let mut command = Command::new();
    command.key = key.into();
    command.value = vec![b'v'; VALUE_BYTES].into();
    command
}

pub fn propose(
    node: &mut Node,
    command: Command,
    deadline_ticks: u64,
) -> oneshot::Receiver<Outcome> {
    let (reply, receiver) = oneshot::channel();
    node.propose(Proposal {
        command,
        deadline_ticks,
        reply,
    });
    receiver
}

pub fn read(node: &mut Node, deadline_ticks: u64) -> oneshot::Receiver<Result<(), NotProposed>> {
    let (reply, receiver) = oneshot::channel();
    node.read(Read {
        deadline_ticks,
        reply,
    });
    receiver
}
