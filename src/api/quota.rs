//! The quota of the map: puts that would take the map over its quota are refused. Deletions are always accepted.
//!
//! The quota is a command-line option of each member. A member checks a write when it receives the write and before it
//! proposes the write. It compares the quota with its own map plus the writes that it has under way. The quota is not
//! part of the replicated state. Writes that other members receive at the same time can exceed the quota. So can writes
//! whose requests ended here with an unknown outcome.

use super::Front;
use super::error_code::Code;
use super::reply::{self, Reply};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of keys and values in writes that this member has proposed and that have no outcome yet.
#[derive(Debug, Default)]
pub(super) struct UnderWay(AtomicU64);

/// Room in the map that a write has reserved. The room is released when the request ends. If the write was applied, the
/// map itself counts it from then on.
#[derive(Debug)]
pub(super) struct Room<'a> {
    under_way: &'a UnderWay,
    bytes: u64,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.under_way.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Front {
    /// Reserves room for `bytes` of keys and values, or refuses the write. The size of replaced values is not deducted,
    /// because it is known only when the write is applied.
    pub(super) fn take_room(&self, bytes: usize) -> Result<Option<Room<'_>>, Box<Reply>> {
        let limit = self.api.limits.store_bytes_max;
        if limit == 0 {
            return Ok(None);
        }
        let bytes = bytes as u64;
        let stored = self.api.state_machine.store.bytes();
        // Check and reservation are one atomic step. In two steps, a write that is refused could hold room for a moment
        // and cause another refusal.
        let taken =
            self.under_way
                .0
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |under_way| {
                    let sum = under_way.saturating_add(bytes);
                    (stored.saturating_add(sum) <= limit).then_some(sum)
                });
        match taken {
            Ok(_) => Ok(Some(Room {
                under_way: &self.under_way,
                bytes,
            })),
            Err(under_way) => Err(full(stored.saturating_add(under_way), bytes, limit)),
        }
    }
}

/// 507: certainly not written.
fn full(held: u64, bytes: u64, limit: u64) -> Box<Reply> {
    let line = format!(
        "not written: with these {bytes} bytes the {held} of the store would exceed --max-store-bytes {limit}; delete \
         keys, or start this member with a larger --max-store-bytes"
    );
    let mut reply = reply::error(Code::StoreFull, line);
    reply::set_outcome(&mut reply, "none");
    reply
}
