//! A child process whose output goes to a file, which is shown when the bench fails. None outlives its [`Process`].

use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take that is waited for; far longer than it should.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How often what is waited for is looked at, where nobody times it.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// Of a log that is shown.
const LOG_LINES_SHOWN: usize = 30;

pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub fn start(command: &mut Command, log: &Path) -> Process {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .expect("open a log");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("clone the log's file"))
            .stderr(file)
            .spawn()
            .expect("start a process");
        Process {
            child,
            log: log.to_owned(),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// kill -9, and until it is gone.
    pub fn kill(mut self) {
        self.end();
    }

    /// SIGTERM, without waiting.
    pub fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("signal a process");
    }

    /// Waits for it to end by itself.
    pub fn wait(mut self) -> ExitStatus {
        let mut ended = None;
        eventually("a process ends", || {
            ended = self.child.try_wait().expect("wait for a process");
            ended.ok_or_else(|| "it still runs".to_owned())
        })
    }

    /// Fails when it has ended.
    pub fn assert_alive(&mut self) {
        let ended = self.child.try_wait().expect("wait for a process");
        assert!(ended.is_none(), "a process ended: {ended:?}");
    }

    fn end(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            let text = fs::read(&self.log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("---- the end of {}", self.log.display());
            for line in &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..] {
                eprintln!("{line}");
            }
        }
    }
}

/// Tries until it works.
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let begin = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(why) if begin.elapsed() > PATIENCE => panic!("{what}: not so far: {why}"),
            Err(_) => std::thread::sleep(POLL_INTERVAL),
        }
    }
}
