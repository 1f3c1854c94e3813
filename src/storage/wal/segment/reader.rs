//! Reads a segment, and cuts off the torn end of the last segment.

use super::window::{SegmentWindow, WINDOW_BYTES};
use super::{CRC_AT, END_MARKER, HEADER_BYTES, Header, MAGIC, MARKER_AT, Name, SegmentWriter};
use crate::mutants::{Mutant, is_planted};
use crate::storage::disk::{Disk, DiskError};
use crate::storage::error::{StorageError, check_version};
use crate::storage::format::{u32_at, u64_at};
use crate::storage::wal::record::{self, HEAD_BYTES, Head, Record, is_zero};
use std::path::{Path, PathBuf};

/// Reads the batches of a segment in order.
pub struct SegmentReader {
    window: SegmentWindow,
    path: PathBuf,
    header: Header,
    /// Offset of the next batch.
    offset: u64,
    /// Offset of the last write: of the last batch, or of the header if the first batch is the last one.
    last_write: u64,
    crc: u32,
    used_from: u64,
}

/// What [`SegmentReader::next`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchStep {
    /// A valid batch, whose records were visited.
    Batch,
    /// No batch, only zeros up to the end.
    End,
    /// A damaged batch.
    Damaged {
        /// True if a crash may have torn the batch during its write, so that the batch was never acknowledged. False if
        /// the batch was written completely.
        hole: bool,
    },
}

impl SegmentReader {
    /// Opens a segment and reads its header.
    pub fn open(disk: &dyn Disk, dir: &Path, name: Name) -> Result<SegmentReader, StorageError> {
        let path = dir.join(name.file_name());
        let corrupt = |offset, why: &str| StorageError::corrupt(&path, offset, why);
        let file = disk
            .open(&path)?
            .ok_or_else(|| corrupt(0, "the segment vanished"))?;
        let window = SegmentWindow::new(file)?;
        let mut bytes = [0; HEADER_BYTES];
        // Read without the window, which would read a whole piece ahead: the caller may be about to seek.
        window.file.read_at(&mut bytes, 0)?;
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        if &bytes[..8] != MAGIC
            || &bytes[MARKER_AT..] != END_MARKER
            || u32_at(&bytes, CRC_AT) != crc
        {
            return Err(corrupt(0, "the segment's header is damaged"));
        }
        check_version(&path, u32_at(&bytes, 8))?;
        let header = Header {
            previous: u32_at(&bytes, 12),
            cluster: u64_at(&bytes, 16),
            member: u64_at(&bytes, 24),
            name: Name {
                sequence: u64_at(&bytes, 32),
                first_index: u64_at(&bytes, 40),
            },
            salt: u64_at(&bytes, 48),
            len: u64_at(&bytes, 56),
        };
        if header.name != name {
            return Err(corrupt(32, "the segment's header does not match its name"));
        }
        if window.len < header.len {
            return Err(corrupt(window.len, "the file ends here: it was cut"));
        }
        Ok(SegmentReader {
            window,
            path,
            header,
            offset: HEADER_BYTES as u64,
            last_write: 0,
            crc,
            used_from: 0,
        })
    }

    /// Moves to the batch at `offset`. The batch before it has the body CRC `previous`. The reader can't become a
    /// writer afterwards.
    pub(in crate::storage) fn seek(&mut self, offset: u64, previous: u32) {
        self.offset = offset;
        self.crc = previous;
    }

    /// Reads the next batch. An error of `visit` makes the batch corrupt.
    pub fn next(
        &mut self,
        visit: &mut dyn FnMut(Record) -> Result<(), String>,
    ) -> Result<BatchStep, StorageError> {
        let salt = self.header.salt;
        let bytes = self.window.get(self.offset, HEAD_BYTES)?;
        if is_zero(bytes) {
            return Ok(if self.nonzero_end()? == self.offset {
                BatchStep::End
            } else {
                BatchStep::Damaged { hole: true }
            });
        }
        let Some(head) = Head::decode(bytes, salt, self.offset) else {
            return Ok(BatchStep::Damaged {
                hole: record::head_has_hole(bytes, self.offset),
            });
        };
        if head.previous != self.crc {
            return Ok(BatchStep::Damaged { hole: false });
        }
        if head.batch_bytes() as u64 > self.window.len - self.offset {
            // The end of the batch is missing, so the batch is torn. Returning here avoids reserving memory for the
            // missing part.
            return Ok(BatchStep::Damaged { hole: true });
        }
        let batch = self.window.get(self.offset, head.batch_bytes())?;
        let body = &batch[HEAD_BYTES..HEAD_BYTES + head.body];
        let kept =
            is_planted(Mutant::TornTailKept) && record::decode_body(body, |_| Ok(())).is_ok();
        if !head.verify(batch) && !kept {
            return Ok(BatchStep::Damaged {
                hole: head.has_hole(batch, self.offset),
            });
        }
        record::decode_body(body, visit)
            .map_err(|why| StorageError::corrupt(&self.path, self.offset, &why))?;
        if self.used_from != 0 {
            self.last_write = self.offset;
        }
        self.offset += head.batch_bytes() as u64;
        self.crc = head.crc;
        if self.used_from == 0 {
            self.used_from = self.offset;
        }
        Ok(BatchStep::Batch)
    }

    /// Searches for a valid head after a damaged batch. There is such a head only if the damaged batch was synced.
    pub fn later_batch(&mut self) -> Result<Option<u64>, StorageError> {
        let end = self.nonzero_end()?;
        let mut offset = self.offset + record::ALIGNMENT;
        while offset < end {
            // Read one piece at a time, plus the bytes of a head that starts at the last place of the piece.
            let count = WINDOW_BYTES.min((end - offset) as usize);
            let bytes = self.window.get(offset, count + HEAD_BYTES)?;
            for at in (0..count).step_by(record::ALIGNMENT as usize) {
                let candidate = &bytes[at..at + HEAD_BYTES];
                if Head::decode(candidate, self.header.salt, offset + at as u64).is_some() {
                    return Ok(Some(offset + at as u64));
                }
            }
            offset += count.next_multiple_of(record::ALIGNMENT as usize) as u64;
        }
        Ok(None)
    }

    /// The offset from which all bytes are zero, searched from the reader's offset.
    pub fn nonzero_end(&mut self) -> Result<u64, StorageError> {
        Ok(self.window.nonzero_end(self.offset)?)
    }

    /// Whether the segment has no valid batch at all, not even the one that was written with the header.
    pub fn is_unused(&self) -> bool {
        self.used_from == 0
    }

    /// Copies everything after the last valid batch to `<segment>.<offset>.broken` (hexadecimal) and overwrites it with
    /// zeros. Durable on return. On a full disk there is no copy, and the result is the error of the copy: nothing
    /// relies on a torn batch.
    ///
    /// The copy and its name become durable before the original is changed. Otherwise a crash could lose both. The
    /// zeros become durable before the next batch is written. Otherwise a remainder of the torn batch after the new
    /// batch would look like a damaged batch at the next start. The file does not become shorter: see the length in its
    /// header.
    pub fn cut_tail(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
    ) -> Result<Option<DiskError>, StorageError> {
        let count = (self.nonzero_end()? - self.offset) as usize;
        let segment = self.header.name.file_name();
        let path = dir.join(format!("{segment}.{:016x}.broken", self.offset));
        let full = match self.copy_tail(disk, &path, count) {
            Ok(()) => None,
            Err(error) if error.is_full() => {
                // If this fails, an incomplete copy stays.
                let _ = disk.remove(&path);
                Some(error)
            }
            Err(error) => return Err(error.into()),
        };
        disk.sync_dir(dir)?;
        // Clear the end of the batch first, including the end of its head. If the process ends in between, the batch is
        // still recognised as torn, since the end of its head is missing.
        let first = count.min(HEAD_BYTES - 1);
        let behind = self.offset + first as u64;
        self.window.file.write_at(&vec![0; count - first], behind)?;
        self.window.file.write_at(&vec![0; first], self.offset)?;
        self.window.file.sync()?;
        self.window.bytes.clear();
        Ok(full)
    }

    fn copy_tail(&mut self, disk: &dyn Disk, path: &Path, count: usize) -> Result<(), DiskError> {
        let mut copy = disk.create(path)?;
        copy.write_at(self.window.get(self.offset, count)?, 0)?;
        copy.sync()
    }

    /// Makes a writer that appends after the last valid batch. Everything that was read is durable on return. If the
    /// previous process ended without a crash of the machine, the last batch may be only in the kernel's memory.
    ///
    /// A sync alone is not enough. If a failed sync ended the process, the kernel considers the bytes clean although
    /// they never reached the disk, and the next sync does nothing. The last batch is therefore written again. The
    /// batches before it were synced successfully: otherwise the last batch would not have been written.
    ///
    /// Programs that copy files may leave out zeros, so the blocks of the rest are reserved again. Without room for them
    /// the rest is not used: the log continues in the spare segment. A write into a hole would fail on a full disk, and
    /// end the process.
    pub fn into_writer(mut self) -> Result<SegmentWriter, StorageError> {
        assert!(
            !self.is_unused(),
            "{} has no valid batch to continue from",
            self.path.display()
        );
        let len = match self.window.file.allocate(self.window.len) {
            Ok(()) => self.window.len,
            Err(error) if error.is_full() => self.offset,
            Err(error) => return Err(error.into()),
        };
        let (begin, end) = (self.last_write, self.offset);
        let bytes = self.window.get(begin, (end - begin) as usize)?.to_vec();
        if !is_planted(Mutant::RecoveryNotSynced) {
            self.window.file.write_at(&bytes, begin)?;
            self.window.file.sync()?;
        }
        Ok(SegmentWriter {
            len,
            file: self.window.file,
            path: self.path,
            header: self.header,
            end: self.offset,
            crc: self.crc,
            zeroed: self.offset,
        })
    }

    /// The header of the segment.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Offset of the next batch.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Body CRC of the last valid batch.
    pub fn crc(&self) -> u32 {
        self.crc
    }
}
