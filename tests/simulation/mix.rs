//! Which requests clients send, to which members, and when. It is drawn once per run, so that runs differ in kind:
//! most kinds of requests are absent or rare in a run, and one kind may dominate, so that two kinds meet that would
//! seldom meet in an even mix.
//!
//! Whatever is drawn here comes from the clients' own stream of random numbers: a client that asks for something else
//! does not change which faults there are.

use crate::checker::{Condition, Input, Key};
use crate::clients::Wish;
use crate::disk::Random;
use crate::lives::Role;
use crate::process::Process;
use crate::world::{MILLISECOND, SECOND, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Get,
    Put,
    /// With a condition.
    PutIf,
    /// Half of them with one.
    Delete,
    /// A transaction that puts, and checks at most what it puts.
    Puts,
    /// A transaction that deletes as well.
    Deletes,
    /// A transaction that checks keys which it does not write.
    Checks,
    List,
    /// A list that a client reads page by page, to its end.
    Pages,
    Handover,
}

const KINDS: [Kind; 10] = [
    Kind::Get,
    Kind::Put,
    Kind::PutIf,
    Kind::Delete,
    Kind::Puts,
    Kind::Deletes,
    Kind::Checks,
    Kind::List,
    Kind::Pages,
    Kind::Handover,
];

/// How a client chooses whom it asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// The one it asked before, as long as that runs.
    Sticks,
    Any,
    /// Who leads.
    Leader,
}

/// The requests of a run.
#[derive(Debug, Clone)]
pub struct Mix {
    weights: Vec<(Kind, u64)>,
    pub clients: u64,
    pub keys: u64,
    pub value_bytes: u64,
    /// The longest time between two requests of a client.
    pub thinking: u64,
    /// For how long clients ask, and for how long they all are silent then.
    bursts: Option<(u64, u64)>,
    /// They are silent for a minute or two, and ask before and after: so long the run takes at least.
    pub quiet: Option<u64>,
    habits: Vec<Habit>,
    /// Requests that go to any machine, whether it runs or not, of 1000.
    strays: u64,
    pub watchers: u64,
    /// The longest time between two backups, if there are any before the end.
    pub backups: Option<u64>,
    /// What members keep of the newest changes.
    pub history_bytes: u64,
}

impl Mix {
    /// It takes one number of the stream that it is given, so that what is drawn behind it does not depend on it.
    pub fn draw(random: &mut Random) -> Mix {
        let random = &mut Random(random.next());
        let mut weights = Vec::new();
        for kind in KINDS {
            let mut weight = *random.pick(&[0, 0, 1, 2, 5, 10, 40]);
            match kind {
                Kind::Get => weight = weight.max(2),
                Kind::Put => weight = weight.max(3),
                // Each costs an election.
                Kind::Handover => weight /= 5,
                _ => {}
            }
            weights.push((kind, weight));
        }
        let mut habits = vec![Habit::Sticks, Habit::Any, Habit::Leader];
        habits.retain(|_| random.chance(600));
        let bursts = random.chance(300).then(|| {
            let asking = random.between(100 * MILLISECOND, 4 * SECOND);
            (asking, random.between(2 * SECOND, 12 * SECOND))
        });
        let mut mix = Mix {
            weights,
            clients: random.between(2, 8),
            keys: *random.pick(&[1, 2, 2, 3, 4, 6, 12]),
            value_bytes: *random.pick(&[10, 100, 3000]),
            thinking: *random.pick(&[20, 100, 400]) * MILLISECOND,
            bursts,
            quiet: None,
            habits,
            strays: *random.pick(&[5, 20, 100]),
            watchers: *random.pick(&[0, 1, 3]),
            backups: random.chance(300).then_some(5 * SECOND),
            history_bytes: *random.pick(&[1, 2_000, 20_000, 1 << 20]),
        };
        // Drawn last: what is drawn above is the same whether a run is quiet or not.
        if random.chance(100) {
            let asking = random.between(SECOND, 6 * SECOND);
            let silent = random.between(60 * SECOND, 120 * SECOND);
            mix.bursts = Some((asking, silent));
            mix.quiet = Some(asking + silent + 5 * SECOND);
        }
        mix
    }

    /// Little else than reads and writes of few keys, everywhere and all the time.
    pub fn reads_and_writes(&mut self) {
        for (kind, weight) in &mut self.weights {
            *weight = match kind {
                Kind::Get => 40,
                Kind::Put => 20,
                _ => (*weight).min(1),
            };
        }
        self.habits = vec![Habit::Any];
        self.bursts = None;
        (self.clients, self.keys) = (8, self.keys.min(2));
        self.thinking = self.thinking.min(100 * MILLISECOND);
    }

    /// Many writes of values that have up to so many bytes.
    pub fn large_writes(&mut self, bytes: u64) {
        for (kind, weight) in &mut self.weights {
            if let Kind::Put | Kind::Puts = kind {
                *weight = (*weight).max(40);
            }
        }
        self.bursts = None;
        self.value_bytes = bytes;
        self.thinking = self.thinking.min(100 * MILLISECOND);
    }

    /// Two clients that ask for little.
    pub fn asks_little(&mut self) {
        self.clients = 2;
        self.thinking = SECOND;
    }

    /// Two clients that ask for next to nothing.
    pub fn asks_seldom(&mut self) {
        self.clients = 2;
        self.thinking = 20 * SECOND;
    }

    /// No client asks another member to lead.
    pub fn keeps_the_leader(&mut self) {
        self.weights.retain(|(kind, _)| *kind != Kind::Handover);
    }

    /// From this time on nobody asks for anything.
    pub fn falls_silent(&mut self, after: u64) {
        self.bursts = Some((after, 1000 * SECOND));
    }

    fn kind(&self, random: &mut Random) -> Kind {
        let sum = self.weights.iter().map(|(_, weight)| weight).sum();
        let mut left = random.below(sum);
        for (kind, weight) in &self.weights {
            match left.checked_sub(*weight) {
                Some(rest) => left = rest,
                None => return *kind,
            }
        }
        panic!("{left} is left of {sum}");
    }

    /// When clients ask again, if they are silent at this time.
    pub fn silent_until(&self, now: u64) -> Option<u64> {
        let (asking, silent) = self.bursts?;
        let round = asking + silent;
        (now % round >= asking).then(|| (now / round + 1) * round)
    }
}

/// Every second key is in one of two groups.
pub fn key_name(key: u64) -> Key {
    let group = if key.is_multiple_of(2) { 'a' } else { 'b' };
    format!("{group}/k{key}").into_bytes()
}

impl World {
    /// What a client asks for next, and the unique value that it writes.
    pub fn next_wish(&mut self) -> (Wish, Vec<u8>) {
        let value = self.value();
        let random = &mut self.clients.random;
        let kind = self.plan.asks.kind(random);
        let number = random.below(self.plan.asks.keys);
        let key = key_name(number);
        let input = match kind {
            Kind::Get => Input::Get { key },
            Kind::Put | Kind::PutIf => Input::Put {
                condition: match kind {
                    Kind::Put => Condition::None,
                    _ => self.condition(&key),
                },
                key,
                value: value.clone(),
            },
            Kind::Delete => Input::Delete {
                condition: match random.chance(500) {
                    true => Condition::None,
                    false => self.condition(&key),
                },
                key,
            },
            Kind::Puts | Kind::Deletes | Kind::Checks => self.transaction(kind, number, &value),
            Kind::List | Kind::Pages => Input::List {
                prefix: self.prefix(),
                after: None,
                limit: (kind == Kind::Pages).then(|| self.clients.random.between(1, 3) as usize),
                values: self.clients.random.chance(500),
            },
            Kind::Handover => return (self.handover(), value),
        };
        (Wish::Operation(input), value)
    }

    /// A value that no other request has.
    pub fn value(&mut self) -> Vec<u8> {
        let length = self.clients.random.below(self.plan.asks.value_bytes) as usize;
        let mut value = format!("{} ", self.clients.asked() + 1).into_bytes();
        value.resize(value.len() + length, b'.');
        value
    }

    pub fn prefix(&mut self) -> Vec<u8> {
        let prefixes: [&[u8]; 5] = [b"", b"", b"a/", b"b/", b"a/k2"];
        self.clients.random.pick(&prefixes).to_vec()
    }

    fn condition(&mut self, key: &Key) -> Condition {
        let etag = self.clients.newest_etag(key);
        match (self.clients.random.below(4), etag) {
            (0 | 1, Some(etag)) => Condition::IfMatch(etag),
            (2, _) => Condition::IfPresent,
            _ => Condition::IfAbsent,
        }
    }

    fn transaction(&mut self, kind: Kind, first: u64, value: &[u8]) -> Input {
        let keys = self.plan.asks.keys;
        let count = self.clients.random.between(1, keys.min(4));
        let written: Vec<Key> = (0..count).map(|n| key_name((first + n) % keys)).collect();
        let others = (count..keys).take(3);
        let others = others.map(|n| key_name((first + n) % keys));
        let checked: Vec<Key> = match kind {
            Kind::Checks => others.collect(),
            _ if self.clients.random.chance(300) => written[..1].to_vec(),
            _ => Vec::new(),
        };
        let checks = checked.into_iter().map(|key| {
            let condition = self.condition(&key);
            (key, condition)
        });
        let checks = checks.collect();
        let writes = written.into_iter().map(|key| {
            let deletes = kind != Kind::Puts && self.clients.random.chance(500);
            (key, (!deletes).then(|| value.to_vec()))
        });
        let writes = writes.collect();
        Input::Transaction { checks, writes }
    }

    /// Whom a client asks: mostly a machine that runs; `None` if there is none.
    pub fn whom(&mut self, client: usize) -> Option<usize> {
        let machines = self.machines.len() as u64;
        if self.clients.random.chance(self.plan.asks.strays) {
            return Some(self.clients.random.below(machines) as usize);
        }
        let habits = &self.plan.asks.habits;
        let habit = match habits.len() {
            0 => Habit::Any,
            count => habits[client % count],
        };
        let found = match habit {
            Habit::Sticks => self.clients.asked_before(client),
            Habit::Any => None,
            Habit::Leader => self.leader(),
        };
        let found = found.filter(|place| self.machines[*place].process.is_some());
        found.or_else(|| self.any_running())
    }

    /// Of those who lead, which may be several, the one of the newest term.
    pub fn leader(&self) -> Option<usize> {
        let processes = self.machines.iter().map(|machine| machine.process.as_ref());
        let leaders = processes.enumerate().filter_map(|(place, process)| {
            let node = process?.node();
            node.is_leader().then(|| (node.status().term, place))
        });
        leaders.max().map(|(_, place)| place)
    }

    /// Clients are served there: by a process of the cluster, and not by one that began another life.
    pub fn is_open(&self, place: usize) -> bool {
        let machine = &self.machines[place];
        let serves = |process: &Process| {
            let cluster = process.meta.cluster();
            process.inbox.closed().is_none() && self.oracle.serves(cluster)
        };
        machine.role == Role::Member && machine.process.as_ref().is_some_and(serves)
    }

    /// Any machine on which clients are served.
    pub fn any_running(&mut self) -> Option<usize> {
        let running: Vec<usize> = (0..self.machines.len())
            .filter(|place| self.is_open(*place))
            .collect();
        (!running.is_empty()).then(|| *self.clients.random.pick(&running))
    }
}
