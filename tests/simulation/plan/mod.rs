//! What a run is made of, drawn once from its seed, so that runs differ in kind and not only in detail: how many
//! members and how they come and go, which faults there are, and how often each.
//!
//! A *swarm*: each seed leaves out about half of what could happen and favours some of the rest. So two rare things
//! meet in some runs more often than if every run had a little of everything.

mod cuts;
mod scenes;

pub use cuts::Cuts;

use crate::disk::Random;
use crate::mix::Mix;
use crate::network::Weather;
use crate::ports::Promise;
use crate::world::{MILLISECOND, SECOND};
use scenes::Scene;

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

/// A run.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    pub seed: u64,
    pub cuts: Cuts,
}

impl Setup {
    pub fn of(seed: u64) -> Setup {
        Setup {
            seed,
            cuts: Cuts::default(),
        }
    }
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Isolate,
    Split,
    OneWay,
    PowerLoss,
    PowerLossEverywhere,
    CrashAtOperation,
    CrashAtMark,
    CrashAtSync,
    CrashAtVote,
    CrashAtLead,
    FailedOperation,
    FullDisk,
    Pause,
    Kill,
    GracefulStop,
    Weather,
    Flap,
    LoseDisk,
    OlderCopy,
    StaleCopy,
    Stranger,
    Contradiction,
}

/// With how often each comes beside the others.
const KINDS: [(Kind, u64); 19] = [
    (Kind::Isolate, 10),
    (Kind::Split, 10),
    (Kind::OneWay, 10),
    (Kind::PowerLoss, 10),
    (Kind::PowerLossEverywhere, 10),
    (Kind::CrashAtOperation, 10),
    (Kind::CrashAtMark, 10),
    (Kind::CrashAtSync, 10),
    (Kind::CrashAtVote, 10),
    (Kind::FailedOperation, 10),
    (Kind::FullDisk, 10),
    (Kind::Pause, 10),
    (Kind::Kill, 10),
    (Kind::GracefulStop, 10),
    (Kind::Weather, 10),
    (Kind::Flap, 10),
    (Kind::LoseDisk, 6),
    (Kind::OlderCopy, 6),
    (Kind::Stranger, 6),
];

/// How the membership changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changes {
    None,
    /// Members are only added, and repaired.
    Grow,
    /// Members are added and removed.
    Any,
    /// One is added to a member that is alone, and any is removed of two.
    Alternate,
}

/// See the module.
pub struct Plan {
    pub members: u64,
    pub asks: Mix,
    pub changes: Changes,
    /// A cluster does not grow beyond.
    pub members_max: usize,
    /// The longest pause of the operator.
    pub operator_pause: u64,
    /// First members are started one after the other, over so long a time.
    pub staged: u64,
    /// Faults begin while the cluster forms, and the climate is there from the start.
    pub strikes_early: bool,
    /// Steps of the operator, of 1000, in which members move to other machines.
    pub moves: u64,
    /// Those of one member, of 1000, that the operator tells the cluster, and the member itself is not told.
    pub moves_by_hand: u64,
    /// Joiners, of 1000, that run before they are added.
    pub early_joiners: u64,
    /// Additions, of 1000, for which a process is started that was not meant: with the same id at another URL.
    pub impostors: u64,
    /// There are processes that nobody adds, under ids that nobody has.
    pub strays: u64,
    /// In the end a minority does not come back.
    pub forsakes: bool,
    /// Directly before that the power goes everywhere.
    pub ends_in_the_dark: bool,
    /// Trouble ends as soon as a change of members is settled, in so many of 1000.
    pub ends_at_change: u64,
    pub slow_threads: bool,
    /// With slow threads: batches, of 1000, that take long to be applied.
    pub slow_applies: u64,
    /// The longest time after which a process is started again that has ended.
    pub restart: u64,
    /// With slow threads: syncs, of 1000, that take long.
    pub slow_syncs: u64,
    /// Snapshot transfers, of 1000, whose end is known late to the sender.
    pub late_reports: u64,
    /// Behind what a process loses power, and in how many of 1000 starts.
    pub crashes_behind: Option<(Promise, u64)>,
    /// What the network is like between bad weathers.
    pub climate: Weather,
    /// What a batch of the WAL holds, what of the log is in memory, and behind how much a snapshot is taken, if it is not
    /// as drawn.
    pub batch_bytes: Option<usize>,
    pub cache_bytes: Option<u64>,
    pub snapshot_bytes: Option<u64>,
    /// Snapshot transfers that are cut, of 1000.
    pub cut_transfers: u64,
    pub duration: u64,
    /// Between faults.
    pub interval: u64,
    /// Each as often as it is favoured.
    pub kinds: Vec<Kind>,
}

impl Plan {
    pub fn draw(random: &mut Random, setup: &Setup) -> Plan {
        let share = random.between(2, 10);
        let mut kinds = Vec::new();
        for (kind, weight) in KINDS {
            let favoured = *random.pick(&[1, 1, 1, 4]);
            if random.below(10) < share {
                kinds.extend((0..weight * favoured).map(|_| kind));
            }
        }
        let changes = *random.pick(&[
            Changes::None,
            Changes::None,
            Changes::Grow,
            Changes::Any,
            Changes::Any,
        ]);
        let mut plan = Plan {
            members: *random.pick(&[1, 3, 3, 3, 5]),
            asks: Mix::draw(random),
            changes,
            members_max: *random.pick(&[3, 5]),
            operator_pause: *random.pick(&[3, 3, 15]) * SECOND,
            staged: *random.pick(&[0, 0, 1, 8]) * SECOND,
            strikes_early: random.chance(400),
            moves: *random.pick(&[0, 0, 100, 300]),
            moves_by_hand: 0,
            early_joiners: *random.pick(&[0, 0, 500]),
            impostors: *random.pick(&[0, 0, 0, 400]),
            strays: *random.pick(&[0, 0, 1, 2]),
            forsakes: random.chance(300),
            ends_in_the_dark: random.chance(500),
            ends_at_change: *random.pick(&[0, 0, 100, 400]),
            slow_threads: random.chance(500),
            slow_applies: 3,
            restart: 3 * SECOND,
            slow_syncs: 5,
            late_reports: 0,
            crashes_behind: None,
            climate: Weather::default(),
            batch_bytes: None,
            cache_bytes: None,
            snapshot_bytes: None,
            cut_transfers: *random.pick(&[0, 100, 500]),
            duration: *random.pick(&[5, 10, 20, 30, 60]) * SECOND,
            interval: *random.pick(&[200, 700, 2000, 8000]) * MILLISECOND,
            kinds,
        };
        if let Some(least) = plan.asks.quiet {
            (plan.duration, plan.interval) = (plan.duration.max(least), 10 * plan.interval);
        }
        let scenes = &mut Random(setup.seed ^ 0x5ce7_e5ee_d000_0000);
        if let Some(scene) = Scene::draw(scenes) {
            plan.strikes_early = false;
            scene.set_up(&mut plan, scenes);
        }
        if plan.members > 1 {
            // It has to form first.
            plan.duration += 2 * SECOND;
        }
        let cuts = &setup.cuts;
        plan.members = cuts.members.unwrap_or(plan.members);
        plan.duration = cuts.duration.unwrap_or(plan.duration);
        plan.asks.clients = cuts.clients.unwrap_or(plan.asks.clients);
        plan
    }
}
