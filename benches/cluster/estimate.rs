//! How long it will take, for a reader who wonders whether to wait.

use crate::options::{Options, Section};
use crate::{etcd, throughput, tls, values};

pub fn estimate(options: &Options) -> String {
    let round = (options.measure() + options.warm_up()).as_secs_f64();
    let mut seconds = 1.0;
    for section in &options.sections {
        seconds += runs(*section) as f64 * options.rounds as f64 * round;
        seconds += match section {
            // Elections and restarts.
            Section::Failover => 5.0 * options.events as f64,
            Section::Start => 2.0 * options.events as f64,
            // Handshakes of many connections, one after the other.
            Section::Tls => 4.0 + 2.0 * (tls::MEMBERS * options.rounds) as f64,
            // Starting, and writing every key once.
            Section::Load | Section::Values => 3.0,
            Section::Etcd if etcd::is_installed() => 10.0,
            Section::Etcd => 0.0,
        };
    }
    match seconds {
        short if short < 90.0 => format!("{short:.0} s"),
        long => format!("{:.0} min", long / 60.0),
    }
}

/// Runs of the load generator in one round.
fn runs(section: Section) -> usize {
    match section {
        Section::Load => throughput::RUNS,
        Section::Values => values::RUNS,
        Section::Tls => tls::RUNS,
        Section::Etcd if etcd::is_installed() => etcd::RUNS,
        Section::Etcd | Section::Failover | Section::Start => 0,
    }
}
