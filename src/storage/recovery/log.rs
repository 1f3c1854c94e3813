//! The log as recovery reads it from the segments, record by record.

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

/// The log as far as it was read.
pub(super) struct ScannedLog {
    pub(super) state: WalState,
    /// Of all entries, from those behind the older of two snapshots on.
    pub(super) log_index: LogIndex,
    /// The newest of them: all that are not known to be committed, and of the others up to `cache_bytes`.
    pub(super) entries: VecDeque<Entry>,
    bytes: u64,
    cache_bytes: u64,
    /// Index of the entry that says that the cluster has formed, if it is in what was read.
    pub(super) formed: Option<u64>,
    /// Entries that only a later version knows, if they are looked for, which has to decode every one: a start comes to
    /// them by itself.
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
            // What is before the first segment nobody asks for, but a snapshot that stands there: see `recovery::judge`.
            log_index: LogIndex::new(last, 0),
            entries: VecDeque::new(),
            bytes: 0,
            cache_bytes,
            formed: None,
            later: None,
        }
    }

    /// The same, and it decodes each entry to find those that only a later version knows.
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

    /// What was read from `index` on was never committed, and another leader replaced it.
    fn truncate(&mut self, index: u64) -> Result<(), String> {
        if index <= self.log_index.start().0 {
            // All of it, and the end of what stood in a segment that is deleted.
            self.clear(index - 1, 0);
        }
        while self.log_index.last() >= index {
            let Some(entry) = self.entries.pop_back() else {
                return Err(format!(
                    "entry {index} takes the place of one that was committed"
                ));
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

    /// Leaves the entries up to this index to the disk.
    pub(super) fn forget_to(&mut self, index: u64) {
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.index <= index) {
            self.bytes -= entry_bytes(&entry);
        }
    }
}

/// The change of members that the entry carries.
pub(in crate::storage) fn change_of_members(entry: &Entry) -> Option<Command> {
    if entry.entry_type != EntryType::EntryConfChange {
        return None;
    }
    let mut batch = command::decode(&entry.context).ok()?;
    batch.commands.pop().filter(|c| members::is_change(c.kind))
}

/// The entry says that the cluster has formed.
fn says_formed(entry: &Entry) -> bool {
    change_of_members(entry).is_some_and(|command| command.kind == Kind::Formed)
}
