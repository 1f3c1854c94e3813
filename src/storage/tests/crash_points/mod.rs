//! Crash points. A script makes a member perform every kind of disk operation in storage. The first run of the script
//! finds all operations. Further runs crash before and after each operation, and let each operation fail. Each
//! resulting disk is recovered, and each recovery is in turn stopped before and after each of its operations.
//!
//! The script is a series of lives. Each life starts with the disk that the life before it left: after a kill, with a
//! torn tail, a half-created segment, a damaged snapshot. A crash is injected into one life at a time, so that no run
//! repeats the lives before it.

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

/// A segment holds a few records, a save of several entries takes several batches, and a start keeps few committed
/// entries in memory.
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

/// Every place in storage's code that changes the disk. The script has to reach every place that is added here.
const SITES: [(Operation, &str); 34] = [
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
    (Operation::Allocate, "*.wal"),
    (Operation::Allocate, "*.wal.tmp"),
    (Operation::Allocate, "meta.tmp"),
    (Operation::Truncate, "meta.tmp"),
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
                // Only an optional operation may fail without an error to the caller. The operation after it then
                // fails.
                match result {
                    Err(error) => assert_eq!(error.exit_code(), 6, "{point}"),
                    Ok(()) => assert!(is_optional(*kind, role(path)), "{point}"),
                }
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

fn is_optional(kind: Operation, role: &str) -> bool {
    use Operation::{Allocate, Create, Remove, Sync, Write};
    match role {
        "*.tmp" | "*.snap" | "*.broken" => kind == Remove,
        "*.wal.tmp" => matches!(kind, Create | Allocate | Remove),
        "meta.tmp" => matches!(kind, Create | Write | Sync),
        _ => false,
    }
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
                // The next start removes a leftover temporary file, and files that are kept for their room are
                // optional.
                Ok(()) => assert!(is_optional(*kind, role(path)), "{point}"),
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

/// Restarts after an error. The power fails right after the error, or after the restart.
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
