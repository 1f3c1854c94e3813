//! Snapshot files: the whole map and the replicated state beside it, at one index.
//!
//! The name is `snap/%016x-%016x.snap` (index, term). A file is written and read as a stream of blocks, and is never
//! whole in memory. It gets its final name only when it is completely durable. Until then it is called `*.tmp`, and the
//! next start removes it. A growing file is synced every [`limits::SNAPSHOT_SYNC_BYTES`]; `write.rs` explains why. A
//! failed sync is final: the file is abandoned. All numbers are little-endian:
//!
//! | part | bytes | field |
//! |---|---|---|
//! | header | 8 | `rkvdsnap` |
//! | | 4 | format version, 2 |
//! | | 4 | length *n* of the next field |
//! | | *n* | `SnapshotHeader` as protobuf: cluster, index, term, configuration, members, removed ids, sessions |
//! | | 4 | CRC32C of all fields before |
//! | block | 4 | payload length, at least 1 |
//! | | 4 | number of entries in the block |
//! | | 4 | CRC32C of the two fields before and the payload, seeded by the CRC of the header or block before |
//! | | | payload: for each entry key length u24, flags u8, value length u32, index u64, key, value |
//! | footer | 4 | 0, where a block has its payload length |
//! | | 8 | `rkvdends` |
//! | | 8 | number of entries |
//! | | 8 | number of blocks |
//! | | 4 | CRC32C of the four fields before, seeded by the CRC of the header or block before |
//!
//! Nothing follows the footer. The CRCs are chained, so that blocks can't be swapped, omitted or duplicated.
//!
//! A file may come from anywhere, and the member that takes it continues from its contents. Every entry is therefore
//! checked. Its key is not empty and occurs once in the file. Its key and value are within the limits. Its index is
//! between 1 and the index of the header.

mod arriving;
mod read;
mod receive;
#[cfg(test)]
mod tests;
mod twice;
mod write;

pub use arriving::{ArrivedSnapshot, ArrivingSnapshot};
pub use read::{SnapshotContents, SnapshotSource};
pub(super) use read::{read_file, read_header};
pub use receive::{ReceiveError, SnapshotSink};
pub use write::{SnapshotEncoder, SnapshotWriter};

use super::data_dir::DataDir;
use super::disk::{Disk, DiskError, DiskFile};
use super::error::StorageError;
use super::format::parse_numbers;
use super::leftovers::Leftovers;
use crate::limits;
use crate::mutants::{Mutant, is_planted};
use crate::numbers::{Index, Term};
use crc32c::crc32c_append;
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const MAGIC: &[u8; 8] = b"rkvdsnap";
const END_MAGIC: &[u8; 8] = b"rkvdends";
/// Magic number, format version and the length of the header.
const HEADER_START_BYTES: usize = 16;
const BLOCK_HEAD_BYTES: usize = 12;
const ENTRY_HEAD_BYTES: usize = 16;
const FOOTER_BYTES: usize = 32;
/// Offset of the flags in the head of an entry. All flags are 0 in this version. A later version can use them for
/// additional fields of an entry, such as an expiry, between its head and its key.
const FLAGS_OFFSET: usize = 3;
const _: () = assert!(limits::KEY_BYTES_LIMIT < 1 << 24);

/// The longest payload that a block can have: a block is closed as soon as an entry makes it reach its target size.
const BLOCK_BYTES_LIMIT: usize = limits::SNAPSHOT_BLOCK_BYTES
    + ENTRY_HEAD_BYTES
    + limits::KEY_BYTES_LIMIT
    + limits::VALUE_BYTES_LIMIT;

/// The snapshot files of a data directory. Shared by the threads that write, load, send, receive and delete snapshots.
pub struct Snapshots {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// The number in the next temporary file's name.
    temporary: AtomicU64,
    unloaded: Arc<Unloaded>,
    /// See [`Snapshots::wal_batches`].
    wal_batches: Arc<AtomicU64>,
}

/// Index and term of received snapshots that are not loaded yet. Such a snapshot is not deleted, however many newer
/// snapshots are marked. If raft discards the snapshot, the file stays until a newer snapshot is loaded, or until the
/// next start.
#[derive(Default)]
struct Unloaded(Mutex<BTreeSet<(Index, Term)>>);

impl Unloaded {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<(Index, Term)>> {
        self.0.lock()
    }
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
            // If this fails, the next start removes the file.
            let _ = self.disk.remove(&self.path);
        }
    }
}

impl Snapshots {
    pub(super) fn new(dir: &DataDir) -> Snapshots {
        Snapshots {
            disk: dir.disk().clone(),
            dir: dir.snap_path(),
            temporary: AtomicU64::new(0),
            unloaded: Arc::default(),
            wal_batches: Arc::default(),
        }
    }

    /// The path of the snapshot's file.
    pub fn path(&self, index: u64, term: u64) -> PathBuf {
        self.dir.join(file_name(index, term))
    }

    /// The number of batches that the WAL has written. A snapshot writer uses it to see whether the WAL is busy, and so
    /// whether the writer has to pause.
    pub(super) fn wal_batches(&self) -> Arc<AtomicU64> {
        self.wal_batches.clone()
    }

    /// Deletes the snapshots below an index, which no restart needs any more. Received snapshots that are not loaded
    /// yet stay until the next call. The deletion need not be durable. Calls `pause` after each deletion, with the time
    /// that it took. If a file can't be deleted, the others are deleted anyway, and the first error is
    /// returned at the end.
    pub(super) fn delete_below(
        &self,
        index: u64,
        mut pause: impl FnMut(Duration),
    ) -> Result<(), DiskError> {
        let mut kept = Ok(());
        for name in self.disk.list(&self.dir)? {
            let superfluous = parse_file_name(&name)
                .is_some_and(|found| found.0 < index && !self.unloaded.lock().contains(&found));
            if superfluous {
                let begun = Instant::now();
                if let Err(error) = self.disk.remove(&self.dir.join(name)) {
                    kept = kept.and(Err(error));
                }
                pause(begun.elapsed());
            }
        }
        kept
    }

    /// Deletes temporary files, and the snapshots that are not in `keep`: they were written or received just before a
    /// crash, and no durable mark names them.
    pub(super) fn delete_leftovers(
        &self,
        keep: &[(Index, Term)],
        leftovers: &mut Leftovers<'_>,
    ) -> Result<(), DiskError> {
        for name in self.disk.list(&self.dir)? {
            let leftover = match parse_file_name(&name) {
                Some(found) => !keep.contains(&found),
                None => name.ends_with(".tmp"),
            };
            if leftover {
                leftovers.remove(&self.dir.join(name));
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

impl fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshots({})", self.dir.display())
    }
}

/// Gives a synced file its final name. Durable on return; only then may a mark name the file.
///
/// The directory is opened before the rename: without a file descriptor, no complete file stays that counts as failed.
fn publish(mut temporary: Temporary, dir: &Path, index: u64, term: u64) -> Result<(), DiskError> {
    let disk = temporary.disk.clone();
    let directory = disk.open_dir(dir)?;
    disk.rename(&temporary.path, &dir.join(file_name(index, term)))?;
    temporary.keep = true;
    if is_planted(Mutant::DirectoryNotSynced) {
        return Ok(());
    }
    directory.sync()
}

fn block_crc(seed: u32, block: &[u8]) -> u32 {
    crc32c_append(crc32c_append(seed, &block[..8]), &block[BLOCK_HEAD_BYTES..])
}

pub(super) fn file_name(index: Index, term: Term) -> String {
    format!("{index:016x}-{term:016x}.snap")
}

pub(super) fn parse_file_name(name: &str) -> Option<(Index, Term)> {
    parse_numbers(name.strip_suffix(".snap")?)
}
