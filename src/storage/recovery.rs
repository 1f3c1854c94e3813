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

use super::disk::Disk;
use super::meta::Meta;
use super::record::Record;
use super::segment::{self, Name, Reader, Step};
use super::snapshot::Snapshots;
use super::wal::{Options, State, Wal};
use super::{Load, Recovered, SnapshotMeta, StorageError};
use crate::config;
use raft::eraftpb::Entry;
use slog::{Logger, info, warn};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Reads the WAL and the snapshots. What it gives is durable on return.
pub(super) fn recover(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    meta: &Arc<Meta>,
    snapshots: &Arc<Snapshots>,
    options: Options,
    load: &mut Load<'_>,
    logger: &Logger,
) -> Result<(Wal, Recovered), StorageError> {
    let began = Instant::now();
    let wal_dir = dir.join("wal");
    let mut scan = scan(&**disk, &wal_dir, meta)?;
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
    snapshots.delete_leftovers(&keep)?;
    disk.sync_dir(&dir.join("snap"))?;

    let bytes: usize = recovered.entries.iter().map(|e| e.data.len()).sum();
    info!(logger, "recovered";
        "segments" => scan.names.len(),
        "entries" => recovered.entries.len(),
        "entry_bytes" => bytes,
        "last" => scan.log.state.last,
        "term" => recovered.hard_state.term,
        "commit" => recovered.hard_state.commit,
        "snapshot" => recovered.snapshot.as_ref().map_or(0, |s| s.index),
        "snapshot_bytes" => recovered.snapshot_bytes,
        "milliseconds" => began.elapsed().as_millis() as u64);

    let mut state = scan.log.state;
    state.marks.retain(|m| keep.contains(&(m.index, m.term)));
    state.hard_state = recovered.hard_state.clone();
    scan.names.pop();
    let wal = Wal::resume(
        disk.clone(),
        wal_dir,
        meta.clone(),
        snapshots.clone(),
        options,
        state,
        scan.names,
        writer,
    );
    Ok((wal, recovered))
}

/// What the segments hold.
struct Scan {
    log: Log,
    names: Vec<Name>,
    last: Reader,
    torn_tail: bool,
}

fn scan(disk: &dyn Disk, wal_dir: &Path, meta: &Meta) -> Result<Scan, StorageError> {
    let mut names: Vec<Name> = disk
        .list(wal_dir)?
        .iter()
        .filter_map(|name| Name::parse(name))
        .collect();
    names.sort();
    let Some(first) = names.first() else {
        return Err(StorageError::corrupt(wal_dir, 0, "there is no segment"));
    };
    let mut log = Log::new(first.first_index);
    let mut last: Option<Reader> = None;
    let mut torn_tail = false;
    for (at, name) in names.iter().enumerate() {
        let mut reader = Reader::open(disk, wal_dir, *name)?;
        check_identity(&reader, meta)?;
        if let Some(before) = &last {
            check_succession(before, &reader, &log)?;
        }
        torn_tail = read_batches(&mut reader, &mut log, at + 1 == names.len())?;
        if reader.is_unused() {
            let (path, offset) = (reader.path(), reader.offset());
            return Err(StorageError::corrupt(
                path,
                offset,
                "the first batch is missing",
            ));
        }
        last = Some(reader);
    }
    Ok(Scan {
        log,
        names,
        last: last.expect("there is a segment"),
        torn_tail,
    })
}

/// Reads a segment to its end. Gives whether there is damage behind it that a crash explains.
fn read_batches(reader: &mut Reader, log: &mut Log, is_last: bool) -> Result<bool, StorageError> {
    loop {
        let hole = match reader.next(&mut |record| log.apply(record))? {
            Step::Batch => continue,
            Step::End => return Ok(false),
            Step::Damaged { hole } => hole,
        };
        let corrupt = |why: &str| StorageError::corrupt(reader.path(), reader.offset(), why);
        if !is_last {
            return Err(corrupt("a batch is damaged, and later segments exist"));
        }
        if !hole {
            return Err(corrupt(
                "a batch is damaged, and it is not torn: it was written as a whole",
            ));
        }
        let offset = reader.offset();
        if let Some(later) = reader.later_batch()? {
            return Err(StorageError::corrupt(
                reader.path(),
                offset,
                &format!("a batch is damaged, and a later one stands at byte {later}"),
            ));
        }
        return Ok(true);
    }
}

fn check_identity(reader: &Reader, meta: &Meta) -> Result<(), StorageError> {
    let header = reader.header();
    // A joiner's first segments were begun before it knew its cluster.
    let known = header.cluster == 0 || header.cluster == meta.cluster();
    if header.member == meta.member() && known {
        return Ok(());
    }
    Err(StorageError::WrongIdentity {
        path: reader.path().to_owned(),
        why: format!(
            "it belongs to member {} of cluster {:016x}, the data directory to member {} of cluster {:016x}",
            header.member,
            header.cluster,
            meta.member(),
            meta.cluster()
        ),
    })
}

fn check_succession(before: &Reader, reader: &Reader, log: &Log) -> Result<(), StorageError> {
    let header = reader.header();
    let corrupt = |why: &str| Err(StorageError::corrupt(reader.path(), 0, why));
    if Some(header.name.sequence) != before.header().name.sequence.checked_add(1) {
        return corrupt("the segment before it is missing");
    }
    if header.previous != before.crc() || header.name.first_index != log.state.last + 1 {
        return Err(StorageError::corrupt(
            before.path(),
            before.offset(),
            &format!(
                "its end is missing: the next segment, {}, does not go on from it",
                header.name.file_name()
            ),
        ));
    }
    Ok(())
}

/// The log as far as it was read.
struct Log {
    state: State,
    /// Without gaps; the first has the index `start`, or is still to come.
    entries: VecDeque<Entry>,
    start: u64,
}

impl Log {
    fn new(first_index: u64) -> Log {
        Log {
            state: State {
                last: first_index.saturating_sub(1),
                ..State::default()
            },
            entries: VecDeque::new(),
            start: first_index,
        }
    }

    fn apply(&mut self, record: Record) -> Result<(), String> {
        match record {
            Record::Entry(entry) => {
                let index = entry.index;
                let State { last, .. } = self.state;
                if index == 0 || index > last + 1 {
                    return Err(format!("entry {index} follows entry {last}: a gap"));
                }
                let snapshot = self.state.newest_mark();
                if index <= snapshot {
                    return Err(format!("entry {index} is older than snapshot {snapshot}"));
                }
                // What was read from `index` on was never committed, and another leader replaced it.
                if index < self.start {
                    self.entries.clear();
                    self.start = index;
                }
                self.entries.truncate((index - self.start) as usize);
                self.entries.push_back(entry);
                self.state.last = index;
            }
            Record::HardState(hard_state) => self.state.hard_state = hard_state,
            Record::Mark(mark) => {
                let index = mark.index;
                if mark.installed {
                    self.entries.clear();
                    self.start = index + 1;
                } else if index > self.state.last {
                    let last = self.state.last;
                    return Err(format!("snapshot {index} is newer than entry {last}"));
                }
                self.state.apply_mark(&mark);
                if self.state.marks.len() == config::SNAPSHOTS_KEPT {
                    let oldest = self.state.marks[0].index;
                    self.drop_up_to(oldest);
                }
            }
        }
        Ok(())
    }

    fn drop_up_to(&mut self, index: u64) {
        if index >= self.start {
            let count = (index + 1 - self.start) as usize;
            self.entries.drain(..count.min(self.entries.len()));
            self.start = index + 1;
        }
    }
}

/// The snapshot to begin from.
#[derive(Default)]
struct Chosen {
    meta: Option<SnapshotMeta>,
    bytes: u64,
    /// Index and term of newer ones whose files are damaged.
    damaged: Vec<(u64, u64)>,
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
    if log.start > index + 1 {
        // Behind a damaged snapshot that replaced the log, the older one is of no use.
        return Err(match &chosen.error {
            Some(StorageError::Corrupt { path, offset, why }) => {
                StorageError::corrupt(path, *offset, why)
            }
            _ => corrupt(format!(
                "the log begins at entry {}, the snapshot ends at {index}: entries are missing",
                log.start
            )),
        });
    }
    log.drop_up_to(index);
    let mut hard_state = log.state.hard_state.clone();
    // Not a matter of repair: whoever saved a mark had that much committed.
    if !cfg!(raftkvd_mutant = "torn-mark") {
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
