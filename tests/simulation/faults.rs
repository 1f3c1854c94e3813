//! What goes wrong, and how often: drawn once a run, so that runs differ in kind and not only in detail.

use crate::disk::{Fault, Random};
use crate::network::Weather;
use crate::world::{Event, MILLISECOND, SECOND, World};
use futures_channel::oneshot;
use raftkvd::inbox::Notice;

impl Random {
    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True in so many cases of 1000.
    pub fn chance(&mut self, of_1000: u64) -> bool {
        self.below(1000) < of_1000
    }

    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len() as u64) as usize]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Isolate,
    Split,
    OneWay,
    PowerLoss,
    PowerLossEverywhere,
    CrashAtOperation,
    FailedOperation,
    FullDisk,
    Pause,
    Kill,
    GracefulStop,
    Weather,
    Flap,
}

const KINDS: [Kind; 13] = [
    Kind::Isolate,
    Kind::Split,
    Kind::OneWay,
    Kind::PowerLoss,
    Kind::PowerLossEverywhere,
    Kind::CrashAtOperation,
    Kind::FailedOperation,
    Kind::FullDisk,
    Kind::Pause,
    Kind::Kill,
    Kind::GracefulStop,
    Kind::Weather,
    Kind::Flap,
];

/// Ends when its time has come.
enum Trouble {
    Cut(Vec<(usize, usize)>),
    FullDisk(usize),
    Weather,
}

pub struct Plan {
    pub members: u64,
    pub clients: u64,
    pub keys: u64,
    pub value_bytes: u64,
    pub thinking: u64,
    pub membership: bool,
    pub slow_threads: bool,
    /// Snapshot transfers that are cut, of 1000.
    pub cut_transfers: u64,
    pub duration: u64,
    interval: u64,
    kinds: Vec<Kind>,
    troubles: Vec<Option<Trouble>>,
}

impl Plan {
    pub fn draw(random: &mut Random) -> Plan {
        let share = random.between(2, 10);
        let mut kinds: Vec<Kind> = KINDS.into_iter().collect();
        kinds.retain(|_| random.below(10) < share);
        Plan {
            members: *random.pick(&[1, 3, 3, 3, 5]),
            clients: random.between(2, 8),
            keys: random.between(1, 6),
            value_bytes: *random.pick(&[10, 100, 3000]),
            thinking: *random.pick(&[20, 100, 400]) * MILLISECOND,
            membership: random.chance(500),
            slow_threads: random.chance(500),
            cut_transfers: *random.pick(&[0, 100, 500]),
            duration: random.between(5, 30) * SECOND,
            interval: *random.pick(&[200, 700, 2000]) * MILLISECOND,
            kinds,
            troubles: Vec::new(),
        }
    }
}

impl World {
    /// The next thing goes wrong.
    pub fn fault(&mut self) {
        if self.clients.stopped || self.plan.kinds.is_empty() {
            return;
        }
        let interval = self.plan.interval;
        let delay = self.random.between(interval / 4, 2 * interval);
        self.after(delay, Event::Fault);
        let kind = *self.random.pick(&self.plan.kinds);
        let place = self.random.below(self.machines.len() as u64) as usize;
        let running = self.machines[place].process.is_some();
        match kind {
            Kind::Isolate => self.cut("isolations", |a, b| (a == place) != (b == place)),
            Kind::OneWay => {
                let from = self.random.chance(500);
                self.cut("one-way isolations", |a, b| match from {
                    true => a == place && b != place,
                    false => a != place && b == place,
                });
            }
            Kind::Split => {
                let sides = self.random.next();
                let side = |machine: usize| sides >> (machine % 64) & 1;
                self.cut("splits", |a, b| side(a) != side(b));
            }
            Kind::PowerLossEverywhere => {
                self.count("power losses everywhere");
                for place in 0..self.machines.len() {
                    if self.machines[place].process.is_some() {
                        self.power_off(place);
                    }
                }
            }
            Kind::Weather => {
                self.network.weather = Weather {
                    loss: *self.random.pick(&[0, 10, 100, 300]),
                    doubling: *self.random.pick(&[0, 20, 300]),
                    delay: *self.random.pick(&[1, 5, 40, 150]) * MILLISECOND,
                    stragglers: *self.random.pick(&[0, 20, 200]),
                };
                self.count("bad weathers");
                self.trouble(Trouble::Weather);
            }
            _ if !running => {}
            Kind::PowerLoss => self.power_off(place),
            Kind::CrashAtOperation => {
                self.crash_at_operation(place);
                self.machines[place].crashes_ahead = self.random.below(4);
            }
            Kind::FailedOperation => {
                let ahead = self.random.between(1, 60);
                let disk = &self.machines[place].disk;
                disk.inject(disk.operations() + ahead, Fault::Fail);
                self.count("operations that fail");
            }
            Kind::FullDisk => {
                let free = self.random.below(20 << 10);
                let machine = &mut self.machines[place];
                if !machine.full {
                    machine.full = true;
                    machine.disk.set_free(Some(free));
                    self.count("full disks");
                    self.trouble(Trouble::FullDisk(place));
                }
            }
            Kind::Pause => {
                let length = self.random.between(50 * MILLISECOND, 4 * SECOND);
                self.machines[place].paused_until = self.now + length;
                self.count("pauses");
            }
            Kind::Kill => {
                self.count("kills");
                self.kill(self.target(place));
            }
            Kind::GracefulStop => {
                let target = self.target(place);
                let (reply, handed_over) = oneshot::channel();
                let process = self.process(place).expect("it runs");
                process.stopping = Some(handed_over);
                self.notice(place, Notice::HandOver(reply));
                // By then it is ended in any case.
                self.after(1_500 * MILLISECOND, Event::Kill(target));
            }
            Kind::Flap => {
                for _ in 0..self.random.between(1, 20) {
                    let delay = self.random.below(2 * SECOND);
                    self.after(delay, Event::Flap(place));
                }
            }
        }
    }

    /// The power goes at one of the next operations of this machine's disk.
    pub fn crash_at_operation(&mut self, place: usize) {
        let fault = match self.random.below(2) {
            0 => Fault::CrashBefore,
            _ => Fault::CrashAfter,
        };
        let ahead = self.random.between(1, 60);
        let disk = &self.machines[place].disk;
        disk.inject(disk.operations() + ahead, fault);
        self.count("operations that crash");
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
        self.plan.troubles.push(Some(trouble));
        let length = self.random.between(100 * MILLISECOND, 6 * SECOND);
        self.after(length, Event::Recover(self.plan.troubles.len() - 1));
    }

    pub fn recover(&mut self, at: usize) {
        match self.plan.troubles[at].take() {
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
            Some(Trouble::Weather) => self.network.weather = Weather::default(),
            None => {}
        }
    }

    /// Everything is well again, for good.
    pub fn heal(&mut self) {
        self.clients.stopped = true;
        self.plan.slow_threads = false;
        self.plan.cut_transfers = 0;
        for at in 0..self.plan.troubles.len() {
            self.recover(at);
        }
        for machine in &mut self.machines {
            machine.disk.clear_faults();
            machine.crashes_ahead = 0;
            machine.paused_until = 0;
        }
        for place in 0..self.machines.len() {
            if self.machines[place].epoch > 0 {
                self.start(place);
            }
        }
    }
}
