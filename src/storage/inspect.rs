//! Reads and checks the files of a data directory without changing them.
//!
//! Another process may be using and changing the directory. A complete file never changes, except that it may be
//! deleted. Only the last segment of the WAL changes. A batch at its end that fails its check may be in the middle of a
//! write. Such a batch is read again for [`limits::EXAMINE_RETRY_TIME`] before it is reported as damaged.

use super::data_dir::DataDir;
use super::disk::{Disk, DiskError};
use super::error::StorageError;
use super::meta::Meta;
use super::recovery;
use super::snapshot::Snapshots;
use super::wal::record::Record;
use super::wal::segment;
use super::wal::segment::{BatchStep, Name, SegmentReader};
use crate::command::SnapshotHeader;
use crate::limits;
use crate::numbers::{Index, Term};
use raft::eraftpb::HardState;
use slog::{Logger, o};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

pub use super::later_entries::LaterEntries;
pub use super::recovery::StartVerdict;
pub use super::snapshot::SnapshotContents;

/// The kind of a file, according to its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// The `meta` file.
    Meta,
    /// A segment of the WAL.
    Segment,
    /// A snapshot.
    Snapshot,
}

/// The contents of a WAL segment.
#[derive(Debug, Clone, Default)]
pub struct SegmentContents {
    /// The segment's header, if it is valid.
    pub header: Option<segment::Header>,
    /// Offset of the end of the last valid batch, in bytes.
    pub end: u64,
    /// Number of valid batches.
    pub batches: u64,
    /// Number of entries in the valid batches.
    pub entries: u64,
    /// The lowest and the highest index of these entries.
    pub indexes: Option<(Index, Index)>,
    /// The newest hard state.
    pub hard_state: HardState,
    /// Index and term of each snapshot that the segment marks.
    pub marks: Vec<(Index, Term)>,
    /// Entries that only a later version can decode.
    pub later: LaterEntries,
    /// The last valid batch is followed by a batch that a crash may have torn during its write. No acknowledgement
    /// relied on that batch.
    pub torn: bool,
}

/// The kind of a file. `None` if raftkvd did not write the file, or if its first bytes are damaged.
pub fn kind(disk: &dyn Disk, path: &Path) -> Result<Option<FileKind>, StorageError> {
    let mut magic = [0; 8];
    if let Some(file) = disk.open(path)? {
        file.read_at(&mut magic, 0)?;
    }
    Ok(match &magic {
        b"rkvdmeta" => Some(FileKind::Meta),
        b"rkvdwal\0" => Some(FileKind::Segment),
        b"rkvdsnap" => Some(FileKind::Snapshot),
        _ => None,
    })
}

/// Reads the `meta` of a data directory. `None` if the directory holds neither a `meta` nor any data. Data without a
/// `meta` is an error.
pub fn meta(dir: &DataDir) -> Result<Option<Meta>, StorageError> {
    let meta = Meta::load(dir)?;
    if meta.is_none() {
        dir.check_empty()?;
    }
    Ok(meta)
}

/// Whether another process holds the lock of the data directory at this moment.
pub fn is_in_use(dir: &DataDir) -> Result<bool, DiskError> {
    Ok(dir.disk().lock(&dir.lock_path())?.is_none())
}

/// Reads a segment to its end. Fills in `contents` up to the first error. `live`: a process may be writing the segment.
pub fn segment(
    disk: &dyn Disk,
    path: &Path,
    live: bool,
    contents: &mut SegmentContents,
) -> Result<(), StorageError> {
    let name = path.file_name().and_then(|name| name.to_str());
    let Some(name) = name.and_then(Name::parse) else {
        let why =
            "it is not named like a WAL segment, and the name holds the segment's place in the log";
        return Err(StorageError::corrupt(path, 0, why));
    };
    let dir = path.parent().unwrap_or(Path::new(""));
    let mut reader = SegmentReader::open(disk, dir, name)?;
    contents.header = Some(*reader.header());
    let mut damaged_since = None;
    loop {
        contents.end = reader.offset();
        let corrupt = |offset, why: &str| Err(StorageError::corrupt(path, offset, why));
        let step = reader.next(&mut |record| {
            contents.add(record);
            Ok(())
        })?;
        match step {
            BatchStep::Batch => {
                contents.batches += 1;
                damaged_since = None;
            }
            BatchStep::End if contents.batches == 0 => {
                return corrupt(contents.end, "the first batch is missing");
            }
            BatchStep::End => return Ok(()),
            BatchStep::Damaged { hole } => {
                let since = damaged_since.get_or_insert_with(Instant::now);
                if live && since.elapsed() < limits::EXAMINE_RETRY_TIME {
                    thread::sleep(limits::EXAMINE_RETRY_INTERVAL);
                    let place = (reader.offset(), reader.crc());
                    // A new reader, since the old one caches what it has read.
                    reader = SegmentReader::open(disk, dir, name)?;
                    reader.seek(place.0, place.1);
                    continue;
                }
                if !hole {
                    let why = "a batch is damaged, although it was written completely";
                    return corrupt(contents.end, why);
                }
                if let Some(later) = reader.later_batch()? {
                    let why =
                        format!("a batch is damaged, and a later batch follows at byte {later}");
                    return corrupt(contents.end, &why);
                }
                if contents.batches == 0 {
                    return corrupt(contents.end, "the first batch is missing");
                }
                contents.torn = true;
                return Ok(());
            }
        }
    }
}

impl SegmentContents {
    fn add(&mut self, record: Record) {
        match record {
            Record::Entry(entry) => {
                self.entries += 1;
                let (low, high) = self.indexes.unwrap_or((entry.index, entry.index));
                self.indexes = Some((low.min(entry.index), high.max(entry.index)));
                self.later.note(&entry);
            }
            Record::HardState(hard_state) => self.hard_state = hard_state,
            Record::Mark(mark) => {
                if mark.installed {
                    self.later.clear();
                }
                self.marks.push((mark.index, mark.term));
                self.hard_state = mark.hard_state;
            }
        }
    }
}

/// Reads a snapshot file to its end; the file may have any path. Fills in `contents`, and passes each entry to `visit`
/// as (key, index, value), up to the first error. Reports the bytes done and the total bytes to `progress`.
pub fn snapshot(
    disk: &dyn Disk,
    path: &Path,
    contents: &mut SnapshotContents,
    mut visit: impl FnMut(&[u8], u64, &[u8]),
    progress: impl FnMut(u64, u64),
) -> Result<(), StorageError> {
    let visit = |key: &[u8], index, value: &[u8]| {
        visit(key, index, value);
        Ok(())
    };
    super::snapshot::read_file(disk, path, contents, visit, progress)
}

/// A number of keys as text.
pub fn keys(count: u64) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} key{plural}")
}

/// The file name of a snapshot within a data directory.
pub fn snapshot_name(header: &SnapshotHeader) -> String {
    super::snapshot::file_name(header.index, header.term)
}

/// Whether a name has the form of a snapshot's file name.
pub fn is_snapshot_name(name: &str) -> bool {
    super::snapshot::parse_file_name(name).is_some()
}

/// Judges a data directory as a start does, without repairing it. `sound` has the headers and file sizes of the valid
/// snapshots. `unsound` has the paths of the other snapshots, with the reasons.
pub fn verdict(
    dir: &DataDir,
    meta: Meta,
    sound: &[(SnapshotHeader, u64)],
    mut unsound: Vec<(PathBuf, StorageError)>,
) -> Result<StartVerdict, StorageError> {
    let logger = Logger::root(slog::Discard, o!());
    let snapshots = Snapshots::new(dir);
    let load = &mut |snapshots: &Snapshots, index, term| {
        let found = sound
            .iter()
            .find(|(header, _)| (header.index, header.term) == (index, term));
        found.cloned().ok_or_else(|| {
            let path = snapshots.path(index, term);
            match unsound.iter().position(|(other, _)| *other == path) {
                Some(at) => unsound.swap_remove(at).1,
                None => StorageError::corrupt(&path, 0, "it is missing"),
            }
        })
    };
    recovery::examine(dir, &meta, &snapshots, load, &logger)
}
