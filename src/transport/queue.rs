//! The messages that wait to be written to one lane of a peer, bounded in count and bytes.

use super::frame::{self, encoded};
use crate::{limits, metrics};
use parking_lot::{Mutex, MutexGuard};
use raft::eraftpb::Message;
use std::collections::VecDeque;
use tokio::sync::Notify;

pub(super) struct LaneQueue {
    waiting: Mutex<QueuedMessages>,
    /// Notified when there is a message to take, or a reason to check the connection again.
    pub(super) wake: Notify,
    /// Notified when the peer can probably be reached, which cuts a pause short.
    pub(super) redial: Notify,
    pub(super) metrics: metrics::LaneMetrics,
}

#[derive(Default)]
struct QueuedMessages {
    messages: VecDeque<(Message, usize)>,
    bytes: usize,
    closed: bool,
}

impl LaneQueue {
    pub(super) fn new(metrics: metrics::LaneMetrics) -> LaneQueue {
        LaneQueue {
            waiting: Mutex::default(),
            wake: Notify::new(),
            redial: Notify::new(),
            metrics,
        }
    }

    /// Queues a message. Returns false if the message was dropped.
    pub(super) fn push(&self, message: Message) -> bool {
        let bytes = encoded(&message);
        let mut waiting = self.lock();
        // An empty queue has room for any message, unless no frame can hold the message.
        let full = waiting.messages.len() >= limits::PEER_QUEUE_MESSAGES_MAX
            || (!waiting.messages.is_empty()
                && waiting.bytes + bytes > limits::PEER_QUEUE_BYTES_MAX);
        if full || waiting.closed || !frame::fits(bytes) {
            self.metrics.dropped.inc();
            return false;
        }
        waiting.bytes += bytes;
        waiting.messages.push_back((message, bytes));
        self.show(&waiting);
        let first = waiting.messages.len() == 1;
        drop(waiting);
        // The task takes messages until the queue is empty, so only the first message must wake the task.
        if first {
            self.wake.notify_one();
        }
        true
    }

    /// Refuses further messages. The task ends once the waiting messages are written.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    /// Moves the messages for one frame to `into`. Returns `None` when the queue is closed and empty.
    pub(super) fn take(&self, into: &mut Vec<Message>) -> Option<()> {
        let mut waiting = self.lock();
        let mut total = 0;
        while total < limits::FRAME_BYTES_TARGET {
            let Some((message, bytes)) = waiting.messages.pop_front() else {
                break;
            };
            waiting.bytes -= bytes;
            total += bytes;
            into.push(message);
        }
        self.show(&waiting);
        (!into.is_empty() || !waiting.closed).then_some(())
    }

    /// Drops the waiting messages. Returns false if there were none.
    pub(super) fn clear(&self) -> bool {
        let mut waiting = self.lock();
        let any = !waiting.messages.is_empty();
        self.metrics.dropped.inc_by(waiting.messages.len() as u64);
        waiting.messages.clear();
        waiting.bytes = 0;
        self.show(&waiting);
        any
    }

    #[cfg(test)]
    pub(super) fn connections(&self) -> u64 {
        self.metrics.connections.get()
    }

    fn show(&self, waiting: &QueuedMessages) {
        self.metrics.messages.set(waiting.messages.len() as i64);
        self.metrics.bytes.set(waiting.bytes as i64);
    }

    fn lock(&self) -> MutexGuard<'_, QueuedMessages> {
        self.waiting.lock()
    }
}
