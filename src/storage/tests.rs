//! Tests of storage as a whole: what a restart finds after crashes, damage and mistakes.

use super::fake_disk::{FakeDisk, Random};
use super::*;
use crate::members::{Members, PeerUrl};
use std::collections::BTreeMap;

const SMALL: Options = Options {
    segment_bytes: 4096,
    batch_bytes: config::BATCH_BYTES_TARGET,
};
/// One segment holds the whole of a test.
const LARGE: Options = Options {
    segment_bytes: 64 << 10,
    batch_bytes: config::BATCH_BYTES_TARGET,
};

use crate::config;

fn logger() -> Logger {
    Logger::root(slog::Discard, slog::o!())
}

fn dir() -> &'static Path {
    Path::new("/data")
}

fn members() -> Members {
    let urls: Vec<PeerUrl> = ["http://a:1", "http://a:2", "http://a:3"]
        .iter()
        .map(|url| url.parse().unwrap())
        .collect();
    Members::initial(&urls)
}

fn start(disk: &FakeDisk, options: Options) -> Result<Opened, StorageError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let start = Start::Bootstrap(members());
    open_with(disk, dir(), 3, start, options, &logger())
}

fn entry(index: u64, term: u64, data: Vec<u8>) -> Entry {
    let mut entry = Entry::default();
    entry.index = index;
    entry.term = term;
    entry.data = data.into();
    entry
}

fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    let mut hard_state = HardState::default();
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

fn write_snapshot(snapshots: &Snapshots, index: u64, term: u64) -> Result<u64, DiskError> {
    let meta = SnapshotMeta {
        index,
        term,
        conf_state: members().conf_state(),
        ..SnapshotMeta::default()
    };
    let value = index.to_string();
    let entries = [(b"index".as_slice(), index, value.as_bytes())];
    snapshots.write(&meta, members().cluster_id(), entries.into_iter())
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

// ---- the usual way ----

#[test]
fn a_first_start_and_the_next_one_begin_with_the_same_snapshot() {
    let disk = FakeDisk::new(1);
    let first = start(&disk, LARGE).unwrap();
    assert!(first.first_start);
    assert_eq!((first.meta.boot(), first.meta.member()), (1, 3));
    assert_eq!(first.meta.cluster(), members().cluster_id());
    let found = first.recovered.snapshot.clone().unwrap();
    assert_eq!((found.index, found.term), (1, 1));
    assert_eq!(found.conf_state.get_voters(), [1, 2, 3]);
    assert_eq!(Members::from_state(&found.state), Ok(members()));
    assert_eq!(first.recovered.hard_state, hard_state(1, 0, 1));
    let incarnation = first.meta.incarnation();
    let recovered = first.recovered;

    let second = start(&disk.after_power_loss(7), LARGE).unwrap();
    assert!(!second.first_start);
    assert_eq!(
        (second.meta.boot(), second.meta.incarnation()),
        (2, incarnation)
    );
    assert_eq!(second.recovered.snapshot, recovered.snapshot);
    assert_eq!(second.recovered.snapshot_bytes, recovered.snapshot_bytes);
    assert_eq!(second.recovered.hard_state, recovered.hard_state);
    assert_eq!(second.recovered.entries, []);
}

#[test]
fn a_joiner_starts_empty_and_keeps_what_it_was_sent() {
    let disk = FakeDisk::new(1);
    let open = |disk: &FakeDisk| {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        open_with(disk, dir(), 4, Start::Join, LARGE, &logger()).unwrap()
    };
    let first = open(&disk);
    assert_eq!(first.meta.cluster(), 0);
    assert_eq!(first.recovered.snapshot, None);
    let disk = disk.after_power_loss(1);
    let mut second = open(&disk);
    assert_eq!(second.meta.cluster(), 0);
    assert_eq!(second.recovered.snapshot, None);
    second.meta.pin_cluster(members().cluster_id()).unwrap();
    write_snapshot(&second.snapshots, 40, 2).unwrap();
    let mut save = mark(40, 2, hard_state(2, 0, 40), true);
    save.entries.push(entry(41, 2, vec![1]));
    second.wal.save(&[save]).unwrap();
    let third = open(&disk.after_power_loss(1));
    assert_eq!(third.meta.cluster(), members().cluster_id());
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
    let once = BTreeMap::from([("sync", 1), ("write", 1)]);
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
    write_snapshot(&opened.snapshots, 5, 1).unwrap();
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
    write_snapshot(&opened.snapshots, 6, 1).unwrap();
    let local = mark(6, 1, hard_state(1, 0, 9), false);
    opened.wal.save(&[local]).unwrap();
    let found = start(&disk.after_power_loss(1), LARGE).unwrap().recovered;
    assert_eq!(indexes(&found), [7, 8, 9]);

    write_snapshot(&opened.snapshots, 30, 2).unwrap();
    let installed = mark(30, 2, hard_state(2, 0, 30), true);
    opened.wal.save(&[installed]).unwrap();
    let found = start(&disk.after_power_loss(1), LARGE).unwrap().recovered;
    assert_eq!(found.snapshot.as_ref().unwrap().index, 30);
    assert_eq!(indexes(&found), []);
    opened.wal.save(&[append([entry(31, 2, vec![])])]).unwrap();
    let found = start(&disk.after_power_loss(1), LARGE).unwrap().recovered;
    assert_eq!(indexes(&found), [31]);
}

#[test]
fn a_huge_save_is_written_in_several_batches() {
    let options = Options {
        segment_bytes: 4096,
        batch_bytes: 2000,
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
        write_snapshot(&opened.snapshots, snapshot, round).unwrap();
        let save = mark(snapshot, round, hard_state(round, 0, index), false);
        opened.wal.save(&[save]).unwrap();
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
    write_snapshot(&opened.snapshots, 30, 2).unwrap();
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
        disk.crash_at(disk.operations() + failing);
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
    let open = || {
        let start = Start::Bootstrap(members());
        super::open(Arc::new(RealDisk), dir.path(), 1, start, &logger())
    };
    let first = open().unwrap();
    let error = open().unwrap_err();
    assert!(matches!(error, StorageError::Locked { .. }), "{error}");
    assert_eq!(error.exit_code(), 3);
    drop(first);
    assert!(!open().unwrap().first_start);
}

#[test]
fn the_real_disk_keeps_what_was_saved() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("deep/data");
    let open = || {
        let start = Start::Bootstrap(members());
        open_with(Arc::new(RealDisk), &data, 1, start, SMALL, &logger()).unwrap()
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
    let open = |disk: &FakeDisk, member| {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        open_with(disk, dir(), member, Start::Join, LARGE, &logger())
    };
    let error = open(&disk, 2).unwrap_err();
    assert_eq!(error.exit_code(), 5, "{error}");
    assert!(!error.to_string().contains('\n'));
    open(&disk, 3).unwrap();

    // The WAL of one directory, the meta file of another.
    for (member, cluster) in [(3, Start::Join), (4, Start::Bootstrap(members()))] {
        let other = FakeDisk::new(2);
        let shared: Arc<dyn Disk> = Arc::new(other.clone());
        open_with(shared, dir(), member, cluster, LARGE, &logger()).unwrap();
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
    assert!(text.contains("POST /3") && !text.contains('\n'), "{text}");
}

// ---- crashes ----

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
        Expected {
            entries: recovered.entries.clone(),
            hard_state: recovered.hard_state.clone(),
            snapshot: recovered.snapshot.as_ref().map_or(0, |s| s.index),
        }
    }
}

/// Saves as raft would ask for them, drawn from a seed: appends, conflicts, votes, snapshots of both kinds.
struct Script {
    random: Random,
    now: Expected,
    /// Without what waits for the next sync.
    durable: Expected,
}

impl Script {
    fn next(&mut self, snapshots: &Snapshots) -> Result<Vec<Save>, DiskError> {
        let mut saves = Vec::new();
        for _ in 0..1 + self.random.below(3) {
            let mut save = Save::default();
            let HardState {
                mut term,
                mut vote,
                mut commit,
                ..
            } = self.now.hard_state.clone();
            match self.random.below(12) {
                0 => {
                    term += 1;
                    vote = 1 + self.random.below(3);
                    save.sync = true;
                }
                1 => commit += self.random.below(self.now.last() - commit + 1),
                2 if commit > self.now.snapshot => {
                    let index = commit - self.random.below(commit - self.now.snapshot);
                    write_snapshot(snapshots, index, 1)?;
                    save = mark(index, 1, hard_state(term, vote, commit), false);
                }
                3 if self.random.below(3) == 0 => {
                    let index = commit + 1 + self.random.below(20);
                    write_snapshot(snapshots, index, 1)?;
                    commit = index;
                    save = mark(index, 1, hard_state(term, vote, commit), true);
                }
                _ => {
                    let last = self.now.last();
                    let conflict = self.random.below(8) == 0;
                    let back = if conflict { last - commit } else { 0 };
                    let first = last + 1 - self.random.below(back + 1);
                    for index in first..first + 1 + self.random.below(3) {
                        let len = [0, 10, 100, 600, 2500][self.random.below(5) as usize];
                        let byte = self.random.below(2) as u8 * 7;
                        save.entries.push(entry(index, term, vec![byte; len]));
                    }
                    save.sync = true;
                }
            }
            if save.mark.is_none() && self.random.below(2) == 0 || save.entries.is_empty() {
                save.hard_state = Some(hard_state(term, vote, commit));
            }
            self.now.save(&save);
            saves.push(save);
        }
        if saves.iter().any(|save| save.sync) {
            self.durable = self.now.clone();
        }
        Ok(saves)
    }
}

/// Runs a script until the disk crashes or it is through. Gives what was acknowledged, and what it was before or would
/// be after the save that failed.
fn run(disk: &FakeDisk, seed: u64, rounds: u64) -> (Expected, Expected) {
    let mut script = Script {
        random: Random(seed),
        now: Expected::new(),
        durable: Expected::new(),
    };
    let Ok(mut opened) = start(disk, SMALL) else {
        return (Expected::new(), Expected::new());
    };
    for _ in 0..rounds {
        let acknowledged = script.durable.clone();
        let result = script
            .next(&opened.snapshots)
            .and_then(|saves| opened.wal.save(&saves));
        if result.is_err() {
            return (acknowledged, script.durable);
        }
    }
    (script.durable.clone(), script.durable)
}

#[test]
fn a_crash_at_any_operation_loses_nothing_that_was_acknowledged() {
    let mut torn = 0;
    for seed in 0..3 {
        let whole = FakeDisk::new(seed);
        run(&whole, seed, 60);
        for operation in 1..=whole.operations() + 1 {
            let disk = FakeDisk::new(seed);
            disk.crash_at(operation);
            let (acknowledged, next) = run(&disk, seed, 60);
            for loss in 0..3 {
                let name = format!("seed {seed}, operation {operation}, loss {loss}");
                let after = disk.after_power_loss(loss * 1000 + operation);
                let mut opened = start(&after, SMALL).unwrap_or_else(|e| panic!("{name}: {e}"));
                let found = Expected::of(&opened.recovered);
                assert!(
                    found == acknowledged || found == next,
                    "{name}: found {found:?}, acknowledged {acknowledged:?}, next {next:?}"
                );
                torn += files(&after, "broken").len();
                // It goes on from there, and the damage does not come back.
                let last = found.last();
                let save = append([entry(last + 1, 99, vec![9; 700])]);
                opened.wal.save(&[save]).unwrap();
                let again = start(&after.after_power_loss(1), SMALL)
                    .unwrap_or_else(|e| panic!("{name}, again: {e}"));
                let mut expected = found;
                expected.entries.push(entry(last + 1, 99, vec![9; 700]));
                assert_eq!(Expected::of(&again.recovered), expected, "{name}");
            }
        }
    }
    assert!(
        torn > 20,
        "only {torn} tails were torn: the test tests little"
    );
}

#[test]
fn a_crash_during_recovery_loses_nothing_either() {
    for operation in (1..400).step_by(7) {
        let disk = FakeDisk::new(5);
        disk.crash_at(operation);
        let (acknowledged, next) = run(&disk, 5, 60);
        for again in 1..20 {
            let after = disk.after_power_loss(operation);
            after.crash_at(again);
            let complete = start(&after, SMALL).is_ok();
            let after = after.after_power_loss(again);
            let opened = start(&after, SMALL).unwrap();
            let found = Expected::of(&opened.recovered);
            assert!(
                found == acknowledged || found == next,
                "operation {operation}, then {again}: found {found:?}, acknowledged {acknowledged:?}"
            );
            if complete {
                break;
            }
        }
    }
}

#[test]
fn what_a_restart_found_after_a_kill_is_durable() {
    for operation in (20..300).step_by(3) {
        let disk = FakeDisk::new(6);
        disk.crash_at(operation);
        run(&disk, 6, 60);
        let killed = disk.after_kill();
        let opened = start(&killed, SMALL).unwrap();
        let found = Expected::of(&opened.recovered);
        let boot = opened.meta.boot();
        for loss in 0..3 {
            let after = start(&killed.after_power_loss(loss), SMALL).unwrap();
            assert_eq!(Expected::of(&after.recovered), found);
            assert!(after.meta.boot() > boot);
        }
    }
}

#[test]
fn an_interrupted_first_start_is_begun_again() {
    let whole = FakeDisk::new(3);
    drop(start(&whole, LARGE).unwrap());
    for operation in 1..=whole.operations() {
        let disk = FakeDisk::new(3);
        disk.crash_at(operation);
        assert!(start(&disk, LARGE).is_err());
        for loss in 0..8 {
            let after = disk.after_power_loss(loss);
            let opened = start(&after, LARGE)
                .unwrap_or_else(|e| panic!("operation {operation}, loss {loss}: {e}"));
            assert_eq!(Expected::of(&opened.recovered), Expected::new());
            let again = start(&after.after_power_loss(loss), LARGE).unwrap();
            assert!(!again.first_start);
            assert_eq!(Expected::of(&again.recovered), Expected::new());
        }
    }
}

// ---- damage ----

/// A WAL of one segment with this many batches of one entry each, some of whose values are zeros. Nothing in it is known
/// to be committed, so only the format can tell what is missing.
fn wal_of(batches: u64) -> (FakeDisk, PathBuf, Expected, Expected) {
    let disk = FakeDisk::new(9);
    let mut opened = start(&disk, LARGE).unwrap();
    let mut expected = Expected::new();
    let mut before = expected.clone();
    for i in 0..batches {
        let len = if i == batches - 1 { 1500 } else { i % 40 };
        let mut value = vec![0; len as usize];
        value.iter_mut().skip(1100).for_each(|byte| *byte = 3);
        let save = append([entry(2 + i, 1, value)]);
        before.clone_from(&expected);
        expected.save(&save);
        opened.wal.save(&[save]).unwrap();
    }
    let segment = segments(&disk).pop().unwrap();
    (disk, segment, before, expected)
}

/// Where the last batch begins and ends: the marker of a head is at byte 20 of it.
fn last_batch(bytes: &[u8]) -> (usize, usize) {
    let head = bytes.windows(4).rposition(|w| w == b"rkvB").unwrap() - 20;
    (head, bytes.iter().rposition(|b| *b != 0).unwrap() + 1)
}

#[test]
fn torn_tail_is_truncated() {
    let (disk, segment, before, whole) = wal_of(20);
    let good = disk.read(&segment);
    let (begin, end) = last_batch(&good);
    assert!(end - begin > 1500);
    for cut in begin..=end {
        for shorter in [false, true] {
            let disk = disk.after_power_loss(1);
            disk.tamper(&segment, |bytes| {
                if shorter {
                    bytes.truncate(cut);
                } else {
                    bytes[cut..].fill(0);
                }
            });
            let mut opened = start(&disk, LARGE).unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
            let expected = if cut == end { &whole } else { &before };
            assert_eq!(&Expected::of(&opened.recovered), expected, "cut at {cut}");
            let aside = files(&disk, "broken");
            assert_eq!(
                aside.len(),
                usize::from(cut > begin && cut < end),
                "cut at {cut}"
            );
            if let Some(aside) = aside.first() {
                let kept = disk.read(aside);
                assert!(!kept.is_empty() && good[begin..].starts_with(&kept));
            }
            // Whatever stood there never comes back.
            let last = expected.last();
            let save = append([entry(last + 1, 2, vec![])]);
            opened.wal.save(&[save]).unwrap();
            let again = start(&disk.after_power_loss(1), LARGE).unwrap().recovered;
            assert_eq!(indexes(&again), (2..=last + 1).collect::<Vec<_>>());
            assert_eq!(again.entries.last().unwrap().term, 2);
        }
    }
}

#[test]
fn any_combination_of_lost_sectors_is_a_torn_tail() {
    let (disk, segment, before, whole) = wal_of(20);
    let good = disk.read(&segment);
    let (begin, end) = last_batch(&good);
    let sectors: Vec<usize> = (begin / 512..end.div_ceil(512)).collect();
    assert!(sectors.len() >= 3);
    for lost in 0..1u32 << sectors.len() {
        let disk = disk.after_power_loss(1);
        disk.tamper(&segment, |bytes| {
            for (at, sector) in sectors.iter().enumerate() {
                if lost & (1 << at) != 0 {
                    bytes[(sector * 512).max(begin)..(sector + 1) * 512].fill(0);
                }
            }
        });
        let unharmed = disk.read(&segment) == good;
        let found = start(&disk, LARGE).unwrap().recovered;
        let expected = if unharmed { &whole } else { &before };
        assert_eq!(&Expected::of(&found), expected, "lost {lost:b}");
    }
}

#[test]
fn every_flipped_byte_of_a_wal_is_refused_or_harmless() {
    let (disk, segment, _, whole) = wal_of(200);
    let (_, end) = last_batch(&disk.read(&segment));
    let mut refused = 0;
    for at in 0..end + 200 {
        let flip = [0xff, 0x01, 0x80][at % 3];
        let disk = disk.after_power_loss(1);
        disk.tamper(&segment, |bytes| bytes[at] ^= flip);
        match start(&disk, LARGE) {
            Ok(opened) => {
                assert!(at >= end, "byte {at} is of no account?");
                assert_eq!(Expected::of(&opened.recovered), whole, "byte {at}");
            }
            result => {
                let offset = assert_corrupt(result, &segment) as usize;
                assert!(offset <= at && at < offset + 2000, "{offset} for {at}");
                refused += 1;
            }
        }
    }
    assert!(refused >= end);
}

#[test]
fn damage_before_a_later_batch_is_never_a_torn_tail() {
    let (disk, segment, ..) = wal_of(5);
    let good = disk.read(&segment);
    let heads: Vec<usize> = (20..good.len() - 4)
        .filter(|at| &good[*at..at + 4] == b"rkvB")
        .map(|at| at - 20)
        .collect();
    let (begin, end) = (heads[heads.len() - 3], heads[heads.len() - 2]);
    // All kinds of holes: the whole batch, its start, its end.
    for range in [begin..end, begin..begin + 24, begin + 8..end, end - 1..end] {
        let disk = disk.after_power_loss(1);
        disk.tamper(&segment, |bytes| bytes[range].fill(0));
        let offset = assert_corrupt(start(&disk, LARGE), &segment);
        assert_eq!(offset, begin as u64);
    }
}

#[test]
fn a_torn_tail_that_was_committed_is_corrupt() {
    let disk = FakeDisk::new(9);
    let mut opened = start(&disk, LARGE).unwrap();
    let saves = [
        append((2..6).map(|i| entry(i, 1, vec![5; 30]))),
        state(1, 0, 5, true),
    ];
    opened.wal.save(&saves).unwrap();
    // A conflict below the commit index can't happen; a batch from elsewhere would make one.
    let (mut path, mut offset) = (PathBuf::new(), 0);
    disk.take_counts();
    for segment in segments(&disk) {
        let bytes = disk.read(&segment);
        (path, offset) = (segment, last_batch(&bytes).0);
    }
    let first = disk.read(&path);
    drop(opened);
    // The hard state is in the batch of the entries, so losing both loses nothing that is known.
    let torn = disk.after_power_loss(1);
    torn.tamper(&path, |bytes| bytes[offset..].fill(0));
    assert_eq!(indexes(&start(&torn, LARGE).unwrap().recovered), []);
    assert_eq!(disk.read(&path), first);

    // A segment that is missing at the start or in the middle is noticed; the last one is noticed by the commit index.
    let disk = FakeDisk::new(9);
    let mut opened = start(&disk, SMALL).unwrap();
    for index in 2..60 {
        let save = append([entry(index, 1, vec![5; 300])]);
        opened.wal.save(&[save, state(1, 0, index, false)]).unwrap();
    }
    let all = segments(&disk);
    assert!(all.len() > 3);
    for missing in 0..all.len() - 1 {
        let disk = disk.after_power_loss(1);
        disk.remove(&all[missing]).unwrap();
        let error = start(&disk, SMALL).unwrap_err();
        assert_eq!(error.exit_code(), 4, "{error}");
    }
    // So is a batch that is missing at the end of a segment that is not the last one.
    let disk = disk.after_power_loss(1);
    let (begin, _) = last_batch(&disk.read(&all[1]));
    disk.tamper(&all[1], |bytes| bytes[begin..].fill(0));
    assert_eq!(assert_corrupt(start(&disk, SMALL), &all[1]), begin as u64);
}

#[test]
fn bytes_of_another_segment_or_place_never_validate() {
    let (disk, segment, before, _) = wal_of(20);
    let (other, other_segment, ..) = {
        let disk = FakeDisk::new(10);
        let mut opened = start(&disk, LARGE).unwrap();
        for i in 0..20 {
            opened
                .wal
                .save(&[append([entry(2 + i, 1, vec![1; 40])])])
                .unwrap();
        }
        (disk.clone(), segments(&disk).pop().unwrap())
    };
    let stale = other.read(&other_segment);
    let good = disk.read(&segment);
    let (begin, end) = last_batch(&good);
    // Behind the end: a batch of another file at the same place, and a batch of this file at another place.
    let own = good[begin..end].to_vec();
    for bytes_behind in [stale[begin..begin + 800].to_vec(), own] {
        let disk = disk.after_power_loss(1);
        disk.tamper(&segment, |bytes| {
            bytes[begin..].fill(0);
            bytes[begin + 512..begin + 512 + bytes_behind.len()].copy_from_slice(&bytes_behind);
        });
        let found = start(&disk, LARGE).unwrap().recovered;
        assert_eq!(Expected::of(&found), before);
    }
}

#[test]
fn garbage_is_refused_without_a_panic() {
    let (disk, segment, _, whole) = wal_of(20);
    let len = disk.read(&segment).len() as u64;
    let mut random = Random(4);
    for _ in 0..2000 {
        let disk = disk.after_power_loss(1);
        disk.tamper(&segment, |bytes| {
            for _ in 0..1 + random.below(40) {
                let at = random.below(len.min(4000)) as usize;
                let count = random.below(9) as usize;
                for byte in &mut bytes[at..at + count] {
                    *byte = random.next() as u8;
                }
            }
        });
        if let Ok(opened) = start(&disk, LARGE) {
            assert_eq!(Expected::of(&opened.recovered), whole);
        }
    }
}
