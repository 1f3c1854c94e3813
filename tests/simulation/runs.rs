//! Runs many seeds, several at a time, and sums up their results.

use crate::plan::{Cuts, Setup};
use crate::run;
use crate::world::{NOW, SECOND, Summary};
use rustix::time::{ClockId, clock_gettime};
use slog::{Drain as _, Logger, o};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {value}")),
    )
}

/// What `RAFTKVD_SIMULATION_CUTS` leaves out.
pub fn cuts() -> Cuts {
    let text = std::env::var("RAFTKVD_SIMULATION_CUTS").unwrap_or_default();
    let cuts: Result<Cuts, String> = text.parse();
    cuts.unwrap_or_else(|error| panic!("RAFTKVD_SIMULATION_CUTS: {error}"))
}

/// The run that the environment names by its seed.
pub fn named() -> Option<Setup> {
    check_planted();
    let Some(seed) = variable("RAFTKVD_SIMULATION_SEED") else {
        say("simulation: set RAFTKVD_SIMULATION_SEED to choose the run");
        return None;
    };
    let cuts = cuts();
    Some(Setup { seed, cuts })
}

/// The command that repeats a run, with everything that the run depends on.
pub fn command(setup: &Setup, test: &str) -> String {
    let (mut text, mut feature) = (String::new(), "");
    if let Ok(mutant) = std::env::var("RAFTKVD_MUTANT") {
        let _ = write!(text, "RAFTKVD_MUTANT={mutant} ");
        feature = "--features mutants ";
    }
    if setup.cuts != Cuts::default() {
        let _ = write!(text, "RAFTKVD_SIMULATION_CUTS='{}' ", setup.cuts);
    }
    let seed = setup.seed;
    text + &format!(
        "RAFTKVD_SIMULATION_SEED={seed} cargo test {feature}--test simulation {test} -- --nocapture"
    )
}

/// A bug that is to be planted exists, and can be: else every seed would fail, or none would meet it.
fn check_planted() {
    #[cfg(feature = "mutants")]
    let _ = raftkvd::mutants::is_planted(raftkvd::mutants::Mutant::ALL[0]);
    #[cfg(not(feature = "mutants"))]
    assert!(
        std::env::var_os("RAFTKVD_MUTANT").is_none(),
        "RAFTKVD_MUTANT needs cargo test --features mutants"
    );
}

/// Runs a seed; an error is what was violated, and where.
pub fn attempt(setup: &Setup) -> Result<Summary, String> {
    #[cfg(feature = "mutants")]
    let _sound = crate::mutants::none_is_planted();
    attempt_as_planted(setup)
}

pub fn attempt_as_planted(setup: &Setup) -> Result<Summary, String> {
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

pub fn quiet() -> Logger {
    Logger::root(slog::Discard, o!())
}

pub fn loud() -> Logger {
    let decorator = slog_term::PlainSyncDecorator::new(std::io::stderr());
    let time =
        |out: &mut dyn std::io::Write| write!(out, "{:.3}", NOW.get() as f64 / SECOND as f64);
    let drain = slog_term::FullFormat::new(decorator);
    let drain = drain.use_custom_timestamp(time).build();
    Logger::root(drain.fuse(), o!())
}

/// Prints to stderr directly: the test harness would capture `eprintln!`.
pub fn say(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// The summed results of many runs.
#[derive(Default)]
pub struct Total {
    seeds: u64,
    /// Processor time of the runs' own threads: other processes may use the machine too.
    processor: Duration,
    simulated: u64,
    operations: u64,
    committed: u64,
    events: u64,
    counts: BTreeMap<&'static str, u64>,
    pub failed: Vec<(u64, String)>,
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
                let setup = Setup::of(seed);
                say(&format!(
                    "simulation: seed {seed} fails: {why}\n  {}\n  {}",
                    command(&setup, "one_seed"),
                    command(&setup, "shrink"),
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

pub fn threads() -> u64 {
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let threads = variable("RAFTKVD_SIMULATION_THREADS").unwrap_or(processors);
    assert!(
        threads > 0,
        "RAFTKVD_SIMULATION_THREADS is 0: no run would start"
    );
    threads
}

/// Runs seeds, as many at a time as there are processors, until there are none or the time is over.
pub fn run_all(next: impl Fn(u64) -> Option<u64> + Sync, end: Option<Instant>) -> Total {
    check_planted();
    let total = Mutex::new(Total::default());
    let taken = AtomicU64::new(0);
    let began = Instant::now();
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
                    let result = attempt(&Setup::of(seed));
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
