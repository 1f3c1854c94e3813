//! The bare disk, in the file system of the daemons' data directories.

use crate::histogram::Histogram;
use std::fs::{self, File};
use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

/// A file is begun anew at this size, as the daemon's log is, so that a fast disk is not filled.
const FILE_BYTES_MAX: usize = 64 << 20;
/// What the targets are about.
pub const PAGE_BYTES: usize = 4 << 10;
/// How the disk's bandwidth is measured.
pub const CHUNK_BYTES: usize = 1 << 20;

/// What a run of writes took.
#[derive(Default)]
pub struct Outcome {
    pub latencies: Histogram,
    pub bytes: usize,
    /// In writes and syncs alone.
    pub busy: Duration,
}

impl Outcome {
    pub fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.busy.as_secs_f64().max(1e-9)
    }

    pub fn rate(&self) -> f64 {
        self.latencies.total() as f64 / self.busy.as_secs_f64().max(1e-9)
    }
}

/// Appends so many bytes and syncs them (fdatasync), again and again.
pub fn append(dir: &Path, bytes: usize, duration: Duration) -> Outcome {
    let path = dir.join("append");
    let outcome = run(&path, bytes, duration, |file| {
        file.set_len(0).expect("cut off a file");
        file.sync_all().expect("sync a file");
    });
    fs::remove_file(&path).expect("remove a file");
    outcome
}

/// The same over blocks that were written before, where a sync has no metadata to write: what a log that zeroes ahead
/// makes of the disk.
pub fn overwrite(dir: &Path, bytes: usize, duration: Duration) -> Outcome {
    let path = dir.join("overwrite");
    let zeros = vec![0; FILE_BYTES_MAX];
    fs::write(&path, &zeros).expect("write a file");
    let file = File::open(&path).expect("open a file");
    file.sync_all().expect("sync a file");
    let outcome = run(&path, bytes, duration, |_| {});
    fs::remove_file(&path).expect("remove a file");
    outcome
}

fn run(path: &Path, bytes: usize, duration: Duration, renew: impl Fn(&File)) -> Outcome {
    let payload = vec![7; bytes];
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .expect("open a file");
    renew(&file);
    let mut outcome = Outcome::default();
    let mut at = 0;
    let end = Instant::now() + duration;
    while Instant::now() < end || outcome.bytes == 0 {
        if at + bytes > FILE_BYTES_MAX {
            renew(&file);
            file.rewind().expect("go back to the file's beginning");
            at = 0;
        }
        let begun = Instant::now();
        file.write_all(&payload).expect("write to the disk");
        file.sync_data().expect("sync to the disk");
        let took = begun.elapsed();
        outcome.latencies.record(took);
        outcome.busy += took;
        outcome.bytes += bytes;
        at += bytes;
    }
    outcome
}
