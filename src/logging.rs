//! The log: lines on stderr, for people or as JSON, written by a thread of their own.
//!
//! Logging never makes anybody wait: records go through a bounded channel, and when it is full they are dropped and
//! the number of them is logged. Errors that end the process don't go this way but by [`fatal`], so that they are the
//! last thing on stderr and can't be dropped.

use crate::config;
use slog::{Drain, Level, Logger, Never, OwnedKVList, Record, RecordStatic, o};
use slog_async::{Async, AsyncGuard, OverflowStrategy};
use std::io::{self, LineWriter};
use std::str::FromStr;

/// How to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The form of a line.
    pub format: Format,
    /// Records below this level are left out.
    pub level: Level,
}

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people; coloured on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

/// Keeps the log going. Dropping it writes what is still queued, so it is dropped last, and before
/// `std::process::exit`.
#[must_use = "the log ends when its guard is dropped"]
pub struct Guard {
    _guard: AsyncGuard,
}

/// Starts the log.
pub fn start(settings: Settings) -> (Logger, Guard) {
    let (queued, guard) = match settings.format {
        Format::Text => {
            // Colours only when stderr is a terminal: the decorator looks.
            let decorator = slog_term::TermDecorator::new().stderr().build();
            let drain = slog_term::FullFormat::new(decorator)
                .use_utc_timestamp()
                .build();
            queued(drain.ignore_res())
        }
        Format::Json => {
            // A whole line at a time, or the lines of several processes on one terminal would mix.
            let drain = slog_json::Json::default(LineWriter::new(io::stderr()));
            queued(drain.ignore_res())
        }
    };
    let filtered = queued.filter_level(settings.level);
    let logger = Logger::root(filtered.fuse(), o!());
    (logger, Guard { _guard: guard })
}

fn queued(drain: impl Drain<Ok = (), Err = Never> + Send + 'static) -> (Async, AsyncGuard) {
    Async::new(drain)
        .chan_size(config::LOG_LINES_MAX)
        .overflow_strategy(OverflowStrategy::DropAndReport)
        .thread_name("log".to_owned())
        .build_with_guard()
}

/// The logger for raft-rs, which tells at level info what a developer of raft wants to know, and at debug prints whole
/// messages with the values in them: info becomes debug, and debug is left out unless the level is trace.
pub fn raft_logger(logger: &Logger) -> Logger {
    Logger::root(
        Quieter {
            logger: logger.clone(),
        },
        o!("in" => "raft"),
    )
}

struct Quieter {
    logger: Logger,
}

impl Quieter {
    /// The level a record of raft-rs gets here.
    fn level(level: Level) -> Level {
        match level {
            Level::Info => Level::Debug,
            Level::Debug | Level::Trace => Level::Trace,
            other => other,
        }
    }
}

impl Drain for Quieter {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let level = Quieter::level(record.level());
        // Looked at before anything is formatted.
        if !Drain::is_enabled(&self.logger, level) {
            return Ok(());
        }
        let changed = RecordStatic {
            location: record.location(),
            tag: record.tag(),
            level,
        };
        Drain::log(
            &self.logger,
            &Record::new(&changed, record.msg(), record.kv()),
            values,
        )
    }

    fn is_enabled(&self, level: Level) -> bool {
        Drain::is_enabled(&self.logger, Quieter::level(level))
    }
}

/// Writes the one line that says why the process ends. Line breaks in it are made visible, so it stays one.
pub fn fatal(text: &str) {
    eprintln!("raftkvd: {}", one_line(text));
}

/// The text with its control characters escaped.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Format, String> {
        match text {
            "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            _ => Err("it has to be text or json".to_owned()),
        }
    }
}

/// Reads a level as `--log-level` takes it.
pub fn parse_level(text: &str) -> Result<Level, String> {
    match text {
        "error" => Ok(Level::Error),
        "warn" | "warning" => Ok(Level::Warning),
        "info" => Ok(Level::Info),
        "debug" => Ok(Level::Debug),
        "trace" => Ok(Level::Trace),
        _ => Err("it has to be error, warn, info, debug or trace".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// Collects what arrives, as `LEVEL text`.
    #[derive(Clone, Default)]
    struct Collected(Arc<Mutex<Vec<String>>>);

    impl Drain for Collected {
        type Ok = ();
        type Err = Never;

        fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
            let line = format!("{} {}", record.level().as_short_str(), record.msg());
            self.0.lock().unwrap().push(line);
            Ok(())
        }
    }

    fn raft_lines(level: Level) -> Vec<String> {
        let collected = Collected::default();
        let root = Logger::root(collected.clone().filter_level(level).fuse(), o!());
        let logger = raft_logger(&root);
        slog::error!(logger, "an error");
        slog::warn!(logger, "a warning");
        slog::info!(logger, "a role"; "id" => 1);
        slog::debug!(logger, "a message");
        collected.0.lock().unwrap().clone()
    }

    #[test]
    fn raft_is_quiet_at_info_and_below() {
        assert_eq!(raft_lines(Level::Info), ["ERRO an error", "WARN a warning"]);
        assert_eq!(
            raft_lines(Level::Debug),
            ["ERRO an error", "WARN a warning", "DEBG a role"]
        );
        assert_eq!(raft_lines(Level::Trace).len(), 4);
    }

    #[test]
    fn what_raft_drops_is_not_even_formatted() {
        struct Costly;
        impl std::fmt::Display for Costly {
            fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                panic!("formatted")
            }
        }
        let (logger, guard) = start(Settings {
            format: Format::Json,
            level: Level::Info,
        });
        slog::debug!(raft_logger(&logger), "{}", Costly);
        drop((logger, guard));
    }

    #[test]
    fn formats_and_levels_are_read() {
        assert_eq!("json".parse(), Ok(Format::Json));
        assert_eq!("text".parse(), Ok(Format::Text));
        assert!("xml".parse::<Format>().is_err());
        assert_eq!(parse_level("warn"), Ok(Level::Warning));
        assert!(parse_level("loud").is_err());
    }

    #[test]
    fn a_fatal_line_stays_one_line() {
        assert_eq!(one_line("a\nb\u{1b}[1mé"), "a\\nb\\u{1b}[1mé");
    }
}
