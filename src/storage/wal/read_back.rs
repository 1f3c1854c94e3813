//! Reads entries back from the WAL that are no longer in memory, for lagging followers and for a restart.
//!
//! The `BatchIndex` holds the places of some batches in the segments, each with an index that the batch contains. The
//! writer of the WAL and recovery add places. [`ReadBack`] reads the segments at the same time, on its own thread. A
//! reader trusts nothing: it checks every CRC from its place on, and takes only entries with the term that the log
//! index has for them. An entry that another leader replaced has another term, and index and term together identify an
//! entry.
//!
//! Invariants:
//! - Places ascend, both in the WAL and in their indexes.
//! - A place is removed when an entry at or before its index is written again. So the search for an entry starts at the
//!   last place whose index is not higher than that of the entry. The newest entry with the requested index is there or
//!   later in the WAL.
//! - Nothing is read from where a write may be under way.
//! - A segment leaves the index before its file is deleted. A missing file of a segment that has left the index was
//!   therefore deleted as intended. Any other missing file is damage.

use super::record::Record;
use super::segment::{self, BatchStep, Name};
use crate::limits;
use crate::mutants::{Mutant, is_planted};
use crate::numbers::{Index, Term};
use crate::storage::disk::Disk;
use crate::storage::error::StorageError;
use crate::storage::log_index::{LogIndex, entry_bytes};
use parking_lot::{Mutex, MutexGuard};
use raft::eraftpb::Entry;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

/// A range of entries to read.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Index of the first entry.
    pub first: u64,
    /// Index after the last entry.
    end: u64,
    /// Stop after an entry when the entries so far have this weight.
    bytes: u64,
    /// First index and term of each run of entries with the same term.
    rows: Vec<(Index, Term)>,
}

impl Request {
    /// Requests the entries from `first` to before `end`, until they weigh `bytes`, and at least one entry. All of them
    /// have to be durable and in the log index.
    pub fn new(log_index: &LogIndex, first: u64, end: u64, bytes: u64) -> Request {
        assert!(
            log_index.start().0 < first && first < end && end <= log_index.last() + 1,
            "entries from {first} to before {end} of a log behind {} up to {}",
            log_index.start().0,
            log_index.last()
        );
        Request {
            first,
            end,
            bytes,
            rows: log_index.rows(first, end),
        }
    }

    /// The result of this request on a WAL with these entries.
    #[cfg(test)]
    pub fn read_from(&self, log: &std::collections::BTreeMap<u64, Entry>) -> Option<Vec<Entry>> {
        let mut found = FoundEntries {
            request: self,
            entries: Vec::new(),
            bytes: 0,
        };
        for (_, entry) in log.range(self.first..) {
            found.visit(Record::Entry(entry.clone()));
        }
        found.is_complete().then_some(found.entries)
    }

    fn term(&self, index: u64) -> u64 {
        let row = self.rows.partition_point(|(first, _)| *first <= index);
        self.rows[row - 1].1
    }
}

/// Reads entries from the segments. Clones share the batch index.
#[derive(Clone)]
pub struct ReadBack {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    index: SharedBatchIndex,
}

impl ReadBack {
    pub(in crate::storage) fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        index: SharedBatchIndex,
    ) -> ReadBack {
        ReadBack { disk, dir, index }
    }

    /// Reads the requested entries. `None` if the first of them is deleted, since a newer snapshot covers it. An error
    /// means that the disk has failed or is damaged.
    pub fn read(&self, request: &Request) -> Result<Option<Vec<Entry>>, StorageError> {
        let Some((place, segments)) = self.index.lock().way(request.first) else {
            return Ok(None);
        };
        let mut found = FoundEntries {
            request,
            entries: Vec::new(),
            bytes: 0,
        };
        let mut previous = None;
        for segment in &segments {
            let opened = segment::SegmentReader::open(&*self.disk, &self.dir, segment.name);
            let mut reader = match opened {
                Err(_) if !self.index.lock().has(segment.name) => return Ok(None),
                opened => opened?,
            };
            match previous {
                None => reader.seek(place.offset, place.previous),
                Some(crc) if crc != reader.header().previous => {
                    let why = "it does not continue the segment before it";
                    return Err(StorageError::corrupt(reader.path(), 0, why));
                }
                Some(_) => {}
            }
            while reader.offset() < segment.end {
                let step = reader.next(&mut |record| {
                    found.visit(record);
                    Ok(())
                })?;
                if step != BatchStep::Batch {
                    let why = "a synced batch is damaged";
                    return Err(StorageError::corrupt(reader.path(), reader.offset(), why));
                }
                if found.is_complete() {
                    return Ok(Some(found.entries));
                }
            }
            previous = Some(reader.crc());
        }
        let segment = segments.last().expect("the way has a segment");
        let path = self.dir.join(segment.name.file_name());
        let (index, term) = (found.next(), request.term(found.next()));
        let why = format!("entry {index} of term {term} is missing before this place");
        Err(StorageError::corrupt(&path, segment.end, &why))
    }
}

impl std::fmt::Debug for ReadBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReadBack({})", self.dir.display())
    }
}

/// The entries found so far.
struct FoundEntries<'a> {
    request: &'a Request,
    entries: Vec<Entry>,
    bytes: u64,
}

impl FoundEntries<'_> {
    fn next(&self) -> u64 {
        self.request.first + self.entries.len() as u64
    }

    fn is_complete(&self) -> bool {
        let enough = self.bytes >= self.request.bytes && !self.entries.is_empty();
        enough || self.next() == self.request.end
    }

    /// The valid copy of an entry comes after the valid copy of its predecessor, so one pass finds all of them.
    fn visit(&mut self, record: Record) {
        if let Record::Entry(entry) = record
            && entry.index == self.next()
            && !self.is_complete()
            && (entry.term == self.request.term(entry.index)
                || is_planted(Mutant::ReplacedEntryReadBack))
        {
            self.bytes += entry_bytes(&entry);
            self.entries.push(entry);
        }
    }
}

/// The place of a batch in the WAL.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::storage) struct BatchPlace {
    /// Sequence of the segment.
    pub sequence: u64,
    /// Offset in the segment.
    pub offset: u64,
    /// Body CRC of the batch before, or the CRC of the segment's header.
    pub previous: u32,
}

/// What a batch changes in the log, as far as the batch index needs it.
#[derive(Debug, Default)]
pub(in crate::storage) struct Effect {
    /// The batch clears the whole log, because of a snapshot from the leader.
    clears: bool,
    /// The lowest index of the batch's entries, counted after it has cleared the log.
    first: Option<u64>,
}

impl Effect {
    /// Records that the batch contains an entry.
    pub fn entry(&mut self, index: u64) {
        self.first = Some(self.first.map_or(index, |first| first.min(index)));
    }

    /// Records that the batch contains the mark of a snapshot that replaces the log.
    pub fn clear(&mut self) {
        self.clears = true;
        self.first = None;
    }
}

#[derive(Debug, Clone)]
struct Segment {
    name: Name,
    /// Offset after the last synced batch.
    end: u64,
}

/// The places of entries in the WAL. See the module's documentation.
#[derive(Debug, Default)]
pub(in crate::storage) struct BatchIndex {
    /// All segments, oldest first. The last one is written to.
    segments: VecDeque<Segment>,
    /// Places of batches, each with the lowest index of the batch's entries.
    places: VecDeque<(u64, BatchPlace)>,
}

impl BatchIndex {
    /// Adds a new segment, which ends at `end` so far.
    pub fn begin(&mut self, name: Name, end: u64) {
        self.segments.push_back(Segment { name, end });
    }

    /// Adds a batch of the newest segment, which now ends at `end`.
    pub fn add(&mut self, place: BatchPlace, effect: &Effect, end: u64) {
        let segment = self.segments.back_mut().expect("there is a segment");
        assert_eq!(
            segment.name.sequence, place.sequence,
            "a batch in another segment"
        );
        segment.end = end;
        if effect.clears {
            self.places.clear();
        }
        let Some(first) = effect.first else {
            return;
        };
        while self
            .places
            .pop_back_if(|(index, _)| *index >= first)
            .is_some()
        {}
        let near = |last: &BatchPlace| {
            last.sequence == place.sequence
                && place.offset - last.offset < limits::READ_BACK_PLACE_BYTES
        };
        if !self.places.back().is_some_and(|(_, last)| near(last)) {
            self.places.push_back((first, place));
        }
    }

    /// Removes the oldest segment, before its file is deleted.
    pub fn forget_oldest(&mut self, name: Name) {
        let oldest = self.segments.pop_front();
        let oldest = oldest.map(|segment| segment.name);
        assert_eq!(oldest, Some(name), "not the oldest segment");
        while self
            .places
            .pop_front_if(|(_, place)| place.sequence <= name.sequence)
            .is_some()
        {}
    }

    /// The place to start reading in order to find this entry, and the segments from there on.
    fn way(&self, index: u64) -> Option<(BatchPlace, Vec<Segment>)> {
        let behind = self.places.partition_point(|(first, _)| *first <= index);
        let (_, place) = *self.places.get(behind.checked_sub(1)?)?;
        let segments = self.segments.iter();
        let segments = segments.skip_while(|segment| segment.name.sequence < place.sequence);
        Some((place, segments.cloned().collect()))
    }

    fn has(&self, name: Name) -> bool {
        self.segments.iter().any(|segment| segment.name == name)
    }

    #[cfg(test)]
    pub fn places(&self) -> usize {
        self.places.len()
    }
}

/// The batch index, shared by the writer and the readers of the WAL. Locked only briefly, never during input or output.
#[derive(Debug, Clone, Default)]
pub(in crate::storage) struct SharedBatchIndex(Arc<Mutex<BatchIndex>>);

impl SharedBatchIndex {
    pub fn new(index: BatchIndex) -> SharedBatchIndex {
        SharedBatchIndex(Arc::new(Mutex::new(index)))
    }

    pub fn lock(&self) -> MutexGuard<'_, BatchIndex> {
        self.0.lock()
    }
}
