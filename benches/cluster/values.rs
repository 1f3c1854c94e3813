//! Section `values`: writes of values from 10 B to 1 MiB, beside what the disk takes.

use crate::cell::{self, Cell, Round, median};
use crate::daemons::Cluster;
use crate::disk;
use crate::options::Options;
use crate::request::{Kind, Requests};
use crate::targets;
use crate::verdicts::Verdicts;
use std::path::Path;

/// Bytes of a value, and connections: fewer where a few keep the disk busy.
const SIZES: [(usize, usize); 4] = [(10, 64), (1 << 10, 64), (64 << 10, 64), (1 << 20, 16)];
/// The map lies in memory, three times on this machine.
const MAP_BYTES_MAX: usize = 64 << 20;
/// Runs in one round: the disk, one member, three members.
pub const RUNS: usize = SIZES.len() * 3;

pub fn run(dir: &Path, options: &Options, verdicts: &mut Verdicts) {
    let one = Cluster::start(&dir.join("one"), 1);
    let mut three = Cluster::start(&dir.join("three"), 3);
    println!("\n==== PUT of values of other sizes, on the leader");
    println!(
        "disk: sequential writes of 1 MiB, each with fdatasync. With three members this disk takes everything three \
         times."
    );
    println!(
        "{:<9}{:>6}{:>10}{:>18}{:>10}{:>6}{:>7}{:>10}{:>9}{:>9}{:>5}  target",
        "value B",
        "conns",
        "disk MB/s",
        "",
        "MB/s",
        "+-%",
        "ratio",
        "req/s",
        "p50 us",
        "p99 us",
        "err",
    );
    for (bytes, connections) in SIZES {
        let keys = options.keys.min(MAP_BYTES_MAX / bytes);
        let requests = Requests::new(Kind::Put, keys, bytes);
        three.wait_until_settled();
        let servers = [
            (1, one.server("1 node", 0, &[0])),
            (3, three.server("3 nodes", three.leader(), &[0])),
        ];
        let mut disks = Vec::new();
        let mut cells = [Cell::default(), Cell::default()];
        for _ in 0..options.rounds {
            let disk = disk::append(dir, disk::CHUNK_BYTES, options.measure());
            disks.push(disk.megabytes_per_second());
            for ((_, server), cell) in servers.iter().zip(&mut cells) {
                let round = cell::measure(server, &requests, connections, options);
                cell.0.push(round);
            }
        }
        let disk = median(disks);
        for ((nodes, server), cell) in servers.iter().zip(&cells) {
            let rate = |round: &Round| round.rate * bytes as f64 / 1e6;
            let ratio = cell.median(rate) / disk;
            let verdict = match bytes == 1 << 20 {
                true => {
                    let what = format!("PUT of 1 MiB values against the disk: {}", server.name);
                    verdicts.at_least(&what, ratio, targets::of_values(*nodes), "")
                }
                false => String::new(),
            };
            println!(
                "{bytes:<9}{connections:>6}{disk:>10.1}{:>18}{:>10.1}{:>6.0}{ratio:>7.2}{:>10.0}{:>9.0}{:>9.0}{:>5}  \
                 {verdict}",
                server.name,
                cell.median(rate),
                cell.spread() * 100.0,
                cell.median(|round| round.rate),
                cell.median(|round| round.p50_us),
                cell.median(|round| round.p99_us),
                cell.errors(),
            );
            if let Some(why) = cell.first_error() {
                println!("    the first error: {why}");
            }
        }
    }
}
