//! What reviews found: failed syncs, saves that wait for nothing, files that are deleted too early, too late or not at
//! all.

use super::*;
use crate::storage::disk::DiskFile;
use crate::storage::fake_disk::Fault;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A disk that tells of every sync of a file or directory before it is done.
struct Observed<F> {
    disk: FakeDisk,
    sync: Arc<F>,
}

struct ObservedFile<F> {
    file: Box<dyn DiskFile>,
    sync: Arc<F>,
}

impl<F: Fn() + Send + Sync + 'static> Observed<F> {
    fn wrap(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(ObservedFile {
            file,
            sync: self.sync.clone(),
        })
    }
}

impl<F: Fn() + Send + Sync + 'static> Disk for Observed<F> {
    fn open(&self, path: &Path) -> Result<Option<Box<dyn DiskFile>>, DiskError> {
        Ok(self.disk.open(path)?.map(|file| self.wrap(file)))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn DiskFile>, DiskError> {
        Ok(self.wrap(self.disk.create(path)?))
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>, DiskError> {
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

    fn sync_dir(&self, dir: &Path) -> Result<(), DiskError> {
        (self.sync)();
        self.disk.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> Result<Option<Lock>, DiskError> {
        Disk::lock(&self.disk, path)
    }

    fn random(&self) -> Result<u64, DiskError> {
        self.disk.random()
    }
}

impl<F: Fn() + Send + Sync> DiskFile for ObservedFile<F> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, DiskError> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        self.file.write_at(bytes, offset)
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        (self.sync)();
        self.file.sync()
    }

    fn allocate(&mut self, len: u64) -> Result<(), DiskError> {
        self.file.allocate(len)
    }

    fn len(&self) -> Result<u64, DiskError> {
        self.file.len()
    }
}

/// Starts on a disk whose last user was killed, and checks that what it finds, and what it saves then, survives the
/// loss of power.
fn assert_durable_after_a_kill(disk: &FakeDisk, what: &str) {
    let disk = disk.after_kill();
    let mut opened = start(&disk, SMALL).unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut found = Expected::of(&opened.recovered);
    let check = |found: &Expected| {
        for loss in 0..4 {
            let again = start(&disk.after_power_loss(loss), SMALL)
                .unwrap_or_else(|e| panic!("{what}, loss {loss}: {e}"));
            let again = Expected::of(&again.recovered);
            assert_eq!(&again, found, "{what}, loss {loss}");
        }
    };
    check(&found);
    let save = append([entry(found.last() + 1, 9, vec![9; 100])]);
    opened.wal.save(std::slice::from_ref(&save)).unwrap();
    found.save(&save);
    check(&found);
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

/// Two batches, the second of them torn.
fn torn(disk: &FakeDisk, opened: &mut Opened, index: u64) {
    let entries = [index, index + 1].map(|i| append([entry(i, 1, vec![7; 900])]));
    let segment = segments(disk).pop().unwrap();
    opened.wal.save(&entries[..1]).unwrap();
    let end = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let before = end(&disk.read(&segment));
    opened.wal.save(&entries[1..]).unwrap();
    disk.tamper(&segment, |bytes| bytes[before + 200..].fill(0));
}

#[test]
fn a_failure_while_a_torn_tail_is_cut_loses_nothing() {
    // The disk draws from its seed how much of the operation that fails is done.
    for seed in 0..20 {
        let disk = FakeDisk::new(seed);
        torn(&disk, &mut start(&disk, LARGE).unwrap(), 2);
        for failing in 1..30 {
            let disk = disk.after_power_loss(1);
            disk.inject(failing, Fault::Fail);
            if start(&disk, LARGE).is_err() {
                let what = format!("seed {seed}, operation {failing}");
                assert_durable_after_a_kill(&disk, &what);
            }
        }
    }
}

#[test]
fn a_second_torn_tail_does_not_replace_the_first() {
    let disk = FakeDisk::new(1);
    torn(&disk, &mut start(&disk, LARGE).unwrap(), 2);
    let mut opened = start(&disk, LARGE).unwrap();
    assert_eq!(indexes(&opened.recovered), [2]);
    torn(&disk, &mut opened, 3);
    let opened = start(&disk, LARGE).unwrap();
    assert_eq!(indexes(&opened.recovered), [2, 3]);
    assert_eq!(files(&disk, "broken").len(), 2);
}

#[test]
fn of_what_was_set_aside_the_newest_is_kept() {
    let kept = limits::BROKEN_FILES_KEPT;
    let disk = FakeDisk::new(1);
    let mut all = Vec::new();
    for index in 2..8 {
        torn(&disk, &mut start(&disk, LARGE).unwrap(), index);
        start(&disk, LARGE).unwrap();
        let now = files(&disk, "broken");
        all.extend(
            now.into_iter()
                .filter(|path| !all.contains(path))
                .collect::<Vec<_>>(),
        );
        assert_eq!(all.len() as u64, index - 1);
        assert_eq!(
            files(&disk, "broken"),
            all[all.len().saturating_sub(kept)..]
        );
    }
    // Of damaged snapshots as well: here as if they had been left by earlier starts.
    for index in 0..6 {
        let name = snapshot::file_name(index, 1) + ".broken";
        disk.create(&dir().join("snap").join(name)).unwrap();
    }
    start(&disk, LARGE).unwrap();
    let left = disk.list(&dir().join("snap")).unwrap();
    let left = left.iter().filter(|name| name.ends_with(".broken"));
    assert_eq!(left.count(), kept);
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
    opened
        .wal
        .purge(u64::MAX)
        .unwrap()
        .remove_at_once()
        .unwrap();
    assert!(segments(&disk).len() < before.0);
    assert_eq!(files(&disk, "snap").len(), 2);
    let operations = disk.operations();
    opened
        .wal
        .purge(u64::MAX)
        .unwrap()
        .remove_at_once()
        .unwrap();
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
    let snapshots = Snapshots::new(Arc::new(observed), dir().join("snap"));
    let value = vec![3; 1 << 20];
    let keys: Vec<[u8; 1]> = (0..40).map(|key| [key]).collect();
    let entries = keys.iter().map(|key| (&key[..], 1, &value[..]));
    let meta = SnapshotMeta {
        index: 9,
        term: 1,
        ..SnapshotMeta::default()
    };
    let bytes = snapshots.write(&meta, 77, entries).unwrap();
    // With each value, at the end; and the directory.
    assert_eq!(syncs.swap(0, Ordering::Relaxed), 42);
    let mut source = snapshots.open(9, 1).unwrap();
    let mut file = vec![0; bytes as usize];
    assert_eq!(source.read(&mut file).unwrap(), file.len());
    let mut sink = snapshots.receive(77).unwrap();
    sink.write(&file).unwrap();
    sink.finish(&meta).unwrap();
    assert_eq!(syncs.swap(0, Ordering::Relaxed), 42);
}

#[test]
fn who_reads_meta_does_not_wait_for_its_sync() {
    let disk = FakeDisk::new(1);
    drop(open_as(&disk, 4, Start::Empty, LARGE).unwrap());
    let (entered, syncing) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let observed = Observed {
        disk,
        sync: Arc::new(move || {
            entered.send(()).unwrap();
            // Ends when the test has.
            let _ = released.lock().unwrap().recv();
        }),
    };
    let meta = Arc::new(Meta::load(Arc::new(observed), dir()).unwrap().unwrap());
    let writer = meta.clone();
    let writing = thread::spawn(move || writer.pin_cluster(CLUSTER).unwrap());
    syncing.recv().unwrap();
    let (answer, answers) = mpsc::channel();
    let reader = meta.clone();
    thread::spawn(move || answer.send((reader.cluster(), reader.boot())));
    // Not durable, hence not yet told.
    let read = answers.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(read, (0, 1));
    drop(release);
    writing.join().unwrap();
    assert_eq!(meta.cluster(), CLUSTER);
}

#[test]
fn a_received_snapshot_is_there_until_it_was_loaded() {
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
        opened
            .wal
            .purge(u64::MAX)
            .unwrap()
            .remove_at_once()
            .unwrap();
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

#[test]
fn a_snapshot_taken_after_a_fallback_to_an_older_one_counts() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, SMALL).unwrap();
    let snapshot = |opened: &mut Opened, index| {
        write_snapshot(opened, index, 1).unwrap();
        let save = mark(index, 1, hard_state(1, 0, 29), false);
        opened.wal.save(&[save]).unwrap();
        opened
            .wal
            .purge(u64::MAX)
            .unwrap()
            .remove_at_once()
            .unwrap();
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
fn an_installed_snapshot_with_more_entries_than_a_batch_holds_can_be_torn_anywhere() {
    let options = Options {
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
fn an_entry_is_never_found_without_the_commit_index_that_came_along_with_it() {
    let options = Options {
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
        // Entries 4 and 5 were never committed; others take their place.
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
