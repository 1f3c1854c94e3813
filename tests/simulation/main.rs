//! Whole clusters in one thread, under every fault that we could think of, with one seed that decides everything.
//!
//! What is real: the raft loop with the node and raft in it, the inbox, the WAL and what writes it, snapshots, `meta`, the
//! store and what applies to it, the history, and the judgement of handshakes. What is simulated: time, the disk
//! (`disk.rs`), the network (`network.rs`), and when each of a member's threads takes its next step (`world.rs`).
//!
//! What a seed draws is in `plan.rs` and `mix.rs`. What happens: `faults.rs`, `lives.rs` (disks that are lost, members that
//! never come back, processes that nobody meant), `operator.rs`, and what clients do in `clients.rs`, `watchers.rs`,
//! `handovers.rs` and `backups.rs`. What has to hold is in `oracle.rs` and, at the end, in `run.rs`. Whether all of this
//! notices a bug is tried by `mutants.rs`.
//!
//! | variable | |
//! |---|---|
//! | `RAFTKVD_SIMULATION_SECONDS` | for how long random seeds are run (default 60) |
//! | `RAFTKVD_SIMULATION_BASE` | the first of them (default: drawn from the clock), so that several processes can work side by side |
//! | `RAFTKVD_SIMULATION_THREADS` | runs at the same time (default: one a processor) |
//! | `RAFTKVD_SIMULATION_SEED` | the seed that the test `one_seed` runs, and tells, a line an event; `shrink` leaves out of it what it can |
//! | `RAFTKVD_SIMULATION_CUTS` | what is left out of that one, as `shrink` prints it |
//! | `RAFTKVD_SIMULATION_LOG` | with any value the logs of all members are printed as well |
//! | `RAFTKVD_SIMULATION_KNOWN` | known faults, by name, that runs may meet (`plan.rs`) |

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
mod runs;
mod shrink;
mod watchers;
mod world;
mod written;

use plan::Setup;
use runs::{Total, attempt, loud, named, quiet, run_all, say, variable};
use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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
        assert_eq!(attempt(&setup), attempt(&setup), "seed {seed}");
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

/// Tells a run, a line an event.
#[test]
fn one_seed() {
    if let Some(setup) = named() {
        let logger = match std::env::var_os("RAFTKVD_SIMULATION_LOG") {
            Some(_) => loud(),
            None => quiet(),
        };
        let summary = run::run(&setup, true, &logger);
        say(&format!(
            "simulation: seed {} holds: {summary:#?}",
            setup.seed
        ));
    }
}

/// Leaves out of a run that fails what it does not need for that, and tells the rest.
#[test]
fn shrink() {
    if let Some(setup) = named() {
        shrink::shrink(&setup);
    }
}
