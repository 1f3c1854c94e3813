//! What the kernel counts for a process: CPU time, and what its WAL thread wrote.

use std::fs;
use std::path::PathBuf;

/// Clock ticks in a second, in which `/proc` counts: 100 on every Linux that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;
/// The kernel's name of the thread that writes the log, see `src/server.rs`.
const WAL_THREAD: &str = "wal";

/// CPU seconds, user and system, of all threads of a process, those that have ended included.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is the name in parentheses, which may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |field: usize| {
        fields
            .get(field)
            .and_then(|ticks| ticks.parse::<f64>().ok())
    };
    match (ticks(11), ticks(12)) {
        (Some(user), Some(system)) => (user + system) / TICKS_PER_SECOND,
        _ => 0.0,
    }
}

/// What a daemon's WAL thread has written since its start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Written {
    /// Calls of write. A batch of the WAL is one write and one fdatasync, so this is also the number of syncs: on the
    /// leader, whose WAL thread writes nothing else. On a follower the same thread hands its answers to the runtime,
    /// and to wake that is a write too.
    pub calls: u64,
    pub bytes: u64,
}

/// Zeros when the kernel does not account for I/O by thread.
pub fn written_by_wal(pid: u32) -> Written {
    let Some(directory) = wal_thread(pid) else {
        return Written::default();
    };
    let io = fs::read_to_string(directory.join("io")).unwrap_or_default();
    let number = |name: &str| {
        io.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
            .unwrap_or(0)
    };
    Written {
        calls: number("syscw:"),
        bytes: number("wchar:"),
    }
}

fn wal_thread(pid: u32) -> Option<PathBuf> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let mut threads = threads.filter_map(|entry| Some(entry.ok()?.path()));
    threads.find(|thread| {
        fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.trim() == WAL_THREAD)
    })
}
