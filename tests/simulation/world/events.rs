//! What can happen in a run.

use super::Target;
use crate::contradictions::Proof;
use crate::network::{Delivery, Dial};
use crate::ports::What;
use crate::strangers::Lie;
use raftkvd::storage::wal::SpareDone;
use raftkvd::threads::wal::Durable;

/// What happens. Those with a target wait while its process is paused.
pub enum Event {
    Pass(Target),
    Write(Target),
    Written(Target, Durable),
    /// What a pass asked for behind a write of its own.
    CarryOut(Target, What),
    Stop(Target),
    Purge(Target),
    Apply(Target),
    Snapshot(Target),
    /// The next segment of the log is to be kept aside.
    Spare(Target),
    /// Its blocks are reserved, and the log is told.
    SpareMade(Target, SpareDone),
    ReadBack(Target),
    Deliver(Target, Box<Delivery>),
    Dial(Target, Dial),
    /// A connection on which no message may pass is to be made again.
    Stale(Target, u64),
    Piece(Target, u64),
    Report(Target, u64, bool),
    Request(Target, u64),
    Response(u64),
    GiveUp(u64),
    Client(usize),
    Watcher(usize),
    Backup,
    Admin,
    Fault,
    Recover(usize),
    Start(usize),
    Kill(Target),
    Flap(usize),
    /// A stranger says something.
    Lie(Target, Box<Lie>),
    /// A member had to end at what it heard.
    Contradicted(Target, Box<Proof>),
}

impl Event {
    pub fn target(&self) -> Option<Target> {
        match self {
            Event::Pass(target)
            | Event::Write(target)
            | Event::Written(target, _)
            | Event::CarryOut(target, _)
            | Event::Stop(target)
            | Event::Purge(target)
            | Event::Apply(target)
            | Event::Snapshot(target)
            | Event::Spare(target)
            | Event::SpareMade(target, _)
            | Event::ReadBack(target)
            | Event::Deliver(target, _)
            | Event::Dial(target, _)
            | Event::Stale(target, _)
            | Event::Piece(target, _)
            | Event::Report(target, ..)
            | Event::Lie(target, _)
            | Event::Contradicted(target, _)
            | Event::Request(target, _) => Some(*target),
            _ => None,
        }
    }

    pub fn number(&self) -> u64 {
        match self {
            Event::Pass(_) => 1,
            Event::Write(_) => 2,
            Event::Written(_, durable) => 3 + (durable.number() << 8),
            Event::Apply(_) => 4,
            Event::Snapshot(_) => 5,
            Event::Deliver(_, delivery) => 6 + (delivery.digest() << 8),
            Event::Piece(_, transfer) => 7 + (transfer << 8),
            Event::Report(_, to, ok) => 8 + (to << 8) + u64::from(*ok),
            Event::Request(_, operation) => 9 + (operation << 8),
            Event::Response(operation) => 10 + (operation << 8),
            Event::GiveUp(operation) => 11 + (operation << 8),
            Event::Client(client) => 12 + ((*client as u64) << 8),
            Event::Admin => 13,
            Event::Fault => 14,
            Event::Recover(at) => 15 + ((*at as u64) << 8),
            Event::Start(machine) => 16 + ((*machine as u64) << 8),
            Event::Kill(_) => 17,
            Event::Dial(_, dial) => 18 + (dial.peer << 8),
            Event::Flap(machine) => 19 + ((*machine as u64) << 8),
            Event::ReadBack(_) => 20,
            Event::CarryOut(..) => 21,
            Event::Stop(_) => 25,
            Event::Purge(_) => 22,
            Event::Watcher(watcher) => 23 + ((*watcher as u64) << 8),
            Event::Backup => 24,
            Event::Lie(..) => 26,
            Event::Contradicted(..) => 27,
            Event::Stale(_, peer) => 28 + (peer << 8),
            Event::Spare(_) => 29,
            Event::SpareMade(..) => 30,
        }
    }
}
