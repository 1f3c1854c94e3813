//! Writes a segment.

use super::{HEADER_BYTES, Header, Name, TEMPORARY};
use crate::limits;
use crate::mutants::{Mutant, is_planted};
use crate::storage::disk::{Disk, DiskError, DiskFile};
use crate::storage::wal::record::{self, Batch};
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
    /// Offset after the first batch. Everything before it only repeats the state.
    pub(super) used_from: u64,
    /// Offset up to which the file's blocks have been written. Later blocks are only reserved: the fdatasync of the
    /// first write to a reserved block also has to change metadata.
    pub(super) zeroed: u64,
    /// The file's length.
    pub(super) len: u64,
}

impl SegmentWriter {
    /// Creates a segment that starts with the batch `first`. The segment, its name and that batch are durable on
    /// return.
    ///
    /// The order is: write, sync the file, rename it, sync the directory. Only then may the caller write its first
    /// batch. If a batch were written to a file whose name is not durable, a crash could remove the whole file although
    /// the batch was synced.
    pub fn create(
        disk: &dyn Disk,
        dir: &Path,
        header: Header,
        first: &mut Batch,
    ) -> Result<SegmentWriter, DiskError> {
        let len = header.len;
        let path = dir.join(header.name.file_name());
        let temporary = dir.join(header.name.file_name() + TEMPORARY);
        let mut file = disk.create(&temporary)?;
        file.allocate(len)?;
        let mut bytes = header.encode().to_vec();
        let crc = first.finish(header.salt, HEADER_BYTES as u64, header.crc());
        bytes.extend_from_slice(first.bytes_mut());
        file.write_at(&bytes, 0)?;
        file.sync()?;
        disk.rename(&temporary, &path)?;
        disk.sync_dir(dir)?;
        // Open the file again, so that errors show its final name.
        let file = disk.open(&path)?.ok_or_else(|| {
            let vanished = std::io::Error::from(std::io::ErrorKind::NotFound);
            DiskError::new("open", &path, vanished)
        })?;
        let end = bytes.len() as u64;
        Ok(SegmentWriter {
            file,
            path,
            header,
            end,
            crc,
            used_from: end,
            zeroed: end,
            len: len.max(end),
        })
    }

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

    /// Whether this batch, not completed yet, would make the segment longer than intended. A segment that only repeats
    /// the state takes a batch of any size.
    pub fn is_full_for(&self, batch: &Batch) -> bool {
        let most = batch.len() as u64 + 2 * record::ALIGNMENT;
        self.end > self.used_from && self.end + most > self.len
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
