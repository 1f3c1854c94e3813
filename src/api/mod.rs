//! The client port: turns HTTP/1.1 requests into proposals and reads, and outcomes into HTTP statuses.
//!
//! Flow:
//! - [`serve`] accepts connections, and `slots` limits their number. `connection` runs hyper on each, `socket` limits how
//!   long a client may take, and `heads` the memory of incomplete requests.
//! - `Front::answer` counts requests.
//! - `gate` refuses requests that name another host, or that come from a web page of another site.
//! - `access` refuses requests that the certificate of the client does not allow.
//! - `route` has the table of all requests and calls the function for each.
//! - `availability` refuses requests that can't be served at present.
//! - `path`, `condition`, `body` and `json` read what the client sent; `quota` checks that the map has room for it.
//! - `raft_requests` puts proposals and reads into the inbox and waits for their outcomes.
//! - `reply` turns an outcome into a response, `json_budget` limits the JSON in memory, and `problem` turns a refusal
//!   into JSON.
//! - `audit` logs who asked for a change of members or leadership, or for a backup.
//!
//! Invariants:
//! - Every request is answered by its deadline. Only sending the body of the answer may take longer: a backup, a watch,
//!   or an answer to a slow client.
//! - A response says "not written" only if the write certainly had no effect and never will.
//! - The worst answer to any input is an error, never a panic.
//! - No log line and no message contains a value.

mod accept;
mod access;
mod answer_headers;
mod audit;
mod availability;
mod backup;
mod base64;
mod body;
mod caller;
pub mod client;
mod condition;
mod connection;
mod error_code;
mod event_texts;
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod heads;
mod hint;
mod join;
mod json;
mod json_budget;
mod kv;
mod leader;
mod list;
mod meant_option;
mod members;
mod metrics;
mod pairs;
mod path;
mod problem;
mod processor_share;
mod quota;
mod raft_requests;
mod reply;
mod route;
mod slots;
mod socket;
mod status;
mod strict_json;
#[cfg(test)]
mod tests;
mod txn;
mod watch;

use crate::channels::inbox::Inbox;
use crate::channels::revoked_keys::RevokedKeys;
use crate::config::Tuning;
use crate::limits;
use crate::metrics::{AcceptingPort, Metrics};
use crate::store::state_machine::StateMachine;
use crate::tls::Tls;
use crate::workers::Workers;
use audit::Client;
use body::Body;
use error_code::Code;
use event_texts::EventTexts;
use futures_channel::oneshot;
use hyper::Request;
use hyper::body::Incoming;
use hyper::http::request::Parts;
use json_budget::JsonTexts;
use processor_share::ProcessorShare;
use reply::Reply;
use slog::Logger;
use slots::{ConnectionSlots, Full, Slot, Slots};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{self, Mutex, Semaphore};
use tokio::time::{Instant, timeout};

pub use gate::Hosts;

/// The parts of the process that the API uses.
#[derive(Debug, Clone)]
pub struct Api {
    /// Receives proposals and reads.
    pub inbox: Arc<Inbox>,
    /// The map and its newest changes, for reading.
    pub state_machine: StateMachine,
    /// The hosts by which clients may name this member.
    pub hosts: Hosts,
    /// The limits of requests and connections.
    pub limits: Limits,
    /// Length of the node's tick. The node counts deadlines in ticks.
    pub tick: Duration,
    /// The metrics of this process.
    pub metrics: Arc<Metrics>,
    /// The threads for work that takes long.
    pub workers: Workers,
    /// The certificates of this member. `None`: without TLS.
    pub tls: Option<Tls>,
    /// The keys of removed members.
    pub revoked: Arc<RevokedKeys>,
    /// Receives the log lines.
    pub logger: Logger,
}

/// The limits of requests and connections.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Longest key, in bytes after decoding.
    pub key_bytes_max: usize,
    /// Largest value, in bytes.
    pub value_bytes_max: usize,
    /// Time from the head of a request to its response.
    pub request_timeout: Duration,
    /// Time until the head of a request is complete. An idle connection is closed after the same time.
    pub header_timeout: Duration,
    /// Connections at one time.
    pub connections_max: usize,
    /// Connections beyond `connections_max`, for `/-/live` and `/-/ready` only.
    pub spare_connections_max: usize,
    /// Connections of one address, and watches of one address. 0: a share of all.
    pub address_max: usize,
    /// Bytes of all bodies that are being read or wait for their outcome.
    pub body_bytes_max: usize,
    /// Bytes of all JSON that is on its way to clients.
    pub json_bytes_max: usize,
    /// Bytes of keys and values that the map may hold. 0 means no limit.
    pub store_bytes_max: u64,
    /// Watchers at one time.
    pub watchers_max: usize,
    /// How often an idle watcher gets an event id.
    pub watch_id_interval: Duration,
}

impl Limits {
    /// The limits from the command line, with the numbers of connections that the limit of open files allows.
    pub fn new(tuning: &Tuning, connections_max: usize, spare_connections_max: usize) -> Limits {
        Limits {
            key_bytes_max: tuning.key_bytes_max,
            value_bytes_max: tuning.value_bytes_max,
            request_timeout: tuning.request_timeout,
            header_timeout: limits::HEADER_TIMEOUT,
            connections_max,
            spare_connections_max,
            address_max: tuning.address_connections_max as usize,
            body_bytes_max: limits::BODY_BYTES_MAX,
            json_bytes_max: limits::JSON_BYTES_MAX,
            store_bytes_max: tuning.store_bytes_max,
            watchers_max: limits::WATCHERS_MAX,
            watch_id_interval: limits::WATCH_ID_INTERVAL,
        }
    }

    /// The slots of one address among `all`.
    fn of_address(&self, all: usize) -> usize {
        match self.address_max {
            0 => all / limits::ADDRESS_SHARE,
            max => max,
        }
    }
}

/// Serves clients until `shutdown` completes. Then lets current requests finish, closes idle connections, and returns
/// when no connection is left. The caller limits the time that this may take.
pub async fn serve(listener: TcpListener, api: Api, shutdown: impl Future<Output = ()>) {
    let (stop, stopping) = sync::watch::channel(false);
    let front = Arc::new(Front::new(api));
    let telling = tokio::spawn({
        let front = Arc::clone(&front);
        async move { front.tell_watchers().await }
    });
    let mut shutdown = pin!(shutdown);
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                failing = false;
                let client = Client::new(address);
                let Some((slot, full)) = front.connections.enter(client.ip()) else {
                    front.tell_crowd(&client.turned_away(Some(Full::All)), None);
                    continue;
                };
                let client = client.turned_away(full);
                let crowded = front.tell_crowd(&client, Some(&slot));
                let task = slot.held_by();
                let connection =
                    connection::run(stream, client, slot, Arc::clone(&front), stopping.clone());
                task.started(tokio::spawn(connection).abort_handle());
                if crowded {
                    // Lets the new connection read what has arrived, before the next connection can take its slot.
                    tokio::task::yield_now().await;
                }
            }
            // The client closed the connection before it was accepted, which is not an error of this member.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // Most likely no file descriptor is left, so the next attempt would fail at once. The loop waits
                // instead.
                if !failing {
                    slog::error!(front.api.logger, "can't accept a client's connection: {}; this member tries again",
                        error;
                        "retry_ms" => limits::ACCEPT_BACKOFF.as_millis() as u64);
                }
                failing = true;
                front
                    .api
                    .metrics
                    .shortages
                    .accepts_failed(AcceptingPort::Client);
                if timeout(limits::ACCEPT_BACKOFF, &mut shutdown).await.is_ok() {
                    break;
                }
            }
        }
    }
    drop(listener);
    stop.send_replace(true);
    telling.abort();
    front.end_watches();
    front.connections.empty().await;
}

/// State that all connections share.
struct Front {
    api: Api,
    /// One permit for each byte of [`Limits::body_bytes_max`].
    body_bytes: Semaphore,
    under_way: quota::UnderWay,
    /// See [`Front::status`].
    status: Mutex<Unanswered<crate::channels::status::Status>>,
    /// The turn to look at the whole map: see [`Front::with_frozen`].
    frozen: Arc<Mutex<()>>,
    /// The processor time of such reads, and of backups.
    scans: Arc<ProcessorShare>,
    /// The JSON of reads that is being sent.
    json_texts: Arc<JsonTexts>,
    /// One permit for each byte of answers to transactions that are being sent: see `json_budget`.
    answer_bytes: Arc<Semaphore>,
    /// The turn to take a backup.
    backup: Arc<Semaphore>,
    /// The turn to take a stale backup.
    stale_backup: Arc<Semaphore>,
    /// The texts of changes, for all watchers.
    event_texts: Arc<EventTexts>,
    /// One slot for each connection.
    connections: ConnectionSlots,
    /// When it was last logged that connections are refused or give way.
    crowd_told: parking_lot::Mutex<Option<Instant>>,
    /// Bytes of incomplete heads of requests.
    head_bytes: Arc<AtomicUsize>,
    /// One slot for each watcher.
    watchers: Arc<Slots>,
    /// Wakes the watchers. True when this member stops.
    news: sync::watch::Sender<bool>,
}

/// The question of a request that gave up. The question still waits in the inbox, or nobody has read its answer.
type Unanswered<T> = Option<oneshot::Receiver<T>>;

impl Front {
    fn new(api: Api) -> Front {
        metrics::prepare(&api.metrics);
        Front {
            body_bytes: Semaphore::new(api.limits.body_bytes_max),
            under_way: quota::UnderWay::default(),
            status: Mutex::new(None),
            frozen: Arc::default(),
            scans: Arc::default(),
            json_texts: Arc::new(JsonTexts::new(api.limits.json_bytes_max)),
            answer_bytes: Arc::new(Semaphore::new(limits::ANSWERS_BYTES_MAX)),
            backup: Arc::new(Semaphore::new(1)),
            stale_backup: Arc::new(Semaphore::new(1)),
            event_texts: Arc::new(EventTexts::new(&api.state_machine.history, &api.workers)),
            connections: ConnectionSlots::new(
                api.limits.connections_max,
                api.limits.of_address(api.limits.connections_max),
                api.limits.spare_connections_max,
            ),
            crowd_told: parking_lot::Mutex::default(),
            head_bytes: Arc::default(),
            watchers: Slots::new(
                api.limits.watchers_max,
                api.limits.of_address(api.limits.watchers_max),
                &Arc::default(),
            ),
            news: sync::watch::Sender::new(false),
            api,
        }
    }

    /// Answers one request. The flag is true if a part of the body was not read, so that the connection must end.
    async fn answer(&self, request: Request<Incoming>) -> (Reply, bool) {
        let begun = Instant::now();
        let deadline = begun + self.api.limits.request_timeout;
        let (head, incoming) = request.into_parts();
        let mut body = Body::new(incoming);
        let turned_away = Client::of(&head).full();
        let answer = match turned_away {
            Some(full) if !is_probe(&head) => Err(self.turn_away(full)),
            _ => self.route(&head, &mut body, deadline).await,
        };
        let (status, mut reply) = match answer {
            Ok(reply) => (reply.status(), reply),
            Err(reply) => {
                self.log_refusal(&reply);
                let status = reply.status();
                let reply = problem::fit(*reply, &head.headers).await;
                // The request counts with its own status, not with that of the response that a watcher gets.
                (status, watch::fit(reply, &head))
            }
        };
        answer_headers::complete(&mut reply, &head);
        let unread = body.is_unread();
        if unread || turned_away.is_some() {
            reply::close(&mut reply);
        }
        let requests = &self.api.metrics.requests;
        requests.answered(&head.method, status, begun.elapsed());
        (reply, unread)
    }

    /// 503: no slot is left for the connection of this request.
    fn turn_away(&self, full: Full) -> Box<Reply> {
        let line = match full {
            Full::Address => {
                "refused: this address has as many connections as one address may have; close some, or try again"
            }
            Full::All => "refused: too many connections; try again, or another member",
        };
        let mut reply = reply::unavailable(Code::TooManyConnections, line);
        reply::set_outcome(&mut reply, "none");
        reply
    }

    /// Counts a connection that found no free slot, and logs such connections now and then. Returns false if there was
    /// a free slot.
    fn tell_crowd(&self, client: &Client, slot: Option<&Slot>) -> bool {
        let full = client.full();
        if full.is_none() && !slot.is_some_and(|slot| slot.evicted) {
            return false;
        }
        self.api
            .metrics
            .shortages
            .connection_beyond_slots(full.is_some());
        let now = Instant::now();
        let mut told = self.crowd_told.lock();
        if told.is_none_or(|told| now >= told + limits::SLOTS_FULL_TOLD) {
            *told = Some(now);
            drop(told);
            let Limits {
                connections_max, ..
            } = self.api.limits;
            slog::warn!(self.api.logger, "too many connections of clients: the oldest without a request are closed, and \
                requests beyond them are refused; let clients reuse connections, or raise the limit of open files";
                "from" => %client.ip(), "connections" => self.connections.taken(),
                "client_connections_max" => connections_max, "connections_max_of_address" => self.api.limits.of_address(connections_max));
        }
        true
    }

    /// Logs a refusal: a warning if this member could not serve the request, and a debug line for an error of the
    /// client. No line names a key.
    fn log_refusal(&self, reply: &Reply) {
        let status = reply.status().as_u16();
        match reply.extensions().get::<Code>() {
            // A reply without a code is no refusal (304). While the member is in one of these states, every request
            // gets the same refusal, and the log already has a line about the state.
            None
            | Some(
                Code::Replaying
                | Code::Stopping
                | Code::Forming
                | Code::Joining
                | Code::OtherLife
                | Code::TooManyConnections,
            ) => {}
            Some(code) if reply.status().is_server_error() && *code != Code::TransferCoding => {
                slog::warn!(self.api.logger, "refused a request"; "code" => code.text(), "status" => status);
            }
            Some(code) => {
                slog::debug!(self.api.logger, "refused a request"; "code" => code.text(), "status" => status);
            }
        }
    }
}

/// Whether a request is a probe of a supervisor. Probes are answered on spare connections too.
fn is_probe(head: &Parts) -> bool {
    ["/-/live", "/-/ready"].contains(&head.uri.path())
}
