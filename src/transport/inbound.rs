//! The peer port: accepts peers, and passes their messages to the inbox.
//!
//! Anything that can reach the port can send anything. So before its handshake is accepted, a connection holds only a
//! small buffer, and only for a limited time. When connections run out, the oldest connection that belongs to no bound
//! member is closed, so that strangers never keep a member out.

use super::admission::{Source, StreamEntry, answer, turn_away};
use super::frame::Carries;
use super::handshake::{self, About, Lane, UPGRADE};
use super::registry::Turned;
use super::snapshot::receive::receive as receive_snapshot;
use super::state::TransportState;
use super::{dial, frame};
use crate::channels::notice::{Met, Notice};
use crate::identity::{Claims, PeerAnswer, PeerRefusal, Reason, Standing, View};
use crate::limits;
use crate::logging::AUDIT;
use crate::metrics::Port;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::header::{ALLOW, CONNECTION, HeaderMap, HeaderValue, UPGRADE as UPGRADE_HEADER};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::{Mutex, MutexGuard};
use raft::eraftpb::{Message, MessageType};
use slog::{Logger, debug, error, o, warn};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// The answer of the peer port to a request that is for the client port.
pub const PEERS_ONLY: &str = "this port is for raftkvd's peers only";

/// Accepts connections until `shutdown` completes.
pub(super) async fn serve(
    shared: Arc<TransportState>,
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
                // Most likely no file descriptor is left. An immediate retry would only burn CPU time.
                if !std::mem::replace(&mut failing, true) {
                    error!(shared.logger, "can't accept peer connections"; "error" => %error);
                }
                shared.metrics.shortages.accepts_failed(Port::Peer);
                let pause = tokio::time::timeout(limits::PEER_BACKOFF_MAX, &mut shutdown);
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
        // The entry is inserted before the task exists, because the task removes the entry when it ends. The lock is
        // not held while the task is spawned or aborted: a stopping runtime drops a task on the spot, and dropping the
        // task takes the lock.
        strangers.lock().insert(serial, None);
        let stranger = Stranger {
            serial,
            strangers: strangers.clone(),
        };
        let (ip, port) = (address.ip().to_canonical(), address.port());
        let from = SocketAddr::new(ip, port).to_string();
        let source = Source {
            address: ip,
            logger: shared.logger.new(o!("from" => from)),
        };
        let task = tasks.spawn(connection(shared.clone(), stream, stranger, source));
        if let Some(place) = strangers.lock().get_mut(&serial) {
            *place = Some(task);
        }
    }
}

/// Connections that belong to no bound member, oldest first. The newest entry has no task for a moment.
#[derive(Default)]
struct Strangers(Mutex<BTreeMap<u64, Option<AbortHandle>>>);

impl Strangers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Option<AbortHandle>>> {
        self.0.lock()
    }
}

/// The entry of a connection among the [`Strangers`]. Dropping the value removes the entry.
struct Stranger {
    serial: u64,
    strangers: Arc<Strangers>,
}

impl Stranger {
    /// Removes the entry, because the connection belongs to a member now or has ended.
    fn leave(&self) {
        self.strangers.lock().remove(&self.serial);
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.leave();
    }
}

/// An accepted request for a stream, before hyper hands over its connection.
struct Upgrading {
    claims: Claims,
    standing: Standing,
    entry: StreamEntry,
    connection: OnUpgrade,
}

async fn connection(
    shared: Arc<TransportState>,
    stream: TcpStream,
    stranger: Stranger,
    source: Source,
) {
    let logger = &source.logger;
    if let Err(error) = dial::prepare(&stream, limits::PEER_SILENCE_MAX) {
        debug!(logger, "a connection has ended at once"; "error" => %error);
        return;
    }
    let upgrading = Mutex::new(None);
    let service = service_fn(async |request| {
        let mut response = handle(&shared, request, &stranger, &upgrading, &source).await;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        Ok::<_, Infallible>(response)
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.limits.header_timeout)
        .max_buf_size(limits::PEER_HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        debug!(logger, "a connection has failed"; "error" => %error);
    }
    let upgrading = upgrading.into_inner();
    let Some(Upgrading {
        claims,
        standing,
        entry,
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
    let stream = InboundStream {
        shared: &shared,
        claims,
        standing,
        entry: &entry,
        stranger: &stranger,
        socket: parts.io.into_inner(),
        frames: frame::Frames::default(),
        counted: 0,
    };
    match stream.run(&parts.read_buf).await {
        Ok(()) => debug!(logger, "a stream has ended"; "peer" => from),
        // This is not a warning, because the removal and later refusals are logged elsewhere.
        Err(end @ StreamEnd::Denied(_)) => {
            debug!(logger, "closed a peer's stream"; "peer" => from, "error" => %end);
        }
        Err(end) => warn!(logger, "closed a peer's stream"; "peer" => from, "error" => %end),
    }
}

async fn handle(
    shared: &Arc<TransportState>,
    mut request: Request<Incoming>,
    stranger: &Stranger,
    upgrading: &Mutex<Option<Upgrading>>,
    source: &Source,
) -> Response<Full<Bytes>> {
    let (claims, wanted) = match read_request(&request) {
        Ok(read) => read,
        Err(foreign) => return foreign.answer(&source.logger),
    };
    let judged = shared.judge(&claims);
    if let Some(refusal) = PeerRefusal::of_claim(&claims, &judged.view) {
        shared.inbox.notice(Notice::Refused(refusal));
    }
    let standing = match judged.standing {
        Ok(standing) => standing,
        Err(reason) => return shared.deny(&claims, &judged, reason, source),
    };
    let Wanted::Stream(lane) = wanted else {
        let body = request.into_body();
        return receive(shared, claims, standing, body, stranger, &source.logger).await;
    };
    let serial = stranger.serial;
    let entered = StreamEntry::new(shared, &claims, standing, lane, serial, &source.logger);
    let entry = match entered {
        Ok(entry) => entry,
        Err(Turned::Twice) => return shared.deny(&claims, &judged, Reason::Twice, source),
        Err(turned) => return turn_away(&turned),
    };
    let mut refusals = shared.inbound.refusals();
    refusals.retain(|(id, _), _| *id != claims.from);
    drop(refusals);
    welcome(shared, &claims, standing, stranger);
    if lane == Lane::Control {
        introduce(shared, &claims, standing, &judged.view);
    }
    let leader = shared.leader.load(Ordering::Relaxed);
    let said = judged.view.answer(&claims, standing, leader);
    *upgrading.lock() = Some(Upgrading {
        claims,
        standing,
        entry,
        connection: hyper::upgrade::on(&mut request),
    });
    switch_protocols(&said, &shared.about)
}

/// What a peer asks for.
enum Wanted {
    Snapshot,
    Stream(Lane),
}

/// Why a request does not belong to this version of the peer protocol.
enum Foreign {
    Path,
    Method,
    /// The head is invalid. The text says why.
    Head(String),
}

impl Foreign {
    fn answer(&self, logger: &Logger) -> Response<Full<Bytes>> {
        match self {
            Foreign::Path => refuse(StatusCode::NOT_FOUND, PEERS_ONLY, logger),
            Foreign::Method => {
                let line = "only POST is allowed";
                let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED, line, logger);
                let post = HeaderValue::from_static("POST");
                response.headers_mut().insert(ALLOW, post);
                response
            }
            Foreign::Head(why) => refuse(StatusCode::BAD_REQUEST, why, logger),
        }
    }
}

fn read_request(request: &Request<Incoming>) -> Result<(Claims, Wanted), Foreign> {
    let path = request.uri().path();
    if !["/raft/stream", "/raft/snapshot"].contains(&path) {
        return Err(Foreign::Path);
    }
    if request.method() != Method::POST {
        return Err(Foreign::Method);
    }
    let claims = handshake::read(request.headers());
    let claims = claims.map_err(|malformed| Foreign::Head(malformed.to_string()))?;
    let wanted = match path {
        "/raft/snapshot" => Wanted::Snapshot,
        _ => Wanted::Stream(stream_lane(request).map_err(Foreign::Head)?),
    };
    Ok((claims, wanted))
}

/// Reports the peer that has connected.
fn introduce(shared: &TransportState, claims: &Claims, standing: Standing, view: &View) {
    if standing == Standing::Waiting {
        shared.recognize(claims.from);
    }
    if claims.url_given || view.is_empty() {
        shared.inbox.notice(Notice::Met(Met {
            id: claims.from,
            incarnation: claims.incarnation,
            bound_index: claims.bound_index,
            url: claims.url.clone(),
            dialled: false,
            version: claims.version,
        }));
    }
}

/// The positive answer to the request for a stream.
fn switch_protocols(said: &PeerAnswer, about: &About) -> Response<Full<Bytes>> {
    let mut response = answer(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    handshake::write_answer(said, headers);
    // Only a member gets them: any other peer may be a stranger.
    if matches!(said, PeerAnswer::Claims(..)) {
        about.write(headers);
    }
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE_HEADER, HeaderValue::from_static(UPGRADE));
    response
}

/// Handles claims that have this standing, at the handshake or after a new judgement.
fn welcome(shared: &Arc<TransportState>, claims: &Claims, standing: Standing, stranger: &Stranger) {
    if standing == Standing::Bound {
        stranger.leave();
    }
    shared.welcome(claims, standing);
}

async fn receive(
    shared: &Arc<TransportState>,
    claims: Claims,
    standing: Standing,
    body: Incoming,
    stranger: &Stranger,
    logger: &Logger,
) -> Response<Full<Bytes>> {
    welcome(shared, &claims, standing, stranger);
    let from = claims.from;
    match receive_snapshot(shared, claims, standing, body, logger).await {
        Ok(()) => answer(StatusCode::NO_CONTENT, ""),
        Err(error) => {
            shared.metrics.snapshots.receives_failed.inc();
            warn!(logger, "did not receive a snapshot"; "peer" => from, "error" => %error);
            answer(error.status(), &error.to_string())
        }
    }
}

/// Checks the head of a request for a stream, apart from the claims. Returns the lane.
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

/// The answer to a client that does not speak the peer protocol.
fn refuse(status: StatusCode, line: &str, logger: &Logger) -> Response<Full<Bytes>> {
    warn!(logger, #AUDIT, "refused a request at the peer port"; "audit" => "peer", "why" => line);
    answer(status, line)
}

/// An established stream from a peer.
struct InboundStream<'a> {
    shared: &'a Arc<TransportState>,
    claims: Claims,
    standing: Standing,
    entry: &'a StreamEntry,
    stranger: &'a Stranger,
    socket: TcpStream,
    frames: frame::Frames,
    /// Bytes of the frames that are counted.
    counted: usize,
}

impl Drop for InboundStream<'_> {
    fn drop(&mut self) {
        let all = &self.shared.frame_bytes;
        all.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

/// Why this member closed a stream.
#[derive(Debug, thiserror::Error)]
enum StreamEnd {
    #[error(transparent)]
    Frame(#[from] frame::FrameError),
    #[error("the peer is no longer welcome: {0}")]
    Denied(Reason),
    #[error("the frames that all peers have begun to send are too large together")]
    Crowded,
}

impl InboundStream<'_> {
    /// Receives messages until the peer ends the stream or must be disconnected.
    async fn run(mut self, already_read: &[u8]) -> Result<(), StreamEnd> {
        let mut view = self.shared.view.subscribe();
        // The view may have changed after the handshake was judged.
        view.mark_changed();
        self.frames.push(already_read);
        loop {
            self.deliver()?;
            self.count()?;
            tokio::select! {
                biased;
                () = self.entry.replaced.notified() => return Ok(()),
                changed = view.changed() => {
                    changed.expect("the sender lives in what this stream borrows");
                    view.borrow_and_update();
                    self.judge()?;
                }
                read = self.frames.fill(&mut self.socket) => {
                    // This member does not report a broken connection: the peer dials again, and reports the break
                    // itself.
                    if matches!(read, Ok(0) | Err(_)) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Counts the bytes of the frame that is arriving. Ends the stream if the frames of all streams are too large
    /// together, and the frame of this stream is not small. Raft sends lost messages again.
    fn count(&mut self) -> Result<(), StreamEnd> {
        let (all, held) = (&self.shared.frame_bytes, self.frames.len());
        let before = std::mem::replace(&mut self.counted, held);
        let total = all.fetch_add(held, Ordering::Relaxed) + held - before;
        all.fetch_sub(before, Ordering::Relaxed);
        match held > limits::FRAME_BYTES_TARGET && total > limits::PEER_FRAMES_BYTES_MAX {
            true => Err(StreamEnd::Crowded),
            false => Ok(()),
        }
    }

    /// Judges the peer's claims again.
    fn judge(&mut self) -> Result<(), StreamEnd> {
        match self.shared.judge(&self.claims).standing {
            Ok(standing) if standing == self.standing => {}
            Ok(standing) => {
                self.standing = standing;
                welcome(self.shared, &self.claims, standing, self.stranger);
            }
            Err(reason) => {
                self.shared.forget(&self.claims);
                return Err(StreamEnd::Denied(reason));
            }
        }
        Ok(())
    }

    /// Delivers all complete frames as one batch of messages, so that the raft loop wakes up once.
    fn deliver(&mut self) -> Result<(), StreamEnd> {
        if self.standing == Standing::Ahead {
            self.judge()?;
        }
        let (mut messages, mut bytes) = (Vec::new(), 0);
        let end = loop {
            match self.frames.take() {
                Ok(Some(payload)) => {
                    match frame::decode(
                        &payload,
                        self.claims.from,
                        self.shared.me,
                        Carries::Messages,
                    ) {
                        Ok(decoded) => messages.extend(decoded),
                        Err(error) => break Err(error.into()),
                    }
                    bytes += payload.len();
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error.into()),
            }
        };
        // Messages of a peer that waits to be bound are dropped.
        if !messages.is_empty() && self.standing != Standing::Waiting {
            self.entry.heard();
            self.note_answers(&messages);
            // The inbox counts the messages that do not fit, and raft resends them.
            let bound = self.standing == Standing::Bound;
            let bound = bound.then_some(self.claims.incarnation);
            let _ = self.shared.inbox.receive(messages, bytes, bound);
        }
        end
    }

    /// Measures the time to the answers to heartbeats.
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
