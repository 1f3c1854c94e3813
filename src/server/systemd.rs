//! Notifications to systemd, if systemd has started this process: that the process is ready or stopping, how far a
//! start has come, and that the raft loop is alive.
//!
//! `NOTIFY_SOCKET` names the socket, and `WATCHDOG_USEC` the interval of the watchdog. Without `NOTIFY_SOCKET` this
//! module does nothing. One task checks the state at intervals and sends changes as one datagram (see sd_notify(3)).
//! The socket does not block: a datagram that can't be sent is sent again after the next check.
//!
//! Invariant: `WATCHDOG=1` is sent only if the raft loop has made a pass since the last `WATCHDOG=1`. So a raft loop
//! that hangs for any reason ends the process after `WatchdogSec`. A runtime that hangs has the same effect, because
//! this task runs on it.

use crate::channels::inbox::Inbox;
use crate::limits;
use crate::logging::progress::Replay;
use slog::{Logger, warn};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// The phase of the process's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The process reads its data.
    Starting,
    /// The member has started, but may still be replaying its log.
    Started,
    /// The process was asked to stop.
    Stopping,
}

/// The connection to systemd.
#[derive(Debug)]
pub struct Systemd {
    socket: UnixDatagram,
    address: SocketAddr,
    /// The interval at which the watchdog expects a sign of life.
    watchdog: Option<Duration>,
}

impl Systemd {
    /// Returns `None` if `NOTIFY_SOCKET` is not set.
    pub fn from_environment() -> Result<Option<Systemd>, String> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let Some(path) = variable("NOTIFY_SOCKET") else {
            return Ok(None);
        };
        let open = || -> io::Result<Systemd> {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            Ok(Systemd {
                socket,
                address: address(&path)?,
                watchdog: watchdog(
                    variable("WATCHDOG_USEC"),
                    variable("WATCHDOG_PID"),
                    std::process::id(),
                ),
            })
        };
        open()
            .map(Some)
            .map_err(|error| format!("NOTIFY_SOCKET {path:?}: {error}"))
    }

    /// Sends changes until the process ends.
    pub async fn attend(
        self,
        mut phase: watch::Receiver<Phase>,
        replay: Arc<Replay>,
        inbox: Arc<Inbox>,
        logger: Logger,
    ) {
        let mut told = Notified::default();
        let often = self.watchdog.map_or(limits::PROGRESS_INTERVAL, |watchdog| {
            (watchdog / 2).min(limits::PROGRESS_INTERVAL)
        });
        loop {
            let now = *phase.borrow_and_update();
            let mut next = told.clone();
            let waits = || inbox.waits_for();
            let news = next.news(
                now,
                replay.under_way().or_else(waits),
                self.watchdog.map(|_| inbox.passes()),
            );
            if !news.is_empty() {
                match self.socket.send_to_addr(news.as_bytes(), &self.address) {
                    Ok(_) => told = next,
                    Err(error) => {
                        warn!(logger, "can't notify systemd; check that the unit has Type=notify and has started this \
                            process"; "error" => %error)
                    }
                }
            }
            if let Ok(Err(_)) = timeout(often, phase.changed()).await {
                // The sender of the phase is gone, so the process is ending.
                return;
            }
        }
    }
}

/// The address of a path or, with a leading @, of a name in Linux's abstract namespace.
fn address(path: &OsStr) -> io::Result<SocketAddr> {
    match path.as_bytes() {
        [b'/', ..] => SocketAddr::from_pathname(path),
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => {
            use std::os::linux::net::SocketAddrExt as _;
            SocketAddr::from_abstract_name(name)
        }
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it has to be a path, or a name with an @ in front",
        )),
    }
}

/// The interval at which the watchdog expects a sign of life from the process `own`. A value that is not a number means
/// no watchdog.
fn watchdog(usec: Option<OsString>, pid: Option<OsString>, own: u32) -> Option<Duration> {
    let is_own = pid.is_none_or(|pid| pid == *own.to_string());
    let usec = usec.filter(|_| is_own)?.to_str()?.parse().ok()?;
    (usec > 0).then(|| Duration::from_micros(usec))
}

/// The state that systemd was last notified of.
#[derive(Debug, Clone, Default)]
struct Notified {
    phase: Option<Phase>,
    status: String,
    passes: u64,
}

impl Notified {
    /// The datagram with all changes, or an empty text if there are none. `passes` is the number of passes of the raft
    /// loop, or `None` without a watchdog. `waits` is the reason why no clients are served.
    fn news(&mut self, phase: Phase, waits: Option<String>, passes: Option<u64>) -> String {
        let mut news = String::new();
        if self.phase != Some(phase) {
            self.phase = Some(phase);
            news += match phase {
                Phase::Starting => "",
                Phase::Started => "READY=1\n",
                Phase::Stopping => "STOPPING=1\n",
            };
        }
        let status = match (phase, waits) {
            (Phase::Stopping, _) => "stopping".to_owned(),
            (_, Some(waits)) => waits,
            (Phase::Starting, None) => "starting".to_owned(),
            (Phase::Started, None) => "serving".to_owned(),
        };
        if self.status != status {
            // Writing to a string can't fail.
            let _ = writeln!(news, "STATUS={status}");
            if phase == Phase::Starting {
                let more = limits::SYSTEMD_START_EXTENSION.as_micros();
                let _ = writeln!(news, "EXTEND_TIMEOUT_USEC={more}");
            }
            self.status = status;
        }
        if let Some(passes) = passes.filter(|passes| *passes != self.passes) {
            self.passes = passes;
            news += "WATCHDOG=1\n";
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_fed_only_by_a_loop_that_moves() {
        let mut told = Notified::default();
        let mut news = |passes| told.news(Phase::Started, None, passes);
        assert_eq!(news(Some(0)), "READY=1\nSTATUS=serving\n");
        assert_eq!(news(Some(1)), "WATCHDOG=1\n");
        assert_eq!(news(Some(7)), "WATCHDOG=1\n");
        assert_eq!(news(Some(7)), "");
        assert_eq!(news(Some(7)), "");
        assert_eq!(news(Some(8)), "WATCHDOG=1\n");
        assert_eq!(news(None), "");
    }

    #[test]
    fn a_start_asks_for_time_while_it_comes_on() {
        let mut told = Notified::default();
        let mut news =
            |phase, replaying: Option<&str>| told.news(phase, replaying.map(str::to_owned), None);
        let at = |percent: usize| Some(["replaying 1 %", "replaying 2 %"][percent - 1]);
        let extend = "EXTEND_TIMEOUT_USEC=60000000\n";
        let first = news(Phase::Starting, at(1));
        assert_eq!(first, format!("STATUS=replaying 1 %\n{extend}"));
        // The start hangs, so the time that was requested runs out.
        assert_eq!(news(Phase::Starting, at(1)), "");
        let second = news(Phase::Starting, at(2));
        assert_eq!(second, format!("STATUS=replaying 2 %\n{extend}"));
        assert_eq!(news(Phase::Started, at(2)), "READY=1\n");
        assert_eq!(news(Phase::Started, None), "STATUS=serving\n");
        let stopping = "STOPPING=1\nSTATUS=stopping\n";
        assert_eq!(news(Phase::Stopping, None), stopping);
        assert_eq!(news(Phase::Stopping, None), "");
    }

    #[test]
    fn addresses_and_watchdogs_of_the_environment() {
        let path = address(OsStr::new("/run/notify")).unwrap();
        assert_eq!(path.as_pathname().unwrap().to_str(), Some("/run/notify"));
        #[cfg(target_os = "linux")]
        {
            use std::os::linux::net::SocketAddrExt as _;
            let name = address(OsStr::new("@run/notify")).unwrap();
            assert_eq!(name.as_abstract_name(), Some(&b"run/notify"[..]));
        }
        assert!(address(OsStr::new("vsock:2:1")).is_err());

        let some = |text: &str| Some(OsString::from(text));
        let second = Some(Duration::from_secs(1));
        assert_eq!(watchdog(some("1000000"), None, 7), second);
        assert_eq!(watchdog(some("1000000"), some("7"), 7), second);
        assert_eq!(watchdog(some("1000000"), some("8"), 7), None);
        for text in ["0", "-1", "soon"] {
            assert_eq!(watchdog(some(text), None, 7), None);
        }
        assert_eq!(watchdog(None, None, 7), None);
    }
}
