//! Clients that write down what they asked and what they were told: the history that the checker judges.
//!
//! They run on a few hot keys, through any node, and send nothing a second time: reads, lists, writes and deletes with and
//! without conditions, and transactions over several keys. Whatever an answer leaves open they write down as unknown. Now
//! and then one asks for another leader.

use crate::checker::{Condition, Input, Operation, Output};
use crate::faults::handovers::Leaders;
use crate::harness::{PATIENCE as LONG_PATIENCE, SetOnDrop, eventually, require};
use crate::http::Connection;
use crate::requests::{ascii, outcome, request};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, RwLock};
use std::thread;
use std::time::{Duration, Instant};

const KEYS: [&str; 5] = ["hot/0", "hot/1", "hot/2", "hot/3", "hot/4"];

/// The key that every watcher watches.
const LAST_KEY: usize = 1;

/// A little longer than the daemon's own deadline.
const PATIENCE: Duration = Duration::from_secs(3);

/// A client asks about this often, so that a long run has a history that can be checked and the machine is left to
/// the nodes.
const PACE: Duration = Duration::from_millis(6);

/// Of so many operations of a client one is a handover.
const HANDOVER: u64 = 1_200;

/// SplitMix64: one seed, one course of events.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let span = (most - least).as_micros() as u64;
        least + Duration::from_micros(self.below(span + 1))
    }
}

/// What all clients share.
pub struct Clients {
    begin: Instant,
    nodes: Vec<(u64, SocketAddr)>,
    /// The newest ETag of each key that any client was told.
    etags: Mutex<[u64; KEYS.len()]>,
    stop: AtomicBool,
    /// Writes that took effect, as a client was told.
    pub acknowledged: AtomicU64,
    pub shunned: Shunned,
    pub leaders: Leaders,
}

/// The member that nobody may ask, since it may begin a history of its own; 0 for none.
#[derive(Debug, Default)]
pub struct Shunned(RwLock<u64>);

impl Shunned {
    /// When this returns, nobody is asking this member, and nobody will.
    pub fn set(&self, id: u64) {
        // Every change of it is complete in itself.
        *self.0.write().unwrap_or_else(|e| e.into_inner()) = id;
    }

    /// Asks a member, unless it is this one.
    pub fn ask<T>(&self, id: u64, asking: impl FnOnce() -> T) -> Option<T> {
        let shunned = self.0.read().unwrap_or_else(|e| e.into_inner());
        (*shunned != id).then(asking)
    }
}

/// A write of a key, as its client knows of it.
#[derive(Debug)]
pub struct Sent {
    pub key: String,
    /// `None`: a deletion.
    pub value: Option<String>,
    /// Where it changed its key, if the client was told.
    pub index: Option<u64>,
    /// The client was told that it has no effect.
    pub surely_not: bool,
}

impl Clients {
    pub fn new(nodes: Vec<(u64, SocketAddr)>) -> Clients {
        Clients {
            begin: Instant::now(),
            nodes,
            etags: Mutex::default(),
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            shunned: Shunned::default(),
            leaders: Leaders::default(),
        }
    }

    /// Runs this many clients while `during` does its work, and gives what they wrote down.
    pub fn run(&self, count: u64, seed: u64, during: impl FnOnce()) -> Vec<Operation> {
        thread::scope(|scope| {
            let stop = SetOnDrop(&self.stop);
            let clients: Vec<_> = (0..count)
                .map(|id| scope.spawn(move || self.run_one(id, Random(seed ^ (id + 1) << 32))))
                .collect();
            during();
            drop(stop);
            let histories = clients.into_iter().map(|c| c.join().expect("a client"));
            histories.flatten().collect()
        })
    }

    fn run_one(&self, id: u64, mut random: Random) -> Vec<Operation> {
        let mut history = Vec::new();
        let mut connections: BTreeMap<u64, Connection> = BTreeMap::new();
        while !self.stop.load(SeqCst) {
            thread::park_timeout(random.between(Duration::ZERO, PACE * 2));
            let (node, address) = random.pick(&self.nodes);
            let number = history.len();
            let asked = self.shunned.ask(node, || {
                // One that refuses connections was sent nothing.
                let open = connections
                    .remove(&node)
                    .map_or_else(|| Connection::impatient(address, PATIENCE), Ok);
                let mut connection = open.ok()?;
                if random.one_in(HANDOVER) {
                    let (to, _) = random.pick(&self.nodes);
                    // Whatever it is answered: see `Leaders`.
                    let _ = self.leaders.ask_for(to, (node, address), PATIENCE);
                    return None;
                }
                let input = match random.one_in(2) {
                    true => read(&mut random),
                    false => self.choose_write(&mut random, &format!("{id}-{number}-")),
                };
                let (operation, keep) = self.ask(&mut connection, node, input);
                if keep {
                    connections.insert(node, connection);
                }
                Some(operation)
            });
            history.extend(asked.flatten());
        }
        history
    }

    fn choose_write(&self, random: &mut Random, unique: &str) -> Input {
        let key = random.below(KEYS.len() as u64) as usize;
        match random.below(10) {
            0..5 => Input::Put {
                key: KEYS[key].into(),
                value: value(random, unique, 250),
                condition: self.choose_condition(random, key),
            },
            5..7 => Input::Delete {
                key: KEYS[key].into(),
                condition: self.choose_condition(random, key),
            },
            _ => self.choose_transaction(random, unique),
        }
    }

    fn choose_transaction(&self, random: &mut Random, unique: &str) -> Input {
        let mut keys: Vec<usize> = (0..KEYS.len()).collect();
        let (mut checks, mut writes) = (Vec::new(), Vec::new());
        for _ in 0..1 + random.below(3) {
            let key = keys.swap_remove(random.below(keys.len() as u64) as usize);
            let value = match random.one_in(4) {
                true => None,
                false => Some(value(random, unique, 80)),
            };
            writes.push((KEYS[key].into(), value));
        }
        for _ in 0..random.below(3) {
            // Keys that it writes, and others.
            let key = random.below(KEYS.len() as u64) as usize;
            match self.choose_condition(random, key) {
                Condition::None => {}
                condition => checks.push((KEYS[key].into(), condition)),
            }
        }
        Input::Transaction { checks, writes }
    }

    fn choose_condition(&self, random: &mut Random, key: usize) -> Condition {
        let etag = self.etags()[key];
        match random.below(8) {
            0 | 1 => Condition::IfAbsent,
            2 => Condition::IfPresent,
            3..6 if etag > 0 => Condition::IfMatch(etag),
            _ => Condition::None,
        }
    }

    /// Asks, and tells whether the connection can be used again.
    fn ask(&self, connection: &mut Connection, node: u64, input: Input) -> (Operation, bool) {
        let sent = request(&input);
        let headers: Vec<(&str, &str)> = (sent.headers.iter())
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let invoked = self.now();
        let answer = connection.send(sent.method, &sent.path, &headers, &sent.body);
        let returned = self.now();
        let keep = answer
            .as_ref()
            .is_ok_and(|response| response.header("connection") != Some("close"));
        let output = answer.map_or(Output::Unknown, |response| outcome(&input, response));
        self.learn(&input, &output);
        let operation = Operation {
            node,
            invoked,
            returned: (output != Output::Unknown).then_some(returned),
            input,
            output,
        };
        (operation, keep)
    }

    /// Keeps the newest ETags for conditions, and counts.
    fn learn(&self, input: &Input, output: &Output) {
        let mut told: Vec<(&[u8], u64)> = Vec::new();
        match (input, output) {
            (Input::Get { key }, Output::Value(Some((_, etag)))) => told.push((key, *etag)),
            (
                Input::Put { key, .. } | Input::Delete { key, .. },
                Output::Written(Some(etag)) | Output::ConditionFailed(Some(etag)),
            ) => told.push((key, *etag)),
            (_, Output::Listed { entries, .. }) => {
                told.extend(entries.iter().map(|entry| (&*entry.key, entry.etag)));
            }
            (Input::Transaction { writes, .. }, Output::Transacted { index, .. }) => {
                let puts = writes.iter().filter(|(_, value)| value.is_some());
                told.extend(puts.map(|(key, _)| (&**key, *index)));
            }
            _ => {}
        }
        if matches!(output, Output::Written(_) | Output::Transacted { .. }) {
            self.acknowledged.fetch_add(1, SeqCst);
        }
        let mut etags = self.etags();
        for (key, etag) in told {
            let place = KEYS.iter().position(|known| known.as_bytes() == key);
            let newest = &mut etags[place.expect("one of the keys")];
            *newest = etag.max(*newest);
        }
    }

    /// Waits until so many more writes were acknowledged.
    pub fn wait_for_writes(&self, more: u64) {
        let goal = self.acknowledged.load(SeqCst) + more;
        eventually("writes go on", LONG_PATIENCE, || {
            let now = self.acknowledged.load(SeqCst);
            require(now >= goal, || format!("{now} of {goal}"))
        });
    }

    /// A last write through this node, of a key that every watcher watches, and its index.
    pub fn write_last(&self, node: u64) -> (Operation, u64) {
        let address = self.nodes.iter().find(|(id, _)| *id == node);
        let (_, address) = *address.expect("there is such a node");
        let mut connection = Connection::open(address).expect("connect");
        let input = Input::Put {
            key: KEYS[LAST_KEY].into(),
            value: b"the last".into(),
            condition: Condition::None,
        };
        let (operation, _) = self.ask(&mut connection, node, input);
        match operation.output {
            Output::Written(Some(index)) => (operation, index),
            _ => panic!("after all faults: {operation}"),
        }
    }

    /// Reads every key through every one of these nodes, which have to answer.
    pub fn read_all(&self, nodes: &[u64]) -> Vec<Operation> {
        let mut history = Vec::new();
        for &(node, address) in self.nodes.iter().filter(|(id, _)| nodes.contains(id)) {
            let mut connection = Connection::open(address).expect("connect");
            for key in KEYS {
                let key = key.into();
                let (operation, _) = self.ask(&mut connection, node, Input::Get { key });
                let answered = operation.output != Output::Unknown;
                assert!(answered, "after all faults: {operation}");
                history.push(operation);
            }
        }
        history
    }

    fn etags(&self) -> MutexGuard<'_, [u64; KEYS.len()]> {
        self.etags.lock().expect("the clients' newest ETags")
    }

    /// Nanoseconds: two events of different threads hardly ever share one.
    fn now(&self) -> u64 {
        self.begin.elapsed().as_nanos() as u64
    }
}

fn read(random: &mut Random) -> Input {
    let key = random.pick(&KEYS);
    match random.below(4) {
        0 => Input::List {
            prefix: b"hot/".into(),
            after: random.one_in(3).then(|| key.into()),
            limit: random.one_in(3).then(|| 1 + random.below(4) as usize),
            values: random.one_in(2),
        },
        _ => Input::Get { key: key.into() },
    }
}

/// One that nobody else writes to the same key.
fn value(random: &mut Random, unique: &str, padding_max: u64) -> Vec<u8> {
    let mut value = unique.to_owned();
    let padding = random.below(padding_max) as usize;
    value.extend(std::iter::repeat_n('x', padding));
    value.into_bytes()
}

/// All writes of a history, key by key.
pub fn sent(history: &[Operation]) -> Vec<Sent> {
    let mut all = Vec::new();
    for operation in history {
        let (index, surely_not) = match &operation.output {
            Output::Written(index) => (*index, false),
            Output::Transacted { index, .. } => (Some(*index), false),
            Output::Unknown => (None, false),
            _ => (None, true),
        };
        let mut add = |key: &[u8], value: Option<&[u8]>, changed: bool| {
            all.push(Sent {
                key: ascii(key).to_owned(),
                value: value.map(|value| ascii(value).to_owned()),
                index: index.filter(|_| changed),
                surely_not,
            });
        };
        match &operation.input {
            Input::Get { .. } | Input::List { .. } => {}
            Input::Put { key, value, .. } => add(key, Some(value), true),
            Input::Delete { key, .. } => add(key, None, true),
            Input::Transaction { writes, .. } => {
                for (position, (key, value)) in writes.iter().enumerate() {
                    // To delete what is not there changes nothing.
                    let existed = match &operation.output {
                        Output::Transacted { existed, .. } => existed[position],
                        _ => false,
                    };
                    add(key, value.as_deref(), value.is_some() || existed);
                }
            }
        }
    }
    all
}
