//! Where the data lies: a directory below the target directory that does not outlive this process for long. It holds
//! gigabytes, so it goes whichever way the bench ends; what a kill -9 leaves, the next run removes.

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

const PREFIX: &str = "scale-";
/// A child that was killed may still make a file.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(5);

pub struct Scratch {
    dir: PathBuf,
}

impl Scratch {
    pub fn new() -> Scratch {
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        for entry in fs::read_dir(parent).expect("list the target directory's tmp") {
            let entry = entry.expect("list the target directory's tmp");
            let name = entry.file_name().into_string().unwrap_or_default();
            let owner = name.strip_prefix(PREFIX);
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                remove(&entry.path());
            }
        }
        let dir = parent.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&dir).expect("make a scratch directory");
        let removed = dir.clone();
        std::thread::spawn(move || end_at_signal(&removed));
        Scratch { dir }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.dir);
    }
}

/// Ends this process and its children at SIGINT or SIGTERM.
fn end_at_signal(dir: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("start a runtime");
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).expect("watch SIGINT");
        let mut terminate = signal(SignalKind::terminate()).expect("watch SIGTERM");
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    });
    kill_children();
    remove(dir);
    std::process::exit(1);
}

fn kill_children() {
    let own = std::process::id().to_string();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let stat = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        // Behind the name in parentheses, which may hold anything: the state and the parent.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        if rest.split_whitespace().nth(1) != Some(&*own) {
            continue;
        }
        let pid = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn remove(dir: &Path) {
    let begun = Instant::now();
    while let Err(error) = fs::remove_dir_all(dir) {
        if !dir.exists() {
            return;
        }
        if begun.elapsed() > REMOVAL_TIMEOUT {
            eprintln!("{}: {error}; remove it by hand", dir.display());
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
