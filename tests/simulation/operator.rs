//! The operator, who adds members, removes them, and starts those that were added.

use crate::clients::DEADLINE_TICKS;
use crate::world::{Event, MILLISECOND, SECOND, World};
use futures_channel::oneshot;
use raftkvd::command::{Command, Kind};
use raftkvd::members::{Members, PeerUrl};
use raftkvd::proposal::Proposal;

impl World {
    /// Starts members that were added.
    pub fn start_members(&mut self) {
        self.stop_orphans();
        let members = self.oracle.told_members();
        for (id, member) in &members.members {
            let place = World::machine_at(&member.url);
            let machine = &self.machines[place];
            if !machine.ready && machine.id == *id {
                self.machines[place].ready = true;
                self.start(place);
            }
        }
    }

    /// Stops processes that were removed before they learned that they had been added: nobody can tell them, and to
    /// others they look like whoever gets their id next.
    fn stop_orphans(&mut self) {
        let members = self.oracle.told_members();
        for place in 0..self.machines.len() {
            let machine = &mut self.machines[place];
            let member = members.members.get(&machine.id).map(|member| &member.url);
            if machine.ready && !machine.joined && member != Some(&machine.url) {
                machine.ready = false;
                self.kill(self.target(place));
            }
        }
    }

    pub fn admin(&mut self) {
        if self.clients.stopped {
            return;
        }
        let delay = self.random.between(200 * MILLISECOND, 3 * SECOND);
        self.after(delay, Event::Admin);
        self.start_members();
        let members = self.oracle.told_members();
        let mut command = Command::new();
        if self.random.below(5) < members.members.len() as u64 {
            let ids: Vec<u64> = members.members.keys().copied().collect();
            command.kind = Kind::RemoveMember;
            command.member_id = *self.random.pick(&ids);
            self.count("removals asked for");
        } else {
            let (id, url) = self.addition(&members);
            command.kind = Kind::AddMember;
            command.member_id = id;
            command.member_url = url.to_string();
            self.count("additions asked for");
        }
        let (reply, _) = oneshot::channel();
        let places: Vec<usize> = (0..self.machines.len()).collect();
        let place = *self.random.pick(&places);
        if let Some(process) = self.process(place) {
            process.inbox.propose(Proposal {
                command,
                deadline_ticks: DEADLINE_TICKS,
                reply,
            });
            self.wake(place);
        }
    }

    /// Whom to add, and where: an id that was removed, or a new one, on a new machine or the wiped old one.
    fn addition(&mut self, members: &Members) -> (u64, PeerUrl) {
        let again: Vec<u64> = members.removed.keys().copied().collect();
        let highest = members.members.keys().chain(&again).max();
        let id = match !again.is_empty() && self.random.chance(700) {
            true => *self.random.pick(&again),
            false => highest.map_or(1, |highest| highest + 1),
        };
        let own = |place: &usize| {
            let machine = &self.machines[*place];
            let in_use = members.members.values().any(|m| m.url == machine.url);
            machine.id == id && !in_use
        };
        let places: Vec<usize> = (0..self.machines.len()).filter(own).collect();
        let place = match places.first() {
            Some(place) if self.random.chance(500) => {
                let place = *place;
                self.wipe(place);
                self.machines[place].join = true;
                place
            }
            _ => self.add_machine(id, true, Members::default()),
        };
        let placeholder = |id: u64| World::url(60_000 + id as usize);
        let ids = 1..=id.max(*highest.unwrap_or(&id));
        let urls: Vec<PeerUrl> = ids
            .map(|other| match members.members.get(&other) {
                _ if other == id => self.machines[place].url.clone(),
                Some(member) => member.url.clone(),
                None => placeholder(other),
            })
            .collect();
        self.machines[place].initial = Members::initial(&urls);
        (id, self.machines[place].url.clone())
    }
}
