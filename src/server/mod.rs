//! A member's process: what it opens, how its parts are connected, what it waits for, and how it stops. [`run`] shows
//! all of this.
//!
//! A start has these steps, in this order:
//! 1. Find out which member this is, from the command line and the data directory (`start.rs`), and refuse ports beyond
//!    loopback that lack TLS (`exposure.rs`).
//! 2. Check that the data directory belongs to this user, and lock it.
//! 3. Check whether `--cluster` fits the data directory (`list.rs`).
//! 4. Bind both ports, so that a port in use ends the start before anything in the directory is touched. A start waits
//!    some seconds for a port, an address or a name (`start_wait.rs`).
//! 5. Serve clients. At first all requests except `/-/metrics` and `/-/live` are refused with the progress of the load.
//! 6. Load the snapshot and read the log.
//! 7. Start raft and the other threads, and serve peers (`wiring.rs`).
//!
//! Before step 7 this member sends nothing to any peer, because it knows neither its vote nor its log. The kernel keeps
//! the connections of its peers waiting.

mod descriptors;
mod exposure;
mod failure;
mod files;
mod join;
mod list;
mod listen;
mod listening;
mod port;
mod signals;
mod start;
mod start_wait;
mod stop;
mod systemd;
mod wiring;

pub use failure::Failure;
pub use port::Port;
pub use signals::{Signals, check_files};

use crate::channels::notice::Notice;
use crate::config::{Asked, Config};
use crate::limits;
use crate::logging;
use crate::node::Node;
use crate::storage::{Beginning, Disk, Meta, Opened, RealDisk};
use descriptors::Descriptors;
use list::Fit;
use slog::{Logger, info, warn};
use start_wait::{NotStarted, StartWait};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;
use stop::{SignalReceived, StopReason, next_failure, on_exit, stop_gently};
use systemd::Phase;
use wiring::{ClientPort, Daemon, Found, OpenFiles, Process, Wired};

/// Runs one member until it is stopped or removed (`Ok`), or until it fails.
pub fn run(asked: Asked, signals: io::Result<Signals>, logger: &Logger) -> Result<(), Failure> {
    let begun = Instant::now();
    let descriptors = Descriptors::raise(logger)?;
    // With few descriptors, signals can be caught only now that the limit is raised.
    let signals = signals.or_else(|_| Signals::catch()).map_err(|error| {
        Failure::Fatal(format!(
            "can't watch for signals: {error}; see how many files and how much memory the process may use (ulimit -a), and \
             start again"
        ))
    })?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let mut process = Process::start(signals, logger)?;
    let mut start_wait = StartWait::new(&process.runtime, &mut process.stop_reasons, logger);
    let plan = match start::prepare(asked, &disk, &mut start_wait) {
        Ok(plan) => plan,
        Err(NotStarted::Failed(failure)) => return Err(failure),
        Err(NotStarted::Stopped(signal)) => {
            tell_stopped_early(signal, logger);
            return Ok(());
        }
    };
    // This line follows the checks, so that a wrong command gets one line of output only.
    tell_starting(&plan.config, logger);
    exposure::tell(&plan.config, logger);
    descriptors.tell(logger);
    let config = plan.config;
    let port = ClientPort {
        listener: plan.client_port,
        tls: plan.tls,
        join_tls: plan.join_tls,
    };
    let mut daemon = Daemon::serve_clients(config, descriptors, port, process, begun, logger)?;
    let Some(opened) = open(&mut daemon, disk, plan.beginning, plan.fit)? else {
        return Ok(());
    };
    let wired = wire(&daemon, opened, plan.peer_port)?;
    let reason = wait(&mut daemon);
    stop(daemon, wired, reason)
}

/// Loads the data directory. Returns `None` if a signal has ended the start.
fn open(
    daemon: &mut Daemon,
    disk: Arc<dyn Disk>,
    beginning: Beginning,
    fit: Fit,
) -> Result<Option<Opened>, Failure> {
    let given = beginning.given.clone();
    let loading = wiring::load(daemon, disk, beginning)?;
    let first = daemon.runtime.block_on(async {
        tokio::select! {
            Ok(opened) = loading => Ok(opened),
            reason = daemon.stop_reasons.next() => Err(reason),
        }
    });
    let opened = match first {
        Ok(opened) => opened,
        Err(StopReason::Failed(failure)) => return Err(failure),
        // Nothing runs yet that must be stopped in order.
        Err(StopReason::Signal(signal)) => {
            tell_stopped_early(signal, &daemon.parts.logger);
            return Ok(None);
        }
        Err(StopReason::Node(exit)) => panic!("{exit:?} of a node that is still to be made"),
    };
    // The options must be stored before the node exists, because the node relies on them.
    match fit {
        _ if opened.recovered.snapshot.is_none() => opened.meta.set_given(given)?,
        Fit::Taken => opened.meta.set_list(&daemon.config.cluster)?,
        Fit::Known => {}
    }
    Ok(Some(opened))
}

/// Makes the node, accepts peers, and starts the threads. From now on this process is a member.
fn wire(daemon: &Daemon, opened: Opened, peer_port: TcpListener) -> Result<Wired, Failure> {
    let Daemon { config, parts, .. } = daemon;
    let logger = &parts.logger;
    let found = Found::of(&opened.recovered);
    let settings = wiring::node_settings(config, daemon.tls.as_ref(), &opened);
    let raft_logger = logging::raft_logger(logger);
    let mut node =
        Node::new(settings, opened.recovered, logger, &raft_logger).map_err(Failure::Fatal)?;
    // The inbox must know whether the member is closed before anything that a client could see is applied.
    parts.inbox.set_closed(node.closed());
    parts.inbox.set_waiting(node.waiting_at_start());
    if !opened.first_start {
        list::tell_differences(config, &node, logger);
    }
    if config.join_ignored {
        info!(logger, "--join is ignored: the data directory belongs to a cluster already; to join another cluster, give a new \
            --data-dir"; "dir" => %config.data_dir.display(), "member" => config.id,
            "cluster" => format!("{:016x}", opened.meta.cluster()));
    }
    parts.hosts.set(node.members());
    parts.revoked.set(node.members());
    let files = OpenFiles {
        meta: opened.meta,
        snapshots: opened.snapshots,
    };
    let view = wiring::view_of(config, &files.meta, opened.run, node.members());
    let transport = wiring::transport(daemon, &files, view, found);
    let members = node.members().members.len();
    let peers = wiring::serve_peers(&transport, peer_port, &daemon.runtime)?;
    // History and replay must start before anything is applied. Requests of clients now wait in the inbox for the raft
    // loop.
    parts
        .state_machine
        .history
        .begin(found.snapshot, found.before_memory);
    parts
        .state_machine
        .replay
        .begin_log(found.snapshot, found.committed, logger);
    let threads = wiring::start_threads(daemon, node, opened.wal, &files, &transport)?;
    if found.is_empty && !config.join_by.is_empty() {
        wiring::ask_to_join(daemon, &files.meta, &transport);
    }
    let wired = Wired {
        meta: files.meta,
        threads,
        transport,
        peers,
    };
    tell_started(daemon, &wired, members);
    Ok(wired)
}

/// Waits for a reason to stop.
fn wait(daemon: &mut Daemon) -> StopReason {
    daemon.runtime.block_on(daemon.stop_reasons.next())
}

/// Stops all parts, each after the parts that feed it. After a failure the order does not matter, and the process just
/// ends.
fn stop(mut daemon: Daemon, wired: Wired, reason: StopReason) -> Result<(), Failure> {
    daemon.phase.send_replace(Phase::Stopping);
    let begun = Instant::now();
    let logger = &daemon.parts.logger;
    let mut first_signal = None;
    let result = match reason {
        StopReason::Failed(failure) => return Err(undone(failure, &wired.meta, logger)),
        StopReason::Signal(signal) => {
            info!(logger, "stopping"; "signal" => signal.name);
            first_signal = Some(signal);
            Ok(())
        }
        StopReason::Node(exit) => on_exit(exit, &daemon.config, &wired.meta, logger),
    };
    let in_order = async {
        let inbox = &daemon.parts.inbox;
        if result.is_ok() {
            stop_gently(inbox, daemon.clients).await;
        }
        inbox.notice(Notice::Stop);
        let threads = wired.threads;
        // A thread that panicked has ended the process already: see main.rs.
        let ended = async {
            while !threads.iter().all(JoinHandle::is_finished) {
                tokio::time::sleep(limits::THREADS_STOP_POLL).await;
            }
        };
        let _ = tokio::time::timeout(limits::THREADS_STOP_TIMEOUT, ended).await;
        wired.transport.close().await;
        drop(wired.peers);
    };
    daemon.runtime.block_on(async {
        tokio::select! {
            () = in_order => Ok(()),
            failure = next_failure(&mut daemon.stop_reasons, first_signal) => Err(failure),
        }
    })?;
    if result.is_ok() {
        info!(logger, "stopped"; "ms" => begun.elapsed().as_millis() as u64);
    }
    result
}

/// A member whose id or URL another member has can't be added as it is. So that a start with corrected options works in
/// the same data directory, that start is a first start again.
fn undone(failure: Failure, meta: &Meta, logger: &Logger) -> Failure {
    if let Failure::Taken(_) = &failure
        && let Err(error) = meta.undo_first_start()
    {
        warn!(logger, "can't undo the first start; give the next start a new --data-dir"; "error" => %error);
    }
    failure
}

fn tell_stopped_early(signal: SignalReceived, logger: &Logger) {
    info!(logger, "stopping before the start was complete"; "signal" => signal.name);
}

fn tell_starting(config: &Config, logger: &Logger) {
    info!(logger, "starting"; "version" => env!("CARGO_PKG_VERSION"), "member" => config.id,
        "dir" => %config.data_dir.display(), "client_address" => %config.client_address,
        "peer_address" => %config.peer_address, "url" => %config.peer_url, "join" => config.join);
}

/// Reports the start to the log, then to systemd, then to the user.
fn tell_started(daemon: &Daemon, wired: &Wired, members: usize) {
    let id = daemon.config.id;
    let client = dialled(daemon.config.client_address);
    let cluster = match wired.meta.cluster() {
        0 => "none yet".to_owned(),
        cluster => format!("{cluster:016x}"),
    };
    info!(daemon.parts.logger, "started"; "cluster" => cluster, "members" => members,
        "ms" => daemon.begun.elapsed().as_millis() as u64);
    daemon.phase.send_replace(Phase::Started);
    let tls_dir = daemon.config.tls.as_ref().map(|tls| tls.dir.clone());
    let said = listening::tell(daemon.parts.clone(), id, client, tls_dir);
    daemon.runtime.spawn(said);
}

/// Where a client on this machine reaches this address.
fn dialled(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{self, Task};

    #[test]
    fn a_refused_start_leaves_nothing_behind() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        let arguments = ["raftkvd", "--id", "2", "--peer-url", "http://127.0.0.1:7"];
        let data_dir = ["--data-dir", dir.to_str().unwrap()];
        let Ok(Task::Run(options)) = cli::parse(arguments.into_iter().chain(data_dir)) else {
            panic!("it runs the daemon");
        };
        let logger = Logger::root(slog::Discard, slog::o!());
        let failure = run(options.asked, Signals::catch(), &logger).unwrap_err();
        assert_eq!(failure.exit_code(), 2, "{failure}");
        assert!(!dir.exists());
    }
}
