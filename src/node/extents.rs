//! How far behind each member is. Only the leader knows that, from raft. The leader sends these numbers to the others in
//! its heartbeats, once in each heartbeat interval and in a field that raft does not know, so that every member can show
//! them. No decision depends on them.

use super::Node;
use crate::command;
use crate::numbers::{Index, NodeId, Ticks};
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};
use std::collections::{BTreeMap, BTreeSet};

/// The number of the field in `eraftpb.Message`. raft uses the numbers up to 15.
const FIELD: u32 = 100;

/// How far the logs of the members reach.
#[derive(Debug, Default)]
pub(super) struct Extents {
    heard: Heard,
    sent: Sent,
}

/// What the leader said last.
#[derive(Debug, Default)]
struct Heard {
    at: Ticks,
    leader: NodeId,
    committed: Index,
    matched: BTreeMap<NodeId, Index>,
}

/// The members to which this leader has sent the numbers in one heartbeat interval.
#[derive(Debug, Default)]
struct Sent {
    /// The number of the interval, from the start of the process.
    interval: u64,
    members: BTreeSet<NodeId>,
}

impl Node {
    /// Adds what this leader knows to the first heartbeat of an interval. Under load, all heartbeats belong to read
    /// rounds, and there are many of them.
    pub(super) fn tell_extents(&mut self, message: &mut Message) {
        if message.get_msg_type() != MessageType::MsgHeartbeat {
            return;
        }
        let interval = self.now / self.settings.heartbeat_ticks as u64;
        if std::mem::replace(&mut self.extents.sent.interval, interval) != interval {
            self.extents.sent.members.clear();
        }
        if !self.extents.sent.members.insert(message.to) {
            return;
        }
        let mut extents = command::Extents::new();
        extents.committed = self.raw.raft.raft_log.committed;
        for (id, progress) in self.raw.raft.prs().iter() {
            extents.members.push(*id);
            extents.matched.push(progress.matched);
        }
        let bytes = extents.write_to_bytes().expect("memory takes every byte");
        message
            .mut_unknown_fields()
            .add_length_delimited(FIELD, bytes);
    }

    /// Records what the leader says in a heartbeat.
    pub(super) fn hear_extents(&mut self, message: &mut Message) {
        if message.get_msg_type() != MessageType::MsgHeartbeat {
            return;
        }
        let fields = std::mem::take(message.mut_unknown_fields());
        let said = fields.get(FIELD).and_then(|field| {
            let bytes = field.length_delimited.first()?;
            command::Extents::parse_from_bytes(bytes).ok()
        });
        let Some(said) = said else {
            return;
        };
        let is_member = |id: &NodeId| self.members.members.contains_key(id);
        let matched = said.members.into_iter().zip(said.matched);
        self.extents.heard = Heard {
            at: self.now,
            leader: message.from,
            committed: said.committed,
            matched: matched.filter(|(id, _)| is_member(id)).collect(),
        };
    }

    /// The number of committed entries that a member's log is not known to hold. `None`: no leader has sent the number
    /// recently.
    pub(super) fn behind(&self, id: NodeId) -> Option<u64> {
        let raft = &self.raw.raft;
        if self.is_leader() {
            let committed = raft.raft_log.committed;
            let progress = raft.prs().get(id)?;
            return Some(committed.saturating_sub(progress.matched));
        }
        let Heard {
            at,
            leader,
            committed,
            matched,
        } = &self.extents.heard;
        let is_recent = self.now - at < 2 * self.settings.election_ticks as u64;
        let matched = matched.get(&id).filter(|_| *leader == raft.leader_id)?;
        is_recent.then(|| committed.saturating_sub(*matched))
    }
}
