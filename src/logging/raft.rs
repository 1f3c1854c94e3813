//! The log lines of raft-rs, filtered.
//!
//! At level info, raft-rs logs details for developers of raft, so these records become debug. At level debug, raft-rs
//! prints whole messages with their keys and values, which must not appear in a log. These records are dropped unless
//! the level is trace. At trace, only their numbers and a few harmless values are logged.

use slog::{BorrowedKV, Drain, Key, Level, Logger, Never, OwnedKVList, Record, RecordStatic};
use slog::{KV, Serializer, o};
use std::fmt;

/// The values of a debug record that are logged besides numbers. They contain no messages and no entries.
const HARMLESS: [&str; 4] = ["msg type", "progress", "state", "type"];

/// The logger for raft-rs.
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
    /// The level at which a record of raft-rs is logged.
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
        // The level is checked before anything is formatted.
        if !Drain::is_enabled(&self.logger, level) {
            return Ok(());
        }
        let changed = RecordStatic {
            location: record.location(),
            tag: record.tag(),
            level,
        };
        let all = record.kv();
        let harmless = Harmless(&all);
        let told = match level {
            Level::Trace => BorrowedKV(&harmless),
            _ => all,
        };
        Drain::log(
            &self.logger,
            &Record::new(&changed, record.msg(), told),
            values,
        )
    }

    fn is_enabled(&self, level: Level) -> bool {
        Drain::is_enabled(&self.logger, Quieter::level(level))
    }
}

/// The values of a record without those that could contain what clients have stored.
struct Harmless<'a>(&'a BorrowedKV<'a>);

impl KV for Harmless<'_> {
    fn serialize(&self, record: &Record<'_>, serializer: &mut dyn Serializer) -> slog::Result {
        self.0.serialize(record, &mut Sieve(serializer))
    }
}

struct Sieve<'a>(&'a mut dyn Serializer);

impl Serializer for Sieve<'_> {
    fn emit_u64(&mut self, key: Key, value: u64) -> slog::Result {
        self.0.emit_u64(key, value)
    }

    fn emit_usize(&mut self, key: Key, value: usize) -> slog::Result {
        self.0.emit_usize(key, value)
    }

    fn emit_bool(&mut self, key: Key, value: bool) -> slog::Result {
        self.0.emit_bool(key, value)
    }

    /// Values of all other types arrive here.
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        match HARMLESS.contains(&key) {
            true => self.0.emit_arguments(key, value),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Collected;
    use super::*;
    use raft::eraftpb::{Entry, Message};

    fn raft_lines(level: Level) -> Vec<String> {
        let collected = Collected::default();
        let root = Logger::root(collected.clone().filter_level(level).ignore_res(), o!());
        let logger = raft_logger(&root);
        let mut entry = Entry::default();
        entry.data = b"secret".to_vec().into();
        let mut message = Message::default();
        message.set_entries(vec![entry].into());
        slog::error!(logger, "an error"; "error" => ?"why");
        slog::warn!(logger, "a warning");
        slog::info!(logger, "a role"; "id" => 1_u64);
        slog::debug!(logger, "a message to {to}", to = 2; "msg" => ?message, "term" => 7_u64,
            "msg type" => ?message.get_msg_type());
        slog::trace!(logger, "entries"; "ents" => ?message.get_entries(), "text" => "secret");
        collected.lines()
    }

    #[test]
    fn raft_is_quiet_at_info_and_below() {
        let quiet = ["ERRO an error error=\"why\"", "WARN a warning"];
        assert_eq!(raft_lines(Level::Info), quiet);
        let debug = raft_lines(Level::Debug);
        assert_eq!(debug[..2], quiet);
        assert_eq!(debug[2..], ["DEBG a role id=1"]);
    }

    #[test]
    fn raft_tells_no_messages_and_no_entries() {
        let lines = raft_lines(Level::Trace);
        assert_eq!(lines.len(), 5);
        assert_eq!(
            lines[3..],
            ["TRCE a message to 2 msg type=MsgHup term=7", "TRCE entries"]
        );
    }

    #[test]
    fn what_raft_drops_is_not_even_formatted() {
        struct Costly;
        impl fmt::Display for Costly {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                panic!("formatted")
            }
        }
        let log = super::super::Log::start(super::super::LogOptions {
            format: super::super::Format::Json,
            level: Level::Info,
        });
        let log = log.unwrap();
        slog::debug!(raft_logger(log.logger()), "{}", Costly);
        log.end(None);
    }
}
