//! Which commands ever went to a disk, and which of them clients were told to be surely without effect: no such command
//! may ever be applied. A command is known by its unique value.
//!
//! It may be in a log all the same, but only where it is void for good: its proposer knew it to be overtaken, as a later
//! command of the same member was applied, or its proposer was removed.

use crate::handovers::Standings;
use crate::oracle::{Shadow, hash, shadow};
use raft::eraftpb::{Entry, EntryType};
use raftkvd::command::{self, Command, Kind};
use std::collections::{HashMap, HashSet};

/// Sets that are only asked whether they hold something: their order decides nothing.
#[derive(Default)]
pub struct Written {
    /// By index: whose commands an entry holds, and the number of the last. The term does not suffice: a sole voter that
    /// loses power before anybody has heard of its term may write another entry in it.
    entries: HashMap<(u64, Shadow), (Proposer, u64)>,
    /// By the hash of a command's value: the newest form in which it is in an entry.
    forms: HashMap<u64, Form>,
    /// The newest command of each member that was applied: boot and sequence.
    newest: HashMap<u64, (u64, u64)>,
    /// By index and entry: the index of the change of members that a settlement is about.
    settlements: HashMap<(u64, Shadow), u64>,
    refused: HashSet<u64>,
    void: u64,
}

/// A start of a member's process, as its commands name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proposer {
    pub member: u64,
    pub incarnation: u64,
    pub boot: u64,
    pub run: u64,
}

/// A command as its proposer has numbered it.
#[derive(Debug, Clone, Copy)]
struct Form {
    member: u64,
    /// Boot and sequence.
    number: (u64, u64),
    /// Index and term of an entry that holds it.
    entry: (u64, u64),
}

impl Written {
    /// A member hands these entries to its disk.
    pub fn save(&mut self, entries: &[Entry], standings: &Standings) {
        for entry in entries {
            let place = (entry.index, entry.term);
            let is_normal = entry.get_entry_type() == EntryType::EntryNormal;
            // A change of members takes up a number, too.
            let data = if is_normal {
                &entry.data
            } else {
                &entry.context
            };
            let written = (entry.index, shadow(entry));
            if data.is_empty() || self.entries.contains_key(&written) {
                continue;
            }
            let batch = command::decode(data);
            let batch = batch.unwrap_or_else(|error| panic!("entry {place:?}: {error}"));
            let start = Proposer {
                member: batch.member,
                incarnation: batch.incarnation,
                boot: batch.boot,
                run: batch.run,
            };
            let last = batch.commands.iter().map(|command| command.sequence).max();
            self.entries.insert(written, (start, last.unwrap_or(0)));
            if !is_normal {
                continue;
            }
            for command in batch.commands.iter() {
                // One of another term was forwarded to a leader that may not have carried the change out.
                if command.kind == Kind::Settle && command.leader_term == entry.term {
                    self.settlements.insert(written, command.changed_index);
                }
                let value = hash(&&command.value[..]);
                let form = Form {
                    member: batch.member,
                    number: (batch.boot, command.sequence),
                    entry: place,
                };
                let known = self.forms.entry(value).or_insert(form);
                if known.number <= form.number {
                    *known = form;
                }
                if self.refused.contains(&value) {
                    self.is_void(form, standings);
                }
            }
        }
    }

    /// A command is applied, for the first time.
    pub fn apply(&mut self, command: &Command, index: u64) {
        let value = hash(&&command.value[..]);
        assert!(
            !self.refused.contains(&value),
            "a command was said not to be written; it is applied at {index}"
        );
    }

    /// An entry is published, also if it holds a change of members that is refused. None of its proposer's commands that
    /// stand before the last of it, and were not applied, ever will be. Gives whose commands it holds.
    pub fn publish(&mut self, index: u64, entry: Shadow) -> Option<Proposer> {
        let (start, last) = self.entries.get(&(index, entry)).copied()?;
        let newest = self.newest.entry(start.member).or_default();
        *newest = (start.boot, last).max(*newest);
        Some(start)
    }

    /// The change of members that this entry settles.
    pub fn settled_by(&self, index: u64, entry: Shadow) -> Option<u64> {
        self.settlements.get(&(index, entry)).copied()
    }

    /// A client is told that its command was not written and never will be.
    pub fn refuse(&mut self, value: &[u8], standings: &Standings) {
        let value = hash(&value);
        self.refused.insert(value);
        if let Some(form) = self.forms.get(&value) {
            self.is_void(*form, standings);
        }
    }

    fn is_void(&mut self, form: Form, standings: &Standings) {
        let newest = self.newest.get(&form.member).copied();
        assert!(
            newest.is_some_and(|newest| newest >= form.number)
                || standings.was_removed(form.member),
            "a command was said not to be written; it is number {:?} of member {}, in entry (index, term) {:?}, and \
             the newest that was applied is {newest:?}",
            form.number,
            form.member,
            form.entry
        );
        self.void += 1;
    }

    /// So many commands were refused by a member, and so many entries hold one that is void.
    pub fn refused(&self) -> (u64, u64) {
        (self.refused.len() as u64, self.void)
    }
}
