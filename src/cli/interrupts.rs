//! The signals that end a subcommand with a file to remove. They end every other subcommand directly.

use crate::server::check_files;
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT.
pub(super) struct Interrupts {
    terminate: Signal,
    interrupt: Signal,
}

impl Interrupts {
    /// From now on, these signals don't end the process directly. Must be called within a runtime.
    pub(super) fn catch() -> io::Result<Interrupts> {
        check_files()?;
        Ok(Interrupts {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The name of the next signal.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
