//! Messages that peers send, or would never send.

use super::*;

pub fn message(kind: MessageType, from: u64, to: u64, term: u64) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    (message.from, message.to, message.term) = (from, to, term);
    message
}

pub fn heartbeat(from: u64, to: u64, term: u64, commit: u64) -> Message {
    let mut heartbeat = message(MessageType::MsgHeartbeat, from, to, term);
    heartbeat.commit = commit;
    heartbeat
}

/// A proposal that a follower forwards.
pub fn forward(from: u64, to: u64, entry: Entry) -> Message {
    let mut forward = message(MessageType::MsgPropose, from, to, 0);
    forward.set_entries(vec![entry].into());
    forward
}

/// A snapshot of this state, without keys.
pub fn snapshot(from: u64, to: u64, term: u64, index: u64, state: &ReplicatedState) -> Message {
    let mut snapshot = message(MessageType::MsgSnapshot, from, to, term);
    let content = snapshot.mut_snapshot();
    content.data = protobuf::Message::write_to_bytes(state).unwrap().into();
    (content.mut_metadata().index, content.mut_metadata().term) = (index, term);
    snapshot
}

/// A refusal by a member that has applied everything.
pub fn refusal(by: u64, reason: Reason) -> crate::identity::PeerRefusal {
    crate::identity::PeerRefusal {
        by,
        applied: u64::MAX,
        formed: true,
        dialled: true,
        reason,
    }
}
