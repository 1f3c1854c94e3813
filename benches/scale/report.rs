//! How figures are printed: what it is, the figure, and the aim if there is one.

use crate::aims;
use crate::disk;
use crate::load::Outcome;
use crate::options::Options;
use crate::state::State;
use crate::verdicts::{Verdicts, number};
use std::fs;
use std::path::Path;
use std::time::Duration;

pub fn head(title: &str) {
    println!("\n==== {title}");
}

/// A figure; `aim` is what is asked for and whether it is met, or how the figure is to be read.
pub fn line(what: &str, figure: f64, unit: &str, aim: &str) {
    println!("{what:<70}{:>14}  {aim}", number(figure, unit));
}

pub fn errors(outcome: &Outcome) {
    if let Some(first) = &outcome.first_error {
        println!(
            "    {} requests failed, the first one: {first}",
            outcome.errors
        );
    }
}

pub fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

pub fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// What a reader has to know to judge the figures.
pub fn introduce(options: &Options, dir: &Path) {
    let system = |path: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.trim().to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, |count| count.get());
    println!(
        "machine: {cores} cores, {:.1} GiB of memory, Linux {}, load average {} at the start",
        mebibytes(crate::kernel::memory_bytes()) / 1024.0,
        system("/proc/sys/kernel/osrelease"),
        system("/proc/loadavg"),
    );
    let second = Duration::from_secs_f64(options.seconds.min(1.0));
    let disk = disk::append(dir, disk::CHUNK_BYTES, second).megabytes_per_second();
    println!("the bare disk: {disk:.0} MB/s in appends of 1 MiB, each with fdatasync");
    println!(
        "state: {} keys of {} B, values of {} B; {} s for a rate, {} round(s)",
        options.keys,
        crate::request::KEY_BYTES,
        options.value_bytes,
        options.seconds,
        options.rounds,
    );
}

/// What the load of the keys took.
pub fn load(state: &State, verdicts: &mut Verdicts) {
    let (loaded, payload) = (&state.loaded, state.payload_bytes);
    head(&format!(
        "load: {} keys, {:.0} MB of keys and values, {} connections, 1 member",
        state.requests.keys(),
        megabytes(payload),
        crate::state::LOAD_CONNECTIONS
    ));
    let rate = state.requests.keys() as f64 / loaded.seconds;
    line(
        "PUTs of new keys",
        rate,
        "/s",
        &format!("in {:.1} s", loaded.seconds),
    );
    line("p99", loaded.latencies.quantile_us(0.99) / 1e3, "ms", "");
    let longest = loaded.latencies.quantile_us(1.0) / 1e3;
    line("the longest", longest, "ms", "");
    let each = |bytes: u64| bytes as f64 / payload as f64;
    let snapshots: u64 = loaded.snapshots.iter().map(|s| s.bytes).sum();
    let what = "log and snapshots, for each byte of keys and values";
    let written = each(loaded.wal_bytes + snapshots);
    let aim = verdicts.at_most(what, written, aims::WRITTEN_PER_BYTE, "");
    line(what, written, "", &aim);
    let what = "    the log, what is zeroed ahead included";
    line(what, each(loaded.wal_bytes), "", "");
    let count = format!("{} of them", loaded.snapshots.len());
    line("    snapshots", each(snapshots), "", &count);
    let what = "    what the disk wrote for them, and for others";
    let note = "whole blocks, and the journal of the file system";
    line(what, each(loaded.disk_bytes), "", note);
}
