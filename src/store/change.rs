//! A write of one key: checks its conditions and changes its shard.

use super::content::{Content, Old};
use super::entry::Entry;
use super::map::Map;
use crate::command::outcome::Outcome;
use crate::command::{Command, Etags, Kind};
use crate::limits;
use bytes::Bytes;

/// A command that is ready for its shard.
pub(super) struct PendingChange<'a> {
    pub(super) map: &'a Map,
    /// Number of the shard.
    pub(super) shard: usize,
    pub(super) hash: u64,
    pub(super) command: &'a Command,
    pub(super) index: u64,
    /// The new entry of a put with a large value, created before the shard is locked.
    pub(super) large: Option<Entry>,
}

/// The result of a [`PendingChange`].
pub(super) struct Changed {
    pub(super) outcome: Outcome,
    /// Change of the number of keys: -1, 0 or 1.
    pub(super) keys: i64,
    /// Change of the total bytes of keys and values.
    pub(super) bytes: i64,
    /// The old entry, to be freed after the shard is unlocked.
    pub(super) previous: Option<Entry>,
}

impl PendingChange<'_> {
    /// The outcome if the command changes nothing: its condition does not hold for the index of the key's value, or the
    /// key to delete does not exist.
    fn nothing_to_do(&self, current: Option<u64>) -> Option<Outcome> {
        let (if_match, if_none_match) = (&self.command.if_match, &self.command.if_none_match);
        if !holds(if_match.as_ref(), if_none_match.as_ref(), current) {
            Some(Outcome::ConditionFailed { current })
        } else if self.command.kind == Kind::Delete && current.is_none() {
            Some(Outcome::Applied { index: self.index })
        } else {
            None
        }
    }

    /// Checks the conditions and changes the shard, with one lookup.
    pub(super) fn make(self, shard: &mut Content) -> Changed {
        let key = &*self.command.key;
        let found = shard
            .table
            .find_entry(self.hash, |entry| entry.key() == key);
        let current = found.as_ref().ok().map(|place| place.get().index());
        if let Some(outcome) = self.nothing_to_do(current) {
            return Changed::nothing(outcome);
        }
        let mut changed = Changed::nothing(Outcome::Applied { index: self.index });
        let value = &*self.command.value;
        let size = |value: &[u8]| (key.len() + value.len()) as i64;
        let new =
            |large: Option<Entry>| large.unwrap_or_else(|| Entry::new(key, self.index, value));
        let Ok(mut place) = found else {
            let entry = new(self.large);
            changed.keys = 1;
            changed.bytes = size(value);
            let hasher = &self.map.hasher;
            shard
                .table
                .insert_unique(self.hash, entry, |entry| hasher.hash(entry.key()));
            return changed;
        };
        let previous = place.get();
        let wanted = self
            .map
            .freezes
            .want(self.shard, previous.index(), self.index);
        let mut kept = None;
        if self.command.kind == Kind::Delete {
            changed.keys = -1;
            changed.bytes = -size(previous.parts().2);
            changed.previous = Some(place.remove().0);
        } else {
            changed.bytes = size(value) - size(previous.parts().2);
            if previous.has_room_for(value) {
                // Keep a copy for a while and overwrite the entry in place. Otherwise the entries would move, one by
                // one, from the memory of the threads that loaded the map to that of the writing thread, and leave
                // holes behind.
                kept = wanted.then(|| previous.clone());
                place.get_mut().overwrite(self.index, value);
            } else {
                let entry = new(self.large);
                changed.previous = Some(std::mem::replace(place.get_mut(), entry));
            }
        }
        if wanted && let Some(entry) = kept.or_else(|| changed.previous.take()) {
            let until = self.index;
            let replaced = shard.replaced.get_or_insert_default();
            replaced.0.push(Old { entry, until });
        }
        changed
    }
}

impl Changed {
    fn nothing(outcome: Outcome) -> Changed {
        Changed {
            outcome,
            keys: 0,
            bytes: 0,
            previous: None,
        }
    }
}

/// The value for a large entry of the map: shared if it is larger than `ENTRY_BYTES_MAX`, and otherwise copied. A
/// command with a larger value has a log entry of its own, so the shared slice keeps no other command of that entry
/// alive.
pub(super) fn own(value: &Bytes) -> Bytes {
    if value.len() > limits::ENTRY_BYTES_MAX {
        value.clone()
    } else {
        Bytes::copy_from_slice(value)
    }
}

/// Evaluates conditions against the index of the key's value, according to RFC 9110, section 13.
pub(super) fn holds(
    if_match: Option<&Etags>,
    if_none_match: Option<&Etags>,
    current: Option<u64>,
) -> bool {
    let matches =
        |etags: &Etags| current.is_some_and(|index| etags.any || etags.indexes.contains(&index));
    if_match.is_none_or(matches) && !if_none_match.is_some_and(matches)
}
