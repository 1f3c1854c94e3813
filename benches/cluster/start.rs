//! Section `start`: from exec, on an empty data directory, to the first acknowledged write.

use crate::cell::median;
use crate::daemons::Cluster;
use crate::http;
use crate::options::Options;
use crate::process::PATIENCE;
use crate::table;
use crate::targets;
use crate::verdicts::Verdicts;
use std::path::Path;
use std::time::{Duration, Instant};

/// Between attempts to write.
const PAUSE: Duration = Duration::from_millis(1);

pub fn run(dir: &Path, options: &Options, verdicts: &mut Verdicts) {
    let mut times = [(1, Vec::new()), (3, Vec::new())];
    for round in 0..options.events {
        for (nodes, times) in &mut times {
            let dir = dir.join(format!("{nodes}-{round}"));
            let took = start(&dir, *nodes);
            times.push(took.as_secs_f64() * 1e3);
        }
    }
    table::times_head(&format!(
        "cold start: exec of the last member to the first acknowledged write, {} times",
        options.events
    ));
    for (nodes, times) in times {
        let what = match nodes {
            1 => "exec to the first acknowledged write: 1 node".to_owned(),
            _ => format!("exec to the first acknowledged write: {nodes} nodes"),
        };
        let limit = targets::of_start(nodes);
        let verdict = verdicts.at_most(&what, median(times.clone()), limit, "ms");
        table::times(&what, &times, &verdict);
    }
}

fn start(dir: &Path, nodes: usize) -> Duration {
    let mut cluster = Cluster::prepare(dir, nodes);
    let mut begun = Instant::now();
    for member in &mut cluster.members {
        begun = Instant::now();
        member.start();
    }
    let address = cluster.members[0].address;
    loop {
        // Refused until it listens, and 503 until all members are in.
        if let Ok(response) = http::request(address, "PUT", "/start", &[], b"value")
            && response.status == 204
        {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < PATIENCE, "no write is acknowledged");
        std::thread::sleep(PAUSE);
    }
}
