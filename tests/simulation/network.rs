//! The network: connections with their handshakes, and messages on them. Snapshots travel in `transfers.rs`.
//!
//! Worse than TCP: messages are also reordered and doubled within a connection. As with TCP, nothing reaches a
//! process that a message was not sent to: a connection ends with the process at its far end. Handshakes follow the
//! transport (`src/transport`), and whom an end believes is decided by the code of the daemon, again with every message.

use crate::disk::Random;
use crate::keys::key_of;
use crate::oracle;
use crate::transfers::Transfers;
use crate::world::{Event, MILLISECOND, SECOND, Target, World};
use raft::eraftpb::{Message, MessageType};
use raftkvd::channels::inbox::encoded_bytes;
use raftkvd::channels::notice::{Met, Notice};
use raftkvd::identity::{Claims, Greeting, GreetingState, PeerAnswer, PeerRefusal, Standing};
use raftkvd::limits;
use raftkvd::members::fingerprint;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Default)]
pub struct Network {
    /// Nothing gets from the first machine to the second. Counted, for faults overlap.
    pub cut: BTreeMap<(usize, usize), u32>,
    pub weather: Weather,
    /// By the machine that has dialled, and the id at the other end.
    links: BTreeMap<(usize, u64), Link>,
    dial_after: BTreeMap<(usize, u64), u64>,
    /// Which of a peer's places comes next.
    turns: BTreeMap<(usize, u64), usize>,
    /// Processes that try until there is a connection, and to whom.
    dialing: BTreeSet<(Target, u64)>,
    pub transfers: Transfers,
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

/// As in the transport.
const GREETING_AGE_MAX: u64 = limits::PEER_GREETING_AGE_MAX.as_secs() * SECOND;

/// A connection from one process to another.
struct Link {
    from: Target,
    to: Target,
    /// Of the end that has dialled.
    claims: Arc<Claims>,
    /// Of the other end.
    answer: Arc<PeerAnswer>,
    /// The end that has dialled sends messages.
    open: bool,
    /// When the handshake was done.
    made: u64,
}

/// An attempt to connect.
pub struct Dial {
    pub peer: u64,
    /// Where the connection was that there was before.
    lost: Option<usize>,
}

/// The ends of a connection believe each other.
pub struct Handshake {
    pub to: Target,
    pub claims: Claims,
    pub answer: PeerAnswer,
    /// Of the end that has dialled, as the other one sees it.
    pub claimant: Standing,
    /// Of the other end, as the one sees it that has dialled.
    pub answerer: Standing,
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

/// There is no connection.
pub struct NoLink;

impl Network {
    pub fn of(weather: Weather) -> Network {
        Network {
            weather,
            ..Network::default()
        }
    }

    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut.contains_key(&(from, to))
    }

    pub fn delay(&self, random: &mut Random) -> u64 {
        match random.chance(self.weather.stragglers) {
            true => random.between(MILLISECOND, SECOND),
            false => random.between(self.weather.delay / 10, self.weather.delay),
        }
    }
}

impl World {
    pub fn send(&mut self, from: Target, messages: Vec<Message>) {
        for message in messages {
            let Some(process) = self.machines[from.machine].process.as_ref() else {
                return;
            };
            if self.machines[from.machine].epoch != from.epoch {
                return;
            }
            assert!(
                !process.node().members().members.is_empty() || has_no_power(&message),
                "a member without a table sends {message:?}"
            );
            if message.get_msg_type() == MessageType::MsgRequestVoteResponse && !message.reject {
                let (by, to, term) = (message.from, message.to, message.term);
                self.tell(|| format!("member {by} votes for member {to} in term {term}"));
            }
            self.oracle.of(process.meta.cluster()).sends(&message);
            match message.get_msg_type() {
                MessageType::MsgSnapshot => self.send_snapshot(from, message),
                _ => self.send_message(from, message),
            }
        }
    }

    fn send_message(&mut self, from: Target, message: Message) {
        let peer = message.to;
        let mut delay = 0;
        if !self.is_connected(from, peer) {
            delay = 2 * self.network.weather.delay;
            if self.dial(from, peer).is_err() {
                return self.notice(from.machine, Notice::Unreachable(peer));
            }
        }
        let key = (from.machine, peer);
        let link = &self.network.links[&key];
        let process = self.machines[from.machine].process.as_ref();
        let process = process.expect("it is sending");
        match process.judge_answer(&link.answer, link.to.machine) {
            Ok(Standing::Bound | Standing::Ahead) => {}
            Ok(Standing::Waiting) => {
                self.count("messages to members without power, dropped");
                return self.notice(from.machine, Notice::Unreachable(peer));
            }
            Err(_) => {
                self.drop_link(key);
                return self.notice(from.machine, Notice::Unreachable(peer));
            }
        }
        let (loss, doubling) = (self.network.weather.loss, self.network.weather.doubling);
        if self.random.chance(loss) {
            self.count("messages lost");
            if self.random.chance(500) {
                self.notice(from.machine, Notice::Unreachable(peer));
            }
            return;
        }
        let link = &self.network.links[&key];
        let (target, claims) = (link.to, link.claims.clone());
        let copies = 1 + usize::from(self.random.chance(doubling));
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

    /// The process has a connection to the process that runs as this peer.
    fn is_connected(&self, from: Target, peer: u64) -> bool {
        let link = self.network.links.get(&(from.machine, peer));
        link.is_some_and(|link| link.from == from && link.to == self.target(link.to.machine))
    }

    /// Where a process has reached a peer, or where it tries next.
    pub fn place_of(&self, from: Target, peer: u64) -> Option<usize> {
        let key = (from.machine, peer);
        let link = self.network.links.get(&key);
        if let Some(link) = link.filter(|link| link.from == from) {
            return Some(link.to.machine);
        }
        let process = self.machines[from.machine].process.as_ref()?;
        let places = process.places(peer);
        let turn = self.network.turns.get(&key).copied().unwrap_or(0);
        (!places.is_empty()).then(|| places[turn % places.len()])
    }

    /// Whom the processes dial, where, and what comes of it: for the story of a run that fails.
    pub fn describe_connections(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (number, machine) in self.machines.iter().enumerate() {
            let Some(process) = &machine.process else {
                continue;
            };
            for peer in process.peers() {
                let link = self.network.links.get(&(number, peer));
                let dials = self.network.dialing.contains(&(self.target(number), peer));
                let told = link.map(|link| {
                    let other = self.machines[link.to.machine].process.as_ref();
                    let taken = other.map(|other| other.judge(&link.claims));
                    let gives = process.judge_answer(&link.answer, link.to.machine);
                    let connected = self.is_connected(self.target(number), peer);
                    format!(
                        "to machine {}, {connected}: gives {gives:?}, taken {taken:?}",
                        link.to.machine
                    )
                });
                lines.push(format!(
                    "machine {number}, peer {peer} at {:?}, dials: {dials}, {}",
                    process.places(peer),
                    told.unwrap_or_else(|| "not connected".to_owned())
                ));
            }
        }
        lines
    }

    /// A process dials all that it knows of, whether or not it has something to say.
    pub fn dial_all(&mut self, from: Target) {
        let process = self.process(from.machine).expect("it runs");
        for peer in process.peers() {
            self.keep_dialing(from, peer, None);
        }
    }

    /// A process says something else of itself than before: it says so to everybody, on new connections.
    pub fn introduce(&mut self, from: Target) {
        self.network.links.retain(|_, link| link.from != from);
        self.dial_all(from);
    }

    /// A process has ended: those that were connected to it notice, unless the news can't reach them.
    pub fn hang_up(&mut self, ended: Target) {
        let links = self.network.links.iter();
        let broken = links.filter(|(_, link)| link.to == ended);
        let broken: Vec<_> = broken.map(|((_, peer), link)| (link.from, *peer)).collect();
        let network = &mut self.network;
        network
            .links
            .retain(|_, link| link.to != ended && link.from != ended);
        network.dialing.retain(|(from, _)| *from != ended);
        for (from, peer) in broken {
            if !self.network.is_cut(ended.machine, from.machine) {
                self.keep_dialing(from, peer, Some(ended.machine));
            }
        }
    }

    /// What a process knows of the members has changed: it judges all connections again, and dials those that are new.
    pub fn judge_again(&mut self, target: Target) {
        let Some(process) = self.machines[target.machine].process.as_ref() else {
            return;
        };
        let (mut refused, mut opened) = (Vec::new(), Vec::new());
        for (key, link) in &self.network.links {
            if link.to == target && process.judge(&link.claims).is_err() {
                refused.push(*key);
            } else if link.from == target {
                // An empty member lets nothing pass from those that do not name it.
                let url = World::url(link.to.machine);
                let says = process.claims_to_dial(key.1, &url);
                let named = |claims: &Claims| claims.receiver.map(|receiver| receiver.incarnation);
                // Claims that were sent before the other end was known do not prove the identity of the sender.
                let is_alias = says.incarnation != link.claims.incarnation;
                let is_outdated = named(&says) != named(&link.claims)
                    || !process.places(key.1).contains(&link.to.machine);
                match process.judge_answer(&link.answer, link.to.machine) {
                    Err(_) => refused.push(*key),
                    Ok(_) if is_alias => refused.push(*key),
                    Ok(Standing::Bound | Standing::Ahead) if !link.open => opened.push(*key),
                    Ok(Standing::Waiting) if is_outdated => refused.push(*key),
                    Ok(_) => {}
                }
            }
        }
        for key in refused {
            self.count("connections ended by a change of members");
            self.drop_link(key);
        }
        for key in opened {
            let link = self.network.links.get_mut(&key);
            link.expect("it was just there").open = true;
            self.notice(target.machine, Notice::Connected(key.1));
        }
        self.dial_all(target);
    }

    /// A connection ends, and the end that has dialled tries again.
    fn drop_link(&mut self, key: (usize, u64)) {
        if let Some(link) = self.network.links.remove(&key) {
            self.keep_dialing(link.from, key.1, Some(link.to.machine));
        }
    }

    /// Dials until there is a connection.
    fn keep_dialing(&mut self, from: Target, peer: u64, lost: Option<usize>) {
        let alive = self.target(from.machine) == from;
        if alive && !self.is_connected(from, peer) && self.network.dialing.insert((from, peer)) {
            let delay = self.network.delay(&mut self.random);
            self.after(delay, Event::Dial(from, Dial { peer, lost }));
        }
    }

    /// An attempt of a process that dials. A host that is up and on which nothing runs refuses.
    pub fn dialed(&mut self, from: Target, mut dial: Dial) {
        let peer = dial.peer;
        let knows = |process: &mut crate::process::Process| process.peers().contains(&peer);
        let known = self.process(from.machine).is_some_and(knows);
        if !known || self.is_connected(from, peer) {
            self.network.dialing.remove(&(from, peer));
            return;
        }
        if let Some(place) = dial.lost.take() {
            let cut = self.network.is_cut(from.machine, place)
                || self.network.is_cut(place, from.machine);
            let machine = &self.machines[place];
            if machine.process.is_none() && !machine.dark && !cut {
                self.count("processes found gone");
                self.notice(from.machine, Notice::Gone(peer));
            }
        }
        match self.dial(from, peer) {
            Ok(()) => drop(self.network.dialing.remove(&(from, peer))),
            Err(NoLink) => {
                let pause = self.random.between(20 * MILLISECOND, SECOND);
                self.after(pause, Event::Dial(from, dial));
            }
        }
    }

    /// Connections to a process that lives are refused for a moment: by a proxy that restarts, say.
    pub fn flap(&mut self, place: usize) {
        let to = self.target(place);
        let links = self.network.links.iter().filter(|(_, link)| link.to == to);
        let keys: Vec<_> = links.map(|(key, link)| (*key, link.from)).collect();
        for (key, from) in keys {
            if self.target(from.machine) != from || self.random.chance(300) {
                continue;
            }
            self.network.links.remove(&key);
            self.count("processes wrongly found gone");
            self.notice(from.machine, Notice::Gone(key.1));
            self.keep_dialing(from, key.1, None);
        }
    }

    /// Connects, at most once in a while, and remembers the connection.
    fn dial(&mut self, from: Target, peer: u64) -> Result<(), NoLink> {
        let key = (from.machine, peer);
        self.network.links.remove(&key);
        if self.network.dial_after.get(&key) > Some(&self.now) {
            return Err(NoLink);
        }
        let pause = self.random.between(20 * MILLISECOND, 200 * MILLISECOND);
        self.network.dial_after.insert(key, self.now + pause);
        let place = self.place_of(from, peer).ok_or(NoLink)?;
        let Ok(hands) = self.shake_hands(from, place, peer) else {
            *self.network.turns.entry(key).or_default() += 1;
            return Err(NoLink);
        };
        self.network.dial_after.remove(&key);
        let open = hands.answerer != Standing::Waiting;
        if open {
            self.notice(from.machine, Notice::Connected(peer));
        }
        let link = Link {
            from,
            to: hands.to,
            claims: Arc::new(hands.claims),
            answer: Arc::new(hands.answer),
            open,
            made: self.now,
        };
        self.network.links.insert(key, link);
        self.after(GREETING_AGE_MAX, Event::Stale(from, peer));
        Ok(())
    }

    /// A connection has reached its age. If no message may pass, or if its process has had no leader for long, that
    /// process dials all places of the peer again.
    pub fn end_stale(&mut self, from: Target, peer: u64) {
        let key = (from.machine, peer);
        let link = self.network.links.get(&key);
        let is_old = |link: &Link| link.made + GREETING_AGE_MAX <= self.now;
        let Some(link) = link.filter(|link| link.from == from && is_old(link)) else {
            return;
        };
        if link.open && !self.at(from).seeks_leader() {
            self.after(GREETING_AGE_MAX, Event::Stale(from, peer));
            return;
        }
        self.count("connections ended by their age");
        self.network.turns.remove(&key);
        self.drop_link(key);
    }

    /// Both ends judge the other, and each tells its node what it hears.
    pub fn shake_hands(
        &mut self,
        from: Target,
        place: usize,
        peer: u64,
    ) -> Result<Handshake, NoLink> {
        let cut =
            self.network.is_cut(from.machine, place) || self.network.is_cut(place, from.machine);
        let up = |machine: &crate::world::Machine| {
            machine.process.is_some() && machine.paused_until <= self.now
        };
        if cut || !self.machines.get(place).is_some_and(up) {
            return Err(NoLink);
        }
        let (to, url) = (self.target(place), World::url(place));
        let claims = self.at(from).claims_to_dial(peer, &url);
        let is_alias = claims.incarnation != self.at(from).view.incarnation;
        let claimant = match self.hear(to, &claims) {
            Ok(standing) => standing,
            Err(refusal) => {
                self.count("refusals");
                if !is_alias {
                    self.notice(from.machine, Notice::Refused(refusal));
                }
                return Err(NoLink);
            }
        };
        let answering = self.at(to);
        let answer = answering.view.answer(&claims, claimant, answering.leader);
        if answer.from() != peer {
            return Err(NoLink);
        }
        let process = self.at(from);
        let answerer = process.judge_answer(&answer, place).map_err(|_| NoLink)?;
        match &answer {
            PeerAnswer::Claims(said, leader) => {
                let leader = leader.clone().filter(|_| answerer == Standing::Bound);
                process.names_leader(peer, leader);
                process.welcome(said, answerer);
                let met = Met {
                    id: peer,
                    incarnation: said.incarnation,
                    bound_index: said.bound_index,
                    url,
                    dialled: true,
                    version: said.version,
                    key: key_of(said.incarnation),
                };
                self.notice(from.machine, Notice::Met(met));
            }
            PeerAnswer::Greeting(greeting) => self.greeted(from, to, peer, greeting),
        }
        if answer.leader().is_some() {
            self.dial_all(from);
        }
        Ok(Handshake {
            to,
            claims,
            answer,
            claimant,
            answerer,
        })
    }

    /// Somebody has answered, and did not say who it is.
    fn greeted(&mut self, from: Target, to: Target, peer: u64, greeting: &Greeting) {
        let process = self.at(from);
        match &greeting.state {
            GreetingState::Member(Some((leader, url))) if process.view.is_empty() => {
                process.list.insert(*leader, url.clone());
                self.dial_all(from);
            }
            GreetingState::Member(_) => {}
            GreetingState::Empty(print) => {
                // Has it come by itself, too?
                let id = process.id;
                let came = self.network.links.get(&(to.machine, id));
                let came = came.filter(|link| link.from == to && link.to == from);
                if came.is_some_and(|link| fingerprint(link.claims.incarnation) == *print) {
                    self.recognizes(from, to, peer);
                }
            }
        }
        let empty = matches!(greeting.state, GreetingState::Empty(_));
        self.notice(from.machine, Notice::Greeted { id: peer, empty });
    }

    /// Who has answered with the fingerprint of its incarnation is the one that has come with that incarnation.
    fn recognizes(&mut self, from: Target, to: Target, peer: u64) {
        let met = Met {
            id: peer,
            incarnation: self.at(to).view.incarnation,
            bound_index: 0,
            url: World::url(to.machine),
            dialled: true,
            version: 0,
            key: None,
        };
        self.notice(from.machine, Notice::Met(met));
    }

    /// Those that a process has greeted come again when it has another leader to name.
    pub fn names_leader(&mut self, target: Target) {
        let is_greeting =
            |link: &Link| link.to == target && matches!(*link.answer, PeerAnswer::Greeting(_));
        let links = self.network.links.iter();
        let greeted = links.filter(|(_, link)| is_greeting(link) && !link.open);
        let greeted: Vec<_> = greeted.map(|(key, _)| *key).collect();
        for key in greeted {
            self.drop_link(key);
        }
    }

    /// A process hears the claims of one that has dialled it.
    pub fn hear(&mut self, to: Target, claims: &Claims) -> Result<Standing, PeerRefusal> {
        let process = self.at(to);
        let view = &process.view;
        let against = PeerRefusal::of_claim(claims, view);
        let judged = process.judge(claims);
        let judged = judged.map_err(|reason| view.refusal(claims, reason, process.judges_up_to));
        match judged {
            Ok(standing) => process.welcome(claims, standing),
            Err(_) => process.forget(claims),
        }
        if let Some(against) = against {
            self.notice(to.machine, Notice::Refused(against));
        }
        if judged.is_ok() {
            let met = Met {
                id: claims.from,
                incarnation: claims.incarnation,
                bound_index: claims.bound_index,
                url: claims.url.clone(),
                dialled: false,
                version: claims.version,
                key: key_of(claims.incarnation),
            };
            if claims.url_given {
                self.notice(to.machine, Notice::Met(met));
            }
            self.may_recognize(to, claims);
            // It may be one that the process did not know.
            self.dial_all(to);
        }
        judged
    }

    /// One that has come may be the one that has answered with its fingerprint.
    fn may_recognize(&mut self, by: Target, claims: &Claims) {
        let link = self.network.links.get(&(by.machine, claims.from));
        let Some(link) = link.filter(|link| link.from == by) else {
            return;
        };
        let print = fingerprint(claims.incarnation);
        let answered = match &*link.answer {
            PeerAnswer::Greeting(greeting) => greeting.state == GreetingState::Empty(print),
            PeerAnswer::Claims(..) => false,
        };
        if answered {
            self.recognizes(by, link.to, claims.from);
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
        let process = self.at(target);
        let standing = process.judge(&claims);
        match standing {
            Ok(Standing::Bound | Standing::Ahead) => {
                let bytes = encoded_bytes(&message);
                let bound = standing == Ok(Standing::Bound);
                let sender = bound.then_some(claims.incarnation);
                process.inbox.receive(message, bytes, sender);
                self.wake(target.machine);
                if !bound {
                    self.count("messages of members that can't be judged yet");
                }
            }
            Ok(Standing::Waiting) => self.count("messages of members without power, dropped"),
            Err(_) => {
                let key = (from, process.id);
                let link = self.network.links.get(&key);
                if link.is_some_and(|link| link.to == target && Arc::ptr_eq(&link.claims, &claims))
                {
                    self.drop_link(key);
                }
            }
        }
    }
}

/// What an empty member may say: nothing that anybody counts on.
fn has_no_power(message: &Message) -> bool {
    match message.get_msg_type() {
        MessageType::MsgHeartbeatResponse => true,
        MessageType::MsgAppendResponse
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVoteResponse => message.reject,
        _ => false,
    }
}
