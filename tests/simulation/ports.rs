//! The raft loop's ports in the simulation: the real ways to the WAL and to the store, watched by the oracle, and what
//! is left for the world to carry out.

use crate::disk::{BUSY, FakeDisk, Fault};
use crate::oracle::{self, Oracle, Shadow};
use crate::world::clock;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use raftkvd::channels::commit::Commit;
use raftkvd::channels::inbox::Inbox;
use raftkvd::channels::status::PeerSeen;
use raftkvd::command::{self, Command, Kind};
use raftkvd::members::Members;
use raftkvd::metrics;
use raftkvd::node::{Exit, Job};
use raftkvd::peer_url::PeerUrl;
use raftkvd::storage::wal::read_back::Request;
use raftkvd::storage::{DiskError, LogRoom, Meta, Save};
use raftkvd::store::Store;
use raftkvd::threads::apply::{Commits, ThreadEnded};
use raftkvd::threads::raft::Ports;
use raftkvd::threads::wal::{Meanwhile, WalWriter, WalWriterError, Written};
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

/// What a pass asks of the world, and how many microseconds after the beginning of the pass.
pub struct Effect {
    pub after: u64,
    pub what: What,
}

pub enum What {
    Send(Vec<Message>),
    Members(Arc<Members>),
    /// Everything up to this index is applied.
    Applied(u64),
    Leader(u64),
    ReadBack(Request),
    Exit(Exit),
    /// Something that is worth counting happened.
    Count(&'static str),
}

/// A job that is not on the disk.
pub struct Unsaved {
    number: u64,
    /// The term that it makes durable.
    term: Option<u64>,
    /// For each of its entries: the index, the entry's shadow, and the term of the entry before it.
    entries: Vec<(u64, Shadow, u64)>,
    /// Where its log ends then.
    last: u64,
}

/// What connects the loop of one process with its threads, and what the process holds, as the oracle has to know it.
pub struct Wiring {
    pub machine: usize,
    pub inbox: Arc<Inbox>,
    pub writer: WalWriter,
    pub commits: Commits,
    pub store: Arc<Store>,
    pub meta: Arc<Meta>,
    /// What the node's log holds, from the newest mark on.
    pub log: BTreeMap<u64, Shadow>,
    /// By job: what its save will add to the log on the disk.
    pub unsaved: VecDeque<Unsaved>,
    /// The newest term on the disk.
    pub durable_term: u64,
    /// Indexes of the two newest marks.
    pub marks: (u64, u64),
    /// Number of the newest job with a snapshot mark, until that job is on the disk.
    pub mark_due: Option<u64>,
    /// Index and bytes of each entry that is published and not in the map.
    pub unapplied: VecDeque<(u64, u64)>,
    /// With more unapplied bytes than this the node publishes nothing.
    pub unapplied_bytes_max: u64,
    pub published: u64,
    /// Index of the newest entry in the map.
    pub applied: u64,
    /// What the transport was told to be applied.
    pub told_applied: u64,
    /// After the next message of this kind this disk loses power, at its first operation.
    pub crashes_behind: Option<(Promise, FakeDisk)>,
    /// The newest term in which the process has sent a command.
    pub led: u64,
}

/// A message that must not be contradicted after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    Vote,
    /// The first command that a leader sends in its term.
    Lead,
}

impl Wiring {
    /// The job with this number, and all before it, are on the disk.
    pub fn saved(&mut self, number: u64, oracle: &mut Oracle) {
        self.mark_due.take_if(|due| *due <= number);
        while let Some(saved) = self.unsaved.pop_front_if(|job| job.number <= number) {
            self.durable_term = saved.term.unwrap_or(self.durable_term);
            for (index, entry, before) in saved.entries {
                oracle.stores(index, entry, before);
            }
            oracle.stores_up_to(self.machine, saved.last);
        }
    }

    /// The map holds everything up to this index.
    pub fn applies(&mut self, index: u64, oracle: &Oracle) {
        assert!(index > self.applied, "{index} after {}", self.applied);
        self.applied = index;
        while self.unapplied.pop_front_if(|(i, _)| *i <= index).is_some() {}
        oracle.holds(self.machine, index, self.state_hash());
    }

    /// A batch enters the commit channel.
    fn publishes(&mut self, batch: &[Commit]) {
        let waiting: u64 = self.unapplied.iter().map(|(_, bytes)| bytes).sum();
        let entries = batch.iter().filter_map(|commit| match commit {
            Commit::Apply(apply) => Some((apply.index, apply.bytes as u64)),
            _ => None,
        });
        self.unapplied
            .extend(entries.filter(|(_, bytes)| *bytes > 0));
        let more: u64 = self.unapplied.iter().map(|(_, bytes)| bytes).sum();
        assert!(
            waiting <= self.unapplied_bytes_max || more == waiting,
            "entries are published while {waiting} bytes wait to be applied, more than {}",
            self.unapplied_bytes_max
        );
    }

    /// Messages leave. True: one of them is the promise after which the machine loses power.
    pub fn sends(&mut self, messages: &[Message]) -> bool {
        let mut made = Vec::new();
        for message in messages {
            match message.get_msg_type() {
                MessageType::MsgRequestVoteResponse if !message.reject => made.push(Promise::Vote),
                MessageType::MsgAppend if message.term > self.led && leads(message) => {
                    self.led = message.term;
                    made.push(Promise::Lead);
                }
                _ => {}
            }
        }
        let crashes = self
            .crashes_behind
            .take_if(|(promise, _)| made.contains(promise));
        if let Some((_, disk)) = &crashes {
            disk.inject(disk.operations() + 1, Fault::CrashBefore);
        }
        crashes.is_some()
    }

    pub fn state_hash(&self) -> u64 {
        let mut sum = 0_u64;
        let Ok(()) = self.store.freeze().visit(|key, index, value| {
            sum = sum.wrapping_add(oracle::entry_hash(key, index, value));
            Ok::<(), Infallible>(())
        });
        sum
    }

    fn shadow(&mut self, number: u64, save: &Save, oracle: &mut Oracle) {
        if let Some(mark) = &save.mark {
            self.marks = (self.marks.1, mark.index);
            self.mark_due = Some(number);
        }
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
            if entry.get_entry_type() != EntryType::EntryNormal {
                oracle.comes_in_turn(entry.index, &self.log);
            }
            for command in changes(entry) {
                let (kind, id) = (command.kind, command.member_id);
                oracle.stores_change(entry.index, entry.term, id);
                oracle.removals.store(entry.index, entry.term, &command);
                if kind == Kind::Formed {
                    oracle.forms(self.machine);
                }
            }
            let shadow = oracle::shadow(entry);
            stored.push((entry.index, shadow, self.log[&(entry.index - 1)].term));
            self.log.insert(entry.index, shadow);
        }
        let marked = save.mark.as_ref().map(|mark| &mark.hard_state);
        let term = save.hard_state.as_ref().or(marked).map(|state| state.term);
        self.unsaved.push_back(Unsaved {
            number,
            term,
            entries: stored,
            last: self.log.last_key_value().map_or(0, |(index, _)| *index),
        });
    }
}

/// The commands in an entry that change a row of the members, or describe one.
pub fn changes(entry: &Entry) -> Vec<Command> {
    let is_normal = entry.get_entry_type() == EntryType::EntryNormal;
    let data = if is_normal {
        &entry.data
    } else {
        &entry.context
    };
    let batch = command::decode(data).unwrap_or_default();
    let commands = batch.commands.into_iter();
    let changes = |command: &Command| !is_normal || command.kind == Kind::DescribeMember;
    commands.filter(changes).collect()
}

/// It carries a command of the term that it is sent in.
fn leads(message: &Message) -> bool {
    let mut entries = message.entries.iter();
    entries.any(|entry| entry.term == message.term && !entry.data.is_empty())
}

/// The ports during one pass.
pub struct SimulatedPorts<'a> {
    pub wiring: &'a mut Wiring,
    pub oracle: &'a mut Oracle,
    pub effects: Vec<Effect>,
}

impl SimulatedPorts<'_> {
    fn effect(&mut self, what: What) {
        let after = BUSY.get();
        self.effects.push(Effect { after, what });
    }
}

impl Ports for SimulatedPorts<'_> {
    fn now(&self) -> Instant {
        clock()
    }

    fn inbox(&self) -> &Inbox {
        &self.wiring.inbox
    }

    fn write(&mut self, job: Job, meanwhile: Meanwhile) -> Result<Written, WalWriterError> {
        self.wiring.shadow(job.number, &job.save, self.oracle);
        self.oracle.saves(&job.save.entries);
        if job.compacted > 1 && job.compacted < self.wiring.marks.0 {
            self.effect(What::Count("writes while the log is kept for a follower"));
        }
        // In the daemon something may have come for the loop meanwhile.
        let meanwhile = match job.number.is_multiple_of(5) {
            true => Meanwhile::Other,
            false => meanwhile,
        };
        let written = self.wiring.writer.hand_over(job, meanwhile)?;
        if let Written::Here { number, .. } = &written {
            self.wiring.saved(*number, self.oracle);
            self.effect(What::Count("writes by the loop"));
        }
        Ok(written)
    }

    fn commit(&mut self, batch: Vec<Commit>) -> Result<Option<(u64, usize)>, ThreadEnded> {
        self.wiring.publishes(&batch);
        for commit in &batch {
            match commit {
                Commit::Apply(apply) => {
                    let commands = apply.commands.iter().map(|(command, _)| command);
                    let entry = self.wiring.log[&apply.index];
                    self.oracle.commits(apply.index, entry, commands);
                    self.wiring.published = apply.index;
                }
                Commit::Snapshot(meta) => self.oracle.takes_snapshot(meta),
                Commit::Restore(meta) => self.wiring.published = meta.index,
                Commit::Read(_) | Commit::Freeze { .. } => {}
            }
        }
        let applied = self.wiring.commits.hand_over(batch)?;
        if let Some((index, _)) = applied.filter(|(index, _)| *index > 0) {
            self.wiring.applies(index, self.oracle);
            self.effect(What::Count("batches applied by the loop"));
        }
        Ok(applied)
    }

    fn read_back(&mut self, request: Request) -> Result<(), ThreadEnded> {
        self.effect(What::ReadBack(request));
        Ok(())
    }

    fn send(&mut self, messages: Vec<Message>) {
        if self.wiring.sends(&messages) {
            self.effect(What::Count("promises that crash"));
        }
        self.effect(What::Send(messages));
    }

    fn set_members(&mut self, members: &Arc<Members>) {
        self.effect(What::Members(members.clone()));
    }

    fn set_place(&mut self, url: &PeerUrl) -> Result<(), DiskError> {
        self.wiring.meta.set_url(url)
    }

    fn set_applied(&mut self, index: u64) {
        if index > self.wiring.told_applied {
            self.wiring.told_applied = index;
            self.effect(What::Applied(index));
        }
    }

    fn set_leader(&mut self, leader: u64) {
        self.effect(What::Leader(leader));
    }

    fn exit(&mut self, exit: Exit) {
        self.effect(What::Exit(exit));
    }

    fn members_seen(&self) -> BTreeMap<u64, PeerSeen> {
        BTreeMap::new()
    }

    fn cluster(&self) -> u64 {
        self.wiring.meta.cluster()
    }

    fn written(&self) -> &metrics::WalMetrics {
        self.wiring.writer.written()
    }

    fn log_room(&self) -> LogRoom {
        self.wiring.writer.room()
    }
}
