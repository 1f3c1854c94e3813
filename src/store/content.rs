//! What a shard of the map holds.

use super::entry::Entry;
use hashbrown::HashTable;

/// The entries of one shard, found by the hash of their key.
pub(super) type Table = HashTable<Entry>;

/// What is in a shard.
#[derive(Default)]
pub(super) struct Content {
    pub(super) table: Table,
    /// What was replaced and somebody who froze the map has still to see. Boxed, as there is mostly none.
    pub(super) replaced: Option<Box<Replaced>>,
}

#[derive(Default)]
pub(super) struct Replaced(pub(super) Vec<Old>);

/// An entry that is not in the table any more.
pub(super) struct Old {
    pub(super) entry: Entry,
    /// The index of the write that replaced or deleted it.
    pub(super) until: u64,
}
