//! The progress of a long replay: for people who watch stderr, and for `GET /-/ready`.
//!
//! A [`ProgressReport`] reports every [`limits::PROGRESS_INTERVAL`]. The log shows the report as a bar if stderr is a
//! terminal, otherwise as a line. An operation that is faster than the interval reports nothing. The report of a
//! subcommand starts at once and comes more often. The log of a subcommand shows progress on a terminal only.
//!
//! A [`Replay`] is the work that a start has to do before the map is complete again. First, the start loads the newest
//! snapshot. Then it replays the log after the snapshot, up to the last index known to be committed.
//!
//! Invariant: the stages of a replay follow each other, and no stage comes back.

use super::tags::{PROGRESS, PROGRESS_END};
use crate::limits;
use parking_lot::Mutex;
use slog::{Logger, info};
use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The unit of the progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of a file.
    Bytes,
    /// Entries of the log.
    Entries,
}

/// Reports the progress of one operation.
#[derive(Debug)]
pub struct ProgressReport {
    what: &'static str,
    unit: Unit,
    begun: Instant,
    told: Option<Instant>,
    interval: Duration,
    logger: Logger,
    shown: bool,
}

/// The replay that the start of this process does, shared by the threads that do it and the requests that ask about it.
pub struct Replay {
    stage: AtomicU8,
    /// Percent of the current stage.
    percent: AtomicU8,
    /// The index with which the stage of the log ends.
    until: AtomicU64,
    log: Mutex<Option<LogStage>>,
}

struct LogStage {
    from: u64,
    progress: ProgressReport,
}

const SNAPSHOT: u8 = 0;
const LOG: u8 = 1;
const DONE: u8 = 2;

impl ProgressReport {
    /// Starts a report now.
    pub fn new(what: &'static str, unit: Unit, logger: &Logger) -> ProgressReport {
        let begun = Instant::now();
        ProgressReport {
            what,
            unit,
            begun,
            told: Some(begun),
            interval: limits::PROGRESS_INTERVAL,
            logger: logger.clone(),
            shown: false,
        }
    }

    /// A report for a subcommand, whose user waits for nothing else.
    pub fn of_command(what: &'static str, unit: Unit, logger: &Logger) -> ProgressReport {
        let mut progress = ProgressReport::new(what, unit, logger);
        progress.told = None;
        progress.interval = limits::BAR_INTERVAL;
        progress
    }

    /// Reports `done` of `total`, at most once per interval.
    pub fn at(&mut self, done: u64, total: u64) {
        if self.told.is_some_and(|told| told.elapsed() < self.interval) {
            return;
        }
        self.told = Some(Instant::now());
        let line = line(self.unit, done, total, self.begun.elapsed());
        self.shown = true;
        info!(self.logger, #PROGRESS, "{}: {}", self.what, line; "bar" => bar(percent(done, total)));
    }
}

impl Drop for ProgressReport {
    fn drop(&mut self) {
        if self.shown {
            info!(self.logger, #PROGRESS_END, "");
        }
    }
}

impl Default for Replay {
    fn default() -> Replay {
        Replay::new()
    }
}

impl Replay {
    /// A replay that starts with the snapshot.
    pub fn new() -> Replay {
        Replay {
            stage: AtomicU8::new(SNAPSHOT),
            percent: AtomicU8::new(0),
            until: AtomicU64::new(0),
            log: Mutex::new(None),
        }
    }

    /// Records that `done` of `total` bytes of the snapshot are loaded. If the snapshot turns out to be damaged, the
    /// count starts again with an older snapshot.
    pub fn loaded(&self, done: u64, total: u64) {
        self.percent.store(percent(done, total), Ordering::Relaxed);
    }

    /// Starts the stage of the log. The map has the state of index `from`, and entries up to `until` are known to be
    /// committed.
    pub fn begin_log(&self, from: u64, until: u64, logger: &Logger) {
        if until <= from {
            return self.stage.store(DONE, Ordering::Release);
        }
        let progress = ProgressReport::new("replaying the log", Unit::Entries, logger);
        *self.log.lock() = Some(LogStage { from, progress });
        self.until.store(until, Ordering::Relaxed);
        self.percent.store(0, Ordering::Relaxed);
        self.stage.store(LOG, Ordering::Release);
    }

    /// Records that the map has the state of this index.
    pub fn applied(&self, index: u64) {
        if self.stage.load(Ordering::Relaxed) != LOG {
            return;
        }
        let mut log = self.log.lock();
        let until = self.until.load(Ordering::Relaxed);
        if index >= until {
            *log = None;
            self.stage.store(DONE, Ordering::Release);
        } else if let Some(LogStage { from, progress }) = &mut *log {
            let (done, total) = (index.saturating_sub(*from), until - *from);
            self.percent.store(percent(done, total), Ordering::Relaxed);
            progress.at(done, total);
        }
    }

    /// Whether the snapshot is still loading. Until then there is no map, and no node that could answer.
    pub fn is_loading(&self) -> bool {
        self.stage.load(Ordering::Acquire) == SNAPSHOT
    }

    /// The current stage in words, or `None` when the replay is complete.
    pub fn under_way(&self) -> Option<String> {
        let what = match self.stage.load(Ordering::Acquire) {
            SNAPSHOT => "snapshot",
            LOG => "log",
            _ => return None,
        };
        let percent = self.percent.load(Ordering::Relaxed);
        Some(format!("replaying {percent} % of the {what}"))
    }
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Replay({:?})", self.under_way())
    }
}

fn percent(done: u64, total: u64) -> u8 {
    let percent = u128::from(done.min(total)) * 100 / u128::from(total.max(1));
    percent as u8
}

fn bar(percent: u8) -> String {
    let full = usize::from(percent) / 5;
    format!("[{}{}]", "#".repeat(full), "-".repeat(20 - full))
}

/// A line such as `43 %, 512 of 1190 MB, 240 MB/s, 3 s left`.
fn line(unit: Unit, done: u64, total: u64, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(1e-3);
    let rate = done as f64 / seconds;
    let left = match done {
        0 => "? s left".to_owned(),
        _ => format!("{:.0} s left", total.saturating_sub(done) as f64 / rate),
    };
    let percent = percent(done, total);
    match unit {
        Unit::Bytes => {
            let (done, total, rate) = (done / 1_000_000, total / 1_000_000, rate / 1e6);
            format!("{percent} %, {done} of {total} MB, {rate:.0} MB/s, {left}")
        }
        Unit::Entries => {
            format!("{percent} %, {done} of {total} entries, {rate:.0} a second, {left}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_done_total_rate_and_what_is_left() {
        let line = |unit, done, total| line(unit, done, total, Duration::from_secs(2));
        assert_eq!(
            line(Unit::Bytes, 430_000_000, 1_000_000_000),
            "43 %, 430 of 1000 MB, 215 MB/s, 3 s left"
        );
        assert_eq!(
            line(Unit::Entries, 100, 100),
            "100 %, 100 of 100 entries, 50 a second, 0 s left"
        );
        assert_eq!(line(Unit::Bytes, 0, 0), "0 %, 0 of 0 MB, 0 MB/s, ? s left");
        assert_eq!(bar(43), "[########------------]");
        assert_eq!(bar(100).len(), bar(0).len());
    }

    #[test]
    fn a_replay_goes_from_the_snapshot_to_the_log_to_its_end() {
        let logger = Logger::root(slog::Discard, slog::o!());
        let replay = Replay::new();
        let says = |what: &str| assert_eq!(replay.under_way().as_deref(), Some(what));
        says("replaying 0 % of the snapshot");
        replay.loaded(43, 100);
        says("replaying 43 % of the snapshot");
        assert!(replay.is_loading());
        replay.begin_log(10, 30, &logger);
        assert!(!replay.is_loading());
        says("replaying 0 % of the log");
        replay.applied(15);
        says("replaying 25 % of the log");
        replay.applied(30);
        assert_eq!(replay.under_way(), None);
        replay.applied(31);
        assert_eq!(replay.under_way(), None);

        let nothing = Replay::new();
        nothing.begin_log(10, 10, &logger);
        assert_eq!(nothing.under_way(), None);
    }
}
