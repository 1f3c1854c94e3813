//! Tests of storage as a whole: what a restart finds after crashes, damage and mistakes.

mod crash;
mod crash_points;
mod damage;
mod read_back;
mod restore;
mod review;

use super::fake_disk::{FakeDisk, Fault, Loss, Operation, Random};
use super::*;
use crate::limits;
use crate::members::{Members, cluster_id};
use crate::peer_url::PeerUrl;
use raft::eraftpb::{ConfState, Entry, HardState};
use std::collections::BTreeMap;
use std::path::PathBuf;

const SMALL: Options = Options {
    segment_bytes: 4096,
    batch_bytes: limits::BATCH_BYTES_TARGET,
    cache_bytes: u64::MAX,
};
/// One segment holds the whole of a test.
const LARGE: Options = Options {
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

/// The first members of a cluster that member 3 begins.
fn list() -> BTreeMap<u64, PeerUrl> {
    let url = |id| format!("http://a:{id}").parse().unwrap();
    (3..=5).map(|id| (id, url(id))).collect()
}

/// A cluster that is not the one of [`start`].
const CLUSTER: u64 = 77;

fn start(disk: &FakeDisk, options: Options) -> Result<Opened, StorageError> {
    open_as(disk, 3, Start::First(list()), options)
}

/// As the server does it, except that the lock is given back at once.
fn open_as(
    disk: &FakeDisk,
    member: u64,
    start: Start,
    options: Options,
) -> Result<Opened, StorageError> {
    let _lock = lock(disk, dir())?;
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    open_with(disk, dir(), member, start, options, &logger())
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

/// What a restart has to find.
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
        let outline = recovered.outline.as_ref().unwrap();
        let snapshot = recovered.snapshot.as_ref().map_or(0, |s| s.index);
        let held = recovered.entries.len() as u64;
        assert_eq!(snapshot + held, outline.last(), "all entries are in memory");
        Expected::with(recovered, recovered.entries.clone())
    }

    /// With the entries that a start has left to the disk.
    fn read_back(opened: &Opened) -> Expected {
        let recovered = &opened.recovered;
        let snapshot = recovered.snapshot.as_ref().map_or(0, |s| s.index);
        let mut entries = read_back::all(&opened.wal, recovered.outline.as_ref().unwrap());
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

#[test]
fn a_first_start_and_the_next_one_begin_with_the_same_snapshot() {
    let disk = FakeDisk::new(1);
    let first = start(&disk, LARGE).unwrap();
    assert!(first.first_start);
    assert_eq!((first.meta.boot(), first.meta.member()), (1, 3));
    assert_eq!(first.meta.cluster(), cluster_id(first.meta.incarnation()));
    let found = first.recovered.snapshot.clone().unwrap();
    assert_eq!((found.index, found.term), (1, 1));
    assert_eq!(found.conf_state.get_voters(), [3]);
    let members = Members::from_state(&found.state).unwrap();
    assert_eq!(members, Members::first(&list(), first.meta.incarnation()));
    assert_eq!(members.forming, list());
    assert_eq!(first.recovered.hard_state, hard_state(1, 0, 1));
    let incarnation = first.meta.incarnation();
    let run = first.run;
    let recovered = first.recovered;

    let second = start(&disk.after_power_loss(7), LARGE).unwrap();
    assert!(!second.first_start);
    assert_eq!(
        (second.meta.boot(), second.meta.incarnation()),
        (2, incarnation)
    );
    assert!(second.run != run && run != 0);
    assert_eq!(second.recovered.snapshot, recovered.snapshot);
    assert_eq!(second.recovered.snapshot_bytes, recovered.snapshot_bytes);
    assert_eq!(second.recovered.hard_state, recovered.hard_state);
    assert_eq!(second.recovered.entries, []);
}

#[test]
fn an_empty_member_keeps_what_it_was_sent() {
    let disk = FakeDisk::new(1);
    let open = |disk: &FakeDisk| open_as(disk, 4, Start::Empty, LARGE).unwrap();
    let first = open(&disk);
    assert_eq!(first.meta.cluster(), 0);
    assert_eq!(first.recovered.snapshot, None);
    let disk = disk.after_power_loss(1);
    let mut second = open(&disk);
    assert_eq!(second.meta.cluster(), 0);
    assert_eq!(second.recovered.snapshot, None);
    second.meta.pin_cluster(CLUSTER).unwrap();
    write_snapshot(&second, 40, 2).unwrap();
    let mut save = mark(40, 2, hard_state(2, 0, 40), true);
    save.entries.push(entry(41, 2, vec![1]));
    second.wal.save(&[save]).unwrap();
    let third = open(&disk.after_power_loss(1));
    assert_eq!(third.meta.cluster(), CLUSTER);
    assert_eq!(third.recovered.snapshot.as_ref().unwrap().index, 40);
    assert_eq!(indexes(&third.recovered), [41]);
    assert_eq!(third.recovered.hard_state, hard_state(2, 0, 40));
}

#[test]
fn a_save_costs_one_write_and_one_sync() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, LARGE).unwrap();
    opened
        .wal
        .save(&[append([entry(2, 1, vec![0; 9])])])
        .unwrap();
    disk.take_counts();
    let saves = [
        append([entry(3, 1, vec![1; 9]), entry(4, 1, vec![1; 99])]),
        append([entry(5, 1, vec![1; 9])]),
        state(1, 0, 4, false),
    ];
    opened.wal.save(&saves).unwrap();
    let once = BTreeMap::from([(Operation::Sync, 1), (Operation::Write, 1)]);
    assert_eq!(disk.take_counts(), once);
    opened.wal.save(&[append([entry(6, 1, vec![1])])]).unwrap();
    assert_eq!(disk.take_counts(), once);
    opened.wal.save(&[state(1, 0, 5, false)]).unwrap();
    assert_eq!(disk.take_counts(), BTreeMap::new());
}

#[test]
fn a_commit_index_that_waits_goes_with_the_next_save() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, LARGE).unwrap();
    opened.wal.save(&[append([entry(2, 1, vec![])])]).unwrap();
    opened.wal.save(&[state(1, 3, 2, false)]).unwrap();
    let found = start(&disk.after_power_loss(1), LARGE).unwrap().recovered;
    assert_eq!(found.hard_state, hard_state(1, 0, 1), "not yet durable");
    opened.wal.save(&[append([entry(3, 1, vec![])])]).unwrap();
    let found = start(&disk.after_power_loss(1), LARGE).unwrap().recovered;
    assert_eq!(found.hard_state, hard_state(1, 3, 2));
    // A newer one is never overtaken by an older one that waited.
    let saves = [state(1, 3, 3, false), state(2, 1, 3, true)];
    opened.wal.save(&saves).unwrap();
    let found = start(&disk.after_power_loss(1), LARGE).unwrap().recovered;
    assert_eq!(found.hard_state, hard_state(2, 1, 3));
}

#[test]
fn an_old_mark_takes_back_neither_vote_nor_commit_index() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, LARGE).unwrap();
    let entries = append((2..9).map(|i| entry(i, 1, vec![])));
    opened.wal.save(&[entries, state(4, 2, 8, true)]).unwrap();
    write_snapshot(&opened, 5, 1).unwrap();
    let old = mark(5, 1, hard_state(1, 1, 5), false);
    opened.wal.save(&[old]).unwrap();
    let found = start(&disk.after_power_loss(1), LARGE).unwrap().recovered;
    assert_eq!(found.hard_state, hard_state(4, 2, 8));
    assert_eq!(found.snapshot.as_ref().unwrap().index, 5);
    assert_eq!(indexes(&found), [6, 7, 8]);
}

#[test]
fn conflicting_entries_replace_the_rest_of_the_log() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, LARGE).unwrap();
    let first = append((2..10).map(|i| entry(i, 1, vec![1])));
    let second = append([entry(4, 2, vec![2]), entry(5, 2, vec![2])]);
    opened.wal.save(&[first]).unwrap();
    opened.wal.save(&[second]).unwrap();
    let mut opened = start(&disk.after_power_loss(1), LARGE).unwrap();
    let found = &opened.recovered;
    assert_eq!(indexes(found), [2, 3, 4, 5]);
    let terms: Vec<u64> = found.entries.iter().map(|e| e.term).collect();
    assert_eq!(terms, [1, 1, 2, 2]);
    opened.wal.save(&[append([entry(6, 2, vec![2])])]).unwrap();
}

#[test]
fn an_installed_snapshot_clears_the_log_and_a_local_one_does_not() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, LARGE).unwrap();
    let entries = append((2..10).map(|i| entry(i, 1, vec![1])));
    opened.wal.save(&[entries, state(1, 0, 9, true)]).unwrap();
    write_snapshot(&opened, 6, 1).unwrap();
    let local = mark(6, 1, hard_state(1, 0, 9), false);
    opened.wal.save(&[local]).unwrap();
    let found = start(&disk.after_power_loss(1), LARGE).unwrap().recovered;
    assert_eq!(indexes(&found), [7, 8, 9]);

    write_snapshot(&opened, 30, 2).unwrap();
    let installed = mark(30, 2, hard_state(2, 0, 30), true);
    opened.wal.save(&[installed]).unwrap();
    let found = start(&disk.after_power_loss(1), LARGE).unwrap().recovered;
    assert_eq!(found.snapshot.as_ref().unwrap().index, 30);
    assert!(indexes(&found).is_empty());
    opened.wal.save(&[append([entry(31, 2, vec![])])]).unwrap();
    let found = start(&disk.after_power_loss(1), LARGE).unwrap().recovered;
    assert_eq!(indexes(&found), [31]);
}

#[test]
fn a_huge_save_is_written_in_several_batches() {
    let options = Options {
        segment_bytes: 4096,
        batch_bytes: 2000,
        cache_bytes: u64::MAX,
    };
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, options).unwrap();
    let save = append((2..50).map(|i| entry(i, 1, vec![i as u8; 700])));
    opened.wal.save(&[save, state(1, 0, 49, true)]).unwrap();
    // A record that is larger than a whole segment gets one to itself.
    opened
        .wal
        .save(&[append([entry(50, 1, vec![7; 20_000])])])
        .unwrap();
    opened.wal.save(&[append([entry(51, 1, vec![8])])]).unwrap();
    assert!(segments(&disk).len() > 10);
    let found = start(&disk.after_power_loss(1), options).unwrap().recovered;
    assert_eq!(indexes(&found), (2..52).collect::<Vec<_>>());
    assert_eq!(found.entries[48].data.len(), 20_000);
}

#[test]
fn rotation_and_purge_keep_two_snapshots_and_the_log_from_the_older_one() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, SMALL).unwrap();
    let mut index = 1;
    let mut most = 0;
    for round in 1..20u64 {
        for _ in 0..30 {
            index += 1;
            let save = append([entry(index, round, vec![round as u8; 200])]);
            opened
                .wal
                .save(&[save, state(round, 0, index, false)])
                .unwrap();
        }
        let snapshot = index - 10;
        write_snapshot(&opened, snapshot, round).unwrap();
        let save = mark(snapshot, round, hard_state(round, 0, index), false);
        opened.wal.save(&[save]).unwrap();
        opened
            .wal
            .purge(u64::MAX)
            .unwrap()
            .remove_at_once()
            .unwrap();
        assert_eq!(files(&disk, "snap").len(), 2);
        most = most.max(segments(&disk).len());

        let found = start(&disk.after_power_loss(round), SMALL).unwrap();
        assert_eq!(found.recovered.snapshot.as_ref().unwrap().index, snapshot);
        let expected: Vec<u64> = (snapshot + 1..=index).collect();
        assert_eq!(indexes(&found.recovered), expected);
    }
    assert!(most < 12, "{most} segments were kept");

    // The older snapshot and the log behind it do, when the newer one is damaged.
    let newest = opened.snapshots.path(index - 10, 19);
    let damaged = disk.after_power_loss(1);
    damaged.tamper(&newest, |bytes| bytes[40] ^= 1);
    let found = start(&damaged, SMALL).unwrap();
    let older = index - 40;
    assert_eq!(found.recovered.snapshot.as_ref().unwrap().index, older);
    let expected: Vec<u64> = (older + 1..=index).collect();
    assert_eq!(indexes(&found.recovered), expected);
    assert_eq!(found.recovered.hard_state.commit, index);
    assert_eq!(files(&damaged, "broken").len(), 1);
    let again = start(&damaged.after_power_loss(1), SMALL).unwrap();
    assert_eq!(again.recovered.entries, found.recovered.entries);
}

#[test]
fn the_log_reaches_back_to_the_older_snapshot_wherever_segments_end() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, SMALL).unwrap();
    let mut older = 1;
    for index in 2..200 {
        let bytes = index as usize * 37 % 900;
        let save = append([entry(index, 1, vec![1; bytes])]);
        opened.wal.save(&[save, state(1, 0, index, false)]).unwrap();
        write_snapshot(&opened, index, 1).unwrap();
        let save = mark(index, 1, hard_state(1, 0, index), false);
        opened.wal.save(&[save]).unwrap();
        opened
            .wal
            .purge(u64::MAX)
            .unwrap()
            .remove_at_once()
            .unwrap();

        let damaged = disk.after_power_loss(index);
        damaged.tamper(&opened.snapshots.path(index, 1), |bytes| bytes[40] ^= 1);
        let found = start(&damaged, SMALL).unwrap().recovered;
        assert_eq!(found.snapshot.as_ref().unwrap().index, older);
        assert_eq!(indexes(&found), [index]);
        older = index;
    }
    assert!(segments(&disk).len() <= 2);
}

#[test]
fn snapshots_that_no_mark_names_are_deleted() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, LARGE).unwrap();
    opened.wal.save(&[append([entry(2, 1, vec![])])]).unwrap();
    write_snapshot(&opened, 2, 1).unwrap();
    let mut sink = opened.snapshots.receive(1).unwrap();
    sink.write(b"half a file").unwrap();
    let killed = disk.after_kill();
    assert_eq!(
        (files(&killed, "snap").len(), files(&killed, "tmp").len()),
        (2, 1)
    );
    let found = start(&killed, LARGE).unwrap();
    assert_eq!(found.recovered.snapshot.unwrap().index, 1);
    assert_eq!(
        (files(&killed, "snap").len(), files(&killed, "tmp").len()),
        (1, 0)
    );
}

#[test]
fn without_any_valid_snapshot_the_start_is_refused_and_changes_nothing() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, SMALL).unwrap();
    opened.wal.save(&[append([entry(2, 1, vec![])])]).unwrap();
    let path = opened.snapshots.path(1, 1);
    disk.tamper(&path, |bytes| bytes[30] ^= 1);
    let before = disk.paths();
    assert_corrupt(start(&disk, SMALL), &path);
    assert_eq!(disk.paths(), before);

    // An older one is of no use behind one that replaced the log.
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, SMALL).unwrap();
    write_snapshot(&opened, 30, 2).unwrap();
    let installed = mark(30, 2, hard_state(2, 0, 30), true);
    opened.wal.save(&[installed]).unwrap();
    let path = opened.snapshots.path(30, 2);
    disk.tamper(&path, |bytes| bytes.truncate(20));
    assert_corrupt(start(&disk, SMALL), &path);
}

// ---- errors ----

#[test]
fn a_failed_write_or_sync_is_final() {
    for failing in 1..=2 {
        let disk = FakeDisk::new(1);
        let mut opened = start(&disk, LARGE).unwrap();
        disk.inject(disk.operations() + failing, Fault::Fail);
        let save = [append([entry(2, 1, vec![])])];
        assert!(opened.wal.save(&save).is_err());
        let operations = disk.operations();
        let error = opened.wal.save(&save).unwrap_err();
        assert!(error.to_string().contains("an earlier write failed"));
        assert_eq!(disk.operations(), operations, "it was tried again");
    }
}

#[test]
#[should_panic(expected = "does not follow")]
fn a_gap_in_what_is_saved_is_a_bug() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, LARGE).unwrap();
    let _ = opened.wal.save(&[append([entry(3, 1, vec![])])]);
}

#[test]
fn a_directory_in_use_is_locked() {
    let dir = tempfile::tempdir().unwrap();
    let first = lock(&RealDisk, dir.path()).unwrap();
    let error = lock(&RealDisk, dir.path()).unwrap_err();
    assert!(matches!(error, StorageError::Locked { .. }), "{error}");
    assert_eq!(error.exit_code(), 3);
    drop(first);
    lock(&RealDisk, dir.path()).unwrap();
}

#[test]
fn the_real_disk_keeps_what_was_saved() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("deep/data");
    let open = || {
        let _lock = lock(&RealDisk, &data).unwrap();
        let start = Start::First(list());
        open_with(Arc::new(RealDisk), &data, 3, start, SMALL, &logger()).unwrap()
    };
    let mut index = 1;
    for boot in 1..4 {
        let mut opened = open();
        assert_eq!(opened.meta.boot(), boot);
        let last = opened.recovered.entries.last().map_or(1, |e| e.index);
        assert_eq!(last, index);
        for _ in 0..40 {
            index += 1;
            let save = append([entry(index, 1, vec![index as u8; 300])]);
            opened.wal.save(&[save]).unwrap();
        }
    }
}

#[test]
fn data_of_somebody_else_is_refused() {
    let disk = FakeDisk::new(1);
    drop(start(&disk, LARGE).unwrap());
    let open = |disk: &FakeDisk, member| open_as(disk, member, Start::Empty, LARGE);
    let error = open(&disk, 2).unwrap_err();
    assert_eq!(error.exit_code(), 5, "{error}");
    assert!(!error.to_string().contains('\n'));
    open(&disk, 3).unwrap();

    // The WAL of one directory, the meta file of another.
    for (member, begin) in [
        (3, Start::Empty),
        (3, Start::First(list())),
        (4, Start::Empty),
    ] {
        let other = FakeDisk::new(2);
        open_as(&other, member, begin, LARGE).unwrap();
        let mixed = disk.after_power_loss(1);
        mixed.tamper(&dir().join("meta"), |bytes| {
            *bytes = other.read(&dir().join("meta"));
        });
        let error = open(&mixed, member).unwrap_err();
        assert_eq!(error.exit_code(), 5, "{error}");
    }

    disk.remove(&dir().join("meta")).unwrap();
    let error = start(&disk, LARGE).unwrap_err();
    assert_eq!(error.exit_code(), 5, "{error}");
}

#[test]
fn a_removed_member_does_not_start_again() {
    let disk = FakeDisk::new(1);
    let opened = start(&disk, LARGE).unwrap();
    opened.meta.mark_removed(77).unwrap();
    let error = start(&disk.after_power_loss(1), LARGE).unwrap_err();
    assert_eq!(error.exit_code(), 7);
    let text = error.to_string();
    assert!(
        text.contains("member 3") && text.contains("--join"),
        "{text}"
    );
    assert!(!text.contains('\n'), "{text}");
}

#[test]
fn a_start_that_needs_a_member_makes_none() {
    let existing = || Start::Existing("why not".to_owned());
    let disk = FakeDisk::new(1);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let checked = || check_start(&shared, dir(), &existing());
    let refused = |result: Result<(), StorageError>| {
        let error = result.unwrap_err();
        assert_eq!((error.exit_code(), &*error.to_string()), (2, "why not"));
    };
    refused(checked());
    assert_eq!((disk.operations(), disk.paths()), (0, Vec::new()));
    // The lock only, when nobody asked before it.
    refused(open_as(&disk, 3, existing(), LARGE).map(drop));
    assert_eq!(disk.paths(), [dir().join("LOCK")]);

    // One that was interrupted is none.
    let whole = FakeDisk::new(1);
    drop(start(&whole, LARGE).unwrap());
    let half = FakeDisk::new(1);
    half.inject(whole.operations() - 4, Fault::CrashBefore);
    start(&half, LARGE).unwrap_err();
    let half = half.after_kill();
    assert!(half.paths().contains(&dir().join("meta")));
    let before = half.fingerprint();
    refused(open_as(&half, 3, existing(), LARGE).map(drop));
    assert_eq!(half.fingerprint(), before);

    drop(start(&disk, LARGE).unwrap());
    checked().unwrap();
    let opened = open_as(&disk, 3, existing(), LARGE).unwrap();
    assert!(!opened.first_start);
}

#[test]
fn no_advice_costs_data() {
    let path = || dir().join("meta");
    for error in [
        StorageError::corrupt(&path(), 7, "why"),
        StorageError::WrongIdentity {
            path: path(),
            why: "why".to_owned(),
        },
        StorageError::Removed {
            dir: dir().to_owned(),
            member: 3,
            index: 7,
        },
        StorageError::UnknownVersion {
            path: path(),
            found: 1,
            known: FORMAT_VERSION,
        },
        StorageError::Later {
            path: path(),
            later: crate::command::version::Later { needed: 9 },
        },
    ] {
        let line = error.to_string();
        for word in ["copy", "empty", "remove the", "delete", "\n"] {
            assert!(!line.contains(word), "{line}");
        }
    }
}
