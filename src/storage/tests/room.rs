//! A full disk: what the log keeps aside, and what a start needs.

use super::*;
use crate::storage::leftovers::Leftovers;
use crate::storage::wal::segment::{SPARE, Spare};
use crate::storage::wal::{NextSegment, SpareNews};
use std::os::unix::fs::MetadataExt as _;

fn keep_spare(wal: &mut Wal) {
    if let Some(work) = wal.wants_spare() {
        wal.took_spare(work.carry_out());
    }
}

fn one(index: u64) -> Save {
    append([entry(index, 1, vec![7; 100])])
}

/// Saves one entry after the other until the log has no room. Returns the index of the next one.
fn fill(wal: &mut Wal, mut index: u64) -> u64 {
    while wal.make_room(one(index).log_bytes()).unwrap() {
        wal.save(&[one(index)]).unwrap();
        keep_spare(wal);
        index += 1;
    }
    index
}

#[test]
fn a_full_disk_fails_no_write_of_the_log_and_there_is_room_for_all_that_was_promised() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, SMALL).unwrap();
    let wal = &mut opened.wal;
    assert_eq!(wal.room().next, NextSegment::Awaited);
    keep_spare(wal);
    assert_eq!(wal.room().next, NextSegment::Kept);
    disk.set_free(Some(0));
    let mut spent = 0;
    let mut index = 2;
    while spent + one(index).log_bytes() <= wal.room().end {
        assert!(wal.make_room(one(index).log_bytes()).unwrap());
        wal.save(&[one(index)]).unwrap();
        spent += one(index).log_bytes();
        keep_spare(wal);
        index += 1;
    }
    assert_eq!(wal.room().next, NextSegment::Denied);
    assert!(index > 15, "{index}");
    // The reserve holds a vote all the same.
    assert!(wal.make_room(state(2, 3, 1, true).log_bytes()).unwrap());
    wal.save(&[state(2, 3, 1, true)]).unwrap();
    let next = fill(wal, index);
    let before = disk.fingerprint();
    assert!(!wal.make_room(one(next).log_bytes()).unwrap());
    assert_eq!(disk.fingerprint(), before);

    disk.set_free(None);
    keep_spare(wal);
    assert_eq!(wal.room().next, NextSegment::Kept);
    wal.save(&[one(next)]).unwrap();
    let found = start(&disk.after_power_loss(1), SMALL).unwrap().recovered;
    assert_eq!(indexes(&found), (2..=next).collect::<Vec<_>>());
}

#[test]
fn a_member_starts_on_a_full_disk_again_and_again() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, SMALL).unwrap();
    keep_spare(&mut opened.wal);
    opened.wal.save(&[one(2)]).unwrap();
    disk.set_free(Some(0));
    drop(opened);
    for boot in 2..6 {
        let mut opened = start(&disk, SMALL).unwrap();
        assert_eq!(opened.meta.boot(), boot);
        assert_eq!(opened.wal.room().next, NextSegment::Kept);
        opened.wal.save(&[one(boot + 1)]).unwrap();
    }
}

#[test]
fn a_torn_end_is_cut_off_on_a_full_disk_without_a_copy() {
    for seed in 0..40 {
        let disk = FakeDisk::new(seed);
        let mut opened = start(&disk, LARGE).unwrap();
        opened.wal.save(&[one(2)]).unwrap();
        disk.inject(disk.operations() + 2, Fault::CrashBefore);
        let large = append([entry(3, 1, vec![7; 9_000])]);
        assert!(opened.wal.save(&[large]).is_err());
        let after = disk.after_crash(Loss::Torn(seed));
        after.set_free(Some(100));
        let found = start(&after, LARGE).unwrap().recovered;
        assert!(matches!(indexes(&found)[..], [2] | [2, 3]));
        assert!(files(&after, "broken").is_empty());
    }
}

#[test]
fn a_copy_of_the_spare_without_blocks_is_no_spare_on_a_full_disk() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, SMALL).unwrap();
    keep_spare(&mut opened.wal);
    drop(opened);
    let disk = disk.after_kill();
    let copy = disk.after_kill();
    copy.keep_journal();
    start(&copy, SMALL).unwrap();
    let is_spare = |(operation, path): &(Operation, PathBuf)| {
        *operation == Operation::Allocate && path.ends_with(SPARE)
    };
    let at = copy.journal().iter().position(is_spare).unwrap();
    disk.inject(at as u64 + 1, Fault::Full);
    let mut opened = start(&disk, SMALL).unwrap();
    assert_eq!(opened.wal.room().next, NextSegment::Awaited);
    keep_spare(&mut opened.wal);
    assert_eq!(opened.wal.room().next, NextSegment::Kept);
}

#[test]
fn a_copy_of_the_spare_without_blocks_gets_them_at_the_start() {
    const LEN: u64 = 1 << 20;
    let blocks = |path: &Path| std::fs::metadata(path).unwrap().blocks() * 512;
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join(SPARE);
    drop(Spare::make(&RealDisk, temporary.path(), LEN).unwrap());
    if blocks(&path) < LEN {
        // This file system reserves no blocks.
        return;
    }
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(LEN).unwrap();
    assert!(blocks(&path) < LEN);
    let found = Spare::find(
        &RealDisk,
        temporary.path(),
        LEN,
        &mut Leftovers::on(&RealDisk),
    )
    .unwrap();
    assert!(found.is_some_and(|spare| spare.bytes() == LEN));
    assert!(blocks(&path) >= LEN);
}

#[test]
fn a_segment_whose_name_has_no_room_stays_the_spare() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, SMALL).unwrap();
    let wal = &mut opened.wal;
    keep_spare(wal);
    disk.inject_at(Operation::Rename, Fault::Full);
    let next = fill(wal, 2);
    assert_eq!(wal.room().next, NextSegment::Denied);
    assert_eq!(segments(&disk).len(), 1);
    // It is tried again, and the log goes on.
    keep_spare(wal);
    assert_eq!(wal.room().next, NextSegment::Kept);
    assert!(wal.make_room(one(next).log_bytes()).unwrap());
    wal.save(&[one(next)]).unwrap();
    let found = start(&disk.after_power_loss(1), SMALL).unwrap().recovered;
    assert_eq!(indexes(&found), (2..=next).collect::<Vec<_>>());
}

#[test]
fn a_directory_that_can_not_be_synced_for_want_of_room_is_fatal() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, SMALL).unwrap();
    let wal = &mut opened.wal;
    keep_spare(wal);
    disk.inject_at(Operation::SyncDir, Fault::Full);
    let mut saves = (2..60).map(|index| wal.save(&[one(index)]));
    assert!(saves.any(|saved| saved.is_err()));
    assert!(wal.make_room(0).is_err(), "the log has failed");
}

#[test]
fn a_longer_spare_is_asked_for_only_while_a_large_save_waits() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, SMALL).unwrap();
    let wal = &mut opened.wal;
    keep_spare(wal);
    disk.set_free(Some(0));
    assert!(!wal.make_room(10_000).unwrap());
    keep_spare(wal);
    assert_eq!(wal.room().next, NextSegment::Denied);
    assert!(wal.make_room(one(2).log_bytes()).unwrap());
    keep_spare(wal);
    assert_eq!(wal.room().next, NextSegment::Kept);
}

#[test]
fn a_spare_that_is_none_is_thrown_away() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, SMALL).unwrap();
    keep_spare(&mut opened.wal);
    drop(opened);
    let spare = dir().join("wal/spare.wal.tmp");
    let changes: [fn(&mut Vec<u8>); 2] = [|bytes| bytes.truncate(4000), |bytes| bytes[900] = 1];
    for change in changes {
        let disk = disk.after_kill();
        disk.tamper(&spare, change);
        let mut opened = start(&disk, SMALL).unwrap();
        assert_eq!(opened.wal.room().next, NextSegment::Awaited);
        keep_spare(&mut opened.wal);
        let next = (2..40).map(one);
        next.for_each(|save| opened.wal.save(&[save]).unwrap());
        let found = start(&disk, SMALL).unwrap().recovered;
        assert_eq!(found.entries.len(), 38);
    }
}

#[test]
fn without_descriptors_the_log_waits_for_its_next_segment() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, SMALL).unwrap();
    let wal = &mut opened.wal;
    disk.set_lacks_descriptors(true);
    let news = |wal: &mut Wal| {
        let work = wal.wants_spare().unwrap();
        wal.took_spare(work.carry_out());
        wal.take_news()
    };
    assert!(matches!(news(wal), Some(SpareNews::Delayed(_))));
    // It is logged once, and the disk is not called full.
    assert!(news(wal).is_none() && wal.is_short());
    assert_eq!(wal.room().next, NextSegment::Awaited);
    let next = fill(wal, 2);
    assert!(wal.room().end >= (next - 2) * one(2).log_bytes());
    assert_eq!(wal.room().next, NextSegment::Awaited);

    disk.set_lacks_descriptors(false);
    assert!(matches!(news(wal), Some(SpareNews::Made)));
    assert_eq!(wal.room().next, NextSegment::Kept);
    wal.save(&[one(next)]).unwrap();
    let found = start(&disk.after_power_loss(1), SMALL).unwrap().recovered;
    assert_eq!(indexes(&found), (2..=next).collect::<Vec<_>>());
}

#[test]
fn a_disk_that_fails_a_spare_is_not_waited_for() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, SMALL).unwrap();
    let wal = &mut opened.wal;
    for fault in [Fault::Full, Fault::Fail] {
        disk.inject_at(Operation::Allocate, fault);
        keep_spare(wal);
        assert_eq!(wal.room().next, NextSegment::Denied);
    }
}

#[test]
fn a_segment_gets_its_name_without_a_descriptor() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, SMALL).unwrap();
    let wal = &mut opened.wal;
    keep_spare(wal);
    disk.set_lacks_descriptors(true);
    let next = fill(wal, 2);
    assert_eq!(segments(&disk).len(), 2);
    // An error of a later write names the segment, not the spare that it was.
    disk.inject_at(Operation::Sync, Fault::Fail);
    let error = wal.save(&[state(2, 3, 1, true)]).unwrap_err();
    assert_eq!(error.path, segments(&disk)[1]);
    disk.set_lacks_descriptors(false);
    let found = start(&disk.after_kill(), SMALL).unwrap().recovered;
    assert_eq!(indexes(&found), (2..next).collect::<Vec<_>>());
}

#[test]
fn a_segment_that_was_copied_without_blocks_is_not_written_on_a_full_disk() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, SMALL).unwrap();
    keep_spare(&mut opened.wal);
    opened.wal.save(&[one(2)]).unwrap();
    drop(opened);
    let first = segments(&disk).remove(0);
    disk.inject_at(Operation::Allocate, Fault::Full);
    let mut opened = start(&disk, SMALL).unwrap();
    let before = disk.read(&first);
    assert_eq!(opened.wal.room().next, NextSegment::Kept);
    opened.wal.save(&[one(3)]).unwrap();
    assert_eq!(segments(&disk).len(), 2);
    assert!(disk.read(&first) == before, "it was written to");
    let found = start(&disk.after_power_loss(1), SMALL).unwrap().recovered;
    assert_eq!(indexes(&found), [2, 3]);
}

#[test]
fn a_segment_that_was_copied_without_blocks_gets_them_at_the_start() {
    let blocks = |path: &Path| std::fs::metadata(path).unwrap().blocks() * 512;
    let temporary = tempfile::tempdir().unwrap();
    let start = || {
        let dir = DataDir::new(Arc::new(RealDisk), temporary.path().join("data"));
        let _lock = dir.lock().unwrap();
        dir.open_with(3, Start::First(list()), LARGE, &logger())
            .unwrap()
    };
    let mut opened = start();
    opened.wal.save(&[one(2)]).unwrap();
    drop(opened);
    let mut names = std::fs::read_dir(temporary.path().join("data/wal")).unwrap();
    let path = names.find_map(|entry| {
        let path = entry.unwrap().path();
        path.extension().is_some_and(|e| e == "wal").then_some(path)
    });
    let path = path.unwrap();
    let bytes = std::fs::read(&path).unwrap();
    if blocks(&path) < LARGE.segment_bytes {
        // This file system reserves no blocks.
        return;
    }
    std::fs::write(&path, &bytes[..4096]).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(LARGE.segment_bytes).unwrap();
    assert!(blocks(&path) < LARGE.segment_bytes);
    drop(start());
    assert!(blocks(&path) >= LARGE.segment_bytes);
    assert!(std::fs::read(&path).unwrap() == bytes);
}
