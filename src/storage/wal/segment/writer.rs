//! Writes a segment.

use super::{Header, Name};
use crate::limits;
use crate::mutants::{Mutant, is_planted};
use crate::storage::disk::{DiskError, DiskFile};
use crate::storage::wal::record::Batch;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The segment that is written to.
pub struct SegmentWriter {
    pub(super) file: Box<dyn DiskFile>,
    pub(super) path: PathBuf,
    pub(super) header: Header,
    /// Offset of the next batch.
    pub(super) end: u64,
    /// Body CRC of the last batch.
    pub(super) crc: u32,
    /// Offset up to which the file's blocks have been written. Later blocks are only reserved: the fdatasync of the
    /// first write to a reserved block also has to change metadata.
    pub(super) zeroed: u64,
    /// The file's length.
    pub(super) len: u64,
}

impl SegmentWriter {
    /// Appends a batch with one write and one fdatasync. Durable on return. Returns how long the fdatasync took.
    pub fn append(&mut self, batch: &mut Batch) -> Result<Duration, DiskError> {
        let crc = batch.finish(self.header.salt, self.end, self.crc);
        let bytes = batch.bytes_mut();
        let end = self.end + bytes.len() as u64;
        if end > self.zeroed {
            let ahead = match bytes.len() {
                // For a large batch, writing every byte twice would cost more than the metadata of its few syncs.
                len if len > limits::ZEROED_FOR_BATCH_BYTES_MAX => end,
                _ => (end + 1).next_multiple_of(limits::ZEROED_AHEAD_BYTES),
            };
            self.len = self.len.max(end);
            self.zeroed = ahead.min(self.len);
            bytes.resize((self.zeroed - self.end) as usize, 0);
        }
        self.file.write_at(bytes, self.end)?;
        let begun = Instant::now();
        if !is_planted(Mutant::SkippedFsync) {
            self.file.sync()?;
        }
        let took = begun.elapsed();
        self.end = end;
        self.crc = crc;
        Ok(took)
    }

    /// Bytes behind the last batch whose blocks are reserved.
    pub fn rest(&self) -> u64 {
        self.len.saturating_sub(self.end)
    }

    /// Sequence and first index.
    pub fn name(&self) -> Name {
        self.header.name
    }

    /// Body CRC of the last batch.
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// Offset of the next batch.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
