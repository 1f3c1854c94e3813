//! The `meta` file: refused owners, removed members, and readers during a sync.

use super::*;
use observed_disk::Observed;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

#[test]
fn data_of_another_member_or_cluster_is_refused() {
    let disk = FakeDisk::new(1);
    drop(start(&disk, LARGE).unwrap());
    let open = |disk: &FakeDisk, member| open_as(disk, member, Start::Empty, LARGE);
    let error = open(&disk, 2).unwrap_err();
    assert_eq!(error.exit_code(), 5, "{error}");
    assert!(!error.to_string().contains('\n'));
    open(&disk, 3).unwrap();

    // The WAL of one directory, the `meta` of another.
    for (member, begin) in [
        (3, Start::Empty),
        (3, Start::First(list())),
        (4, Start::Empty),
    ] {
        let other = FakeDisk::new(2);
        open_as(&other, member, begin, LARGE).unwrap();
        let mixed = disk.after_power_loss(1);
        mixed.tamper(&dir().join("meta"), |bytes| {
            *bytes = other.read(&dir().join("meta"));
        });
        let error = open(&mixed, member).unwrap_err();
        assert_eq!(error.exit_code(), 5, "{error}");
    }

    disk.remove(&dir().join("meta")).unwrap();
    let error = start(&disk, LARGE).unwrap_err();
    assert_eq!(error.exit_code(), 5, "{error}");
}

#[test]
fn a_removed_member_does_not_start_again() {
    let disk = FakeDisk::new(1);
    let opened = start(&disk, LARGE).unwrap();
    opened.meta.mark_removed(77).unwrap();
    let error = start(&disk.after_power_loss(1), LARGE).unwrap_err();
    assert_eq!(error.exit_code(), 7);
    let text = error.to_string();
    assert!(
        text.contains("member 3") && text.contains("--join"),
        "{text}"
    );
    assert!(!text.contains('\n'), "{text}");
}

#[test]
fn a_reader_of_meta_does_not_wait_for_its_sync() {
    let disk = FakeDisk::new(1);
    drop(open_as(&disk, 4, Start::Empty, LARGE).unwrap());
    let (entered, syncing) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let observed = Observed {
        disk,
        sync: Arc::new(move || {
            entered.send(()).unwrap();
            // Unblocks when the test ends.
            let _ = released.lock().unwrap().recv();
        }),
    };
    let dir = DataDir::new(Arc::new(observed), dir());
    let meta = Arc::new(Meta::load(&dir).unwrap().unwrap());
    let writer = meta.clone();
    let writing = thread::spawn(move || writer.pin_cluster(CLUSTER).unwrap());
    syncing.recv().unwrap();
    let (answer, answers) = mpsc::channel();
    let reader = meta.clone();
    thread::spawn(move || answer.send((reader.cluster(), reader.boot())));
    // The change is not durable, so a reader does not see it yet.
    let read = answers.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(read, (0, 1));
    drop(release);
    writing.join().unwrap();
    assert_eq!(meta.cluster(), CLUSTER);
}

#[test]
fn no_cluster_is_pinned_while_the_first_start_is_being_undone() {
    let disk = FakeDisk::new(1);
    drop(open_as(&disk, 4, Start::Empty, LARGE).unwrap());
    let (entered, syncing) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let observed = Observed {
        disk,
        sync: Arc::new(move || {
            let _ = entered.send(());
            // Unblocks when the test releases it.
            let _ = released.lock().unwrap().recv();
        }),
    };
    let dir = DataDir::new(Arc::new(observed), dir());
    let meta = Arc::new(Meta::load(&dir).unwrap().unwrap());
    let undoing = meta.clone();
    let undoing = thread::spawn(move || undoing.undo_first_start().unwrap());
    syncing.recv().unwrap();
    assert!(meta.in_use(), "the undoing is not durable yet");
    let (starts, started) = mpsc::channel();
    let pinning = meta.clone();
    let pinning = thread::spawn(move || {
        starts.send(()).unwrap();
        pinning.pin_cluster(CLUSTER)
    });
    started.recv().unwrap();
    drop(release);
    undoing.join().unwrap();
    pinning.join().unwrap().unwrap_err();
    assert_eq!((meta.in_use(), meta.cluster()), (false, 0));
}

#[test]
fn a_change_of_the_length_of_meta_leaves_a_full_disk_room_for_the_next_start() {
    let long: PeerUrl = format!("http://{}:1", "a".repeat(60)).parse().unwrap();
    let short: PeerUrl = "http://a:1".parse().unwrap();
    let (mut refused, mut changed) = (0, false);
    for free in (0..).step_by(7) {
        let disk = FakeDisk::new(1);
        let opened = start(&disk, LARGE).unwrap();
        opened.meta.set_url(&short).unwrap();
        disk.set_free(Some(free));
        match opened.meta.set_url(&long) {
            Ok(()) => changed = true,
            Err(error) => {
                assert!(error.is_full(), "{error}");
                refused += 1;
            }
        }
        let expected = if changed { &long } else { &short };
        for boot in 2..5 {
            let opened = start(&disk, LARGE).unwrap();
            assert_eq!(opened.meta.boot(), boot);
            assert_eq!(opened.meta.given().url.as_ref(), Some(expected));
        }
        // A shorter file needs no room.
        opened.meta.set_url(&short).unwrap();
        start(&disk, LARGE).unwrap();
        if changed {
            break;
        }
    }
    assert!(refused > 5, "{refused}");
}
