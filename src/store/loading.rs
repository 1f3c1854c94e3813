//! A map that several threads fill from a snapshot while readers use the current map.

use super::content::Table;
use super::entry::Entry;
use super::map::{KeyHasher, shard_of};
use hashbrown::hash_table::Entry as Place;
use parking_lot::Mutex;

/// A map that is being filled from a snapshot.
pub struct Restore {
    hasher: KeyHasher,
    /// One for each shard. A thread locks a part for one entry at a time. There are so many parts that threads hardly
    /// ever contend.
    parts: Vec<Mutex<ShardPart>>,
}

/// A shard under construction.
#[derive(Default)]
pub(super) struct ShardPart {
    pub table: Table,
    /// Total bytes of keys and values.
    pub bytes: u64,
    /// The highest index of an entry.
    pub newest: u64,
}

impl Restore {
    pub(super) fn new(hasher: KeyHasher, shards: usize, keys: u64) -> Restore {
        let part = || ShardPart {
            table: Table::with_capacity(keys as usize / shards),
            ..ShardPart::default()
        };
        Restore {
            hasher,
            parts: (0..shards).map(|_| Mutex::new(part())).collect(),
        }
    }

    /// Adds an entry. Returns false if the map already has the key: the source is then not a map at any index.
    pub fn insert(&self, key: &[u8], index: u64, value: &[u8]) -> bool {
        let hash = self.hasher.hash(key);
        let entry = Entry::new(key, index, value);
        let part = &self.parts[shard_of(hash, self.parts.len())];
        let mut part = part.lock();
        let part = &mut *part;
        let place = part.table.entry(
            hash,
            |entry| entry.key() == key,
            |entry| self.hasher.hash(entry.key()),
        );
        let Place::Vacant(place) = place else {
            return false;
        };
        place.insert(entry);
        part.bytes += (key.len() + value.len()) as u64;
        part.newest = part.newest.max(index);
        true
    }

    pub(super) fn into_parts(self) -> impl Iterator<Item = ShardPart> {
        let parts = self.parts.into_iter();
        parts.map(|part| part.into_inner())
    }
}
