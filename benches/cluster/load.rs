//! The load generator: one thread, one epoll, connections that each send the next request when the last was answered.
//!
//! It shares the machine with what it measures, so it does as little as it can: requests are copied from what was built
//! beforehand, responses are only searched for their end, and the clock is read once for each.

use crate::histogram::Histogram;
use crate::request::Requests;
use crate::response::Parser;
use crate::stream::{ClientTls, Stream};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long what is under way may take to be answered.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that are read from a socket at one time.
const READ_BYTES: usize = 64 << 10;
/// Events that are taken at one time.
const EVENTS: usize = 256;

/// Where connections lead, and how they are made.
#[derive(Clone, Copy)]
pub struct Connecting<'a> {
    /// The connections are spread evenly over them.
    pub addresses: &'a [SocketAddr],
    pub tls: &'a ClientTls,
    /// Each request has a connection of its own. Not for large values.
    pub per_request: bool,
}

impl<'a> Connecting<'a> {
    /// Connections without TLS that stay.
    pub fn plain(addresses: &'a [SocketAddr]) -> Connecting<'a> {
        Connecting {
            addresses,
            tls: &None,
            per_request: false,
        }
    }
}

/// How often, and for how long, to ask.
pub enum Until<'a> {
    /// Random keys: for so long without counting, then for so long with.
    Time {
        warm_up: Duration,
        measure: Duration,
    },
    /// Every key once.
    EveryKey,
    /// Random keys, until this is set. Every answer is noted in [`Outcome::answers`].
    Told(&'a AtomicBool),
}

/// One answer as it should be.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    pub ended: Instant,
    pub latency_us: u32,
}

/// What came of it.
#[derive(Default)]
pub struct Outcome {
    /// Answered as they should be, within the time that counts.
    pub requests: u64,
    pub seconds: f64,
    /// Of those requests.
    pub latencies: Histogram,
    /// In the order in which they came.
    pub answers: Vec<Answer>,
    /// Failed, at any time.
    pub errors: u64,
    /// Why the first one did.
    pub first_error: Option<String>,
}

impl Outcome {
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.seconds.max(1e-9)
    }
}

struct Connection {
    stream: Stream,
    address: SocketAddr,
    parser: Parser,
    /// Of the request that is under way: all but a large value.
    head: Vec<u8>,
    /// Bytes of the request that are with the kernel, or encrypted for it.
    sent: usize,
    begun: Instant,
    /// A request is under way.
    busy: bool,
}

/// Runs a load over so many connections. `edge` is called when the time that counts begins and when it ends.
pub fn run(
    requests: &Requests,
    connecting: Connecting<'_>,
    connections: usize,
    until: Until<'_>,
    mut edge: impl FnMut(),
) -> Outcome {
    let mut generator = Generator::new(requests, connecting, connections, &until);
    let begin = Instant::now();
    generator.begin_all(begin);
    match until {
        Until::EveryKey => {
            generator.work(|generator, now| {
                generator.busy == 0 || now > generator.answered_at + PATIENCE
            });
            generator.outcome.seconds = begin.elapsed().as_secs_f64();
        }
        Until::Time { warm_up, measure } => {
            generator.work(|_, now| now >= begin + warm_up);
            edge();
            let counted = Instant::now();
            generator.outcome.latencies = Histogram::default();
            generator.outcome.requests = 0;
            generator.work(|_, now| now >= counted + measure);
            generator.outcome.seconds = counted.elapsed().as_secs_f64();
            edge();
            // What is under way must not disturb what is measured next.
            generator.counting = false;
            generator.finish();
        }
        Until::Told(stop) => {
            generator.noting = true;
            generator.work(|_, _| stop.load(Ordering::Relaxed));
            generator.outcome.seconds = begin.elapsed().as_secs_f64();
            generator.finish();
        }
    }
    generator.outcome
}

struct Generator<'a> {
    requests: &'a Requests,
    connecting: Connecting<'a>,
    connections: Vec<Connection>,
    epoll: rustix::fd::OwnedFd,
    buffer: Vec<u8>,
    outcome: Outcome,
    /// Connections that wait for an answer.
    busy: usize,
    counting: bool,
    noting: bool,
    stopping: bool,
    answered_at: Instant,
    /// The next key, when every key is asked for once.
    next_key: Option<usize>,
    random: u64,
}

impl<'a> Generator<'a> {
    fn new(
        requests: &'a Requests,
        connecting: Connecting<'a>,
        connections: usize,
        until: &Until<'_>,
    ) -> Generator<'a> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).expect("make an epoll");
        let mut generator = Generator {
            requests,
            connecting,
            connections: Vec::new(),
            epoll,
            buffer: vec![0; READ_BYTES],
            outcome: Outcome::default(),
            busy: 0,
            counting: true,
            noting: false,
            stopping: false,
            answered_at: Instant::now(),
            next_key: matches!(until, Until::EveryKey).then_some(0),
            // Any but 0.
            random: 0x9e37_79b9_7f4a_7c15,
        };
        for number in 0..connections {
            let address = connecting.addresses[number % connecting.addresses.len()];
            let stream = Stream::connect(address, connecting.tls).expect("connect to the server");
            generator.watch(&stream, number);
            generator.connections.push(Connection {
                stream,
                address,
                parser: Parser::default(),
                head: Vec::new(),
                sent: 0,
                begun: Instant::now(),
                busy: false,
            });
        }
        generator
    }

    fn watch(&self, stream: &Stream, number: usize) {
        // Told once of every change: a connection costs no call of epoll_ctl after this one.
        let events = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        epoll::add(
            &self.epoll,
            stream.socket(),
            EventData::new_u64(number as u64),
            events,
        )
        .expect("watch a connection");
    }

    fn begin_all(&mut self, now: Instant) {
        for number in 0..self.connections.len() {
            self.begin(number, now);
        }
    }

    /// Serves connections until `done`.
    fn work(&mut self, mut done: impl FnMut(&Generator, Instant) -> bool) {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS);
        // So that the time is looked at when nothing happens.
        let pause = Timespec {
            tv_sec: 0,
            tv_nsec: 5_000_000,
        };
        let mut now = Instant::now();
        while !done(self, now) {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&pause)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("wait for connections: {error}"),
            }
            for event in &events {
                self.serve(event.data.u64() as usize);
            }
            now = Instant::now();
        }
    }

    /// Begins nothing any more, and waits for what is under way.
    fn finish(&mut self) {
        self.stopping = true;
        let limit = Instant::now() + PATIENCE;
        self.work(|generator, now| generator.busy == 0 || now > limit);
    }

    /// Sends the next request on this connection, if there is to be one.
    fn begin(&mut self, number: usize, now: Instant) {
        let keys = self.requests.keys();
        let key = match &mut self.next_key {
            _ if self.stopping => return,
            Some(next) if *next < keys => {
                *next += 1;
                *next - 1
            }
            Some(_) => return,
            None => {
                self.random ^= self.random << 13;
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                self.random as usize % keys
            }
        };
        let connection = &mut self.connections[number];
        self.requests.write_head(key, &mut connection.head);
        connection.sent = 0;
        connection.begun = now;
        if self.connecting.per_request && !self.connect(number) {
            return;
        }
        self.connections[number].busy = true;
        self.busy += 1;
        self.send(number);
    }

    fn send(&mut self, number: usize) {
        let connection = &mut self.connections[number];
        if !connection.busy {
            return;
        }
        match connection.stream.flush() {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => return self.fail(number, format!("write: {error}")),
        }
        let (head, body) = (&connection.head, self.requests.body());
        while connection.sent < head.len() + body.len() {
            let in_body = connection.sent.saturating_sub(head.len());
            let rest = [
                IoSlice::new(&head[connection.sent.min(head.len())..]),
                IoSlice::new(&body[in_body..]),
            ];
            match connection.stream.write(&rest) {
                Ok(count) => connection.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.fail(number, format!("write: {error}")),
            }
        }
    }

    fn serve(&mut self, number: usize) {
        self.send(number);
        loop {
            let connection = &mut self.connections[number];
            if !connection.busy {
                return;
            }
            let count = match connection.stream.read(&mut self.buffer) {
                Ok(0) => return self.fail(number, "the server closed the connection".to_owned()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return self.fail(number, format!("read: {error}")),
            };
            match connection.parser.feed(&self.buffer[..count]) {
                Ok(Some(status)) => {
                    self.answered(number, status);
                    // The answer to the next request is not there yet. If it is, epoll tells.
                    return;
                }
                Ok(None) if count < READ_BYTES && connection.stream.is_empty_after_short_read() => {
                    return;
                }
                Ok(None) => {}
                Err(error) => return self.fail(number, error),
            }
        }
    }

    fn answered(&mut self, number: usize, status: u16) {
        let now = Instant::now();
        let connection = &mut self.connections[number];
        connection.busy = false;
        self.busy -= 1;
        self.answered_at = now;
        if !self.requests.kind.succeeds_with(status) {
            self.note_error(format!("status {status}"));
        } else if self.counting {
            self.outcome.requests += 1;
            let latency = now - connection.begun;
            self.outcome.latencies.record(latency);
            if self.noting {
                self.outcome.answers.push(Answer {
                    ended: now,
                    latency_us: latency.as_micros() as u32,
                });
            }
        }
        self.begin(number, now);
    }

    /// The connection is of no use any more. Another one takes its place.
    fn fail(&mut self, number: usize, why: String) {
        self.note_error(why);
        self.busy -= 1;
        let connection = &mut self.connections[number];
        connection.busy = false;
        connection.parser = Parser::default();
        if self.connecting.per_request || self.connect(number) {
            self.begin(number, Instant::now());
        }
    }

    /// Puts a new connection in the place of this one. Whether there is one.
    fn connect(&mut self, number: usize) -> bool {
        let connection = &mut self.connections[number];
        let Connecting {
            tls, per_request, ..
        } = self.connecting;
        let stream = match per_request {
            true => Stream::start(connection.address, tls),
            false => Stream::connect(connection.address, tls),
        };
        match stream {
            Ok(stream) => {
                connection.stream = stream;
                self.watch(&self.connections[number].stream, number);
                true
            }
            Err(error) => {
                self.note_error(format!("connect again: {error}"));
                false
            }
        }
    }

    fn note_error(&mut self, why: String) {
        self.outcome.errors += 1;
        self.outcome.first_error.get_or_insert(why);
    }
}
