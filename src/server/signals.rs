//! Signals: SIGTERM and SIGINT stop the member, SIGHUP has no effect.
//!
//! The process catches them first thing, before it reads its command line. A signal that comes before the member can stop in
//! order waits until then.

use super::stop::{SignalReceived, StopReason, StopSender};
use slog::{Logger, info};
use std::io;
use std::time::Instant;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that are caught, and wait to be watched.
pub struct Signals {
    stopping: [(&'static str, Signal); 2],
    hangups: Signal,
}

impl Signals {
    /// From now on, no signal of these ends the process directly, for as long as the process lives.
    pub fn catch() -> io::Result<Signals> {
        // Handlers belong to the process, and outlive the runtime.
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let _context = runtime.enter();
        Ok(Signals {
            stopping: [
                ("SIGTERM", signal(SignalKind::terminate())?),
                ("SIGINT", signal(SignalKind::interrupt())?),
            ],
            hangups: signal(SignalKind::hangup())?,
        })
    }

    /// From now on, a signal is a reason to stop in order. SIGHUP is none: it comes from a terminal that was closed, or
    /// from a supervisor that wants files to be read again.
    pub(super) fn watch(self, runtime: &Runtime, stop_sender: &StopSender, logger: &Logger) {
        for (name, mut signals) in self.stopping {
            let stop_sender = stop_sender.clone();
            runtime.spawn(async move {
                while signals.recv().await.is_some() {
                    let at = Instant::now();
                    stop_sender.send(StopReason::Signal(SignalReceived { name, at }));
                }
            });
        }
        let mut hangups = self.hangups;
        let logger = logger.clone();
        runtime.spawn(async move {
            while hangups.recv().await.is_some() {
                info!(
                    logger,
                    "SIGHUP is ignored: there is no file to read again; SIGTERM stops this member"
                );
            }
        });
    }
}
