//! Segments: the files of the WAL, `wal/%016x-%016x.wal` (sequence, first index).
//!
//! A segment is created at its full size, filled with zeros, and written from front to back, batch by batch
//! (`record.rs`). It is never reused, and nothing behind its last batch is ever anything but zero, a torn batch after
//! a crash excepted. Its header, all numbers little-endian:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | `rkvdwal` and a zero |
//! | 8 | 4 | format version, 2 |
//! | 12 | 4 | body CRC of the last batch of the segment before; 0 in the first one |
//! | 16 | 8 | cluster id; 0 in a segment that an empty member began |
//! | 24 | 8 | member id |
//! | 32 | 8 | sequence, from 0, without gaps |
//! | 40 | 8 | first index: one behind the end of the log when the segment was begun |
//! | 48 | 8 | salt, random |
//! | 56 | 8 | length that the file was made with; it never gets shorter |
//! | 64 | 4 | CRC32C of bytes 0..64; the seed of the first batch |
//! | 68 | 4 | `rkvS` |
//! | 72 | | batches; the first one repeats the marks that are in force and the hard state |
//! | | | zeros |
//!
//! A segment is made under another name, `*.wal.tmp`, with its header and first batch, and is synced and renamed before
//! any other batch is written. So the segments before can be deleted as soon as their entries are not needed, and a
//! crash leaves a segment whole or none: one without its first batch, or shorter than it was made, was damaged. What
//! a cut took from the end of a file could otherwise pass for a torn tail.

use super::record::{self, Batch, HEAD_BYTES, Head, Record, is_zero, u32_at, u64_at};
use crate::limits;
use crate::mutants::{Mutant, is_planted};
use crate::storage::disk::{Disk, DiskError, DiskFile};
use crate::storage::error::check_version;
use crate::storage::{FORMAT_VERSION, StorageError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of a segment's header.
pub const HEADER_BYTES: usize = 72;

const MAGIC: &[u8; 8] = b"rkvdwal\0";
const END_MARKER: &[u8; 4] = b"rkvS";
const CRC_AT: usize = 64;
const MARKER_AT: usize = 68;
/// What a segment's name ends with while it is made.
pub const TEMPORARY: &str = ".tmp";
/// Files are read in pieces of this size.
const WINDOW_BYTES: usize = 1 << 20;

/// What stands in a segment's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Its place among the segments, from 0.
    pub sequence: u64,
    /// One behind the end of the log when it was begun.
    pub first_index: u64,
}

impl Name {
    /// The name of the file.
    pub fn file_name(&self) -> String {
        format!("{:016x}-{:016x}.wal", self.sequence, self.first_index)
    }

    /// Reads a file's name; `None` when it is no segment's.
    pub fn parse(name: &str) -> Option<Name> {
        let (sequence, first_index) = crate::storage::parse_numbers(name.strip_suffix(".wal")?)?;
        Some(Name {
            sequence,
            first_index,
        })
    }
}

/// The header of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Sequence and first index.
    pub name: Name,
    /// Body CRC of the last batch of the segment before.
    pub previous: u32,
    /// Cluster id, or 0.
    pub cluster: u64,
    /// Member id.
    pub member: u64,
    /// Random, so that bytes of another file never pass for a batch of this one.
    pub salt: u64,
    /// Length that the file was made with.
    pub len: u64,
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.previous.to_le_bytes());
        let fields = [
            self.cluster,
            self.member,
            self.name.sequence,
            self.name.first_index,
            self.salt,
            self.len,
        ];
        for (place, field) in bytes[16..CRC_AT].chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..MARKER_AT].copy_from_slice(&crc.to_le_bytes());
        bytes[MARKER_AT..].copy_from_slice(END_MARKER);
        bytes
    }

    fn crc(&self) -> u32 {
        u32_at(&self.encode(), CRC_AT)
    }
}

/// The segment that is written to.
pub struct Writer {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    header: Header,
    /// Where the next batch goes.
    end: u64,
    /// Body CRC of the last batch.
    crc: u32,
    /// Where the first batch ended: up to here nothing but repetitions is in it.
    used_from: u64,
    /// Up to here the file's blocks were written. Behind it they are only reserved: an fdatasync of the first write to
    /// a reserved block has to change metadata.
    zeroed: u64,
    /// The file's length.
    len: u64,
}

impl Writer {
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
    ) -> Result<Writer, DiskError> {
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
        Ok(Writer {
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

/// Reads a segment from its start.
pub struct Reader {
    window: Window,
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
pub enum Step {
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

impl Reader {
    /// Opens a segment and reads its header.
    pub fn open(disk: &dyn Disk, dir: &Path, name: Name) -> Result<Reader, StorageError> {
        let path = dir.join(name.file_name());
        let corrupt = |offset, why: &str| StorageError::corrupt(&path, offset, why);
        let file = disk
            .open(&path)?
            .ok_or_else(|| corrupt(0, "the segment vanished"))?;
        let window = Window::new(file)?;
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
        Ok(Reader {
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
    ) -> Result<Step, StorageError> {
        let salt = self.header.salt;
        let bytes = self.window.get(self.offset, HEAD_BYTES)?;
        if is_zero(bytes) {
            return Ok(if self.nonzero_end()? == self.offset {
                Step::End
            } else {
                Step::Damaged { hole: true }
            });
        }
        let Some(head) = Head::decode(bytes, salt, self.offset) else {
            return Ok(Step::Damaged {
                hole: record::head_has_hole(bytes, self.offset),
            });
        };
        if head.previous != self.crc {
            return Ok(Step::Damaged { hole: false });
        }
        if head.batch_bytes() as u64 > self.window.len - self.offset {
            // Its end is not there, so it was torn; and no memory is reserved for what is not there.
            return Ok(Step::Damaged { hole: true });
        }
        let batch = self.window.get(self.offset, head.batch_bytes())?;
        let body = &batch[HEAD_BYTES..HEAD_BYTES + head.body];
        let kept =
            is_planted(Mutant::TornTailKept) && record::decode_body(body, |_| Ok(())).is_ok();
        if !head.verify(batch) && !kept {
            return Ok(Step::Damaged {
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
        Ok(Step::Batch)
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
    pub fn into_writer(mut self) -> Result<Writer, StorageError> {
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
        Ok(Writer {
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

/// A piece of a file. Behind its end, the file reads as zeros without end.
struct Window {
    file: Box<dyn DiskFile>,
    len: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    fn new(file: Box<dyn DiskFile>) -> Result<Window, DiskError> {
        Ok(Window {
            len: file.len()?,
            file,
            start: 0,
            bytes: Vec::new(),
        })
    }

    fn get(&mut self, offset: u64, count: usize) -> Result<&[u8], DiskError> {
        let held = self.start..self.start + self.bytes.len() as u64;
        if offset < held.start || offset + count as u64 > held.end {
            let left = self.len.saturating_sub(offset);
            let ahead = left.min(WINDOW_BYTES as u64) as usize;
            self.bytes.clear();
            self.bytes.resize(count.max(ahead), 0);
            let left = left.min(self.bytes.len() as u64);
            self.file
                .read_at(&mut self.bytes[..left as usize], offset)?;
            self.start = offset;
        }
        let at = (offset - self.start) as usize;
        Ok(&self.bytes[at..at + count])
    }

    /// One behind the last byte from `from` on that is not zero; `from` when there is none.
    fn nonzero_end(&mut self, from: u64) -> Result<u64, DiskError> {
        let mut end = from;
        let mut offset = from;
        while offset < self.len {
            let count = WINDOW_BYTES.min((self.len - offset) as usize);
            let bytes = self.get(offset, count)?;
            if !is_zero(bytes)
                && let Some(last) = bytes.iter().rposition(|byte| *byte != 0)
            {
                end = offset + last as u64 + 1;
            }
            offset += count as u64;
        }
        Ok(end)
    }
}
