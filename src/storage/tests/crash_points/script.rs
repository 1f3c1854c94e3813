//! The lives of the script, and how each of them ends.

use super::*;

pub(super) type Life = fn(&FakeDisk, &mut Told) -> Result<(), StorageError>;

/// How a life ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// The process is killed. Not everything is durable.
    Kill,
    /// The power fails right after the last operation of this kind on a file with this extension.
    Crash(Operation, &'static str, Loss),
    /// The last batch is torn.
    TornTail,
    /// The process is killed, and the newest snapshot is damaged.
    DamagedSnapshot,
}

pub(super) const FOUNDER: [(Life, End); 5] = [
    (first_start_saves_rotation_and_snapshots, End::Kill),
    (installed_snapshot, End::TornTail),
    (
        goes_on,
        End::Crash(Operation::Allocate, "tmp", Loss::Nothing),
    ),
    (goes_on, End::DamagedSnapshot),
    (goes_on_and_is_removed, End::Kill),
];

pub(super) const JOINER: [(Life, End); 3] = [
    (joins, End::Crash(Operation::Write, "wal", Loss::Everything)),
    (
        goes_on,
        End::Crash(Operation::Allocate, "tmp", Loss::Torn(5)),
    ),
    (goes_on, End::Kill),
];

fn first_start_saves_rotation_and_snapshots(
    disk: &FakeDisk,
    told: &mut Told,
) -> Result<(), StorageError> {
    let mut opened = told.open(disk)?;
    told.append(&mut opened, &[10])?;
    told.save(&mut opened, &[state(2, 3, 1, true)])?;
    told.save(&mut opened, &[state(2, 3, 2, false)])?;
    told.append(&mut opened, &[600, 0, 1400])?;
    // Another leader's entries replace uncommitted entries, and the same write contains a vote.
    let others = append([entry(4, 3, vec![3; 20]), entry(5, 3, vec![3; 700])]);
    told.save(&mut opened, &[state(3, 0, 2, true), others])?;
    // Several batches, over several segments.
    told.append(&mut opened, &[900; 9])?;
    for back in [3, 0, 2] {
        told.append(&mut opened, &[500, 1100, 400, 800])?;
        told.snapshot(&mut opened, back)?;
    }
    told.append(&mut opened, &[7])?;
    Ok(())
}

fn installed_snapshot(disk: &FakeDisk, told: &mut Told) -> Result<(), StorageError> {
    let mut opened = told.open(disk)?;
    told.append(&mut opened, &[60])?;
    // A transfer that is aborted.
    opened
        .snapshots
        .receive(opened.meta.cluster())?
        .write(b"rkvdsnap")?;
    let index = told.last() + 30;
    told.install(&mut opened, index)?;
    told.append(&mut opened, &[400])?;
    // The next segment still has to reach back to the installed snapshot.
    told.append(&mut opened, &[800; 5])?;
    told.append(&mut opened, &[1900])?;
    Ok(())
}

fn goes_on(disk: &FakeDisk, told: &mut Told) -> Result<(), StorageError> {
    let mut opened = told.open(disk)?;
    let term = told.current.hard_state.term + 1;
    let commit = told.current.hard_state.commit;
    told.save(&mut opened, &[state(term, 2, commit, true)])?;
    for url in ["http://a.longer.name.than.before:3", "http://a:3"] {
        told.change(|_| (), || opened.meta.set_url(&url.parse().unwrap()))?;
    }
    told.append(&mut opened, &[1000, 300])?;
    told.snapshot(&mut opened, 1)?;
    told.append(&mut opened, &[900; 6])?;
    Ok(())
}

fn goes_on_and_is_removed(disk: &FakeDisk, told: &mut Told) -> Result<(), StorageError> {
    let mut opened = told.open(disk)?;
    told.append(&mut opened, &[300])?;
    told.snapshot(&mut opened, 0)?;
    let removed = |known: &mut Known| known.removed = true;
    told.change(removed, || opened.meta.mark_removed(77))?;
    Ok(())
}

fn joins(disk: &FakeDisk, told: &mut Told) -> Result<(), StorageError> {
    let mut opened = told.open(disk)?;
    let change = |known: &mut Known| known.joined = Some(CLUSTER);
    told.change(change, || opened.meta.pin_cluster(CLUSTER))?;
    told.install(&mut opened, 40)?;
    told.append(&mut opened, &[900; 6])?;
    Ok(())
}
