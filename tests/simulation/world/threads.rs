//! The threads of a process: when each takes its next step, and what comes of that.
//!
//! The order of steps within one thread is the daemon's own; between threads it is drawn.

use super::{Event, MILLISECOND, SECOND, Target, World};
use crate::disk::{BUSY, Fault};
use crate::lives::Memory;
use crate::ports::{Effect, What};
use crate::process::{Passed, Process, Worker};
use raftkvd::channels::notice::Notice;
use raftkvd::storage::wal::SpareDone;
use raftkvd::threads::wal::{Durable, Step};
use std::ops::ControlFlow;

impl World {
    /// A process that ends may have answered clients directly before: some of them still hear it.
    pub fn answer_the_last(&mut self, machine: usize) {
        if self.random.chance(500) {
            self.poll(machine);
        }
    }

    /// Something has come for the raft loop. If it sleeps, and can go on with that, then it wakes.
    pub fn wake(&mut self, machine: usize) {
        let woken = |p: &&mut Process| p.asleep && !p.inbox.is_asleep();
        if let Some(process) = self.process(machine).filter(woken) {
            process.asleep = false;
            self.schedule_pass(machine, self.now);
        }
    }

    /// The loop gets a processor soon after this time.
    pub fn schedule_pass(&mut self, machine: usize, time: u64) {
        let soon = self.random.between(5, 60);
        let target = self.target(machine);
        let process = self.at(target);
        let at = time.max(process.busy_until) + soon;
        if process.pass_at.is_none_or(|pass| pass > at) {
            process.pass_at = Some(at);
            self.queue.push(at, Event::Pass(target));
        }
    }

    pub fn pass(&mut self, target: Target) {
        if self.at(target).pass_at.is_none_or(|at| at > self.now) {
            return;
        }
        if self.plan.slow_threads && self.random.chance(2) {
            // The loop does not get a processor, and all others go on.
            let stall = self.random.between(10 * MILLISECOND, SECOND);
            self.at(target).busy_until = self.now + stall;
        }
        let busy_until = self.at(target).busy_until;
        if busy_until > self.now {
            self.at(target).pass_at = Some(busy_until);
            return self.queue.push(busy_until, Event::Pass(target));
        }
        let sync = self.delay_of_sync(target.machine) / 2;
        let machine = &mut self.machines[target.machine];
        machine.disk.set_sync_micros(sync);
        let process = machine.process.as_mut();
        let process = process.expect("events of processes that are gone are dropped");
        process.pass_at = None;
        let Passed { result, effects } = process.pass(&mut self.oracle);
        assert!(
            machine.memory != Memory::BeforeLetIn || process.node().members().members.is_empty(),
            "voter {} is led on from before it was let in",
            machine.id
        );
        let took = BUSY.get();
        let end = self.now + took;
        process.busy_until = end;
        self.note_formed();
        for Effect { after, what } in effects {
            if self.machines[target.machine].epoch != target.epoch {
                return;
            }
            match after {
                0 => self.carry_out(target, what),
                after => self.after(after, Event::CarryOut(target, what)),
            }
        }
        if self.machines[target.machine].epoch != target.epoch {
            return;
        }
        match result {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => {
                self.poll(target.machine);
                self.count("graceful stops");
                return self.kill(target);
            }
            Err(error) => return self.failed(target, &error),
        }
        let process = self.at(target);
        if let Some(stopping) = &mut process.stopping
            && matches!(stopping.try_recv(), Ok(Some(())))
        {
            process.inbox.notice(Notice::Stop);
        }
        if process.falls_asleep() {
            let tick = process.next_tick().max(end + 1);
            process.pass_at = Some(tick);
            self.queue.push(tick, Event::Pass(target));
        } else {
            self.schedule_pass(target.machine, end);
        }
        self.feed_after(target, took);
    }

    pub fn carry_out(&mut self, target: Target, what: What) {
        match what {
            What::Members(members) => {
                self.tell(|| {
                    let (voters, learners) = (members.voters(), members.learners());
                    let (voters, learners): (Vec<_>, Vec<_>) =
                        (voters.collect(), learners.collect());
                    let formed = if members.is_formed() { "" } else { ", forming" };
                    let unsettled = members.unsettled.map_or(String::new(), |unsettled| {
                        format!(", unsettled: {:?} {}", unsettled.kind, unsettled.member)
                    });
                    format!(
                        "machine {}: voters {voters:?}, learners {learners:?}{formed}{unsettled}",
                        target.machine
                    )
                });
                // Whoever waits for it is told now.
                let is_news = self.told.as_ref() != Some(&members) && members.unsettled.is_none();
                if is_news && *self.oracle.told_members() == *members {
                    self.told = Some(members.clone());
                    let ends = self.operator.random.chance(self.plan.ends_at_change);
                    self.ends_now |= ends && self.formed_at.is_some();
                }
                let process = self.at(target);
                let revokes = members.revoked.len() > process.view.members.revoked.len();
                let before = process.standing();
                process.set_members(&members);
                let now = process.standing();
                let own = process.view.members.members.get(&process.id);
                let own = own.filter(|own| own.incarnation == process.view.incarnation);
                let own = own.map(|own| own.url.clone());
                if revokes {
                    self.count("tables with more revoked keys");
                }
                let machine = &mut self.machines[target.machine];
                machine.is_home = own.as_ref() == Some(&machine.url);
                machine.moved_by_hand &= !machine.is_home;
                if now != before {
                    self.introduce(target);
                }
                self.judge_again(target);
            }
            What::Applied(index) => {
                if self.at(target).set_applied(index) {
                    self.judge_again(target);
                }
            }
            What::Leader(leader) => {
                self.at(target).leader = leader;
                self.names_leader(target);
                self.tell(|| match leader {
                    0 => format!("machine {}: knows no leader", target.machine),
                    _ => format!("machine {}: the leader is member {leader}", target.machine),
                });
            }
            What::ReadBack(request) => self.at(target).requests.push_back(request),
            What::Send(messages) => self.send(target, messages),
            What::Exit(exit) => self.exit(target, exit),
            What::Count(what) => self.count(what),
        }
    }

    /// Wakes the threads that have work.
    pub fn feed(&mut self, target: Target) {
        self.feed_after(target, 0);
    }

    /// The same, for what was handed to them so much later.
    pub fn feed_after(&mut self, target: Target, late: u64) {
        let sync = self.delay_of_sync(target.machine);
        let apply = self.random.between(5, 300);
        let snapshot = self.random.between(MILLISECOND, 50 * MILLISECOND);
        let slow = match self.plan.slow_threads && self.random.chance(self.plan.slow_applies) {
            true => self.random.between(10 * MILLISECOND, 2 * SECOND),
            false => 0,
        };
        let process = self.at(target);
        let (write, applies) = (process.has_jobs(), process.has_batches());
        let write = write && std::mem::replace(&mut process.writer, Worker::Busy) == Worker::Idle;
        let applies =
            applies && std::mem::replace(&mut process.applier, Worker::Busy) == Worker::Idle;
        if write {
            self.after(late + sync, Event::Write(target));
        }
        if applies {
            self.after(late + apply + slow, Event::Apply(target));
        }
        let process = self.at(target);
        if process.has_snapshots()
            && std::mem::replace(&mut process.snapshotter, Worker::Busy) == Worker::Idle
        {
            self.after(snapshot + slow, Event::Snapshot(target));
        }
        let process = self.at(target);
        if process.lacks_spare()
            && std::mem::replace(&mut process.sparer, Worker::Busy) == Worker::Idle
        {
            // It asks a full disk at intervals.
            let delay = match process.is_denied() {
                true => 300 * MILLISECOND,
                false => self.random.between(MILLISECOND, 20 * MILLISECOND),
            };
            self.after(delay, Event::Spare(target));
        }
        let process = self.at(target);
        if !process.requests.is_empty()
            && std::mem::replace(&mut process.reader, Worker::Busy) == Worker::Idle
        {
            let delay = match self.plan.slow_threads && self.random.chance(50) {
                true => self.random.between(10 * MILLISECOND, 2 * SECOND),
                false => self.random.between(20, 5 * MILLISECOND),
            };
            self.after(delay, Event::ReadBack(target));
        }
    }

    pub fn delay_of_sync(&mut self, machine: usize) -> u64 {
        let usual = self.machines[machine].sync;
        match self.plan.slow_threads && self.random.chance(self.plan.slow_syncs) {
            true => self.random.between(usual, SECOND),
            false => self.random.between(usual / 4, usual),
        }
    }

    pub fn write(&mut self, target: Target) {
        let machine = &mut self.machines[target.machine];
        let process = machine.process.as_mut();
        let process = process.expect("events of processes that are gone are dropped");
        if process.makes_spare {
            return self.after(MILLISECOND, Event::Write(target));
        }
        if machine.crashes_at_mark && process.has_mark() {
            machine.crashes_at_mark = false;
            let ahead = self.faults.between(1, 4);
            let disk = &machine.disk;
            disk.inject(disk.operations() + ahead, Fault::CrashBefore);
            *self.summary.counts.entry("marks that crash").or_default() += 1;
        }
        let oracle = self.oracle.of(process.meta.cluster());
        match process.write(&mut self.random, oracle) {
            Ok(Step::Durable(durable)) => {
                // It is durable, and nobody knows yet.
                let delay = self.delay_of_sync(target.machine) / 4;
                self.after(delay, Event::Written(target, durable));
            }
            Ok(Step::NoRoom) => {
                self.count("waits of the log for room");
                self.after(200 * MILLISECOND, Event::Write(target));
            }
            Ok(Step::Nothing) => panic!("machine {} has nothing to write", target.machine),
            Err(error) => self.failed_soon(target, &error),
        }
    }

    pub fn written(&mut self, target: Target, durable: Durable) {
        let process = self.at(target);
        process.writer = Worker::Idle;
        let messages = match process.tell(durable) {
            Ok(messages) => messages,
            Err(error) => return self.failed(target, &error),
        };
        self.wake(target.machine);
        self.send(target, messages);
        if self.machines[target.machine].epoch == target.epoch {
            let delay = self.random.between(10, 500 * MILLISECOND);
            if self.random.chance(300) {
                self.after(delay, Event::Purge(target));
            }
            self.feed(target);
        }
    }

    pub fn purge(&mut self, target: Target) {
        if let Err(error) = self.at(target).remove_files() {
            self.failed(target, &error);
        }
    }

    pub fn apply(&mut self, target: Target) {
        let process = self.machines[target.machine].process.as_mut();
        let process = process.expect("events of processes that are gone are dropped");
        process.applier = Worker::Idle;
        let oracle = self.oracle.of(process.meta.cluster());
        if let Err(error) = process.apply(oracle) {
            return self.failed(target, &error);
        }
        self.wake(target.machine);
        self.feed(target);
    }

    pub fn write_snapshot(&mut self, target: Target) {
        let process = self.at(target);
        process.snapshotter = Worker::Idle;
        process.write_snapshot();
        self.count("snapshots taken");
        self.wake(target.machine);
        self.feed(target);
    }

    pub fn begin_spare(&mut self, target: Target) {
        match self.at(target).begin_spare() {
            Some(done) => {
                let delay = self.delay_of_sync(target.machine);
                self.after(delay, Event::SpareMade(target, done));
            }
            None => {
                self.at(target).sparer = Worker::Idle;
                self.feed(target);
            }
        }
    }

    pub fn end_spare(&mut self, target: Target, done: SpareDone) {
        let process = self.at(target);
        process.sparer = Worker::Idle;
        process.end_spare(done);
        let is_full = process.is_full();
        if is_full {
            self.count("times that a full disk was asked for a segment");
        }
        self.feed(target);
    }

    pub fn read_back(&mut self, target: Target) {
        let process = self.at(target);
        process.reader = Worker::Idle;
        if let Err(error) = process.read_back() {
            return self.failed(target, &error);
        }
        self.count("pieces of the log read back");
        self.wake(target.machine);
        self.feed(target);
    }

    /// Learned by the transport, so a failing disk ends the process.
    pub fn disk_failed(&mut self, machine: usize, error: &dyn std::fmt::Display) {
        let target = self.target(machine);
        self.failed(target, error);
    }

    pub fn notice(&mut self, machine: usize, notice: Notice) {
        if let Some(process) = self.process(machine) {
            process.inbox.notice(notice);
            self.wake(machine);
        }
    }
}
