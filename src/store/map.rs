//! The shards of the map, and which key belongs to which.

use super::content::Content;
use super::freezes::Freezes;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::atomic::AtomicU64;

/// The map itself: its shards, and what is counted of them.
pub(super) struct Map {
    /// The same for all shards and for every map that replaces this one.
    pub(super) hasher: KeyHasher,
    pub(super) shards: Box<[Shard]>,
    /// Counted by the one writer; readers may see them a moment late.
    pub(super) keys: AtomicU64,
    pub(super) bytes: AtomicU64,
    /// The highest index of an entry that was applied; written by the one writer.
    pub(super) newest: AtomicU64,
    pub(super) freezes: Freezes,
}

/// Hashes a key once, for its shard and for the table.
///
/// By the standard library's SipHash with a random key: clients choose the keys, so an unkeyed hash would let one of
/// them slow down all.
#[derive(Clone)]
pub(super) struct KeyHasher(RandomState);

/// A cache line of its own, so that readers of neighbouring shards don't slow each other.
#[repr(align(64))]
#[derive(Default)]
pub(super) struct Shard(RwLock<Content>);

// The lock, the table and what was replaced share the cache line.
const _: () = assert!(size_of::<Shard>() == 64);

impl Map {
    /// An empty one of so many shards.
    pub(super) fn with_shards(shards: usize) -> Map {
        Map {
            hasher: KeyHasher::new(),
            shards: (0..shards).map(|_| Shard::default()).collect(),
            keys: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            newest: AtomicU64::new(0),
            freezes: Freezes::default(),
        }
    }

    pub(super) fn shard_of(&self, hash: u64) -> usize {
        shard_of(hash, self.shards.len())
    }
}

impl Shard {
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Content> {
        self.0.read()
    }

    pub(super) fn lock(&self) -> RwLockWriteGuard<'_, Content> {
        self.0.write()
    }
}

impl KeyHasher {
    pub(super) fn new() -> KeyHasher {
        KeyHasher(RandomState::new())
    }

    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        let mut hasher = self.0.build_hasher();
        // Not `Hash`, which would write the length too: it tells keys apart only where more than one is hashed.
        hasher.write(key);
        hasher.finish()
    }
}

/// The tables look at the lowest and the seven highest bits of the same hash, so the shard takes others: keys of one
/// shard would otherwise all collide in its table.
pub(super) fn shard_of(hash: u64, shards: usize) -> usize {
    (hash >> 40) as usize % shards
}
