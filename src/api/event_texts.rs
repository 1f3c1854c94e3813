//! The texts of changes as server-sent events. Each text is made once, by the first watcher that sends it, and all
//! watchers share it.
//!
//! - Small texts are kept for the newest entries, up to `EVENT_TEXTS_BYTES_MAX`. A watcher copies them into its pieces.
//! - A large text takes a share of `WATCHES_BYTES_MAX` before it is made, and is made on a worker thread, so that it
//!   delays no other connection. It is in memory only while a watcher sends it. A watcher that waits for a large text
//!   does not keep the entry in memory, because there may be many such watchers.

use super::json;
use crate::limits;
use crate::store::history::{Change, Changes, History, Reader};
use crate::workers::Workers;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock, Weak};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

/// The texts that all watchers share.
#[derive(Debug)]
pub(super) struct EventTexts {
    history: Arc<History>,
    workers: Workers,
    small: Mutex<SmallTexts>,
    /// By index of the entry and number of the change.
    large: Mutex<HashMap<(u64, usize), Weak<LargeCell>>>,
    /// One permit for each byte of large texts.
    budget: Arc<Semaphore>,
}

/// The small texts of the newest entries.
#[derive(Debug, Default)]
struct SmallTexts {
    entries: BTreeMap<u64, Arc<EntryTexts>>,
    bytes: usize,
}

/// The small texts of one entry. A large change has no text here.
#[derive(Debug)]
pub(super) struct EntryTexts {
    /// The most that the texts can take together.
    bytes_max: usize,
    texts: Box<[OnceLock<Box<[u8]>>]>,
}

type LargeCell = OnceCell<LargeText>;

#[derive(Debug)]
struct LargeText {
    text: Vec<u8>,
    _share: OwnedSemaphorePermit,
}

/// A large text on its way to one client.
struct SentText(Arc<LargeCell>);

/// Why there is no large text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoText {
    /// The history no longer has the entry.
    Gone,
    /// The process ends.
    Stopping,
}

impl EventTexts {
    pub(super) fn new(history: &Arc<History>, workers: &Workers) -> EventTexts {
        EventTexts {
            history: Arc::clone(history),
            workers: workers.clone(),
            small: Mutex::default(),
            large: Mutex::default(),
            budget: Arc::new(Semaphore::new(limits::WATCHES_BYTES_MAX)),
        }
    }

    /// The small texts of an entry.
    pub(super) fn of_entry(&self, index: u64, changes: &Changes) -> Arc<EntryTexts> {
        self.small.lock().of_entry(index, changes)
    }

    /// The text of a large change: that of this number in the entry with this index.
    pub(super) async fn large(&self, index: u64, number: usize) -> Result<Bytes, NoText> {
        let cell = self.large_cell(index, number);
        cell.get_or_try_init(|| self.write_large(index, number))
            .await?;
        Ok(Bytes::from_owner(SentText(cell)))
    }

    fn large_cell(&self, index: u64, number: usize) -> Arc<LargeCell> {
        let mut large = self.large.lock();
        if let Some(cell) = large.get(&(index, number)).and_then(Weak::upgrade) {
            return cell;
        }
        large.retain(|_, cell| cell.strong_count() > 0);
        let cell = Arc::new(LargeCell::new());
        large.insert((index, number), Arc::downgrade(&cell));
        cell
    }

    async fn write_large(&self, index: u64, number: usize) -> Result<LargeText, NoText> {
        let bytes = {
            let changes = self.entry(index)?;
            changes.iter().nth(number).map_or(0, bytes_max)
        };
        let share = bytes.min(limits::WATCHES_BYTES_MAX) as u32;
        let share = Arc::clone(&self.budget).acquire_many_owned(share).await;
        let share = share.map_err(|_| NoText::Stopping)?;
        let changes = self.entry(index)?;
        // The work keeps its share, even when the client disconnects meanwhile.
        let written = self.workers.run(move || {
            let change = changes.iter().nth(number);
            let text = change.map_or_else(Vec::new, |change| to_event(index, change));
            LargeText {
                text,
                _share: share,
            }
        });
        written.await.map_err(|_| NoText::Stopping)
    }

    fn entry(&self, index: u64) -> Result<Arc<Changes>, NoText> {
        let mut reader = Reader::new(Arc::clone(&self.history), index - 1);
        let read = reader.read(1, 0).map_err(|_| NoText::Gone)?;
        let entry = read.into_iter().find(|(found, _)| *found == index);
        entry.map(|(_, changes)| changes).ok_or(NoText::Gone)
    }
}

impl SmallTexts {
    fn of_entry(&mut self, index: u64, changes: &Changes) -> Arc<EntryTexts> {
        if let Some(texts) = self.entries.get(&index) {
            return Arc::clone(texts);
        }
        let small = changes.iter().filter(|change| !is_large(*change));
        let texts = Arc::new(EntryTexts {
            bytes_max: small.map(bytes_max).sum(),
            texts: changes.iter().map(|_| OnceLock::new()).collect(),
        });
        self.bytes += texts.bytes_max;
        self.entries.insert(index, Arc::clone(&texts));
        // The new entry itself may be the oldest, and be removed, if its client lags far behind the others.
        while self.bytes > limits::EVENT_TEXTS_BYTES_MAX
            && let Some((_, oldest)) = self.entries.pop_first()
        {
            self.bytes -= oldest.bytes_max;
        }
        texts
    }
}

impl EntryTexts {
    /// The text of a change of the entry with this index: the change of this number.
    pub(super) fn get(&self, index: u64, number: usize, change: Change) -> &[u8] {
        self.texts[number].get_or_init(|| to_event(index, change).into())
    }
}

impl AsRef<[u8]> for SentText {
    fn as_ref(&self) -> &[u8] {
        self.0.get().map_or(&[], |text| &text.text)
    }
}

/// Whether the text of a change is made on a worker thread, and is sent without a copy.
pub(super) fn is_large(change: Change) -> bool {
    let bytes = change.key.len() + change.value.map_or(0, <[u8]>::len);
    bytes > limits::WATCH_PIECE_BYTES
}

/// The most that the text of a change can take: a byte takes at most six bytes as an escape.
fn bytes_max(change: Change) -> usize {
    6 * (change.key.len() + change.value.map_or(0, <[u8]>::len)) + limits::EVENT_FRAME_BYTES
}

/// A change in the form that clients see.
#[derive(Serialize)]
struct Event<'a> {
    op: &'static str,
    index: u64,
    #[serde(flatten)]
    key: json::KeyJson<'a>,
    #[serde(flatten)]
    stored: Option<json::Stored<'a>>,
}

/// A change as an event without an id. An empty line ends the event.
fn to_event(index: u64, change: Change) -> Vec<u8> {
    let mut text = b"data: ".to_vec();
    let event = Event {
        op: change.value.map_or("delete", |_| "put"),
        index,
        key: json::KeyJson::of(change.key),
        stored: change.value.map(|value| json::Stored {
            size: value.len(),
            etag: json::Etag(index),
            value: Some(json::ValueJson::of(value)),
        }),
    };
    json::push(&mut text, &event);
    text.extend_from_slice(b"\n\n");
    text
}

const _: () = assert!(limits::WATCHES_BYTES_MAX <= u32::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(values: &[usize]) -> Changes {
        let data: Bytes = vec![b'v'; values.iter().sum::<usize>() + 1].into();
        let mut changes = Changes::of(data.clone(), values.len());
        let mut at = 1;
        for bytes in values {
            changes.put(&data[..1], &data[at..at + bytes]);
            at += bytes;
        }
        changes
    }

    fn texts(history: &Arc<History>) -> EventTexts {
        EventTexts::new(history, &Workers::start(1).unwrap())
    }

    #[test]
    fn no_text_is_longer_than_what_is_counted_for_it() {
        let worst = [0_u8; 999];
        for value in [&worst[..], b"", b"\xff\xfe"] {
            let change = Change {
                key: b"\x01",
                value: Some(value),
            };
            let text = to_event(u64::MAX, change);
            assert!(text.len() <= bytes_max(change), "{}", text.len());
        }
    }

    #[test]
    fn the_newest_small_texts_are_kept_within_the_limit() {
        let texts = texts(&Arc::new(History::new(1 << 20)));
        let changes = entry(&[30_000, 30_000]);
        let most = bytes_max(changes.iter().next().unwrap());
        let first = texts.of_entry(1, &changes);
        assert!(Arc::ptr_eq(&first, &texts.of_entry(1, &changes)));
        for index in 2..2_000 {
            let kept = texts.of_entry(index, &changes);
            assert!(kept.get(index, 1, changes.iter().nth(1).unwrap()).len() > 30_000);
            assert!(texts.small.lock().bytes <= limits::EVENT_TEXTS_BYTES_MAX);
        }
        assert!(texts.small.lock().bytes > limits::EVENT_TEXTS_BYTES_MAX - 2 * most);
        assert!(texts.small.lock().entries.contains_key(&1_999));
        assert!(!Arc::ptr_eq(&first, &texts.of_entry(1, &changes)));
        assert!(!texts.small.lock().entries.contains_key(&1));
    }

    #[tokio::test]
    async fn a_large_text_is_made_once_and_dropped_with_its_last_reader() {
        let history = Arc::new(History::new(64 << 20));
        history.append(7, entry(&[1, 1 << 20]));
        let texts = texts(&history);
        let first = texts.large(7, 1).await.unwrap();
        let again = texts.large(7, 1).await.unwrap();
        assert_eq!(first.as_ptr(), again.as_ptr());
        assert!(first.len() > 1 << 20);
        let taken = limits::WATCHES_BYTES_MAX - texts.budget.available_permits();
        assert!((6 << 20..7 << 20).contains(&taken), "{taken}");
        drop((first, again));
        assert_eq!(texts.budget.available_permits(), limits::WATCHES_BYTES_MAX);
        assert_eq!(texts.large(8, 0).await, Err(NoText::Gone));
    }
}
