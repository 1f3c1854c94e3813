//! Damage that outlives a process: lost disks, older copies put in their place, processes that no operator asked for,
//! strangers with false claims, and machines that never come back.
//!
//! A process that exits by itself must have a true reason: [`World::exit`] knows what really happened to each machine.

use crate::disk::FakeDisk;
use crate::network::Weather;
use crate::plan::{Changes, Known};
use crate::world::{Event, MILLISECOND, SECOND, Target, World};
use raftkvd::members::Members;
use raftkvd::node::Exit;
use raftkvd::transport::handshake::Claims;
use slog::info;

/// What a machine's disk holds, beside what its member has promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    Intact,
    /// The disk was lost, and the process was started on an empty disk with its old command line.
    Lost,
    /// An older copy of the disk has taken its place.
    Older,
}

/// What a machine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It is a member, or is to become one.
    Member,
    /// Nobody means to add it, and nobody has its id.
    Stray,
    /// It has the id of a member that was added at another URL.
    Impostor,
}

/// How many voters may lose their memory, or stay away, without the rest being stuck.
fn spare_voters(members: &Members) -> u64 {
    (members.voters().count() as u64).saturating_sub(1) / 2
}

impl World {
    /// The spare voters of every configuration that may be in force, less the voters that are gone already.
    fn spare(&self) -> u64 {
        let told = spare_voters(&self.oracle.told_members());
        let published = spare_voters(&self.oracle.members());
        told.min(published).saturating_sub(self.lost)
    }

    /// The machine is that of a voter, and in good health.
    fn is_sound_voter(&self, place: usize) -> bool {
        let machine = &self.machines[place];
        let at_its_place = |members: &Members| {
            let member = members.members.get(&machine.id);
            member.is_some_and(|member| member.url == machine.url && !member.learner)
        };
        machine.memory == Memory::Intact
            && !machine.broken
            && machine.role == Role::Member
            && at_its_place(&self.oracle.told_members())
            && at_its_place(&self.oracle.members())
    }

    /// Whether voters may lose their disks or stay away: if only repairs change the members, or if a known defect
    /// needs it.
    fn may_lose_voters(&self) -> bool {
        let meets = |known| self.setup.meets(known);
        match self.plan.changes {
            Changes::None => true,
            Changes::Grow => meets(Known::PromotionNotSettled) || meets(Known::FirstMemberServesOn),
            // Removing one voter while another is gone can lose the quorum.
            Changes::Any | Changes::Alternate => false,
        }
    }

    /// The disk of a voter is lost. It is started again by its old line, or not before it was removed and added.
    pub fn lose_disk(&mut self, place: usize) {
        if !self.may_lose_voters() || self.spare() == 0 || !self.is_sound_voter(place) {
            return;
        }
        let machine = &self.machines[place];
        let made_the_cluster = !machine.join && machine.initial.members.len() == 1;
        let meets = |known| self.setup.meets(known);
        let meets_strangers = meets(Known::FirstMeetingBelieved) || meets(Known::MatchAboveLast);
        let by_its_old_line = match made_the_cluster {
            true => meets(Known::FirstMemberServesOn),
            false => meets_strangers || self.all_have_met(place),
        } && self.faults.chance(600);
        self.lost += 1;
        self.count("disks lost");
        self.tell(|| {
            let how = if by_its_old_line {
                "is started by its old line"
            } else {
                "waits for repair"
            };
            format!("machine {place} loses its disk and {how}")
        });
        let disk = FakeDisk::new(self.faults.next());
        let machine = &mut self.machines[place];
        machine.disk = disk;
        machine.memory = Memory::Lost;
        machine.broken = !by_its_old_line;
        machine.copy = None;
        self.ended(place);
        if by_its_old_line {
            self.restart_later(place);
        }
        if meets_strangers {
            self.silence_another(place);
        }
    }

    /// Pauses another running machine for a while.
    fn silence_another(&mut self, place: usize) {
        let runs = |other: &usize| *other != place && self.machines[*other].process.is_some();
        let others: Vec<usize> = (0..self.machines.len()).filter(runs).collect();
        if !others.is_empty() {
            let other = *self.faults.pick(&others);
            let length = self.faults.between(SECOND, 6 * SECOND);
            self.machines[other].paused_until = self.now + length;
            self.tell(|| format!("machine {other} is paused"));
        }
    }

    /// All other members run and remember the incarnation that this machine has.
    fn all_have_met(&self, place: usize) -> bool {
        let id = self.machines[place].id;
        let Some(process) = self.machines[place].process.as_ref() else {
            return false;
        };
        let incarnation = process.meta.incarnation();
        let members = self.oracle.members();
        let others = members.members.iter().filter(|(other, _)| **other != id);
        let mut others = others.map(|(_, member)| World::machine_at(&member.url));
        others.all(|other| {
            let process = self.machines[other].process.as_ref();
            let pin = process.and_then(|process| process.meta.pinned(id));
            pin.is_some_and(|pin| pin.incarnation == incarnation)
        })
    }

    /// A copy of a disk is taken; or, later, put in its place.
    pub fn older_copy(&mut self, place: usize) {
        let machine = &mut self.machines[place];
        if machine.copy.is_none() {
            machine.copy = Some(machine.disk.after_kill());
            return;
        }
        let sound = self.is_sound_voter(place) && self.may_lose_voters() && self.spare() > 0;
        if !sound || !self.all_others_agree(place) {
            return;
        }
        self.lost += 1;
        self.count("older copies");
        self.tell(|| format!("machine {place} gets an older copy of its disk"));
        let machine = &mut self.machines[place];
        machine.disk = machine.copy.take().expect("it was looked for");
        machine.memory = Memory::Older;
        self.ended(place);
        self.restart_later(place);
    }

    /// All others run, follow one leader, and hold all that there is: so that nothing rests on this one's memory alone.
    fn all_others_agree(&self, place: usize) -> bool {
        let id = self.machines[place].id;
        let members = self.oracle.members();
        let mut agreed = None;
        members.members.iter().all(|(other, member)| {
            let machine = &self.machines[World::machine_at(&member.url)];
            let status = machine.process.as_ref().map(|p| p.node().status());
            *other == id
                || status.is_some_and(|status| {
                    let state = (status.term, status.leader, status.last, status.committed);
                    status.leader != 0
                        && status.leader != id
                        && status.last == status.committed
                        && *agreed.get_or_insert(state) == state
                })
        })
    }

    /// Somebody who knows the cluster's id claims to be a member in a later life, and goes away.
    pub fn stranger(&mut self, place: usize) {
        let incarnation = self.faults.next();
        let added_index = self.faults.between(1, 1_000_000_000);
        let ids: Vec<u64> = self.oracle.members().members.keys().copied().collect();
        let Some(process) = self.machines[place].process.as_ref() else {
            return;
        };
        let (cluster, to) = (process.meta.cluster(), process.id);
        let others: Vec<u64> = ids.into_iter().filter(|id| *id != to).collect();
        if others.is_empty() || cluster == 0 {
            return;
        }
        let claims = Claims {
            cluster,
            from: *self.faults.pick(&others),
            to,
            incarnation,
            added_index,
            // Nobody is there.
            url: Some(World::url(50_000)),
        };
        self.count("strangers");
        let admitted = self.machines[place]
            .process
            .as_ref()
            .map(|p| p.admit(&claims));
        match admitted {
            Some(Ok(Ok(accepted))) => {
                let process = self.process(place).expect("it has just answered");
                process.welcome(&claims, &accepted);
            }
            Some(Err(error)) => self.disk_failed(place, &error),
            Some(Ok(Err(_))) | None => {}
        }
    }

    /// A process that nobody adds asks to join, under an id that nobody has.
    pub fn begin_strays(&mut self) {
        for number in 0..self.plan.strays {
            let id = 40 + number;
            let initial = self.initial_with(id);
            let place = self.add_machine(id, true, initial);
            let machine = &mut self.machines[place];
            machine.role = Role::Stray;
            machine.ready = true;
            let delay = self.faults.between(0, self.plan.duration);
            self.after(delay, Event::Start(place));
        }
    }

    /// Of what a joiner of this id knows: the first members, and places at which nobody is.
    fn initial_with(&self, id: u64) -> Members {
        let first = &self.machines[0].initial.members;
        let urls = (1..=id).map(|other| match first.get(&other) {
            Some(member) => member.url.clone(),
            None => World::url(60_000 + other as usize),
        });
        Members::initial(&urls.collect::<Vec<_>>())
    }

    /// A process of this id is started at another place than the one that is added.
    pub fn begin_impostor(&mut self, id: u64, initial: Members) {
        let place = self.add_machine(id, true, initial);
        let machine = &mut self.machines[place];
        machine.role = Role::Impostor;
        machine.ready = true;
        self.count("impostors");
        self.tell(|| format!("machine {place} is started as member {id}, which nobody asked for"));
        let delay = self.faults.between(0, 2 * SECOND);
        self.after(delay, Event::Start(place));
    }

    /// Draws who does not come back, a minority at most.
    pub fn forsake(&mut self) {
        if !self.plan.forsakes || !self.may_lose_voters() {
            return;
        }
        let voters: Vec<usize> = (0..self.machines.len())
            .filter(|place| self.is_sound_voter(*place))
            .collect();
        for _ in 0..self.spare() {
            let place = *self.faults.pick(&voters);
            if !std::mem::replace(&mut self.machines[place].forsaken, true) {
                self.lost += 1;
                self.count("members that never come back");
                self.tell(|| format!("machine {place} never comes back"));
                if self.machines[place].process.is_some() {
                    self.power_off(place);
                }
            }
        }
    }

    /// A process exits by itself: the reason must be true.
    pub fn exit(&mut self, target: Target, exit: Exit) {
        let place = target.machine;
        info!(self.logger, "exit"; "machine" => place, "exit" => ?exit);
        self.tell(|| format!("machine {place} ends: {exit:?}"));
        let machine = &self.machines[place];
        let (id, memory, role) = (machine.id, machine.memory, machine.role);
        let is_true = match exit {
            Exit::Removed { index } => self.oracle.knows_life(id, index),
            Exit::Wiped { .. } => memory == Memory::Lost || role == Role::Impostor,
            // Or its id was removed, and added for another machine, before it was started for the first time.
            Exit::NeedsJoin { .. } => memory == Memory::Lost || self.oracle.was_added_later(id),
            Exit::LostLog { .. } => memory == Memory::Older,
        };
        assert!(
            is_true,
            "member {id} on machine {place} exits for an untrue reason: {exit:?} ({memory:?}, {role:?})"
        );
        if let Exit::Removed { index } = exit {
            self.count("ends by removal");
            let marked = self.at(target).meta.mark_removed(index);
            if let Err(error) = marked {
                return self.failed(target, &error);
            }
            self.machines[place].retired = true;
        } else {
            self.count("ends by a lost disk, noticed");
            self.machines[place].broken = true;
            self.machines[place].retired |= role == Role::Impostor;
        }
        self.kill(target);
    }

    /// Everything is well again, for good, but for those that never come back.
    pub fn heal(&mut self) {
        self.clients.stopped = true;
        self.plan.slow_threads = false;
        self.plan.cut_transfers = 0;
        self.plan.crashes_behind = None;
        self.plan.climate = Weather::default();
        self.network.weather = Weather::default();
        for at in 0..self.troubles.len() {
            self.recover(at);
        }
        for machine in &mut self.machines {
            machine.disk.clear_faults();
            machine.crashes_ahead = 0;
            machine.crashes_at_mark = false;
            if let Some(process) = &mut machine.process {
                process.crashes_behind(None);
            }
            machine.paused_until = 0;
        }
        self.tell(|| "all is well from now on".to_owned());
        if self.plan.ends_in_the_dark {
            for place in 0..self.machines.len() {
                if self.machines[place].process.is_some() {
                    self.power_off(place);
                }
            }
        }
        self.forsake();
        for place in 0..self.machines.len() {
            let delay = self.faults.between(0, 500 * MILLISECOND);
            self.after(delay, Event::Start(place));
        }
    }
}
