//! Clients that read and write a few hot keys through any member, and an operator who changes the membership.
//!
//! Every value is unique, so that a read tells which write it saw. Nothing is sent twice. A DELETE carries a unique
//! value as well: the daemon ignores it, and the oracle knows the command by it.

use crate::checker::{Condition, FailedCheck, Input, Key, Operation, Output};
use crate::plan::Plan;
use crate::process::Process;
use crate::world::{Event, MILLISECOND, SECOND, Target, World};
use futures_channel::oneshot;
use raftkvd::command::{Check, Command, Etags, Kind, Transaction, Write};
use raftkvd::proposal::{NotProposed, Outcome, Proposal, Read};
use std::collections::BTreeMap;

/// Ticks that the node has for a request.
pub const DEADLINE_TICKS: u64 = 80;
/// When a client stops waiting.
const PATIENCE: u64 = 4 * SECOND;

pub struct Clients {
    open: BTreeMap<u64, Open>,
    next: u64,
    pub history: Vec<Operation>,
    /// The newest that was told of each key.
    etags: BTreeMap<Key, u64>,
    pub stopped: bool,
    keys: u64,
    value_bytes: u64,
}

/// A request that a client waits for.
struct Open {
    client: Option<usize>,
    machine: usize,
    /// Unique.
    value: Vec<u8>,
    input: Input,
    invoked: u64,
    waiting: Waiting,
}

enum Waiting {
    /// On its way.
    Request,
    Write(oneshot::Receiver<Outcome>),
    Read(oneshot::Receiver<Result<(), NotProposed>>),
    /// On its way back.
    Answer(Output),
}

impl Clients {
    pub fn new(plan: &Plan) -> Clients {
        Clients {
            open: BTreeMap::new(),
            next: 0,
            history: Vec::new(),
            etags: BTreeMap::new(),
            stopped: false,
            keys: plan.keys,
            value_bytes: plan.value_bytes,
        }
    }

    pub fn is_open(&self, operation: u64) -> bool {
        self.open.contains_key(&operation)
    }
}

fn key_name(key: u64) -> Key {
    format!("k{key}").into_bytes()
}

impl World {
    /// Everything begins.
    pub fn begin(&mut self) {
        for client in 0..self.plan.clients {
            let delay = self.random.below(SECOND);
            self.after(delay, Event::Client(client as usize));
        }
        self.after(SECOND, Event::Fault);
        self.after(2 * SECOND, Event::Admin);
    }

    /// A client begins its next request.
    pub fn client(&mut self, client: usize) {
        if self.clients.stopped {
            return;
        }
        let number = self.random.below(self.clients.keys);
        let machine = self.random.below(self.machines.len() as u64) as usize;
        let key = key_name(number);
        let etag = self.clients.etags.get(&key).copied();
        let condition = match (self.random.below(4), etag) {
            (0, Some(etag)) => Condition::IfMatch(etag),
            (1, _) => Condition::IfAbsent,
            _ => Condition::None,
        };
        let unique = self.value();
        let value = unique.clone();
        let input = match self.random.below(10) {
            0..5 => Input::Get { key },
            // Two keys, if the condition on the first one holds.
            8 if self.clients.keys > 1 => Input::Transaction {
                checks: match condition {
                    Condition::None => Vec::new(),
                    condition => vec![(key.clone(), condition)],
                },
                writes: [key, key_name((number + 1) % self.clients.keys)]
                    .map(|key| (key, Some(value.clone())))
                    .into(),
            },
            5..9 => Input::Put {
                key,
                value,
                condition,
            },
            _ => Input::Delete { key, condition },
        };
        self.ask(Some(client), machine, unique, input);
    }

    fn value(&mut self) -> Vec<u8> {
        let length = self.random.below(self.clients.value_bytes) as usize;
        let mut value = format!("{} ", self.clients.next + 1).into_bytes();
        value.resize(value.len() + length, b'.');
        value
    }

    fn ask(&mut self, client: Option<usize>, machine: usize, value: Vec<u8>, input: Input) -> u64 {
        self.clients.next += 1;
        let number = self.clients.next;
        let open = Open {
            client,
            machine,
            value,
            input,
            invoked: self.now,
            waiting: Waiting::Request,
        };
        self.clients.open.insert(number, open);
        let delay = self.random.between(50, 2 * MILLISECOND);
        let target = self.target(machine);
        self.after(delay, Event::Request(target, number));
        self.after(PATIENCE, Event::GiveUp(number));
        number
    }

    /// A read or a write of a key through this machine, for the end of a run.
    pub fn ask_read(&mut self, machine: usize, key: u64) -> u64 {
        let key = key_name(key);
        self.ask(None, machine, Vec::new(), Input::Get { key })
    }

    pub fn ask_write(&mut self, machine: usize, key: u64) -> u64 {
        let value = self.value();
        let input = Input::Put {
            key: key_name(key),
            value: value.clone(),
            condition: Condition::None,
        };
        self.ask(None, machine, value, input)
    }

    /// A request arrives at its member.
    pub fn request(&mut self, target: Target, number: u64) {
        let Some(open) = self.clients.open.get_mut(&number) else {
            return;
        };
        let process = self.machines[target.machine].process.as_mut();
        let process = process.expect("it was looked for");
        if let Input::Get { .. } = open.input {
            let (reply, permission) = oneshot::channel();
            process.inbox.read(Read {
                deadline_ticks: DEADLINE_TICKS,
                reply,
            });
            open.waiting = Waiting::Read(permission);
        } else {
            let (reply, outcome) = oneshot::channel();
            process.inbox.propose(Proposal {
                command: command(open),
                deadline_ticks: DEADLINE_TICKS,
                reply,
            });
            open.waiting = Waiting::Write(outcome);
        }
        self.wake(target.machine);
    }

    /// Nobody listens at the place where a request went.
    pub fn refused(&mut self, number: u64) {
        if let Some(open) = self.clients.open.get_mut(&number) {
            open.waiting = Waiting::Answer(Output::NotApplied);
            self.after(20 * MILLISECOND, Event::Response(number));
        }
    }

    /// Looks which requests the process of a machine has answered.
    pub fn poll(&mut self, machine: usize) {
        let Some(process) = self.machines[machine].process.as_ref() else {
            return;
        };
        let mut answered = Vec::new();
        for (number, open) in &mut self.clients.open {
            if open.machine != machine {
                continue;
            }
            let output = match &mut open.waiting {
                Waiting::Write(outcome) => match outcome.try_recv() {
                    Ok(None) => continue,
                    Ok(Some(outcome)) => Some(outcome),
                    Err(_) => None,
                }
                .map_or(Output::Unknown, written),
                Waiting::Read(permission) => match permission.try_recv() {
                    Ok(None) => continue,
                    Ok(Some(Ok(()))) => read(process, &open.input),
                    Ok(Some(Err(_))) | Err(_) => Output::NotApplied,
                },
                Waiting::Request | Waiting::Answer(_) => continue,
            };
            let place = match &output {
                Output::Written(index) => Some(*index),
                Output::Transacted { index, .. } => Some(Some(*index)),
                Output::ConditionFailed(_) | Output::ChecksFailed(_) => Some(None),
                _ => None,
            };
            if let Some(place) = place {
                self.oracle.acknowledges(&open.value, place);
            }
            answered.push(*number);
            // The answer to a DELETE has no ETag.
            let output = match (&open.input, output) {
                (Input::Delete { .. }, Output::Written(_)) => Output::Written(None),
                (_, output) => output,
            };
            open.waiting = Waiting::Answer(output);
        }
        for number in answered {
            let delay = self.random.between(50, 2 * MILLISECOND);
            self.after(delay, Event::Response(number));
        }
    }

    /// The process of a machine has ended: its connections break.
    pub fn answer_none(&mut self, machine: usize) {
        let mut broken = Vec::new();
        for (number, open) in &mut self.clients.open {
            if open.machine == machine
                && matches!(open.waiting, Waiting::Write(_) | Waiting::Read(_))
            {
                open.waiting = Waiting::Answer(Output::Unknown);
                broken.push(*number);
            }
        }
        for number in broken {
            self.after(MILLISECOND, Event::Response(number));
        }
    }

    pub fn response(&mut self, number: u64) {
        if let Some(open) = self.clients.open.remove(&number) {
            let Waiting::Answer(output) = open.waiting else {
                panic!("operation {number} was answered without an answer");
            };
            let open = Open {
                waiting: Waiting::Request,
                ..open
            };
            self.record(open, output);
        }
    }

    /// Those who still wait learn nothing.
    pub fn give_up_all(&mut self) {
        for open in std::mem::take(&mut self.clients.open).into_values() {
            self.record(open, Output::Unknown);
        }
    }

    pub fn give_up(&mut self, number: u64) {
        if let Some(open) = self.clients.open.remove(&number) {
            self.record(open, Output::Unknown);
        }
    }

    fn record(&mut self, open: Open, output: Output) {
        for (key, etag) in told(&open.input, &output) {
            self.clients.etags.insert(key.clone(), etag);
        }
        self.count(match &output {
            Output::Value(_) => "reads answered",
            Output::Written(_) | Output::Transacted { .. } => "writes acknowledged",
            Output::ConditionFailed(_) | Output::ChecksFailed(_) => "conditions failed",
            Output::NotApplied => "requests refused",
            Output::Unknown => "outcomes unknown",
            Output::Listed { .. } => panic!("nobody asked for a list: {output}"),
        });
        if let Output::Transacted { .. } | Output::ChecksFailed(_) = &output {
            self.count("transactions answered");
        }
        let unknown = output == Output::Unknown;
        self.clients.history.push(Operation {
            node: open.machine as u64,
            invoked: open.invoked,
            returned: (!unknown).then_some(self.now),
            input: open.input,
            output,
        });
        if let Some(client) = open.client {
            let delay = self.random.between(MILLISECOND, self.plan.thinking);
            self.after(delay, Event::Client(client));
        }
    }
}

/// The ETags that an answer names.
fn told<'a>(input: &'a Input, output: &Output) -> Vec<(&'a Key, u64)> {
    match (input, output) {
        (Input::Get { key }, Output::Value(Some((_, etag))))
        | (Input::Put { key, .. }, Output::Written(Some(etag))) => vec![(key, *etag)],
        (Input::Transaction { writes, .. }, Output::Transacted { index, .. }) => {
            let puts = writes.iter().filter(|(_, value)| value.is_some());
            puts.map(|(key, _)| (key, *index)).collect()
        }
        _ => Vec::new(),
    }
}

fn etags(condition: Condition) -> (Option<Etags>, Option<Etags>) {
    let mut etags = Etags::new();
    etags.any = matches!(condition, Condition::IfAbsent | Condition::IfPresent);
    match condition {
        Condition::None => (None, None),
        Condition::IfMatch(etag) => {
            etags.indexes = vec![etag];
            (Some(etags), None)
        }
        Condition::IfPresent => (Some(etags), None),
        Condition::IfAbsent => (None, Some(etags)),
    }
}

fn command(open: &Open) -> Command {
    let mut command = Command::new();
    // The value of a transaction stays with the command as well: the oracle knows it by that.
    command.value = open.value.clone().into();
    match &open.input {
        Input::Put { key, condition, .. } | Input::Delete { key, condition } => {
            command.kind = match &open.input {
                Input::Put { .. } => Kind::Put,
                _ => Kind::Delete,
            };
            command.key = key.clone().into();
            let (if_match, if_none_match) = etags(*condition);
            command.if_match = if_match.into();
            command.if_none_match = if_none_match.into();
        }
        Input::Transaction { checks, writes } => {
            command.kind = Kind::Transaction;
            command.transaction = Some(transaction(checks, writes)).into();
        }
        Input::Get { .. } | Input::List { .. } => panic!("a read is no command: {}", open.input),
    }
    command
}

fn transaction(checks: &[(Key, Condition)], writes: &[(Key, Option<Vec<u8>>)]) -> Transaction {
    let mut transaction = Transaction::new();
    for (key, condition) in checks {
        let mut check = Check::new();
        check.key = key.clone().into();
        let (if_match, if_none_match) = etags(*condition);
        check.if_match = if_match.into();
        check.if_none_match = if_none_match.into();
        transaction.checks.push(check);
    }
    for (key, value) in writes {
        let mut write = Write::new();
        write.key = key.clone().into();
        write.delete = value.is_none();
        write.value = value.clone().unwrap_or_default().into();
        transaction.writes.push(write);
    }
    transaction
}

fn written(outcome: Outcome) -> Output {
    match outcome {
        Outcome::Applied { index } => Output::Written(Some(index)),
        Outcome::Transacted { index, existed } => Output::Transacted {
            index,
            existed: existed.into(),
        },
        Outcome::ConditionFailed { current } => Output::ConditionFailed(current),
        Outcome::ChecksFailed(failed) => {
            let failed = failed.iter().map(|check| FailedCheck {
                position: check.position,
                current: check.current,
            });
            Output::ChecksFailed(failed.collect())
        }
        Outcome::NotProposed(_) => Output::NotApplied,
        Outcome::Unknown => Output::Unknown,
        Outcome::Refused(why) => panic!("a write was refused: {why}"),
    }
}

fn read(process: &Process, input: &Input) -> Output {
    let Input::Get { key } = input else {
        panic!("no read of a key: {input}");
    };
    let value = process.store.get(key);
    Output::Value(value.map(|value| (value.bytes.to_vec(), value.index)))
}
