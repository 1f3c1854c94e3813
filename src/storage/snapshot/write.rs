//! Writes snapshot files at a pace that hardly slows the WAL, and encodes the bytes of a snapshot for any destination.
//!
//! The WAL's fdatasyncs go to the same disk, and raft and the API need the same processors. The file is therefore
//! written in pieces of [`limits::SNAPSHOT_SYNC_BYTES`], and each piece is synced before the next. After a piece the
//! writer pauses for [`limits::SNAPSHOT_PAUSES`] times as long as the piece took, but at most for
//! [`limits::SNAPSHOT_PIECE_PAUSE_MAX`]. It does not pause if the WAL has written nothing in the meantime.
//!
//! The pace is a share of the disk's speed and not a fixed rate: a snapshot uses a quarter of what the disk can give
//! under the current load. This also bounds the log. The log grows while a snapshot is written, and the pauses make the
//! writing at most four times as long.

use super::{
    BLOCK_HEAD_BYTES, END_MAGIC, FOOTER_BYTES, MAGIC, Snapshots, Temporary, block_crc, publish,
};
use crate::command::SnapshotHeader;
use crate::limits;
use crate::numbers::{Index, Term};
use crate::storage::disk::{DiskError, DiskFile};
use crate::storage::format::FORMAT_VERSION;
use crate::storage::state::SnapshotMeta;
use crc32c::{crc32c, crc32c_append};
use protobuf::Message as _;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

/// A snapshot file that is being written. If dropped unfinished, it removes its file.
pub struct SnapshotWriter {
    dir: PathBuf,
    place: (Index, Term),
    temporary: Temporary,
    file: Growing,
    encoder: SnapshotEncoder,
    /// Start of the piece that is not synced yet.
    piece_begun: Instant,
    wal_batches: Arc<AtomicU64>,
    /// Value of `wal_batches` at the end of the last piece.
    batches_before: u64,
}

impl Snapshots {
    /// Starts to write a snapshot file.
    pub fn begin(&self, meta: &SnapshotMeta, cluster: u64) -> Result<SnapshotWriter, DiskError> {
        let temporary = self.temporary();
        let mut writer = SnapshotWriter {
            dir: self.dir.clone(),
            place: (meta.index, meta.term),
            file: Growing::new(
                self.disk.create(&temporary.path)?,
                limits::SNAPSHOT_SYNC_BYTES,
            ),
            temporary,
            encoder: SnapshotEncoder::new(),
            piece_begun: Instant::now(),
            wal_batches: self.wal_batches(),
            batches_before: self.wal_batches.load(Ordering::Relaxed),
        };
        let header = writer.encoder.header(&meta.to_header(cluster));
        writer.file.append(&header)?;
        Ok(writer)
    }

    /// Writes a whole snapshot file. Durable under its final name on return. Returns its size in bytes. `entries`
    /// yields every entry of the map: key, index, value.
    pub fn write<'a>(
        &self,
        meta: &SnapshotMeta,
        cluster: u64,
        entries: impl Iterator<Item = (&'a [u8], u64, &'a [u8])>,
    ) -> Result<u64, DiskError> {
        let mut writer = self.begin(meta, cluster)?;
        for (key, index, value) in entries {
            writer.entry(key, index, value)?;
        }
        writer.finish()
    }
}

impl SnapshotWriter {
    /// Adds an entry of the map. From time to time it waits for the disk, and pauses for the WAL.
    pub fn entry(&mut self, key: &[u8], index: u64, value: &[u8]) -> Result<(), DiskError> {
        if self.encoder.entry(key, index, value) {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        let Some(block) = self.encoder.block() else {
            return Ok(());
        };
        if self.file.append(&block)? {
            let batches = self.wal_batches.load(Ordering::Relaxed);
            // If the WAL is idle, do not pause: a joining member may be waiting for this snapshot, which is then
            // written in a fraction of the time.
            if std::mem::replace(&mut self.batches_before, batches) != batches {
                let pause = self.piece_begun.elapsed() * limits::SNAPSHOT_PAUSES;
                thread::sleep(pause.min(limits::SNAPSHOT_PIECE_PAUSE_MAX));
            }
            self.piece_begun = Instant::now();
        }
        self.encoder.reuse(block);
        Ok(())
    }

    /// Completes the file. Durable under its final name on return. Returns its size in bytes.
    pub fn finish(mut self) -> Result<u64, DiskError> {
        self.flush()?;
        self.file.append(&self.encoder.footer())?;
        self.file.sync()?;
        let (index, term) = self.place;
        publish(self.temporary, &self.dir, index, term)?;
        Ok(self.file.len)
    }
}

/// Encodes a snapshot file, one part after the other, for any destination.
#[derive(Debug)]
pub struct SnapshotEncoder {
    crc: u32,
    /// Head and payload of the block under construction.
    block: Vec<u8>,
    count: u32,
    entries: u64,
    blocks: u64,
}

impl Default for SnapshotEncoder {
    fn default() -> SnapshotEncoder {
        SnapshotEncoder::new()
    }
}

impl SnapshotEncoder {
    /// An encoder before the header.
    pub fn new() -> SnapshotEncoder {
        SnapshotEncoder {
            crc: 0,
            block: Vec::new(),
            count: 0,
            entries: 0,
            blocks: 0,
        }
    }

    /// The approximate size of a file with `entries` entries whose keys and values have `bytes` bytes in total.
    pub fn estimate(entries: u64, bytes: u64) -> u64 {
        entries * super::ENTRY_HEAD_BYTES as u64 + bytes + FOOTER_BYTES as u64
    }

    /// The first part of the file.
    pub fn header(&mut self, header: &SnapshotHeader) -> Vec<u8> {
        let encoded = header
            .write_to_bytes()
            .expect("a snapshot header has no required field that could be missing");
        assert!(
            encoded.len() <= limits::SNAPSHOT_HEADER_BYTES_MAX,
            "a snapshot header of {} bytes, the limit is {}",
            encoded.len(),
            limits::SNAPSHOT_HEADER_BYTES_MAX
        );
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&(encoded.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&encoded);
        self.crc = crc32c(&bytes);
        bytes.extend_from_slice(&self.crc.to_le_bytes());
        bytes
    }

    /// Adds an entry of the map. Returns true if the block has reached its target size.
    pub fn entry(&mut self, key: &[u8], index: u64, value: &[u8]) -> bool {
        assert!(
            key.len() <= limits::KEY_BYTES_LIMIT && value.len() <= limits::VALUE_BYTES_LIMIT,
            "a key of {} and a value of {} bytes exceed the limits",
            key.len(),
            value.len()
        );
        if self.block.is_empty() {
            // A no-op if the buffer still has its capacity.
            self.block.reserve(2 * limits::SNAPSHOT_BLOCK_BYTES);
            self.block.resize(BLOCK_HEAD_BYTES, 0);
        }
        // The length is below 2^24, so its fourth byte sets the flags to 0.
        self.block
            .extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.block
            .extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.block.extend_from_slice(&index.to_le_bytes());
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(value);
        self.count += 1;
        self.entries += 1;
        self.block.len() - BLOCK_HEAD_BYTES >= limits::SNAPSHOT_BLOCK_BYTES
    }

    /// Completes and returns the block of the entries added since the last block. `None` if there are none.
    pub fn block(&mut self) -> Option<Vec<u8>> {
        if self.block.is_empty() {
            return None;
        }
        let mut block = std::mem::take(&mut self.block);
        let payload = (block.len() - BLOCK_HEAD_BYTES) as u32;
        block[0..4].copy_from_slice(&payload.to_le_bytes());
        block[4..8].copy_from_slice(&self.count.to_le_bytes());
        self.crc = block_crc(self.crc, &block);
        block[8..12].copy_from_slice(&self.crc.to_le_bytes());
        self.count = 0;
        self.blocks += 1;
        Some(block)
    }

    /// Takes back the buffer of a written block.
    fn reuse(&mut self, mut block: Vec<u8>) {
        block.clear();
        block.shrink_to(limits::SNAPSHOT_BLOCK_BYTES * 2);
        self.block = block;
    }

    /// The last part of the file, after the last block.
    pub fn footer(&self) -> Vec<u8> {
        let mut footer = vec![0; 4];
        footer.extend_from_slice(END_MAGIC);
        footer.extend_from_slice(&self.entries.to_le_bytes());
        footer.extend_from_slice(&self.blocks.to_le_bytes());
        let crc = crc32c_append(self.crc, &footer);
        footer.extend_from_slice(&crc.to_le_bytes());
        assert_eq!(footer.len(), FOOTER_BYTES);
        footer
    }
}

impl fmt::Debug for SnapshotWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotWriter({})", self.temporary.path.display())
    }
}

/// A file that is written from start to end, and synced whenever `sync_bytes` bytes are not durable.
pub(super) struct Growing {
    pub(super) file: Box<dyn DiskFile>,
    len: u64,
    /// The file is durable up to this offset.
    synced: u64,
    sync_bytes: u64,
}

impl Growing {
    pub(super) fn new(file: Box<dyn DiskFile>, sync_bytes: u64) -> Growing {
        Growing {
            file,
            len: 0,
            synced: 0,
            sync_bytes,
        }
    }

    /// Returns whether the whole file is durable now.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<bool, DiskError> {
        self.file.write_at(bytes, self.len)?;
        self.len += bytes.len() as u64;
        if self.len - self.synced < self.sync_bytes {
            return Ok(false);
        }
        self.sync()?;
        Ok(true)
    }

    pub(super) fn sync(&mut self) -> Result<(), DiskError> {
        self.file.sync()?;
        self.synced = self.len;
        Ok(())
    }
}
