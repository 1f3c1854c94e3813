//! Receives a snapshot file.

use super::read::SnapshotReader;
use super::write::Growing;
use super::{Snapshots, Temporary, Unloaded, publish};
use crate::command::SnapshotHeader;
use crate::limits;
use crate::storage::disk::DiskError;
use crate::storage::error::StorageError;
use crate::storage::state::SnapshotMeta;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// A snapshot file that is being received. If dropped unfinished, it removes its file.
pub struct SnapshotSink {
    dir: PathBuf,
    cluster: u64,
    temporary: Temporary,
    file: Growing,
    buffer: Vec<u8>,
    unloaded: Arc<Unloaded>,
}

/// Why a received snapshot can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The received bytes are not a complete and valid snapshot of this cluster.
    #[error("the received snapshot is not valid: {0}")]
    Invalid(String),
    /// The disk of this member failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl Snapshots {
    /// Starts to receive a snapshot of this cluster, into a temporary file.
    pub fn receive(&self, cluster: u64) -> Result<SnapshotSink, DiskError> {
        let temporary = self.temporary();
        Ok(SnapshotSink {
            file: Growing::new(
                self.disk.create(&temporary.path)?,
                limits::RECEIVED_SYNC_BYTES,
            ),
            dir: self.dir.clone(),
            cluster,
            temporary,
            buffer: Vec::with_capacity(limits::SNAPSHOT_BLOCK_BYTES),
            unloaded: self.unloaded.clone(),
        })
    }
}

impl SnapshotSink {
    /// Appends the next bytes of the file. After an error the sink has to be dropped.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), DiskError> {
        while !bytes.is_empty() {
            let room = limits::SNAPSHOT_BLOCK_BYTES - self.buffer.len();
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = rest;
            if self.buffer.len() == limits::SNAPSHOT_BLOCK_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Checks the whole file: the header, the cluster, the expected index, term and state, every block and entry, and
    /// the footer. Then gives the file its final name. Durable on return.
    pub fn finish(mut self, promised: &SnapshotMeta) -> Result<(), ReceiveError> {
        self.flush()?;
        let path = self.temporary.path.clone();
        let checked = || -> Result<SnapshotHeader, StorageError> {
            let mut reader = SnapshotReader::new(&*self.file.file, &path)?;
            let header = reader.header()?;
            reader.check(&header)?;
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
                "it belongs to cluster {:016x}, this member to cluster {:016x}",
                header.cluster, self.cluster
            )));
        }
        let found = SnapshotMeta::from_header(&header);
        // Check before the file gets its name: another snapshot with that name may exist, and a restart may need it.
        if (found.index, found.term) != (promised.index, promised.term) {
            return Err(ReceiveError::Invalid(format!(
                "it has index {} and term {}, but index {} and term {} were expected",
                found.index, found.term, promised.index, promised.term
            )));
        }
        if found.state != promised.state {
            let why = "its replicated state does not match the message that announced it";
            return Err(ReceiveError::Invalid(why.to_owned()));
        }
        self.file.sync()?;
        // Register the snapshot before the file gets its name, since the name makes it subject to deletion.
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

impl fmt::Debug for SnapshotSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotSink({})", self.temporary.path.display())
    }
}
