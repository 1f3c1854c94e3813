//! Tests that check nothing because this machine lacks something.

use std::fs::OpenOptions;
use std::io::Write as _;

/// Says that the test of this thread is skipped, and what is missing. cargo hides what a passing test prints, so the line
/// is appended to the file that `RAFTKVD_SKIPPED` names, if it names one.
pub fn skipped(missing: &str) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    let line = format!("{name}: {missing}\n");
    eprint!("skipped: {line}");
    let Some(path) = std::env::var_os("RAFTKVD_SKIPPED") else {
        return;
    };
    let file = OpenOptions::new().create(true).append(true).open(path);
    // Other tests append to the same file: a line is one write.
    file.and_then(|mut file| file.write_all(line.as_bytes()))
        .expect("append to the file that RAFTKVD_SKIPPED names");
}
