//! Messages that raft-rs would send and that nobody needs: each costs its receiver a wake-up, and an answer.
//!
//! Leaving a message out is always safe, since raft allows for their loss. What has to be shown is that nobody waits:
//! a regular heartbeat goes to everybody, with the commit index and the newest read round, and ends whatever could.

use super::Node;
use raft::eraftpb::MessageType;

impl Node {
    /// Tells the followers, as the leader, what has become committed, unless they learn of it anyhow: entries that are
    /// under way bring the commit index along when they are committed at the latest, and while this node's disk is busy
    /// the next ones gather. Raft-rs would send each follower an append of its own for each batch, which it would answer.
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

    /// Of the heartbeats that ask whether this node still leads, those for a read round with this context, leaves as many
    /// as make a majority: to the voters that were heard last, who most likely answer first. Raft-rs asks everybody. If
    /// one of them is not there any more, the next regular heartbeat asks all, and then others are those heard last.
    pub(super) fn ask_a_majority(&mut self, context: &[u8]) {
        if self.ending.leaving.is_some() {
            // Its own vote counts with raft, and with `members` no more.
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
            // So early in a term it is not known who answers.
            return;
        }
        self.raw.raft.msgs.retain(|message| {
            message.get_msg_type() != MessageType::MsgHeartbeat
                || message.context != context
                || asked.contains(&message.to)
        });
    }

    /// A message has come from this peer.
    pub(super) fn note_heard(&mut self, peer: u64) {
        let is_member = self.members.members.contains_key(&peer);
        if is_member && self.leadership.heard.first() != Some(&peer) {
            self.leadership.heard.retain(|other| *other != peer);
            self.leadership.heard.insert(0, peer);
        }
    }

    /// Nothing was heard of this peer for a while, or its process has ended.
    pub(super) fn note_unheard(&mut self, peer: u64) {
        self.leadership.heard.retain(|other| *other != peer);
    }
}
