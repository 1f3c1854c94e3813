//! Snapshots: when one is due, what changes when one is written or received, and which members are sent one.
//!
//! Invariants:
//! - At most one snapshot is under way.
//! - No snapshot is older than the previous one.

use super::{Exit, Job, Node, Output, bound_index, sessions_of};
use crate::channels::commit::Commit;
use crate::channels::notice::SnapshotWritten;
use crate::command::{ReplicatedState, version};
use crate::identity::Standing;
use crate::limits;
use crate::members::Members;
use crate::mutants::{Mutant, is_planted};
use crate::storage::{Mark, Save, SnapshotMeta};
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};
use raft::{ProgressState, SnapshotStatus};
use slog::info;

/// Decides when the next snapshot is due.
#[derive(Debug)]
pub(super) struct SnapshotPolicy {
    pub under_way: bool,
    /// A snapshot was just taken, and members may wait for it.
    pub taken: bool,
    /// Bytes of the entries published since the last snapshot.
    pub log_bytes: u64,
    /// Size of the last snapshot's file.
    pub last_bytes: u64,
    /// The tick at which the snapshot under way was asked for.
    pub begun_at: u64,
    /// Snapshots that could not be written since the last success.
    pub failures: u32,
    /// The tick before which no snapshot is tried again.
    pub retry_at: u64,
}

impl SnapshotPolicy {
    pub fn new(last_bytes: u64) -> SnapshotPolicy {
        SnapshotPolicy {
            under_way: false,
            taken: false,
            log_bytes: 0,
            last_bytes,
            begun_at: 0,
            failures: 0,
            retry_at: 0,
        }
    }
}

impl Node {
    /// Whether this message is a snapshot for a learner, from a leader that has committed nothing in its term. Entries
    /// that the leader inherited may already make this learner a voter. The snapshot would then let in a copy of the
    /// directory that has lost its votes. No quorum needs a learner, so nothing is blocked while the snapshot is
    /// withheld.
    pub(super) fn is_too_early(&self, message: &Message) -> bool {
        message.get_msg_type() == MessageType::MsgSnapshot
            && self.members.learners().any(|id| id == message.to)
            && !self.raw.raft.commit_to_current_term()
    }

    /// The snapshot of a [`Commit::Snapshot`] is durable in its file. Returns the job that marks the snapshot, so that
    /// a restart continues from it.
    pub fn snapshot_written(&mut self, written: SnapshotWritten) -> Option<Job> {
        self.snapshots.under_way = false;
        self.snapshots.failures = 0;
        let SnapshotWritten { meta, bytes } = written;
        if meta.index <= self.raw.store().snapshot_index() {
            // A snapshot from the leader was installed in the meantime, and is at least as new.
            return None;
        }
        self.snapshots.last_bytes = bytes;
        self.snapshots.taken = true;
        // Raft still reads entries above its own applied index, so they must not be deleted.
        assert!(
            meta.index <= self.watermarks.applied
                && self.watermarks.applied <= self.durability.hard_state.commit,
            "snapshot {}, applied {}, committed {}",
            meta.index,
            self.watermarks.applied,
            self.durability.hard_state.commit
        );
        let mark = Mark {
            index: meta.index,
            term: meta.term,
            hard_state: self.durability.hard_state.clone(),
            installed: false,
        };
        let pinned = self.pinned();
        self.raw.mut_store().compact(meta, pinned);
        let save = Save {
            mark: Some(mark),
            sync: true,
            ..Default::default()
        };
        Some(self.job(self.durability.last_ready, save, Vec::new()))
    }

    /// The snapshot that was taken could not be written, because the disk is full or fails. Another one is taken later.
    pub fn snapshot_failed(&mut self) {
        let policy = &mut self.snapshots;
        policy.under_way = false;
        policy.failures += 1;
        // On a full disk, the log grows until a snapshot is written. Once there is room, a snapshot has to come soon, or
        // the log takes that room too.
        let election = self.settings.election_ticks as u64;
        let pause = limits::SNAPSHOT_RETRY_PAUSES * (self.now - policy.begun_at);
        let pause = pause.clamp(election, limits::SNAPSHOT_RETRY_ELECTIONS_MAX * election);
        policy.retry_at = self.now + pause;
    }

    /// The transfer of a snapshot has ended.
    pub fn snapshot_sent(&mut self, to: u64, status: SnapshotStatus) {
        if status == SnapshotStatus::Failure {
            self.transfer_failed(to);
        }
        self.raw.report_snapshot(to, status);
    }

    pub(super) fn install_snapshot(
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
            self.watermarks.first_state = meta.index;
        }
        let members = Members::from_state(&meta.state).expect("step has read it before");
        let before = std::mem::replace(&mut self.members, members);
        self.drop_statements_before_snapshot(&before);
        if is_planted(Mutant::RevokedKeysLost) {
            self.members.revoked.clear();
        }
        if !is_planted(Mutant::SnapshotWithoutSessions) {
            self.sessions = sessions_of(&meta.state);
        }
        self.membership.own_bound_index = bound_index(&self.members, &self.settings);
        let (boot, run) = (self.settings.boot, self.settings.run);
        let own = self.sessions.get(&self.settings.id);
        if let Some(session) = own.filter(|session| (session.boot, session.run) == (boot, run)) {
            self.pending.jumped(session.sequence);
        }
        self.check_own_session();
        self.watermarks.published = meta.index;
        self.snapshots.log_bytes = 0;
        self.snapshots.last_bytes = 0;
        self.members_changed();
        // It is no longer known whether these changes were carried out. Dropping the replies reports an unknown
        // outcome.
        self.membership.replies.clear();
        self.tell_members(self.durability.last_ready);
        self.raw.mut_store().install(meta.clone());
        output.commits.push(Commit::Restore(Box::new(meta)));
        Mark {
            index: metadata.index,
            term: metadata.term,
            hard_state: self.durability.hard_state.clone(),
            installed: true,
        }
    }

    /// Sends the snapshot that was just taken to the members that wait for one, without waiting for the next heartbeat.
    pub(super) fn send_new_snapshot(&mut self) {
        if !std::mem::take(&mut self.snapshots.taken) || !self.is_leader() {
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
        if self.snapshots.under_way
            || self.ending.leaving.is_some()
            || self.watermarks.published <= taken
            || self.now < self.snapshots.retry_at
        {
            return;
        }
        let due = self.settings.snapshot_bytes.max(self.snapshots.last_bytes);
        let wanted = self.raw.store().take_snapshot_wanted();
        let overdue = self.snapshots.failures > 0;
        if self.snapshots.log_bytes < due && !wanted && !overdue {
            return;
        }
        self.snapshots.log_bytes = 0;
        self.snapshots.under_way = true;
        self.snapshots.begun_at = self.now;
        let meta = self.snapshot_meta();
        output.commits.push(Commit::Snapshot(Box::new(meta)));
    }

    /// The description of a snapshot that covers everything published.
    pub fn snapshot_meta(&self) -> SnapshotMeta {
        let mut state = ReplicatedState::new();
        self.members.write_to(&mut state);
        state.sessions = self.sessions.values().cloned().collect();
        SnapshotMeta {
            index: self.watermarks.published,
            term: raft::Storage::term(self.raw.store(), self.watermarks.published)
                .expect("what is published and not compacted is in the log"),
            conf_state: self.members.conf_state(),
            state,
        }
    }

    /// Whether the state in a snapshot needs a later version of raftkvd. Such a snapshot is not used. The node ends if
    /// the snapshot would otherwise have been used: if a bound member sent it, or if it is the first state of this
    /// node.
    pub(super) fn is_from_later(
        &mut self,
        snapshot: &raft::eraftpb::Snapshot,
        standing: Standing,
    ) -> bool {
        let Ok(state) = ReplicatedState::parse_from_bytes(&snapshot.data) else {
            return false;
        };
        let Err(later) = version::check_state(&state) else {
            return false;
        };
        let own = (self.settings.id, self.settings.incarnation);
        let mut rows = state.members.iter();
        // The first state of an empty member contains the member as a learner: see Members::lets_in.
        let is_taken = |learner: bool| match self.is_empty() {
            true => learner,
            false => standing == Standing::Bound,
        };
        if rows.any(|row| (row.id, row.incarnation) == own && is_taken(row.learner)) {
            self.end(Exit::Later {
                what: "snapshot",
                index: snapshot.get_metadata().index,
                later,
            });
        }
        true
    }
}
