//! Whole clusters in one thread, under every fault that we could think of, with one seed that decides everything.
//!
//! What is real: the node, raft, the WAL, snapshots, `meta`, the store, the apply thread's loop, the inbox, and the
//! judgement of handshakes. What is simulated: time, the disk (`disk.rs`), the network (`network.rs`), and when each
//! of a member's threads takes its next step (`world.rs`). What has to hold is in `oracle.rs` and, at the end, in
//! `run.rs`.
//!
//! `RAFTKVD_SIMULATION_SECONDS` says for how long random seeds are run (default 60), `RAFTKVD_SIMULATION_BASE` with
//! which to begin (default: drawn from the clock), so that several processes can work side by side,
//! `RAFTKVD_SIMULATION_SEED` runs one seed only, with a log, and `RAFTKVD_SIMULATION_THREADS` says how many runs go on
//! at the same time.

mod backups;
mod changes;
#[path = "../linearizability/checker/mod.rs"]
mod checker;
mod clients;
mod commands;
mod disk;
mod faults;
mod handovers;
mod lists;
mod lives;
mod mix;
#[cfg(feature = "mutants")]
mod mutants;
mod network;
mod operator;
mod oracle;
mod plan;
mod ports;
mod process;
mod run;
mod watchers;
mod world;
mod written;

use plan::{Known, Setup};
use rustix::time::{ClockId, clock_gettime};
use slog::{Drain as _, Logger, o};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use world::{NOW, SECOND, Summary};

/// Seeds that are always run: those that once showed a bug, and a few that cover much.
const SEEDS: &str = include_str!("seeds.txt");

fn seeds() -> Vec<u64> {
    let lines = SEEDS
        .lines()
        .map(|line| line.split('#').next().unwrap_or(""));
    let seeds = lines.map(str::trim).filter(|line| !line.is_empty());
    seeds
        .map(|seed| seed.parse().expect("a seed is a number"))
        .collect()
}

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {value}")),
    )
}

/// Known faults whose ways the runs may meet.
fn known_faults() -> BTreeSet<Known> {
    let names = std::env::var("RAFTKVD_SIMULATION_KNOWN").unwrap_or_default();
    Known::parse(&names).unwrap_or_else(|error| panic!("RAFTKVD_SIMULATION_KNOWN: {error}"))
}

/// Runs a seed; an error is what was violated, and where.
fn run(setup: &Setup) -> Result<Summary, String> {
    #[cfg(feature = "mutants")]
    let _sound = mutants::none_is_planted();
    run_as_planted(setup)
}

fn run_as_planted(setup: &Setup) -> Result<Summary, String> {
    let run = || run::run(setup, false, &quiet());
    panic::catch_unwind(AssertUnwindSafe(run)).map_err(|cause| {
        let text = cause.downcast_ref::<String>().cloned();
        let text = text.or_else(|| cause.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        text.unwrap_or_else(|| "it panicked without a text".to_owned())
    })
}

/// Of this thread.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.try_into().expect("a thread's time is not negative")
}

fn quiet() -> Logger {
    Logger::root(slog::Discard, o!())
}

fn loud() -> Logger {
    let decorator = slog_term::PlainSyncDecorator::new(std::io::stderr());
    let time =
        |out: &mut dyn std::io::Write| write!(out, "{:.3}", NOW.get() as f64 / SECOND as f64);
    let drain = slog_term::FullFormat::new(decorator);
    let drain = drain.use_custom_timestamp(time).build();
    Logger::root(drain.fuse(), o!())
}

/// Past the harness, which would keep it to itself.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// What many runs came to.
#[derive(Default)]
struct Total {
    seeds: u64,
    /// What the threads of the runs have used: others may use the machine at the same time.
    processor: Duration,
    simulated: u64,
    operations: u64,
    committed: u64,
    events: u64,
    counts: BTreeMap<&'static str, u64>,
    failed: Vec<(u64, String)>,
}

impl Total {
    fn add(&mut self, seed: u64, result: Result<Summary, String>, processor: Duration) {
        self.seeds += 1;
        match result {
            Ok(summary) => {
                self.processor += processor;
                self.simulated += summary.simulated;
                self.operations += summary.operations;
                self.committed += summary.committed;
                self.events += summary.events;
                for (name, count) in summary.counts {
                    *self.counts.entry(name).or_default() += count;
                }
            }
            Err(why) => {
                say(&format!(
                    "simulation: seed {seed} fails: {why}\n  \
                     RAFTKVD_SIMULATION_SEED={seed} cargo test --test simulation one_seed -- --nocapture"
                ));
                self.failed.push((seed, why));
            }
        }
    }

    fn report(&self, real: Duration) -> String {
        let hours = self.simulated as f64 / (3600 * SECOND) as f64;
        let mut text = format!(
            "simulation: {} seeds, {hours:.2} cluster-hours in {} s; {} operations checked, {} entries committed, \
             {} events",
            self.seeds,
            real.as_secs(),
            self.operations,
            self.committed,
            self.events,
        );
        let processor = self.processor.as_secs_f64();
        // 24 hours are a day, and 8766 a year.
        let _ = write!(
            text,
            "\nsimulation: {:.2} years of cluster time per processor and day; {:.0} operations checked a second per \
             processor",
            hours * 3600.0 / processor * 24.0 / 8766.0,
            self.operations as f64 / processor,
        );
        for (name, count) in &self.counts {
            let _ = write!(text, "\n  {count:>9} {name}");
        }
        let _ = write!(text, "\nsimulation: {} seeds failed", self.failed.len());
        text
    }
}

fn threads() -> u64 {
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    variable("RAFTKVD_SIMULATION_THREADS").unwrap_or(processors)
}

/// Runs seeds, as many at a time as there are processors, until there are none or the time is over.
fn run_all(next: impl Fn(u64) -> Option<u64> + Sync, end: Option<Instant>) -> Total {
    let total = Mutex::new(Total::default());
    let taken = AtomicU64::new(0);
    let began = Instant::now();
    let known = known_faults();
    // Panics are reported with their seed, and once.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                while end.is_none_or(|end| Instant::now() < end) {
                    let Some(seed) = next(taken.fetch_add(1, Ordering::Relaxed)) else {
                        return;
                    };
                    let before = processor_time();
                    let result = run(&Setup::of(seed, &known));
                    let processor = processor_time() - before;
                    total
                        .lock()
                        .expect("adding does not panic")
                        .add(seed, result, processor);
                }
            });
        }
    });
    panic::set_hook(hook);
    let total = total.into_inner().expect("adding does not panic");
    say(&total.report(began.elapsed()));
    total
}

fn assert_none_failed(total: &Total) {
    let failed: Vec<u64> = total.failed.iter().map(|(seed, _)| *seed).collect();
    assert!(failed.is_empty(), "these seeds fail: {failed:?}");
}

#[test]
fn kept_seeds_hold() {
    let seeds = seeds();
    let total = run_all(|at| seeds.get(at as usize).copied(), None);
    assert_none_failed(&total);
}

#[test]
fn random_seeds_hold() {
    let seconds = variable("RAFTKVD_SIMULATION_SECONDS").unwrap_or(60);
    let clock = SystemTime::now().duration_since(UNIX_EPOCH);
    let drawn = clock.map_or(0, |clock| clock.as_secs() * 1_000);
    let base = variable("RAFTKVD_SIMULATION_BASE").unwrap_or(drawn);
    say(&format!(
        "simulation: seeds from {base} on, for {seconds} s"
    ));
    let end = Instant::now() + Duration::from_secs(seconds);
    let total = run_all(|at| Some(base + at), Some(end));
    assert_none_failed(&total);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 1..=8 {
        let setup = Setup::of(seed, &BTreeSet::new());
        assert_eq!(run(&setup), run(&setup), "seed {seed}");
    }
}

/// For long runs of known seeds.
#[test]
fn many_seeds() {
    if let Some(count) = variable("RAFTKVD_SIMULATION_SEEDS") {
        let base = variable("RAFTKVD_SIMULATION_BASE").unwrap_or(1);
        let total = run_all(|at| (at < count).then(|| base + at), None);
        assert_none_failed(&total);
    }
}

#[test]
fn one_seed() {
    if let Some(seed) = variable("RAFTKVD_SIMULATION_SEED") {
        let logger = match variable("RAFTKVD_SIMULATION_LOG") {
            Some(_) => loud(),
            None => quiet(),
        };
        let summary = run::run(&Setup::of(seed, &known_faults()), true, &logger);
        say(&format!("simulation: seed {seed} holds: {summary:#?}"));
    }
}
