//! Whole clusters in one thread, under every fault that we could think of, with one seed that decides everything.
//!
//! What is real: the raft loop with the node and raft in it, the inbox, the WAL and what writes it, snapshots, `meta`, the
//! store and what applies to it, the history, and who believes whose claims. What is simulated: time, the disk
//! (`disk.rs`), the network (`network.rs`, `transfers.rs`), and when each of a member's threads takes its next step
//! (`world/`).
//!
//! `plan/` and `mix.rs` draw a run from its seed. `faults.rs`, `lives.rs` (lost disks, older copies, members that never
//! come back), `strangers.rs` (processes that no operator asked for, and liars), `contradictions.rs` (logs that seem to have
//! parted), `operator.rs`, `moves.rs` and `formation.rs` change the cluster; `clients.rs`, `watchers.rs`, `handovers.rs` and
//! `backups.rs` use it. `oracle.rs` checks every step, and `run.rs` the end of the run. A cluster of several forms first,
//! which is part of the run.
//! `mutants.rs` plants bugs to test the simulation itself.
//!
//! | variable | read by | |
//! |---|---|---|
//! | `RAFTKVD_SIMULATION_SECONDS` | `random_seeds_hold` | how long random seeds run (default 60) |
//! | `RAFTKVD_SIMULATION_BASE` | `random_seeds_hold`, `many_seeds` | the first seed (default: drawn from the clock; 1) |
//! | `RAFTKVD_SIMULATION_SEEDS` | `many_seeds`, `mutants` | the number of seeds to run; without it `many_seeds` does nothing |
//! | `RAFTKVD_SIMULATION_THREADS` | all | runs at the same time (default: one per processor) |
//! | `RAFTKVD_SIMULATION_SEED` | `one_seed`, `shrink` | the seed to replay or to shrink; without it they do nothing |
//! | `RAFTKVD_SIMULATION_CUTS` | `one_seed`, `shrink` | the parts of the run to leave out, as `shrink` prints them (`plan/cuts.rs`) |
//! | `RAFTKVD_SIMULATION_LOG` | `one_seed` | with any value, prints the logs of all members too (some thousand lines) |
//! | `RAFTKVD_MUTANT` | all, with `--features mutants` | the planted bug (`src/mutants.rs`) |
//! | `RAFTKVD_MUTANTS` | `mutants` | the planted bugs to try (default: all) |

mod backups;
mod changes;
#[path = "../linearizability/checker/mod.rs"]
mod checker;
mod clients;
mod commands;
mod contradictions;
mod disk;
mod faults;
mod formation;
mod handovers;
mod keys;
mod lists;
mod lives;
mod mix;
mod moves;
#[cfg(feature = "mutants")]
mod mutants;
mod network;
mod operator;
mod oracle;
mod oracles;
mod plan;
mod ports;
mod process;
mod run;
mod runs;
mod shrink;
mod strangers;
mod transfers;
mod watchers;
mod world;
mod written;

use plan::Setup;
use runs::{Total, attempt, loud, named, quiet, run_all, say, variable};
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
        let setup = Setup::of(seed);
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

/// Replays one run and prints one line per event.
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

/// Searches for a smaller run that fails in the same way, prints that run, and the command that replays it.
#[test]
fn shrink() {
    if let Some(setup) = named() {
        shrink::shrink(&setup);
    }
}
