//! What fails, when, and for how long: nodes that are killed, stopped and paused, links that are cut, slow or reset, and the
//! draw that decides whether a member, its place, a disk or the leadership is next.
//!
//! Invariants: at most two faults at one time, of which one may be the network's; a disk is lost, or an older copy put in
//! its place, only when there is no other fault (see `disks`); a member that was started stays alive.

use crate::clients::{Clients, Random};
use crate::harness::{Cluster, PATIENCE};
use crate::process::Status;
use crate::proxy::Network;
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

/// All ids there ever are; one of them is not a member at times.
pub const IDS: [u64; 4] = [1, 2, 3, 4];

/// For what is asked of a node that may be cut off or paused.
pub const IMPATIENCE: Duration = Duration::from_secs(3);

type Act = fn(&mut Nemesis);

/// What every run does at least once, however short it is.
const DUE: [(&str, Act); 6] = [
    ("lost disk", |nemesis| nemesis.lose_disk()),
    ("older copy", |nemesis| nemesis.older_copy()),
    ("reset", |nemesis| nemesis.reset_connections()),
    ("handover", |nemesis| nemesis.hand_over()),
    ("moved", |nemesis| nemesis.move_one()),
    ("remove member", |nemesis| nemesis.change_members()),
];

/// What is wrong at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Down(u64),
    Paused(u64),
    /// Links are cut or slow.
    Network,
}

pub struct Nemesis<'a> {
    pub cluster: &'a mut Cluster,
    pub network: &'a Network,
    pub clients: &'a Clients,
    pub random: Random,
    pub begin: Instant,
    /// The other peer port of each node, to which it can move.
    pub spare_ports: BTreeMap<u64, u16>,
    pub members: BTreeSet<u64>,
    pub faults: Vec<Fault>,
    /// Older copies of the data directories of members.
    pub copies: BTreeMap<u64, PathBuf>,
    /// How many copies were made.
    pub copied: u32,
    /// How often each kind was done.
    pub done: BTreeMap<&'static str, u32>,
    /// How often each promise of the book was met.
    pub kept: BTreeMap<&'static str, u32>,
    /// The first hash seen at each index, and on which node.
    hashes: BTreeMap<u64, (u64, String)>,
    pub compared: u32,
}

impl<'a> Nemesis<'a> {
    pub fn new(
        cluster: &'a mut Cluster,
        network: &'a Network,
        clients: &'a Clients,
        spare_ports: BTreeMap<u64, u16>,
        random: Random,
    ) -> Nemesis<'a> {
        Nemesis {
            spare_ports,
            cluster,
            network,
            clients,
            random,
            begin: Instant::now(),
            members: BTreeSet::from([1, 2, 3]),
            faults: Vec::new(),
            copies: BTreeMap::new(),
            copied: 0,
            done: BTreeMap::new(),
            kept: BTreeMap::new(),
            hashes: BTreeMap::new(),
            compared: 0,
        }
    }

    pub fn say(&mut self, kind: &'static str, what: String) {
        *self.done.entry(kind).or_default() += 1;
        println!("{:8.3} {kind}: {what}", self.begin.elapsed().as_secs_f64());
    }

    pub fn keep(&mut self, promise: &'static str) {
        *self.kept.entry(promise).or_default() += 1;
    }

    /// Does what was not done yet of what every run does.
    pub fn do_what_is_due(&mut self) {
        for (kind, act) in DUE {
            while !self.done.contains_key(kind) {
                act(self);
                self.observe();
            }
        }
    }

    /// One more fault, or one less, and some time with it.
    pub fn step(&mut self) {
        let is_well = self.faults.is_empty();
        let ending = self.faults.len() >= 2 || (!is_well && self.random.one_in(2));
        match self.random.below(26) {
            0..3 if self.faults.len() <= 1 => self.change_members(),
            3..6 if is_well => self.lose_disk(),
            6..9 if is_well => self.older_copy(),
            9..12 => self.reset_connections(),
            12..14 => self.hand_over(),
            14 => self.move_one(),
            15 if is_well => self.move_all(),
            _ if ending => {
                let at = self.random.below(self.faults.len() as u64) as usize;
                let fault = self.faults.remove(at);
                self.end(fault);
            }
            _ => self.begin_fault(),
        }
        let most = Duration::from_millis(1_800);
        thread::park_timeout(self.random.between(Duration::from_millis(100), most));
        self.observe();
    }

    pub fn ids(&self) -> Vec<u64> {
        self.members.iter().copied().collect()
    }

    /// Members that run, and do so undisturbed but for the network.
    pub fn running(&self) -> Vec<u64> {
        let mut ids = self.cluster.running();
        ids.retain(|id| self.members.contains(id));
        ids
    }

    /// Mostly the leader, if there is one.
    pub fn victim(&mut self) -> u64 {
        let running = self.running();
        let leader = running
            .iter()
            .filter_map(|&id| Status::of(self.cluster.address(id), IMPATIENCE).ok())
            .filter(|status| status.role == "leader")
            .max_by_key(|status| status.term);
        match leader {
            Some(leader) if !self.random.one_in(3) => leader.id,
            _ => self.random.pick(&running),
        }
    }

    fn begin_fault(&mut self) {
        if self.running().is_empty() {
            return;
        }
        let victim = self.victim();
        let network_is_well = !self.faults.contains(&Fault::Network);
        match self.random.below(9) {
            0 | 1 => {
                self.cluster.node(victim).kill();
                self.faults.push(Fault::Down(victim));
                self.say("kill -9", format!("node {victim}"));
            }
            2 => {
                let all = self.running();
                for &id in &all {
                    self.cluster.node(id).kill();
                    self.cluster.node(id).start();
                }
                self.say("kill -9 of all at once", format!("nodes {all:?}"));
            }
            3 | 4 => {
                self.cluster.node(victim).pause();
                self.faults.push(Fault::Paused(victim));
                self.say("SIGSTOP", format!("node {victim}"));
            }
            8 => {
                let node = self.cluster.node(victim);
                node.signal(Signal::TERM);
                let code = node.exit_code(PATIENCE);
                assert_eq!(code, Some(0), "SIGTERM; it said:\n{}", node.last_log());
                self.faults.push(Fault::Down(victim));
                self.say("SIGTERM", format!("node {victim}"));
                self.keep("exit 0: stopped by SIGTERM");
            }
            kind if network_is_well => {
                self.faults.push(Fault::Network);
                self.trouble_network(kind, victim);
            }
            _ => {}
        }
    }

    fn trouble_network(&mut self, kind: u64, victim: u64) {
        let others: Vec<u64> = IDS.into_iter().filter(|&id| id != victim).collect();
        match kind {
            5 => {
                for &other in &others {
                    self.network.cut(victim, other);
                    self.network.cut(other, victim);
                }
                self.say("partition", format!("node {victim} from all others"));
            }
            6 => {
                // What it hears or what it says, with all others or with one.
                let hears = self.random.one_in(2);
                let one = self.random.pick(&others);
                let all = self.random.one_in(2);
                for &other in others.iter().filter(|&&other| all || other == one) {
                    match hears {
                        true => self.network.cut(other, victim),
                        false => self.network.cut(victim, other),
                    }
                }
                let to = if all { others } else { vec![one] };
                let way = if hears { "from" } else { "to" };
                self.say("one-way cut", format!("node {victim}, {way} {to:?}"));
            }
            _ => {
                let least = Duration::from_millis(5);
                let by = self.random.between(least, Duration::from_millis(400));
                for &other in &others {
                    self.network.delay(victim, other, by);
                    self.network.delay(other, victim, by / 2);
                }
                self.say("delay", format!("node {victim} by {by:?}"));
            }
        }
    }

    /// The connections between a member and another one break with a RST, now or in the middle of what comes next.
    fn reset_connections(&mut self) {
        let running = self.running();
        if running.is_empty() {
            return;
        }
        let one = self.victim();
        let all = self.random.one_in(2);
        let others: Vec<u64> = IDS.into_iter().filter(|&id| id != one).collect();
        let other = self.random.pick(&others);
        let after = match self.random.one_in(2) {
            true => 0,
            false => 1 + self.random.below(8 << 10) as usize,
        };
        let hit = others.iter().filter(|&&o| all || o == other);
        let count: usize = hit.map(|&o| self.network.reset(one, o, after)).sum();
        let what = format!("{count} connections of node {one}, {after} bytes from now");
        self.say("reset", what);
    }

    /// Some member is asked to hand leadership to some id, which may not even be a member.
    fn hand_over(&mut self) {
        let running = self.running();
        if running.is_empty() {
            return;
        }
        let via = self.random.pick(&running);
        let to = self.random.pick(&IDS);
        let asked = (via, self.cluster.address(via));
        let answer = self.clients.leaders.ask_for(to, asked, IMPATIENCE);
        let told = answer.map_or_else(|e| e.to_string(), |r| format!("{} {}", r.status, r.text()));
        self.say(
            "handover",
            format!("to {to} through {via}: {}", told.trim_end()),
        );
    }

    fn end(&mut self, fault: Fault) {
        match fault {
            Fault::Down(id) => {
                if self.random.one_in(2) {
                    self.copy_data(id);
                }
                self.cluster.node(id).start();
            }
            Fault::Paused(id) => self.cluster.node(id).resume(),
            Fault::Network => {
                let breaking = self.random.one_in(2);
                self.network.heal(breaking);
            }
        }
        self.say("end of", format!("{fault:?}"));
    }

    pub fn end_all(&mut self) {
        for fault in std::mem::take(&mut self.faults) {
            self.end(fault);
        }
    }

    /// No process that should run has ended, maps at equal indexes are equal, and each term has one leader.
    pub fn observe(&mut self) {
        for id in self.running() {
            self.cluster.node(id).assert_alive();
            if let Ok(status) = Status::of(self.cluster.address(id), IMPATIENCE) {
                self.clients.leaders.note(&status);
            }
            // It may have been started just now.
            let Ok((index, hash)) = self.cluster.nodes[&id].hash() else {
                continue;
            };
            match self.hashes.get(&index) {
                None => {
                    self.hashes.insert(index, (id, hash));
                }
                Some((other, known)) => {
                    assert_eq!(&hash, known, "at {index}: nodes {id} and {other} differ");
                    self.compared += u32::from(id != *other);
                }
            }
        }
    }
}
