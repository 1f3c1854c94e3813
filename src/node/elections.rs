//! When this node campaigns: after raft's election timeout, or sooner where there is nothing to wait for.
//!
//! The timeout is for a leader that may only be slow. It needs not pass when the leader's *process* is known to be
//! gone ([`Node::peer_gone`]), nor when a whole cluster has just been started and nobody has led yet
//! ([`Node::peer_connected`]). All voters learn of that in the same moment, and votes that cross are split: so they
//! campaign *in turn*, by id, a heartbeat interval apart, which raft wants to be more than a round trip.
//!
//! Invariants: an early election only ever starts with pre-votes. A member that still hears from a leader ignores those, and
//! the next word of that leader is followed again in the same term; so a report that is wrong disturbs nobody, and neither
//! safety nor progress rests on one that is right.

use super::Node;
use raft::StateRole;
use slog::info;
use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

/// Campaigning in turn, in one term, for at most an election timeout.
pub(super) struct EarlyElection {
    term: u64,
    end: u64,
    /// The leader that is gone; 0: nobody has led since the start.
    gone: u64,
    /// Ticks without a word of it after which it is believed to be gone.
    silence: usize,
    /// The tick of this node's next turn.
    turn: u64,
}

/// Who leads in a term; 0: nobody that is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lead {
    pub term: u64,
    pub leader: u64,
}

/// When a voter campaigns, in ticks.
struct Turn {
    /// From now until its turn.
    first: u64,
    /// From one of its turns to the next.
    every: u64,
}

/// Who leads, and what this node knows of that.
pub(super) struct Leadership {
    /// As of the last ready.
    pub seen: Lead,
    /// The role as of the last ready.
    pub role: StateRole,
    /// The newest term in which this node knows that reads are answered.
    pub readable_term: u64,
    pub reached: Reached,
    pub early_election: Option<EarlyElection>,
    /// Peers that have spoken, the latest first.
    pub heard: Vec<u64>,
    /// The commit index that the followers were told when nothing was under way any more.
    pub commit_told: u64,
}

impl Leadership {
    pub fn new(term: u64, published: u64) -> Leadership {
        Leadership {
            seen: Lead { term, leader: 0 },
            role: StateRole::Follower,
            readable_term: 0,
            reached: Some(BTreeSet::new()),
            early_election: None,
            heard: Vec::new(),
            commit_told: published,
        }
    }
}

impl Node {
    /// The process of this peer has ended, as far as its host can tell: a connection has broken, and its host
    /// refuses another one.
    pub fn peer_gone(&mut self, id: u64) {
        self.note_unheard(id);
        // The next process there may have another directory.
        self.membership.answered.remove(&id);
        if let Some(reached) = &mut self.leadership.reached {
            reached.remove(&id);
        }
        let raft = &self.raw.raft;
        if id != raft.leader_id || self.is_leader() || !raft.promotable() {
            return;
        }
        info!(self.logger, "the leader's process is gone"; "leader" => id, "term" => raft.term);
        // It is forgotten at the next tick, behind what it had said before and is still in the inbox.
        self.leadership.early_election = Some(self.begin_early_election(id, 0));
    }

    /// This peer was reached, and has accepted this node.
    pub fn peer_connected(&mut self, id: u64) {
        let Some(reached) = &mut self.leadership.reached else {
            return;
        };
        reached.insert(id);
        let up = |voter: &u64| *voter == self.settings.id || reached.contains(voter);
        let quorum = 2 * self.members.voters().filter(up).count() > self.members.voters().count();
        let raft = &self.raw.raft;
        if !quorum
            || self.leadership.early_election.is_some()
            || raft.leader_id != 0
            || !raft.promotable()
        {
            return;
        }
        // There may be a leader, from whom there will be a word within a heartbeat.
        let delay = self.settings.heartbeat_ticks;
        self.leadership.early_election = Some(self.begin_early_election(0, delay as u64));
        self.campaign_in_turn();
    }

    fn begin_early_election(&self, gone: u64, delay: u64) -> EarlyElection {
        EarlyElection {
            term: self.raw.raft.term,
            end: self.now + self.settings.election_ticks as u64,
            gone,
            silence: 0,
            turn: self.now + delay + self.place_in_turn(gone).first,
        }
    }

    fn place_in_turn(&self, gone: u64) -> Turn {
        let voters = || self.members.voters().filter(move |id| *id != gone);
        let before = voters().filter(|id| *id < self.settings.id).count();
        let apart = self.settings.heartbeat_ticks;
        Turn {
            first: (before * apart) as u64,
            every: (voters().count() * apart) as u64,
        }
    }

    /// Campaigns if an early election is under way, and it is this node's turn. Called at every tick.
    pub(super) fn campaign_in_turn(&mut self) {
        let Some(mut early_election) = self.leadership.early_election.take() else {
            return;
        };
        let raft = &self.raw.raft;
        let leader = raft.leader_id;
        if raft.term != early_election.term
            || self.now >= early_election.end
            || (leader != 0 && leader != early_election.gone)
        {
            return;
        }
        let Turn { first, every } = self.place_in_turn(early_election.gone);
        if leader != 0 {
            if raft.election_elapsed >= early_election.silence {
                // Without a leader raft grants pre-votes, and the vote of this term stays what it is.
                self.raw.raft.become_follower(early_election.term, 0);
                early_election.turn = self.now + 1 + first;
                // Should there be a word of it yet, then either it is alive and there will be more, or that was late.
                early_election.silence = 2 * self.settings.heartbeat_ticks;
            }
        } else if self.now >= early_election.turn && raft.state != StateRole::Candidate {
            // Again and again, because a pre-vote is ignored by whoever does not know yet.
            early_election.turn = self.now + every;
            if self.may_campaign() {
                self.campaign();
            }
        }
        self.leadership.early_election = Some(early_election);
    }

    pub(super) fn campaign(&mut self) {
        // It can only fail by not winning.
        let _ = self.raw.campaign();
    }

    /// Raft-rs asserts that the whole log of a candidate that wins is durable, which matters where it wins at once;
    /// and a candidate looks at all entries that it has not applied, without waiting for them. They are gone while a
    /// snapshot from the leader is still being loaded, and some may not be in memory after a start.
    pub(super) fn may_campaign(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        let readable = log.applied + 1 >= log.store.cached_from();
        let durable = self.durability.jobs.is_empty() && log.last_index() == log.persisted;
        readable && (durable || self.is_leader() || !self.is_sole_voter())
    }

    /// Raft-rs draws the timeout anew at every reset, from a generator of the thread. This one follows from the seed
    /// and the term alone, so that a simulation can repeat a run; a collision still ends, for it ends the term.
    pub(super) fn draw_election_timeout(&mut self) {
        let ticks = self.settings.election_ticks;
        let place = (self.settings.seed, self.raw.raft.term);
        let draw = BuildHasherDefault::<DefaultHasher>::default().hash_one(place);
        let timeout = ticks + draw as usize % ticks;
        self.raw.raft.set_randomized_election_timeout(timeout);
    }

    pub(super) fn is_sole_voter(&self) -> bool {
        self.members.voters().eq([self.settings.id])
    }
}

/// Peers that were reached, for as long as no leader was known since the start.
pub(super) type Reached = Option<BTreeSet<u64>>;
