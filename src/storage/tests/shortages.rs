//! What the threads do while no file can be opened.

use super::*;
use crate::channels::commit::Commit;
use crate::channels::inbox::{Held, Inbox};
use crate::metrics::Metrics;
use crate::store::Store;
use crate::store::state_machine::StateMachine;
use crate::threads::apply::{self, Applier};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn without_descriptors_a_snapshot_from_the_leader_is_loaded_later() {
    let disk = FakeDisk::new(1);
    let opened = start(&disk, LARGE).unwrap();
    write_snapshot(&opened, 40, 1).unwrap();
    let store = Arc::new(Store::new());
    let (commits, batches) = apply::channel(StateMachine::new(store.clone(), 1 << 20));
    let (inbox, metrics) = (Arc::new(Inbox::default()), Arc::new(Metrics::default()));
    let (snapshot_jobs, _) = mpsc::channel();
    let applier = Applier {
        batches,
        inbox: inbox.clone(),
        snapshots: opened.snapshots.clone(),
        snapshot_jobs,
        metrics: metrics.clone(),
        logger: logger(),
    };
    disk.set_lacks_descriptors(true);
    let deadline = Instant::now() + Duration::from_secs(30);
    let thread = thread::spawn(move || applier.run());
    let restore = Commit::Restore(Box::new(snapshot_meta(40, 1)));
    assert!(commits.hand_over(vec![restore]).unwrap().is_none());
    while metrics.shortages.loads_failed.get() == 0 {
        assert!(Instant::now() < deadline, "nothing has failed");
        thread::yield_now();
    }
    assert_eq!(store.len(), 0);
    disk.set_lacks_descriptors(false);
    while inbox
        .take(Instant::now() + Duration::from_millis(50), Held::default())
        .applied
        < 40
    {
        assert!(Instant::now() < deadline, "it is not loaded");
    }
    assert_eq!(store.len(), 1);
    drop(commits);
    thread.join().unwrap().unwrap();
}

#[test]
fn a_snapshot_whose_load_is_tried_again_is_not_deleted_meanwhile() {
    let leader = start(&FakeDisk::new(2), LARGE).unwrap();
    let disk = FakeDisk::new(1);
    let opened = open_as(&disk, 4, Start::Empty, LARGE).unwrap();
    let cluster = leader.meta.cluster();
    write_snapshot(&leader, 30, 1).unwrap();
    let mut source = leader.snapshots.open(30, 1).unwrap();
    let mut bytes = vec![0; source.bytes as usize];
    source.read(&mut bytes).unwrap();
    let mut sink = opened.snapshots.receive(cluster).unwrap();
    sink.write(&bytes).unwrap();
    sink.finish(&snapshot_meta(30, 1)).unwrap();
    let load = || opened.snapshots.load(30, 1, |_, _, _| (), |_, _| ());
    disk.set_lacks_memory(true);
    match load().unwrap_err() {
        StorageError::Io(error) => assert!(error.is_shortage(), "{error}"),
        error => panic!("{error}"),
    }
    disk.set_lacks_memory(false);
    // Newer snapshots are marked before the next attempt.
    opened.snapshots.delete_below(90, |_| ()).unwrap();
    let (header, _) = load().unwrap();
    assert_eq!(header.index, 30);
    opened.snapshots.delete_below(90, |_| ()).unwrap();
    assert!(files(&disk, "snap").is_empty());
}

#[test]
fn without_descriptors_no_snapshot_gets_its_name_and_counts_as_failed() {
    let disk = FakeDisk::new(1);
    let opened = start(&disk, LARGE).unwrap();
    let mut source = opened.snapshots.open(1, 1).unwrap();
    let mut bytes = vec![0; source.bytes as usize];
    source.read(&mut bytes).unwrap();
    let receive = || {
        let mut sink = opened.snapshots.receive(opened.meta.cluster()).unwrap();
        sink.write(&bytes).unwrap();
        sink
    };
    let name = opened.snapshots.path(1, 1);
    disk.remove(&name).unwrap();
    let promised = opened.recovered.snapshot.as_ref().unwrap();
    let sink = receive();
    disk.set_lacks_descriptors(true);
    assert!(matches!(sink.finish(promised), Err(ReceiveError::Disk(_))));
    assert!(files(&disk, "snap").is_empty() && unfinished(&disk).is_empty());
    disk.set_lacks_descriptors(false);
    receive().finish(promised).unwrap();
    assert_eq!(files(&disk, "snap"), [name]);
}
