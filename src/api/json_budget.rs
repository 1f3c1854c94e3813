//! Limits the JSON that is on its way to clients. A JSON text can be six times as long as its value, stays in memory
//! while the client reads, and there may be thousands of clients.
//!
//! A share of the budget is taken before the text is made. Where the length is not known and only one text is made at a
//! time, the share is taken before the text is sent. The share is returned when the last byte was handed to the socket,
//! or when the connection is gone.

use super::Front;
use super::reply::{self, Reply};
use crate::limits;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// A share of the budget for one text. A text that is larger than the whole budget takes the whole budget.
pub(super) struct Share {
    _permits: OwnedSemaphorePermit,
}

impl Front {
    /// A share for this many bytes of a read, or `None` if the budget is used up.
    pub(super) fn share(&self, bytes: usize) -> Option<Share> {
        let permits = bytes.min(self.api.limits.json_bytes_max) as u32;
        let taken = Arc::clone(&self.json_bytes).try_acquire_many_owned(permits);
        taken.ok().map(|_permits| Share { _permits })
    }

    /// A share of a separate budget for the answers to writes, so that slow readers can't cause a write to be refused.
    pub(super) fn share_of_answers(&self, bytes: usize) -> Option<Share> {
        let permits = bytes.min(limits::ANSWERS_BYTES_MAX) as u32;
        let taken = Arc::clone(&self.answer_bytes).try_acquire_many_owned(permits);
        taken.ok().map(|_permits| Share { _permits })
    }
}

impl Share {
    /// Makes the text a reply that holds the share.
    pub(super) fn json(self, text: impl Into<Vec<u8>>) -> Reply {
        let text = text.into();
        reply::json(Bytes::from_owner(BudgetedText { text, _share: self }))
    }
}

struct BudgetedText {
    text: Vec<u8>,
    _share: Share,
}

impl AsRef<[u8]> for BudgetedText {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

const _: () = assert!(limits::JSON_BYTES_MAX <= u32::MAX as usize);
