//! The durable state of a member: `LOCK`, `meta`, `wal/` and `snap/` in the data directory.
//!
//! [`DataDir::open`] creates or recovers a data directory. Afterwards the WAL thread owns the [`Wal`], and other
//! threads share [`Meta`] and [`Snapshots`]. All access goes through [`disk::Disk`], which documents what a disk
//! guarantees. Only this module has rules about the order of disk operations.
//!
//! # The orders, and what breaks when one is swapped
//!
//! 1. *A batch is durable before it is acknowledged, and before the next batch is written.* [`Wal::save`] returns after
//!    the fdatasync. If the acknowledgement came first, a crash could lose an acknowledged write or vote. If two
//!    batches were in flight, a later batch would not prove that a bad batch before it was synced, and recovery could
//!    not distinguish damage from a torn write.
//! 2. *A segment and its name are durable before the first new batch is written to it.* Otherwise a crash could remove
//!    the file together with a synced batch. A segment starts as the spare (`wal/segment/spare.rs`), which is not part
//!    of the log.
//! 3. *A snapshot file is synced, then renamed, then its directory is synced, then its mark is written.* If the rename
//!    came before the first sync, a valid name could refer to half a file. If the mark came before the durable rename,
//!    the mark could name a file that does not exist.
//! 4. *A mark and its hard state are in one record.* If they were separate, a crash between them could leave a snapshot
//!    above the commit index, and raft can't start from that.
//! 5. *A mark is durable before older segments and snapshots are deleted.* Otherwise a restart from the older mark
//!    would lack files. The deletion starts after the save was reported as durable and runs on a separate thread, since
//!    removing large files takes long. Segments are deleted oldest first, each durably before the next. Otherwise a
//!    crash could leave a gap.
//! 6. *`meta` says "starting" before any other file is created, and "in use" after all of them exist.* A restart can
//!    therefore recognise and clear the leftovers of an interrupted first start. A log without `meta` is refused: if it
//!    were cleared, the member would forget its votes. The names of the data directory and of all directories above it
//!    are durable even before `meta`: a crash that loses a directory's name loses everything in it. A restore says
//!    "restoring" in place of "starting", see `restore.rs`.
//! 7. *A boot number is durable before it is used.* If a number were used twice, two proposals could have the same id.
//! 8. *The cluster id is durable before the mark of the first snapshot from a leader.* Otherwise a crash could leave
//!    the mark of a cluster that `meta` does not name, which looks like the data of another cluster.
//! 9. *A torn tail is copied aside durably, then cut off durably, then new batches are appended.* See
//!    `wal/segment/reader.rs`.
//! 10. *Everything that a restart has read is synced before it is used.* If the previous process ended without a crash
//!     of the machine, the kernel may hold bytes that are not on the disk. An acknowledgement that relies on them would
//!     break rule 1.
//! 11. *A segment leaves the batch index before its file is deleted.* This order does not matter for crashes. A thread
//!     that reads entries back at the same time would otherwise report the missing file as damage.
//! 12. *A corrected list is durable in `meta` before the entry that corrects the cluster's list.* In the other order, a
//!     crash could leave the mistaken list in `meta`. A later start without options would then go back to that list,
//!     although the cluster forms with the corrected list.
//! 13. *An error of the log is final.* A failed write or sync of the log or of `meta` is never retried; see `disk.rs`.
//!     A snapshot, a received snapshot or a spare segment that can't be written is thrown away, and another one is made
//!     later, in a new file.
//!
//! Every prefix of the WAL that ends between two batches is consistent:
//!
//! - The log has no gap.
//! - Every entry up to the commit index of the hard state is present.
//! - Each mark follows the entries that its snapshot covers.

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
mod leftovers;
pub mod log_index;
pub mod meta;
mod open;
mod private;
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
pub use private::Exposed;
pub use recovery::Load;
pub use snapshot::{
    ArrivedSnapshot, ArrivingSnapshot, ReceiveError, SnapshotEncoder, SnapshotSink, SnapshotSource,
    SnapshotWriter, Snapshots,
};
pub use state::{Mark, Recovered, Save, SnapshotMeta};
pub use wal::read_back::ReadBack;
pub use wal::segment::SPARE;
pub use wal::{LogRoom, Purge, Wal, WalOptions};
