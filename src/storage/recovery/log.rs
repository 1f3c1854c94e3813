//! Rebuilds the log from the records of the segments.

use crate::command::{self, Command, Kind};
use crate::limits;
use crate::members;
use crate::storage::later_entries::LaterEntries;
use crate::storage::log_index::{LogIndex, entry_bytes};
use crate::storage::wal::WalState;
use crate::storage::wal::read_back::Effect;
use crate::storage::wal::record::Record;
use raft::eraftpb::{Entry, EntryType};
use std::collections::VecDeque;

/// The log up to the record that was read last.
pub(super) struct ScannedLog {
    pub(super) state: WalState,
    /// All entries after the older of the two snapshots.
    pub(super) log_index: LogIndex,
    /// The newest entries: all that are not known to be committed, and committed ones up to `cache_bytes`.
    pub(super) entries: VecDeque<Entry>,
    bytes: u64,
    cache_bytes: u64,
    /// Index of the entry that says that the cluster has formed, if that entry was read.
    pub(super) formed: Option<u64>,
    /// Entries that only a later version can decode. `None` if they are not collected. Collecting them means decoding
    /// every entry, and a start needs no list: it stops at the first such entry when it applies the log.
    pub(super) later: Option<LaterEntries>,
}

impl ScannedLog {
    pub(super) fn new(first_index: u64, cache_bytes: u64) -> ScannedLog {
        let last = first_index.saturating_sub(1);
        ScannedLog {
            state: WalState {
                last,
                ..WalState::default()
            },
            // The term of the entry before the first segment is unknown. Only a snapshot at that index needs it: see
            // `recovery::judge`.
            log_index: LogIndex::new(last, 0),
            entries: VecDeque::new(),
            bytes: 0,
            cache_bytes,
            formed: None,
            later: None,
        }
    }

    /// Collects the entries that only a later version can decode. For this, it decodes every entry.
    pub(super) fn noting_later_entries(mut self) -> ScannedLog {
        self.later = Some(LaterEntries::default());
        self
    }

    pub(super) fn apply(&mut self, record: Record, effect: &mut Effect) -> Result<(), String> {
        match record {
            Record::Entry(entry) => {
                let index = entry.index;
                let WalState { last, .. } = self.state;
                if index == 0 || index > last + 1 {
                    return Err(format!("entry {index} follows entry {last}: a gap"));
                }
                let snapshot = self.state.newest_mark();
                if index <= snapshot {
                    return Err(format!("entry {index} is older than snapshot {snapshot}"));
                }
                effect.entry(index);
                self.truncate(index)?;
                self.formed.take_if(|formed| *formed >= index);
                if says_formed(&entry) {
                    self.formed = Some(index);
                }
                if let Some(later) = &mut self.later {
                    later.note(&entry);
                }
                self.bytes += entry_bytes(&entry);
                self.log_index.push(&entry);
                self.entries.push_back(entry);
                self.state.last = index;
            }
            Record::HardState(hard_state) => self.state.hard_state = hard_state,
            Record::Mark(mark) => {
                let index = mark.index;
                if mark.installed {
                    effect.clear();
                    self.clear(index, mark.term);
                } else if index > self.state.last {
                    let last = self.state.last;
                    return Err(format!("snapshot {index} is newer than entry {last}"));
                }
                self.state.apply_mark(&mark);
                if self.state.marks.len() == limits::SNAPSHOTS_KEPT {
                    let oldest = &self.state.marks[0];
                    let (index, term) = (oldest.index, oldest.term);
                    self.drop_to(index, term);
                }
            }
        }
        while self.bytes > self.cache_bytes
            && let Some(entry) = self
                .entries
                .pop_front_if(|entry| entry.index <= self.state.hard_state.commit)
        {
            self.bytes -= entry_bytes(&entry);
        }
        Ok(())
    }

    /// Drops the entries from `index` on: another leader replaced them, so they were never committed.
    fn truncate(&mut self, index: u64) -> Result<(), String> {
        if index <= self.log_index.start().0 {
            // The new entry also replaces the end of a segment that was deleted.
            self.clear(index - 1, 0);
        }
        while self.log_index.last() >= index {
            let Some(entry) = self.entries.pop_back() else {
                return Err(format!("entry {index} replaces a committed entry"));
            };
            self.bytes -= entry_bytes(&entry);
            self.log_index.pop(&entry);
        }
        Ok(())
    }

    fn clear(&mut self, index: u64, term: u64) {
        self.entries.clear();
        self.bytes = 0;
        self.log_index = LogIndex::new(index, term);
        self.formed = None;
        if let Some(later) = &mut self.later {
            later.clear();
        }
    }

    pub(super) fn drop_to(&mut self, index: u64, term: u64) {
        if (self.log_index.start().0..=self.log_index.last()).contains(&index) {
            self.log_index.drop_to(index, term);
            self.forget_to(index);
        }
    }

    /// Drops the entries up to this index from memory. They stay on disk.
    pub(super) fn forget_to(&mut self, index: u64) {
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.index <= index) {
            self.bytes -= entry_bytes(&entry);
        }
    }
}

/// The change of members in an entry, if any.
pub(in crate::storage) fn change_of_members(entry: &Entry) -> Option<Command> {
    if entry.entry_type != EntryType::EntryConfChange {
        return None;
    }
    let mut batch = command::decode(&entry.context).ok()?;
    batch.commands.pop().filter(|c| members::is_change(c.kind))
}

/// Whether the entry says that the cluster has formed.
fn says_formed(entry: &Entry) -> bool {
    change_of_members(entry).is_some_and(|command| command.kind == Kind::Formed)
}
