//! Writes one line without the thread of the log. This is for three cases: the thread can't be started, the thread
//! itself has panicked, or another thread has panicked and nothing can limit the time of its report.

use super::lines::{Format, one_line, timestamp};
use crate::limits;
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::json;
use std::io;
use std::time::SystemTime;

/// Writes a line, if stderr becomes writable within a limit. The line is shorter than `PIPE_BUF` unless it consists
/// mostly of escaped characters, so the write to a writable pipe does not block.
pub fn last_words(format: Format, text: &str) {
    const CHARS_MAX: usize = 500;
    let text: String = text.chars().take(CHARS_MAX).collect();
    let (text, time) = (one_line(&text), timestamp(SystemTime::now()));
    let line = match format {
        Format::Json => format!("{}\n", json!({"ts": time, "level": "error", "msg": text})),
        Format::Text => format!("{time} ERROR {text}\n"),
        Format::Command => format!("raftkvd: {text}\n"),
    };
    let stderr = io::stderr();
    let mut polled = [PollFd::new(&stderr, PollFlags::OUT)];
    let patience = limits::LOG_END_TIMEOUT.try_into().ok();
    if poll(&mut polled, patience.as_ref()) == Ok(1) && polled[0].revents().contains(PollFlags::OUT)
    {
        // An error can't be reported anywhere.
        let _ = rustix::io::write(&stderr, line.as_bytes());
    }
}
