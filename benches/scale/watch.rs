//! What can be seen of a member from outside while it works: when it wrote snapshots, and how much memory it held.

use crate::kernel;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the snapshot directory is looked at.
const INTERVAL: Duration = Duration::from_millis(2);
/// And the memory, which the kernel adds up each time.
const MEMORY_INTERVAL: Duration = Duration::from_millis(20);

/// A thread that looks.
pub struct Watch {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub snapshots: Vec<Snapshot>,
    /// Bytes, and when.
    pub resident: Vec<(Instant, u64)>,
}

/// A snapshot that the member wrote.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot {
    pub begun: Instant,
    /// When it had its name, if it had.
    pub ended: Option<Instant>,
    /// Size of the file.
    pub bytes: u64,
}

impl Snapshot {
    pub fn took(&self) -> Duration {
        self.ended
            .map_or(Duration::ZERO, |ended| ended - self.begun)
    }

    /// It was being written at some time of this interval.
    pub fn meets(&self, begun: Instant, ended: Instant) -> bool {
        self.begun <= ended && self.ended.is_none_or(|end| begun <= end)
    }
}

impl Watch {
    pub fn start(pid: u32, data_dir: &Path) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let thread = std::thread::spawn({
            let (stop, seen, dir) = (stop.clone(), seen.clone(), data_dir.join("snap"));
            move || look(pid, &dir, &stop, &seen)
        });
        Watch {
            stop,
            seen,
            thread: Some(thread),
        }
    }

    /// Of the snapshots, how many were begun so far, and whether the last one is being written.
    pub fn snapshots(&self) -> (usize, bool) {
        let seen = self.seen.lock().expect("the watch does not panic");
        let last = seen.snapshots.last();
        let writing = last.is_some_and(|last| last.ended.is_none());
        (seen.snapshots.len(), writing)
    }

    pub fn stop(mut self) -> Seen {
        self.end();
        std::mem::take(&mut self.seen.lock().expect("the watch does not panic"))
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
    }
}

fn look(pid: u32, dir: &Path, stop: &AtomicBool, seen: &Mutex<Seen>) {
    let mut newest = files(dir).1;
    let mut looked = Instant::now();
    let mut weighed: Option<Instant> = None;
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        let (writing, file) = files(dir);
        let mut seen = seen.lock().expect("nobody panics with it");
        let mut open = seen.snapshots.last().is_some_and(|s| s.ended.is_none());
        if file != newest {
            if !open {
                // It was quicker than the eye.
                seen.snapshots.push(begun(looked));
            }
            let bytes = file.as_ref().and_then(|path| fs::metadata(path).ok());
            if let Some(last) = seen.snapshots.last_mut() {
                last.ended = Some(now);
                last.bytes = bytes.map_or(0, |data| data.len());
            }
            open = false;
            newest = file;
        }
        if writing && !open {
            seen.snapshots.push(begun(now));
        }
        if weighed.is_none_or(|at| now - at >= MEMORY_INTERVAL) {
            seen.resident.push((now, kernel::resident_bytes(pid)));
            weighed = Some(now);
        }
        drop(seen);
        looked = now;
        std::thread::sleep(INTERVAL);
    }
}

fn begun(begun: Instant) -> Snapshot {
    Snapshot {
        begun,
        ended: None,
        bytes: 0,
    }
}

/// Whether a snapshot is being written, and the newest one that is complete.
fn files(dir: &Path) -> (bool, Option<PathBuf>) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    let is = |path: &&PathBuf, extension: &str| path.extension().is_some_and(|e| e == extension);
    let writing = paths.iter().any(|path| is(&path, "tmp"));
    // Names are numbers of a fixed width.
    let newest = paths.iter().filter(|path| is(path, "snap")).max();
    (writing, newest.cloned())
}
