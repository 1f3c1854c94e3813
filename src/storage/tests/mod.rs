//! Tests of storage as a whole: what a restart finds after crashes, damage and mistakes. Each topic has its own file;
//! this file has the shared helpers.

mod crash;
mod crash_points;
mod damage;
mod marks;
mod meta;
mod next_segment;
mod observed_disk;
mod read_back;
mod removals;
mod restore;
mod room;
mod saves;
mod shortages;
mod starts;
mod syncs;
mod torn_tails;

use super::fake_disk::{FakeDisk, Fault, Loss, Operation, Random};
use super::format::FORMAT_VERSION;
use super::*;
use crate::limits;
use crate::members::{Members, cluster_id};
use crate::peer_url::PeerUrl;
use raft::eraftpb::{ConfState, Entry, HardState};
use slog::Logger;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SMALL: WalOptions = WalOptions {
    segment_bytes: 4096,
    batch_bytes: limits::BATCH_BYTES_TARGET,
    cache_bytes: u64::MAX,
};
/// One segment is enough for a whole test.
const LARGE: WalOptions = WalOptions {
    segment_bytes: 64 << 10,
    batch_bytes: limits::BATCH_BYTES_TARGET,
    cache_bytes: u64::MAX,
};

fn logger() -> Logger {
    Logger::root(slog::Discard, slog::o!())
}

fn dir() -> &'static Path {
    Path::new("/data")
}

fn data_dir(disk: &FakeDisk) -> DataDir {
    DataDir::new(Arc::new(disk.clone()), dir())
}

/// The first members of a cluster that member 3 starts.
fn list() -> BTreeMap<u64, PeerUrl> {
    let url = |id| format!("http://a:{id}").parse().unwrap();
    (3..=5).map(|id| (id, url(id))).collect()
}

/// A cluster other than that of [`start`].
const CLUSTER: u64 = 77;

fn start(disk: &FakeDisk, options: WalOptions) -> Result<Opened, StorageError> {
    open_as(disk, 3, Start::First(list()), options)
}

/// Opens the directory as the server does, but releases the lock at once.
fn open_as(
    disk: &FakeDisk,
    member: u64,
    start: Start,
    options: WalOptions,
) -> Result<Opened, StorageError> {
    let dir = data_dir(disk);
    let _lock = dir.lock()?;
    dir.open_with(member, start, options, &logger())
}

fn entry(index: u64, term: u64, data: Vec<u8>) -> Entry {
    let mut entry = Entry::new();
    entry.index = index;
    entry.term = term;
    entry.data = data.into();
    entry
}

fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    let mut hard_state = HardState::new();
    hard_state.term = term;
    hard_state.vote = vote;
    hard_state.commit = commit;
    hard_state
}

fn append(entries: impl IntoIterator<Item = Entry>) -> Save {
    Save {
        entries: entries.into_iter().collect(),
        sync: true,
        ..Save::default()
    }
}

fn state(term: u64, vote: u64, commit: u64, sync: bool) -> Save {
    Save {
        hard_state: Some(hard_state(term, vote, commit)),
        sync,
        ..Save::default()
    }
}

fn mark(index: u64, term: u64, hard_state: HardState, installed: bool) -> Save {
    Save {
        mark: Some(Mark {
            index,
            term,
            hard_state,
            installed,
        }),
        sync: true,
        ..Save::default()
    }
}

fn write_snapshot(opened: &Opened, index: u64, term: u64) -> Result<u64, DiskError> {
    write_snapshot_of(opened.meta.cluster(), &opened.snapshots, index, term)
}

fn write_snapshot_of(
    cluster: u64,
    snapshots: &Snapshots,
    index: u64,
    term: u64,
) -> Result<u64, DiskError> {
    let meta = snapshot_meta(index, term);
    let value = index.to_string();
    let entries = [(b"index".as_slice(), index, value.as_bytes())];
    snapshots.write(&meta, cluster, entries.into_iter())
}

/// Deletes what no restart needs any more.
fn purge(opened: &mut Opened) {
    let purge = opened.wal.purge(u64::MAX).unwrap();
    purge.remove_at_once().unwrap();
}

fn snapshot_meta(index: u64, term: u64) -> SnapshotMeta {
    let mut conf_state = ConfState::default();
    conf_state.set_voters(list().into_keys().collect());
    SnapshotMeta {
        index,
        term,
        conf_state,
        ..SnapshotMeta::default()
    }
}

fn indexes(recovered: &Recovered) -> Vec<u64> {
    recovered.entries.iter().map(|e| e.index).collect()
}

fn segments(disk: &FakeDisk) -> Vec<PathBuf> {
    files(disk, "wal")
}

fn files(disk: &FakeDisk, extension: &str) -> Vec<PathBuf> {
    let mut paths = disk.paths();
    paths.retain(|path| path.extension().is_some_and(|e| e == extension));
    paths
}

/// Files that were not finished, without those that are kept for their room.
fn unfinished(disk: &FakeDisk) -> Vec<PathBuf> {
    let mut paths = files(disk, "tmp");
    paths.retain(|path| !path.ends_with("meta.tmp") && !path.ends_with("spare.wal.tmp"));
    paths
}

fn assert_corrupt(result: Result<Opened, StorageError>, file: &Path) -> u64 {
    match result {
        Err(error @ StorageError::Corrupt { .. }) => {
            let text = error.to_string();
            assert!(!text.contains('\n') && text.contains("byte"), "{text}");
            assert_eq!(error.exit_code(), 4);
            let StorageError::Corrupt { path, offset, .. } = error else {
                unreachable!()
            };
            assert_eq!(path, file);
            offset
        }
        other => panic!("{} should be corrupt: {other:?}", file.display()),
    }
}

/// The state that a restart has to find.
#[derive(Debug, Clone, PartialEq)]
struct Expected {
    entries: Vec<Entry>,
    hard_state: HardState,
    snapshot: u64,
}

impl Expected {
    fn new() -> Expected {
        Expected {
            entries: Vec::new(),
            hard_state: hard_state(1, 0, 1),
            snapshot: 1,
        }
    }

    fn last(&self) -> u64 {
        self.entries.last().map_or(self.snapshot, |e| e.index)
    }

    fn save(&mut self, save: &Save) {
        if let Some(mark) = &save.mark {
            self.hard_state = mark.hard_state.clone();
            self.snapshot = mark.index;
            if mark.installed {
                self.entries.clear();
            }
            self.entries.retain(|e| e.index > mark.index);
        }
        for entry in &save.entries {
            self.entries.retain(|e| e.index < entry.index);
            self.entries.push(entry.clone());
        }
        if let Some(hard_state) = &save.hard_state {
            self.hard_state = hard_state.clone();
        }
    }

    fn of(recovered: &Recovered) -> Expected {
        let log_index = recovered.log_index.as_ref().unwrap();
        let snapshot = recovered.snapshot.as_ref().map_or(0, |s| s.index);
        let held = recovered.entries.len() as u64;
        assert_eq!(
            snapshot + held,
            log_index.last(),
            "all entries are in memory"
        );
        Expected::with(recovered, recovered.entries.clone())
    }

    /// Includes the entries that a start kept only on disk.
    fn read_back(opened: &Opened) -> Expected {
        let recovered = &opened.recovered;
        let snapshot = recovered.snapshot.as_ref().map_or(0, |s| s.index);
        let mut entries = read_back::all(&opened.wal, recovered.log_index.as_ref().unwrap());
        entries.retain(|entry| entry.index > snapshot);
        assert!(entries.ends_with(&recovered.entries));
        let left = &entries[..entries.len() - recovered.entries.len()];
        let commit = recovered.hard_state.commit;
        assert!(left.iter().all(|entry| entry.index <= commit));
        Expected::with(recovered, entries)
    }

    fn with(recovered: &Recovered, entries: Vec<Entry>) -> Expected {
        Expected {
            entries,
            hard_state: recovered.hard_state.clone(),
            snapshot: recovered.snapshot.as_ref().map_or(0, |s| s.index),
        }
    }
}

/// Starts on a disk whose last process was killed. Checks that the state that the start finds, and what it saves then,
/// survive a loss of power.
fn assert_durable_after_a_kill(disk: &FakeDisk, what: &str) {
    let disk = disk.after_kill();
    let mut opened = start(&disk, SMALL).unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut found = Expected::of(&opened.recovered);
    let check = |found: &Expected| {
        for loss in 0..4 {
            let again = start(&disk.after_power_loss(loss), SMALL)
                .unwrap_or_else(|e| panic!("{what}, loss {loss}: {e}"));
            let again = Expected::of(&again.recovered);
            assert_eq!(&again, found, "{what}, loss {loss}");
        }
    };
    check(&found);
    let save = append([entry(found.last() + 1, 9, vec![9; 100])]);
    opened.wal.save(std::slice::from_ref(&save)).unwrap();
    found.save(&save);
    check(&found);
}
