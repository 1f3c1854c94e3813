//! Which commands ever went to a disk, and which of them clients were told to be surely without effect: no command may be
//! both. A command is known by its unique value.

use crate::oracle::hash;
use raft::eraftpb::{Entry, EntryType};
use raftkvd::command;
use std::collections::{HashMap, HashSet};

/// Sets that are only asked whether they hold something: their order decides nothing.
#[derive(Default)]
pub struct Written {
    /// Index and term of entries that were looked at.
    entries: HashSet<(u64, u64)>,
    /// By the hash of a command's value: an entry that holds it.
    values: HashMap<u64, (u64, u64)>,
    refused: HashSet<u64>,
}

impl Written {
    /// A member hands these entries to its disk.
    pub fn save(&mut self, entries: &[Entry]) {
        for entry in entries {
            let place = (entry.index, entry.term);
            let is_normal = entry.get_entry_type() == EntryType::EntryNormal;
            if !is_normal || entry.data.is_empty() || !self.entries.insert(place) {
                continue;
            }
            let batch = command::decode(&entry.data);
            let batch = batch.unwrap_or_else(|error| panic!("entry {place:?}: {error}"));
            for command in batch.commands.iter() {
                let value = hash(&&command.value[..]);
                self.values.insert(value, place);
                assert!(
                    !self.refused.contains(&value),
                    "a command was said not to be written; it is in entry (index, term) {place:?}"
                );
            }
        }
    }

    /// A client is told that its command was not written and never will be.
    pub fn refuse(&mut self, value: &[u8]) {
        let value = hash(&value);
        self.refused.insert(value);
        let place = self.values.get(&value);
        assert_eq!(
            place, None,
            "a command was said not to be written; it is in the entry of this index and term"
        );
    }

    /// So many commands were refused by a member.
    pub fn refused(&self) -> u64 {
        self.refused.len() as u64
    }
}
