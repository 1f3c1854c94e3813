//! One key of the map, with its index and value, in one allocation.
//!
//! A lookup compares the key and usually reads the value. Both are adjacent in memory, so a lookup misses the cache
//! only once. A table needs 16 bytes for an entry.
//!
//! | bytes of a small entry | field |
//! |---|---|
//! | 8 | index, little-endian |
//! | 2 | length *n* of the key, little-endian |
//! | *n* | key |
//! | | value |
//!
//! Invariant: whether an entry is small or large depends only on its size.

use crate::limits;
use bytes::Bytes;

const INDEX_BYTES: usize = 8;
const HEAD_BYTES: usize = INDEX_BYTES + 2;

/// The value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Index of the log entry that wrote the value: its ETag.
    pub index: u64,
    /// The bytes, as the client sent them.
    pub bytes: Bytes,
}

/// A key with its index and value. Cloning copies a small entry, and shares the value of a large entry.
#[derive(Clone)]
pub(super) enum Entry {
    Small(Box<[u8]>),
    /// The value may be a slice of the frame that it arrived in. Readers share it.
    Large(Box<Large>),
}

#[derive(Clone)]
pub(super) struct Large {
    index: u64,
    key: Box<[u8]>,
    value: Bytes,
}

// The compiler stores the variant in invalid values of the pointer. Otherwise an entry would need three words instead
// of two, and a table would grow by half.
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

    /// Whether key and value fit into one small allocation.
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

    /// Whether `value` can overwrite the current value in place: both are small and of the same length.
    pub(super) fn has_room_for(&self, value: &[u8]) -> bool {
        match self {
            Entry::Small(_) => self.parts().2.len() == value.len(),
            Entry::Large(_) => false,
        }
    }

    /// Overwrites index and value in place. The entry must have room.
    pub(super) fn overwrite(&mut self, index: u64, value: &[u8]) {
        let Entry::Small(bytes) = self else {
            panic!(
                "a large entry of {} bytes can't be overwritten in place",
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

    pub(super) fn key(&self) -> &[u8] {
        self.parts().0
    }

    /// Index of the log entry that wrote the value.
    pub(super) fn index(&self) -> u64 {
        self.parts().1
    }

    /// The value for a reader: a copy of a small value, so that the reader does not touch the entry later, or a share
    /// of a large value.
    pub(super) fn value(&self) -> Value {
        let (_, index, value) = self.parts();
        let bytes = match self {
            Entry::Small(_) => Bytes::copy_from_slice(value),
            Entry::Large(large) => large.value.clone(),
        };
        Value { index, bytes }
    }
}

/// Copies of many entries. Small entries are copied one after the other into one buffer; large entries are shared.
#[derive(Default)]
pub(super) struct Copies {
    small: Vec<u8>,
    /// Offset of the end of each small entry.
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

    /// Passes key, index and value of each entry to `visit`.
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
    u64::from_le_bytes(*head.expect("an entry starts with its index"))
}

fn key_len(bytes: &[u8]) -> usize {
    usize::from(u16::from_le_bytes([
        bytes[INDEX_BYTES],
        bytes[INDEX_BYTES + 1],
    ]))
}
