//! Segments and snapshots are deleted neither too early nor too late, and no save waits for a deletion.

use super::*;

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
