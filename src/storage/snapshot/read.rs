//! Reading a snapshot file: to load it, to check it, to send it.

use super::twice::{Keys, Suspects};
use super::{
    BLOCK_BYTES_LIMIT, BLOCK_HEAD_BYTES, END_MAGIC, ENTRY_HEAD_BYTES, FLAGS_OFFSET, FOOTER_BYTES,
    MAGIC, Snapshots, block_crc,
};
use crate::command::SnapshotHeader;
use crate::command::version;
use crate::command::version::{Later, VERSION};
use crate::limits;
use crate::storage::disk::{Disk, DiskError, DiskFile};
use crate::storage::error::{StorageError, check_version};
use crate::storage::format::{u32_at, u64_at};
use crc32c::{crc32c, crc32c_append};
use parking_lot::Mutex;
use protobuf::Message as _;
use std::fmt;
use std::io;
use std::path::Path;
use std::thread;

/// An open snapshot file, for sending. It can be read to its end even when the snapshot is deleted meanwhile.
pub struct SnapshotSource {
    file: Box<dyn DiskFile>,
    offset: u64,
    /// Size of the file.
    pub bytes: u64,
}

impl Snapshots {
    /// Passes the entries of a snapshot's map to `visit`, in no order, from several threads if the file is large: key,
    /// index, value. `progress` is told now and then how many bytes of the file are done, and of how many. Gives the
    /// header, and the size of the file. Every CRC is checked; what was visited before an error is not to be used.
    ///
    /// The CRCs are chained, so one thread after the other reads and checks the next block, which is quick. What takes
    /// time is to visit its entries, and that the threads do side by side.
    pub fn load(
        &self,
        index: u64,
        term: u64,
        visit: impl Fn(&[u8], u64, &[u8]) + Sync,
        progress: impl FnMut(u64, u64) + Send,
    ) -> Result<(SnapshotHeader, u64), StorageError> {
        let visit = |key: &[u8], index, value: &[u8]| {
            visit(key, index, value);
            true
        };
        self.load_with(limits::load_threads(), index, term, visit, progress)
    }

    /// The same with at most so many threads. `visit` gives false if it has met the key before, and then the file is not
    /// valid.
    pub fn load_with(
        &self,
        threads_max: usize,
        index: u64,
        term: u64,
        visit: impl Fn(&[u8], u64, &[u8]) -> bool + Sync,
        progress: impl FnMut(u64, u64) + Send,
    ) -> Result<(SnapshotHeader, u64), StorageError> {
        let path = self.path(index, term);
        let file = self.open_file(&path)?;
        // An open file can be read when it is deleted. Older ones will never be loaded after this one.
        self.unloaded.lock().retain(|(other, _)| *other > index);
        let mut reader = SnapshotReader::new(&*file, &path)?;
        let header = reader.header()?;
        if (header.index, header.term) != (index, term) {
            return Err(reader.corrupt("its header does not fit its name"));
        }
        let bytes = reader.len;
        let threads = threads_max.min((bytes / limits::LOAD_BYTES_PER_THREAD) as usize);
        let source = Mutex::new((reader, progress));
        let work = || -> Result<(), StorageError> {
            let mut block = Vec::new();
            loop {
                let start = {
                    let mut source = source.lock();
                    let (reader, progress) = &mut *source;
                    let Some(start) = reader.block(&mut block)? else {
                        return Ok(());
                    };
                    progress(reader.offset, reader.len);
                    start
                };
                let visited = entries(&block, index).try_for_each(|entry| {
                    let (key, index, value) = entry?;
                    visit(key, index, value).then_some(()).ok_or(TWICE)
                });
                if let Err(why) = visited {
                    let (reader, _) = &mut *source.lock();
                    return Err(reader.unusable(start, why));
                }
            }
        };
        thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let own = work();
            let others = others.into_iter();
            others.fold(own, |result, other| {
                result.and(
                    other
                        .join()
                        .expect("a thread that loads a snapshot does not panic"),
                )
            })
        })?;
        Ok((header, bytes))
    }

    /// The number of entries that a snapshot's footer claims, which nobody has checked: it is no more than the file has
    /// room for, and 0 if there is no such file.
    pub fn claimed_entries(&self, index: u64, term: u64) -> Result<u64, DiskError> {
        let Some(file) = self.disk.open(&self.path(index, term))? else {
            return Ok(0);
        };
        let len = file.len()?;
        let mut footer = [0; FOOTER_BYTES];
        file.read_at(&mut footer, len.saturating_sub(FOOTER_BYTES as u64))?;
        // The end of a file that was cut off is anything, and would reserve memory for as many.
        if footer[..4] != [0; 4] || footer[4..12] != *END_MAGIC {
            return Ok(0);
        }
        Ok(u64_at(&footer, 12).min(len / ENTRY_HEAD_BYTES as u64))
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

/// What a snapshot file holds.
#[derive(Debug, Clone, Default)]
pub struct SnapshotContents {
    /// Its header.
    pub header: SnapshotHeader,
    /// Bytes of the file that are read and right.
    pub bytes: u64,
    /// Entries of the map.
    pub entries: u64,
    /// Bytes of their keys and values.
    pub entry_bytes: u64,
    /// Blocks.
    pub blocks: u64,
    /// CRC of the last block, or of the header: it depends on all that the file holds.
    pub crc: u32,
}

/// Reads a snapshot file that may come from anywhere, one block at a time: every CRC is checked, and every entry.
/// `contents` is filled in as far as the file is good; what was visited before an error is not to be used. `progress` is
/// told how many bytes of the file are done, and of how many.
pub(in crate::storage) fn read_file(
    disk: &dyn Disk,
    path: &Path,
    contents: &mut SnapshotContents,
    mut visit: impl FnMut(&[u8], u64, &[u8]) -> Result<(), DiskError>,
    mut progress: impl FnMut(u64, u64),
) -> Result<(), StorageError> {
    let file = disk
        .open(path)?
        .ok_or_else(|| StorageError::corrupt(path, 0, "the file is missing"))?;
    let mut reader = SnapshotReader::new(&*file, path)?;
    contents.header = reader.header()?;
    let mut keys = Keys::default();
    let mut block = Vec::new();
    loop {
        contents.bytes = reader.offset;
        contents.entries = reader.entries;
        contents.blocks = reader.blocks;
        contents.crc = reader.crc;
        let Some(start) = reader.block(&mut block)? else {
            reader.check_keys(keys)?;
            contents.bytes = reader.offset;
            return Ok(());
        };
        let mut entry_bytes = 0;
        for entry in entries(&block, contents.header.index) {
            let (key, index, value) = entry.map_err(|why| reader.unusable(start, why))?;
            keys.note(key);
            visit(key, index, value)?;
            entry_bytes += (key.len() + value.len()) as u64;
        }
        contents.entry_bytes += entry_bytes;
        progress(reader.offset, reader.len);
    }
}

/// Reads the header of a snapshot file, and checks it.
pub(in crate::storage) fn read_header(
    disk: &dyn Disk,
    path: &Path,
) -> Result<SnapshotHeader, StorageError> {
    let file = disk
        .open(path)?
        .ok_or_else(|| StorageError::corrupt(path, 0, "the file is missing"))?;
    SnapshotReader::new(&*file, path)?.header()
}

/// Reads a file from its start to its end. Nothing is allocated that is longer than what is left of the file.
pub(super) struct SnapshotReader<'a> {
    file: &'a dyn DiskFile,
    path: &'a Path,
    len: u64,
    offset: u64,
    crc: u32,
    entries: u64,
    blocks: u64,
    /// There is no more to read: the footer was, or something was wrong.
    ended: bool,
}

impl<'a> SnapshotReader<'a> {
    pub(super) fn new(
        file: &'a dyn DiskFile,
        path: &'a Path,
    ) -> Result<SnapshotReader<'a>, DiskError> {
        Ok(SnapshotReader {
            file,
            path,
            len: file.len()?,
            offset: 0,
            crc: 0,
            entries: 0,
            blocks: 0,
            ended: false,
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
        if len > limits::SNAPSHOT_HEADER_BYTES_MAX {
            return Err(self.corrupt_at(12, "its header claims to be longer than it may be"));
        }
        self.read(&mut bytes, len + 4)?;
        self.crc = crc32c(&bytes[..16 + len]);
        if self.crc != u32_at(&bytes, 16 + len) {
            return Err(self.corrupt_at(0, "the CRC of its header does not match"));
        }
        check_version(self.path, version)?;
        let header = SnapshotHeader::parse_from_bytes(&bytes[16..16 + len])
            .map_err(|_| self.corrupt_at(16, "its header does not decode"))?;
        version::check_header(&header).map_err(|later| self.later(later))?;
        match (1..limits::INDEX_MAX).contains(&header.index) {
            true => Ok(header),
            false => Err(self.corrupt_at(16, "its index is none that a log reaches")),
        }
    }

    /// Reads the rest of the file, behind this header, and checks it.
    pub(super) fn check(&mut self, header: &SnapshotHeader) -> Result<(), StorageError> {
        let mut keys = Keys::default();
        let mut block = Vec::new();
        while let Some(start) = self.block(&mut block)? {
            for entry in entries(&block, header.index) {
                let (key, ..) = entry.map_err(|why| self.unusable(start, why))?;
                keys.note(key);
            }
        }
        self.check_keys(keys)
    }

    /// The file was read to its end, and these are its keys: none of them may stand twice.
    fn check_keys(&self, keys: Keys) -> Result<(), StorageError> {
        match keys.suspects() {
            None => Ok(()),
            Some(suspects) => SnapshotReader::new(self.file, self.path)?.look_for(suspects),
        }
    }

    /// Reads the file again for keys that may stand twice.
    fn look_for(&mut self, mut suspects: Suspects) -> Result<(), StorageError> {
        let header = self.header()?;
        let mut block = Vec::new();
        while let Some(start) = self.block(&mut block)? {
            for entry in entries(&block, header.index) {
                let (key, ..) = entry.map_err(|why| self.unusable(start, why))?;
                if suspects.was_met(key) {
                    return Err(self.unusable(start, TWICE));
                }
            }
        }
        Ok(())
    }

    /// Reads the next block, head and payload, and checks its CRC. Gives where it begins; `None` behind the footer, or
    /// after an error.
    fn block(&mut self, block: &mut Vec<u8>) -> Result<Option<u64>, StorageError> {
        if self.ended {
            return Ok(None);
        }
        // Unless all goes well.
        self.ended = true;
        let start = self.offset;
        block.clear();
        self.read(block, BLOCK_HEAD_BYTES)?;
        let payload = u32_at(block, 0) as usize;
        if payload == 0 {
            self.read(block, FOOTER_BYTES - BLOCK_HEAD_BYTES)?;
            let crc = crc32c_append(self.crc, &block[..FOOTER_BYTES - 4]);
            if crc != u32_at(block, FOOTER_BYTES - 4) || &block[4..12] != END_MAGIC {
                return Err(self.corrupt_at(start, "the CRC of its footer does not match"));
            }
            if (u64_at(block, 12), u64_at(block, 20)) != (self.entries, self.blocks) {
                return Err(self.corrupt_at(start, "its footer counts other entries"));
            }
            if self.offset != self.len {
                return Err(self.corrupt("something follows its footer"));
            }
            return Ok(None);
        }
        if payload > BLOCK_BYTES_LIMIT {
            return Err(self.corrupt_at(start, "a block claims to be longer than it may be"));
        }
        self.read(block, payload)?;
        self.crc = block_crc(self.crc, block);
        if self.crc != u32_at(block, 8) {
            return Err(self.corrupt_at(start, "the CRC of a block does not match"));
        }
        self.entries += u64::from(u32_at(block, 4));
        self.blocks += 1;
        self.ended = false;
        Ok(Some(start))
    }

    /// The CRC of a block is right, and what is in it is not. Nobody reads on.
    fn unusable(&mut self, start: u64, why: Unusable) -> StorageError {
        self.ended = true;
        match why {
            Unusable::Wrong(why) => self.corrupt_at(start, why),
            Unusable::Later(later) => self.later(later),
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

    fn later(&self, later: Later) -> StorageError {
        StorageError::Later {
            path: self.path.to_owned(),
            later,
        }
    }

    fn corrupt(&self, why: &str) -> StorageError {
        self.corrupt_at(self.offset, why)
    }

    fn corrupt_at(&self, offset: u64, why: &str) -> StorageError {
        StorageError::corrupt(self.path, offset, why)
    }
}

/// Why an entry can't be used.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unusable {
    Wrong(&'static str),
    Later(Later),
}

const UNDECODABLE: Unusable = Unusable::Wrong("the entries of a block do not decode");
const TWICE: Unusable = Unusable::Wrong("a block holds a key that stands in the file already");
/// Its flags say that there is more of it. The state in the header should have said so before.
const UNKNOWN: Unusable = Unusable::Later(Later {
    needed: VERSION + 1,
});

/// The entries of a block of a snapshot of this index, as (key, index, value), or why one is not valid; behind that comes
/// nothing that could be used.
fn entries(
    block: &[u8],
    index_max: u64,
) -> impl Iterator<Item = Result<(&[u8], u64, &[u8]), Unusable>> {
    let (head, mut rest) = block.split_at(BLOCK_HEAD_BYTES);
    let mut missing = u32_at(head, 4);
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return (std::mem::take(&mut missing) > 0).then_some(Err(UNDECODABLE));
        }
        let known = rest.get(FLAGS_OFFSET).is_none_or(|flags| *flags == 0);
        let next = match known {
            true => entry(rest).filter(|_| missing > 0).ok_or(UNDECODABLE),
            false => Err(UNKNOWN),
        };
        rest = next.map_or(&[], |(.., behind)| behind);
        missing = missing.saturating_sub(1);
        Some(next.and_then(|(key, index, value, _)| {
            check_entry(key, index, value, index_max).map_err(Unusable::Wrong)?;
            Ok((key, index, value))
        }))
    })
}

/// Whether a member may take the entry: it could not write what exceeds the limits into a snapshot of its own.
fn check_entry(key: &[u8], index: u64, value: &[u8], index_max: u64) -> Result<(), &'static str> {
    match () {
        () if key.is_empty() => Err("a block holds an entry without a key"),
        () if key.len() > limits::KEY_BYTES_LIMIT => Err("a block holds a key that is too long"),
        () if value.len() > limits::VALUE_BYTES_LIMIT => {
            Err("a block holds a value that is too long")
        }
        () if index == 0 || index > index_max => {
            Err("a block holds an entry of an index that is not in the snapshot")
        }
        () => Ok(()),
    }
}

/// The first entry, and what follows it.
#[expect(clippy::type_complexity)]
fn entry(bytes: &[u8]) -> Option<(&[u8], u64, &[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(ENTRY_HEAD_BYTES)?;
    // The flags are 0.
    let (key, rest) = rest.split_at_checked(u32_at(head, 0) as usize)?;
    let (value, rest) = rest.split_at_checked(u32_at(head, 4) as usize)?;
    Some((key, u64_at(head, 8), value, rest))
}
