//! Restoring a data directory from a snapshot: crashes at every operation, damaged files, refused directories.

use super::*;
use crate::limits::{INDEX_MAX, RESTORE_SKIP, RESTORE_SPREAD, RESTORED_INDEX_MAX};
use crate::storage::disk::{DiskDirectory, DiskFile};
use crate::storage::restore::{Plan, Restored, restore};

fn new_dir() -> &'static Path {
    Path::new("/new")
}

fn new_data_dir(disk: &FakeDisk) -> DataDir {
    DataDir::new(Arc::new(disk.clone()), new_dir())
}

/// A disk with a snapshot at index 40, and the path of the file.
fn source() -> (FakeDisk, PathBuf) {
    let disk = FakeDisk::new(1);
    let opened = start(&disk, LARGE).unwrap();
    write_snapshot(&opened, 40, 7).unwrap();
    (disk, opened.snapshots.path(40, 7))
}

fn restore_from(
    (source, file): &(FakeDisk, PathBuf),
    disk: &FakeDisk,
) -> Result<Restored, StorageError> {
    let plan = Plan {
        file,
        dir: &new_data_dir(disk),
        list: &list(),
        options: LARGE,
    };
    restore(source, plan, |_, _| ())
}

fn start_restored(disk: &FakeDisk) -> Result<Opened, StorageError> {
    let dir = new_data_dir(disk);
    let _lock = dir.lock()?;
    dir.open_with(3, Start::First(list()), LARGE, &logger())
}

fn assert_restored(opened: &Opened, disk: &FakeDisk) {
    assert!(!opened.first_start);
    let snapshot = opened.recovered.snapshot.as_ref().unwrap();
    let skipped = snapshot.index - 40;
    assert!((RESTORE_SKIP..RESTORE_SKIP + RESTORE_SPREAD).contains(&skipped));
    assert_eq!(snapshot.term, 1);
    assert_eq!(snapshot.conf_state.voters, [3]);
    let incarnation = opened.meta.incarnation();
    let members = Members::from_state(&snapshot.state).unwrap();
    assert_eq!(members, Members::first(&list(), incarnation));
    assert_eq!(opened.meta.cluster(), cluster_id(incarnation));
    assert!(snapshot.state.sessions.is_empty() && snapshot.state.removed.is_empty());
    let hard_state = &opened.recovered.hard_state;
    assert_eq!((hard_state.term, hard_state.commit), (1, snapshot.index));
    let found = std::sync::Mutex::new(Vec::new());
    let visit = |key: &[u8], index, value: &[u8]| {
        found
            .lock()
            .unwrap()
            .push((key.to_vec(), index, value.to_vec()));
    };
    let loaded = opened.snapshots.load(snapshot.index, 1, visit, |_, _| ());
    loaded.unwrap();
    let entry = (b"index".to_vec(), 40, b"40".to_vec());
    assert_eq!(
        found.into_inner().unwrap(),
        [entry],
        "{:?}",
        disk.fingerprint()
    );
}

#[test]
fn each_restored_cluster_has_an_id_and_indexes_of_its_own() {
    let source = source();
    let restored = [1, 2, 3].map(|seed| {
        let restored = restore_from(&source, &FakeDisk::new(10 + seed)).unwrap();
        assert_eq!((restored.from_index, restored.entries), (40, 1));
        assert_ne!(restored.cluster, restored.from_cluster);
        let skipped = restored.index - 40;
        assert!((RESTORE_SKIP..RESTORE_SKIP + RESTORE_SPREAD).contains(&skipped));
        (restored.cluster, restored.index)
    });
    let ids = BTreeMap::from(restored);
    let indexes = BTreeMap::from(restored.map(|(cluster, index)| (index, cluster)));
    assert_eq!((ids.len(), indexes.len()), (3, 3));
}

/// A disk with a snapshot at this index and with these entries, and the path of the file.
fn source_of(index: u64, entries: &[(&[u8], u64, &[u8])]) -> (FakeDisk, PathBuf) {
    let disk = FakeDisk::new(1);
    let snapshots = Snapshots::new(&DataDir::new(Arc::new(disk.clone()), "/from"));
    disk.create_dir_all(Path::new("/from/snap")).unwrap();
    let meta = SnapshotMeta {
        index,
        term: 7,
        ..SnapshotMeta::default()
    };
    let entries = entries.iter().copied();
    snapshots.write(&meta, 5, entries).unwrap();
    (disk, snapshots.path(index, 7))
}

#[test]
fn an_index_that_leaves_no_room_is_refused_and_the_highest_that_does_survives_restarts() {
    let highest = RESTORED_INDEX_MAX - RESTORE_SKIP - RESTORE_SPREAD;
    for index in [
        highest + 1,
        RESTORED_INDEX_MAX,
        INDEX_MAX - 1,
        INDEX_MAX,
        u64::MAX / 2 - 3,
        u64::MAX,
    ] {
        let disk = FakeDisk::new(2);
        let error = restore_from(&source_of(index, &[]), &disk).unwrap_err();
        assert_eq!(error.exit_code(), 4, "{index}: {error}");
        assert!(error.to_string().contains("its index is"), "{error}");
        assert_eq!(disk.paths(), Vec::<PathBuf>::new(), "{index}");
    }
    let disk = FakeDisk::new(2);
    let restored = restore_from(&source_of(highest, &[]), &disk).unwrap();
    assert!(restored.index < RESTORED_INDEX_MAX, "{restored:?}");
    for start in 0..3 {
        let mut opened = start_restored(&disk).unwrap();
        let entries = vec![entry(restored.index + 1 + start, 2, b"x".to_vec())];
        opened.wal.save(&[append(entries)]).unwrap();
    }
}

#[test]
fn a_file_with_an_empty_key_or_a_key_twice_is_refused_and_nothing_is_made() {
    for entries in [
        &[(&b""[..], 1, &b"v"[..])][..],
        &[(b"a", 1, b"v"), (b"", 2, b"")],
        &[(b"a", 1, b"v"), (b"b", 2, b"v"), (b"a", 3, b"w")],
    ] {
        let disk = FakeDisk::new(2);
        let error = restore_from(&source_of(40, entries), &disk).unwrap_err();
        assert_eq!(error.exit_code(), 4, "{error}");
        assert_eq!(disk.paths(), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_restore_that_crashes_leaves_nothing_that_a_start_accepts() {
    let source = source();
    let whole = FakeDisk::new(3);
    restore_from(&source, &whole).unwrap();
    assert_restored(&start_restored(&whole).unwrap(), &whole);
    let operations = {
        let counted = FakeDisk::new(3);
        restore_from(&source, &counted).unwrap();
        counted.operations()
    };
    let mut outcomes = [0; 3];
    for operation in 1..=operations {
        for fault in [Fault::CrashBefore, Fault::CrashAfter] {
            for loss in 0..6 {
                let disk = FakeDisk::new(3);
                disk.inject(operation, fault);
                // The lock file is closed after everything else.
                let crashed = restore_from(&source, &disk).is_err();
                let after = match loss {
                    0 => disk.after_kill(),
                    _ => disk.after_power_loss(loss),
                };
                let meta_is_there = after.paths().contains(&new_dir().join("meta"));
                let complete = match start_restored(&after) {
                    Ok(opened) if opened.first_start => {
                        assert!(!meta_is_there, "meta exists: {operation}");
                        outcomes[0] += 1;
                        continue;
                    }
                    Ok(opened) => {
                        assert_restored(&opened, &after);
                        outcomes[1] += 1;
                        true
                    }
                    Err(StorageError::RestoreUnfinished { .. }) => {
                        outcomes[2] += 1;
                        false
                    }
                    Err(other) => panic!("{fault:?} {operation}: {other}"),
                };
                assert!(complete || crashed, "it said that it had succeeded");
                match restore_from(&source, &after) {
                    Ok(_) => assert!(!complete),
                    Err(StorageError::NotEmpty { .. }) => assert!(complete),
                    Err(other) => panic!("{fault:?} {operation}: {other}"),
                }
                assert_restored(&start_restored(&after).unwrap(), &after);
            }
        }
    }
    assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
}

#[test]
fn a_damaged_file_is_not_restored_and_nothing_is_touched() {
    let (source, file) = source();
    let good = source.read(&file);
    let target = FakeDisk::new(2);
    let refused = |change: &dyn Fn(&mut Vec<u8>), what: String| {
        let bad = source.after_kill();
        bad.tamper(&file, change);
        let error = restore_from(&(bad, file.clone()), &target).unwrap_err();
        assert_eq!(error.exit_code(), 4, "{what}: {error}");
        assert_eq!(target.paths(), Vec::<PathBuf>::new(), "{what}");
    };
    for at in 0..good.len() {
        refused(&|bytes| bytes[at] ^= 0x20, format!("byte {at}"));
        refused(&|bytes| bytes.truncate(at), format!("{at} bytes"));
    }
    refused(&|bytes| bytes.push(0), "a byte more".to_owned());
}

#[test]
fn a_directory_with_anything_in_it_is_refused() {
    let source = source();
    for name in ["meta", "wal", "snap", "notes"] {
        let disk = FakeDisk::new(2);
        disk.create_dir_all(new_dir()).unwrap();
        let path = new_dir().join(name);
        match name {
            "meta" | "notes" => drop(disk.create(&path).unwrap()),
            _ => disk.create_dir_all(&path).unwrap(),
        }
        let before = disk.fingerprint();
        let refused = restore_from(&source, &disk);
        assert!(
            matches!(&refused, Err(StorageError::NotEmpty { path: found }) if *found == path),
            "{name}: {refused:?}"
        );
        assert_eq!(disk.fingerprint(), before);
    }
}

/// A disk on which something happens before a directory is listed for the first time.
struct BeforeList {
    disk: FakeDisk,
    happens: std::sync::Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Disk for BeforeList {
    fn open(&self, path: &Path) -> Result<Option<Box<dyn DiskFile>>, DiskError> {
        self.disk.open(path)
    }

    fn create(&self, path: &Path) -> Result<Box<dyn DiskFile>, DiskError> {
        self.disk.create(path)
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>, DiskError> {
        let happens = self.happens.lock().unwrap().take();
        if let Some(happens) = happens {
            happens();
        }
        self.disk.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        self.disk.remove(path)
    }

    fn create_dir_all(&self, dir: &Path) -> Result<(), DiskError> {
        self.disk.create_dir_all(dir)
    }

    fn open_dir(&self, dir: &Path) -> Result<Box<dyn DiskDirectory>, DiskError> {
        self.disk.open_dir(dir)
    }

    fn lock(&self, path: &Path) -> Result<Option<Lock>, DiskError> {
        Disk::lock(&self.disk, path)
    }

    fn random(&self) -> Result<u64, DiskError> {
        self.disk.random()
    }
}

#[test]
fn a_restore_beside_another_one_is_left_to_the_lock() {
    let source = source();
    let unfinished = |at| {
        let disk = FakeDisk::new(2);
        disk.inject(at, Fault::CrashBefore);
        restore_from(&source, &disk).unwrap_err();
        let disk = disk.after_kill();
        let meta = Meta::load(&new_data_dir(&disk)).ok()??;
        meta.is_restoring().then_some(disk)
    };
    let disk = (1..).find_map(unfinished).unwrap();
    let under_way = new_data_dir(&disk);

    // The other restore gets as far as that after this one has started.
    let (hidden, shown) = (new_dir().join("meta"), new_dir().join("meta.aside"));
    disk.rename(&hidden, &shown).unwrap();
    let _held = under_way.lock().unwrap();
    let moved = disk.clone();
    let happens = move || moved.rename(&shown, &hidden).unwrap();
    let beside = BeforeList {
        disk,
        happens: std::sync::Mutex::new(Some(Box::new(happens))),
    };
    let plan = Plan {
        file: &source.1,
        dir: &DataDir::new(Arc::new(beside), new_dir()),
        list: &list(),
        options: LARGE,
    };
    let refused = restore(&source.0, plan, |_, _| ()).unwrap_err();
    assert_eq!(refused.exit_code(), 3, "{refused}");
}
