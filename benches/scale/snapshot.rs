//! Section `snapshot`: what clients feel of a snapshot that is being written.

use crate::aims;
use crate::background::{begun, latencies};
use crate::histogram::Histogram;
use crate::load::Answer;
use crate::options::Options;
use crate::report;
use crate::state::{CONNECTIONS, State, wait_for_snapshot};
use crate::verdicts::Verdicts;
use crate::watch::Snapshot;
use std::time::{Duration, Instant};

/// What clients did in one round, beside the snapshot.
struct Round {
    /// When nothing but they was at work.
    quiet: (Instant, Instant),
    /// When the large values that brought about the snapshot were at an end.
    pushed: Instant,
}

pub fn run(state: &State, options: &Options, verdicts: &mut Verdicts) {
    report::head(&format!(
        "snapshot: {CONNECTIONS} connections overwrite random keys, {} snapshot(s)",
        options.rounds
    ));
    let watch = state.watch();
    let clients = state.overwrite();
    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        // Behind a snapshot its predecessor and a part of the log are deleted.
        std::thread::sleep(options.warm_up());
        let begun = Instant::now();
        std::thread::sleep(options.measure());
        let quiet = (begun, Instant::now());
        state.push(&watch);
        rounds.push(Round {
            quiet,
            pushed: Instant::now(),
        });
        wait_for_snapshot(&watch);
    }
    let outcome = clients.stop();
    let snapshots = watch.stop().snapshots;

    report_snapshots(&snapshots);
    let latencies = Latencies::new(&outcome.answers, &rounds, &snapshots);
    let quiet = rounds.iter().map(|r| r.quiet.1 - r.quiet.0).sum();
    let took = snapshots.iter().map(Snapshot::took).sum();
    report_rates(&latencies, quiet, took);
    report_latencies(&latencies, verdicts);
    report::errors(&outcome);
}

/// What the PUTs took, by what went on meanwhile.
struct Latencies {
    without: Histogram,
    during: Histogram,
    /// Of `during`, those that had no large value beside them.
    undisturbed: Histogram,
}

impl Latencies {
    fn new(answers: &[Answer], rounds: &[Round], snapshots: &[Snapshot]) -> Latencies {
        let met = |answer: &Answer| {
            let mut all = snapshots.iter();
            all.find(|snapshot| snapshot.meets(begun(answer), answer.ended))
        };
        // The last of the large values is still under way when a snapshot begins: it is nobody's usual neighbour.
        let counts = |snapshot: &Snapshot, answer: &Answer| {
            let mut pushed = rounds.iter().map(|round| round.pushed);
            !pushed.any(|pushed| snapshot.meets(pushed, pushed) && begun(answer) < pushed)
        };
        let is_quiet = |answer: &Answer| {
            let mut all = rounds.iter().map(|round| round.quiet);
            all.any(|(begin, end)| begin <= begun(answer) && answer.ended <= end)
        };
        let of = |is_it: &dyn Fn(&Answer) -> bool| {
            latencies(answers.iter().filter(|answer| is_it(answer)))
        };
        Latencies {
            without: of(&|answer| met(answer).is_none() && is_quiet(answer)),
            during: of(&|answer| met(answer).is_some()),
            undisturbed: of(&|answer| met(answer).is_some_and(|snapshot| counts(snapshot, answer))),
        }
    }
}

fn report_snapshots(snapshots: &[Snapshot]) {
    let took: Duration = snapshots.iter().map(Snapshot::took).sum();
    let count = snapshots.len().max(1);
    let bytes: u64 = snapshots.iter().map(|snapshot| snapshot.bytes).sum();
    let each = format!(
        "{} of {:.0} MB",
        snapshots.len(),
        report::megabytes(bytes) / count as f64
    );
    report::line(
        "writing a snapshot under load",
        took.as_secs_f64() / count as f64,
        "s",
        &each,
    );
}

/// `quiet` and `took`: how long it was that no snapshot was written, and that one was.
fn report_rates(latencies: &Latencies, quiet: Duration, took: Duration) {
    let rate =
        |puts: &Histogram, time: Duration| puts.total() as f64 / time.as_secs_f64().max(1e-9);
    report::line(
        "PUTs without a snapshot",
        rate(&latencies.without, quiet),
        "/s",
        "",
    );
    report::line("PUTs during one", rate(&latencies.during, took), "/s", "");
}

fn report_latencies(latencies: &Latencies, verdicts: &mut Verdicts) {
    let p99 = latencies.without.quantile_us(0.99);
    let p99_during = latencies.undisturbed.quantile_us(0.99);
    report::line("p99 without a snapshot", p99 / 1e3, "ms", "");
    report::line("p99 during one", p99_during / 1e3, "ms", "");
    let what = "p99 during a snapshot, as a multiple of that without";
    let ratio = p99_during / p99.max(1e-9);
    let aim = verdicts.at_most(what, ratio, aims::SNAPSHOT_P99, "x");
    report::line(what, ratio, "x", &aim);
    report::line(
        "the longest without a snapshot",
        latencies.without.quantile_us(1.0) / 1e3,
        "ms",
        "",
    );
    let what = "the longest PUT during a snapshot";
    let longest = latencies.during.quantile_us(1.0) / 1e3;
    let aim = verdicts.at_most(what, longest, aims::LONGEST_PUT_MS, "ms");
    report::line(what, longest, "ms", &aim);
}
