//! The time that a peer takes to answer a heartbeat: the network in both directions, plus the peer's raft loop.
//!
//! One heartbeat at a time is measured. The answer repeats the context of its heartbeat, which identifies the answer.
//! While clients ask for reads, contexts are unique. The regular heartbeats of an idle cluster all have the same
//! context, but they follow each other more slowly than they are answered.

use crate::limits;
use crate::metrics::Histogram;
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use raft::eraftpb::{Message, MessageType};
use std::time::Instant;

pub(super) struct RoundTrip {
    durations: Histogram,
    /// The context of the measured heartbeat, and the time when it was queued.
    asked: Mutex<Option<(Bytes, Instant)>>,
}

impl RoundTrip {
    pub(super) fn new(durations: Histogram) -> RoundTrip {
        RoundTrip {
            durations,
            asked: Mutex::new(None),
        }
    }

    /// Called before a message is queued. Starts a measurement if the message is a heartbeat.
    pub(super) fn sending(&self, message: &Message) {
        if message.get_msg_type() != MessageType::MsgHeartbeat {
            return;
        }
        let mut asked = self.lock();
        if let Some((_, since)) = &*asked {
            let elapsed = since.elapsed();
            if elapsed <= limits::PEER_SILENCE_MAX {
                return;
            }
            // The answer may be lost, or the peer may be stuck. The round trip took at least this long.
            self.durations.observe(elapsed);
        }
        *asked = Some((message.context.clone(), Instant::now()));
    }

    /// Called for each message from the peer. Ends the measurement if the message is the answer.
    pub(super) fn received(&self, message: &Message) {
        if message.get_msg_type() != MessageType::MsgHeartbeatResponse {
            return;
        }
        let mut asked = self.lock();
        if let Some((_, since)) = asked.take_if(|(context, _)| *context == message.context) {
            self.durations.observe(since.elapsed());
        }
    }

    /// Drops the measurement, because the heartbeat did not fit into the queue, or the queue was cleared.
    pub(super) fn forget(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Bytes, Instant)>> {
        self.asked.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_the_heartbeat_that_is_timed_counts() {
        let durations = Histogram::of_latencies();
        let trip = RoundTrip::new(durations.clone());
        let message = |kind, context: &'static [u8]| {
            let mut message = Message::default();
            message.set_msg_type(kind);
            message.context = Bytes::from_static(context);
            message
        };
        let ask = |context| trip.sending(&message(MessageType::MsgHeartbeat, context));
        let answer = |context| trip.received(&message(MessageType::MsgHeartbeatResponse, context));
        answer(b"");
        ask(b"1");
        ask(b"2");
        answer(b"2");
        trip.received(&message(MessageType::MsgAppendResponse, b"1"));
        assert_eq!(durations.count(), 0, "the first is timed");
        answer(b"1");
        answer(b"1");
        assert_eq!(durations.count(), 1);
        ask(b"3");
        trip.forget();
        answer(b"3");
        trip.sending(&message(MessageType::MsgAppend, b"4"));
        answer(b"4");
        assert_eq!(durations.count(), 1);
    }
}
