//! The room of the log, and what this node does when there is none.
//!
//! The log states how much it can store ([`LogRoom`]). An entry beyond this room would have to wait in the WAL, and so
//! would every vote and every mark behind the entry. So the node takes no such entry:
//!
//! - *The log is only behind*: the entry has to wait until earlier ones are durable. Proposals wait. An append is cut
//!   before the entry, and the leader sends the rest again.
//! - *The disk is full*: the log has no next segment. Proposals are refused. A follower refuses proposals too: it
//!   applies only entries that it stores, so it could not answer. Appends are cut. With every heartbeat, the leader
//!   sends one message of the rest again, until there is room.
//!
//! An append that is cut is given to raft even if no entry is left of it. Raft then acknowledges what the log holds, or
//! rejects the append and says where the logs part. Neither repeats for ever: an acknowledgement without news makes the
//! leader send nothing, and after each rejection the leader starts its next attempt at an earlier entry.
//!
//! Empty entries are always taken, because every new leader needs one. Empty entries, votes and the marks of snapshots
//! use the reserve of the log. A proposal needs a margin that the entries of another leader do not need. So if all
//! disks fill together, the leader refuses writes before its followers drop them, and the clients get a definite
//! answer.
//!
//! A leader whose disk is full hands leadership over, because another member may have room. If the new leader has no
//! room either, it does the same. The pauses between two attempts of one node double.
//!
//! Invariant: the entries that raft was given and the log has not stored fit into the room. There is one exception:
//! while the log keeps its next segment, the last entry that raft is given may exceed the room. If the disk fills up at
//! just that time, this entry waits in the WAL, and so does everything behind it.

use super::Node;
use crate::command::outcome::NotProposed;
use crate::mutants::{Mutant, is_planted};
use crate::numbers::Ticks;
use crate::storage::LogRoom;
use crate::storage::wal::{NextSegment, entry_log_bytes};
use raft::eraftpb::{Entry, Message};
use slog::{info, warn};

/// The longest pause between two attempts to hand leadership over, in election timeouts.
const HAND_OVER_PAUSE_MAX: u64 = 64;

/// Election timeouts after which a leader whose log takes nothing hands leadership over.
const STUCK_ELECTIONS: u64 = 5;

/// What this node knows of the room of its log.
#[derive(Debug)]
pub(super) struct Room {
    log: LogRoom,
    /// The bytes of all jobs that went to the WAL.
    spent: u64,
    /// The bytes of the entries that raft was given since the last ready.
    pledged: u64,
    is_full: bool,
    /// A proposal or an entry of the leader was refused because there was no room for it. Smaller ones may fit.
    has_refused: bool,
    /// The tick at which a leader hands leadership over, and the pause after that in election timeouts.
    hand_over_at: u64,
    hand_over_pause: u64,
    stuck: Stuck,
}

/// Whether the log of this node takes anything.
#[derive(Debug, Default)]
struct Stuck {
    /// The tick at which the log last took something, or had nothing to take.
    moved_at: Ticks,
    /// The number of the oldest job at the last tick.
    front: Option<u64>,
    /// A proposal waits for room in the log.
    waits: bool,
    /// The log has taken nothing for [`STUCK_ELECTIONS`].
    is_stuck: bool,
}

impl Default for Room {
    fn default() -> Room {
        Room {
            log: LogRoom::UNLIMITED,
            spent: 0,
            pledged: 0,
            is_full: false,
            has_refused: false,
            hand_over_at: 0,
            hand_over_pause: 1,
            stuck: Stuck::default(),
        }
    }
}

/// Whether entries may be given to raft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    Fits,
    /// The entries may fit when earlier entries are durable.
    Later,
    /// The disk is full.
    Full,
}

impl Room {
    fn left(&self) -> u64 {
        let used = self.spent.saturating_add(self.pledged);
        self.log.end.saturating_sub(used)
    }

    /// A job of this size goes to the WAL.
    pub fn spend(&mut self, bytes: u64) {
        self.spent += bytes;
    }

    #[cfg(test)]
    pub fn spent(&self) -> u64 {
        self.spent
    }

    /// Raft has returned all entries that it took, in a ready. Raft may have taken fewer entries than it was given.
    pub fn settle(&mut self) {
        self.pledged = 0;
    }
}

impl Node {
    /// The caller calls this before it feeds events, with what the log says now.
    pub fn set_log_room(&mut self, room: LogRoom) {
        self.room.log = room;
        let is_denied = room.next == NextSegment::Denied;
        // One more margin, so that an entry of usual size is not refused before the node calls its disk full.
        let is_low = self.room.left() < (2 * room.margin).max(1);
        // A full log gets no more room before it gets its next segment. Until then, only the number of bytes under way
        // changes.
        let is_full = is_denied && (self.room.is_full || is_low);
        let was_full = self.disk_is_full();
        self.room.is_full = is_full;
        self.room.has_refused &= is_denied;
        self.note_full(was_full);
    }

    fn note_full(&mut self, was_full: bool) {
        let is_full = self.disk_is_full();
        if is_full == was_full {
            return;
        }
        if is_full {
            warn!(
                self.logger,
                "the disk of this member is full: writes for which the log has no room are refused, and such entries of the \
                leader are not taken; reads and votes go on; make room"
            );
            self.room.hand_over_pause = 1;
            self.room.hand_over_at = self.now + self.settings.election_ticks as u64;
        } else {
            info!(
                self.logger,
                "the disk of this member has room again: writes are taken"
            );
            // Commands in flight may have been left out when the others were sent again.
            self.pending.resend_after = Some(0);
        }
    }

    /// Whether the disk is full, and the log has no room for entries, or had no room for one of them.
    pub fn disk_is_full(&self) -> bool {
        self.room.is_full || self.room.has_refused
    }

    /// Whether entries of this size fit, `margin` bytes before the end of the room.
    fn fit(&self, bytes: u64, margin: u64) -> Fit {
        let room = &self.room;
        if is_planted(Mutant::RoomIgnored) {
            return Fit::Fits;
        }
        match room.log.next {
            NextSegment::Denied if room.left() < bytes.saturating_add(margin) => Fit::Full,
            // The log makes another segment, of any length. So two values of half a segment can be under way, and a
            // value that is larger than a segment is not refused.
            NextSegment::Kept if room.left() > 0 => Fit::Fits,
            _ if room.left() < bytes => Fit::Later,
            _ => Fit::Fits,
        }
    }

    /// Whether this node may propose or forward these entries. They are its own, or another node has forwarded them.
    pub(super) fn fits_proposal(&mut self, entries: &[Entry]) -> Fit {
        if self.room.is_full && !is_planted(Mutant::RoomIgnored) {
            return Fit::Full;
        }
        let bytes = entries.iter().map(entry_log_bytes).sum();
        let fit = self.fit(bytes, self.room.log.margin);
        self.note_refused(fit);
        fit
    }

    fn note_refused(&mut self, fit: Fit) {
        let was_full = self.disk_is_full();
        self.room.has_refused |= fit == Fit::Full;
        self.note_full(was_full);
    }

    /// Counts entries that are given to raft.
    pub(super) fn pledge(&mut self, entries: &[Entry]) {
        let bytes: u64 = entries.iter().map(entry_log_bytes).sum();
        self.room.pledged += bytes;
    }

    /// Cuts an append before the first entry for which there is no room. Entries that the log holds already need no
    /// room.
    pub(super) fn cut_to_room(&mut self, message: &mut Message) {
        let log = &self.raw.raft.raft_log;
        if message.index < log.committed || !log.match_term(message.index, message.log_term) {
            // Raft takes none of the entries.
            return;
        }
        let is_held = |entry: &&Entry| log.match_term(entry.index, entry.term);
        let held = message.entries.iter().take_while(is_held).count();
        let is_empty = |entry: &Entry| entry.data.is_empty() && entry.context.is_empty();
        let mut taken = held;
        for entry in message.entries.iter().skip(held) {
            let bytes = entry_log_bytes(entry);
            let fit = self.fit(bytes, 0);
            if !is_empty(entry) && fit != Fit::Fits {
                self.note_refused(fit);
                break;
            }
            self.room.pledged += bytes;
            taken += 1;
        }
        message.entries.truncate(taken);
    }

    /// Refuses proposals that were not handed to raft.
    pub(super) fn refuse_if_full(&mut self) {
        if self.room.is_full && !is_planted(Mutant::RoomIgnored) {
            self.pending
                .refuse_unsent(usize::MAX, NotProposed::DiskFull);
        }
    }

    /// A proposal was given to raft, or has to wait until the log takes it.
    pub(super) fn note_proposal(&mut self, waits: bool) {
        self.room.stuck.waits = waits;
        if !waits {
            self.room.stuck.moved_at = self.now;
        }
    }

    /// Notes whether the log takes anything. Called at every tick.
    fn note_stuck(&mut self) {
        let front = self.durability.jobs.front().map(|(number, _)| *number);
        let stuck = &mut self.room.stuck;
        let moves = match front {
            None => !stuck.waits,
            Some(_) => front != stuck.front,
        };
        stuck.front = front;
        if moves {
            stuck.moved_at = self.now;
        }
        let patience = STUCK_ELECTIONS * self.settings.election_ticks as u64;
        let is_stuck = self.now - stuck.moved_at >= patience;
        if !std::mem::replace(&mut stuck.is_stuck, is_stuck) && is_stuck {
            self.room.hand_over_pause = 1;
            self.room.hand_over_at = self.now;
        }
    }

    /// Hands leadership over if the log of this leader takes nothing, because another member's log may: the disk is full
    /// or hangs, or no file descriptor is left for the next segment. A leader whose disk hangs would keep the lead for
    /// ever, because its heartbeats need no disk. Called at every tick.
    pub(super) fn hand_over_if_stuck(&mut self) {
        self.note_stuck();
        let takes_nothing = self.disk_is_full() || self.room.stuck.is_stuck;
        if !takes_nothing || !self.is_leader() || self.now < self.room.hand_over_at {
            return;
        }
        self.hand_over();
        if self.raw.raft.lead_transferee.is_none() {
            // Nobody can take over at this tick.
            return;
        }
        let pause = &mut self.room.hand_over_pause;
        *pause = (2 * *pause).min(HAND_OVER_PAUSE_MAX);
        self.room.hand_over_at = self.now + *pause * self.settings.election_ticks as u64;
    }
}
