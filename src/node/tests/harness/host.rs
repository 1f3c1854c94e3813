//! A node with its disk and its map. It does the work that the node hands out.

use super::*;
use crate::storage::log_index::{LogIndex, entry_bytes};
use pending::answer;

pub type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// A node, its "disk" and its map.
pub struct Host {
    /// `None`: the process does not run.
    pub node: Option<Node>,
    pub incarnation: u64,
    pub boot: u64,
    /// What a restart recovers.
    pub disk: Recovered,
    /// The map of the snapshot on the disk.
    disk_map: Map,
    pub map: Map,
    pub jobs: VecDeque<Job>,
    /// The log on the disk, as far back as the node may need it.
    wal: BTreeMap<u64, Entry>,
    pub read_backs: VecDeque<Request>,
    /// Read-back requests are not answered.
    pub slow_reader: bool,
    /// Number of pieces that were read back.
    pub pieces: usize,
    /// Jobs become durable only when the test says so.
    pub slow_disk: bool,
    /// The map applies nothing.
    pub slow_store: bool,
    pub exit: Option<Exit>,
    /// The members as the transport knows them.
    pub members: Members,
    /// The places that the node reported for itself.
    pub places: Vec<PeerUrl>,
}

impl Host {
    pub fn new(incarnation: u64, disk: Recovered) -> Host {
        Host {
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
        }
    }

    pub fn node(&mut self) -> &mut Node {
        self.node.as_mut().expect("the process runs")
    }

    /// A copy of the data directory, on a host of its own.
    pub fn copy(&self) -> Host {
        Host {
            boot: self.boot,
            disk_map: self.disk_map.clone(),
            wal: self.wal.clone(),
            ..Host::new(self.incarnation, self.disk.clone())
        }
    }

    pub fn start(&mut self, settings: NodeSettings) {
        self.boot += 1;
        self.map = self.disk_map.clone();
        self.jobs.clear();
        self.read_backs.clear();
        let recovered = recover(&self.disk, settings.log_cache_bytes);
        let node = shared::node(settings, recovered);
        self.members = node.members().clone();
        self.node = Some(node);
    }

    /// Works until nothing is left to do, apart from what this host is slow at.
    pub fn work(&mut self, wires: &mut VecDeque<Message>, snapshots: &mut BTreeMap<u64, Map>) {
        loop {
            let mut worked = self.carry_out(wires, snapshots);
            if !self.slow_disk {
                worked |= self.write(wires, snapshots);
            }
            assert!(self.read_backs.len() <= limits::READ_BACKS_MAX);
            if !self.slow_reader {
                worked |= self.read_back();
            }
            if !worked {
                return;
            }
        }
    }

    /// Carries out what the node wants now. Returns whether there was anything.
    fn carry_out(
        &mut self,
        wires: &mut VecDeque<Message>,
        snapshots: &mut BTreeMap<u64, Map>,
    ) -> bool {
        let mut worked = false;
        while let Some(output) = self.node().ready() {
            worked = true;
            wires.extend(output.messages);
            self.places.extend(output.place);
            self.jobs.extend(output.job);
            self.read_backs.extend(output.read_backs);
            if let Some(members) = output.members {
                self.members = (*members).clone();
            }
            self.exit = self.exit.take().or(output.exit);
            for commit in output.commits {
                self.take_in(commit, snapshots);
            }
        }
        worked
    }

    /// Does what the store does with a commit.
    fn take_in(&mut self, commit: Commit, snapshots: &mut BTreeMap<u64, Map>) {
        let (index, bytes) = match commit {
            Commit::Apply(apply) => {
                for (command, reply) in apply.commands {
                    let index = apply.index;
                    self.map
                        .insert(command.key.to_vec(), command.value.to_vec());
                    answer(reply, Outcome::Applied { index });
                }
                (apply.index, apply.bytes)
            }
            Commit::Read(replies) => {
                for reply in replies {
                    let _ = reply.send(Ok(()));
                }
                return;
            }
            Commit::Snapshot(meta) => {
                snapshots.insert(meta.index, self.map.clone());
                let written = SnapshotWritten {
                    meta: *meta,
                    bytes: 1,
                };
                let job = self.node().snapshot_written(written);
                self.jobs.extend(job);
                return;
            }
            Commit::Freeze { .. } => panic!("the loop sends it, not the node"),
            Commit::Restore(meta) => {
                self.map = snapshots[&meta.index].clone();
                (meta.index, 0)
            }
        };
        if !self.slow_store {
            self.node().applied(index, bytes);
        }
    }

    /// Makes all jobs durable. Returns whether there were any.
    fn write(&mut self, wires: &mut VecDeque<Message>, snapshots: &BTreeMap<u64, Map>) -> bool {
        let worked = !self.jobs.is_empty();
        while let Some(job) = self.jobs.pop_front() {
            self.make_durable(job, wires, snapshots);
        }
        worked
    }

    /// Stores what this job saves, reports it to the node, and sends the messages that waited for it.
    pub fn make_durable(
        &mut self,
        job: Job,
        wires: &mut VecDeque<Message>,
        snapshots: &BTreeMap<u64, Map>,
    ) {
        let node = self.node.as_mut().expect("the process runs");
        save(&mut self.disk, &job.save, node);
        if job.save.mark.as_ref().is_some_and(|mark| mark.installed) {
            self.wal.clear();
        }
        for entry in &job.save.entries {
            self.wal.split_off(&entry.index);
            self.wal.insert(entry.index, entry.clone());
        }
        self.wal.retain(|index, _| *index > job.compacted);
        if let Some(mark) = &job.save.mark {
            self.disk_map = match mark.index {
                1 => Map::new(),
                index => snapshots[&index].clone(),
            };
        }
        node.persisted(job.number);
        wires.extend(job.messages);
    }

    /// Answers the node's read-back requests. Returns whether there were any.
    fn read_back(&mut self) -> bool {
        let worked = !self.read_backs.is_empty();
        while let Some(request) = self.read_backs.pop_front() {
            self.pieces += 1;
            let (first, entries) = (request.first, request.read_from(&self.wal));
            self.node().read_back(EntriesRead { first, entries });
        }
        worked
    }
}

/// What a restart recovers if memory holds only so many bytes of the log.
fn recover(disk: &Recovered, cache_bytes: u64) -> Recovered {
    let mut recovered = disk.clone();
    let (index, term) = disk.snapshot.as_ref().map_or((0, 0), |m| (m.index, m.term));
    let mut log_index = LogIndex::new(index, term);
    disk.entries.iter().for_each(|entry| log_index.push(entry));
    let mut bytes: u64 = disk.entries.iter().map(entry_bytes).sum();
    recovered.entries.retain(|entry| {
        let kept = bytes <= cache_bytes || entry.index > disk.hard_state.commit;
        bytes -= entry_bytes(entry);
        kept
    });
    recovered.log_index = Some(log_index);
    recovered
}

/// Does what storage does with a save, so that a restart recovers it.
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
