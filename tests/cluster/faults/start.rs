//! First starts: the members begin some time apart and in any order, one perhaps only much later, and one perhaps without
//! what it had on its disk. Their cluster is that of one list, or of one member that the others join by its address.

use super::nemesis::Nemesis;
use crate::harness::{PATIENCE, eventually, require};
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

/// Two first starts are at most this far apart.
const APART: Duration = Duration::from_secs(2);

/// Of a cluster that is joined: a late member starts after so many acknowledged writes.
const WRITES_BEFORE_LATE: u64 = 100;

/// The member that begins a cluster that others join.
pub const FIRST: u64 = 1;

impl Nemesis<'_> {
    /// Starts the first members.
    pub fn start(&mut self) {
        let joining = self.random.one_in(2);
        if joining {
            self.let_others_join();
        }
        let mut order = self.ids();
        for place in (1..order.len()).rev() {
            order.swap(place, self.random.below(place as u64 + 1) as usize);
        }
        let is_late = self.random.one_in(2);
        let how = if joining { "by joining" } else { "by one list" };
        let late = if is_late { ", the last one late" } else { "" };
        self.say("first starts", format!("{order:?} {how}{late}"));
        let (last, before) = order.split_last().expect("there are three");
        for &id in before {
            self.cluster.node(id).start();
            thread::park_timeout(self.random.between(Duration::ZERO, APART));
        }
        match joining {
            // Without its first member a cluster that is joined does not exist.
            true if is_late && *last != FIRST => self.see_two_serve(),
            true => {}
            false if is_late => self.see_two_wait(before),
            false => {}
        }
        self.cluster.node(*last).start();
        for id in order {
            self.cluster.node(id).wait_ready();
        }
        self.settle(&self.ids());
    }

    fn see_two_serve(&mut self) {
        let acknowledged = &self.clients.acknowledged;
        eventually("two of three serve", PATIENCE, || {
            let now = acknowledged.load(SeqCst);
            require(now > WRITES_BEFORE_LATE, || format!("{now}"))
        });
        self.keep("two of three served before the third was started");
    }

    /// Of one list nobody serves before all are there. So a disk that is lost now is no loss.
    fn see_two_wait(&mut self, two: &[u64]) {
        for &id in two {
            self.cluster.node(id).wait_closed("forming");
        }
        if self.random.one_in(2) {
            let lost = self.random.pick(two);
            self.say("lost disk between first starts", format!("node {lost}"));
            let node = self.cluster.node(lost);
            node.kill();
            node.wipe();
            node.start();
            node.wait_closed("forming");
        }
        assert_eq!(self.clients.acknowledged.load(SeqCst), 0);
        self.keep("503 forming: two of three served nobody");
    }

    /// Makes the command lines those of a cluster that grows.
    fn let_others_join(&mut self) {
        for id in self.ids() {
            let to_first = format!("http://{}", self.cluster.address(FIRST));
            let node = self.cluster.node(id);
            let at = node.arguments.iter().position(|a| a == "--cluster");
            let at = at.expect("every member has its list");
            node.arguments.drain(at..at + 2);
            let url = node.url();
            node.set_flag("--peer-url", &url);
            if id != FIRST {
                node.set_flag("--join", &to_first);
            }
        }
    }

    /// This member is the first of a cluster that others joined, and its line says so.
    pub fn begins_alone(&self, id: u64) -> bool {
        let arguments = &self.cluster.nodes[&id].arguments;
        !arguments.iter().any(|a| a == "--cluster" || a == "--join")
    }

    /// From now on it is started as a member that joins. What its line named before may be gone: an empty member tells
    /// who it is to nobody but those that its line names, and to the leader that these name.
    pub fn let_it_join(&mut self, id: u64) {
        if let Some(certificates) = &self.cluster.certificates {
            certificates.replace_member(id);
        }
        let begins_alone = self.begins_alone(id);
        let node = self.cluster.node(id);
        let has_list = node.arguments.iter().any(|a| a == "--cluster");
        if begins_alone || !has_list {
            return self.ask_all_others(id);
        }
        if !node.arguments.iter().any(|a| a == "--join") {
            node.arguments.push("--join".to_owned());
        }
        self.renew_list(id);
    }

    /// If this member asks members by URL to be added, its line names all others from now on.
    pub fn renew_join(&mut self, id: u64) {
        let arguments = &self.cluster.nodes[&id].arguments;
        let has = |flag: &str| arguments.iter().any(|a| a == flag);
        if has("--join") && !has("--cluster") {
            self.ask_all_others(id);
        }
    }

    fn ask_all_others(&mut self, id: u64) {
        let others = self.cluster.nodes.values().filter(|node| node.id != id);
        let asked: Vec<String> = others.map(|n| format!("http://{}", n.address)).collect();
        self.cluster.node(id).set_flag("--join", &asked.join(","));
    }
}
