//! The map: every key with its value and the index of the entry that wrote it.
//!
//! It stands at the end of the commit channel. One thread at a time, the apply thread or the raft loop in its stead,
//! calls [`Store::apply`]; the apply thread calls [`Store::freeze`] and [`Store::replace`]; any number of threads call
//! [`Store::get`].
//!
//! The map is cut into shards, each behind a lock of its own. A snapshot freezes it between two batches: that notes the
//! index of the moment and copies nothing (see `store/frozen.rs`). From then on a write to a shard that the snapshot
//! has not reached keeps the entry that it replaces beside the table, if the snapshot is to have that one; what was
//! written later tells itself apart by its index.
//!
//! Invariants: the value of a key and its index are read together, so an ETag never belongs to another value; no reader,
//! of one key after the other or of a frozen map, sees a part of a transaction (`store/txn.rs`); an entry that a
//! [`Frozen`] has still to see is never changed or freed; a reader never waits for the disk, nor for the copy of a large
//! value. It may wait while the table of its shard grows or is copied out for a snapshot, which is seldom, and takes less
//! than a millisecond.

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

/// Enough that a shard is copied out in a short time: with ten million keys it has 5,000 of them.
const SHARDS: usize = 2048;

/// The map of this node.
pub struct Store {
    /// Shared with what was frozen.
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

    /// An empty map of so many shards. A simulation has few keys and looks at all of them after each step.
    pub fn with_shards(shards: usize) -> Store {
        Store {
            map: Arc::new(Map::with_shards(shards)),
        }
    }

    /// The value of a key, at once, as the map is now. Whoever wants a linearizable answer asks the node first.
    pub fn get(&self, key: &[u8]) -> Option<Value> {
        let hash = self.map.hasher.hash(key);
        let content = self.map.shards[self.map.shard_of(hash)].read();
        let found = content.table.find(hash, |entry| entry.key() == key);
        found.map(Entry::value)
    }

    /// Applies a write at the index of its entry. One thread at a time calls it, in log order.
    ///
    /// Its conditions are decided here and nowhere else, so that every member decides alike. Key and value are copied
    /// out of the entry unless the value is large: a slice would keep the whole frame alive that brought it.
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
            other => panic!("{other:?} is no command on the map"),
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

    /// Counts what a write at this index has changed.
    fn count(&self, index: u64, keys: i64, bytes: i64) {
        let map = &*self.map;
        if index > map.newest.load(Ordering::Relaxed) {
            map.newest.store(index, Ordering::Relaxed);
        }
        // A write of the same length, which is the usual one, does not change them.
        for (counter, by) in [(&map.keys, keys), (&map.bytes, bytes)] {
            if by != 0 {
                counter.fetch_add(by.cast_unsigned(), Ordering::Relaxed);
            }
        }
    }

    /// The map as it is now. Only the apply thread calls it, between two entries.
    pub fn freeze(&self) -> Frozen {
        Frozen::new(&self.map)
    }

    /// Begins to fill a new map, which [`Store::replace`] then puts in the place of this one. It will have about so many
    /// keys: tables that grow cost half of the time.
    pub fn begin_restore(&self, keys: u64) -> Restore {
        Restore::new(self.map.hasher.clone(), self.map.shards.len(), keys)
    }

    /// Puts a restored map in the place of this one. Only the apply thread calls it.
    ///
    /// All shards at once, or a stale reader could meet one key of a transaction and then miss another.
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
        // Freed with the locks released already: it may hold a great many values.
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

    /// There is no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> u64 {
        self.map.bytes.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the content: values stay out of logs.
        write!(f, "Store({} keys, {} bytes)", self.len(), self.bytes())
    }
}
