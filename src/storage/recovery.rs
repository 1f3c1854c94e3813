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

use super::disk::Disk;
use super::inspect::{LaterEntries, StartVerdict};
use super::log_index::{Outline, entry_bytes};
use super::meta::Meta;
use super::snapshot::Snapshots;
use super::wal::read_back::{Effect, Index, Place};
use super::wal::record::Record;
use super::wal::segment;
use super::wal::segment::{Name, Reader, Step};
use super::wal::{Options, State, Wal};
use super::{Load, Recovered, SnapshotMeta, StorageError};
use crate::command::{self, Command, Kind};
use crate::limits;
use crate::members;
use crate::mutants::{Mutant, is_planted};
use raft::eraftpb::{Entry, EntryType};
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
    let log = |first_index| Log::new(first_index, options.cache_bytes);
    let mut scan = scan(&**disk, &wal_dir, meta, log)?;
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
    drop_old_broken(&**disk, &dir.join("snap"))?;
    snapshots.delete_leftovers(&keep)?;
    disk.sync_dir(&dir.join("snap"))?;

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
    let wal = Wal::resume(
        disk.clone(),
        wal_dir,
        meta.clone(),
        snapshots.clone(),
        options,
        state,
        scan.names,
        writer,
        scan.index,
    );
    Ok((wal, recovered))
}

/// What [`recover`] would give, without a change to anything.
pub(super) fn examine(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    meta: &Meta,
    snapshots: &Snapshots,
    load: &mut Load<'_>,
    logger: &Logger,
) -> Result<StartVerdict, StorageError> {
    let cache = Options::default().cache_bytes;
    let log = |first_index| Log {
        later: Some(LaterEntries::default()),
        ..Log::new(first_index, cache)
    };
    let mut scan = scan(&**disk, &dir.join("wal"), meta, log)?;
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

/// What the segments hold.
struct Scan {
    log: Log,
    index: Index,
    names: Vec<Name>,
    last: Reader,
    torn_tail: bool,
}

fn scan(
    disk: &dyn Disk,
    wal_dir: &Path,
    meta: &Meta,
    log: impl FnOnce(u64) -> Log,
) -> Result<Scan, StorageError> {
    let mut names: Vec<Name> = disk
        .list(wal_dir)?
        .iter()
        .filter_map(|name| Name::parse(name))
        .collect();
    names.sort();
    let Some(first) = names.first() else {
        return Err(StorageError::corrupt(wal_dir, 0, "there is no segment"));
    };
    let mut log = log(first.first_index);
    let mut index = Index::default();
    let mut last: Option<Reader> = None;
    let mut torn_tail = false;
    for (at, name) in names.iter().enumerate() {
        let mut reader = Reader::open(disk, wal_dir, *name)?;
        check_identity(&reader, meta)?;
        if let Some(before) = &last {
            check_succession(before, &reader, &log)?;
        }
        index.begin(*name, reader.offset());
        torn_tail = read_batches(&mut reader, &mut log, &mut index, at + 1 == names.len())?;
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
        index,
        names,
        last: last.expect("there is a segment"),
        torn_tail,
    })
}

/// Reads a segment to its end. Gives whether there is damage behind it that a crash explains.
fn read_batches(
    reader: &mut Reader,
    log: &mut Log,
    index: &mut Index,
    is_last: bool,
) -> Result<bool, StorageError> {
    loop {
        let place = Place {
            sequence: reader.header().name.sequence,
            offset: reader.offset(),
            previous: reader.crc(),
        };
        let mut effect = Effect::default();
        let hole = match reader.next(&mut |record| log.apply(record, &mut effect))? {
            Step::Batch => {
                index.add(place, &effect, reader.offset());
                continue;
            }
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
    // An empty member's first segments were begun before it had a cluster.
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
    /// Of all entries, from those behind the older of two snapshots on.
    outline: Outline,
    /// The newest of them: all that are not known to be committed, and of the others up to `cache_bytes`.
    entries: VecDeque<Entry>,
    bytes: u64,
    cache_bytes: u64,
    /// Index of the entry that says that the cluster has formed, if it is in what was read.
    formed: Option<u64>,
    /// Entries that only a later version knows, if they are looked for, which has to decode every one: a start comes to
    /// them by itself.
    later: Option<LaterEntries>,
}

impl Log {
    fn new(first_index: u64, cache_bytes: u64) -> Log {
        let last = first_index.saturating_sub(1);
        Log {
            state: State {
                last,
                ..State::default()
            },
            // What is before the first segment nobody asks for, but a snapshot that stands there: see `judge`.
            outline: Outline::new(last, 0),
            entries: VecDeque::new(),
            bytes: 0,
            cache_bytes,
            formed: None,
            later: None,
        }
    }

    fn apply(&mut self, record: Record, effect: &mut Effect) -> Result<(), String> {
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
                effect.entry(index);
                self.truncate(index)?;
                self.formed.take_if(|formed| *formed >= index);
                if says_formed(&entry) {
                    self.formed = Some(index);
                }
                if let Some(later) = &mut self.later {
                    later.note(&entry);
                }
                self.bytes += entry_bytes(&entry);
                self.outline.push(&entry);
                self.entries.push_back(entry);
                self.state.last = index;
            }
            Record::HardState(hard_state) => self.state.hard_state = hard_state,
            Record::Mark(mark) => {
                let index = mark.index;
                if mark.installed {
                    effect.clear();
                    self.clear(index, mark.term);
                } else if index > self.state.last {
                    let last = self.state.last;
                    return Err(format!("snapshot {index} is newer than entry {last}"));
                }
                self.state.apply_mark(&mark);
                if self.state.marks.len() == limits::SNAPSHOTS_KEPT {
                    let oldest = &self.state.marks[0];
                    let (index, term) = (oldest.index, oldest.term);
                    self.drop_to(index, term);
                }
            }
        }
        while self.bytes > self.cache_bytes
            && let Some(entry) = self
                .entries
                .pop_front_if(|entry| entry.index <= self.state.hard_state.commit)
        {
            self.bytes -= entry_bytes(&entry);
        }
        Ok(())
    }

    /// What was read from `index` on was never committed, and another leader replaced it.
    fn truncate(&mut self, index: u64) -> Result<(), String> {
        if index <= self.outline.start().0 {
            // All of it, and the end of what stood in a segment that is deleted.
            self.clear(index - 1, 0);
        }
        while self.outline.last() >= index {
            let Some(entry) = self.entries.pop_back() else {
                return Err(format!(
                    "entry {index} takes the place of one that was committed"
                ));
            };
            self.bytes -= entry_bytes(&entry);
            self.outline.pop(&entry);
        }
        Ok(())
    }

    fn clear(&mut self, index: u64, term: u64) {
        self.entries.clear();
        self.bytes = 0;
        self.outline = Outline::new(index, term);
        self.formed = None;
        if let Some(later) = &mut self.later {
            later.clear();
        }
    }

    fn drop_to(&mut self, index: u64, term: u64) {
        if (self.outline.start().0..=self.outline.last()).contains(&index) {
            self.outline.drop_to(index, term);
            self.forget_to(index);
        }
    }

    /// Leaves the entries up to this index to the disk.
    fn forget_to(&mut self, index: u64) {
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.index <= index) {
            self.bytes -= entry_bytes(&entry);
        }
    }
}

/// The change of members that the entry carries.
pub(super) fn change_of_members(entry: &Entry) -> Option<Command> {
    if entry.entry_type != EntryType::EntryConfChange {
        return None;
    }
    let mut batch = command::decode(&entry.context).ok()?;
    batch.commands.pop().filter(|c| members::is_change(c.kind))
}

/// The entry says that the cluster has formed.
fn says_formed(entry: &Entry) -> bool {
    change_of_members(entry).is_some_and(|command| command.kind == Kind::Formed)
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
    if log.outline.start().0 > index {
        // Behind a damaged snapshot that replaced the log, the older one is of no use.
        return Err(match &chosen.error {
            Some(StorageError::Corrupt { path, offset, why }) => {
                StorageError::corrupt(path, *offset, why)
            }
            _ => corrupt(format!(
                "the log begins at entry {}, the snapshot ends at {index}: entries are missing",
                log.outline.start().0 + 1
            )),
        });
    }
    // Nobody is sent what is before the older snapshot: the segments that hold it may go at any time.
    let marks = log.state.marks.iter().map(|mark| (mark.index, mark.term));
    let oldest = marks
        .filter(|(index, _)| *index >= log.outline.start().0)
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
        outline: Some(std::mem::take(&mut log.outline)),
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
