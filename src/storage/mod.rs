//! What is on disk: `LOCK`, `meta`, `wal/`, `snap/` in the data directory. Only this module has crash-ordering rules.
//!
//! [`DataDir::open`] creates or recovers a data directory. Then the WAL thread owns the [`Wal`], while [`Meta`] and
//! [`Snapshots`] are shared. All access goes through [`disk::Disk`], which states what it promises.
//!
//! # The orders, and what breaks when one is swapped
//!
//! 1. *Batch durable, then acknowledge, then the next batch.* [`Wal::save`] returns after the fdatasync. Acknowledged
//!    earlier, a write or a vote could be lost; with two batches in flight, a damaged batch could no longer be told
//!    from a torn one by what follows it.
//! 2. *Segment, its name included, durable, then its first own batch.* Otherwise a synced batch stands in a file that
//!    a crash removes.
//! 3. *Snapshot file synced, then renamed, then the directory synced, then the mark.* Renamed before it is synced, a
//!    valid name could stand for half a file; marked before the rename is durable, the mark could name no file.
//! 4. *Mark and hard state in one record.* Apart, a crash between them leaves a snapshot above the commit index, from
//!    which raft can't start.
//! 5. *Mark durable, then older segments and snapshots go.* Otherwise a crash leaves a restart without what the older
//!    mark needs. They go after it was reported that the save is durable, and by a thread of their own: removing
//!    large files takes long. Segments go oldest first, one after the other durably, or a crash could leave a gap.
//! 6. *`meta` says "starting" before anything else is made, and "in use" after everything was.* So what a crash left
//!    of a first start is recognised and cleared, while a lost `meta` beside a log is refused: cleared by mistake it
//!    would be a member that forgot its votes.
//!    The names of all directories on the way to it come before even that: lost, they take everything with them.
//!    A restore says "restoring" in place of "starting", see `restore.rs`.
//! 7. *Boot number durable before it is used.* A number that is used twice makes two proposals look like one.
//! 8. *A cluster id durable before the mark of the first snapshot from a leader.* Otherwise a crash leaves the mark of
//!    a cluster that `meta` does not name, and it can't be told from somebody else's.
//! 9. *A torn tail is copied aside durably, then cut durably, then the log goes on.* See `segment.rs`.
//! 10. *What a restart has read is synced before it is used.* After a mere end of the process the kernel may hold bytes
//!     that are not on the disk; acknowledging on their strength would repeat mistake 1.
//! 11. *A segment out of the index, then its file goes.* Not for a crash: who reads entries back beside it takes a
//!     missing file for damage otherwise.
//! 12. *The list in `meta` durable before the entry that corrects the cluster's list.* The other way round, a crash leaves a
//!     cluster that forms of the corrected list, and a start without options would take the mistaken one back.
//! 13. *An error is final.* No write or sync is tried again; see `disk.rs`.
//!
//! Any prefix of the WAL that ends between two batches is consistent: the log has no gap, every entry that a hard state
//! calls committed is there, and each mark stands behind the entries that it covers.

mod beginning;
mod create;
mod data_dir;
pub mod disk;
mod error;
#[cfg(test)]
#[path = "../../tests/simulation/disk.rs"]
mod fake_disk;
mod format;
pub mod inspect;
mod known;
mod later_entries;
pub mod log_index;
pub mod meta;
mod open;
mod recovery;
pub mod restore;
pub mod snapshot;
mod state;
#[cfg(test)]
mod tests;
pub mod wal;

pub use beginning::{Beginning, Start};
pub use data_dir::DataDir;
pub use disk::{Disk, DiskError, Lock, ReadOnlyDisk, RealDisk};
pub use error::StorageError;
pub use log_index::LogIndex;
pub use meta::{Given, Meta};
pub use open::Opened;
pub use recovery::Load;
pub use snapshot::{
    ReceiveError, SnapshotEncoder, SnapshotSink, SnapshotSource, SnapshotWriter, Snapshots,
};
pub use state::{Mark, Recovered, Save, SnapshotMeta};
pub use wal::read_back::ReadBack;
pub use wal::{Purge, Wal, WalOptions};
