//! Torn tails are cut off, damage is refused, and the two are distinguished.

use super::*;
use crate::storage::wal::{record, segment};

/// A WAL of one segment with this many batches of one entry each. Some of the values are zeros. No entry is known to be
/// committed, so only the format can show what is missing.
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

/// The start and the end of the last batch. The marker is at byte 20 of its head.
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
        let disk = disk.after_power_loss(1);
        disk.tamper(&segment, |bytes| bytes[cut..].fill(0));
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
            let kept = disk.after_power_loss(1).read(aside);
            assert!(!kept.is_empty() && good[begin..].starts_with(&kept));
        }
        // The removed tail never reappears.
        let last = expected.last();
        let save = append([entry(last + 1, 2, vec![])]);
        opened.wal.save(&[save]).unwrap();
        let again = start(&disk.after_power_loss(1), LARGE).unwrap().recovered;
        assert_eq!(indexes(&again), (2..=last + 1).collect::<Vec<_>>());
        assert_eq!(again.entries.last().unwrap().term, 2);
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
                assert!(at >= end, "byte {at} is not checked");
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
    // All kinds of holes: the whole batch, its head, everything after its first 8 bytes, its last byte.
    for range in [begin..end, begin..begin + 24, begin + 8..end, end - 1..end] {
        let disk = disk.after_power_loss(1);
        disk.tamper(&segment, |bytes| bytes[range].fill(0));
        let offset = assert_corrupt(start(&disk, LARGE), &segment);
        assert_eq!(offset, begin as u64);
    }
}

#[test]
fn a_committed_entry_that_is_missing_is_corrupt() {
    let disk = FakeDisk::new(9);
    drop(start(&disk, LARGE).unwrap());
    // The WAL itself never writes this.
    let path = segments(&disk).pop().unwrap();
    let name = segment::Name {
        sequence: 0,
        first_index: 2,
    };
    let mut reader = segment::SegmentReader::open(&disk, &dir().join("wal"), name).unwrap();
    while reader.next(&mut |_| Ok(())).unwrap() == segment::BatchStep::Batch {}
    let mut writer = reader.into_writer().unwrap();
    let mut batch = record::Batch::default();
    batch.clear();
    batch.entry(&entry(2, 1, vec![]));
    batch.hard_state(&hard_state(1, 0, 4));
    writer.append(&mut batch).unwrap();
    let error = start(&disk, LARGE).unwrap_err();
    assert!(error.to_string().contains("4 are committed"), "{error}");
    assert_corrupt(Err(error), &path);
}

#[test]
fn a_missing_segment_or_end_of_a_segment_is_corrupt() {
    let disk = FakeDisk::new(9);
    let mut opened = start(&disk, SMALL).unwrap();
    for index in 2..60 {
        let save = append([entry(index, 1, vec![5; 300])]);
        opened.wal.save(&[save]).unwrap();
    }
    let all = segments(&disk);
    assert!(all.len() > 3);
    for missing in &all[..all.len() - 1] {
        let disk = disk.after_power_loss(1);
        disk.remove(missing).unwrap();
        let error = start(&disk, SMALL).unwrap_err();
        assert_eq!(error.exit_code(), 4, "{error}");
    }
    let disk = disk.after_power_loss(1);
    let (begin, _) = last_batch(&disk.read(&all[1]));
    disk.tamper(&all[1], |bytes| bytes[begin..].fill(0));
    assert_corrupt(start(&disk, SMALL), &all[1]);
}

#[test]
fn a_vote_that_is_missing_at_the_end_of_a_segment_is_corrupt() {
    let disk = FakeDisk::new(9);
    let mut opened = start(&disk, SMALL).unwrap();
    let mut term = 1;
    while segments(&disk).len() < 3 {
        term += 1;
        opened.wal.save(&[state(term, 1, 1, true)]).unwrap();
    }
    for segment in &segments(&disk)[..2] {
        let disk = disk.after_power_loss(1);
        let (begin, _) = last_batch(&disk.read(segment));
        disk.tamper(segment, |bytes| bytes[begin..].fill(0));
        assert_corrupt(start(&disk, SMALL), segment);
    }
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
    // After the end: a batch of another file at the same place, and a batch of this file at another place.
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

/// A WAL of about 200 records in several segments, with snapshots, votes and commit indexes. Returns its contents, and
/// its contents when a start goes back to the older snapshot.
fn wal_with_everything() -> (FakeDisk, Expected, Expected) {
    let disk = FakeDisk::new(9);
    let mut opened = start(&disk, SMALL).unwrap();
    let mut expected = Expected::new();
    let mut older = Expected::new();
    for index in 2..112 {
        let value = vec![index as u8 % 3; index as usize % 90];
        let mut saves = vec![append([entry(index, 1, value)])];
        if index % 10 == 0 {
            saves.push(state(1 + index / 20, 1, index - 1, true));
        }
        if index % 40 == 0 {
            write_snapshot(&opened, index - 5, 1).unwrap();
            let hard_state = hard_state(1 + index / 20, 1, index - 1);
            saves.push(mark(index - 5, 1, hard_state, false));
        }
        for save in &saves {
            opened.wal.save(std::slice::from_ref(save)).unwrap();
            purge(&mut opened);
            expected.save(save);
            let behind = Save {
                mark: save.mark.clone().filter(|mark| mark.index == 35),
                ..save.clone()
            };
            older.save(&behind);
        }
    }
    older.hard_state.clone_from(&expected.hard_state);
    assert!(segments(&disk).len() >= 3);
    assert_eq!((older.snapshot, expected.snapshot), (35, 75));
    (disk, expected, older)
}

#[test]
fn every_flipped_byte_of_every_segment_is_refused_or_harmless() {
    let (disk, whole, _) = wal_with_everything();
    assert_eq!(
        Expected::of(&start(&disk.after_kill(), SMALL).unwrap().recovered),
        whole
    );
    let (mut refused, mut harmless) = (0, 0);
    for segment in segments(&disk) {
        for at in 0..disk.read(&segment).len() {
            let flip = [0xff, 0x01, 0x80][at % 3];
            let disk = disk.after_kill();
            disk.tamper(&segment, |bytes| bytes[at] ^= flip);
            match start(&disk, SMALL) {
                Ok(opened) => {
                    assert_eq!(Expected::of(&opened.recovered), whole, "byte {at}");
                    harmless += 1;
                }
                result => {
                    let offset = assert_corrupt(result, &segment) as usize;
                    assert!(offset <= at && at < offset + 2000, "{offset} for {at}");
                    refused += 1;
                }
            }
        }
    }
    println!("{refused} flips refused, {harmless} harmless");
    assert!(refused > 4000);
}

#[test]
fn every_flipped_byte_of_a_snapshot_is_refused_or_compensated() {
    let (disk, _, older) = wal_with_everything();
    // With two snapshots, the older snapshot and the log after it contain everything that the newer snapshot contains.
    let paths = files(&disk, "snap");
    let [_, newest] = &paths[..] else {
        panic!("{paths:?}")
    };
    for at in 0..disk.read(newest).len() {
        for flip in [0xff, 0x01, 0x80] {
            let disk = disk.after_kill();
            disk.tamper(newest, |bytes| bytes[at] ^= flip);
            let found = start(&disk, SMALL).unwrap_or_else(|e| panic!("byte {at}: {e}"));
            assert_eq!(Expected::of(&found.recovered), older, "byte {at}");
            assert_eq!(files(&disk, "broken").len(), 1);
        }
    }
    // With only one snapshot.
    let disk = FakeDisk::new(9);
    drop(start(&disk, SMALL).unwrap());
    let path = files(&disk, "snap").pop().unwrap();
    for at in 0..disk.read(&path).len() {
        for flip in [0xff, 0x01, 0x80] {
            let disk = disk.after_kill();
            disk.tamper(&path, |bytes| bytes[at] ^= flip);
            let before = disk.fingerprint();
            assert_corrupt(start(&disk, SMALL), &path);
            assert_eq!(disk.fingerprint(), before, "something was changed");
        }
    }
}

#[test]
fn every_flipped_byte_of_meta_is_refused() {
    let (disk, ..) = wal_with_everything();
    drop(start(&disk, SMALL).unwrap());
    let path = dir().join("meta");
    let len = disk.read(&path).len();
    for at in 0..len {
        for bit in 0..8 {
            let disk = disk.after_kill();
            disk.tamper(&path, |bytes| bytes[at] ^= 1 << bit);
            let before = disk.fingerprint();
            assert_corrupt(start(&disk, SMALL), &path);
            assert_eq!(disk.fingerprint(), before, "something was changed");
        }
        let disk = disk.after_kill();
        disk.tamper(&path, |bytes| bytes.truncate(at));
        assert_corrupt(start(&disk, SMALL), &path);
    }
}

#[test]
fn a_file_cut_at_any_byte_is_corrupt() {
    let (disk, whole, _) = wal_with_everything();
    let mut starts = Vec::new();
    for segment in segments(&disk) {
        let len = disk.read(&segment).len();
        for cut in 0..=len {
            let disk = disk.after_kill();
            disk.tamper(&segment, |bytes| bytes.truncate(cut));
            match start(&disk, SMALL) {
                Ok(opened) => {
                    assert_eq!(Expected::of(&opened.recovered), whole);
                    starts.push((segment.clone(), cut));
                }
                result => {
                    let offset = assert_corrupt(result, &segment);
                    assert!(offset <= cut as u64, "{offset} for {cut}");
                }
            }
        }
        assert_eq!(starts.pop(), Some((segment, len)), "not cut at all");
    }
    assert_eq!(starts, []);
}
