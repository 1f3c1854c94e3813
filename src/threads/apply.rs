//! The end of the commit channel: the only code that writes the store.
//!
//! The apply thread applies entries in log order, answers the clients whose proposals they carried, releases reads, and
//! starts snapshots. It never waits for a snapshot to be written, nor for the map to be hashed: it freezes the map (see
//! `store/frozen.rs`) and hands it over. A few commands that find the channel empty take no such detour: the raft loop
//! applies them itself, which saves a lone request a change of thread.
//!
//! Invariant: batches are applied one at a time, in the order in which they were handed over. The loop applies only when
//! the thread has finished everything before, and there is no other source of batches.

use crate::channels::commit::{Apply, Commit};
use crate::channels::inbox::Inbox;
use crate::command::proposal::ReadReply;
use crate::limits;
use crate::metrics::Metrics;
use crate::mutants::{Mutant, is_planted};
use crate::storage::{SnapshotMeta, Snapshots, StorageError};
use crate::store::state_machine::StateMachine;
use crate::threads::snapshot::{SnapshotJob, SnapshotLoader};
use slog::Logger;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Instant;

/// The raft loop's end of the commit channel.
pub struct Commits {
    batches: Sender<Vec<Commit>>,
    /// Batches that were sent and are not finished.
    unfinished: Arc<AtomicUsize>,
    state_machine: StateMachine,
}

/// The apply thread's end of the commit channel.
pub struct Batches {
    batches: Receiver<Vec<Commit>>,
    unfinished: Arc<AtomicUsize>,
    state_machine: StateMachine,
}

/// The thread at the other end has ended: the process is stopping.
#[derive(Debug)]
pub struct ThreadEnded;

/// The commit channel. What it holds is bounded by `PUBLISHED_BYTES_MAX`, and what one ready publishes. Both ends change the
/// state machine, never at the same time.
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

    /// Applies a batch here if it is small and the apply thread has nothing unfinished: returns the new index of the
    /// map and the bytes of the entries. Otherwise sends it to the apply thread: `None`.
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
        // Acquire: what the thread wrote is seen here.
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
        // The client may be gone: then nobody wants to know.
        let _ = reply.send(outcome);
    }
}

fn release(reads: Vec<ReadReply>) {
    for reply in reads {
        // Likewise.
        let _ = reply.send(Ok(()));
    }
}

/// The apply thread: what it takes from the channel, and what it works with.
pub struct Applier {
    /// The end of the commit channel.
    pub batches: Batches,
    /// Takes the news of what is applied.
    pub inbox: Arc<Inbox>,
    /// Where a snapshot from the leader is found.
    pub snapshots: Arc<Snapshots>,
    /// To the snapshot thread.
    pub snapshot_jobs: Sender<SnapshotJob>,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
    /// Its log.
    pub logger: Logger,
}

impl Applier {
    /// Runs until the raft loop has ended, or a snapshot from the leader can't be loaded.
    pub fn run(&self) -> Result<(), StorageError> {
        while let Ok(batch) = self.batches.batches.recv() {
            if self.apply(batch)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Applies a waiting batch, if there is one. The simulation calls it in place of the apply thread.
    pub fn apply_waiting(&self) -> Result<(), StorageError> {
        match self.batches.batches.try_recv() {
            Ok(batch) => self.apply(batch).map(|_| ()),
            Err(_) => Ok(()),
        }
    }

    /// Some batches were sent to the thread, and it has not finished them.
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
                    // The node hears of what is applied first: it must not compact entries that it still counts as
                    // unapplied, however quickly the snapshot is written.
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
                    // The client that asked may have given up.
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
        // Release: see Commits::hand_over. After the report above, or the loop's own batch could be reported first.
        self.batches.unfinished.fetch_sub(1, Ordering::Release);
        Ok(ControlFlow::Continue(()))
    }

    /// Replaces the map by a snapshot that came from the leader.
    fn load(&self, meta: &SnapshotMeta) -> Result<(), StorageError> {
        let begun = Instant::now();
        let loader = SnapshotLoader {
            store: &self.batches.state_machine.store,
            threads: limits::load_threads_beside(),
            logger: &self.logger,
        };
        let (_, size) = loader.load(&self.snapshots, meta.index, meta.term, |_, _| ())?;
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

    /// These commands on their way back out of the log.
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

    /// An entry of so many commands, each with a key of its own.
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

    /// One write: its key, its value unless it deletes, and its condition.
    type Wish = (u8, Option<Vec<u8>>, Option<bool>);

    fn wish() -> impl Strategy<Value = Wish> {
        let value = prop_oneof![
            3 => proptest::collection::vec(any::<u8>(), 0..3).prop_map(Some),
            2 => Just(None),
            // Large ones are shared with the map.
            1 => Just(Some(vec![7; limits::SMALL_BYTES_MAX])),
        ];
        (
            0..6_u8,
            value,
            proptest::option::weighted(0.4, any::<bool>()),
        )
    }

    /// `true`: the key has to be there. `false`: it must not.
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

    /// The conditions of a transaction are those of its first write alone, or it would hardly ever be carried out.
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
        /// Each entry is single writes, or a transaction and what is left of the keys.
        #[test]
        fn the_map_can_be_made_from_the_history(
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
    fn the_loop_applies_only_few_commands_and_only_behind_the_thread() {
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
        // The thread has not finished what is before.
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
