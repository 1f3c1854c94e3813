//! Crash points. A script leads a member through everything that storage does to a disk. It runs once to find all
//! operations; then again and again, with a crash before and after each of them, and with each of them failing. What
//! the disk then holds is recovered, and each recovery is in turn stopped before and after each of its operations.
//!
//! The script is a row of lives. Each begins with what the life before left on the disk: a kill, a torn tail, a segment
//! half created, a damaged snapshot. A crash is injected into one life at a time, so that no run repeats the lives
//! before it.

mod scenes;
mod script;
mod tally;
mod told;

use super::*;
use scenes::*;
use script::*;
use std::collections::BTreeSet;
use tally::*;
use told::*;

/// Segments hold a few records, a save of some entries is several batches, and few committed entries are left in memory
/// by a start.
const TINY: WalOptions = WalOptions {
    segment_bytes: 4096,
    batch_bytes: 1500,
    cache_bytes: 1000,
};

const LOSSES: [Loss; 8] = [
    Loss::Everything,
    Loss::Nothing,
    Loss::Bytes,
    Loss::Names,
    Loss::Torn(1),
    Loss::Torn(2),
    Loss::Torn(3),
    Loss::Torn(4),
];

/// Every place in storage's code that changes something on the disk. A new one has to be reached by the script.
const SITES: [(Operation, &str); 31] = [
    (Operation::CreateDir, "data/"),
    (Operation::CreateDir, "snap/"),
    (Operation::CreateDir, "wal/"),
    (Operation::Create, "*.broken"),
    (Operation::Create, "*.tmp"),
    (Operation::Create, "*.wal.tmp"),
    (Operation::Create, "LOCK"),
    (Operation::Create, "meta.tmp"),
    (Operation::Write, "*.broken"),
    (Operation::Write, "*.tmp"),
    (Operation::Write, "*.wal"),
    (Operation::Write, "*.wal.tmp"),
    (Operation::Write, "meta.tmp"),
    (Operation::Allocate, "*.wal.tmp"),
    (Operation::Sync, "*.broken"),
    (Operation::Sync, "*.tmp"),
    (Operation::Sync, "*.wal"),
    (Operation::Sync, "*.wal.tmp"),
    (Operation::Sync, "meta.tmp"),
    (Operation::Rename, "*.snap"),
    (Operation::Rename, "*.tmp"),
    (Operation::Rename, "*.wal.tmp"),
    (Operation::Rename, "meta.tmp"),
    (Operation::Remove, "*.snap"),
    (Operation::Remove, "*.tmp"),
    (Operation::Remove, "*.wal"),
    (Operation::Remove, "*.wal.tmp"),
    (Operation::SyncDir, "/"),
    (Operation::SyncDir, "data/"),
    (Operation::SyncDir, "snap/"),
    (Operation::SyncDir, "wal/"),
];

#[test]
fn a_crash_before_and_after_every_operation_loses_nothing() {
    let mut tally = Tally::default();
    for scene in scenes() {
        tally.note(&scene.journal);
        for operation in 1..=scene.journal.len() as u64 {
            for fault in [Fault::CrashBefore, Fault::CrashAfter] {
                tally.points += 1;
                let (disk, told, result) = scene.run(operation, fault);
                let (kind, path) = &scene.journal[operation as usize - 1];
                let point = format!(
                    "{}, {fault:?} {operation} ({kind:?} {})",
                    scene.name,
                    path.display()
                );
                // The removal of a temporary file in passing is the one operation whose failure nobody asks about;
                // after it the next operation fails.
                assert_eq!(result.unwrap_err().exit_code(), 6, "{point}");
                tally.check(&disk.after_kill(), &told, &format!("{point}, killed"));
                for loss in LOSSES {
                    let name = format!("{point}, {loss:?}");
                    tally.check(&disk.after_crash(loss), &told, &name);
                }
            }
        }
    }
    println!(
        "{} crash points, {} different disks, {} crash points in their recoveries, {} starts, {} of them with a log \
         that had to be read back",
        tally.points,
        tally.images.len(),
        tally.recovery_points,
        tally.starts,
        tally.left
    );
    assert!(tally.left > 1_000, "{}", tally.left);
    assert_eq!(tally.sites, BTreeSet::from(SITES));
}

#[test]
fn an_operation_that_fails_ends_the_process_and_loses_nothing() {
    let mut tally = Tally::default();
    for scene in scenes() {
        for operation in 1..=scene.journal.len() as u64 {
            tally.points += 1;
            let (disk, told, result) = scene.run(operation, Fault::Fail);
            let (kind, path) = &scene.journal[operation as usize - 1];
            let point = format!(
                "{}, failed {operation} ({kind:?} {})",
                scene.name,
                path.display()
            );
            match result {
                Err(error) => assert_eq!(error.exit_code(), 6, "{point}"),
                // A temporary file that is left is removed by the next start.
                Ok(()) => assert_eq!((*kind, role(path)), (Operation::Remove, "*.tmp"), "{point}"),
            }
            check_restarts(&disk, &told, &point);
        }
    }
    println!("{} operations failed", tally.points);
}

#[test]
fn a_disk_that_is_full_ends_the_process_and_loses_nothing() {
    let mut points = 0;
    for scene in scenes() {
        for free in (0..).step_by(160) {
            let (disk, mut told) = (scene.disk.after_kill(), scene.told.clone());
            disk.set_free(Some(free));
            let Err(error) = (scene.life)(&disk, &mut told) else {
                break;
            };
            let point = format!("{}, {free} bytes free", scene.name);
            assert_eq!(error.exit_code(), 6, "{point}");
            assert!(error.to_string().contains("No space left"), "{error}");
            points += 1;
            disk.set_free(None);
            check_restarts(&disk, &told, &point);
        }
    }
    println!("{points} times the disk was full");
}

/// After an error: the process is started again, and then or at once the power fails.
fn check_restarts(disk: &FakeDisk, told: &Told, name: &str) {
    for loss in LOSSES {
        let mut told = told.clone();
        match told.open(&disk.after_crash(loss)) {
            Ok(_) | Err(StorageError::Removed { .. }) => {}
            Err(error) => panic!("{name}, {loss:?}: {error}"),
        }
    }
    let mut told = told.clone();
    let killed = disk.after_kill();
    let mut opened = match told.open(&killed) {
        Ok(opened) => opened,
        Err(StorageError::Removed { .. }) => return,
        Err(error) => panic!("{name}, started again: {error}"),
    };
    for loss in [Loss::Everything, Loss::Torn(1)] {
        if let Err(error) = told.clone().open(&killed.after_crash(loss)) {
            panic!("{name}, started again, {loss:?}: {error}");
        }
    }
    told.append(&mut opened, &[700]).unwrap();
    for loss in [Loss::Everything, Loss::Torn(1)] {
        if let Err(error) = told.clone().open(&killed.after_crash(loss)) {
            panic!("{name}, started again, went on, {loss:?}: {error}");
        }
    }
}
