//! Finds a key that occurs twice in a snapshot file, without keeping the keys: they may not fit into memory.
//!
//! Each key is recorded as a 64-bit hash with a random seed that no writer of the file knows. If two hashes are equal,
//! the file is read again, and only the keys with that hash are compared. For ten million distinct keys, two hashes
//! collide in about one of 400,000 files.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, Hasher as _};

/// Maximum number of hashes that are compared again. Unless keys occur twice, there is hardly ever one.
const SUSPECTS_MAX: usize = 1_024;

/// Hashes of the keys that were read so far.
#[derive(Default)]
pub(super) struct Keys {
    hasher: RandomState,
    hashes: Vec<u64>,
}

impl Keys {
    pub(super) fn note(&mut self, key: &[u8]) {
        self.hashes.push(hash(&self.hasher, key));
    }

    /// Called when all keys are recorded. `None` if no two hashes are equal.
    pub(super) fn suspects(mut self) -> Option<Suspects> {
        self.hashes.sort_unstable();
        let equal = self.hashes.windows(2).filter(|pair| pair[0] == pair[1]);
        let hashes: BTreeMap<_, _> = equal
            .map(|pair| (pair[0], BTreeSet::new()))
            .take(SUSPECTS_MAX)
            .collect();
        (!hashes.is_empty()).then_some(Suspects {
            hasher: self.hasher,
            hashes,
        })
    }
}

/// Hashes that occur more than once.
pub(super) struct Suspects {
    hasher: RandomState,
    /// For each hash, the keys seen in the second pass.
    hashes: BTreeMap<u64, BTreeSet<Vec<u8>>>,
}

impl Suspects {
    /// In the second pass: whether this key was seen before.
    pub(super) fn was_met(&mut self, key: &[u8]) -> bool {
        let met = self.hashes.get_mut(&hash(&self.hasher, key));
        met.is_some_and(|met| !met.insert(key.to_vec()))
    }
}

fn hash(hasher: &RandomState, key: &[u8]) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write(key);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duplicate_key_is_found_and_a_hash_collision_is_not_reported() {
        let mut keys = Keys::default();
        for number in 0..10_000_u32 {
            keys.note(&number.to_le_bytes());
        }
        keys.note(&77_u32.to_le_bytes());
        let mut suspects = keys.suspects().unwrap();
        assert_eq!(suspects.hashes.len(), 1);
        let met = |suspects: &mut Suspects, number: u32| suspects.was_met(&number.to_le_bytes());
        for number in 0..10_000 {
            assert!(!met(&mut suspects, number), "{number}");
        }
        assert!(met(&mut suspects, 77));

        // Simulates two keys with the same hash.
        let keys = Keys::default();
        let hashes = [1_u32, 2].map(|number| hash(&keys.hasher, &number.to_le_bytes()));
        let mut suspects = Suspects {
            hasher: keys.hasher,
            hashes: hashes.map(|hash| (hash, BTreeSet::new())).into(),
        };
        assert!(!met(&mut suspects, 1) && !met(&mut suspects, 2) && !met(&mut suspects, 3));
        assert!(Keys::default().suspects().is_none());
    }
}
