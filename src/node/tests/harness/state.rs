//! Queries of the state of a cluster, and assertions about it.

use super::*;

impl Cluster {
    /// The id of the leader, if all running processes follow it; otherwise 0.
    pub fn leader(&self) -> u64 {
        let running = self.hosts.values().filter_map(|host| host.node.as_ref());
        let mut leaders = running.map(|node| node.raw.raft.leader_id);
        let leader = leaders.next().unwrap_or(0);
        if leaders.all(|other| other == leader) {
            leader
        } else {
            0
        }
    }

    pub fn term(&self, id: u64) -> u64 {
        self.see(id).raw.raft.term
    }

    /// Index of the last entry.
    pub fn last(&self, id: u64) -> u64 {
        self.see(id).raw.raft.raft_log.last_index()
    }

    pub fn committed(&self, id: u64) -> u64 {
        self.see(id).raw.raft.raft_log.committed
    }

    pub fn published(&self, id: u64) -> u64 {
        self.see(id).watermarks.published
    }

    /// The log as the node has it in memory.
    pub fn log(&self, id: u64) -> &Log {
        self.see(id).raw.store()
    }

    pub fn members(&self, id: u64) -> &Members {
        self.see(id).members()
    }

    pub fn exit(&self, id: u64) -> Option<Exit> {
        self.hosts[&id].exit.clone()
    }

    /// Why this member serves no clients.
    pub fn closed(&self, id: u64) -> Option<(ClosedKind, String)> {
        let closed = self.see(id).closed();
        closed.map(|closed| (closed.kind, closed.why.clone()))
    }

    pub fn has(&self, id: u64, key: &str) -> bool {
        self.hosts[&id].map.contains_key(key.as_bytes())
    }

    /// Receivers of the messages under way of this type, not counting messages with entries.
    pub fn under_way(&self, kind: MessageType) -> Vec<u64> {
        let wires = self.wires.iter();
        let empty = wires.filter(|m| m.get_msg_type() == kind && m.entries.is_empty());
        empty.map(|m| m.to).collect()
    }

    pub fn assert_same_maps(&self) {
        let running = self.hosts.values().filter(|host| host.node.is_some());
        let maps: Vec<_> = running.map(|host| &host.map).collect();
        assert!(maps.windows(2).all(|pair| pair[0] == pair[1]), "{maps:?}");
    }

    /// Asserts that the process ended because it was removed.
    pub fn assert_removed(&self, id: u64) {
        let exit = &self.hosts[&id].exit;
        assert!(matches!(exit, Some(Exit::Removed { .. })), "{exit:?}");
    }

    pub fn see(&self, id: u64) -> &Node {
        self.hosts[&id].node.as_ref().expect("the process runs")
    }
}
