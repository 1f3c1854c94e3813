//! The daemon as its users meet it: real processes, sockets and files, measured beside what the machine allows.
//!
//! `cargo bench --bench cluster -- [--seconds S] [--rounds N] [--smoke] [SECTION...]`, where a section is one of load,
//! values, tls, failover, start, etcd; without any, all of them. Data lies in the target directory's file system, because a
//! temporary directory may be in memory.
//!
//! A figure of its own says little on a machine that others share, so every one stands beside a *ceiling* that was
//! measured in the same minute: the same HTTP server that answers at once, or the bare disk. Rounds alternate between
//! all that is compared, medians are printed, and targets are about their ratios. A target that is missed is printed
//! and is no failure: the exit code tells only whether everything worked.
//!
//! - [`load`], [`stream`], [`request`], [`response`], [`histogram`]: the load generator
//! - [`server`], [`ceiling`], [`daemons`], [`certificates`], [`etcd`], [`process`]: what it is let loose on
//! - [`cell`], [`throughput`], [`values`], [`tls`], [`failover`], [`start`]: what is measured
//! - [`disk`], [`proc`], [`kernel`]: what the machine does meanwhile
//! - [`options`], [`estimate`], [`targets`], [`verdicts`], [`table`]: what is asked and told

// What it prints is for whoever runs it.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod ceiling;
mod cell;
mod certificates;
mod daemons;
mod disk;
mod estimate;
mod etcd;
mod failover;
mod histogram;
// benches/scale uses more of these two.
#[allow(dead_code)]
mod load;
mod options;
mod proc;
mod process;
#[allow(dead_code)]
mod request;
mod response;
mod server;
mod start;
mod stream;
mod table;
mod targets;
mod throughput;
mod tls;
mod values;
mod verdicts;

// The other bench uses more of it.
#[allow(dead_code)]
#[path = "../scale/kernel.rs"]
mod kernel;

// The tests' own; they use more of it.
#[allow(dead_code)]
#[path = "../../tests/cluster/http.rs"]
mod http;
#[allow(dead_code)]
#[path = "../../tests/cluster/ports.rs"]
mod ports;

use options::{Options, Section};
use std::fs;
use std::path::Path;
use verdicts::Verdicts;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments
        .iter()
        .any(|argument| argument == ceiling::ARGUMENT)
    {
        return ceiling::serve();
    }
    let options = match Options::parse(&arguments) {
        Ok(options) => options,
        Err(line) => {
            eprintln!("{line}");
            std::process::exit(2);
        }
    };
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch directory");
    introduce(&options);
    let mut verdicts = Verdicts::default();
    for section in &options.sections {
        let dir = scratch.path().join(section.name());
        fs::create_dir(&dir).expect("make a directory");
        run(*section, &dir, &options, &mut verdicts);
    }
    verdicts.print();
}

fn run(section: Section, dir: &Path, options: &Options, verdicts: &mut Verdicts) {
    match section {
        Section::Load => throughput::run(dir, options, verdicts),
        Section::Values => values::run(dir, options, verdicts),
        Section::Tls => tls::run(dir, options, verdicts),
        Section::Failover => failover::run(dir, options, verdicts),
        Section::Start => start::run(dir, options, verdicts),
        Section::Etcd => etcd::run(dir, options),
    }
}

/// What a reader has to know to judge the figures.
fn introduce(options: &Options) {
    let line = |path: &str| {
        fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, |count| count.get());
    println!(
        "machine: {cores} cores, Linux {}, load average {} at the start",
        line("/proc/sys/kernel/osrelease"),
        line("/proc/loadavg"),
    );
    println!(
        "load: this program's own generator (one thread, epoll, closed loop, HTTP/1.1 keep-alive) for everything alike; \
         wrk is not used"
    );
    println!(
        "each figure: median of {} round(s) of {} s after {} s of warm-up; spread: (largest - smallest) / median",
        options.rounds,
        options.seconds,
        options.warm_up().as_secs_f64(),
    );
    let names: Vec<_> = options
        .sections
        .iter()
        .map(|section| section.name())
        .collect();
    println!(
        "sections: {}; this takes about {}",
        names.join(", "),
        estimate::estimate(options)
    );
}
