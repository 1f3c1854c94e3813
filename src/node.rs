//! The node: drives raft-rs's `RawNode` by the Ready protocol and keeps what belongs to it: proposals and reads whose
//! outcome is open, sessions, members.
//!
//! It stands between the raft loop, which feeds it events, and everything else, which gets its [`Output`]. It does no
//! waiting: time is [`Node::tick`], durability is [`Node::persisted`], the disk and the network are values it
//! returns. The daemon and a simulator drive the very same code.
//!
//! The protocol of one ready (raft 0.7.0; the caller repeats [`Node::ready`] until it gives nothing):
//! 1. messages of a leader go out at once, beside its own fsync (thesis 10.2.1); promises (votes, append responses)
//!    wait in the [`Job`] until the ready *and all before it* are durable, or a crash could break them;
//! 2. entries and snapshot enter the in-memory log, since raft reads them back from there;
//! 3. the job goes to the WAL, the ready is advanced, and committed entries are published in log order.
//!
//! Replicated state beside the map (members, sessions) changes at publication and nowhere else: so each command's fate
//! (stale, refused, to be applied) is decided before it reaches the store, alike on every node.
//!
//! Invariants, asserted: `snapshot <= applied <= published <= committed <= last`; every entry is published once, in
//! order; raft's configuration equals `members`.

mod behind;
mod elections;
mod pending;
mod propose;
mod publish;
mod reads;
mod ready;
#[cfg(test)]
mod tests;
mod traffic;
mod transfer;

use crate::command::{Command, Kind, ReplicatedState};
use crate::commit::Commit;
use crate::config;
use crate::inbox::{Held, Reason, SnapshotWritten, Verdict};
use crate::members::Members;
use crate::mutants::{Mutant, is_planted};
use crate::proposal::{NotProposed, Outcome, Proposal, Read, Reply};
use crate::status::{MemberStatus, Position, Progress, Status};
use crate::storage::log::Log;
use crate::storage::read_back::Request;
use crate::storage::{Mark, Recovered, Save};
use behind::Behind;
use elections::{Haste, Reached};
use pending::Pending;
use raft::eraftpb::{HardState, Message, MessageType};
use raft::{RawNode, ReadOnlyOption, SnapshotStatus, StateRole};
use reads::Reads;
use ready::is_consistent;
use slog::{Logger, info, o, warn};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// What a node is made with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This member.
    pub id: u64,
    /// Grows with every start of the process; durable before the node is made.
    pub boot: u64,
    /// Ticks of an election timeout.
    pub election_ticks: usize,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// See [`config::Config::snapshot_bytes`].
    pub snapshot_bytes: u64,
    /// See [`config::Config::log_cache_bytes`].
    pub log_cache_bytes: u64,
    /// See [`config::PINNED_LOG_BYTES_MAX`].
    pub pinned_log_bytes: u64,
    /// Election timeouts are drawn from it: another one on every member, or their elections would go on colliding.
    pub seed: u64,
}

/// What a call of [`Node::ready`] asks the caller to do, in the order of the fields.
#[derive(Debug, Default)]
pub struct Output {
    /// To send now.
    pub messages: Vec<Message>,
    /// To make durable.
    pub job: Option<Job>,
    /// To hand to the store.
    pub commits: Vec<Commit>,
    /// To read back from the WAL, for [`Node::read_back`].
    pub read_backs: Vec<Request>,
    /// The members changed, and the change is durable where that matters.
    pub members: Option<Arc<Members>>,
    /// The leader changed; 0 for none.
    pub leader: Option<u64>,
    /// The process has to end. Told once; until it does, the node goes on.
    pub exit: Option<Exit>,
}

impl Output {
    /// There is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
            && self.job.is_none()
            && self.commits.is_empty()
            && self.read_backs.is_empty()
            && self.members.is_none()
            && self.leader.is_none()
            && self.exit.is_none()
    }
}

/// Work for the WAL.
#[derive(Debug)]
pub struct Job {
    /// Passed to [`Node::persisted`] once this job and all before it are durable.
    pub number: u64,
    /// What to write.
    pub save: Save,
    /// To send once it is durable.
    pub messages: Vec<Message>,
    /// All before it are durable, and as the leader this node waits for no answer to an entry before it.
    pub is_lone: bool,
    /// Up to this index the node will not want to read entries back.
    pub compacted: u64,
}

/// Why a node has to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// It is not a member any more, by the entry at this index, and a member that knows it said so.
    Removed {
        /// Index of the removing entry.
        index: u64,
    },
    /// Its data directory is not the one its peers know for this id.
    Wiped {
        /// The peer that says so.
        by: u64,
    },
    /// It is started as a first member, but this id was added to a running cluster.
    NeedsJoin {
        /// The peer that says so.
        by: u64,
    },
    /// The leader knows of entries on this node's disk that are not there: it runs on an old or damaged copy.
    LostLog {
        /// What the leader holds to be committed here.
        committed: u64,
        /// What is here.
        last: u64,
    },
}

/// A change of members, which may be told only once a ready is durable.
struct MembersNews {
    /// The ready; 0 when it may be told at once.
    after: u64,
    members: Arc<Members>,
}

/// A raft member. See the module's documentation.
pub struct Node {
    settings: Settings,
    raw: RawNode<Log>,
    logger: Logger,
    now: u64,
    members: Members,
    sessions: BTreeMap<u64, (u64, u64)>,
    pending: Pending,
    reads: Reads,
    /// Resend what is in flight, from the first whose sequence is above this.
    resend_after: Option<u64>,
    /// Raft took no proposal at this tick and with this index published.
    blocked: Option<(u64, u64)>,
    last_news: u64,
    published: u64,
    applied: u64,
    unapplied_bytes: usize,
    /// Term and leader as of the last ready, and the role.
    leadership: (u64, u64),
    role: StateRole,
    /// The newest term in which this node knows that reads are answered.
    readable_term: u64,
    reached: Reached,
    haste: Option<Haste>,
    /// Index of a conf change that this leader proposed and that is not published.
    conf_change_in_flight: u64,
    last_ready: u64,
    /// The commit index that the followers were told when nothing was under way any more.
    commit_told: u64,
    /// Peers that have spoken, the latest first.
    heard: Vec<u64>,
    hard_state: HardState,
    /// A commit index that no job carries yet: it waits for the next one that has to be written.
    commit_unsaved: bool,
    /// Numbers of jobs that are not durable, each with the term and vote it makes so.
    jobs: VecDeque<(u64, (u64, u64))>,
    durable_vote: (u64, u64),
    members_news: VecDeque<MembersNews>,
    /// Of removals that are not settled, with their indexes.
    removal_replies: Vec<(u64, Reply)>,
    snapshot_under_way: bool,
    log_bytes_since_snapshot: u64,
    last_snapshot_bytes: u64,
    behind: Behind,
    own_added_index: u64,
    /// The own removal was published: nothing is proposed any more, and raft goes on in the old configuration until
    /// a member says that the removal is settled.
    leaving: Option<u64>,
    /// Index up to which the map has to reach before [`Node::map_is_current`], while this node is alone.
    current_from: Option<u64>,
    /// Since when, and by whom, a joiner has been told that it is not who it claims to be.
    suspicion: Option<(u64, u64)>,
    /// A joiner has said that it waits to be added.
    waiting_told: bool,
    /// Not told yet.
    exit: Option<Exit>,
    exit_told: bool,
    /// Of clients who want another leader.
    transfers: Vec<transfer::Open>,
    /// The number of the last question that one of them made.
    transfers_asked: u64,
}

impl Node {
    /// A node from what storage recovered. The store must already hold the recovered snapshot.
    pub fn new(
        settings: Settings,
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
        let raft_config = raft::Config {
            id: settings.id,
            election_tick: settings.election_ticks,
            heartbeat_tick: settings.heartbeat_ticks,
            applied: published,
            max_size_per_msg: config::APPEND_BYTES_MAX,
            max_inflight_msgs: config::APPENDS_IN_FLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            max_uncommitted_size: config::UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: config::COMMITTED_BYTES_PER_READY_MAX,
            // See tell_commit.
            skip_bcast_commit: true,
            ..Default::default()
        };
        let log = Log::new(recovered, settings.log_cache_bytes);
        let raw = RawNode::new(&raft_config, log, raft_logger)
            .map_err(|error| format!("raft can't start: {error}"))?;
        let mut node = Node {
            pending: Pending::new(settings.id, settings.boot),
            reads: Reads::new(settings.id, settings.boot),
            logger: logger.new(o!()),
            raw,
            now: 0,
            own_added_index: added_index(&members, settings.id),
            members,
            sessions,
            resend_after: None,
            blocked: None,
            last_news: 0,
            published,
            applied: published,
            unapplied_bytes: 0,
            leadership: (hard_state.term, 0),
            role: StateRole::Follower,
            readable_term: 0,
            reached: Some(BTreeSet::new()),
            haste: None,
            conf_change_in_flight: 0,
            last_ready: 0,
            commit_told: published,
            heard: Vec::new(),
            durable_vote: (hard_state.term, hard_state.vote),
            hard_state,
            commit_unsaved: false,
            jobs: VecDeque::new(),
            members_news: VecDeque::new(),
            removal_replies: Vec::new(),
            snapshot_under_way: false,
            log_bytes_since_snapshot: 0,
            last_snapshot_bytes,
            behind: Behind::default(),
            leaving: None,
            current_from: None,
            suspicion: None,
            waiting_told: false,
            exit: None,
            exit_told: false,
            transfers: Vec::new(),
            // No number comes again in the next life: an answer may be on its way for long.
            transfers_asked: settings.boot << 32,
            settings,
        };
        node.members_changed();
        if node.is_sole_voter() && node.may_campaign() {
            node.campaign();
        }
        Ok(node)
    }

    // ---- events ----

    /// Takes a client's proposal. Its outcome comes by its reply, by its deadline.
    pub fn propose(&mut self, proposal: Proposal) {
        self.pending.add(proposal, self.now);
        if self.leaving.is_some() {
            self.pending.stop(NotProposed::Stopping);
        }
    }

    /// Takes a linearizable read.
    pub fn read(&mut self, read: Read) {
        self.reads.add(read, self.now);
        if self.leaving.is_some() {
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
        self.pending.expire(self.now, unsent);
        self.reads.expire(self.now, unread);
        self.reads
            .retry_stale(self.now, 2 * self.settings.heartbeat_ticks as u64);
        // Large values need longer than that on their way through the leader and a majority's disks.
        let under_way = self.pending.held().proposal_bytes / config::RESEND_BYTES_PER_TICK;
        let patience = (self.settings.election_ticks + under_way) as u64;
        let quiet = self.now - self.last_news >= patience;
        // Of what is committed and held back nobody can say that it was lost.
        if quiet && !self.waits_for_log() && !self.is_leader() && self.pending.has_in_flight() {
            // A forward to the leader may have been dropped. A leader's own entries can't be.
            self.resend_after = Some(0);
            self.last_news = self.now;
        }
        if self
            .now
            .is_multiple_of(self.settings.heartbeat_ticks as u64)
        {
            if self.is_leader() {
                self.promote_learners();
                self.settle_removal();
            }
            self.look_after_log();
        }
    }

    /// Takes a peer's message. The transport has checked that it comes from a member and is meant for this one.
    pub fn step(&mut self, message: Message) {
        let raft = &self.raw.raft;
        match message.get_msg_type() {
            // Passed on it would bear another's name: whoever sent it tries again when it hears of the new leader.
            MessageType::MsgPropose | MessageType::MsgReadIndex if !self.is_leader() => return,
            MessageType::MsgPropose => return self.step_proposal(message),
            MessageType::MsgTransferLeader => return self.step_transfer(&message),
            MessageType::MsgTimeoutNow if !self.may_campaign() => return,
            MessageType::MsgSnapshot if !is_consistent(message.get_snapshot()) => {
                warn!(self.logger, "ignoring a snapshot whose members make no sense"; "from" => message.from);
                return;
            }
            MessageType::MsgHeartbeat => {
                let last = raft.raft_log.last_index();
                if message.term >= raft.term && message.commit > last {
                    // raft-rs would panic: the leader remembers an acknowledgement of this node that it does not.
                    let committed = message.commit;
                    self.end(Exit::LostLog { committed, last });
                    return;
                }
                self.suspicion = None;
            }
            MessageType::MsgAppend if self.has_too_much_to_apply() => return,
            _ => {}
        }
        self.note_heard(message.from);
        let read = message.get_msg_type() == MessageType::MsgReadIndex;
        let context = message.entries.first().filter(|_| read);
        let context = context.map(|entry| entry.data.clone());
        // An error here means that the message is of no use any more (its sender is no member, say).
        let _ = self.raw.step(message);
        if let Some(context) = context {
            self.ask_a_majority(&context);
        }
    }

    /// The job with this number, and all before it, are durable.
    pub fn persisted(&mut self, number: u64) {
        while let Some((_, vote)) = self.jobs.pop_front_if(|(n, _)| *n <= number) {
            self.durable_vote = vote;
        }
        self.raw.on_persist_ready(number);
        self.tell_raft_what_is_applied();
    }

    /// The map holds everything up to `index`; `bytes` of entries were applied since the last call.
    pub fn applied(&mut self, index: u64, bytes: usize) {
        assert!(
            self.applied <= index && index <= self.published,
            "applied {index} is not in {}..={}",
            self.applied,
            self.published
        );
        self.applied = index;
        self.unapplied_bytes = self.unapplied_bytes.saturating_sub(bytes);
        self.tell_raft_what_is_applied();
    }

    /// A snapshot from the leader may be in the map before its mark is durable, which raft-rs does not allow for.
    fn tell_raft_what_is_applied(&mut self) {
        let index = self.applied.min(self.raw.raft.raft_log.persisted);
        if index > self.raw.raft.raft_log.applied {
            self.raw.advance_apply_to(index);
            self.raw.mut_store().trim(index);
        }
    }

    /// A snapshot that a [`Commit::Snapshot`] asked for is durable in its file. Returns the job that makes a restart
    /// begin there.
    pub fn snapshot_written(&mut self, written: SnapshotWritten) -> Option<Job> {
        self.snapshot_under_way = false;
        let SnapshotWritten { meta, bytes } = written;
        if meta.index <= self.raw.store().snapshot_index() {
            // One from the leader, installed meanwhile, is newer.
            return None;
        }
        self.last_snapshot_bytes = bytes;
        // Raft still reads entries above what it takes for applied: they must not go.
        assert!(
            meta.index <= self.applied && self.applied <= self.hard_state.commit,
            "snapshot {}, applied {}, committed {}",
            meta.index,
            self.applied,
            self.hard_state.commit
        );
        let mark = Mark {
            index: meta.index,
            term: meta.term,
            hard_state: self.hard_state.clone(),
            installed: false,
        };
        let pinned = self.pinned();
        self.raw.mut_store().compact(meta, pinned);
        let save = Save {
            mark: Some(mark),
            sync: true,
            ..Default::default()
        };
        Some(self.job(self.last_ready, save, Vec::new()))
    }

    /// A message to this peer was lost.
    pub fn unreachable(&mut self, peer: u64) {
        self.note_unheard(peer);
        self.raw.report_unreachable(peer);
    }

    /// The transfer of a snapshot has ended.
    pub fn snapshot_sent(&mut self, to: u64, ok: bool) {
        if !ok {
            self.transfer_failed(to);
        }
        let status = match ok {
            true => SnapshotStatus::Finish,
            false => SnapshotStatus::Failure,
        };
        self.raw.report_snapshot(to, status);
    }

    /// A peer refuses this member. It counts only when the peer's view of this member is not older than its own: a
    /// peer that lags may not know yet that this id was removed and added again.
    pub fn refused(&mut self, verdict: Verdict) {
        let own = self.own_added_index;
        let by = verdict.by;
        // What a first start or a restore makes is of term 1, and the first leader's entries are of a later one.
        let never_led = self.raw.raft.raft_log.last_term() <= 1;
        let exit = match verdict.reason {
            Reason::Removed { removed_index } if own > 0 && removed_index > own => Exit::Removed {
                index: removed_index,
            },
            Reason::WrongIncarnation { .. } if never_led && own > 0 => Exit::Wiped { by },
            Reason::WrongIncarnation { .. } if never_led && verdict.by_leader => {
                // A joiner has no view of its own to compare with, and who calls itself the leader may just have
                // been replaced. So the same word has to come again, with nothing from a leader in between.
                let patience = 2 * self.settings.election_ticks as u64;
                let (since, suspect) = *self.suspicion.get_or_insert((self.now, by));
                if suspect != by {
                    self.suspicion = Some((self.now, by));
                    return;
                }
                if self.now - since < patience {
                    return;
                }
                Exit::Wiped { by }
            }
            Reason::NotAMember | Reason::Removed { .. } if own == 0 => {
                if !std::mem::replace(&mut self.waiting_told, true) {
                    info!(self.logger, "waiting to be added: POST /{} to any member", self.settings.id; "by" => by);
                }
                return;
            }
            Reason::AddedLater { added_index } if own > 0 && added_index > own => match never_led {
                true => Exit::NeedsJoin { by },
                false => Exit::Removed { index: added_index },
            },
            _ => return,
        };
        if let Exit::Removed { .. } = exit {
            let id = self.settings.id;
            let own_removal = |c: &Command| c.kind == Kind::RemoveMember && c.member_id == id;
            let index = self.published;
            self.pending
                .resolve_where(own_removal, Outcome::Applied { index });
            for (index, reply) in self.removal_replies.drain(..) {
                publish::answer(Some(reply), Outcome::Applied { index });
            }
        }
        self.end(exit);
    }

    fn end(&mut self, exit: Exit) {
        if !std::mem::replace(&mut self.exit_told, true) {
            self.exit = Some(exit);
        }
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
        self.removal_replies.clear();
        self.stop_transfers();
    }

    // ---- what to do ----

    /// The next piece of work, `None` when all is done.
    pub fn ready(&mut self) -> Option<Output> {
        let mut output = Output::default();
        if self.leaving.is_none() {
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
        let last_job = self.jobs.front().map_or(u64::MAX, |(number, _)| *number);
        while let Some(news) = self.members_news.pop_front_if(|news| news.after < last_job) {
            output.members = Some(news.members);
        }
        output.exit = self.exit.take();
        (had_ready || !output.is_empty()).then_some(output)
    }

    /// What this node holds of clients' requests.
    pub fn held(&self) -> Held {
        Held {
            reads: self.reads.held(),
            writing: self.is_leader() && !self.jobs.is_empty(),
            reading: self.reads.is_asking(),
            ahead: self.is_ahead_of_the_map(),
            ..self.pending.held()
        }
    }

    /// How things stand. The cluster id and what the WAL wrote are for the caller to fill in.
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let position = self.position();
        let learner = self
            .members
            .members
            .get(&self.settings.id)
            .map(|m| m.learner);
        let members = self.members.members.iter().map(|(id, member)| {
            let known = raft.prs().get(*id).filter(|_| self.is_leader());
            let own = *id == self.settings.id;
            MemberStatus {
                id: *id,
                url: member.url.clone(),
                learner: member.learner,
                progress: known.map(|p| Progress {
                    matched: p.matched,
                    active: p.recent_active || own,
                }),
            }
        });
        Status {
            id: self.settings.id,
            cluster: 0,
            role: match (raft.state, learner) {
                (_, None) => "joining",
                (_, Some(true)) => "learner",
                (StateRole::Leader, _) => "leader",
                (StateRole::Follower, _) => "follower",
                (StateRole::Candidate | StateRole::PreCandidate, _) => "candidate",
            },
            leader: position.leader,
            term: position.term,
            committed: position.committed,
            last: position.last,
            applied: position.applied,
            snapshot: position.snapshot,
            wal_syncs: 0,
            wal_bytes: 0,
            members: members.collect(),
        }
    }

    /// How far this node has come: of [`Node::status`] what costs nothing.
    pub fn position(&self) -> Position {
        let raft = &self.raw.raft;
        Position {
            term: raft.term,
            leader: raft.leader_id,
            last: raft.raft_log.last_index(),
            committed: raft.raft_log.committed,
            applied: self.applied,
            snapshot: self.raw.store().snapshot_index(),
        }
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
            let current_from = *self.current_from.get_or_insert(committed);
            self.applied >= current_from || is_planted(Mutant::MapIsCurrentTooEarly)
        } else {
            self.current_from = None;
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

fn added_index(members: &Members, id: u64) -> u64 {
    members.members.get(&id).map_or(0, |m| m.added_index)
}

fn sessions_of(state: &ReplicatedState) -> BTreeMap<u64, (u64, u64)> {
    let sessions = state.sessions.iter();
    sessions.map(|s| (s.member, (s.boot, s.sequence))).collect()
}

fn sorted(mut state: raft::eraftpb::ConfState) -> raft::eraftpb::ConfState {
    state.mut_voters().sort_unstable();
    state.mut_learners().sort_unstable();
    state
}

fn role_name(role: StateRole) -> &'static str {
    match role {
        StateRole::Leader => "leader",
        StateRole::Follower => "follower",
        StateRole::Candidate => "candidate",
        StateRole::PreCandidate => "pre-candidate",
    }
}
