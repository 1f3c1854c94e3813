//! JSON on its way to clients is bounded: a text of up to six times a value would otherwise stay in memory for as long as
//! its client takes to read it, and there may be thousands of clients.
//!
//! A share is taken before the text is made, or, where its length is not known and only one is made at a time, before it
//! is sent; it ends when the last byte was handed to the socket, or the connection is gone.

use super::Front;
use super::reply::{self, Reply};
use crate::limits;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// Room for one text. The larger ones than all there is take all there is.
pub(super) struct Share {
    _permits: OwnedSemaphorePermit,
}

impl Front {
    /// Room for so many bytes that were read, or `None`: too much is being sent.
    pub(super) fn share(&self, bytes: usize) -> Option<Share> {
        let permits = bytes.min(self.api.limits.json_bytes_max) as u32;
        let taken = Arc::clone(&self.json_bytes).try_acquire_many_owned(permits);
        taken.ok().map(|_permits| Share { _permits })
    }

    /// The same for what a write did: readers, however slow, refuse no write.
    pub(super) fn share_of_answers(&self, bytes: usize) -> Option<Share> {
        let permits = bytes.min(limits::ANSWERS_BYTES_MAX) as u32;
        let taken = Arc::clone(&self.answer_bytes).try_acquire_many_owned(permits);
        taken.ok().map(|_permits| Share { _permits })
    }
}

impl Share {
    /// The text as a reply that holds its share.
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
