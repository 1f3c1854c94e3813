//! Members that lose their disk, or get an older copy of it, and how they are repaired: as the book says, removed and
//! added again with an empty directory.
//!
//! Such a member has forgotten what it acknowledged and whom it voted for. So at most one member is in this state,
//! and meanwhile the only other faults are resets of connections. Either the member exits with code 5, or, if it has
//! an older copy and nobody remembers what is missing in it, it follows the leader as before.
//!
//! Raft has no answer to an older copy that votes while what it acknowledged is on one other disk alone. So the copy
//! comes back only when the others agree on a leader, a term and everything that was committed before.

use super::nemesis::Nemesis;
use super::start::FIRST;
use crate::harness::{PATIENCE, eventually, require};
use crate::http;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// What is written between a copy and its return, at least; few enough that the log still has it.
const WRITES_SINCE_COPY: u64 = 40;

/// As the members are told: see [`super`].
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// How long clients go on with a member that is led on from an older copy.
const LED_ON: Duration = Duration::from_millis(800);

impl Nemesis<'_> {
    /// A member is killed and its data directory is gone. It may be started with its old line first.
    pub fn lose_disk(&mut self) {
        self.end_all();
        self.settle(&self.ids());
        let id = self.victim();
        match self.random.one_in(3) {
            true => self.lose(id, "", |_| ()),
            false if self.begins_alone(id) => self.lose_first_disk(),
            false => self.lose(id, ", and it is started by its old line", |nemesis| {
                // Only a member that it dials can end it, and the members that its line names may be gone.
                nemesis.renew_list(id);
                nemesis.renew_join(id);
                let node = nemesis.cluster.node(id);
                node.start_expecting_exit(5);
                let said = node.last_log();
                assert!(said.contains("curl -X DELETE"), "{said}");
                nemesis.keep("exit 5: an emptied directory");
                // It has asked to be added, which may be granted until the deadline of that: also behind its removal.
                thread::park_timeout(REQUEST_TIMEOUT);
            }),
        }
    }

    /// The member that others have joined loses its disk, and is started by its old line. Until it hears of the others
    /// nobody can tell that from a first start, so nobody asks it.
    fn lose_first_disk(&mut self) {
        self.clients.shunned.set(FIRST);
        let how = ", and it is started by its old line as the first of all";
        self.lose(FIRST, how, |nemesis| {
            let node = nemesis.cluster.node(FIRST);
            node.start();
            node.wait_closed("other-life");
            let refused = node.send("PUT", "/hot/0", &[], b"split");
            assert_eq!(refused.status, 503, "{refused:?}");
            node.kill();
            nemesis.keep("503 other-life: an emptied first member");
        });
        self.clients.shunned.set(0);
    }

    /// Loses a disk, does this with what is left, and repairs it.
    fn lose(&mut self, id: u64, how: &str, then: impl FnOnce(&mut Self)) {
        let node = self.cluster.node(id);
        node.kill();
        node.wipe();
        self.say("lost disk", format!("node {id}{how}"));
        then(self);
        self.repair(id);
    }

    /// A member goes on with a copy that was taken while it was stopped.
    pub fn older_copy(&mut self) {
        self.end_all();
        self.settle(&self.ids());
        // Of one start ago, so that both starts have one number; or older.
        if self.random.one_in(2) {
            self.copies.clear();
        }
        let ids: Vec<u64> = self.copies.keys().copied().collect();
        let id = match ids.is_empty() {
            true => self.copy_now(),
            false => self.random.pick(&ids),
        };
        let copy = self.copies.remove(&id).expect("there is a copy");
        self.say("older copy", format!("node {id}"));
        self.cluster.node(id).kill();
        let others: Vec<u64> = self.ids().into_iter().filter(|&o| o != id).collect();
        self.settle(&others);
        let node = self.cluster.node(id);
        node.put_back(&copy);
        node.start();
        match self.led_on_or_ended(id) {
            None => self.keep("an older copy: led on"),
            Some(code) => {
                let said = self.cluster.nodes[&id].last_log();
                let as_documented = code == Some(5) && said.contains("older copy");
                assert!(as_documented, "exit code {code:?}; it said:\n{said}");
                self.keep("exit 5: an older copy");
            }
        }
        self.repair(id);
    }

    /// What a member holds that is stopped now is kept, to come back later.
    pub fn copy_data(&mut self, id: u64) {
        if self.copies.contains_key(&id) || !self.members.contains(&id) {
            return;
        }
        self.copied += 1;
        let name = format!("copy-{id}-{}", self.copied);
        let copy: PathBuf = self.cluster.path().join(name);
        self.cluster.nodes[&id].copy_data_to(&copy);
        self.copies.insert(id, copy);
    }

    /// Makes a copy that is older some time later.
    fn copy_now(&mut self) -> u64 {
        let id = self.victim();
        self.cluster.node(id).kill();
        self.copy_data(id);
        self.cluster.node(id).start();
        self.settle(&self.ids());
        self.clients.wait_for_writes(WRITES_SINCE_COPY);
        id
    }

    /// Waits until a member that was started from an older copy has caught up, and goes on for a while; or until it has
    /// ended, with which code?
    fn led_on_or_ended(&mut self, id: u64) -> Option<Option<i32>> {
        let others: Vec<u64> = self.ids().into_iter().filter(|&o| o != id).collect();
        let committed = |status: crate::process::Status| status.committed;
        let ask = |other: &u64| self.cluster.nodes[other].status().ok().map(committed);
        let goal = others.iter().filter_map(ask).max().expect("the others run");
        let node = self.cluster.node(id);
        let ended = eventually("an older copy is led on or ends", PATIENCE, || {
            if let Some(code) = node.ended() {
                return Ok(Some(code));
            }
            let status = node.status()?;
            require(status.applied >= goal, || format!("{status:?}")).map(|()| None)
        });
        ended.or_else(|| {
            thread::park_timeout(LED_ON);
            node.ended()
        })
    }

    /// Removes a member that has lost its memory, and adds it again with nothing.
    pub fn repair(&mut self, id: u64) {
        self.ask_to_remove(id);
        if self.cluster.nodes[&id].has_process() {
            self.see_it_leave(id);
        }
        let node = self.cluster.node(id);
        if node.data_dir.exists() {
            node.wipe();
        }
        self.add_member(id);
        self.settle(&self.ids());
        self.keep("a member that lost its memory: repaired");
    }

    /// Waits until these members, all of them voters, agree on leader, term and members, know where each is reached,
    /// and have applied all that was acknowledged before they did.
    pub fn settle(&self, ids: &[u64]) {
        let mut goal = None;
        eventually("the members agree", PATIENCE, || {
            let statuses = ids
                .iter()
                .map(|id| self.cluster.nodes[id].status())
                .collect::<Result<Vec<_>, _>>()?;
            let (first, told) = (&statuses[0], || format!("{statuses:?}"));
            let agreed = statuses.iter().all(|status| {
                self.clients.leaders.note(status);
                let members = status.members.iter();
                let voters = members.filter(|m| !m.learner).map(|m| m.id);
                let urls = status.members.iter().map(|m| (m.id, &*m.url));
                ids.contains(&status.leader)
                    && (status.leader, status.term) == (first.leader, first.term)
                    && status.members.len() == self.members.len()
                    && voters.eq(self.members.iter().copied())
                    && { urls }.all(|(id, url)| self.cluster.nodes[&id].url() == url)
            });
            require(agreed, told)?;
            if goal.is_none() {
                // A leader knows what was committed before its time when it has committed something itself.
                let leader = &self.cluster.nodes[&first.leader];
                let ready = http::request(leader.address, "GET", "/-/ready", &[], b"");
                let is_ready = ready.as_ref().is_ok_and(|r| r.status == 200);
                require(is_ready, || format!("{ready:?}"))?;
                goal = Some(leader.status()?.committed);
            }
            require(statuses.iter().all(|s| Some(s.applied) >= goal), told)
        });
    }
}
