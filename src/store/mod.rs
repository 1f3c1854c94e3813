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

mod entry;
mod frozen;
pub mod history;
mod loading;
mod scan;
#[cfg(test)]
mod tests;
mod txn;

pub use frozen::{Frozen, MapHash};
pub use loading::Restore;
pub use scan::{GivenUp, Listed, Page, Range};

use crate::command::outcome::Outcome;
use crate::command::{Command, Etags, Kind};
use crate::limits;
use bytes::Bytes;
use entry::Entry;
use frozen::Freezes;
use hashbrown::HashTable;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Enough that a shard is copied out in a short time: with ten million keys it has 5,000 of them.
const SHARDS: usize = 2048;

/// The entries of one shard, found by the hash of their key.
type Table = HashTable<Entry>;

/// What a key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Index of the entry that wrote it: its ETag.
    pub index: u64,
    /// The bytes, as the client sent them.
    pub bytes: Bytes,
}

/// The map of this node.
pub struct Store {
    /// Shared with what was frozen.
    map: Arc<Map>,
}

struct Map {
    /// The same for all shards and for every map that replaces this one.
    hasher: KeyHasher,
    shards: Box<[Shard]>,
    /// Counted by the one writer; readers may see them a moment late.
    keys: AtomicU64,
    bytes: AtomicU64,
    /// The highest index of an entry that was applied; written by the one writer.
    newest: AtomicU64,
    freezes: Freezes,
}

/// Hashes a key once, for its shard and for the table.
///
/// By the standard library's SipHash with a random key: clients choose the keys, so an unkeyed hash would let one of
/// them slow down all.
#[derive(Clone)]
struct KeyHasher(RandomState);

/// A cache line of its own, so that readers of neighbouring shards don't slow each other.
#[repr(align(64))]
#[derive(Default)]
struct Shard(RwLock<Content>);

/// What is in a shard.
#[derive(Default)]
struct Content {
    table: Table,
    /// What was replaced and somebody who froze the map has still to see. Boxed, as there is mostly none.
    replaced: Option<Box<Replaced>>,
}

#[derive(Default)]
struct Replaced(Vec<Old>);

/// An entry that is not in the table any more.
struct Old {
    entry: Entry,
    /// The index of the write that replaced or deleted it.
    until: u64,
}

// The lock, the table and what was replaced share the cache line.
const _: () = assert!(size_of::<Shard>() == 64);

/// A command on its way into a table.
struct PendingChange<'a> {
    map: &'a Map,
    /// Number of the shard.
    shard: usize,
    hash: u64,
    command: &'a Command,
    index: u64,
    /// What a put of a large value stores: made before the shard is locked.
    large: Option<Entry>,
}

/// What became of it.
struct Changed {
    outcome: Outcome,
    /// Values that are there now and were not before: -1, 0 or 1.
    keys: i64,
    /// Likewise the bytes of keys and values.
    bytes: i64,
    /// What was in its place: to be freed with the shard's lock released.
    previous: Option<Entry>,
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
        let map = Map {
            hasher: KeyHasher(RandomState::new()),
            shards: (0..shards).map(|_| Shard::default()).collect(),
            keys: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            newest: AtomicU64::new(0),
            freezes: Freezes::default(),
        };
        Store { map: Arc::new(map) }
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

impl Map {
    fn shard_of(&self, hash: u64) -> usize {
        shard_of(hash, self.shards.len())
    }
}

impl Shard {
    fn read(&self) -> RwLockReadGuard<'_, Content> {
        self.0.read()
    }

    fn lock(&self) -> RwLockWriteGuard<'_, Content> {
        self.0.write()
    }
}

impl PendingChange<'_> {
    /// The outcome, if it changes nothing: its condition does not hold against the index of the key's value, or what
    /// it deletes is absent already.
    fn nothing_to_do(&self, current: Option<u64>) -> Option<Outcome> {
        let (if_match, if_none_match) = (&self.command.if_match, &self.command.if_none_match);
        if !holds(if_match.as_ref(), if_none_match.as_ref(), current) {
            Some(Outcome::ConditionFailed { current })
        } else if self.command.kind == Kind::Delete && current.is_none() {
            Some(Outcome::Applied { index: self.index })
        } else {
            None
        }
    }

    /// Decides the conditions and changes the shard, with one lookup.
    fn make(self, shard: &mut Content) -> Changed {
        let key = &*self.command.key;
        let found = shard
            .table
            .find_entry(self.hash, |entry| entry.key() == key);
        let current = found.as_ref().ok().map(|place| place.get().index());
        if let Some(outcome) = self.nothing_to_do(current) {
            return Changed::nothing(outcome);
        }
        let mut changed = Changed::nothing(Outcome::Applied { index: self.index });
        let value = &*self.command.value;
        let size = |value: &[u8]| (key.len() + value.len()) as i64;
        let new =
            |large: Option<Entry>| large.unwrap_or_else(|| Entry::new(key, self.index, value));
        let Ok(mut place) = found else {
            let entry = new(self.large);
            changed.keys = 1;
            changed.bytes = size(value);
            let hasher = &self.map.hasher;
            shard
                .table
                .insert_unique(self.hash, entry, |entry| hasher.hash(entry.key()));
            return changed;
        };
        let previous = place.get();
        let wanted = self
            .map
            .freezes
            .want(self.shard, previous.index(), self.index);
        let mut kept = None;
        if self.command.kind == Kind::Delete {
            changed.keys = -1;
            changed.bytes = -size(previous.parts().2);
            changed.previous = Some(place.remove().0);
        } else {
            changed.bytes = size(value) - size(previous.parts().2);
            if previous.has_room_for(value) {
                // A copy is kept for a while, and what stays, stays where it is. Otherwise the map would move from the
                // memory of the threads that loaded it to that of the one that writes it, and leave holes behind.
                kept = wanted.then(|| previous.clone());
                place.get_mut().overwrite(self.index, value);
            } else {
                let entry = new(self.large);
                changed.previous = Some(std::mem::replace(place.get_mut(), entry));
            }
        }
        if wanted && let Some(entry) = kept.or_else(|| changed.previous.take()) {
            let until = self.index;
            let replaced = shard.replaced.get_or_insert_default();
            replaced.0.push(Old { entry, until });
        }
        changed
    }
}

impl Changed {
    fn nothing(outcome: Outcome) -> Changed {
        Changed {
            outcome,
            keys: 0,
            bytes: 0,
            previous: None,
        }
    }
}

impl KeyHasher {
    fn hash(&self, key: &[u8]) -> u64 {
        let mut hasher = self.0.build_hasher();
        // Not `Hash`, which would write the length too: it tells keys apart only where more than one is hashed.
        hasher.write(key);
        hasher.finish()
    }
}

/// The tables look at the lowest and the seven highest bits of the same hash, so the shard takes others: keys of one
/// shard would otherwise all collide in its table.
fn shard_of(hash: u64, shards: usize) -> usize {
    (hash >> 40) as usize % shards
}

/// An entry with a value beyond this size has no other command in it, so a slice keeps nothing else alive.
fn own(value: &Bytes) -> Bytes {
    if value.len() > limits::ENTRY_BYTES_MAX {
        value.clone()
    } else {
        Bytes::copy_from_slice(value)
    }
}

/// Conditions against the index of the key's value, by RFC 9110, section 13.
fn holds(if_match: Option<&Etags>, if_none_match: Option<&Etags>, current: Option<u64>) -> bool {
    let matches =
        |etags: &Etags| current.is_some_and(|index| etags.any || etags.indexes.contains(&index));
    if_match.is_none_or(matches) && !if_none_match.is_some_and(matches)
}
