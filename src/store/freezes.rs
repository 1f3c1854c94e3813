//! The current freezes of the map: the index of each, and how far it has come. They decide which replaced entries still
//! have to be kept. See `frozen.rs`.

use super::content::Content;
use crate::mutants::{Mutant, is_planted};
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// One freeze of the map.
pub(super) struct Freeze {
    /// Index of the newest entry that belongs to the freeze.
    pub(super) index: u64,
    /// The freeze has copied all shards before this one.
    pub(super) next: AtomicUsize,
    /// Whole shards that a restored map has replaced, by their number.
    kept: Mutex<BTreeMap<usize, Arc<Content>>>,
}

/// All current freezes. There are only a few: one for a snapshot, one for a backup, and one for a hash or a list.
#[derive(Default)]
pub(super) struct Freezes {
    /// The highest index of a freeze, 0 if there is none. Only the writer raises it. A freeze that ends may lower it.
    newest: AtomicU64,
    live: Mutex<Vec<Arc<Freeze>>>,
}

impl Freezes {
    /// Whether a freeze still has to see the entry of `shard` that was written at `index` and replaced at `until`. The
    /// caller holds the lock of the shard.
    pub(super) fn want(&self, shard: usize, index: u64, until: u64) -> bool {
        // For most writes the answer is already false here.
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

    /// Keeps a whole shard that a restored map replaces, for the freezes that still have to see it. The caller holds
    /// the lock of the shard.
    pub(super) fn keep(&self, shard: usize, content: Content) -> Arc<Content> {
        let content = Arc::new(content);
        for freeze in self.live().iter().filter(|freeze| freeze.has_to_see(shard)) {
            // Keep the first one: later contents of this shard are newer than the freeze.
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
    /// A freeze at this index.
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
