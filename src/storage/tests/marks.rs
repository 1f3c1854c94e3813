//! Marks: the snapshot from which a restart continues, and the part of the log that counts after it.

use super::*;

#[test]
fn an_old_mark_reverts_neither_vote_nor_commit_index() {
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
fn an_installed_snapshot_with_more_entries_than_a_batch_holds_can_be_torn_anywhere() {
    let options = WalOptions {
        segment_bytes: 4096,
        batch_bytes: 2000,
        cache_bytes: u64::MAX,
    };
    let mut found_midway = 0;
    for failing in 1..60 {
        let disk = FakeDisk::new(failing);
        let mut opened = start(&disk, options).unwrap();
        write_snapshot(&opened, 30, 2).unwrap();
        let mut save = mark(30, 2, hard_state(2, 0, 40), true);
        save.entries = (31..46).map(|i| entry(i, 2, vec![3; 700])).collect();
        disk.inject(disk.operations() + failing, Fault::Fail);
        let done = opened.wal.save(&[save]).is_ok();
        for loss in 0..3 {
            let found = start(&disk.after_power_loss(loss), options)
                .unwrap_or_else(|e| panic!("operation {failing}, loss {loss}: {e}"))
                .recovered;
            let last = found.entries.last().map_or(30, |e| e.index);
            let commit = found.hard_state.commit;
            if found.snapshot.as_ref().unwrap().index == 30 {
                assert_eq!(commit, last.min(40));
                found_midway += u64::from(last < 40);
            }
            assert!(!done || (last, commit) == (45, 40));
        }
    }
    assert!(found_midway > 10, "{found_midway}");
}

#[test]
fn a_snapshot_taken_after_a_fallback_to_an_older_one_counts() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, SMALL).unwrap();
    let snapshot = |opened: &mut Opened, index| {
        write_snapshot(opened, index, 1).unwrap();
        let save = mark(index, 1, hard_state(1, 0, 29), false);
        opened.wal.save(&[save]).unwrap();
        purge(opened);
    };
    for index in 2..30 {
        let save = append([entry(index, 1, vec![5; 300])]);
        opened.wal.save(&[save, state(1, 0, index, false)]).unwrap();
    }
    snapshot(&mut opened, 10);
    snapshot(&mut opened, 20);
    disk.tamper(&opened.snapshots.path(20, 1), |bytes| bytes[40] ^= 1);
    let mut opened = start(&disk, SMALL).unwrap();
    assert_eq!(opened.recovered.snapshot.as_ref().unwrap().index, 10);
    snapshot(&mut opened, 15);

    let disk = disk.after_power_loss(1);
    let found = start(&disk, SMALL).unwrap();
    assert_eq!(found.recovered.snapshot.as_ref().unwrap().index, 15);
    assert_eq!(indexes(&found.recovered), (16..30).collect::<Vec<_>>());
    let kept = [10, 15].map(|index| found.snapshots.path(index, 1));
    assert_eq!(files(&disk, "snap"), kept);
    disk.tamper(&kept[1], |bytes| bytes[40] ^= 1);
    let found = start(&disk, SMALL).unwrap().recovered;
    assert_eq!(found.snapshot.as_ref().unwrap().index, 10);
    assert_eq!(indexes(&found), (11..30).collect::<Vec<_>>());
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

    // If the newest snapshot replaced the log, an older snapshot can't be used.
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, SMALL).unwrap();
    write_snapshot(&opened, 30, 2).unwrap();
    let installed = mark(30, 2, hard_state(2, 0, 30), true);
    opened.wal.save(&[installed]).unwrap();
    let path = opened.snapshots.path(30, 2);
    disk.tamper(&path, |bytes| bytes.truncate(20));
    assert_corrupt(start(&disk, SMALL), &path);
}
