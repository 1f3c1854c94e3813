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

mod catch_up;
mod checks;
mod elections;
mod fewer_messages;
mod formation;
mod identity;
#[cfg(feature = "later")]
mod later;
mod leadership_transfer;
pub mod log;
mod membership;
mod pending;
mod publish;
mod reads;
mod ready;
#[cfg(test)]
mod tests;
mod writes;

use crate::channels::commit::Commit;
use crate::channels::inbox::Held;
use crate::channels::notice::{Met, Received, SnapshotWritten};
use crate::channels::status::{Closed, MemberStatus, Position, Progress, Status};
use crate::command::outcome::NotProposed;
use crate::command::proposal::{Proposal, Read, Reply};
use crate::command::version::Later;
use crate::command::{Batch, ReplicatedState, Session};
use crate::limits;
use crate::members::Members;
use crate::mutants::{Mutant, is_planted};
use crate::node::log::Log;
use crate::peer_url::PeerUrl;
use crate::storage::wal::read_back::Request;
use crate::storage::{Mark, Recovered, Save};
use catch_up::Behind;
use checks::Evidence;
use elections::{Haste, Reached};
use pending::Pending;
use raft::eraftpb::{HardState, Message, MessageType};
use raft::{RawNode, ReadOnlyOption, SnapshotStatus, StateRole};
use reads::{Asked, Reads};
use slog::{Logger, info, o, warn};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// What a node is made with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This member.
    pub id: u64,
    /// The random number of its data directory.
    pub incarnation: u64,
    /// Grows with every start of the process; durable before the node is made.
    pub boot: u64,
    /// A random number of this start. A copy of the data directory may use the same boot number.
    pub run: u64,
    /// Where its peers reach it. `None`: where the members say.
    pub url: Option<PeerUrl>,
    /// The first members of the cluster, if this member was started as one of several.
    pub list: BTreeMap<u64, PeerUrl>,
    /// Ticks of an election timeout.
    pub election_ticks: usize,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// See [`crate::config::Tuning::snapshot_bytes`].
    pub snapshot_bytes: u64,
    /// See [`crate::config::Tuning::log_cache_bytes`].
    pub log_cache_bytes: u64,
    /// See [`limits::PINNED_LOG_BYTES_MAX`].
    pub pinned_log_bytes: u64,
    /// Election timeouts are drawn from it: another one on every member, or their elections would go on colliding.
    pub seed: u64,
}

impl Settings {
    /// A batch without commands, with whose it is.
    fn batch(&self) -> Batch {
        let mut batch = Batch::new();
        batch.member = self.id;
        batch.incarnation = self.incarnation;
        batch.boot = self.boot;
        batch.run = self.run;
        batch
    }
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
    /// Where the members say that this one is reached, once all is applied that was committed before its start, and then
    /// whenever it changes: its next start goes by that.
    pub place: Option<PeerUrl>,
    /// The leader changed; 0 for none.
    pub leader: Option<u64>,
    /// Whether clients are served has changed, or why not.
    pub closed: Option<Option<Arc<Closed>>>,
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
            && self.place.is_none()
            && self.leader.is_none()
            && self.closed.is_none()
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
    /// Its id and peer URL are bound to another data directory.
    Replaced {
        /// The peer that says so.
        by: u64,
    },
    /// Its directory is from before it was let in, and it has been a voter since.
    StateLost {
        /// The peer that says so.
        by: u64,
    },
    /// Another process runs with its incarnation, and was there first.
    Twice {
        /// The peer that says so.
        by: u64,
    },
    /// Its cluster knows of a later start of this member than its directory does: it runs on an older copy.
    OlderCopy {
        /// The cluster knew that before it knew this start. Otherwise the later one is that of a copy which was made
        /// meanwhile, and which may have less.
        proven: bool,
        /// The number of this start.
        boot: u64,
        /// The number of the start that the cluster knows.
        known: u64,
    },
    /// The leader knows of entries on this node's disk that are not there: an older copy, or a lost tail.
    LostTail {
        /// The leader.
        by: u64,
        /// What the leader holds to be committed here.
        committed: u64,
        /// What is here.
        last: u64,
    },
    /// The logs of two members differ at an index that one of them knows to be committed.
    PartedLog {
        /// The other member.
        by: u64,
        /// The index.
        index: u64,
    },
    /// Only a later version knows what it is sent. Nothing of that was applied, and nothing behind it.
    Later {
        /// An entry, or a snapshot.
        what: &'static str,
        /// Its index.
        index: u64,
        /// What it needs.
        later: Later,
    },
    /// Two members have led in one term.
    TwoLeaders {
        /// The term.
        term: u64,
        /// The leader that was known.
        known: u64,
        /// The other.
        other: u64,
        /// The last index of the own log.
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
    sessions: BTreeMap<u64, Session>,
    pending: Pending,
    reads: Reads,
    asked: Asked,
    /// Resend what is in flight, from the first whose sequence is above this.
    resend_after: Option<u64>,
    /// Raft took no proposal at this tick and with this index published.
    blocked: Option<(u64, u64)>,
    last_news: u64,
    published: u64,
    /// What comes next only a later version knows, so nothing more is published.
    halted: bool,
    #[cfg(feature = "later")]
    later_published: bool,
    applied: u64,
    unapplied_bytes: usize,
    /// Index of the snapshot with which this node ceased to be empty, in this start.
    first_state: u64,
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
    /// The last index of the log that this start has found.
    replayed: u64,
    /// What this start has found to be committed.
    committed_before: u64,
    place_told: Option<PeerUrl>,
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
    /// Of changes of members that are not settled, with their indexes.
    change_replies: Vec<(u64, Reply)>,
    /// Changes of members that followers have forwarded and that wait for another one.
    waiting: membership::Waiting,
    /// There is a learner, a member at another place or of another version, or a cluster that forms: the leader may have to
    /// propose something.
    members_need_care: bool,
    /// Members and listed ones that have answered where they were dialled, the newest answer of each.
    answered: BTreeMap<u64, Met>,
    /// Members that have come by themselves, and the place that each names.
    claimed: BTreeMap<u64, Met>,
    /// Peers, by id: the incarnation and the command version of whom was met last.
    versions: BTreeMap<u64, (u64, u64)>,
    /// What keeps whom from being let in, or this node: by peer, for people.
    troubles: BTreeMap<u64, String>,
    evidence: Evidence,
    /// Messages of a node that is empty, which raft knows nothing of.
    answers: Vec<Message>,
    /// Why no clients are served, as it was told.
    closed_told: Option<Arc<Closed>>,
    /// Tick at which another cluster was last heard to know this sole member with another directory, and by whom.
    other_life_heard: Option<(u64, u64)>,
    snapshot_under_way: bool,
    /// One was taken, and members may wait for it.
    snapshot_taken: bool,
    log_bytes_since_snapshot: u64,
    last_snapshot_bytes: u64,
    behind: Behind,
    own_bound_index: u64,
    /// The own removal was published: nothing is proposed any more, and raft goes on in the old configuration until
    /// a member says that the removal is settled.
    leaving: Option<u64>,
    /// Index up to which the map has to reach before [`Node::map_is_current`], while this node is alone.
    current_from: Option<u64>,
    /// While this node is empty: members that have let it in where it dialled them, and since when it is told that it was
    /// replaced.
    let_in: BTreeSet<u64>,
    /// Listed members that have answered where they were dialled.
    greeting: BTreeSet<u64>,
    replaced_since: Option<u64>,
    /// A joiner has said that it waits to be added.
    waiting_told: bool,
    /// Not told yet.
    exit: Option<Exit>,
    exit_told: bool,
    /// Of clients who want another leader.
    transfers: Vec<leadership_transfer::Open>,
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
        };
        let log = Log::new(recovered, settings.log_cache_bytes);
        let raw = RawNode::new(&raft_config, log, raft_logger)
            .map_err(|error| format!("raft can't start: {error}"))?;
        let replayed = raw.raft.raft_log.last_index();
        let mut node = Node {
            pending: Pending::new(settings.batch()),
            reads: Reads::new(settings.id, settings.run),
            asked: Asked::default(),
            logger: logger.new(o!()),
            raw,
            now: 0,
            own_bound_index: bound_index(&members, &settings),
            members,
            sessions,
            resend_after: None,
            blocked: None,
            last_news: 0,
            published,
            halted: false,
            #[cfg(feature = "later")]
            later_published: false,
            applied: published,
            unapplied_bytes: 0,
            first_state: 0,
            leadership: (hard_state.term, 0),
            role: StateRole::Follower,
            readable_term: 0,
            reached: Some(BTreeSet::new()),
            haste: None,
            conf_change_in_flight: 0,
            last_ready: 0,
            replayed,
            committed_before: hard_state.commit,
            place_told: None,
            commit_told: published,
            heard: Vec::new(),
            durable_vote: (hard_state.term, hard_state.vote),
            hard_state,
            commit_unsaved: false,
            jobs: VecDeque::new(),
            members_news: VecDeque::new(),
            change_replies: Vec::new(),
            waiting: membership::Waiting::default(),
            members_need_care: false,
            answered: BTreeMap::new(),
            claimed: BTreeMap::new(),
            versions: BTreeMap::new(),
            troubles: BTreeMap::new(),
            evidence: Evidence::default(),
            answers: Vec::new(),
            closed_told: None,
            other_life_heard: None,
            snapshot_under_way: false,
            snapshot_taken: false,
            log_bytes_since_snapshot: 0,
            last_snapshot_bytes,
            behind: Behind::default(),
            leaving: None,
            current_from: None,
            let_in: BTreeSet::new(),
            greeting: BTreeSet::new(),
            replaced_since: None,
            waiting_told: false,
            exit: None,
            exit_told: false,
            transfers: Vec::new(),
            // No number comes again in the next life: an answer may be on its way for long.
            transfers_asked: settings.boot << 32,
            settings,
        };
        node.members_changed();
        node.check_own_session();
        // Whoever makes a node tells clients so before it serves them. While there is a log to replay it may not be news.
        match node.raw.raft.raft_log.committed > published {
            true => node.closed_told = node.closed(),
            false => node.note_closed(node.closed()),
        }
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
        self.expire_changes();
        self.pending.expire(self.now, unsent);
        self.reads.expire(self.now, unread);
        self.reads
            .retry_stale(self.now, 2 * self.settings.heartbeat_ticks as u64);
        // Large values need longer than that on their way through the leader and a majority's disks.
        let under_way = self.pending.held().proposal_bytes / limits::RESEND_BYTES_PER_TICK;
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
            self.look_after_log();
        }
    }

    /// Takes a peer's message. The transport has checked that it comes from whom it names and is meant for this one.
    pub fn step(&mut self, received: Received) {
        if self.is_empty() && !is_planted(Mutant::EmptyVotes) {
            return self.step_empty(received);
        }
        let Received { message, bound } = received;
        let row = self.members.members.get(&message.from);
        let bound = match (bound, row) {
            // Since it was received, the id was bound to another.
            (Some(sender), Some(row)) if row.incarnation != sender => return,
            (sender, row) => sender.is_some() && row.is_some(),
        };
        if !self.passes(&message, bound) {
            return;
        }
        match message.get_msg_type() {
            // Passed on it would bear another's name: whoever sent it tries again when it hears of the new leader.
            MessageType::MsgPropose | MessageType::MsgReadIndex if !self.is_leader() => return,
            MessageType::MsgPropose if bound => return self.step_proposal(message),
            MessageType::MsgPropose => return,
            MessageType::MsgTransferLeader => return self.step_transfer(&message),
            MessageType::MsgTimeoutNow if !self.may_campaign() => return,
            MessageType::MsgSnapshot if self.is_from_later(message.get_snapshot(), bound) => return,
            MessageType::MsgSnapshot if !self.is_for_this_node(message.get_snapshot()) => {
                warn!(self.logger, "ignoring a snapshot that is not for this member"; "from" => message.from);
                return;
            }
            MessageType::MsgAppend if self.has_too_much_to_apply() => return,
            _ => {}
        }
        self.note_heard(message.from);
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
        self.snapshot_taken = true;
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
        self.let_in.remove(&peer);
        self.gone_while_forming(peer);
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
        self.change_replies.clear();
        self.stop_transfers();
    }

    // ---- what to do ----

    /// The next piece of work, `None` when all is done.
    pub fn ready(&mut self) -> Option<Output> {
        let mut output = Output::default();
        output.messages.append(&mut self.answers);
        self.send_new_snapshot();
        self.attend_members();
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
        output.place = self.tell_place();
        output.closed = self.tell_closed();
        output.exit = self.exit.take();
        (had_ready || !output.is_empty()).then_some(output)
    }

    /// Where the members say that this one is, if that is news.
    fn tell_place(&mut self) -> Option<PeerUrl> {
        // What is replayed is older than what was told in the start before.
        if self.published < self.committed_before {
            return None;
        }
        let row = self.members.members.get(&self.settings.id)?;
        let own = row.incarnation == self.settings.incarnation;
        if !own || self.place_told.as_ref() == Some(&row.url) {
            return None;
        }
        self.place_told = Some(row.url.clone());
        self.place_told.clone()
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
                learner: !self.members.is_settled_voter(*id),
                progress: known.map(|p| Progress {
                    matched: p.matched,
                    active: p.recent_active || own,
                }),
            }
        });
        Status {
            id: self.settings.id,
            cluster: 0,
            formed: !self.is_empty() && self.members.is_formed(),
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

    /// The index up to which the members that were told are applied. `None`: there are later ones, which are told once
    /// they are durable.
    pub fn members_index(&self) -> Option<u64> {
        self.members_news.is_empty().then_some(self.published)
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

fn bound_index(members: &Members, own: &Settings) -> u64 {
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

fn role_name(role: StateRole) -> &'static str {
    match role {
        StateRole::Leader => "leader",
        StateRole::Follower => "follower",
        StateRole::Candidate => "candidate",
        StateRole::PreCandidate => "pre-candidate",
    }
}
