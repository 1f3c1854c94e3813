//! What a save writes, in one batch or several, and what a restart finds of it.

use super::*;

#[test]
fn a_delayed_commit_index_is_written_with_the_next_save() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, LARGE).unwrap();
    opened.wal.save(&[append([entry(2, 1, vec![])])]).unwrap();
    opened.wal.save(&[state(1, 3, 2, false)]).unwrap();
    let found = start(&disk.after_power_loss(1), LARGE).unwrap().recovered;
    assert_eq!(found.hard_state, hard_state(1, 0, 1), "not yet durable");
    opened.wal.save(&[append([entry(3, 1, vec![])])]).unwrap();
    let found = start(&disk.after_power_loss(1), LARGE).unwrap().recovered;
    assert_eq!(found.hard_state, hard_state(1, 3, 2));
    // A newer commit index is never replaced by an older one that waited.
    let saves = [state(1, 3, 3, false), state(2, 1, 3, true)];
    opened.wal.save(&saves).unwrap();
    let found = start(&disk.after_power_loss(1), LARGE).unwrap().recovered;
    assert_eq!(found.hard_state, hard_state(2, 1, 3));
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
fn a_huge_save_is_written_in_several_batches() {
    let options = WalOptions {
        segment_bytes: 4096,
        batch_bytes: 2000,
        cache_bytes: u64::MAX,
    };
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, options).unwrap();
    let save = append((2..50).map(|i| entry(i, 1, vec![i as u8; 700])));
    disk.take_counts();
    opened.wal.save(&[save, state(1, 0, 49, true)]).unwrap();
    assert!(disk.take_counts()[&Operation::Write] > 10);
    // A record that is larger than a whole segment gets its own segment.
    opened
        .wal
        .save(&[append([entry(50, 1, vec![7; 20_000])])])
        .unwrap();
    opened.wal.save(&[append([entry(51, 1, vec![8])])]).unwrap();
    assert_eq!(segments(&disk).len(), 3);
    let found = start(&disk.after_power_loss(1), options).unwrap().recovered;
    assert_eq!(indexes(&found), (2..52).collect::<Vec<_>>());
    assert_eq!(found.entries[48].data.len(), 20_000);
}

#[test]
fn an_entry_is_never_found_without_the_commit_index_that_came_along_with_it() {
    let options = WalOptions {
        segment_bytes: 4096,
        batch_bytes: 2000,
        cache_bytes: u64::MAX,
    };
    let mut found_midway = 0;
    for failing in 1..60 {
        let disk = FakeDisk::new(failing);
        let mut opened = start(&disk, options).unwrap();
        let before = append((2..6).map(|i| entry(i, 1, vec![3; 700])));
        opened.wal.save(&[before, state(1, 0, 2, true)]).unwrap();
        // Entries 4 and 5 were never committed, and are replaced.
        let mut save = append((4..20).map(|i| entry(i, 2, vec![4; 700])));
        save.hard_state = Some(hard_state(2, 0, 7));
        disk.inject(disk.operations() + failing, Fault::Fail);
        let done = opened.wal.save(&[save]).is_ok();
        for loss in 0..3 {
            let found = start(&disk.after_power_loss(loss), options)
                .unwrap_or_else(|e| panic!("operation {failing}, loss {loss}: {e}"))
                .recovered;
            let last = found.entries.last().unwrap();
            let commit = found.hard_state.commit;
            if last.term == 2 {
                assert_eq!(commit, last.index.min(7));
                found_midway += u64::from(last.index < 19);
            } else {
                assert_eq!((last.index, commit), (5, 2));
            }
            assert!(!done || last.index == 19);
        }
    }
    assert!(found_midway > 10, "{found_midway}");
}

#[test]
#[should_panic(expected = "does not follow")]
fn a_gap_in_what_is_saved_is_a_bug() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, LARGE).unwrap();
    let _ = opened.wal.save(&[append([entry(3, 1, vec![])])]);
}

#[test]
fn the_real_disk_keeps_what_was_saved() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("deep/data");
    let open = || {
        let dir = DataDir::new(Arc::new(RealDisk), &data);
        let _lock = dir.lock().unwrap();
        let start = Start::First(list());
        dir.open_with(3, start, SMALL, &logger()).unwrap()
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
