//! Writing a snapshot file, beside a WAL that is not to notice; and the bytes of one, wherever they go.
//!
//! The WAL's fdatasyncs go to the same disk, and raft and the API want the same processors. So the file is written in
//! pieces of [`limits::SNAPSHOT_SYNC_BYTES`], each synced before the next, and after each the writer pauses for
//! [`limits::SNAPSHOT_PAUSES`] times as long as the piece took, but no longer than
//! [`limits::SNAPSHOT_PIECE_PAUSE_MAX`], unless the WAL has written nothing meanwhile. It is a share and not a rate: of what the disk has to give to it under the load
//! of the moment a snapshot uses a quarter, whatever the disk. That bounds the log too: while a snapshot is written it
//! grows by what is written meanwhile, and that takes at most four times as long as without pauses.

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

/// A snapshot file that is being written. Dropped unfinished, it removes its file.
pub struct SnapshotWriter {
    dir: PathBuf,
    /// Index and term.
    place: (Index, Term),
    temporary: Temporary,
    file: Growing,
    encoder: SnapshotEncoder,
    /// When the piece that is not synced was begun.
    piece_begun: Instant,
    wal_batches: Arc<AtomicU64>,
    /// What they were at the end of the last piece.
    batches_before: u64,
}

impl Snapshots {
    /// Begins to write a snapshot file.
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

    /// Writes a snapshot file at once; durable in its final place on return. Gives its size. `entries` yields every
    /// entry of the map: key, index, value.
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
    /// Adds an entry of the map, and now and then waits for the disk, and for others to have their turn.
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
            // Where nobody writes a joiner may be waiting for this, and the file is made in a fraction of the time.
            if std::mem::replace(&mut self.batches_before, batches) != batches {
                let pause = self.piece_begun.elapsed() * limits::SNAPSHOT_PAUSES;
                thread::sleep(pause.min(limits::SNAPSHOT_PIECE_PAUSE_MAX));
            }
            self.piece_begun = Instant::now();
        }
        self.encoder.reuse(block);
        Ok(())
    }

    /// Ends the file. It is durable in its final place on return. Gives its size.
    pub fn finish(mut self) -> Result<u64, DiskError> {
        self.flush()?;
        self.file.append(&self.encoder.footer())?;
        self.file.sync()?;
        let (index, term) = self.place;
        publish(self.temporary, &self.dir, index, term)?;
        Ok(self.file.len)
    }
}

/// The bytes of a snapshot file, one part after the other, wherever they go.
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
    /// Begins.
    pub fn new() -> SnapshotEncoder {
        SnapshotEncoder {
            crc: 0,
            block: Vec::new(),
            count: 0,
            entries: 0,
            blocks: 0,
        }
    }

    /// About how many bytes a file has with so many entries, whose keys and values have so many bytes together.
    pub fn estimate(entries: u64, bytes: u64) -> u64 {
        entries * super::ENTRY_HEAD_BYTES as u64 + bytes + FOOTER_BYTES as u64
    }

    /// The first part.
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

    /// Adds an entry of the map. Yes: the block is large enough to be taken.
    pub fn entry(&mut self, key: &[u8], index: u64, value: &[u8]) -> bool {
        assert!(
            key.len() <= limits::KEY_BYTES_LIMIT && value.len() <= limits::VALUE_BYTES_LIMIT,
            "a key of {} and a value of {} bytes exceed the limits",
            key.len(),
            value.len()
        );
        if self.block.is_empty() {
            // Unless its memory was given back.
            self.block.reserve(2 * limits::SNAPSHOT_BLOCK_BYTES);
            self.block.resize(BLOCK_HEAD_BYTES, 0);
        }
        // With that, the flags are 0: the length fills the bytes before them.
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

    /// Takes the block of the entries so far; `None` if there are none.
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

    /// Gives back the memory of a block that was written.
    fn reuse(&mut self, mut block: Vec<u8>) {
        block.clear();
        block.shrink_to(limits::SNAPSHOT_BLOCK_BYTES * 2);
        self.block = block;
    }

    /// The last part, behind the last block.
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

/// A file that is written from front to back, and synced on the way whenever so many bytes are not.
pub(super) struct Growing {
    pub(super) file: Box<dyn DiskFile>,
    len: u64,
    /// Up to here it is durable.
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

    /// Gives whether all of it is durable now.
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
