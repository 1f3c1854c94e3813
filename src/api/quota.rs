//! The quota of the map: over it, writes that put something into the map are refused, and deletions go on.
//!
//! A flag of each member, checked where a write comes in and before it is proposed, against what this member's own map
//! holds and what is on its way from here. It is no part of the replicated state: what comes in through other members at
//! the same time, or was given up here with an unknown outcome, can carry the map beyond it.

use super::Front;
use super::error_code::Code;
use super::reply::{self, Reply};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of keys and values on their way from this member into the map.
#[derive(Debug, Default)]
pub(super) struct UnderWay(AtomicU64);

/// Room in the map that a write has taken, given back when its outcome is known: then the map itself counts it.
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
    /// Takes room for `bytes` of keys and values, or says that there is none. What they replace is not deducted: that
    /// is known only when they are applied.
    pub(super) fn take_room(&self, bytes: usize) -> Result<Option<Room<'_>>, Box<Reply>> {
        let limit = self.api.limits.store_bytes_max;
        if limit == 0 {
            return Ok(None);
        }
        let bytes = bytes as u64;
        let stored = self.api.state_machine.store.bytes();
        // In one step: a write that is refused must not take room from another for a moment.
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

/// 507: surely not written.
fn full(held: u64, bytes: u64, limit: u64) -> Box<Reply> {
    let line = format!(
        "not written: with these {bytes} bytes the {held} of the store would exceed --max-store-bytes {limit}; delete \
         keys, or start this member with a larger --max-store-bytes"
    );
    let mut reply = reply::error(Code::StoreFull, line);
    reply::set_outcome(&mut reply, "none");
    reply
}
