//! One running member: the real raft loop, inbox, WAL writer and applier, and between them the queues that threads serve
//! in the daemon. Here the world says when each of them takes its next step.

mod launch;

pub use launch::Launch;

use crate::disk::{FakeDisk, Random};
use crate::oracle::Oracle;
use crate::oracles::Oracles;
use crate::ports::{Effect, Promise, SimulatedPorts, What, Wiring};
use crate::world::{World, clock, micros};
use crate::written::Proposer;
use futures_channel::oneshot;
use raft::eraftpb::{Entry, Message};
use raftkvd::channels::inbox::Inbox;
use raftkvd::channels::notice::Notice;
use raftkvd::identity::{self, Claims, Leader, PeerAnswer, Reason, Standing, View};
use raftkvd::limits;
use raftkvd::members::Members;
use raftkvd::metrics::Metrics;
use raftkvd::node::Node;
use raftkvd::peer_url::PeerUrl;
use raftkvd::storage::wal::read_back::Request;
use raftkvd::storage::wal::{NextSegment, SpareDone, SpareWork};
use raftkvd::storage::{
    DiskError, Lock, Meta, Purge, ReadBack, Recovered, Save, Snapshots, StorageError,
};
use raftkvd::store::Store;
use raftkvd::store::history::History;
use raftkvd::threads::apply::Applier;
use raftkvd::threads::raft::RaftLoop;
use raftkvd::threads::read_back;
use raftkvd::threads::remove::Remover;
use raftkvd::threads::snapshot::{self, SnapshotJob};
use raftkvd::threads::wal::{Durable, Jobs, Step, WalWriterError};
use slog::Logger;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

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
    /// Its node has asked to end.
    ends: bool,
    /// The loop waits in the inbox.
    pub asleep: bool,
    pub pass_at: Option<u64>,
    /// The loop is at work until then, or does not get a processor.
    pub busy_until: u64,
    queues: Queues,
    /// The WAL thread, and what it does beside its jobs.
    pub writer: Worker,
    pub sparer: Worker,
    /// The WAL thread is at work on it, and writes no jobs.
    pub makes_spare: bool,
    /// The apply thread.
    pub applier: Worker,
    /// The snapshot thread.
    snapshots_due: VecDeque<SnapshotJob>,
    pub snapshotter: Worker,
    /// The read-back thread.
    pub requests: VecDeque<Request>,
    pub reader: Worker,
    /// Of the transport: what it knows, up to where that is applied, and where the command line says that peers are.
    pub view: View,
    pub judges_up_to: u64,
    pub list: BTreeMap<u64, PeerUrl>,
    pub leader: u64,
    /// The newest claims of each peer that were accepted: of one that is bound, and (true) of one that is ahead.
    claimed: BTreeMap<(u64, bool), Claims>,
    /// By peer, the leader that it named in its newest answer.
    named: BTreeMap<u64, Leader>,
    /// Peers to which a snapshot is under way.
    pub sending: BTreeSet<u64>,
    pub receiving: bool,
    /// Asked to stop: says when it does not lead any more.
    pub stopping: Option<oneshot::Receiver<()>>,
    logger: Logger,
    _lock: Lock,
}

/// What the threads of the daemon take their work from.
struct Queues {
    /// Of the WAL thread.
    jobs: Jobs,
    /// Of the thread that deletes what is superfluous, with the end that is given to the WAL thread.
    purge_sender: Sender<Purge>,
    remover: Remover,
    /// Of the apply thread.
    batches: Applier,
    /// Of the snapshot thread.
    snapshot_jobs: Receiver<SnapshotJob>,
    /// Of the read-back thread.
    wal_reader: ReadBack,
}

/// How a pass went, and what it asked for.
pub struct Passed {
    pub result: Result<ControlFlow<()>, DiskError>,
    pub effects: Vec<Effect>,
}

impl Process {
    /// All entries behind the snapshot, those that a start has left to the disk included.
    pub fn entries(recovered: &Recovered, reader: &ReadBack) -> Result<Vec<Entry>, StorageError> {
        let log_index = recovered.log_index.as_ref().expect("it has a disk");
        let snapshot = recovered.snapshot.as_ref().map_or(0, |meta| meta.index);
        let end = log_index.last() + 1 - recovered.entries.len() as u64;
        let mut entries = Vec::new();
        let mut next = snapshot + 1;
        while next < end {
            let piece = reader.read(&Request::new(log_index, next, end, 10_000))?;
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

    /// The term of an entry in its log, if it is there.
    pub fn term_at(&self, index: u64) -> Option<u64> {
        self.wiring.log.get(&index).map(|entry| entry.term)
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
    pub fn pass(&mut self, oracles: &mut Oracles) -> Passed {
        let cluster = self.meta.cluster();
        let oracle = oracles.of(cluster);
        self.asleep = false;
        let (tick, held) = (self.raft_loop.next_tick(), self.raft_loop.held());
        let events = self.inbox.take_now(clock(), tick, held);
        for notice in &events.notices {
            if let Notice::EntriesRead(read) = notice {
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
            WalWriterError::Disk(error) => error,
            WalWriterError::ThreadEnded => panic!("no thread has ended"),
        });
        if result.is_ok() {
            self.look_at(&effects, oracle);
            oracles.publishes(cluster, self.node().members());
        }
        Passed { result, effects }
    }

    /// What has to hold behind every pass.
    fn look_at(&mut self, effects: &[Effect], oracle: &mut Oracle) {
        let node = self.raft_loop.node();
        let (published, members) = (self.wiring.published, node.members());
        let serves = !members.members.is_empty() && members.is_formed();
        assert!(
            serves || self.inbox.closed().is_some(),
            "member {} serves clients, and its cluster has not formed: {members:?}",
            self.id
        );
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
                // Before that nobody is told of a success, and nobody takes the disk of a removed member away.
                && members.unsettled.is_none()
            {
                oracle.tells(members);
            }
        }
        self.ends |= effects
            .iter()
            .any(|effect| matches!(effect.what, What::Exit(_)));
        let is_member = members.members.get(&self.id);
        if is_member.is_some_and(|row| row.incarnation == self.view.incarnation) {
            let own = Proposer {
                member: self.id,
                incarnation: self.view.incarnation,
                boot: self.meta.boot(),
                run: self.view.run,
            };
            oracle.goes_on(own, published, self.ends);
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
        self.queues.jobs.are_unfinished()
    }

    /// The mark of a snapshot is among them.
    pub fn has_mark(&self) -> bool {
        self.wiring.mark_due.is_some()
    }

    /// Makes some of the jobs that wait durable. Nobody knows of it yet.
    pub fn write(&mut self, random: &mut Random, oracle: &mut Oracle) -> Result<Step, DiskError> {
        let jobs_max = match random.chance(300) {
            true => 1,
            false => usize::MAX,
        };
        let step = self.queues.jobs.write_waiting(jobs_max)?;
        match &step {
            Step::Durable(durable) => self.wiring.saved(durable.number(), oracle),
            Step::NoRoom => self.look_at_held(),
            Step::Nothing => {}
        }
        Ok(step)
    }

    /// There is no room for what waits. The node should have known that, but for the first job: the last entry may exceed
    /// the room if the log kept its next segment when the node took that entry. Votes, empty entries and marks may use
    /// up the reserve.
    fn look_at_held(&self) {
        let held = self.queues.jobs.held();
        let has_data = |save: &Save| save.entries.iter().any(|entry| !entry.data.is_empty());
        assert!(
            !held.iter().skip(1).any(has_data),
            "member {} took entries for which its disk has no room: {:?} bytes",
            self.id,
            held.iter().map(Save::log_bytes).collect::<Vec<_>>()
        );
    }

    /// No segment of the log is kept aside.
    pub fn lacks_spare(&self) -> bool {
        self.queues.jobs.lacks_spare()
    }

    /// The disk has no room for it.
    pub fn is_denied(&self) -> bool {
        self.wiring.writer.room().next == NextSegment::Denied
    }

    /// At once.
    pub fn keep_spare(&self) {
        self.queues.jobs.keep_spare();
    }

    /// Reserves the blocks, if there is anything to do. The log does not know yet.
    pub fn begin_spare(&mut self) -> Option<SpareDone> {
        let work = self.queues.jobs.wants_spare();
        self.makes_spare = work.is_some();
        work.map(SpareWork::carry_out)
    }

    pub fn end_spare(&mut self, done: SpareDone) {
        self.makes_spare = false;
        self.queues.jobs.took_spare(done);
    }

    /// It says that its disk is full.
    pub fn is_full(&self) -> bool {
        self.node().disk_is_full()
    }

    /// Tells the loop, and gives what may be sent then.
    pub fn tell(&mut self, durable: Durable) -> Result<Vec<Message>, DiskError> {
        let mut sent = Vec::new();
        let send = |messages| sent = messages;
        let told = self
            .queues
            .jobs
            .tell(durable, &self.inbox, send, &self.queues.purge_sender)?;
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
        self.queues.remover.remove_waiting(|_| ())
    }

    // ---- the read-back thread ----

    /// Reads what the node has wanted longest.
    pub fn read_back(&mut self) -> Result<(), StorageError> {
        match self.requests.pop_front() {
            Some(request) => {
                let answered = read_back::answer(&request, &self.queues.wal_reader, &self.inbox)?;
                assert!(answered.is_none(), "no resource is short");
                Ok(())
            }
            None => Ok(()),
        }
    }

    // ---- the apply thread ----

    pub fn has_batches(&self) -> bool {
        self.queues.batches.has_unfinished()
    }

    /// Takes one batch from the commit channel.
    pub fn apply(&mut self, oracle: &Oracle) -> Result<(), StorageError> {
        self.queues.batches.apply_waiting()?;
        let applied = self.history.newest();
        if applied > self.wiring.applied {
            self.wiring.applies(applied, oracle);
        }
        self.snapshots_due
            .extend(self.queues.snapshot_jobs.try_iter());
        Ok(())
    }

    // ---- the snapshot thread ----

    pub fn has_snapshots(&self) -> bool {
        !self.snapshots_due.is_empty()
    }

    /// Writes the snapshot that waits longest. The raft loop is told at once.
    pub fn write_snapshot(&mut self) {
        let (sender, jobs) = mpsc::channel();
        if let Some(job) = self.snapshots_due.pop_front() {
            sender.send(job).expect("the receiver is there");
        }
        drop(sender);
        let cluster = || self.meta.cluster();
        snapshot::write_snapshots(
            &jobs,
            &self.snapshots,
            cluster,
            &self.metrics.snapshots,
            &self.inbox,
            &self.logger,
        );
    }

    // ---- the transport ----

    pub fn set_members(&mut self, members: &Members) {
        self.view = self.view.next(self.meta.cluster(), members);
        self.judge_claims();
    }

    /// What it says of itself, and whether it belongs to a cluster: peers are to hear of a change at once.
    pub fn standing(&self) -> (u64, u64, PeerUrl) {
        let url = self.view.url.clone();
        (self.view.cluster, self.view.bound_index, url)
    }

    /// Machines at which a peer may be reached, to be tried in turn.
    pub fn places(&self, id: u64) -> Vec<usize> {
        let members = &self.view.members;
        let row = members.members.get(&id).map(|member| &member.url);
        let known = row.or(members.forming.get(&id));
        let claimed = self.claimed.range((id, false)..=(id, true));
        let claimed = claimed.map(|(_, claims)| &claims.url);
        let is_lost = self.leader == 0 || known.is_none() || !members.is_formed();
        let listed = self.list.get(&id).filter(|_| is_lost);
        let mut places: Vec<usize> = Vec::new();
        let named = self.named_leaders().filter(|(leader, _)| *leader == id);
        let named = named.map(|(_, url)| url);
        for url in known.into_iter().chain(claimed).chain(listed).chain(named) {
            let place = World::machine_at(url);
            if !places.contains(&place) {
                places.push(place);
            }
        }
        places
    }

    /// The others that it dials.
    pub fn peers(&self) -> BTreeSet<u64> {
        let members = &self.view.members;
        let mut peers: BTreeSet<u64> = members.members.keys().copied().collect();
        peers.extend(members.forming.keys());
        peers.extend(self.claimed.keys().map(|(id, _)| id));
        peers.extend(self.named_leaders().map(|(id, _)| id));
        if self.view.is_empty() {
            peers.extend(self.list.keys());
        }
        peers.remove(&self.id);
        peers
    }

    /// A peer has named a leader in its answer, or none.
    pub fn names_leader(&mut self, peer: u64, leader: Option<Leader>) {
        match leader {
            Some(leader) => self.named.insert(peer, leader),
            None => self.named.remove(&peer),
        };
    }

    /// The leaders that it dials on the word of other members.
    fn named_leaders(&self) -> impl Iterator<Item = &Leader> {
        let members = &self.view.members;
        let is_unknown = |(id, _): &&Leader| {
            !members.members.contains_key(id) && members.removed_at(*id, 0).is_none()
        };
        let named = self.named.values().filter(is_unknown);
        named.filter(|_| self.leader == 0 && !self.view.is_empty())
    }

    /// It has had no leader for long, and asks again who leads.
    pub fn seeks_leader(&self) -> bool {
        let waiting = self.inbox.waiting();
        waiting
            .borrow()
            .as_ref()
            .is_some_and(|waiting| waiting.is_long)
    }

    pub fn judge(&self, claims: &Claims) -> Result<Standing, Reason> {
        identity::judge(claims, &self.view, self.judges_up_to)
    }

    /// The claims with which it dials.
    pub fn claims_to_dial(&self, id: u64, url: &PeerUrl) -> Claims {
        let has_come = self
            .claimed
            .range((id, false)..=(id, true))
            .next()
            .is_some();
        self.view.claims_to_dial(id, url, has_come)
    }

    /// The same of what a peer has answered. It may have said since, on a connection of its own, that it was bound.
    pub fn judge_answer(&self, answer: &PeerAnswer, place: usize) -> Result<Standing, Reason> {
        let from = answer.from();
        let come = self.claimed.range((from, false)..=(from, true));
        let come = come.map(|(_, claims)| claims);
        let url = World::url(place);
        identity::judge_answer(answer, &url, come, &self.view, self.judges_up_to)
    }

    /// A peer was let in.
    pub fn welcome(&mut self, claims: &Claims, standing: Standing) {
        let members = &self.view.members.members;
        let is_stranger = |id: &u64| !members.contains_key(id);
        let strangers = self.claimed.keys().filter(|(id, _)| is_stranger(id));
        let full = strangers.count() >= limits::PEERS_AHEAD_MAX;
        let key = (claims.from, standing == Standing::Ahead);
        let is_new = !self.claimed.contains_key(&key) && is_stranger(&claims.from);
        if standing != Standing::Waiting && !(is_new && full) {
            self.claimed.insert(key, claims.clone());
        }
    }

    /// Claims were refused, so they say no more where their member is.
    pub fn forget(&mut self, claims: &Claims) {
        let ends = |claims: &Claims| (claims.from, claims.incarnation);
        self.claimed.retain(|_, other| ends(other) != ends(claims));
    }

    /// True: some that were ahead can be judged now.
    pub fn set_applied(&mut self, index: u64) -> bool {
        self.judges_up_to = index;
        let mut ahead = self.claimed.iter().filter(|((_, ahead), _)| *ahead);
        let can_judge = ahead.any(|(_, claims)| claims.bound_index <= index);
        if can_judge {
            self.judge_claims();
        }
        can_judge
    }

    fn judge_claims(&mut self) {
        for (_, claims) in std::mem::take(&mut self.claimed) {
            if let Ok(standing @ (Standing::Bound | Standing::Ahead)) = self.judge(&claims) {
                let key = (claims.from, standing == Standing::Ahead);
                self.claimed.insert(key, claims);
            }
        }
    }

    /// Whatever its log holds is on its disk.
    pub fn has_saved_all(&self) -> bool {
        self.wiring.unsaved.is_empty()
    }

    /// Index of the newest entry in the map.
    pub fn applied(&self) -> u64 {
        self.wiring.applied
    }
}
