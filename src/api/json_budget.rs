//! Limits the JSON that is on its way to clients. A JSON text can be six times as long as its value, and stays in memory
//! while its client reads. There may be thousands of clients.
//!
//! Requests that have the same answer share one text and its share of the budget, so slow readers of one text leave the
//! rest to others. A text is kept only while it is being sent.
//!
//! A share of the budget is taken before the text is made. Where the length is not known and only one text is made at a
//! time, the share is taken before the text is sent. The share is returned when the last byte was handed to the last
//! socket, or when the connections are gone.

use super::Front;
use super::reply::{self, Reply};
use crate::limits;
use crate::store::Range;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

/// The texts that are on their way to clients.
#[derive(Debug)]
pub(super) struct JsonTexts {
    bytes_max: usize,
    /// One permit for each byte.
    budget: Arc<Semaphore>,
    sent: Mutex<SentTexts>,
}

#[derive(Debug, Default)]
struct SentTexts {
    texts: HashMap<TextName, Weak<SharedText>>,
    /// The number of texts at which those that were sent are dropped, so that a drop costs little for each text.
    sweep_at: usize,
}

/// What a text shows. Texts of one name are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum TextName {
    /// A page of the list at this index. Its link to the next page says whether it is stale.
    Page {
        range: Range,
        stale: bool,
        index: u64,
    },
    /// A key with the value that the entry with this index has written.
    Pair { key: Vec<u8>, index: u64 },
}

/// A text, once it was made.
pub(super) type SharedText = OnceCell<BudgetedText>;

/// A text with its share of the budget.
#[derive(Debug)]
pub(super) struct BudgetedText {
    text: Vec<u8>,
    _share: Share,
}

/// A share of the budget for one text. A text that is larger than the whole budget takes the whole budget.
#[derive(Debug)]
pub(super) struct Share {
    _permits: OwnedSemaphorePermit,
}

/// A text on its way to one client.
struct SentText(Arc<SharedText>);

impl JsonTexts {
    pub(super) fn new(bytes_max: usize) -> JsonTexts {
        JsonTexts {
            bytes_max,
            budget: Arc::new(Semaphore::new(bytes_max)),
            sent: Mutex::default(),
        }
    }

    /// The text of this name, which may still have to be made.
    pub(super) fn get(&self, name: TextName) -> Arc<SharedText> {
        let mut sent = self.sent.lock();
        if let Some(text) = sent.texts.get(&name).and_then(Weak::upgrade) {
            return text;
        }
        if sent.texts.len() >= sent.sweep_at {
            sent.texts.retain(|_, text| text.strong_count() > 0);
            sent.sweep_at = 2 * sent.texts.len() + 16;
        }
        let text = Arc::new(SharedText::new());
        sent.texts.insert(name, Arc::downgrade(&text));
        text
    }

    /// A share for this many bytes of a read, or `None` if the budget is used up.
    pub(super) fn share(&self, bytes: usize) -> Option<Share> {
        let permits = bytes.min(self.bytes_max) as u32;
        let taken = Arc::clone(&self.budget).try_acquire_many_owned(permits);
        taken.ok().map(|_permits| Share { _permits })
    }
}

impl Front {
    /// A share of a separate budget for the answers to writes, so that slow readers can't cause a write to be refused.
    pub(super) fn share_of_answers(&self, bytes: usize) -> Option<Share> {
        let permits = bytes.min(limits::ANSWERS_BYTES_MAX) as u32;
        let taken = Arc::clone(&self.answer_bytes).try_acquire_many_owned(permits);
        taken.ok().map(|_permits| Share { _permits })
    }
}

impl Share {
    /// The text that takes this share.
    pub(super) fn text(self, text: impl Into<Vec<u8>>) -> BudgetedText {
        BudgetedText {
            text: text.into(),
            _share: self,
        }
    }

    /// Makes the text a reply that holds the share.
    pub(super) fn json(self, text: impl Into<Vec<u8>>) -> Reply {
        to_reply(Arc::new(SharedText::new_with(Some(self.text(text)))))
    }
}

/// The reply with a text that was made.
pub(super) fn to_reply(text: Arc<SharedText>) -> Reply {
    reply::json(Bytes::from_owner(SentText(text)))
}

impl AsRef<[u8]> for SentText {
    fn as_ref(&self) -> &[u8] {
        self.0.get().map_or(&[], |text| &text.text)
    }
}

const _: () = assert!(limits::JSON_BYTES_MAX <= u32::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_answers_share_one_text_while_it_is_sent() {
        let texts = JsonTexts::new(1_000);
        let name = |index| TextName::Pair {
            key: b"k".to_vec(),
            index,
        };
        let first = texts.get(name(1));
        let made = texts.share(900).unwrap().text("text");
        first.set(made).unwrap();
        let reply = to_reply(texts.get(name(1)));
        assert!(Arc::ptr_eq(&first, &texts.get(name(1))));
        assert!(texts.share(900).is_none() && !texts.get(name(2)).initialized());
        drop(first);
        assert!(texts.share(900).is_none(), "a client still reads it");
        drop(reply);
        assert!(texts.share(900).is_some());
        assert!(!texts.get(name(1)).initialized());
        for index in 0..1_000 {
            drop(texts.get(name(index)));
        }
        assert!(texts.sent.lock().texts.len() < 40);
    }
}
