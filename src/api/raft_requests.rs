//! Questions to the raft loop, each with a deadline for the answer.
//!
//! The node enforces the deadline, counted in its ticks, because only the node knows whether a proposal was handed to
//! raft. The timers here are a backstop for a stuck loop: they fire later, and assume that the proposal may have taken
//! effect.

use super::error_code::Code;
use super::processor_share::Work;
use super::reply::{self, Reply, RequestKind};
use super::{Front, Unanswered};
use crate::channels::notice::Notice;
use crate::channels::status::Status;
use crate::command::Command;
use crate::command::outcome::{NotProposed, NotTransferred, Outcome};
use crate::command::proposal::{Proposal, Read, Transfer};
use crate::numbers::Index;
use crate::store::{Frozen, GivenUp};
use futures_channel::oneshot;
use std::sync::Arc;
use tokio::time::{Instant, sleep, timeout_at};

impl Front {
    /// Proposes a command and returns its outcome by the deadline.
    pub(super) async fn propose(&self, command: Command, deadline: Instant) -> Outcome {
        let (reply, outcome) = oneshot::channel();
        self.api.inbox.propose(Proposal {
            command,
            deadline_ticks: self.ticks_until(deadline),
            reply,
        });
        let outcome = match timeout_at(deadline, outcome).await {
            Ok(Ok(outcome)) => outcome,
            // No answer, or a dropped reply: the command may have been proposed or applied.
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

    /// Waits until the map holds every write that was acknowledged before the call.
    pub(super) async fn catch_up(&self, deadline: Instant) -> Result<(), NotProposed> {
        let (reply, permission) = oneshot::channel();
        self.api.inbox.read(Read {
            deadline_ticks: self.ticks_until(deadline),
            reply,
        });
        let permission = match timeout_at(deadline, permission).await {
            Ok(Ok(permission)) => permission,
            // A read has no effect, so its outcome is never unknown. Replies are dropped when the process ends.
            Ok(Err(_)) => Err(NotProposed::Stopping),
            Err(_) => Err(NotProposed::NoQuorum),
        };
        if let Err(why) = permission {
            self.api.metrics.reads_failed.add(reply::code(why).text());
        }
        permission
    }

    /// Asks the leader to transfer leadership to member `to`. Returns the result by the deadline.
    pub(super) async fn transfer(&self, to: u64, deadline: Instant) -> Result<(), NotTransferred> {
        let (reply, outcome) = oneshot::channel();
        self.api.inbox.transfer(Transfer {
            to,
            deadline_ticks: self.ticks_until(deadline),
            reply,
        });
        match timeout_at(deadline, outcome).await {
            Ok(Ok(outcome)) => outcome,
            // No answer, or a dropped reply: the request may have reached the leader.
            Ok(Err(_)) | Err(_) => Err(NotTransferred::Unknown),
        }
    }

    /// The refusal of a request that had no effect. Without a leader, the line says what this member waits for.
    pub(super) fn not_proposed(&self, kind: RequestKind, why: NotProposed) -> Box<Reply> {
        match self.api.inbox.waiting().borrow().as_ref() {
            Some(waiting) if why == NotProposed::NoLeader => {
                // A change of members is what people try when members are lost for good.
                let lost = match kind {
                    RequestKind::Change => {
                        "; if a majority is lost for good: raftkvd backup --stale of this member, then raftkvd restore"
                    }
                    RequestKind::Read | RequestKind::Write => "",
                };
                let why = format!("{why}; {}{lost}", waiting.why);
                reply::without_effect(kind, Code::NoLeader, why)
            }
            _ => reply::not_proposed(kind, why),
        }
    }

    /// The status of the raft loop, or `None` if the loop does not answer in time.
    ///
    /// At most one status question waits in the inbox, whatever clients do. Requests take turns to ask. A request that
    /// gives up leaves its question to the next request, and the answer is still fresh for that request.
    pub(super) async fn status(&self, deadline: Instant) -> Option<Status> {
        let ask = async {
            let mut slot = self.status.lock().await;
            self.ask(&mut slot, Notice::Status).await
        };
        timeout_at(deadline, ask).await.ok().flatten()
    }

    /// The hash of the map and its index, or `None` if it takes too long.
    pub(super) async fn hash(&self, deadline: Instant) -> Option<(Index, u64)> {
        let made = self.with_frozen(deadline, move |index, map, work| {
            let hash = map.hash(|| {
                work.pause();
                match Instant::now() < deadline {
                    true => Ok(()),
                    false => Err(GivenUp),
                }
            });
            hash.map(|hash| (index, hash))
        });
        made.await?.ok()
    }

    /// Runs `work` on the map at an index. Returns `None` if it takes too long. One call runs at a time, because each
    /// holds a frozen map, and occupies a core while it looks at the whole map.
    ///
    /// Once the loop was asked, a task of its own holds the turn until the work has released the map, even if the
    /// request is cancelled. Otherwise cancelled requests could leave several questions in the inbox and several frozen
    /// maps.
    pub(super) async fn with_frozen<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce(u64, Frozen, &mut Work) -> T + Send + 'static,
    ) -> Option<T> {
        let turn = Arc::clone(&self.frozen).lock_owned();
        let turn = timeout_at(deadline, turn).await.ok()?;
        // The processor time of earlier work has to be earned first. The wait comes before the freeze, because a frozen
        // map takes memory.
        let debt = self.scans.debt(Instant::now().into_std());
        if !debt.is_zero() {
            timeout_at(deadline, sleep(debt)).await.ok()?;
        }
        let (workers, scans) = (self.api.workers.clone(), Arc::clone(&self.scans));
        let (reply, frozen) = oneshot::channel();
        self.api.inbox.notice(Notice::Freeze(reply));
        let working = tokio::spawn(async move {
            let (header, map) = frozen.await.ok()?;
            if Instant::now() >= deadline {
                return None;
            }
            let working = workers.run(move || {
                let made = work(header.index, map, &mut scans.begin());
                // The work has released the map. Only now may the next request take its turn.
                drop(turn);
                made
            });
            working.await.ok()
        });
        timeout_at(deadline, working).await.ok()?.ok()?
    }

    /// Sends a question to the loop and waits for the answer. If a question of the same kind already waits there, this
    /// call waits for the answer to that question.
    async fn ask<T>(
        &self,
        slot: &mut Unanswered<T>,
        notice: impl FnOnce(oneshot::Sender<T>) -> Notice,
    ) -> Option<T> {
        // The loop has not answered the waiting question yet, so the answer will show a state after this moment.
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

    /// The deadline in the node's ticks: two ticks early, so that the node's answer arrives before the backstop fires.
    pub(super) fn ticks_until(&self, deadline: Instant) -> u64 {
        let left = deadline.saturating_duration_since(Instant::now());
        let ticks = left.as_micros() / self.api.tick.as_micros().max(1);
        u64::try_from(ticks)
            .unwrap_or(u64::MAX)
            .saturating_sub(2)
            .max(1)
    }
}
