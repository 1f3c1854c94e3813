//! One ready of raft, by the protocol that the parent module describes: what may be said at once, what has to be
//! durable first, what is handed to the WAL; and the snapshots that are taken and installed on the way.

use super::{Exit, Job, Node, Output, bound_index, role_name, sessions_of, sorted};
use crate::channels::commit::Commit;
use crate::command::ReplicatedState;
use crate::command::version;
use crate::members::Members;
use crate::mutants::{Mutant, is_planted};
use crate::storage::{Mark, Save, SnapshotMeta};
use protobuf::Message as _;
use raft::ProgressState;
use raft::eraftpb::{Message, MessageType};
use slog::info;

impl Node {
    pub(super) fn handle_ready(&mut self, output: &mut Output) {
        let mut ready = self.raw.ready();
        self.last_ready = ready.number();
        let mut promises = Vec::new();
        let vote = (self.raw.raft.term, self.raw.raft.vote);
        for message in ready.take_messages() {
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
            self.hard_state = hard_state.clone();
            self.commit_unsaved = true;
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
        self.publish(committed, output);

        if must_sync || !(promises.is_empty() || self.jobs.is_empty()) {
            let same_vote = (self.hard_state.term, self.hard_state.vote) == self.durable_vote;
            let left_out = is_planted(Mutant::CommitNotStored) && same_vote && mark.is_none();
            let hard_state = self.commit_unsaved.then(|| self.hard_state.clone());
            let hard_state = hard_state.filter(|_| !left_out);
            self.commit_unsaved = false;
            let save = Save {
                mark,
                entries,
                hard_state,
                sync: must_sync,
            };
            output.job = Some(self.job(self.last_ready, save, promises));
        } else {
            // Whatever these promises rest on is durable already.
            output.messages.append(&mut promises);
            if self.jobs.is_empty() {
                // Nothing of this ready has to be written: raft may forget it.
                self.raw.on_persist_ready(self.last_ready);
            }
        }
        self.note_leadership(output);
        let raft = &self.raw.raft;
        if self.readable_term != raft.term && raft.leader_id != 0 && raft.commit_to_current_term() {
            // What was asked before this leader had committed anything, raft-rs has dropped.
            self.readable_term = raft.term;
            self.reads.retry();
        }
    }

    /// Messages go out now, unless they promise something that a crash must not break.
    fn route(
        &self,
        message: Message,
        vote: (u64, u64),
        promise: bool,
        output: &mut Output,
        promises: &mut Vec<Message>,
    ) {
        // With one voter, raft-rs lets a leader send entries of a term that is not durable yet: after a crash it
        // would use the same term again for other entries. (With more voters the vote was durable before it won.)
        let early = match message.get_msg_type() {
            MessageType::MsgRequestVoteResponse => is_planted(Mutant::EarlyVote),
            MessageType::MsgAppendResponse => is_planted(Mutant::EarlyAppendResponse),
            _ => false,
        };
        let awaits_term = vote != self.durable_vote && !is_planted(Mutant::TermNotAwaited);
        if (promise || awaits_term) && !early {
            promises.push(message);
        } else {
            output.messages.push(message);
        }
    }

    pub(super) fn job(&mut self, number: u64, save: Save, messages: Vec<Message>) -> Job {
        let vote = (self.hard_state.term, self.hard_state.vote);
        let first = save.entries.first().map_or(0, |entry| entry.index);
        let awaits_answers = self.is_leader() && first > self.raw.raft.raft_log.committed + 1;
        let is_lone = self.jobs.is_empty() && !awaits_answers;
        self.jobs.push_back((number, vote));
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
        let leadership = (raft.term, raft.leader_id);
        if self.role != raft.state {
            info!(self.logger, "became {}", role_name(raft.state); "was" => role_name(self.role), "term" => raft.term);
            self.role = raft.state;
        }
        if self.leadership == leadership {
            return;
        }
        if leadership.1 == 0 && self.leadership.1 != 0 {
            info!(self.logger, "no leader is known"; "was" => self.leadership.1, "term" => leadership.0);
        }
        if leadership.1 != 0 {
            // That it leads itself was told above.
            if leadership.1 != self.settings.id {
                info!(self.logger, "the leader is {}", leadership.1; "term" => leadership.0);
            }
            self.resend_after = Some(0);
            self.last_news = self.now;
            self.reached = None;
        }
        if leadership.1 != self.leadership.1 {
            output.leader = Some(leadership.1);
        }
        self.conf_change_in_flight = 0;
        if leadership.1 == self.settings.id {
            self.note_own_lead(leadership.0);
        }
        self.reads.retry();
        self.leadership = leadership;
    }

    fn install_snapshot(
        &mut self,
        snapshot: &raft::eraftpb::Snapshot,
        output: &mut Output,
    ) -> Mark {
        let metadata = snapshot.get_metadata();
        let state =
            ReplicatedState::parse_from_bytes(&snapshot.data).expect("step has read it before");
        let meta = SnapshotMeta {
            index: metadata.index,
            term: metadata.term,
            conf_state: metadata.get_conf_state().clone(),
            state,
        };
        info!(self.logger, "installing a snapshot from the leader"; "index" => meta.index);
        if self.is_empty() {
            self.first_state = meta.index;
        }
        self.members = Members::from_state(&meta.state).expect("step has read it before");
        if !is_planted(Mutant::SnapshotWithoutSessions) {
            self.sessions = sessions_of(&meta.state);
        }
        self.own_bound_index = bound_index(&self.members, &self.settings);
        let (boot, run) = (self.settings.boot, self.settings.run);
        let own = self.sessions.get(&self.settings.id);
        if let Some(session) = own.filter(|session| (session.boot, session.run) == (boot, run)) {
            self.pending.jumped(session.sequence);
        }
        self.check_own_session();
        self.published = meta.index;
        self.log_bytes_since_snapshot = 0;
        self.last_snapshot_bytes = 0;
        self.members_changed();
        // Whether they were carried out cannot be said any more: dropped, they are answered so.
        self.change_replies.clear();
        self.tell_members(self.last_ready);
        self.raw.mut_store().install(meta.clone());
        output.commits.push(Commit::Restore(Box::new(meta)));
        Mark {
            index: metadata.index,
            term: metadata.term,
            hard_state: self.hard_state.clone(),
            installed: true,
        }
    }

    /// Members that wait for a snapshot are sent the one that was just taken, and not at the next heartbeat.
    pub(super) fn send_new_snapshot(&mut self) {
        if !std::mem::take(&mut self.snapshot_taken) || !self.is_leader() {
            return;
        }
        let index = self.raw.store().snapshot_index();
        let behind = self.raw.raft.prs().iter();
        let behind = behind.filter(|(id, progress)| {
            **id != self.settings.id
                && progress.state == ProgressState::Probe
                && progress.matched < index
                && !progress.is_paused()
        });
        let behind: Vec<u64> = behind.map(|(id, _)| *id).collect();
        for id in behind {
            self.raw.raft.send_append(id);
        }
    }

    pub(super) fn request_snapshot(&mut self, output: &mut Output) {
        let taken = self.raw.store().snapshot_index();
        if self.snapshot_under_way || self.leaving.is_some() || self.published <= taken {
            return;
        }
        let due = self.settings.snapshot_bytes.max(self.last_snapshot_bytes);
        let wanted = self.raw.store().take_snapshot_wanted();
        if self.log_bytes_since_snapshot < due && !wanted {
            return;
        }
        self.log_bytes_since_snapshot = 0;
        self.snapshot_under_way = true;
        let meta = self.snapshot_meta();
        output.commits.push(Commit::Snapshot(Box::new(meta)));
    }

    /// What the header of a snapshot says that is taken behind all that is published.
    pub fn snapshot_meta(&self) -> SnapshotMeta {
        let mut state = ReplicatedState::new();
        self.members.write_to(&mut state);
        state.sessions = self.sessions.values().cloned().collect();
        SnapshotMeta {
            index: self.published,
            term: raft::Storage::term(self.raw.store(), self.published)
                .expect("what is published and not compacted is in the log"),
            conf_state: self.members.conf_state(),
            state,
        }
    }
}

impl Node {
    /// Only a later version knows the state in a snapshot, and it is not used. The node ends if it would have taken it: from
    /// a member, or as its first state.
    pub(super) fn is_from_later(
        &mut self,
        snapshot: &raft::eraftpb::Snapshot,
        bound: bool,
    ) -> bool {
        let Ok(state) = ReplicatedState::parse_from_bytes(&snapshot.data) else {
            return false;
        };
        let Err(later) = version::check_state(&state) else {
            return false;
        };
        let own = (self.settings.id, self.settings.incarnation);
        let mut rows = state.members.iter();
        let binds_this = rows.any(|row| (row.id, row.incarnation) == own);
        if binds_this && (bound || self.is_empty()) {
            self.end(Exit::Later {
                what: "snapshot",
                index: snapshot.get_metadata().index,
                later,
            });
        }
        true
    }
}

/// The members in a snapshot message, if they can be read and are those of its configuration.
pub(super) fn members_of(snapshot: &raft::eraftpb::Snapshot) -> Option<Members> {
    let state = ReplicatedState::parse_from_bytes(&snapshot.data).ok()?;
    let conf_state = sorted(snapshot.get_metadata().get_conf_state().clone());
    let members = Members::from_state(&state).ok()?;
    (members.conf_state() == conf_state).then_some(members)
}

/// Messages that a crash of this node must not belie. All others are requests, or answer something that is so now.
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
