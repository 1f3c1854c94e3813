//! The log: lines on stderr, as text or as JSON, written by a thread of their own.
//!
//! ```text
//! any thread ──► level? ──► repeats ──► bounded queue ──► the thread "log" ──► text or JSON on stderr
//!                            └─ held back: the thread logs their number once a window
//! ```
//!
//! Flow:
//! - The queue is bounded. When it is full, lines are dropped and the number of dropped lines is logged.
//! - Repeated lines are held back before the queue, so that a flood takes no room from other lines: see `repeats`.
//! - An error that ends the process does not use the queue. It goes through [`fatal`], so that it is the last line on
//!   stderr and can't be dropped.
//!
//! Invariants:
//! - Logging never makes a thread wait.
//! - No line holds a key or a value of the store, at any level.

pub mod progress;
mod raft;
mod repeats;

use crate::limits;
use repeats::{HeldLines, Kind, Repeats};
use slog::{Drain, Level, Logger, Never, OwnedKVList, Record, RecordStatic, o};
use slog_async::AsyncRecord;
use std::io::{self, LineWriter};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Instant;

pub use raft::raft_logger;

/// The settings of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogOptions {
    /// The form of a line.
    pub format: Format,
    /// Records below this level are dropped.
    pub level: Level,
}

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text for people. Coloured on a terminal.
    Text,
    /// One JSON object per line.
    Json,
}

/// Keeps the log running. Dropping the guard writes the lines that are queued or held back. So the guard must be
/// dropped last, and before `std::process::exit`.
#[must_use = "the log ends when its guard is dropped"]
pub struct Guard {
    queue: SyncSender<Queued>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The wait is limited, because nothing may be reading stderr. If the thread is gone, there is nothing left to
        // write.
        let deadline = Instant::now() + limits::LOG_END_TIMEOUT;
        let mut told = false;
        while Instant::now() < deadline {
            if !told {
                let sent = self.queue.try_send(Queued::End);
                told = !matches!(sent, Err(TrySendError::Full(_)));
            }
            if told && self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
                return;
            }
            std::thread::sleep(limits::LOG_END_POLL);
        }
    }
}

/// Starts the log.
pub fn start(settings: LogOptions) -> (Logger, Guard) {
    let (queue, guard) = match settings.format {
        Format::Text => {
            // The decorator uses colours only if stderr is a terminal.
            let decorator = slog_term::TermDecorator::new().stderr().build();
            let drain = slog_term::FullFormat::new(decorator)
                .use_utc_timestamp()
                .use_original_order()
                .build();
            start_thread(drain.ignore_res())
        }
        Format::Json => start_thread(json(LineWriter::new(io::stderr())).ignore_res()),
    };
    let filtered = queue.filter_level(settings.level);
    let logger = Logger::root(filtered.fuse(), o!());
    (logger, guard)
}

/// JSON lines. The writer writes whole lines. Otherwise the lines of several processes on one terminal would mix.
fn json<W: io::Write>(writer: LineWriter<W>) -> slog_json::Json<LineWriter<W>> {
    slog_json::Json::default(writer)
}

fn start_thread(drain: impl Drain<Ok = (), Err = Never> + Send + 'static) -> (Queue, Guard) {
    let (sender, lines) = sync_channel(limits::LOG_LINES_MAX);
    let shared = Arc::new(Shared::default());
    let thread = std::thread::Builder::new().name("log".to_owned()).spawn({
        let shared = shared.clone();
        move || write_lines(&lines, &shared, &drain)
    });
    let guard = Guard {
        queue: sender.clone(),
        thread: Some(thread.expect("a process that can't start its first thread can't go on")),
    };
    let queue = Queue {
        lines: sender,
        shared,
    };
    (queue, guard)
}

enum Queued {
    Line(AsyncRecord),
    /// No line after this one has to be written.
    End,
}

/// The drain that puts lines into the queue.
struct Queue {
    lines: SyncSender<Queued>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    repeats: Mutex<Repeats<AsyncRecord>>,
    /// The number of lines that found the queue full.
    dropped: AtomicU64,
}

impl Shared {
    fn repeats(&self) -> MutexGuard<'_, Repeats<AsyncRecord>> {
        self.repeats
            .lock()
            .expect("a thread panicked while it held the repeated lines")
    }
}

impl Drain for Queue {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let mut line = AsyncRecord::from(record, values);
        if let Some(kind) = Kind::of(record, values) {
            match self.shared.repeats().admit(kind, line, Instant::now()) {
                Some(admitted) => line = admitted,
                None => return Ok(()),
            }
        }
        if let Err(TrySendError::Full(_)) = self.lines.try_send(Queued::Line(line)) {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// The body of the thread that writes.
fn write_lines(
    lines: &Receiver<Queued>,
    shared: &Shared,
    drain: &impl Drain<Ok = (), Err = Never>,
) {
    let mut dropped_told = None;
    loop {
        let next = shared.repeats().next_end();
        let wait = next.map_or(limits::LOG_REPEAT_WINDOW, |end| {
            end.saturating_duration_since(Instant::now())
        });
        let is_end = match lines.recv_timeout(wait) {
            Ok(Queued::Line(line)) => {
                let Ok(()) = line.log_to(drain);
                false
            }
            Err(RecvTimeoutError::Timeout) => false,
            Ok(Queued::End) | Err(RecvTimeoutError::Disconnected) => true,
        };
        let now = Instant::now();
        let held = match is_end {
            true => shared.repeats().all(now),
            false => shared.repeats().ended(now),
        };
        for held in held {
            tell_repeats(held, drain);
        }
        let due = dropped_told.is_none_or(|told| now >= told + limits::LOG_REPEAT_WINDOW);
        if (due || is_end) && tell_dropped(&shared.dropped, drain) {
            dropped_told = Some(now);
        }
        if is_end {
            return;
        }
    }
}

/// Writes the last of the lines that were held back, with their number.
fn tell_repeats(held: HeldLines<AsyncRecord>, drain: &impl Drain<Ok = (), Err = Never>) {
    let HeldLines {
        line,
        count,
        within,
    } = held;
    if count == 1 {
        let Ok(()) = line.log_to(drain);
        return;
    }
    line.as_record_values(|record, values| {
        let told = RecordStatic {
            location: record.location(),
            tag: record.tag(),
            level: record.level(),
        };
        let Ok(()) = drain.log(
            &Record::new(
                &told,
                &format_args!(
                    "{} (repeated {count} times in {} s)",
                    record.msg(),
                    within.as_secs_f64().ceil()
                ),
                record.kv(),
            ),
            values,
        );
    });
}

/// Logs the number of dropped lines. Returns whether there were any.
fn tell_dropped(dropped: &AtomicU64, drain: &impl Drain<Ok = (), Err = Never>) -> bool {
    let count = dropped.swap(0, Ordering::Relaxed);
    if count > 0 {
        let text = "lines of this log were dropped: they came faster than they could be written";
        let Ok(()) = drain.log(
            &slog::record!(
                Level::Error,
                "",
                &format_args!("{text}"),
                slog::b!("lines" => count)
            ),
            &o!().into(),
        );
    }
    count > 0
}

/// Writes the one line that says why the process ends. Control characters are escaped, so the text stays one line.
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

#[cfg(test)]
mod tests {
    use super::*;
    use slog::{KV, Key, Serializer, info, warn};
    use std::fmt;

    /// Collects the records as `LEVEL text key=value`.
    #[derive(Clone, Default)]
    pub(super) struct Collected(Arc<Mutex<Vec<String>>>);

    impl Collected {
        pub(super) fn lines(&self) -> Vec<String> {
            self.0.lock().unwrap().clone()
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
        type Err = Never;

        fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
            let mut values = Values(String::new());
            record.kv().serialize(record, &mut values).unwrap();
            let line = format!(
                "{} {}{}",
                record.level().as_short_str(),
                record.msg(),
                values.0
            );
            self.0.lock().unwrap().push(line);
            Ok(())
        }
    }

    fn collecting() -> (Logger, Guard, Collected) {
        let collected = Collected::default();
        let (queue, guard) = start_thread(collected.clone());
        (Logger::root(queue.fuse(), o!()), guard, collected)
    }

    #[test]
    fn repeats_are_counted_by_peer_and_told_at_the_end() {
        let (logger, guard, collected) = collecting();
        let max = limits::LOG_REPEATS_MAX;
        let peers = [2, 3].map(|peer| logger.new(o!("peer" => peer)));
        for number in 0..max + 57 {
            for (peer, repeats) in peers.iter().zip([u64::MAX, max]) {
                if number < repeats {
                    warn!(peer, "peer is down"; "number" => number);
                }
            }
        }
        drop(guard);
        let lines = collected.lines();
        assert_eq!(lines.len() as u64, 2 * max + 1, "{lines:?}");
        let last = format!(
            "WARN peer is down (repeated 57 times in 1 s) number={}",
            max + 56
        );
        assert_eq!(lines.last(), Some(&last));
    }

    #[test]
    fn a_single_repeat_is_told_as_it_was_and_debug_is_never_held_back() {
        let (logger, guard, collected) = collecting();
        let max = limits::LOG_REPEATS_MAX;
        for number in 0..max + 1 {
            info!(logger, "a line"; "number" => number);
            slog::debug!(logger, "a detail");
            slog::debug!(logger, "a detail");
        }
        drop(guard);
        let lines = collected.lines();
        assert_eq!(lines.len() as u64, 3 * (max + 1));
        assert_eq!(lines.last(), Some(&format!("INFO a line number={max}")));
    }

    #[test]
    fn what_finds_the_queue_full_is_counted() {
        let collected = Collected::default();
        let dropped = AtomicU64::new(7);
        assert!(tell_dropped(&dropped, &collected));
        assert!(!tell_dropped(&dropped, &collected));
        let lines = collected.lines();
        assert!(
            lines.len() == 1 && lines[0].ends_with("written lines=7"),
            "{lines:?}"
        );
    }

    #[test]
    fn json_is_one_object_a_line_whatever_is_in_it() {
        #[derive(Clone, Default)]
        struct Bytes(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Bytes {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let written = Bytes::default();
        let (queue, guard) = start_thread(json(LineWriter::new(written.clone())).ignore_res());
        let logger = Logger::root(queue.fuse(), o!("peer" => 2));
        for _ in 0..limits::LOG_REPEATS_MAX + 2 {
            warn!(logger, "two\nlines \"quoted\""; "error" => "a\n{b}", "ms" => 7);
        }
        drop(guard);
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let count = text.lines().count() as u64;
        assert_eq!(count, limits::LOG_REPEATS_MAX + 1);
        for line in text.lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(value["ts"].as_str().unwrap().ends_with('Z'), "{line}");
            assert_eq!(
                (&value["level"], &value["peer"]),
                (&"WARN".into(), &2.into())
            );
            assert_eq!(
                (&value["error"], &value["ms"]),
                (&"a\n{b}".into(), &7.into())
            );
            assert!(
                value["msg"].as_str().unwrap().starts_with("two\nlines"),
                "{line}"
            );
        }
        assert!(text.contains("(repeated 2 times in 1 s)"), "{text}");
    }

    #[test]
    fn a_fatal_line_stays_one_line() {
        assert_eq!(one_line("a\nb\u{1b}[1mé"), "a\\nb\\u{1b}[1mé");
    }
}
