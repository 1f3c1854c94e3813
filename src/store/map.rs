//! The shards of the map, and the assignment of keys to shards.

use super::content::Content;
use super::freezes::Freezes;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::atomic::AtomicU64;

/// The map: its shards and counters.
pub(super) struct Map {
    /// The same for all shards, and for every restored map.
    pub(super) hasher: KeyHasher,
    pub(super) shards: Box<[Shard]>,
    /// Only the writer changes the counters. Readers may see a change slightly late.
    pub(super) keys: AtomicU64,
    pub(super) bytes: AtomicU64,
    /// The highest index of an applied entry. Only the writer changes it.
    pub(super) newest: AtomicU64,
    pub(super) freezes: Freezes,
}

/// Hashes a key once, for both its shard and its table.
///
/// This is the standard library's SipHash with a random key. Clients choose the keys of the map: with an unkeyed hash,
/// one client could cause collisions that slow all clients down.
#[derive(Clone)]
pub(super) struct KeyHasher(RandomState);

/// Each shard has its own cache line, so that readers of neighbouring shards don't slow each other down.
#[repr(align(64))]
#[derive(Default)]
pub(super) struct Shard(RwLock<Content>);

// The lock, the table and the replaced entries share the cache line.
const _: () = assert!(size_of::<Shard>() == 64);

impl Map {
    /// An empty map with this number of shards.
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
        // Not `Hash`, which also writes the length. The length matters only if several keys are hashed together.
        hasher.write(key);
        hasher.finish()
    }
}

/// The number of the shard for a hash. The tables use the lowest and the seven highest bits of the same hash. The shard
/// uses other bits: otherwise all keys of one shard would collide in its table.
pub(super) fn shard_of(hash: u64, shards: usize) -> usize {
    (hash >> 40) as usize % shards
}
