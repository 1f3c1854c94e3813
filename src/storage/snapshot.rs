//! Snapshot files: the whole map, and the replicated state beside it, at one index.
//!
//! `snap/%016x-%016x.snap` (index, term). Written and read as a stream of blocks, never whole in memory. A file has its
//! final name only when all of it is durable; what is being written is called `*.tmp` and is removed by the next start.
//! It is synced every [`config::SNAPSHOT_SYNC_BYTES`] while it grows. A sync that failed is final: the file is given up.
//! All numbers little-endian:
//!
//! | part | bytes | field |
//! |---|---|---|
//! | header | 8 | `rkvdsnap` |
//! | | 4 | format version, 1 |
//! | | 4 | length *n* of the next field |
//! | | *n* | `SnapshotHeader` as protobuf: cluster, index, term, configuration, members, removed ids, sessions |
//! | | 4 | CRC32C of all before |
//! | block | 4 | payload length, at least 1 |
//! | | 4 | number of entries in it |
//! | | 4 | CRC32C of the two fields before and the payload, seeded by the CRC of the header or block before |
//! | | | payload: for each entry key length u32, value length u32, index u64, key, value |
//! | footer | 4 | 0, where a block has its payload length |
//! | | 8 | `rkvdends` |
//! | | 8 | number of entries |
//! | | 8 | number of blocks |
//! | | 4 | CRC32C of the four fields before, seeded by the CRC of the header or block before |
//!
//! Nothing follows the footer. The CRCs are chained, so that blocks can't be swapped, left out or doubled.

use super::disk::{Disk, DiskError, DiskFile};
use super::record::{u32_at, u64_at};
use super::{FORMAT_VERSION, SnapshotMeta, StorageError, check_version};
use crate::command::SnapshotHeader;
use crate::config;
use crc32c::{crc32c, crc32c_append};
use protobuf::Message as _;
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

const MAGIC: &[u8; 8] = b"rkvdsnap";
const END_MAGIC: &[u8; 8] = b"rkvdends";
const BLOCK_HEAD_BYTES: usize = 12;
const ENTRY_HEAD_BYTES: usize = 16;
const FOOTER_BYTES: usize = 32;

/// A block is closed as soon as it exceeds its target by an entry.
const BLOCK_BYTES_LIMIT: usize = config::SNAPSHOT_BLOCK_BYTES
    + ENTRY_HEAD_BYTES
    + config::KEY_BYTES_LIMIT
    + config::VALUE_BYTES_LIMIT;

/// Takes the entries of a map: key, index, value.
type Visit<'a> = dyn FnMut(&[u8], u64, &[u8]) + 'a;

/// The snapshot files of a data directory. Shared by the threads that write, load, send, receive and delete them.
pub struct Snapshots {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Names temporary files apart.
    temporary: AtomicU64,
    unloaded: Arc<Unloaded>,
}

/// Index and term of received snapshots that are still to be loaded: until then they are not deleted, however many
/// newer ones are marked meanwhile. One that raft has no use for stays until a newer one is loaded, or the next start.
#[derive(Default)]
struct Unloaded(Mutex<BTreeSet<(u64, u64)>>);

impl Unloaded {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<(u64, u64)>> {
        self.0
            .lock()
            .expect("a thread panicked while it held the set of snapshots to load")
    }
}

/// An open snapshot file, for sending. It can be read to its end even when the snapshot is deleted meanwhile.
pub struct SnapshotSource {
    file: Box<dyn DiskFile>,
    offset: u64,
    /// Size of the file.
    pub bytes: u64,
}

/// A snapshot file that is being received. Dropped unfinished, it removes its file.
pub struct SnapshotSink {
    dir: PathBuf,
    cluster: u64,
    temporary: Temporary,
    file: Growing,
    buffer: Vec<u8>,
    unloaded: Arc<Unloaded>,
}

/// A received snapshot can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// What was sent is no whole and valid snapshot of this cluster.
    #[error("the received snapshot is not valid: {0}")]
    Invalid(String),
    /// The own disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// A temporary file, removed when dropped.
struct Temporary {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    keep: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.keep {
            // When it can't be removed now, the next start does it.
            let _ = self.disk.remove(&self.path);
        }
    }
}

impl Snapshots {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> Snapshots {
        Snapshots {
            disk,
            dir,
            temporary: AtomicU64::new(0),
            unloaded: Arc::default(),
        }
    }

    /// The path of a snapshot's file.
    pub fn path(&self, index: u64, term: u64) -> PathBuf {
        self.dir.join(file_name(index, term))
    }

    /// Writes a snapshot file; durable in its final place on return. Gives its size. `entries` yields every entry of
    /// the map: key, index, value.
    pub fn write<'a>(
        &self,
        meta: &SnapshotMeta,
        cluster: u64,
        entries: impl Iterator<Item = (&'a [u8], u64, &'a [u8])>,
    ) -> Result<u64, DiskError> {
        let temporary = self.temporary();
        let mut writer = Writer {
            file: Growing::new(self.disk.create(&temporary.path)?),
            crc: 0,
            block: Vec::with_capacity(config::SNAPSHOT_BLOCK_BYTES * 2),
            count: 0,
            entries: 0,
            blocks: 0,
        };
        writer.header(&meta.to_header(cluster))?;
        for (key, index, value) in entries {
            writer.entry(key, index, value)?;
        }
        let bytes = writer.finish()?;
        publish(temporary, &self.dir, meta.index, meta.term)?;
        Ok(bytes)
    }

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
    pub(super) fn verify(
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

    /// Begins to receive a snapshot of this cluster, into a temporary file.
    pub fn receive(&self, cluster: u64) -> Result<SnapshotSink, DiskError> {
        let temporary = self.temporary();
        Ok(SnapshotSink {
            file: Growing::new(self.disk.create(&temporary.path)?),
            dir: self.dir.clone(),
            cluster,
            temporary,
            buffer: Vec::with_capacity(config::SNAPSHOT_BLOCK_BYTES),
            unloaded: self.unloaded.clone(),
        })
    }

    /// Deletes the snapshots below an index: no restart begins from them any more. Received ones that are still to be
    /// loaded stay until the next time. The deletion need not be durable.
    pub(super) fn delete_below(&self, index: u64) -> Result<(), DiskError> {
        for name in self.disk.list(&self.dir)? {
            let superfluous = parse_file_name(&name)
                .is_some_and(|found| found.0 < index && !self.unloaded.lock().contains(&found));
            if superfluous {
                self.disk.remove(&self.dir.join(name))?;
            }
        }
        Ok(())
    }

    /// Deletes temporary files, and snapshots that `keep` does not name: they were written or received just before a
    /// crash, and no durable mark tells that a restart may begin from them.
    pub(super) fn delete_leftovers(&self, keep: &[(u64, u64)]) -> Result<(), DiskError> {
        for name in self.disk.list(&self.dir)? {
            let leftover = match parse_file_name(&name) {
                Some(found) => !keep.contains(&found),
                None => name.ends_with(".tmp"),
            };
            if leftover {
                self.disk.remove(&self.dir.join(name))?;
            }
        }
        Ok(())
    }

    fn open_file(&self, path: &Path) -> Result<Box<dyn DiskFile>, StorageError> {
        self.disk
            .open(path)?
            .ok_or_else(|| StorageError::corrupt(path, 0, "the snapshot's file is missing"))
    }

    fn temporary(&self) -> Temporary {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        Temporary {
            disk: self.disk.clone(),
            path: self.dir.join(format!("{number}.tmp")),
            keep: false,
        }
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

impl SnapshotSink {
    /// Takes the next bytes of the file. After an error it is to be dropped.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), DiskError> {
        while !bytes.is_empty() {
            let room = config::SNAPSHOT_BLOCK_BYTES - self.buffer.len();
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = rest;
            if self.buffer.len() == config::SNAPSHOT_BLOCK_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Checks the whole file: its header, that it belongs to the expected cluster and is the snapshot that was promised
    /// (its index, term and state), every block, the footer. Then gives it its final name. Durable in its final place on
    /// return.
    pub fn finish(mut self, promised: &SnapshotMeta) -> Result<(), ReceiveError> {
        self.flush()?;
        let path = self.temporary.path.clone();
        let checked = || -> Result<SnapshotHeader, StorageError> {
            let mut reader = Reader::new(&*self.file.file, &path)?;
            let header = reader.header()?;
            reader.blocks(&mut |_, _, _| {})?;
            Ok(header)
        };
        let header = match checked() {
            Ok(header) => header,
            Err(StorageError::Io(e)) => return Err(e.into()),
            Err(StorageError::Corrupt { offset, why, .. }) => {
                return Err(ReceiveError::Invalid(format!("{why} (at byte {offset})")));
            }
            Err(e) => return Err(ReceiveError::Invalid(e.to_string())),
        };
        if header.cluster != self.cluster {
            return Err(ReceiveError::Invalid(format!(
                "it is of cluster {:016x}, this is {:016x}",
                header.cluster, self.cluster
            )));
        }
        let found = SnapshotMeta::from_header(&header);
        // Before it has its name: there may be another under it, from which a restart begins.
        if (found.index, found.term) != (promised.index, promised.term) {
            return Err(ReceiveError::Invalid(format!(
                "it is of index {} term {}, and not of index {} term {}",
                found.index, found.term, promised.index, promised.term
            )));
        }
        if found.state != promised.state {
            let why = "its replicated state is not that of its message";
            return Err(ReceiveError::Invalid(why.to_owned()));
        }
        self.file.sync()?;
        // Before it has a name by which it could be deleted.
        let place = (header.index, header.term);
        self.unloaded.lock().insert(place);
        publish(self.temporary, &self.dir, header.index, header.term).map_err(ReceiveError::Disk)
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        self.file.append(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

impl fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshots({})", self.dir.display())
    }
}

impl fmt::Debug for SnapshotSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotSource({} of {} bytes)", self.offset, self.bytes)
    }
}

impl fmt::Debug for SnapshotSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotSink({})", self.temporary.path.display())
    }
}

/// Gives a file that was synced its final name. Durable on return; only then may a mark name it.
fn publish(mut temporary: Temporary, dir: &Path, index: u64, term: u64) -> Result<(), DiskError> {
    let disk = temporary.disk.clone();
    disk.rename(&temporary.path, &dir.join(file_name(index, term)))?;
    temporary.keep = true;
    if cfg!(raftkvd_mutant = "directory-not-synced") {
        return Ok(());
    }
    disk.sync_dir(dir)
}

/// A file that is written from front to back, and synced now and then on the way.
struct Growing {
    file: Box<dyn DiskFile>,
    len: u64,
    /// Up to here it is durable.
    synced: u64,
}

impl Growing {
    fn new(file: Box<dyn DiskFile>) -> Growing {
        Growing {
            file,
            len: 0,
            synced: 0,
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), DiskError> {
        self.file.write_at(bytes, self.len)?;
        self.len += bytes.len() as u64;
        if self.len - self.synced >= config::SNAPSHOT_SYNC_BYTES {
            self.sync()?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        self.file.sync()?;
        self.synced = self.len;
        Ok(())
    }
}

struct Writer {
    file: Growing,
    crc: u32,
    /// Head and payload of the block under construction.
    block: Vec<u8>,
    count: u32,
    entries: u64,
    blocks: u64,
}

impl Writer {
    fn header(&mut self, header: &SnapshotHeader) -> Result<(), DiskError> {
        let encoded = header
            .write_to_bytes()
            .expect("a snapshot header has no required field that could be missing");
        assert!(
            encoded.len() <= config::SNAPSHOT_HEADER_BYTES_MAX,
            "a snapshot header of {} bytes, the limit is {}",
            encoded.len(),
            config::SNAPSHOT_HEADER_BYTES_MAX
        );
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&(encoded.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&encoded);
        self.crc = crc32c(&bytes);
        bytes.extend_from_slice(&self.crc.to_le_bytes());
        self.file.append(&bytes)
    }

    fn entry(&mut self, key: &[u8], index: u64, value: &[u8]) -> Result<(), DiskError> {
        assert!(
            key.len() <= config::KEY_BYTES_LIMIT && value.len() <= config::VALUE_BYTES_LIMIT,
            "a key of {} and a value of {} bytes exceed the limits",
            key.len(),
            value.len()
        );
        if self.block.is_empty() {
            self.block.resize(BLOCK_HEAD_BYTES, 0);
        }
        self.block
            .extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.block
            .extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.block.extend_from_slice(&index.to_le_bytes());
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(value);
        self.count += 1;
        self.entries += 1;
        if self.block.len() - BLOCK_HEAD_BYTES >= config::SNAPSHOT_BLOCK_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        if self.block.is_empty() {
            return Ok(());
        }
        let mut block = std::mem::take(&mut self.block);
        let payload = (block.len() - BLOCK_HEAD_BYTES) as u32;
        block[0..4].copy_from_slice(&payload.to_le_bytes());
        block[4..8].copy_from_slice(&self.count.to_le_bytes());
        self.crc = block_crc(self.crc, &block);
        block[8..12].copy_from_slice(&self.crc.to_le_bytes());
        self.file.append(&block)?;
        block.clear();
        block.shrink_to(config::SNAPSHOT_BLOCK_BYTES * 2);
        self.block = block;
        self.count = 0;
        self.blocks += 1;
        Ok(())
    }

    /// Writes the footer and makes the file durable; its name is not yet. Gives its size.
    fn finish(mut self) -> Result<u64, DiskError> {
        self.flush()?;
        let mut footer = vec![0; 4];
        footer.extend_from_slice(END_MAGIC);
        footer.extend_from_slice(&self.entries.to_le_bytes());
        footer.extend_from_slice(&self.blocks.to_le_bytes());
        let crc = crc32c_append(self.crc, &footer);
        footer.extend_from_slice(&crc.to_le_bytes());
        assert_eq!(footer.len(), FOOTER_BYTES);
        self.file.append(&footer)?;
        self.file.sync()?;
        Ok(self.file.len)
    }
}

fn block_crc(seed: u32, block: &[u8]) -> u32 {
    crc32c_append(crc32c_append(seed, &block[..8]), &block[BLOCK_HEAD_BYTES..])
}

/// Reads a file from its start to its end. Nothing is allocated that is longer than what is left of the file.
struct Reader<'a> {
    file: &'a dyn DiskFile,
    path: &'a Path,
    len: u64,
    offset: u64,
    crc: u32,
}

impl<'a> Reader<'a> {
    fn new(file: &'a dyn DiskFile, path: &'a Path) -> Result<Reader<'a>, DiskError> {
        Ok(Reader {
            file,
            path,
            len: file.len()?,
            offset: 0,
            crc: 0,
        })
    }

    fn header(&mut self) -> Result<SnapshotHeader, StorageError> {
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

    fn blocks(&mut self, visit: &mut Visit<'_>) -> Result<(), StorageError> {
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

fn file_name(index: u64, term: u64) -> String {
    format!("{index:016x}-{term:016x}.snap")
}

fn parse_file_name(name: &str) -> Option<(u64, u64)> {
    super::parse_numbers(name.strip_suffix(".snap")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::fake_disk::{FakeDisk, Random};

    type Entries = Vec<(Vec<u8>, u64, Vec<u8>)>;

    fn snapshots(disk: &FakeDisk) -> Snapshots {
        let dir = PathBuf::from("/snap");
        disk.create_dir_all(&dir).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        Snapshots::new(Arc::new(disk.clone()), dir)
    }

    fn meta(index: u64) -> SnapshotMeta {
        let mut meta = SnapshotMeta {
            index,
            term: 3,
            ..SnapshotMeta::default()
        };
        meta.conf_state.set_voters(vec![1, 2, 3]);
        meta
    }

    fn entries(count: u64, bytes: usize) -> Entries {
        (0..count)
            .map(|i| {
                let value = vec![i as u8; bytes + i as usize % 7];
                (format!("key {i}").into_bytes(), i + 1, value)
            })
            .collect()
    }

    fn write(snapshots: &Snapshots, index: u64, entries: &Entries) -> u64 {
        let entries = entries.iter().map(|(k, i, v)| (&k[..], *i, &v[..]));
        snapshots.write(&meta(index), 77, entries).unwrap()
    }

    fn load(snapshots: &Snapshots, index: u64) -> Result<Entries, StorageError> {
        let mut found = Vec::new();
        let loaded = snapshots.load(index, 3, |k, i, v| found.push((k.to_vec(), i, v.to_vec())))?;
        assert_eq!(loaded, meta(index));
        Ok(found)
    }

    /// Sends a file from one disk to another, in pieces of odd sizes.
    fn send(bytes: &[u8], to: &Snapshots, cluster: u64) -> Result<(), ReceiveError> {
        let mut sink = to.receive(cluster)?;
        for piece in bytes.chunks(70_001) {
            sink.write(piece)?;
        }
        sink.finish(&meta(9))
    }

    fn file(snapshots: &Snapshots, index: u64) -> Vec<u8> {
        let mut source = snapshots.open(index, 3).unwrap();
        let mut bytes = Vec::new();
        let mut buffer = [0; 1000];
        loop {
            match source.read(&mut buffer).unwrap() {
                0 => break,
                n => bytes.extend_from_slice(&buffer[..n]),
            }
        }
        assert_eq!(bytes.len() as u64, source.bytes);
        bytes
    }

    #[test]
    fn what_is_written_is_loaded_sent_and_received() {
        for (count, bytes) in [(0, 0), (1, 0), (3, 10), (2000, 600), (2, 3 << 20)] {
            let (from, to) = (FakeDisk::new(1), FakeDisk::new(2));
            let (sender, receiver) = (snapshots(&from), snapshots(&to));
            let entries = entries(count, bytes);
            let size = write(&sender, 9, &entries);
            let sent = file(&sender, 9);
            assert_eq!(sent.len() as u64, size);
            send(&sent, &receiver, 77).unwrap();
            // Both are durable, and nothing else is there.
            for disk in [from, to] {
                let disk = disk.after_power_loss(5);
                assert_eq!(load(&snapshots(&disk), 9).unwrap(), entries);
                assert_eq!(disk.paths().len(), 1);
            }
        }
    }

    #[test]
    fn every_flipped_or_missing_byte_is_caught() {
        let disk = FakeDisk::new(1);
        let own = snapshots(&disk);
        write(&own, 9, &entries(40, 20));
        let good = file(&own, 9);
        let path = own.path(9, 3);
        let caught = |bad: Vec<u8>| {
            let what = send(&bad, &own, 77);
            assert!(matches!(what, Err(ReceiveError::Invalid(_))), "{what:?}");
            disk.tamper(&path, |bytes| *bytes = bad);
            let error = load(&own, 9).unwrap_err();
            assert_eq!(error.exit_code(), 4, "{error}");
        };
        for at in 0..good.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= flip;
                caught(bad);
            }
            caught(good[..at].to_vec());
        }
        caught([&good[..], &[0]].concat());
        assert_eq!(disk.paths(), [path], "temporary files are left");
    }

    #[test]
    fn blocks_in_another_order_are_caught() {
        let disk = FakeDisk::new(1);
        let own = snapshots(&disk);
        // Two blocks of the same length, after a header of which the length is known.
        let block = config::SNAPSHOT_BLOCK_BYTES + 17 + BLOCK_HEAD_BYTES;
        let value = vec![7; config::SNAPSHOT_BLOCK_BYTES];
        let entries = vec![(vec![b'a'], 1, value.clone()), (vec![b'b'], 2, value)];
        write(&own, 9, &entries);
        let good = file(&own, 9);
        let start = good.len() - FOOTER_BYTES - 2 * block;
        let (first, second) = (start..start + block, start + block..start + 2 * block);
        let swapped = [
            &good[..start],
            &good[second.clone()],
            &good[first.clone()],
            &good[second.end..],
        ]
        .concat();
        assert_eq!(swapped.len(), good.len());
        let without = [&good[..first.start], &good[second.start..]].concat();
        for bad in [swapped, without] {
            assert!(matches!(
                send(&bad, &own, 77),
                Err(ReceiveError::Invalid(_))
            ));
        }
        assert!(send(&good, &own, 77).is_ok());
    }

    #[test]
    fn a_length_in_a_file_reserves_no_memory_beyond_the_file() {
        let disk = FakeDisk::new(1);
        let own = snapshots(&disk);
        write(&own, 9, &entries(3, 20));
        let good = file(&own, 9);
        let mut random = Random(1);
        for _ in 0..500 {
            let mut bad = good.clone();
            let at = random.below(bad.len() as u64 - 4) as usize;
            bad[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            assert!(send(&bad, &own, 77).is_err() || bad == good);
        }
    }

    #[test]
    fn a_snapshot_of_another_cluster_is_not_received() {
        let disk = FakeDisk::new(1);
        let own = snapshots(&disk);
        write(&own, 9, &entries(3, 20));
        let what = send(&file(&own, 9), &own, 78);
        assert!(matches!(what, Err(ReceiveError::Invalid(_))), "{what:?}");
        drop(own.receive(77).unwrap());
        assert_eq!(disk.paths().len(), 1);
    }

    #[test]
    fn a_snapshot_that_was_not_promised_does_not_get_its_name() {
        let disk = FakeDisk::new(1);
        let own = snapshots(&disk);
        write(&own, 9, &entries(3, 20));
        let bytes = file(&own, 9);
        own.delete_below(10).unwrap();
        let mut other_state = meta(9);
        let removed = crate::command::RemovedMember::default();
        other_state.state.removed.push(removed);
        let other_term = SnapshotMeta { term: 4, ..meta(9) };
        for promised in [meta(8), other_term, other_state] {
            let mut sink = own.receive(77).unwrap();
            sink.write(&bytes).unwrap();
            let what = sink.finish(&promised);
            assert!(matches!(what, Err(ReceiveError::Invalid(_))), "{what:?}");
            assert_eq!(disk.paths().len(), 0);
        }
    }

    #[test]
    fn a_deleted_snapshot_can_be_sent_to_its_end() {
        let disk = FakeDisk::new(1);
        let own = snapshots(&disk);
        write(&own, 9, &entries(300, 20));
        let mut source = own.open(9, 3).unwrap();
        own.delete_below(10).unwrap();
        assert_eq!(disk.paths().len(), 0);
        let mut buffer = vec![0; 1 << 20];
        assert_eq!(source.read(&mut buffer).unwrap() as u64, source.bytes);
        assert_eq!(own.open(9, 3).unwrap_err().exit_code(), 4);
    }
}
