//! The node by itself: three of them in one thread, without sockets, disks and maps. What they do in a second bounds
//! what a raft thread can do, and a change to the node shows here before it drowns in the noise of a whole cluster.
//!
//! `cargo bench --bench node [SECONDS]`. A pass is that of the raft loop: a node takes all that waits for it, then works
//! off its outputs; what it wants to be durable or applied is so at once. All three run one after the other, so a
//! member of a real cluster does about three times as much. Rounds alternate between all figures; medians are printed.

// What it prints is for whoever runs it.
#![allow(clippy::print_stdout)]

#[path = "../src/node/tests/harness/shared.rs"]
mod shared;

use futures_channel::oneshot;
use raft::eraftpb::{HardState, Message};
use raftkvd::channels::commit::Commit;
use raftkvd::channels::notice::{Received, SnapshotWritten};
use raftkvd::command::outcome::{NotProposed, Outcome};
use raftkvd::command::proposal::{Proposal, Read};
use raftkvd::command::{Command, ReplicatedState};
use raftkvd::members::Members;
use raftkvd::node::{Job, Node, NodeSettings};
use raftkvd::peer_url::PeerUrl;
use raftkvd::storage::{Recovered, SnapshotMeta};
use shared::{ELECTION_TICKS, VALUE_BYTES};
use slog::Logger;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Requests that wait at one time.
const OUTSTANDING: [usize; 3] = [1, 16, 256];
const ROUNDS: usize = 5;
const SIZE: u64 = 3;
const KEYS: usize = 10_000;
/// As in the daemon, by default: without snapshots the log would outgrow the memory.
const SNAPSHOT_BYTES: u64 = 64 << 20;
/// Likewise.
const LOG_CACHE_BYTES: u64 = 64 << 20;
/// No time passes after the election, so any will do.
const DEADLINE_TICKS: u64 = 1_000;

/// A figure: what is asked, and of whom.
#[derive(Clone, Copy)]
enum Load {
    Commands { through_leader: bool },
    Reads { through_leader: bool },
}

const LOADS: [(&str, Load); 4] = [
    (
        "commands/s, leader",
        Load::Commands {
            through_leader: true,
        },
    ),
    (
        "commands/s, follower",
        Load::Commands {
            through_leader: false,
        },
    ),
    (
        "reads/s, leader",
        Load::Reads {
            through_leader: true,
        },
    ),
    (
        "reads/s, follower",
        Load::Reads {
            through_leader: false,
        },
    ),
];

fn main() {
    let seconds = std::env::args()
        .find_map(|argument| argument.parse::<f64>().ok())
        .unwrap_or(1.0);
    let budget = Duration::from_secs_f64(seconds / ROUNDS as f64);
    let mut cluster = Cluster::new();
    println!("{SIZE} nodes in one thread, values of {VALUE_BYTES} B, {seconds} s each");
    print!("outstanding");
    for (name, _) in LOADS {
        print!("{name:>22}");
    }
    println!();
    for outstanding in OUTSTANDING {
        let mut rates = LOADS.map(|_| Vec::new());
        for _ in 0..ROUNDS {
            for ((_, load), rates) in LOADS.into_iter().zip(&mut rates) {
                rates.push(cluster.measure(load, outstanding, budget));
            }
        }
        print!("{outstanding:>11}");
        for mut rates in rates {
            rates.sort_by(f64::total_cmp);
            print!("{:>22.0}", rates[ROUNDS / 2]);
        }
        println!();
    }
}

struct Host {
    node: Node,
    inbox: Vec<Message>,
    jobs: VecDeque<Job>,
}

struct Cluster {
    /// That of member 1 first.
    hosts: Vec<Host>,
    leader: usize,
    next_key: usize,
}

impl Cluster {
    fn new() -> Cluster {
        let members = Members::of((1..=SIZE).map(|id| (id, shared::url(id), id)));
        let hosts = (1..=SIZE).map(|id| {
            let settings = NodeSettings {
                snapshot_bytes: SNAPSHOT_BYTES,
                log_cache_bytes: LOG_CACHE_BYTES,
                ..shared::settings(id, id)
            };
            Host {
                node: shared::node(settings, shared::first_disk(&members)),
                inbox: Vec::new(),
                jobs: VecDeque::new(),
            }
        });
        let mut cluster = Cluster {
            hosts: hosts.collect(),
            leader: 0,
            next_key: 0,
        };
        cluster.elect();
        cluster
    }

    fn elect(&mut self) {
        // So long that whoever is elected has also told everybody.
        for _ in 0..10 * ELECTION_TICKS {
            for host in &mut self.hosts {
                host.node.tick();
            }
            self.settle();
        }
        let leader = self.hosts.iter().position(|host| host.node.is_leader());
        self.leader = leader.expect("a leader was elected");
    }

    /// Requests per second, so many of which wait at one time.
    fn measure(&mut self, load: Load, outstanding: usize, budget: Duration) -> f64 {
        let begun = Instant::now();
        let mut answered = 0;
        while begun.elapsed() < budget {
            match load {
                Load::Commands { through_leader } => self.write(through_leader, outstanding),
                Load::Reads { through_leader } => self.read(through_leader, outstanding),
            }
            answered += outstanding;
        }
        answered as f64 / begun.elapsed().as_secs_f64()
    }

    fn write(&mut self, through_leader: bool, count: usize) {
        let place = self.place(through_leader);
        let node = &mut self.hosts[place].node;
        let mut receivers = Vec::with_capacity(count);
        for _ in 0..count {
            self.next_key = (self.next_key + 1) % KEYS;
            let command = shared::put(format!("key-{:05}", self.next_key));
            receivers.push(shared::propose(node, command, DEADLINE_TICKS));
        }
        self.work(place);
        self.settle();
        for mut receiver in receivers {
            let outcome = receiver.try_recv();
            assert!(
                matches!(outcome, Ok(Some(Outcome::Applied { .. }))),
                "a command that came to nothing: {outcome:?}"
            );
        }
    }

    fn read(&mut self, through_leader: bool, count: usize) {
        let place = self.place(through_leader);
        let node = &mut self.hosts[place].node;
        let mut receivers = Vec::with_capacity(count);
        for _ in 0..count {
            receivers.push(shared::read(node, DEADLINE_TICKS));
        }
        self.work(place);
        self.settle();
        for mut receiver in receivers {
            let outcome = receiver.try_recv();
            assert!(
                matches!(outcome, Ok(Some(Ok(())))),
                "a read that came to nothing: {outcome:?}"
            );
        }
    }

    fn place(&self, through_leader: bool) -> usize {
        match through_leader {
            true => self.leader,
            false => (self.leader + 1) % self.hosts.len(),
        }
    }

    /// Until no message is under way.
    fn settle(&mut self) {
        for place in 0..self.hosts.len() {
            self.work(place);
        }
        while self.hosts.iter().any(|host| !host.inbox.is_empty()) {
            for place in 0..self.hosts.len() {
                let messages = std::mem::take(&mut self.hosts[place].inbox);
                if messages.is_empty() {
                    continue;
                }
                for message in messages {
                    // Its incarnation is its id.
                    let bound = Some(message.from);
                    self.hosts[place].node.step(Received { message, bound });
                }
                self.work(place);
            }
        }
    }

    /// Works off what a node wants done.
    fn work(&mut self, place: usize) {
        loop {
            let Host { node, jobs, .. } = &mut self.hosts[place];
            let mut messages = Vec::new();
            while let Some(output) = node.ready() {
                messages.extend(output.messages);
                jobs.extend(output.job);
                for commit in output.commits {
                    jobs.extend(apply(node, commit));
                }
            }
            let job = jobs.pop_front();
            let idle = job.is_none();
            if let Some(job) = job {
                node.persisted(job.number);
                messages.extend(job.messages);
            }
            for message in messages {
                self.hosts[message.to as usize - 1].inbox.push(message);
            }
            if idle {
                return;
            }
        }
    }
}

/// What the apply and the snapshot thread do, but for the map.
fn apply(node: &mut Node, commit: Commit) -> Option<Job> {
    match commit {
        Commit::Apply(apply) => {
            for (_, reply) in apply.commands {
                if let Some(reply) = reply {
                    let index = apply.index;
                    reply
                        .send(Outcome::Applied { index })
                        .expect("it is waited for");
                }
            }
            node.applied(apply.index, apply.bytes);
            None
        }
        Commit::Read(replies) => {
            for reply in replies {
                reply.send(Ok(())).expect("it is waited for");
            }
            None
        }
        Commit::Snapshot(meta) => node.snapshot_written(SnapshotWritten {
            meta: *meta,
            bytes: 1,
        }),
        other => panic!("nobody lags behind or asks for the map: {other:?}"),
    }
}
