//! The map: every key with its value and the index of the log entry that wrote it.
//!
//! The map is at the end of the commit channel. [`Store::apply`] is called by one thread at a time: the apply thread,
//! or the raft loop in its place. The apply thread calls [`Store::freeze`] and [`Store::replace`]; at a start, the load
//! thread calls [`Store::replace`]. Any number of threads call [`Store::get`].
//!
//! The map is divided into shards, each with its own lock. A snapshot freezes the map between two batches: this records
//! the current index and copies nothing (see `store/frozen.rs`). Afterwards a write to a shard that the snapshot has
//! not copied yet keeps the replaced entry beside the table, if the snapshot needs that entry. The index of an entry
//! shows whether it was written later.
//!
//! Invariants:
//! - The value of a key and its index are read together, so an ETag never belongs to another value.
//! - No reader sees a part of a transaction, whether it reads one key after the other or a frozen map (`store/txn.rs`).
//! - An entry that a [`Frozen`] still has to see is never freed, and never changed without keeping a copy.
//! - A reader never waits for the disk, nor for the copy of a large value. It may wait while the table of its shard
//!   grows or is copied for a snapshot, which is rare and takes less than a millisecond.

mod change;
mod content;
mod entry;
mod freezes;
mod frozen;
pub mod history;
mod loading;
mod map;
mod scan;
pub mod state_machine;
#[cfg(test)]
mod tests;
mod txn;

pub use entry::Value;
pub use frozen::{Frozen, MapHash};
pub use loading::Restore;
pub use scan::{GivenUp, Listed, Page, Range};

use crate::command::outcome::Outcome;
use crate::command::{Command, Kind};
use change::{PendingChange, own};
use content::Content;
use entry::Entry;
use map::{Map, Shard};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Enough shards that copying one is quick: with ten million keys, a shard has 5,000 of them.
const SHARDS: usize = 2048;

/// The map of this node.
pub struct Store {
    /// Shared with frozen maps.
    map: Arc<Map>,
}

impl Default for Store {
    fn default() -> Store {
        Store::new()
    }
}

impl Store {
    /// An empty map.
    pub fn new() -> Store {
        Store::with_shards(SHARDS)
    }

    /// An empty map with this number of shards. A simulation needs few: it has few keys and visits all of them after
    /// each step.
    pub fn with_shards(shards: usize) -> Store {
        Store {
            map: Arc::new(Map::with_shards(shards)),
        }
    }

    /// The current value of a key. For a linearizable read the caller has to ask the node first.
    pub fn get(&self, key: &[u8]) -> Option<Value> {
        let hash = self.map.hasher.hash(key);
        let content = self.map.shards[self.map.shard_of(hash)].read();
        let found = content.table.find(hash, |entry| entry.key() == key);
        found.map(Entry::value)
    }

    /// Applies a write at the index of its entry. Called by one thread at a time, in log order.
    ///
    /// Conditions are decided here and nowhere else, so that every member decides alike. Key and value are copied out
    /// of the entry unless the value is large: a slice would keep the whole frame of the entry alive.
    pub fn apply(&self, command: &Command, index: u64) -> Outcome {
        let (key, value) = (&*command.key, &command.value);
        let large = match command.kind {
            Kind::Put => {
                (!Entry::is_small(key, value)).then(|| Entry::large(key, index, own(value)))
            }
            Kind::Delete => None,
            Kind::Transaction => {
                return self.apply_transaction(command, index);
            }
            other => panic!("{other:?} is not a command on the map"),
        };
        let map = &*self.map;
        let hash = map.hasher.hash(key);
        let shard = map.shard_of(hash);
        let change = PendingChange {
            map,
            shard,
            hash,
            command,
            index,
            large,
        };
        let changed = change.make(&mut map.shards[shard].lock());
        self.count(index, changed.keys, changed.bytes);
        drop(changed.previous);
        changed.outcome
    }

    /// Updates the counters after a write at this index.
    fn count(&self, index: u64, keys: i64, bytes: i64) {
        let map = &*self.map;
        if index > map.newest.load(Ordering::Relaxed) {
            map.newest.store(index, Ordering::Relaxed);
        }
        // A write of the same length, the usual case, does not change the counters.
        for (counter, by) in [(&map.keys, keys), (&map.bytes, bytes)] {
            if by != 0 {
                counter.fetch_add(by.cast_unsigned(), Ordering::Relaxed);
            }
        }
    }

    /// The map as it is now. Only the apply thread calls this, between two entries.
    pub fn freeze(&self) -> Frozen {
        Frozen::new(&self.map)
    }

    /// A new map to fill, with which [`Store::replace`] then replaces this one. `keys` is the approximate number of
    /// keys: growing tables would take half of the time.
    pub fn begin_restore(&self, keys: u64) -> Restore {
        Restore::new(self.map.hasher.clone(), self.map.shards.len(), keys)
    }

    /// Replaces the contents of this map with a restored map. Only the apply thread calls this and, at a start, the
    /// load thread.
    ///
    /// All shards are replaced at once. Otherwise a stale reader could see one key of a transaction and then miss
    /// another.
    pub fn replace(&self, restore: Restore) {
        let (mut keys, mut bytes, mut newest) = (0, 0, 0);
        let mut locks: Vec<_> = self.map.shards.iter().map(Shard::lock).collect();
        let mut gone = Vec::new();
        for (number, (part, current)) in restore.into_parts().zip(&mut locks).enumerate() {
            keys += part.table.len() as u64;
            bytes += part.bytes;
            newest = part.newest.max(newest);
            let new = Content {
                table: part.table,
                replaced: None,
            };
            let old = std::mem::replace(&mut **current, new);
            gone.push(self.map.freezes.keep(number, old));
        }
        // Free the old shards after the locks are released: they may hold a great many values.
        drop(locks);
        drop(gone);
        self.map.keys.store(keys, Ordering::Relaxed);
        self.map.bytes.store(bytes, Ordering::Relaxed);
        self.map.newest.store(newest, Ordering::Relaxed);
    }

    /// Number of keys.
    pub fn len(&self) -> u64 {
        self.map.keys.load(Ordering::Relaxed)
    }

    /// Whether the map has no keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Total bytes of all keys and values.
    pub fn bytes(&self) -> u64 {
        self.map.bytes.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Do not print the contents: values stay out of logs.
        write!(f, "Store({} keys, {} bytes)", self.len(), self.bytes())
    }
}
