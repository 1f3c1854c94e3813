//! Who has frozen the map, at which index, and how far each has come: so it is known which entries somebody has still
//! to see. See `frozen.rs`.

use super::content::Content;
use crate::mutants::{Mutant, is_planted};
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// One freeze of the map.
pub(super) struct Freeze {
    /// Of the newest entry that belongs to it.
    pub(super) index: u64,
    /// Shards before this one are done with.
    pub(super) next: AtomicUsize,
    /// Shards that were taken out of the map as a whole, by their number.
    kept: Mutex<BTreeMap<usize, Arc<Content>>>,
}

/// All that is frozen at this time. Few: a snapshot, and a hash for `GET /-/hash`.
#[derive(Default)]
pub(super) struct Freezes {
    /// The highest index of them, 0 for none. Set by the one writer; whoever ends makes it lower.
    newest: AtomicU64,
    live: Mutex<Vec<Arc<Freeze>>>,
}

impl Freezes {
    /// Somebody has still to see an entry of this shard and index, which the write at the index `until` replaces. The
    /// shard is locked.
    pub(super) fn want(&self, shard: usize, index: u64, until: u64) -> bool {
        // Most writes end here.
        let newest = self.newest.load(Ordering::Relaxed);
        let is_frozen = match is_planted(Mutant::FrozenEntryFreed) {
            true => index < newest,
            false => index <= newest,
        };
        is_frozen
            && self
                .live()
                .iter()
                .any(|freeze| (index..until).contains(&freeze.index) && freeze.has_to_see(shard))
    }

    /// Takes a shard that leaves the map as a whole, and gives it back if nobody has to see it. The shard is locked.
    pub(super) fn keep(&self, shard: usize, content: Content) -> Arc<Content> {
        let content = Arc::new(content);
        for freeze in self.live().iter().filter(|freeze| freeze.has_to_see(shard)) {
            // What was kept first stays: later ones took its place in the map after it was frozen.
            freeze
                .kept()
                .entry(shard)
                .or_insert_with(|| content.clone());
        }
        content
    }

    fn live(&self) -> MutexGuard<'_, Vec<Arc<Freeze>>> {
        self.live.lock()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Vec<Arc<Freeze>>)) {
        let mut live = self.live();
        change(&mut live);
        let newest = live.iter().map(|freeze| freeze.index).max();
        self.newest.store(newest.unwrap_or(0), Ordering::Relaxed);
    }
}

impl Freeze {
    /// Of the map of this index.
    pub(super) fn new(index: u64) -> Freeze {
        Freeze {
            index,
            next: AtomicUsize::new(0),
            kept: Mutex::default(),
        }
    }

    fn has_to_see(&self, shard: usize) -> bool {
        self.next.load(Ordering::Acquire) <= shard
    }

    pub(super) fn kept(&self) -> MutexGuard<'_, BTreeMap<usize, Arc<Content>>> {
        self.kept.lock()
    }
}
