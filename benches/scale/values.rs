//! Section `values`: PUTs of the largest values there are, on three members that share this disk.

use crate::daemons::{self, Cluster, Member};
use crate::disk;
use crate::kernel;
use crate::load::{self, Connecting, Until};
use crate::options::Options;
use crate::report::{self, mebibytes, megabytes};
use crate::request::{Kind, Requests};
use crate::verdicts::Verdicts;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Of the map, which lies in memory three times.
const KEYS: usize = 4;
const CONNECTIONS: [usize; 2] = [1, 4];

pub fn run(dir: &Path, options: &Options, verdicts: &mut Verdicts) {
    let bytes = options.large_value_bytes;
    report::head(&format!(
        "values: PUTs of {} MiB, 3 members, {KEYS} keys",
        bytes >> 20
    ));
    let mut cluster = start(dir, bytes);
    let disk = disk::append(dir, disk::CHUNK_BYTES, options.measure() / 5);
    let disk = disk.megabytes_per_second();
    report::line(
        "the bare disk, which takes every value three times",
        disk,
        "MB/s",
        "",
    );
    let leader = cluster.leader();
    let address = cluster.members[leader].address;
    let before = term(address);
    let requests = Requests::new(Kind::Put, KEYS, bytes);
    for connections in CONNECTIONS {
        let until = Until::Time {
            warm_up: Duration::ZERO,
            measure: options.measure() * 2,
        };
        let outcome = load::run(
            &requests,
            Connecting::plain(&[address]),
            connections,
            until,
            || {},
        );
        let rate = megabytes(outcome.requests * bytes as u64) / outcome.seconds.max(1e-9);
        let count = format!("{} in {:.1} s", outcome.requests, outcome.seconds);
        let what = format!("PUTs, {connections} connection(s)");
        report::line(&what, rate, "MB/s", &count);
        report::line(
            "    p50",
            outcome.latencies.quantile_us(0.5) / 1e3,
            "ms",
            "",
        );
        report::line(
            "    the longest",
            outcome.latencies.quantile_us(1.0) / 1e3,
            "ms",
            "",
        );
        report::errors(&outcome);
    }
    let after = term(address);

    let what = "changes of term under large values";
    let changes = (after - before) as f64;
    let aim = verdicts.at_most(what, changes, 0.0, "");
    report::line(what, changes, "", &aim);
    report_memory(&cluster, leader, bytes);
    for member in &mut cluster.members {
        member.take().kill();
    }
    fs::remove_dir_all(dir).expect("remove a directory");
}

/// Three members that take values of so many bytes.
fn start(dir: &Path, bytes: usize) -> Cluster {
    fs::create_dir_all(dir).expect("make a directory");
    let urls = daemons::free_urls(3);
    let largest = bytes.to_string();
    let words = ["--max-value-bytes", &largest];
    let members = (1..=3).map(|id| Member::new(dir, id, &urls, &words));
    let mut cluster = Cluster {
        members: members.collect(),
        tls: None,
    };
    for member in &mut cluster.members {
        member.start();
    }
    cluster.wait_until_settled();
    cluster
}

fn report_memory(cluster: &Cluster, leader: usize, bytes: usize) {
    for (place, member) in cluster.members.iter().enumerate() {
        let what = match place == leader {
            true => "the most that was resident: leader",
            false => "the most that was resident: follower",
        };
        let peak = mebibytes(kernel::peak_bytes(member.pid()));
        let each = format!("{:.1} values", peak / mebibytes(bytes as u64));
        report::line(what, peak, "MiB", &each);
    }
}

fn term(address: std::net::SocketAddr) -> u64 {
    let status = daemons::status_json(address, &None).expect("the member tells its status");
    status["term"].as_u64().expect("a term is a number")
}
