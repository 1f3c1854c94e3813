//! Whole clusters of nodes in one thread, without sockets and files: messages, saves and maps are values that the
//! test moves about, so a test decides what is delivered, made durable, applied or lost, and when.

mod behind;
mod formation;
mod versions;

use super::publish::answer;
use super::*;
use crate::channels::notice::ReadBack;
use crate::command::outcome::{NotTransferred, Outcome, Refusal};
use crate::command::proposal::Transfer;
use crate::command::{self, Command, Kind};
use crate::identity::{self, Reason};
use crate::storage::SnapshotMeta;
use crate::storage::log_index::{Outline, entry_bytes};
use futures_channel::oneshot;
use raft::eraftpb::{Entry, EntryType};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// A node, its "disk" and its map.
struct Host {
    node: Option<Node>,
    incarnation: u64,
    boot: u64,
    /// What a restart finds.
    disk: Recovered,
    /// The map of the snapshot on the disk.
    disk_map: Map,
    map: Map,
    jobs: VecDeque<Job>,
    /// The log on the disk, as far back as the node may want it.
    wal: BTreeMap<u64, Entry>,
    read_backs: VecDeque<Request>,
    /// Nothing is read back.
    slow_reader: bool,
    /// Pieces that were read back.
    pieces: usize,
    /// Jobs become durable only when the test says so.
    slow_disk: bool,
    /// The map takes in nothing.
    slow_store: bool,
    exit: Option<Exit>,
    /// As the transport knows them.
    members: Members,
    /// Where it was told that it is.
    places: Vec<PeerUrl>,
}

struct Cluster {
    hosts: BTreeMap<u64, Host>,
    /// How many data directories each id has had.
    lives: BTreeMap<u64, u64>,
    list: BTreeMap<u64, PeerUrl>,
    /// Where the next process is.
    moved: Option<PeerUrl>,
    wires: VecDeque<Message>,
    cut: Vec<(u64, u64)>,
    snapshots: BTreeMap<u64, Map>,
    /// Snapshots that are under way arrive only when the test says so.
    slow_snapshots: bool,
    sent: Vec<Message>,
    snapshot_bytes: u64,
    log_cache_bytes: u64,
    pinned_log_bytes: u64,
}

fn url(id: u64) -> PeerUrl {
    format!("http://host:{id}").parse().unwrap()
}

/// Of one of the first members.
fn of_member(message: Message) -> Received {
    let bound = Some(10 * message.from);
    Received { message, bound }
}

fn logger() -> Logger {
    Logger::root(slog::Discard, o!())
}

impl Cluster {
    fn new(size: u64) -> Cluster {
        Cluster::of(Members::of((1..=size).map(|id| (id, url(id), 10 * id))))
    }

    fn of(members: Members) -> Cluster {
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
    fn incarnation(&self, id: u64) -> u64 {
        match self.hosts.get(&id).filter(|host| host.node.is_some()) {
            Some(host) => host.incarnation,
            None => 10 * id + self.lives.get(&id).copied().unwrap_or(0),
        }
    }

    /// As the transport hands it over.
    fn received(&self, message: Message) -> Received {
        let bound = self.hosts.get(&message.from).map(|host| host.incarnation);
        Received { message, bound }
    }

    fn add_host(&mut self, id: u64, disk: Recovered) {
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

    fn start(&mut self, id: u64) {
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
    fn crash(&mut self, id: u64) {
        self.hosts.get_mut(&id).unwrap().node = None;
        self.wires.retain(|m| m.to != id && m.from != id);
    }

    fn node(&mut self, id: u64) -> &mut Node {
        self.hosts.get_mut(&id).unwrap().node.as_mut().unwrap()
    }

    fn work(&mut self, id: u64) {
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
            assert!(host.read_backs.len() <= limits::READ_BACKS_MAX);
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
    fn settle(&mut self) {
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        for id in ids {
            self.work(id);
        }
        while self.deliver_one() {}
    }

    /// Delivers messages one by one, and ticks when there are none, until this holds.
    fn deliver_until(&mut self, done: impl Fn(&mut Cluster) -> bool) {
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
    fn deliver_one(&mut self) -> bool {
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
    fn deliver_snapshots(&mut self) {
        for message in std::mem::take(&mut self.sent) {
            let (from, to) = (message.from, message.to);
            let received = self.received(message);
            self.node(to).step(received);
            self.work(to);
            self.node(from).snapshot_sent(to, true);
            self.work(from);
        }
    }

    fn tick(&mut self, count: usize) {
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
    fn elect(&mut self) -> u64 {
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

    fn propose(&mut self, id: u64, mut command: Command) -> oneshot::Receiver<Outcome> {
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

    fn put(&mut self, id: u64, key: &str) -> oneshot::Receiver<Outcome> {
        let mut command = Command::new();
        command.key = key.to_owned().into();
        command.value = vec![b'v'; 100].into();
        self.propose(id, command)
    }

    fn change(&mut self, id: u64, kind: Kind, member: u64) -> oneshot::Receiver<Outcome> {
        let mut command = Command::new();
        command.kind = kind;
        command.member_id = member;
        command.member_url = url(member).to_string();
        if kind == Kind::AddMember {
            command.member_incarnation = self.incarnation(member);
        }
        self.propose(id, command)
    }

    fn read(&mut self, id: u64) -> oneshot::Receiver<Result<(), NotProposed>> {
        let (reply, receiver) = oneshot::channel();
        self.node(id).read(Read {
            deadline_ticks: 20,
            reply,
        });
        self.work(id);
        receiver
    }

    fn follower(&mut self, leader: u64) -> u64 {
        *self.hosts.keys().find(|id| **id != leader).unwrap()
    }

    fn assert_same_maps(&self) {
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
fn recover(disk: &Recovered, cache_bytes: u64) -> Recovered {
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
fn save(disk: &mut Recovered, save: &Save, node: &Node) {
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
fn refusal(by: u64, reason: Reason) -> identity::Refusal {
    identity::Refusal {
        by,
        applied: u64::MAX,
        formed: true,
        dialled: true,
        reason,
    }
}

fn applied(receiver: &mut oneshot::Receiver<Outcome>) -> u64 {
    match receiver.try_recv() {
        Ok(Some(Outcome::Applied { index })) => index,
        other => panic!("not applied: {other:?}"),
    }
}

#[test]
fn a_write_through_any_member_is_applied_on_all() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    for id in 1..=3 {
        let mut outcome = cluster.put(id, &format!("k{id}"));
        cluster.settle();
        applied(&mut outcome);
    }
    cluster.tick(2);
    cluster.assert_same_maps();
    assert_eq!(cluster.hosts[&1].map.len(), 3);
}

#[test]
fn a_sole_voter_leads_at_once_and_its_promises_wait_for_its_disk() {
    let mut cluster = Cluster::new(1);
    assert!(cluster.node(1).is_leader());
    cluster.hosts.get_mut(&1).unwrap().slow_disk = true;
    let mut outcome = cluster.put(1, "a");
    cluster.tick(50);
    assert_eq!(
        outcome.try_recv(),
        Ok(None),
        "acknowledged before it was durable"
    );
    cluster.hosts.get_mut(&1).unwrap().slow_disk = false;
    cluster.settle();
    applied(&mut outcome);
    cluster.crash(1);
    cluster.start(1);
    cluster.settle();
    assert_eq!(cluster.hosts[&1].map.len(), 1);
}

#[test]
fn a_sole_voter_says_nothing_in_a_term_that_its_disk_does_not_know() {
    let mut cluster = Cluster::new(1);
    let mut outcome = cluster.change(1, Kind::AddMember, 2);
    cluster.add_host(2, Recovered::default());
    cluster.deliver_until(|cluster| !cluster.node(2).members().members.is_empty());
    // It does not become a voter, for nobody hears that it has caught up.
    cluster.cut.push((2, 1));
    cluster.settle();
    applied(&mut outcome);
    assert!(cluster.node(1).is_alone(), "2 is no learner any more");
    let before = cluster.node(1).status().term;
    cluster.crash(1);
    cluster.hosts.get_mut(&1).unwrap().slow_disk = true;
    cluster.start(1);
    assert!(cluster.node(1).is_leader());
    let mut outcome = cluster.put(1, "a");
    cluster.tick(5);
    assert_eq!(cluster.hosts[&1].disk.hard_state.term, before);
    // A crash here would let it lead in the same term again, with another entry in the place of this one.
    assert_eq!(cluster.node(2).status().term, before);
    cluster.hosts.get_mut(&1).unwrap().slow_disk = false;
    cluster.tick(5);
    applied(&mut outcome);
    assert_eq!(cluster.node(2).status().term, before + 1);
}

#[test]
fn a_write_in_flight_when_its_leader_dies_succeeds_once_under_the_next() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = cluster.follower(leader);
    // The forward reaches nobody.
    let mut outcome = cluster.put(follower, "a");
    cluster.crash(leader);
    cluster.elect();
    cluster.tick(20);
    applied(&mut outcome);
    cluster.start(leader);
    cluster.tick(20);
    cluster.assert_same_maps();
}

#[test]
fn a_dropped_forward_is_sent_again_under_the_same_leader() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = cluster.follower(leader);
    let mut outcome = cluster.put(follower, "a");
    cluster
        .wires
        .retain(|m| m.get_msg_type() != MessageType::MsgPropose);
    cluster.tick(5);
    assert_eq!(outcome.try_recv(), Ok(None));
    cluster.tick(10);
    applied(&mut outcome);
}

#[test]
fn a_command_that_is_delivered_twice_applies_once() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = cluster.follower(leader);
    let mut outcome = cluster.put(follower, "a");
    let copies: Vec<_> = cluster
        .wires
        .iter()
        .filter(|m| m.to == leader)
        .cloned()
        .collect();
    assert_eq!(copies.len(), 1);
    cluster.wires.extend(copies);
    cluster.settle();
    let first = applied(&mut outcome);
    // The second copy is in the log, and skipped: a later write of the key must not be undone by it.
    cluster.tick(2);
    assert!(cluster.node(leader).published > first);
    let session = cluster.node(leader).sessions[&follower].clone();
    assert_eq!((session.boot, session.sequence), (1, 1));
}

#[test]
fn reads_see_what_was_acknowledged_and_end_without_a_quorum() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    for id in 1..=3 {
        let mut read = cluster.read(id);
        cluster.settle();
        assert_eq!(read.try_recv(), Ok(Some(Ok(()))));
    }
    let follower = cluster.follower(leader);
    let other = 6 - leader - follower;
    cluster.crash(leader);
    cluster.crash(other);
    let mut read = cluster.read(follower);
    cluster.tick(25);
    assert!(matches!(read.try_recv(), Ok(Some(Err(_)))));
}

#[test]
fn a_read_on_a_deposed_leader_is_not_answered() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    for id in 1..=3 {
        if id != leader {
            cluster.cut.extend([(leader, id), (id, leader)]);
        }
    }
    let mut read = cluster.read(leader);
    cluster.tick(40);
    assert!(matches!(read.try_recv(), Ok(Some(Err(_)))));
}

#[test]
fn a_joiner_catches_up_by_snapshot_and_becomes_a_voter() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    for i in 0..20 {
        drop(cluster.put(leader, &format!("k{i}")));
    }
    let follower = cluster.follower(leader);
    let mut outcome = cluster.change(follower, Kind::AddMember, 4);
    cluster.settle();
    applied(&mut outcome);
    cluster.add_host(4, Recovered::default());
    cluster.tick(30);
    cluster.assert_same_maps();
    assert_eq!(cluster.node(4).members().voters().count(), 4);
    let mut outcome = cluster.put(4, "through the new one");
    cluster.settle();
    applied(&mut outcome);
    let mut again = cluster.change(4, Kind::AddMember, 4);
    cluster.settle();
    applied(&mut again);
}

#[test]
fn a_member_that_still_loads_a_snapshot_does_not_campaign() {
    let mut cluster = Cluster::new(3);
    cluster.snapshot_bytes = 1_000;
    for id in 1..=3 {
        cluster.crash(id);
        cluster.start(id);
    }
    let leader = cluster.elect();
    let behind = cluster.follower(leader);
    cluster.crash(behind);
    for i in 0..300 {
        drop(cluster.put(leader, &format!("k{i}")));
        cluster.settle();
    }
    cluster.start(behind);
    cluster.hosts.get_mut(&behind).unwrap().slow_store = true;
    for _ in 0..100 {
        if cluster.node(behind).published > 1 {
            break;
        }
        cluster.tick(1);
    }
    assert!(cluster.node(behind).published > 1 && cluster.node(behind).applied == 1);
    // The others are gone, and one election timeout after the other passes.
    cluster.crash(leader);
    cluster.crash(6 - leader - behind);
    cluster.tick(50);
    assert_eq!(cluster.node(behind).role, StateRole::Follower);
}

#[test]
fn an_empty_member_ends_when_one_that_has_formed_knows_another_directory_at_its_place() {
    let mut cluster = Cluster::new(1);
    cluster.add_host(2, Recovered::default());
    let at = |same_url| Reason::OtherIncarnation {
        bound_index: 9,
        same_url,
    };
    let mut forming = refusal(1, at(true));
    forming.formed = false;
    let mut by_itself = refusal(1, at(true));
    by_itself.dialled = false;
    for harmless in [forming, by_itself, refusal(1, at(false))] {
        cluster.node(2).refused(harmless);
        cluster.settle();
        assert_eq!(cluster.hosts[&2].exit, None);
    }
    // The table of whoever says so may be an old one: it goes on only while nobody knows better.
    let says_so = |cluster: &mut Cluster| {
        cluster.node(2).refused(refusal(1, at(true)));
        cluster.tick(15);
        cluster.node(2).refused(refusal(1, at(true)));
    };
    says_so(&mut cluster);
    cluster.node(2).refused(refusal(3, Reason::NotAMember));
    says_so(&mut cluster);
    assert_eq!(
        cluster.hosts[&2].exit, None,
        "another one knows no such member"
    );
    cluster.node(2).met(Met {
        id: 3,
        incarnation: 30,
        empty: false,
        url: url(3),
        dialled: true,
        version: 0,
    });
    says_so(&mut cluster);
    says_so(&mut cluster);
    assert_eq!(cluster.hosts[&2].exit, None, "another one lets it in");
    cluster.node(2).unreachable(3);
    says_so(&mut cluster);
    says_so(&mut cluster);
    cluster.settle();
    assert_eq!(cluster.hosts[&2].exit, Some(Exit::Replaced { by: 1 }));
}

#[test]
fn a_change_that_waits_in_a_new_leader_does_not_keep_it_from_settling_the_one_before() {
    let mut cluster = Cluster::new(3);
    let first = cluster.elect();
    let [next, other]: [u64; 2] = (1..=3)
        .filter(|id| *id != first)
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    // The first leader carries a change out, and dies before anybody has heard what settles it. The next one has
    // forwarded another change meanwhile.
    drop(cluster.change(first, Kind::AddMember, 4));
    cluster.deliver_until(|cluster| cluster.node(first).members().unsettled.is_some());
    let mut waits = cluster.change(next, Kind::AddMember, 5);
    cluster.cut.extend([(first, next), (first, other)]);
    let commit = cluster.node(first).raw.raft.raft_log.committed;
    for id in [next, other] {
        let term = cluster.node(first).raw.raft.term;
        cluster
            .node(id)
            .step(of_member(heartbeat(first, id, term, commit)));
    }
    cluster.settle();
    assert!(cluster.node(next).members().unsettled.is_some());
    cluster.crash(first);
    cluster.node(next).raw.campaign().unwrap();
    cluster.tick(30);
    assert!(cluster.node(next).is_leader());
    let mut write = cluster.put(next, "a");
    cluster.tick(3);
    applied(&mut write);
    applied(&mut waits);
}

#[test]
fn a_change_that_comes_again_and_waits_holds_up_no_write_behind_it() {
    let mut cluster = Cluster::new(3);
    let first = cluster.elect();
    let next = cluster.follower(first);
    let mut change = cluster.change(next, Kind::AddMember, 4);
    let mut write = cluster.put(next, "a");
    // Neither has reached the leader before it dies.
    cluster.wires.clear();
    cluster.crash(first);
    let before = cluster.node(next).raw.raft.raft_log.last_index();
    cluster.node(next).raw.campaign().unwrap();
    cluster.deliver_until(|cluster| cluster.node(next).is_leader());
    cluster.work(next);
    // A new leader changes no members before it has committed the entry of its term. The write stands behind that.
    let log = &cluster.node(next).raw.raft.raft_log;
    assert!(log.committed <= before, "{} is committed", log.committed);
    let entries = log.all_entries();
    let batches = entries.iter().filter(|entry| entry.index > before + 1);
    let batches = batches.map(|entry| command::decode(&entry.data).unwrap());
    let keys: Vec<_> = batches
        .flat_map(|batch| batch.commands)
        .map(|c| c.key)
        .collect();
    assert!(
        keys.iter().any(|key| &key[..] == b"a"),
        "the write waits: {keys:?}"
    );
    cluster.tick(20);
    applied(&mut write);
    applied(&mut change);
}

#[test]
fn adding_an_absent_member_costs_no_quorum() {
    let mut cluster = Cluster::new(1);
    let mut outcome = cluster.change(1, Kind::AddMember, 2);
    cluster.tick(50);
    applied(&mut outcome);
    let mut outcome = cluster.put(1, "a");
    cluster.settle();
    applied(&mut outcome);
}

#[test]
fn a_removed_follower_learns_of_it_and_leaves() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = cluster.follower(leader);
    let mut outcome = cluster.change(leader, Kind::RemoveMember, follower);
    cluster.settle();
    applied(&mut outcome);
    cluster.tick(40);
    assert!(matches!(
        cluster.hosts[&follower].exit,
        Some(Exit::Removed { .. })
    ));
    assert_eq!(cluster.node(leader).members().voters().count(), 2);
}

#[test]
fn a_leader_that_is_removed_hands_over_first_and_leaves() {
    for size in [2, 3] {
        let mut cluster = Cluster::new(size);
        let leader = cluster.elect();
        let mut outcome = cluster.change(leader, Kind::RemoveMember, leader);
        cluster.tick(60);
        applied(&mut outcome);
        assert!(matches!(
            cluster.hosts[&leader].exit,
            Some(Exit::Removed { .. })
        ));
        cluster.crash(leader);
        let next = cluster.elect();
        assert_ne!(next, leader);
        let mut outcome = cluster.put(next, "a");
        cluster.tick(5);
        applied(&mut outcome);
    }
}

#[test]
fn from_two_members_to_one_a_crash_of_the_survivor_strands_nobody() {
    let mut cluster = Cluster::new(2);
    let leader = cluster.elect();
    let other = cluster.follower(leader);
    let mut outcome = cluster.change(leader, Kind::RemoveMember, other);
    // The survivor commits and applies the removal, and crashes before anything further is on its disk.
    while cluster.node(leader).members().voters().count() == 2 {
        let message = cluster.wires.pop_front().expect("the removal commits");
        let to = message.to;
        cluster.node(to).step(of_member(message));
        if to == leader {
            cluster.hosts.get_mut(&leader).unwrap().slow_disk = true;
        }
        cluster.work(to);
    }
    assert_eq!(
        outcome.try_recv(),
        Ok(None),
        "the operator was told before the survivor could do without the other"
    );
    cluster.crash(leader);
    cluster.hosts.get_mut(&leader).unwrap().slow_disk = false;
    cluster.tick(30);
    assert_eq!(
        cluster.hosts[&other].exit, None,
        "it left before the survivor could do without it"
    );
    cluster.start(leader);
    cluster.tick(100);
    assert!(matches!(
        cluster.hosts[&other].exit,
        Some(Exit::Removed { .. })
    ));
    cluster.crash(other);
    cluster.crash(leader);
    cluster.start(leader);
    cluster.tick(50);
    assert!(cluster.node(leader).is_leader());
}

#[test]
fn a_learner_that_knows_of_a_removal_does_not_send_the_removed_home() {
    let mut cluster = Cluster::new(2);
    let leader = cluster.elect();
    let other = cluster.follower(leader);
    cluster.slow_snapshots = true;
    let mut outcome = cluster.change(leader, Kind::AddMember, 3);
    cluster.add_host(3, Recovered::default());
    cluster.tick(5);
    applied(&mut outcome);
    assert!(!cluster.sent.is_empty());
    // Everybody hears that the removal is committed. The only voter that stays forgets it again.
    cluster.hosts.get_mut(&leader).unwrap().slow_disk = true;
    let mut outcome = cluster.change(leader, Kind::RemoveMember, other);
    let knows =
        |cluster: &mut Cluster, id| !cluster.node(id).members().members.contains_key(&other);
    for _ in 0..10 {
        cluster.work(leader);
        let job = cluster.hosts.get_mut(&leader).unwrap().jobs.pop_front();
        // Its entry is durable and its commit index is not.
        if let Some(job) = job.filter(|_| !knows(&mut cluster, leader)) {
            let host = cluster.hosts.get_mut(&leader).unwrap();
            let node = host.node.as_mut().unwrap();
            save(&mut host.disk, &job.save, node);
            node.persisted(job.number);
            cluster.wires.extend(job.messages);
        }
        cluster.settle();
    }
    // The learner catches up only now.
    cluster.deliver_snapshots();
    cluster.settle();
    for id in [leader, other, 3] {
        assert!(knows(&mut cluster, id), "{id} does not know of the removal");
    }
    assert_eq!(outcome.try_recv(), Ok(None), "told before it was settled");
    cluster.crash(leader);
    cluster.hosts.get_mut(&leader).unwrap().slow_disk = false;
    cluster.tick(50);
    assert_eq!(cluster.hosts[&other].exit, None);
    cluster.start(leader);
    assert!(!knows(&mut cluster, leader), "nothing was forgotten");
    cluster.tick(100);
    assert!(matches!(
        cluster.hosts[&other].exit,
        Some(Exit::Removed { .. })
    ));
    cluster.crash(other);
    let mut outcome = cluster.put(leader, "a");
    cluster.tick(50);
    applied(&mut outcome);
}

#[test]
fn an_id_that_was_removed_can_be_added_again_on_an_empty_disk() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = cluster.follower(leader);
    let mut outcome = cluster.change(leader, Kind::RemoveMember, follower);
    cluster.tick(30);
    applied(&mut outcome);
    assert!(matches!(
        cluster.hosts[&follower].exit,
        Some(Exit::Removed { .. })
    ));
    cluster.crash(follower);
    let mut outcome = cluster.change(leader, Kind::AddMember, follower);
    cluster.tick(5);
    applied(&mut outcome);
    // The only snapshot so far is the first one, in which the id still has its first life.
    cluster.add_host(follower, Recovered::default());
    cluster.tick(40);
    assert_eq!(cluster.hosts[&follower].exit, None);
    assert_eq!(cluster.node(follower).members().voters().count(), 3);
    let mut read = cluster.read(follower);
    let mut outcome = cluster.put(follower, "a");
    cluster.settle();
    assert_eq!(read.try_recv(), Ok(Some(Ok(()))));
    applied(&mut outcome);
    cluster.tick(2);
    cluster.assert_same_maps();
}

#[test]
fn the_last_voter_stays() {
    let mut cluster = Cluster::new(1);
    let mut outcome = cluster.change(1, Kind::RemoveMember, 1);
    cluster.settle();
    assert_eq!(
        outcome.try_recv(),
        Ok(Some(Outcome::Refused(Refusal::LastVoter)))
    );
}

#[test]
fn a_change_of_members_waits_for_the_one_before_and_holds_up_no_write() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    for (via, ids) in [(leader, [4, 5, 6]), (cluster.follower(leader), [7, 8, 9])] {
        for kind in [Kind::AddMember, Kind::RemoveMember] {
            let mut changes = ids.map(|id| cluster.change(via, kind, id));
            let mut write = cluster.put(via, "a");
            cluster.tick(1);
            applied(&mut write);
            cluster.tick(60);
            for change in &mut changes {
                applied(change);
            }
        }
    }
}

#[test]
fn a_change_that_has_waited_until_its_deadline_is_refused_and_not_unknown() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = cluster.follower(leader);
    // Without the followers' disks the first change does not get through.
    for id in 1..=3 {
        cluster.hosts.get_mut(&id).unwrap().slow_disk = id != leader;
    }
    let _first = cluster.change(leader, Kind::AddMember, 4);
    let mut command = Command::new();
    command.kind = Kind::AddMember;
    command.member_id = 5;
    command.member_url = url(5).to_string();
    command.wait_ticks = 40;
    let mut through_follower = cluster.propose(follower, command.clone());
    let mut through_leader = cluster.propose(leader, command);
    cluster.tick(35);
    for id in 1..=3 {
        cluster.hosts.get_mut(&id).unwrap().slow_disk = false;
    }
    cluster.tick(5);
    let refused = Ok(Some(Outcome::Refused(Refusal::ChangeUnderWay)));
    assert_eq!(through_follower.try_recv(), refused);
    // It was not in the log yet, and now it is its turn.
    cluster.tick(10);
    applied(&mut through_leader);
}

#[test]
fn snapshots_compact_the_log_and_a_restart_begins_there() {
    let mut cluster = Cluster::new(3);
    cluster.snapshot_bytes = 2_000;
    for id in 1..=3 {
        cluster.crash(id);
        cluster.start(id);
    }
    let leader = cluster.elect();
    for i in 0..100 {
        let mut outcome = cluster.put(leader, &format!("k{i}"));
        cluster.settle();
        applied(&mut outcome);
    }
    cluster.tick(5);
    for id in 1..=3 {
        let log = cluster.node(id).raw.store();
        assert!(log.snapshot_index() > 50 && log.bytes() < 10_000);
        cluster.crash(id);
    }
    for id in 1..=3 {
        cluster.start(id);
    }
    cluster.elect();
    cluster.tick(10);
    cluster.assert_same_maps();
    assert_eq!(cluster.hosts[&1].map.len(), 100);
}

#[test]
fn a_stale_refusal_of_a_lagging_peer_counts_for_nothing() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    drop(cluster.put(leader, "a"));
    cluster.tick(5);
    for reason in [
        Reason::Removed { removed_index: 1 },
        Reason::OtherIncarnation {
            bound_index: 1,
            same_url: true,
        },
        Reason::NotAMember,
        Reason::WrongCluster { other_life: true },
    ] {
        cluster.node(1).refused(refusal(2, reason));
        let mut lagging = refusal(2, Reason::Removed { removed_index: 9 });
        lagging.applied = 0;
        cluster.node(1).refused(lagging);
        cluster.settle();
        assert_eq!(cluster.hosts[&1].exit, None, "{reason:?}");
    }
}

fn heartbeat(from: u64, to: u64, term: u64, commit: u64) -> Message {
    let mut heartbeat = Message::default();
    heartbeat.set_msg_type(MessageType::MsgHeartbeat);
    heartbeat.from = from;
    heartbeat.to = to;
    heartbeat.term = term;
    heartbeat.commit = commit;
    heartbeat
}

#[test]
fn a_commit_beyond_the_log_ends_the_node_when_its_leader_says_so_twice() {
    let mut cluster = Cluster::new(3);
    let once = |cluster: &mut Cluster, received: Received| {
        cluster.node(1).step(received);
        cluster.work(1);
        cluster.hosts[&1].exit.clone()
    };
    // Nobody that can't be judged ends it, however often.
    for _ in 0..5 {
        let message = heartbeat(2, 1, 5, 99);
        let bound = None;
        assert_eq!(once(&mut cluster, Received { message, bound }), None);
    }
    // A first word of whoever leads this term, and then two more.
    for expected in [None, None] {
        let said = of_member(heartbeat(2, 1, 5, 99));
        assert_eq!(once(&mut cluster, said), expected);
    }
    let exit = Exit::LostTail {
        by: 2,
        committed: 99,
        last: 1,
    };
    assert_eq!(
        once(&mut cluster, of_member(heartbeat(2, 1, 5, 99))),
        Some(exit)
    );
}

#[test]
fn two_leaders_in_one_term_end_the_node_that_hears_both() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let term = cluster.node(leader).raw.raft.term;
    let [hears, other]: [u64; 2] = (1..=3)
        .filter(|id| *id != leader)
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    let sender = 10 * other;
    for (bound, ends) in [
        (None, false),
        (Some(sender + 1), false),
        (Some(sender), true),
    ] {
        let message = heartbeat(other, hears, term, 1);
        cluster.node(hears).step(Received { message, bound });
        cluster.work(hears);
        let exit = cluster.hosts[&hears].exit.as_ref();
        let told = matches!(exit, Some(Exit::TwoLeaders { known, .. }) if *known == leader);
        assert_eq!(told, ends, "{exit:?}");
    }
}

#[test]
fn a_parted_log_ends_the_member_that_has_proof_of_it() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    drop(cluster.put(leader, "a"));
    cluster.tick(5);
    let term = cluster.node(leader).raw.raft.term;
    let last = cluster.node(leader).raw.raft.raft_log.last_index();
    let [follower, other]: [u64; 2] = (1..=3)
        .filter(|id| *id != leader)
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    // The leader: a follower has more of this term than there is.
    let mut answer = Message::default();
    answer.set_msg_type(MessageType::MsgAppendResponse);
    (answer.from, answer.to, answer.term) = (follower, leader, term);
    answer.index = last + 18;
    cluster.node(leader).step(of_member(answer));
    cluster.work(leader);
    let (by, index) = (follower, last + 18);
    let exit = Some(Exit::PartedLog { by, index });
    assert_eq!(cluster.hosts[&leader].exit, exit);
    // A follower: another leader has another entry where this one's is committed.
    let mut append = Message::default();
    append.set_msg_type(MessageType::MsgAppend);
    (append.from, append.to, append.term) = (other, follower, term + 5);
    (append.index, append.log_term) = (1, 1);
    let mut entry = Entry::default();
    (entry.index, entry.term) = (2, term + 5);
    append.set_entries(vec![entry].into());
    cluster.node(follower).step(of_member(append));
    cluster.work(follower);
    let (by, index) = (other, 2);
    let exit = Some(Exit::PartedLog { by, index });
    assert_eq!(cluster.hosts[&follower].exit, exit);
}

#[test]
fn what_no_member_would_send_never_reaches_raft() {
    let mut cluster = Cluster::new(3);
    let before = cluster.node(1).status();
    let mut entry = Entry::default();
    (entry.index, entry.term) = (7, 1);
    for change in [
        |m: &mut Message, _: &Entry| m.term = u64::MAX - 1,
        |m: &mut Message, _: &Entry| m.commit = 1 << 62,
        |m: &mut Message, _: &Entry| m.index = u64::MAX,
        |m: &mut Message, _: &Entry| m.log_term = u64::MAX,
        |m: &mut Message, entry: &Entry| m.set_entries(vec![entry.clone()].into()),
    ] {
        let mut message = heartbeat(2, 1, 2, 0);
        message.set_msg_type(MessageType::MsgAppend);
        change(&mut message, &entry);
        cluster.node(1).step(of_member(message));
        cluster.work(1);
        assert_eq!(cluster.node(1).status(), before);
    }
    // From somebody who can't be judged, no term far above the own one either.
    let message = heartbeat(2, 1, 1 << 33, 0);
    let bound = None;
    cluster.node(1).step(Received { message, bound });
    assert_eq!(cluster.node(1).status(), before);
}

#[test]
fn a_forwarded_proposal_in_the_name_of_another_member_is_dropped() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = cluster.follower(leader);
    let other = 6 - leader - follower;
    let mut batch = crate::command::Batch::new();
    batch.commands.push({
        let mut command = Command::new();
        command.key = "forged".to_owned().into();
        command.sequence = 1 << 40;
        command
    });
    for (member, incarnation) in [(other, 10 * other), (leader, 10 * leader), (follower, 7)] {
        (batch.member, batch.incarnation) = (member, incarnation);
        (batch.boot, batch.run) = (1 << 40, 1);
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        (message.from, message.to) = (follower, leader);
        message.set_entries(vec![pending::normal_entry(&batch)].into());
        cluster.node(leader).step(of_member(message));
        cluster.settle();
    }
    for id in 1..=3 {
        let mut outcome = cluster.put(id, "a");
        cluster.settle();
        applied(&mut outcome);
        assert!(!cluster.hosts[&id].map.contains_key(&b"forged"[..]));
    }
}

#[test]
fn a_start_on_an_older_copy_ends_when_it_hears_of_the_later_one() {
    for copied in [0, 1] {
        let mut cluster = Cluster::new(3);
        let leader = cluster.elect();
        let follower = cluster.follower(leader);
        cluster.crash(follower);
        // The copy is of one start ago, or of the very directory that has been started since.
        cluster.start(follower);
        cluster.tick(5);
        drop(cluster.put(follower, "a"));
        cluster.tick(5);
        cluster.crash(follower);
        let host = cluster.hosts.get_mut(&follower).unwrap();
        host.boot -= 1 + copied;
        cluster.start(follower);
        let run = 7;
        cluster.node(follower).settings.run = run;
        cluster.tick(20);
        let exit = cluster.hosts[&follower].exit.clone();
        assert!(
            matches!(exit, Some(Exit::OlderCopy { known: 2, .. })),
            "{exit:?}"
        );
    }
}

#[test]
fn garbage_in_the_log_is_skipped_alike() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = cluster.follower(leader);
    for (kind, data) in [
        (EntryType::EntryNormal, &b"\xff\xff\xff garbage"[..]),
        (EntryType::EntryConfChange, b"\xff garbage"),
        (EntryType::EntryConfChangeV2, b""),
    ] {
        let mut entry = Entry::default();
        entry.set_entry_type(kind);
        entry.data = data.to_vec().into();
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = follower;
        message.to = leader;
        message.set_entries(vec![entry].into());
        cluster.node(leader).step(of_member(message));
        cluster.settle();
    }
    let mut outcome = cluster.put(follower, "a");
    cluster.settle();
    applied(&mut outcome);
}

/// Every survivor's host learns that this process is gone.
fn kill(cluster: &mut Cluster, id: u64) {
    cluster.crash(id);
    for other in 1..=cluster.hosts.len() as u64 {
        if cluster.hosts[&other].node.is_some() {
            cluster.node(other).peer_gone(id);
        }
    }
}

/// The one leader, if all that run follow it.
fn leader(cluster: &mut Cluster) -> u64 {
    let running = cluster.hosts.values().filter_map(|h| h.node.as_ref());
    let leaders: Vec<u64> = running.map(|node| node.raw.raft.leader_id).collect();
    let agreed = leaders.windows(2).all(|pair| pair[0] == pair[1]);
    if agreed { leaders[0] } else { 0 }
}

#[test]
fn survivors_of_a_leader_that_is_gone_elect_one_of_them_within_ticks_and_one_term() {
    for (size, killed) in [(3, 1), (3, 2), (3, 3), (5, 1), (5, 4)] {
        let mut cluster = Cluster::new(size);
        cluster.elect();
        while leader(&mut cluster) != killed {
            let current = cluster.elect();
            cluster.node(current).raw.transfer_leader(killed);
            cluster.tick(1);
        }
        let term = cluster.node(killed).raw.raft.term;
        // The highest id does not win, so it has to ask.
        let follower = (1..=size).rfind(|id| *id != killed).unwrap();
        // They are lost on their way to a leader that is no more.
        let mut outcome = cluster.put(follower, "a");
        let mut read = cluster.read(follower);
        kill(&mut cluster, killed);
        cluster.tick(3);
        let next = leader(&mut cluster);
        assert!(next != 0 && next != killed, "no leader after 3 ticks");
        assert_eq!(cluster.node(next).raw.raft.term, term + 1);
        applied(&mut outcome);
        assert_eq!(read.try_recv(), Ok(Some(Ok(()))));
    }
}

#[test]
fn survivors_whose_votes_cross_are_kept_apart_by_their_turns() {
    let mut cluster = Cluster::new(3);
    let gone = cluster.elect();
    kill(&mut cluster, gone);
    // What is said takes almost a heartbeat to arrive.
    let mut late = VecDeque::new();
    for _ in 0..8 {
        for id in (1..=3).filter(|id| *id != gone) {
            cluster.node(id).tick();
            cluster.work(id);
        }
        let said = std::mem::take(&mut cluster.wires);
        cluster.wires = std::mem::replace(&mut late, said);
        while let Some(message) = cluster.wires.pop_front() {
            let to = message.to;
            if to != gone {
                cluster.node(to).step(of_member(message));
                let answers = cluster.wires.len();
                cluster.work(to);
                late.extend(cluster.wires.drain(answers..));
            }
        }
    }
    assert_ne!(leader(&mut cluster), 0, "no leader after 8 ticks");
}

#[test]
fn a_survivor_that_lags_leaves_the_next_turn_to_the_other() {
    let mut cluster = Cluster::new(3);
    let gone = cluster.elect();
    let [first, second]: [u64; 2] = (1..=3)
        .filter(|id| *id != gone)
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    cluster.cut.push((gone, first));
    let mut outcome = cluster.put(gone, "a");
    cluster.settle();
    applied(&mut outcome);
    kill(&mut cluster, gone);
    cluster.tick(6);
    assert_eq!(leader(&mut cluster), second);
}

#[test]
fn a_wrong_report_does_not_depose_a_leader_that_lives() {
    let mut cluster = Cluster::new(3);
    let living = cluster.elect();
    let term = cluster.node(living).raw.raft.term;
    let follower = cluster.follower(living);
    for _ in 0..50 {
        cluster.node(follower).peer_gone(living);
        let mut outcome = cluster.put(follower, "a");
        cluster.tick(1);
        // And nobody takes the word for more than it is.
        cluster.node(living).peer_gone(follower);
        cluster.node(living).peer_gone(living);
        cluster.tick(5);
        assert_eq!(leader(&mut cluster), living);
        assert_eq!(cluster.node(living).raw.raft.term, term);
        applied(&mut outcome);
    }
}

#[test]
fn the_last_words_of_a_leader_that_is_gone_delay_its_successor_by_heartbeats_only() {
    let mut cluster = Cluster::new(3);
    let gone = cluster.elect();
    cluster.tick(1);
    let mut words = Vec::new();
    for _ in 0..2 {
        cluster.node(gone).tick();
        cluster.work(gone);
        words.extend(cluster.wires.drain(..));
    }
    assert!(!words.is_empty());
    kill(&mut cluster, gone);
    cluster.tick(1);
    for message in words {
        let to = message.to;
        cluster.node(to).step(of_member(message));
        cluster.work(to);
    }
    assert_eq!(leader(&mut cluster), gone);
    cluster.tick(8);
    let next = leader(&mut cluster);
    assert!(next != 0 && next != gone, "{next}");
}

#[test]
fn a_cluster_that_was_restarted_elects_without_its_timeout_and_a_member_that_was_keeps_still() {
    let mut cluster = Cluster::new(3);
    cluster.elect();
    drop(cluster.put(1, "a"));
    cluster.tick(3);
    let connect = |cluster: &mut Cluster, id: u64| {
        for peer in (1..=3).filter(|peer| *peer != id) {
            cluster.node(id).peer_connected(peer);
        }
    };
    for id in 1..=3 {
        cluster.crash(id);
    }
    for id in 1..=3 {
        cluster.start(id);
        connect(&mut cluster, id);
    }
    cluster.tick(4);
    let living = leader(&mut cluster);
    assert_ne!(living, 0);
    let term = cluster.node(living).raw.raft.term;
    let follower = cluster.follower(living);
    cluster.crash(follower);
    cluster.start(follower);
    connect(&mut cluster, follower);
    cluster.tick(20);
    assert_eq!(leader(&mut cluster), living);
    assert_eq!(cluster.node(living).raw.raft.term, term);
}

/// Messages of this type on the wires that have no entries.
fn empty(cluster: &Cluster, kind: MessageType) -> Vec<u64> {
    let wires = cluster.wires.iter();
    wires
        .filter(|m| m.get_msg_type() == kind && m.entries.is_empty())
        .map(|m| m.to)
        .collect()
}

#[test]
fn followers_are_told_of_a_commit_once_nothing_is_under_way() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.hosts.get_mut(&leader).unwrap().slow_disk = true;
    let _first = cluster.put(leader, "a");
    cluster.settle();
    // Both followers have it: it is committed, though the leader's own disk is still busy.
    let log = &cluster.node(leader).raw.raft.raft_log;
    assert_eq!(log.committed, log.last_index());
    let follower = cluster.follower(leader);
    assert!(!cluster.hosts[&follower].map.contains_key(&b"a"[..]));
    // The next entry brings the news along, and nothing else does.
    let _second = cluster.put(leader, "b");
    assert!(empty(&cluster, MessageType::MsgAppend).is_empty());
    cluster.settle();
    assert!(cluster.hosts[&follower].map.contains_key(&b"a"[..]));
    // And of the last they are told without a tick.
    cluster.hosts.get_mut(&leader).unwrap().slow_disk = false;
    cluster.settle();
    cluster.assert_same_maps();
    assert!(cluster.hosts[&follower].map.contains_key(&b"b"[..]));
}

#[test]
fn a_read_round_asks_a_majority_and_then_everybody() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.tick(10);
    let mut read = cluster.read(leader);
    let asked = empty(&cluster, MessageType::MsgHeartbeat);
    assert_eq!(asked.len(), 1);
    cluster.settle();
    assert_eq!(read.try_recv(), Ok(Some(Ok(()))));
    // The one that would be asked again has gone silent; a regular heartbeat asks the other.
    cluster.cut = vec![(leader, asked[0])];
    let mut read = cluster.read(leader);
    let heard = empty(&cluster, MessageType::MsgHeartbeat);
    assert_eq!(heard, asked);
    cluster.wires.clear();
    cluster.tick(10);
    assert_eq!(read.try_recv(), Ok(Some(Ok(()))));
    let mut read = cluster.read(leader);
    assert_ne!(empty(&cluster, MessageType::MsgHeartbeat), asked);
    cluster.settle();
    assert_eq!(read.try_recv(), Ok(Some(Ok(()))));
}

type Handed = oneshot::Receiver<Result<(), NotTransferred>>;

fn hand_to(cluster: &mut Cluster, via: u64, to: u64) -> Handed {
    let (reply, outcome) = oneshot::channel();
    cluster.node(via).transfer(Transfer {
        to,
        deadline_ticks: 50,
        reply,
    });
    cluster.settle();
    outcome
}

#[test]
fn leadership_goes_where_a_client_wants_it_whoever_was_asked() {
    let mut cluster = Cluster::new(3);
    let mut from = cluster.elect();
    cluster.tick(3);
    for (via, to) in [(1, 2), (1, 3), (2, 1), (3, 3), (3, 2), (2, 2)] {
        let mut outcome = hand_to(&mut cluster, via, to);
        assert_eq!(
            outcome.try_recv(),
            Ok(Some(Ok(()))),
            "{via}: {from} to {to}"
        );
        assert_eq!(leader(&mut cluster), to);
        cluster.tick(3);
        from = to;
    }
    drop(cluster.put(1, "a"));
    cluster.tick(10);
    cluster.assert_same_maps();
}

#[test]
fn a_member_far_behind_does_not_get_leadership_until_it_has_caught_up() {
    let mut cluster = Cluster::new(3);
    let led = cluster.elect();
    cluster.tick(3);
    let others: Vec<u64> = (1..=3).filter(|id| *id != led).collect();
    let (behind, via) = (others[0], others[1]);
    cluster.hosts.get_mut(&behind).unwrap().slow_disk = true;
    for i in 0..limits::PROMOTION_LAG_ENTRIES_MAX + 10 {
        drop(cluster.put(led, &i.to_string()));
        cluster.settle();
    }
    for asked in [led, via] {
        let mut outcome = hand_to(&mut cluster, asked, behind);
        assert_eq!(outcome.try_recv(), Ok(None), "it may catch up in a moment");
        cluster.tick(15);
        assert_eq!(
            outcome.try_recv(),
            Ok(Some(Err(NotTransferred::Behind))),
            "through {asked}"
        );
    }
    assert_eq!(leader(&mut cluster), led);
    let mut outcome = hand_to(&mut cluster, via, behind);
    cluster.hosts.get_mut(&behind).unwrap().slow_disk = false;
    cluster.tick(9);
    assert_eq!(outcome.try_recv(), Ok(Some(Ok(()))));
    assert_eq!(leader(&mut cluster), behind);
}

#[test]
fn what_nobody_refused_is_unknown_and_what_nobody_was_asked_is_not() {
    let mut cluster = Cluster::new(3);
    let led = cluster.elect();
    cluster.tick(3);
    let others: Vec<u64> = (1..=3).filter(|id| *id != led).collect();
    let (via, to) = (others[0], others[1]);
    // The question is lost, as far as the asker can tell.
    cluster.cut = vec![(via, led)];
    let mut outcome = hand_to(&mut cluster, via, to);
    cluster.tick(51);
    let got = outcome.try_recv();
    assert_eq!(got, Ok(Some(Err(NotTransferred::Unknown))));

    cluster.cut.clear();
    cluster.crash(led);
    cluster.crash(to);
    cluster.tick(60);
    let mut outcome = hand_to(&mut cluster, via, to);
    cluster.tick(51);
    let no_leader = NotTransferred::NotProposed(NotProposed::NoLeader);
    assert_eq!(outcome.try_recv(), Ok(Some(Err(no_leader))));

    let mut outcome = hand_to(&mut cluster, via, to);
    cluster.node(via).stop();
    let stopping = NotTransferred::NotProposed(NotProposed::Stopping);
    assert_eq!(outcome.try_recv(), Ok(Some(Err(stopping))));
}

#[test]
fn a_refusal_of_another_question_and_a_question_of_an_older_term_change_nothing() {
    let mut cluster = Cluster::new(3);
    let led = cluster.elect();
    cluster.tick(3);
    let others: Vec<u64> = (1..=3).filter(|id| *id != led).collect();
    let (via, to) = (others[0], others[1]);
    let term = cluster.node(led).raw.raft.term;
    let message = |from, receiver, term| {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgTransferLeader);
        message.from = from;
        message.to = receiver;
        message.term = term;
        message.index = to;
        message
    };
    cluster.cut = vec![(via, led)];
    let mut outcome = hand_to(&mut cluster, via, to);
    // Of one that was asked for the same member, in the same term, before.
    let mut refusal = message(led, via, term);
    refusal.log_term = cluster.node(via).transfers_asked - 1;
    refusal.reject = true;
    refusal.reject_hint = 1;
    cluster.node(via).step(of_member(refusal.clone()));
    cluster.tick(20);
    assert_eq!(outcome.try_recv(), Ok(None));
    refusal.log_term += 1;
    cluster.node(via).step(of_member(refusal));
    let not_found = NotTransferred::NotFound;
    assert_eq!(outcome.try_recv(), Ok(Some(Err(not_found))));

    cluster.cut.clear();
    cluster
        .node(led)
        .step(of_member(message(via, led, term - 1)));
    cluster.tick(5);
    assert_eq!(leader(&mut cluster), led);
    cluster.node(led).step(of_member(message(via, led, term)));
    cluster.tick(5);
    assert_eq!(leader(&mut cluster), to);
}
