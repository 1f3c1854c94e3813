//! Catching up: reads old entries back for lagging followers, and keeps the part of the log that they still need.
//!
//! A lagging follower needs entries that are no longer in memory. Raft asks the [`Log`](super::log::Log) for them. The
//! log notes what it does not hold, and the node requests it ([`Output::read_backs`](super::Output)). When the entries
//! arrive ([`Node::read_back`]), every waiting follower is served. A node that has just started gets the entries that
//! it still has to publish in the same way, one piece at a time. So neither the log nor the commit channel holds all of
//! them at once.
//!
//! While a follower is sent a snapshot, it *pins* the log after that snapshot until the follower has caught up. Without
//! the pin the log could be compacted before the snapshot arrives, and the follower would need the next snapshot, and
//! so on. A pin ends when the transfer fails, when this node loses leadership, and when it would keep more than
//! [`limits::PINNED_LOG_BYTES_MAX`](crate::limits).
//!
//! Invariants:
//! - At most `READ_BACKS_MAX` requests are open at a time.
//! - Entries of an open request are never replaced, because they are applied or, after a start, committed. They may be
//!   compacted.

use super::{Node, Output};
use crate::channels::notice::EntriesRead;
use crate::limits;
use raft::ProgressState;
use raft::eraftpb::{Message, MessageType};
use slog::{info, warn};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub(super) struct CatchUp {
    /// First index of each request that is not answered yet.
    requested: BTreeSet<u64>,
    /// By member: the index after which the log is kept for that member.
    pins: BTreeMap<u64, u64>,
}

impl Node {
    // ---- reading back ----

    /// Requests the entries that raft wants and that are not in memory.
    pub(super) fn request_log(&mut self, output: &mut Output) {
        for first in self.raw.mut_store().take_wanted() {
            // Raft repeats what is left out here: for a follower when its next message arrives, for publication at
            // once.
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

    /// Takes entries that were requested.
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
                    "entry {first} is deleted, but the log is compacted only up to {compacted}"
                );
                // Followers that wait for this entry are sent a snapshot.
                1
            }
        };
        if !self.is_leader() {
            return;
        }
        let peers: Vec<u64> = self.raw.raft.prs().iter().map(|(id, _)| *id).collect();
        for peer in peers.into_iter().filter(|id| *id != self.settings.id) {
            // Sends as many messages as the follower takes now. Each message moves the next index. Where the index
            // stays, raft sends nothing more for the moment.
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

    /// Whether raft has entries to publish but does not get them yet. Either this node has just started and must read
    /// the entries back, or the map has to catch up first.
    pub(super) fn waits_for_log(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        self.watermarks.published < log.committed.min(log.persisted)
            && (self.is_ahead_of_the_map() || !log.store.is_at_hand(self.watermarks.published + 1))
    }

    /// Whether more published bytes wait in the commit channel than allowed. Entries take more memory there than in the
    /// log.
    pub(super) fn is_ahead_of_the_map(&self) -> bool {
        let most = limits::PUBLISHED_BYTES_MAX as u64;
        self.watermarks.unapplied_bytes as u64 > most.min(self.settings.log_cache_bytes)
    }

    /// Whether more entries wait to be applied than memory allows. Entries appended now could not be applied soon, and
    /// would stay in memory until then.
    pub(super) fn has_too_much_to_apply(&self) -> bool {
        let beyond_the_cache = self
            .raw
            .store()
            .bytes()
            .saturating_sub(self.settings.log_cache_bytes);
        self.waits_for_log() && beyond_the_cache > limits::UNAPPLIED_BYTES_MAX as u64
    }

    // ---- pins ----

    /// Pins the log after a snapshot that is being sent.
    pub(super) fn pin_for(&mut self, message: &Message) {
        if message.get_msg_type() == MessageType::MsgSnapshot {
            let index = message.get_snapshot().get_metadata().index;
            self.catch_up.pins.insert(message.to, index);
        }
    }

    /// Drops the pin: the follower will be sent another snapshot.
    pub(super) fn transfer_failed(&mut self, to: u64) {
        self.catch_up.pins.remove(&to);
    }

    /// The index after which the log is kept for followers, or `u64::MAX` if no follower needs it.
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
            // The same condition as for promoting a learner.
            let level = match progress.state {
                ProgressState::Snapshot => false,
                ProgressState::Probe => lag == 0,
                ProgressState::Replicate => lag <= limits::PROMOTION_LAG_ENTRIES_MAX,
            };
            if level {
                info!(self.logger, "a follower has caught up after a snapshot"; "member" => *peer);
                return false;
            }
            let kept = raft.store().bytes_behind(*index);
            if kept > self.settings.pinned_log_bytes {
                warn!(self.logger, "a follower is too far behind: the log is no longer kept for it, and it may need \
                    another snapshot; check its disk and the network to it"; "member" => *peer, "index" => *index,
                    "bytes" => kept);
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

    /// Drops what no follower has needed for a while. Called at every heartbeat interval.
    pub(super) fn look_after_log(&mut self) {
        let pinned = self.pinned();
        let log = self.raw.mut_store();
        log.unpin(pinned);
        log.drop_unused();
    }
}
