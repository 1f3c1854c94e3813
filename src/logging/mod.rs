//! The log: lines on stderr, for people or as JSON, written by a thread of their own.
//!
//! ```text
//! any thread ──► level? ──► repeats ──► bounded queue ──► the thread "log" ──► text or JSON on stderr
//!                            └─ held back: the thread logs their number once a window
//! ```
//!
//! This is the only way to stderr, also for subcommands: log lines, progress bars, the reason of a failure, and panics.
//!
//! Flow:
//! - The queue is bounded. When it is full, lines are dropped and the number of dropped lines is logged.
//! - Repeated lines are held back before the queue, so that a flood takes no room from other lines: see `repeats`.
//! - The reason why the process ends is handed over with the end of the log ([`Log::end`]), so that it is the last line
//!   and can't be dropped. The process waits for that line no longer than [`limits::LOG_END_TIMEOUT`].
//!
//! Invariants:
//! - Logging a line never makes a thread wait. Only [`Log::tell`], [`Log::flush`], [`Log::end`] and a panic wait, each
//!   with a limit.
//! - A stderr that is closed, broken, full, or a pipe that nobody reads affects nothing but the log.
//! - No line holds a key or a value of the store, at any level.

mod last_words;
mod lines;
mod panics;
pub mod progress;
mod raft;
mod repeats;
mod stderr;
mod tags;
mod thread;

use crate::exit_code::ExitCode;
use crate::limits;
use lines::{Lines, RecordTime};
use slog::{Drain, Level, Logger, Never, OwnedKVList, Record, o};
use slog_async::AsyncRecord;
use std::cell::Cell;
use std::io;
use std::time::Duration;
use tags::{PROGRESS, PROGRESS_END};
use thread::Queue;

pub use last_words::last_words;
pub use lines::{Format, one_line, timestamp};
pub use raft::raft_logger;
pub use tags::{ALWAYS, AUDIT, AUDIT_AGAIN};

/// The settings of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogOptions {
    /// The form of a line.
    pub format: Format,
    /// Records below this level are left out.
    pub level: Level,
}

impl LogOptions {
    /// The settings of subcommands.
    pub const COMMAND: LogOptions = LogOptions {
        format: Format::Command,
        level: Level::Info,
    };
}

/// The reason of an exit code other than 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fatal {
    /// One line that says what is wrong and what to do.
    pub reason: String,
    /// The exit code, which is not 0.
    pub exit_code: ExitCode,
}

/// The log of this process. [`Log::end`] must be called before `std::process::exit`, or the last lines are lost.
pub struct Log {
    logger: Logger,
    queue: Queue,
    format: Format,
    /// A flush did not end in time: nothing seems to read stderr.
    stuck: Cell<bool>,
}

impl Log {
    /// Starts the log. Fails if its thread can't be started.
    pub fn start(options: LogOptions) -> io::Result<Log> {
        let LogOptions { format, level } = options;
        let time = RecordTime::default();
        let lines = Lines::to_stderr(format, &time);
        let queue = thread::start(lines, time)?;
        let filtered = Filtered {
            queue: queue.clone(),
            level,
            bars: lines::has_bars(format),
        };
        Ok(Log {
            logger: Logger::root(filtered.fuse(), o!()),
            queue,
            format,
            stuck: Cell::new(false),
        })
    }

    /// The root logger.
    pub fn logger(&self) -> &Logger {
        &self.logger
    }

    /// Makes a panic in any thread log its reason and end the process by SIGABRT.
    pub fn end_on_panic(&self) {
        panics::end_the_process(self.queue.clone(), self.format);
    }

    /// Logs an error that a subcommand has found, and waits until it is written.
    pub fn tell(&self, line: &str) {
        slog::error!(self.logger, #ALWAYS, "{}", line);
        self.flush();
    }

    /// Waits until all lines are written and the progress bar is removed, so that later output on stdout comes after
    /// them. If stderr takes nothing, only the first call waits.
    pub fn flush(&self) {
        if !self.stuck.get() {
            self.stuck.set(!self.queue.flush());
        }
    }

    /// Writes the lines that are queued or held back, and then the reason why the process ends.
    pub fn end(self, why: Option<&Fatal>) {
        let last = why.map(|Fatal { reason, exit_code }| {
            AsyncRecord::from(
                &slog::record!(
                    Level::Error,
                    ALWAYS,
                    &format_args!("{reason}"),
                    slog::b!("exit_code" => exit_code.number())
                ),
                &o!().into(),
            )
        });
        let patience = match self.stuck.get() {
            true => Duration::ZERO,
            false => limits::LOG_END_TIMEOUT,
        };
        self.queue.end(last, patience);
    }
}

/// Drops lines below the level.
struct Filtered {
    queue: Queue,
    level: Level,
    /// Progress is shown as bars, at every level.
    bars: bool,
}

impl Drain for Filtered {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let passes = match record.tag() {
            ALWAYS | AUDIT | AUDIT_AGAIN => true,
            PROGRESS | PROGRESS_END if self.bars => true,
            _ => self.is_enabled(record.level()),
        };
        match passes {
            true => self.queue.log(record, values),
            false => Ok(()),
        }
    }

    fn is_enabled(&self, level: Level) -> bool {
        level.is_at_least(self.level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slog::{KV, Key, Serializer};
    use std::fmt;
    use std::sync::{Arc, Mutex, MutexGuard};

    /// Collects the records as `LEVEL text key=value`.
    #[derive(Clone, Default)]
    pub(super) struct Collected(Arc<Mutex<Collection>>);

    #[derive(Default)]
    pub(super) struct Collection {
        lines: Vec<String>,
        /// The number of further writes that fail.
        broken: u64,
    }

    impl Collected {
        pub(super) fn lines(&self) -> Vec<String> {
            self.0.lock().unwrap().lines.clone()
        }

        pub(super) fn break_for(&self, lines: u64) {
            self.0.lock().unwrap().broken = lines;
        }

        /// Blocks all writes until the guard is dropped.
        pub(super) fn hold(&self) -> MutexGuard<'_, Collection> {
            self.0.lock().unwrap()
        }
    }

    struct Values(String);

    impl Serializer for Values {
        fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
            self.0 += &format!(" {key}={value}");
            Ok(())
        }
    }

    impl Drain for Collected {
        type Ok = ();
        type Err = io::Error;

        fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> io::Result<()> {
            let mut values = Values(String::new());
            record.kv().serialize(record, &mut values).unwrap();
            let line = format!(
                "{} {}{}",
                record.level().as_short_str(),
                record.msg(),
                values.0
            );
            let mut collection = self.0.lock().unwrap();
            if collection.broken > 0 {
                collection.broken -= 1;
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            collection.lines.push(line);
            Ok(())
        }
    }

    #[test]
    fn what_has_to_be_said_passes_every_level() {
        let collected = Collected::default();
        let queue = thread::start(collected.clone(), RecordTime::default()).unwrap();
        let filtered = Filtered {
            queue: queue.clone(),
            level: Level::Error,
            bars: false,
        };
        let logger = Logger::root(filtered.fuse(), o!());
        slog::info!(logger, "not seen");
        slog::info!(logger, #PROGRESS, "not seen either");
        slog::info!(logger, #ALWAYS, "it listens");
        slog::info!(logger, #AUDIT, "it was asked");
        queue.end(None, limits::LOG_END_TIMEOUT);
        assert_eq!(collected.lines(), ["INFO it listens", "INFO it was asked"]);
    }
}
