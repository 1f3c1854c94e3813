//! Reading a snapshot file: to load it, to check it, to send it.

use super::{
    BLOCK_BYTES_LIMIT, BLOCK_HEAD_BYTES, END_MAGIC, ENTRY_HEAD_BYTES, FOOTER_BYTES, MAGIC,
    Snapshots, block_crc,
};
use crate::command::SnapshotHeader;
use crate::config;
use crate::storage::disk::{DiskError, DiskFile};
use crate::storage::record::{u32_at, u64_at};
use crate::storage::{SnapshotMeta, StorageError, check_version};
use crc32c::{crc32c, crc32c_append};
use protobuf::Message as _;
use std::fmt;
use std::io;
use std::path::Path;

/// Takes the entries of a map: key, index, value.
type Visit<'a> = dyn FnMut(&[u8], u64, &[u8]) + 'a;
/// An open snapshot file, for sending. It can be read to its end even when the snapshot is deleted meanwhile.
pub struct SnapshotSource {
    file: Box<dyn DiskFile>,
    offset: u64,
    /// Size of the file.
    pub bytes: u64,
}

impl Snapshots {
    /// Streams the entries of a snapshot's map to `visit`: key, index, value. Every CRC is checked; what was visited
    /// before an error is not to be used.
    pub fn load(
        &self,
        index: u64,
        term: u64,
        mut visit: impl FnMut(&[u8], u64, &[u8]),
    ) -> Result<SnapshotMeta, StorageError> {
        let path = self.path(index, term);
        let file = self.open_file(&path)?;
        // An open file can be read when it is deleted. Older ones will never be loaded after this one.
        self.unloaded.lock().retain(|(other, _)| *other > index);
        let mut reader = Reader::new(&*file, &path)?;
        let header = reader.header()?;
        if (header.index, header.term) != (index, term) {
            return Err(reader.corrupt("its header does not fit its name"));
        }
        reader.blocks(&mut visit)?;
        Ok(SnapshotMeta::from_header(&header))
    }

    /// Checks a whole file, for a restart. Gives its header and size.
    pub(in crate::storage) fn verify(
        &self,
        index: u64,
        term: u64,
    ) -> Result<(SnapshotHeader, u64), StorageError> {
        let path = self.path(index, term);
        let file = self.open_file(&path)?;
        let mut reader = Reader::new(&*file, &path)?;
        let header = reader.header()?;
        if (header.index, header.term) != (index, term) {
            return Err(reader.corrupt("its header does not fit its name"));
        }
        reader.blocks(&mut |_, _, _| {})?;
        Ok((header, reader.len))
    }

    /// Opens a snapshot for sending.
    pub fn open(&self, index: u64, term: u64) -> Result<SnapshotSource, StorageError> {
        let file = self.open_file(&self.path(index, term))?;
        Ok(SnapshotSource {
            bytes: file.len()?,
            file,
            offset: 0,
        })
    }
}

impl SnapshotSource {
    /// Reads on; 0 at the end.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self
            .file
            .read_at(buffer, self.offset)
            .map_err(io::Error::other)?;
        self.offset += read as u64;
        Ok(read)
    }
}

impl fmt::Debug for SnapshotSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotSource({} of {} bytes)", self.offset, self.bytes)
    }
}

/// Reads a file from its start to its end. Nothing is allocated that is longer than what is left of the file.
pub(super) struct Reader<'a> {
    file: &'a dyn DiskFile,
    path: &'a Path,
    len: u64,
    offset: u64,
    crc: u32,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a dyn DiskFile, path: &'a Path) -> Result<Reader<'a>, DiskError> {
        Ok(Reader {
            file,
            path,
            len: file.len()?,
            offset: 0,
            crc: 0,
        })
    }

    pub(super) fn header(&mut self) -> Result<SnapshotHeader, StorageError> {
        let mut bytes = Vec::new();
        self.read(&mut bytes, 16)?;
        if &bytes[..8] != MAGIC {
            return Err(self.corrupt_at(0, "it does not begin with its magic number"));
        }
        let version = u32_at(&bytes, 8);
        let len = u32_at(&bytes, 12) as usize;
        if len > config::SNAPSHOT_HEADER_BYTES_MAX {
            return Err(self.corrupt_at(12, "its header claims to be longer than it may be"));
        }
        self.read(&mut bytes, len + 4)?;
        self.crc = crc32c(&bytes[..16 + len]);
        if self.crc != u32_at(&bytes, 16 + len) {
            return Err(self.corrupt_at(0, "the CRC of its header does not match"));
        }
        check_version(self.path, version)?;
        SnapshotHeader::parse_from_bytes(&bytes[16..16 + len])
            .map_err(|_| self.corrupt_at(16, "its header does not decode"))
    }

    pub(super) fn blocks(&mut self, visit: &mut Visit<'_>) -> Result<(), StorageError> {
        let mut block = Vec::new();
        let (mut entries, mut blocks) = (0u64, 0u64);
        loop {
            let start = self.offset;
            block.clear();
            self.read(&mut block, BLOCK_HEAD_BYTES)?;
            let payload = u32_at(&block, 0) as usize;
            if payload == 0 {
                self.read(&mut block, FOOTER_BYTES - BLOCK_HEAD_BYTES)?;
                let crc = crc32c_append(self.crc, &block[..FOOTER_BYTES - 4]);
                if crc != u32_at(&block, FOOTER_BYTES - 4) || &block[4..12] != END_MAGIC {
                    return Err(self.corrupt_at(start, "the CRC of its footer does not match"));
                }
                if (u64_at(&block, 12), u64_at(&block, 20)) != (entries, blocks) {
                    return Err(self.corrupt_at(start, "its footer counts other entries"));
                }
                if self.offset != self.len {
                    return Err(self.corrupt("something follows its footer"));
                }
                return Ok(());
            }
            if payload > BLOCK_BYTES_LIMIT {
                return Err(self.corrupt_at(start, "a block claims to be longer than it may be"));
            }
            self.read(&mut block, payload)?;
            self.crc = block_crc(self.crc, &block);
            if self.crc != u32_at(&block, 8) {
                return Err(self.corrupt_at(start, "the CRC of a block does not match"));
            }
            let count = visit_entries(&block[BLOCK_HEAD_BYTES..], visit)
                .filter(|count| *count == u32_at(&block, 4))
                .ok_or_else(|| self.corrupt_at(start, "the entries of a block do not decode"))?;
            entries += u64::from(count);
            blocks += 1;
        }
    }

    /// Appends the next `count` bytes of the file to `bytes`.
    fn read(&mut self, bytes: &mut Vec<u8>, count: usize) -> Result<(), StorageError> {
        if count as u64 > self.len - self.offset {
            return Err(self.corrupt_at(self.len, "it ends too early"));
        }
        let start = bytes.len();
        bytes.resize(start + count, 0);
        if self.file.read_at(&mut bytes[start..], self.offset)? != count {
            return Err(self.corrupt("it ends too early"));
        }
        self.offset += count as u64;
        Ok(())
    }

    fn corrupt(&self, why: &str) -> StorageError {
        self.corrupt_at(self.offset, why)
    }

    fn corrupt_at(&self, offset: u64, why: &str) -> StorageError {
        StorageError::corrupt(self.path, offset, why)
    }
}

/// Gives the number of entries; `None` when the lengths do not add up.
fn visit_entries(mut bytes: &[u8], visit: &mut Visit<'_>) -> Option<u32> {
    let mut count = 0;
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_at_checked(ENTRY_HEAD_BYTES)?;
        let (key, rest) = rest.split_at_checked(u32_at(head, 0) as usize)?;
        let (value, rest) = rest.split_at_checked(u32_at(head, 4) as usize)?;
        visit(key, u64_at(head, 8), value);
        bytes = rest;
        count += 1;
    }
    Some(count)
}
