//! One running member: the real node, storage and store, and between them the queues that threads serve in the
//! daemon. Here the world says when each of them takes its next step.
//!
//! The order of calls is that of `raft_loop.rs` and `writer.rs`; `apply.rs` is driven itself, a batch at a time.

use crate::disk::{FakeDisk, Random};
use crate::oracle::{self, Oracle, Shadow};
use crate::world::World;
use raft::eraftpb::{Entry, Message};
use raftkvd::apply::{self, SnapshotJob};
use raftkvd::commit::Commit;
use raftkvd::inbox::Reason;
use raftkvd::inbox::{self, Inbox, Notice};
use raftkvd::members::{Members, PeerUrl};
use raftkvd::metrics;
use raftkvd::node::{Job, Node, Output, Settings};
use raftkvd::storage::meta::PinError;
use raftkvd::storage::read_back::Request;
use raftkvd::storage::{
    self, DiskError, Lock, Meta, Options, Purge, ReadBack, Recovered, Save, Snapshots, Start,
    StorageError, Wal,
};
use raftkvd::store::Store;
use raftkvd::transport::View;
use raftkvd::transport::handshake::{self, Accepted, Claims};
use slog::Logger;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Instant;

/// Ticks of an election timeout.
pub const ELECTION_TICKS: usize = 10;
/// Ticks between heartbeats.
pub const HEARTBEAT_TICKS: usize = 2;
/// Where a member keeps its data, on its own disk.
const DATA_DIR: &str = "/data";

/// Where the queue of a thread stands.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Worker {
    #[default]
    Idle,
    Busy,
}

/// Number of a job, and of each of its entries the index, what it is, and the term before it.
type Unsaved = (u64, Vec<(u64, Shadow, u64)>);

pub struct Process {
    pub id: u64,
    pub node: Node,
    pub inbox: Inbox,
    pub store: Store,
    pub meta: Arc<Meta>,
    pub snapshots: Arc<Snapshots>,
    wal: Wal,
    /// What is to be deleted.
    purges: Vec<Purge>,
    /// Of the raft loop.
    pub next_tick: u64,
    pub pass_at: Option<u64>,
    tick: u64,
    pub jobs: VecDeque<Job>,
    pub writer: Worker,
    pub commits: VecDeque<Vec<Commit>>,
    pub applier: Worker,
    snapshot_sender: Sender<SnapshotJob>,
    snapshot_jobs: Receiver<SnapshotJob>,
    pub snapshots_waiting: usize,
    pub snapshotter: Worker,
    wal_reader: ReadBack,
    pub requests: VecDeque<Request>,
    pub reader: Worker,
    /// Indexes of the two newest marks.
    marks: (u64, u64),
    /// Of the transport.
    view: View,
    known: BTreeSet<u64>,
    pub leader: u64,
    pub newcomers: BTreeMap<u64, (PeerUrl, u64)>,
    /// Peers to which a snapshot is under way.
    pub sending: BTreeSet<u64>,
    pub receiving: bool,
    /// What the node's log holds, from the newest mark on.
    log: BTreeMap<u64, Shadow>,
    /// By job: what its save will add to the log on the disk (index, entry, term of the one before).
    unsaved: VecDeque<Unsaved>,
    published: u64,
    applied: u64,
    pub stopping: bool,
    metrics: metrics::Snapshots,
    logger: Logger,
    _lock: Lock,
}

/// What a step asks of the world, in order.
pub enum Effect {
    Job(Job),
    Output(Box<Output>),
}

/// How a process is started.
pub struct Launch<'a> {
    pub disk: &'a FakeDisk,
    pub id: u64,
    pub start: Start,
    /// What the command line says.
    pub initial: &'a Members,
    pub options: Options,
    pub snapshot_bytes: u64,
    pub pinned_log_bytes: u64,
    pub now: u64,
    pub tick: u64,
    pub logger: Logger,
}

impl Process {
    /// Does what `server::run` does before its threads run.
    pub fn launch(launch: Launch, oracle: &mut Oracle) -> Result<Process, StorageError> {
        let dir = Path::new(DATA_DIR);
        let logger = launch.logger;
        let lock = storage::lock(launch.disk, dir)?;
        let disk = Arc::new(launch.disk.clone());
        let store = Store::with_shards(8);
        let load = &mut |snapshots: &Snapshots, index, term| {
            apply::load(&store, snapshots, index, term, 1, |_, _| (), &logger)
        };
        let (id, start, options) = (launch.id, launch.start, launch.options);
        let opened = storage::open_and_load(disk, dir, id, start, options, load, &logger)?;
        let recovered = &opened.recovered;
        let entries = Process::entries(recovered, &opened.wal.read_back())?;
        oracle.recovers(&entries, &recovered.hard_state);
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
        let node = Node::new(settings, opened.recovered, &logger, &logger)
            .unwrap_or_else(|error| panic!("{error}"));
        let known = if joining {
            launch.initial
        } else {
            node.members()
        };
        let view = View::default().next(launch.id, known, joining);
        let known = known.members.keys().copied().collect();
        let (snapshot_sender, snapshot_jobs) = mpsc::channel();
        let process = Process {
            id: launch.id,
            node,
            inbox: Inbox::default(),
            store,
            meta: opened.meta,
            snapshots: opened.snapshots,
            wal_reader: opened.wal.read_back(),
            requests: VecDeque::new(),
            reader: Worker::Idle,
            marks: (0, applied),
            wal: opened.wal,
            purges: Vec::new(),
            next_tick: launch.now,
            pass_at: None,
            tick: launch.tick,
            jobs: VecDeque::new(),
            writer: Worker::Idle,
            commits: VecDeque::new(),
            applier: Worker::Idle,
            snapshot_sender,
            snapshot_jobs,
            snapshots_waiting: 0,
            snapshotter: Worker::Idle,
            view,
            known,
            leader: 0,
            newcomers: BTreeMap::new(),
            sending: BTreeSet::new(),
            receiving: false,
            log,
            unsaved: VecDeque::new(),
            published: applied,
            applied,
            stopping: false,
            metrics: metrics::Snapshots::default(),
            logger,
            _lock: lock,
        };
        if applied > 0 {
            oracle.holds(launch.id as usize, applied, process.state_hash());
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

    /// One pass: see `raft_loop::run`.
    pub fn pass(&mut self, now: u64, oracle: &mut Oracle) -> Vec<Effect> {
        let mut effects = Vec::new();
        let events = self.inbox.take(Instant::now(), self.node.held());
        if events.persisted > 0 {
            self.node.persisted(events.persisted);
        }
        if events.applied > 0 {
            self.node.applied(events.applied, events.applied_bytes);
        }
        for notice in events.notices {
            match notice {
                Notice::Unreachable(peer) => self.node.unreachable(peer),
                Notice::Connected(peer) => self.node.peer_connected(peer),
                Notice::Gone(peer) => self.node.peer_gone(peer),
                Notice::SnapshotSent { to, ok } => self.node.snapshot_sent(to, ok),
                Notice::SnapshotWritten(written) => {
                    effects.extend(self.node.snapshot_written(*written).map(Effect::Job));
                }
                Notice::ReadBack(read) => self.node.read_back(read),
                Notice::Refused(verdict) => self.node.refused(verdict),
                Notice::Transfer(transfer) => self.node.transfer(transfer),
                Notice::HandOver(_) | Notice::Status(_) | Notice::Freeze(_) | Notice::Stop => {}
            }
        }
        for message in events.messages {
            self.node.step(message);
        }
        for proposal in events.proposals {
            self.node.propose(proposal);
        }
        for read in events.reads {
            self.node.read(read);
        }
        if now >= self.next_tick {
            self.node.tick();
            self.next_tick = (self.next_tick + self.tick).max(now + self.tick / 2);
            if self.stopping {
                self.node.hand_over();
            }
        }
        while let Some(output) = self.node.ready() {
            self.observe(&output, oracle);
            effects.push(Effect::Output(Box::new(output)));
        }
        self.inbox.set_map_is_current(self.node.map_is_current());
        if self.published > 0 {
            oracle.publishes(self.published, self.node.members());
        }
        for effect in &effects {
            if let Effect::Output(output) = effect
                && let Some(members) = &output.members
                && members.members.contains_key(&self.id)
                // Before that nobody is told that a removal succeeded, and nobody takes the removed one's disk away.
                && members.unsettled_removal == 0
            {
                oracle.tells(members);
            }
        }
        let status = self.node.status();
        if self.node.is_leader() {
            oracle.leads(self.id, status.term);
        }
        let last = self.log.last_key_value().map_or(0, |(index, _)| *index);
        assert!(
            status.snapshot <= status.committed
                && status.applied <= status.committed
                && status.committed <= last,
            "snapshot {}, applied {}, committed {}, last {last}",
            status.snapshot,
            status.applied,
            status.committed,
        );
        effects
    }

    fn observe(&mut self, output: &Output, oracle: &mut Oracle) {
        if let Some(job) = &output.job {
            self.shadow(job.number, &job.save);
        }
        for commit in &output.commits {
            match commit {
                Commit::Apply(apply) => {
                    let commands = apply.commands.iter().map(|(command, _)| command);
                    oracle.commits(apply.index, self.log[&apply.index], commands);
                    self.published = apply.index;
                }
                Commit::Snapshot(meta) => oracle.takes_snapshot(meta),
                Commit::Restore(meta) => self.published = meta.index,
                Commit::Read(_) | Commit::Freeze { .. } => {}
            }
        }
    }

    fn shadow(&mut self, number: u64, save: &Save) {
        if let Some(mark) = save.mark.as_ref().filter(|mark| mark.installed) {
            self.log.clear();
            let (term, hash) = (mark.term, 0);
            self.log.insert(mark.index, Shadow { term, hash });
        }
        if let Some(first) = save.entries.first() {
            self.log.split_off(&first.index);
        }
        let mut stored = Vec::new();
        for entry in &save.entries {
            let shadow = oracle::shadow(entry);
            stored.push((entry.index, shadow, self.log[&(entry.index - 1)].term));
            self.log.insert(entry.index, shadow);
        }
        self.unsaved.push_back((number, stored));
    }

    // ---- the wal thread ----

    /// Makes some of the jobs that wait durable: the number of the last one, and what may be sent then.
    pub fn write(
        &mut self,
        random: &mut Random,
        oracle: &mut Oracle,
    ) -> Result<(u64, Vec<Message>), DiskError> {
        let most = match random.chance(300) {
            true => 1,
            false => self.jobs.len(),
        };
        let (mut number, mut saves, mut messages) = (0, Vec::new(), Vec::new());
        let mut compacted = 0;
        for job in self.jobs.drain(..most) {
            number = job.number;
            compacted = job.compacted;
            if let Some(mark) = &job.save.mark {
                self.marks = (self.marks.1, mark.index);
            }
            saves.push(job.save);
            messages.extend(job.messages);
        }
        self.wal.save(&saves)?;
        while let Some((_, stored)) = self.unsaved.pop_front_if(|(n, _)| *n <= number) {
            for (index, entry, before) in stored {
                oracle.stores(index, entry, before);
            }
        }
        self.purges.push(self.wal.purge(compacted)?);
        // A thread of its own does it, some time later.
        if number.is_multiple_of(3) {
            for purge in self.purges.drain(..) {
                purge.remove_at_once()?;
            }
        }
        Ok((number, messages))
    }

    /// A job that waits keeps more of the log than the two newest snapshots need.
    pub fn pins_log(&self) -> bool {
        let pins = |job: &Job| job.compacted > 1 && job.compacted < self.marks.0;
        self.jobs.iter().any(pins)
    }

    // ---- the read-back thread ----

    /// Reads what the node has wanted longest. False when it was deleted meanwhile.
    pub fn read_back(&mut self, oracle: &Oracle) -> Result<bool, StorageError> {
        let Some(request) = self.requests.pop_front() else {
            return Ok(true);
        };
        let entries = self.wal_reader.read(&request)?;
        for entry in entries.iter().flatten() {
            oracle.reads_back(entry);
        }
        let found = entries.is_some();
        let first = request.first;
        let read = inbox::ReadBack { first, entries };
        self.inbox.notice(Notice::ReadBack(read));
        Ok(found)
    }

    // ---- the apply thread ----

    /// Takes one batch from the commit channel.
    pub fn apply(&mut self, machine: usize, oracle: &Oracle) -> Result<(), StorageError> {
        let Some(batch) = self.commits.pop_front() else {
            return Ok(());
        };
        let mut applied = 0;
        for commit in &batch {
            match commit {
                Commit::Apply(apply) => applied = apply.index,
                Commit::Restore(meta) => applied = meta.index,
                Commit::Snapshot(_) => self.snapshots_waiting += 1,
                Commit::Read(_) | Commit::Freeze { .. } => {}
            }
        }
        let (sender, commits) = apply::channel(Arc::default(), Arc::default());
        sender.send(batch).expect("the receiver is there");
        drop(sender);
        apply::run(
            &commits,
            &self.store,
            &self.inbox,
            &self.snapshots,
            &self.snapshot_sender,
            &self.metrics,
            &self.logger,
        )?;
        if applied > 0 {
            assert!(applied > self.applied, "{applied} after {}", self.applied);
            self.applied = applied;
            oracle.holds(machine, applied, self.state_hash());
        }
        Ok(())
    }

    fn state_hash(&self) -> u64 {
        let mut sum = 0_u64;
        let Ok(()) = self.store.freeze().visit(|key, index, value| {
            sum = sum.wrapping_add(oracle::hash(&(key, index, value)));
            Ok::<(), Infallible>(())
        });
        sum
    }

    // ---- the snapshot thread ----

    /// Writes the snapshot that waits longest. The raft loop is told at once.
    pub fn write_snapshot(&mut self) -> Result<(), DiskError> {
        self.snapshots_waiting -= 1;
        let (sender, jobs) = mpsc::channel();
        let job = self.snapshot_jobs.try_recv().expect("it was counted");
        sender.send(job).expect("the receiver is there");
        drop(sender);
        let cluster = || self.meta.cluster();
        apply::write_snapshots(
            &jobs,
            &self.snapshots,
            cluster,
            &self.metrics,
            &self.inbox,
            &self.logger,
        )
    }

    // ---- the transport ----

    pub fn set_members(&mut self, members: &Members) {
        self.view = self.view.next(self.id, members, false);
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
        self.claims(0).added_index
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
        self.applied
    }
}
