//! The client port: HTTP/1.1 requests to proposals and reads, outcomes to statuses.
//!
//! Flow: `connection` holds the sockets to their limits; [`serve`] accepts; `Front::answer` counts; `route` has the table
//! of all requests and calls the function for each; `gate` refuses what can't be served at present; `path`, `condition`,
//! `body` and `json` read what the client sent; `quota` sees to room for it; `raft_requests` puts proposals and reads into
//! the inbox and waits for what becomes of them; `reply` says it in HTTP, `json_budget` bounds what of it is in memory, and
//! `problem` says in JSON what went wrong.
//!
//! Invariants: every request ends by its deadline; a response says "not written" only of what surely was not
//! proposed; whatever a client sends is answered with an error at worst, never with a panic; and values appear in no
//! log and no message.

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

/// What the API needs of the rest of the process.
#[derive(Debug, Clone)]
pub struct Api {
    /// Where proposals and reads go.
    pub inbox: Arc<Inbox>,
    /// The map and its newest changes, to read.
    pub state_machine: StateMachine,
    /// What requests have to keep to.
    pub limits: Limits,
    /// Length of the node's tick, in which it counts deadlines.
    pub tick: Duration,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
    /// Where to log.
    pub logger: Logger,
}

/// What requests and connections have to keep to.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Longest key, decoded.
    pub key_bytes_max: usize,
    /// Largest value.
    pub value_bytes_max: usize,
    /// Time from the head of a request to its response.
    pub request_timeout: Duration,
    /// Time for the head of a request; an idle connection is closed after it too.
    pub header_timeout: Duration,
    /// Connections at one time; further ones wait to be accepted.
    pub connections_max: u32,
    /// Bytes of bodies that are being read or wait for their outcome.
    pub body_bytes_max: usize,
    /// Bytes of JSON that are on their way to clients.
    pub json_bytes_max: usize,
    /// Bytes of keys and values that the map may hold, 0 for any number.
    pub store_bytes_max: u64,
    /// Watchers at one time.
    pub watchers_max: usize,
    /// How often a watcher is told where it is, while there is nothing else to tell.
    pub watch_id_interval: Duration,
}

impl Limits {
    /// The limits that the command line sets.
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

/// Serves clients until `shutdown` completes; then lets requests that are under way finish, closes idle connections,
/// and returns when none is left. How long that may take is up to the caller.
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
        // Accepted only when there is room for it: until then it waits in the kernel's queue.
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
            Ok((stream, _)) => {
                failing = false;
                let connection = connection::run(stream, Arc::clone(&front), stopping.clone());
                tokio::spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            // The client was gone before it was accepted: nothing is wrong here.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // Most likely no file descriptor is left. The next attempt would fail at once, so it waits.
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
    // Every connection gives its slot back when it ends. The semaphore is never closed, so this can't fail.
    let _ = slots.acquire_many(connections_max).await;
}

/// What all connections share.
struct Front {
    api: Api,
    /// One permit for each byte of [`Limits::body_bytes_max`].
    body_bytes: Semaphore,
    under_way: quota::UnderWay,
    /// See [`Front::status`].
    status: Mutex<Unanswered<crate::channels::status::Status>>,
    /// Whose turn it is to look at all of the map: see [`Front::with_frozen`].
    frozen: Arc<Mutex<()>>,
    /// One permit for each byte of JSON that is being sent: see `json_budget`.
    json_bytes: Arc<Semaphore>,
    /// The same for the answers to transactions.
    answer_bytes: Arc<Semaphore>,
    /// Whose turn it is to take a backup.
    backup: Arc<Semaphore>,
    /// The same for large events on their way to watchers.
    watch_bytes: Arc<Semaphore>,
    /// One permit for each watcher that there may be.
    watchers: Arc<Semaphore>,
    /// Wakes them. True when this member stops.
    news: sync::watch::Sender<bool>,
}

/// A question that waits in the inbox, or was answered after whoever asked had given up.
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

    /// Answers one request. The second value tells that its body was left unread, so that the connection has to end.
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
                // It counts as what it is.
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

    /// Tells what this member could not do. What clients did wrong is their own business, and no line tells of which key.
    fn log_refusal(&self, reply: &Reply) {
        let status = reply.status().as_u16();
        match reply.extensions().get::<Code>() {
            // Every request would get one, and the log says it of itself.
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
