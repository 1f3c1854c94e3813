//! The node: drives raft-rs's `RawNode` by the Ready protocol and keeps the state beside raft: proposals and reads whose
//! outcome is open, sessions, members.
//!
//! The raft loop feeds the node events and carries out the [`Output`] that it returns. The node does not wait: it learns of
//! time by [`Node::tick`] and of durability by [`Node::persisted`], and it returns what is to be written and sent as
//! values. The daemon and the simulation drive the same code.
//!
//! The protocol of one ready (raft 0.7.0; the caller repeats [`Node::ready`] until it gives nothing):
//! 1. messages of a leader go out at once, beside its own fsync (thesis 10.2.1); promises (votes, append responses)
//!    wait in the [`Job`] until the ready *and all before it* are durable, or a crash could break them;
//! 2. entries and snapshot enter the in-memory log, since raft reads them back from there;
//! 3. the job goes to the WAL, the ready is advanced, and committed entries are published in log order.
//!
//! Replicated state beside the map (members, sessions) changes at publication and nowhere else. So every node decides in
//! the same way, before a command reaches the store, whether it is stale, refused, or to be applied.
//!
//! The caller's duties:
//! 1. It feeds the events that have arrived, then calls [`Node::ready`] until that gives nothing. [`Node::persisted`] comes
//!    before messages: a vote that arrives may answer a request that was sent because of what was persisted.
//! 2. It carries an [`Output`] out in the order of its fields.
//! 3. It makes jobs durable in the order of their numbers, sends their messages after that, and says so by
//!    [`Node::persisted`]. A job that can't be made durable ends the process.
//! 4. It hands commits to the store in order, and says how far it has come by [`Node::applied`].
//! 5. It answers each read-back request by [`Node::read_back`], and ends the process when it gets an [`Exit`].
//! 6. It calls [`Node::tick`] once a tick, and does not make up for ticks that it has missed.
//!
//! Invariants, asserted: `snapshot <= applied <= published <= committed <= last`; every entry is published once, in
//! order; raft's configuration equals `members`.

mod catch_up;
mod checks;
mod elections;
mod exit;
mod fewer_messages;
mod formation;
mod identity;
#[cfg(feature = "later")]
mod later;
mod leadership_transfer;
pub mod log;
mod membership;
mod output;
mod pending;
mod publish;
mod reads;
mod ready;
mod snapshots;
mod status;
#[cfg(test)]
mod tests;
mod writes;

pub use exit::Exit;
pub use output::{Job, NodeSettings, Output};

use crate::channels::notice::Received;
use crate::command::outcome::NotProposed;
use crate::command::proposal::{Proposal, Read};
use crate::command::{ReplicatedState, Session};
use crate::identity::Standing;
use crate::limits;
use crate::members::Members;
use crate::mutants::{Mutant, is_planted};
use crate::node::log::Log;
use crate::storage::Recovered;
use catch_up::CatchUp;
use checks::Evidence;
use elections::Leadership;
use exit::Ending;
use formation::Formation;
use leadership_transfer::Transfers;
use membership::Membership;
use pending::Pending;
use publish::{FoundLog, Watermarks};
use raft::eraftpb::MessageType;
use raft::{RawNode, ReadOnlyOption, StateRole};
use reads::{AskedContexts, Reads};
use ready::Durability;
use slog::{Logger, info, o, warn};
use snapshots::SnapshotPolicy;
use std::collections::BTreeMap;

/// A raft member. See the module's documentation.
///
/// What several topics need stands by itself; the rest belongs to the file of its topic, which says what holds for it.
pub struct Node {
    settings: NodeSettings,
    raw: RawNode<Log>,
    logger: Logger,
    /// Ticks since the start.
    now: u64,
    /// The members as of what is published.
    members: Members,
    /// Of each member, the newest of its proposals that was published.
    sessions: BTreeMap<u64, Session>,
    watermarks: Watermarks,
    found: FoundLog,
    durability: Durability,
    pending: Pending,
    reads: Reads,
    asked: AskedContexts,
    leadership: Leadership,
    transfers: Transfers,
    membership: Membership,
    formation: Formation,
    evidence: Evidence,
    snapshots: SnapshotPolicy,
    catch_up: CatchUp,
    ending: Ending,
}

impl Node {
    /// A node from what storage recovered. The store must already hold the recovered snapshot.
    pub fn new(
        settings: NodeSettings,
        recovered: Recovered,
        logger: &Logger,
        raft_logger: &Logger,
    ) -> Result<Node, String> {
        let state = recovered.snapshot.as_ref().map(|meta| &meta.state);
        let (members, sessions) = match state {
            Some(state) => (Members::from_state(state)?, sessions_of(state)),
            None => Default::default(),
        };
        let published = recovered.snapshot.as_ref().map_or(0, |meta| meta.index);
        let hard_state = recovered.hard_state.clone();
        let last_snapshot_bytes = recovered.snapshot_bytes;
        let log = Log::new(recovered, settings.log_cache_bytes);
        let raw = RawNode::new(&raft_config(&settings, published), log, raft_logger)
            .map_err(|error| format!("raft can't start: {error}"))?;
        let mut node = Node {
            logger: logger.new(o!()),
            now: 0,
            watermarks: Watermarks::new(published),
            found: FoundLog {
                last: raw.raft.raft_log.last_index(),
                committed: hard_state.commit,
            },
            pending: Pending::new(settings.batch()),
            reads: Reads::new(settings.id, settings.run),
            asked: AskedContexts::default(),
            leadership: Leadership::new(hard_state.term, published),
            transfers: Transfers::new(settings.boot),
            membership: Membership::new(bound_index(&members, &settings)),
            formation: Formation::default(),
            evidence: Evidence::default(),
            snapshots: SnapshotPolicy::new(last_snapshot_bytes),
            catch_up: CatchUp::default(),
            ending: Ending::default(),
            durability: Durability::new(hard_state),
            raw,
            members,
            sessions,
            settings,
        };
        node.begin();
        Ok(node)
    }

    /// What a node does by itself, before anything has come.
    fn begin(&mut self) {
        self.members_changed();
        self.check_own_session();
        // Whoever makes a node tells clients so before it serves them. While there is a log to replay it may not be news.
        match self.raw.raft.raft_log.committed > self.watermarks.published {
            true => self.formation.closed_told = self.closed(),
            false => self.note_closed(self.closed()),
        }
        if self.is_sole_voter() && self.may_campaign() {
            self.campaign();
        }
    }

    // ---- events ----

    /// Takes a client's proposal. Its outcome comes by its reply, by its deadline.
    pub fn propose(&mut self, proposal: Proposal) {
        self.pending.add(proposal, self.now);
        if self.ending.leaving.is_some() {
            self.pending.stop(NotProposed::Stopping);
        }
    }

    /// Takes a linearizable read.
    pub fn read(&mut self, read: Read) {
        self.reads.add(read, self.now);
        if self.ending.leaving.is_some() {
            self.reads.stop(NotProposed::Stopping);
        }
    }

    /// A tick has passed. The caller never makes up for ticks it missed: after a stall, several at once would end
    /// the leader's heartbeats before its messages, which wait in the inbox, had a chance.
    pub fn tick(&mut self) {
        self.now += 1;
        self.draw_election_timeout();
        self.campaign_in_turn();
        if self.may_campaign() {
            if self.is_leader() || !self.is_sole_voter() {
                self.raw.tick();
            } else {
                // Nobody else could win, so there is nothing to wait for.
                self.campaign();
            }
        } else {
            // Raft would campaign by itself. But who has not heard from the leader for long shall vote for another.
            self.raw.raft.election_elapsed += 1;
        }
        let (unsent, unread) = match self.raw.raft.leader_id {
            0 => (NotProposed::NoLeader, NotProposed::NoLeader),
            _ => (NotProposed::NotTaken, NotProposed::NoQuorum),
        };
        self.expire_changes();
        self.pending.expire(self.now, unsent);
        self.reads.expire(self.now, unread);
        self.reads
            .retry_stale(self.now, 2 * self.settings.heartbeat_ticks as u64);
        // Large values need longer than that on their way through the leader and a majority's disks.
        let under_way = self.pending.held().proposal_bytes / limits::RESEND_BYTES_PER_TICK;
        let patience = (self.settings.election_ticks + under_way) as u64;
        let quiet = self.now - self.pending.last_news >= patience;
        // Of what is committed and held back nobody can say that it was lost.
        if quiet && !self.waits_for_log() && !self.is_leader() && self.pending.has_in_flight() {
            // A forward to the leader may have been dropped. A leader's own entries can't be.
            self.pending.resend_after = Some(0);
            self.pending.last_news = self.now;
        }
        if self
            .now
            .is_multiple_of(self.settings.heartbeat_ticks as u64)
        {
            self.look_after_log();
        }
    }

    /// Takes a peer's message. The transport has checked that it comes from whom it names and is meant for this one.
    pub fn step(&mut self, received: Received) {
        if self.is_empty() && !is_planted(Mutant::EmptyVotes) {
            return self.step_empty(received);
        }
        let Received { mut message, bound } = received;
        let row = self.members.members.get(&message.from);
        let standing = match (bound, row) {
            // Since it was received, the id was bound to another.
            (Some(sender), Some(row)) if row.incarnation != sender => return,
            (Some(_), Some(_)) => Standing::Bound,
            _ => Standing::Ahead,
        };
        if !self.passes(&mut message, standing) {
            return;
        }
        match message.get_msg_type() {
            // Passed on it would bear another's name: whoever sent it tries again when it hears of the new leader.
            MessageType::MsgPropose | MessageType::MsgReadIndex if !self.is_leader() => return,
            MessageType::MsgPropose if standing == Standing::Bound => {
                return self.step_proposal(message);
            }
            MessageType::MsgPropose => return,
            MessageType::MsgTransferLeader => return self.step_transfer(&message),
            MessageType::MsgTimeoutNow if !self.may_campaign() => return,
            MessageType::MsgSnapshot if self.is_from_later(message.get_snapshot(), standing) => {
                return;
            }
            MessageType::MsgSnapshot if !self.is_for_this_node(message.get_snapshot()) => {
                warn!(self.logger, "ignoring a snapshot that is not for this member"; "from" => message.from);
                return;
            }
            MessageType::MsgAppend if self.has_too_much_to_apply() => return,
            _ => {}
        }
        self.note_heard(message.from);
        self.note_lost_entries(&message);
        let read = message.get_msg_type() == MessageType::MsgReadIndex;
        let context = message.entries.first().filter(|_| read);
        let context = context.map(|entry| entry.data.clone());
        if read {
            let context = context.as_deref().unwrap_or_default();
            let is_member = self.members.members.contains_key(&message.from);
            if !is_member || !self.asked.is_new(message.from, context) {
                return;
            }
        }
        // An error here means that the message is of no use any more (its sender is no member, say).
        let _ = self.raw.step(message);
        if let Some(context) = context {
            self.ask_a_majority(&context);
        }
    }

    /// The job with this number, and all before it, are durable.
    pub fn persisted(&mut self, number: u64) {
        while let Some((_, vote)) = self.durability.jobs.pop_front_if(|(n, _)| *n <= number) {
            self.durability.vote = vote;
        }
        self.raw.on_persist_ready(number);
        self.tell_raft_what_is_applied();
    }

    /// The map holds everything up to `index`; `bytes` of entries were applied since the last call.
    pub fn applied(&mut self, index: u64, bytes: usize) {
        assert!(
            self.watermarks.applied <= index && index <= self.watermarks.published,
            "applied {index} is not in {}..={}",
            self.watermarks.applied,
            self.watermarks.published
        );
        self.watermarks.applied = index;
        self.watermarks.unapplied_bytes = self.watermarks.unapplied_bytes.saturating_sub(bytes);
        self.tell_raft_what_is_applied();
    }

    /// A snapshot from the leader may be in the map before its mark is durable, which raft-rs does not allow for.
    fn tell_raft_what_is_applied(&mut self) {
        let index = self
            .watermarks
            .applied
            .min(self.raw.raft.raft_log.persisted);
        if index > self.raw.raft.raft_log.applied {
            self.raw.advance_apply_to(index);
            self.raw.mut_store().trim(index);
        }
    }

    /// A message to this peer was lost.
    pub fn unreachable(&mut self, peer: u64) {
        self.note_unheard(peer);
        self.formation.let_in.remove(&peer);
        self.gone_while_forming(peer);
        self.raw.report_unreachable(peer);
    }

    /// Hands leadership to the voter that is closest behind, if this is the leader and there is one.
    pub fn hand_over(&mut self) {
        if !self.is_leader() || self.raw.raft.lead_transferee.is_some() {
            return;
        }
        let progress = self.raw.raft.prs();
        let voters = self.members.voters().filter(|id| *id != self.settings.id);
        let best = voters
            .filter_map(|id| progress.get(id).map(|p| (p.recent_active, p.matched, id)))
            .filter(|(active, ..)| *active)
            .max();
        if let Some((_, _, id)) = best {
            info!(self.logger, "handing leadership over"; "to" => id);
            self.raw.transfer_leader(id);
        }
    }

    /// Ends all open proposals and reads: the process stops.
    pub fn stop(&mut self) {
        self.pending.stop(NotProposed::Stopping);
        self.reads.stop(NotProposed::Stopping);
        self.membership.replies.clear();
        self.stop_transfers();
    }

    // ---- what to do ----

    /// The next piece of work, `None` when all is done.
    pub fn ready(&mut self) -> Option<Output> {
        let mut output = Output::default();
        output.messages.append(&mut self.formation.answers);
        self.send_new_snapshot();
        self.attend_members();
        if self.ending.leaving.is_none() {
            self.hand_proposals_to_raft();
            self.hand_reads_to_raft();
        }
        self.tell_commit();
        self.pursue_transfers();
        let ahead = self.is_ahead_of_the_map();
        let held_back = ahead && !is_planted(Mutant::HoldBackSkipped);
        self.raw.mut_store().hold_back(held_back);
        let mut had_ready = self.raw.has_ready();
        if had_ready {
            self.handle_ready(&mut output);
            // What raft has to publish it has until it gets it.
            had_ready = !self.waits_for_log();
        }
        self.request_log(&mut output);
        self.release_reads(&mut output);
        self.request_snapshot(&mut output);
        let last_job = self
            .durability
            .jobs
            .front()
            .map_or(u64::MAX, |(number, _)| *number);
        while let Some(news) = self
            .membership
            .news
            .pop_front_if(|news| news.after < last_job)
        {
            output.members = Some(news.members);
        }
        output.place = self.tell_place();
        output.closed = self.tell_closed();
        output.exit = self.ending.exit.take();
        (had_ready || !output.is_empty()).then_some(output)
    }

    /// The index up to which the members that were told are applied. `None`: there are later ones, which are told once
    /// they are durable.
    pub fn members_index(&self) -> Option<u64> {
        self.membership
            .news
            .is_empty()
            .then_some(self.watermarks.published)
    }

    /// The members as of what is published.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// The map of this node holds every write that anybody was told of: nobody else is a member, and so a write is told
    /// of only after it was applied here. What others may have told before they went is committed and below
    /// `current_from`. Somebody who is added can tell of a write only after this node has heard of the addition.
    pub fn map_is_current(&mut self) -> bool {
        let members = &self.members.members;
        let alone = members.len() == 1 && members.contains_key(&self.settings.id);
        if alone && self.is_leader() && self.raw.raft.commit_to_current_term() {
            let committed = self.raw.raft.raft_log.committed;
            let current_from = *self.watermarks.current_from.get_or_insert(committed);
            self.watermarks.applied >= current_from || is_planted(Mutant::MapIsCurrentTooEarly)
        } else {
            self.watermarks.current_from = None;
            false
        }
    }

    /// There is no other voter that could lead.
    pub fn is_alone(&self) -> bool {
        self.members.voters().all(|id| id == self.settings.id)
    }

    /// This node is the leader.
    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }
}

fn raft_config(settings: &NodeSettings, applied: u64) -> raft::Config {
    raft::Config {
        id: settings.id,
        election_tick: settings.election_ticks,
        heartbeat_tick: settings.heartbeat_ticks,
        applied,
        max_size_per_msg: limits::APPEND_BYTES_MAX,
        max_inflight_msgs: limits::APPENDS_IN_FLIGHT_MAX,
        check_quorum: true,
        pre_vote: true,
        read_only_option: ReadOnlyOption::Safe,
        max_uncommitted_size: limits::UNCOMMITTED_BYTES_MAX,
        max_committed_size_per_ready: limits::COMMITTED_BYTES_PER_READY_MAX,
        // See tell_commit.
        skip_bcast_commit: true,
        ..Default::default()
    }
}

fn bound_index(members: &Members, own: &NodeSettings) -> u64 {
    let row = members.members.get(&own.id);
    let row = row.filter(|row| row.incarnation == own.incarnation);
    row.map_or(0, |row| row.bound_index)
}

fn sessions_of(state: &ReplicatedState) -> BTreeMap<u64, Session> {
    let sessions = state.sessions.iter();
    sessions.map(|s| (s.member, s.clone())).collect()
}

fn sorted(mut state: raft::eraftpb::ConfState) -> raft::eraftpb::ConfState {
    state.mut_voters().sort_unstable();
    state.mut_learners().sort_unstable();
    state
}
