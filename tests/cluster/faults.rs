//! A cluster whose nodes are killed, paused, cut off, slowed down, removed and added, while clients write and read:
//! every answer they got has to fit into one order, and all members have to hold the same in the end.
//!
//! One test: a minute among all others, five when it is asked for by name: `cargo test --test cluster faults:: --
//! --nocapture`. `RAFTKVD_FAULTS_SECONDS` says otherwise, and `RAFTKVD_FAULTS_SEED` repeats the choices of a run, though
//! not its timing.

use crate::checker::{self, Operation, Output};
use crate::clients::{Clients, Random};
use crate::harness::{Cluster, PATIENCE};
use crate::http::{Connection, Response};
use crate::proxy::{HOST, Network};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

const SECONDS: u64 = 60;
const SECONDS_ALONE: u64 = 300;
const CLIENTS: u64 = 12;

/// All ids there ever are; one of them is not a member at times.
const IDS: [u64; 4] = [1, 2, 3, 4];

/// For what is asked of a node that may be cut off or paused.
const IMPATIENCE: Duration = Duration::from_secs(3);
/// A change of members that has no outcome after this long gets all faults ended.
const CHANGE_PATIENCE: Duration = Duration::from_secs(6);

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text}: no number")),
    )
}

/// What is wrong at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Down(u64),
    Paused(u64),
    /// Links are cut or slow.
    Network,
}

struct Nemesis<'a> {
    cluster: &'a mut Cluster,
    network: &'a Network,
    random: Random,
    begin: Instant,
    members: BTreeSet<u64>,
    faults: Vec<Fault>,
    /// How often each kind was done.
    done: BTreeMap<&'static str, u32>,
    /// The first hash seen at each index, and on which node.
    hashes: BTreeMap<u64, (u64, String)>,
    compared: u32,
}

impl Nemesis<'_> {
    fn say(&mut self, kind: &'static str, what: String) {
        *self.done.entry(kind).or_default() += 1;
        println!("{:8.3} {kind}: {what}", self.begin.elapsed().as_secs_f64());
    }

    /// One more fault, or one less, and some time with it.
    fn step(&mut self) {
        let changing = self.faults.len() <= 1 && self.random.one_in(8);
        let ending = self.faults.len() >= 2 || (!self.faults.is_empty() && self.random.one_in(2));
        if changing {
            self.change_members();
        } else if ending {
            let at = self.random.below(self.faults.len() as u64) as usize;
            let fault = self.faults.remove(at);
            self.end(fault);
        } else {
            self.begin_fault();
        }
        let most = Duration::from_millis(1_800);
        thread::park_timeout(self.random.between(Duration::from_millis(100), most));
        self.observe();
    }

    /// Members that run, and do so undisturbed but for the network.
    fn running(&self) -> Vec<u64> {
        let mut ids = self.cluster.running();
        ids.retain(|id| self.members.contains(id));
        ids
    }

    /// Mostly the leader, if there is one.
    fn victim(&mut self) -> u64 {
        let running = self.running();
        let leader = running
            .iter()
            .filter_map(|id| self.cluster.nodes[id].status().ok())
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
        match self.random.below(8) {
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

    fn end(&mut self, fault: Fault) {
        match fault {
            Fault::Down(id) => self.cluster.node(id).start(),
            Fault::Paused(id) => self.cluster.node(id).resume(),
            Fault::Network => {
                let breaking = self.random.one_in(2);
                self.network.heal(breaking);
            }
        }
        self.say("end of", format!("{fault:?}"));
    }

    fn end_all(&mut self) {
        for fault in std::mem::take(&mut self.faults) {
            self.end(fault);
        }
    }

    /// Adds the one that is missing, or removes one.
    fn change_members(&mut self) {
        let missing = IDS.into_iter().find(|id| !self.members.contains(id));
        if let Some(id) = missing {
            let url = self.cluster.nodes[&id].url();
            self.say("add member", format!("node {id}"));
            self.until_decided("POST", id, url.as_bytes(), &[204]);
            let node = self.cluster.node(id);
            if !node.arguments.iter().any(|a| a == "--join") {
                node.arguments.push("--join".to_owned());
            }
            node.start();
            self.members.insert(id);
            return;
        }
        let running = self.running();
        if running.is_empty() {
            return;
        }
        let id = self.random.pick(&running);
        self.say("remove member", format!("node {id}"));
        // 404: it went through at an earlier attempt whose outcome was unknown.
        self.until_decided("DELETE", id, b"", &[204, 404]);
        self.members.remove(&id);
        self.end_all();
        let node = self.cluster.node(id);
        let code = node.exit_code(PATIENCE);
        assert_eq!(code, Some(0), "removed; it said:\n{}", node.last_log());
        node.wipe();
    }

    /// Sends a change through members until one of them knows that it is made.
    fn until_decided(&mut self, method: &str, id: u64, body: &[u8], made: &[u16]) {
        let begin = Instant::now();
        let mut last = String::new();
        loop {
            let waited = begin.elapsed();
            assert!(
                waited < CHANGE_PATIENCE + PATIENCE,
                "{method} /{id}: {last}"
            );
            if waited > CHANGE_PATIENCE {
                self.end_all();
            }
            let running = self.running();
            if running.is_empty() {
                thread::park_timeout(Duration::from_millis(50));
                continue;
            }
            let via = self.random.pick(&running);
            let address = self.cluster.address(via);
            let answer: std::io::Result<Response> = Connection::impatient(address, IMPATIENCE)
                .and_then(|mut c| c.send(method, &format!("/{id}"), &[], body));
            match answer {
                Ok(response) if made.contains(&response.status) => return,
                Ok(response) => {
                    let retry = [409, 503, 504].contains(&response.status);
                    assert!(retry, "{method} /{id} through {via}: {response:?}");
                    last = format!("{response:?}");
                }
                Err(error) => last = error.to_string(),
            }
            thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// Nobody ended who should run, and maps at equal indexes are equal.
    fn observe(&mut self) {
        for id in self.running() {
            self.cluster.node(id).assert_alive();
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

#[test]
fn answers_fit_into_one_order_whatever_fails() {
    let seconds = from_environment("RAFTKVD_FAULTS_SECONDS").unwrap_or_else(|| {
        let by_name = std::env::args()
            .skip(1)
            .any(|argument| argument.contains("faults"));
        if by_name { SECONDS_ALONE } else { SECONDS }
    });
    let seed = from_environment("RAFTKVD_FAULTS_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed();
        now.expect("the clock is past 1970").as_micros() as u64
    });
    println!("RAFTKVD_FAULTS_SEED={seed} RAFTKVD_FAULTS_SECONDS={seconds}");

    let flags = ["--snapshot-bytes", "32768", "--request-timeout", "2s"];
    let mut cluster = Cluster::prepare_behind(HOST, 3, &flags);
    assert_eq!(cluster.lay_out_joiner(), 4);
    let peers = cluster.nodes.values();
    let network = Network::start(peers.map(|node| (node.id, node.peer_address.port())));
    for id in 1..=3 {
        cluster.node(id).start();
    }
    for id in 1..=3 {
        cluster.node(id).wait_ready();
    }
    let clients = Clients::new(cluster.nodes.values().map(|n| (n.id, n.address)).collect());
    let begin = Instant::now();
    let mut nemesis = Nemesis {
        cluster: &mut cluster,
        network: &network,
        random: Random(seed),
        begin,
        members: BTreeSet::from([1, 2, 3]),
        faults: Vec::new(),
        done: BTreeMap::new(),
        hashes: BTreeMap::new(),
        compared: 0,
    };
    let mut history = clients.run(CLIENTS, seed, || {
        while begin.elapsed() < Duration::from_secs(seconds) {
            nemesis.step();
        }
        nemesis.end_all();
        for id in nemesis.members.clone() {
            nemesis.cluster.node(id).wait_ready();
        }
        // Some time without faults: whoever lags catches up while writes go on.
        let before = clients.acknowledged.load(SeqCst);
        crate::harness::eventually("writes go on", PATIENCE, || {
            let now = clients.acknowledged.load(SeqCst);
            crate::harness::require(now > before + 100, || format!("{before}, {now}"))
        });
    });
    let (done, compared) = (nemesis.done.clone(), nemesis.compared);
    let members: Vec<u64> = nemesis.members.iter().copied().collect();
    history.extend(clients.read_all(&members));
    cluster.assert_hashes_agree(&members);
    let snapshots: Vec<u64> = members
        .iter()
        .map(|id| cluster.nodes[id].status().expect("status").snapshot)
        .collect();

    let count = |wanted: fn(&Output) -> bool| {
        history
            .iter()
            .filter(|o: &&Operation| wanted(&o.output))
            .count()
    };
    println!(
        "{} operations: {} values read, {} writes acknowledged, {} conditions failed, {} surely not applied, {} \
         without an outcome; {compared} hashes compared; snapshots at {snapshots:?}; {done:?}",
        history.len(),
        count(|o| matches!(o, Output::Value(_))),
        count(|o| matches!(o, Output::Written(_))),
        count(|o| matches!(o, Output::ConditionFailed(_))),
        count(|o| matches!(o, Output::NotApplied)),
        count(|o| matches!(o, Output::Unknown)),
    );
    let checking = Instant::now();
    if let Err(violation) = checker::check(&history) {
        panic!("seed {seed}: {violation}");
    }
    println!("checked in {:?}", checking.elapsed());
    assert!(snapshots.iter().all(|&index| index > 1), "{snapshots:?}");
}
