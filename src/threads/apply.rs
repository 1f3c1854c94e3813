//! The commit channel and its receiving end: the only code that writes the store.
//!
//! The apply thread applies entries in log order, answers the clients of the commands in them, releases reads, and
//! starts snapshots. It never waits while a snapshot is written or the map is hashed: it freezes the map (see
//! `store/frozen.rs`) and hands the frozen map over. If the channel is empty and there are only a few commands, the
//! raft loop applies them itself. That saves a lone request a thread switch.
//!
//! Invariant: batches are applied one at a time, in the order in which they are handed over. The raft loop applies a
//! batch itself only when the apply thread has finished all earlier batches, and only the raft loop hands over batches.

use crate::channels::commit::{Apply, Commit};
use crate::channels::inbox::Inbox;
use crate::command::proposal::ReadReply;
use crate::limits;
use crate::metrics::Metrics;
use crate::mutants::{Mutant, is_planted};
use crate::storage::{SnapshotMeta, Snapshots, StorageError};
use crate::store::state_machine::StateMachine;
use crate::threads::snapshot::{SnapshotJob, SnapshotLoader};
use slog::{Logger, warn};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Instant;

/// The raft loop's end of the commit channel.
pub struct Commits {
    batches: Sender<Vec<Commit>>,
    /// Number of batches that were sent and are not finished.
    unfinished: Arc<AtomicUsize>,
    state_machine: StateMachine,
}

/// The apply thread's end of the commit channel.
pub struct Batches {
    batches: Receiver<Vec<Commit>>,
    unfinished: Arc<AtomicUsize>,
    state_machine: StateMachine,
}

/// The thread at the other end has ended, because the process is stopping.
#[derive(Debug)]
pub struct ThreadEnded;

/// Creates the commit channel. `PUBLISHED_BYTES_MAX`, plus what one ready publishes, bounds its contents. Both ends
/// change the state machine, but never at the same time.
pub fn channel(state_machine: StateMachine) -> (Commits, Batches) {
    let (sender, receiver) = mpsc::channel();
    let unfinished = Arc::new(AtomicUsize::new(0));
    let commits = Commits {
        batches: sender,
        unfinished: unfinished.clone(),
        state_machine: state_machine.clone(),
    };
    let batches = Batches {
        batches: receiver,
        unfinished,
        state_machine,
    };
    (commits, batches)
}

impl Commits {
    /// Sends a batch to the apply thread.
    pub fn send(&self, batch: Vec<Commit>) -> Result<(), ThreadEnded> {
        self.unfinished.fetch_add(1, Ordering::Relaxed);
        self.batches.send(batch).map_err(|_| ThreadEnded)
    }

    /// Applies a small batch on the calling thread if the apply thread has nothing unfinished. Returns the new index of
    /// the map and the bytes of the entries. Otherwise sends the batch to the apply thread and returns `None`.
    pub fn hand_over(&self, batch: Vec<Commit>) -> Result<Option<(u64, usize)>, ThreadEnded> {
        let commands = batch.iter().map(|commit| match commit {
            Commit::Apply(apply) if apply.bytes <= limits::LONE_WRITE_BYTES_MAX => {
                Some(apply.commands.len())
            }
            Commit::Read(reads) => Some(reads.len()),
            _ => None,
        });
        let small = commands
            .sum::<Option<usize>>()
            .is_some_and(|commands| commands <= limits::LONE_APPLY_COMMANDS_MAX);
        // Acquire: makes the writes of the apply thread visible here.
        let finished =
            self.unfinished.load(Ordering::Acquire) == 0 || is_planted(Mutant::LoneApplyOvertakes);
        if !small || !finished {
            return self.send(batch).map(|()| None);
        }
        let mut applied = (0, 0);
        for commit in batch {
            match commit {
                Commit::Apply(apply) => {
                    applied = (apply.index, applied.1 + apply.bytes);
                    carry_out(apply, &self.state_machine);
                }
                Commit::Read(reads) => release(reads),
                other => panic!("{other:?} is not small"),
            }
        }
        Ok(Some(applied))
    }
}

fn carry_out(apply: Apply, state_machine: &StateMachine) {
    for (reply, outcome) in state_machine.apply(apply.index, apply.data, apply.commands) {
        // Fails if the client has disconnected.
        let _ = reply.send(outcome);
    }
}

fn release(reads: Vec<ReadReply>) {
    for reply in reads {
        // Fails if the client has disconnected.
        let _ = reply.send(Ok(()));
    }
}

/// The apply thread's channels and dependencies.
pub struct Applier {
    /// The receiving end of the commit channel.
    pub batches: Batches,
    /// Receives reports of applied entries.
    pub inbox: Arc<Inbox>,
    /// The files of snapshots from the leader.
    pub snapshots: Arc<Snapshots>,
    /// Jobs for the snapshot thread.
    pub snapshot_jobs: Sender<SnapshotJob>,
    /// Metrics of this process.
    pub metrics: Arc<Metrics>,
    /// The logger of the apply thread.
    pub logger: Logger,
}

impl Applier {
    /// Runs until the raft loop or the snapshot thread has ended, or a snapshot from the leader can't be loaded.
    pub fn run(&self) -> Result<(), StorageError> {
        while let Ok(batch) = self.batches.batches.recv() {
            if self.apply(batch)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Applies a waiting batch, if there is one. The simulation calls this in place of the apply thread.
    pub fn apply_waiting(&self) -> Result<(), StorageError> {
        match self.batches.batches.try_recv() {
            Ok(batch) => self.apply(batch).map(|_| ()),
            Err(_) => Ok(()),
        }
    }

    /// Whether the apply thread has not finished all batches that were sent.
    pub fn has_unfinished(&self) -> bool {
        self.batches.unfinished.load(Ordering::Acquire) > 0
    }

    /// `Break`: the snapshot thread has ended.
    fn apply(&self, batch: Vec<Commit>) -> Result<ControlFlow<()>, StorageError> {
        let state_machine = &self.batches.state_machine;
        let mut applied = 0;
        let mut bytes = 0;
        for commit in batch {
            match commit {
                Commit::Apply(apply) => {
                    applied = apply.index;
                    bytes += apply.bytes;
                    carry_out(apply, state_machine);
                }
                Commit::Read(reads) => release(reads),
                Commit::Snapshot(meta) => {
                    // Report the applied entries before the snapshot job: the node must not compact entries that it
                    // still counts as unapplied, however quickly the snapshot is written.
                    if applied > 0 {
                        self.inbox.applied(applied, std::mem::take(&mut bytes));
                    }
                    let job = SnapshotJob {
                        meta: *meta,
                        map: state_machine.store.freeze(),
                    };
                    if self.snapshot_jobs.send(job).is_err() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Commit::Freeze { header, reply } => {
                    // Fails if the client has given up.
                    let _ = reply.send((*header, state_machine.store.freeze()));
                }
                Commit::Restore(meta) => {
                    self.load(&meta)?;
                    applied = meta.index;
                }
            }
        }
        if applied > 0 {
            self.inbox.applied(applied, bytes);
        }
        // Release: see `Commits::hand_over`. This comes after the report above: in the other order, the raft loop could
        // apply and report its own batch before that report.
        self.batches.unfinished.fetch_sub(1, Ordering::Release);
        Ok(ControlFlow::Continue(()))
    }

    /// Replaces the map with a snapshot from the leader. No later entry can be applied before that. So the thread
    /// tries again while no file descriptor or memory is left.
    fn load(&self, meta: &SnapshotMeta) -> Result<(), StorageError> {
        let begun = Instant::now();
        let loader = SnapshotLoader {
            store: &self.batches.state_machine.store,
            threads: limits::load_threads_beside(),
            logger: &self.logger,
        };
        let mut has_failed = false;
        let size = loop {
            match loader.load(&self.snapshots, meta.index, meta.term, |_, _| ()) {
                Ok((_, size)) => break size,
                Err(StorageError::Io(error)) if error.is_shortage() => {
                    self.metrics.shortages.loads_failed.inc();
                    if !std::mem::replace(&mut has_failed, true) {
                        warn!(self.logger, "can't load a snapshot from the leader; this member tries again every second"; "error" => %error);
                    }
                    thread::sleep(limits::LOAD_RETRY_INTERVAL);
                }
                Err(error) => return Err(error),
            }
        };
        self.metrics.snapshots.loaded.add(begun.elapsed(), size);
        self.batches.state_machine.loaded(meta.index);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{self, Batch, Check, Command, Etags, Kind, Transaction, Write};
    use crate::store::Store;
    use crate::store::history::Reader;
    use proptest::prelude::*;
    use slog::o;
    use std::collections::{BTreeMap, BTreeSet};

    /// An entry with these commands, as it comes out of the log.
    fn applied(index: u64, commands: Vec<Command>) -> Apply {
        let mut batch = Batch::new();
        batch.commands = commands.into();
        let data = command::encode(&batch);
        let commands = command::decode(&data).unwrap().commands.into_iter();
        Apply {
            index,
            bytes: data.len(),
            commands: commands.map(|command| (command, None)).collect(),
            data,
        }
    }

    /// An entry with `commands` commands, each with its own key.
    fn entry(index: u64, commands: usize) -> Commit {
        let commands = (0..commands).map(|number| {
            let mut command = Command::new();
            command.kind = Kind::Put;
            command.key = format!("{index}-{number}").into();
            command
        });
        Commit::Apply(Apply {
            bytes: 1,
            ..applied(index, commands.collect())
        })
    }

    /// One write: the key, the value (`None` deletes), and the condition.
    type Wish = (u8, Option<Vec<u8>>, Option<bool>);

    fn wish() -> impl Strategy<Value = Wish> {
        let value = prop_oneof![
            3 => proptest::collection::vec(any::<u8>(), 0..3).prop_map(Some),
            2 => Just(None),
            // Large values are shared with the map.
            1 => Just(Some(vec![7; limits::SMALL_BYTES_MAX])),
        ];
        (
            0..6_u8,
            value,
            proptest::option::weighted(0.4, any::<bool>()),
        )
    }

    /// `true`: the key has to exist. `false`: it must not exist.
    fn etags(exists: Option<bool>, wanted: bool) -> Option<Etags> {
        let mut any = Etags::new();
        any.any = true;
        (exists == Some(wanted)).then_some(any)
    }

    fn single((key, value, exists): Wish) -> Command {
        let mut command = Command::new();
        command.kind = if value.is_some() {
            Kind::Put
        } else {
            Kind::Delete
        };
        command.key = vec![key].into();
        command.value = value.unwrap_or_default().into();
        command.if_match = etags(exists, true).into();
        command.if_none_match = etags(exists, false).into();
        command
    }

    /// Only the condition of the first write becomes a check. With the conditions of all writes, hardly any transaction
    /// would be carried out.
    fn transaction(wishes: Vec<Wish>) -> Command {
        let mut body = Transaction::new();
        for (place, (key, value, exists)) in wishes.into_iter().enumerate() {
            if place == 0 {
                let mut check = Check::new();
                check.key = vec![key].into();
                check.if_match = etags(exists, true).into();
                check.if_none_match = etags(exists, false).into();
                body.checks.push(check);
            }
            let mut write = Write::new();
            write.key = vec![key].into();
            write.delete = value.is_none();
            write.value = value.unwrap_or_default().into();
            body.writes.push(write);
        }
        let mut command = Command::new();
        command.kind = Kind::Transaction;
        command.transaction = Some(body).into();
        command
    }

    proptest! {
        /// Each entry has single writes, or a transaction and single writes for the remaining keys.
        #[test]
        fn the_map_can_be_rebuilt_from_the_history(
            entries in proptest::collection::vec(
                (proptest::collection::vec(wish(), 1..6), any::<bool>()), 1..40),
        ) {
            let state_machine = StateMachine::new(Arc::new(Store::new()), 1 << 20);
            let mut reader = Reader::new(state_machine.history.clone(), 0);
            let mut map = BTreeMap::new();
            for (index, (mut wishes, is_transaction)) in (2..).zip(entries) {
                // No entry writes a key twice.
                let mut keys = BTreeSet::new();
                wishes.retain(|wish| keys.insert(wish.0));
                let mut commands = Vec::new();
                if is_transaction {
                    let rest = wishes.split_off(wishes.len().div_ceil(2));
                    commands.push(transaction(wishes));
                    wishes = rest;
                }
                commands.extend(wishes.into_iter().map(single));
                carry_out(applied(index, commands), &state_machine);
                for (of, changes) in reader.read(10, 1 << 20).unwrap() {
                    prop_assert_eq!(of, index);
                    for change in changes.iter() {
                        let key = change.key.to_vec();
                        match change.value {
                            Some(value) => drop(map.insert(key, (index, value.to_vec()))),
                            None => prop_assert!(map.remove(&key).is_some(), "it was not there"),
                        }
                    }
                }
                prop_assert_eq!(reader.position(), index);
            }
            let mut held = BTreeMap::new();
            let Ok(()) = state_machine.store.freeze().visit(|key, index, value| {
                held.insert(key.to_vec(), (index, value.to_vec()));
                Ok::<(), std::convert::Infallible>(())
            });
            prop_assert_eq!(map, held);
        }
    }

    #[test]
    fn the_loop_applies_only_few_commands_and_only_after_the_thread() {
        let dir = tempfile::tempdir().unwrap();
        let logger = Logger::root(slog::Discard, o!());
        let store = Arc::new(Store::new());
        let disk = Arc::new(crate::storage::RealDisk);
        let url = "http://127.0.0.1:9021".parse().unwrap();
        let start = crate::storage::Start::First([(1, url)].into());
        let opened = crate::storage::DataDir::new(disk, dir.path())
            .open(1, start, &logger)
            .unwrap();
        let (commits, batches) = channel(StateMachine::new(store.clone(), 1 << 20));

        let few = vec![entry(2, 1), entry(3, 2)];
        assert_eq!(commits.hand_over(few).unwrap(), Some((3, 2)));
        assert_eq!(store.len(), 3);
        let many = vec![entry(4, limits::LONE_APPLY_COMMANDS_MAX + 1)];
        assert_eq!(commits.hand_over(many).unwrap(), None);
        // The apply thread has not finished the earlier batch.
        assert_eq!(commits.hand_over(vec![entry(5, 1)]).unwrap(), None);
        assert_eq!(store.len(), 3);

        let (snapshot_jobs, _) = mpsc::channel();
        let applier = Applier {
            batches,
            inbox: Arc::default(),
            snapshots: opened.snapshots.clone(),
            snapshot_jobs,
            metrics: Arc::default(),
            logger,
        };
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || applier.run());
            while commits.unfinished.load(Ordering::Acquire) > 0 {
                std::thread::yield_now();
            }
            assert_eq!(commits.hand_over(vec![entry(6, 1)]).unwrap(), Some((6, 1)));
            drop(commits);
            thread.join().unwrap().unwrap();
        });
        assert_eq!(
            store.len() as usize,
            3 + limits::LONE_APPLY_COMMANDS_MAX + 3
        );
    }
}
