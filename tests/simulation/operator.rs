//! The operator: adds members, removes them, starts those that were added, and repairs those that have lost their
//! memory, as the README says: removed, emptied, added, started with `--join`.
//!
//! What the operator is told is held against what the members have published.

use crate::clients::DEADLINE_TICKS;
use crate::disk::Random;
use crate::lives::Role;
use crate::plan::Changes;
use crate::world::{Event, MILLISECOND, Target, World};
use futures_channel::oneshot;
use raftkvd::command::{Command, Kind};
use raftkvd::members::{Members, PeerUrl};
use raftkvd::proposal::{Outcome, Proposal};

pub struct Operator {
    random: Random,
    /// Steps so far.
    pub number: u64,
    asked: Vec<Asked>,
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
            if !self.repair() {
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
            let (id, url) = self.addition(&members);
            self.ask_to_add(id, &url);
        }
    }

    fn ask_to_remove(&mut self, id: u64) {
        let mut command = Command::new();
        command.kind = Kind::RemoveMember;
        command.member_id = id;
        self.count("removals asked for");
        self.propose_change(command);
    }

    fn ask_to_add(&mut self, id: u64, url: &PeerUrl) {
        let mut command = Command::new();
        command.kind = Kind::AddMember;
        command.member_id = id;
        command.member_url = url.to_string();
        self.count("additions asked for");
        self.propose_change(command);
    }

    fn propose_change(&mut self, command: Command) {
        let runs = |place: &usize| {
            let machine = &self.machines[*place];
            machine.process.is_some() && machine.role == Role::Member
        };
        let places: Vec<usize> = (0..self.machines.len()).filter(runs).collect();
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
                    let is_so = |members: &Members| match members.members.get(&id) {
                        Some(member) => kind == Kind::AddMember && member.url.to_string() == url,
                        None => kind == Kind::RemoveMember,
                    };
                    assert!(
                        self.oracle.was_published(asked.since, is_so),
                        "{kind:?} {id} {url} was answered as carried out at {index}, and no members are so"
                    );
                    // Who is told that a removal succeeded may take the disk away that the rest still needs.
                    let is_settled =
                        |members: &Members| is_so(members) && members.unsettled_removal != index;
                    assert!(
                        kind != Kind::RemoveMember
                            || self.oracle.was_published(asked.since, is_settled),
                        "the removal of {id} was answered as carried out at {index}, before it was settled"
                    );
                }
                Ok(Some(_)) | Err(_) => {}
            }
        }
    }

    /// The next step of a repair, if there is one to do.
    pub fn repair(&mut self) -> bool {
        let members = self.oracle.told_members();
        for place in 0..self.machines.len() {
            let machine = &self.machines[place];
            let (id, url) = (machine.id, machine.url.clone());
            let is_member = members.members.get(&id).is_some_and(|m| m.url == url);
            if machine.forsaken || machine.retired || machine.role != Role::Member {
                continue;
            }
            if machine.broken {
                if is_member {
                    self.ask_to_remove(id);
                } else {
                    self.count("members repaired");
                    self.wipe(place);
                    self.machines[place].join = true;
                    self.machines[place].to_be_added = true;
                    self.machines[place].initial = initial_of(&members, id, &url);
                    self.ask_to_add(id, &url);
                }
                return true;
            }
            if machine.to_be_added && !machine.ready && !is_member {
                self.ask_to_add(id, &url);
                return true;
            }
        }
        false
    }

    /// Starts members that were added.
    pub fn start_members(&mut self) {
        self.stop_orphans();
        let members = self.oracle.told_members();
        for (id, member) in &members.members {
            let place = World::machine_at(&member.url);
            let machine = &mut self.machines[place];
            machine.early = false;
            if !machine.ready && machine.id == *id {
                machine.ready = true;
                machine.to_be_added = false;
                self.start(place);
            }
        }
    }

    /// Stops processes that were removed before they learned that they had been added: nobody can tell them, and to
    /// others they look like the member that gets their id next.
    fn stop_orphans(&mut self) {
        let members = self.oracle.told_members();
        for place in 0..self.machines.len() {
            let machine = &mut self.machines[place];
            let member = members.members.get(&machine.id).map(|member| &member.url);
            let waits = machine.early || machine.role != Role::Member;
            if machine.ready && !machine.joined && !waits && member != Some(&machine.url) {
                machine.ready = false;
                self.kill(self.target(place));
            }
        }
    }

    /// Whom to add, and where: an id that was removed, or a new one, on a new machine or the wiped old one.
    fn addition(&mut self, members: &Members) -> (u64, PeerUrl) {
        let random = &mut self.operator.random;
        let again: Vec<u64> = members.removed.keys().copied().collect();
        let highest = members.members.keys().chain(&again).max();
        let id = match !again.is_empty() && random.chance(700) {
            true => *random.pick(&again),
            false => highest.map_or(1, |highest| highest + 1),
        };
        let used_again = random.chance(500);
        let (is_early, has_impostor) = (
            random.chance(self.plan.early_joiners),
            random.chance(self.plan.impostors),
        );
        let own = |place: &usize| {
            let machine = &self.machines[*place];
            let in_use = members.members.values().any(|m| m.url == machine.url);
            machine.id == id && !in_use && machine.role == Role::Member
        };
        let own = (0..self.machines.len()).find(own);
        let is_new = own.is_none() && !again.contains(&id);
        let place = match own.filter(|_| used_again) {
            // It runs already, and there must not be two of one id.
            _ if own.is_some_and(|own| self.machines[own].early) => own.expect("it runs"),
            Some(place) => {
                self.wipe(place);
                self.machines[place].join = true;
                place
            }
            None => self.add_machine(id, true, Members::default()),
        };
        let url = self.machines[place].url.clone();
        let initial = initial_of(members, id, &url);
        self.machines[place].initial = initial.clone();
        if has_impostor {
            self.begin_impostor(id, initial);
        }
        // One of an id that was used before could be taken for its predecessor by who has not heard of the removal.
        if is_early && is_new {
            self.count("joiners that run before they are added");
            self.machines[place].early = true;
            self.machines[place].ready = true;
            self.start(place);
        }
        (id, url)
    }
}

/// What the command line of a joiner says: the members, and places at which nobody is for ids that are none.
fn initial_of(members: &Members, id: u64, url: &PeerUrl) -> Members {
    let highest = members.members.keys().chain(members.removed.keys()).max();
    let ids = 1..=id.max(*highest.unwrap_or(&id));
    let urls: Vec<PeerUrl> = ids
        .map(|other| match members.members.get(&other) {
            _ if other == id => url.clone(),
            Some(member) => member.url.clone(),
            None => World::url(60_000 + other as usize),
        })
        .collect();
    Members::initial(&urls)
}
