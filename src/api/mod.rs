//! The client port: turns HTTP/1.1 requests into proposals and reads, and outcomes into HTTP statuses.
//!
//! Flow:
//! - [`serve`] accepts connections, and `connection` enforces the limits of each socket.
//! - `Front::answer` counts requests.
//! - `route` has the table of all requests and calls the function for each.
//! - `gate` refuses requests that can't be served at present.
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

mod audit;
mod backup;
mod base64;
mod body;
pub mod client;
mod condition;
mod connection;
mod error_code;
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod join;
mod json;
mod json_budget;
mod kv;
mod leader;
mod list;
mod members;
mod metrics;
mod pairs;
mod path;
mod problem;
mod quota;
mod raft_requests;
mod reply;
mod route;
mod status;
mod strict_json;
#[cfg(test)]
mod tests;
mod txn;
mod watch;

use crate::channels::inbox::Inbox;
use crate::config::Tuning;
use crate::limits;
use crate::metrics::Metrics;
use crate::store::state_machine::StateMachine;
use audit::Client;
use body::Body;
use error_code::Code;
use futures_channel::oneshot;
use hyper::Request;
use hyper::body::Incoming;
use reply::Reply;
use slog::Logger;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{self, Mutex, Semaphore};
use tokio::time::{Instant, timeout};

/// The parts of the process that the API uses.
#[derive(Debug, Clone)]
pub struct Api {
    /// Receives proposals and reads.
    pub inbox: Arc<Inbox>,
    /// The map and its newest changes, for reading.
    pub state_machine: StateMachine,
    /// The limits of requests and connections.
    pub limits: Limits,
    /// Length of the node's tick. The node counts deadlines in ticks.
    pub tick: Duration,
    /// The metrics of this process.
    pub metrics: Arc<Metrics>,
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
    /// Connections at one time. Further connections wait until they are accepted.
    pub connections_max: u32,
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
    /// The limits from the command line.
    pub fn new(tuning: &Tuning) -> Limits {
        Limits {
            key_bytes_max: tuning.key_bytes_max,
            value_bytes_max: tuning.value_bytes_max,
            request_timeout: tuning.request_timeout,
            header_timeout: limits::HEADER_TIMEOUT,
            connections_max: limits::CLIENT_CONNECTIONS_MAX as u32,
            body_bytes_max: limits::BODY_BYTES_MAX,
            json_bytes_max: limits::JSON_BYTES_MAX,
            store_bytes_max: tuning.store_bytes_max,
            watchers_max: limits::WATCHERS_MAX,
            watch_id_interval: limits::WATCH_ID_INTERVAL,
        }
    }
}

/// Serves clients until `shutdown` completes. Then lets current requests finish, closes idle connections, and returns
/// when no connection is left. The caller limits the time that this may take.
pub async fn serve(listener: TcpListener, api: Api, shutdown: impl Future<Output = ()>) {
    let connections_max = api.limits.connections_max;
    let slots = Arc::new(Semaphore::new(connections_max as usize));
    let (stop, stopping) = sync::watch::channel(false);
    let front = Arc::new(Front::new(api));
    let telling = tokio::spawn({
        let front = Arc::clone(&front);
        async move { front.tell_watchers().await }
    });
    let mut shutdown = pin!(shutdown);
    let mut failing = false;
    loop {
        // A connection is accepted only when a slot is free. Until then the connection waits in the kernel's queue.
        let accept = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (listener.accept().await, slot)
        };
        let (accepted, slot) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            next = accept => next,
        };
        match accepted {
            Ok((stream, address)) => {
                failing = false;
                let client = Client::new(address);
                let connection =
                    connection::run(stream, client, Arc::clone(&front), stopping.clone());
                tokio::spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            // The client closed the connection before it was accepted, which is not an error of this member.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // Most likely no file descriptor is left, so the next attempt would fail at once. The loop waits
                // instead.
                if !failing {
                    slog::error!(front.api.logger, "accept a client's connection: {}", error;
                        "retry_ms" => limits::ACCEPT_BACKOFF.as_millis() as u64);
                }
                failing = true;
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
    // Every connection returns its slot when it ends. The semaphore is never closed, so this can't fail.
    let _ = slots.acquire_many(connections_max).await;
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
    /// One permit for each byte of JSON that is being sent: see `json_budget`.
    json_bytes: Arc<Semaphore>,
    /// One permit for each byte of answers to transactions that are being sent: see `json_budget`.
    answer_bytes: Arc<Semaphore>,
    /// The turn to take a backup.
    backup: Arc<Semaphore>,
    /// One permit for each byte of large events that are on their way to watchers.
    watch_bytes: Arc<Semaphore>,
    /// One permit for each watcher.
    watchers: Arc<Semaphore>,
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
            json_bytes: Arc::new(Semaphore::new(api.limits.json_bytes_max)),
            answer_bytes: Arc::new(Semaphore::new(limits::ANSWERS_BYTES_MAX)),
            backup: Arc::new(Semaphore::new(1)),
            watch_bytes: Arc::new(Semaphore::new(limits::WATCHES_BYTES_MAX)),
            watchers: Arc::new(Semaphore::new(api.limits.watchers_max)),
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
        let (status, mut reply) = match self.route(&head, &mut body, deadline).await {
            Ok(reply) => (reply.status(), reply),
            Err(reply) => {
                self.log_refusal(&reply);
                let status = reply.status();
                let reply = problem::fit(*reply, &head.headers).await;
                // The request counts with its own status, not with that of the response that a watcher gets.
                (status, watch::fit(reply, &head))
            }
        };
        let unread = body.is_unread();
        if unread {
            reply::close(&mut reply);
        }
        let requests = &self.api.metrics.requests;
        requests.answered(&head.method, status, begun.elapsed());
        (reply, unread)
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
                Code::Replaying | Code::Stopping | Code::Forming | Code::Joining | Code::OtherLife,
            ) => {}
            Some(code) if reply.status().is_server_error() => {
                slog::warn!(self.api.logger, "refused a request"; "code" => code.text(), "status" => status);
            }
            Some(code) => {
                slog::debug!(self.api.logger, "refused a request"; "code" => code.text(), "status" => status);
            }
        }
    }
}
