//! Time and messages: messages arrive, are lost or are refused.

use super::*;

impl Cluster {
    /// Delivers messages until none is left.
    pub fn settle(&mut self) {
        for id in self.ids() {
            self.work(id);
        }
        while self.deliver_one() {}
    }

    pub fn tick(&mut self, count: usize) {
        for _ in 0..count {
            for id in self.running() {
                self.node(id).tick();
            }
            self.settle();
        }
    }

    /// Ticks until `done` holds.
    pub fn tick_until(&mut self, done: impl Fn(&mut Cluster) -> bool) {
        for _ in 0..500 {
            if done(self) {
                return;
            }
            self.tick(1);
        }
        panic!("it did not come to that within 500 ticks");
    }

    /// Ticks until there is exactly one leader, and all running voters follow it.
    pub fn elect(&mut self) -> u64 {
        for _ in 0..500 {
            self.tick(1);
            let running = || self.hosts.values().filter_map(|host| host.node.as_ref());
            let mut leaders = running().filter(|node| node.is_leader());
            let (Some(leader), None) = (leaders.next(), leaders.next()) else {
                continue;
            };
            let leader = leader.settings.id;
            let follows =
                |node: &Node| node.raw.raft.leader_id == leader || node.ending.leaving.is_some();
            if running().all(follows) {
                return leader;
            }
        }
        panic!("no leader after 500 ticks");
    }

    /// Delivers messages one by one, and ticks when there are none, until `done` holds.
    pub fn deliver_until(&mut self, done: impl Fn(&mut Cluster) -> bool) {
        for _ in 0..10_000 {
            if done(self) {
                return;
            }
            if !self.deliver_one() {
                for id in self.running() {
                    self.node(id).tick();
                    self.work(id);
                }
            }
        }
        panic!("it did not come to that");
    }

    /// Delivers the next message, if there is one. Returns whether there was one.
    fn deliver_one(&mut self) -> bool {
        let Some(message) = self.wires.pop_front() else {
            return false;
        };
        let (from, to) = (message.from, message.to);
        let cut = self.cut.contains(&(from, to));
        if let Some(removed_index) = self.knows_removed(to, from).filter(|_| !cut) {
            let verdict = refusal(to, Reason::Removed { removed_index });
            if self.runs(from) {
                self.node(from).refused(verdict);
                self.work(from);
            }
            return true;
        }
        let snapshot = message.get_msg_type() == MessageType::MsgSnapshot;
        if snapshot && self.slow_snapshots {
            self.sent.push(message);
            return true;
        }
        let arrives = !cut && self.runs(to);
        if arrives {
            if message.get_msg_type() == MessageType::MsgAppend {
                let bytes = message.entries.iter().map(|entry| entry.data.len());
                *self.append_bytes.entry(to).or_default() += bytes.sum::<usize>();
            }
            let received = self.received(message);
            self.node(to).step(received);
            self.work(to);
        } else if self.runs(from) {
            self.node(from).unreachable(to);
        }
        if snapshot && self.runs(from) {
            let status = match arrives {
                true => SnapshotStatus::Finish,
                false => SnapshotStatus::Failure,
            };
            self.node(from).snapshot_sent(to, status);
            self.work(from);
        }
        true
    }

    /// Delivers the snapshots that are under way.
    pub fn deliver_snapshots(&mut self) {
        for message in std::mem::take(&mut self.sent) {
            let (from, to) = (message.from, message.to);
            let received = self.received(message);
            self.node(to).step(received);
            self.work(to);
            self.node(from).snapshot_sent(to, SnapshotStatus::Finish);
            self.work(from);
        }
    }

    /// The index at which `by` knows `id` to be removed, if it does. The host of `by` refuses a removed member.
    fn knows_removed(&self, by: u64, id: u64) -> Option<u64> {
        let members = &self.hosts.get(&by)?.members;
        let index = *members.removed.get(&id)?;
        (!members.is_leaving(id)).then_some(index)
    }

    fn runs(&self, id: u64) -> bool {
        self.hosts.get(&id).is_some_and(|host| host.node.is_some())
    }

    /// The message as the transport hands it over.
    fn received(&self, message: Message) -> Received {
        let sender = self.hosts.get(&message.from);
        let is_ahead = sender.is_some_and(|host| self.is_ahead(message.from, host, message.to));
        let bound = sender.map(|host| host.incarnation).filter(|_| !is_ahead);
        Received { message, bound }
    }

    /// Whether the sender was bound by an entry that the receiver has not applied yet.
    fn is_ahead(&self, from: u64, sender: &Host, to: u64) -> bool {
        let bound_index = sender
            .node
            .as_ref()
            .map(|node| node.membership.own_bound_index);
        let receiver = self.see(to);
        let row = receiver.members().members.get(&from);
        row.is_some_and(|row| row.incarnation != sender.incarnation)
            && bound_index > Some(receiver.watermarks.published)
    }

    /// Hands over a message from one of the first members, past the network.
    pub fn hear(&mut self, message: Message) {
        let bound = Some(10 * message.from);
        self.hear_as(message, bound);
    }

    /// Hands over a message whose sender the transport knows by this incarnation, or does not know.
    pub fn hear_as(&mut self, message: Message, bound: Option<u64>) {
        let to = message.to;
        self.node(to).step(Received { message, bound });
        self.work(to);
    }

    /// A peer refuses this node, and the node's host learns of it.
    pub fn refuse(&mut self, id: u64, refusal: crate::identity::PeerRefusal) {
        self.node(id).refused(refusal);
        self.settle();
    }
}
