//! Processes that no operator asked for, and liars: strangers that know something of the cluster, claim to be somebody, and
//! say what no member would say.
//!
//! A liar knows no incarnation but its own, and often that of the member that it comes to, which is no secret among
//! peers. So it is let in at most as one that can't be judged yet. Whoever could
//! speak for a member could break any protocol of this kind, so a liar says nothing that a member might say in its place:
//! its terms, indexes and commit indexes are too high. While it is there it may hold the cluster up. But it ends nobody,
//! nothing that it proposes is written, and when it has gone everything goes on.

use crate::lives::Role;
use crate::oracle::LIE;
use crate::world::{Event, SECOND, Target, World};
use protobuf::Message as _;
use raft::eraftpb::{Entry, Message, MessageType};
use raftkvd::channels::inbox::encoded_bytes;
use raftkvd::command::{Batch, Command, Kind};
use raftkvd::identity::{Claims, Receiver, Standing};
use raftkvd::peer_url::PeerUrl;
use std::collections::BTreeMap;

/// What a stranger is about to say: it is thought up when it is said.
pub struct Lie {
    claims: Claims,
}

impl World {
    /// A process that nobody adds asks to join, under an id that nobody has.
    pub fn begin_strays(&mut self) {
        for number in 0..self.plan.strays {
            let id = 40 + number;
            let dials = self.machines[0].first_of.clone();
            let place = self.add_machine(id);
            let machine = &mut self.machines[place];
            machine.role = Role::Stray;
            machine.ready = true;
            machine.dials = dials;
            // Nobody is there.
            machine.dials.insert(39, World::url(60_000));
            let delay = self.faults.between(0, self.plan.duration);
            self.after(delay, Event::Start(place));
        }
    }

    /// A process of this id is started at another place than the one that is added.
    pub fn begin_impostor(&mut self, id: u64, dials: BTreeMap<u64, PeerUrl>) {
        let place = self.add_machine(id);
        let machine = &mut self.machines[place];
        machine.role = Role::Impostor;
        machine.ready = true;
        machine.dials = dials;
        self.count("impostors");
        self.tell(|| format!("machine {place} is started as member {id}, which nobody asked for"));
        let delay = self.faults.between(0, 2 * SECOND);
        self.after(delay, Event::Start(place));
    }

    /// A stranger comes to this machine, says who it is, and then a few things.
    pub fn liar(&mut self, place: usize) {
        let Some(process) = self.machines[place].process.as_ref() else {
            return;
        };
        let (me, applied) = (process.id, process.judges_up_to);
        let own = (process.meta.cluster(), process.view.incarnation);
        let members = self.oracle.told_members();
        let mut ids: Vec<u64> = members.members.keys().copied().collect();
        ids.extend(members.removed.keys());
        ids.push(77);
        ids.retain(|id| *id != me);
        let random = &mut self.faults;
        let from = *random.pick(&ids);
        let bound_index = match random.below(5) {
            0 => 0,
            1 => random.between(1, applied.max(1)),
            2 => u64::MAX,
            _ => applied + random.between(1, 1_000_000_000),
        };
        let cluster = match random.below(8) {
            0 => 0,
            1 => random.next(),
            _ => own.0,
        };
        let row = members.members.get(&from).map(|member| member.url.clone());
        let knows_receiver = random.chance(500);
        let receiver = (knows_receiver || random.chance(300)).then(|| Receiver {
            incarnation: match knows_receiver {
                true => own.1,
                false => random.next() | 1,
            },
            formed: random.chance(700),
            same_url: random.chance(700),
        });
        let claims = Claims {
            cluster,
            from,
            to: me,
            incarnation: random.next() | 1,
            bound_index,
            run: random.next(),
            // Nobody is there, or the true member is.
            url: match row.filter(|_| random.chance(300)) {
                Some(url) => url,
                None => World::url(50_000),
            },
            url_given: random.chance(500),
            version: 9,
            receiver,
            awaits: false,
        };
        self.count("liars");
        self.tell(|| format!("a stranger comes to machine {place}: {claims:?}"));
        let target = self.target(place);
        let Ok(Standing::Bound | Standing::Ahead) = self.hear(target, &claims) else {
            return;
        };
        self.count("liars let in");
        for _ in 0..self.faults.between(1, 12) {
            let delay = self.faults.below(3 * SECOND);
            let claims = claims.clone();
            self.after(delay, Event::Lie(target, Box::new(Lie { claims })));
        }
    }

    /// A stranger says something, if it is still let in.
    pub fn lie(&mut self, target: Target, lie: Lie) {
        if self.clients.stopped {
            return;
        }
        let from = lie.claims.from;
        match self.at(target).judge(&lie.claims) {
            Ok(Standing::Ahead) => self.count("lies"),
            Ok(Standing::Bound) => panic!("a stranger is believed to be member {from}"),
            _ => return self.count("liars found out"),
        }
        let message = self.falsehood(target, from);
        self.tell(|| {
            let (kind, term) = (message.get_msg_type(), message.term);
            let (index, commit) = (message.index, message.commit);
            format!(
                "a stranger, as member {from}, to machine {}: {kind:?} of term {term}, index {index}, commit {commit}",
                target.machine
            )
        });
        let cluster = self.at(target).meta.cluster();
        if let MessageType::MsgAppend | MessageType::MsgHeartbeat = message.get_msg_type() {
            self.oracle.of(cluster).is_told_a_lie(message.term, from);
        }
        let messages = vec![message];
        let bytes = encoded_bytes(&messages);
        self.at(target).inbox.receive(messages, bytes, None);
        self.wake(target.machine);
    }

    fn falsehood(&mut self, target: Target, from: u64) -> Message {
        let process = self.at(target);
        let (position, to) = (process.node().position(), process.id);
        let random = &mut self.faults;
        let far = [1000, 1 << 31, 1 << 33, 1 << 62, u64::MAX];
        let far = position.term.saturating_add(*random.pick(&far));
        // A cluster whose term gets there lets no joiner in any more: an empty member believes no term so high.
        let far = match far >> 32 {
            1 => position.term + 1000,
            _ => far,
        };
        let near = position.term + random.below(2);
        let any = if random.chance(500) { far } else { near };
        let behind = position.last + random.between(1, 1000);
        let huge = *random.pick(&[behind, 1 << 40, (1 << 62) + 1, u64::MAX - 1, u64::MAX]);
        let mut message = Message::default();
        (message.from, message.to) = (from, to);
        (message.term, message.index, message.commit) = (any, huge, huge);
        message.log_term = any;
        message.context = random.next().to_le_bytes().to_vec().into();
        let kind = match random.below(10) {
            0 => {
                // Near its own term it could help the true member to win an election that it must not win.
                message.term = far;
                MessageType::MsgRequestVote
            }
            1 => MessageType::MsgRequestPreVote,
            2 => MessageType::MsgHeartbeat,
            3 => {
                message.entries = vec![entry(huge, any, Vec::new())].into();
                MessageType::MsgAppend
            }
            4 => {
                message.reject = random.chance(300);
                message.reject_hint = huge;
                MessageType::MsgAppendResponse
            }
            5 => MessageType::MsgHeartbeatResponse,
            6 => {
                message.entries = vec![entry(0, 0, proposal(from, random.next()))].into();
                MessageType::MsgPropose
            }
            7 => {
                let context = random.next().to_le_bytes().to_vec();
                message.entries = vec![entry(0, 0, context)].into();
                MessageType::MsgReadIndex
            }
            8 => *random.pick(&[MessageType::MsgTimeoutNow, MessageType::MsgTransferLeader]),
            _ => {
                message.reject = true;
                MessageType::MsgRequestVoteResponse
            }
        };
        message.set_msg_type(kind);
        message
    }
}

pub fn entry(index: u64, term: u64, data: Vec<u8>) -> Entry {
    let mut entry = Entry::default();
    (entry.index, entry.term) = (index, term);
    entry.data = data.into();
    entry
}

/// A command of a far later start of this member than there was.
pub fn proposal(member: u64, incarnation: u64) -> Vec<u8> {
    let mut command = Command::new();
    command.kind = Kind::Put;
    command.sequence = 1 << 40;
    command.key = b"a/k2".to_vec().into();
    command.value = LIE.to_vec().into();
    let mut batch = Batch::new();
    (batch.member, batch.incarnation) = (member, incarnation);
    (batch.boot, batch.run) = (1 << 40, 1);
    batch.commands = vec![command].into();
    batch.write_to_bytes().expect("it is written to memory")
}
