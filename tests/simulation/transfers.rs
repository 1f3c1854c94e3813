//! Snapshot transfers: a connection of their own for each, and the file piece by piece.

use crate::network::NoLink;
use crate::world::{Event, MILLISECOND, SECOND, Target, World};
use protobuf::Message as _;
use raft::eraftpb::Message;
use raftkvd::channels::inbox::encoded_bytes;
use raftkvd::channels::notice::Notice;
use raftkvd::command::ReplicatedState;
use raftkvd::identity::{Claims, Standing};
use raftkvd::members::Members;
use raftkvd::storage::{ReceiveError, SnapshotMeta, SnapshotSink, SnapshotSource};
use std::collections::BTreeMap;

/// Those that are under way, by number.
#[derive(Default)]
pub struct Transfers {
    under_way: BTreeMap<u64, Transfer>,
    newest: u64,
}

struct Transfer {
    from: Target,
    to: Target,
    claims: Claims,
    message: Message,
    source: SnapshotSource,
    sink: SnapshotSink,
    /// It is cut when so many bytes have gone.
    cut_at: u64,
    sent: u64,
}

/// What the message of a snapshot says about its file.
fn promised(message: &Message) -> SnapshotMeta {
    let metadata = message.get_snapshot().get_metadata();
    let state = ReplicatedState::parse_from_bytes(&message.get_snapshot().data);
    SnapshotMeta {
        index: metadata.index,
        term: metadata.term,
        conf_state: metadata.get_conf_state().clone(),
        state: state.expect("a leader sends what it can read"),
    }
}

impl World {
    pub fn send_snapshot(&mut self, from: Target, message: Message) {
        let to = message.to;
        match self.begin_transfer(from, message) {
            Some(transfer) => {
                self.count("snapshot transfers");
                self.at(from).sending.insert(to);
                let target = self.network.transfers.under_way[&transfer].to;
                let delay = self.network.delay(&mut self.random);
                self.after(delay, Event::Piece(target, transfer));
            }
            None => {
                let delay = self.network.delay(&mut self.random);
                self.after(delay, Event::Report(from, to, false));
            }
        }
    }

    fn begin_transfer(&mut self, from: Target, message: Message) -> Option<u64> {
        let metadata = message.get_snapshot().get_metadata();
        let process = self.at(from);
        if process.sending.contains(&message.to) {
            return None;
        }
        let source = process.snapshots.open(metadata.index, metadata.term).ok()?;
        let place = self.place_of(from, message.to)?;
        let hands = self.shake_hands(from, place, message.to);
        let hands = hands.map_err(|NoLink| ()).ok()?;
        if hands.claimant == Standing::Waiting || hands.answerer == Standing::Waiting {
            return None;
        }
        let (to, claims) = (hands.to, hands.claims);
        let process = self.at(to);
        // An empty member may belong to a cluster already, which it was told before it lost power.
        let own = process.meta.cluster();
        if (own != 0 && own != claims.cluster) || std::mem::replace(&mut process.receiving, true) {
            return None;
        }
        let sink = match process.snapshots.receive(claims.cluster) {
            Ok(sink) => sink,
            Err(_) => {
                process.receiving = false;
                return None;
            }
        };
        let cut_at = match self.random.chance(self.plan.cut_transfers) {
            true => self.random.below(source.bytes + 1),
            false => u64::MAX,
        };
        let transfers = &mut self.network.transfers;
        transfers.newest += 1;
        let transfer = Transfer {
            from,
            to,
            claims,
            message,
            source,
            sink,
            cut_at,
            sent: 0,
        };
        transfers.under_way.insert(transfers.newest, transfer);
        Some(transfers.newest)
    }

    /// The next piece of a snapshot arrives.
    pub fn piece(&mut self, number: u64) {
        let Some(mut transfer) = self.network.transfers.under_way.remove(&number) else {
            return;
        };
        let pair = (transfer.from.machine, transfer.to.machine);
        let sender = &self.machines[pair.0];
        let alive = sender.epoch == transfer.from.epoch && sender.process.is_some();
        let mut buffer = vec![0; self.random.between(512, 8 << 10) as usize];
        let cut = !alive || self.network.is_cut(pair.0, pair.1) || transfer.sent >= transfer.cut_at;
        let read = match cut {
            true => None,
            false => transfer.source.read(&mut buffer).ok(),
        };
        transfer.sent += read.unwrap_or(0) as u64;
        let target = transfer.to;
        match read {
            Some(0) => {
                let (from, peer) = (transfer.from, transfer.message.to);
                let ok = self.finish_transfer(transfer);
                self.transferred(from, target, peer, ok);
            }
            Some(count) => {
                let written = transfer.sink.write(&buffer[..count]);
                self.network.transfers.under_way.insert(number, transfer);
                match written {
                    Ok(()) => {
                        let delay = self.network.delay(&mut self.random);
                        self.after(delay, Event::Piece(target, number));
                    }
                    // The file is thrown away: see `server`.
                    Err(_) => self.end_transfer(number, false),
                }
            }
            None => {
                self.count("snapshot transfers cut");
                self.network.transfers.under_way.insert(number, transfer);
                self.end_transfer(number, false);
            }
        }
    }

    /// Everything has arrived: true when the file is whole, durable and handed on.
    fn finish_transfer(&mut self, transfer: Transfer) -> bool {
        let Transfer {
            to: target,
            claims,
            message,
            sink,
            ..
        } = transfer;
        let meta = promised(&message);
        match sink.finish(&meta) {
            Ok(()) => {}
            Err(ReceiveError::Disk(_)) => return false,
            Err(error @ ReceiveError::Invalid(_)) => panic!("{error}"),
        };
        let process = self.at(target);
        let Ok(standing @ (Standing::Bound | Standing::Ahead)) = process.judge(&claims) else {
            return false;
        };
        if process.view.is_empty() {
            let members =
                Members::from_state(&meta.state).expect("a leader sends what it can read");
            if !members.lets_in(process.id, process.view.incarnation) {
                self.count("first states that do not let a member in, refused");
                return false;
            }
            if let Err(error) = process.meta.pin_cluster(claims.cluster) {
                // See `server`.
                if !error.is_full() {
                    self.disk_failed(target.machine, &error);
                }
                return false;
            }
        }
        let process = self.at(target);
        let messages = vec![message];
        let bytes = encoded_bytes(&messages);
        let bound = (standing == Standing::Bound).then_some(claims.incarnation);
        let taken = process.inbox.receive(messages, bytes, bound);
        self.wake(target.machine);
        taken
    }

    pub fn end_transfer(&mut self, number: u64, ok: bool) {
        if let Some(transfer) = self.network.transfers.under_way.remove(&number) {
            let (from, to) = (transfer.from, transfer.to);
            let peer = transfer.message.to;
            drop(transfer);
            self.transferred(from, to, peer, ok);
        }
    }

    fn transferred(&mut self, from: Target, to: Target, peer: u64, ok: bool) {
        if self.machines[to.machine].epoch == to.epoch
            && let Some(process) = self.process(to.machine)
        {
            process.receiving = false;
        }
        // The answer may be lost.
        let cut = self.network.is_cut(to.machine, from.machine);
        let late = self.plan.late_reports;
        let delay = match late > 0 && self.random.chance(late) {
            true => self.random.between(50 * MILLISECOND, SECOND),
            false => self.network.delay(&mut self.random),
        };
        self.after(delay, Event::Report(from, peer, ok && !cut));
    }

    pub fn report(&mut self, target: Target, to: u64, ok: bool) {
        self.at(target).sending.remove(&to);
        self.notice(target.machine, Notice::SnapshotSent { to, ok });
    }
}
