//! Members that go on at another peer port with what is on their disks: one, and the others hear of it from itself; or
//! all at once, and each finds the others by the new list on its command line.

use super::nemesis::Nemesis;
use crate::harness::{PATIENCE, eventually, require};
use rustix::process::Signal;

impl Nemesis<'_> {
    /// A member is stopped, or killed, and comes back at its other port. Other faults may go on.
    pub fn move_one(&mut self) {
        if self.running().is_empty() {
            return;
        }
        let id = self.victim();
        let gently = self.random.one_in(2);
        let node = self.cluster.node(id);
        match gently {
            true => {
                node.signal(Signal::TERM);
                let code = node.exit_code(PATIENCE);
                assert_eq!(code, Some(0), "SIGTERM; it said:\n{}", node.last_log());
            }
            false => node.kill(),
        }
        self.change_port(id);
        self.say("moved", format!("node {id}"));
        self.cluster.node(id).start();
        if self.faults.is_empty() {
            self.see_moved(id);
        }
    }

    /// All are killed, and come back at their other ports. Only those that have a list can do that.
    pub fn move_all(&mut self) {
        let all = self.ids();
        let has_list = |id: &u64| {
            let arguments = &self.cluster.nodes[id].arguments;
            arguments.iter().any(|argument| argument == "--cluster")
        };
        if !all.iter().all(has_list) {
            return self.move_one();
        }
        self.settle(&all);
        for &id in &all {
            self.cluster.node(id).kill();
        }
        for &id in &all {
            let (before, after) = self.change_port(id);
            for &other in &all {
                self.cluster
                    .node(other)
                    .replace_in_arguments(&before, &after);
            }
        }
        self.say("moved at once", format!("nodes {all:?}"));
        for &id in &all {
            self.cluster.node(id).start();
        }
        self.settle(&all);
        self.keep("moved at once, and met by a new list");
    }

    /// Its list says where all are now.
    pub fn renew_list(&mut self, id: u64) {
        let urls: Vec<String> = self.cluster.nodes.values().map(|node| node.url()).collect();
        let node = self.cluster.node(id);
        if let Some(at) = node.arguments.iter().position(|a| a == "--cluster") {
            let count = node.arguments[at + 1].split(',').count();
            node.arguments[at + 1] = urls[..count].join(",");
        }
    }

    /// Its other port is the one that it has now. Its URLs, the one before and the one from now on.
    fn change_port(&mut self, id: u64) -> (String, String) {
        let node = self.cluster.node(id);
        let spare = self.spare_ports.get_mut(&id).expect("it has two ports");
        let port = std::mem::replace(spare, node.peer_address.port());
        let before = node.url();
        node.move_to(port);
        (before, node.url())
    }

    /// Every member knows where this one is.
    fn see_moved(&mut self, id: u64) {
        let url = self.cluster.nodes[&id].url();
        for on in self.ids() {
            eventually("a moved member is found", PATIENCE, || {
                let status = self.cluster.nodes[&on].status()?;
                let is_known = status.member(id).is_some_and(|member| member.url == url);
                require(is_known, || format!("node {on}: {status:?}"))
            });
        }
        self.keep("moved, and known there");
    }
}
