//! Reads of many keys at one index: a page of a frozen map.
//!
//! The map has no order, so such a read visits every key and collects as many of the lowest matching keys as requested.
//! An ordered index would double the memory for keys.

use super::frozen::Frozen;
use crate::limits;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Selects keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Range {
    /// Only keys with this prefix.
    pub prefix: Vec<u8>,
    /// Only keys greater than this, compared byte by byte. No key is empty, so an empty `after` excludes nothing.
    pub after: Vec<u8>,
    /// Maximum number of keys. The lowest ones are returned.
    pub limit: usize,
    /// Whether to return values. If so, the page ends with the key whose value makes the total exceed
    /// [`limits::LIST_BYTES_MAX`] bytes.
    pub values: bool,
}

/// The result of a scan.
#[derive(Debug)]
pub struct Page {
    /// In ascending order of their keys.
    pub entries: Vec<Listed>,
    /// Whether there are further matching keys after these.
    pub more: bool,
}

/// A key on a page.
pub struct Listed {
    /// The key.
    pub key: Box<[u8]>,
    /// Index of the log entry that wrote the value: its ETag.
    pub index: u64,
    /// Size of the value in bytes.
    pub size: usize,
    /// The value, if values were requested.
    pub value: Option<Box<[u8]>>,
}

/// The caller ended the scan early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("looking at all keys took too long")]
pub struct GivenUp;

/// The lowest keys found so far.
struct Least<'a> {
    range: &'a Range,
    /// The greatest key first.
    heap: BinaryHeap<Listed>,
    value_bytes: usize,
    /// The lowest key that was dropped. Keys from here on are not collected, or the page would have a gap.
    end: Option<Box<[u8]>>,
}

impl Frozen {
    /// The lowest keys of a range. Visits every key of the map. Calls `give_up` from time to time, and ends if it
    /// returns true.
    pub fn least(self, range: &Range, mut give_up: impl FnMut() -> bool) -> Result<Page, GivenUp> {
        let mut least = Least {
            range,
            heap: BinaryHeap::new(),
            value_bytes: 0,
            end: None,
        };
        self.visit_in_pieces(
            |key, index, value| least.look_at(key, index, value),
            || match give_up() {
                true => Err(GivenUp),
                false => Ok(()),
            },
        )?;
        Ok(Page {
            more: least.end.is_some(),
            entries: least.heap.into_sorted_vec(),
        })
    }
}

impl Least<'_> {
    fn look_at(&mut self, key: &[u8], index: u64, value: &[u8]) {
        let range = self.range;
        let beyond = self.end.as_deref().is_some_and(|end| key >= end);
        if beyond || key <= &*range.after || !key.starts_with(&range.prefix) {
            return;
        }
        let value_of = |value: &[u8]| range.values.then(|| Box::from(value));
        self.heap.push(Listed {
            key: key.into(),
            index,
            size: value.len(),
            value: value_of(value),
        });
        self.value_bytes += value.len();
        while let Some(greatest) = self.heap.peek() {
            let others = self.value_bytes - greatest.size;
            let too_long = range.values && others > limits::LIST_BYTES_MAX;
            if self.heap.len() <= range.limit && !too_long {
                break;
            }
            self.value_bytes = others;
            self.end = self.heap.pop().map(|dropped| dropped.key);
        }
    }
}

impl Ord for Listed {
    fn cmp(&self, other: &Listed) -> Ordering {
        self.key.cmp(&other.key)
    }
}

impl PartialOrd for Listed {
    fn partial_cmp(&self, other: &Listed) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Listed {
    fn eq(&self, other: &Listed) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Listed {}

impl std::fmt::Debug for Listed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Do not print the contents.
        write!(f, "Listed({} bytes)", self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, Kind};
    use crate::store::Store;

    fn put(store: &Store, key: &str, value: &[u8], index: u64) {
        let mut command = Command::new();
        command.kind = Kind::Put;
        command.key = key.to_owned().into();
        command.value = value.to_vec().into();
        store.apply(&command, index);
    }

    fn range(prefix: &str, after: &str, limit: usize, values: bool) -> Range {
        Range {
            prefix: prefix.into(),
            after: after.into(),
            limit,
            values,
        }
    }

    fn keys(page: &Page) -> Vec<&str> {
        let keys = page.entries.iter().map(|entry| &*entry.key);
        keys.map(|key| std::str::from_utf8(key).unwrap()).collect()
    }

    #[test]
    fn the_lowest_keys_of_a_range_are_found() {
        let store = Store::new();
        let all = range("", "", 10, false);
        let empty = store.freeze().least(&all, || false).unwrap();
        assert_eq!((empty.entries.len(), empty.more), (0, false));
        for (key, index) in ["b/1", "a", "b/3", "c", "b/2", "b"].iter().zip(2..) {
            put(&store, key, b"x", index);
        }
        for (prefix, after, limit, wanted, more) in [
            ("", "", 10, &["a", "b", "b/1", "b/2", "b/3", "c"][..], false),
            ("", "", 6, &["a", "b", "b/1", "b/2", "b/3", "c"], false),
            ("", "", 5, &["a", "b", "b/1", "b/2", "b/3"], true),
            ("b/", "", 2, &["b/1", "b/2"], true),
            ("b/", "b/2", 2, &["b/3"], false),
            ("b/", "b/2x", 1, &["b/3"], false),
            ("b", "a", 1, &["b"], true),
            ("", "c", 1, &[], false),
            ("d", "", 1, &[], false),
        ] {
            let range = range(prefix, after, limit, false);
            let page = store.freeze().least(&range, || false).unwrap();
            assert_eq!((&*keys(&page), page.more), (wanted, more), "{range:?}");
        }
        for index in 10..10 + (limits::SCAN_PIECE_BYTES / 256) as u64 {
            put(&store, &format!("many/{index}"), b"", index);
        }
        assert_eq!(store.freeze().least(&all, || true).unwrap_err(), GivenUp);
    }

    #[test]
    fn pages_with_values_are_bounded_and_leave_no_gap() {
        let store = Store::with_shards(16);
        let size = |number: usize| limits::LIST_BYTES_MAX / (2 + number % 7);
        for number in 0..40 {
            put(
                &store,
                &format!("{number:02}"),
                &vec![7; size(number)],
                2 + number as u64,
            );
        }
        let mut seen: Vec<String> = Vec::new();
        loop {
            let after = seen.last().cloned().unwrap_or_default();
            let range = range("", &after, 10, true);
            let page = store.freeze().least(&range, || false).unwrap();
            let bytes: usize = page.entries.iter().map(|entry| entry.size).sum();
            assert!(bytes <= 2 * limits::LIST_BYTES_MAX, "{bytes}");
            assert!(!page.entries.is_empty());
            seen.extend(keys(&page).iter().map(|key| (*key).to_owned()));
            if !page.more {
                break;
            }
        }
        let all: Vec<String> = (0..40).map(|number| format!("{number:02}")).collect();
        assert_eq!(seen, all);
    }
}
