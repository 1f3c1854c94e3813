//! Snapshots that do not get through the first time: the link is cut halfway, or the process at one of its ends is
//! killed. The joiner has its state in the end, and whoever leads goes on in its term.

use crate::harness::{Cluster, PATIENCE, eventually, require};
use crate::proxy::{HOST, Network};
use std::fs;
use std::time::Duration;

/// Before the joiner comes: enough that a transfer over the slow link takes seconds.
const VALUES: usize = 16;
const VALUE_BYTES: usize = 1 << 20;
/// The proxy passes 64 KiB on at a time, so a link with this delay carries about 6 MB/s.
const SLOW: Duration = Duration::from_millis(10);
/// Of a transfer that is under way and far from its end.
const BEGUN_BYTES: u64 = 2 << 20;
const JOINER: u64 = 4;

/// Three members behind proxies, and a fourth that has been added and receives its state over a slow link.
struct Joining {
    cluster: Cluster,
    network: Network,
    leader: u64,
    term: u64,
}

fn key(value: usize) -> String {
    format!("key-{value}")
}

fn value(value: usize) -> Vec<u8> {
    let byte = |at: usize| (at.wrapping_mul(31) ^ (at >> 10) ^ value) as u8;
    (0..VALUE_BYTES).map(byte).collect()
}

impl Joining {
    fn begin() -> Joining {
        // The log behind a snapshot is soon gone, so that the joiner needs one.
        let mut cluster = Cluster::prepare_behind(HOST, 3, &["--snapshot-bytes", "65536"]);
        assert_eq!(cluster.lay_out_joiner(), JOINER);
        let peers = cluster.nodes.values();
        let network = Network::start(peers.map(|node| (node.id, node.peer_address.port())));
        for id in 1..=3 {
            cluster.node(id).start();
        }
        for id in 1..=3 {
            cluster.node(id).wait_ready();
        }
        let leader = cluster.leader();
        for i in 0..VALUES {
            cluster.put(leader, &key(i), value(i));
        }
        let term = cluster.nodes[&leader].status().expect("status").term;
        for id in 1..=3 {
            network.delay(id, JOINER, SLOW);
        }
        cluster.add_member(leader, JOINER);
        cluster.node(JOINER).start();
        let joining = Joining {
            cluster,
            network,
            leader,
            term,
        };
        joining.wait_halfway();
        joining
    }

    /// Bytes that the joiner has of a snapshot that it is receiving.
    fn arrived(&self) -> u64 {
        let node = &self.cluster.nodes[&JOINER];
        if !node.data_dir.join("snap").is_dir() {
            return 0;
        }
        let names = node.files("snap", ".tmp").into_iter();
        // It may be gone by now.
        let lengths = names.map(|name| {
            let path = node.data_dir.join("snap").join(name);
            fs::metadata(path).map_or(0, |found| found.len())
        });
        lengths.max().unwrap_or(0)
    }

    fn wait_halfway(&self) {
        eventually("a snapshot is on its way", PATIENCE, || {
            let arrived = self.arrived();
            require(arrived >= BEGUN_BYTES, || format!("{arrived} bytes"))
        });
        let node = &self.cluster.nodes[&JOINER];
        assert_eq!(node.files("snap", ".snap").len(), 0, "it is there already");
    }

    /// The joiner gets everything, becomes a voter, and has nothing left of what failed.
    fn finish(mut self, same_leader: bool) {
        self.network.heal(false);
        self.cluster.start_all();
        let all = [1, 2, 3, JOINER];
        for id in all {
            self.cluster.wait_voters(id, &all);
        }
        self.cluster.assert_hashes_agree(&all);
        for i in 0..VALUES {
            let got = self.cluster.get(JOINER, &key(i)).expect("it has the key");
            assert!(got == value(i), "{} differs", key(i));
        }
        let joiner = &self.cluster.nodes[&JOINER];
        assert!(joiner.last_log().contains("received a snapshot"));
        assert!(!joiner.files("snap", ".snap").is_empty());
        assert_eq!(joiner.files("snap", ".tmp"), [""; 0]);
        if same_leader {
            for id in all {
                let status = self.cluster.nodes[&id].status().expect("status");
                let expected = (self.leader, self.term);
                assert_eq!((status.leader, status.term), expected, "on node {id}");
            }
        }
    }
}

#[test]
fn a_joiner_gets_its_state_over_a_slow_link() {
    Joining::begin().finish(true);
}

#[test]
fn a_transfer_whose_connection_breaks_halfway_begins_anew() {
    let joining = Joining::begin();
    joining.network.cut(joining.leader, JOINER);
    joining.network.heal(true);
    eventually("what was received is removed", PATIENCE, || {
        let log = joining.cluster.nodes[&JOINER].last_log();
        require(log.contains("did not receive a snapshot"), || log)
    });
    joining.finish(true);
}

/// Nobody hears that the link is cut: both ends have to notice by the silence, and the leader serves meanwhile.
#[test]
fn a_transfer_that_falls_silent_halfway_is_given_up_and_begins_anew() {
    let joining = Joining::begin();
    joining.network.cut(joining.leader, JOINER);
    joining.network.cut(JOINER, joining.leader);
    let mut writes = 0;
    eventually("the receiver gives up", PATIENCE, || {
        writes += 1;
        let (cluster, leader) = (&joining.cluster, joining.leader);
        cluster.put(leader, "meanwhile", writes.to_string());
        let log = cluster.nodes[&JOINER].last_log();
        let gave_up = log.contains("did not receive a snapshot");
        require(gave_up && joining.arrived() == 0, || log)
    });
    joining.network.heal(true);
    joining.finish(true);
}

#[test]
fn a_receiver_that_is_killed_halfway_begins_anew_and_removes_what_it_had() {
    let mut joining = Joining::begin();
    joining.cluster.node(JOINER).kill();
    assert!(joining.arrived() >= BEGUN_BYTES, "a kill removes nothing");
    joining.cluster.node(JOINER).start();
    joining.finish(true);
}

#[test]
fn when_the_sender_is_killed_halfway_the_next_leader_sends_its_own() {
    let mut joining = Joining::begin();
    let leader = joining.leader;
    joining.cluster.node(leader).kill();
    eventually("what was received is removed", PATIENCE, || {
        let log = joining.cluster.nodes[&JOINER].last_log();
        require(log.contains("did not receive a snapshot"), || log)
    });
    // Without the old leader: the other two and the joiner, which counts as soon as it has caught up.
    joining.network.heal(false);
    joining.cluster.node(JOINER).wait_ready();
    let got = joining.cluster.get(JOINER, &key(0));
    assert!(got == Some(value(0)), "{} differs", key(0));
    joining.finish(false);
}
