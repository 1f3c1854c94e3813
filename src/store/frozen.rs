//! The map as it was at one index, for whoever writes or hashes all of it while writes go on.
//!
//! To freeze the map is to note its index. What is frozen then goes through the shards, one after the other, and copies
//! out of each what belongs to it, with the shard locked for reading: the entries of the table that are not newer than
//! its index, and those replaced ones that were current at its index. A shard that it is done with keeps nothing for it
//! any more, so memory is held for the entries that are replaced before it comes by, and for nothing else.
//!
//! Invariants: whether somebody wants an entry is asked with its shard locked, and a shard is done with while it is
//! locked, so no entry is lost between the two. What one freeze has still to see, another that ends does not free.

use super::content::{Content, Old};
use super::entry::{Copies, Entry};
use super::freezes::Freeze;
use super::map::Map;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The map as it was at one index. Holding it costs the entries that are replaced, so let go of it soon.
pub struct Frozen {
    map: Arc<Map>,
    freeze: Arc<Freeze>,
}

impl Frozen {
    pub(super) fn new(map: &Arc<Map>) -> Frozen {
        let freeze = Arc::new(Freeze::new(map.newest.load(Ordering::Relaxed)));
        map.freezes.change(|live| live.push(freeze.clone()));
        Frozen {
            map: map.clone(),
            freeze,
        }
    }

    /// Visits every entry as (key, index, value), in no order, until the visitor fails. No lock is held meanwhile, so
    /// it may take its time. What was visited is let go of.
    pub fn visit<E>(
        self,
        mut visit: impl FnMut(&[u8], u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut copies = Copies::default();
        for shard in 0..self.map.shards.len() {
            self.take(shard, &mut copies);
            copies.visit(&mut visit)?;
            copies.clear();
        }
        Ok(())
    }

    /// See [`MapHash`].
    pub fn hash(self) -> u64 {
        let mut hash = MapHash::default();
        let Ok(()) = self.visit(|key, index, value| {
            hash.add(key, index, value);
            Ok::<(), Infallible>(())
        });
        hash.value()
    }

    /// Copies what belongs to it out of a shard, the next one, and is done with that.
    fn take(&self, shard: usize, copies: &mut Copies) {
        let content = self.map.shards[shard].read();
        let kept = self.freeze.kept().remove(&shard);
        // A shard that was put in the place of the one that was kept may hold entries of any index.
        kept.as_deref()
            .unwrap_or(&content)
            .copy(self.freeze.index, copies);
        self.freeze.next.store(shard + 1, Ordering::Release);
        let tidy = content.replaced.is_some();
        drop(content);
        if tidy {
            self.map.tidy(shard);
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.map
            .freezes
            .change(|live| live.retain(|freeze| !Arc::ptr_eq(freeze, &self.freeze)));
        for shard in self.freeze.next.load(Ordering::Acquire)..self.map.shards.len() {
            if self.map.shards[shard].read().replaced.is_some() {
                self.map.tidy(shard);
            }
        }
    }
}

impl fmt::Debug for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frozen(at {})", self.freeze.index)
    }
}

impl Content {
    /// Copies what was current at an index.
    fn copy(&self, index: u64, copies: &mut Copies) {
        let replaced = self.replaced.iter().flat_map(|replaced| &replaced.0);
        let replaced = replaced
            .filter(|old| index < old.until)
            .map(|old| &old.entry);
        for entry in self.table.iter().chain(replaced) {
            if entry.index() <= index {
                copies.add(entry);
            }
        }
    }
}

impl Map {
    /// Frees the replaced entries of a shard that nobody wants any more.
    fn tidy(&self, shard: usize) {
        let mut content = self.shards[shard].lock();
        let Some(replaced) = &mut content.replaced else {
            return;
        };
        let wanted = |old: &mut Old| !self.freezes.want(shard, old.entry.index(), old.until);
        let free: Vec<Entry> = replaced
            .0
            .extract_if(.., wanted)
            .map(|old| old.entry)
            .collect();
        if replaced.0.is_empty() {
            content.replaced = None;
        }
        // With the lock released.
        drop(content);
        drop(free);
    }
}

/// A hash of all keys, indexes and values, the same on every member and in every process that holds the same.
///
/// It is the sum of the entries' hashes, since the tables have no order. It tells accidents, not attackers: its key is
/// no secret, so whoever wants to can make two maps with the same hash.
#[derive(Debug, Clone, Copy, Default)]
pub struct MapHash(u64);

impl MapHash {
    /// Adds an entry.
    pub fn add(&mut self, key: &[u8], index: u64, value: &[u8]) {
        self.0 = self.0.wrapping_add(entry_hash(key, index, value));
    }

    /// That of all that was added.
    pub fn value(self) -> u64 {
        self.0
    }
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
