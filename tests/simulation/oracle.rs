//! What must hold at every moment, checked against what all machines did since the run began.
//!
//! A violation panics with both values; `runs.rs` catches it and prints the seed.

use crate::changes::Changes;
use crate::disk::Random;
use crate::handovers::Standings;
use crate::keys::{Removals, check_removal};
use crate::world::World;
use crate::written::{Proposer, Written};
use raft::eraftpb::{Entry, HardState, Message, MessageType};
use raftkvd::command::{Command, Etags, Kind};
use raftkvd::members::Members;
use raftkvd::storage::SnapshotMeta;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// An entry as far as it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shadow {
    pub term: u64,
    pub hash: u64,
}

/// The value that strangers propose.
pub const LIE: &[u8] = b"a lie";

/// A value of the model's map.
type Value = (u64, Vec<u8>);

/// The memory of a run.
#[derive(Default)]
pub struct Oracle {
    /// Who led in each term.
    leaders: BTreeMap<u64, u64>,
    /// Terms, and who led in them before its own vote was durable.
    in_memory: BTreeSet<(u64, u64)>,
    /// Whom each id voted for in each term, with whatever data directory.
    votes: BTreeMap<(u64, u64), u64>,
    /// By index and term: the entry's hash and the term of the one before it. Equal here for all logs means, by
    /// induction, equal logs up to any common entry.
    entries: BTreeMap<(u64, u64), (u64, u64)>,
    /// By index, from 2 on.
    committed: BTreeMap<u64, Shadow>,
    /// The index at which its cluster began, with a map that nobody wrote there.
    first: u64,
    /// By index, from the one behind the first on: a hash of what was to be applied.
    applied: Vec<u64>,
    /// The map as it has to be after each index, from the first on.
    states: Vec<u64>,
    map: BTreeMap<Vec<u8>, Value>,
    /// Sum of the hashes of what is in the map: the newest of `states`.
    state: u64,
    pub changes: Changes,
    pub written: Written,
    pub standings: Standings,
    pub removals: Removals,
    snapshots: BTreeMap<u64, SnapshotMeta>,
    /// Each membership that was published, with the index of its first entry.
    members: Vec<(u64, Arc<Members>)>,
    /// By index, the members; those that are equal are shared with the index before.
    published: BTreeMap<u64, Arc<Members>>,
    /// How many of these were told by a node, and so can't be lost any more.
    told: usize,
    /// Index and term of an entry on a disk that changes members, and which member: 0 for what is about nobody.
    member_changes: BTreeSet<(u64, u64, u64)>,
    /// Ids that were added, bound or removed, each with the index of the entry that did.
    lives: BTreeSet<(u64, u64)>,
    /// By member and incarnation: the newest start whose commands are committed, and the first index of those.
    starts: BTreeMap<(u64, u64), (Proposer, u64)>,
    /// By machine: where the log on its disk ended at its longest.
    stored: BTreeMap<usize, u64>,
    /// Where each client's operation stands in the log.
    places: BTreeMap<Vec<u8>, u64>,
    /// Terms and leaders that were only a stranger's word.
    lies: BTreeSet<(u64, u64)>,
}

/// One folded multiplication for eight bytes: SipHash took a fifteenth of a run, and nobody chooses what is hashed here.
struct Digest(u64);

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.write_u64(u64::from_le_bytes(word.try_into().expect("it has 8 bytes")));
        }
        // Parts of a value that vary in length are hashed with it, so zeros behind the last one do no harm.
        let mut last = [0; 8];
        last[..words.remainder().len()].copy_from_slice(words.remainder());
        self.write_u64(u64::from_le_bytes(last));
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        let product = u128::from(self.0 ^ number) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        Random(self.0).next()
    }
}

pub fn hash(value: &impl Hash) -> u64 {
    let mut hasher = Digest(0x243f_6a88_85a3_08d3);
    value.hash(&mut hasher);
    hasher.finish()
}

pub fn shadow(entry: &Entry) -> Shadow {
    Shadow {
        term: entry.term,
        hash: hash(&(
            entry.get_entry_type() as u8,
            &entry.data[..],
            &entry.context[..],
        )),
    }
}

/// A hash of an entry of a map; the hash of the map is their sum, in any order.
pub fn entry_hash(key: &[u8], index: u64, value: &[u8]) -> u64 {
    hash(&(key, index, value))
}

impl Oracle {
    pub fn new() -> Oracle {
        Oracle {
            first: 1,
            states: vec![0],
            ..Oracle::default()
        }
    }

    /// A stranger says that this member leads in this term.
    pub fn is_told_a_lie(&mut self, term: u64, leader: u64) {
        self.lies.insert((term, leader));
    }

    /// A member follows this leader, or is it.
    pub fn follows(&mut self, member: u64, leader: u64, term: u64) {
        if member != leader && self.lies.contains(&(term, leader)) {
            return;
        }
        let first = *self.leaders.entry(term).or_insert(leader);
        assert!(
            first == leader,
            "two leaders in term {term}: {first}, and to member {member} {leader}"
        );
    }

    /// A sole voter leads, and nobody but its own clients hears of it before that is durable.
    pub fn leads_in_memory(&mut self, member: u64, term: u64) {
        self.in_memory.insert((term, member));
    }

    /// A leader whose log ends at `last` believes that a peer holds everything up to `matched`.
    pub fn believes(&self, leader: u64, last: u64, peer: u64, matched: u64) {
        assert!(
            matched <= last,
            "leader {leader}, whose log ends at {last}, believes that member {peer} holds {matched}"
        );
    }

    /// A member has led in this term or in a later one, or a stranger has said so: a process follows such a stranger
    /// while it can't judge it.
    pub fn led_since(&self, member: u64, term: u64) -> bool {
        let mut leaders = self.leaders.range(term..);
        let mut in_memory = self.in_memory.range((term, 0)..);
        let mut lies = self.lies.range((term, 0)..);
        leaders.any(|(_, leader)| *leader == member)
            || in_memory.any(|(_, leader)| *leader == member)
            || lies.any(|(_, leader)| *leader == member)
    }

    /// A message leaves a machine.
    pub fn sends(&mut self, message: &Message) {
        // Also of one who does not live to the end of the pass in which it came to lead.
        if let MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot =
            message.get_msg_type()
        {
            self.follows(message.from, message.from, message.term);
        }
        if message.get_msg_type() == MessageType::MsgRequestVoteResponse && !message.reject {
            let key = (message.from, message.term);
            let first = *self.votes.entry(key).or_insert(message.to);
            assert!(
                first == message.to,
                "member {} voted twice in term {}: for member {first}, then for member {}",
                message.from,
                message.term,
                message.to
            );
        }
    }

    /// An entry is on a disk, behind one of term `before`.
    pub fn stores(&mut self, index: u64, entry: Shadow, before: u64) {
        let place = (index, entry.term);
        let first = *self.entries.entry(place).or_insert((entry.hash, before));
        assert_eq!(
            first,
            (entry.hash, before),
            "two logs differ at or before (index, term) {place:?}"
        );
    }

    /// The log on the disk of this machine ends there.
    pub fn stores_up_to(&mut self, machine: usize, last: u64) {
        let longest = self.stored.entry(machine).or_default();
        *longest = last.max(*longest);
    }

    /// This machine is about to store that the cluster has formed. By then each first member has stored that the last of
    /// them has become a voter.
    pub fn forms(&self, machine: usize) {
        let mut published = self.members.iter().rev();
        let promotion = published.find_map(|(_, members)| {
            let change = members.unsettled.as_ref()?;
            (change.kind == Kind::PromoteMember).then_some(change.index)
        });
        let members = self.members();
        let others = members.forming.values().map(World::machine_at);
        for other in others.filter(|other| *other != machine) {
            let stored = self.stored.get(&other).copied();
            assert!(
                stored >= promotion,
                "the cluster forms, and machine {other} has stored {stored:?}, and not the promotion at {promotion:?}"
            );
        }
    }

    /// This was read back from a disk.
    pub fn reads_back(&self, entry: &Entry) {
        let place = (entry.index, entry.term);
        let stored = self.entries.get(&place).map(|(hash, _)| *hash);
        assert_eq!(
            stored,
            Some(shadow(entry).hash),
            "entry (index, term) {place:?} was read back wrong"
        );
    }

    /// A restart found this: what it calls committed has to be that.
    pub fn recovers(&self, entries: &[Entry], hard_state: &HardState) {
        for entry in entries.iter().take_while(|e| e.index <= hard_state.commit) {
            if let Some(known) = self.committed.get(&entry.index) {
                assert_eq!(
                    *known,
                    shadow(entry),
                    "committed entry {} has changed over a restart",
                    entry.index
                );
            }
        }
    }

    /// A node publishes an entry with these commands.
    pub fn commits<'a>(
        &mut self,
        index: u64,
        entry: Shadow,
        commands: impl Iterator<Item = &'a Command>,
    ) {
        let first = *self.committed.entry(index).or_insert(entry);
        assert_eq!(first, entry, "committed entry {index} has changed");
        let commands: Vec<&Command> = commands.collect();
        let digest = commands.iter().fold(index, |sum, c| {
            hash(&(sum, &c.key[..], &c.value[..], c.kind as i32, c.sequence))
        });
        let place = (index - self.first - 1) as usize;
        if let Some(first) = self.applied.get(place) {
            assert_eq!(
                *first, digest,
                "members disagree on which commands of entry {index} count"
            );
            return;
        }
        assert_eq!(place, self.applied.len(), "an entry was skipped");
        if let Some(start) = self.written.publish(index, entry) {
            let key = (start.member, start.incarnation);
            let newest = self.starts.entry(key).or_insert((start, index));
            if newest.0.boot < start.boot {
                *newest = (start, index);
            }
        }
        self.applied.push(digest);
        for command in commands {
            self.apply(command, index);
        }
        self.states.push(self.state);
    }

    /// Applies a command to the model, and checks that it is its first time.
    fn apply(&mut self, command: &Command, index: u64) {
        assert_ne!(
            &command.value[..],
            LIE,
            "a stranger has written entry {index}"
        );
        self.written.apply(command, index);
        let previous = self.places.insert(command.value.to_vec(), index);
        assert_eq!(previous, None, "a command applies twice, now at {index}");
        if let Some(transaction) = command.transaction.as_ref() {
            let mut checks = transaction.checks.iter();
            if checks.all(|c| self.passes(&c.key, c.if_match.as_ref(), c.if_none_match.as_ref())) {
                for write in transaction.writes.iter() {
                    let value = (!write.delete).then_some(&write.value[..]);
                    self.write(index, &write.key, value);
                }
            }
            return;
        }
        let (if_match, if_none_match) = (&command.if_match, &command.if_none_match);
        if !self.passes(&command.key, if_match.as_ref(), if_none_match.as_ref()) {
            return;
        }
        let value = (command.kind == Kind::Put).then_some(&command.value[..]);
        self.write(index, &command.key, value);
    }

    fn write(&mut self, index: u64, key: &[u8], value: Option<&[u8]>) {
        let before = match value {
            Some(value) => {
                self.state = self.state.wrapping_add(entry_hash(key, index, value));
                self.map.insert(key.to_vec(), (index, value.to_vec()))
            }
            None => self.map.remove(key),
        };
        if let Some((index, value)) = &before {
            self.state = self.state.wrapping_sub(entry_hash(key, *index, value));
        }
        if value.is_some() || before.is_some() {
            self.changes.add(index, key, value);
        }
    }

    fn passes(&self, key: &[u8], if_match: Option<&Etags>, if_none_match: Option<&Etags>) -> bool {
        let current = self.map.get(key).map(|(index, _)| *index);
        let matches = |etags: &Etags| {
            current.is_some_and(|index| etags.any || etags.indexes.contains(&index))
        };
        if_match.is_none_or(matches) && !if_none_match.is_some_and(matches)
    }

    /// A process that has published everything up to `index`, and ends or does not: it runs on an older copy of its
    /// directory if a later start has had its commands committed, or another one that counts itself the same.
    pub fn goes_on(&self, own: Proposer, index: u64, ends: bool) {
        let newest = self.starts.get(&(own.member, own.incarnation));
        let known = newest.filter(|(_, from)| *from <= index);
        let is_older = known.is_some_and(|(known, _)| {
            known.boot > own.boot || (known.boot == own.boot && known.run != own.run)
        });
        assert!(
            ends || !is_older,
            "member {} goes on as {own:?}, and has published commands of {known:?}",
            own.member
        );
    }

    /// A client is told that its operation, known by its unique value, is in the log at `index` (or somewhere).
    pub fn acknowledges(&self, value: &[u8], index: Option<u64>) {
        let place = self.places.get(value).copied();
        assert!(
            place.is_some() && (index.is_none() || index == place),
            "an operation was answered as one of entry {index:?}, and the log holds it in {place:?}"
        );
    }

    /// A client is told that its operation surely has no effect.
    pub fn refuses(&mut self, value: &[u8]) {
        let place = self.places.get(value);
        assert_eq!(place, None, "an applied command is said not to be written");
        self.written.refuse(value, &self.standings);
    }

    /// A member hands these entries to its disk.
    pub fn saves(&mut self, entries: &[Entry]) {
        self.written.save(entries, &self.standings);
    }

    /// A map after applying `index`.
    pub fn holds(&self, machine: usize, index: u64, state: u64) {
        let place = index.checked_sub(self.first);
        let wanted = place.and_then(|place| self.states.get(place as usize));
        assert_eq!(
            wanted,
            Some(&state),
            "the map of machine {machine} is wrong at {index}"
        );
    }

    /// A node has published everything up to `index`, and these are the members now. Gives what all nodes have there.
    pub fn publishes(&mut self, index: u64, members: &Members) -> Arc<Members> {
        let is_new = !self.published.contains_key(&index);
        let first = match self.published.get(&index) {
            Some(first) => {
                assert!(
                    **first == *members,
                    "nodes differ in the members at {index}: {first:?}, {members:?}"
                );
                first.clone()
            }
            None => {
                let before = self.published.range(..index).next_back();
                let same = before.filter(|(_, before)| ***before == *members);
                let first = same.map(|(_, same)| same.clone());
                let first = first.unwrap_or_else(|| Arc::new(members.clone()));
                self.published.insert(index, first.clone());
                self.standings.add(members);
                first
            }
        };
        match self.members.last() {
            Some((newest, _)) if *newest >= index => {}
            // Those that are shared need no look inside.
            Some((_, known)) if Arc::ptr_eq(known, &first) || **known == *members => {}
            Some((newest, known)) => {
                self.explain(known, &first, *newest + 1..=index);
                self.note_lives(&first);
                self.members.push((index, first.clone()));
            }
            None => {
                self.note_lives(&first);
                self.members.push((index, first.clone()));
                self.told = 1;
            }
        }
        if is_new {
            let (committed, lives) = (&self.committed, &self.lives);
            self.removals.check(&first, index, committed, lives);
        }
        first
    }

    /// A change of members is one of these entries of the log.
    fn explain(&self, before: &Members, after: &Members, entries: RangeInclusive<u64>) {
        let ids = before.members.keys().chain(after.members.keys());
        let changed = ids.filter(|id| before.members.get(id) != after.members.get(id));
        let mut changed: Vec<u64> = changed.copied().collect();
        // The entry that says that the cluster has formed is about nobody.
        changed.extend((before.forming != after.forming).then_some(0));
        for id in changed {
            let explained = self.committed.range(entries.clone()).any(|(index, entry)| {
                let change = (*index, entry.term, id);
                self.member_changes.contains(&change)
            });
            // What a snapshot stands for is committed, and was published by somebody.
            let unseen = self.committed.range(entries.clone()).count() as u64;
            assert!(
                explained || unseen < entries.end() + 1 - entries.start(),
                "member {id} has changed, and no entry in {entries:?} says so: {before:?}, {after:?}"
            );
        }
        let mut changes = (self.committed.range(entries.clone())).flat_map(|(index, entry)| {
            let of_entry = (*index, entry.term, 0)..=(*index, entry.term, u64::MAX);
            self.member_changes.range(of_entry)
        });
        let seen = self.committed.range(entries.clone()).count() as u64;
        if (changes.next().is_some(), changes.next()) == (true, None)
            && seen == entries.end() + 1 - entries.start()
        {
            check_removal(before, after, &entries);
        }
    }

    fn note_lives(&mut self, members: &Members) {
        let rows = members.members.iter();
        let rows = rows.flat_map(|(id, m)| [(*id, m.added_index), (*id, m.bound_index)]);
        let removed = members.removed.iter().map(|(id, index)| (*id, *index));
        self.lives.extend(rows.chain(removed));
    }

    /// An entry that changes this member is on a disk.
    pub fn stores_change(&mut self, index: u64, term: u64, id: u64) {
        self.member_changes.insert((index, term, id));
    }

    /// This log gets a change of members at this index. If it holds the change before, the settlement of that one is
    /// committed.
    pub fn comes_in_turn(&self, index: u64, log: &BTreeMap<u64, Shadow>) {
        let before = self.members().unsettled;
        let Some(before) = before.filter(|before| before.index < index) else {
            return;
        };
        let held = log.get(&before.index);
        if held.is_none() || held != self.committed.get(&before.index) {
            return;
        }
        let mut later = self.committed.range(before.index + 1..);
        let settles = |index, entry| self.written.settled_by(index, entry) == Some(before.index);
        assert!(
            later.any(|(index, entry)| settles(*index, *entry)),
            "a change of members is proposed at {index}, and the one before it is not settled: {before:?}"
        );
    }

    /// The entry at this index has added this id, bound it, or removed it.
    pub fn knows_life(&self, id: u64, index: u64) -> bool {
        self.lives.contains(&(id, index))
    }

    /// Memberships that were published so far.
    pub fn memberships(&self) -> usize {
        self.members.len()
    }

    /// One of the memberships from the newest of the first `since` on is so.
    pub fn was_published(&self, since: usize, is_so: impl Fn(&Members) -> bool) -> bool {
        let later = self.members.iter().skip(since.saturating_sub(1));
        later
            .map(|(_, members)| members)
            .any(|members| is_so(members))
    }

    /// A node tells its members.
    pub fn tells(&mut self, members: &Members) {
        let place = self
            .members
            .iter()
            .rposition(|(_, known)| **known == *members);
        self.told = self.told.max(place.map_or(0, |place| place + 1));
    }

    /// The newest members that a node has told.
    pub fn told_members(&self) -> Arc<Members> {
        let told = self.members[..self.told].last();
        told.map(|(_, members)| members.clone()).unwrap_or_default()
    }

    /// The newest members that a node has published.
    pub fn members(&self) -> Arc<Members> {
        let newest = self.members.last();
        newest
            .map(|(_, members)| members.clone())
            .unwrap_or_default()
    }

    pub fn takes_snapshot(&mut self, meta: &SnapshotMeta) {
        let first = self
            .snapshots
            .entry(meta.index)
            .or_insert_with(|| meta.clone());
        assert_eq!(first, meta, "members differ in their replicated state");
    }

    /// The newest entry that any member has published.
    pub fn newest(&self) -> u64 {
        self.first + self.states.len() as u64 - 1
    }

    /// That of a new cluster which begins at index `first` with this one's map as of `backup`.
    pub fn restored(&self, backup: u64, first: u64) -> Oracle {
        let map = self.changes.map_at(backup);
        let map = map.map(|(key, (index, value))| (key.to_vec(), (index, value.to_vec())));
        let state = self.states[(backup - self.first) as usize];
        Oracle {
            first,
            state,
            states: vec![state],
            map: map.collect(),
            ..Oracle::default()
        }
    }

    /// Entries that were committed.
    pub fn committed(&self) -> u64 {
        self.committed.len() as u64
    }
}

#[test]
fn a_digest_sees_every_bit() {
    let mut seen = std::collections::BTreeSet::new();
    let mut count = 0;
    for len in 0..40 {
        let mut bytes = vec![0_u8; len];
        seen.insert(hash(&bytes));
        count += 1;
        for bit in 0..8 * len {
            bytes[bit / 8] ^= 1 << (bit % 8);
            seen.insert(hash(&bytes));
            bytes[bit / 8] ^= 1 << (bit % 8);
            count += 1;
        }
    }
    assert_eq!(seen.len(), count, "distinct bytes, distinct hashes");
}
