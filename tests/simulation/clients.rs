//! Clients that ask for what `mix.rs` chooses, and what becomes of their requests: on the way to a member, in the hands
//! of the member, and on the way back.
//!
//! Every value is unique, so that a read tells which write it saw. Nothing is sent twice. A DELETE carries a unique
//! value as well: the daemon ignores it, and the oracle knows the command by it.
//!
//! Clients draw from a stream of random numbers of their own (see `mix.rs`).

use crate::backups::Backup;
use crate::checker::{Condition, Input, Key, Operation, Output};
use crate::commands::{command, output, told};
use crate::disk::Random;
use crate::lists;
use crate::mix::key_name;
use crate::oracle::{Oracle, hash};
use crate::plan::Plan;
use crate::process::Process;
use crate::watchers::Watcher;
use crate::world::{Event, MILLISECOND, SECOND, Target, World};
use futures_channel::oneshot;
use raftkvd::channels::notice::Notice;
use raftkvd::command::SnapshotHeader;
use raftkvd::command::outcome::{NotProposed, NotTransferred, Outcome};
use raftkvd::command::proposal::{Proposal, Read, Transfer, TransferReply};
use raftkvd::store::Frozen;
use std::collections::BTreeMap;
use std::fmt;

/// Ticks that the node has for a request.
pub const DEADLINE_TICKS: u64 = 80;
/// When a client stops waiting.
const PATIENCE: u64 = 4 * SECOND;

pub struct Clients {
    seed: u64,
    pub random: Random,
    open: BTreeMap<u64, Open>,
    next: u64,
    pub history: Vec<Operation>,
    /// The newest that was told of each key.
    etags: BTreeMap<Key, u64>,
    /// The highest that any client was told.
    newest: u64,
    /// What each client knows.
    own: Vec<Own>,
    pub watchers: Vec<Watcher>,
    pub backup: Option<Backup>,
    pub stopped: bool,
}

#[derive(Default)]
struct Own {
    /// The machine that it asked last.
    machine: Option<usize>,
    /// The next page of its list.
    page: Option<Input>,
    requests: u64,
}

/// What a client asks for.
#[derive(Debug, Clone)]
pub enum Wish {
    Operation(Input),
    /// That this member leads.
    Handover {
        to: u64,
    },
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wish::Operation(input) => write!(f, "{input}"),
            Wish::Handover { to } => write!(f, "handover to member {to}"),
        }
    }
}

/// A request that a client waits for.
pub struct Open {
    client: Option<usize>,
    machine: usize,
    /// Unique.
    value: Vec<u8>,
    wish: Wish,
    invoked: u64,
    /// The highest index that any client had been told by then.
    newest: u64,
    waiting: Waiting,
}

enum Waiting {
    /// On its way.
    Request,
    Write(oneshot::Receiver<Outcome>),
    Read(oneshot::Receiver<Result<(), NotProposed>>),
    Freeze(oneshot::Receiver<(SnapshotHeader, Frozen)>),
    /// A list is being made of the map.
    Map(u64, Frozen),
    /// The term that the member knew when it was asked.
    Transfer(u64, oneshot::Receiver<Result<(), NotTransferred>>),
    /// On its way back.
    Answer(Output),
}

impl Clients {
    pub fn new(seed: u64, plan: &Plan) -> Clients {
        Clients {
            seed,
            random: Random(seed),
            open: BTreeMap::new(),
            next: 0,
            history: Vec::new(),
            etags: BTreeMap::new(),
            newest: 0,
            own: (0..plan.asks.clients).map(|_| Own::default()).collect(),
            watchers: Vec::new(),
            backup: None,
            stopped: false,
        }
    }

    pub fn is_open(&self, operation: u64) -> bool {
        self.open.contains_key(&operation)
    }

    /// How many requests there were.
    pub fn asked(&self) -> u64 {
        self.next
    }

    pub fn newest_etag(&self, key: &Key) -> Option<u64> {
        self.etags.get(key).copied()
    }

    /// The highest index that any client was told.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// What is drawn from here on depends on the seed, and on which request of which client it is: a request that is left
    /// out of a run changes no other one.
    fn draw_for(&mut self, client: usize) {
        let requests = self.own[client].requests;
        self.random = Random(hash(&(self.seed, client, requests)));
    }

    /// Somebody was told of this index.
    pub fn hears(&mut self, index: u64) {
        self.newest = self.newest.max(index);
    }

    pub fn asked_before(&self, client: usize) -> Option<usize> {
        self.own[client].machine
    }
}

impl Open {
    /// A linearizable answer as of this index.
    pub fn is_not_older(&self, index: u64) {
        assert!(
            index >= self.newest,
            "{} was answered as of index {index}, after a client had been answered as of {}",
            self.wish,
            self.newest
        );
    }
}

impl World {
    /// Everything begins.
    pub fn begin(&mut self) {
        for client in 0..self.plan.asks.clients {
            let delay = self.clients.random.below(SECOND);
            self.after(delay, Event::Client(client as usize));
        }
        self.begin_watchers();
        self.begin_backups();
        self.after(SECOND, Event::Fault);
        self.after(2 * SECOND, Event::Admin);
    }

    /// A client begins its next request.
    pub fn client(&mut self, client: usize) {
        if self.clients.stopped {
            return;
        }
        if let Some(time) = self.plan.asks.silent_until(self.now) {
            let delay = self.clients.random.below(200 * MILLISECOND);
            return self.after(time - self.now + delay, Event::Client(client));
        }
        self.clients.draw_for(client);
        let Some(machine) = self.whom(client) else {
            let delay = self
                .clients
                .random
                .between(20 * MILLISECOND, 400 * MILLISECOND);
            return self.after(delay, Event::Client(client));
        };
        let own = &mut self.clients.own[client];
        own.machine = Some(machine);
        own.requests += 1;
        let (wish, value) = match own.page.take() {
            Some(page) => (Wish::Operation(page), Vec::new()),
            None => self.next_wish(),
        };
        self.ask(Some(client), machine, value, wish);
    }

    fn ask(&mut self, client: Option<usize>, machine: usize, value: Vec<u8>, wish: Wish) -> u64 {
        self.clients.next += 1;
        let number = self.clients.next;
        if let Some(client) = client.filter(|_| self.setup.cuts.operations.contains(&number)) {
            self.after(self.plan.asks.thinking / 2, Event::Client(client));
            return number;
        }
        let open = Open {
            client,
            machine,
            value,
            wish,
            invoked: self.now,
            newest: self.clients.newest,
            waiting: Waiting::Request,
        };
        self.clients.open.insert(number, open);
        let delay = self.clients.random.between(50, 2 * MILLISECOND);
        let target = self.target(machine);
        self.after(delay, Event::Request(target, number));
        self.after(PATIENCE, Event::GiveUp(number));
        number
    }

    /// What is asked for through this machine at the end of a run, and writes nothing.
    pub fn ask_for(&mut self, machine: usize, wish: Wish) -> u64 {
        self.ask(None, machine, Vec::new(), wish)
    }

    /// The same for a write.
    pub fn ask_write(&mut self, machine: usize, key: u64) -> u64 {
        let value = self.value();
        let wish = Wish::Operation(Input::Put {
            key: key_name(key),
            value: value.clone(),
            condition: Condition::None,
        });
        self.ask(None, machine, value, wish)
    }

    /// A request arrives at its member.
    pub fn request(&mut self, target: Target, number: u64) {
        let serves = self.is_open(target.machine);
        let Some(open) = self.clients.open.get_mut(&number) else {
            return;
        };
        let process = self.machines[target.machine].process.as_ref();
        let process = process.expect("it was looked for");
        if !serves {
            // The API answers so. (And no client goes to a cluster that an emptied first member has begun.)
            open.waiting = Waiting::Answer(Output::NotApplied);
            self.count("requests to members that serve no clients");
            return self.after(MILLISECOND, Event::Response(number));
        }
        open.waiting = match &open.wish {
            Wish::Operation(Input::Get { .. } | Input::List { .. }) => {
                let (reply, permission) = oneshot::channel();
                process.inbox.read(Read {
                    deadline_ticks: DEADLINE_TICKS,
                    reply,
                });
                Waiting::Read(permission)
            }
            Wish::Operation(input) => {
                let (reply, outcome) = oneshot::channel();
                process.inbox.propose(Proposal {
                    command: command(input, &open.value),
                    deadline_ticks: DEADLINE_TICKS,
                    reply,
                });
                Waiting::Write(outcome)
            }
            Wish::Handover { to } => {
                let (reply, outcome): (TransferReply, _) = oneshot::channel();
                process.inbox.transfer(Transfer {
                    to: *to,
                    deadline_ticks: DEADLINE_TICKS,
                    reply,
                });
                Waiting::Transfer(process.node().status().term, outcome)
            }
        };
        self.wake(target.machine);
    }

    /// Nobody listens at the place where a request went.
    pub fn refused(&mut self, number: u64) {
        if let Some(open) = self.clients.open.get_mut(&number) {
            open.waiting = Waiting::Answer(Output::NotApplied);
            self.count("requests that met nobody");
            self.after(20 * MILLISECOND, Event::Response(number));
        }
    }

    /// Looks which requests the process of a machine has answered.
    pub fn poll(&mut self, machine: usize) {
        let Some(process) = self.machines[machine].process.as_ref() else {
            return;
        };
        let mut answered = Vec::new();
        let mut transferred = Vec::new();
        let mut freezes = false;
        for (number, open) in &mut self.clients.open {
            if open.machine != machine {
                continue;
            }
            match open.goes_on(process, &mut self.oracle) {
                Step::None => {}
                Step::Freezes => freezes = true,
                Step::Answered => answered.push(*number),
                Step::Transferred(to, term, outcome) => {
                    answered.push(*number);
                    transferred.push((to, term, outcome));
                }
            }
        }
        for number in answered {
            let delay = self.clients.random.between(50, 2 * MILLISECOND);
            self.after(delay, Event::Response(number));
        }
        for (to, term, outcome) in transferred {
            self.handed_over(to, term, outcome);
        }
        if freezes {
            self.wake(machine);
        }
    }

    /// The process of a machine has ended: its connections break.
    pub fn answer_none(&mut self, machine: usize) {
        let mut broken = Vec::new();
        for (number, open) in &mut self.clients.open {
            if open.machine == machine
                && !matches!(open.waiting, Waiting::Request | Waiting::Answer(_))
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
        if let Some(mut open) = self.clients.open.remove(&number) {
            let waiting = std::mem::replace(&mut open.waiting, Waiting::Request);
            let output = match (waiting, &open.wish) {
                (Waiting::Answer(output), _) => output,
                (Waiting::Map(index, map), Wish::Operation(input)) => {
                    lists::page(&open, input, index, map, &self.oracle)
                }
                _ => panic!("operation {number} was answered without an answer"),
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
        if let Some(client) = open.client {
            let delay = self
                .clients
                .random
                .between(MILLISECOND, self.plan.asks.thinking);
            self.after(delay, Event::Client(client));
        }
        let Wish::Operation(input) = open.wish else {
            return;
        };
        for (key, etag) in told(&input, &output) {
            self.clients.hears(etag);
            self.clients.etags.insert(key.clone(), etag);
        }
        self.count(counted(&input, &output));
        if let Some(client) = open.client {
            self.clients.own[client].page = lists::next_page(&input, &output);
        }
        let unknown = output == Output::Unknown;
        let operation = Operation {
            node: open.machine as u64,
            invoked: open.invoked,
            returned: (!unknown).then_some(self.now),
            input,
            output,
        };
        self.tell(|| operation.to_string());
        self.clients.history.push(operation);
    }
}

/// What becomes of a request when its member has done something.
enum Step {
    None,
    /// It asks for the map.
    Freezes,
    Answered,
    /// Whom it wants to lead, the term that was known when it came, and the answer.
    Transferred(u64, u64, Result<(), NotTransferred>),
}

impl Open {
    fn goes_on(&mut self, process: &Process, oracle: &mut Oracle) -> Step {
        let (answer, step) = match (&mut self.waiting, &self.wish) {
            (Waiting::Write(outcome), Wish::Operation(input)) => {
                let output = match outcome.try_recv() {
                    Ok(None) => return Step::None,
                    Ok(Some(outcome)) => output(outcome),
                    Err(_) => Output::Unknown,
                };
                match told_place(&output) {
                    Some(place) => oracle.acknowledges(&self.value, place),
                    None if output == Output::NotApplied => oracle.refuses(&self.value),
                    None => {}
                }
                // The answer to a DELETE has no ETag.
                let output = match (input, output) {
                    (Input::Delete { .. }, Output::Written(_)) => Output::Written(None),
                    (_, output) => output,
                };
                (output, Step::Answered)
            }
            (Waiting::Read(permission), Wish::Operation(input)) => {
                match (permission.try_recv(), input) {
                    (Ok(None), _) => return Step::None,
                    (Ok(Some(Ok(()))), Input::Get { key }) => {
                        // Also when the key was not written since.
                        self.is_not_older(process.history.newest());
                        let value = process.store.get(key);
                        let value = value.map(|value| (value.bytes.to_vec(), value.index));
                        (Output::Value(value), Step::Answered)
                    }
                    (Ok(Some(Ok(()))), _) => {
                        let (reply, frozen) = oneshot::channel();
                        process.inbox.notice(Notice::Freeze(reply));
                        self.waiting = Waiting::Freeze(frozen);
                        return Step::Freezes;
                    }
                    (Ok(Some(Err(_))) | Err(_), _) => (Output::NotApplied, Step::Answered),
                }
            }
            (Waiting::Freeze(frozen), _) => match frozen.try_recv() {
                Ok(None) => return Step::None,
                Ok(Some((header, map))) => {
                    self.waiting = Waiting::Map(header.index, map);
                    return Step::Answered;
                }
                Err(_) => (Output::Unknown, Step::Answered),
            },
            (Waiting::Transfer(term, outcome), Wish::Handover { to }) => {
                let outcome = match outcome.try_recv() {
                    Ok(None) => return Step::None,
                    Ok(Some(outcome)) => outcome,
                    Err(_) => Err(NotTransferred::Unknown),
                };
                let step = Step::Transferred(*to, *term, outcome);
                (Output::Unknown, step)
            }
            _ => return Step::None,
        };
        self.waiting = Waiting::Answer(answer);
        step
    }
}

/// Where an answer says that its command stands in the log, if it says that it is there: `Some(None)` is somewhere.
fn told_place(output: &Output) -> Option<Option<u64>> {
    match output {
        Output::Written(index) => Some(*index),
        Output::Transacted { index, .. } => Some(Some(*index)),
        Output::ConditionFailed(_) | Output::ChecksFailed(_) => Some(None),
        _ => None,
    }
}

fn counted(input: &Input, output: &Output) -> &'static str {
    match (output, input) {
        (Output::Value(_), _) => "reads answered",
        (Output::Listed { .. }, Input::List { after: Some(_), .. }) => "further pages answered",
        (Output::Listed { .. }, _) => "lists answered",
        (Output::Transacted { .. }, _) => "transactions answered",
        (Output::Written(_), Input::Delete { .. }) => "deletions acknowledged",
        (Output::Written(_), _) => "writes acknowledged",
        (Output::ChecksFailed(_), _) => "checks failed",
        (Output::ConditionFailed(_), _) => "conditions failed",
        (Output::NotApplied, _) => "requests refused",
        (Output::Unknown, _) => "outcomes unknown",
    }
}
