//! Recovery: what a restart does with the data directory. It reads everything, judges the directory as a whole, repairs
//! what a crash explains, and refuses everything else.
//!
//! Nothing is changed until everything is judged. A start that is refused leaves the directory as it was.
//!
//! A crash explains damage only in the last segment: a batch is synced before the next batch is written, and a segment
//! before the next segment is created. Segments are chained: each has a sequence one higher than its predecessor, the
//! CRC of the predecessor's last batch, and the index at which the log ended.
//!
//! A restart uses the newest snapshot that a durable mark names. If that file is damaged, the restart uses the older
//! snapshot, which is kept for this purpose, provided that the log reaches back that far.
//!
//! There may be many committed entries. Only the newest of them are kept in memory. For the others, recovery notes
//! their places in the WAL (`wal/read_back.rs`), so that they can be read again.

mod log;
mod scan;

pub(super) use log::change_of_members;

use super::data_dir::DataDir;
use super::disk::Disk;
use super::error::StorageError;
use super::later_entries::LaterEntries;
use super::leftovers::Leftovers;
use super::log_index::entry_bytes;
use super::meta::Meta;
use super::snapshot::Snapshots;
use super::state::{Recovered, SnapshotMeta};
use super::wal::segment::{self, Spare};
use super::wal::{Segments, Wal, WalOptions};
use crate::command::SnapshotHeader;
use crate::command::version::Later;
use crate::limits;
use crate::mutants::{Mutant, is_planted};
use crate::numbers::{Index, Term};
use log::ScannedLog;
use scan::{Scan, scan};
use slog::{Logger, info, warn};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Loads the whole snapshot of this index and term. Returns the header and the size of the file. Called again with the
/// older snapshot if the file is damaged.
pub type Load<'a> =
    dyn FnMut(&Snapshots, u64, u64) -> Result<(SnapshotHeader, u64), StorageError> + 'a;

/// The state with which a start would continue, as found by a command that only examines the directory.
#[derive(Debug)]
pub struct StartVerdict {
    /// Snapshot, log and hard state.
    pub recovered: Recovered,
    /// Index of the last entry of the log.
    pub last: u64,
    /// Index of the entry in the log that says that the cluster has formed, whether or not the entry is committed.
    pub formed: Option<u64>,
    /// The first entry that only a later version can decode, whether or not the entry is committed.
    pub later: Option<(u64, Later)>,
    /// Whether a crash tore the end of the log. A start cuts that end off.
    pub torn: bool,
}

/// Reads the WAL and the snapshots, and repairs what a crash explains. The result is durable on return.
pub(super) fn recover(
    dir: &DataDir,
    meta: &Arc<Meta>,
    snapshots: &Arc<Snapshots>,
    options: WalOptions,
    load: &mut Load<'_>,
    logger: &Logger,
) -> Result<(Wal, Recovered), StorageError> {
    let began = Instant::now();
    let (disk, wal_dir) = (dir.disk(), dir.wal_path());
    let log = |first_index| ScannedLog::new(first_index, options.cache_bytes);
    let mut scan = scan(dir, meta, log)?;
    let chosen = choose_snapshot(snapshots, meta, &scan, load, logger)?;
    let recovered = judge(&mut scan, &chosen)?;

    let mut leftovers = Leftovers::on(&**disk);
    for name in disk.list(&wal_dir)? {
        // An earlier version was interrupted when it created this segment.
        if name.ends_with(segment::TEMPORARY) && name != segment::SPARE {
            leftovers.remove(&wal_dir.join(name));
        }
    }
    if scan.torn_tail {
        warn!(logger, "a crash tore the end of the WAL; cutting it off and keeping a copy as .broken";
            "segment" => scan.last.path().display(), "offset" => scan.last.offset());
        if let Some(full) = scan.last.cut_tail(&**disk, &wal_dir)? {
            warn!(logger, "the torn end of the WAL was cut off without a copy"; "error" => %full);
        }
        drop_old_broken(&**disk, &wal_dir, &mut leftovers)?;
    }
    let writer = scan.last.into_writer()?;
    let spare = Spare::find(&**disk, &wal_dir, options.segment_bytes, &mut leftovers)?;
    // Names that the previous process created may be only in the kernel's memory.
    disk.sync_dir(&wal_dir)?;

    // Delete snapshots only now that the marks are durable. If the previous process did not sync its last mark, a crash
    // could lose that mark, and the next restart would need the snapshots before it.
    let keep: Vec<_> = scan
        .log
        .state
        .marks
        .iter()
        .map(|mark| (mark.index, mark.term))
        .filter(|place| !chosen.damaged.contains(place))
        .collect();
    for (index, term) in &chosen.damaged {
        set_aside(&**disk, &snapshots.path(*index, *term))?;
    }
    drop_old_broken(&**disk, &dir.snap_path(), &mut leftovers)?;
    snapshots.delete_leftovers(&keep, &mut leftovers)?;
    leftovers.report(logger);
    disk.sync_dir(&dir.snap_path())?;

    let bytes: u64 = recovered.entries.iter().map(entry_bytes).sum();
    let snapshot = recovered.snapshot.as_ref().map_or(0, |meta| meta.index);
    info!(logger, "recovered";
        "snapshot" => snapshot,
        "last" => scan.log.state.last,
        "committed" => recovered.hard_state.commit,
        "term" => recovered.hard_state.term,
        "entries" => scan.log.state.last - snapshot,
        "segments" => scan.names.len(),
        "in_memory" => recovered.entries.len(),
        "bytes_in_memory" => bytes,
        "snapshot_bytes" => recovered.snapshot_bytes,
        "ms" => began.elapsed().as_millis() as u64);

    let mut state = scan.log.state;
    state.marks.retain(|m| keep.contains(&(m.index, m.term)));
    state.hard_state = recovered.hard_state.clone();
    scan.names.pop();
    let segments = Segments {
        older: scan.names.into(),
        newest: writer,
        spare,
        index: scan.index,
    };
    let (meta, snapshots) = (meta.clone(), snapshots.clone());
    let wal = Wal::resume(dir, meta, snapshots, options, state, segments)?;
    Ok((wal, recovered))
}

/// Returns what [`recover`] would return, and changes nothing.
pub(super) fn examine(
    dir: &DataDir,
    meta: &Meta,
    snapshots: &Snapshots,
    load: &mut Load<'_>,
    logger: &Logger,
) -> Result<StartVerdict, StorageError> {
    let cache = WalOptions::default().cache_bytes;
    let log = |first_index| ScannedLog::new(first_index, cache).noting_later_entries();
    let mut scan = scan(dir, meta, log)?;
    let chosen = choose_snapshot(snapshots, meta, &scan, load, logger)?;
    let recovered = judge(&mut scan, &chosen)?;
    let begin = recovered.snapshot.as_ref().map_or(0, |meta| meta.index);
    let mut later = scan.log.later.iter().flat_map(LaterEntries::iter);
    Ok(StartVerdict {
        later: later.find(|(index, _)| *index > begin),
        recovered,
        last: scan.log.state.last,
        formed: scan.log.formed,
        torn: scan.torn_tail,
    })
}

/// The snapshot from which the restart continues.
#[derive(Default)]
struct Chosen {
    meta: Option<SnapshotMeta>,
    bytes: u64,
    /// Index and term of newer snapshots whose files are damaged.
    damaged: Vec<(Index, Term)>,
    /// The damage of the newest of them.
    error: Option<StorageError>,
}

fn choose_snapshot(
    snapshots: &Snapshots,
    meta: &Meta,
    scan: &Scan,
    load: &mut Load<'_>,
    logger: &Logger,
) -> Result<Chosen, StorageError> {
    let mut chosen = Chosen::default();
    for mark in scan.log.state.marks.iter().rev() {
        match load(snapshots, mark.index, mark.term) {
            Ok((header, bytes)) => {
                if header.cluster != meta.cluster() {
                    return Err(StorageError::WrongIdentity {
                        path: snapshots.path(mark.index, mark.term),
                        why: format!(
                            "it belongs to cluster {:016x}, the data directory to cluster {:016x}",
                            header.cluster,
                            meta.cluster()
                        ),
                    });
                }
                chosen.meta = Some(SnapshotMeta::from_header(&header));
                chosen.bytes = bytes;
                return Ok(chosen);
            }
            Err(error @ StorageError::Corrupt { .. }) => {
                warn!(logger, "can't use a snapshot; trying an older snapshot"; "error" => %error);
                chosen.damaged.push((mark.index, mark.term));
                chosen.error.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    match chosen.error.take() {
        Some(error) => Err(error),
        None => Ok(chosen),
    }
}

/// Combines the log with the snapshot, and checks that no entry is missing that others may rely on.
fn judge(scan: &mut Scan, chosen: &Chosen) -> Result<Recovered, StorageError> {
    let log = &mut scan.log;
    let index = chosen.meta.as_ref().map_or(0, |meta| meta.index);
    let corrupt = |why: String| StorageError::corrupt(scan.last.path(), scan.last.offset(), &why);
    if log.log_index.start().0 > index {
        // The damaged snapshot replaced the log, so no entries connect the older snapshot with the log.
        return Err(match &chosen.error {
            Some(StorageError::Corrupt { path, offset, why }) => {
                StorageError::corrupt(path, *offset, why)
            }
            _ => corrupt(format!(
                "the log starts at entry {}, but the snapshot ends at {index}: entries are missing",
                log.log_index.start().0 + 1
            )),
        });
    }
    // Never send entries from before the older snapshot to a follower: their segments may be deleted at any time.
    let marks = log.state.marks.iter().map(|mark| (mark.index, mark.term));
    let oldest = marks
        .filter(|(index, _)| *index >= log.log_index.start().0)
        .min();
    if let Some((index, term)) = oldest {
        log.drop_to(index, term);
    }
    log.forget_to(index);
    let mut hard_state = log.state.hard_state.clone();
    // This is no repair: a mark is saved only when its index is committed.
    if !is_planted(Mutant::TornMark) {
        hard_state.commit = hard_state.commit.max(log.state.newest_mark());
    }
    if hard_state.commit > log.state.last {
        return Err(corrupt(format!(
            "the log ends at entry {}, but entries up to {} are committed: entries are missing",
            log.state.last, hard_state.commit
        )));
    }
    Ok(Recovered {
        hard_state,
        snapshot: chosen.meta.clone(),
        snapshot_bytes: chosen.bytes,
        log_index: Some(std::mem::take(&mut log.log_index)),
        entries: std::mem::take(&mut log.entries).into(),
    })
}

/// Renames a damaged snapshot and keeps it for an investigation.
fn set_aside(disk: &dyn Disk, path: &Path) -> Result<(), StorageError> {
    if disk.open(path)?.is_some() {
        let mut name = path.as_os_str().to_owned();
        name.push(".broken");
        disk.rename(path, Path::new(&name))?;
    }
    Ok(())
}

/// Deletes the oldest `.broken` files of a directory, since each crash may leave another. Names sort by age.
fn drop_old_broken(
    disk: &dyn Disk,
    dir: &Path,
    leftovers: &mut Leftovers<'_>,
) -> Result<(), StorageError> {
    let names = disk.list(dir)?.into_iter();
    let mut broken: Vec<String> = names.filter(|name| name.ends_with(".broken")).collect();
    broken.sort();
    let superfluous = broken.len().saturating_sub(limits::BROKEN_FILES_KEPT);
    for name in &broken[..superfluous] {
        leftovers.remove(&dir.join(name));
    }
    Ok(())
}
