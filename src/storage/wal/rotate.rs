//! Keeps a segment aside, and continues the log in it when the current segment is full.

use super::lack::{Lack, SpareNews, Step};
use super::room::{LogRoom, NextSegment, reserve};
use super::segment::{FIRST_BYTES_MAX, Header, Name, Naming, Spare};
use super::{Wal, encode_state};
use crate::storage::disk::{Disk, DiskError};
use crate::storage::state::Save;
use crate::storage::wal::record::Batch;
use std::path::PathBuf;
use std::sync::Arc;

/// The work of making a spare segment. It takes time, and the log can be written meanwhile.
pub struct SpareWork {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// A spare that is too short.
    short: Option<Spare>,
    len: u64,
}

/// The result of a [`SpareWork`].
pub struct SpareDone {
    spare: Option<Spare>,
    error: Option<DiskError>,
}

impl SpareWork {
    /// Reserves the blocks. A failure changes nothing.
    pub fn carry_out(self) -> SpareDone {
        let made = match self.short {
            None => Spare::make(&*self.disk, &self.dir, self.len).map_err(|error| (None, error)),
            Some(mut spare) => match spare.grow(self.len) {
                Ok(()) => Ok(spare),
                Err(error) => Err((Some(spare), error)),
            },
        };
        match made {
            Ok(spare) => SpareDone {
                spare: Some(spare),
                error: None,
            },
            Err((spare, error)) => SpareDone {
                spare,
                error: Some(error),
            },
        }
    }
}

impl Wal {
    /// How much the log can store.
    pub fn room(&self) -> LogRoom {
        let spare = self.spare.as_ref().map_or(0, Spare::bytes);
        // What is left of the current segment may be lost to a batch that does not fit.
        let most = spare
            .saturating_sub(FIRST_BYTES_MAX)
            .max(self.segment.rest());
        let reserve = reserve(self.options.segment_bytes);
        LogRoom {
            end: self.spent + most.saturating_sub(reserve),
            next: match (self.attempts.lack(), self.lacks_spare()) {
                (Lack::Denied, _) => NextSegment::Denied,
                (Lack::Delayed, _) | (Lack::Nothing, true) => NextSegment::Awaited,
                (Lack::Nothing, false) => NextSegment::Kept,
            },
            margin: reserve,
        }
    }

    /// Whether the save fits into the current segment.
    pub fn fits(&self, save: &Save) -> bool {
        save.log_bytes() <= self.segment.rest()
    }

    /// Saves of more [`Save::log_bytes`] than this should not be written together: they would need a longer segment.
    pub fn together_max(&self) -> u64 {
        let segment = self.options.segment_bytes.saturating_sub(FIRST_BYTES_MAX);
        segment.max(self.segment.rest())
    }

    /// Makes room for saves of this many [`Save::log_bytes`]: if the current segment has no room for them, the log
    /// continues in the spare segment. Returns false if there is no spare, or if the spare is too short. Then nothing
    /// has changed.
    pub fn make_room(&mut self, bytes: u64) -> Result<bool, DiskError> {
        self.check()?;
        if bytes <= self.segment.rest() {
            self.spare_bytes = self.options.segment_bytes;
            return Ok(true);
        }
        let len = self.options.segment_bytes.max(bytes + FIRST_BYTES_MAX);
        self.spare_bytes = len;
        // If an attempt has just failed, `keep_spare` tries again, at intervals.
        if !self.is_short()
            && let Some(work) = self.wants_spare()
        {
            self.took_spare(work.carry_out());
        }
        let long_enough = |spare: &mut Spare| spare.bytes() >= len;
        let Some(spare) = self.spare.take_if(long_enough) else {
            return Ok(false);
        };
        let rotated = self.rotate(spare);
        self.failed = rotated.is_err();
        if rotated? {
            self.spare_bytes = self.options.segment_bytes;
            return Ok(true);
        }
        Ok(false)
    }

    /// Whether the last attempt to get the next segment has failed. The next attempt needs a pause.
    pub fn is_short(&self) -> bool {
        self.attempts.lack() != Lack::Nothing
    }

    /// Whether no segment is kept aside, or the segment is too short.
    pub fn lacks_spare(&self) -> bool {
        let len = self.spare_bytes;
        self.spare.as_ref().is_none_or(|spare| spare.bytes() < len)
    }

    /// The work that has to be done to keep a segment aside. Afterwards [`Wal::took_spare`] has to be called.
    pub fn wants_spare(&mut self) -> Option<SpareWork> {
        if !self.lacks_spare() {
            // There may be room now for the name of the spare, or no save waits any more for a longer spare.
            self.note(Step::Reserve, None);
        }
        (self.lacks_spare() && !self.failed).then(|| SpareWork {
            disk: self.disk.clone(),
            dir: self.dir.clone(),
            short: self.spare.take(),
            len: self.spare_bytes,
        })
    }

    /// Takes the result of the work.
    pub fn took_spare(&mut self, done: SpareDone) {
        self.spare = done.spare;
        self.note(Step::Reserve, done.error);
    }

    /// What has to be logged about the next segment. To be called after [`Wal::make_room`], [`Wal::wants_spare`] and
    /// [`Wal::took_spare`].
    pub fn take_news(&mut self) -> Option<SpareNews> {
        self.attempts.take_news()
    }

    fn note(&mut self, step: Step, error: Option<DiskError>) {
        self.attempts.note(step, error, &self.metrics.spares_failed);
    }

    /// Continues the log in the spare, which starts with the durable state. Returns false, with the log as before, in
    /// two cases: the disk has no room for the name, or the disk is full although the blocks were reserved. The latter
    /// can happen on a file system that copies on write. A shortage of memory has the same result.
    fn rotate(&mut self, spare: Spare) -> Result<bool, DiskError> {
        let before = self.segment.name();
        let header = Header {
            name: Name {
                sequence: before.sequence + 1,
                first_index: self.durable.last + 1,
            },
            previous: self.segment.crc(),
            cluster: self.meta.cluster(),
            member: self.meta.member(),
            salt: self.disk.random()?,
            len: spare.bytes(),
        };
        let mut first = Batch::default();
        encode_state(&mut first, &self.durable);
        let begun = match spare.begin(header, &mut first) {
            Ok(begun) => begun,
            Err(error) if error.is_shortage() => {
                self.note(Step::Continue, Some(error));
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        self.segment = match begun.name(&*self.disk, &*self.directory, &self.dir)? {
            Naming::Named(segment) => segment,
            Naming::NoRoom(spare, error) => {
                self.spare = Some(spare);
                self.note(Step::Continue, Some(error));
                return Ok(false);
            }
        };
        self.index.lock().begin(header.name, self.segment.end());
        self.older.push_back(before);
        self.note(Step::Continue, None);
        Ok(true)
    }
}
