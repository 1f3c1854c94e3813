//! Sizes of the WAL's parts.

use crate::limits;

/// Sizes that tests make small.
#[derive(Debug, Clone, Copy)]
pub struct WalOptions {
    /// A segment is closed when the next batch would make it longer than this.
    pub segment_bytes: u64,
    /// A save is split into several batches beyond this.
    pub batch_bytes: usize,
    /// Of committed entries, a start takes the newest into memory, up to so many bytes.
    pub cache_bytes: u64,
}

impl Default for WalOptions {
    fn default() -> WalOptions {
        WalOptions {
            segment_bytes: limits::SEGMENT_BYTES_MAX,
            batch_bytes: limits::BATCH_BYTES_TARGET,
            cache_bytes: limits::LOG_CACHE_BYTES_DEFAULT,
        }
    }
}
