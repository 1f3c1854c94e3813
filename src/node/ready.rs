//! Handles one ready of raft, as the parent module describes: which messages go out at once, which must wait for
//! durability, and what goes to the WAL.

use super::elections::Lead;
use super::status::role_name;
use super::{Job, Node, Output, sorted};
use crate::command::ReplicatedState;
use crate::limits;
use crate::members::Members;
use crate::mutants::{Mutant, is_planted};
use crate::storage::Save;
use protobuf::Message as _;
use raft::SnapshotStatus;
use raft::eraftpb::HardState;
use raft::eraftpb::{Message, MessageType};
use slog::{info, warn};
use std::collections::VecDeque;

/// The vote of a member in a term; candidate 0 for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Vote {
    pub term: u64,
    pub candidate: u64,
}

impl Vote {
    fn in_state(state: &HardState) -> Vote {
        Vote {
            term: state.term,
            candidate: state.vote,
        }
    }
}

/// What is on its way to the disk, and what is there.
///
/// - Jobs become durable in the order of their numbers.
/// - While a write hangs, jobs take bounded memory. Their entries fit into the room of the log, which does not grow
///   meanwhile: see `room.rs`. Their number is bounded by [`limits::JOBS_UNWRITTEN_MAX`]: see
///   [`Node::adds_a_job`]. The room does not bound the number, because a heartbeat may add a job without entries.
/// - `vote` holds the term and vote of the newest durable job, so it is never ahead of the disk.
#[derive(Debug)]
pub(super) struct Durability {
    pub hard_state: HardState,
    /// The commit index has advanced, and no job carries it yet. The next job that has to be written takes it along.
    pub commit_unsaved: bool,
    /// Number of each job that is not durable yet, with the term and vote that it stores.
    pub jobs: VecDeque<(u64, Vote)>,
    /// The number of the last ready.
    pub last_ready: u64,
    pub vote: Vote,
    /// The jobs are at their limit, and a log message has said so.
    is_crowded: bool,
}

impl Durability {
    pub fn new(hard_state: HardState) -> Durability {
        Durability {
            vote: Vote::in_state(&hard_state),
            hard_state,
            commit_unsaved: false,
            jobs: VecDeque::new(),
            last_ready: 0,
            is_crowded: false,
        }
    }
}

impl Node {
    /// Whether so many jobs wait for the disk that this node adds no other job.
    pub(super) fn is_crowded(&self) -> bool {
        self.durability.jobs.len() >= limits::JOBS_UNWRITTEN_MAX && !is_planted(Mutant::RoomIgnored)
    }

    /// Whether the message may add a job: raft answers it with a promise, or it brings a new term. The sender of such a
    /// message sends it again.
    pub(super) fn adds_a_job(&self, message: &Message) -> bool {
        let makes_a_promise = matches!(
            message.get_msg_type(),
            MessageType::MsgAppend
                | MessageType::MsgSnapshot
                | MessageType::MsgRequestVote
                | MessageType::MsgRequestPreVote
                | MessageType::MsgTimeoutNow
                | MessageType::MsgPropose
        );
        let vote = self.newest_vote();
        // While the vote is not durable, every answer waits for it.
        makes_a_promise || message.term > vote.term || vote != self.durability.vote
    }

    /// Called at every tick.
    pub(super) fn note_crowded(&mut self) {
        let is_crowded = self.is_crowded();
        let was_crowded = std::mem::replace(&mut self.durability.is_crowded, is_crowded);
        if is_crowded && !was_crowded {
            warn!(self.logger, "the disk hangs: this member drops messages that would add writes; check the disk";
                "writes" => self.durability.jobs.len());
        }
    }

    pub(super) fn handle_ready(&mut self, output: &mut Output) {
        let mut ready = self.raw.ready();
        self.durability.last_ready = ready.number();
        let mut promises = Vec::new();
        let vote = self.newest_vote();
        let mut too_early = Vec::new();
        for mut message in self.without_repeats(ready.take_messages()) {
            self.tell_extents(&mut message);
            if self.is_too_early(&message) {
                too_early.push(message.to);
                continue;
            }
            self.pin_for(&message);
            self.route(message, vote, false, output, &mut promises);
        }
        for message in ready.take_persisted_messages() {
            let promise = is_promise(&message);
            self.route(message, vote, promise, output, &mut promises);
        }
        for state in ready.take_read_states() {
            self.reads.confirm(&state.request_ctx, state.index);
        }
        let must_sync = ready.must_sync();
        if let Some(hard_state) = ready.hs() {
            self.durability.hard_state = hard_state.clone();
            self.durability.commit_unsaved = true;
        }
        let snapshot = ready.snapshot().clone();
        let entries = ready.take_entries();
        let mut mark = None;
        if !snapshot.is_empty() {
            mark = Some(self.install_snapshot(&snapshot, output));
        }
        self.raw.mut_store().append(entries.clone());
        let committed = ready.take_committed_entries();
        self.raw.advance_append_async(ready);
        for to in too_early {
            self.snapshot_sent(to, SnapshotStatus::Failure);
        }
        self.publish(committed, output);

        if must_sync || !(promises.is_empty() || self.durability.jobs.is_empty()) {
            let same_vote = Vote::in_state(&self.durability.hard_state) == self.durability.vote;
            let left_out = is_planted(Mutant::CommitNotStored) && same_vote && mark.is_none();
            let hard_state = self
                .durability
                .commit_unsaved
                .then(|| self.durability.hard_state.clone());
            let hard_state = hard_state.filter(|_| !left_out);
            self.durability.commit_unsaved = false;
            let save = Save {
                mark,
                entries,
                hard_state,
                sync: must_sync,
            };
            output.job = Some(self.job(self.durability.last_ready, save, promises));
        } else {
            // Everything that these promises depend on is already durable.
            output.messages.append(&mut promises);
            if self.durability.jobs.is_empty() {
                // Nothing of this ready needs to be written, so raft may forget it.
                self.raw.on_persist_ready(self.durability.last_ready);
            }
        }
        self.note_leadership(output);
        let raft = &self.raw.raft;
        if self.leadership.readable_term != raft.term
            && raft.leader_id != 0
            && raft.commit_to_current_term()
        {
            // Raft-rs has dropped the read rounds that arrived before this leader committed an entry of its term.
            self.leadership.readable_term = raft.term;
            self.reads.retry();
        }
    }

    /// Term and vote that raft works with, durable or not.
    fn newest_vote(&self) -> Vote {
        Vote {
            term: self.raw.raft.term,
            candidate: self.raw.raft.vote,
        }
    }

    /// Sends a message now, or makes it wait if it promises something that a crash must not break.
    fn route(
        &self,
        message: Message,
        vote: Vote,
        promise: bool,
        output: &mut Output,
        promises: &mut Vec<Message>,
    ) {
        // With a single voter, raft-rs lets a leader send entries of a term that is not durable yet. After a crash, the
        // leader would use the same term again for other entries. With more voters, its vote was durable before it won.
        let early = match message.get_msg_type() {
            MessageType::MsgRequestVoteResponse => is_planted(Mutant::EarlyVote),
            MessageType::MsgAppendResponse => is_planted(Mutant::EarlyAppendResponse),
            _ => false,
        };
        let awaits_term = vote != self.durability.vote && !is_planted(Mutant::TermNotAwaited);
        if (promise || awaits_term) && !early {
            promises.push(message);
        } else {
            output.messages.push(message);
        }
    }

    pub(super) fn job(&mut self, number: u64, save: Save, messages: Vec<Message>) -> Job {
        let vote = Vote::in_state(&self.durability.hard_state);
        let first = save.entries.first().map_or(0, |entry| entry.index);
        let awaits_answers = self.is_leader() && first > self.raw.raft.raft_log.committed + 1;
        let is_lone = self.durability.jobs.is_empty() && !awaits_answers;
        self.durability.jobs.push_back((number, vote));
        self.room.spend(save.log_bytes());
        Job {
            number,
            save,
            messages,
            is_lone,
            compacted: self.raw.store().compacted(),
        }
    }

    fn note_leadership(&mut self, output: &mut Output) {
        let raft = &self.raw.raft;
        let lead = Lead {
            term: raft.term,
            leader: raft.leader_id,
        };
        if self.leadership.role != raft.state {
            info!(self.logger, "became {}", role_name(raft.state); "former_role" => role_name(self.leadership.role), "term" => raft.term);
            self.leadership.role = raft.state;
        }
        if self.leadership.seen == lead {
            return;
        }
        if lead.leader == 0 && self.leadership.seen.leader != 0 {
            info!(self.logger, "no leader is known"; "former_leader" => self.leadership.seen.leader, "term" => lead.term);
        }
        if lead.leader != 0 {
            // If this node leads, the change of its role was logged above.
            if lead.leader != self.settings.id {
                info!(self.logger, "the leader is {}", lead.leader; "term" => lead.term);
            }
            self.pending.resend_after = Some(0);
            self.pending.last_news = self.now;
            self.leadership.reached = None;
        }
        if lead.leader != self.leadership.seen.leader {
            output.leader = Some(lead.leader);
        }
        self.membership.conf_change_in_flight = 0;
        if lead.leader == self.settings.id {
            self.note_own_lead(lead.term);
        }
        self.reads.retry();
        self.leadership.seen = lead;
    }
}

/// The members in a snapshot message. `None` if the state can't be read, or does not match the message's configuration.
pub(super) fn members_of(snapshot: &raft::eraftpb::Snapshot) -> Option<Members> {
    let state = ReplicatedState::parse_from_bytes(&snapshot.data).ok()?;
    let conf_state = sorted(snapshot.get_metadata().get_conf_state().clone());
    let members = Members::from_state(&state).ok()?;
    (members.conf_state() == conf_state).then_some(members)
}

/// Messages that would become lies if this node crashed before its state is durable: vote requests, votes and append
/// acknowledgements. All others only ask for something, or report a current fact.
fn is_promise(message: &Message) -> bool {
    matches!(
        message.get_msg_type(),
        MessageType::MsgRequestVote
            | MessageType::MsgRequestVoteResponse
            | MessageType::MsgRequestPreVote
            | MessageType::MsgRequestPreVoteResponse
            | MessageType::MsgAppendResponse
    )
}
