//! Reads a snapshot file, to load, check or send it.

use super::twice::{Keys, Suspects};
use super::{
    BLOCK_BYTES_LIMIT, BLOCK_HEAD_BYTES, END_MAGIC, ENTRY_HEAD_BYTES, FLAGS_OFFSET, FOOTER_BYTES,
    HEADER_START_BYTES, MAGIC, Snapshots, block_crc,
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

/// An open snapshot file, for sending. It can be read to its end even if the snapshot is deleted in the meantime.
pub struct SnapshotSource {
    file: Box<dyn DiskFile>,
    offset: u64,
    /// Size of the file.
    pub bytes: u64,
}

impl Snapshots {
    /// Passes the entries of a snapshot's map to `visit` (key, index, value), in no particular order, and from several
    /// threads if the file is large. Reports the bytes done and the total bytes of the file to `progress`. Returns the
    /// header and the size of the file. Checks every CRC. After an error the caller has to discard what was visited.
    ///
    /// The CRCs are chained, so the threads take turns to read and check the next block, which is quick. Visiting the
    /// entries takes most of the time, and the threads do that in parallel.
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

    /// [`Snapshots::load`] with at most `threads_max` threads. `visit` returns false if it has visited the key before;
    /// the file is then corrupt.
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
        let mut reader = SnapshotReader::new(&*file, &path)?;
        let header = reader.header()?;
        if (header.index, header.term) != (index, term) {
            return Err(reader.corrupt("its header does not match its name"));
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
            // With fewer threads than wanted, the load takes longer.
            let others = (1..threads).map(|_| thread::Builder::new().spawn_scoped(scope, work));
            let others: Vec<_> = others.map_while(Result::ok).collect();
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
        // Only now: a load that fails for want of memory is tried again, and needs the file. Older snapshots will never
        // be loaded after this one.
        self.unloaded.lock().retain(|(other, _)| *other > index);
        Ok((header, bytes))
    }

    /// The number of entries that a snapshot's footer claims. The number is not verified, but never more than the file
    /// has room for. 0 if there is no such file.
    pub fn claimed_entries(&self, index: u64, term: u64) -> Result<u64, DiskError> {
        let Some(file) = self.disk.open(&self.path(index, term))? else {
            return Ok(0);
        };
        let len = file.len()?;
        let mut footer = [0; FOOTER_BYTES];
        file.read_at(&mut footer, len.saturating_sub(FOOTER_BYTES as u64))?;
        // The last bytes of a truncated file are arbitrary, and the caller reserves memory for this number of entries.
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
    /// Reads the next bytes. Returns 0 at the end.
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

/// The contents of a snapshot file.
#[derive(Debug, Clone, Default)]
pub struct SnapshotContents {
    /// The header of the file.
    pub header: SnapshotHeader,
    /// Number of bytes that were read and are valid.
    pub bytes: u64,
    /// Number of entries of the map.
    pub entries: u64,
    /// Total bytes of keys and values.
    pub entry_bytes: u64,
    /// Number of blocks.
    pub blocks: u64,
    /// CRC of the last block, or of the header if there is no block. It covers the whole contents of the file.
    pub crc: u32,
}

/// Reads a snapshot file from any source, one block at a time, and checks every CRC and every entry. Fills in
/// `contents` up to the first error. After an error the caller has to discard what was visited. Reports the bytes done
/// and the total bytes of the file to `progress`.
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

/// Reads and checks the header of a snapshot file.
pub(in crate::storage) fn read_header(
    disk: &dyn Disk,
    path: &Path,
) -> Result<SnapshotHeader, StorageError> {
    let file = disk
        .open(path)?
        .ok_or_else(|| StorageError::corrupt(path, 0, "the file is missing"))?;
    SnapshotReader::new(&*file, path)?.header()
}

/// Parses a header. The bytes end with its CRC; if the file is no snapshot, they may be its first bytes only.
pub(super) fn parse_header(path: &Path, bytes: &[u8]) -> Result<SnapshotHeader, StorageError> {
    let corrupt = |offset, why| StorageError::corrupt(path, offset, why);
    if !bytes.starts_with(MAGIC) {
        return Err(corrupt(
            0,
            "it does not start with the magic number of a snapshot",
        ));
    }
    let len = u32_at(bytes, 12) as usize;
    if len > limits::SNAPSHOT_HEADER_BYTES_MAX {
        let why = "its header claims to be longer than it may be";
        return Err(corrupt(12, why));
    }
    let end = HEADER_START_BYTES + len;
    if crc32c(&bytes[..end]) != u32_at(bytes, end) {
        return Err(corrupt(0, "the CRC of its header does not match"));
    }
    check_version(path, u32_at(bytes, 8))?;
    let header = SnapshotHeader::parse_from_bytes(&bytes[HEADER_START_BYTES..end]);
    let header = header.map_err(|_| corrupt(16, "its header does not decode"))?;
    version::check_header(&header).map_err(|later| StorageError::Later {
        path: path.to_owned(),
        later,
    })?;
    match (1..limits::INDEX_MAX).contains(&header.index) {
        true => Ok(header),
        false => Err(corrupt(16, "its index is beyond what a log reaches")),
    }
}

/// Checks a footer. `crc` is that of the block before it, `counted` the number of entries and blocks before it.
pub(super) fn check_footer(
    crc: u32,
    footer: &[u8],
    counted: (u64, u64),
) -> Result<(), &'static str> {
    let crc = crc32c_append(crc, &footer[..FOOTER_BYTES - 4]);
    if crc != u32_at(footer, FOOTER_BYTES - 4) || &footer[4..12] != END_MAGIC {
        return Err("the CRC of its footer does not match");
    }
    match (u64_at(footer, 12), u64_at(footer, 20)) == counted {
        true => Ok(()),
        false => Err("its footer has another number of entries or blocks"),
    }
}

/// Reads a file from start to end. Never allocates more than the rest of the file could fill.
pub(super) struct SnapshotReader<'a> {
    file: &'a dyn DiskFile,
    path: &'a Path,
    len: u64,
    offset: u64,
    crc: u32,
    entries: u64,
    blocks: u64,
    /// Nothing more to read, after the footer or an error.
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
        self.read(&mut bytes, HEADER_START_BYTES)?;
        let len = u32_at(&bytes, 12) as usize;
        // If the file is no snapshot, the length means nothing.
        if bytes.starts_with(MAGIC) && len <= limits::SNAPSHOT_HEADER_BYTES_MAX {
            self.read(&mut bytes, len + 4)?;
            self.crc = crc32c(&bytes[..bytes.len() - 4]);
        }
        parse_header(self.path, &bytes)
    }

    /// Reads and checks the rest of the file after its header.
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

    /// Checks that no key occurs twice. `keys` has all keys of the file.
    fn check_keys(&self, keys: Keys) -> Result<(), StorageError> {
        match keys.suspects() {
            None => Ok(()),
            Some(suspects) => SnapshotReader::new(self.file, self.path)?.look_for(suspects),
        }
    }

    /// Reads the file a second time, for keys that may occur twice.
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

    /// Reads the next block, head and payload, and checks its CRC. Returns the offset of the block. `None` after the
    /// footer or an error.
    fn block(&mut self, block: &mut Vec<u8>) -> Result<Option<u64>, StorageError> {
        if self.ended {
            return Ok(None);
        }
        // Reset below unless there is an error.
        self.ended = true;
        let start = self.offset;
        block.clear();
        self.read(block, BLOCK_HEAD_BYTES)?;
        let payload = u32_at(block, 0) as usize;
        if payload == 0 {
            self.read(block, FOOTER_BYTES - BLOCK_HEAD_BYTES)?;
            check_footer(self.crc, block, (self.entries, self.blocks))
                .map_err(|why| self.corrupt_at(start, why))?;
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

    /// The error for a block with a valid CRC and invalid contents. Nothing more is read.
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
const TWICE: Unusable = Unusable::Wrong("a block holds a key that is already in the file");
/// Its flags say that the entry has more fields. The state in the header should already have required a later version.
const UNKNOWN: Unusable = Unusable::Later(Later {
    needed: VERSION + 1,
});

/// The entries of a block, as (key, index, value), in a snapshot with index `index_max`. After an error the iterator
/// yields nothing usable.
pub(super) fn entries(
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

/// Checks an entry before a member takes it. The member could not write an entry beyond the limits into its own
/// snapshot.
fn check_entry(key: &[u8], index: u64, value: &[u8], index_max: u64) -> Result<(), &'static str> {
    match () {
        () if key.is_empty() => Err("a block holds an entry without a key"),
        () if key.len() > limits::KEY_BYTES_LIMIT => Err("a block holds a key that is too long"),
        () if value.len() > limits::VALUE_BYTES_LIMIT => {
            Err("a block holds a value that is too long")
        }
        () if index == 0 || index > index_max => {
            Err("a block holds an entry with an index outside the snapshot")
        }
        () => Ok(()),
    }
}

/// The first entry, and the bytes that follow it.
#[expect(clippy::type_complexity)]
fn entry(bytes: &[u8]) -> Option<(&[u8], u64, &[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(ENTRY_HEAD_BYTES)?;
    // The caller has checked that the flags are 0, so four bytes are the key's length.
    let (key, rest) = rest.split_at_checked(u32_at(head, 0) as usize)?;
    let (value, rest) = rest.split_at_checked(u32_at(head, 4) as usize)?;
    Some((key, u64_at(head, 8), value, rest))
}
