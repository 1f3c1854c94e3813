//! The node: drives raft-rs's `RawNode` and keeps the state beside raft: open proposals, open reads, sessions, members.
//!
//! The raft loop feeds events to the node and carries out the [`Output`] that the node returns. The node never blocks.
//! It learns of time through [`Node::tick`] and of durability through [`Node::persisted`], and it returns what to write
//! and what to send as values. The daemon and the simulation drive the same code.
//!
//! How one ready is handled (raft 0.7.0; the caller repeats [`Node::ready`] until it returns `None`):
//! 1. Messages of a leader go out at once, in parallel with the leader's own fsync (Raft thesis, 10.2.1). Votes and
//!    append responses are promises: they wait in the [`Job`] until this ready *and all readies before it* are durable.
//!    Sent earlier, they would become false if this node crashed.
//! 2. Entries and the snapshot enter the in-memory log, because raft reads them back from there.
//! 3. The job goes to the WAL, the ready is advanced, and committed entries are published in log order.
//!
//! The replicated state beside the map (members, sessions) changes in two places only: at publication, and when a
//! snapshot from the leader replaces it. So all nodes agree, before a command reaches the store, whether the command is
//! stale, refused, or applied.
//!
//! The caller's duties:
//! 1. Feed the events that have arrived, then call [`Node::ready`] until it returns `None`. Feed [`Node::persisted`]
//!    before messages: an incoming vote may answer a request that was sent as soon as a job became durable.
//! 2. Carry out an [`Output`] in the order of its fields.
//! 3. Make jobs durable in the order of their numbers, then send their messages, then call [`Node::persisted`]. If a
//!    job can't be made durable, end the process.
//! 4. Hand commits to the store in order, and report progress through [`Node::applied`].
//! 5. Answer each read-back request through [`Node::read_back`], and end the process on an [`Exit`].
//! 6. Call [`Node::tick`] once a tick, and do not make up for missed ticks.
//! 7. Report the room of the log through [`Node::set_log_room`] before each pass.
//!
//! Invariants, asserted:
//! - `applied <= published <= committed <= last`, and `snapshot <= applied` unless a snapshot from the leader is being
//!   loaded;
//! - every entry is published once, in log order;
//! - raft's configuration equals `members`.

mod catch_up;
mod checks;
mod elections;
mod exit;
mod extents;
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
mod places;
mod publish;
mod reads;
mod ready;
mod revocation;
mod room;
mod snapshots;
mod status;
#[cfg(test)]
mod tests;
mod waiting;
mod writes;

pub use exit::Exit;
pub use output::{Job, NodeSettings, Output};

use crate::channels::notice::Received;
use crate::command::outcome::NotProposed;
use crate::command::proposal::{Proposal, Read};
use crate::command::{Kind, ReplicatedState, Session};
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
use extents::Extents;
use formation::Formation;
use leadership_transfer::Transfers;
use membership::Membership;
use pending::Pending;
use places::Displaced;
use publish::Watermarks;
use raft::eraftpb::MessageType;
use raft::{RawNode, ReadOnlyOption, StateRole};
use reads::{AskedContexts, Reads};
use ready::Durability;
use room::Room;
use slog::{Logger, info, o, warn};
use snapshots::SnapshotPolicy;
use std::collections::BTreeMap;
use waiting::Wait;

/// A raft member. See the module's documentation.
///
/// State that several topics need is stored here directly. Every other field is the state of one topic, and the file of
/// that topic states the invariants.
pub struct Node {
    settings: NodeSettings,
    raw: RawNode<Log>,
    logger: Logger,
    /// Ticks since the process started.
    now: u64,
    /// The members as of `watermarks.published`.
    members: Members,
    /// The newest published proposal of each member.
    sessions: BTreeMap<u64, Session>,
    watermarks: Watermarks,
    /// The last index of the log that this start found on its disk.
    found_last: u64,
    durability: Durability,
    room: Room,
    pending: Pending,
    reads: Reads,
    asked: AskedContexts,
    leadership: Leadership,
    transfers: Transfers,
    membership: Membership,
    /// Set while the table has another place of this member than its operator has given.
    displaced: Option<Displaced>,
    formation: Formation,
    evidence: Evidence,
    snapshots: SnapshotPolicy,
    catch_up: CatchUp,
    wait: Wait,
    extents: Extents,
    ending: Ending,
}

impl Node {
    /// Creates a node from what storage recovered. The store must already hold the recovered snapshot.
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
            found_last: raw.raft.raft_log.last_index(),
            room: Room::default(),
            pending: Pending::new(settings.batch()),
            reads: Reads::new(settings.id, settings.run),
            asked: AskedContexts::default(),
            leadership: Leadership::new(hard_state.term, published),
            transfers: Transfers::new(settings.boot),
            membership: Membership::new(bound_index(&members, &settings)),
            displaced: None,
            formation: Formation {
                is_new: published == 1,
                ..Formation::default()
            },
            evidence: Evidence::default(),
            snapshots: SnapshotPolicy::new(last_snapshot_bytes),
            catch_up: CatchUp::default(),
            wait: Wait::default(),
            extents: Extents::default(),
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

    /// The first actions of a node, before any event arrives.
    fn begin(&mut self) {
        self.members_changed();
        self.check_own_session();
        // The caller reads `closed()` before it serves clients, so this first state counts as reported. With log left
        // to replay the state may be out of date, so it is not logged.
        match self.raw.raft.raft_log.committed > self.watermarks.published {
            true => self.formation.closed_told = self.closed(),
            false => self.note_closed(self.closed()),
        }
        if self.is_sole_voter() && self.may_campaign() {
            self.campaign();
        }
    }

    // ---- events ----

    /// Takes a client's proposal. The outcome is sent through the proposal's reply channel, by its deadline.
    pub fn propose(&mut self, mut proposal: Proposal) {
        if proposal.command.kind == Kind::AddMember {
            // For `is_outdated_addition`.
            proposal.command.member_added_index = self.watermarks.published;
        }
        self.pending.add(proposal, self.now);
        if self.ending.leaving.is_some() || self.ending.takes_nothing {
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

    /// One tick has passed. The caller must not make up for missed ticks. After a stall, the leader's messages wait in
    /// the inbox, and several ticks at once would time the leader out before they are processed.
    pub fn tick(&mut self) {
        self.now += 1;
        self.draw_election_timeout();
        self.campaign_in_turn();
        self.note_crowded();
        // Each attempt of a candidate adds a promise, and so a job.
        let is_hanging_candidate = self.is_crowded() && !self.is_leader();
        if self.may_campaign() && !is_hanging_candidate {
            if self.is_leader() || !self.is_sole_voter() {
                self.raw.tick();
            } else {
                // No other member could win, so there is no reason to wait.
                self.campaign();
            }
        } else {
            // `raw.tick()` would campaign. But the timeout still has to count up: a node that has not heard from the
            // leader for long must be free to vote for another candidate.
            self.raw.raft.election_elapsed += 1;
        }
        let (unsent, unread) = match self.raw.raft.leader_id {
            0 => (NotProposed::NoLeader, NotProposed::NoLeader),
            _ => (NotProposed::NotTaken, NotProposed::NoQuorum),
        };
        self.hand_over_if_stuck();
        self.expire_changes();
        self.ask_to_be_moved();
        self.pending.expire(self.now, unsent);
        self.reads.expire(self.now, unread);
        self.reads
            .retry_stale(self.now, 2 * self.settings.heartbeat_ticks as u64);
        // Large values take longer to pass through the leader and the disks of a majority.
        let under_way = self.pending.held().proposal_bytes / limits::RESEND_BYTES_PER_TICK;
        let patience = (self.settings.election_ticks + under_way) as u64;
        let quiet = self.now - self.pending.last_news >= patience;
        // A committed entry that is held back is not lost, so resending is pointless.
        if quiet && !self.waits_for_log() && !self.is_leader() && self.pending.has_in_flight() {
            // The forward to the leader may have been dropped. A leader's own entries are never dropped.
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

    /// Takes a peer's message. The transport has checked that the sender is the member that the message names, and that
    /// the message is for this member.
    pub fn step(&mut self, received: Received) {
        if self.is_empty() && !is_planted(Mutant::EmptyVotes) {
            return self.step_empty(received);
        }
        let Received { mut message, bound } = received;
        let row = self.members.members.get(&message.from);
        let standing = match (bound, row) {
            // The id was bound to another incarnation after the transport received the message.
            (Some(sender), Some(row)) if row.incarnation != sender => return,
            (Some(_), Some(_)) => Standing::Bound,
            _ => Standing::Ahead,
        };
        if !self.passes(&mut message, standing) {
            return;
        }
        if self.is_crowded() && self.adds_a_job(&message) {
            return;
        }
        match message.get_msg_type() {
            // Do not forward the message again: this node would become its sender. The original sender tries again at
            // the new leader.
            MessageType::MsgPropose | MessageType::MsgReadIndex if !self.is_leader() => return,
            MessageType::MsgPropose if standing == Standing::Bound => {
                return self.step_proposal(message);
            }
            MessageType::MsgPropose => return,
            MessageType::MsgTransferLeader => return self.step_transfer(&message),
            // From a sender that can't be judged: raft panics if the sole voter campaigns before its log is durable.
            MessageType::MsgTimeoutNow if standing != Standing::Bound || !self.may_campaign() => {
                return;
            }
            MessageType::MsgSnapshot if self.is_from_later(message.get_snapshot(), standing) => {
                return;
            }
            MessageType::MsgSnapshot if !self.is_for_this_node(message.get_snapshot()) => {
                warn!(self.logger, "ignoring a snapshot that is not for this member"; "member" => message.from);
                return;
            }
            MessageType::MsgAppend if self.has_too_much_to_apply() => return,
            MessageType::MsgAppend => self.cut_to_room(&mut message),
            _ => {}
        }
        self.hear_extents(&mut message);
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
        // An error means that the message is useless now, for example because its sender is no longer a member.
        let _ = self.raw.step(message);
        if let Some(context) = context {
            self.ask_a_majority(&context);
        }
    }

    /// The job with this number and all jobs before it are durable.
    pub fn persisted(&mut self, number: u64) {
        while let Some((_, vote)) = self.durability.jobs.pop_front_if(|(n, _)| *n <= number) {
            self.durability.vote = vote;
        }
        self.raw.on_persist_ready(number);
        self.tell_raft_what_is_applied();
    }

    /// The map holds everything up to `index`. `bytes` is the size of the entries applied since the last call.
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

    /// Advances raft's applied index, but not beyond raft's persisted index: a snapshot from the leader may be in the
    /// map before its mark is durable, and raft-rs does not expect that.
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

    /// Hands leadership to the most up-to-date active voter, if this node leads and there is such a voter.
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
            info!(self.logger, "handing leadership over"; "member" => id);
            self.raw.transfer_leader(id);
        }
    }

    /// Ends all open proposals and reads, because the process stops.
    pub fn stop(&mut self) {
        self.pending.stop(NotProposed::Stopping);
        self.reads.stop(NotProposed::Stopping);
        self.membership.replies.clear();
        self.stop_transfers();
    }

    // ---- what the caller has to do ----

    /// The next piece of work, or `None` when nothing is left to do.
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
            // Raft keeps reporting a ready for entries that it can't get yet. Counting it would make the caller loop.
            had_ready = !self.waits_for_log();
        }
        self.room.settle();
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
        output.waiting = self.tell_waiting();
        output.exit = self.ending.exit.take();
        (had_ready || !output.is_empty()).then_some(output)
    }

    /// The index up to which the members that were last handed out are valid. `None`: newer members exist, and are
    /// handed out once they are durable.
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

    /// Whether the map of this node holds every acknowledged write, so that a read needs no read-index round.
    ///
    /// This holds only while this node is the only member, because then every write is applied here before it is
    /// acknowledged. Writes that former members may have acknowledged are committed, at or below `current_from`. A
    /// member that is added can acknowledge a write only after this node has published the addition.
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

    /// Whether no other member is a voter.
    pub fn is_alone(&self) -> bool {
        self.members.voters().all(|id| id == self.settings.id)
    }

    /// Whether raft has elected this node, in its current term.
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
