//! One key of the map, with its index and value, in one allocation.
//!
//! A lookup compares the key and mostly wants the value: both lie side by side, so it misses the cache once for them. A
//! table holds 16 bytes an entry.
//!
//! | bytes of a small entry | field |
//! |---|---|
//! | 8 | index, little-endian |
//! | 2 | length *n* of the key, little-endian |
//! | *n* | key |
//! | | value |
//!
//! Invariant: which of the two forms an entry has depends on its size alone.

use crate::limits;
use bytes::Bytes;

const INDEX_BYTES: usize = 8;
const HEAD_BYTES: usize = INDEX_BYTES + 2;

/// What a key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Index of the entry that wrote it: its ETag.
    pub index: u64,
    /// The bytes, as the client sent them.
    pub bytes: Bytes,
}

/// A key with its index and value. A clone copies a small one, and shares the value of a large one.
#[derive(Clone)]
pub(super) enum Entry {
    Small(Box<[u8]>),
    /// Its value may be a slice of the frame that brought it, and a reader shares it.
    Large(Box<Large>),
}

#[derive(Clone)]
pub(super) struct Large {
    index: u64,
    key: Box<[u8]>,
    value: Bytes,
}

// The compiler keeps the form in what the pointer can't be. A table would grow by a half if it did not.
const _: () = assert!(size_of::<Entry>() == 2 * size_of::<usize>());
// The length of a small entry's key has two bytes.
const _: () = assert!(limits::SMALL_BYTES_MAX <= u16::MAX as usize);

impl Entry {
    /// Copies key and value.
    pub(super) fn new(key: &[u8], index: u64, value: &[u8]) -> Entry {
        if Entry::is_small(key, value) {
            Entry::small(key, index, value)
        } else {
            Entry::large(key, index, Bytes::copy_from_slice(value))
        }
    }

    /// Whether key and value go into one allocation.
    pub(super) fn is_small(key: &[u8], value: &[u8]) -> bool {
        key.len() + value.len() <= limits::SMALL_BYTES_MAX
    }

    fn small(key: &[u8], index: u64, value: &[u8]) -> Entry {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + key.len() + value.len());
        bytes.extend_from_slice(&index.to_le_bytes());
        bytes.extend_from_slice(&(key.len() as u16).to_le_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
        Entry::Small(bytes.into_boxed_slice())
    }

    /// Copies the key and takes the value.
    pub(super) fn large(key: &[u8], index: u64, value: Bytes) -> Entry {
        Entry::Large(Box::new(Large {
            index,
            key: Box::from(key),
            value,
        }))
    }

    /// A value can be written in the place of the one that is there: both are small, and of the same length.
    pub(super) fn has_room_for(&self, value: &[u8]) -> bool {
        match self {
            Entry::Small(_) => self.parts().2.len() == value.len(),
            Entry::Large(_) => false,
        }
    }

    /// Gives it a new index and a new value, for which it has room.
    pub(super) fn overwrite(&mut self, index: u64, value: &[u8]) {
        let Entry::Small(bytes) = self else {
            panic!(
                "a large entry of {} bytes has room for nothing",
                self.parts().2.len()
            );
        };
        let start = HEAD_BYTES + key_len(bytes);
        bytes[..INDEX_BYTES].copy_from_slice(&index.to_le_bytes());
        bytes[start..].copy_from_slice(value);
    }

    /// Key, index and value.
    pub(super) fn parts(&self) -> (&[u8], u64, &[u8]) {
        match self {
            Entry::Small(bytes) => small_parts(bytes),
            Entry::Large(large) => (&large.key, large.index, &large.value),
        }
    }

    /// The key.
    pub(super) fn key(&self) -> &[u8] {
        self.parts().0
    }

    /// The index of the entry of the log that wrote it.
    pub(super) fn index(&self) -> u64 {
        self.parts().1
    }

    /// What a reader gets: a copy of a small value, so that its traffic does not touch the entry, a share of a large
    /// one.
    pub(super) fn value(&self) -> Value {
        let (_, index, value) = self.parts();
        let bytes = match self {
            Entry::Small(_) => Bytes::copy_from_slice(value),
            Entry::Large(large) => large.value.clone(),
        };
        Value { index, bytes }
    }
}

/// Copies of many entries: one after the other the small ones, each as it was, and shares of the large ones.
#[derive(Default)]
pub(super) struct Copies {
    small: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
    large: Vec<Large>,
}

impl Copies {
    pub(super) fn add(&mut self, entry: &Entry) {
        match entry {
            Entry::Small(bytes) => {
                self.small.extend_from_slice(bytes);
                self.ends.push(self.small.len());
            }
            Entry::Large(large) => self.large.push((**large).clone()),
        }
    }

    /// Visits key, index and value of each.
    pub(super) fn visit<E>(
        &self,
        visit: &mut impl FnMut(&[u8], u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut start = 0;
        for end in &self.ends {
            let (key, index, value) = small_parts(&self.small[start..*end]);
            visit(key, index, value)?;
            start = *end;
        }
        for Large { key, index, value } in &self.large {
            visit(key, *index, value)?;
        }
        Ok(())
    }

    pub(super) fn clear(&mut self) {
        self.small.clear();
        self.ends.clear();
        self.large.clear();
    }
}

fn small_parts(bytes: &[u8]) -> (&[u8], u64, &[u8]) {
    let (key, value) = bytes[HEAD_BYTES..].split_at(key_len(bytes));
    (key, small_index(bytes), value)
}

fn small_index(bytes: &[u8]) -> u64 {
    let head = bytes.first_chunk::<INDEX_BYTES>();
    u64::from_le_bytes(*head.expect("an entry begins with its index"))
}

fn key_len(bytes: &[u8]) -> usize {
    usize::from(u16::from_le_bytes([
        bytes[INDEX_BYTES],
        bytes[INDEX_BYTES + 1],
    ]))
}
