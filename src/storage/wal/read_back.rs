//! Reading entries back from the WAL that are not in memory any more, for followers that are behind and for a restart.
//!
//! The `BatchIndex` knows where in the segments to begin: the places of some batches, each with an index that the batch
//! holds. Whoever writes the WAL adds to it, so does recovery, and [`ReadBack`] reads beside them, on a thread of its
//! own. It takes nothing on trust: it checks every CRC from its place on, and of the entries that it meets it takes those
//! that bear the term which the log says they have. An entry that another leader replaced has another term, and by
//! index and term an entry is known.
//!
//! Invariants: places ascend in the WAL and in their indexes. A place goes when an entry at or before its index is
//! written again: so the newest entry of an index stands at or behind the last place that is not above it, and in a
//! segment that has such a place. Nothing is read from where a write may be under way. A segment leaves the index before
//! its file goes: a file that is missing and not in the index was deleted by right, any other is damage.

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

/// What to read.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Index of the first entry.
    pub first: u64,
    /// Index behind the last.
    end: u64,
    /// No further entry when those before it weigh this much.
    bytes: u64,
    /// Index and term at which each row of entries of one term begins.
    rows: Vec<(Index, Term)>,
}

impl Request {
    /// Asks for the entries from `first` to before `end`, as many as weigh `bytes` and at least one. All of them are
    /// durable, and are in the log index.
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

    /// What a WAL with these entries gives.
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

/// Reads entries from the segments. Clones share the index.
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

    /// Reads what is asked for. `None`: the first of it is deleted, for a newer snapshot stands. An error means that the
    /// disk fails or is damaged.
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
                    let why = "it does not go on from the segment before";
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
                    let why = "a batch is damaged that was synced";
                    return Err(StorageError::corrupt(reader.path(), reader.offset(), why));
                }
                if found.is_complete() {
                    return Ok(Some(found.entries));
                }
            }
            previous = Some(reader.crc());
        }
        let segment = segments.last().expect("the way begins in one");
        let path = self.dir.join(segment.name.file_name());
        let (index, term) = (found.next(), request.term(found.next()));
        let why = format!("entry {index} of term {term} is missing before here");
        Err(StorageError::corrupt(&path, segment.end, &why))
    }
}

impl std::fmt::Debug for ReadBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReadBack({})", self.dir.display())
    }
}

/// What was read so far.
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

    /// An entry stands in the WAL behind the newest one before it, so one pass finds them all.
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

/// A batch in the WAL.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::storage) struct BatchPlace {
    /// Of its segment.
    pub sequence: u64,
    /// In its segment.
    pub offset: u64,
    /// Body CRC of the batch before, or the CRC of the segment's header.
    pub previous: u32,
}

/// What a batch does to the log, as far as the index has to know.
#[derive(Debug, Default)]
pub(in crate::storage) struct Effect {
    /// It clears the whole log, for a snapshot from the leader.
    clears: bool,
    /// The least index of its entries, behind the clearing.
    first: Option<u64>,
}

impl Effect {
    /// The batch holds an entry.
    pub fn entry(&mut self, index: u64) {
        self.first = Some(self.first.map_or(index, |first| first.min(index)));
    }

    /// The batch holds the mark of a snapshot that replaces the log.
    pub fn clear(&mut self) {
        self.clears = true;
        self.first = None;
    }
}

#[derive(Debug, Clone)]
struct Segment {
    name: Name,
    /// Behind its last synced batch.
    end: u64,
}

/// Where entries stand in the WAL. See the module's documentation.
#[derive(Debug, Default)]
pub(in crate::storage) struct BatchIndex {
    /// All there are, oldest first; the last is written to.
    segments: VecDeque<Segment>,
    /// Places of batches, each with the least index of its entries.
    places: VecDeque<(u64, BatchPlace)>,
}

impl BatchIndex {
    /// A segment was begun, and ends here so far.
    pub fn begin(&mut self, name: Name, end: u64) {
        self.segments.push_back(Segment { name, end });
    }

    /// A batch stands at this place of the newest segment, which now ends behind it.
    pub fn add(&mut self, place: BatchPlace, effect: &Effect, end: u64) {
        let segment = self.segments.back_mut().expect("a segment was begun");
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

    /// The oldest segment is about to be deleted.
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

    /// The place from which to read on to come by this entry, and the segments from there on.
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

/// The index, shared by who writes the WAL and who reads it. Held for a few steps, never during input or output.
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
