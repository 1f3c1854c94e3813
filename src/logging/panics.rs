//! Ends the process after a panic.
//!
//! A thread that panicked has left its work undone, and other threads may wait for it for ever, so the process ends. It
//! ends by SIGABRT, which a shell shows as 134, and not with an exit code, because a panic is a bug. The kernel may
//! keep a core dump. No `RestartPreventExitStatus` applies, so a supervisor starts the process again.
//!
//! Invariant: the process ends within [`limits::LOG_PANIC_TIMEOUT`], also if nothing reads stderr.

use super::last_words::last_words;
use super::lines::Format;
use super::tags::ALWAYS;
use super::thread::{Queue, THREAD};
use crate::limits;
use crate::workers::THREAD_ADVICE;
use slog::{Drain as _, Level, Logger, o};
use slog_async::AsyncRecord;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::process::abort;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

/// Sets the panic hook.
pub(super) fn end_the_process(queue: Queue, format: Format) {
    let first = AtomicBool::new(true);
    std::panic::set_hook(Box::new(move |panic| {
        if !first.swap(false, Ordering::SeqCst) {
            // Another thread has panicked before and is being reported.
            thread::sleep(limits::LOG_PANIC_TIMEOUT);
            abort();
        }
        // Limits the time of everything that follows.
        let limit = thread::Builder::new().spawn(|| {
            thread::sleep(limits::LOG_PANIC_TIMEOUT);
            abort();
        });
        let current = thread::current();
        let name = current.name().unwrap_or("?");
        let what = panic.payload_as_str().unwrap_or("no message");
        let at = panic.location().map(ToString::to_string);
        let at = at.as_deref().unwrap_or("?");
        let line = match what.contains("can't spawn worker thread") {
            // The panic of tokio. Most starts that lack threads end before tokio needs one: see `workers`.
            true => format!("can't start a thread: {what}; {THREAD_ADVICE}"),
            false => format!("a bug, please report it: thread {name} panicked at {at}: {what}"),
        };
        if limit.is_err() || name == THREAD {
            last_words(format, &line);
        } else {
            report(&queue, &line);
        }
        abort();
    }));
}

fn report(queue: &Queue, line: &str) {
    let reason = AsyncRecord::from(
        &slog::record!(Level::Error, ALWAYS, &format_args!("{line}"), slog::b!()),
        &o!().into(),
    );
    // Nothing else says why the process ends, so this line waits for room in a full queue.
    queue.log_until(reason, Instant::now() + limits::LOG_END_TIMEOUT);
    let logger = Logger::root(queue.clone().fuse(), o!());
    // Resolving the symbols may take long, so this is a line of its own. The environment decides whether there is one.
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        slog::error!(logger, #ALWAYS, "the backtrace of the panic"; "backtrace" => %backtrace);
    }
    queue.end(None, limits::LOG_END_TIMEOUT);
}
