//! A cluster whose nodes are killed, stopped, paused, cut off, slowed down, removed and added, move to other ports, lose
//! their disks and get older copies of them, while clients write, read, list and watch: every answer they got has to fit
//! into one order, watchers have to hear of everything once, and all members have to hold the same in the end.
//!
//! One test, and a shorter one with TLS. It runs for one minute among all others, and for five minutes if it is named:
//! `cargo test --test cluster faults::answers -- --nocapture`. `RAFTKVD_FAULTS_SECONDS` sets another time.
//! `RAFTKVD_FAULTS_SEED` repeats the random choices of a run, but not its timing, so a failure may need several tries to
//! come again.
//!
//! | file | |
//! |---|---|
//! | `start` | the first starts, some time apart and in any order |
//! | `nemesis` | what fails, when, and for how long |
//! | `disks` | lost disks and older copies |
//! | `membership` | members removed and added, and what the answers promise |
//! | `moves` | members that go on at another port |
//! | `handovers` | who led in which term |
//! | `watchers`, `spans` | watchers that come back, and what they have to have heard |

mod disks;
pub mod handovers;
mod membership;
mod moves;
mod nemesis;
mod spans;
mod start;
mod watchers;

use crate::checker::{self, Operation, Output};
use crate::clients::{self, Clients, Random};
use crate::harness::{Cluster, PATIENCE, SetOnDrop, eventually, require};
use crate::ports::free_port;
use crate::proxy::{HOST, Network};
use nemesis::{IMPATIENCE, Nemesis};
use spans::Span;
use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};
use watchers::{PREFIXES, Watchers};

const SECONDS: u64 = 60;
const SECONDS_WITH_TLS: u64 = 15;
const SECONDS_ALONE: u64 = 300;
const CLIENTS: u64 = 12;

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text}: no number")),
    )
}

#[test]
fn answers_fit_into_one_order_whatever_fails() {
    check_answers(SECONDS, |_| ());
}

#[test]
fn with_tls_answers_fit_into_one_order_too() {
    check_answers(SECONDS_WITH_TLS, Cluster::secure);
}

/// How long a test runs that takes this time among all others.
fn seconds(among_others: u64) -> u64 {
    let by_name = || {
        let mut arguments = std::env::args().skip(1);
        arguments.any(|argument| argument.contains("faults"))
    };
    from_environment("RAFTKVD_FAULTS_SECONDS").unwrap_or_else(|| match by_name() {
        true => SECONDS_ALONE,
        false => among_others,
    })
}

/// Runs for this time among all other tests. The cluster is not started when it is prepared.
fn check_answers(seconds_among_others: u64, prepare: fn(&mut Cluster)) {
    let seconds = seconds(seconds_among_others);
    let seed = from_environment("RAFTKVD_FAULTS_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed();
        now.expect("the clock is past 1970").as_micros() as u64
    });
    println!("RAFTKVD_FAULTS_SEED={seed} RAFTKVD_FAULTS_SECONDS={seconds}");

    // Snapshots all the time; watchers that pause for a few seconds fall behind; entries are read back from the WAL.
    let flags = "--snapshot-bytes 32768 --log-cache-bytes 512K --request-timeout 2s";
    let flags: Vec<&str> = flags.split(' ').collect();
    let mut cluster = Cluster::prepare_behind(HOST, 3, &flags);
    assert_eq!(cluster.lay_out_joiner(), 4);
    prepare(&mut cluster);
    let ids = cluster.nodes.keys();
    let spare_ports: BTreeMap<u64, u16> = ids.map(|id| (*id, free_port())).collect();
    let first_ports = cluster
        .nodes
        .values()
        .map(|node| (node.id, node.peer_address.port()));
    let ports = first_ports.chain(spare_ports.iter().map(|(id, port)| (*id, *port)));
    let network = Network::start(ports);
    let addresses: Vec<_> = cluster.nodes.values().map(|n| (n.id, n.address)).collect();
    let clients = Clients::new(addresses.clone());
    let watchers = Watchers::new(addresses, &clients.shunned);
    let mut nemesis = Nemesis::new(&mut cluster, &network, &clients, spare_ports, Random(seed));
    let (history, spans) = thread::scope(|scope| {
        let _given_up = SetOnDrop(&watchers.given_up);
        let watching: Vec<_> = (PREFIXES.iter().zip(1..))
            .map(|(prefix, number)| {
                let random = Random(seed ^ (number << 48));
                let watchers = &watchers;
                scope.spawn(move || watchers.run(prefix, random))
            })
            .collect();
        let mut history = clients.run(CLIENTS, seed, || run(&mut nemesis, seconds));
        history.extend(clients.read_all(&nemesis.ids()));
        let (last, index) = clients.write_last(nemesis.ids()[0]);
        history.push(last);
        watchers.end_at(index);
        let spans = watching.into_iter().map(|w| w.join().expect("a watcher"));
        (history, spans.collect::<Vec<_>>())
    });
    nemesis.see_all_lead();
    let Nemesis {
        done,
        kept,
        compared,
        members,
        ..
    } = nemesis;
    let members: Vec<u64> = members.into_iter().collect();
    cluster.assert_hashes_agree(&members);
    let statuses = members.iter().map(|id| cluster.nodes[id].status());
    let snapshots: Vec<u64> = statuses.map(|s| s.expect("status").snapshot).collect();
    let what = format!(
        "{done:?}; {} connections were reset; {compared} hashes compared",
        network.resets()
    );
    println!("{what}; snapshots at {snapshots:?}");
    println!("promises that were met: {kept:?}");
    println!("{}", clients.leaders.check());
    judge(&cluster, members[0], seed, &history, &spans);
    assert!(snapshots.iter().all(|&index| index > 1), "{snapshots:?}");
    // Within a minute the few resets that are drawn may all find connections that nothing is sent on.
    let resets = network.resets();
    assert!(
        resets > 0 || seconds < SECONDS_ALONE,
        "no connection was reset"
    );
}

/// All that happens while clients ask.
fn run(nemesis: &mut Nemesis, seconds: u64) {
    let begin = Instant::now();
    nemesis.start();
    while begin.elapsed() < Duration::from_secs(seconds) {
        nemesis.step();
    }
    nemesis.do_what_is_due();
    nemesis.end_all();
    for id in nemesis.ids() {
        nemesis.cluster.node(id).wait_ready();
    }
    // Some time without faults: members that lag catch up while writes go on.
    nemesis.clients.wait_for_writes(100);
    nemesis.settle(&nemesis.ids());
}

impl Nemesis<'_> {
    /// A member that is called a voter can lead.
    fn see_all_lead(&mut self) {
        for to in self.ids() {
            let via = self.random.pick(&self.ids());
            let asked = (via, self.cluster.address(via));
            eventually("a voter is made leader", PATIENCE, || {
                let answer = self.clients.leaders.ask_for(to, asked, IMPATIENCE);
                let answer = answer.map_err(|error| error.to_string())?;
                require(answer.status == 204, || format!("{answer:?}"))
            });
            self.keep("role voter: it was made leader");
        }
        self.settle(&self.ids());
    }
}

/// Checks that one map explains the history, and that the watchers received its changes.
fn judge(cluster: &Cluster, member: u64, seed: u64, history: &[Operation], spans: &[Vec<Span>]) {
    let count = |wanted: fn(&Output) -> bool| {
        let outputs = history.iter().map(|operation| &operation.output);
        outputs.filter(|output| wanted(output)).count()
    };
    println!(
        "{} operations: {} values read, {} pages listed, {} writes and {} transactions acknowledged, {} and {} that \
         failed their conditions, {} surely not applied, {} without an outcome",
        history.len(),
        count(|o| matches!(o, Output::Value(_))),
        count(|o| matches!(o, Output::Listed { .. })),
        count(|o| matches!(o, Output::Written(_))),
        count(|o| matches!(o, Output::Transacted { .. })),
        count(|o| matches!(o, Output::ConditionFailed(_))),
        count(|o| matches!(o, Output::ChecksFailed(_))),
        count(|o| matches!(o, Output::NotApplied)),
        count(|o| matches!(o, Output::Unknown)),
    );
    let checking = Instant::now();
    let last = spans::read_map(cluster.address(member), "");
    let (_, last) = last.expect("a list after all faults");
    match spans::check(spans, &clients::sent(history), &last) {
        Ok(heard) => println!("{heard}"),
        Err(why) => panic!("seed {seed}: {why}"),
    }
    if let Err(violation) = checker::check(history) {
        panic!("seed {seed}: {violation}");
    }
    println!("checked in {:?}", checking.elapsed());
}
