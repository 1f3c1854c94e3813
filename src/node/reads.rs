//! Linearizable reads. All waiting reads share one read-index round, and new reads gather for the next round.
//!
//! Raft drops a round silently when there is no leader, when the leader has not committed in its term, or when a
//! message is lost. So the node repeats a round, each time with a *fresh* context: with a reused context, the
//! confirmation of its earlier use could count as the answer. The answer to any attempt of the round is valid.
//!
//! Invariants:
//! - Reads of a round arrived before its first attempt. So the index of any attempt covers everything that was
//!   acknowledged to any client before these reads arrived.
//! - Reads are released only once that index is published.

use crate::command::outcome::NotProposed;
use crate::command::proposal::{Read, ReadReply};
use crate::mutants::{Mutant, is_planted};
use crate::numbers::NodeId;
use std::collections::BTreeMap;

/// A round keeps its newest attempts, up to this number, and takes the answer to any of them.
const ATTEMPTS_MAX: usize = 8;

/// The newest read-index context of each member, as the leader has received them. Raft-rs would take a duplicate for a
/// second round, and count a majority's answers to the first as answers to the second. Reads would be stale.
#[derive(Debug, Default)]
pub struct AskedContexts {
    /// By member: the random number of its start, and the newest sequence number.
    newest: BTreeMap<NodeId, (u64, u64)>,
}

impl AskedContexts {
    /// Whether the context of this member is newer than all its earlier ones. False also for a malformed context, and
    /// for one that names another member.
    pub fn is_new(&mut self, member: u64, context: &[u8]) -> bool {
        let number = |at: usize| {
            let bytes = context.get(at..at + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let (Some(named), Some(run), Some(sequence)) = (number(0), number(8), number(16)) else {
            return false;
        };
        let before = self.newest.get(&member);
        let is_old = before.is_some_and(|(known, newest)| *known == run && sequence <= *newest);
        if named != member || is_old {
            return false;
        }
        self.newest.insert(member, (run, sequence));
        true
    }

    /// Forgets peers that are not members.
    pub fn keep(&mut self, is_member: impl Fn(&u64) -> bool) {
        self.newest.retain(|member, _| is_member(member));
    }
}

/// The reads of this node that are not released.
#[derive(Debug)]
pub struct Reads {
    member: u64,
    run: u64,
    sequence: u64,
    waiting: Vec<WaitingRead>,
    round: Option<Round>,
    /// Confirmed reads, each with the index up to which the log must be published first.
    confirmed: Vec<(u64, Vec<WaitingRead>)>,
}

#[derive(Debug)]
struct WaitingRead {
    deadline: u64,
    reply: ReadReply,
}

#[derive(Debug)]
struct Round {
    /// The contexts of the newest attempts, the newest last.
    contexts: Vec<Vec<u8>>,
    /// Tick of the newest attempt. `None`: another attempt is due.
    asked: Option<u64>,
    reads: Vec<WaitingRead>,
}

impl Reads {
    /// Creates an empty set. `member` and `run`, the random number of this start, make the contexts unique.
    pub fn new(member: u64, run: u64) -> Reads {
        Reads {
            member,
            run,
            sequence: 0,
            waiting: Vec::new(),
            round: None,
            confirmed: Vec::new(),
        }
    }

    /// Takes a client's read.
    pub fn add(&mut self, read: Read, now: u64) {
        self.waiting.push(WaitingRead {
            deadline: now + read.deadline_ticks.max(1),
            reply: read.reply,
        });
    }

    /// The number of reads held.
    pub fn held(&self) -> usize {
        let round = self.round.as_ref().map_or(0, |round| round.reads.len());
        let confirmed: usize = self.confirmed.iter().map(|(_, reads)| reads.len()).sum();
        self.waiting.len() + round + confirmed
    }

    /// Whether a round is under way.
    pub fn is_asking(&self) -> bool {
        self.round
            .as_ref()
            .is_some_and(|round| round.asked.is_some())
    }

    /// Starts a round if none is under way and a read waits, or starts the next attempt if one is due. Returns its
    /// context for raft.
    pub fn begin(&mut self, now: u64) -> Option<Vec<u8>> {
        if self.round.is_none() && !self.waiting.is_empty() {
            self.round = Some(Round {
                contexts: Vec::new(),
                asked: None,
                reads: std::mem::take(&mut self.waiting),
            });
        }
        let round = self.round.as_mut().filter(|round| round.asked.is_none())?;
        if is_planted(Mutant::LateReadJoins) {
            round.reads.append(&mut self.waiting);
        }
        self.sequence += u64::from(!is_planted(Mutant::ReusedReadContext));
        let parts = [self.member, self.run, self.sequence];
        let context: Vec<u8> = parts.into_iter().flat_map(u64::to_le_bytes).collect();
        if round.contexts.len() == ATTEMPTS_MAX {
            round.contexts.remove(0);
        }
        round.contexts.push(context.clone());
        round.asked = Some(now);
        Some(context)
    }

    /// Asks for another attempt, because the round under way may be lost.
    pub fn retry(&mut self) {
        if let Some(round) = &mut self.round {
            round.asked = None;
        }
    }

    /// Asks for another attempt if the newest one is `ticks` or more old.
    pub fn retry_stale(&mut self, now: u64, ticks: u64) {
        let asked = self.round.as_ref().and_then(|round| round.asked);
        if asked.is_some_and(|asked| now - asked >= ticks) {
            self.retry();
        }
    }

    /// Raft confirmed a context at this index.
    pub fn confirm(&mut self, context: &[u8], index: u64) {
        let ours = |round: &mut Round| round.contexts.iter().any(|c| c == context);
        if let Some(round) = self.round.take_if(ours) {
            self.confirmed.push((index, round.reads));
        }
    }

    /// Takes the reads that are confirmed at or below this index.
    pub fn release(&mut self, index: u64) -> Vec<ReadReply> {
        let mut released = Vec::new();
        self.confirmed.retain_mut(|(needed, reads)| {
            let keep = *needed > index;
            if !keep {
                released.extend(reads.drain(..).map(|read| read.reply));
            }
            keep
        });
        released
    }

    /// Ends reads past their deadline.
    pub fn expire(&mut self, now: u64, reason: NotProposed) {
        self.end(|read| read.deadline <= now, reason);
        // No read waits for this round any more. Without it, the next reads start a round of their own at once.
        self.round.take_if(|round| round.reads.is_empty());
        self.confirmed.retain(|(_, reads)| !reads.is_empty());
    }

    /// Ends all reads.
    pub fn stop(&mut self, reason: NotProposed) {
        self.end(|_| true, reason);
    }

    fn end(&mut self, which: impl Fn(&WaitingRead) -> bool, reason: NotProposed) {
        let round = self.round.iter_mut().map(|round| &mut round.reads);
        let confirmed = self.confirmed.iter_mut().map(|(_, reads)| reads);
        let lists = std::iter::once(&mut self.waiting)
            .chain(round)
            .chain(confirmed);
        for list in lists {
            for read in list.extract_if(.., |read| which(read)) {
                // The receiver may be gone: its client has given up.
                let _ = read.reply.send(Err(reason));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_channel::oneshot;

    fn add(reads: &mut Reads) -> oneshot::Receiver<Result<(), NotProposed>> {
        let (reply, receiver) = oneshot::channel();
        let read = Read {
            deadline_ticks: 10,
            reply,
        };
        reads.add(read, 0);
        receiver
    }

    #[test]
    fn a_duplicate_read_context_is_not_new() {
        let mut reads = Reads::new(3, 7);
        let mut asked = AskedContexts::default();
        let _read = add(&mut reads);
        let first = reads.begin(0).unwrap();
        reads.retry();
        let second = reads.begin(1).unwrap();
        assert!(asked.is_new(3, &first) && !asked.is_new(3, &first));
        assert!(asked.is_new(3, &second) && !asked.is_new(3, &first));
        let mut next_start = Reads::new(3, 8);
        let _read = add(&mut next_start);
        assert!(asked.is_new(3, &next_start.begin(0).unwrap()));
        for strange in [&first[..23], &[], &[0; 24]] {
            assert!(!asked.is_new(3, strange));
        }
        asked.keep(|_| false);
        assert!(asked.newest.is_empty());
    }

    #[test]
    fn a_read_that_arrives_during_a_round_waits_for_the_next() {
        let mut reads = Reads::new(1, 1);
        let _first = add(&mut reads);
        let context = reads.begin(0).unwrap();
        let _second = add(&mut reads);
        assert_eq!(reads.begin(0), None);
        reads.confirm(&context, 7);
        assert!(reads.release(6).is_empty());
        assert_eq!(reads.release(7).len(), 1);
        assert_ne!(reads.begin(0).unwrap(), context);
    }

    #[test]
    fn a_lost_round_is_asked_again_with_a_fresh_context() {
        let mut reads = Reads::new(1, 1);
        let _first = add(&mut reads);
        let old = reads.begin(0).unwrap();
        reads.retry_stale(4, 5);
        assert_eq!(reads.begin(4), None);
        let _second = add(&mut reads);
        reads.retry_stale(5, 5);
        let new = reads.begin(5).unwrap();
        assert_ne!(old, new);
        // The answer to either attempt confirms the first read. Neither confirms the second read, which arrived later.
        reads.confirm(&old, 3);
        assert_eq!(reads.release(3).len(), 1);
        reads.confirm(&new, 4);
        assert!(reads.release(4).is_empty());
        assert_eq!(reads.held(), 1);
    }

    #[test]
    fn every_read_ends_by_its_deadline() {
        let mut reads = Reads::new(1, 1);
        let mut receivers = vec![add(&mut reads)];
        let context = reads.begin(0).unwrap();
        reads.confirm(&context, 100);
        receivers.push(add(&mut reads));
        reads.begin(0).unwrap();
        receivers.push(add(&mut reads));
        reads.expire(9, NotProposed::NoQuorum);
        assert_eq!(reads.held(), 3);
        reads.expire(10, NotProposed::NoQuorum);
        assert_eq!(reads.held(), 0);
        for mut receiver in receivers {
            assert_eq!(receiver.try_recv(), Ok(Some(Err(NotProposed::NoQuorum))));
        }
    }
}
