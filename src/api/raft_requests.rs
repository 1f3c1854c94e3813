//! Questions to the raft loop, each with the time by which there is an answer.
//!
//! The node keeps the deadline, counted in its ticks, because only it knows whether a proposal was handed to raft.
//! The timers here are a backstop for a loop that is stuck: they fire later, and assume the worst.

use super::error_code::Code;
use super::{Front, Unanswered, reply};
use crate::channels::notice::Notice;
use crate::channels::status::Status;
use crate::command::Command;
use crate::command::outcome::{NotProposed, NotTransferred, Outcome};
use crate::command::proposal::{Proposal, Read, Transfer};
use crate::numbers::Index;
use crate::store::Frozen;
use futures_channel::oneshot;
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};

impl Front {
    /// Proposes a command; returns its outcome by the deadline.
    pub(super) async fn propose(&self, command: Command, deadline: Instant) -> Outcome {
        let (reply, outcome) = oneshot::channel();
        self.api.inbox.propose(Proposal {
            command,
            deadline_ticks: self.ticks_until(deadline),
            reply,
        });
        let outcome = match timeout_at(deadline, outcome).await {
            Ok(Ok(outcome)) => outcome,
            // No answer, or a reply that was dropped: the command may be anywhere.
            Ok(Err(_)) | Err(_) => Outcome::Unknown,
        };
        let failed = match outcome {
            Outcome::NotProposed(why) => Some(reply::code(why)),
            Outcome::Unknown => Some(Code::UnknownOutcome),
            _ => None,
        };
        if let Some(code) = failed {
            self.api.metrics.proposals_failed.add(code.text());
        }
        outcome
    }

    /// Waits until the map holds everything that was acknowledged before now.
    pub(super) async fn catch_up(&self, deadline: Instant) -> Result<(), NotProposed> {
        let (reply, permission) = oneshot::channel();
        self.api.inbox.read(Read {
            deadline_ticks: self.ticks_until(deadline),
            reply,
        });
        let permission = match timeout_at(deadline, permission).await {
            Ok(Ok(permission)) => permission,
            // A read has no effect, so nothing is unknown. Replies are dropped when the process ends.
            Ok(Err(_)) => Err(NotProposed::Stopping),
            Err(_) => Err(NotProposed::NoQuorum),
        };
        if let Err(why) = permission {
            self.api.metrics.reads_failed.add(reply::code(why).text());
        }
        permission
    }

    /// Has leadership handed to this member; returns what came of it by the deadline.
    pub(super) async fn transfer(&self, to: u64, deadline: Instant) -> Result<(), NotTransferred> {
        let (reply, outcome) = oneshot::channel();
        self.api.inbox.transfer(Transfer {
            to,
            deadline_ticks: self.ticks_until(deadline),
            reply,
        });
        match timeout_at(deadline, outcome).await {
            Ok(Ok(outcome)) => outcome,
            // No answer, or a reply that was dropped: the leader may have been asked.
            Ok(Err(_)) | Err(_) => Err(NotTransferred::Unknown),
        }
    }

    /// How things stand in the raft loop, or `None` if it does not answer in time.
    ///
    /// At most one question waits in the inbox, whatever clients do: askers take turns, and one that gives up leaves
    /// its question to the next, for which the answer is still fresh.
    pub(super) async fn status(&self, deadline: Instant) -> Option<Status> {
        let ask = async {
            let mut slot = self.status.lock().await;
            self.ask(&mut slot, Notice::Status).await
        };
        timeout_at(deadline, ask).await.ok().flatten()
    }

    /// The hash of the map and its index, or `None` if it takes too long.
    pub(super) async fn hash(&self, deadline: Instant) -> Option<(Index, u64)> {
        self.with_frozen(deadline, |index, map| (index, map.hash()))
            .await
    }

    /// What `work` makes of the map as of an index, or `None` if it takes too long. One at a time: each holds a frozen
    /// map, and a core while it looks at all of it.
    ///
    /// From the question on it goes its way without whoever asked: a frozen map that nobody takes would keep everything
    /// that is replaced from then on.
    pub(super) async fn with_frozen<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce(u64, Frozen) -> T + Send + 'static,
    ) -> Option<T> {
        let turn = Arc::clone(&self.frozen).lock_owned();
        let turn = timeout_at(deadline, turn).await.ok()?;
        let (reply, frozen) = oneshot::channel();
        self.api.inbox.notice(Notice::Freeze(reply));
        let working = tokio::spawn(async move {
            let (header, map) = frozen.await.ok()?;
            if Instant::now() >= deadline {
                return None;
            }
            let working = tokio::task::spawn_blocking(move || {
                let made = work(header.index, map);
                // The next one's turn begins when the map is let go of.
                drop(turn);
                made
            });
            working.await.ok()
        });
        timeout_at(deadline, working).await.ok()?.ok()?
    }

    /// Puts a question to the loop, unless one of the same kind waits there already, and waits for the answer.
    async fn ask<T>(
        &self,
        slot: &mut Unanswered<T>,
        notice: impl FnOnce(oneshot::Sender<T>) -> Notice,
    ) -> Option<T> {
        // An unanswered one will be answered by how things stand after this moment.
        let left = slot.take_if(|asked| matches!(asked.try_recv(), Ok(None)));
        let asked = left.unwrap_or_else(|| {
            let (reply, asked) = oneshot::channel();
            self.api.inbox.notice(notice(reply));
            asked
        });
        let answer = slot.insert(asked).await.ok();
        *slot = None;
        answer
    }

    /// The node's deadline: two ticks earlier, so that its answer comes before the backstop.
    pub(super) fn ticks_until(&self, deadline: Instant) -> u64 {
        let left = deadline.saturating_duration_since(Instant::now());
        let ticks = left.as_micros() / self.api.tick.as_micros().max(1);
        u64::try_from(ticks)
            .unwrap_or(u64::MAX)
            .saturating_sub(2)
            .max(1)
    }
}
