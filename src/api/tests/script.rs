//! A scripted thread instead of the raft loop. It applies, refuses, drops or keeps what it takes from the inbox.

use super::*;

use crate::channels::commit::{Apply, Commit};
use crate::channels::inbox::Held;
use crate::channels::notice::Notice;
use crate::channels::status::{MemberStatus, PeerSeen, Status};
use crate::command::proposal::{Proposal, Read};
use crate::command::{self, Batch, SnapshotHeader};
use crate::members::{Decision, Members};
use crate::store::history::Changes;
use crate::threads::apply;
use crate::threads::apply::{Batches, Commits};
use bytes::Bytes;
use futures_channel::oneshot;

/// The loop of a single member.
pub(super) struct Script {
    inbox: Arc<Inbox>,
    state_machine: StateMachine,
    mode: Arc<StdMutex<Mode>>,
    deadlines: Arc<StdMutex<Vec<u64>>>,
    members: Members,
    index: u64,
    commits: Commits,
    /// The receiver to which large batches would be sent.
    _batches: Batches,
    kept_proposals: Vec<Proposal>,
    kept_reads: Vec<Read>,
    kept_questions: Vec<oneshot::Sender<Status>>,
}

impl Script {
    pub(super) fn new(
        inbox: Arc<Inbox>,
        state_machine: StateMachine,
        mode: Arc<StdMutex<Mode>>,
        deadlines: Arc<StdMutex<Vec<u64>>>,
    ) -> Script {
        let (commits, batches) = apply::channel(state_machine.clone());
        Script {
            inbox,
            state_machine,
            mode,
            deadlines,
            members: Members::of([(1, "http://127.0.0.1:9021".parse().unwrap(), INCARNATION)]),
            index: 1,
            commits,
            _batches: batches,
            kept_proposals: Vec::new(),
            kept_reads: Vec::new(),
            kept_questions: Vec::new(),
        }
    }

    pub(super) fn play(mut self, done: &AtomicBool) {
        while !done.load(Ordering::SeqCst) {
            let until = StdInstant::now() + Duration::from_millis(5);
            let events = self.inbox.take(until, Held::default());
            let mode = *self.mode.lock().unwrap();
            for proposal in events.proposals {
                self.propose(proposal, mode);
            }
            for read in events.reads {
                self.read(read, mode);
            }
            if mode == Mode::Serve {
                self.kept_proposals.clear();
                for read in self.kept_reads.drain(..) {
                    let _ = read.reply.send(Ok(()));
                }
            }
            for notice in events.notices {
                self.note(notice, mode);
            }
            self.answer_questions(mode);
        }
    }

    fn propose(&mut self, proposal: Proposal, mode: Mode) {
        let deadline = proposal.deadline_ticks;
        self.deadlines.lock().unwrap().push(deadline);
        match mode {
            Mode::Serve => self.serve(proposal),
            Mode::Refuse(why) => {
                let _ = proposal.reply.send(Outcome::NotProposed(why));
            }
            Mode::Drop => {}
            Mode::Silent => self.kept_proposals.push(proposal),
        }
    }

    fn serve(&mut self, proposal: Proposal) {
        self.index += 1;
        let index = self.index;
        let command = &proposal.command;
        if matches!(command.kind, Kind::Put | Kind::Delete | Kind::Transaction) {
            let entry = entry(index, proposal);
            self.commits.hand_over(vec![entry]).unwrap();
            return;
        }
        let (wait, deadline) = (command.wait_ticks, proposal.deadline_ticks);
        assert!(wait >= deadline, "waits {wait} of {deadline} ticks");
        self.state_machine
            .history
            .append(index, Changes::of(Bytes::new(), 0));
        let outcome = match self.members.decide(command) {
            Ok(Decision::Change(_)) => {
                self.members.apply(command, index);
                Outcome::Applied { index }
            }
            Ok(Decision::Nothing) => Outcome::Applied { index },
            Err(refusal) => Outcome::Refused(refusal),
        };
        let _ = proposal.reply.send(outcome);
    }

    fn read(&mut self, read: Read, mode: Mode) {
        self.deadlines.lock().unwrap().push(read.deadline_ticks);
        match mode {
            Mode::Serve => drop(read.reply.send(Ok(()))),
            Mode::Refuse(why) => drop(read.reply.send(Err(why))),
            Mode::Drop => {}
            Mode::Silent => self.kept_reads.push(read),
        }
    }

    fn note(&mut self, notice: Notice, mode: Mode) {
        match notice {
            Notice::Status(question) => self.kept_questions.push(question),
            // Freezing the map needs no leader.
            Notice::Freeze(reply) if matches!(mode, Mode::Serve | Mode::Refuse(_)) => {
                let mut header = SnapshotHeader::new();
                header.index = self.index;
                let _ = reply.send((header, self.state_machine.store.freeze()));
            }
            Notice::Freeze(_) => {}
            _ => panic!("the API sends no {notice:?}"),
        }
    }

    fn answer_questions(&mut self, mode: Mode) {
        match mode {
            Mode::Serve | Mode::Refuse(_) => {
                for question in std::mem::take(&mut self.kept_questions) {
                    let _ = question.send(self.status());
                }
            }
            Mode::Drop => self.kept_questions.clear(),
            Mode::Silent => {
                let kept = self.kept_questions.len();
                assert!(kept <= 1, "one question at a time, not {kept}");
            }
        }
    }

    fn status(&self) -> Status {
        let members = self.members.members.iter();
        Status {
            id: 1,
            version: "1",
            cluster: cluster_id(INCARNATION),
            formed: self.members.is_formed(),
            role: "leader",
            leader: 1,
            term: 2,
            committed: self.index,
            last: self.index,
            applied: self.index,
            snapshot: 1,
            wal_syncs: 0,
            wal_bytes: 0,
            members: members
                .map(|(id, member)| MemberStatus {
                    id: *id,
                    url: member.url.clone(),
                    learner: member.learner,
                    progress: None,
                    behind: None,
                    seen: PeerSeen::default(),
                })
                .collect(),
        }
    }
}

/// A proposal as the log returns it, small enough to be applied at once.
fn entry(index: u64, proposal: Proposal) -> Commit {
    let mut batch = Batch::new();
    batch.commands.push(proposal.command);
    let data = command::encode(&batch);
    let mut commands = command::decode(&data).unwrap().commands;
    Commit::Apply(Apply {
        index,
        bytes: 0,
        data,
        commands: vec![(commands.remove(0), Some(proposal.reply))],
    })
}
