//! How a process starts: what `server::run` does in the daemon before its threads run.

use super::{DATA_DIR, ELECTION_TICKS, HEARTBEAT_TICKS, Process, Queues, Worker};
use crate::disk::FakeDisk;
use crate::keys::key_of;
use crate::oracle::{self, Shadow};
use crate::oracles::Oracles;
use crate::ports::Wiring;
use crate::world::clock;
use raftkvd::channels::inbox::Inbox;
use raftkvd::identity::View;
use raftkvd::limits;
use raftkvd::logging::progress::Replay;
use raftkvd::members::Members;
use raftkvd::metrics::Metrics;
use raftkvd::node::{Node, NodeSettings};
use raftkvd::peer_url::PeerUrl;
use raftkvd::storage::wal::Wal;
use raftkvd::storage::{
    Beginning, DataDir, Given, Meta, Opened, Snapshots, Start, StorageError, WalOptions,
};
use raftkvd::store::Store;
use raftkvd::store::history::History;
use raftkvd::store::state_machine::StateMachine;
use raftkvd::threads::apply::{self, Applier};
use raftkvd::threads::raft::RaftLoop;
use raftkvd::threads::remove::Remover;
use raftkvd::threads::snapshot::SnapshotLoader;
use raftkvd::threads::wal;
use slog::Logger;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

/// How a process is started.
pub struct Launch<'a> {
    pub disk: &'a FakeDisk,
    pub machine: usize,
    pub id: u64,
    pub start: Start,
    /// Where it is reached, and whether its command line says so. Otherwise its table does.
    pub url: PeerUrl,
    pub url_given: bool,
    /// The first members, if it is started as one of several.
    pub listed: BTreeMap<u64, PeerUrl>,
    /// Where the command line, or the members that a joiner asks, say that peers are.
    pub dials: BTreeMap<u64, PeerUrl>,
    pub options: WalOptions,
    pub snapshot_bytes: u64,
    pub pinned_log_bytes: u64,
    pub history_bytes: u64,
    pub tick: u64,
    pub logger: Logger,
}

/// What of a process its threads share.
struct Shared {
    inbox: Arc<Inbox>,
    store: Arc<Store>,
    history: Arc<History>,
    meta: Arc<Meta>,
    snapshots: Arc<Snapshots>,
    metrics: Arc<Metrics>,
}

/// What a start has found on its disk, as the oracle was shown.
struct Found {
    log: BTreeMap<u64, Shadow>,
    applied: u64,
    term: u64,
}

impl Process {
    pub fn launch(launch: Launch, oracles: &mut Oracles) -> Result<Process, StorageError> {
        let lock = data_dir(&launch).lock()?;
        let store = Arc::new(Store::with_shards(8));
        let opened = open(&launch, &store)?;
        let found = Found::shown(&opened, launch.machine, oracles)?;
        let applied = found.applied;
        let settings = settings(&launch, &opened);
        let first_in_memory = opened.recovered.entries.first();
        let before_memory = first_in_memory.map_or(0, |entry| entry.index - 1);
        let node = Node::new(settings, opened.recovered, &launch.logger, &launch.logger)
            .unwrap_or_else(|error| panic!("{error}"));
        let shared = Shared {
            inbox: Arc::new(Inbox::default()),
            store,
            history: Arc::new(History::new(launch.history_bytes)),
            meta: opened.meta,
            snapshots: opened.snapshots,
            metrics: Arc::default(),
        };
        shared.inbox.set_closed(node.closed());
        shared.history.begin(applied, before_memory);
        let view = view(&launch, &shared.meta, opened.run, node.members());
        let (queues, wiring) = connect(&launch, &shared, opened.wal, found);
        if applied > 0 {
            let oracle = oracles.of(shared.meta.cluster());
            oracle.holds(launch.machine, applied, wiring.state_hash());
        }
        let tick = Duration::from_micros(launch.tick);
        Ok(Process {
            id: launch.id,
            raft_loop: RaftLoop::new(node, tick, clock(), &launch.logger),
            wiring,
            inbox: shared.inbox,
            store: shared.store,
            history: shared.history,
            meta: shared.meta,
            snapshots: shared.snapshots,
            metrics: shared.metrics,
            looked_at: None,
            followed: (0, 0),
            ends: false,
            asleep: false,
            pass_at: None,
            busy_until: 0,
            queues,
            writer: Worker::Idle,
            sparer: Worker::Idle,
            makes_spare: false,
            applier: Worker::Idle,
            snapshots_due: VecDeque::new(),
            snapshotter: Worker::Idle,
            requests: VecDeque::new(),
            reader: Worker::Idle,
            view,
            judges_up_to: applied,
            list: launch.dials,
            leader: 0,
            claimed: BTreeMap::new(),
            named: BTreeMap::new(),
            sending: BTreeSet::new(),
            receiving: false,
            stopping: None,
            logger: launch.logger,
            _lock: lock,
        })
    }
}

fn data_dir(launch: &Launch) -> DataDir {
    DataDir::new(Arc::new(launch.disk.clone()), DATA_DIR)
}

/// Opens the data directory, and loads the newest snapshot into the map.
fn open(launch: &Launch, store: &Arc<Store>) -> Result<Opened, StorageError> {
    let loader = SnapshotLoader {
        store,
        threads: 1,
        logger: &launch.logger,
    };
    let load =
        &mut |snapshots: &Snapshots, index, term| loader.load(snapshots, index, term, |_, _| ());
    let beginning = Beginning {
        member: launch.id,
        start: launch.start.clone(),
        given: Given {
            url: Some(launch.url.clone()),
            list: launch.listed.clone(),
            ..Given::default()
        },
    };
    data_dir(launch).open_and_load(beginning, launch.options, load, &launch.logger)
}

impl Found {
    /// Shows the oracle of the member's cluster what is on the disk.
    fn shown(
        opened: &Opened,
        machine: usize,
        oracles: &mut Oracles,
    ) -> Result<Found, StorageError> {
        let oracle = oracles.of(opened.meta.cluster());
        let recovered = &opened.recovered;
        let entries = Process::entries(recovered, &opened.wal.read_back())?;
        oracle.recovers(&entries, &recovered.hard_state);
        let mut log = BTreeMap::new();
        let mut applied = 0;
        if let Some(meta) = &recovered.snapshot {
            applied = meta.index;
            let (term, hash) = (meta.term, 0);
            log.insert(meta.index, Shadow { term, hash });
        }
        for entry in &entries {
            let shadow = oracle::shadow(entry);
            if let Some(before) = log.get(&(entry.index - 1)) {
                oracle.stores(entry.index, shadow, before.term);
            }
            log.insert(entry.index, shadow);
        }
        let last = log.last_key_value().map_or(0, |(index, _)| *index);
        oracle.stores_up_to(machine, last);
        let term = recovered.hard_state.term;
        Ok(Found { log, applied, term })
    }
}

fn settings(launch: &Launch, opened: &Opened) -> NodeSettings {
    // A member that has no table knows only this of where it is.
    let url_counts = launch.url_given || opened.recovered.snapshot.is_none() || opened.first_start;
    NodeSettings {
        id: launch.id,
        incarnation: opened.meta.incarnation(),
        boot: opened.meta.boot(),
        run: opened.run,
        url: url_counts.then(|| launch.url.clone()),
        key: key_of(opened.meta.incarnation()),
        url_given: launch.url_given,
        list: launch.listed.clone(),
        served_at: Some(launch.url.clone()),
        joins_through: None,
        election_ticks: ELECTION_TICKS,
        heartbeat_ticks: HEARTBEAT_TICKS,
        snapshot_bytes: launch.snapshot_bytes,
        log_cache_bytes: launch.options.cache_bytes,
        pinned_log_bytes: launch.pinned_log_bytes,
        seed: opened.meta.incarnation(),
    }
}

fn view(launch: &Launch, meta: &Meta, run: u64, members: &Members) -> View {
    let nothing = View {
        me: launch.id,
        incarnation: meta.incarnation(),
        run,
        url: launch.url.clone(),
        url_given: launch.url_given,
        cluster: 0,
        bound_index: 0,
        members: Members::default(),
    };
    nothing.next(meta.cluster(), members)
}

/// The queues between the raft loop and the threads, with the loop's ends of them.
fn connect(launch: &Launch, shared: &Shared, wal: Wal, found: Found) -> (Queues, Wiring) {
    let (commits, batches) = apply::channel(StateMachine {
        store: shared.store.clone(),
        history: shared.history.clone(),
        replay: Arc::new(Replay::new()),
    });
    let wal_reader = wal.read_back();
    let (writer, jobs) = wal::channel(wal, clock, &launch.logger);
    let (purge_sender, purges) = mpsc::channel();
    let (snapshot_sender, snapshot_jobs) = mpsc::channel();
    let batches = Applier {
        batches,
        inbox: shared.inbox.clone(),
        snapshots: shared.snapshots.clone(),
        snapshot_jobs: snapshot_sender,
        metrics: shared.metrics.clone(),
        logger: launch.logger.clone(),
    };
    let deletions_failed = shared.metrics.shortages.deletions_failed.clone();
    let queues = Queues {
        jobs,
        purge_sender,
        remover: Remover::new(purges, deletions_failed, &launch.logger),
        batches,
        snapshot_jobs,
        wal_reader,
    };
    let cache_bytes = launch.options.cache_bytes;
    let wiring = Wiring {
        machine: launch.machine,
        inbox: shared.inbox.clone(),
        writer,
        commits,
        store: shared.store.clone(),
        meta: shared.meta.clone(),
        log: found.log,
        unsaved: VecDeque::new(),
        durable_term: found.term,
        marks: (0, found.applied),
        mark_due: None,
        unapplied: VecDeque::new(),
        unapplied_bytes_max: cache_bytes.min(limits::PUBLISHED_BYTES_MAX as u64),
        published: found.applied,
        applied: found.applied,
        told_applied: found.applied,
        crashes_behind: None,
        led: 0,
    };
    (queues, wiring)
}
