//! Members that move: stopped, and started on another machine with their disks. They say where they are, and the members
//! learn it. The operator gives those that move the places of all, as a new `--cluster` or `--join`, where they could not
//! find each other otherwise. Or the operator tells the cluster where a member is, and the member itself learns it from there.

use crate::disk::FakeDisk;
use crate::lives::{Memory, Role};
use crate::world::World;
use raftkvd::command::{Command, Kind};
use raftkvd::peer_url::PeerUrl;
use std::collections::BTreeMap;

impl World {
    /// Members move, if all are where they are said to be. True: something was done.
    pub fn move_members(&mut self) -> bool {
        let random = &mut self.operator.random;
        if !random.chance(self.plan.moves) {
            return false;
        }
        let (share, with_lists) = (*random.pick(&[0, 500, 1000]), random.chance(500));
        let members = self.oracle.told_members();
        if *members != *self.oracle.members() {
            return false;
        }
        let mut places = Vec::new();
        for (id, member) in &members.members {
            let place = World::machine_at(&member.url);
            let machine = &self.machines[place];
            let is_there = machine.id == *id && machine.role == Role::Member;
            let is_well = machine.memory == Memory::Intact && !machine.broken && !machine.retired;
            let is_it = machine.incarnation != 0 && machine.incarnation == member.incarnation;
            if !is_there || !is_well || !is_it {
                return false;
            }
            places.push(place);
        }
        let one = *self.operator.random.pick(&places);
        places.retain(|place| *place == one || self.operator.random.chance(share));
        // Who comes back to find some that have moved and others that are gone for good has to know where to look.
        // And its own table may be older than an earlier move.
        let moved_before = self.machines.iter().any(|machine| machine.retired);
        let with_lists = with_lists || places.len() > 1 || self.plan.forsakes || moved_before;
        // Until the cluster is told, it reaches nobody by its own word: it counts with those that are away.
        let by_hand = self.plan.moves_by_hand;
        let may = places.len() == 1 && self.may_lose_voters() && self.spare() > 0;
        let by_hand = by_hand > 0 && may && self.operator.random.chance(by_hand);
        self.lost += u64::from(by_hand);
        let urls = members.members.iter();
        let mut urls: BTreeMap<u64, PeerUrl> = urls.map(|(id, m)| (*id, m.url.clone())).collect();
        let moved: Vec<usize> = places.iter().map(|place| self.take_away(*place)).collect();
        for place in &moved {
            let machine = &self.machines[*place];
            urls.insert(machine.id, machine.url.clone());
        }
        for place in moved {
            let machine = &mut self.machines[place];
            for (id, known) in &mut machine.first_of {
                if with_lists || *id == machine.id {
                    *known = urls.get(id).unwrap_or(known).clone();
                }
            }
            if with_lists {
                machine.dials = urls.clone();
            }
            (machine.moved_by_hand, machine.tells_move) = (by_hand, by_hand);
            self.restart_later(place);
        }
        true
    }

    /// The operator tells the cluster of moves that the members themselves are not told of.
    pub fn tell_moves(&mut self) {
        let members = self.oracle.told_members();
        for place in 0..self.machines.len() {
            let machine = &self.machines[place];
            let row = members.members.get(&machine.id);
            let is_it = row.is_some_and(|row| row.incarnation == machine.incarnation);
            if !machine.tells_move || machine.retired || !is_it {
                continue;
            }
            let mut command = Command::new();
            command.kind = Kind::MoveMember;
            command.member_id = machine.id;
            command.member_url = machine.url.to_string();
            self.count("moves told by hand");
            self.propose_change(command);
        }
    }

    /// Stops a member, and takes its disk to a new machine. Gives the machine's number.
    fn take_away(&mut self, place: usize) -> usize {
        self.kill(self.target(place));
        let id = self.machines[place].id;
        let to = self.add_machine(id);
        self.count("members that move");
        self.tell(|| format!("operator: member {id} moves from machine {place} to machine {to}"));
        let nothing = FakeDisk::new(self.random.next());
        let old = &mut self.machines[place];
        old.retired = true;
        let disk = std::mem::replace(&mut old.disk, nothing);
        disk.set_free(None);
        let (first_of, dials) = (old.first_of.clone(), old.dials.clone());
        let incarnation = old.incarnation;
        let new = &mut self.machines[to];
        new.incarnation = incarnation;
        (new.disk, new.first_of, new.dials) = (disk, first_of, dials);
        new.ready = true;
        to
    }
}
