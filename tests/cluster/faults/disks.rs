//! Members that lose their disk, or get an older copy of it, and how they are repaired: as the README says, removed and
//! added again with an empty directory.
//!
//! Such a member has forgotten what it acknowledged and whom it voted for. So at most one member is in this state,
//! and meanwhile the only other faults are resets of connections. Either the member exits with code 5, or, if it has
//! an older copy and no leader remembers how far its log reached, it follows the leader as before.
//!
//! Raft has no answer to an older copy that votes while what it acknowledged is on one other disk alone. So the copy
//! comes back only when the others agree on a leader, a term and everything that was committed before. And what a
//! member proposes from an older copy may bear the number of something that it proposed before: clients only read
//! through it. Without these two rules the daemon fails: see [`super`].

use super::nemesis::{IMPATIENCE, Nemesis};
use crate::harness::{PATIENCE, eventually, require};
use crate::http;
use std::path::PathBuf;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

/// What is written between a copy and its return, at least; few enough that the log still has it.
const WRITES_SINCE_COPY: u64 = 40;

/// How long clients read through a member that is led on from an older copy.
const READING: Duration = Duration::from_millis(800);

impl Nemesis<'_> {
    /// A member is killed and its data directory is gone. It may be started with its old line first.
    pub fn lose_disk(&mut self) {
        self.end_all();
        self.settle(&self.ids());
        let id = self.victim();
        self.wait_until_met(id);
        // Nobody can tell a first start of that one from another start.
        let by_old_line = !self.random.one_in(3) && (super::known() || !self.begins_alone(id));
        let node = self.cluster.node(id);
        node.kill();
        node.wipe();
        let how = if by_old_line {
            ", and it is started by its old line"
        } else {
            ""
        };
        self.say("lost disk", format!("node {id}{how}"));
        if by_old_line {
            let node = self.cluster.node(id);
            node.start_expecting_exit(5);
            let said = node.last_log();
            assert!(said.contains("it was emptied or replaced"), "{said}");
            self.keep("exit 5: an emptied directory");
        }
        self.repair(id);
    }

    /// A member goes on with a copy that was taken while it was stopped.
    pub fn older_copy(&mut self) {
        self.end_all();
        self.settle(&self.ids());
        if super::known() {
            // One start ago it gave the same numbers to what it proposed.
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
        if !super::known() {
            let others: Vec<u64> = self.ids().into_iter().filter(|&o| o != id).collect();
            self.settle(&others);
            self.clients.old_copy.store(id, SeqCst);
        }
        let node = self.cluster.node(id);
        node.put_back(&copy);
        node.start();
        if self.is_led_on(id) {
            self.keep("an older copy: led on");
            self.observe();
            thread::park_timeout(READING);
            self.observe();
            self.take_leadership_from(id);
        }
        self.repair(id);
        self.clients.old_copy.store(0, SeqCst);
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

    /// Waits until a member that was started from an older copy has caught up (true), or has ended as it should.
    fn is_led_on(&mut self, id: u64) -> bool {
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
        let Some(code) = ended else {
            return true;
        };
        let said = node.last_log();
        let as_documented = code == Some(5) && said.contains("it is an old copy or was damaged");
        assert!(as_documented, "exit code {code:?}; it said:\n{said}");
        self.keep("exit 5: an older copy");
        false
    }

    /// What a leader on an older copy proposes is passed over, the settlement of its own removal too.
    fn take_leadership_from(&mut self, id: u64) {
        let others: Vec<u64> = self.ids().into_iter().filter(|&o| o != id).collect();
        eventually("another member leads", PATIENCE, || {
            let via = (others[0], self.cluster.address(others[0]));
            let status = self.cluster.nodes[&others[0]].status()?;
            if status.leader == id {
                let asked = self.clients.leaders.ask_for(others[0], via, IMPATIENCE);
                asked.map_err(|error| error.to_string())?;
            }
            require(others.contains(&status.leader), || format!("{status:?}"))
        });
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

    /// Waits until these members, all of them voters, agree on leader, term and members, and have applied all that was
    /// acknowledged before they did.
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
                ids.contains(&status.leader)
                    && (status.leader, status.term) == (first.leader, first.term)
                    && status.members.len() == self.members.len()
                    && voters.eq(self.members.iter().copied())
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

    /// Waits until every other member has been connected to this one as it is now, and so knows its incarnation.
    pub fn wait_until_met(&self, id: u64) {
        let series = format!("raftkvd_peer_connections_total{{peer=\"{id}\",lane=\"control\"}} ");
        for other in self.ids().into_iter().filter(|&other| other != id) {
            let address = self.cluster.address(other);
            eventually("the members have met", PATIENCE, || {
                let response = http::request(address, "GET", "/-/metrics", &[], b"");
                let text = response.map_err(|error| error.to_string())?.text();
                let count = text.lines().find_map(|line| line.strip_prefix(&series));
                let told = || format!("{other} of {id}: {count:?}");
                require(count.is_some_and(|count| count != "0"), told)
            });
        }
    }
}
