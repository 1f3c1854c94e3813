//! One figure of a table: a load on a server, over several rounds.

use crate::daemons::Written;
use crate::load::{self, Connecting, Until};
use crate::options::Options;
use crate::proc;
use crate::request::Requests;
use crate::server::Server;
use crate::{daemons, disk};

/// CPU time is told for so many requests.
const CPU_REQUESTS: f64 = 1e5;

/// What one round gave.
#[derive(Debug, Clone, Default)]
pub struct Round {
    /// Requests per second.
    pub rate: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub errors: u64,
    pub first_error: Option<String>,
    /// CPU seconds per 100,000 requests: of each process, and of the generator.
    pub cpu: Vec<f64>,
    pub generator_cpu: f64,
    /// Of the leader's log; zeros where nothing is written or nobody tells.
    pub entries_per_sync: f64,
    pub writes_per_sync: f64,
    pub bytes_per_sync: f64,
}

struct Sample {
    cpu: Vec<f64>,
    generator: f64,
    written: Written,
}

impl Sample {
    fn take(server: &Server) -> Sample {
        let written = server
            .leader
            .map(|leader| daemons::written(leader, &server.tls))
            .unwrap_or_default();
        Sample {
            cpu: server
                .pids
                .iter()
                .map(|pid| proc::cpu_seconds(*pid))
                .collect(),
            generator: proc::cpu_seconds(std::process::id()),
            written,
        }
    }
}

/// One round of a load.
pub fn measure(
    server: &Server,
    requests: &Requests,
    connections: usize,
    options: &Options,
) -> Round {
    measure_by(server, server.connecting(), requests, connections, options)
}

/// The same with connections that may be made in another way.
pub fn measure_by(
    server: &Server,
    connecting: Connecting<'_>,
    requests: &Requests,
    connections: usize,
    options: &Options,
) -> Round {
    let until = Until::Time {
        warm_up: options.warm_up(),
        measure: options.measure(),
    };
    let mut samples = Vec::new();
    let outcome = load::run(requests, connecting, connections, until, || {
        samples.push(Sample::take(server));
    });
    let [before, after] = &samples[..] else {
        panic!("the time that counts has two ends");
    };
    let share = CPU_REQUESTS / outcome.requests.max(1) as f64;
    let cpu = before.cpu.iter().zip(&after.cpu);
    let growth = |of: fn(&Written) -> u64| of(&after.written).saturating_sub(of(&before.written));
    let syncs = growth(|written| written.syncs);
    let per_sync = |count: u64| match syncs {
        0 => 0.0,
        _ => count as f64 / syncs as f64,
    };
    let entries = growth(|written| written.committed);
    // Reads write nothing; the entries of their rounds, if any, are no writes of theirs.
    let writes = if entries > 0 { outcome.requests } else { 0 };
    Round {
        rate: outcome.rate(),
        p50_us: outcome.latencies.quantile_us(0.5),
        p99_us: outcome.latencies.quantile_us(0.99),
        p999_us: outcome.latencies.quantile_us(0.999),
        errors: outcome.errors,
        first_error: outcome.first_error,
        cpu: cpu.map(|(b, a)| (a - b) * share).collect(),
        generator_cpu: (after.generator - before.generator) * share,
        entries_per_sync: per_sync(entries),
        writes_per_sync: per_sync(writes),
        bytes_per_sync: per_sync(growth(|written| written.bytes)),
    }
}

/// A run of writes to the bare disk in the form of a round.
pub fn of_disk(outcome: &disk::Outcome) -> Round {
    Round {
        rate: outcome.rate(),
        p50_us: outcome.latencies.quantile_us(0.5),
        p99_us: outcome.latencies.quantile_us(0.99),
        p999_us: outcome.latencies.quantile_us(0.999),
        ..Default::default()
    }
}

/// Writes every key once, so that no read finds nothing. A server that can't is broken.
pub fn fill(server: &Server, requests: &Requests) {
    const CONNECTIONS: usize = 64;
    let outcome = load::run(
        requests,
        server.connecting(),
        CONNECTIONS,
        Until::EveryKey,
        || {},
    );
    assert_eq!(
        (outcome.requests, &outcome.first_error),
        (requests.keys() as u64, &None),
        "every key is written to {}",
        server.name
    );
}

/// The rounds of one figure.
#[derive(Default)]
pub struct Cell(pub Vec<Round>);

impl Cell {
    pub fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        median(self.0.iter().map(of).collect())
    }

    /// Of the rates: how far apart they are, as a share of the median.
    pub fn spread(&self) -> f64 {
        let rates = || self.0.iter().map(|round| round.rate);
        let (least, most) = (
            rates().fold(f64::INFINITY, f64::min),
            rates().fold(0.0, f64::max),
        );
        (most - least) / self.median(|round| round.rate).max(1e-9)
    }

    pub fn errors(&self) -> u64 {
        self.0.iter().map(|round| round.errors).sum()
    }

    pub fn first_error(&self) -> Option<&str> {
        self.0.iter().find_map(|round| round.first_error.as_deref())
    }

    /// Medians, process by process.
    pub fn cpu(&self) -> Vec<f64> {
        let processes = self.0.first().map_or(0, |round| round.cpu.len());
        (0..processes)
            .map(|process| self.median(|round| round.cpu[process]))
            .collect()
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => values[odd / 2],
        even => (values[even / 2 - 1] + values[even / 2]) / 2.0,
    }
}
