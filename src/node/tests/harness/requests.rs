//! What clients and operators ask for. A function that returns a receiver leaves the request open; the others wait for
//! its outcome.

use super::*;

const WRITE_DEADLINE_TICKS: u64 = 200;
const READ_DEADLINE_TICKS: u64 = 20;
const TRANSFER_DEADLINE_TICKS: u64 = 50;

impl Cluster {
    pub fn propose(&mut self, id: u64, mut command: Command) -> oneshot::Receiver<Outcome> {
        if crate::members::is_change(command.kind) && command.wait_ticks == 0 {
            command.wait_ticks = WRITE_DEADLINE_TICKS;
        }
        let receiver = shared::propose(self.node(id), command, WRITE_DEADLINE_TICKS);
        self.work(id);
        receiver
    }

    pub fn put(&mut self, id: u64, key: &str) -> oneshot::Receiver<Outcome> {
        self.propose(id, shared::put(key.to_owned()))
    }

    /// Puts a value, and returns the index at which it was applied.
    pub fn write(&mut self, id: u64, key: &str) -> u64 {
        let mut outcome = self.put(id, key);
        self.settle();
        applied(&mut outcome)
    }

    /// Puts values at `name0`, `name1` and so on.
    pub fn write_many(&mut self, id: u64, name: &str, count: usize) {
        for i in 0..count {
            self.write(id, &format!("{name}{i}"));
        }
        self.tick(5);
    }

    pub fn change(&mut self, id: u64, kind: Kind, member: u64) -> oneshot::Receiver<Outcome> {
        let mut command = change(kind, member);
        if kind == Kind::AddMember {
            command.member_incarnation = self.incarnation(member);
        }
        self.propose(id, command)
    }

    pub fn add(&mut self, via: u64, member: u64) {
        self.settle_change(via, Kind::AddMember, member);
    }

    pub fn remove(&mut self, via: u64, member: u64) {
        self.settle_change(via, Kind::RemoveMember, member);
    }

    fn settle_change(&mut self, via: u64, kind: Kind, member: u64) {
        let mut outcome = self.change(via, kind, member);
        self.settle();
        applied(&mut outcome);
    }

    pub fn read(&mut self, id: u64) -> oneshot::Receiver<Result<(), NotProposed>> {
        let receiver = shared::read(self.node(id), READ_DEADLINE_TICKS);
        self.work(id);
        receiver
    }

    pub fn hand_over(
        &mut self,
        via: u64,
        to: u64,
    ) -> oneshot::Receiver<Result<(), NotTransferred>> {
        let (reply, outcome) = oneshot::channel();
        self.node(via).transfer(Transfer {
            to,
            deadline_ticks: TRANSFER_DEADLINE_TICKS,
            reply,
        });
        self.settle();
        outcome
    }

    /// Member `by` dials member `id`, which answers from an empty directory.
    pub fn dial(&mut self, by: u64, id: u64) {
        let met = self.met(id);
        self.node(by).met(met);
        self.work(by);
    }

    /// The answer of the process with this id where it is dialled.
    pub fn met(&self, id: u64) -> Met {
        Met {
            id,
            incarnation: self.incarnation(id),
            bound_index: 0,
            url: url(id),
            dialled: true,
            version: 0,
            key: None,
        }
    }
}

/// A membership change that names no data directory.
pub fn change(kind: Kind, member: u64) -> Command {
    let mut command = Command::new();
    command.kind = kind;
    command.member_id = member;
    command.member_url = url(member).to_string();
    command
}

pub fn applied(receiver: &mut oneshot::Receiver<Outcome>) -> u64 {
    match receiver.try_recv() {
        Ok(Some(Outcome::Applied { index })) => index,
        other => panic!("not applied: {other:?}"),
    }
}

/// Asserts that a read or a transfer has succeeded.
pub fn done<E: std::fmt::Debug + PartialEq>(receiver: &mut oneshot::Receiver<Result<(), E>>) {
    assert_eq!(receiver.try_recv(), Ok(Some(Ok(()))));
}
