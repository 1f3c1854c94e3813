//! Suppresses messages that raft-rs would send and no member needs. Each of them would wake its receiver and cost an
//! answer.
//!
//! Leaving a message out is always safe, because raft tolerates lost messages. It also keeps no member waiting for
//! long: the next regular heartbeat goes to every member, with the commit index and the newest read round.

use super::Node;
use raft::ProgressState;
use raft::eraftpb::{Message, MessageType};
use std::collections::BTreeMap;

/// The appends with entries that this leader has sent to peers that it probes, in one heartbeat interval.
#[derive(Debug, Default)]
pub(super) struct Probes {
    /// The number of the interval, from the start of the process.
    interval: u64,
    /// For each peer, the term and the index before the entries of the newest append.
    sent: BTreeMap<u64, (u64, u64)>,
}

impl Node {
    /// Leaves out the appends that repeat one of the same heartbeat interval.
    pub(super) fn without_repeats(&mut self, mut messages: Vec<Message>) -> Vec<Message> {
        messages.retain(|message| !self.repeats_a_probe(message));
        messages
    }

    /// Whether this append repeats one of the same heartbeat interval. Raft-rs probes a peer once for each answer to a
    /// heartbeat, and each read round sends heartbeats. A follower whose disk is full answers all heartbeats and takes
    /// no entry. So without this check, each read would send this follower the same entries.
    fn repeats_a_probe(&mut self, message: &Message) -> bool {
        if message.get_msg_type() != MessageType::MsgAppend || message.entries.is_empty() {
            return false;
        }
        let progress = self.raw.raft.prs().get(message.to);
        if progress.is_none_or(|progress| progress.state != ProgressState::Probe) {
            return false;
        }
        let interval = self.now / self.settings.heartbeat_ticks as u64;
        let probes = &mut self.leadership.probes;
        if std::mem::replace(&mut probes.interval, interval) != interval {
            probes.sent.clear();
        }
        let place = (message.term, message.index);
        probes.sent.insert(message.to, place) == Some(place)
    }

    /// Sends the new commit index to the followers, as the leader, unless other messages will carry it. While entries
    /// are not committed, nothing is sent: once they are committed, one message announces all of them. While this
    /// node's disk is busy, the next entries gather, and their messages will carry the commit index. Raft-rs would send
    /// every follower an extra append for each batch, and the follower would answer it.
    pub(super) fn tell_commit(&mut self) {
        let log = &self.raw.raft.raft_log;
        let (committed, last) = (log.committed, log.last_index());
        if !self.is_leader() || committed == self.leadership.commit_told {
            return;
        }
        if committed < last || !self.durability.jobs.is_empty() {
            return;
        }
        self.leadership.commit_told = committed;
        self.raw.raft.bcast_append();
    }

    /// Keeps only as many heartbeats of a read round as make a majority, and drops the others. `context` identifies the
    /// round. The heartbeats that stay go to the voters heard from most recently, which most likely answer first.
    /// Raft-rs asks every voter. If one of the chosen voters is gone, the next regular heartbeat asks all of them, and
    /// the choice changes.
    pub(super) fn ask_a_majority(&mut self, context: &[u8]) {
        if self.ending.leaving.is_some() {
            // Raft still counts this node's own vote, and `members` does not.
            return;
        }
        let others = self.members.voters().count() / 2;
        let me = self.settings.id;
        let is_voter = |id: &&u64| **id != me && self.members.voters().any(|voter| voter == **id);
        let asked: Vec<u64> = self
            .leadership
            .heard
            .iter()
            .filter(is_voter)
            .take(others)
            .copied()
            .collect();
        if asked.len() < others {
            // Too early in the term to know which voters answer.
            return;
        }
        self.raw.raft.msgs.retain(|message| {
            message.get_msg_type() != MessageType::MsgHeartbeat
                || message.context != context
                || asked.contains(&message.to)
        });
    }

    /// Records a message from this peer.
    pub(super) fn note_heard(&mut self, peer: u64) {
        let is_member = self.members.members.contains_key(&peer);
        if is_member && self.leadership.heard.first() != Some(&peer) {
            self.leadership.heard.retain(|other| *other != peer);
            self.leadership.heard.insert(0, peer);
        }
    }

    /// A message to this peer was lost, or the peer's process has ended.
    pub(super) fn note_unheard(&mut self, peer: u64) {
        self.leadership.probes.sent.remove(&peer);
        self.leadership.heard.retain(|other| *other != peer);
    }
}
