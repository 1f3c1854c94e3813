//! The state that a member has acknowledged and must not lose. Each restart is compared with it.

use super::*;
use std::sync::Mutex;

/// The state that a restart has to find.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Known {
    pub(super) log: Expected,
    /// The cluster that added this member. `None` if the member started a cluster itself, whose id follows from the
    /// incarnation.
    pub(super) joined: Option<u64>,
    pub(super) removed: bool,
}

/// What a member has acknowledged, over all its lives.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) member: u64,
    pub(super) start: Start,
    pub(super) durable: Known,
    /// Includes the commit index that waits for the next sync.
    pub(super) current: Expected,
    /// States that a restart may find instead, while an operation is under way.
    pub(super) perhaps: Vec<Known>,
    pub(super) boot: u64,
    pub(super) incarnation: Option<u64>,
}

impl Told {
    pub(super) fn founder() -> Told {
        Told::nothing(3, Start::First(list()), Expected::new())
    }

    pub(super) fn joiner() -> Told {
        let empty = Expected {
            entries: Vec::new(),
            hard_state: hard_state(0, 0, 0),
            snapshot: 0,
        };
        Told::nothing(4, Start::Empty, empty)
    }

    fn nothing(member: u64, start: Start, log: Expected) -> Told {
        Told {
            member,
            start,
            current: log.clone(),
            durable: Known {
                log,
                joined: None,
                removed: false,
            },
            perhaps: Vec::new(),
            boot: 0,
            incarnation: None,
        }
    }

    pub(super) fn last(&self) -> u64 {
        self.current.last()
    }

    /// Starts the member, and compares the state that it finds with what it has acknowledged.
    pub(super) fn open(&mut self, disk: &FakeDisk) -> Result<Opened, StorageError> {
        let opened = match open_as(disk, self.member, self.start.clone(), TINY) {
            Err(StorageError::Removed { .. }) if self.removed() => {
                self.durable.removed = true;
                return Err(StorageError::Removed {
                    dir: dir().to_owned(),
                    member: self.member,
                    index: 0,
                });
            }
            result => result?,
        };
        let meta = &opened.meta;
        let begun = match self.start {
            Start::First(_) => cluster_id(meta.incarnation()),
            _ => 0,
        };
        let found = Known {
            log: Expected::read_back(&opened),
            joined: Some(meta.cluster()).filter(|cluster| *cluster != begun),
            removed: false,
        };
        assert!(
            found == self.durable || self.perhaps.contains(&found),
            "found {}, acknowledged {}, or perhaps {}",
            brief(std::slice::from_ref(&found)),
            brief(std::slice::from_ref(&self.durable)),
            brief(&self.perhaps)
        );
        assert!(meta.boot() > self.boot, "boot {} twice", self.boot);
        let incarnation = meta.incarnation();
        assert_eq!(*self.incarnation.get_or_insert(incarnation), incarnation);
        check_log(&found.log);
        check_snapshot(&opened);
        // A file stays if its removal has failed.
        let leftovers = unfinished(disk);
        let excused = disk.failures() as usize;
        assert!(leftovers.len() <= excused, "{leftovers:?} is left");
        self.boot = meta.boot();
        self.current = found.log.clone();
        self.durable = found;
        self.perhaps.clear();
        Ok(opened)
    }

    /// Whether the member was removed, or was about to be removed.
    fn removed(&self) -> bool {
        self.durable.removed || self.perhaps.iter().any(|known| known.removed)
    }

    pub(super) fn save(&mut self, opened: &mut Opened, saves: &[Save]) -> Result<(), DiskError> {
        // A save may become durable in several batches, each ending between two entries.
        let mut log = self.current.clone();
        self.perhaps.clear();
        for save in saves {
            let mut parts = vec![Save {
                mark: save.mark.clone(),
                ..Save::default()
            }];
            parts.extend(save.entries.iter().map(|entry| append([entry.clone()])));
            parts.push(Save {
                hard_state: save.hard_state.clone(),
                ..Save::default()
            });
            for part in parts {
                log.save(&part);
                self.perhaps.push(Known {
                    log: log.clone(),
                    ..self.durable.clone()
                });
            }
        }
        opened.wal.save(saves)?;
        self.perhaps.clear();
        if saves.iter().any(|save| save.sync) {
            self.durable.log = log.clone();
        }
        self.current = log;
        if let Some(work) = opened.wal.wants_spare() {
            opened.wal.took_spare(work.carry_out());
        }
        // Sometimes the log is retained for a follower.
        let pinned = if self.last().is_multiple_of(3) {
            0
        } else {
            u64::MAX
        };
        opened.wal.purge(pinned)?.remove_at_once()
    }

    pub(super) fn change(
        &mut self,
        change: impl FnOnce(&mut Known),
        operation: impl FnOnce() -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        let mut next = self.durable.clone();
        change(&mut next);
        self.perhaps = vec![next.clone()];
        operation()?;
        self.durable = next;
        self.perhaps.clear();
        Ok(())
    }

    /// Appends entries of these sizes.
    pub(super) fn append(&mut self, opened: &mut Opened, sizes: &[usize]) -> Result<(), DiskError> {
        let (first, term) = (self.last() + 1, self.current.hard_state.term);
        let entries = sizes.iter().zip(first..);
        let entries = entries.map(|(size, index)| entry(index, term, vec![index as u8; *size]));
        self.save(opened, &[append(entries)])
    }

    /// Takes a snapshot `back` entries before the last entry. All entries are committed.
    pub(super) fn snapshot(&mut self, opened: &mut Opened, back: u64) -> Result<(), DiskError> {
        let last = self.last();
        let HardState { term, vote, .. } = self.current.hard_state;
        let hard_state = hard_state(term, vote, last);
        let (index, term) = (last - back, 1);
        write_snapshot(opened, index, term)?;
        self.save(opened, &[mark(index, term, hard_state, false)])
    }

    /// Installs a snapshot from the leader, which replaces the log.
    pub(super) fn install(&mut self, opened: &mut Opened, index: u64) -> Result<(), StorageError> {
        let cluster = opened.meta.cluster();
        let mut sink = opened.snapshots.receive(cluster)?;
        for piece in sent_snapshot(cluster, index).chunks(40) {
            sink.write(piece)?;
        }
        match sink.finish(&snapshot_meta(index, 1)) {
            Ok(()) => {}
            Err(ReceiveError::Disk(error)) => return Err(error.into()),
            Err(ReceiveError::Invalid(why)) => panic!("the snapshot is not valid: {why}"),
        }
        let term = self.current.hard_state.term + 1;
        let mut save = mark(index, 1, hard_state(term, 0, index), true);
        save.entries.push(entry(index + 1, term, vec![1; 30]));
        Ok(self.save(opened, &[save])?)
    }
}

/// The bytes of a snapshot as the leader sends it.
fn sent_snapshot(cluster: u64, index: u64) -> Vec<u8> {
    let disk = FakeDisk::new(1);
    let other = start(&disk, LARGE).unwrap();
    write_snapshot_of(cluster, &other.snapshots, index, 1).unwrap();
    disk.read(&other.snapshots.path(index, 1))
}

/// A short text for a failure message.
fn brief(all: &[Known]) -> String {
    let line = |known: &Known| {
        let log = &known.log;
        let entries = log.entries.iter();
        let entries: Vec<_> = entries.map(|e| (e.index, e.term, e.data.len())).collect();
        format!(
            "snapshot {}, entries {entries:?}, {:?}, joined {:x?}, removed {}",
            log.snapshot, log.hard_state, known.joined, known.removed
        )
    };
    all.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn check_log(log: &Expected) {
    for (entry, index) in log.entries.iter().zip(log.snapshot + 1..) {
        assert_eq!(entry.index, index, "a gap in {log:?}");
    }
    let commit = log.hard_state.commit;
    assert!((log.snapshot..=log.last()).contains(&commit), "{log:?}");
}

fn check_snapshot(opened: &Opened) {
    let Some(snapshot) = &opened.recovered.snapshot else {
        return;
    };
    let found = Mutex::new(Vec::new());
    let visit = |key: &[u8], index, value: &[u8]| {
        let entry = (key.to_vec(), index, value.to_vec());
        found.lock().unwrap().push(entry);
    };
    let (header, _) = opened
        .snapshots
        .load(snapshot.index, snapshot.term, visit, |_, _| ())
        .unwrap();
    assert_eq!(&SnapshotMeta::from_header(&header), snapshot);
    let found = found.into_inner().unwrap();
    if snapshot.index > 1 {
        let (index, text) = (snapshot.index, snapshot.index.to_string());
        assert_eq!(found, [(b"index".to_vec(), index, text.into_bytes())]);
    }
}
