//! Sizes of the WAL's segments, batches and cache.

use crate::limits;

/// WAL sizes. Tests use small ones.
#[derive(Debug, Clone, Copy)]
pub struct WalOptions {
    /// Maximum segment length in bytes. A batch that would exceed it goes to a new segment.
    pub segment_bytes: u64,
    /// A save is split into several batches of about this many bytes.
    pub batch_bytes: usize,
    /// A start keeps the newest committed entries in memory, up to this many bytes.
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
