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
