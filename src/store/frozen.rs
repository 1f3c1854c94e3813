//! The map at one index, for readers of the whole map while writes continue: a snapshot, a backup, a list or a hash.
//!
//! Freezing the map only records its index. The frozen map is then copied shard by shard, with the shard locked for
//! reading. A copy takes the table's entries that are not newer than the index, and the replaced entries that were
//! current at the index. A shard that has been copied keeps no more replaced entries for this freeze. Memory is
//! therefore needed only for entries that are replaced before their shard is copied.
//!
//! Invariants:
//! - The check whether a freeze still needs an entry happens with the entry's shard locked, and a shard is marked as
//!   copied while it is locked. No entry is lost in between.
//! - An entry that one freeze still has to see is not freed when another freeze ends.

use super::content::{Content, Old};
use super::entry::{Copies, Entry};
use super::freezes::Freeze;
use super::map::Map;
use crate::limits;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes that each entry counts in a piece, besides those of its value.
const ENTRY_WEIGHT_BYTES: usize = 256;

/// The map at one index. While it exists, replaced entries stay in memory, so drop it soon.
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

    /// Passes every entry to the visitor as (key, index, value), in no particular order, until the visitor fails. No
    /// lock is held during a call, so the visitor may be slow. Memory of visited shards is released along the way.
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

    /// Visits the entries as [`Frozen::visit`] does, in pieces of [`limits::SCAN_PIECE_BYTES`]. After each piece,
    /// `rest` may pause, or end the visit.
    pub fn visit_in_pieces<E>(
        self,
        mut visit: impl FnMut(&[u8], u64, &[u8]),
        mut rest: impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        let mut bytes = 0;
        self.visit(|key, index, value| {
            visit(key, index, value);
            bytes += ENTRY_WEIGHT_BYTES + value.len();
            match bytes >= limits::SCAN_PIECE_BYTES {
                true => {
                    bytes = 0;
                    rest()
                }
                false => Ok(()),
            }
        })
    }

    /// The [`MapHash`] of the map. Calls `rest` from time to time, which may pause, or give up.
    pub fn hash<E>(self, rest: impl FnMut() -> Result<(), E>) -> Result<u64, E> {
        let mut hash = MapHash::default();
        self.visit_in_pieces(|key, index, value| hash.add(key, index, value), rest)?;
        Ok(hash.value())
    }

    /// Copies the entries of this freeze out of the next shard, and marks that shard as copied.
    fn take(&self, shard: usize, copies: &mut Copies) {
        let content = self.map.shards[shard].read();
        let kept = self.freeze.kept().remove(&shard);
        // A shard that replaced the kept shard may contain entries with any index.
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
    /// Copies the entries that were current at an index.
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
    /// Frees the replaced entries of a shard that no freeze needs any more.
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
        // Free them after the lock is released.
        drop(content);
        drop(free);
    }
}

/// A hash of all keys, indexes and values. It is equal on every member and in every process with the same contents.
///
/// The hash is the sum of the entries' hashes, since the tables have no order. It detects accidents, not attacks: its
/// key is public, so anyone can construct two maps with the same hash.
#[derive(Debug, Clone, Copy, Default)]
pub struct MapHash(u64);

impl MapHash {
    /// Adds an entry.
    pub fn add(&mut self, key: &[u8], index: u64, value: &[u8]) {
        self.0 = self.0.wrapping_add(entry_hash(key, index, value));
    }

    /// The hash of all entries added so far.
    pub fn value(self) -> u64 {
        self.0
    }
}

/// The hash of one entry. It is not the hash of the standard library, whose algorithm may change between builds:
/// members of different builds have to agree.
fn entry_hash(key: &[u8], index: u64, value: &[u8]) -> u64 {
    // An odd number with as many ones as zeros, in irregular order.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, word: u64| {
        // Use both halves of the product, so that every bit of the input affects every bit of the result.
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
    // One more round, so that the last word is mixed as well as the others.
    mix(hash, FACTOR.rotate_left(32))
}
