//! The map: every key with its value and the index of the entry that wrote it.
//!
//! It stands at the end of the commit channel. One thread at a time, the apply thread or the raft loop in its stead,
//! calls [`Store::apply`]; the apply thread calls [`Store::freeze`] and [`Store::replace`]; any number of threads call
//! [`Store::get`].
//!
//! The map is cut into shards of `RwLock<Arc<table>>`. A snapshot takes a clone of every `Arc` between two batches, in
//! microseconds, and is written from those clones while applies go on: the first later write to a shard copies that
//! shard's table once, and only then do the two differ. The copy shares the entries (see `store/entry.rs`): who lets go
//! of one last frees it.
//!
//! Invariants: the value of a key and its index are read together, so an ETag never belongs to another value; a table
//! that a [`Frozen`] holds is never changed, nor is an entry in it; a reader never waits for the copy of a table, nor
//! for the copy of a large value, nor for the disk. It does wait while the table of its shard grows, which is seldom: in
//! place, it takes no second reference to every entry.

mod entry;

use crate::command::{Command, Etags, Kind};
use crate::config;
use crate::proposal::Outcome;
use bytes::Bytes;
use entry::Entry;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Place;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Few enough that a freeze is cheap, enough that the copy of one shard's table is short: with ten million keys a
/// shard has 5,000 of them, and its copy takes 200 us, as each of its entries is counted up.
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
    /// The same for all shards and for every map that replaces this one.
    hasher: KeyHasher,
    shards: Box<[Shard]>,
    /// Counted by the one writer; readers may see them a moment late.
    keys: AtomicU64,
    bytes: AtomicU64,
}

/// Hashes a key once, for its shard and for the table.
///
/// By the standard library's SipHash with a random key: clients choose the keys, so an unkeyed hash would let one of
/// them slow down all.
#[derive(Clone)]
struct KeyHasher(RandomState);

/// A cache line of its own, so that readers of neighbouring shards don't slow each other.
#[repr(align(64))]
struct Shard(RwLock<Arc<Table>>);

/// The map as it was at one index, for the writer of a snapshot. Holding it costs the copies of the tables that are
/// written meanwhile and the entries that are replaced, so let go of it soon.
pub struct Frozen {
    tables: Vec<Arc<Table>>,
}

/// A map that is being filled from a snapshot, off to the side of the one that is read.
pub struct Restore {
    hasher: KeyHasher,
    tables: Vec<Table>,
    keys: u64,
    bytes: u64,
}

/// A command on its way into a table.
struct Change<'a> {
    hasher: &'a KeyHasher,
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
        // One for all: the first write to a shard copies it.
        let empty = Arc::new(Table::new());
        Store {
            hasher: KeyHasher(RandomState::new()),
            shards: (0..shards)
                .map(|_| Shard(RwLock::new(Arc::clone(&empty))))
                .collect(),
            keys: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// The value of a key, at once, as the map is now. Whoever wants a linearizable answer asks the node first.
    pub fn get(&self, key: &[u8]) -> Option<Value> {
        let hash = self.hasher.hash(key);
        find(&self.shard(hash).read(), hash, key).map(Entry::value)
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
            Kind::AddMember | Kind::PromoteMember | Kind::RemoveMember | Kind::SettleRemoval => {
                panic!("{:?} is no command on the map", command.kind)
            }
        };
        let hash = self.hasher.hash(key);
        let change = Change {
            hasher: &self.hasher,
            hash,
            command,
            index,
            large,
        };
        let changed = self.shard(hash).change(change);
        // A write of the same length, which is the usual one, leaves the counters' cache line alone.
        for (counter, by) in [(&self.keys, changed.keys), (&self.bytes, changed.bytes)] {
            if by != 0 {
                counter.fetch_add(by.cast_unsigned(), Ordering::Relaxed);
            }
        }
        drop(changed.previous);
        changed.outcome
    }

    /// The map as it is now. Only the apply thread calls it, between two entries.
    pub fn freeze(&self) -> Frozen {
        Frozen {
            tables: self.shards.iter().map(|s| Arc::clone(&s.read())).collect(),
        }
    }

    /// Begins to fill a new map, which [`Store::replace`] then puts in the place of this one.
    pub fn begin_restore(&self) -> Restore {
        Restore {
            hasher: self.hasher.clone(),
            tables: self.shards.iter().map(|_| Table::new()).collect(),
            keys: 0,
            bytes: 0,
        }
    }

    /// Puts a restored map in the place of this one. Only the apply thread calls it.
    ///
    /// Shard by shard: a reader may meet one shard new and another old for a moment. That is what linearizability
    /// allows, for a read of the old shard that follows one of the new shard waits for the whole restore.
    pub fn replace(&self, restore: Restore) {
        for (shard, table) in self.shards.iter().zip(restore.tables) {
            let table = Arc::new(table);
            let old = std::mem::replace(&mut *shard.lock(), table);
            // Freed with the lock released already: it may hold a great many values.
            drop(old);
        }
        self.keys.store(restore.keys, Ordering::Relaxed);
        self.bytes.store(restore.bytes, Ordering::Relaxed);
    }

    fn shard(&self, hash: u64) -> &Shard {
        &self.shards[shard_of(hash, self.shards.len())]
    }

    /// Number of keys.
    pub fn len(&self) -> u64 {
        self.keys.load(Ordering::Relaxed)
    }

    /// There is no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the content: values stay out of logs.
        write!(f, "Store({} keys, {} bytes)", self.len(), self.bytes())
    }
}

impl Shard {
    fn read(&self) -> RwLockReadGuard<'_, Arc<Table>> {
        self.0
            .read()
            .expect("a thread panicked while it held a shard of the map")
    }

    fn lock(&self) -> RwLockWriteGuard<'_, Arc<Table>> {
        self.0
            .write()
            .expect("a thread panicked while it held a shard of the map")
    }

    fn change(&self, change: Change) -> Changed {
        let mut current = self.lock();
        if let Some(table) = Arc::get_mut(&mut current) {
            return change.make(table);
        }
        // A snapshot holds the table. It is copied, and the copy changed, with no lock held, so that readers go on. No
        // other thread writes meanwhile.
        drop(current);
        let frozen = Arc::clone(&self.read());
        let found = find(&frozen, change.hash, &change.command.key);
        if let Some(outcome) = change.nothing_to_do(found.map(Entry::index)) {
            return Changed::nothing(outcome);
        }
        let mut table = Table::clone(&frozen);
        let changed = change.make(&mut table);
        let table = Arc::new(table);
        // This is not the end of the old table: `frozen` is still there.
        *self.lock() = table;
        changed
    }
}

impl Change<'_> {
    /// The outcome, if it changes nothing: its condition does not hold against the index of the key's value, or what
    /// it deletes is absent already.
    fn nothing_to_do(&self, current: Option<u64>) -> Option<Outcome> {
        if !holds(self.command, current) {
            Some(Outcome::ConditionFailed { current })
        } else if self.command.kind == Kind::Delete && current.is_none() {
            Some(Outcome::Applied { index: self.index })
        } else {
            None
        }
    }

    /// Decides the conditions and changes the table, with one lookup.
    fn make(self, table: &mut Table) -> Changed {
        let key = &*self.command.key;
        let found = table.find_entry(self.hash, |entry| entry.key() == key);
        let current = found.as_ref().ok().map(|place| place.get().index());
        if let Some(outcome) = self.nothing_to_do(current) {
            return Changed::nothing(outcome);
        }
        let mut changed = Changed::nothing(Outcome::Applied { index: self.index });
        let value = &*self.command.value;
        let size = |value: &[u8]| (key.len() + value.len()) as i64;
        let new =
            |large: Option<Entry>| large.unwrap_or_else(|| Entry::new(key, self.index, value));
        match found {
            Ok(place) if self.command.kind == Kind::Delete => {
                let (previous, _) = place.remove();
                changed.keys = -1;
                changed.bytes = -size(previous.parts().2);
                changed.previous = Some(previous);
            }
            Ok(mut place) => {
                changed.bytes = size(value) - size(place.get().parts().2);
                if self.large.is_some() || !place.get_mut().overwrite(self.index, value) {
                    let entry = new(self.large);
                    changed.previous = Some(std::mem::replace(place.get_mut(), entry));
                }
            }
            Err(absent) => {
                let entry = new(self.large);
                changed.keys = 1;
                changed.bytes = size(value);
                absent
                    .into_table()
                    .insert_unique(self.hash, entry, |entry| self.hasher.hash(entry.key()));
            }
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

impl Frozen {
    /// Every entry as (key, index, value), in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], u64, &[u8])> {
        self.tables
            .iter()
            .flat_map(|table| table.iter())
            .map(Entry::parts)
    }

    /// A hash of all keys, indexes and values, the same on every member and in every process that holds the same.
    ///
    /// It is the sum of the entries' hashes, since the tables have no order. It tells accidents, not attackers: its
    /// key is no secret, so whoever wants to can make two maps with the same hash.
    pub fn hash(&self) -> u64 {
        self.iter()
            .map(|(key, index, value)| entry_hash(key, index, value))
            .fold(0, u64::wrapping_add)
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.tables.iter().map(|table| table.len()).sum()
    }

    /// There is no key.
    pub fn is_empty(&self) -> bool {
        self.tables.iter().all(|table| table.is_empty())
    }
}

impl fmt::Debug for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frozen({} keys)", self.len())
    }
}

impl Restore {
    /// Adds an entry; of two with the same key the later one stays.
    pub fn insert(&mut self, key: &[u8], index: u64, value: &[u8]) {
        let hash = self.hasher.hash(key);
        let entry = Entry::new(key, index, value);
        self.bytes += (key.len() + value.len()) as u64;
        let shard = shard_of(hash, self.tables.len());
        let place = self.tables[shard].entry(
            hash,
            |entry| entry.key() == key,
            |entry| self.hasher.hash(entry.key()),
        );
        match place {
            Place::Vacant(place) => {
                place.insert(entry);
                self.keys += 1;
            }
            Place::Occupied(mut place) => {
                let previous = std::mem::replace(place.get_mut(), entry);
                self.bytes -= (key.len() + previous.parts().2.len()) as u64;
            }
        }
    }
}

/// The tables look at the lowest and the seven highest bits of the same hash, so the shard takes others: keys of one
/// shard would otherwise all collide in its table.
fn shard_of(hash: u64, shards: usize) -> usize {
    (hash >> 40) as usize % shards
}

fn find<'a>(table: &'a Table, hash: u64, key: &[u8]) -> Option<&'a Entry> {
    table.find(hash, |entry| entry.key() == key)
}

/// Of its own and not the standard library's, whose algorithm may change from one build to the next: members of
/// different builds have to agree.
fn entry_hash(key: &[u8], index: u64, value: &[u8]) -> u64 {
    // Odd, with as many ones as zeros in no order.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, word: u64| {
        // Both halves of the product, so that every bit of the input reaches every bit of the result.
        let product = u128::from(hash ^ word) * u128::from(FACTOR);
        ((product >> 64) as u64 ^ product as u64).rotate_left(23) ^ hash
    };
    let text = |hash: u64, bytes: &[u8]| {
        let (words, rest) = bytes.as_chunks::<8>();
        let hash = words
            .iter()
            .fold(mix(hash, bytes.len() as u64), |hash, word| {
                mix(hash, u64::from_le_bytes(*word))
            });
        rest.iter()
            .fold(hash, |hash, byte| mix(hash, u64::from(*byte)))
    };
    let hash = text(text(mix(FACTOR, index), key), value);
    // Once more, so that the last word is as well mixed as the others.
    mix(hash, FACTOR.rotate_left(32))
}

/// An entry with a value beyond this size has no other command in it, so a slice keeps nothing else alive.
fn own(value: &Bytes) -> Bytes {
    if value.len() > config::ENTRY_BYTES_MAX {
        value.clone()
    } else {
        Bytes::copy_from_slice(value)
    }
}

/// The conditions of a write against the index of the key's value, by RFC 9110, section 13.
fn holds(command: &Command, current: Option<u64>) -> bool {
    let matches =
        |etags: &Etags| current.is_some_and(|index| etags.any || etags.indexes.contains(&index));
    command.if_match.as_ref().is_none_or(matches)
        && !command.if_none_match.as_ref().is_some_and(matches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn put(key: &[u8], value: &[u8]) -> Command {
        let mut command = Command::new();
        command.kind = Kind::Put;
        command.key = Bytes::copy_from_slice(key);
        command.value = Bytes::copy_from_slice(value);
        command
    }

    fn delete(key: &[u8]) -> Command {
        let mut command = put(key, b"");
        command.kind = Kind::Delete;
        command
    }

    fn any() -> Etags {
        let mut etags = Etags::new();
        etags.any = true;
        etags
    }

    fn indexes(indexes: &[u64]) -> Etags {
        let mut etags = Etags::new();
        etags.indexes = indexes.to_vec();
        etags
    }

    fn content(frozen: &Frozen) -> BTreeMap<Vec<u8>, (u64, Vec<u8>)> {
        frozen
            .iter()
            .map(|(key, index, value)| (key.to_vec(), (index, value.to_vec())))
            .collect()
    }

    #[test]
    fn a_put_is_read_back_with_its_index_until_it_is_deleted() {
        let store = Store::new();
        assert_eq!(store.get(b"k"), None);
        assert_eq!(
            store.apply(&put(b"k", b"one"), 5),
            Outcome::Applied { index: 5 }
        );
        store.apply(&put(b"k", b"three"), 6);
        let value = store.get(b"k").unwrap();
        assert_eq!((value.index, &*value.bytes), (6, &b"three"[..]));
        assert_eq!((store.len(), store.bytes()), (1, 6));
        assert_eq!(store.apply(&delete(b"k"), 7), Outcome::Applied { index: 7 });
        assert_eq!(store.apply(&delete(b"k"), 8), Outcome::Applied { index: 8 });
        assert_eq!(store.get(b"k"), None);
        assert_eq!((store.len(), store.bytes()), (0, 0));
    }

    #[test]
    fn conditions_are_decided_as_http_says() {
        let failed = |current| Outcome::ConditionFailed { current };
        // (if_match, if_none_match, key exists with index 5, holds)
        let table = [
            (None, None, true, true),
            (Some(any()), None, true, true),
            (Some(any()), None, false, false),
            (Some(indexes(&[4, 5])), None, true, true),
            (Some(indexes(&[4])), None, true, false),
            (Some(indexes(&[5])), None, false, false),
            (Some(indexes(&[])), None, true, false),
            (None, Some(any()), true, false),
            (None, Some(any()), false, true),
            (None, Some(indexes(&[5])), true, false),
            (None, Some(indexes(&[4])), true, true),
            (None, Some(indexes(&[])), true, true),
            (None, Some(indexes(&[5])), false, true),
            (Some(indexes(&[5])), Some(indexes(&[4])), true, true),
            (Some(indexes(&[5])), Some(indexes(&[5])), true, false),
        ];
        for (if_match, if_none_match, exists, holds) in table {
            for mut command in [put(b"k", b"new"), delete(b"k")] {
                let store = Store::new();
                if exists {
                    store.apply(&put(b"k", b"old"), 5);
                }
                let before = store.get(b"k");
                command.if_match = if_match.clone().into();
                command.if_none_match = if_none_match.clone().into();
                let outcome = store.apply(&command, 9);
                if holds {
                    assert_eq!(outcome, Outcome::Applied { index: 9 }, "{command:?}");
                } else {
                    assert_eq!(outcome, failed(exists.then_some(5)), "{command:?}");
                    assert_eq!(store.get(b"k"), before, "{command:?}");
                }
            }
        }
    }

    #[test]
    fn a_frozen_map_does_not_see_later_writes() {
        let store = Store::new();
        for i in 0..1000_u64 {
            store.apply(&put(&i.to_be_bytes(), b"before"), i + 1);
        }
        let frozen = store.freeze();
        for i in 0..1000_u64 {
            match i % 3 {
                0 => store.apply(&put(&i.to_be_bytes(), b"after"), 2000 + i),
                1 => store.apply(&delete(&i.to_be_bytes()), 2000 + i),
                _ => store.apply(&put(format!("new {i}").as_bytes(), b"x"), 2000 + i),
            };
        }
        let content = content(&frozen);
        assert_eq!((content.len(), frozen.len()), (1000, 1000));
        for i in 0..1000_u64 {
            assert_eq!(
                content[&i.to_be_bytes().to_vec()],
                (i + 1, b"before".to_vec())
            );
        }
        assert_eq!(store.len(), store.freeze().len() as u64);
        assert_eq!(&*store.get(&0_u64.to_be_bytes()).unwrap().bytes, b"after");
        assert_eq!(store.get(&1_u64.to_be_bytes()), None);
    }

    #[test]
    fn a_table_is_copied_once_a_freeze_and_only_where_it_is_written() {
        let store = Store::new();
        store.apply(&put(b"a", b"1"), 1);
        let frozen = store.freeze();
        let shard = shard_of(store.hasher.hash(b"a"), SHARDS);
        store.apply(&put(b"a", b"2"), 2);
        let copied = Arc::as_ptr(&store.shards[shard].read());
        assert_ne!(copied, Arc::as_ptr(&frozen.tables[shard]));
        store.apply(&put(b"a", b"3"), 3);
        assert_eq!(copied, Arc::as_ptr(&store.shards[shard].read()));
        for (i, table) in frozen.tables.iter().enumerate() {
            let shared = Arc::ptr_eq(table, &store.shards[i].read());
            assert_eq!(shared, i != shard);
        }
        drop(frozen);
        store.apply(&put(b"a", b"4"), 4);
        assert_eq!(copied, Arc::as_ptr(&store.shards[shard].read()));
    }

    #[test]
    fn a_restored_map_replaces_everything() {
        let from = Store::new();
        for i in 0..500_u64 {
            from.apply(&put(&i.to_be_bytes(), &vec![i as u8; i as usize]), i + 1);
        }
        let frozen = from.freeze();
        let to = Store::new();
        to.apply(&put(b"gone", b"x"), 1);
        let mut restore = to.begin_restore();
        restore.insert(&7_u64.to_be_bytes(), 1, b"an earlier one");
        for (key, index, value) in frozen.iter() {
            restore.insert(key, index, value);
        }
        assert!(
            to.get(b"gone").is_some(),
            "the old map serves until it is replaced"
        );
        to.replace(restore);
        assert_eq!(content(&to.freeze()), content(&frozen));
        assert_eq!((to.len(), to.bytes()), (from.len(), from.bytes()));
        assert_eq!(to.get(b"gone"), None);
    }

    #[test]
    fn only_large_values_stay_slices_of_their_frame() {
        let frame = Bytes::from(vec![1; 2 * config::ENTRY_BYTES_MAX]);
        let within = |value: &Bytes| frame.as_ptr_range().contains(&value.as_ptr());
        for (length, kept) in [(100, false), (config::ENTRY_BYTES_MAX + 1, true)] {
            let store = Store::new();
            let mut command = put(b"k", b"");
            command.value = frame.slice(10..10 + length);
            store.apply(&command, 1);
            let value = store.get(b"k").unwrap();
            assert_eq!(within(&value.bytes), kept);
            assert_eq!(value.bytes, command.value);
        }
    }

    type Entry<'a> = (&'a [u8], u64, &'a [u8]);

    fn filled(entries: &[Entry]) -> u64 {
        let store = Store::new();
        for (key, index, value) in entries {
            store.apply(&put(key, value), *index);
        }
        store.freeze().hash()
    }

    #[test]
    fn maps_have_the_same_hash_if_and_only_if_they_hold_the_same() {
        let names: Vec<Vec<u8>> = (0..100_u64).map(|i| i.to_be_bytes().to_vec()).collect();
        let mut entries: Vec<Entry> = (1..)
            .zip(&names)
            .map(|(index, name)| (name.as_slice(), index, name.as_slice()))
            .collect();
        let hash = filled(&entries);
        entries.reverse();
        assert_eq!(filled(&entries), hash, "another way to the same map");
        let changed: [&[Entry]; 9] = [
            &[],
            &[(b"", 1, b"")],
            &[(b"a", 1, b"b")],
            &[(b"a", 2, b"b")],
            &[(b"b", 1, b"a")],
            &[(b"ab", 1, b"")],
            &[(b"", 1, b"ab")],
            &[(b"a", 1, b"b\0")],
            &[(b"a", 1, b"x"), (b"b", 2, b"y")],
        ];
        let mut hashes: Vec<u64> = changed.iter().map(|entries| filled(entries)).collect();
        hashes.push(filled(&[(b"a", 1, b"y"), (b"b", 2, b"x")]));
        hashes.push(filled(&[(b"a", 2, b"x"), (b"b", 1, b"y")]));
        for length in 0..64 {
            hashes.push(filled(&[(b"zeros", 1, &[0; 64][..length])]));
            hashes.push(filled(&[(b"one bit", 1, &(1_u64 << length).to_le_bytes())]));
        }
        let all = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), all, "two different maps have one hash");
        // Members of different builds compare theirs, so it stays as it is.
        assert_eq!(filled(&[]), 0);
        assert_eq!(
            filled(&[(b"key", 7, b"a value of 19 bytes")]),
            0x471f_8e65_82a7_5d7f
        );
    }

    #[test]
    fn keys_are_spread_over_shards_and_within_them() {
        let hasher = KeyHasher(RandomState::new());
        let mut counts = [0; SHARDS];
        for i in 0..100 * SHARDS as u64 {
            counts[shard_of(hasher.hash(&i.to_be_bytes()), SHARDS)] += 1;
        }
        assert!(counts.iter().all(|n| (20..300).contains(n)), "{counts:?}");
        // What a table goes by first, the lowest bits, still differs between keys of one shard.
        let of_one_shard = (0..).map(|i: u64| hasher.hash(&i.to_be_bytes()));
        let lowest: BTreeSet<u64> = of_one_shard
            .filter(|hash| shard_of(*hash, SHARDS) == 0)
            .take(100)
            .map(|hash| hash % 1024)
            .collect();
        assert!(lowest.len() > 70, "{} of 100", lowest.len());
    }

    #[test]
    fn a_value_may_change_between_small_and_large() {
        let store = Store::new();
        let lengths = [
            0,
            1,
            config::SMALL_BYTES_MAX - 1,
            config::SMALL_BYTES_MAX,
            config::ENTRY_BYTES_MAX,
            config::ENTRY_BYTES_MAX + 1,
        ];
        let mut index = 0;
        for first in lengths {
            for second in lengths {
                for length in [first, second] {
                    index += 1;
                    let value = vec![index as u8; length];
                    store.apply(&put(b"k", &value), index);
                    let read = store.get(b"k").unwrap();
                    assert_eq!((read.index, &*read.bytes), (index, &*value));
                    assert_eq!((store.len(), store.bytes()), (1, 1 + length as u64));
                }
            }
        }
        // A key beyond what the head of a small entry can tell.
        let long = vec![b'l'; 70_000];
        store.apply(&put(&long, b"v"), 99);
        assert_eq!(&*store.get(&long).unwrap().bytes, b"v");
        store.apply(&delete(&long), 100);
        store.apply(&delete(b"k"), 101);
        assert_eq!((store.len(), store.bytes()), (0, 0));
    }

    #[test]
    fn a_value_that_was_read_stays_as_it_was_read() {
        for length in [8, config::SMALL_BYTES_MAX + 1] {
            let store = Store::new();
            store.apply(&put(b"k", &vec![1; length]), 1);
            let read = store.get(b"k").unwrap();
            store.apply(&put(b"k", &vec![2; length]), 2);
            assert_eq!((read.index, &*read.bytes), (1, &*vec![1; length]));
        }
    }

    #[test]
    fn what_changes_nothing_copies_no_frozen_table() {
        let store = Store::new();
        store.apply(&put(b"a", b"1"), 1);
        let frozen = store.freeze();
        let mut refused = put(b"a", b"2");
        refused.if_match = Some(indexes(&[9])).into();
        let current = Some(1);
        assert_eq!(
            store.apply(&refused, 2),
            Outcome::ConditionFailed { current }
        );
        for i in 0..100_u64 {
            store.apply(&delete(&i.to_be_bytes()), 3 + i);
        }
        for (shard, table) in store.shards.iter().zip(&frozen.tables) {
            assert!(Arc::ptr_eq(table, &shard.read()));
        }
    }

    #[test]
    fn an_entry_is_freed_by_whoever_holds_it_last() {
        let holders = |store: &Store| {
            let hash = store.hasher.hash(b"a");
            find(&store.shard(hash).read(), hash, b"a")
                .unwrap()
                .holders()
        };
        let store = Store::new();
        store.apply(&put(b"a", b"1"), 1);
        // Another key of the same shard: its table is copied, with `a` in it.
        let of = |key: &[u8]| shard_of(store.hasher.hash(key), SHARDS);
        let other = (0_u64..)
            .map(|i| i.to_be_bytes())
            .find(|key| of(key) == of(b"a"))
            .unwrap();
        let frozen = store.freeze();
        assert_eq!(holders(&store), 1);
        store.apply(&put(&other, b"x"), 2);
        assert_eq!(holders(&store), 2);
        let again = store.freeze();
        store.apply(&delete(&other), 3);
        assert_eq!(holders(&store), 3);
        drop(frozen);
        assert_eq!(holders(&store), 2);
        drop(again);
        assert_eq!(holders(&store), 1);
    }

    #[test]
    fn readers_see_value_and_index_of_the_same_write_while_others_are_applied() {
        let store = Arc::new(Store::new());
        store.apply(&put(b"k", &1_u64.to_be_bytes()), 1);
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let store = Arc::clone(&store);
                std::thread::spawn(move || {
                    let mut newest = 0;
                    while newest < 20_000 {
                        let value = store.get(b"k").unwrap();
                        assert_eq!(&*value.bytes, value.index.to_be_bytes());
                        assert!(value.index >= newest, "time went backwards");
                        newest = value.index;
                    }
                })
            })
            .collect();
        let mut frozen = None;
        for index in 2..=20_000_u64 {
            store.apply(&put(b"k", &index.to_be_bytes()), index);
            if index % 100 == 0 {
                frozen = Some(store.freeze());
            }
        }
        drop(frozen);
        for reader in readers {
            reader.join().unwrap();
        }
    }
}
