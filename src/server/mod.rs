//! Wiring: opens storage, makes the channels, starts the threads and the listeners, and stops them in order.
//!
//! ```text
//! tokio runtime   client API, peer connections
//! raft            raft::run: owns the Node
//! wal             wal::Jobs::run: writes the Wal, and the loop what comes alone
//! remove          wal::remove_files: deletes what is superfluous
//! apply           apply::Applier::run: the only writer of the Store
//! snapshot        snapshot::write_snapshots
//! read-back       read_back::run: reads the WAL for followers that are behind
//! load            storage::open_and_load, then it ends
//! main            waits here for a signal or a reason to end
//! ```
//!
//! In this order: who this is, by the command line and the data directory (`start.rs`); the lock of the data directory;
//! whether `--cluster` fits it (`list.rs`); both ports, so that one in use is told before anything is touched;
//! clients are served, at first with how far the load has come; the snapshot is loaded and the log read; then raft and
//! all the rest begin, and peers are served. Until then this member has said nothing to anybody: it knows neither its
//! vote nor its log, and the kernel keeps the connections of its peers waiting.
//!
//! Only this module starts threads that stay, but for the log's. Each ends when the one it is fed by has ended: raft by
//! [`Notice::Stop`], then wal, read-back and apply, then remove and snapshot.

mod failure;
mod files;
mod join;
mod list;
mod listen;
mod start;
mod stop;
pub mod systemd;

pub use failure::Failure;

use crate::api::{self, Api};
use crate::channels::inbox::Inbox;
use crate::channels::notice::Notice;
use crate::config::{Asked, Config};
use crate::identity::View;
use crate::limits;
use crate::logging;
use crate::logging::progress::Replay;
use crate::members::Members;
use crate::metrics::Metrics;
use crate::node::{self, Node};
use crate::server::systemd::{Phase, Systemd};
use crate::storage::{self, Disk, Meta, Opened, RealDisk, Snapshots};
use crate::store::Store;
use crate::store::history::History;
use crate::threads::apply;
use crate::threads::raft;
use crate::threads::read_back;
use crate::threads::snapshot;
use crate::threads::wal;
use crate::transport::{self, Transport};
use files::{FailStopDirectory, FailStopSnapshots};
use futures_channel::oneshot;
use list::Fit;
use listen::{into_tokio, raise_file_limit, watch_signals};
use slog::{Logger, info, warn};
use start::StartPlan;
use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;
use stop::{
    Runtime, ServedPort, StopReason, StopSender, next_failure, on_exit, stop_gently, stop_reasons,
};
use tokio::sync::watch;

/// Runs one member until it is stopped or removed (`Ok`), or fails.
pub fn run(asked: Asked, logger: &Logger) -> Result<(), Failure> {
    let begun = Instant::now();
    raise_file_limit(logger);
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let StartPlan {
        config,
        beginning,
        fit,
        client_port,
        peer_port,
    } = start::prepare(asked, &disk)?;
    // Behind what is only a wrong command, which is answered by one line.
    info!(logger, "starting"; "version" => env!("CARGO_PKG_VERSION"), "id" => config.id,
        "data" => %config.data_dir.display(), "clients" => %config.client_address,
        "peers" => %config.peer_address, "url" => %config.peer_url, "join" => config.join);
    let runtime = Runtime::start()?;
    let inbox = Arc::new(Inbox::default());
    let (stop_sender, mut stop_reasons) = stop_reasons();
    let store = Arc::new(Store::new());
    // To free millions of entries one by one takes seconds. The end of the process does it at once.
    let _map = ManuallyDrop::new(store.clone());
    let replay = Arc::new(Replay::new());
    let metrics = Arc::new(Metrics::default());
    let history_bytes = config.tuning.log_cache_bytes / limits::HISTORY_SHARE;
    let history = Arc::new(History::new(history_bytes));
    let tick = config.tuning.tick();
    // Clients are served from now on: until the map is loaded they are told how far that has come. Peers are not; the
    // kernel keeps their connections until there is a node that knows what it may say.
    let api = Api {
        inbox: inbox.clone(),
        store: store.clone(),
        limits: api::Limits::new(&config.tuning),
        tick,
        replay: replay.clone(),
        metrics: metrics.clone(),
        history: history.clone(),
        logger: logger.clone(),
    };
    let client_port = into_tokio(client_port, &runtime)?;
    let clients = ServedPort::start(&runtime, |stopped| api::serve(client_port, api, stopped));
    watch_signals(&runtime, &stop_sender)?;
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
    spawn("load", &stop_sender, {
        let (dir, beginning, logger) = (config.data_dir.clone(), beginning.clone(), logger.clone());
        let (store, replay, metrics) = (store.clone(), replay.clone(), metrics.clone());
        let log_cache_bytes = config.tuning.log_cache_bytes;
        move || {
            let load = &mut |snapshots: &Snapshots, index, term| {
                let told = |done, total| replay.loaded(done, total);
                let begun = Instant::now();
                let loaded = snapshot::load(
                    &store,
                    snapshots,
                    index,
                    term,
                    limits::load_threads(),
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
            let opened = storage::open_and_load(disk, &dir, beginning, options, load, &logger)?;
            // The main thread may be ending already.
            drop(loaded.send(opened));
            Ok(())
        }
    })?;
    let opened = runtime.block_on(async {
        tokio::select! {
            Ok(opened) = opened => Ok(opened),
            reason = stop_reasons.next() => Err(reason),
        }
    });
    let mut opened = match opened {
        Ok(opened) => opened,
        Err(StopReason::Failed(failure)) => return Err(failure),
        // Nothing has begun that would have to be ended in order.
        Err(StopReason::Signal(name)) => {
            info!(logger, "stopping before the start was complete"; "signal" => name);
            return Ok(());
        }
        Err(StopReason::Node(exit)) => panic!("{exit:?} of a node that is still to be made"),
    };
    let is_empty = opened.recovered.snapshot.is_none();
    // Before there is a node that goes by it.
    match fit {
        _ if is_empty => opened.meta.set_given(beginning.given)?,
        Fit::Taken => opened.meta.set_list(&config.cluster)?,
        Fit::Known => {}
    }
    let settings = settings_of(&config, &opened);
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
    // Before anything is applied that a client could see.
    inbox.set_closed(node.closed());
    if !opened.first_start {
        list::tell_differences(&config, &node, logger);
    }

    let transport = Transport::new(
        transport::Settings {
            directory: Arc::new(FailStopDirectory {
                meta: opened.meta.clone(),
                stop_sender: stop_sender.clone(),
            }),
            snapshots: Arc::new(FailStopSnapshots {
                snapshots: opened.snapshots.clone(),
                stop_sender: stop_sender.clone(),
            }),
            metrics: metrics.clone(),
            limits: transport::Limits::default(),
            view: view_of(&config, &opened.meta, opened.run, node.members()),
            applied: snapshot,
            list: match config.list_given || is_empty || !node.members().is_formed() {
                true => config.cluster.clone(),
                // The first members may be others than those of today.
                false => BTreeMap::new(),
            },
        },
        inbox.clone(),
        runtime.handle().clone(),
        logger.clone(),
    );
    let members = node.members().members.len();
    let peers = {
        let (transport, port) = (transport.clone(), into_tokio(peer_port, &runtime)?);
        ServedPort::start(&runtime, |stopped| async move {
            transport.serve(port, stopped).await;
        })
    };

    opened.wal.count_into(metrics.wal.clone());
    let wal_reader = opened.wal.read_back();
    let (read_back_sender, read_backs) = mpsc::channel();
    let (writer, jobs) = wal::channel(opened.wal, Instant::now, logger);
    let (purge_sender, purges) = mpsc::channel();
    let (commit_sender, commits) = apply::channel(replay.clone(), history.clone());
    let (snapshot_sender, snapshot_jobs) = mpsc::channel();
    let channels = raft::Channels {
        inbox: inbox.clone(),
        writer,
        read_back: read_back_sender,
        commits: commit_sender,
        store: store.clone(),
        transport: transport.clone(),
        meta: opened.meta.clone(),
        metrics: metrics.clone(),
        exit: {
            let stop_sender = stop_sender.clone();
            Box::new(move |exit| stop_sender.send(StopReason::Node(exit)))
        },
    };
    // Before anything is applied. What clients send now waits in the inbox for the raft loop.
    history.begin(snapshot, before_memory);
    replay.begin_log(snapshot, committed, logger);
    let mut threads = vec![spawn("raft", &stop_sender, {
        let logger = logger.clone();
        move || Ok(raft::run(node, channels, tick, &logger)?)
    })?];
    threads.push(spawn("wal", &stop_sender, {
        let (inbox, transport) = (inbox.clone(), transport.clone());
        move || Ok(jobs.run(&inbox, &transport, &purge_sender)?)
    })?);
    threads.push(spawn("remove", &stop_sender, move || {
        Ok(wal::remove_files(&purges)?)
    })?);
    threads.push(spawn("read-back", &stop_sender, {
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
    threads.push(spawn("apply", &stop_sender, move || Ok(applier.run()?))?);
    threads.push(spawn("snapshot", &stop_sender, {
        let (inbox, snapshots, meta) =
            (inbox.clone(), opened.snapshots.clone(), opened.meta.clone());
        let logger = logger.clone();
        move || {
            Ok(snapshot::write_snapshots(
                &snapshot_jobs,
                &snapshots,
                || meta.cluster(),
                &metrics.snapshots,
                &inbox,
                &logger,
            )?)
        }
    })?);

    if is_empty && !config.join_by.is_empty() {
        let task = join::JoinTask {
            id: config.id,
            incarnation: opened.meta.incarnation(),
            url: config.peer_url.clone(),
            asked: config.join_by.clone(),
        };
        let asking = join::run(task, transport.clone(), logger.clone());
        let stop_sender = stop_sender.clone();
        runtime.spawn(async move {
            if let Err(why) = asking.await {
                stop_sender.fail(why);
            }
        });
    }
    announce(&config);
    let cluster = match opened.meta.cluster() {
        0 => "none yet".to_owned(),
        cluster => format!("{cluster:016x}"),
    };
    info!(logger, "started"; "cluster" => cluster, "term" => term,
        "members" => members, "ms" => begun.elapsed().as_millis() as u64);
    phase.send_replace(Phase::Started);

    let reason = runtime.block_on(stop_reasons.next());
    phase.send_replace(Phase::Stopping);
    let stopping = Instant::now();
    let result = match reason {
        StopReason::Failed(failure) => return Err(failure),
        StopReason::Signal(name) => {
            info!(logger, "stopping"; "signal" => name);
            Ok(())
        }
        StopReason::Node(exit) => on_exit(exit, &config, &opened.meta, logger),
    };
    let gently = result.is_ok();
    let stopped = runtime.block_on(async {
        let stop = async {
            if gently {
                stop_gently(&inbox, clients).await;
            }
            inbox.notice(Notice::Stop);
            let joined =
                tokio::task::spawn_blocking(|| threads.into_iter().map(JoinHandle::join).count());
            // A thread that panicked has ended the process: see main.rs.
            let _ = tokio::time::timeout(limits::THREADS_STOP_TIMEOUT, joined).await;
            transport.close().await;
            drop(peers);
        };
        tokio::select! {
            () = stop => Ok(()),
            failure = next_failure(&mut stop_reasons) => Err(failure),
        }
    });
    stopped?;
    if result.is_ok() {
        info!(logger, "stopped"; "ms" => stopping.elapsed().as_millis() as u64);
    }
    result
}

fn settings_of(config: &Config, opened: &Opened) -> node::Settings {
    // A member that has no table knows only this of where it is.
    let is_empty = opened.recovered.snapshot.is_none();
    let url_counts = config.url_given || is_empty || opened.first_start;
    let is_listed = !config.join && (config.cluster.len() > 1 || !is_empty);
    node::Settings {
        id: config.id,
        incarnation: opened.meta.incarnation(),
        boot: opened.meta.boot(),
        run: opened.run,
        url: url_counts.then(|| config.peer_url.clone()),
        list: match is_listed {
            true => config.cluster.clone(),
            false => BTreeMap::new(),
        },
        election_ticks: config.tuning.election_ticks(),
        heartbeat_ticks: config.tuning.heartbeat_ticks(),
        snapshot_bytes: config.tuning.snapshot_bytes,
        log_cache_bytes: config.tuning.log_cache_bytes,
        pinned_log_bytes: limits::PINNED_LOG_BYTES_MAX,
        // Random, so that no two members draw the same timeouts.
        seed: opened.meta.incarnation(),
    }
}

/// What this member knows of itself and the others before anything of the log is applied.
fn view_of(config: &Config, meta: &Meta, run: u64, members: &Members) -> View {
    let stored = members.members.get(&config.id);
    let stored = stored.filter(|_| !config.url_given);
    let nothing = View {
        me: config.id,
        incarnation: meta.incarnation(),
        run,
        url: stored.map_or(&config.peer_url, |own| &own.url).clone(),
        url_given: config.url_given,
        cluster: 0,
        members: Members::default(),
        bound_index: 0,
    };
    nothing.next(meta.cluster(), members)
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
        .map_err(|error| Failure::Fatal(format!("can't start a thread: {error}")))
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
        let failure = run(options.asked, &logger).unwrap_err();
        assert_eq!(failure.exit_code(), 2, "{failure}");
        assert!(!dir.exists());
    }
}
