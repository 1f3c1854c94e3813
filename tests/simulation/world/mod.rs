//! The world: machines, the network between them, clients, faults, and the queue of what happens when.
//!
//! One thread, one queue ordered by time and then by age, and streams of random numbers that follow from the seed.
//! Nothing else decides, so a seed is a run. Time is counted in microseconds.

mod events;
mod machines;
mod queue;
mod threads;

use crate::clients::Clients;
use crate::disk::{BUSY, FakeDisk, Random};
use crate::faults::Trouble;
use crate::lives::{Memory, Role};
use crate::network::{Network, Weather};
use crate::operator::Operator;
use crate::oracles::Oracles;
use crate::plan::{Plan, Setup};
use crate::process::Process;
use crate::runs::say;
use queue::Queue;
use raftkvd::channels::notice::Notice;
use raftkvd::members::Members;
use raftkvd::peer_url::PeerUrl;
use raftkvd::storage::WalOptions;
use slog::{Logger, o};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use events::Event;

pub const MILLISECOND: u64 = 1_000;
/// A run with more events than this goes in circles.
const EVENTS_MAX: u64 = 10_000_000;
pub const SECOND: u64 = 1_000 * MILLISECOND;

thread_local! {
    /// Simulated time in microseconds: the clock and the log of a run read it.
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

/// A computer with a disk, on which one member runs or does not.
pub struct Machine {
    pub id: u64,
    pub url: PeerUrl,
    pub disk: FakeDisk,
    pub epoch: u64,
    pub process: Option<Process>,
    pub paused_until: u64,
    /// The first members of a new cluster, this one among them; empty on one that joins.
    pub first_of: BTreeMap<u64, PeerUrl>,
    /// The members that one that joins knows of, and places where nobody is.
    pub dials: BTreeMap<u64, PeerUrl>,
    /// Nobody starts it any more.
    pub retired: bool,
    /// It may be started.
    pub ready: bool,
    /// It asks by itself to be added, again and again.
    pub asks: bool,
    pub full: bool,
    /// Of the data directory that its last process had, 0 if none has run.
    pub incarnation: u64,
    /// Its member has learned from the table that it is here: it need not be told again.
    pub is_home: bool,
    /// Its command line does not say that its member has moved here: the operator tells the cluster, until that answers.
    pub moved_by_hand: bool,
    pub tells_move: bool,
    pub role: Role,
    pub memory: Memory,
    /// Its process has ended for good, or must not be started: it has to be removed, emptied and added.
    pub broken: bool,
    /// It was emptied, and the operator goes on asking until it is added.
    pub to_be_added: bool,
    /// Nobody brings it back.
    pub forsaken: bool,
    /// What its disk once held, in this life or in an earlier one.
    pub copy: Option<FakeDisk>,
    /// The members that its member knew then.
    pub copy_members: Members,
    /// What its disk held when its member had not been let in, and the incarnation.
    pub before_let_in: Option<(u64, FakeDisk)>,
    /// The power goes when it next writes the mark of a snapshot.
    pub crashes_at_mark: bool,
    /// So many of its next starts end in another crash: what a crash left behind is what the next one meets.
    pub crashes_ahead: u64,
    /// The epoch in which its member heard the proof that a log has parted from its own.
    pub contradicted: Option<u64>,
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
    /// The machine whose copy is to be put in place under a leader that the copy does not know.
    pub stale_copy: Option<usize>,
    pub setup: Setup,
    /// Prints the run's story, one line per event.
    pub story: bool,
    pub machines: Vec<Machine>,
    pub network: Network,
    pub clients: Clients,
    pub plan: Plan,
    /// When a cluster had formed.
    pub formed_at: Option<u64>,
    /// Trouble ends now.
    pub ends_now: bool,
    /// The newest settled members that somebody was told.
    pub told: Option<Arc<Members>>,
    pub oracle: Oracles,
    pub summary: Summary,
    pub logger: Logger,
    pub options: WalOptions,
    pub snapshot_bytes: u64,
    /// Of a node's log, see `raftkvd::node::NodeSettings`.
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
        // Often only a few entries, and then what followers lack is read back.
        let cache_bytes = *random.pick(&[1, 300, 3_000, u64::MAX]);
        let options = WalOptions {
            segment_bytes,
            batch_bytes: plan.batch_bytes.unwrap_or(batch_bytes),
            cache_bytes: plan.cache_bytes.unwrap_or(cache_bytes),
        };
        let snapshot_bytes = random.between(2 << 10, 32 << 10);
        let mut world = World {
            now: 0,
            queue: Queue::default(),
            network: Network::of(match plan.strikes_early {
                true => plan.climate,
                false => Weather::default(),
            }),
            clients,
            machines: Vec::new(),
            oracle: Oracles::new(),
            formed_at: None,
            ends_now: false,
            told: None,
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
            stale_copy: None,
            setup: setup.clone(),
            story,
            random,
            plan,
        };
        let size = world.plan.members;
        let list = (1..=size).map(|id| (id, World::url(id as usize - 1)));
        let list: BTreeMap<u64, PeerUrl> = list.collect();
        for id in 1..=size {
            let machine = world.add_machine(id);
            world.machines[machine].first_of = list.clone();
            world.machines[machine].ready = true;
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

    pub fn add_machine(&mut self, id: u64) -> usize {
        let number = self.machines.len();
        let disk = FakeDisk::new(self.random.next());
        self.machines.push(Machine {
            id,
            url: World::url(number),
            disk,
            epoch: 0,
            process: None,
            paused_until: 0,
            first_of: BTreeMap::new(),
            dials: BTreeMap::new(),
            retired: false,
            ready: false,
            asks: false,
            full: false,
            incarnation: 0,
            is_home: false,
            moved_by_hand: false,
            tells_move: false,
            role: Role::Member,
            memory: Memory::Intact,
            broken: false,
            to_be_added: false,
            forsaken: false,
            copy: None,
            copy_members: Members::default(),
            before_let_in: None,
            crashes_at_mark: false,
            crashes_ahead: 0,
            contradicted: None,
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

    /// Prints an event of the run's story.
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
            Event::Spare(target) => self.begin_spare(target),
            Event::SpareMade(target, done) => self.end_spare(target, done),
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
            Event::Stale(target, peer) => self.end_stale(target, peer),
            Event::Flap(machine) => self.flap(machine),
            Event::Lie(target, lie) => self.lie(target, *lie),
            Event::Contradicted(target, proof) => self.contradicted(target, proof),
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
                if self.operator_waits() {
                    self.read_answers();
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
}
