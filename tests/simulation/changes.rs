//! What the committed commands changed, in the order of the log: what lists, watches and backups are checked against.
//!
//! The oracle appends to it once for each entry, when the first member publishes that entry. So it covers whatever any
//! member has applied.

use std::collections::BTreeMap;

/// A key was put, or deleted where there was something to delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Of the entry.
    pub index: u64,
    pub key: Vec<u8>,
    /// `None`: it was deleted.
    pub value: Option<Vec<u8>>,
}

/// All changes since the run began.
#[derive(Default)]
pub struct Changes(Vec<Change>);

impl Changes {
    pub fn add(&mut self, index: u64, key: &[u8], value: Option<&[u8]>) {
        self.0.push(Change {
            index,
            key: key.to_vec(),
            value: value.map(<[u8]>::to_vec),
        });
    }

    /// Those of the entries behind `after`, up to `last`.
    pub fn between(&self, after: u64, last: u64) -> &[Change] {
        let first = self.0.partition_point(|change| change.index <= after);
        let end = self.0.partition_point(|change| change.index <= last);
        &self.0[first..end.max(first)]
    }

    /// The map as of an index: for each key the index of its entry, and its value.
    pub fn map_at(&self, index: u64) -> BTreeMap<&[u8], (u64, &[u8])> {
        let mut map = BTreeMap::new();
        for change in self.between(0, index) {
            match &change.value {
                Some(value) => map.insert(&change.key[..], (change.index, &value[..])),
                None => map.remove(&change.key[..]),
            };
        }
        map
    }
}
