//! First starts, empty members, directories in use, and starts that are refused.

use super::*;

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
fn a_directory_in_use_is_locked() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = DataDir::new(Arc::new(RealDisk), dir.path());
    let first = data_dir.lock().unwrap();
    let error = data_dir.lock().unwrap_err();
    assert!(matches!(error, StorageError::Locked { .. }), "{error}");
    assert_eq!(error.exit_code(), 3);
    drop(first);
    data_dir.lock().unwrap();
}

#[test]
fn a_first_start_beside_another_one_is_left_to_the_lock() {
    let whole = FakeDisk::new(1);
    drop(start(&whole, LARGE).unwrap());
    // The other process is anywhere in its first start when this one, which has found no `meta`, looks for files.
    for at in 1..=whole.operations() {
        let disk = FakeDisk::new(1);
        disk.inject(at, Fault::CrashBefore);
        start(&disk, LARGE).unwrap_err();
        let checked = data_dir(&disk.after_kill()).check_vacant();
        checked.unwrap_or_else(|error| panic!("before operation {at}: {error}"));
    }
    data_dir(&whole).check_vacant().unwrap();
    whole.remove(&dir().join("meta")).unwrap();
    let lost = data_dir(&whole).check_vacant().unwrap_err();
    assert_eq!(lost.exit_code(), 5, "{lost}");
}

#[test]
fn the_parts_may_be_file_systems_of_their_own() {
    let disk = FakeDisk::new(1);
    for part in ["wal/lost+found", "snap/lost+found"] {
        disk.create_dir_all(&dir().join(part)).unwrap();
    }
    assert!(start(&disk, LARGE).unwrap().first_start);
    assert!(!start(&disk, LARGE).unwrap().first_start);
}

#[test]
fn a_start_that_needs_a_member_creates_none() {
    let existing = || Start::Existing("why not".to_owned());
    let disk = FakeDisk::new(1);
    let checked = || data_dir(&disk).check_start(&existing());
    let refused = |result: Result<(), StorageError>| {
        let error = result.unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert_eq!(error.to_string(), "why not");
    };
    refused(checked());
    assert_eq!((disk.operations(), disk.paths()), (0, Vec::new()));
    // Without an earlier check, the refused start has created only the lock file.
    refused(open_as(&disk, 3, existing(), LARGE).map(drop));
    assert_eq!(disk.paths(), [dir().join("LOCK")]);

    // An interrupted first start leaves no member.
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
fn following_the_advice_never_loses_data() {
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

/// A directory with one file of each kind that a start deletes.
fn with_leftovers() -> FakeDisk {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, SMALL).unwrap();
    opened.wal.save(&[append([entry(2, 1, vec![])])]).unwrap();
    // A snapshot without a mark, and one that was received in part.
    write_snapshot(&opened, 2, 1).unwrap();
    let mut sink = opened.snapshots.receive(1).unwrap();
    sink.write(b"half a file").unwrap();
    // A spare that is none, and a segment that an earlier version did not complete.
    let work = opened.wal.wants_spare().unwrap();
    opened.wal.took_spare(work.carry_out());
    disk.tamper(&dir().join("wal/spare.wal.tmp"), |bytes| bytes[900] = 1);
    disk.create(&dir().join("wal/1.wal.tmp")).unwrap();
    // One file too many that is kept for an investigation.
    for number in 0..=limits::BROKEN_FILES_KEPT {
        let name = format!("snap/{number:04}.broken");
        disk.create(&dir().join(name)).unwrap();
    }
    disk.after_kill()
}

#[test]
fn a_file_that_a_start_can_not_delete_keeps_no_other_file_and_ends_no_start() {
    let disk = with_leftovers();
    let spare = dir().join("wal/spare.wal.tmp");
    let leftovers = |disk: &FakeDisk| {
        let broken = files(disk, "broken").len() - limits::BROKEN_FILES_KEPT;
        let spare = usize::from(disk.paths().contains(&spare));
        files(disk, "snap").len() - 1 + unfinished(disk).len() + broken + spare
    };
    assert_eq!(leftovers(&disk), 5);
    let copy = disk.after_kill();
    copy.keep_journal();
    start(&copy, SMALL).unwrap();
    assert_eq!(leftovers(&copy), 0);
    let journal = copy.journal();
    let is_removal = |place: &u64| journal[*place as usize - 1].0 == Operation::Remove;
    let removals: Vec<u64> = (1..=journal.len() as u64).filter(is_removal).collect();
    assert_eq!(removals.len(), 5);
    for fault in [Fault::Full, Fault::Fail] {
        for place in &removals {
            let copy = disk.after_kill();
            copy.reseed(*place);
            copy.inject(*place, fault);
            let found = start(&copy, SMALL).unwrap();
            assert_eq!(found.recovered.snapshot.unwrap().index, 1);
            let left = leftovers(&copy);
            assert!(left <= 1, "{left} files are left");
            start(&copy.after_power_loss(*place), SMALL).unwrap();
            start(&copy, SMALL).unwrap();
            assert_eq!(leftovers(&copy), 0);
        }
        // No file can be deleted at all.
        let copy = disk.after_kill();
        for place in &removals {
            copy.inject(*place, fault);
        }
        start(&copy, SMALL).unwrap();
    }
}

#[test]
fn a_directory_that_a_start_can_not_sync_is_fatal() {
    let disk = with_leftovers();
    for fault in [Fault::Full, Fault::Fail] {
        let copy = disk.after_kill();
        copy.inject_at(Operation::SyncDir, fault);
        let error = start(&copy, SMALL).unwrap_err();
        assert_eq!(error.exit_code(), 6);
    }
}
