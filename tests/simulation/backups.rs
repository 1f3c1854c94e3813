//! Backups: taken from a running member as `GET /-/snapshot` does, restored as `raftkvd restore` does, and compared.
//!
//! The member of the new cluster has to begin with the map of the model at the backup's index, far behind it, and to serve
//! writes there. Nothing that the old cluster gave after the backup may mean something in the new one.

use crate::checker::{Condition, Input};
use crate::clients::DEADLINE_TICKS;
use crate::commands::command;
use crate::disk::FakeDisk;
use crate::mix::key_name;
use crate::oracles::Oracles;
use crate::process::{DATA_DIR, Launch, Process};
use crate::world::{Event, MILLISECOND, NOW, SECOND, Target, World};
use futures_channel::oneshot;
use raftkvd::channels::notice::Notice;
use raftkvd::command::outcome::{NotProposed, Outcome};
use raftkvd::command::proposal::{Proposal, Read};
use raftkvd::command::{Command, Etags, SnapshotHeader};
use raftkvd::limits::{RESTORE_SKIP, RESTORE_SPREAD};
use raftkvd::storage::restore::{self, Restored, restore};
use raftkvd::storage::{DataDir, Disk, SnapshotEncoder, Start};
use raftkvd::store::Frozen;
use raftkvd::store::history::Reader;
use raftkvd::threads::wal::Step;
use slog::o;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

const DIRECTORY: &str = "/backups";
const FILE: &str = "/backups/backup.snap";
/// Passes of the new member's loop, one a tick, until it has applied a write.
const PASSES_MAX: usize = 200;

/// A backup that is being taken.
pub struct Backup {
    target: Target,
    /// The highest index that anybody had been told when it was asked for; 0 if it may be stale.
    newest: u64,
    state: State,
}

enum State {
    Permission(oneshot::Receiver<Result<(), NotProposed>>),
    Freeze(oneshot::Receiver<(SnapshotHeader, Frozen)>),
    /// It is written a while later.
    Map(Box<SnapshotHeader>, Frozen),
}

impl World {
    pub fn begin_backups(&mut self) {
        if let Some(longest) = self.plan.asks.backups {
            let delay = self.clients.random.below(longest);
            self.after(delay, Event::Backup);
        }
    }

    /// A backup goes on, or the next one begins.
    pub fn back_up(&mut self) {
        let now = self.clients.backup.take();
        self.clients.backup = match now {
            None if self.clients.stopped => return,
            None => self.ask_for_backup(),
            Some(backup) => self.go_on_with_backup(backup),
        };
        let longest = match (&self.clients.backup, self.plan.asks.backups) {
            (None, Some(longest)) => longest,
            _ => 20 * MILLISECOND,
        };
        let delay = self.clients.random.between(MILLISECOND, longest);
        self.after(delay, Event::Backup);
    }

    /// A backup when everything is well: it has to succeed.
    pub fn back_up_now(&mut self) {
        let before = self.counted("backups restored");
        let end = self.now + 20 * SECOND;
        while self.counted("backups restored") == before {
            assert!(self.now < end, "no backup succeeds");
            self.clients.backup = match self.clients.backup.take() {
                None => self.ask_for_backup(),
                Some(backup) => self.go_on_with_backup(backup),
            };
            self.run_until(self.now + MILLISECOND, |_| false);
        }
    }

    fn ask_for_backup(&mut self) -> Option<Backup> {
        let place = self.any_running()?;
        let target = self.target(place);
        if self.clients.random.chance(300) {
            let state = self.freeze(target);
            let newest = 0;
            return Some(Backup {
                target,
                newest,
                state,
            });
        }
        let (reply, permission) = oneshot::channel();
        let process = self.process(place).expect("it runs");
        process.inbox.read(Read {
            deadline_ticks: DEADLINE_TICKS,
            reply,
        });
        self.wake(place);
        self.tell(|| format!("a backup is asked of machine {place}"));
        Some(Backup {
            target,
            newest: self.clients.newest(),
            state: State::Permission(permission),
        })
    }

    fn freeze(&mut self, target: Target) -> State {
        let (reply, frozen) = oneshot::channel();
        self.notice(target.machine, Notice::Freeze(reply));
        State::Freeze(frozen)
    }

    fn go_on_with_backup(&mut self, backup: Backup) -> Option<Backup> {
        let Backup {
            target,
            newest,
            state,
        } = backup;
        if self.machines[target.machine].epoch != target.epoch {
            self.count("backups that broke off");
            return None;
        }
        let state = match state {
            State::Permission(mut permission) => match permission.try_recv() {
                Ok(None) => State::Permission(permission),
                Ok(Some(Ok(()))) => {
                    self.tell(|| format!("machine {} permits the backup", target.machine));
                    self.freeze(target)
                }
                Ok(Some(Err(_))) | Err(_) => return None,
            },
            State::Freeze(mut frozen) => match frozen.try_recv() {
                Ok(None) => State::Freeze(frozen),
                Ok(Some((header, map))) => State::Map(Box::new(header), map),
                Err(_) => return None,
            },
            // It holds nothing yet.
            State::Map(header, _) if header.index == 0 => return None,
            State::Map(header, map) => {
                assert!(
                    header.index >= newest,
                    "a backup is as of {}, when {newest} was known",
                    header.index
                );
                self.restore(&header, map);
                self.count("backups restored");
                return None;
            }
        };
        Some(Backup {
            target,
            newest,
            state,
        })
    }

    /// Makes a new cluster of one member from a backup.
    fn restore(&mut self, header: &SnapshotHeader, map: Frozen) {
        let fake = FakeDisk::new(self.clients.random.next());
        let disk: Arc<dyn Disk> = Arc::new(fake.clone());
        write(&*disk, &encoded(header, map));
        let list = BTreeMap::from([(1, World::url(0))]);
        let plan = restore::Plan {
            file: Path::new(FILE),
            dir: &DataDir::new(disk.clone(), DATA_DIR),
            list: &list,
            options: self.options,
        };
        let restored = restore(&*disk, plan, |_, _| ());
        let restored = restored.unwrap_or_else(|error| panic!("a backup is refused: {error}"));
        assert_eq!(
            (restored.from_index, restored.from_cluster),
            (header.index, header.cluster)
        );
        let launch = Launch {
            disk: &fake,
            machine: self.machines.len(),
            id: 1,
            start: Start::First(list.clone()),
            url: World::url(0),
            url_given: true,
            listed: BTreeMap::new(),
            dials: BTreeMap::new(),
            options: self.options,
            snapshot_bytes: self.snapshot_bytes,
            pinned_log_bytes: self.pinned_log_bytes,
            history_bytes: self.plan.asks.history_bytes,
            tick: 20 * MILLISECOND,
            logger: self.logger.new(o!("restored" => header.index)),
        };
        let mut oracle =
            Oracles::beginning_with(self.oracle.restored(header.index, restored.index));
        // It looks at the map of the model.
        let process = Process::launch(launch, &mut oracle);
        let process = process.unwrap_or_else(|error| panic!("a restored member: {error}"));
        assert_eq!(process.applied(), restored.index);
        let members = process.node().members();
        let members = members.members.values();
        let urls: Vec<_> = members.map(|member| member.url.clone()).collect();
        assert_eq!(urls, [World::url(0)]);
        self.serve(process, &mut oracle, &restored);
    }

    /// The new member has to lead, and to write, and to know nothing of what the old cluster gave after the backup.
    fn serve(&mut self, mut process: Process, oracles: &mut Oracles, restored: &Restored) {
        let Restored {
            from_index, index, ..
        } = *restored;
        let value = b"the first one".to_vec();
        let put = Input::Put {
            key: key_name(0),
            value: value.clone(),
            condition: Condition::None,
        };
        let outcome = self.tell_restored(&mut process, oracles, command(&put, &value));
        let Outcome::Applied { index: written } = outcome else {
            panic!("a restored member does not write: {outcome:?}");
        };
        assert!(
            written > index,
            "entry {written} of a restored member that began at {index}"
        );
        let newest = self.oracle.newest().max(from_index + 1);
        let mut stale = command(&put, b"one that lost");
        let mut etags = Etags::new();
        etags.indexes = (from_index + 1..=newest).collect();
        stale.if_match = Some(etags).into();
        let outcome = self.tell_restored(&mut process, oracles, stale);
        let failed = Outcome::ConditionFailed {
            current: Some(written),
        };
        assert!(
            outcome == failed,
            "a condition with ETags of the old cluster, up to {newest}, comes to {outcome:?} at {written}"
        );
        let watched = Reader::new(process.history.clone(), newest).read(1, 1);
        assert!(
            watched.is_err(),
            "a watch goes on from {newest}, which the old cluster gave: {watched:?}"
        );
        let found = process.store.get(&key_name(0));
        let found = found.map(|found| (found.index, found.bytes.to_vec()));
        assert_eq!(found, Some((written, value)));
        // What was written here would have been noticed above only if the old cluster has written as much.
        assert!(
            (RESTORE_SKIP..RESTORE_SKIP + RESTORE_SPREAD).contains(&(index - from_index)),
            "a cluster restored from a backup of index {from_index} began at {index}"
        );
    }

    /// What becomes of a command of a client of the new member.
    fn tell_restored(
        &mut self,
        process: &mut Process,
        oracles: &mut Oracles,
        command: Command,
    ) -> Outcome {
        let cluster = process.meta.cluster();
        let (reply, mut outcome) = oneshot::channel();
        process.inbox.propose(Proposal {
            command,
            deadline_ticks: PASSES_MAX as u64,
            reply,
        });
        let now = NOW.get();
        let random = &mut self.clients.random;
        let mut answer = None;
        let failed = "the disk of a restored member does not fail";
        for _ in 0..PASSES_MAX {
            NOW.set(process.next_tick());
            process.pass(oracles).result.expect(failed).continue_value();
            let oracle = oracles.of(cluster);
            while process.has_jobs() {
                process.keep_spare();
                if let Step::Durable(durable) = process.write(random, oracle).expect(failed) {
                    process.tell(durable).expect(failed);
                }
            }
            while process.has_batches() {
                process.apply(oracle).expect(failed);
            }
            answer = outcome.try_recv().expect("every proposal is answered");
            if answer.is_some() {
                break;
            }
        }
        NOW.set(now);
        answer.expect("a restored member answers")
    }
}

/// The bytes that a client gets.
fn encoded(header: &SnapshotHeader, map: Frozen) -> Vec<u8> {
    let mut encoder = SnapshotEncoder::new();
    let mut bytes = encoder.header(header);
    let Ok(()) = map.visit(|key, index, value| {
        if encoder.entry(key, index, value)
            && let Some(block) = encoder.block()
        {
            bytes.extend(block);
        }
        Ok::<(), Infallible>(())
    });
    bytes.extend(encoder.block().unwrap_or_default());
    bytes.extend(encoder.footer());
    bytes
}

fn write(disk: &dyn Disk, bytes: &[u8]) {
    let directory = Path::new(DIRECTORY);
    let written = disk.create_dir_all(directory).and_then(|()| {
        let mut file = disk.create(Path::new(FILE))?;
        file.write_at(bytes, 0)?;
        file.sync()?;
        disk.sync_dir(directory)
    });
    written.unwrap_or_else(|error| panic!("a new disk fails: {error}"));
}
