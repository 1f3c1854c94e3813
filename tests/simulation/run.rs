//! One run: a time with faults, then *peace*: no more faults, and the cluster has to recover.

use crate::checker::{self, Input};
use crate::clients::Wish;
use crate::mix::key_name;
use crate::oracle;
use crate::plan::Setup;
use crate::world::{MILLISECOND, SECOND, Summary, World};
use slog::Logger;

/// How long the cluster may take to recover once there are no more faults.
const PATIENCE: u64 = 120 * SECOND;

/// Runs a seed; panics when something that must hold does not.
pub fn run(setup: &Setup, story: bool, logger: &Logger) -> Summary {
    let mut world = World::new(setup, story, logger);
    let duration = world.plan.duration;
    world.run_until(duration, |world| world.ends_now);
    world.heal();
    // What clients and the operator have asked for comes to its end.
    world.run_until(world.now + 5 * SECOND, |_| false);
    world.converge();
    world.hand_over();
    world.write_everywhere();
    world.converge();
    world.read_everywhere();
    world.back_up_now();
    world.watch_to_the_end();
    world.give_up_all();
    let history = &world.clients.history;
    if let Err(violation) = checker::check(history) {
        panic!("{violation}");
    }
    world.summary.operations = history.len() as u64;
    let (refused, void) = world.oracle.written.refused();
    let counts = &mut world.summary.counts;
    counts.insert("writes refused by a member", refused);
    counts.insert("writes refused by a member that are in a log, void", void);
    world.summary.simulated = world.now;
    world.summary.committed = world.oracle.committed();
    world.summary.trace ^= oracle::hash(history);
    world.summary
}

impl World {
    /// Waits until all members run, are voters, and hold the same.
    fn converge(&mut self) {
        let end = self.now + PATIENCE;
        let mut steps = 0;
        loop {
            self.start_members();
            self.read_answers();
            steps += 1;
            // Not more often than a person would.
            if steps % 20 == 0 && !self.rescue_formation() && !self.repair() {
                self.renew_lines();
                self.let_joiners_ask();
                self.tell_moves();
            }
            let why = match self.unsettled() {
                None => return,
                Some(why) => why,
            };
            if self.now >= end {
                for line in self.describe_connections() {
                    self.tell(|| line);
                }
                panic!("no progress in peace: {why}");
            }
            self.run_until(self.now + 50 * MILLISECOND, |_| false);
        }
    }

    fn unsettled(&self) -> Option<String> {
        let members = self.oracle.members();
        let mut applied = None;
        for (id, member) in &members.members {
            let place = World::machine_at(&member.url);
            if self.machines[place].forsaken {
                continue;
            }
            let Some(process) = self.machines[place].process.as_ref() else {
                return Some(format!("machine {place} of member {id} does not run"));
            };
            let status = process.node().status();
            let state = (status.leader, status.committed, status.applied);
            let is_bound = member.incarnation == process.view.incarnation;
            let is_closed = process.inbox.closed().is_some();
            if member.learner || !is_bound || is_closed || *process.node().members() != *members {
                return Some(format!(
                    "member {id} on machine {place}, bound: {is_bound}, closed: {is_closed}: {status:?}"
                ));
            }
            let same = *applied.get_or_insert(state) == state;
            if !same || state.0 == 0 || state.1 != state.2 || process.applied() != state.2 {
                return Some(format!("member {id} on machine {place}: {status:?}"));
            }
        }
        let forms = members.members.is_empty() || !members.is_formed() || self.formed_at.is_none();
        forms.then(|| "no cluster has formed".to_owned())
    }

    /// The machines of the members.
    pub fn places(&self) -> Vec<usize> {
        let members = self.oracle.members();
        let places = members.members.values().map(|m| World::machine_at(&m.url));
        places
            .filter(|place| !self.machines[*place].forsaken)
            .collect()
    }

    /// Any of the members can be made to lead, through any of them.
    fn hand_over(&mut self) {
        let places = self.places();
        let to = self.machines[*self.clients.random.pick(&places)].id;
        let place = *self.clients.random.pick(&places);
        let before = self.counted("handovers done");
        let end = self.now + PATIENCE;
        while self.counted("handovers done") == before {
            assert!(self.now < end, "member {to} does not come to lead");
            let operation = self.ask_for(place, Wish::Handover { to });
            self.finish(operation);
        }
    }

    fn write_everywhere(&mut self) {
        for place in self.places() {
            let before = self.counted("writes acknowledged");
            let end = self.now + PATIENCE;
            while self.counted("writes acknowledged") == before {
                assert!(self.now < end, "no write through machine {place} succeeds");
                let key = self.clients.random.below(self.plan.asks.keys);
                let operation = self.ask_write(place, key);
                self.finish(operation);
            }
        }
    }

    pub fn counted(&self, what: &str) -> u64 {
        self.summary.counts.get(what).copied().unwrap_or(0)
    }

    fn read_everywhere(&mut self) {
        for place in self.places() {
            let reads = (0..self.plan.asks.keys).map(|key| Input::Get { key: key_name(key) });
            let list = Input::List {
                prefix: Vec::new(),
                after: None,
                limit: None,
                values: true,
            };
            for input in reads.chain([list]) {
                let operation = self.ask_for(place, Wish::Operation(input));
                self.finish(operation);
            }
        }
    }

    fn watch_to_the_end(&mut self) {
        self.run_until(self.now + PATIENCE, World::watchers_are_up_to_date);
        assert!(
            self.watchers_are_up_to_date(),
            "watchers miss changes up to {} in peace",
            self.oracle.newest()
        );
    }

    fn finish(&mut self, operation: u64) {
        let end = self.now + PATIENCE;
        self.run_until(end, |world| !world.clients.is_open(operation));
    }
}
