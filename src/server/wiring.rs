//! Channels, tasks and threads: what passes between the parts of the process, and where each part runs.
//!
//! ```text
//! tokio runtime   client API, peer connections
//! raft            raft::run: owns the Node
//! wal             wal::Jobs::run: writes the Wal (the raft loop writes a job that comes alone)
//! remove          remove::Remover::run: deletes files that are no longer needed
//! read-back       read_back::Reader::run: reads the WAL for followers that are behind
//! apply           apply::Applier::run: the only writer of the Store
//! snapshot        snapshot::write_snapshots
//! load            DataDir::open_and_load, then it ends
//! worker          workers::Workers: lists, hashes, large JSON and metrics for the client API
//! tls             reload::run: reads changed certificates again (only with --tls)
//! backup, send, receive  one for each backup, and for each snapshot that is sent or received
//! lookup          one for each host name that is being resolved
//! main            waits for a signal or a reason to end
//! ```
//!
//! Only this module starts long-running threads, except for the threads of the log and of `workers`. Each thread ends
//! when the thread that feeds it has ended: first raft, by [`Notice::Stop`](crate::channels::notice::Notice::Stop),
//! then wal, read-back and apply, then remove and snapshot.

use super::descriptors::Descriptors;
use super::exposure;
use super::failure::Failure;
use super::files::{FailStopDirectory, SnapshotFiles};
use super::join;
use super::listen::into_tokio;
use super::signals::{Hangups, Signals};
use super::stop::{Runtime, ServedPort, StopReason, StopReasons, StopSender, stop_reasons};
use super::systemd::{Phase, Systemd};
use crate::api::{self, Api};
use crate::channels::inbox::Inbox;
use crate::channels::member_hosts::MemberHosts;
use crate::channels::notice::Notice;
use crate::channels::revoked_keys::RevokedKeys;
use crate::config::Config;
use crate::identity::View;
use crate::limits;
use crate::members::Members;
use crate::metrics::Metrics;
use crate::node::{self, Node};
use crate::storage::wal::Wal;
use crate::storage::{self, Beginning, DataDir, Disk, Meta, Opened, Recovered, Snapshots};
use crate::store::Store;
use crate::store::state_machine::StateMachine;
use crate::threads::apply;
use crate::threads::raft;
use crate::threads::read_back::Reader;
use crate::threads::remove::Remover;
use crate::threads::snapshot::{self, SnapshotLoader};
use crate::threads::wal;
use crate::tls::client::ClientTls;
use crate::tls::{Tls, reload};
use crate::transport::{self, Transport};
use crate::workers::Workers;
use futures_channel::oneshot;
use slog::{Logger, warn};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::sync::watch;

/// The parts that several other parts of the process share.
#[derive(Clone)]
pub(super) struct SharedParts {
    pub(super) inbox: Arc<Inbox>,
    pub(super) state_machine: StateMachine,
    pub(super) hosts: Arc<MemberHosts>,
    pub(super) revoked: Arc<RevokedKeys>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) stop_sender: StopSender,
    pub(super) logger: Logger,
}

impl SharedParts {
    fn new(config: &Config, stop_sender: StopSender, logger: &Logger) -> SharedParts {
        let tuning = &config.tuning;
        let urls = config.cluster.values().chain([&config.peer_url]);
        let store = Arc::new(Store::new());
        // Freeing millions of entries one by one takes seconds. So the store is leaked, and the end of the process
        // frees it at once.
        std::mem::forget(store.clone());
        SharedParts {
            inbox: Arc::new(Inbox::default()),
            state_machine: StateMachine::new(store, tuning.log_cache_bytes / limits::HISTORY_SHARE),
            hosts: Arc::new(MemberHosts::new(urls)),
            revoked: Arc::new(RevokedKeys::default()),
            metrics: Arc::new(Metrics::default()),
            stop_sender,
            logger: logger.clone(),
        }
    }
}

/// The process before it has found out which member it is.
pub(super) struct Process {
    stop_sender: StopSender,
    hangups: Hangups,
    pub(super) stop_reasons: StopReasons,
    pub(super) runtime: Runtime,
}

impl Process {
    /// Starts the runtime. From now on a signal is a reason to stop.
    pub(super) fn start(signals: Signals, logger: &Logger) -> Result<Process, Failure> {
        let runtime = Runtime::start()?;
        let (stop_sender, stop_reasons) = stop_reasons();
        let hangups = signals.watch(&runtime, &stop_sender, logger);
        Ok(Process {
            stop_sender,
            hangups,
            stop_reasons,
            runtime,
        })
    }
}

/// The process from the moment when it serves clients. Fields are dropped in order, and the runtime must be dropped
/// last.
pub(super) struct Daemon {
    /// When the process started.
    pub(super) begun: Instant,
    pub(super) config: Config,
    pub(super) descriptors: Descriptors,
    pub(super) parts: SharedParts,
    /// The certificates of this member. `None`: without TLS.
    pub(super) tls: Option<Tls>,
    /// The files with which this member asks to join. `None`: without TLS.
    join_tls: Option<ClientTls>,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) clients: ServedPort,
    pub(super) stop_reasons: StopReasons,
    pub(super) runtime: Runtime,
}

impl Daemon {
    /// Serves clients from now on. Until the map is loaded, most requests are refused with the progress of the load.
    /// Peers are not served yet: the kernel keeps their connections until there is a node that knows what it may send.
    pub(super) fn serve_clients(
        config: Config,
        descriptors: Descriptors,
        port: ClientPort,
        process: Process,
        begun: Instant,
        logger: &Logger,
    ) -> Result<Daemon, Failure> {
        let workers = Workers::start(limits::WORKER_THREADS).map_err(Failure::no_thread)?;
        let Process {
            stop_sender,
            hangups,
            stop_reasons,
            runtime,
        } = process;
        let parts = SharedParts::new(&config, stop_sender, logger);
        let is_open = !exposure::open_ports(&config).is_empty();
        parts.metrics.tls.set_insecure(is_open);
        let api = Api {
            inbox: parts.inbox.clone(),
            state_machine: parts.state_machine.clone(),
            hosts: api::Hosts::new(config.allowed_hosts.clone(), parts.hosts.clone()),
            limits: api::Limits::new(&config.tuning, descriptors.clients, descriptors.spare),
            tick: config.tuning.tick(),
            metrics: parts.metrics.clone(),
            workers,
            tls: port.tls.clone(),
            revoked: parts.revoked.clone(),
            logger: parts.logger.clone(),
        };
        if let Some(tls) = &port.tls {
            keep_fresh(tls, &parts, &hangups)?;
            runtime.spawn(report_own_key(tls.clone(), parts.inbox.clone()));
        }
        let (join_tls, tls) = (port.join_tls, port.tls);
        let port = into_tokio(port.listener, &runtime)?;
        let clients = ServedPort::start(&runtime, |stopped| api::serve(port, api, stopped));
        Ok(Daemon {
            begun,
            phase: tell_systemd(&parts, &runtime),
            config,
            descriptors,
            parts,
            tls,
            join_tls,
            clients,
            stop_reasons,
            runtime,
        })
    }
}

/// The client port, and the certificates of this member.
pub(super) struct ClientPort {
    pub(super) listener: TcpListener,
    pub(super) tls: Option<Tls>,
    pub(super) join_tls: Option<ClientTls>,
}

/// Starts the thread that reads changed certificates again.
fn keep_fresh(tls: &Tls, parts: &SharedParts, hangups: &Hangups) -> Result<(), Failure> {
    let (sender, asked) = mpsc::channel();
    // The cell is empty, because only this thread has files to read again.
    let _ = hangups.set(sender);
    let (tls, metrics, logger) = (tls.clone(), parts.metrics.tls.clone(), parts.logger.clone());
    spawn("tls", &parts.stop_sender, move || {
        reload::run(&tls, &asked, &metrics, &logger);
        Ok(())
    })?;
    Ok(())
}

/// Reports each new key of this member to the raft loop.
async fn report_own_key(tls: Tls, inbox: Arc<Inbox>) {
    let mut renewals = tls.subscribe();
    let mut reported = tls.credentials().own().fingerprint;
    while renewals.changed().await.is_ok() {
        let key = renewals.borrow_and_update().own().fingerprint;
        if std::mem::replace(&mut reported, key) != key {
            inbox.notice(Notice::OwnKey(key));
        }
    }
}

fn tell_systemd(parts: &SharedParts, runtime: &Runtime) -> watch::Sender<Phase> {
    let (phase, phases) = watch::channel(Phase::Starting);
    let (replay, inbox) = (parts.state_machine.replay.clone(), parts.inbox.clone());
    let logger = parts.logger.clone();
    match Systemd::from_environment() {
        Ok(None) => {}
        Ok(Some(systemd)) => {
            runtime.spawn(systemd.attend(phases, replay, inbox, logger));
        }
        Err(line) => warn!(logger, "systemd is not notified: {}", line),
    }
    phase
}

/// Loads the data directory on a thread of its own.
pub(super) fn load(
    daemon: &Daemon,
    disk: Arc<dyn Disk>,
    beginning: Beginning,
) -> Result<oneshot::Receiver<Opened>, Failure> {
    let Daemon { config, parts, .. } = daemon;
    let (loaded, opened) = oneshot::channel();
    let dir = DataDir::new(disk, &config.data_dir);
    let options = storage::WalOptions {
        cache_bytes: config.tuning.log_cache_bytes,
        ..storage::WalOptions::default()
    };
    let StateMachine { store, replay, .. } = parts.state_machine.clone();
    let (metrics, logger) = (parts.metrics.clone(), parts.logger.clone());
    spawn("load", &parts.stop_sender, move || {
        let load = &mut |snapshots: &Snapshots, index, term| {
            let told = |done, total| replay.loaded(done, total);
            let begun = Instant::now();
            let loader = SnapshotLoader {
                store: &store,
                threads: limits::load_threads(),
                logger: &logger,
            };
            let loaded = loader.load(snapshots, index, term, told)?;
            metrics.snapshots.loaded.add(begun.elapsed(), loaded.1);
            Ok(loaded)
        };
        let opened = dir.open_and_load(beginning, options, load, &logger)?;
        // The send fails if the main thread is already ending.
        drop(loaded.send(opened));
        Ok(())
    })?;
    Ok(opened)
}

/// Numbers that a start has found on its disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    /// The member knows no members: it has received no state and has not started a cluster.
    pub(super) is_empty: bool,
    /// The index of the snapshot, or 0 if there is none.
    pub(super) snapshot: u64,
    pub(super) committed: u64,
    /// Entries up to this index are read from the disk and not kept in memory.
    pub(super) before_memory: u64,
}

impl Found {
    pub(super) fn of(recovered: &Recovered) -> Found {
        let first_in_memory = recovered.entries.first();
        Found {
            is_empty: recovered.snapshot.is_none(),
            snapshot: recovered.snapshot.as_ref().map_or(0, |meta| meta.index),
            committed: recovered.hard_state.commit,
            before_memory: first_in_memory.map_or(0, |entry| entry.index - 1),
        }
    }
}

/// The files of the data directory that several parts use.
pub(super) struct OpenFiles {
    pub(super) meta: Arc<Meta>,
    pub(super) snapshots: Arc<Snapshots>,
}

/// The running parts, except for those that serve clients.
pub(super) struct Wired {
    pub(super) meta: Arc<Meta>,
    pub(super) threads: Vec<JoinHandle<()>>,
    pub(super) transport: Transport,
    pub(super) peers: ServedPort,
}

pub(super) fn node_settings(
    config: &Config,
    tls: Option<&Tls>,
    opened: &Opened,
) -> node::NodeSettings {
    // A member without a table knows its URL only from the command line.
    let is_empty = opened.recovered.snapshot.is_none();
    let url_counts = config.url_given || is_empty || opened.first_start;
    let is_listed = !config.join && (config.cluster.len() > 1 || !is_empty);
    node::NodeSettings {
        id: config.id,
        incarnation: opened.meta.incarnation(),
        boot: opened.meta.boot(),
        run: opened.run,
        url: url_counts.then(|| config.peer_url.clone()),
        key: tls.map(|tls| tls.credentials().own().fingerprint),
        url_given: config.url_given,
        list: match is_listed {
            true => config.cluster.clone(),
            false => BTreeMap::new(),
        },
        served_at: Some(config.peer_url.clone()),
        joins_through: joins_through(config),
        election_ticks: config.tuning.election_ticks(),
        heartbeat_ticks: config.tuning.heartbeat_ticks(),
        snapshot_bytes: config.tuning.snapshot_bytes,
        log_cache_bytes: config.tuning.log_cache_bytes,
        pinned_log_bytes: limits::PINNED_LOG_BYTES_MAX,
        // The incarnation is random, so the members draw different sequences of timeouts.
        seed: opened.meta.incarnation(),
    }
}

/// The members that this member asks to add it, as text for people. The text says if the URLs come from the data directory:
/// an operator who wants member 1 to create a cluster does not expect them.
fn joins_through(config: &Config) -> Option<String> {
    if config.join_by.is_empty() {
        return None;
    }
    let urls = config.join_by.iter().map(ToString::to_string);
    let urls = urls.collect::<Vec<_>>().join(", ");
    Some(match (config.join_remembered, config.id) {
        (false, _) => urls,
        (true, 1) => format!(
            "{urls} (from the data directory; to create a cluster instead, start member 1 with a new --data-dir)"
        ),
        (true, _) => format!("{urls} (from the data directory)"),
    })
}

/// This member's view of itself and of the others, before any entry of the log is applied.
pub(super) fn view_of(config: &Config, meta: &Meta, run: u64, members: &Members) -> View {
    let nothing = View {
        me: config.id,
        incarnation: meta.incarnation(),
        run,
        url: config.peer_url.clone(),
        url_given: config.url_given,
        cluster: 0,
        members: Members::default(),
        bound_index: 0,
    };
    nothing.next(meta.cluster(), members)
}

/// The transport. It starts to dial at once.
pub(super) fn transport(daemon: &Daemon, files: &OpenFiles, view: View, found: Found) -> Transport {
    let Daemon { config, parts, .. } = daemon;
    let settings = transport::TransportSettings {
        directory: Arc::new(FailStopDirectory {
            meta: files.meta.clone(),
            stop_sender: parts.stop_sender.clone(),
        }),
        snapshots: Arc::new(SnapshotFiles(files.snapshots.clone())),
        metrics: parts.metrics.clone(),
        limits: transport::TransportLimits {
            connections: daemon.descriptors.peers,
            newcomers: limits::PEER_NEWCOMERS_MAX.min(daemon.descriptors.peers / 2),
            ..transport::TransportLimits::default()
        },
        tls: daemon.tls.clone(),
        about: transport::About {
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            client_url: Some(client_url(config)),
        },
        applied: found.snapshot,
        list: match config.list_given || found.is_empty || !view.members.is_formed() {
            true => config.cluster.clone(),
            // The first members may not be the current members.
            false => BTreeMap::new(),
        },
        view,
    };
    Transport::new(
        settings,
        parts.inbox.clone(),
        daemon.runtime.handle().clone(),
        parts.logger.clone(),
    )
}

/// The URL at which clients of other hosts most likely reach this member. If the member listens on all addresses, this
/// URL has the host of the peer URL.
fn client_url(config: &Config) -> String {
    let Config {
        client_address,
        peer_url,
        ..
    } = config;
    let scheme = match config.tls {
        Some(_) => "https",
        None => "http",
    };
    match client_address.ip().is_unspecified() {
        true => match peer_url.host().contains(':') {
            true => format!("{scheme}://[{}]:{}", peer_url.host(), client_address.port()),
            false => format!("{scheme}://{}:{}", peer_url.host(), client_address.port()),
        },
        false => format!("{scheme}://{client_address}"),
    }
}

pub(super) fn serve_peers(
    transport: &Transport,
    port: TcpListener,
    runtime: &Runtime,
) -> Result<ServedPort, Failure> {
    let (transport, port) = (transport.clone(), into_tokio(port, runtime)?);
    Ok(ServedPort::start(runtime, |stopped| async move {
        transport.serve(port, stopped).await;
    }))
}

/// Makes the channels between the threads, and starts the threads.
pub(super) fn start_threads(
    daemon: &Daemon,
    node: Node,
    mut wal: Wal,
    files: &OpenFiles,
    transport: &Transport,
) -> Result<Vec<JoinHandle<()>>, Failure> {
    let parts = &daemon.parts;
    let (inbox, logger, stop_sender) = (&parts.inbox, &parts.logger, &parts.stop_sender);
    wal.count_into(parts.metrics.wal.clone());
    let wal_reader = wal.read_back();
    let (read_back_sender, read_backs) = mpsc::channel();
    let (writer, jobs) = wal::channel(wal, Instant::now, logger);
    let (purge_sender, purges) = mpsc::channel();
    let (commit_sender, commits) = apply::channel(parts.state_machine.clone());
    let (snapshot_sender, snapshot_jobs) = mpsc::channel();
    let channels = raft::Channels {
        inbox: inbox.clone(),
        writer,
        read_back: read_back_sender,
        commits: commit_sender,
        transport: transport.clone(),
        hosts: parts.hosts.clone(),
        revoked: parts.revoked.clone(),
        meta: files.meta.clone(),
        metrics: parts.metrics.clone(),
        exit: {
            let stop_sender = stop_sender.clone();
            Box::new(move |exit| stop_sender.send(StopReason::Node(exit)))
        },
    };
    let applier = apply::Applier {
        batches: commits,
        inbox: inbox.clone(),
        snapshots: files.snapshots.clone(),
        snapshot_jobs: snapshot_sender,
        metrics: parts.metrics.clone(),
        logger: logger.clone(),
    };
    let raft = {
        let (tick, logger) = (daemon.config.tuning.tick(), logger.clone());
        move || Ok(raft::run(node, channels, tick, &logger)?)
    };
    let wal = {
        let (inbox, transport) = (inbox.clone(), transport.clone());
        move || Ok(jobs.run(&inbox, &transport, &purge_sender)?)
    };
    let reader = Reader {
        wal: wal_reader,
        inbox: inbox.clone(),
        failed: parts.metrics.shortages.read_backs_failed.clone(),
        logger: logger.clone(),
    };
    let deletions_failed = parts.metrics.shortages.deletions_failed.clone();
    let mut remover = Remover::new(purges, deletions_failed, logger);
    Ok(vec![
        spawn("raft", stop_sender, raft)?,
        spawn("wal", stop_sender, wal)?,
        spawn("remove", stop_sender, move || Ok(remover.run()?))?,
        spawn("read-back", stop_sender, move || {
            Ok(reader.run(&read_backs)?)
        })?,
        spawn("apply", stop_sender, move || Ok(applier.run()?))?,
        spawn(
            "snapshot",
            stop_sender,
            snapshots(snapshot_jobs, files, parts),
        )?,
    ])
}

/// The body of the snapshot thread.
fn snapshots(
    jobs: mpsc::Receiver<snapshot::SnapshotJob>,
    files: &OpenFiles,
    parts: &SharedParts,
) -> impl FnOnce() -> Result<(), Failure> + Send + use<> {
    let (snapshots, meta) = (files.snapshots.clone(), files.meta.clone());
    let (inbox, metrics) = (parts.inbox.clone(), parts.metrics.clone());
    let logger = parts.logger.clone();
    move || {
        let (cluster, metrics) = (|| meta.cluster(), &metrics.snapshots);
        snapshot::write_snapshots(&jobs, &snapshots, cluster, metrics, &inbox, &logger);
        Ok(())
    }
}

/// Starts a thread that reports its failure.
fn spawn(
    name: &str,
    stop_sender: &StopSender,
    body: impl FnOnce() -> Result<(), Failure> + Send + 'static,
) -> Result<JoinHandle<()>, Failure> {
    let stop_sender = stop_sender.clone();
    let run = move || {
        if let Err(failure) = body() {
            stop_sender.fail(failure);
        }
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(Failure::no_thread)
}

/// Asks members of a running cluster to add this one: see [`join`].
pub(super) fn ask_to_join(daemon: &Daemon, meta: &Meta, transport: &Transport) {
    let Daemon { config, parts, .. } = daemon;
    let task = join::JoinTask {
        id: config.id,
        incarnation: meta.incarnation(),
        url: config.peer_url.clone(),
        asked: config.join_by.clone(),
        tls: daemon.join_tls.clone(),
    };
    let inbox = parts.inbox.clone();
    let asking = join::run(task, transport.clone(), inbox, parts.logger.clone());
    let stop_sender = parts.stop_sender.clone();
    daemon.runtime.spawn(async move {
        if let Err(why) = asking.await {
            stop_sender.fail(why);
        }
    });
}
