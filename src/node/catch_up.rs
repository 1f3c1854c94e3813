//! Those that are behind: what is read back of the log for them, and what is kept of it.
//!
//! A follower that is behind needs entries that are not in memory any more. Raft asks the log for them; what the log does
//! not have it notes, the node asks for it ([`Output::read_backs`](super::Output)), and when it is there
//! ([`Node::read_back`]) every follower that waits is served. In the same way a node that was just started comes by what
//! it has still to publish, a piece at a time, so that neither the log nor the commit channel holds it all.
//!
//! A follower that was sent a snapshot *pins* the log behind it, until it has caught up: otherwise the log could be
//! compacted before the snapshot has arrived, and it would be sent the next one, and so on. A pin ends when the transfer
//! fails, with the leadership, and when more than [`limits::PINNED_LOG_BYTES_MAX`](crate::limits) would be kept for it.
//!
//! Invariants: there are at most `READ_BACKS_MAX` requests at one time. Nothing that a request asks for is replaced
//! before it is answered, for it is applied or, after a start, committed; it may be compacted.

use super::{Node, Output};
use crate::channels::notice::EntriesRead;
use crate::limits;
use raft::ProgressState;
use raft::eraftpb::{Message, MessageType};
use slog::{info, warn};
use std::collections::{BTreeMap, BTreeSet};

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct CatchUp {
    /// Indexes from which entries were asked for and are not there yet.
    requested: BTreeSet<u64>,
    /// By member, the index behind which the log is kept for it.
    pins: BTreeMap<u64, u64>,
}

impl Node {
    // ---- reading back ----

    /// Asks for what raft wants of the log and is not in memory.
    pub(super) fn request_log(&mut self, output: &mut Output) {
        for first in self.raw.mut_store().take_wanted() {
            // What is not asked for now raft wants again: for a follower at its next word, and to publish at once.
            if self.catch_up.requested.len() >= limits::READ_BACKS_MAX {
                return;
            }
            let publishing = first == self.watermarks.published + 1;
            if publishing && self.is_ahead_of_the_map() {
                continue;
            }
            if let Some(request) = self.raw.store().request(first)
                && self.catch_up.requested.insert(first)
            {
                output.read_backs.push(request);
            }
        }
    }

    /// Takes entries that were asked for.
    pub fn read_back(&mut self, read: EntriesRead) {
        let first = read.first;
        self.catch_up.requested.remove(&first);
        let count = match read.entries {
            Some(entries) => {
                let count = entries.len() as u64;
                self.raw.mut_store().hold(entries);
                count
            }
            None => {
                let compacted = self.raw.store().compacted();
                assert!(
                    first <= compacted,
                    "entry {first} is deleted, and the log is compacted up to {compacted}"
                );
                // Who waits for it is sent a snapshot.
                1
            }
        };
        if !self.is_leader() {
            return;
        }
        let peers: Vec<u64> = self.raw.raft.prs().iter().map(|(id, _)| *id).collect();
        for peer in peers.into_iter().filter(|id| *id != self.settings.id) {
            // As many messages as it takes now. Each moves on what is next, or there will be no other for the moment.
            let mut next = self.next_index(peer);
            while (first..first + count).contains(&next) {
                self.raw.raft.send_append(peer);
                let now = self.next_index(peer);
                if std::mem::replace(&mut next, now) == now {
                    break;
                }
            }
        }
    }

    fn next_index(&self, peer: u64) -> u64 {
        let progress = self.raw.raft.prs().get(peer);
        progress.map_or(0, |progress| progress.next_idx)
    }

    /// There is something to publish, and raft does not get it yet: this node was started and has to read it back, or the
    /// map is to follow first.
    pub(super) fn waits_for_log(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        self.watermarks.published < log.committed.min(log.persisted)
            && (self.is_ahead_of_the_map() || !log.store.is_at_hand(self.watermarks.published + 1))
    }

    /// What is published waits in the commit channel, where it takes more memory than in the log.
    pub(super) fn is_ahead_of_the_map(&self) -> bool {
        let most = limits::PUBLISHED_BYTES_MAX as u64;
        self.watermarks.unapplied_bytes as u64 > most.min(self.settings.log_cache_bytes)
    }

    /// Whatever else is appended can't be applied soon, and would have to be kept in memory until it is.
    pub(super) fn has_too_much_to_apply(&self) -> bool {
        let beyond_the_cache = self
            .raw
            .store()
            .bytes()
            .saturating_sub(self.settings.log_cache_bytes);
        self.waits_for_log() && beyond_the_cache > limits::UNAPPLIED_BYTES_MAX as u64
    }

    // ---- pins ----

    /// A snapshot that is sent pins the log behind it.
    pub(super) fn pin_for(&mut self, message: &Message) {
        if message.get_msg_type() == MessageType::MsgSnapshot {
            let index = message.get_snapshot().get_metadata().index;
            self.catch_up.pins.insert(message.to, index);
        }
    }

    /// It will be sent another snapshot.
    pub(super) fn transfer_failed(&mut self, to: u64) {
        self.catch_up.pins.remove(&to);
    }

    /// The index behind which the log is kept for followers, `u64::MAX` when for none.
    pub(super) fn pinned(&mut self) -> u64 {
        if !self.is_leader() {
            self.catch_up.pins.clear();
        }
        let raft = &self.raw.raft;
        self.catch_up.pins.retain(|peer, index| {
            let Some(progress) = raft.prs().get(*peer) else {
                return false;
            };
            *index = progress.matched.max(*index);
            let lag = raft.raft_log.committed.saturating_sub(*index);
            // As where a learner is promoted.
            let level = match progress.state {
                ProgressState::Snapshot => false,
                ProgressState::Probe => lag == 0,
                ProgressState::Replicate => lag <= limits::PROMOTION_LAG_ENTRIES_MAX,
            };
            if level {
                info!(self.logger, "a follower has caught up behind a snapshot"; "member" => *peer);
                return false;
            }
            let kept = raft.store().bytes_behind(*index);
            if kept > self.settings.pinned_log_bytes {
                warn!(self.logger, "a follower is too far behind: the log is not kept for it any more, and it may be \
                    sent another snapshot"; "member" => *peer, "behind" => *index, "bytes" => kept);
                return false;
            }
            true
        });
        self.catch_up
            .pins
            .values()
            .copied()
            .min()
            .unwrap_or(u64::MAX)
    }

    /// Lets go of what nobody has needed for a while. Called at every heartbeat interval.
    pub(super) fn look_after_log(&mut self) {
        let pinned = self.pinned();
        let log = self.raw.mut_store();
        log.unpin(pinned);
        log.drop_unused();
    }
}
