//! Finding a key that stands twice in a snapshot file, without keeping the keys: there may be more of them than memory
//! shall hold.
//!
//! Each key is noted as a hash of 64 bits, under a key of its own that no writer of a file knows. Where two of them are
//! equal, the file is read again for just these, and compared. Of ten million keys that differ, two have the same hash in
//! one of 400,000 files.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, Hasher as _};

/// Hashes that are looked at again. Unless keys stand twice there are hardly ever any.
const SUSPECTS_MAX: usize = 1_024;

/// The keys of a file, as far as it was read.
#[derive(Default)]
pub(super) struct Keys {
    hasher: RandomState,
    hashes: Vec<u64>,
}

impl Keys {
    /// Another key.
    pub(super) fn note(&mut self, key: &[u8]) {
        self.hashes.push(hash(&self.hasher, key));
    }

    /// All keys were noted. `None`: no two are equal.
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

/// Hashes that more than one key has.
pub(super) struct Suspects {
    hasher: RandomState,
    /// With the keys that were met.
    hashes: BTreeMap<u64, BTreeSet<Vec<u8>>>,
}

impl Suspects {
    /// In the second reading: whether this key was met before.
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
    fn a_key_is_found_that_stands_twice_and_none_that_has_the_hash_of_another() {
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

        // As if these two had the same hash.
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
