//! The files that the transport works with: what it asks of the data directory and of the snapshot files.

use crate::storage::SnapshotMeta;
use std::io;

/// An error of a file, which the implementation of the trait knows in detail.
pub type FileError = Box<dyn std::error::Error + Send + Sync>;

/// What the transport asks of the data directory. Called where blocking is allowed.
///
/// When the setter fails the transfer at hand is given up, nothing more: an implementation whose disk has failed has to
/// see to the end of the process itself.
pub trait IdentityStore: Send + Sync + 'static {
    /// This member's id.
    fn member(&self) -> u64;
    /// The cluster's id, 0 before the first state has come.
    fn cluster(&self) -> u64;
    /// Remembers the cluster's id; durable on return.
    fn pin_cluster(&self, cluster: u64) -> Result<(), FileError>;
}

/// Snapshot files, as the transport needs them. Called where blocking is allowed.
pub trait SnapshotStore: Send + Sync + 'static {
    /// Opens a snapshot to send it.
    fn open(&self, index: u64, term: u64) -> Result<Box<dyn OutgoingSnapshot>, FileError>;
    /// Begins a file for a snapshot of this cluster that is being received.
    fn receive(&self, cluster: u64) -> Result<Box<dyn IncomingSnapshot>, FileError>;
}

/// A snapshot file that is being sent.
pub trait OutgoingSnapshot: Send + 'static {
    /// Its length.
    fn bytes(&self) -> u64;
    /// Reads on; 0 at the end.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
}

/// A snapshot file that is being received. Dropped unfinished it leaves nothing behind.
pub trait IncomingSnapshot: Send + 'static {
    /// Appends.
    fn write(&mut self, bytes: &[u8]) -> Result<(), FileError>;
    /// Checks all of it, and that it is the snapshot that its message promised (index, term and state), and puts it
    /// durably into its final place.
    fn finish(self: Box<Self>, promised: &SnapshotMeta) -> Result<(), FileError>;
}
