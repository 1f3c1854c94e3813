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
pub struct Changes {
    all: Vec<Change>,
    /// Where in `all` those of each key are.
    of_keys: BTreeMap<Vec<u8>, Vec<usize>>,
}

impl Changes {
    pub fn add(&mut self, index: u64, key: &[u8], value: Option<&[u8]>) {
        let place = self.all.len();
        match self.of_keys.get_mut(key) {
            Some(places) => places.push(place),
            None => drop(self.of_keys.insert(key.to_vec(), vec![place])),
        }
        self.all.push(Change {
            index,
            key: key.to_vec(),
            value: value.map(<[u8]>::to_vec),
        });
    }

    /// Those of the entries behind `after`, up to `last`.
    pub fn between(&self, after: u64, last: u64) -> &[Change] {
        let first = self.all.partition_point(|change| change.index <= after);
        let end = self.all.partition_point(|change| change.index <= last);
        &self.all[first..end.max(first)]
    }

    /// The map as of an index, in the order of the keys: of each the index of its entry, and its value.
    pub fn map_at(&self, index: u64) -> impl Iterator<Item = (&[u8], (u64, &[u8]))> {
        self.of_keys.iter().filter_map(move |(key, places)| {
            let later = places.partition_point(|place| self.all[*place].index <= index);
            let newest = &self.all[*places[..later].last()?];
            Some((&key[..], (newest.index, newest.value.as_deref()?)))
        })
    }
}
