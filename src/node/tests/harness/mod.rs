//! Whole clusters of nodes in one thread, without sockets and files. Messages, saves and maps are values that the test
//! moves around. So a test decides what is delivered, made durable, applied or lost, and when.
//!
//! A test is a script of the verbs of [`Cluster`]. This file starts, crashes and kills processes. [`network`] lets time
//! pass and delivers messages. [`host`] does the work that a node hands out. [`requests`] holds what clients ask for,
//! [`messages`] what peers say, and [`state`] queries and assertions.

mod host;
mod messages;
mod network;
mod requests;
mod shared;
mod state;

use super::*;
pub use host::{Host, Map};
pub use messages::*;
pub use requests::*;
pub use shared::url;

pub struct Cluster {
    pub hosts: BTreeMap<u64, Host>,
    /// Number of data directories that each id has had.
    lives: BTreeMap<u64, u64>,
    /// The list of first members that the next start gets.
    pub list: BTreeMap<u64, PeerUrl>,
    /// The place of the next process that is started.
    pub moved: Option<PeerUrl>,
    /// Messages under way, the oldest first.
    pub wires: VecDeque<Message>,
    /// Links that lose every message, as (sender, receiver).
    pub cut: Vec<(u64, u64)>,
    /// Bytes of the entries in all appends that were delivered to each member.
    pub append_bytes: BTreeMap<u64, usize>,
    /// The map of each snapshot, by the snapshot's index.
    snapshots: BTreeMap<u64, Map>,
    /// Snapshots under way arrive only when the test says so.
    pub slow_snapshots: bool,
    /// The snapshots under way.
    pub sent: Vec<Message>,
    pub snapshot_bytes: u64,
    pub log_cache_bytes: u64,
    pub pinned_log_bytes: u64,
}

impl Cluster {
    /// A formed cluster of members 1 to `size`. No leader is elected yet.
    pub fn new(size: u64) -> Cluster {
        Cluster::of(Members::of((1..=size).map(|id| (id, url(id), 10 * id))))
    }

    /// A formed cluster of members 1 to `size`, and the id of its leader.
    pub fn elected(size: u64) -> (Cluster, u64) {
        let mut cluster = Cluster::new(size);
        let leader = cluster.elect();
        (cluster, leader)
    }

    /// A cluster of three members that keep little of their log in memory, and the id of its leader.
    pub fn forgetful(snapshot_bytes: u64, pinned_log_bytes: u64) -> (Cluster, u64) {
        let mut cluster = Cluster::new(3);
        cluster.snapshot_bytes = snapshot_bytes;
        cluster.pinned_log_bytes = pinned_log_bytes;
        cluster.log_cache_bytes = 1_000;
        cluster.restart_all();
        let leader = cluster.elect();
        (cluster, leader)
    }

    pub fn of(members: Members) -> Cluster {
        let mut cluster = Cluster {
            hosts: BTreeMap::new(),
            lives: BTreeMap::new(),
            list: members.forming.clone(),
            moved: None,
            wires: VecDeque::new(),
            cut: Vec::new(),
            append_bytes: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            slow_snapshots: false,
            sent: Vec::new(),
            snapshot_bytes: u64::MAX,
            log_cache_bytes: u64::MAX,
            pinned_log_bytes: u64::MAX,
        };
        for id in members.voters() {
            cluster.add_host(id, shared::first_disk(&members));
        }
        cluster
    }

    /// The incarnation of the process with this id, or of the next one if none runs yet.
    pub fn incarnation(&self, id: u64) -> u64 {
        match self.hosts.get(&id).filter(|host| host.node.is_some()) {
            Some(host) => host.incarnation,
            None => 10 * id + self.lives.get(&id).copied().unwrap_or(0),
        }
    }

    /// Starts a process on an empty disk.
    pub fn start_empty(&mut self, id: u64) {
        self.add_host(id, Recovered::default());
    }

    fn add_host(&mut self, id: u64, disk: Recovered) {
        let incarnation = self.incarnation(id);
        *self.lives.entry(id).or_default() += 1;
        self.hosts.insert(id, Host::new(incarnation, disk));
        self.start(id);
    }

    /// Starts the process again with what its disk holds.
    pub fn start(&mut self, id: u64) {
        let host = &self.hosts[&id];
        let settings = NodeSettings {
            boot: host.boot + 1,
            run: 100 * id + host.boot,
            url: Some(self.moved.clone().unwrap_or_else(|| url(id))),
            url_given: true,
            list: self.list.clone(),
            snapshot_bytes: self.snapshot_bytes,
            log_cache_bytes: self.log_cache_bytes,
            pinned_log_bytes: self.pinned_log_bytes,
            ..shared::settings(id, host.incarnation)
        };
        self.host(id).start(settings);
        self.work(id);
    }

    /// Crashes the process: it loses everything that is not on the disk.
    pub fn crash(&mut self, id: u64) {
        self.host(id).node = None;
        self.wires.retain(|m| m.to != id && m.from != id);
    }

    /// Crashes the process, and the hosts of all other members learn of it.
    pub fn kill(&mut self, id: u64) {
        self.crash(id);
        for other in self.running() {
            self.node(other).peer_gone(id);
        }
    }

    pub fn restart(&mut self, id: u64) {
        self.crash(id);
        self.start(id);
    }

    /// A power cut: all processes end before the first of them starts again.
    pub fn restart_all(&mut self) {
        self.crash_all();
        for id in self.ids() {
            self.start(id);
        }
    }

    pub fn crash_all(&mut self) {
        for id in self.ids() {
            self.crash(id);
        }
    }

    pub fn host(&mut self, id: u64) -> &mut Host {
        host_in(&mut self.hosts, id)
    }

    pub fn node(&mut self, id: u64) -> &mut Node {
        self.host(id).node()
    }

    /// Lets the node work until nothing is left to do, apart from what its host is slow at.
    pub fn work(&mut self, id: u64) {
        let host = host_in(&mut self.hosts, id);
        if host.node.is_some() {
            host.work(&mut self.wires, &mut self.snapshots);
        }
    }

    /// Makes one job of a slow disk durable.
    pub fn make_durable(&mut self, id: u64, job: Job) {
        let host = host_in(&mut self.hosts, id);
        host.make_durable(job, &mut self.wires, &self.snapshots);
    }

    pub fn ids(&self) -> Vec<u64> {
        self.hosts.keys().copied().collect()
    }

    pub fn running(&self) -> Vec<u64> {
        let running = self.hosts.iter().filter(|(_, host)| host.node.is_some());
        running.map(|(id, _)| *id).collect()
    }

    /// The ids of all other hosts.
    pub fn others<const N: usize>(&self, id: u64) -> [u64; N] {
        let mut others = self.ids();
        others.retain(|other| *other != id);
        let count = others.len();
        let others = others.try_into();
        others.unwrap_or_else(|_| panic!("there are {count} hosts but {id}, not {N}"))
    }

    /// The lowest id of the other hosts.
    pub fn follower(&self, leader: u64) -> u64 {
        let follower = self.hosts.keys().find(|id| **id != leader);
        *follower.expect("there is another host")
    }
}

fn host_in(hosts: &mut BTreeMap<u64, Host>, id: u64) -> &mut Host {
    let host = hosts.get_mut(&id);
    host.unwrap_or_else(|| panic!("there is no host {id}"))
}

/// The list of first members with which all of them are started.
pub fn list(size: u64) -> BTreeMap<u64, PeerUrl> {
    (1..=size).map(|id| (id, url(id))).collect()
}
