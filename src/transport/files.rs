//! The files that the transport uses: its view of the data directory and of the snapshot files.

use crate::storage::SnapshotMeta;
use std::io;

/// A file error. Only the implementation of the trait knows the details.
pub type FileError = Box<dyn std::error::Error + Send + Sync>;

/// The transport's view of the data directory. The methods are called where blocking is allowed.
///
/// When `pin_cluster` fails, only the current transfer ends. An implementation whose disk has failed must end the
/// process itself.
pub trait IdentityStore: Send + Sync + 'static {
    /// This member's id.
    fn member(&self) -> u64;
    /// The cluster's id, or 0 before the member has its first state.
    fn cluster(&self) -> u64;
    /// Stores the cluster's id. The id is durable on return.
    fn pin_cluster(&self, cluster: u64) -> Result<(), FileError>;
}

/// The transport's view of the snapshot files. The methods are called where blocking is allowed.
pub trait SnapshotStore: Send + Sync + 'static {
    /// Opens a snapshot for sending.
    fn open(&self, index: u64, term: u64) -> Result<Box<dyn OutgoingSnapshot>, FileError>;
    /// Creates a file for a snapshot of this cluster that is being received.
    fn receive(&self, cluster: u64) -> Result<Box<dyn IncomingSnapshot>, FileError>;
}

/// A snapshot file that is being sent.
pub trait OutgoingSnapshot: Send + 'static {
    /// Length of the file in bytes.
    fn bytes(&self) -> u64;
    /// Reads the next bytes. Returns 0 at the end.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
}

/// A snapshot file that is being received. Dropping an unfinished file leaves nothing behind.
pub trait IncomingSnapshot: Send + 'static {
    /// Appends to the file.
    fn write(&mut self, bytes: &[u8]) -> Result<(), FileError>;
    /// Checks the whole file, and checks that it is the snapshot that its message promised (index, term and state).
    /// Then moves the file durably into its final place.
    fn finish(self: Box<Self>, promised: &SnapshotMeta) -> Result<(), FileError>;
}
