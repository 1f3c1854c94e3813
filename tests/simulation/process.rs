//! One running member: the real raft loop, inbox, WAL writer and applier, and between them the queues that threads serve
//! in the daemon. Here the world says when each of them takes its next step.

use crate::disk::{FakeDisk, Random};
use crate::oracle::{self, Oracle, Shadow};
use crate::ports::{Effect, Promise, SimulatedPorts, What, Wiring};
use crate::world::{World, clock, micros};
use futures_channel::oneshot;
use raft::eraftpb::{Entry, Message};
use raftkvd::apply::{self, Applier, SnapshotJob};
use raftkvd::config;
use raftkvd::history::History;
use raftkvd::inbox::{Inbox, Notice, Reason};
use raftkvd::members::{Members, PeerUrl};
use raftkvd::metrics::Metrics;
use raftkvd::node::{Node, Settings};
use raftkvd::progress::Replay;
use raftkvd::raft_loop::RaftLoop;
use raftkvd::read_back;
use raftkvd::storage::meta::PinError;
use raftkvd::storage::read_back::Request;
use raftkvd::storage::{
    self, DiskError, Lock, Meta, Options, Purge, ReadBack, Recovered, Snapshots, Start,
    StorageError,
};
use raftkvd::store::Store;
use raftkvd::transport::View;
use raftkvd::transport::handshake::{self, Accepted, Claims};
use raftkvd::writer::{self, Durable, Jobs, WriterError};
use slog::Logger;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

/// Ticks of an election timeout.
pub const ELECTION_TICKS: usize = 10;
/// Ticks between heartbeats.
pub const HEARTBEAT_TICKS: usize = 2;
/// Where a member keeps its data, on its own disk.
pub const DATA_DIR: &str = "/data";

/// Where the queue of a thread stands.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Worker {
    #[default]
    Idle,
    Busy,
}

pub struct Process {
    pub id: u64,
    raft_loop: RaftLoop,
    wiring: Wiring,
    pub inbox: Arc<Inbox>,
    pub store: Arc<Store>,
    pub history: Arc<History>,
    pub meta: Arc<Meta>,
    pub snapshots: Arc<Snapshots>,
    metrics: Arc<Metrics>,
    /// What the oracle was shown last: what is published, with its members, and the leader with its term.
    looked_at: Option<(u64, Arc<Members>)>,
    followed: (u64, u64),
    /// The loop waits in the inbox.
    pub asleep: bool,
    pub pass_at: Option<u64>,
    /// The loop is at work until then, or does not get a processor.
    pub busy_until: u64,
    /// The WAL thread.
    jobs: Jobs,
    pub writer: Worker,
    /// The thread that deletes what is superfluous.
    purge_sender: Sender<Purge>,
    purges: Receiver<Purge>,
    /// The apply thread.
    batches: Applier,
    pub applier: Worker,
    /// The snapshot thread.
    snapshot_jobs: Receiver<SnapshotJob>,
    snapshots_due: VecDeque<SnapshotJob>,
    pub snapshotter: Worker,
    /// The read-back thread.
    wal_reader: ReadBack,
    pub requests: VecDeque<Request>,
    pub reader: Worker,
    /// Of the transport.
    view: View,
    /// That it believes to be in.
    life: u64,
    known: BTreeSet<u64>,
    pub leader: u64,
    pub newcomers: BTreeMap<u64, (PeerUrl, u64)>,
    /// Peers to which a snapshot is under way.
    pub sending: BTreeSet<u64>,
    pub receiving: bool,
    /// Asked to stop: says when it does not lead any more.
    pub stopping: Option<oneshot::Receiver<()>>,
    logger: Logger,
    _lock: Lock,
}

/// How a process is started.
pub struct Launch<'a> {
    pub disk: &'a FakeDisk,
    pub machine: usize,
    pub id: u64,
    pub start: Start,
    /// What the command line says.
    pub initial: &'a Members,
    pub options: Options,
    pub snapshot_bytes: u64,
    pub pinned_log_bytes: u64,
    pub history_bytes: u64,
    pub tick: u64,
    pub logger: Logger,
}

/// How a pass went, and what it asked for.
pub struct Passed {
    pub result: Result<ControlFlow<()>, DiskError>,
    pub effects: Vec<Effect>,
}

impl Process {
    /// Does what `server::run` does before its threads run.
    pub fn launch(launch: Launch, oracle: &mut Oracle) -> Result<Process, StorageError> {
        let dir = Path::new(DATA_DIR);
        let logger = launch.logger;
        let lock = storage::lock(launch.disk, dir)?;
        let disk = Arc::new(launch.disk.clone());
        let store = Arc::new(Store::with_shards(8));
        let load = &mut |snapshots: &Snapshots, index, term| {
            apply::load(&store, snapshots, index, term, 1, |_, _| (), &logger)
        };
        let (id, start, options) = (launch.id, launch.start, launch.options);
        let unapplied_bytes_max = options.cache_bytes.min(config::PUBLISHED_BYTES_MAX as u64);
        let opened = storage::open_and_load(disk, dir, id, start, options, load, &logger)?;
        let recovered = &opened.recovered;
        let entries = Process::entries(recovered, &opened.wal.read_back())?;
        oracle.recovers(&entries, &recovered.hard_state);
        let hard_state_term = recovered.hard_state.term;
        let joining = recovered.snapshot.is_none();
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
        let settings = Settings {
            id: launch.id,
            boot: opened.meta.boot(),
            election_ticks: ELECTION_TICKS,
            heartbeat_ticks: HEARTBEAT_TICKS,
            snapshot_bytes: launch.snapshot_bytes,
            log_cache_bytes: launch.options.cache_bytes,
            pinned_log_bytes: launch.pinned_log_bytes,
            seed: opened.meta.incarnation(),
        };
        let first_in_memory = opened.recovered.entries.first();
        let before_memory = first_in_memory.map_or(0, |entry| entry.index - 1);
        let node = Node::new(settings, opened.recovered, &logger, &logger)
            .unwrap_or_else(|error| panic!("{error}"));
        let known = if joining {
            launch.initial
        } else {
            node.members()
        };
        let view = View::default().next(launch.id, known, joining);
        let known = known.members.keys().copied().collect();
        let inbox = Arc::new(Inbox::default());
        let history = Arc::new(History::new(launch.history_bytes));
        history.begin(applied, before_memory);
        let (commits, batches) = apply::channel(Arc::new(Replay::new()), history.clone());
        let wal_reader = opened.wal.read_back();
        let (writer, jobs) = writer::channel(opened.wal, clock, &logger);
        let (purge_sender, purges) = mpsc::channel();
        let (snapshot_sender, snapshot_jobs) = mpsc::channel();
        let metrics: Arc<Metrics> = Arc::default();
        let applier = Applier {
            batches,
            store: store.clone(),
            inbox: inbox.clone(),
            snapshots: opened.snapshots.clone(),
            snapshot_jobs: snapshot_sender,
            metrics: metrics.clone(),
            logger: logger.clone(),
        };
        let wiring = Wiring {
            machine: launch.machine,
            inbox: inbox.clone(),
            writer,
            commits,
            store: store.clone(),
            meta: opened.meta.clone(),
            log,
            unsaved: VecDeque::new(),
            durable_term: hard_state_term,
            marks: (0, applied),
            mark_due: None,
            unapplied: VecDeque::new(),
            unapplied_bytes_max,
            published: applied,
            applied,
            crashes_behind: None,
            led: 0,
        };
        let process = Process {
            id: launch.id,
            raft_loop: RaftLoop::new(node, Duration::from_micros(launch.tick), clock(), &logger),
            inbox,
            store,
            history,
            meta: opened.meta,
            snapshots: opened.snapshots,
            metrics,
            looked_at: None,
            followed: (0, 0),
            asleep: false,
            pass_at: None,
            busy_until: 0,
            jobs,
            writer: Worker::Idle,
            purge_sender,
            purges,
            batches: applier,
            applier: Worker::Idle,
            snapshot_jobs,
            snapshots_due: VecDeque::new(),
            snapshotter: Worker::Idle,
            wal_reader,
            requests: VecDeque::new(),
            reader: Worker::Idle,
            life: life(&view, launch.id),
            view,
            known,
            leader: 0,
            newcomers: BTreeMap::new(),
            sending: BTreeSet::new(),
            receiving: false,
            stopping: None,
            logger,
            _lock: lock,
            wiring,
        };
        if applied > 0 {
            let hash = process.wiring.state_hash();
            oracle.holds(launch.machine, applied, hash);
        }
        Ok(process)
    }

    /// All entries behind the snapshot, those that a start has left to the disk included.
    fn entries(recovered: &Recovered, reader: &ReadBack) -> Result<Vec<Entry>, StorageError> {
        let outline = recovered.outline.as_ref().expect("it has a disk");
        let snapshot = recovered.snapshot.as_ref().map_or(0, |meta| meta.index);
        let end = outline.last() + 1 - recovered.entries.len() as u64;
        let mut entries = Vec::new();
        let mut next = snapshot + 1;
        while next < end {
            let piece = reader.read(&Request::new(outline, next, end, 10_000))?;
            let piece = piece.expect("nothing was deleted yet");
            next += piece.len() as u64;
            entries.extend(piece);
        }
        entries.extend(recovered.entries.iter().cloned());
        Ok(entries)
    }

    // ---- the raft loop ----

    pub fn node(&self) -> &Node {
        self.raft_loop.node()
    }

    /// When the next pass is due whatever happens.
    pub fn next_tick(&self) -> u64 {
        micros(self.raft_loop.next_tick())
    }

    /// The loop has nothing to do at this time: it sleeps until its tick, or until something comes.
    pub fn falls_asleep(&mut self) -> bool {
        let (tick, held) = (self.raft_loop.next_tick(), self.raft_loop.held());
        self.asleep = self.inbox.falls_asleep(clock(), tick, held);
        self.asleep
    }

    /// One pass of the loop.
    pub fn pass(&mut self, oracle: &mut Oracle) -> Passed {
        self.asleep = false;
        let (tick, held) = (self.raft_loop.next_tick(), self.raft_loop.held());
        let events = self.inbox.take_now(clock(), tick, held);
        for notice in &events.notices {
            if let Notice::ReadBack(read) = notice {
                for entry in read.entries.iter().flatten() {
                    oracle.reads_back(entry);
                }
            }
        }
        let mut ports = SimulatedPorts {
            wiring: &mut self.wiring,
            oracle,
            effects: Vec::new(),
        };
        let result = self.raft_loop.pass(events, &mut ports);
        let effects = ports.effects;
        let result = result.map_err(|error| match error {
            WriterError::Disk(error) => error,
            WriterError::ThreadEnded => panic!("no thread has ended"),
        });
        if result.is_ok() {
            self.look_at(&effects, oracle);
        }
        Passed { result, effects }
    }

    /// What has to hold behind every pass.
    fn look_at(&mut self, effects: &[Effect], oracle: &mut Oracle) {
        let node = self.raft_loop.node();
        let (published, members) = (self.wiring.published, node.members());
        let is_known = |(index, known): &(u64, Arc<Members>)| {
            // Nothing was published since.
            *index == published && **known == *members
        };
        if published > 0 && !self.looked_at.as_ref().is_some_and(is_known) {
            let known = oracle.publishes(published, members);
            self.looked_at = Some((published, known));
        }
        for effect in effects {
            if let What::Members(members) = &effect.what
                && members.members.contains_key(&self.id)
                // Before that nobody is told that a removal succeeded, and nobody takes the removed one's disk away.
                && members.unsettled_removal == 0
            {
                oracle.tells(members);
            }
        }
        let position = node.position();
        let leader = (position.leader, position.term);
        // A sole voter leads before its own vote is on the disk. It tells nobody, and a power loss takes that term from it.
        let is_certain = position.leader != self.id || self.wiring.durable_term >= position.term;
        if !is_certain {
            oracle.leads_in_memory(self.id, position.term);
        } else if position.leader != 0 && self.followed != leader {
            oracle.follows(self.id, position.leader, position.term);
            self.followed = leader;
        }
        if node.is_leader() {
            for member in node.status().members {
                if let Some(progress) = member.progress {
                    oracle.believes(self.id, position.last, member.id, progress.matched);
                }
            }
        }
        let last = self.wiring.log.last_key_value();
        let last = last.map_or(0, |(index, _)| *index);
        assert!(
            position.snapshot <= position.committed
                && position.applied <= position.committed
                && position.committed <= last,
            "snapshot {}, applied {}, committed {}, last {last}",
            position.snapshot,
            position.applied,
            position.committed,
        );
    }

    // ---- the wal thread ----

    pub fn has_jobs(&self) -> bool {
        self.jobs.are_unfinished()
    }

    /// The mark of a snapshot is among them.
    pub fn has_mark(&self) -> bool {
        self.wiring.mark_due.is_some()
    }

    /// Makes some of the jobs that wait durable. Nobody knows of it yet.
    pub fn write(
        &mut self,
        random: &mut Random,
        oracle: &mut Oracle,
    ) -> Result<Option<Durable>, DiskError> {
        let jobs_max = match random.chance(300) {
            true => 1,
            false => usize::MAX,
        };
        let durable = self.jobs.write_waiting(jobs_max)?;
        if let Some(durable) = &durable {
            self.wiring.saved(durable.number(), oracle);
        }
        Ok(durable)
    }

    /// Tells the loop, and gives what may be sent then.
    pub fn tell(&mut self, durable: Durable) -> Result<Vec<Message>, DiskError> {
        let mut sent = Vec::new();
        let send = |messages| sent = messages;
        let told = self
            .jobs
            .tell(durable, &self.inbox, send, &self.purge_sender)?;
        assert!(told.is_continue(), "no thread has ended");
        self.wiring.sends(&sent);
        Ok(sent)
    }

    /// The power goes behind the next message of this kind, at the first operation of the disk.
    pub fn crashes_behind(&mut self, crash: Option<(Promise, FakeDisk)>) {
        self.wiring.crashes_behind = crash;
    }

    // ---- the thread that deletes ----

    pub fn remove_files(&mut self) -> Result<(), DiskError> {
        self.purges.try_iter().try_for_each(Purge::remove_at_once)
    }

    // ---- the read-back thread ----

    /// Reads what the node has wanted longest.
    pub fn read_back(&mut self) -> Result<(), StorageError> {
        match self.requests.pop_front() {
            Some(request) => read_back::answer(&request, &self.wal_reader, &self.inbox),
            None => Ok(()),
        }
    }

    // ---- the apply thread ----

    pub fn has_batches(&self) -> bool {
        self.batches.has_unfinished()
    }

    /// Takes one batch from the commit channel.
    pub fn apply(&mut self, oracle: &Oracle) -> Result<(), StorageError> {
        self.batches.apply_waiting()?;
        let applied = self.history.newest();
        if applied > self.wiring.applied {
            self.wiring.applies(applied, oracle);
        }
        self.snapshots_due.extend(self.snapshot_jobs.try_iter());
        Ok(())
    }

    // ---- the snapshot thread ----

    pub fn has_snapshots(&self) -> bool {
        !self.snapshots_due.is_empty()
    }

    /// Writes the snapshot that waits longest. The raft loop is told at once.
    pub fn write_snapshot(&mut self) -> Result<(), DiskError> {
        let (sender, jobs) = mpsc::channel();
        if let Some(job) = self.snapshots_due.pop_front() {
            sender.send(job).expect("the receiver is there");
        }
        drop(sender);
        let cluster = || self.meta.cluster();
        apply::write_snapshots(
            &jobs,
            &self.snapshots,
            cluster,
            &self.metrics.snapshots,
            &self.inbox,
            &self.logger,
        )
    }

    // ---- the transport ----

    pub fn set_members(&mut self, members: &Members) {
        self.view = self.view.next(self.id, members, false);
        self.life = life(&self.view, self.id);
        self.known = members.members.keys().copied().collect();
        let view = &self.view;
        self.newcomers
            .retain(|id, (_, added)| view.is_news(*id, *added));
    }

    /// Where messages for a member go.
    pub fn url(&self, id: u64) -> Option<&PeerUrl> {
        match self.newcomers.get(&id) {
            Some((url, _)) => Some(url),
            None => self.view.url(id),
        }
    }

    /// The others that it knows, and where they are.
    pub fn peers(&self) -> impl Iterator<Item = (u64, usize)> + '_ {
        let others = self.known.iter().filter(|id| **id != self.id);
        others.filter_map(|id| Some((*id, World::machine_at(self.url(*id)?))))
    }

    pub fn claims(&self, to: u64) -> Claims {
        let (cluster, incarnation) = (self.meta.cluster(), self.meta.incarnation());
        self.view.claims(self.id, to, cluster, incarnation)
    }

    /// The life this member believes to be in.
    pub fn life(&self) -> u64 {
        self.life
    }

    pub fn judge(&self, claims: &Claims) -> Result<Accepted, Reason> {
        let pin = self.meta.pinned(claims.from);
        handshake::check(claims, self.id, self.meta.cluster(), &self.view, pin)
    }

    /// Judges a peer and remembers what was learned, durably.
    pub fn admit(&self, claims: &Claims) -> Result<Result<Accepted, Reason>, DiskError> {
        let accepted = match self.judge(claims) {
            Ok(accepted) => accepted,
            Err(reason) => return Ok(Err(reason)),
        };
        if let Some(cluster) = accepted.pin_cluster {
            self.meta.pin_cluster(cluster)?;
        }
        if let Some(pin) = accepted.pin {
            match self.meta.pin(claims.from, pin) {
                Ok(()) => {}
                Err(PinError::Disk(error)) => return Err(error),
                Err(error @ PinError::Full(_)) => panic!("{error}"),
            }
        }
        Ok(Ok(accepted))
    }

    /// A peer was let in.
    pub fn welcome(&mut self, claims: &Claims, accepted: &Accepted) {
        if let (true, Some(url)) = (accepted.newcomer, &claims.url) {
            let known = self.newcomers.get(&claims.from);
            if known.is_none_or(|(_, added)| *added < claims.added_index) {
                let newcomer = (url.clone(), claims.added_index);
                self.newcomers.insert(claims.from, newcomer);
            }
        }
    }

    /// Index of the newest entry in the map.
    pub fn applied(&self) -> u64 {
        self.wiring.applied
    }
}

fn life(view: &View, id: u64) -> u64 {
    view.claims(id, 0, 0, 0).added_index
}
