//! The contents of a shard of the map.

use super::entry::Entry;
use hashbrown::HashTable;

/// The entries of one shard, found by the hash of their key.
pub(super) type Table = HashTable<Entry>;

/// The contents of a shard.
#[derive(Default)]
pub(super) struct Content {
    pub(super) table: Table,
    /// Replaced entries that a freeze still has to see. Boxed, as there are usually none.
    pub(super) replaced: Option<Box<Replaced>>,
}

#[derive(Default)]
pub(super) struct Replaced(pub(super) Vec<Old>);

/// An entry that is no longer in the table.
pub(super) struct Old {
    pub(super) entry: Entry,
    /// Index of the write that replaced or deleted the entry.
    pub(super) until: u64,
}
