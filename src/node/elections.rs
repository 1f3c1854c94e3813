//! When this node campaigns: after raft's election timeout, or earlier where there is nothing to wait for.
//!
//! The timeout gives a slow leader time. Waiting is pointless in two cases: when the leader's *process* is known to be
//! gone ([`Node::peer_gone`]), and when a whole cluster has just been started and has no leader yet
//! ([`Node::peer_connected`]). All voters learn of such an event at the same moment, and simultaneous candidates would
//! split the votes. So the voters campaign *in turn*, ordered by id, one heartbeat interval apart. Raft requires that
//! interval to be longer than a round trip.
//!
//! Invariants:
//! - An early election always starts with pre-votes. A member that still hears from a leader ignores them, and the
//!   candidate follows that leader again, in the same term, on the leader's next message. So a wrong report disturbs no
//!   one.
//! - Neither safety nor progress depends on a correct report.

use super::Node;
use super::fewer_messages::Probes;
use raft::eraftpb::{Entry, EntryType};
use raft::{GetEntriesContext, StateRole};
use slog::info;
use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

/// An early election: this node campaigns in turn, in one term, for at most one election timeout.
pub(super) struct EarlyElection {
    term: u64,
    end: u64,
    /// The leader that is gone, or 0 if no leader was known since the start.
    gone: u64,
    /// Ticks without a message from that leader after which it counts as gone.
    silence: usize,
    /// The tick of this node's next turn.
    turn: u64,
}

/// The leader of a term, or 0 if none is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lead {
    pub term: u64,
    pub leader: u64,
}

/// When a voter campaigns, in ticks.
struct Turn {
    /// Until its first turn.
    first: u64,
    /// Between two of its turns.
    every: u64,
}

/// What this node knows of leadership.
pub(super) struct Leadership {
    /// Term and leader as of the last ready.
    pub seen: Lead,
    /// The role as of the last ready.
    pub role: StateRole,
    /// The newest term in which this node knows that the leader answers reads.
    pub readable_term: u64,
    pub reached: Reached,
    pub early_election: Option<EarlyElection>,
    /// Peers that have sent a message, the most recent first.
    pub heard: Vec<u64>,
    /// The commit index that was last sent to the followers when nothing was under way any more.
    pub commit_told: u64,
    pub probes: Probes,
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
            probes: Probes::default(),
        }
    }
}

impl Node {
    /// The process of this peer has ended, as far as the peer's host can tell: a connection broke, and the host refuses
    /// a new one.
    pub fn peer_gone(&mut self, id: u64) {
        self.note_unheard(id);
        self.note_unreached(id);
        // The next process at that address may have another directory.
        self.membership.answered.remove(&id);
        if let Some(reached) = &mut self.leadership.reached {
            reached.remove(&id);
        }
        let raft = &self.raw.raft;
        if id != raft.leader_id || self.is_leader() || !raft.promotable() {
            return;
        }
        info!(self.logger, "the leader's process is gone"; "leader" => id, "term" => raft.term);
        // The leader is forgotten at the next tick, after its earlier messages, which may still be in the inbox.
        self.leadership.early_election = Some(self.begin_early_election(id, 0));
    }

    /// This node reached the peer, and the peer accepted it.
    pub fn peer_connected(&mut self, id: u64) {
        self.note_reached(id);
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
        // A leader may exist. Its next message arrives within a heartbeat interval.
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

    /// Campaigns if an early election is under way and it is this node's turn. Called at every tick, and by
    /// [`Node::peer_connected`].
    pub(super) fn campaign_in_turn(&mut self) {
        if self.is_crowded() {
            return;
        }
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
                // A node without a known leader grants pre-votes. Its vote in this term stays unchanged.
                self.raw.raft.become_follower(early_election.term, 0);
                early_election.turn = self.now + 1 + first;
                // If another message of that leader arrives, either the leader lives and more will follow, or the
                // message was late.
                early_election.silence = 2 * self.settings.heartbeat_ticks;
            }
        } else if self.now >= early_election.turn && raft.state != StateRole::Candidate {
            // Repeatedly, because a voter that does not know yet that the leader is gone ignores a pre-vote.
            early_election.turn = self.now + every;
            if self.may_campaign() {
                self.campaign();
            }
        }
        self.leadership.early_election = Some(early_election);
    }

    pub(super) fn campaign(&mut self) {
        // Raft would refuse and warn. After a start this is the usual case: the changes are in the log to replay.
        if self.has_pending_change() {
            return;
        }
        // Raft returns no error here, even if this node can't campaign.
        let _ = self.raw.campaign();
    }

    /// Whether the log holds a change of members that is committed but not applied. The node can read the entries: see
    /// [`Node::may_campaign`].
    fn has_pending_change(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        let snapshot = log.unstable.maybe_first_index();
        let first = snapshot.unwrap_or(log.applied + 1);
        let context = GetEntriesContext::empty(false);
        let entries = log.slice(first, log.committed + 1, None, context);
        let is_change = |entry: &Entry| entry.get_entry_type() != EntryType::EntryNormal;
        entries.is_ok_and(|entries| entries.iter().any(is_change))
    }

    /// Whether this node can campaign now.
    ///
    /// Raft-rs asserts that the whole log of a winning candidate is durable, which matters for a sole voter, who wins
    /// at once. A candidate also reads all entries that it has not applied, and can't wait for them. Those entries are
    /// missing while a snapshot from the leader is still being loaded, and some may not be in memory after a start.
    pub(super) fn may_campaign(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        let readable = log.applied + 1 >= log.store.cached_from();
        let durable = self.durability.jobs.is_empty() && log.last_index() == log.persisted;
        readable && (durable || self.is_leader() || !self.is_sole_voter())
    }

    /// Sets the election timeout. It depends only on the seed and the term, so that a simulation can repeat a run:
    /// raft-rs itself draws a timeout from a thread-local generator at every reset. Two members that collide in one
    /// term very likely draw different timeouts in the next term.
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

/// Peers that were reached. `None` once a leader was known in this start.
pub(super) type Reached = Option<BTreeSet<u64>>;
