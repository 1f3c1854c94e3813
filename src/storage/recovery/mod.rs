//! What a restart does with the data directory: read everything, judge it as a whole, repair what a crash explains,
//! and refuse the rest.
//!
//! Nothing is changed before everything was judged. A start that is refused leaves the directory as it was.
//!
//! Damage is explained by a crash only in the last segment: a batch is synced before the next one is written, and a
//! segment before the next one is begun. The segments are tied together: each has a sequence one higher than the one
//! before, knows the CRC of its last batch, and where the log ended.
//!
//! A restart begins from the newest snapshot that a durable mark names. When its file is damaged, it begins from the
//! older one that is kept for this, if the log reaches back that far.
//!
//! Of the committed entries, which may be many, only the newest are kept in memory; of the others it is noted where they
//! stand (`read_back.rs`), so that they can be read again.

mod log;
mod scan;

pub(super) use log::change_of_members;

use super::data_dir::DataDir;
use super::disk::Disk;
use super::error::StorageError;
use super::later_entries::LaterEntries;
use super::log_index::entry_bytes;
use super::meta::Meta;
use super::snapshot::Snapshots;
use super::state::{Recovered, SnapshotMeta};
use super::wal::segment;
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

/// Loads the snapshot of this index and term, all of it; gives its header and the size of its file. Called again with
/// an older one if the file is damaged.
pub type Load<'a> =
    dyn FnMut(&Snapshots, u64, u64) -> Result<(SnapshotHeader, u64), StorageError> + 'a;

/// What a whole data directory comes to: what a start would begin with.
#[derive(Debug)]
pub struct StartVerdict {
    /// Snapshot, log and hard state.
    pub recovered: Recovered,
    /// Index of the last entry of the log.
    pub last: u64,
    /// Index of the entry in the log that says that the cluster has formed, committed or not.
    pub formed: Option<u64>,
    /// The first entry, committed or not, that only a later version knows.
    pub later: Option<(u64, Later)>,
    /// The end of the log was torn by a crash. A start cuts it off.
    pub torn: bool,
}

/// Reads the WAL and the snapshots. What it gives is durable on return.
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

    for name in disk.list(&wal_dir)? {
        // A segment that a crash interrupted in the making.
        if name.ends_with(segment::TEMPORARY) {
            disk.remove(&wal_dir.join(name))?;
        }
    }
    if scan.torn_tail {
        warn!(logger, "the end of the WAL was torn by a crash; it is kept aside as .broken and cut off";
            "segment" => scan.last.path().display(), "offset" => scan.last.offset());
        scan.last.cut_tail(&**disk, &wal_dir)?;
        drop_old_broken(&**disk, &wal_dir)?;
    }
    let writer = scan.last.into_writer()?;
    // Names that the previous process created may have survived it in the kernel's memory only.
    disk.sync_dir(&wal_dir)?;

    // Only now, as what was read is durable, snapshots go: a mark that the previous process wrote and did not sync
    // would be lost by a crash, and then the snapshots before it are needed.
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
    drop_old_broken(&**disk, &dir.snap_path())?;
    snapshots.delete_leftovers(&keep)?;
    disk.sync_dir(&dir.snap_path())?;

    let bytes: u64 = recovered.entries.iter().map(entry_bytes).sum();
    let snapshot = recovered.snapshot.as_ref().map_or(0, |meta| meta.index);
    info!(logger, "recovered";
        "snapshot" => snapshot,
        "last" => scan.log.state.last,
        "commit" => recovered.hard_state.commit,
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
        index: scan.index,
    };
    let (meta, snapshots) = (meta.clone(), snapshots.clone());
    let wal = Wal::resume(dir, meta, snapshots, options, state, segments);
    Ok((wal, recovered))
}

/// What [`recover`] would give, without a change to anything.
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

/// The snapshot to begin from.
#[derive(Default)]
struct Chosen {
    meta: Option<SnapshotMeta>,
    bytes: u64,
    /// Index and term of newer ones whose files are damaged.
    damaged: Vec<(Index, Term)>,
    /// What is wrong with the newest of those.
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
                warn!(logger, "a snapshot can't be used, trying an older one"; "error" => %error);
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

/// Puts the log behind the snapshot and checks that nothing that was relied upon is missing.
fn judge(scan: &mut Scan, chosen: &Chosen) -> Result<Recovered, StorageError> {
    let log = &mut scan.log;
    let index = chosen.meta.as_ref().map_or(0, |meta| meta.index);
    let corrupt = |why: String| StorageError::corrupt(scan.last.path(), scan.last.offset(), &why);
    if log.log_index.start().0 > index {
        // Behind a damaged snapshot that replaced the log, the older one is of no use.
        return Err(match &chosen.error {
            Some(StorageError::Corrupt { path, offset, why }) => {
                StorageError::corrupt(path, *offset, why)
            }
            _ => corrupt(format!(
                "the log begins at entry {}, the snapshot ends at {index}: entries are missing",
                log.log_index.start().0 + 1
            )),
        });
    }
    // Nobody is sent what is before the older snapshot: the segments that hold it may go at any time.
    let marks = log.state.marks.iter().map(|mark| (mark.index, mark.term));
    let oldest = marks
        .filter(|(index, _)| *index >= log.log_index.start().0)
        .min();
    if let Some((index, term)) = oldest {
        log.drop_to(index, term);
    }
    log.forget_to(index);
    let mut hard_state = log.state.hard_state.clone();
    // Not a matter of repair: whoever saved a mark had that much committed.
    if !is_planted(Mutant::TornMark) {
        hard_state.commit = hard_state.commit.max(log.state.newest_mark());
    }
    if hard_state.commit > log.state.last {
        return Err(corrupt(format!(
            "the log ends at entry {}, but {} are committed: entries are missing",
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

/// Renames a damaged snapshot, so that it is there for whoever wants to know what happened.
fn set_aside(disk: &dyn Disk, path: &Path) -> Result<(), StorageError> {
    if disk.open(path)?.is_some() {
        let mut name = path.as_os_str().to_owned();
        name.push(".broken");
        disk.rename(path, Path::new(&name))?;
    }
    Ok(())
}

/// Of what was set aside in a directory, the newest stays: each crash may leave another. Names sort by age.
fn drop_old_broken(disk: &dyn Disk, dir: &Path) -> Result<(), StorageError> {
    let names = disk.list(dir)?.into_iter();
    let mut broken: Vec<String> = names.filter(|name| name.ends_with(".broken")).collect();
    broken.sort();
    let superfluous = broken.len().saturating_sub(limits::BROKEN_FILES_KEPT);
    for name in &broken[..superfluous] {
        disk.remove(&dir.join(name))?;
    }
    Ok(())
}
