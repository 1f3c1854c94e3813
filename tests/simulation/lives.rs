//! Damage that outlives a process: lost disks, older copies put in their place, and machines that never come back.
//!
//! A process that exits by itself must have a true reason: [`World::exit`] knows what really happened to each machine.

use crate::clients::Wish;
use crate::disk::FakeDisk;
use crate::network::Weather;
use crate::plan::Changes;
use crate::world::{Event, MILLISECOND, Machine, SECOND, Target, World};
use raftkvd::identity::View;
use raftkvd::members::Members;
use raftkvd::node::Exit;
use raftkvd::peer_url::PeerUrl;
use slog::info;
use std::collections::BTreeMap;

/// What a machine's disk holds, beside what its member has promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    Intact,
    /// The disk was lost, and the process was started on an empty disk with its old command line.
    Lost,
    /// An older copy of the disk has taken its place.
    Older,
    /// The same, and that copy is from before the member was let in.
    BeforeLetIn,
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
    pub fn spare(&self) -> u64 {
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

    /// Whether voters may lose their disks or stay away: if only repairs remove members. Removing one voter while another is
    /// gone can lose the quorum.
    pub fn may_lose_voters(&self) -> bool {
        matches!(self.plan.changes, Changes::None | Changes::Grow)
    }

    /// The first members whose disks may be lost while the cluster forms.
    fn may_be_emptied_early(&self, place: usize) -> bool {
        let machine = &self.machines[place];
        let spare = (machine.first_of.len() as u64).saturating_sub(1) / 2;
        machine.memory == Memory::Intact && !machine.broken && self.lost < spare
    }

    /// The disk of a voter is lost. It is started again by its old line, or not before it was removed and added.
    pub fn lose_disk(&mut self, place: usize) {
        let may = match self.formed_at {
            None => self.may_be_emptied_early(place),
            Some(_) => self.spare() > 0 && self.is_sound_voter(place),
        };
        if !may || !self.may_lose_voters() {
            return;
        }
        let by_its_old_line = self.faults.chance(600);
        self.lost += 1;
        self.count(match self.formed_at {
            None => "disks lost while the cluster forms",
            Some(_) => "disks lost",
        });
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
        machine.is_home = false;
        machine.broken = !by_its_old_line;
        self.ended(place);
        if by_its_old_line {
            self.restart_later(place);
        }
        if self.faults.chance(500) {
            self.silence_another(place);
        }
    }

    /// Pauses another running machine for a while, which so meets the emptied one late.
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

    /// A copy of a disk is taken; or, later, put in its place.
    ///
    /// The copy has the voters of today: one of the time when its member was alone would lead by itself until it meets
    /// another, and no protocol can keep it from that.
    pub fn older_copy(&mut self, place: usize) {
        if self.faults.chance(300) && self.put_back_before_let_in(place) {
            return;
        }
        let voters = self.oracle.members().conf_state().voters.clone();
        let machine = &self.machines[place];
        if machine.copy.is_none() || machine.copy_members.conf_state().voters != voters {
            // So that its member starts behind it, as often as the copy will.
            if self.take_copy(place) && self.faults.chance(500) {
                self.kill(self.target(place));
            }
        } else if self.put_copy_back(place) {
            // The next leader does not know how much its member once held.
            if let Some(leader) = self.leader().filter(|_| self.faults.chance(500)) {
                self.kill(self.target(leader));
            }
        }
    }

    /// A copy of a disk is taken. Then another member is repaired, and leads. Then the copy is put in place: its table does
    /// not say who the leader is. Each strike is one step.
    pub fn stale_copy(&mut self, place: usize) {
        if self.stale_copy.is_none() && self.take_copy(place) {
            self.stale_copy = Some(place);
        }
        let Some(copied) = self.stale_copy else {
            return;
        };
        if self.machines[copied].copy.is_none() {
            // It is in its place already.
            return;
        }
        let Some(later) = self.bound_after_copy(copied) else {
            if self.spare() > 1 && place != copied {
                self.lose_disk(place);
            }
            return;
        };
        if self.leader() != Some(later) {
            let to = self.machines[later].id;
            self.ask_for(later, Wish::Handover { to });
        } else if self.put_copy_back(copied) {
            self.count("older copies that do not know the leader");
        }
    }

    /// Copies the disk of a member that has applied the newest settled membership. False: there is no such member here.
    fn take_copy(&mut self, place: usize) -> bool {
        let voters = self.oracle.members().conf_state().voters.clone();
        let machine = &mut self.machines[place];
        let view = machine.process.as_ref().map(|process| &process.view);
        let is_settled = |view: &&View| {
            let members = &view.members;
            members.unsettled.is_none() && members.conf_state().voters == voters
        };
        let Some(view) = view.filter(is_settled) else {
            return false;
        };
        machine.copy_members = view.members.clone();
        let copy = machine.disk.after_kill();
        copy.reseed(self.faults.next());
        // It is kept where there is room.
        copy.set_free(None);
        machine.copy = Some(copy);
        true
    }

    /// A voter restarts on the copy of its disk, if no more is lost by that than raft survives.
    fn put_copy_back(&mut self, place: usize) -> bool {
        let sound = self.is_sound_voter(place) && self.may_lose_voters() && self.spare() > 0;
        if self.formed_at.is_none() || !sound || !self.all_others_agree(place) {
            return false;
        }
        let machine = &mut self.machines[place];
        let Some(copy) = machine.copy.take() else {
            return false;
        };
        machine.disk = copy;
        machine.is_home = false;
        machine.memory = Memory::Older;
        self.lost += 1;
        self.count("older copies");
        self.tell(|| format!("machine {place} gets an older copy of its disk"));
        self.ended(place);
        self.restart_later(place);
        true
    }

    /// The machine of another voter that was repaired after this machine's copy was made.
    fn bound_after_copy(&self, place: usize) -> Option<usize> {
        let known = &self.machines[place].copy_members.members;
        let members = self.oracle.members();
        let mut others = members.members.iter();
        let (_, later) = others.find(|(id, row)| {
            let before = known.get(id).map(|row| row.incarnation);
            !row.learner && before.is_some_and(|before| before != row.incarnation)
        })?;
        Some(World::machine_at(&later.url)).filter(|later| *later != place)
    }

    /// A voter gets the copy of its disk from before it was let in. It has to end, so that no more is lost than with a disk.
    /// False: there is no such copy, or no voter to spare.
    fn put_back_before_let_in(&mut self, place: usize) -> bool {
        let may = self.may_lose_voters() && self.spare() > 0 && self.is_sound_voter(place);
        let machine = &mut self.machines[place];
        let is_of_this_life = |copy: &mut (u64, FakeDisk)| copy.0 == machine.incarnation;
        if self.formed_at.is_none() || !may {
            return false;
        }
        let Some((_, copy)) = machine.before_let_in.take_if(is_of_this_life) else {
            return false;
        };
        copy.reseed(self.faults.next());
        copy.set_free(None);
        machine.disk = copy;
        machine.is_home = false;
        machine.memory = Memory::BeforeLetIn;
        self.lost += 1;
        self.count("copies from before a member was let in");
        self.tell(|| format!("machine {place} gets the copy from before its member was let in"));
        self.ended(place);
        self.restart_later(place);
        true
    }

    /// All others run, follow one leader, and hold all that there is: so that nothing rests on this one's memory alone.
    fn all_others_agree(&self, place: usize) -> bool {
        let id = self.machines[place].id;
        let members = self.oracle.members();
        let mut agreed = None;
        // What one of them only has in memory rests on the others, and it may be killed at once.
        members.members.iter().all(|(other, member)| {
            let machine = &self.machines[World::machine_at(&member.url)];
            let process = machine.process.as_ref().filter(|p| p.has_saved_all());
            let status = process.map(|p| p.node().status());
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

    /// Draws who does not come back, a minority at most.
    pub fn forsake(&mut self) {
        let is_quiet =
            self.no_removal_is_open() && *self.oracle.told_members() == *self.oracle.members();
        let may = self.formed_at.is_some() && (self.may_lose_voters() || is_quiet);
        if !self.plan.forsakes || !may {
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
        let is_contradicted = machine.contradicted == Some(target.epoch);
        let url = machine.url.clone();
        let incarnation = self.at(target).view.incarnation;
        let members = self.oracle.members();
        let is_true = match exit {
            Exit::Removed { index } => {
                let row = members.members.get(&id);
                self.oracle.knows_life(id, index)
                    && row.is_none_or(|row| row.incarnation != incarnation)
            }
            Exit::Replaced { .. } => {
                let is_other = |members: &Members| {
                    let row = members.members.get(&id).filter(|row| row.url == url);
                    let bound = row.map_or(0, |row| row.incarnation);
                    members.is_formed() && bound != 0 && bound != incarnation
                };
                self.oracle.was_published(0, is_other)
            }
            Exit::NotJoined { .. } => {
                let is_awaited = |members: &Members| {
                    let row = members.members.get(&id).filter(|row| row.url == url);
                    members.is_formed() && row.is_some_and(|row| row.incarnation == 0)
                };
                self.oracle.was_published(0, is_awaited)
            }
            Exit::OlderCopy { .. } | Exit::LostTail { .. } => memory == Memory::Older,
            Exit::StateLost { .. } => memory == Memory::BeforeLetIn,
            Exit::PartedLog { .. } => is_contradicted,
            // Nobody starts a directory twice, no more is lost than raft allows, and there is one version.
            Exit::Twice { .. } | Exit::TwoLeaders { .. } | Exit::Later { .. } => false,
        };
        assert!(
            is_true,
            "member {id} on machine {place} exits for an untrue reason: {exit:?} ({memory:?}, {role:?})"
        );
        self.count(match exit {
            Exit::Removed { .. } => "ends by removal",
            Exit::Replaced { .. } => "ends as replaced",
            Exit::NotJoined { .. } => "ends as not joined",
            Exit::StateLost { .. } => "ends as a copy from before it was let in",
            Exit::OlderCopy { .. } => "ends as an older copy",
            Exit::PartedLog { .. } => "ends for a parted log",
            _ => "ends for a lost tail",
        });
        let meta = &self.at(target).meta;
        let marked = match exit {
            Exit::Removed { index } => meta.mark_removed(index),
            Exit::OlderCopy { proven: true, .. } => meta.mark_older_copy(),
            _ => Ok(()),
        };
        if let Err(error) = marked {
            return self.failed(target, &error);
        }
        // A member that was removed is to go. One that runs on a disk of its earlier life is to come back.
        let is_expected = members.members.get(&id).is_some_and(|row| row.url == url);
        if matches!(exit, Exit::Removed { .. }) && !is_expected {
            self.machines[place].retired = true;
        } else if !matches!(exit, Exit::PartedLog { .. }) {
            self.machines[place].broken = true;
            self.machines[place].retired |= role != Role::Member;
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
        self.renew_lists();
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

    /// A person gives whoever lost its disk a list with the places of today: without it, it meets nobody of its cluster.
    fn renew_lists(&mut self) {
        let is_well = |machine: &&Machine| {
            let runs_on = machine.role == Role::Member && machine.memory == Memory::Intact;
            runs_on && !machine.retired && !machine.broken && machine.incarnation != 0
        };
        let homes = self.machines.iter().filter(is_well);
        let urls: BTreeMap<u64, PeerUrl> = homes.map(|m| (m.id, m.url.clone())).collect();
        for place in 0..self.machines.len() {
            let machine = &mut self.machines[place];
            let is_lost = matches!(machine.memory, Memory::Lost | Memory::BeforeLetIn);
            let is_lost = is_lost && !machine.broken;
            if !is_lost || machine.first_of.len() < 2 {
                continue;
            }
            for (id, url) in &urls {
                if machine.first_of.contains_key(id) && *id != machine.id {
                    machine.first_of.insert(*id, url.clone());
                }
            }
            if machine.process.is_some() {
                self.ended(place);
            }
        }
    }
}
