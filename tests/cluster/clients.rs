//! Clients that write down what they asked and what they were told: the history that the checker judges.
//!
//! They run on a few hot keys, through any node, and send nothing a second time. Whatever an answer leaves open they
//! write down as unknown.

use crate::checker::{Condition, Input, Operation, Output};
use crate::harness::SetOnDrop;
use crate::http::{Connection, Response, encode};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

const KEYS: [&str; 5] = ["hot/0", "hot/1", "hot/2", "hot/3", "hot/4"];

/// A little longer than the daemon's own deadline.
const PATIENCE: Duration = Duration::from_secs(3);

/// A client asks about this often, so that a long run has a history that can be checked and the machine is left to
/// the nodes.
const PACE: Duration = Duration::from_millis(6);

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
    /// Writes that were answered with 204.
    pub acknowledged: AtomicU64,
}

impl Clients {
    pub fn new(nodes: Vec<(u64, SocketAddr)>) -> Clients {
        Clients {
            begin: Instant::now(),
            nodes,
            etags: Mutex::default(),
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
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
            // One that refuses connections was sent nothing.
            let open = connections
                .remove(&node)
                .map_or_else(|| Connection::impatient(address, PATIENCE), Ok);
            let Ok(mut connection) = open else {
                continue;
            };
            let key = random.below(KEYS.len() as u64) as usize;
            let number = history.len();
            let input = self.choose(&mut random, key, || format!("{id}-{number}"));
            let (operation, keep) = self.ask(&mut connection, node, key, input);
            if keep {
                connections.insert(node, connection);
            }
            history.push(operation);
        }
        history
    }

    fn choose(&self, random: &mut Random, key: usize, unique: impl Fn() -> String) -> Input {
        let etag = self.etags()[key];
        let key = KEYS[key].as_bytes().to_vec();
        let condition = match random.below(4) {
            0 => Condition::IfAbsent,
            1 | 2 if etag > 0 => Condition::IfMatch(etag),
            _ => Condition::None,
        };
        match random.below(10) {
            0..4 => Input::Get { key },
            4..8 => {
                let mut value = unique() + "-";
                let padding = random.below(250) as usize;
                value.extend(std::iter::repeat_n('x', padding));
                let value = value.into_bytes();
                Input::Put {
                    key,
                    value,
                    condition,
                }
            }
            _ => Input::Delete { key, condition },
        }
    }

    /// Asks, and tells whether the connection can be used again.
    fn ask(
        &self,
        connection: &mut Connection,
        node: u64,
        key: usize,
        input: Input,
    ) -> (Operation, bool) {
        let (method, body, condition): (_, &[u8], _) = match &input {
            Input::Get { .. } => ("GET", b"", Condition::None),
            Input::Put {
                value, condition, ..
            } => ("PUT", value, *condition),
            Input::Delete { condition, .. } => ("DELETE", b"", *condition),
            Input::List { .. } | Input::Transaction { .. } => panic!("not sent here: {input}"),
        };
        let quoted;
        let headers: &[(&str, &str)] = match condition {
            Condition::None => &[],
            Condition::IfAbsent => &[("If-None-Match", "*")],
            Condition::IfPresent => &[("If-Match", "*")],
            Condition::IfMatch(etag) => {
                quoted = format!("\"{etag}\"");
                &[("If-Match", &quoted)]
            }
        };
        let invoked = self.now();
        let answer = connection.send(method, &encode(KEYS[key].as_bytes()), headers, body);
        let returned = self.now();
        let keep = answer
            .as_ref()
            .is_ok_and(|response| response.header("connection") != Some("close"));
        let output = answer.map_or(Output::Unknown, |response| outcome(&input, response));
        let told = match &output {
            Output::Value(Some((_, etag)))
            | Output::Written(Some(etag))
            | Output::ConditionFailed(Some(etag)) => *etag,
            _ => 0,
        };
        if matches!(output, Output::Written(_)) {
            self.acknowledged.fetch_add(1, SeqCst);
        }
        let newest = &mut self.etags()[key];
        *newest = told.max(*newest);
        let operation = Operation {
            node,
            invoked,
            returned: (output != Output::Unknown).then_some(returned),
            input,
            output,
        };
        (operation, keep)
    }

    /// Reads every key through every one of these nodes, which have to answer.
    pub fn read_all(&self, nodes: &[u64]) -> Vec<Operation> {
        let mut history = Vec::new();
        for &(node, address) in self.nodes.iter().filter(|(id, _)| nodes.contains(id)) {
            let mut connection = Connection::open(address).expect("connect");
            for key in 0..KEYS.len() {
                let (operation, _) = self.ask(&mut connection, node, key, get(key));
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

fn get(key: usize) -> Input {
    Input::Get {
        key: KEYS[key].as_bytes().to_vec(),
    }
}

/// What an answer says about the operation.
fn outcome(input: &Input, response: Response) -> Output {
    let etag = response.header("etag").map(|_| response.etag());
    let told = response.header("x-raftkvd-outcome");
    match (response.status, input, told) {
        (200, Input::Get { .. }, _) => {
            let etag = etag.expect("a value has an ETag");
            Output::Value(Some((response.body, etag)))
        }
        (404, Input::Get { .. }, _) => Output::Value(None),
        (204, Input::Put { .. }, _) => {
            assert!(etag.is_some(), "a PUT without ETag: {response:?}");
            Output::Written(etag)
        }
        (204, Input::Delete { .. }, _) => Output::Written(None),
        (412, Input::Put { .. } | Input::Delete { .. }, _) => Output::ConditionFailed(etag),
        // A read without an answer says nothing at all.
        (503 | 408, Input::Get { .. }, _) => Output::Unknown,
        (503 | 408, _, Some("none")) => Output::NotApplied,
        (504, _, Some("unknown")) => Output::Unknown,
        _ => panic!("to {input:?}: {response:?}"),
    }
}
