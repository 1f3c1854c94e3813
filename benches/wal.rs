//! The WAL by itself: what a save costs beside the bare disk, and how fast a log is read back.
//!
//! `cargo bench --bench wal [SECONDS]` measures in the target directory's file system, because a temporary directory
//! may be in memory. Each pair of figures comes from alternating rounds, so that a disk whose speed drifts favours
//! neither side; medians are printed.

// What it prints is for whoever runs it.
#![allow(clippy::print_stdout)]

use raft::eraftpb::{Entry, HardState};
use raftkvd::storage::{DataDir, RealDisk, Save, Start, Wal};
use slog::{Logger, o};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Entries in a save, and bytes in an entry.
const SHAPES: [(u64, usize); 5] = [(1, 100), (1, 4_096), (64, 100), (64, 4_096), (1, 1 << 20)];
const ROUNDS: usize = 5;

fn main() {
    let seconds = std::env::args()
        .find_map(|argument| argument.parse::<f64>().ok())
        .unwrap_or(1.0);
    let budget = Duration::from_secs_f64(seconds / ROUNDS as f64);
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch directory");
    println!("entries x bytes      bare p50      save p50   save/bare      MB/s");
    for (number, (entries, bytes)) in SHAPES.into_iter().enumerate() {
        measure(
            &scratch.path().join(number.to_string()),
            entries,
            bytes,
            budget,
        );
    }
}

fn measure(dir: &Path, entries: u64, bytes: usize, budget: Duration) {
    let mut log = Log::open(dir);
    let mut file = File::create(dir.join("bare")).expect("a file");
    let payload = vec![7; entries as usize * bytes];
    let mut bare = Vec::new();
    let mut saves = Vec::new();
    for _ in 0..ROUNDS {
        let end = Instant::now() + budget;
        while Instant::now() < end {
            let begun = Instant::now();
            file.write_all(&payload).expect("a write");
            file.sync_data().expect("a sync");
            bare.push(begun.elapsed());
        }
        let end = Instant::now() + budget;
        while Instant::now() < end {
            saves.push(log.save(entries, bytes));
        }
    }
    let (bare, save) = (median(bare), median(saves));
    let rate = payload.len() as f64 / save.as_secs_f64() / 1e6;
    println!(
        "{entries:>4} x {bytes:>8} {:>10.1} us {:>10.1} us {:>11.2} {rate:>9.1}",
        bare.as_secs_f64() * 1e6,
        save.as_secs_f64() * 1e6,
        save.as_secs_f64() / bare.as_secs_f64(),
    );
    let (last, wal) = (log.last, log.wal);
    drop(wal);
    let begun = Instant::now();
    let found = Log::open(dir).last;
    assert_eq!(found, last, "what was saved is read back");
    println!(
        "     read back {} entries in {:.0} ms",
        last - 1,
        begun.elapsed().as_secs_f64() * 1e3
    );
}

struct Log {
    wal: Wal,
    last: u64,
}

impl Log {
    fn open(dir: &Path) -> Log {
        let logger = Logger::root(slog::Discard, o!());
        let url = "http://127.0.0.1:9021".parse().expect("a URL");
        let start = Start::First([(1, url)].into());
        let disk = Arc::new(RealDisk);
        let dir = DataDir::new(disk, dir);
        let _lock = dir.lock().expect("nobody else has it");
        let opened = dir.open(1, start, &logger).expect("a data directory");
        let last = opened.recovered.entries.last();
        Log {
            last: last.map_or(1, |entry| entry.index),
            wal: opened.wal,
        }
    }

    fn save(&mut self, entries: u64, bytes: usize) -> Duration {
        let data = bytes::Bytes::from(vec![7; bytes]);
        let entries = (1..=entries).map(|offset| Entry {
            index: self.last + offset,
            term: 1,
            data: data.clone(),
            ..Default::default()
        });
        let save = Save {
            entries: entries.collect(),
            hard_state: Some(HardState {
                term: 1,
                commit: self.last,
                ..Default::default()
            }),
            sync: true,
            ..Default::default()
        };
        self.last += save.entries.len() as u64;
        let begun = Instant::now();
        self.wal.save(&[save]).expect("a save");
        begun.elapsed()
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
