//! Circumstances that make one chain of events likely. Some faults show only behind such a chain, each link of which is
//! rare in a run that has a little of everything; so some of the runs are set up for one of them.
//!
//! Whether a run has a scene is drawn from a stream of its own: the other runs are what they would be without scenes.

use super::{Changes, Kind, Plan};
use crate::disk::Random;
use crate::network::Weather;
use crate::ports::Promise;
use crate::world::{MILLISECOND, SECOND};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scene {
    /// All members start at once, with no leader, on a slow network, so that several ask for votes in one term; a voter
    /// often loses power behind its vote, and is back before the next candidate asks it.
    ContestedElections,
    /// Messages come twice and late, so that the answer to a read's round comes when a newer round is under way, and a
    /// follower that does not hold a write yet is asked for it.
    LateAnswers,
    /// The power goes at syncs, again and again, while large entries are written in batches that are small beside them.
    TornWrites,
    /// Learners come when nobody writes, they answer a snapshot before it is known to have arrived, and nothing happens
    /// before the end that would move the log.
    IdleJoiners,
    /// One voter that starts again and again: what it publishes at a start is applied late, and somebody reads it before.
    LoneVoter,
    /// The same with a learner that is far away, and a slow disk, so that much is sent before it is durable; and the
    /// power goes behind that.
    LoneVoterWithLearner,
    /// Members that start late and lose their disks, so that the emptied one meets some that never met it before.
    Emptied,
    /// A cluster of one grows, nothing is written behind the last promotion, and the power goes.
    GrownThenDark,
    /// The first member of a cluster that has grown loses its disk, and is started by its old line.
    FirstEmptied,
    /// Older copies of disks take their places, while little is asked for.
    OlderCopies,
    /// The power goes, and disks are lost, while the cluster forms.
    Forming,
    /// Members move, one after the other or all at once.
    Moving,
    /// Somebody who knows the cluster lies about who he is, and members contradict each other.
    Liars,
    /// Disks fill up, often all at once, while much is written.
    FullDisks,
}

/// Of 1000 runs.
const SCENES: [(Scene, u64); 14] = [
    (Scene::ContestedElections, 100),
    (Scene::LateAnswers, 80),
    (Scene::TornWrites, 150),
    (Scene::IdleJoiners, 50),
    (Scene::LoneVoter, 40),
    (Scene::LoneVoterWithLearner, 60),
    (Scene::Emptied, 40),
    (Scene::GrownThenDark, 40),
    (Scene::FirstEmptied, 30),
    (Scene::OlderCopies, 40),
    (Scene::Forming, 60),
    (Scene::Moving, 40),
    (Scene::Liars, 40),
    (Scene::FullDisks, 60),
];

impl Scene {
    pub fn draw(random: &mut Random) -> Option<Scene> {
        let mut left = random.below(1000);
        for (scene, share) in SCENES {
            match left.checked_sub(share) {
                Some(rest) => left = rest,
                None => return Some(scene),
            }
        }
        None
    }

    pub fn set_up(self, plan: &mut Plan, random: &mut Random) {
        match self {
            Scene::ContestedElections => contested_elections(plan, random),
            Scene::LateAnswers => late_answers(plan, random),
            Scene::TornWrites => torn_writes(plan, random),
            Scene::IdleJoiners => idle_joiners(plan, random),
            Scene::LoneVoter => lone_voter(plan, random),
            Scene::LoneVoterWithLearner => lone_voter_with_learner(plan, random),
            Scene::Emptied => emptied(plan),
            Scene::GrownThenDark => grown_then_dark(plan, random),
            Scene::FirstEmptied => first_emptied(plan, random),
            Scene::OlderCopies => older_copies(plan, random),
            Scene::Forming => forming(plan, random),
            Scene::Moving => moving(plan, random),
            Scene::Liars => liars(plan, random),
            Scene::FullDisks => full_disks(plan, random),
        }
    }
}

fn contested_elections(plan: &mut Plan, random: &mut Random) {
    plan.members = *random.pick(&[3, 5]);
    plan.changes = Changes::None;
    plan.staged = 0;
    plan.climate.delay = *random.pick(&[5, 40]) * MILLISECOND;
    plan.climate.loss = *random.pick(&[300, 500]);
    plan.restart = *random.pick(&[50, 200]) * MILLISECOND;
    plan.crashes_behind = Some((Promise::Vote, 500));
    plan.kinds = vec![
        Kind::PowerLossEverywhere,
        Kind::PowerLossEverywhere,
        Kind::CrashAtVote,
        Kind::Pause,
    ];
    plan.interval = *random.pick(&[500, 1000]) * MILLISECOND;
    plan.duration = 30 * SECOND;
    // Of most of it nobody learns what became, and the checker has to try every order of that.
    plan.asks.asks_little();
}

fn late_answers(plan: &mut Plan, random: &mut Random) {
    plan.members = *random.pick(&[3, 3, 5]);
    plan.changes = Changes::None;
    plan.staged = 0;
    plan.climate = Weather {
        loss: 0,
        doubling: *random.pick(&[100, 400]),
        delay: *random.pick(&[5, 30, 80]) * MILLISECOND,
        stragglers: *random.pick(&[50, 200]),
    };
    plan.kinds.retain(|kind| {
        matches!(
            kind,
            Kind::Isolate | Kind::OneWay | Kind::Split | Kind::Pause
        )
    });
    plan.interval = 8 * SECOND;
    plan.duration = 20 * SECOND;
    plan.asks.reads_and_writes();
}

fn torn_writes(plan: &mut Plan, random: &mut Random) {
    plan.members = 3;
    plan.staged = 0;
    plan.kinds = vec![Kind::CrashAtSync; 5];
    plan.kinds.extend([Kind::CrashAtMark; 4]);
    plan.kinds
        .extend([Kind::CrashAtOperation, Kind::PowerLossEverywhere]);
    plan.restart = *random.pick(&[200, 1000]) * MILLISECOND;
    plan.interval = *random.pick(&[200, 500]) * MILLISECOND;
    plan.duration = 20 * SECOND;
    plan.batch_bytes = Some(*random.pick(&[1 << 10, 1 << 10, 8 << 10]));
    plan.snapshot_bytes = Some(*random.pick(&[4 << 10, 16 << 10]));
    plan.asks.large_writes(*random.pick(&[1500, 3000, 6000]));
}

fn idle_joiners(plan: &mut Plan, random: &mut Random) {
    plan.members = *random.pick(&[1, 3]);
    plan.members_max = 5;
    plan.changes = Changes::Grow;
    plan.operator_pause = *random.pick(&[1, 3]) * SECOND;
    plan.duration = 20 * SECOND;
    plan.kinds.clear();
    plan.late_reports = 800;
    plan.snapshot_bytes = Some(2 << 10);
    plan.forsakes = false;
    plan.ends_in_the_dark = false;
    plan.asks.large_writes(1500);
    plan.asks.falls_silent(random.between(SECOND, 4 * SECOND));
}

fn lone_voter(plan: &mut Plan, random: &mut Random) {
    plan.members = 1;
    plan.changes = Changes::None;
    plan.slow_threads = true;
    plan.slow_applies = 800;
    plan.cache_bytes = Some(u64::MAX);
    plan.restart = *random.pick(&[50, 500]) * MILLISECOND;
    plan.kinds = vec![Kind::PowerLoss, Kind::Kill];
    plan.interval = *random.pick(&[1, 3]) * SECOND;
    plan.duration = 20 * SECOND;
    // Much is left to be applied at a start, in one batch.
    plan.snapshot_bytes = Some(64 << 10);
    plan.asks.reads_and_writes();
}

fn lone_voter_with_learner(plan: &mut Plan, random: &mut Random) {
    plan.members = 1;
    plan.changes = Changes::Alternate;
    plan.operator_pause = SECOND;
    plan.climate.delay = *random.pick(&[1, 20]) * MILLISECOND;
    plan.slow_threads = true;
    plan.slow_syncs = *random.pick(&[300, 700]);
    plan.restart = *random.pick(&[50, 500]) * MILLISECOND;
    plan.crashes_behind = Some((Promise::Lead, 500));
    plan.kinds = vec![Kind::CrashAtLead, Kind::PowerLoss, Kind::Kill];
    plan.interval = *random.pick(&[500, 1000]) * MILLISECOND;
    plan.duration = 30 * SECOND;
    plan.asks.reads_and_writes();
}

/// A kind of fault that comes more often than all others.
fn favour(plan: &mut Plan, kind: Kind) {
    plan.kinds.extend([kind; 60]);
}

fn emptied(plan: &mut Plan) {
    favour(plan, Kind::LoseDisk);
    (plan.members, plan.changes) = (3, Changes::None);
    plan.staged = 8 * SECOND;
    plan.strikes_early = true;
    plan.interval = plan.interval.min(SECOND);
    plan.duration = plan.duration.max(20 * SECOND);
}

fn grown_then_dark(plan: &mut Plan, random: &mut Random) {
    (plan.members, plan.changes) = (1, Changes::Grow);
    plan.members_max = 3;
    plan.operator_pause = random.between(SECOND, 6 * SECOND);
    plan.duration = plan.duration.max(20 * SECOND);
    plan.asks.asks_seldom();
    (plan.ends_in_the_dark, plan.forsakes) = (true, true);
    plan.ends_at_change = *random.pick(&[0, 200, 400]);
}

fn first_emptied(plan: &mut Plan, random: &mut Random) {
    favour(plan, Kind::LoseDisk);
    (plan.members, plan.changes) = (1, Changes::Grow);
    plan.members_max = 3;
    plan.operator_pause = random.between(SECOND, 6 * SECOND);
    plan.duration = plan.duration.max(20 * SECOND);
}

fn older_copies(plan: &mut Plan, random: &mut Random) {
    plan.changes = Changes::None;
    plan.duration = plan.duration.max(20 * SECOND);
    (plan.interval, plan.asks.thinking) = (700 * MILLISECOND, 400 * MILLISECOND);
    plan.restart = 500 * MILLISECOND;
    if random.chance(300) {
        plan.members = 5;
        plan.operator_pause = SECOND;
        plan.kinds = vec![Kind::StaleCopy];
        // The next leader would bring the copy up to date.
        plan.asks.keeps_the_leader();
        return;
    }
    plan.members = 3;
    favour(plan, Kind::OlderCopy);
    // So that a copy is of an earlier start.
    plan.kinds.extend([Kind::Kill; 5]);
}

fn forming(plan: &mut Plan, random: &mut Random) {
    plan.members = *random.pick(&[2, 3, 3, 5]);
    plan.changes = *random.pick(&[Changes::None, Changes::Grow]);
    plan.strikes_early = true;
    plan.staged = *random.pick(&[0, 0, 500, 3000]) * MILLISECOND;
    plan.restart = *random.pick(&[50, 500]) * MILLISECOND;
    plan.interval = *random.pick(&[100, 300]) * MILLISECOND;
    plan.duration = *random.pick(&[3, 8]) * SECOND;
    plan.climate.delay = *random.pick(&[1, 20, 60]) * MILLISECOND;
    favour(
        plan,
        *random.pick(&[Kind::PowerLoss, Kind::PowerLossEverywhere, Kind::Split]),
    );
    plan.kinds.extend([Kind::LoseDisk; 30]);
}

fn moving(plan: &mut Plan, random: &mut Random) {
    plan.members = *random.pick(&[1, 3, 3, 5]);
    plan.moves = 1000;
    plan.moves_by_hand = *random.pick(&[0, 0, 1000]);
    plan.operator_pause = *random.pick(&[1, 3, 6]) * SECOND;
    if plan.moves_by_hand > 0 {
        // The others have to be enough to be told.
        (plan.members, plan.changes) = (*random.pick(&[3, 5]), Changes::None);
        plan.operator_pause = SECOND;
    }
    plan.duration = plan.duration.max(20 * SECOND);
}

fn liars(plan: &mut Plan, random: &mut Random) {
    favour(plan, Kind::Stranger);
    plan.kinds.extend([Kind::Contradiction; 60]);
    plan.members = *random.pick(&[1, 3, 3]);
    plan.interval = *random.pick(&[200, 1000]) * MILLISECOND;
    plan.duration = plan.duration.max(10 * SECOND);
}

fn full_disks(plan: &mut Plan, random: &mut Random) {
    favour(plan, Kind::FullDisk);
    // A start on a full disk, and elections among full members.
    plan.kinds.extend([Kind::Kill; 10]);
    plan.kinds.extend([Kind::Isolate; 10]);
    plan.members = *random.pick(&[1, 3, 3, 5]);
    plan.interval = *random.pick(&[500, 2000]) * MILLISECOND;
    plan.duration = 20 * SECOND;
    plan.snapshot_bytes = Some(*random.pick(&[4 << 10, 16 << 10]));
    plan.asks.large_writes(*random.pick(&[100, 1500, 3000]));
}
