//! Watchers: clients that follow the changes of the keys with a prefix, from member to member.
//!
//! A watcher does what the API does for one (`src/api/watch.rs`). It starts after an index, or at the present;
//! unless the member already holds that index, the watcher first waits for a read index. Then it reads the member's
//! history piece by piece. If its changes have left the history, it starts again from the index of a list. Its
//! connection breaks when the process ends, and at random: the piece in flight is lost, and the watcher continues at
//! another member after the last index that it received.
//!
//! Whatever it reads has to be exactly what the committed commands changed in that range of indexes, in order. As each
//! range begins where the one before ended, nothing is missed and nothing comes twice.

use crate::changes::Change;
use crate::clients::DEADLINE_TICKS;
use crate::world::{Event, MILLISECOND, SECOND, Target, World};
use futures_channel::oneshot;
use raftkvd::channels::notice::Notice;
use raftkvd::command::SnapshotHeader;
use raftkvd::command::outcome::NotProposed;
use raftkvd::command::proposal::Read;
use raftkvd::limits;
use raftkvd::store::Frozen;
use raftkvd::store::history::Reader;

pub struct Watcher {
    prefix: Vec<u8>,
    /// The last index that it was told; `None`: it wants the changes from now on.
    position: Option<u64>,
    /// It was told that its changes are gone.
    lists: bool,
    /// The highest index that anybody had been told when it asked.
    newest: u64,
    state: State,
}

/// What becomes of a question to a member.
type Permission = oneshot::Receiver<Result<(), NotProposed>>;

enum State {
    Away,
    /// It waits for the permission to read, before a list or before it follows.
    Asks(Target, Permission),
    /// It waits for the list.
    Lists(Target, oneshot::Receiver<(SnapshotHeader, Frozen)>),
    Follows(Target, Reader),
}

impl State {
    fn target(&self) -> Option<Target> {
        match self {
            State::Away => None,
            State::Asks(target, _) | State::Lists(target, _) | State::Follows(target, _) => {
                Some(*target)
            }
        }
    }
}

impl World {
    pub fn begin_watchers(&mut self) {
        for number in 0..self.plan.asks.watchers as usize {
            let watcher = Watcher {
                prefix: self.prefix(),
                // Of a new cluster the history is whole.
                position: self.clients.random.chance(300).then_some(0),
                lists: false,
                newest: 0,
                state: State::Away,
            };
            self.clients.watchers.push(watcher);
            let delay = self.clients.random.below(2 * SECOND);
            self.after(delay, Event::Watcher(number));
        }
    }

    /// A watcher goes on.
    pub fn watch(&mut self, number: usize) {
        let longest = match self.clients.stopped || self.clients.random.chance(500) {
            true => 50 * MILLISECOND,
            false => 500 * MILLISECOND,
        };
        let delay = self.clients.random.between(2 * MILLISECOND, longest);
        self.after(delay, Event::Watcher(number));
        let state = std::mem::replace(&mut self.clients.watchers[number].state, State::Away);
        if let Some(target) = state.target() {
            let machine = &self.machines[target.machine];
            if machine.process.is_none() || machine.epoch != target.epoch {
                return self.count("watches that broke");
            }
            // A process that runs on as a removed member has no news, for nobody tells it that it was removed.
            if self.clients.stopped && !self.places().contains(&target.machine) {
                return self.count("watches at a removed member");
            }
            if machine.paused_until > self.now {
                self.clients.watchers[number].state = state;
                return;
            }
            // In the end nobody waits at one that is no member, or is not added yet.
            let members = self.clients.stopped.then(|| self.oracle.members());
            if members.is_some_and(|members| members.members.values().all(|m| m.url != machine.url))
            {
                return self.count("watches given up");
            }
        }
        let state = match state {
            State::Away => self.connect(number),
            State::Asks(target, permission) => self.permitted(number, target, permission),
            State::Lists(target, frozen) => self.listed(number, target, frozen),
            State::Follows(target, reader) => self.follow(number, target, reader),
        };
        self.clients.watchers[number].state = state;
    }

    fn connect(&mut self, number: usize) -> State {
        let Some(place) = self.any_running() else {
            return State::Away;
        };
        let target = self.target(place);
        let process = self.machines[place].process.as_ref();
        let process = process.expect("it runs");
        let newest = self.clients.newest();
        let watcher = &mut self.clients.watchers[number];
        watcher.newest = newest;
        let is_ahead = |position| position > process.history.newest();
        if !watcher.lists && !watcher.position.is_none_or(is_ahead) {
            return self.begin_to_follow(number, target);
        }
        let (reply, permission) = oneshot::channel();
        process.inbox.read(Read {
            deadline_ticks: DEADLINE_TICKS,
            reply,
        });
        self.wake(place);
        State::Asks(target, permission)
    }

    fn permitted(&mut self, number: usize, target: Target, mut permission: Permission) -> State {
        match permission.try_recv() {
            Ok(None) => return State::Asks(target, permission),
            Ok(Some(Ok(()))) => {}
            Ok(Some(Err(_))) | Err(_) => return State::Away,
        }
        if !self.clients.watchers[number].lists {
            return self.begin_to_follow(number, target);
        }
        let (reply, frozen) = oneshot::channel();
        self.notice(target.machine, Notice::Freeze(reply));
        State::Lists(target, frozen)
    }

    fn listed(
        &mut self,
        number: usize,
        target: Target,
        mut frozen: oneshot::Receiver<(SnapshotHeader, Frozen)>,
    ) -> State {
        match frozen.try_recv() {
            Ok(None) => return State::Lists(target, frozen),
            Ok(Some((header, _))) => {
                let watcher = &mut self.clients.watchers[number];
                watcher.is_not_older(header.index);
                watcher.position = Some(header.index);
                watcher.lists = false;
                self.count("watches begun from a list");
            }
            Err(_) => {}
        }
        State::Away
    }

    fn begin_to_follow(&mut self, number: usize, target: Target) -> State {
        let process = self.machines[target.machine].process.as_ref();
        let history = &process.expect("it runs").history;
        let (oldest, newest) = (history.oldest(), history.newest());
        let watcher = &mut self.clients.watchers[number];
        let position = watcher.position.unwrap_or_else(|| {
            watcher.is_not_older(newest);
            newest
        });
        assert!(
            position <= newest,
            "a watcher was told that index {position} is ahead of the cluster, which is at {newest}"
        );
        if position < oldest {
            watcher.lists = true;
            self.count("watches refused, for changes are gone");
            return State::Away;
        }
        watcher.position = Some(position);
        let reader = Reader::new(history.clone(), position);
        self.count("watches begun");
        State::Follows(target, reader)
    }

    /// Reads the next piece.
    fn follow(&mut self, number: usize, target: Target, mut reader: Reader) -> State {
        let entries_max = *self.clients.random.pick(&[1, 3, limits::WATCH_ENTRIES_MAX]);
        let before = reader.position();
        let watcher = &mut self.clients.watchers[number];
        let Ok(entries) = reader.read(entries_max, limits::WATCH_PIECE_BYTES) else {
            watcher.lists = true;
            self.count("watches ended, for changes are gone");
            return State::Away;
        };
        let mut seen = Vec::new();
        for (index, changes) in &entries {
            let wanted = |key: &[u8]| key.starts_with(&watcher.prefix);
            let changes = changes.iter().filter(|change| wanted(change.key));
            seen.extend(changes.map(|change| Change {
                index: *index,
                key: change.key.to_vec(),
                value: change.value.map(<[u8]>::to_vec),
            }));
        }
        let position = reader.position();
        watcher.check(&seen, self.oracle.changes.between(before, position), before);
        if !self.clients.stopped && self.clients.random.chance(20) {
            // The piece is lost with the connection.
            self.count("watches cut");
            return State::Away;
        }
        let told = match seen.last() {
            Some(last) if self.clients.random.chance(500) => last.index,
            None if self.clients.random.chance(500) => before,
            _ => position,
        };
        let watcher = &mut self.clients.watchers[number];
        watcher.position = watcher.position.max(Some(told));
        self.clients.hears(told);
        for _ in &seen {
            self.count("changes watched");
        }
        State::Follows(target, reader)
    }

    /// They all follow, and have read everything.
    pub fn watchers_are_up_to_date(&self) -> bool {
        let newest = self.oracle.newest();
        self.clients
            .watchers
            .iter()
            .all(|watcher| match &watcher.state {
                State::Follows(_, reader) => reader.position() == newest,
                _ => false,
            })
    }
}

impl Watcher {
    /// A linearizable answer as of this index.
    fn is_not_older(&self, index: u64) {
        assert!(
            index >= self.newest,
            "a watcher was answered as of {index}, when {} was known",
            self.newest
        );
    }

    fn check(&self, seen: &[Change], changes: &[Change], before: u64) {
        let wanted = |change: &&Change| change.key.starts_with(&self.prefix);
        let wanted: Vec<&Change> = changes.iter().filter(wanted).collect();
        assert!(
            seen.iter().eq(wanted.iter().copied()),
            "a watcher behind {before} saw {}, and the changes were {}",
            text(seen.iter()),
            text(wanted.into_iter())
        );
    }
}

fn text<'a>(changes: impl Iterator<Item = &'a Change>) -> String {
    let change = |change: &Change| {
        let deleted = if change.value.is_none() {
            " deleted"
        } else {
            ""
        };
        let key = String::from_utf8_lossy(&change.key);
        format!("{key}{deleted} at {}", change.index)
    };
    let texts: Vec<String> = changes.map(change).collect();
    format!("[{}]", texts.join(", "))
}
