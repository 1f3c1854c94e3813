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
    /// Where the next batch goes.
    pub(super) end: u64,
    /// Body CRC of the last batch.
    pub(super) crc: u32,
    /// Where the first batch ended: up to here nothing but repetitions is in it.
    pub(super) used_from: u64,
    /// Up to here the file's blocks were written. Behind it they are only reserved: an fdatasync of the first write to
    /// a reserved block has to change metadata.
    pub(super) zeroed: u64,
    /// The file's length.
    pub(super) len: u64,
}

impl SegmentWriter {
    /// Creates a segment that begins with the batch `first`. The segment, its name and that batch are
    /// durable on return.
    ///
    /// In this order: write, sync the file, rename, sync the directory, and only then the caller writes its first own
    /// batch. Were a batch written to a file whose name is not durable, a crash could take all of it away though the
    /// batch was synced.
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
        // Opened anew, so that errors tell its name.
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

    /// Appends a batch, by one write and one fdatasync. Durable on return; gives how long the fdatasync took.
    pub fn append(&mut self, batch: &mut Batch) -> Result<Duration, DiskError> {
        let crc = batch.finish(self.header.salt, self.end, self.crc);
        let bytes = batch.bytes_mut();
        let end = self.end + bytes.len() as u64;
        if end > self.zeroed {
            let ahead = match bytes.len() {
                // Writing every byte twice would cost more than the metadata of so few syncs.
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

    /// Whether a batch of this size, unfinished, would make the segment longer than it was meant to be. One that holds
    /// nothing of its own yet takes a batch of any size.
    pub fn is_full_for(&self, batch: &Batch) -> bool {
        let most = batch.len() as u64 + 2 * record::ALIGNMENT;
        self.end > self.used_from && self.end + most > self.len
    }

    /// What stands in its name.
    pub fn name(&self) -> Name {
        self.header.name
    }

    /// Body CRC of its last batch.
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// Where the next batch goes.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
