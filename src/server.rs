//! Wiring: opens storage, makes the channels, starts the threads and the listeners, and stops them in order.
//!
//! ```text
//! tokio runtime   client API, peer connections
//! raft            raft_loop::run: owns the Node
//! wal             writer::Jobs::run: writes the Wal, and the loop what comes alone
//! remove          writer::remove_files: deletes what is superfluous
//! apply           apply::Applier::run: the only writer of the Store
//! snapshot        apply::write_snapshots
//! read-back       read_back::run: reads the WAL for followers that are behind
//! load            storage::open_and_load, then it ends
//! main            waits here for a signal or a reason to end
//! ```
//!
//! In this order: the lock of the data directory; both ports, so that one in use is told before anything is touched;
//! clients are served, at first with how far the load has come; the snapshot is loaded and the log read; then raft and
//! all the rest begin, and peers are served. Until then this member has said nothing to anybody: it knows neither its
//! vote nor its log, and the kernel keeps the connections of its peers waiting.
//!
//! Only this module starts threads that stay, but for the log's. Each ends when the one it is fed by has ended: raft by
//! [`Notice::Stop`], then wal, read-back and apply, then remove and snapshot.

use crate::api::{self, Api};
use crate::apply;
use crate::config::{self, Config};
use crate::history::History;
use crate::inbox::{Inbox, Notice};
use crate::join;
use crate::logging;
use crate::members::Members;
use crate::metrics::Metrics;
use crate::node::{self, Exit, Node};
use crate::progress::Replay;
use crate::raft_loop;
use crate::read_back;
use crate::storage::{
    self, DiskError, Meta, Pin, PinError, RealDisk, ReceiveError, SnapshotMeta, SnapshotSink,
    SnapshotSource, Snapshots, StorageError,
};
use crate::store::Store;
use crate::systemd::{Phase, Systemd};
use crate::transport::{self, Transport};
use crate::writer;
use futures_channel::oneshot;
use rustix::process::{Resource, getrlimit, setrlimit};
use slog::{Logger, info, warn};
use std::io;
use std::mem::ManuallyDrop;
use std::net::{SocketAddr, TcpListener};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

/// Why the process ends with another code than 0. Its text is one line: cause, file, and the next thing to do.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// An address can't be listened on.
    #[error(
        "can't listen on {address}: {source}; stop what uses this port, or choose another with {option}"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The option that sets it.
        option: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The data directory.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The disk failed while the daemon ran.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The peers know another data directory under this id.
    #[error(
        "{dir} is not the data directory that member {by} knows for member {id}: it was emptied or replaced, and \
         what member {id} had acknowledged is gone; replace the member: curl -X DELETE http://CLIENT_ADDRESS/{id} and \
         then curl -X POST -d {url} http://CLIENT_ADDRESS/{id} (at any other member), then start it with --join on an \
         empty data directory"
    )]
    Wiped {
        /// This member.
        id: u64,
        /// Its peer URL.
        url: String,
        /// The data directory.
        dir: String,
        /// Who says so.
        by: u64,
    },
    /// The id was added to a running cluster, and this process was started as one of its first members.
    #[error(
        "member {id} was added to a running cluster, as member {by} knows, but {dir} was made as that of a first \
         member; remove {dir} and start again with --join"
    )]
    NeedsJoin {
        /// This member.
        id: u64,
        /// The data directory.
        dir: String,
        /// Who says so.
        by: u64,
    },
    /// Entries that this member acknowledged are not on its disk.
    #[error(
        "{dir} ends at entry {last}, but the leader knows that this member had acknowledged entry {committed}: it is \
         an old copy or was damaged; replace the member: curl -X DELETE http://CLIENT_ADDRESS/{id} and then curl -X \
         POST -d {url} http://CLIENT_ADDRESS/{id} (at any other member), then start it with --join on an empty data \
         directory"
    )]
    LostLog {
        /// This member.
        id: u64,
        /// Its peer URL.
        url: String,
        /// The data directory.
        dir: String,
        /// The last entry.
        last: u64,
        /// What the leader holds to be here.
        committed: u64,
    },
    /// It can't be added to the cluster that it was to join.
    #[error("{0}")]
    NotJoined(String),
    /// Anything else.
    #[error("{0}")]
    Fatal(String),
}

impl Failure {
    /// The exit code: see the README.
    pub fn exit_code(&self) -> i32 {
        match self {
            Failure::Listen { .. } | Failure::NotJoined(_) => 2,
            Failure::Storage(error) => error.exit_code(),
            Failure::Disk(_) => 6,
            Failure::Wiped { .. } | Failure::NeedsJoin { .. } | Failure::LostLog { .. } => 5,
            Failure::Fatal(_) => 1,
        }
    }
}

/// What the main thread waits for.
enum End {
    Signal(&'static str),
    Node(Exit),
    Failed(Failure),
}

/// Runs one member until it is stopped or removed (`Ok`), or fails.
pub fn run(config: Config, logger: &Logger) -> Result<(), Failure> {
    let begun = Instant::now();
    raise_file_limit(logger);
    let initial = Members::initial(match config.cluster.is_empty() && !config.join {
        true => std::slice::from_ref(&config.peer_url),
        false => &config.cluster,
    });
    let start = match config.join {
        true => storage::Start::Join,
        false => storage::Start::Bootstrap(initial.clone()),
    };
    let disk = Arc::new(RealDisk);
    // Held to the end of the process: a thread may still write while this function returns with a failure.
    let _lock = ManuallyDrop::new(storage::lock(&*disk, &config.data_dir)?);
    // Behind the lock, so that a second start of the same member says that it is one; before the data directory is
    // touched, so that a port that is in use leaves nothing behind.
    let client_listener = listen(config.client_address, "--port or --listen")?;
    let peer_listener = listen(
        config.peer_address,
        "--cluster, --peer-url or --listen-peer",
    )?;
    // Behind what is only a wrong command, which is answered by one line.
    info!(logger, "starting"; "version" => env!("CARGO_PKG_VERSION"), "id" => config.id,
        "data" => %config.data_dir.display(), "clients" => %config.client_address,
        "peers" => %config.peer_address, "url" => %config.peer_url, "join" => config.join);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config::runtime_threads())
        .thread_name("tokio")
        .enable_all()
        .build()
        .map_err(|error| Failure::Fatal(format!("can't start the runtime: {error}")))?;
    let runtime = Runtime(Some(runtime));
    let inbox = Arc::new(Inbox::default());
    let (ends, mut ended) = unbounded_channel();
    let store = Arc::new(Store::new());
    // To free millions of entries one by one takes seconds. The end of the process does it at once.
    let _map = ManuallyDrop::new(store.clone());
    let replay = Arc::new(Replay::new());
    let metrics = Arc::new(Metrics::default());
    let history_bytes = config.log_cache_bytes / config::HISTORY_SHARE;
    let history = Arc::new(History::new(history_bytes));
    let tick = config.tick();
    // Clients are served from now on: until the map is loaded they are told how far that has come. Peers are not; the
    // kernel keeps their connections until there is a node that knows what it may say.
    let api = Api {
        inbox: inbox.clone(),
        store: store.clone(),
        limits: api::Limits::new(&config),
        tick,
        replay: replay.clone(),
        metrics: metrics.clone(),
        history: history.clone(),
        logger: logger.clone(),
    };
    let (stop_clients, clients_stop) = oneshot::channel::<()>();
    let client_listener = into_tokio(client_listener, &runtime)?;
    let clients = runtime.spawn(api::serve(client_listener, api, cancelled(clients_stop)));
    watch_signals(&runtime, &ends)?;
    let (phase, phases) = watch::channel(Phase::Starting);
    match Systemd::from_environment() {
        Ok(None) => {}
        Ok(Some(systemd)) => {
            let (replay, inbox, logger) = (replay.clone(), inbox.clone(), logger.clone());
            runtime.spawn(systemd.attend(phases, replay, inbox, logger));
        }
        Err(line) => warn!(logger, "systemd is not told how things are: {}", line),
    }

    // On a thread of its own, so that a signal does not have to wait for it.
    let (loaded, opened) = oneshot::channel();
    spawn("load", &ends, {
        let (dir, id, logger) = (config.data_dir.clone(), config.id, logger.clone());
        let (store, replay, metrics) = (store.clone(), replay.clone(), metrics.clone());
        let log_cache_bytes = config.log_cache_bytes;
        move || {
            let load = &mut |snapshots: &Snapshots, index, term| {
                let told = |done, total| replay.loaded(done, total);
                let begun = Instant::now();
                let loaded = apply::load(
                    &store,
                    snapshots,
                    index,
                    term,
                    config::load_threads(),
                    told,
                    &logger,
                )?;
                metrics.snapshots.loaded.add(begun.elapsed(), loaded.1);
                Ok(loaded)
            };
            let options = storage::Options {
                cache_bytes: log_cache_bytes,
                ..storage::Options::default()
            };
            let opened = storage::open_and_load(disk, &dir, id, start, options, load, &logger)?;
            // The main thread may be ending already.
            drop(loaded.send(opened));
            Ok(())
        }
    })?;
    let opened = runtime.block_on(async {
        tokio::select! {
            Ok(opened) = opened => Ok(opened),
            end = ended.recv() => Err(end.expect("this function holds a sender")),
        }
    });
    let mut opened = match opened {
        Ok(opened) => opened,
        Err(End::Failed(failure)) => return Err(failure),
        // Nothing has begun that would have to be ended in order.
        Err(End::Signal(name)) => {
            info!(logger, "stopping before the start was complete"; "signal" => name);
            return Ok(());
        }
        Err(End::Node(exit)) => panic!("{exit:?} of a node that is still to be made"),
    };
    let settings = node::Settings {
        id: config.id,
        boot: opened.meta.boot(),
        election_ticks: config.election_ticks(),
        heartbeat_ticks: config.heartbeat_ticks(),
        snapshot_bytes: config.snapshot_bytes,
        log_cache_bytes: config.log_cache_bytes,
        pinned_log_bytes: config::PINNED_LOG_BYTES_MAX,
        // Random, so that no two members draw the same timeouts.
        seed: opened.meta.incarnation(),
    };
    let joining = opened.recovered.snapshot.is_none();
    let snapshot = opened
        .recovered
        .snapshot
        .as_ref()
        .map_or(0, |meta| meta.index);
    let committed = opened.recovered.hard_state.commit;
    let term = opened.recovered.hard_state.term;
    // Of the log: what comes earlier is read from the disk and not kept.
    let first_in_memory = opened.recovered.entries.first();
    let before_memory = first_in_memory.map_or(0, |entry| entry.index - 1);
    let raft_logger = logging::raft_logger(logger);
    let node =
        Node::new(settings, opened.recovered, logger, &raft_logger).map_err(Failure::Fatal)?;
    let known = if joining { &initial } else { node.members() };
    if !opened.first_start {
        warn_if_flags_differ(&config, &initial, known, logger);
    }

    let transport = Transport::new(
        transport::Settings {
            directory: Arc::new(Directory {
                meta: opened.meta.clone(),
                ends: ends.clone(),
            }),
            snapshots: Arc::new(SnapshotFiles {
                snapshots: opened.snapshots.clone(),
                ends: ends.clone(),
            }),
            metrics: metrics.clone(),
            limits: transport::Limits::default(),
        },
        inbox.clone(),
        runtime.handle().clone(),
        logger.clone(),
    );
    transport.set_members(known, joining);
    let members = known.members.len();
    let (stop_peers, peers_stop) = oneshot::channel::<()>();
    runtime.spawn({
        let (transport, listener) = (transport.clone(), into_tokio(peer_listener, &runtime)?);
        async move { transport.serve(listener, cancelled(peers_stop)).await }
    });

    opened.wal.count_into(metrics.wal.clone());
    let wal_reader = opened.wal.read_back();
    let (read_back_sender, read_backs) = mpsc::channel();
    let (writer, jobs) = writer::channel(opened.wal, Instant::now, logger);
    let (purge_sender, purges) = mpsc::channel();
    let (commit_sender, commits) = apply::channel(replay.clone(), history.clone());
    let (snapshot_sender, snapshot_jobs) = mpsc::channel();
    let channels = raft_loop::Channels {
        inbox: inbox.clone(),
        writer,
        read_back: read_back_sender,
        commits: commit_sender,
        store: store.clone(),
        transport: transport.clone(),
        meta: opened.meta.clone(),
        metrics: metrics.clone(),
        exit: {
            let ends = ends.clone();
            // The main thread may be ending already.
            Box::new(move |exit| drop(ends.send(End::Node(exit))))
        },
    };
    // Before anything is applied. What clients send now waits in the inbox for the raft loop.
    history.begin(snapshot, before_memory);
    replay.begin_log(snapshot, committed, logger);
    let mut threads = vec![spawn("raft", &ends, {
        let logger = logger.clone();
        move || Ok(raft_loop::run(node, channels, tick, &logger)?)
    })?];
    threads.push(spawn("wal", &ends, {
        let (inbox, transport) = (inbox.clone(), transport.clone());
        move || Ok(jobs.run(&inbox, &transport, &purge_sender)?)
    })?);
    threads.push(spawn("remove", &ends, move || {
        Ok(writer::remove_files(&purges)?)
    })?);
    threads.push(spawn("read-back", &ends, {
        let inbox = inbox.clone();
        move || Ok(read_back::run(&read_backs, &wal_reader, &inbox)?)
    })?);
    let applier = apply::Applier {
        batches: commits,
        store: store.clone(),
        inbox: inbox.clone(),
        snapshots: opened.snapshots.clone(),
        snapshot_jobs: snapshot_sender,
        metrics: metrics.clone(),
        logger: logger.clone(),
    };
    threads.push(spawn("apply", &ends, move || Ok(applier.run()?))?);
    threads.push(spawn("snapshot", &ends, {
        let (inbox, snapshots, meta) =
            (inbox.clone(), opened.snapshots.clone(), opened.meta.clone());
        let logger = logger.clone();
        move || {
            Ok(apply::write_snapshots(
                &snapshot_jobs,
                &snapshots,
                || meta.cluster(),
                &metrics.snapshots,
                &inbox,
                &logger,
            )?)
        }
    })?);

    if joining && !config.join_by.is_empty() {
        let joiner = join::Joiner {
            id: config.id,
            url: config.peer_url.clone(),
            asked: config.join_by.clone(),
        };
        let asking = join::run(joiner, transport.clone(), logger.clone());
        let ends = ends.clone();
        runtime.spawn(async move {
            if let Err(line) = asking.await {
                // The main thread may be ending already.
                let _ = ends.send(End::Failed(Failure::NotJoined(line)));
            }
        });
    }
    announce(&config);
    let cluster = match opened.meta.cluster() {
        0 => "not joined yet".to_owned(),
        cluster => format!("{cluster:016x}"),
    };
    info!(logger, "started"; "cluster" => cluster, "term" => term,
        "members" => members, "ms" => begun.elapsed().as_millis() as u64);
    phase.send_replace(Phase::Started);

    let end = runtime.block_on(ended.recv());
    phase.send_replace(Phase::Stopping);
    let stopping = Instant::now();
    let result = match end.expect("this function holds a sender") {
        End::Failed(failure) => return Err(failure),
        End::Signal(name) => {
            info!(logger, "stopping"; "signal" => name);
            Ok(())
        }
        End::Node(exit) => on_exit(exit, &config, &opened.meta, logger),
    };
    let gently = result.is_ok();
    let stopped = runtime.block_on(async {
        let stop = async {
            if gently {
                stop_gently(&inbox, stop_clients, clients).await;
            }
            inbox.notice(Notice::Stop);
            let joined =
                tokio::task::spawn_blocking(|| threads.into_iter().map(JoinHandle::join).count());
            // A thread that panicked has ended the process: see main.rs.
            let _ = tokio::time::timeout(config::THREADS_STOP_TIMEOUT, joined).await;
            transport.close().await;
            drop(stop_peers);
        };
        tokio::select! {
            () = stop => Ok(()),
            failure = next_failure(&mut ended) => Err(failure),
        }
    });
    stopped?;
    if result.is_ok() {
        info!(logger, "stopped"; "ms" => stopping.elapsed().as_millis() as u64);
    }
    result
}

/// The runtime, ended within a limit however [`run`] returns: its own drop would wait for calls that block (a name
/// that does not resolve, a disk that hangs) as long as they take.
struct Runtime(Option<tokio::runtime::Runtime>);

impl Deref for Runtime {
    type Target = tokio::runtime::Runtime;

    fn deref(&self) -> &tokio::runtime::Runtime {
        self.0.as_ref().expect("it is taken when it is dropped")
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_timeout(config::RUNTIME_STOP_TIMEOUT);
        }
    }
}

/// Hands leadership over, and lets requests that are under way finish; both by `STOP_TIMEOUT`.
async fn stop_gently(
    inbox: &Inbox,
    stop_clients: oneshot::Sender<()>,
    clients: tokio::task::JoinHandle<()>,
) {
    let (reply, handed_over) = oneshot::channel();
    inbox.notice(Notice::HandOver(reply));
    let all = async {
        // Clients are served until there is another leader: what they send meanwhile it will take.
        let _ = tokio::time::timeout(config::STOP_TIMEOUT / 2, handed_over).await;
        drop(stop_clients);
        let _ = clients.await;
    };
    // What is not done by then will not be.
    let _ = tokio::time::timeout(config::STOP_TIMEOUT, all).await;
}

/// Completes when the sender is dropped.
async fn cancelled(receiver: oneshot::Receiver<()>) {
    let _ = receiver.await;
}

/// What makes a stop that is under way fail.
async fn next_failure(ended: &mut UnboundedReceiver<End>) -> Failure {
    loop {
        match ended.recv().await.expect("the caller holds a sender") {
            End::Failed(failure) => return failure,
            End::Signal(name) => {
                return Failure::Fatal(format!(
                    "stopped at once by a second signal ({name}); requests that were under way have no answer"
                ));
            }
            End::Node(_) => {}
        }
    }
}

/// Why a node has to end, as an error or, for a removed member, as a durable mark and success.
fn on_exit(exit: Exit, config: &Config, meta: &Meta, logger: &Logger) -> Result<(), Failure> {
    let id = config.id;
    let dir = config.data_dir.display().to_string();
    let url = config.peer_url.to_string();
    match exit {
        Exit::Removed { index } => {
            meta.mark_removed(index)?;
            info!(logger, "this member was removed from the cluster: stopping"; "index" => index);
            Ok(())
        }
        Exit::Wiped { by } => Err(Failure::Wiped { id, url, dir, by }),
        Exit::NeedsJoin { by } => Err(Failure::NeedsJoin { id, dir, by }),
        Exit::LostLog { committed, last } => Err(Failure::LostLog {
            id,
            url,
            dir,
            last,
            committed,
        }),
    }
}

/// Starts a thread that reports its failure.
fn spawn(
    name: &str,
    ends: &UnboundedSender<End>,
    body: impl FnOnce() -> Result<(), Failure> + Send + 'static,
) -> Result<JoinHandle<()>, Failure> {
    let ends = ends.clone();
    let run = move || {
        if let Err(failure) = body() {
            // The main thread may be ending already.
            let _ = ends.send(End::Failed(failure));
        }
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|error| Failure::Fatal(format!("can't start a thread: {error}")))
}

fn listen(address: SocketAddr, option: &'static str) -> Result<TcpListener, Failure> {
    let failed = |source| Failure::Listen {
        address,
        option,
        source,
    };
    // The standard library sets SO_REUSEADDR, so that a restart need not wait for old connections to time out.
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

fn into_tokio(
    listener: TcpListener,
    runtime: &tokio::runtime::Runtime,
) -> Result<tokio::net::TcpListener, Failure> {
    let _context = runtime.enter();
    tokio::net::TcpListener::from_std(listener)
        .map_err(|error| Failure::Fatal(format!("can't use a listener: {error}")))
}

fn watch_signals(
    runtime: &tokio::runtime::Runtime,
    ends: &UnboundedSender<End>,
) -> Result<(), Failure> {
    for (name, kind) in [
        ("SIGTERM", SignalKind::terminate()),
        ("SIGINT", SignalKind::interrupt()),
    ] {
        let _context = runtime.enter();
        let mut signals = signal(kind)
            .map_err(|error| Failure::Fatal(format!("can't watch for {name}: {error}")))?;
        let ends = ends.clone();
        runtime.spawn(async move {
            while signals.recv().await.is_some() {
                // The main thread may be ending already.
                let _ = ends.send(End::Signal(name));
            }
        });
    }
    Ok(())
}

/// The one line on stderr for who has just started it, whatever the log is set to.
fn announce(config: &Config) {
    let address = config.client_address;
    eprintln!(
        "raftkvd {} is listening: try curl -X PUT -d hello http://{address}/greeting and then curl \
         http://{address}/greeting",
        config.id
    );
}

/// A restart goes by what is on disk. Flags that say something else deserve a word.
fn warn_if_flags_differ(config: &Config, flags: &Members, stored: &Members, logger: &Logger) {
    if config.cluster.is_empty() {
        // Others may have joined since.
        if let Some(own) = stored.members.get(&config.id)
            && own.url != config.peer_url
        {
            warn!(logger, "--peer-url differs from the stored one, by which the others go; to move a member, replace it";
                "stored" => %own.url, "--peer-url" => %config.peer_url);
        }
        return;
    }
    let urls = |members: &Members| -> Vec<String> {
        let listed = members.members.iter();
        listed
            .map(|(id, member)| format!("{id}={}", member.url))
            .collect()
    };
    if urls(flags) != urls(stored) {
        warn!(logger, "--cluster differs from the stored members and is ignored: it counts on the first start only";
            "stored" => urls(stored).join(","), "--cluster" => urls(flags).join(","));
    }
}

/// Every connection needs a file descriptor, and the usual soft limit of 1,024 is soon used up.
fn raise_file_limit(logger: &Logger) {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        warn!(logger, "can't raise the limit of open files"; "error" => %error);
    }
}

/// Ends the process because its disk has failed. Gives what the transport is told.
fn fail(ends: &UnboundedSender<End>, error: DiskError) -> transport::FileError {
    let text = error.to_string();
    // The main thread may be ending already.
    let _ = ends.send(End::Failed(error.into()));
    text.into()
}

/// As [`fail`], but a disk that is only full is no reason to end: what was received of the snapshot is removed, and its
/// sender tries again.
fn fail_unless_full(ends: &UnboundedSender<End>, error: DiskError) -> transport::FileError {
    match error.source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => error.into(),
        _ => fail(ends, error),
    }
}

/// What the transport asks of the data directory. When its disk fails, the process ends.
struct Directory {
    meta: Arc<Meta>,
    ends: UnboundedSender<End>,
}

impl Directory {
    /// Ends the process when the disk has failed: nothing it was asked to remember may be relied on.
    fn checked(&self, result: Result<(), DiskError>) -> Result<(), transport::FileError> {
        result.map_err(|error| fail(&self.ends, error))
    }
}

impl transport::Directory for Directory {
    fn member(&self) -> u64 {
        self.meta.member()
    }

    fn cluster(&self) -> u64 {
        self.meta.cluster()
    }

    fn incarnation(&self) -> u64 {
        self.meta.incarnation()
    }

    fn pinned(&self, peer: u64) -> Option<Pin> {
        self.meta.pinned(peer)
    }

    fn pin_cluster(&self, cluster: u64) -> Result<(), transport::FileError> {
        self.checked(self.meta.pin_cluster(cluster))
    }

    fn pin(&self, peer: u64, pin: Pin) -> Result<(), transport::FileError> {
        match self.meta.pin(peer, pin) {
            Err(PinError::Disk(error)) => self.checked(Err(error)),
            other => Ok(other?),
        }
    }
}

/// The snapshot files as the transport uses them. When the disk fails while one is received, the process ends.
struct SnapshotFiles {
    snapshots: Arc<Snapshots>,
    ends: UnboundedSender<End>,
}

/// A snapshot file that is being received.
struct Received {
    sink: SnapshotSink,
    ends: UnboundedSender<End>,
}

impl transport::SnapshotFiles for SnapshotFiles {
    fn open(
        &self,
        index: u64,
        term: u64,
    ) -> Result<Box<dyn transport::SnapshotSource>, transport::FileError> {
        Ok(Box::new(self.snapshots.open(index, term)?))
    }

    fn receive(
        &self,
        cluster: u64,
    ) -> Result<Box<dyn transport::SnapshotSink>, transport::FileError> {
        let ends = self.ends.clone();
        match self.snapshots.receive(cluster) {
            Ok(sink) => Ok(Box::new(Received { sink, ends })),
            Err(error) => Err(fail_unless_full(&ends, error)),
        }
    }
}

impl transport::SnapshotSource for SnapshotSource {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        SnapshotSource::read(self, buffer)
    }
}

impl transport::SnapshotSink for Received {
    fn write(&mut self, bytes: &[u8]) -> Result<(), transport::FileError> {
        let written = self.sink.write(bytes);
        written.map_err(|error| fail_unless_full(&self.ends, error))
    }

    fn finish(self: Box<Self>, promised: &SnapshotMeta) -> Result<(), transport::FileError> {
        let Received { sink, ends } = *self;
        sink.finish(promised).map_err(|error| match error {
            ReceiveError::Disk(error) => fail_unless_full(&ends, error),
            ReceiveError::Invalid(_) => error.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;
    use std::path::Path;

    #[test]
    fn a_disk_that_fails_under_a_received_snapshot_ends_the_process_and_a_full_one_does_not() {
        for (errno, exit_code) in [
            (Errno::IO, Some(6)),
            (Errno::ROFS, Some(6)),
            (Errno::NOSPC, None),
            (Errno::DQUOT, None),
        ] {
            let (ends, mut ended) = unbounded_channel();
            let error = DiskError::new("write", Path::new("0.tmp"), errno);
            fail_unless_full(&ends, error);
            let end = match ended.try_recv() {
                Ok(End::Failed(failure)) => Some(failure.exit_code()),
                _ => None,
            };
            assert_eq!(end, exit_code, "{errno}");
        }
    }
}
