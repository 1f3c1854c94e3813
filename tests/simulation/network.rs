//! The network: connections with their handshakes, messages on them, snapshot transfers.
//!
//! Worse than TCP: messages are also reordered and doubled within a connection. As with TCP, nothing reaches a
//! process that a message was not sent to: a connection ends with the process at its far end. Handshakes, and what
//! is judged again with every message, are those of the transport itself.

use crate::disk::Random;
use crate::oracle;
use crate::world::{Event, MILLISECOND, SECOND, Target, World};
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};
use raftkvd::command::ReplicatedState;
use raftkvd::inbox::{Notice, Verdict, encoded_bytes};
use raftkvd::storage::{DiskError, ReceiveError, SnapshotMeta, SnapshotSink, SnapshotSource};
use raftkvd::transport::handshake::Claims;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

#[derive(Default)]
pub struct Network {
    /// Nothing gets from the first machine to the second. Counted, for faults overlap.
    pub cut: BTreeMap<(usize, usize), u32>,
    pub weather: Weather,
    links: BTreeMap<(usize, usize), Link>,
    dial_after: BTreeMap<(usize, usize), u64>,
    transfers: BTreeMap<u64, Transfer>,
    next_transfer: u64,
}

/// What happens to messages, per 1000.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    pub loss: u64,
    pub doubling: u64,
    /// Longest delay that is usual.
    pub delay: u64,
    /// Messages that take much longer.
    pub stragglers: u64,
}

impl Default for Weather {
    fn default() -> Weather {
        Weather {
            loss: 0,
            doubling: 0,
            delay: MILLISECOND,
            stragglers: 0,
        }
    }
}

/// A connection from one process to another.
struct Link {
    from: Target,
    to: Target,
    /// As they were accepted.
    claims: Arc<Claims>,
}

/// An attempt to connect.
pub struct Dial {
    pub place: usize,
    pub peer: u64,
    /// There was a connection before.
    lost: bool,
}

/// A message on its way.
pub struct Delivery {
    from: usize,
    claims: Arc<Claims>,
    /// This one alone, as the inbox takes it.
    message: Vec<Message>,
}

impl Delivery {
    pub fn digest(&self) -> u64 {
        let m = &self.message[0];
        let (kind, log_term) = (m.get_msg_type() as u8, m.log_term);
        let entries = m.entries.len();
        oracle::hash(&(
            (m.from, m.to, m.term, kind, m.index),
            (log_term, m.commit, entries, m.reject),
        ))
    }
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

/// There is no connection.
struct NoLink;

impl Network {
    pub fn of(weather: Weather) -> Network {
        Network {
            weather,
            ..Network::default()
        }
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut.contains_key(&(from, to))
    }

    fn delay(&self, random: &mut Random) -> u64 {
        match random.chance(self.weather.stragglers) {
            true => random.between(MILLISECOND, SECOND),
            false => random.between(self.weather.delay / 10, self.weather.delay),
        }
    }
}

impl World {
    pub fn send(&mut self, from: Target, messages: Vec<Message>) {
        for message in messages {
            // Handshakes write to the disk, which may end the process.
            let Some(process) = self.machines[from.machine].process.as_ref() else {
                return;
            };
            if self.machines[from.machine].epoch != from.epoch {
                return;
            }
            let life = process.life();
            if message.get_msg_type() == MessageType::MsgRequestVoteResponse && !message.reject {
                let (by, to, term) = (message.from, message.to, message.term);
                self.tell(|| format!("member {by} votes for member {to} in term {term}"));
            }
            self.oracle.sends(&message, life);
            let place = process.url(message.to).map(World::machine_at);
            let to = message.to;
            let snapshot = message.get_msg_type() == MessageType::MsgSnapshot;
            match place {
                Some(place) if snapshot => self.send_snapshot(from, place, message),
                Some(place) => self.send_message(from, place, message),
                None if snapshot => {
                    let ok = false;
                    self.notice(from.machine, Notice::SnapshotSent { to, ok });
                }
                None => self.notice(from.machine, Notice::Unreachable(to)),
            }
        }
    }

    fn send_message(&mut self, from: Target, place: usize, message: Message) {
        let to = message.to;
        let pair = (from.machine, place);
        let link = self.network.links.get(&pair);
        let valid = |link: &&Link| {
            link.from == from && link.to == self.target(place) && link.claims.to == to
        };
        let mut delay = 0;
        if link.filter(valid).is_none() {
            self.network.links.remove(&pair);
            delay = 2 * self.network.weather.delay;
            if self.dial(from, place, to).is_err() {
                return self.notice(from.machine, Notice::Unreachable(to));
            }
        }
        let (loss, doubling) = (self.network.weather.loss, self.network.weather.doubling);
        if self.random.chance(loss) {
            self.count("messages lost");
            if self.random.chance(500) {
                self.notice(from.machine, Notice::Unreachable(to));
            }
            return;
        }
        let link = &self.network.links[&pair];
        let (target, claims) = (link.to, link.claims.clone());
        // Raft-rs takes a question that comes twice for two, and an answer to the first for one to the second: reads would be
        // stale. On one connection of TCP nothing comes twice, and each attempt of a round has a context of its own.
        let may_come_twice = message.get_msg_type() != MessageType::MsgReadIndex;
        let copies = 1 + usize::from(self.random.chance(doubling) && may_come_twice);
        if copies > 1 {
            self.count("messages doubled");
        }
        for message in std::iter::repeat_n(message, copies) {
            let delivery = Delivery {
                from: from.machine,
                claims: claims.clone(),
                message: vec![message],
            };
            let delay = delay + self.network.delay(&mut self.random);
            self.after(delay, Event::Deliver(target, Box::new(delivery)));
        }
    }

    /// A process dials all that it knows of, whether or not it has something to say.
    pub fn dial_all(&mut self, from: Target) {
        let process = self.process(from.machine).expect("it was just started");
        let peers: Vec<(u64, usize)> = process.peers().collect();
        // The command line of a joiner also names members that are no more.
        let there = |(_, place): &(u64, usize)| *place < self.machines.len();
        let peers: Vec<_> = peers.into_iter().filter(there).collect();
        for (peer, place) in peers {
            let delay = self.network.delay(&mut self.random);
            let lost = false;
            self.after(delay, Event::Dial(from, Dial { place, peer, lost }));
        }
    }

    /// A process has learned when and where it was added: it says so to everybody, on new connections.
    pub fn introduce(&mut self, from: Target) {
        self.network.links.retain(|_, link| link.from != from);
        self.dial_all(from);
    }

    /// A process has ended: those that were connected to it notice, unless the news can't reach them.
    pub fn hang_up(&mut self, ended: Target) {
        let broken = |link: &Link| link.to == ended;
        let links: Vec<_> = self
            .network
            .links
            .values()
            .filter(|link| broken(link))
            .collect();
        let peers: Vec<_> = links
            .iter()
            .map(|link| (link.from, link.claims.to))
            .collect();
        self.network.links.retain(|_, link| !broken(link));
        for (from, peer) in peers {
            if !self.network.is_cut(ended.machine, from.machine) {
                self.redial(from, ended.machine, peer);
            }
        }
    }

    /// The members that a process knows have changed: it ends the connections of those that it does not accept any more, and
    /// they learn why when they dial again.
    pub fn judge_again(&mut self, to: Target) {
        let Some(process) = self.machines[to.machine].process.as_ref() else {
            return;
        };
        let links = self.network.links.values();
        let refused = links.filter(|link| link.to == to && process.judge(&link.claims).is_err());
        let refused: Vec<_> = refused.map(|link| (link.from, link.claims.to)).collect();
        for (from, peer) in refused {
            self.count("connections ended by a change of members");
            self.network.links.remove(&(from.machine, to.machine));
            self.redial(from, to.machine, peer);
        }
    }

    fn redial(&mut self, from: Target, place: usize, peer: u64) {
        let delay = self.network.delay(&mut self.random);
        let lost = true;
        self.after(delay, Event::Dial(from, Dial { place, peer, lost }));
    }

    /// Dials until there is a connection. A host that is up and on which nothing runs refuses.
    pub fn dialed(&mut self, from: Target, mut dial: Dial) {
        let Dial { place, peer, .. } = dial;
        let (pair, to) = ((from.machine, place), self.target(place));
        let connected = |link: &Link| link.from == from && link.to == to;
        let known = self
            .process(from.machine)
            .is_some_and(|p| p.peers().any(|p| p == (peer, place)));
        if !known || self.network.links.get(&pair).is_some_and(connected) {
            return;
        }
        let cut =
            self.network.is_cut(from.machine, place) || self.network.is_cut(place, from.machine);
        let machine = &self.machines[place];
        if machine.process.is_none() && !machine.dark && !cut && std::mem::take(&mut dial.lost) {
            self.count("processes found gone");
            self.notice(from.machine, Notice::Gone(peer));
        }
        if self.dial(from, place, peer).is_err() {
            let pause = self.random.between(20 * MILLISECOND, SECOND);
            self.after(pause, Event::Dial(from, dial));
        }
    }

    /// Connections to a process that lives are refused for a moment: by a proxy that restarts, say.
    pub fn flap(&mut self, place: usize) {
        let to = self.target(place);
        let links = self.network.links.values().filter(|link| link.to == to);
        let peers: Vec<_> = links.map(|link| (link.from, link.claims.to)).collect();
        for (from, peer) in peers {
            if self.target(from.machine) != from || self.random.chance(300) {
                continue;
            }
            self.network.links.remove(&(from.machine, place));
            self.count("processes wrongly found gone");
            self.notice(from.machine, Notice::Gone(peer));
            self.redial(from, place, peer);
        }
    }

    /// Connects, at most once in a while, and remembers the connection.
    fn dial(&mut self, from: Target, place: usize, to: u64) -> Result<(), NoLink> {
        let pair = (from.machine, place);
        if self.network.dial_after.get(&pair) > Some(&self.now) {
            return Err(NoLink);
        }
        let pause = self.random.between(20 * MILLISECOND, 200 * MILLISECOND);
        self.network.dial_after.insert(pair, self.now + pause);
        let claims = self.shake_hands(from, place, to)?;
        self.network.dial_after.remove(&pair);
        self.notice(from.machine, Notice::Connected(to));
        let link = Link {
            from,
            to: self.target(place),
            claims: Arc::new(claims),
        };
        self.network.links.insert(pair, link);
        Ok(())
    }

    /// Both ends judge the other: gives the claims of the one that dials, as they were accepted.
    fn shake_hands(&mut self, from: Target, place: usize, to: u64) -> Result<Claims, NoLink> {
        if self.network.is_cut(from.machine, place) || self.network.is_cut(place, from.machine) {
            return Err(NoLink);
        }
        let Some(process) = self.machines.get(place).and_then(|m| m.process.as_ref()) else {
            return Err(NoLink);
        };
        if self.machines[place].paused_until > self.now {
            return Err(NoLink);
        }
        let dialing = self.machines[from.machine].process.as_ref();
        let mut claims = dialing.expect("it is sending").claims(to);
        let by = process.id;
        let by_leader = process.leader == process.id;
        let accepted = match process.admit(&claims) {
            Err(error) => {
                self.disk_failed(place, &error);
                return Err(NoLink);
            }
            Ok(Err(reason)) => {
                self.count("refusals");
                let verdict = Verdict {
                    by,
                    by_leader,
                    reason,
                };
                self.notice(from.machine, Notice::Refused(verdict));
                return Err(NoLink);
            }
            Ok(Ok(accepted)) => accepted,
        };
        claims.added_index = accepted.life;
        let process = self.process(place).expect("it has just answered");
        process.welcome(&claims, &accepted);
        let answer = process.claims(claims.from);
        if answer.from != to {
            return Err(NoLink);
        }
        let dialing = self.machines[from.machine].process.as_ref();
        match dialing.expect("it is sending").admit(&answer) {
            Err(error) => {
                self.disk_failed(from.machine, &error);
                Err(NoLink)
            }
            Ok(Err(_)) => Err(NoLink),
            Ok(Ok(_)) => Ok(claims),
        }
    }

    pub fn deliver(&mut self, target: Target, delivery: Delivery) {
        let Delivery {
            from,
            claims,
            message,
        } = delivery;
        if self.network.is_cut(from, target.machine) {
            self.count("messages lost");
            return;
        }
        let process = self.process(target.machine).expect("it was looked for");
        if process.judge(&claims).is_err() {
            self.network.links.remove(&(from, target.machine));
            return;
        }
        let bytes = encoded_bytes(&message);
        process.inbox.receive(message, bytes);
        self.wake(target.machine);
    }

    // ---- snapshots ----

    fn send_snapshot(&mut self, from: Target, place: usize, message: Message) {
        let to = message.to;
        match self.begin_transfer(from, place, message) {
            Some(transfer) => {
                self.count("snapshot transfers");
                let sending = self.process(from.machine).map(|p| &mut p.sending);
                sending.expect("it is sending").insert(to);
                let target = self.network.transfers[&transfer].to;
                let delay = self.network.delay(&mut self.random);
                self.after(delay, Event::Piece(target, transfer));
            }
            None => {
                let delay = self.network.delay(&mut self.random);
                self.after(delay, Event::Report(from, to, false));
            }
        }
    }

    fn begin_transfer(&mut self, from: Target, place: usize, message: Message) -> Option<u64> {
        let metadata = message.get_snapshot().get_metadata();
        let process = self.process(from.machine)?;
        if process.sending.contains(&message.to) {
            return None;
        }
        let source = process.snapshots.open(metadata.index, metadata.term).ok()?;
        let claims = self.shake_hands(from, place, message.to).ok()?;
        let to = self.target(place);
        let process = self.process(place)?;
        if std::mem::replace(&mut process.receiving, true) {
            return None;
        }
        let sink = match process.snapshots.receive(process.meta.cluster()) {
            Ok(sink) => sink,
            Err(error) => {
                process.receiving = false;
                self.receiving_failed(to, &error);
                return None;
            }
        };
        let cut_at = match self.random.chance(self.plan.cut_transfers) {
            true => self.random.below(source.bytes + 1),
            false => u64::MAX,
        };
        self.network.next_transfer += 1;
        let number = self.network.next_transfer;
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
        self.network.transfers.insert(number, transfer);
        Some(number)
    }

    /// The next piece of a snapshot arrives.
    pub fn piece(&mut self, number: u64) {
        let Some(mut transfer) = self.network.transfers.remove(&number) else {
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
                let ok = self.finish_transfer(
                    &mut transfer.message,
                    transfer.sink,
                    &transfer.claims,
                    target,
                );
                self.transferred(transfer.from, target, transfer.message.to, ok);
            }
            Some(count) => {
                let written = transfer.sink.write(&buffer[..count]);
                self.network.transfers.insert(number, transfer);
                match written {
                    Ok(()) => {
                        let delay = self.network.delay(&mut self.random);
                        self.after(delay, Event::Piece(target, number));
                    }
                    Err(error) => {
                        self.receiving_failed(target, &error);
                        self.end_transfer(number, false);
                    }
                }
            }
            None => {
                self.count("snapshot transfers cut");
                self.network.transfers.insert(number, transfer);
                self.end_transfer(number, false);
            }
        }
    }

    /// Everything has arrived: true when the file is whole, durable and handed on.
    fn finish_transfer(
        &mut self,
        message: &mut Message,
        sink: SnapshotSink,
        claims: &Claims,
        target: Target,
    ) -> bool {
        match sink.finish(&promised(message)) {
            Ok(()) => {}
            Err(ReceiveError::Disk(error)) => {
                self.receiving_failed(target, &error);
                return false;
            }
            Err(error @ ReceiveError::Invalid(_)) => panic!("{error}"),
        };
        let process = self.process(target.machine).expect("it was looked for");
        if process.judge(claims).is_err() {
            return false;
        }
        let messages = vec![message.clone()];
        let bytes = encoded_bytes(&messages);
        let taken = process.inbox.receive(messages, bytes);
        self.wake(target.machine);
        taken
    }

    /// A full disk is no reason to end: see `server.rs`.
    fn receiving_failed(&mut self, target: Target, error: &DiskError) {
        if error.source.kind() != io::ErrorKind::StorageFull {
            self.disk_failed(target.machine, error);
        }
    }

    pub fn end_transfer(&mut self, number: u64, ok: bool) {
        if let Some(transfer) = self.network.transfers.remove(&number) {
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
        let process = self.process(target.machine).expect("it was looked for");
        process.sending.remove(&to);
        self.notice(target.machine, Notice::SnapshotSent { to, ok });
    }
}
