//! The part of a segment's file that is in memory.

use crate::storage::disk::{DiskError, DiskFile};
use crate::storage::wal::record::is_zero;

/// Bytes to read at a time.
pub(super) const WINDOW_BYTES: usize = 1 << 20;

/// A part of a file. The file reads as infinite zeros after its end.
pub(super) struct SegmentWindow {
    pub(super) file: Box<dyn DiskFile>,
    pub(super) len: u64,
    start: u64,
    pub(super) bytes: Vec<u8>,
}

impl SegmentWindow {
    pub(super) fn new(file: Box<dyn DiskFile>) -> Result<SegmentWindow, DiskError> {
        Ok(SegmentWindow {
            len: file.len()?,
            file,
            start: 0,
            bytes: Vec::new(),
        })
    }

    pub(super) fn get(&mut self, offset: u64, count: usize) -> Result<&[u8], DiskError> {
        let held = self.start..self.start + self.bytes.len() as u64;
        if offset < held.start || offset + count as u64 > held.end {
            let left = self.len.saturating_sub(offset);
            let ahead = left.min(WINDOW_BYTES as u64) as usize;
            self.bytes.clear();
            self.bytes.resize(count.max(ahead), 0);
            let left = left.min(self.bytes.len() as u64);
            self.file
                .read_at(&mut self.bytes[..left as usize], offset)?;
            self.start = offset;
        }
        let at = (offset - self.start) as usize;
        Ok(&self.bytes[at..at + count])
    }

    /// One after the last nonzero byte at or after `from`. `from` if there is none.
    pub(super) fn nonzero_end(&mut self, from: u64) -> Result<u64, DiskError> {
        let mut end = from;
        let mut offset = from;
        while offset < self.len {
            let count = WINDOW_BYTES.min((self.len - offset) as usize);
            let bytes = self.get(offset, count)?;
            if !is_zero(bytes)
                && let Some(last) = bytes.iter().rposition(|byte| *byte != 0)
            {
                end = offset + last as u64 + 1;
            }
            offset += count as u64;
        }
        Ok(end)
    }
}
