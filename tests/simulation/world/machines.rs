//! Machines: how processes start and end on them, and what that does to their disks.

use super::{Event, MILLISECOND, Target, World};
use crate::disk::{FakeDisk, Loss};
use crate::lives::{Memory, Role};
use crate::process::{Launch, Process};
use raftkvd::storage::{DiskError, Start, StorageError};
use slog::{info, o};

impl World {
    pub fn target(&self, machine: usize) -> Target {
        let epoch = self.machines[machine].epoch;
        Target { machine, epoch }
    }

    pub fn process(&mut self, machine: usize) -> Option<&mut Process> {
        self.machines[machine].process.as_mut()
    }

    /// The process that the target stands for.
    pub fn at(&mut self, target: Target) -> &mut Process {
        self.process(target.machine)
            .expect("events of processes that are gone are dropped")
    }

    pub fn start(&mut self, number: usize) {
        let machine = &mut self.machines[number];
        let stays_away = machine.retired || machine.broken || machine.forsaken || !machine.ready;
        if machine.process.is_some() || stays_away {
            return;
        }
        if machine.crashes_ahead > 0 {
            machine.crashes_ahead -= 1;
            self.crash_at_operation(number);
        }
        let machine = &mut self.machines[number];
        machine.epoch += 1;
        let is_first = machine.first_of.keys().next() == Some(&machine.id);
        let start = match is_first {
            true => Start::First(machine.first_of.clone()),
            false => Start::Empty,
        };
        // A list of one says no more than the own address.
        let (mut listed, mut dials) = (machine.first_of.clone(), machine.dials.clone());
        listed.retain(|_, _| machine.first_of.len() > 1);
        dials.extend(listed.clone());
        let by_hand = machine.moved_by_hand && machine.memory == Memory::Intact;
        let url_given = !by_hand && (!machine.is_home || self.random.chance(700));
        let launch = Launch {
            disk: &machine.disk,
            machine: number,
            id: machine.id,
            start,
            url: machine.url.clone(),
            url_given,
            listed,
            dials,
            options: self.options,
            snapshot_bytes: self.snapshot_bytes,
            pinned_log_bytes: self.pinned_log_bytes,
            history_bytes: self.plan.asks.history_bytes,
            tick: machine.tick,
            logger: self
                .logger
                .new(o!("machine" => number, "epoch" => machine.epoch)),
        };
        match Process::launch(launch, &mut self.oracle) {
            Ok(process) => {
                machine.incarnation = process.view.incarnation;
                if process.view.is_empty() && machine.memory == Memory::Intact {
                    machine.before_let_in = Some((machine.incarnation, machine.disk.after_kill()));
                }
                machine.process = Some(process);
                machine.dark = false;
                self.count("starts");
                let id = self.machines[number].id;
                self.tell(|| format!("machine {number} starts member {id}"));
                self.schedule_pass(number, self.now);
                self.dial_all(self.target(number));
                if self.plan.strikes_early || self.formed_at.is_some() {
                    self.may_crash_behind(number);
                }
            }
            Err(error) => self.start_failed(number, error),
        }
    }

    fn start_failed(&mut self, number: usize, error: StorageError) {
        let machine = &mut self.machines[number];
        match error {
            StorageError::Io(error) => {
                info!(self.logger, "a start failed"; "machine" => number, "error" => %error);
                if machine.disk.crashed() {
                    return self.power_off(number);
                }
                machine.epoch += 1;
                self.restart_later(number);
            }
            // A disk of an earlier life has taken the place of that of a member. An older copy is known as such if the
            // power went just when its mark was on the disk.
            StorageError::Removed { .. } | StorageError::OlderCopy { .. }
                if machine.memory == Memory::Older =>
            {
                machine.broken = true;
            }
            StorageError::Removed { .. } => machine.retired = true,
            error => panic!("machine {number} can't start: {error}"),
        }
    }

    /// Draws whether a process that has started is to crash behind a promise.
    fn may_crash_behind(&mut self, number: usize) {
        if let Some((promise, share)) = self.plan.crashes_behind
            && self.faults.chance(share)
        {
            self.crash_behind(number, promise);
        }
    }

    /// A member has told that its cluster has formed.
    pub fn note_formed(&mut self) {
        let told = self.oracle.told_members();
        if self.formed_at.is_some() || told.members.is_empty() || !told.is_formed() {
            return;
        }
        self.formed_at = Some(self.now);
        self.tell(|| "the cluster has formed".to_owned());
        self.count("clusters formed");
        if !self.plan.strikes_early {
            self.network.weather = self.plan.climate;
            for number in 0..self.machines.len() {
                if self.machines[number].process.is_some() {
                    self.may_crash_behind(number);
                }
            }
        }
    }

    pub fn restart_later(&mut self, machine: usize) {
        let delay = self.random.between(20 * MILLISECOND, self.plan.restart);
        self.after(delay, Event::Start(machine));
    }

    /// The power goes: of what was not synced, anything may be left.
    pub fn power_off(&mut self, number: usize) {
        let draw = self.random.next();
        let loss = match draw % 8 {
            0 => Loss::Everything,
            1 => Loss::Nothing,
            2 => Loss::Bytes,
            3 => Loss::Names,
            _ => Loss::Torn(draw),
        };
        self.count("power losses");
        self.tell(|| {
            format!("machine {number} loses power; of what was not synced it loses: {loss:?}")
        });
        let machine = &mut self.machines[number];
        machine.disk = machine.disk.after_crash(loss);
        // The host may be up again long before the process.
        machine.dark = draw & (1 << 32) == 0;
        self.ended(number);
        self.restart_later(number);
    }

    /// The process ends at once, the machine goes on.
    pub fn kill(&mut self, target: Target) {
        let machine = &mut self.machines[target.machine];
        if machine.process.is_none() || machine.epoch != target.epoch {
            return;
        }
        machine.disk = machine.disk.after_kill();
        self.ended(target.machine);
        self.restart_later(target.machine);
    }

    pub fn ended(&mut self, number: usize) {
        info!(self.logger, "ends"; "machine" => number);
        let ended = self.target(number);
        let machine = &mut self.machines[number];
        machine.epoch += 1;
        machine.paused_until = 0;
        machine.process = None;
        self.hang_up(ended);
        self.answer_none(number);
    }

    /// The WAL thread has failed: until the main thread has ended the process, all others go on.
    pub fn failed_soon(&mut self, target: Target, error: &DiskError) {
        if self.machines[target.machine].disk.crashed() || self.random.chance(300) {
            return self.failed(target, error);
        }
        assert!(!error.is_full(), "machine {} ends: {error}", target.machine);
        self.count("ends by a failed disk");
        let delay = self.random.between(0, 50 * MILLISECOND);
        self.after(delay, Event::Kill(target));
    }

    /// The disk has failed under a running process: it ends.
    pub fn failed(&mut self, target: Target, error: &dyn std::fmt::Display) {
        info!(self.logger, "the disk failed"; "machine" => target.machine, "error" => %error);
        if self.machines[target.machine].disk.crashed() {
            return self.power_off(target.machine);
        }
        assert!(
            error.to_string().starts_with("cannot "),
            "machine {} ends: {error}",
            target.machine
        );
        assert!(
            !error.to_string().contains("No space left"),
            "machine {} ends: {error}",
            target.machine
        );
        self.count("ends by a failed disk");
        self.answer_the_last(target.machine);
        self.kill(target);
    }

    /// Gives an empty disk to a machine that was in use before: its member joins.
    pub fn wipe(&mut self, number: usize) {
        self.empty(number);
        let machine = &mut self.machines[number];
        machine.first_of.clear();
        machine.ready = false;
    }

    /// Gives an empty disk to a machine, and nothing else changes.
    pub fn empty(&mut self, number: usize) {
        let disk = FakeDisk::new(self.random.next());
        let machine = &mut self.machines[number];
        machine.disk = disk;
        machine.incarnation = 0;
        machine.is_home = false;
        (machine.moved_by_hand, machine.tells_move) = (false, false);
        machine.retired = false;
        machine.asks = false;
        machine.full = false;
        machine.role = Role::Member;
        machine.memory = Memory::Intact;
        machine.broken = false;
        machine.to_be_added = false;
        self.ended(number);
    }
}
