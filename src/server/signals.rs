//! Signals: SIGTERM and SIGINT stop the member. SIGHUP makes a member with `--tls` read its certificates again, and has no
//! other effect.
//!
//! The process catches these signals before it does anything else, even before it reads its command line. A signal that
//! arrives before the member can stop in order waits until the member can.

use super::stop::{SignalReceived, StopReason, StopSender};
use crate::limits;
use crate::tls::reload::ReadAgain;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use slog::{Logger, info};
use std::io;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Instant;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The receiver of each SIGHUP, if a part of the process has files to read again.
pub(super) type Hangups = Arc<OnceLock<mpsc::Sender<ReadAgain>>>;

/// Fails if the limit of open files is so low that tokio panics when it has to catch signals.
pub fn check_files() -> io::Result<()> {
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < limits::SIGNALS_FILES_LEAST => Err(Errno::MFILE.into()),
        _ => Ok(()),
    }
}

/// Signals that are caught, but not handled yet.
pub struct Signals {
    stopping: [(&'static str, Signal); 2],
    hangups: Signal,
}

impl Signals {
    /// From now on, none of these signals ends the process directly, for as long as the process lives.
    pub fn catch() -> io::Result<Signals> {
        check_files()?;
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

    /// From now on, SIGTERM and SIGINT are reasons to stop in order. SIGHUP is no such reason: it comes from a terminal
    /// that was closed, or from a supervisor that asks for files to be read again. Returns where SIGHUP is reported once
    /// there are such files.
    pub(super) fn watch(
        self,
        runtime: &Runtime,
        stop_sender: &StopSender,
        logger: &Logger,
    ) -> Hangups {
        for (name, mut signals) in self.stopping {
            let stop_sender = stop_sender.clone();
            runtime.spawn(async move {
                while signals.recv().await.is_some() {
                    let at = Instant::now();
                    stop_sender.send(StopReason::Signal(SignalReceived { name, at }));
                }
            });
        }
        let mut signals = self.hangups;
        let logger = logger.clone();
        let hangups = Hangups::default();
        let reported = hangups.clone();
        runtime.spawn(async move {
            while signals.recv().await.is_some() {
                match reported.get() {
                    // The receiver is gone when the member stops.
                    Some(receiver) => drop(receiver.send(ReadAgain)),
                    None => info!(
                        logger,
                        "SIGHUP is ignored: there is no file to read again; SIGTERM stops this member"
                    ),
                }
            }
        });
        hangups
    }
}
