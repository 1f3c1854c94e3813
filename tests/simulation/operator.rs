//! The operator: adds members, removes them, starts those that were added, and repairs those that have lost their
//! memory, as the book says: removed, emptied, and added, as a member that is started when it was added, or as one that
//! asks for that itself.
//!
//! What the operator is told is held against what the members have published.

use crate::clients::DEADLINE_TICKS;
use crate::disk::Random;
use crate::lives::{Memory, Role};
use crate::plan::Changes;
use crate::world::{Event, MILLISECOND, Target, World};
use futures_channel::oneshot;
use raftkvd::channels::status::ClosedKind;
use raftkvd::command::outcome::{Outcome, Refusal};
use raftkvd::command::proposal::Proposal;
use raftkvd::command::{Command, Kind};
use raftkvd::members::Members;
use raftkvd::peer_url::PeerUrl;
use std::collections::BTreeMap;

pub struct Operator {
    pub random: Random,
    /// Steps so far.
    pub number: u64,
    asked: Vec<Asked>,
    /// The logs were looked into: the cluster had formed, or was about to.
    pub leaves_alone: bool,
    /// A removal may yet be carried out, and nobody will tell.
    in_doubt: bool,
}

/// A request that is not answered yet.
struct Asked {
    command: Command,
    answer: oneshot::Receiver<Outcome>,
    /// Memberships that were published before.
    since: usize,
    by: Target,
}

impl Operator {
    pub fn new(seed: u64) -> Operator {
        Operator {
            random: Random(seed),
            number: 0,
            asked: Vec::new(),
            leaves_alone: false,
            in_doubt: false,
        }
    }
}

impl World {
    /// The operator's next step.
    pub fn admin(&mut self) {
        if self.clients.stopped {
            return;
        }
        let pause = self.plan.operator_pause;
        let delay = self.operator.random.between(200 * MILLISECOND, pause);
        self.after(delay, Event::Admin);
        self.operator.number += 1;
        // What a step draws must not change those behind it, should it be left out.
        let next = self.operator.random.next();
        if !self.setup.cuts.steps.contains(&self.operator.number) {
            self.start_members();
            self.read_answers();
            self.renew_lines();
            self.let_joiners_ask();
            self.tell_moves();
            let is_busy = self.rescue_formation() || self.repair();
            if !is_busy && self.formed_at.is_some() && !self.move_members() {
                self.change_members();
            }
        }
        self.operator.random.0 = next;
    }

    fn change_members(&mut self) {
        let members = self.oracle.told_members();
        let count = members.members.len();
        let removes = match self.plan.changes {
            Changes::None => return,
            Changes::Grow if count >= self.plan.members_max => return,
            Changes::Grow => false,
            Changes::Alternate => count > 1,
            Changes::Any => self.operator.random.below(5) < count as u64,
        };
        if removes {
            let ids: Vec<u64> = members.members.keys().copied().collect();
            if let Some(id) = (!ids.is_empty()).then(|| *self.operator.random.pick(&ids)) {
                self.ask_to_remove(id);
            }
        } else if !members.members.is_empty() {
            let (place, asks) = self.addition(&members);
            if !asks {
                let machine = &self.machines[place];
                let (id, url) = (machine.id, machine.url.clone());
                self.ask_to_add(id, &url, 0);
            }
        }
    }

    fn ask_to_remove(&mut self, id: u64) {
        let mut command = Command::new();
        command.kind = Kind::RemoveMember;
        command.member_id = id;
        self.count("removals asked for");
        self.propose_change(command);
    }

    /// By hand the incarnation is open: 0.
    fn ask_to_add(&mut self, id: u64, url: &PeerUrl, incarnation: u64) {
        let mut command = Command::new();
        command.kind = Kind::AddMember;
        command.member_id = id;
        command.member_url = url.to_string();
        command.member_incarnation = incarnation;
        self.count("additions asked for");
        self.propose_change(command);
    }

    pub fn propose_change(&mut self, command: Command) {
        let places: Vec<usize> = (0..self.machines.len())
            .filter(|place| self.is_open(*place))
            .collect();
        if places.is_empty() {
            return;
        }
        let place = *self.operator.random.pick(&places);
        // What is asked again and again is told once.
        let newest = self.operator.asked.last();
        let is_news = newest.is_none_or(|newest| newest.command != command);
        self.tell_if(is_news, || {
            let (kind, id) = (command.kind, command.member_id);
            format!(
                "operator: {kind:?} {id} {} through machine {place}",
                command.member_url
            )
        });
        let (reply, answer) = oneshot::channel();
        let since = self.oracle.memberships();
        self.operator.asked.push(Asked {
            command: command.clone(),
            answer,
            since,
            by: self.target(place),
        });
        let process = self.process(place).expect("it was looked for");
        process.inbox.propose(Proposal {
            command,
            deadline_ticks: DEADLINE_TICKS,
            reply,
        });
        self.wake(place);
    }

    /// Some of the operator's requests are not answered yet.
    pub fn operator_waits(&self) -> bool {
        !self.operator.asked.is_empty()
    }

    /// A success has to be one: since it was asked for, the members were such.
    pub fn read_answers(&mut self) {
        for mut asked in std::mem::take(&mut self.operator.asked) {
            match asked.answer.try_recv() {
                Ok(None) => self.operator.asked.push(asked),
                // It may have ended in the midst of the pass that answered: what that pass published nobody has seen.
                Ok(Some(Outcome::Applied { .. })) if self.target(asked.by.machine) != asked.by => {
                    self.count("changes of members answered at the end");
                }
                Ok(Some(Outcome::Applied { index })) => {
                    self.count("changes of members answered");
                    let (id, kind) = (asked.command.member_id, asked.command.kind);
                    let url = asked.command.member_url.as_str();
                    let incarnation = asked.command.member_incarnation;
                    let is_so = |members: &Members| match members.members.get(&id) {
                        Some(member) => {
                            let open = incarnation == 0 || member.incarnation == 0;
                            kind != Kind::RemoveMember
                                && member.url.to_string() == url
                                && (open || member.incarnation == incarnation)
                        }
                        None => kind == Kind::RemoveMember,
                    };
                    // Only the last table that a pass of the loop publishes is seen. A later change follows a settled
                    // one. A sole voter can settle an addition, and the removal that waits for it, in one pass.
                    let is_over = |members: &Members| {
                        let newest = members.unsettled.as_ref();
                        let row = members.members.get(&id);
                        newest.is_some_and(|newest| newest.index > index)
                            || row.is_some_and(|row| row.added_index > index)
                            || members
                                .removed
                                .get(&id)
                                .is_some_and(|removed| *removed > index)
                    };
                    assert!(
                        self.oracle
                            .was_published(asked.since, |m| is_so(m) || is_over(m)),
                        "{kind:?} {id} {url} was answered as carried out at {index}, and no members are so"
                    );
                    // Who is told that a removal succeeded may take the disk away that the rest still needs; and who is
                    // told of an addition that it is there for good.
                    let is_settled = |members: &Members| {
                        let newest = members.unsettled.as_ref();
                        is_so(members) && newest.is_none_or(|n| (n.kind, n.member) != (kind, id))
                    };
                    assert!(
                        self.oracle
                            .was_published(asked.since, |m| is_settled(m) || is_over(m)),
                        "{kind:?} {id} {url} was answered as carried out at {index}, before it was settled"
                    );
                    match kind {
                        Kind::MoveMember => self.stops_telling(url),
                        _ => self.stops_asking(id),
                    }
                }
                Ok(Some(Outcome::Refused(
                    Refusal::IdTaken(_) | Refusal::UrlTaken(_) | Refusal::OtherIncarnation,
                ))) => self.stops_asking(asked.command.member_id),
                Ok(Some(Outcome::Refused(_) | Outcome::NotProposed(_))) => {}
                Ok(Some(_)) | Err(_) => {
                    self.operator.in_doubt |= asked.command.kind == Kind::RemoveMember;
                }
            }
        }
    }

    /// No member goes that the operator has asked to remove.
    pub fn no_removal_is_open(&self) -> bool {
        !self.operator.in_doubt && self.operator.asked.is_empty()
    }

    /// The cluster was told that a member has moved there.
    fn stops_telling(&mut self, url: &str) {
        let place = url.parse().map(|url| World::machine_at(&url));
        if let Ok(place) = place {
            let told = std::mem::replace(&mut self.machines[place].tells_move, false);
            self.lost -= u64::from(told);
        }
    }

    /// A joiner was told that it is a member, or never will be.
    fn stops_asking(&mut self, id: u64) {
        for machine in self.machines.iter_mut().filter(|machine| machine.id == id) {
            machine.asks = false;
        }
    }

    /// Joiners that run ask to be added, until they are answered or hear from the cluster.
    pub fn let_joiners_ask(&mut self) {
        for place in 0..self.machines.len() {
            let machine = &self.machines[place];
            let Some(process) = machine.process.as_ref().filter(|_| machine.asks) else {
                continue;
            };
            let (id, incarnation) = (machine.id, process.view.incarnation);
            let url = machine.url.clone();
            match process.view.is_empty() {
                true => self.ask_to_add(id, &url, incarnation),
                false => self.machines[place].asks = false,
            }
        }
    }

    /// The next step of a repair, if there is one to do.
    pub fn repair(&mut self) -> bool {
        if self.formed_at.is_none() {
            return false;
        }
        let members = self.oracle.told_members();
        for place in 0..self.machines.len() {
            self.look_for_another_life(place);
            let machine = &self.machines[place];
            let (id, url) = (machine.id, machine.url.clone());
            let row = members.members.get(&id);
            let is_member = row.is_some_and(|row| row.url == url);
            if machine.forsaken || machine.retired || machine.role != Role::Member {
                continue;
            }
            if machine.broken {
                match row {
                    Some(_) if is_member => self.ask_to_remove(id),
                    // Its id has gone to another machine.
                    Some(_) => self.machines[place].retired = true,
                    None => self.replace(place, &members),
                }
                return true;
            }
            if machine.to_be_added && !machine.ready && !is_member {
                self.ask_to_add(id, &url, 0);
                return true;
            }
        }
        false
    }

    /// A member that says that it was emptied, and has begun a cluster of its own.
    fn look_for_another_life(&mut self, place: usize) {
        let process = self.machines[place].process.as_ref();
        let closed = process.and_then(|process| process.inbox.closed());
        if closed.is_some_and(|closed| closed.kind == ClosedKind::OtherLife)
            && self.machines[place].memory != Memory::Intact
        {
            self.count("other lives noticed");
            self.tell(|| format!("operator: machine {place} is in another life"));
            self.machines[place].broken = true;
            self.kill(self.target(place));
        }
    }

    /// A member that was removed is emptied, and to be added again.
    fn replace(&mut self, place: usize, members: &Members) {
        self.count("members repaired");
        self.wipe(place);
        let asks = self.operator.random.chance(500);
        let machine = &mut self.machines[place];
        let (id, url) = (machine.id, machine.url.clone());
        machine.dials = known_to_joiner(members, id);
        machine.to_be_added = true;
        if asks {
            (machine.asks, machine.ready) = (true, true);
            self.start(place);
        } else {
            self.ask_to_add(id, &url, 0);
        }
    }

    /// One that waits, and was told of places at which nobody is any more, is started with the places of today: it says who
    /// it is only where it was told to dial, and to those that it hears of there.
    pub fn renew_lines(&mut self) {
        let members = self.oracle.told_members();
        for place in 0..self.machines.len() {
            let machine = &self.machines[place];
            let waits = machine.process.as_ref().is_some_and(|p| p.view.is_empty());
            let id = machine.id;
            if !waits || machine.role != Role::Member || machine.first_of.len() > 1 {
                continue;
            }
            let known = known_to_joiner(&members, id);
            let mut dials = machine.dials.iter();
            // The operator knows where a member was moved to also before the table does.
            let is_there = |id: u64, url: &PeerUrl| {
                let there = self.machines.get(World::machine_at(url));
                there.is_some_and(|m| m.id == id && m.role == Role::Member && !m.retired)
            };
            let is_good =
                |(id, url): (&u64, &PeerUrl)| known.get(id) == Some(url) || is_there(*id, url);
            let is_stale = match self.clients.stopped {
                true => machine.dials != known,
                false => !dials.any(is_good),
            };
            if is_stale && !known.is_empty() {
                self.count("lines renewed");
                self.machines[place].dials = known;
                self.ended(place);
                self.start(place);
            }
        }
    }

    /// Starts members that were added.
    pub fn start_members(&mut self) {
        let members = self.oracle.told_members();
        for (id, member) in &members.members {
            let place = World::machine_at(&member.url);
            let machine = &mut self.machines[place];
            if machine.id == *id {
                machine.to_be_added = false;
                if !machine.ready {
                    machine.ready = true;
                    self.start(place);
                }
            }
        }
    }

    /// Whom to add, and where: an id that was removed, or a new one, on a new machine or the wiped old one. Gives the
    /// machine, and whether it asks for that itself.
    fn addition(&mut self, members: &Members) -> (usize, bool) {
        // Not while a process of that id asks, or was let in without anybody having been told: it would be emptied.
        let comes = |id: &&u64| {
            self.machines.iter().any(|machine| {
                let process = machine.process.as_ref();
                let is_in = process.is_some_and(|process| !process.view.is_empty());
                machine.id == **id && (machine.asks || is_in)
            })
        };
        let again = members.removed.keys().filter(|id| !comes(id));
        let again: Vec<u64> = again.copied().collect();
        let random = &mut self.operator.random;
        let highest = members.members.keys().chain(&again).max();
        let id = match !again.is_empty() && random.chance(700) {
            true => *random.pick(&again),
            false => highest.map_or(1, |highest| highest + 1),
        };
        let used_again = random.chance(500);
        let is_early = random.chance(self.plan.early_joiners);
        let (asks, has_impostor) = (random.chance(500), random.chance(self.plan.impostors));
        let published = self.oracle.members();
        let own = |place: &usize| {
            let machine = &self.machines[*place];
            // Also by one that was let in, and nobody was told.
            let mut rows = members.members.values().chain(published.members.values());
            let in_use = rows.any(|m| m.url == machine.url);
            machine.id == id && !in_use && machine.role == Role::Member && !machine.forsaken
        };
        let own = (0..self.machines.len()).find(own);
        let place = match own.filter(|_| used_again) {
            Some(place) => {
                self.wipe(place);
                place
            }
            None => self.add_machine(id),
        };
        let dials = known_to_joiner(members, id);
        self.machines[place].dials = dials.clone();
        if has_impostor {
            self.begin_impostor(id, dials);
        }
        if is_early {
            self.count("joiners that run before they are added");
            self.machines[place].asks = asks;
            self.machines[place].ready = true;
            self.start(place);
        }
        (place, is_early && asks)
    }
}

/// What a joiner knows of the others: where the members are, and places at which nobody is for ids that are none.
fn known_to_joiner(members: &Members, id: u64) -> BTreeMap<u64, PeerUrl> {
    let known = members.members.iter();
    let mut known: BTreeMap<u64, PeerUrl> = known.map(|(id, m)| (*id, m.url.clone())).collect();
    for removed in members.removed.keys() {
        known.insert(*removed, World::url(60_000 + *removed as usize % 1_000));
    }
    known.remove(&id);
    known
}
