//! The resources that a start takes from the machine before it touches its data: ports, signals and file descriptors.

use super::failure::Failure;
use super::stop::{StopReason, StopSender};
use rustix::process::{Resource, getrlimit, setrlimit};
use slog::{Logger, warn};
use std::net::{SocketAddr, TcpListener};
use tokio::signal::unix::{SignalKind, signal};

/// Binds a port. `option` is the command-line option that chooses another port.
pub(super) fn listen(address: SocketAddr, option: &'static str) -> Result<TcpListener, Failure> {
    let failed = |source| Failure::Listen {
        address,
        option,
        source,
    };
    // The standard library sets SO_REUSEADDR, so a restart does not wait for old connections to time out.
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Converts the listener for the runtime, which serves it.
pub(super) fn into_tokio(
    listener: TcpListener,
    runtime: &tokio::runtime::Runtime,
) -> Result<tokio::net::TcpListener, Failure> {
    let _context = runtime.enter();
    tokio::net::TcpListener::from_std(listener)
        .map_err(|error| Failure::Fatal(format!("can't serve a port: {error}; start again")))
}

/// From now on, a signal is a reason to stop in order, and no longer ends the process directly.
pub(super) fn watch_signals(
    runtime: &tokio::runtime::Runtime,
    stop_sender: &StopSender,
) -> Result<(), Failure> {
    for (name, kind) in [
        ("SIGTERM", SignalKind::terminate()),
        ("SIGINT", SignalKind::interrupt()),
    ] {
        let _context = runtime.enter();
        let mut signals = signal(kind).map_err(|error| {
            Failure::Fatal(format!("can't watch for {name}: {error}; start again"))
        })?;
        let stop_sender = stop_sender.clone();
        runtime.spawn(async move {
            while signals.recv().await.is_some() {
                stop_sender.send(StopReason::Signal(name));
            }
        });
    }
    Ok(())
}

/// Raises the soft limit of open files. Every connection needs a file descriptor, and the usual soft limit of 1,024 is
/// soon used up.
pub(super) fn raise_file_limit(logger: &Logger) {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        warn!(logger, "can't raise the limit of open files"; "error" => %error);
    }
}
