//! Reads a segment, and repairs the end of the last one.

use super::window::{SegmentWindow, WINDOW_BYTES};
use super::{CRC_AT, END_MARKER, HEADER_BYTES, Header, MAGIC, MARKER_AT, Name, SegmentWriter};
use crate::mutants::{Mutant, is_planted};
use crate::storage::disk::Disk;
use crate::storage::error::{StorageError, check_version};
use crate::storage::format::{u32_at, u64_at};
use crate::storage::wal::record::{self, HEAD_BYTES, Head, Record, is_zero};
use std::path::{Path, PathBuf};

/// Reads a segment from its start.
pub struct SegmentReader {
    window: SegmentWindow,
    path: PathBuf,
    header: Header,
    /// Where the next batch should be.
    offset: u64,
    /// Where the last write began that gave what was read: that of the last batch, or of the header with the first.
    last_write: u64,
    crc: u32,
    used_from: u64,
}

/// What stands at a reader's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchStep {
    /// A valid batch; its records were visited.
    Batch,
    /// No batch, only zeros.
    End,
    /// A damaged batch. `hole`: it may have been torn by a crash when it was written, so nobody relied on it. Without
    /// one it was written as a whole.
    Damaged {
        /// See above.
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
        // Not by the window, which would read a whole piece ahead: the reader may be about to go elsewhere.
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
            return Err(corrupt(32, "the segment's header does not fit its name"));
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

    /// Goes to a batch, which stands behind one with the body CRC `previous`. Such a reader can't become a writer.
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
            // Its end is not there, so it was torn; and no memory is reserved for what is not there.
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

    /// Looks behind a damaged batch for a valid head. There is one only if the damaged batch was synced.
    pub fn later_batch(&mut self) -> Result<Option<u64>, StorageError> {
        let end = self.nonzero_end()?;
        let mut offset = self.offset + record::ALIGNMENT;
        while offset < end {
            // A piece at a time, each with the head that begins on its last place.
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

    /// Where the bytes behind the reader's place begin to be all zero.
    pub fn nonzero_end(&mut self) -> Result<u64, StorageError> {
        Ok(self.window.nonzero_end(self.offset)?)
    }

    /// Whether not even the batch was valid that was written with the header.
    pub fn is_unused(&self) -> bool {
        self.used_from == 0
    }

    /// Copies what is behind the last valid batch to `<segment>.<offset>.broken` (hexadecimal) and overwrites it with
    /// zeros. Durable on return.
    ///
    /// In this order: the copy, with its name, becomes durable before the original is touched, or a crash could lose
    /// both. And the zeros are durable before the next batch is written: a rest of the torn batch behind it would
    /// look like a damaged batch at the next start. The file is not made shorter: see the length in its header.
    pub fn cut_tail(&mut self, disk: &dyn Disk, dir: &Path) -> Result<(), StorageError> {
        let count = (self.nonzero_end()? - self.offset) as usize;
        let segment = self.header.name.file_name();
        let name = format!("{segment}.{:016x}.broken", self.offset);
        let mut copy = disk.create(&dir.join(name))?;
        copy.write_at(self.window.get(self.offset, count)?, 0)?;
        copy.sync()?;
        disk.sync_dir(dir)?;
        // A batch without the end of its head is a torn one. So this goes first: if the process ends amidst, what is left
        // is still recognised.
        let first = count.min(HEAD_BYTES - 1);
        let behind = self.offset + first as u64;
        self.window.file.write_at(&vec![0; count - first], behind)?;
        self.window.file.write_at(&vec![0; first], self.offset)?;
        self.window.file.sync()?;
        self.window.bytes.clear();
        Ok(())
    }

    /// Goes on to write behind the last valid batch. What was read is durable on return: after a mere end of the
    /// process the last batch may still be in the kernel's memory only.
    ///
    /// To sync it is not enough. If it was a failed sync that ended the process, the kernel calls the bytes clean
    /// though they never reached the disk, and the next sync does nothing. So the last batch is written again; those
    /// before it were synced with success, or it would not be there.
    pub fn into_writer(mut self) -> Result<SegmentWriter, StorageError> {
        assert!(
            !self.is_unused(),
            "{} holds no valid batch to go on from",
            self.path.display()
        );
        let (begin, end) = (self.last_write, self.offset);
        let bytes = self.window.get(begin, (end - begin) as usize)?.to_vec();
        if !is_planted(Mutant::RecoveryNotSynced) {
            self.window.file.write_at(&bytes, begin)?;
            self.window.file.sync()?;
        }
        Ok(SegmentWriter {
            len: self.window.len,
            file: self.window.file,
            path: self.path,
            header: self.header,
            end: self.offset,
            crc: self.crc,
            used_from: self.used_from,
            zeroed: self.offset,
        })
    }

    /// Its header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the next batch should be.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Body CRC of the last valid batch.
    pub fn crc(&self) -> u32 {
        self.crc
    }
}
