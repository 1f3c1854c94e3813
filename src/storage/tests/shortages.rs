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
fn a_file_that_a_start_has_no_room_to_delete_stays_until_the_next_start() {
    let disk = FakeDisk::new(1);
    let mut opened = start(&disk, SMALL).unwrap();
    opened.wal.save(&[append([entry(2, 1, vec![])])]).unwrap();
    // A snapshot without a mark, one that was received in part, and a spare that is none.
    write_snapshot(&opened, 2, 1).unwrap();
    let mut sink = opened.snapshots.receive(1).unwrap();
    sink.write(b"half a file").unwrap();
    let work = opened.wal.wants_spare().unwrap();
    opened.wal.took_spare(work.carry_out());
    disk.tamper(&dir().join("wal/spare.wal.tmp"), |bytes| bytes[900] = 1);
    let leftovers = |disk: &FakeDisk| files(disk, "snap").len() - 1 + unfinished(disk).len();
    for at in 1.. {
        let copy = disk.after_kill();
        copy.keep_journal();
        start(&copy, SMALL).unwrap();
        let journal = copy.journal();
        let removals = journal.iter().enumerate();
        let mut removals = removals.filter(|(_, (operation, _))| *operation == Operation::Remove);
        let Some((place, _)) = removals.nth(at - 1) else {
            assert!(at > 3, "{at}");
            break;
        };
        let copy = disk.after_kill();
        copy.inject(place as u64 + 1, Fault::Full);
        let found = start(&copy, SMALL).unwrap();
        assert_eq!(found.recovered.snapshot.unwrap().index, 1);
        start(&copy, SMALL).unwrap();
        assert_eq!(leftovers(&copy), 0);
    }
}
