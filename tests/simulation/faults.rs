//! What goes wrong, one thing after the other.

use crate::disk::{Fault, Operation};
use crate::network::Weather;
use crate::plan::Kind;
use crate::ports::Promise;
use crate::world::{Event, MILLISECOND, SECOND, World};
use futures_channel::oneshot;
use raftkvd::channels::notice::Notice;

/// Ends when its time has come.
pub enum Trouble {
    Cut(Vec<(usize, usize)>),
    FullDisk(usize),
    Weather,
}

impl World {
    /// The next thing goes wrong.
    pub fn fault(&mut self) {
        if self.clients.stopped || self.plan.kinds.is_empty() {
            return;
        }
        if !self.plan.strikes_early && self.formed_at.is_none() {
            return self.after(100 * MILLISECOND, Event::Fault);
        }
        let interval = self.plan.interval;
        let delay = self.faults.between(interval / 4, 2 * interval);
        self.after(delay, Event::Fault);
        self.fault_number += 1;
        let kind = *self.faults.pick(&self.plan.kinds);
        let place = self.faults.below(self.machines.len() as u64) as usize;
        // What a fault draws must not change those behind it, should it be left out.
        let next = self.faults.next();
        if !self.setup.cuts.faults.contains(&self.fault_number) {
            self.tell(|| format!("fault {}: {kind:?} at machine {place}", self.fault_number));
            self.strike(kind, place);
        }
        self.faults.0 = next;
    }

    fn strike(&mut self, kind: Kind, place: usize) {
        let running = self.machines[place].process.is_some();
        match kind {
            Kind::Isolate => self.cut("isolations", |a, b| (a == place) != (b == place)),
            Kind::OneWay => self.isolate_one_way(place),
            Kind::Split => self.split(),
            Kind::PowerLossEverywhere => self.power_off_everywhere(),
            Kind::Weather => self.bad_weather(),
            Kind::OlderCopy => self.older_copy(place),
            Kind::StaleCopy => self.stale_copy(place),
            Kind::Stranger => self.liar(place),
            Kind::Contradiction => self.contradict(place),
            _ if !running => {}
            Kind::LoseDisk => self.lose_disk(place),
            Kind::CrashAtMark => self.machines[place].crashes_at_mark = true,
            Kind::CrashAtSync => {
                let disk = &self.machines[place].disk;
                disk.inject_at(Operation::Sync, Fault::CrashBefore);
                self.count("syncs that crash");
            }
            Kind::CrashAtVote => self.crash_behind(place, Promise::Vote),
            Kind::CrashAtLead => self.crash_behind(place, Promise::Lead),
            Kind::PowerLoss => self.power_off(place),
            Kind::CrashAtOperation => {
                self.crash_at_operation(place);
                self.machines[place].crashes_ahead = self.faults.below(4);
            }
            Kind::FailedOperation => self.fail_operation(place),
            Kind::FullDisk if self.faults.chance(300) => {
                (0..self.machines.len()).for_each(|place| self.fill_disk(place));
            }
            Kind::FullDisk => self.fill_disk(place),
            Kind::Pause => self.pause(place),
            Kind::Kill => {
                self.count("kills");
                self.kill(self.target(place));
            }
            Kind::GracefulStop => self.stop_gracefully(place),
            Kind::Flap => {
                for _ in 0..self.faults.between(1, 20) {
                    let delay = self.faults.below(2 * SECOND);
                    self.after(delay, Event::Flap(place));
                }
            }
        }
    }

    fn isolate_one_way(&mut self, place: usize) {
        let from = self.faults.chance(500);
        self.cut("one-way isolations", |a, b| match from {
            true => a == place && b != place,
            false => a != place && b == place,
        });
    }

    fn split(&mut self) {
        let sides = self.faults.next();
        let side = |machine: usize| sides >> (machine % 64) & 1;
        self.cut("splits", |a, b| side(a) != side(b));
    }

    fn power_off_everywhere(&mut self) {
        self.count("power losses everywhere");
        for place in 0..self.machines.len() {
            if self.machines[place].process.is_some() {
                self.power_off(place);
            }
        }
    }

    fn bad_weather(&mut self) {
        self.network.weather = Weather {
            loss: *self.faults.pick(&[0, 10, 100, 300]),
            doubling: *self.faults.pick(&[0, 20, 300]),
            delay: *self.faults.pick(&[1, 5, 40, 150]) * MILLISECOND,
            stragglers: *self.faults.pick(&[0, 20, 200]),
        };
        self.count("bad weathers");
        self.trouble(Trouble::Weather);
    }

    fn fail_operation(&mut self, place: usize) {
        let ahead = self.faults.between(1, 60);
        let disk = &self.machines[place].disk;
        disk.inject(disk.operations() + ahead, Fault::Fail);
        self.count("operations that fail");
    }

    fn fill_disk(&mut self, place: usize) {
        let free = self.faults.below(20 << 10);
        let machine = &mut self.machines[place];
        if !machine.full {
            machine.full = true;
            machine.disk.set_free(Some(free));
            self.count("full disks");
            self.trouble(Trouble::FullDisk(place));
        }
    }

    fn pause(&mut self, place: usize) {
        let length = self.faults.between(50 * MILLISECOND, 4 * SECOND);
        self.machines[place].paused_until = self.now + length;
        self.count("pauses");
    }

    fn stop_gracefully(&mut self, place: usize) {
        let target = self.target(place);
        let (reply, handed_over) = oneshot::channel();
        let process = self.process(place).expect("it runs");
        process.stopping = Some(handed_over);
        self.notice(place, Notice::HandOver(reply));
        // A leader that nobody can follow stops as one.
        let patience = self.faults.between(500 * MILLISECOND, 1_200 * MILLISECOND);
        self.after(patience, Event::Stop(target));
        // By then it is ended in any case.
        self.after(1_500 * MILLISECOND, Event::Kill(target));
    }

    /// The power goes at one of the next operations of this machine's disk.
    pub fn crash_at_operation(&mut self, place: usize) {
        let fault = match self.faults.below(2) {
            0 => Fault::CrashBefore,
            _ => Fault::CrashAfter,
        };
        let ahead = self.faults.between(1, 60);
        let disk = &self.machines[place].disk;
        disk.inject(disk.operations() + ahead, fault);
        self.count("operations that crash");
    }

    /// The power goes behind the next message of this kind, at the first operation of the disk.
    pub fn crash_behind(&mut self, place: usize, promise: Promise) {
        let machine = &mut self.machines[place];
        let process = machine.process.as_mut().expect("it runs");
        process.crashes_behind(Some((promise, machine.disk.clone())));
    }

    fn cut(&mut self, name: &'static str, apart: impl Fn(usize, usize) -> bool) {
        let count = self.machines.len();
        let all = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
        let pairs: Vec<_> = all.filter(|(a, b)| apart(*a, *b)).collect();
        for pair in &pairs {
            *self.network.cut.entry(*pair).or_default() += 1;
        }
        self.count(name);
        self.trouble(Trouble::Cut(pairs));
    }

    fn trouble(&mut self, trouble: Trouble) {
        self.troubles.push(Some(trouble));
        let length = self.faults.between(100 * MILLISECOND, 6 * SECOND);
        self.after(length, Event::Recover(self.troubles.len() - 1));
    }

    pub fn recover(&mut self, at: usize) {
        match self.troubles[at].take() {
            Some(Trouble::Cut(pairs)) => {
                for pair in pairs {
                    let count = self.network.cut.entry(pair).or_default();
                    *count -= 1;
                    if *count == 0 {
                        self.network.cut.remove(&pair);
                    }
                }
            }
            Some(Trouble::FullDisk(place)) => {
                self.machines[place].full = false;
                self.machines[place].disk.set_free(None);
            }
            Some(Trouble::Weather) => self.network.weather = self.plan.climate,
            None => {}
        }
    }
}
