//! What is synced and when, and what a restart may trust after a failed sync.

use super::*;
use observed_disk::Observed;
use std::sync::atomic::{AtomicU64, Ordering};

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
fn what_a_restart_finds_after_a_failed_sync_is_durable() {
    for failing in 1..120 {
        let disk = FakeDisk::new(failing);
        let mut opened = start(&disk, SMALL).unwrap();
        disk.inject(disk.operations() + failing, Fault::Fail);
        let mut saves = (2..90).map(|index| append([entry(index, 1, vec![7; 300])]));
        assert!(!saves.all(|save| opened.wal.save(&[save]).is_ok()));
        drop(opened);
        assert_durable_after_a_kill(&disk, &format!("operation {failing}"));
    }
}

#[test]
fn a_large_snapshot_is_synced_while_it_grows() {
    let syncs = Arc::new(AtomicU64::new(0));
    let count = syncs.clone();
    let disk = FakeDisk::new(1);
    let observed = Observed {
        disk: disk.clone(),
        sync: Arc::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        }),
    };
    drop(start(&disk, LARGE).unwrap());
    let snapshots = Snapshots::new(&DataDir::new(Arc::new(observed), dir()));
    let value = vec![3; 1 << 20];
    let keys: Vec<[u8; 1]> = (0..40).map(|key| [key]).collect();
    let entries = keys.iter().map(|key| (&key[..], 1, &value[..]));
    let meta = SnapshotMeta {
        index: 9,
        term: 1,
        ..SnapshotMeta::default()
    };
    let bytes = snapshots.write(&meta, 77, entries).unwrap();
    // One sync for each value, one at the end, and one for the directory.
    assert_eq!(syncs.swap(0, Ordering::Relaxed), 42);
    let mut source = snapshots.open(9, 1).unwrap();
    let mut file = vec![0; bytes as usize];
    assert_eq!(source.read(&mut file).unwrap(), file.len());
    let mut sink = snapshots.receive(77).unwrap();
    sink.write(&file).unwrap();
    sink.finish(&meta).unwrap();
    assert_eq!(syncs.swap(0, Ordering::Relaxed), 42);
}
