//! The thread "log", and the queue that feeds it.

use super::lines::RecordTime;
use super::repeats::{HeldLines, Kind, Repeats};
use super::tags::{PROGRESS, PROGRESS_END};
use crate::limits;
use slog::{Drain, Level, Never, OwnedKVList, Record, RecordStatic, o};
use slog_async::AsyncRecord;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

/// The name of the thread.
pub(super) const THREAD: &str = "log";

pub(super) enum Queued {
    Line {
        record: AsyncRecord,
        at: SystemTime,
    },
    /// Drops the sender when all earlier lines are written.
    Flush(SyncSender<()>),
    /// The end of the log. Writes this line and nothing after it.
    End(Option<AsyncRecord>),
}

/// The drain that puts lines into the queue. It never waits.
#[derive(Clone)]
pub(super) struct Queue {
    lines: SyncSender<Queued>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    repeats: Mutex<Repeats<AsyncRecord>>,
    /// The number of lines that found the queue full or could not be written.
    dropped: AtomicU64,
    /// The thread has ended.
    ended: AtomicBool,
}

impl Shared {
    fn repeats(&self) -> MutexGuard<'_, Repeats<AsyncRecord>> {
        self.repeats
            .lock()
            .expect("a thread panicked while it held the repeated lines")
    }
}

/// Starts the thread. Before each record is written, `time` is set to the time at which the record was made.
pub(super) fn start(
    drain: impl Drain<Ok = (), Err = io::Error> + Send + 'static,
    time: RecordTime,
) -> io::Result<Queue> {
    let (sender, lines) = sync_channel(limits::LOG_LINES_MAX);
    let shared = Arc::new(Shared::default());
    std::thread::Builder::new().name(THREAD.to_owned()).spawn({
        let shared = shared.clone();
        move || {
            let writer = Writer {
                shared: &shared,
                drain,
                time,
            };
            writer.run(&lines);
            shared.ended.store(true, Ordering::Release);
        }
    })?;
    Ok(Queue {
        lines: sender,
        shared,
    })
}

impl Queue {
    /// Waits until all earlier lines are written. Returns `false` if that takes too long.
    pub(super) fn flush(&self) -> bool {
        let (written, waiting) = sync_channel(1);
        let deadline = Instant::now() + limits::LOG_END_TIMEOUT;
        if !self.send_until(Queued::Flush(written), deadline) {
            return false;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        waiting.recv_timeout(left) == Err(RecvTimeoutError::Disconnected)
    }

    /// Waits until all earlier lines and then `last` are written, but no longer than `patience`, because it is possible
    /// that nothing reads stderr.
    pub(super) fn end(&self, last: Option<AsyncRecord>, patience: Duration) {
        let deadline = Instant::now() + patience;
        if !self.send_until(Queued::End(last), deadline) {
            return;
        }
        while !self.shared.ended.load(Ordering::Acquire) && Instant::now() < deadline {
            std::thread::sleep(limits::LOG_END_POLL);
        }
    }

    /// Queues a line that must not be dropped. Waits for room until the deadline.
    pub(super) fn log_until(&self, record: AsyncRecord, deadline: Instant) {
        let at = SystemTime::now();
        self.send_until(Queued::Line { record, at }, deadline);
    }

    /// Queues a message, and waits for room until the deadline. Tries at least once. Returns whether the message was
    /// queued.
    fn send_until(&self, message: Queued, deadline: Instant) -> bool {
        let mut next = message;
        loop {
            match self.lines.try_send(next) {
                Ok(()) => return true,
                Err(TrySendError::Full(unsent)) if Instant::now() < deadline => next = unsent,
                Err(_) => return false,
            }
            std::thread::sleep(limits::LOG_END_POLL);
        }
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
        let line = Queued::Line {
            record: line,
            at: SystemTime::now(),
        };
        let is_line = ![PROGRESS, PROGRESS_END].contains(&record.tag());
        if let Err(TrySendError::Full(_)) = self.lines.try_send(line)
            && is_line
        {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// The body of the thread.
struct Writer<'a, D> {
    shared: &'a Shared,
    drain: D,
    time: RecordTime,
}

impl<D: Drain<Ok = (), Err = io::Error>> Writer<'_, D> {
    fn run(&self, lines: &Receiver<Queued>) {
        let mut dropped_told = None;
        loop {
            let next = self.shared.repeats().next_end();
            let wait = next.map_or(limits::LOG_REPEAT_WINDOW, |end| {
                end.saturating_duration_since(Instant::now())
            });
            let mut end = None;
            match lines.recv_timeout(wait) {
                Ok(Queued::Line { record, at }) => self.write(record, at),
                Ok(Queued::Flush(written)) => drop(written),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Queued::End(last)) => end = Some(last),
                Err(RecvTimeoutError::Disconnected) => end = Some(None),
            }
            let now = Instant::now();
            let held = match &end {
                Some(_) => self.shared.repeats().all(now),
                None => self.shared.repeats().ended(now),
            };
            for held in held {
                self.tell_repeats(held);
            }
            let due = dropped_told.is_none_or(|told| now >= told + limits::LOG_REPEAT_WINDOW);
            if (due || end.is_some()) && self.tell_dropped() {
                dropped_told = Some(now);
            }
            if let Some(last) = end {
                if let Some(last) = last {
                    self.write(last, SystemTime::now());
                }
                return;
            }
        }
    }

    fn write(&self, record: AsyncRecord, at: SystemTime) {
        self.time.set(at);
        if record.log_to(&self.drain).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes the last of the lines that were held back, with their number.
    fn tell_repeats(&self, held: HeldLines<AsyncRecord>) {
        let HeldLines {
            line,
            count,
            within,
        } = held;
        if count == 1 {
            return self.write(line, SystemTime::now());
        }
        line.as_record_values(|record, values| {
            let told = RecordStatic {
                location: record.location(),
                tag: record.tag(),
                level: record.level(),
            };
            let counted = AsyncRecord::from(
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
            self.write(counted, SystemTime::now());
        });
    }

    /// Logs the number of dropped lines. Returns whether such a line was written.
    fn tell_dropped(&self) -> bool {
        let count = self.shared.dropped.swap(0, Ordering::Relaxed);
        if count == 0 {
            return false;
        }
        let text = "lines of this log were dropped: they came faster than they could be written, or stderr took none";
        self.time.set(SystemTime::now());
        let told = self.drain.log(
            &slog::record!(
                Level::Error,
                "",
                &format_args!("{text}"),
                slog::b!("lines" => count)
            ),
            &o!().into(),
        );
        if told.is_err() {
            self.shared.dropped.fetch_add(count, Ordering::Relaxed);
        }
        told.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Collected;
    use super::*;
    use crate::logging::ALWAYS;
    use slog::{Logger, info, warn};

    fn collecting() -> (Logger, Queue, Collected) {
        let collected = Collected::default();
        let queue = start(collected.clone(), RecordTime::default()).unwrap();
        (Logger::root(queue.clone().fuse(), o!()), queue, collected)
    }

    fn record(text: &str) -> AsyncRecord {
        AsyncRecord::from(
            &slog::record!(Level::Error, "", &format_args!("{text}"), slog::b!()),
            &o!().into(),
        )
    }

    #[test]
    fn repeats_are_counted_by_member_and_told_at_the_end() {
        let (logger, queue, collected) = collecting();
        let max = limits::LOG_REPEATS_MAX;
        let peers = [2, 3].map(|peer| logger.new(o!("member" => peer)));
        for number in 0..max + 57 {
            for (peer, repeats) in peers.iter().zip([u64::MAX, max]) {
                if number < repeats {
                    warn!(peer, "peer is down"; "number" => number);
                }
            }
        }
        queue.end(Some(record("why it ends")), limits::LOG_END_TIMEOUT);
        let lines = collected.lines();
        assert_eq!(lines.len() as u64, 2 * max + 2, "{lines:?}");
        let told = format!(
            "WARN peer is down (repeated 57 times in 1 s) number={}",
            max + 56
        );
        assert_eq!(lines[lines.len() - 2..], [&*told, "ERRO why it ends"]);
    }

    #[test]
    fn a_single_repeat_is_told_as_it_was_and_debug_is_never_held_back() {
        let (logger, queue, collected) = collecting();
        let max = limits::LOG_REPEATS_MAX;
        for number in 0..max + 1 {
            info!(logger, "a line"; "number" => number);
            slog::debug!(logger, "a detail");
            slog::debug!(logger, "a detail");
            slog::info!(logger, #ALWAYS, "said in any case");
        }
        assert!(queue.flush());
        assert_eq!(collected.lines().len() as u64, 4 * max + 3);
        queue.end(None, limits::LOG_END_TIMEOUT);
        let lines = collected.lines();
        assert_eq!(lines.len() as u64, 4 * (max + 1));
        assert_eq!(lines.last(), Some(&format!("INFO a line number={max}")));
    }

    #[test]
    fn what_could_not_be_written_is_counted_and_told_when_it_can() {
        let (logger, queue, collected) = collecting();
        // After each line and after the flush, the thread also tries to log the number of dropped lines.
        collected.break_for(7);
        for _ in 0..3 {
            info!(logger, "nobody sees this");
        }
        assert!(queue.flush());
        info!(logger, "this one is seen");
        queue.end(None, limits::LOG_END_TIMEOUT);
        let lines = collected.lines();
        assert_eq!(lines[0], "INFO this one is seen");
        assert!(lines[1].ends_with("took none lines=3"), "{lines:?}");
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn an_end_waits_for_a_blocked_drain_no_longer_than_its_time() {
        let (logger, queue, collected) = collecting();
        let held = collected.hold();
        for number in 0..limits::LOG_LINES_MAX as u64 + 10 {
            slog::debug!(logger, "a line"; "number" => number);
        }
        let begun = Instant::now();
        assert!(!queue.flush());
        queue.end(Some(record("too late")), limits::LOG_END_TIMEOUT);
        let took = begun.elapsed();
        assert!(took >= limits::LOG_END_TIMEOUT, "{took:?}");
        assert!(took < 3 * limits::LOG_END_TIMEOUT, "{took:?}");
        drop(held);
    }
}
