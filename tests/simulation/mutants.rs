//! Every planted bug (`raftkvd::mutants`) has to be noticed, or the simulation proves less than it claims.
//!
//! One bug after the other is planted in the whole process, and the seeds 1, 2, 3, ... are run with it, several at a
//! time, until one fails. `RAFTKVD_MUTANTS` names the bugs to try, separated by commas (default: all). With
//! `RAFTKVD_SIMULATION_SEEDS=N` the test runs the seeds 1 to N with each bug and counts how many seeds fail.
//!
//! To replay one seed with one bug:
//!
//! ```text
//! RAFTKVD_MUTANT=early-vote RAFTKVD_SIMULATION_SEED=2 \
//!     cargo test --features mutants --test simulation one_seed -- --nocapture
//! ```
//!
//! The run fails: seed 2 notices this bug. Without `--features mutants` the variable has no effect, and the run holds.

use crate::plan::Setup;
use crate::runs::{attempt_as_planted, say, threads, variable};
use raftkvd::mutants::{Mutant, plant};
use std::collections::BTreeMap;
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

/// Seeds that are tried with each bug: a bug that none of them notices is missed.
const SEEDS_MAX: u64 = 3000;

/// Write-locked while a bug is planted, read-locked by tests that run seeds without a planted bug.
static PLANTING: RwLock<()> = RwLock::new(());

/// Waits until no bug is planted, and keeps it so.
pub fn none_is_planted() -> RwLockReadGuard<'static, ()> {
    // A poisoned lock is harmless here: it guards no data.
    PLANTING.read().unwrap_or_else(PoisonError::into_inner)
}

/// Plants a bug for as long as it lives.
struct Planted;

impl Planted {
    fn new(mutant: Mutant) -> Planted {
        plant(Some(mutant));
        Planted
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        plant(None);
    }
}

/// The results of the seeds that ran with one bug.
struct Tried {
    seeds: u64,
    /// Why seeds failed, by seed.
    caught: BTreeMap<u64, String>,
    took: Duration,
}

/// Runs the seeds from 1 to `most`, or from 1 until one has failed. Which one that is does not depend on the threads: no
/// seed is begun before all below it were.
fn try_seeds(most: u64, until_caught: bool) -> Tried {
    let began = Instant::now();
    let taken = AtomicU64::new(0);
    let is_caught = AtomicBool::new(false);
    let caught = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                while !(until_caught && is_caught.load(Ordering::Relaxed)) {
                    let seed = 1 + taken.fetch_add(1, Ordering::Relaxed);
                    if seed > most {
                        return;
                    }
                    if let Err(why) = attempt_as_planted(&Setup::of(seed)) {
                        is_caught.store(true, Ordering::Relaxed);
                        let mut caught = caught.lock().expect("adding does not panic");
                        caught.insert(seed, why);
                    }
                }
            });
        }
    });
    Tried {
        seeds: taken.into_inner().min(most),
        caught: caught.into_inner().expect("adding does not panic"),
        took: began.elapsed(),
    }
}

/// Prints whether and by which seed a bug was noticed. True: it was noticed.
fn report(mutant: &str, tried: &Tried, until_caught: bool) -> bool {
    let Tried { seeds, caught, .. } = tried;
    let seconds = tried.took.as_secs_f64();
    let Some((seed, why)) = caught.first_key_value() else {
        say(&format!(
            "mutant {mutant}: not caught by {seeds} seeds, {seconds:.1} s"
        ));
        return false;
    };
    let why = why.lines().next().unwrap_or_default();
    say(&match until_caught {
        true => format!(
            "mutant {mutant}: caught by seed {seed} after {seeds} seeds, {seconds:.1} s: {why}"
        ),
        false => format!(
            "mutant {mutant}: caught in {} of {seeds} seeds, {seconds:.1} s, first by seed {seed}: {why}",
            caught.len()
        ),
    });
    true
}

/// The planted bugs that `RAFTKVD_MUTANTS` names.
fn chosen() -> Vec<Mutant> {
    let Ok(names) = std::env::var("RAFTKVD_MUTANTS") else {
        return Mutant::ALL.to_vec();
    };
    let mut mutants = Vec::new();
    for name in names.split(',').map(str::trim) {
        match name.parse() {
            Ok(mutant) => mutants.push(mutant),
            Err(_) if name == "all" => mutants.extend(Mutant::ALL),
            Err(why) => panic!("RAFTKVD_MUTANTS: {why}"),
        }
    }
    mutants
}

/// Tries one bug. True: it was noticed.
fn is_noticed(mutant: Mutant) -> bool {
    let count = variable("RAFTKVD_SIMULATION_SEEDS");
    let tried = try_seeds(count.unwrap_or(SEEDS_MAX), count.is_none());
    report(mutant.name(), &tried, count.is_none())
}

#[test]
fn each_planted_bug_is_noticed() {
    let mutants = chosen();
    let began = Instant::now();
    let mut missed = Vec::new();
    {
        let _alone = PLANTING.write().unwrap_or_else(PoisonError::into_inner);
        let hook = panic::take_hook();
        panic::set_hook(Box::new(|_| {}));
        for mutant in mutants {
            let _planted = Planted::new(mutant);
            if !is_noticed(mutant) {
                missed.push(mutant.name());
            }
        }
        panic::set_hook(hook);
    }
    say(&format!("mutants: {} s", began.elapsed().as_secs()));
    assert!(missed.is_empty(), "these bugs are not noticed: {missed:?}");
}
