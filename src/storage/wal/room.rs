//! The room of the log: how much it can still store, whatever happens to the rest of the disk.
//!
//! Blocks of a segment are reserved when the segment is created, and one *spare* segment is kept beside the current one
//! (`segment/spare.rs`). The log writes only into reserved blocks. So a full disk never fails a write of the log. It
//! only denies the log its next spare segment.
//!
//! The node and the log both count in [`Save::log_bytes`]: the node adds up what it hands over, and the log adds up
//! what it has stored. [`LogRoom::end`] is a sum of the same kind, so an old report is still right: the log has room
//! for every save up to that sum.

use crate::limits;
use crate::storage::state::Save;

/// More bytes than a record has besides the data and the context of its entry, and a batch besides its records. Each
/// entry may start a batch.
const ENTRY_OVERHEAD_BYTES: u64 = 128;
/// More bytes than a batch has besides its entries and its mark.
const SAVE_OVERHEAD_BYTES: u64 = 128;
/// More bytes than the record of a mark has.
const MARK_BYTES: u64 = 64;

impl Save {
    /// An upper bound of the bytes that this save takes in the log.
    pub fn log_bytes(&self) -> u64 {
        if !self.sync {
            // This save is written together with the next one.
            return 0;
        }
        let entries: u64 = self.entries.iter().map(entry_log_bytes).sum();
        let mark = self.mark.as_ref().map_or(0, |_| MARK_BYTES);
        SAVE_OVERHEAD_BYTES + mark + entries
    }
}

/// An upper bound of the bytes that an entry takes in the log, without those of its save.
pub fn entry_log_bytes(entry: &raft::eraftpb::Entry) -> u64 {
    ENTRY_OVERHEAD_BYTES + (entry.data.len() + entry.context.len()) as u64
}

/// How much the log can store. See the documentation of this module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRoom {
    /// The sum of [`Save::log_bytes`] of all saves since the start up to which there is room for entries. The reserve
    /// for votes, empty entries and marks is not included.
    pub end: u64,
    /// Where the log continues behind the current segment.
    pub next: NextSegment,
    /// The room that proposals leave to the entries of other leaders, if the next segment was denied.
    pub margin: u64,
}

/// The segment behind the current one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextSegment {
    /// The segment is kept aside.
    Kept,
    /// The segment is being made, or is about to be made. This may take a while: a file descriptor may be missing.
    Awaited,
    /// The disk has no room for the segment, or fails. Until there is room, [`LogRoom::end`] does not grow.
    Denied,
}

impl LogRoom {
    /// For a node without a disk.
    pub const UNLIMITED: LogRoom = LogRoom {
        end: u64::MAX,
        next: NextSegment::Kept,
        margin: 0,
    };
}

/// Bytes of a segment of this length that entries do not use while the log is short.
pub(super) fn reserve(segment_bytes: u64) -> u64 {
    segment_bytes / limits::LOG_RESERVE_SHARE
}
