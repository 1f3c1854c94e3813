//! The peer port: lets peers in, and takes their messages to the inbox.
//!
//! Whoever can reach the port can send anything, so before a handshake was accepted nobody holds more than a
//! connection and a small buffer, for a limited time; and when connections run out, it is the oldest of those without
//! a handshake that ends, so that idle ones never keep a member out.

use super::handshake::{self, Accepted, Claims, Lane, UPGRADE};
use super::{Denied, Shared, dial, frame, snapshot};
use crate::config;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::header::{ALLOW, CONNECTION, HeaderMap, HeaderValue, UPGRADE as UPGRADE_HEADER};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use raft::eraftpb::{Message, MessageType};
use slog::{Logger, debug, error, o, warn};
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};

/// Peers whose last refusal is remembered, so that it is logged once.
const REFUSALS_REMEMBERED: usize = 64;

/// Accepts connections until `shutdown` is done.
pub(super) async fn serve(
    shared: Arc<Shared>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) {
    let mut shutdown = pin!(shutdown);
    let mut tasks = JoinSet::new();
    let strangers = Arc::new(Strangers::default());
    let mut failing = false;
    for serial in 0.. {
        let accepted = loop {
            tokio::select! {
                biased;
                () = &mut shutdown => return tasks.shutdown().await,
                Some(_) = tasks.join_next() => (),
                accepted = listener.accept() => break accepted,
            }
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely. Trying again at once would only burn the processor.
                if !std::mem::replace(&mut failing, true) {
                    error!(shared.logger, "can't accept peer connections"; "error" => %error);
                }
                let pause = tokio::time::timeout(config::PEER_BACKOFF_MAX, &mut shutdown);
                if pause.await.is_ok() {
                    return tasks.shutdown().await;
                }
                continue;
            }
        };
        failing = false;
        let full = tasks.len() >= shared.limits.connections;
        if full {
            let oldest = strangers.lock().pop_first();
            let Some((_, Some(oldest))) = oldest else {
                debug!(shared.logger, "no room for another connection"; "from" => %address);
                continue;
            };
            oldest.abort();
        }
        // The place is taken before there is a task that could give it back, and the lock is not held while the task is
        // made or ended: a runtime that stops drops a task where it stands, and that takes the lock.
        strangers.lock().insert(serial, None);
        let stranger = Stranger {
            serial,
            strangers: strangers.clone(),
        };
        let logger = shared.logger.new(o!("from" => address.to_string()));
        let task = tasks.spawn(connection(shared.clone(), stream, stranger, logger));
        if let Some(place) = strangers.lock().get_mut(&serial) {
            *place = Some(task);
        }
    }
}

/// Connections without an accepted handshake, oldest first. The newest has no task for a moment.
#[derive(Default)]
struct Strangers(Mutex<BTreeMap<u64, Option<AbortHandle>>>);

impl Strangers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Option<AbortHandle>>> {
        self.0
            .lock()
            .expect("a thread panicked while it held the new connections")
    }
}

/// The place of a connection among the [`Strangers`].
struct Stranger {
    serial: u64,
    strangers: Arc<Strangers>,
}

impl Stranger {
    /// The connection belongs to a peer now, or has ended.
    fn leave(&self) {
        self.strangers.lock().remove(&self.serial);
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.leave();
    }
}

/// An accepted request for a stream, whose connection is about to be handed over by hyper.
struct Upgrading {
    claims: Claims,
    lane: Lane,
    connection: OnUpgrade,
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, stranger: Stranger, logger: Logger) {
    if let Err(error) = dial::prepare(&stream, config::PEER_SILENCE_MAX) {
        debug!(logger, "a connection has ended at once"; "error" => %error);
        return;
    }
    let upgrading = Mutex::new(None);
    let service = service_fn(async |request| {
        let mut response = handle(&shared, request, &stranger, &upgrading, &logger).await;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        Ok::<_, Infallible>(response)
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.limits.header_timeout)
        .max_buf_size(config::PEER_HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        debug!(logger, "a connection has failed"; "error" => %error);
    }
    let upgrading = upgrading
        .into_inner()
        .expect("a thread panicked while it held an upgrade");
    let Some(Upgrading {
        claims,
        lane,
        connection,
    }) = upgrading
    else {
        return;
    };
    let upgraded = match connection.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            debug!(logger, "an upgrade has failed"; "error" => %error);
            return;
        }
    };
    let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else {
        error!(
            logger,
            "an upgraded connection is not the one that was served"
        );
        return;
    };
    let from = claims.from;
    let Some(entry) = Entry::new(&shared, from, lane, stranger.serial) else {
        debug!(logger, "a stream came after a newer one"; "peer" => from, "lane" => %lane);
        return;
    };
    let stream = Stream {
        shared: &shared,
        claims,
        replaced: &entry.replaced,
        socket: parts.io.into_inner(),
        frames: frame::Frames::default(),
    };
    match stream.run(&parts.read_buf).await {
        Ok(()) => debug!(logger, "a stream has ended"; "peer" => from, "lane" => %lane),
        // That it was removed is told elsewhere, and that it is refused if it comes again.
        Err(end @ End::Denied(_)) => {
            debug!(logger, "closed a peer's stream"; "peer" => from, "lane" => %lane,
                "error" => %end);
        }
        Err(end) => {
            warn!(logger, "closed a peer's stream"; "peer" => from, "lane" => %lane,
                "error" => %end);
        }
    }
}

async fn handle(
    shared: &Arc<Shared>,
    mut request: Request<Incoming>,
    stranger: &Stranger,
    upgrading: &Mutex<Option<Upgrading>>,
    logger: &Logger,
) -> Response<Full<Bytes>> {
    let snapshot = match request.uri().path() {
        "/raft/stream" => false,
        "/raft/snapshot" => true,
        _ => {
            let line = "this port is for raftkvd's peers only";
            return refuse(StatusCode::NOT_FOUND, line, logger);
        }
    };
    if request.method() != Method::POST {
        let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, "only POST is allowed");
        let post = HeaderValue::from_static("POST");
        response.headers_mut().insert(ALLOW, post);
        return response;
    }
    let claims = match Claims::read(request.headers()) {
        Ok(claims) => claims,
        Err(malformed) => return refuse(StatusCode::BAD_REQUEST, &malformed.to_string(), logger),
    };
    let lane = if snapshot {
        None
    } else {
        match stream_lane(&request) {
            Ok(lane) => Some(lane),
            Err(why) => return refuse(StatusCode::BAD_REQUEST, &why, logger),
        }
    };
    let accepted = match shared.admit(&claims).await {
        Ok(accepted) => accepted,
        Err(denied) => return deny(shared, &claims, denied, logger),
    };
    shared.inbound.refusals().remove(&claims.from);
    stranger.leave();
    shared.welcome(&claims, &accepted);
    let claims = as_accepted(claims, &accepted);
    let Some(lane) = lane else {
        let from = claims.from;
        return match snapshot::receive(shared, claims, request.into_body(), logger).await {
            Ok(()) => answer(StatusCode::NO_CONTENT, ""),
            Err(error) => {
                shared.metrics.snapshots.receives_failed.inc();
                warn!(logger, "did not receive a snapshot"; "peer" => from, "error" => %error);
                answer(error.status(), &error.to_string())
            }
        };
    };
    let mut response = answer(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    shared.claims(claims.from).write(headers);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE_HEADER, HeaderValue::from_static(UPGRADE));
    *upgrading
        .lock()
        .expect("a thread panicked while it held an upgrade") = Some(Upgrading {
        claims,
        lane,
        connection: hyper::upgrade::on(&mut request),
    });
    response
}

/// What a stream's request has to have beside the claims.
fn stream_lane(request: &Request<Incoming>) -> Result<Lane, String> {
    let headers: &HeaderMap = request.headers();
    let has = |name, wanted: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.is_some_and(|value| value.eq_ignore_ascii_case(wanted))
    };
    let asked = has(CONNECTION, "Upgrade") && has(UPGRADE_HEADER, UPGRADE);
    if !asked || request.version() != Version::HTTP_11 || !request.body().is_end_stream() {
        return Err(format!(
            "a stream is an HTTP/1.1 request without a body, upgraded to {UPGRADE}"
        ));
    }
    Lane::read(headers).map_err(|malformed| malformed.to_string())
}

/// The claims as they were believed: an empty joiner belongs to the life in which it was let in.
fn as_accepted(mut claims: Claims, accepted: &Accepted) -> Claims {
    claims.added_index = accepted.life;
    claims
}

fn deny(
    shared: &Shared,
    claims: &Claims,
    denied: Denied,
    logger: &Logger,
) -> Response<Full<Bytes>> {
    let text = denied.to_string();
    let mut refusals = shared.inbound.refusals();
    if refusals.get(&claims.from) != Some(&text) {
        warn!(logger, "refused a peer"; "peer" => claims.from, "why" => &text);
        if refusals.len() >= REFUSALS_REMEMBERED {
            refusals.clear();
        }
        refusals.insert(claims.from, text.clone());
    }
    match denied {
        Denied::Reason(reason) => {
            let (status, body) = handshake::refusal(shared.me, shared.is_leader(), reason);
            let mut response = Response::new(Full::from(body));
            *response.status_mut() = status;
            response
        }
        Denied::File(_) => answer(StatusCode::INTERNAL_SERVER_ERROR, &text),
    }
}

/// The answer to somebody who does not speak as a peer does.
fn refuse(status: StatusCode, line: &str, logger: &Logger) -> Response<Full<Bytes>> {
    warn!(logger, "refused a request at the peer port"; "why" => line);
    answer(status, line)
}

fn answer(status: StatusCode, line: &str) -> Response<Full<Bytes>> {
    let body = if line.is_empty() {
        Full::default()
    } else {
        Full::from(format!("{line}\n"))
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// The streams of all peers, and what was logged of those who got none.
#[derive(Default)]
pub(super) struct Registry {
    streams: Mutex<Streams>,
    refusals: Mutex<HashMap<u64, String>>,
}

/// By peer and lane: the serial number of the connection, and what tells it that it was replaced.
type Streams = HashMap<(u64, Lane), (u64, Arc<Notify>)>;

impl Registry {
    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams
            .lock()
            .expect("a thread panicked while it held the streams")
    }

    fn refusals(&self) -> MutexGuard<'_, HashMap<u64, String>> {
        self.refusals
            .lock()
            .expect("a thread panicked while it held the refusals")
    }
}

/// A stream in the [`Registry`]. A peer has one a lane: a second means that the first is dead and does not know it. The
/// first is the one that was accepted first, also when its handshake (it may sync a file) took longer.
struct Entry<'a> {
    shared: &'a Shared,
    key: (u64, Lane),
    replaced: Arc<Notify>,
}

impl<'a> Entry<'a> {
    /// `None`: there is a newer one.
    fn new(shared: &'a Shared, from: u64, lane: Lane, serial: u64) -> Option<Entry<'a>> {
        let (key, replaced) = ((from, lane), Arc::new(Notify::new()));
        let mut streams = shared.inbound.streams();
        if streams.get(&key).is_some_and(|(newer, _)| *newer > serial) {
            return None;
        }
        if let Some((_, older)) = streams.insert(key, (serial, replaced.clone())) {
            older.notify_one();
        }
        drop(streams);
        Some(Entry {
            shared,
            key,
            replaced,
        })
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let mut streams = self.shared.inbound.streams();
        let own = |(_, current): &(u64, Arc<Notify>)| Arc::ptr_eq(current, &self.replaced);
        if streams.get(&self.key).is_some_and(own) {
            streams.remove(&self.key);
        }
    }
}

/// An established stream of a peer.
struct Stream<'a> {
    shared: &'a Arc<Shared>,
    claims: Claims,
    replaced: &'a Notify,
    socket: TcpStream,
    frames: frame::Frames,
}

/// Why this end closed a stream.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Frame(#[from] frame::FrameError),
    #[error("the peer is no longer welcome: {0}")]
    Denied(Denied),
}

impl Stream<'_> {
    /// Takes messages until the peer ends the stream, or has to be cut off.
    async fn run(mut self, already_read: &[u8]) -> Result<(), End> {
        let mut view = self.shared.view.subscribe();
        // The view may have changed since the handshake was judged.
        view.mark_changed();
        self.frames.push(already_read);
        loop {
            self.deliver()?;
            tokio::select! {
                biased;
                () = self.replaced.notified() => return Ok(()),
                changed = view.changed() => {
                    changed.expect("the sender lives in what this stream borrows");
                    view.borrow_and_update();
                    judge_again(self.shared, &self.claims).await.map_err(End::Denied)?;
                }
                read = self.frames.fill(&mut self.socket) => {
                    // A connection that breaks is the peer's to report, it dials again.
                    if matches!(read, Ok(0) | Err(_)) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Hands over all whole frames, as one batch of messages so that the raft loop wakes up once.
    fn deliver(&mut self) -> Result<(), End> {
        let (mut messages, mut bytes) = (Vec::new(), 0);
        let end = loop {
            match self.frames.take() {
                Ok(Some(payload)) => {
                    match frame::decode(&payload, self.claims.from, self.shared.me, false) {
                        Ok(decoded) => messages.extend(decoded),
                        Err(error) => break Err(error.into()),
                    }
                    bytes += payload.len();
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error.into()),
            }
        };
        self.note_answers(&messages);
        if !messages.is_empty() {
            // Those that do not fit are counted there, and raft resends.
            let _ = self.shared.inbox.receive(messages, bytes);
        }
        end
    }

    /// Times answers to heartbeats.
    fn note_answers(&self, messages: &[Message]) {
        for message in messages {
            if message.get_msg_type() == MessageType::MsgHeartbeatResponse
                && let Some(peer) = self.shared.peers().by_id.get(&self.claims.from)
            {
                peer.round_trip.received(message);
            }
        }
    }
}

/// Whether a peer that was let in may stay.
pub(super) async fn judge_again(shared: &Arc<Shared>, claims: &Claims) -> Result<(), Denied> {
    let (shared, claims) = (shared.clone(), claims.clone());
    let judged = tokio::task::spawn_blocking(move || shared.judge(&claims).map(|_| ()));
    judged
        .await
        .unwrap_or_else(|error| Err(Denied::File(error.into())))
}
