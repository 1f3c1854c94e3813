//! Segments and snapshots are deleted neither too early nor too late, and no save waits for a deletion.

use super::*;
use crate::metrics::Counter;
use crate::threads::remove::Remover;

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
        purge(&mut opened);
        assert_eq!(files(&disk, "snap").len(), 2);
        most = most.max(segments(&disk).len());

        let found = start(&disk.after_power_loss(round), SMALL).unwrap();
        assert_eq!(found.recovered.snapshot.as_ref().unwrap().index, snapshot);
        let expected: Vec<u64> = (snapshot + 1..=index).collect();
        assert_eq!(indexes(&found.recovered), expected);
    }
    assert!(most < 12, "{most} segments were kept");

    // If the newer snapshot is damaged, the older one and the log after it are enough.
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
        purge(&mut opened);

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
        (files(&killed, "snap").len(), unfinished(&killed).len()),
        (2, 1)
    );
    let found = start(&killed, LARGE).unwrap();
    assert_eq!(found.recovered.snapshot.unwrap().index, 1);
    assert_eq!(
        (files(&killed, "snap").len(), unfinished(&killed).len()),
        (1, 0)
    );
}

#[test]
fn a_save_waits_for_no_removal() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, SMALL).unwrap();
    for index in 2..60 {
        let save = append([entry(index, 1, vec![5; 300])]);
        opened.wal.save(&[save, state(1, 0, index, false)]).unwrap();
    }
    for index in [30, 50] {
        write_snapshot(&opened, index, 1).unwrap();
        let save = mark(index, 1, hard_state(1, 0, 59), false);
        opened.wal.save(&[save]).unwrap();
    }
    let before = (segments(&disk).len(), files(&disk, "snap").len());
    assert_eq!(before.1, 3);
    purge(&mut opened);
    assert!(segments(&disk).len() < before.0);
    assert_eq!(files(&disk, "snap").len(), 2);
    let operations = disk.operations();
    purge(&mut opened);
    assert_eq!(disk.operations(), operations);
}

#[test]
fn a_failed_removal_is_an_error() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, LARGE).unwrap();
    let entries = append((2..9).map(|i| entry(i, 1, vec![])));
    opened.wal.save(&[entries, state(1, 0, 8, true)]).unwrap();
    for index in [4, 6] {
        write_snapshot(&opened, index, 1).unwrap();
        let save = mark(index, 1, hard_state(1, 0, 8), false);
        opened.wal.save(&[save]).unwrap();
    }
    disk.inject(disk.operations() + 1, Fault::Fail);
    let purge = opened.wal.purge(u64::MAX).unwrap();
    purge.remove_at_once().unwrap_err();
}

#[test]
fn a_received_snapshot_stays_until_it_is_loaded() {
    let leader = start(&FakeDisk::new(2), LARGE).unwrap();
    let disk = FakeDisk::new(1);
    let mut opened = open_as(&disk, 4, Start::Empty, LARGE).unwrap();
    let cluster = leader.meta.cluster();
    opened.meta.pin_cluster(cluster).unwrap();
    let mut install = |index: u64| {
        write_snapshot(&leader, index, 1).unwrap();
        let mut source = leader.snapshots.open(index, 1).unwrap();
        let mut bytes = vec![0; source.bytes as usize];
        source.read(&mut bytes).unwrap();
        let mut sink = opened.snapshots.receive(cluster).unwrap();
        sink.write(&bytes).unwrap();
        sink.finish(&snapshot_meta(index, 1)).unwrap();
        let save = mark(index, 1, hard_state(1, 0, index), true);
        opened.wal.save(&[save]).unwrap();
        purge(&mut opened);
        opened.snapshots.clone()
    };
    let places = [30, 60, 90, 120];
    let [.., snapshots] = places.map(&mut install);
    for index in places {
        let (header, _) = snapshots.load(index, 1, |_, _, _| (), |_, _| ()).unwrap();
        assert_eq!(header.index, index);
    }
    assert_eq!(files(&disk, "snap").len(), 4);
    install(150);
    let kept = [120, 150].map(|index| snapshots.path(index, 1));
    assert_eq!(files(&disk, "snap"), kept);
}

/// A log of several segments and three snapshots. Its next purge deletes some of both.
fn with_superfluous_files() -> (FakeDisk, Opened) {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, SMALL).unwrap();
    for index in 2..60 {
        let save = append([entry(index, 1, vec![5; 900])]);
        opened.wal.save(&[save, state(1, 0, index, false)]).unwrap();
    }
    for index in [20, 30, 50] {
        write_snapshot(&opened, index, 1).unwrap();
        let save = mark(index, 1, hard_state(1, 0, 59), false);
        opened.wal.save(&[save]).unwrap();
    }
    (disk, opened)
}

/// The thread that deletes files, with this purge, and its counter of failures.
fn remover(purge: Purge) -> (Remover, Counter) {
    let (sender, purges) = std::sync::mpsc::channel();
    sender.send(purge).unwrap();
    let failed = Counter::default();
    (Remover::new(purges, failed.clone(), &logger()), failed)
}

fn remaining(disk: &FakeDisk) -> (Vec<PathBuf>, Vec<PathBuf>) {
    (segments(disk), files(disk, "snap"))
}

#[test]
fn without_descriptors_files_are_deleted_later() {
    let (disk, mut opened) = with_superfluous_files();
    let before = remaining(&disk);
    let (mut remover, failed) = remover(opened.wal.purge(u64::MAX).unwrap());
    disk.set_lacks_descriptors(true);
    for attempt in 1..4 {
        remover.remove_waiting(|_| ()).unwrap();
        assert_eq!(failed.get(), attempt);
    }
    assert_eq!(remaining(&disk).1, before.1);
    disk.set_lacks_descriptors(false);
    remover.remove_waiting(|_| ()).unwrap();
    let after = remaining(&disk);
    assert!(after.0.len() < before.0.len());
    assert_eq!(after.1.len(), 2);
    assert_eq!(failed.get(), 3);
}

#[test]
fn a_file_that_can_not_be_deleted_keeps_the_newer_segments_and_is_tried_again() {
    let (disk, mut opened) = with_superfluous_files();
    let begin = disk.operations();
    purge(&mut opened);
    let (operations, expected) = (disk.operations() - begin, remaining(&disk));
    assert!(operations > 8, "{operations}");
    let mut kept = 0;
    for (at, fault) in (1..=operations).flat_map(|at| [(at, Fault::Fail), (at, Fault::Full)]) {
        let (disk, mut opened) = with_superfluous_files();
        disk.reseed(at);
        let all = segments(&disk);
        let (mut remover, failed) = remover(opened.wal.purge(u64::MAX).unwrap());
        disk.keep_journal();
        disk.inject(disk.operations() + at, fault);
        let removed = remover.remove_waiting(|_| ());
        let (operation, _) = disk.journal()[at as usize - 1];
        if operation == Operation::SyncDir {
            // The log's directory: it is unknown which names are durable.
            removed.unwrap_err();
            continue;
        }
        removed.unwrap();
        assert_eq!(failed.get(), 1);
        kept += 1;
        let left = segments(&disk);
        assert!(all.ends_with(&left), "{left:?} of {all:?}");
        for seed in 0..8 {
            let found = start(&disk.after_power_loss(seed), SMALL).unwrap();
            assert_eq!(found.recovered.snapshot.unwrap().index, 50);
        }
        remover.remove_waiting(|_| ()).unwrap();
        assert_eq!(remaining(&disk), expected);
        assert_eq!(failed.get(), 1);
    }
    assert!(kept > 4, "{kept}");
}

/// Two purges, each of several segments, that wait behind each other since the first one meets a fault. `stopped` is an
/// operation of the last attempt, which deletes all, at which the machine stops. Returns the disk, and the segments that
/// the last attempt has deleted, in their order.
fn delayed_removals(failed: usize, stopped: Option<u64>) -> (FakeDisk, Vec<PathBuf>) {
    let (disk, mut opened) = with_superfluous_files();
    let first = opened.wal.purge(20).unwrap();
    let second = opened.wal.purge(u64::MAX).unwrap();
    let (sender, received) = std::sync::mpsc::channel();
    let mut remover = Remover::new(received, Counter::default(), &logger());
    let mut left = segments(&disk);
    let is_removal = |(operation, path): &(Operation, PathBuf)| {
        *operation == Operation::Remove && path.extension().is_some_and(|e| e == "wal")
    };
    let superfluous_snapshots = files(&disk, "snap").len() as u64 - 2;
    let purges = [(first, superfluous_snapshots, failed), (second, 0, 0)];
    for (purge, snapshots, failed) in purges {
        sender.send(purge).unwrap();
        // A segment is removed and then the directory synced, so the removals are two operations apart.
        disk.inject(
            disk.operations() + snapshots + 2 * failed as u64 + 1,
            Fault::Full,
        );
        remover.remove_waiting(|_| ()).unwrap();
        left.drain(..failed);
        assert_eq!(segments(&disk), left);
        for seed in 0..8 {
            let found = start(&disk.after_power_loss(seed), SMALL).unwrap();
            assert_eq!(found.recovered.snapshot.unwrap().index, 50);
        }
    }
    disk.clear_faults();
    disk.keep_journal();
    if let Some(stopped) = stopped {
        disk.inject(disk.operations() + stopped, Fault::CrashAfter);
    }
    let removed = remover.remove_waiting(|_| ());
    assert!(removed.is_ok() || disk.crashed(), "{removed:?}");
    let journal = disk.journal().into_iter();
    let removals = journal.filter(is_removal).map(|(_, path)| path);
    (disk, removals.collect())
}

#[test]
fn later_files_wait_behind_those_that_can_not_be_deleted() {
    let (disk, mut opened) = with_superfluous_files();
    let all = segments(&disk);
    let first = opened.wal.purge(20).unwrap();
    first.remove_at_once().unwrap();
    let behind = segments(&disk);
    let in_first = all.len() - behind.len();
    opened
        .wal
        .purge(u64::MAX)
        .unwrap()
        .remove_at_once()
        .unwrap();
    let expected = segments(&disk);
    assert!(in_first > 1 && behind.len() > expected.len() + 1);
    for failed in 0..in_first {
        let (disk, removals) = delayed_removals(failed, None);
        assert_eq!(removals, all[failed..all.len() - expected.len()]);
        assert_eq!(segments(&disk), expected);
        assert_eq!(files(&disk, "snap").len(), 2);
        for stopped in 1.. {
            let (disk, _) = delayed_removals(failed, Some(stopped));
            if !disk.crashed() {
                break;
            }
            for seed in 0..8 {
                let found = start(&disk.after_power_loss(seed), SMALL).unwrap();
                assert_eq!(found.recovered.snapshot.unwrap().index, 50);
            }
        }
    }
}
