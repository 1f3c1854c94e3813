//! Whole clusters of nodes in one thread, without sockets and files: messages, saves and maps are values that the
//! test moves about, so a test decides what is delivered, made durable, applied or lost, and when.

use super::*;
use crate::storage::outline::{Outline, entry_bytes};
use publish::answer;

pub(super) type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// A node, its "disk" and its map.
pub(super) struct Host {
    pub(super) node: Option<Node>,
    pub(super) incarnation: u64,
    pub(super) boot: u64,
    /// What a restart finds.
    pub(super) disk: Recovered,
    /// The map of the snapshot on the disk.
    pub(super) disk_map: Map,
    pub(super) map: Map,
    pub(super) jobs: VecDeque<Job>,
    /// The log on the disk, as far back as the node may want it.
    pub(super) wal: BTreeMap<u64, Entry>,
    pub(super) read_backs: VecDeque<Request>,
    /// Nothing is read back.
    pub(super) slow_reader: bool,
    /// Pieces that were read back.
    pub(super) pieces: usize,
    /// Jobs become durable only when the test says so.
    pub(super) slow_disk: bool,
    /// The map takes in nothing.
    pub(super) slow_store: bool,
    pub(super) exit: Option<Exit>,
    /// As the transport knows them.
    pub(super) members: Members,
    /// Where it was told that it is.
    pub(super) places: Vec<PeerUrl>,
}

pub(super) struct Cluster {
    pub(super) hosts: BTreeMap<u64, Host>,
    /// How many data directories each id has had.
    pub(super) lives: BTreeMap<u64, u64>,
    pub(super) list: BTreeMap<u64, PeerUrl>,
    /// Where the next process is.
    pub(super) moved: Option<PeerUrl>,
    pub(super) wires: VecDeque<Message>,
    pub(super) cut: Vec<(u64, u64)>,
    pub(super) snapshots: BTreeMap<u64, Map>,
    /// Snapshots that are under way arrive only when the test says so.
    pub(super) slow_snapshots: bool,
    pub(super) sent: Vec<Message>,
    pub(super) snapshot_bytes: u64,
    pub(super) log_cache_bytes: u64,
    pub(super) pinned_log_bytes: u64,
}

pub(super) fn url(id: u64) -> PeerUrl {
    format!("http://host:{id}").parse().unwrap()
}

/// Of one of the first members.
pub(super) fn of_member(message: Message) -> Received {
    let bound = Some(10 * message.from);
    Received { message, bound }
}

pub(super) fn logger() -> Logger {
    Logger::root(slog::Discard, o!())
}

impl Cluster {
    pub(super) fn new(size: u64) -> Cluster {
        Cluster::of(Members::of((1..=size).map(|id| (id, url(id), 10 * id))))
    }

    pub(super) fn of(members: Members) -> Cluster {
        let mut state = ReplicatedState::new();
        members.write_to(&mut state);
        let meta = SnapshotMeta {
            index: 1,
            term: 1,
            conf_state: members.conf_state(),
            state,
        };
        let mut hard_state = HardState::default();
        hard_state.term = 1;
        hard_state.commit = 1;
        let mut cluster = Cluster {
            hosts: BTreeMap::new(),
            lives: BTreeMap::new(),
            list: members.forming.clone(),
            moved: None,
            wires: VecDeque::new(),
            cut: Vec::new(),
            snapshots: BTreeMap::new(),
            slow_snapshots: false,
            sent: Vec::new(),
            snapshot_bytes: u64::MAX,
            log_cache_bytes: u64::MAX,
            pinned_log_bytes: u64::MAX,
        };
        for id in members.voters() {
            let disk = Recovered {
                hard_state: hard_state.clone(),
                snapshot: Some(meta.clone()),
                ..Default::default()
            };
            cluster.add_host(id, disk);
        }
        cluster
    }

    /// The incarnation of the process with this id, or of the next one.
    pub(super) fn incarnation(&self, id: u64) -> u64 {
        match self.hosts.get(&id).filter(|host| host.node.is_some()) {
            Some(host) => host.incarnation,
            None => 10 * id + self.lives.get(&id).copied().unwrap_or(0),
        }
    }

    /// As the transport hands it over.
    pub(super) fn received(&self, message: Message) -> Received {
        let bound = self.hosts.get(&message.from).map(|host| host.incarnation);
        Received { message, bound }
    }

    pub(super) fn add_host(&mut self, id: u64, disk: Recovered) {
        let incarnation = self.incarnation(id);
        *self.lives.entry(id).or_default() += 1;
        let host = Host {
            node: None,
            incarnation,
            boot: 0,
            disk,
            disk_map: Map::new(),
            map: Map::new(),
            jobs: VecDeque::new(),
            wal: BTreeMap::new(),
            read_backs: VecDeque::new(),
            slow_reader: false,
            pieces: 0,
            slow_disk: false,
            slow_store: false,
            exit: None,
            members: Members::default(),
            places: Vec::new(),
        };
        self.hosts.insert(id, host);
        self.start(id);
    }

    pub(super) fn start(&mut self, id: u64) {
        let settings = Settings {
            id,
            incarnation: self.hosts[&id].incarnation,
            boot: self.hosts[&id].boot + 1,
            run: 100 * id + self.hosts[&id].boot,
            url: Some(self.moved.clone().unwrap_or_else(|| url(id))),
            list: self.list.clone(),
            election_ticks: 10,
            heartbeat_ticks: 2,
            snapshot_bytes: self.snapshot_bytes,
            log_cache_bytes: self.log_cache_bytes,
            pinned_log_bytes: self.pinned_log_bytes,
            seed: id,
        };
        let host = self.hosts.get_mut(&id).unwrap();
        host.boot += 1;
        host.map = host.disk_map.clone();
        host.jobs.clear();
        host.read_backs.clear();
        let recovered = recover(&host.disk, self.log_cache_bytes);
        let node = Node::new(settings, recovered, &logger(), &logger()).unwrap();
        host.members = node.members().clone();
        host.node = Some(node);
        self.work(id);
    }

    /// Loses everything that is not on the disk.
    pub(super) fn crash(&mut self, id: u64) {
        self.hosts.get_mut(&id).unwrap().node = None;
        self.wires.retain(|m| m.to != id && m.from != id);
    }

    pub(super) fn node(&mut self, id: u64) -> &mut Node {
        self.hosts.get_mut(&id).unwrap().node.as_mut().unwrap()
    }

    pub(super) fn work(&mut self, id: u64) {
        loop {
            let host = self.hosts.get_mut(&id).unwrap();
            let Some(node) = host.node.as_mut() else {
                return;
            };
            let mut idle = true;
            while let Some(output) = node.ready() {
                idle = false;
                self.wires.extend(output.messages);
                host.places.extend(output.place);
                host.jobs.extend(output.job);
                host.read_backs.extend(output.read_backs);
                if let Some(members) = output.members {
                    host.members = (*members).clone();
                }
                host.exit = host.exit.take().or(output.exit);
                for commit in output.commits {
                    match commit {
                        Commit::Apply(apply) => {
                            for (command, reply) in apply.commands {
                                let index = apply.index;
                                host.map
                                    .insert(command.key.to_vec(), command.value.to_vec());
                                answer(reply, Outcome::Applied { index });
                            }
                            if !host.slow_store {
                                node.applied(apply.index, apply.bytes);
                            }
                        }
                        Commit::Read(replies) => {
                            for reply in replies {
                                let _ = reply.send(Ok(()));
                            }
                        }
                        Commit::Snapshot(meta) => {
                            self.snapshots.insert(meta.index, host.map.clone());
                            let written = SnapshotWritten {
                                meta: *meta,
                                bytes: 1,
                            };
                            host.jobs.extend(node.snapshot_written(written));
                        }
                        Commit::Freeze { .. } => panic!("the loop sends it, not the node"),
                        Commit::Restore(meta) => {
                            host.map = self.snapshots[&meta.index].clone();
                            if !host.slow_store {
                                node.applied(meta.index, 0);
                            }
                        }
                    }
                }
            }
            if !host.slow_disk {
                while let Some(job) = host.jobs.pop_front() {
                    idle = false;
                    save(&mut host.disk, &job.save, node);
                    if job.save.mark.as_ref().is_some_and(|mark| mark.installed) {
                        host.wal.clear();
                    }
                    for entry in &job.save.entries {
                        host.wal.split_off(&entry.index);
                        host.wal.insert(entry.index, entry.clone());
                    }
                    host.wal.retain(|index, _| *index > job.compacted);
                    if let Some(mark) = &job.save.mark {
                        host.disk_map = match mark.index {
                            1 => Map::new(),
                            index => self.snapshots[&index].clone(),
                        };
                    }
                    node.persisted(job.number);
                    self.wires.extend(job.messages);
                }
            }
            assert!(host.read_backs.len() <= config::READ_BACKS_MAX);
            if !host.slow_reader {
                while let Some(request) = host.read_backs.pop_front() {
                    idle = false;
                    host.pieces += 1;
                    let (first, entries) = (request.first, request.read_from(&host.wal));
                    node.read_back(ReadBack { first, entries });
                }
            }
            if idle {
                return;
            }
        }
    }

    /// Delivers messages until there are none.
    pub(super) fn settle(&mut self) {
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        for id in ids {
            self.work(id);
        }
        while self.deliver_one() {}
    }

    /// Delivers messages one by one, and ticks when there are none, until this holds.
    pub(super) fn deliver_until(&mut self, done: impl Fn(&mut Cluster) -> bool) {
        for _ in 0..10_000 {
            if done(self) {
                return;
            }
            if !self.deliver_one() {
                for id in self.hosts.keys().copied().collect::<Vec<_>>() {
                    if self.hosts[&id].node.is_some() {
                        self.node(id).tick();
                        self.work(id);
                    }
                }
            }
        }
        panic!("it did not come to that");
    }

    /// Delivers the next message, if there is one.
    pub(super) fn deliver_one(&mut self) -> bool {
        if let Some(message) = self.wires.pop_front() {
            let (from, to) = (message.from, message.to);
            let cut = self.cut.contains(&(from, to));
            let refuses = |a: u64, b: u64| {
                self.hosts
                    .get(&a)
                    .and_then(|h| Some((&h.members, *h.members.removed.get(&b)?)))
                    .filter(|(members, _)| !members.is_leaving(b))
                    .map(|(_, index)| index)
            };
            if let Some(removed_index) = refuses(to, from).filter(|_| !cut) {
                let verdict = refusal(to, Reason::Removed { removed_index });
                if self.hosts[&from].node.is_some() {
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
            let up = self.hosts.get(&to).is_some_and(|host| host.node.is_some());
            if !cut && up {
                let received = self.received(message);
                self.node(to).step(received);
                self.work(to);
            } else if self.hosts[&from].node.is_some() {
                self.node(from).unreachable(to);
            }
            if snapshot && self.hosts[&from].node.is_some() {
                self.node(from).snapshot_sent(to, !cut && up);
                self.work(from);
            }
            return true;
        }
        false
    }

    /// Delivers the snapshots that are under way.
    pub(super) fn deliver_snapshots(&mut self) {
        for message in std::mem::take(&mut self.sent) {
            let (from, to) = (message.from, message.to);
            let received = self.received(message);
            self.node(to).step(received);
            self.work(to);
            self.node(from).snapshot_sent(to, true);
            self.work(from);
        }
    }

    pub(super) fn tick(&mut self, count: usize) {
        for _ in 0..count {
            let ids: Vec<u64> = self.hosts.keys().copied().collect();
            for id in ids {
                if self.hosts[&id].node.is_some() {
                    self.node(id).tick();
                }
            }
            self.settle();
        }
    }

    /// Ticks until there is exactly one leader that all running voters follow.
    pub(super) fn elect(&mut self) -> u64 {
        for _ in 0..500 {
            self.tick(1);
            let running = self.hosts.values().filter_map(|host| host.node.as_ref());
            let leaders: Vec<_> = running
                .filter(|node| node.is_leader())
                .map(|n| n.settings.id)
                .collect();
            if let [leader] = leaders[..] {
                let running = self.hosts.values().filter_map(|host| host.node.as_ref());
                if running
                    .clone()
                    .all(|node| node.raw.raft.leader_id == leader || node.leaving.is_some())
                {
                    return leader;
                }
            }
        }
        panic!("no leader after 500 ticks");
    }

    pub(super) fn propose(&mut self, id: u64, mut command: Command) -> oneshot::Receiver<Outcome> {
        let (reply, receiver) = oneshot::channel();
        if crate::members::is_change(command.kind) && command.wait_ticks == 0 {
            command.wait_ticks = 200;
        }
        self.node(id).propose(Proposal {
            command,
            deadline_ticks: 200,
            reply,
        });
        self.work(id);
        receiver
    }

    pub(super) fn put(&mut self, id: u64, key: &str) -> oneshot::Receiver<Outcome> {
        let mut command = Command::new();
        command.key = key.to_owned().into();
        command.value = vec![b'v'; 100].into();
        self.propose(id, command)
    }

    pub(super) fn change(
        &mut self,
        id: u64,
        kind: Kind,
        member: u64,
    ) -> oneshot::Receiver<Outcome> {
        let mut command = Command::new();
        command.kind = kind;
        command.member_id = member;
        command.member_url = url(member).to_string();
        if kind == Kind::AddMember {
            command.member_incarnation = self.incarnation(member);
        }
        self.propose(id, command)
    }

    pub(super) fn read(&mut self, id: u64) -> oneshot::Receiver<Result<(), NotProposed>> {
        let (reply, receiver) = oneshot::channel();
        self.node(id).read(Read {
            deadline_ticks: 20,
            reply,
        });
        self.work(id);
        receiver
    }

    pub(super) fn follower(&mut self, leader: u64) -> u64 {
        *self.hosts.keys().find(|id| **id != leader).unwrap()
    }

    pub(super) fn assert_same_maps(&self) {
        let maps: Vec<_> = self
            .hosts
            .values()
            .filter(|h| h.node.is_some())
            .map(|h| &h.map)
            .collect();
        assert!(maps.windows(2).all(|pair| pair[0] == pair[1]), "{maps:?}");
    }
}

/// What a restart finds that takes only so much into memory.
pub(super) fn recover(disk: &Recovered, cache_bytes: u64) -> Recovered {
    let mut recovered = disk.clone();
    let (index, term) = disk.snapshot.as_ref().map_or((0, 0), |m| (m.index, m.term));
    let mut outline = Outline::new(index, term);
    disk.entries.iter().for_each(|entry| outline.push(entry));
    let mut bytes: u64 = disk.entries.iter().map(entry_bytes).sum();
    recovered.entries.retain(|entry| {
        let kept = bytes <= cache_bytes || entry.index > disk.hard_state.commit;
        bytes -= entry_bytes(entry);
        kept
    });
    recovered.outline = Some(outline);
    recovered
}

/// What storage does with a save, and finds at a restart.
pub(super) fn save(disk: &mut Recovered, save: &Save, node: &Node) {
    if let Some(mark) = &save.mark {
        let meta = match node.raw.store().snapshot_meta() {
            Some(meta) if meta.index == mark.index => meta.clone(),
            other => panic!("mark {} without its snapshot: {other:?}", mark.index),
        };
        match mark.installed {
            true => disk.entries.clear(),
            false => disk.entries.retain(|e| e.index > mark.index),
        }
        disk.snapshot = Some(meta);
        disk.hard_state = mark.hard_state.clone();
    }
    if let Some(first) = save.entries.first() {
        disk.entries.retain(|e| e.index < first.index);
        disk.entries.extend(save.entries.iter().cloned());
    }
    if let Some(hard_state) = &save.hard_state {
        disk.hard_state = hard_state.clone();
    }
}

/// What a member answers that has applied everything.
pub(super) fn refusal(by: u64, reason: Reason) -> crate::identity::Refusal {
    crate::identity::Refusal {
        by,
        applied: u64::MAX,
        formed: true,
        dialled: true,
        reason,
    }
}

pub(super) fn applied(receiver: &mut oneshot::Receiver<Outcome>) -> u64 {
    match receiver.try_recv() {
        Ok(Some(Outcome::Applied { index })) => index,
        other => panic!("not applied: {other:?}"),
    }
}

pub(super) fn heartbeat(from: u64, to: u64, term: u64, commit: u64) -> Message {
    let mut heartbeat = Message::default();
    heartbeat.set_msg_type(MessageType::MsgHeartbeat);
    heartbeat.from = from;
    heartbeat.to = to;
    heartbeat.term = term;
    heartbeat.commit = commit;
    heartbeat
}

/// The one leader, if all that run follow it.
pub(super) fn leader(cluster: &mut Cluster) -> u64 {
    let running = cluster.hosts.values().filter_map(|h| h.node.as_ref());
    let leaders: Vec<u64> = running.map(|node| node.raw.raft.leader_id).collect();
    let agreed = leaders.windows(2).all(|pair| pair[0] == pair[1]);
    if agreed { leaders[0] } else { 0 }
}

pub(super) fn met(cluster: &Cluster, id: u64, empty: bool) -> Met {
    Met {
        id,
        incarnation: cluster.incarnation(id),
        empty,
        url: url(id),
        dialled: true,
        version: 0,
    }
}

pub(super) fn answers(cluster: &mut Cluster, to: u64, id: u64) {
    let met = met(cluster, id, true);
    cluster.node(to).met(met);
    cluster.work(to);
}

pub(super) fn closed(cluster: &mut Cluster, id: u64) -> Option<(ClosedKind, String)> {
    let closed = cluster.node(id).closed();
    closed.map(|closed| (closed.kind, closed.why.clone()))
}

pub(super) fn put_many(cluster: &mut Cluster, leader: u64, name: &str, count: usize) {
    for i in 0..count {
        let mut outcome = cluster.put(leader, &format!("{name}{i}"));
        cluster.settle();
        applied(&mut outcome);
    }
    cluster.tick(5);
}

pub(super) fn list(size: u64) -> BTreeMap<u64, PeerUrl> {
    (1..=size).map(|id| (id, url(id))).collect()
}

/// A cluster of three that has little of its log in memory.
pub(super) fn forgetful(snapshot_bytes: u64, pinned_log_bytes: u64) -> (Cluster, u64) {
    let mut cluster = Cluster::new(3);
    cluster.snapshot_bytes = snapshot_bytes;
    cluster.pinned_log_bytes = pinned_log_bytes;
    cluster.log_cache_bytes = 1_000;
    for id in 1..=3 {
        cluster.crash(id);
        cluster.start(id);
    }
    let leader = cluster.elect();
    (cluster, leader)
}

/// Messages of this type on the wires that have no entries.
pub(super) fn empty(cluster: &Cluster, kind: MessageType) -> Vec<u64> {
    let wires = cluster.wires.iter();
    wires
        .filter(|m| m.get_msg_type() == kind && m.entries.is_empty())
        .map(|m| m.to)
        .collect()
}
