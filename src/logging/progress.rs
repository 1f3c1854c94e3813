//! How far a long replay has come: for who watches stderr, and for `GET /-/ready`.
//!
//! A [`ProgressReport`] is told how much is done and says it every [`limits::PROGRESS_INTERVAL`]: as a bar if stderr is a
//! terminal, as a line of the log otherwise. What is quicker than that says nothing. The one of a subcommand draws its
//! bar at once and more often, and has no log: without a terminal it is silent. A [`Replay`] is what the start of
//! the process has to replay before the map is what it was: first the newest snapshot, then the log behind it as far as
//! it was committed.
//!
//! Invariant: the stages of a replay follow each other and none comes back.

use crate::limits;
use parking_lot::Mutex;
use slog::{Discard, Logger, info, o};
use std::fmt;
use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of a file.
    Bytes,
    /// Entries of the log.
    Entries,
}

/// Says how far something has come.
#[derive(Debug)]
pub struct ProgressReport {
    what: &'static str,
    unit: Unit,
    begun: Instant,
    told: Option<Instant>,
    interval: Duration,
    logger: Logger,
    on_terminal: bool,
    bar_shown: bool,
}

/// What the start of this process has to replay, shared by whoever does it and whoever asks.
pub struct Replay {
    stage: AtomicU8,
    /// Of the stage.
    percent: AtomicU8,
    /// The stage of the log ends with this index.
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
    /// Begins now.
    pub fn new(what: &'static str, unit: Unit, logger: &Logger) -> ProgressReport {
        let begun = Instant::now();
        ProgressReport {
            what,
            unit,
            begun,
            told: Some(begun),
            interval: limits::PROGRESS_INTERVAL,
            logger: logger.clone(),
            on_terminal: std::io::stderr().is_terminal(),
            bar_shown: false,
        }
    }

    /// The same for a subcommand, whose user waits for nothing else.
    pub fn of_command(what: &'static str, unit: Unit) -> ProgressReport {
        let mut progress = ProgressReport::new(what, unit, &Logger::root(Discard, o!()));
        progress.told = None;
        progress.interval = limits::BAR_INTERVAL;
        progress
    }

    /// So much is done of so much.
    pub fn at(&mut self, done: u64, total: u64) {
        if self.told.is_some_and(|told| told.elapsed() < self.interval) {
            return;
        }
        self.told = Some(Instant::now());
        let line = line(self.unit, done, total, self.begun.elapsed());
        if self.on_terminal {
            self.bar_shown = true;
            let bar = bar(percent(done, total));
            // Nobody may be looking any more.
            let _ = write!(std::io::stderr(), "\r{bar} {}: {line}\x1b[K", self.what);
        } else {
            info!(self.logger, "{}: {}", self.what, line);
        }
    }
}

impl Drop for ProgressReport {
    fn drop(&mut self) {
        if self.bar_shown {
            // Likewise.
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Default for Replay {
    fn default() -> Replay {
        Replay::new()
    }
}

impl Replay {
    /// It begins with the snapshot.
    pub fn new() -> Replay {
        Replay {
            stage: AtomicU8::new(SNAPSHOT),
            percent: AtomicU8::new(0),
            until: AtomicU64::new(0),
            log: Mutex::new(None),
        }
    }

    /// So much of the snapshot is loaded. One that turns out to be damaged begins again with an older one.
    pub fn loaded(&self, done: u64, total: u64) {
        self.percent.store(percent(done, total), Ordering::Relaxed);
    }

    /// The map is that of the index `from`, and entries up to `until` are known to be committed.
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

    /// The map is that of this index.
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

    /// The snapshot is not loaded: there is no map yet, and nobody who could answer for the node.
    pub fn is_loading(&self) -> bool {
        self.stage.load(Ordering::Acquire) == SNAPSHOT
    }

    /// What is under way, in words; `None` when all is done.
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

/// As in `43 %, 512 of 1190 MB, 240 MB/s, 3 s left`.
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
