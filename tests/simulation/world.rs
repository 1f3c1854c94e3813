//! The world: machines, the network between them, clients, faults, and the queue of what happens when.
//!
//! One thread, one generator of random numbers, one queue ordered by time and then by age. Nothing else decides, so
//! a seed is a run. Time is counted in microseconds.

mod queue;

use crate::clients::Clients;
use crate::disk::{BUSY, FakeDisk, Fault, Loss, Random};
use crate::faults::Trouble;
use crate::lives::{Memory, Role};
use crate::network::{Delivery, Dial, Network};
use crate::operator::Operator;
use crate::oracle::Oracle;
use crate::plan::{Known, Plan, Setup};
use crate::ports::{Effect, What};
use crate::process::{Launch, Passed, Process, Worker};
use crate::runs::say;
use queue::Queue;
use raftkvd::inbox::Notice;
use raftkvd::members::{Members, PeerUrl};
use raftkvd::storage::{DiskError, Options, Start, StorageError};
use raftkvd::writer::Durable;
use slog::{Logger, info, o};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

pub const MILLISECOND: u64 = 1_000;
/// A run that needs more goes in circles.
const EVENTS_MAX: u64 = 10_000_000;
pub const SECOND: u64 = 1_000 * MILLISECOND;

thread_local! {
    /// For the log of a run.
    pub static NOW: Cell<u64> = const { Cell::new(0) };
    /// How far the run has come: what is left of it when it has failed.
    pub static REACHED: Cell<Reached> = const { Cell::new(Reached { time: 0, faults: 0, steps: 0, operations: 0 }) };
    /// When the run began, on the clock of the code that is run.
    static BEGIN: Instant = Instant::now();
}

/// A time of a run, and how many faults, steps of the operator and requests of clients there were before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reached {
    pub time: u64,
    pub faults: u64,
    pub steps: u64,
    pub operations: u64,
}

/// The clock of the code that is run. It stands still during an event, but for what disks take.
pub fn clock() -> Instant {
    BEGIN.with(|begin| *begin) + Duration::from_micros(NOW.get() + BUSY.get())
}

/// A time of that clock, in microseconds of the run.
pub fn micros(time: Instant) -> u64 {
    (time - BEGIN.with(|begin| *begin)).as_micros() as u64
}

/// Something that happens at a machine happens only to the process it was meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    pub machine: usize,
    pub epoch: u64,
}

/// What happens. Those with a target wait while its process is paused.
pub enum Event {
    Pass(Target),
    Write(Target),
    Written(Target, Durable),
    /// What a pass asked for behind a write of its own.
    CarryOut(Target, What),
    Stop(Target),
    Purge(Target),
    Apply(Target),
    Snapshot(Target),
    ReadBack(Target),
    Deliver(Target, Box<Delivery>),
    Dial(Target, Dial),
    Piece(Target, u64),
    Report(Target, u64, bool),
    Request(Target, u64),
    Response(u64),
    GiveUp(u64),
    Client(usize),
    Watcher(usize),
    Backup,
    Admin,
    Fault,
    Recover(usize),
    Start(usize),
    Kill(Target),
    Flap(usize),
}

impl Event {
    fn target(&self) -> Option<Target> {
        match self {
            Event::Pass(target)
            | Event::Write(target)
            | Event::Written(target, _)
            | Event::CarryOut(target, _)
            | Event::Stop(target)
            | Event::Purge(target)
            | Event::Apply(target)
            | Event::Snapshot(target)
            | Event::ReadBack(target)
            | Event::Deliver(target, _)
            | Event::Dial(target, _)
            | Event::Piece(target, _)
            | Event::Report(target, ..)
            | Event::Request(target, _) => Some(*target),
            _ => None,
        }
    }

    fn number(&self) -> u64 {
        match self {
            Event::Pass(_) => 1,
            Event::Write(_) => 2,
            Event::Written(_, durable) => 3 + (durable.number() << 8),
            Event::Apply(_) => 4,
            Event::Snapshot(_) => 5,
            Event::Deliver(_, delivery) => 6 + (delivery.digest() << 8),
            Event::Piece(_, transfer) => 7 + (transfer << 8),
            Event::Report(_, to, ok) => 8 + (to << 8) + u64::from(*ok),
            Event::Request(_, operation) => 9 + (operation << 8),
            Event::Response(operation) => 10 + (operation << 8),
            Event::GiveUp(operation) => 11 + (operation << 8),
            Event::Client(client) => 12 + ((*client as u64) << 8),
            Event::Admin => 13,
            Event::Fault => 14,
            Event::Recover(at) => 15 + ((*at as u64) << 8),
            Event::Start(machine) => 16 + ((*machine as u64) << 8),
            Event::Kill(_) => 17,
            Event::Dial(_, dial) => 18 + ((dial.place as u64) << 8),
            Event::Flap(machine) => 19 + ((*machine as u64) << 8),
            Event::ReadBack(_) => 20,
            Event::CarryOut(..) => 21,
            Event::Stop(_) => 25,
            Event::Purge(_) => 22,
            Event::Watcher(watcher) => 23 + ((*watcher as u64) << 8),
            Event::Backup => 24,
        }
    }
}

/// A computer with a disk, on which one member runs or does not.
pub struct Machine {
    pub id: u64,
    pub url: PeerUrl,
    pub disk: FakeDisk,
    pub epoch: u64,
    pub process: Option<Process>,
    pub paused_until: u64,
    pub join: bool,
    /// What `--cluster` says.
    pub initial: Members,
    /// Nobody starts it any more.
    pub retired: bool,
    /// It may be started: its member was added. Started before, an empty member could be taken for its predecessor of
    /// the same id by those who have not heard of the removal.
    pub ready: bool,
    /// It has learned when it was added.
    pub joined: bool,
    pub full: bool,
    pub role: Role,
    pub memory: Memory,
    /// Its process has ended for good, or must not be started: it has to be removed, emptied and added.
    pub broken: bool,
    /// It was emptied, and the operator goes on asking until it is added.
    pub to_be_added: bool,
    /// It runs, and nobody has told yet that it was added.
    pub early: bool,
    /// Nobody brings it back.
    pub forsaken: bool,
    /// What its disk once held.
    pub copy: Option<FakeDisk>,
    /// The power goes when it next writes the mark of a snapshot.
    pub crashes_at_mark: bool,
    /// So many of its next starts end in another crash: what a crash left behind is what the next one meets.
    pub crashes_ahead: u64,
    /// It is without power: not even its host answers.
    pub dark: bool,
    tick: u64,
    /// How long its disk takes.
    sync: u64,
}

/// What a run came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub trace: u64,
    pub simulated: u64,
    pub events: u64,
    pub operations: u64,
    pub committed: u64,
    /// How often each thing that is worth counting happened.
    pub counts: BTreeMap<&'static str, u64>,
}

pub struct World {
    pub now: u64,
    queue: Queue,
    pub random: Random,
    /// Faults and the operator have streams of their own: without one of them the others go on as they would have.
    pub faults: Random,
    pub fault_number: u64,
    pub troubles: Vec<Option<Trouble>>,
    pub operator: Operator,
    /// Voters that have lost their memory, or never come back.
    pub lost: u64,
    pub setup: Setup,
    /// Tells the run, a line an event.
    pub story: bool,
    pub machines: Vec<Machine>,
    pub network: Network,
    pub clients: Clients,
    pub plan: Plan,
    pub oracle: Oracle,
    pub summary: Summary,
    pub logger: Logger,
    pub options: Options,
    pub snapshot_bytes: u64,
    /// Of a node's log, see `raftkvd::node::Settings`.
    pub pinned_log_bytes: u64,
}

impl World {
    pub fn new(setup: &Setup, story: bool, logger: &Logger) -> World {
        NOW.set(0);
        BUSY.set(0);
        let mut random = Random(setup.seed);
        // The first draws of neighbouring seeds have much in common.
        for _ in 0..4 {
            random.next();
        }
        let plan = Plan::draw(&mut random, setup);
        let clients = Clients::new(random.next(), &plan);
        let segment_bytes = random.between(4 << 10, 32 << 10);
        let batch_bytes = random.between(1 << 10, 16 << 10) as usize;
        let options = Options {
            segment_bytes,
            batch_bytes: plan.batch_bytes.unwrap_or(batch_bytes),
            // Often only a few entries, and then what followers lack is read back.
            cache_bytes: *random.pick(&[1, 300, 3_000, u64::MAX]),
        };
        let snapshot_bytes = random.between(2 << 10, 32 << 10);
        let mut world = World {
            now: 0,
            queue: Queue::default(),
            network: Network::of(plan.climate),
            clients,
            machines: Vec::new(),
            oracle: Oracle::new(setup.meets(Known::MatchAboveLast)),
            summary: Summary::default(),
            logger: logger.new(o!()),
            options,
            snapshot_bytes: plan.snapshot_bytes.unwrap_or(snapshot_bytes),
            pinned_log_bytes: *random.pick(&[2_000, 50_000, u64::MAX]),
            faults: Random(random.next()),
            fault_number: 0,
            troubles: Vec::new(),
            operator: Operator::new(random.next()),
            lost: 0,
            setup: setup.clone(),
            story,
            random,
            plan,
        };
        let size = world.plan.members;
        let urls: Vec<PeerUrl> = (0..size).map(|n| World::url(n as usize)).collect();
        let initial = Members::initial(&urls);
        for id in 1..=size {
            let machine = world.add_machine(id, false, initial.clone());
            match world.plan.staged {
                0 => world.start(machine),
                over => {
                    let delay = world.random.below(over);
                    world.after(delay, Event::Start(machine));
                }
            }
        }
        world.begin_strays();
        world.begin();
        world
    }

    pub fn url(machine: usize) -> PeerUrl {
        let url = format!("http://machine:{}", machine + 1);
        url.parse().expect("it is a valid URL")
    }

    pub fn machine_at(url: &PeerUrl) -> usize {
        url.port() as usize - 1
    }

    pub fn add_machine(&mut self, id: u64, join: bool, initial: Members) -> usize {
        let number = self.machines.len();
        let disk = FakeDisk::new(self.random.next());
        self.machines.push(Machine {
            id,
            url: World::url(number),
            disk,
            epoch: 0,
            process: None,
            paused_until: 0,
            join,
            initial,
            retired: false,
            ready: !join,
            joined: !join,
            full: false,
            role: Role::Member,
            memory: Memory::Intact,
            broken: false,
            to_be_added: false,
            early: false,
            forsaken: false,
            copy: None,
            crashes_at_mark: false,
            crashes_ahead: 0,
            dark: false,
            tick: self.random.between(16 * MILLISECOND, 24 * MILLISECOND),
            sync: self.random.between(50, 3 * MILLISECOND),
        });
        number
    }

    // ---- the queue ----

    pub fn after(&mut self, delay: u64, event: Event) {
        self.queue.push(self.now + delay, event);
    }

    pub fn count(&mut self, what: &'static str) {
        *self.summary.counts.entry(what).or_default() += 1;
    }

    /// Tells an event of the run's story.
    pub fn tell(&self, event: impl FnOnce() -> String) {
        if self.story {
            say(&format!(
                "{:>10.3} {}",
                self.now as f64 / SECOND as f64,
                event()
            ));
        }
    }

    pub fn tell_if(&self, is_news: bool, event: impl FnOnce() -> String) {
        if is_news {
            self.tell(event);
        }
    }

    /// Lets time pass until then, or until `done`.
    pub fn run_until(&mut self, end: u64, done: impl Fn(&World) -> bool) {
        while let Some((time, event)) = self.queue.pop_until(end) {
            self.now = self.now.max(time);
            NOW.set(self.now);
            REACHED.set(Reached {
                time: self.now,
                faults: self.fault_number,
                steps: self.operator.number,
                operations: self.clients.asked(),
            });
            self.handle(event);
            if done(self) {
                return;
            }
        }
        self.now = self.now.max(end);
    }

    fn handle(&mut self, event: Event) {
        if let Some(target) = event.target() {
            let machine = &self.machines[target.machine];
            if machine.process.is_none() || machine.epoch != target.epoch {
                return self.lost(event);
            }
            if machine.paused_until > self.now {
                let until = machine.paused_until;
                return self.queue.push(until, event);
            }
        }
        BUSY.set(0);
        self.summary.events += 1;
        assert!(
            self.summary.events < EVENTS_MAX,
            "{EVENTS_MAX} events, and no end"
        );
        let place = event.target().map_or(0, |t| t.machine as u64 + 1);
        for part in [self.now, event.number(), place] {
            self.summary.trace = (self.summary.trace ^ part).wrapping_mul(0x0100_0000_01b3);
        }
        let target = event.target();
        match event {
            Event::Pass(target) => self.pass(target),
            Event::Write(target) => self.write(target),
            Event::Written(target, durable) => self.written(target, durable),
            Event::CarryOut(target, what) => self.carry_out(target, what),
            Event::Stop(target) => self.notice(target.machine, Notice::Stop),
            Event::Purge(target) => self.purge(target),
            Event::Apply(target) => self.apply(target),
            Event::Snapshot(target) => self.write_snapshot(target),
            Event::ReadBack(target) => self.read_back(target),
            Event::Deliver(target, delivery) => self.deliver(target, *delivery),
            Event::Piece(_, transfer) => self.piece(transfer),
            Event::Report(target, to, ok) => self.report(target, to, ok),
            Event::Request(target, operation) => self.request(target, operation),
            Event::Response(operation) => self.response(operation),
            Event::GiveUp(operation) => self.give_up(operation),
            Event::Client(client) => self.client(client),
            Event::Watcher(watcher) => self.watch(watcher),
            Event::Backup => self.back_up(),
            Event::Admin => self.admin(),
            Event::Fault => self.fault(),
            Event::Recover(at) => self.recover(at),
            Event::Start(machine) => self.start(machine),
            Event::Kill(target) => self.kill(target),
            Event::Dial(target, dial) => self.dialed(target, dial),
            Event::Flap(machine) => self.flap(machine),
        }
        if let Some(target) = target {
            // An operation on the disk whose error nobody looks at can be the one at which the power goes.
            let machine = &self.machines[target.machine];
            if machine.epoch == target.epoch && machine.process.is_some() {
                if machine.disk.crashed() {
                    self.answer_the_last(target.machine);
                    self.power_off(target.machine);
                } else {
                    self.poll(target.machine);
                }
            }
        }
    }

    /// What was meant for a process that is gone.
    fn lost(&mut self, event: Event) {
        match event {
            Event::Piece(_, transfer) => self.end_transfer(transfer, false),
            Event::Request(_, operation) => self.refused(operation),
            _ => {}
        }
    }

    // ---- machines ----

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
        let start = match machine.join {
            true => Start::Join,
            false => Start::Bootstrap(machine.initial.clone()),
        };
        let launch = Launch {
            disk: &machine.disk,
            machine: number,
            id: machine.id,
            start,
            initial: &machine.initial,
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
                machine.process = Some(process);
                machine.dark = false;
                self.count("starts");
                self.tell(|| format!("machine {number} starts"));
                self.schedule_pass(number, self.now);
                self.dial_all(self.target(number));
                if let Some((promise, share)) = self.plan.crashes_behind
                    && self.faults.chance(share)
                {
                    self.crash_behind(number, promise);
                }
            }
            Err(StorageError::Io(error)) => {
                info!(self.logger, "a start failed"; "machine" => number, "error" => %error);
                if self.machines[number].disk.crashed() {
                    return self.power_off(number);
                }
                self.machines[number].epoch += 1;
                self.restart_later(number);
            }
            Err(StorageError::Removed { .. }) => machine.retired = true,
            Err(error) => panic!("machine {number} can't start: {error}"),
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
        self.tell(|| format!("machine {number} loses power, and unsynced: {loss:?}"));
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
    fn failed_soon(&mut self, target: Target, error: &DiskError) {
        if self.machines[target.machine].disk.crashed() || self.random.chance(300) {
            return self.failed(target, error);
        }
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
        self.count("ends by a failed disk");
        self.answer_the_last(target.machine);
        self.kill(target);
    }

    /// Gives a disk of the joiner's own to a machine that was in use before.
    pub fn wipe(&mut self, number: usize) {
        let disk = FakeDisk::new(self.random.next());
        let machine = &mut self.machines[number];
        machine.disk = disk;
        machine.retired = false;
        machine.ready = false;
        machine.joined = false;
        machine.full = false;
        machine.role = Role::Member;
        machine.memory = Memory::Intact;
        machine.broken = false;
        machine.to_be_added = false;
        machine.early = false;
        machine.copy = None;
        self.ended(number);
    }

    // ---- the threads of a process ----

    /// A process that ends may have answered clients directly before: some of them still hear it.
    fn answer_the_last(&mut self, machine: usize) {
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
    fn schedule_pass(&mut self, machine: usize, time: u64) {
        let soon = self.random.between(5, 60);
        let target = self.target(machine);
        let process = self.at(target);
        let at = time.max(process.busy_until) + soon;
        if process.pass_at.is_none_or(|pass| pass > at) {
            process.pass_at = Some(at);
            self.queue.push(at, Event::Pass(target));
        }
    }

    fn pass(&mut self, target: Target) {
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
        let took = BUSY.get();
        let end = self.now + took;
        process.busy_until = end;
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

    fn carry_out(&mut self, target: Target, what: What) {
        match what {
            What::Members(members) => {
                self.tell(|| {
                    let (voters, learners) = (members.voters(), members.learners());
                    let (voters, learners): (Vec<_>, Vec<_>) =
                        (voters.collect(), learners.collect());
                    format!(
                        "machine {}: voters {voters:?}, learners {learners:?}",
                        target.machine
                    )
                });
                let process = self.at(target);
                let before = process.life();
                process.set_members(&members);
                let life = process.life();
                self.machines[target.machine].joined |= life > 0;
                if life != before {
                    self.introduce(target);
                }
                self.judge_again(target);
            }
            What::Leader(leader) => {
                self.at(target).leader = leader;
                self.tell(|| format!("machine {}: the leader is {leader}", target.machine));
            }
            What::ReadBack(request) => self.at(target).requests.push_back(request),
            What::Send(messages) => self.send(target, messages),
            What::Exit(exit) => self.exit(target, exit),
            What::Count(what) => self.count(what),
        }
    }

    /// Wakes the threads that have work.
    fn feed(&mut self, target: Target) {
        self.feed_after(target, 0);
    }

    /// The same, for what was handed to them so much later.
    fn feed_after(&mut self, target: Target, late: u64) {
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

    fn delay_of_sync(&mut self, machine: usize) -> u64 {
        let usual = self.machines[machine].sync;
        match self.plan.slow_threads && self.random.chance(self.plan.slow_syncs) {
            true => self.random.between(usual, SECOND),
            false => self.random.between(usual / 4, usual),
        }
    }

    fn write(&mut self, target: Target) {
        let machine = &mut self.machines[target.machine];
        let process = machine.process.as_mut();
        let process = process.expect("events of processes that are gone are dropped");
        if machine.crashes_at_mark && process.has_mark() {
            machine.crashes_at_mark = false;
            let ahead = self.faults.between(1, 4);
            let disk = &machine.disk;
            disk.inject(disk.operations() + ahead, Fault::CrashBefore);
            *self.summary.counts.entry("marks that crash").or_default() += 1;
        }
        match process.write(&mut self.random, &mut self.oracle) {
            Ok(Some(durable)) => {
                // It is durable, and nobody knows yet.
                let delay = self.delay_of_sync(target.machine) / 4;
                self.after(delay, Event::Written(target, durable));
            }
            Ok(None) => panic!("machine {} has nothing to write", target.machine),
            Err(error) => self.failed_soon(target, &error),
        }
    }

    fn written(&mut self, target: Target, durable: Durable) {
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

    fn purge(&mut self, target: Target) {
        if let Err(error) = self.at(target).remove_files() {
            self.failed(target, &error);
        }
    }

    fn apply(&mut self, target: Target) {
        let process = self.machines[target.machine].process.as_mut();
        let process = process.expect("events of processes that are gone are dropped");
        process.applier = Worker::Idle;
        if let Err(error) = process.apply(&self.oracle) {
            return self.failed(target, &error);
        }
        self.wake(target.machine);
        self.feed(target);
    }

    fn write_snapshot(&mut self, target: Target) {
        let process = self.at(target);
        process.snapshotter = Worker::Idle;
        if let Err(error) = process.write_snapshot() {
            return self.failed(target, &error);
        }
        self.count("snapshots taken");
        self.wake(target.machine);
        self.feed(target);
    }

    fn read_back(&mut self, target: Target) {
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
