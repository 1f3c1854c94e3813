//! The newest changes of the map, in log order, for watchers.
//!
//! The changes of an entry are known only when it is applied: a condition may fail, or a key may not exist. The apply
//! path therefore records for each entry which keys it put and deleted. [`Reader`]s read these records, each at its own
//! pace. A record has the places of key and value in the entry's data and copies neither: the log in memory holds the
//! same bytes (see `node/log.rs`).
//!
//! Invariants:
//! - All changes by entries above `oldest` and up to `newest` are present.
//! - Entries are dropped as a whole, the oldest first.
//! - A reader that has missed an entry gets an error and nothing more.
//! - Nothing waits for a reader.

use crate::limits;
use crate::mutants::{Mutant, is_planted};
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// The history of this member. Written by one thread at a time: the thread that applies entries.
#[derive(Debug, Default)]
pub struct History {
    bytes_max: u64,
    state: Mutex<HistoryState>,
    /// Number of readers. If there are none, an append wakes nobody.
    readers: AtomicUsize,
    news: Notify,
}

#[derive(Debug, Default)]
struct HistoryState {
    /// Index and changes of each entry that changed something.
    entries: VecDeque<(u64, Arc<Changes>)>,
    /// Total weight of these entries: see [`Changes::weight`].
    bytes: u64,
    /// Bytes of the entries applied since the last of these entries. They changed nothing.
    beside: u64,
    /// Index of the last entry that may have changed something and is not in `entries`.
    oldest: u64,
    /// Index of the last entry that was applied.
    newest: u64,
}

/// The changes of one entry, in order.
#[derive(Debug)]
pub struct Changes {
    data: Bytes,
    spans: Vec<Span>,
    /// Bytes of the preceding entries that changed nothing. Entries that arrived in one frame may share an allocation,
    /// and this entry then keeps the others in memory.
    beside: u64,
}

/// One change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    /// The key that changed.
    pub key: &'a [u8],
    /// The new value. `None` if the key was deleted.
    pub value: Option<&'a [u8]>,
}

/// Where a change is in the entry's data, which is far smaller than 4 GiB.
#[derive(Debug, Clone, Copy)]
struct Span {
    key: u32,
    key_bytes: u32,
    value: u32,
    /// [`DELETED`] for a deletion.
    value_bytes: u32,
}

const DELETED: u32 = u32::MAX;

/// Approximate memory of an entry besides its data and spans: two allocations and a place in the queue.
const ENTRY_BYTES: usize = 128;

impl Changes {
    /// No changes yet, for the entry with this data, which has at most `at_most` changes.
    pub fn of(data: Bytes, at_most: usize) -> Changes {
        let spans = Vec::with_capacity(at_most);
        Changes {
            data,
            spans,
            beside: 0,
        }
    }

    /// Adds a put. `key` and `value` are slices of the data.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        let (value_at, value_bytes) = self.place(value);
        self.push(key, value_at, value_bytes);
    }

    /// Adds a deletion. `key` is a slice of the data.
    pub fn delete(&mut self, key: &[u8]) {
        self.push(key, 0, DELETED);
    }

    fn push(&mut self, key: &[u8], value: u32, value_bytes: u32) {
        let (key, key_bytes) = self.place(key);
        self.spans.push(Span {
            key,
            key_bytes,
            value,
            value_bytes,
        });
    }

    /// Offset and length of a slice of the data.
    fn place(&self, part: &[u8]) -> (u32, u32) {
        if part.is_empty() {
            // The pointer of an empty slice is arbitrary.
            return (0, 0);
        }
        let offset = (part.as_ptr().addr()).wrapping_sub(self.data.as_ptr().addr());
        let end = offset.wrapping_add(part.len());
        assert!(
            offset < end && end <= self.data.len(),
            "{} decoded bytes are at offset {offset} of an entry of {} bytes",
            part.len(),
            self.data.len()
        );
        (offset as u32, part.len() as u32)
    }

    /// The changes, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Change<'_>> {
        let part = |at: u32, bytes: u32| &self.data[at as usize..][..bytes as usize];
        self.spans.iter().map(move |span| Change {
            key: part(span.key, span.key_bytes),
            value: (span.value_bytes != DELETED).then(|| part(span.value, span.value_bytes)),
        })
    }

    /// Bytes of the entry's data: approximately the size of its changes when they are sent.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// The bytes that count towards the limit of the history.
    pub fn weight(&self) -> u64 {
        let own = self.data.len() + self.spans.capacity() * size_of::<Span>() + ENTRY_BYTES;
        own as u64 + self.beside
    }
}

impl History {
    /// An empty history. It is limited to about `bytes_max` bytes, but always keeps the newest entry.
    pub fn new(bytes_max: u64) -> History {
        History {
            bytes_max,
            ..History::default()
        }
    }

    /// Restarts the history when the map becomes that of `index`. The history is complete after `index`, or after
    /// `oldest` if that is higher: a start also replays entries that are not kept in memory.
    pub fn begin(&self, index: u64, oldest: u64) {
        let mut state = self.lock();
        let gone = std::mem::take(&mut state.entries);
        state.bytes = 0;
        state.beside = 0;
        let before = state.oldest;
        state.oldest = match oldest.max(index) {
            // The first snapshot of a cluster, whose map is empty.
            1 => 0,
            _ if is_planted(Mutant::HistoryGapAfterSnapshot) => before,
            oldest => oldest,
        };
        state.newest = index;
        drop(state);
        drop(gone);
        self.tell();
    }

    /// Adds the changes of an entry that was applied.
    pub fn append(&self, index: u64, mut changes: Changes) {
        let mut gone = Vec::new();
        let mut state = self.lock();
        assert!(
            index > state.newest,
            "entry {index} is applied after entry {}",
            state.newest
        );
        state.newest = index;
        if index <= state.oldest {
            state.beside = 0;
        } else if changes.spans.is_empty() {
            state.beside += changes.data.len() as u64;
        } else {
            // `beside` is limited to what one frame can hold, and to an eighth of the history, so that this entry does
            // not displace entries that readers are about to read.
            let most = (limits::FRAME_BYTES_TARGET as u64).min(self.bytes_max / 8);
            changes.beside = std::mem::take(&mut state.beside).min(most);
            state.bytes += changes.weight();
            state.entries.push_back((index, Arc::new(changes)));
            while state.bytes > self.bytes_max && state.entries.len() > 1 {
                let (index, changes) = state.entries.pop_front().expect("there are two");
                state.bytes -= changes.weight();
                if !is_planted(Mutant::HistoryGap) {
                    state.oldest = index;
                }
                gone.push(changes);
            }
        }
        drop(state);
        // Free them after the lock is released: there may be many.
        drop(gone);
        self.tell();
    }

    /// Index of the last entry that was applied.
    pub fn newest(&self) -> u64 {
        self.lock().newest
    }

    /// The lowest index after which no change is missing.
    pub fn oldest(&self) -> u64 {
        self.lock().oldest
    }

    /// The limit of the history in bytes.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Completes when something was applied since its last completion. Only one task may wait here. That task wakes all
    /// watchers, so that the apply thread does not have to.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    fn tell(&self) {
        // A reader that is not counted yet takes the lock later, and then sees the appended entry.
        if self.readers.load(Ordering::Relaxed) > 0 {
            self.news.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HistoryState> {
        self.state.lock()
    }
}

/// Reads the history from some position on.
#[derive(Debug)]
pub struct Reader {
    history: Arc<History>,
    position: u64,
}

/// The history no longer has all changes after the position of the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    /// The history is complete after this index: see [`History::oldest`].
    pub oldest: u64,
}

impl Reader {
    /// Reads the changes after this index.
    pub fn new(history: Arc<History>, position: u64) -> Reader {
        history.readers.fetch_add(1, Ordering::Relaxed);
        Reader { history, position }
    }

    /// The index up to which everything was read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Goes to this index: the changes after the index are read next.
    pub fn go_to(&mut self, position: u64) {
        self.position = position;
    }

    /// The next entries that changed something: at most `entries_max` entries, and at most `bytes_max` bytes unless the
    /// first entry is larger. Empty if everything was read.
    pub fn read(
        &mut self,
        entries_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Arc<Changes>)>, Gone> {
        let state = self.history.lock();
        if self.position < state.oldest {
            let oldest = state.oldest;
            return Err(Gone { oldest });
        }
        let first = state
            .entries
            .partition_point(|(index, _)| *index <= self.position);
        let left = state.entries.range(first..);
        let mut bytes = 0;
        let taken = left.enumerate().take_while(|(count, (_, changes))| {
            bytes += changes.bytes();
            *count == 0 || (*count < entries_max && bytes <= bytes_max)
        });
        let taken: Vec<_> = taken.map(|(_, entry)| entry.clone()).collect();
        let all = first + taken.len() == state.entries.len();
        self.position = match taken.last() {
            Some((index, _)) if !all => *index,
            // Nothing after it was changed.
            _ => state.newest.max(self.position),
        };
        Ok(taken)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.history.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry of this many bytes, which puts one key for each byte.
    fn entry(bytes: usize) -> Changes {
        let data = Bytes::from((0..bytes).map(|i| i as u8).collect::<Vec<_>>());
        let mut changes = Changes::of(data.clone(), bytes);
        for i in 0..bytes {
            changes.put(&data[i..=i], &data[i..]);
        }
        changes
    }

    fn indexes(reader: &mut Reader, entries: usize, bytes: usize) -> Vec<u64> {
        let read = reader.read(entries, bytes).unwrap();
        read.into_iter().map(|(index, _)| index).collect()
    }

    #[test]
    fn changes_are_read_in_order_and_unchanged() {
        let data = Bytes::from_static(b"-key+value-gone");
        let mut changes = Changes::of(data.clone(), 1);
        changes.put(&data[1..4], &data[5..10]);
        changes.delete(&data[11..]);
        changes.put(&data[11..], b"");
        let history = Arc::new(History::new(1_000));
        history.append(7, changes);
        let read = Reader::new(history, 0).read(1, 1).unwrap();
        let change = |key: &'static str, value: Option<&'static str>| Change {
            key: key.as_bytes(),
            value: value.map(str::as_bytes),
        };
        let expected = [
            change("key", Some("value")),
            change("gone", None),
            change("gone", Some("")),
        ];
        assert_eq!(read[0].0, 7);
        assert!(read[0].1.iter().eq(expected));
    }

    #[test]
    #[should_panic(expected = "1 decoded bytes are at offset")]
    fn a_key_that_is_no_slice_of_its_entry_is_a_bug() {
        Changes::of(Bytes::from_static(b"data"), 1).delete(b"k");
    }

    #[test]
    fn the_oldest_entries_are_dropped_whole_and_their_readers_get_an_error() {
        let weight = entry(3).weight();
        assert_eq!(weight, (3 + 3 * 16 + ENTRY_BYTES) as u64);
        let history = Arc::new(History::new(3 * weight));
        history.begin(10, 10);
        let mut slow = Reader::new(history.clone(), 10);
        for index in [12, 14, 16] {
            history.append(index, entry(3));
            // An entry without changes needs no record.
            history.append(index + 1, Changes::of(Bytes::new(), 0));
        }
        assert_eq!((history.oldest(), history.newest()), (10, 17));
        assert_eq!(
            indexes(&mut Reader::new(history.clone(), 10), 9, 99),
            [12, 14, 16]
        );
        history.append(18, entry(3));
        assert_eq!((history.oldest(), history.newest()), (12, 18));
        assert_eq!(slow.read(9, 99).unwrap_err(), Gone { oldest: 12 });
        assert_eq!(
            Reader::new(history.clone(), 11)
                .read(9, 99)
                .unwrap_err()
                .oldest,
            12
        );
        assert_eq!(
            indexes(&mut Reader::new(history.clone(), 12), 9, 99),
            [14, 16, 18]
        );
        // The newest entry stays, however large it is.
        history.append(19, entry(300));
        assert_eq!(history.oldest(), 18);
        assert_eq!(indexes(&mut Reader::new(history.clone(), 18), 9, 0), [19]);
        history.append(20, entry(1));
        assert_eq!(history.oldest(), 19);
        assert_eq!(history.lock().bytes, entry(1).weight());
    }

    #[test]
    fn a_reader_respects_its_limits_and_ends_at_the_newest_index() {
        let history = Arc::new(History::new(1 << 20));
        let mut reader = Reader::new(history.clone(), 0);
        assert_eq!(
            (indexes(&mut reader, 9, 99), reader.position()),
            (vec![], 0)
        );
        for index in [2, 3, 5, 8] {
            history.append(index, entry(10));
        }
        history.append(9, Changes::of(Bytes::new(), 0));
        assert_eq!(
            (indexes(&mut reader, 9, 5), reader.position()),
            (vec![2], 2)
        );
        assert_eq!(
            (indexes(&mut reader, 2, 99), reader.position()),
            (vec![3, 5], 5)
        );
        reader.go_to(2);
        assert_eq!(
            (indexes(&mut reader, 9, 20), reader.position()),
            (vec![3, 5], 5)
        );
        assert_eq!(
            (indexes(&mut reader, 9, 20), reader.position()),
            (vec![8], 9)
        );
        assert_eq!(
            (indexes(&mut reader, 9, 20), reader.position()),
            (vec![], 9)
        );
    }

    #[test]
    fn after_a_snapshot_the_history_restarts() {
        let history = Arc::new(History::new(1 << 20));
        history.append(2, entry(1));
        let (mut behind, mut at) = (
            Reader::new(history.clone(), 2),
            Reader::new(history.clone(), 50),
        );
        history.begin(50, 50);
        assert_eq!((history.oldest(), history.newest()), (50, 50));
        assert_eq!(behind.read(9, 99).unwrap_err(), Gone { oldest: 50 });
        history.append(51, entry(1));
        assert_eq!(indexes(&mut at, 9, 99), [51]);
        assert_eq!(history.lock().bytes, entry(1).weight());
    }

    #[test]
    fn entries_replayed_before_the_start_of_the_history_are_not_kept() {
        let history = Arc::new(History::new(1 << 20));
        history.begin(5, 7);
        for index in 6..10 {
            history.append(index, entry(1));
        }
        assert_eq!((history.oldest(), history.newest()), (7, 9));
        let mut early = Reader::new(history.clone(), 6);
        assert_eq!(early.read(9, 99).unwrap_err(), Gone { oldest: 7 });
        assert_eq!(indexes(&mut Reader::new(history, 7), 9, 99), [8, 9]);
    }

    #[test]
    fn the_history_of_a_new_cluster_is_complete() {
        let history = Arc::new(History::new(1 << 20));
        history.begin(1, 1);
        history.append(2, entry(1));
        assert_eq!(indexes(&mut Reader::new(history, 0), 9, 99), [2]);
    }

    #[test]
    fn entries_without_changes_count_towards_the_next_entry() {
        let nothing = |bytes| Changes::of(Bytes::from(vec![0; bytes]), 0);
        let history = Arc::new(History::new(80_000));
        history.append(1, entry(1));
        history.append(2, nothing(3_000));
        history.append(3, nothing(4_000));
        history.append(4, entry(1));
        let both = entry(1).weight() * 2 + 7_000;
        assert_eq!(history.lock().bytes, both);
        // Even many such entries do not displace the existing changes.
        history.append(5, nothing(1 << 20));
        history.append(6, entry(1));
        assert_eq!(history.lock().bytes, both + entry(1).weight() + 10_000);
        assert_eq!(
            indexes(&mut Reader::new(history.clone(), 0), 9, 99),
            [1, 4, 6]
        );

        history.append(7, nothing(5_000));
        history.begin(8, 8);
        history.append(9, entry(1));
        assert_eq!(history.lock().bytes, entry(1).weight());
    }
}
