//! The peer port: accepts peers, and passes their messages to the inbox.
//!
//! Anything that can reach the port can send anything. So before its handshake is accepted, a connection holds only a
//! small buffer, and only for a limited time. A peer that waits to be bound keeps its connection, and holds a small
//! buffer too. When connections run out, one that belongs to no bound member is closed, so that strangers never keep a
//! member out: see `newcomers.rs`.

use super::admission::{Judged, Source, StreamEntry, answer, turn_away};
use super::frame::Carries;
use super::handshake::{self, About, Lane, UPGRADE};
use super::newcomers::{Newcomer, Newcomers, Rank};
use super::registry::Turned;
use super::secure::{passed, renewed, secure};
use super::snapshot::receive::receive as receive_snapshot;
use super::state::TransportState;
use super::{dial, frame};
use crate::certificates::{KeyFingerprint, Subject};
use crate::channels::notice::{Met, Notice};
use crate::identity::{Claims, PeerAnswer, PeerRefusal, Reason, Standing};
use crate::limits;
use crate::logging::AUDIT;
use crate::metrics::AcceptingPort;
use crate::metrics::peer_handshake::{CROWDED, FOREIGN, LATE};
use crate::tls::{NoLonger, Shown, Stream, Tls};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::header::{ALLOW, CONNECTION, HeaderMap, HeaderValue, UPGRADE as UPGRADE_HEADER};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use raft::eraftpb::{Message, MessageType};
use slog::{Logger, debug, error, o, warn};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep_until, timeout};

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
    let mut renewals = shared.tls.as_ref().map(Tls::subscribe);
    let mut ends = shared
        .tls
        .as_ref()
        .map(|_| interval(limits::TLS_JUDGE_INTERVAL));
    let newcomers = Arc::new(Newcomers::default());
    let mut failing = false;
    for serial in 0.. {
        let accepted = loop {
            tokio::select! {
                biased;
                () = &mut shutdown => return tasks.shutdown().await,
                Some(_) = tasks.join_next() => (),
                // The certificate of a peer may not be accepted any more.
                () = renewed(&mut renewals) => shared.judge_all(),
                () = passed(&mut ends) => shared.judge_all(),
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
                shared.metrics.shortages.accepts_failed(AcceptingPort::Peer);
                let pause = timeout(limits::PEER_BACKOFF_MAX, &mut shutdown);
                if pause.await.is_ok() {
                    return tasks.shutdown().await;
                }
                continue;
            }
        };
        failing = false;
        let is_full = tasks.len() >= shared.limits.connections
            || newcomers.unproved() >= shared.limits.newcomers;
        if is_full {
            shared.metrics.peer_handshakes_failed.add(CROWDED);
            if !newcomers.end_one() {
                debug!(shared.logger, "no room for another connection"; "from" => %address);
                continue;
            }
        }
        let (ip, port) = (address.ip().to_canonical(), address.port());
        let from = SocketAddr::new(ip, port).to_string();
        let source = Source {
            address: ip,
            proved: None,
            logger: shared.logger.new(o!("from" => from)),
        };
        // The connection enters before its task exists, because it leaves when the task ends.
        let newcomer = newcomers.enter(serial, ip);
        let task = tasks.spawn(connection(shared.clone(), stream, newcomer, source));
        newcomers.runs(serial, task);
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
    socket: TcpStream,
    newcomer: Newcomer,
    source: Source,
) {
    if let Err(error) = dial::prepare(&socket, limits::PEER_SILENCE_MAX) {
        debug!(source.logger, "a connection has ended at once"; "error" => %error);
        return;
    }
    // The deadline covers everything until the head of the request is read, so the HTTP library needs no timeout.
    let deadline = Instant::now() + shared.limits.header_timeout;
    let Some((stream, proved)) = secure(&shared, socket, deadline, &source).await else {
        return;
    };
    let source = Source { proved, ..source };
    let logger = &source.logger;
    let Some(Upgrading {
        claims,
        standing,
        entry,
        connection,
    }) = serve_request(&shared, stream, deadline, &newcomer, &source).await
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
    let Ok(parts) = upgraded.downcast::<TokioIo<Stream>>() else {
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
        newcomer: &newcomer,
        shown: source.proved.clone(),
        socket: parts.io.into_inner(),
        frames: frame::Frames::default(),
        counted: 0,
    };
    match stream.run(&parts.read_buf).await {
        Ok(()) => debug!(logger, "a stream has ended"; "member" => from),
        // This is not a warning, because the removal and later refusals are logged elsewhere.
        Err(end @ (StreamEnd::Denied(_) | StreamEnd::OtherKey)) => {
            debug!(logger, "closed a peer's stream"; "member" => from, "error" => %end);
        }
        Err(end) => warn!(logger, "closed a peer's stream"; "member" => from, "error" => %end),
    }
}

/// Serves the only request of a connection. Returns the stream for which the connection is upgraded, if it is.
async fn serve_request(
    shared: &Arc<TransportState>,
    stream: Stream,
    deadline: Instant,
    newcomer: &Newcomer,
    source: &Source,
) -> Option<Upgrading> {
    let (upgrading, is_read) = (Mutex::new(None), AtomicBool::new(false));
    let service = service_fn(async |request| {
        is_read.store(true, Ordering::Relaxed);
        let mut response = handle(shared, request, newcomer, &upgrading, source).await;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        Ok::<_, Infallible>(response)
    });
    let served = hyper::server::conn::http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(limits::PEER_HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    match unless_late(deadline, &is_read, served).await {
        Some(Ok(())) => {}
        Some(Err(error)) => debug!(source.logger, "a connection has failed"; "error" => %error),
        None => {
            shared.metrics.peer_handshakes_failed.add(LATE);
            debug!(source.logger, "a handshake was not complete in time");
            return None;
        }
    }
    upgrading.into_inner()
}

/// Serves a connection. Returns `None` if the head of its request is not read by the deadline.
async fn unless_late<T>(
    deadline: Instant,
    is_read: &AtomicBool,
    served: impl Future<Output = T>,
) -> Option<T> {
    let mut served = pin!(served);
    tokio::select! {
        biased;
        served = &mut served => return Some(served),
        () = sleep_until(deadline) => {}
    }
    match is_read.load(Ordering::Relaxed) {
        true => Some(served.await),
        false => None,
    }
}

async fn handle(
    shared: &Arc<TransportState>,
    mut request: Request<Incoming>,
    newcomer: &Newcomer,
    upgrading: &Mutex<Option<Upgrading>>,
    source: &Source,
) -> Response<Full<Bytes>> {
    let (claims, wanted) = match read_request(&request) {
        Ok(read) => read,
        Err(foreign) => {
            shared.metrics.peer_handshakes_failed.add(FOREIGN);
            return foreign.answer(&source.logger);
        }
    };
    if let Some(proved) = &source.proved
        && proved.facts.name.subject != Subject::Member(claims.from)
    {
        let line = "the certificate is not that of the member that this peer claims to be";
        return refuse(StatusCode::FORBIDDEN, line, &source.logger);
    }
    let judged = shared.judge(&claims);
    if let Some(refusal) = PeerRefusal::of_claim(&claims, &judged.view) {
        shared.inbox.notice(Notice::Refused(refusal));
    }
    let standing = match judged.standing {
        Ok(standing) => standing,
        Err(reason) => return shared.deny(&claims, &judged, reason, source),
    };
    if shared.is_revoked(source.key()) {
        return shared.deny(&claims, &judged, Reason::KeyRevoked, source);
    }
    let Wanted::Stream(lane) = wanted else {
        let body = request.into_body();
        return receive(shared, claims, standing, body, newcomer, source).await;
    };
    let serial = newcomer.serial;
    let entered = StreamEntry::new(shared, &claims, standing, lane, serial, &source.logger);
    let entry = match entered {
        Ok(entry) => entry,
        Err(Turned::Twice) => return shared.deny(&claims, &judged, Reason::Twice, source),
        Err(turned) => return turn_away(&turned),
    };
    let mut refusals = shared.inbound.refusals();
    refusals.retain(|(id, _), _| *id != claims.from);
    drop(refusals);
    welcome(shared, &claims, standing, newcomer);
    if lane == Lane::Control {
        introduce(shared, &claims, &judged, source.key());
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
fn introduce(
    shared: &TransportState,
    claims: &Claims,
    judged: &Judged,
    key: Option<KeyFingerprint>,
) {
    if judged.standing == Ok(Standing::Waiting) {
        shared.recognize(claims.from);
    }
    if claims.url_given || judged.view.is_empty() {
        shared.inbox.notice(Notice::Met(Met {
            id: claims.from,
            incarnation: claims.incarnation,
            bound_index: claims.bound_index,
            url: claims.url.clone(),
            dialled: false,
            version: claims.version,
            key,
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
fn welcome(shared: &Arc<TransportState>, claims: &Claims, standing: Standing, newcomer: &Newcomer) {
    match standing {
        Standing::Bound => newcomer.leave(),
        Standing::Ahead => newcomer.ranks(Rank::Ahead),
        Standing::Waiting => newcomer.ranks(Rank::Unproved),
    }
    shared.welcome(claims, standing);
}

async fn receive(
    shared: &Arc<TransportState>,
    claims: Claims,
    standing: Standing,
    body: Incoming,
    newcomer: &Newcomer,
    source: &Source,
) -> Response<Full<Bytes>> {
    welcome(shared, &claims, standing, newcomer);
    let from = claims.from;
    match receive_snapshot(shared, claims, standing, body, source).await {
        Ok(()) => answer(StatusCode::NO_CONTENT, ""),
        Err(error) => {
            shared.metrics.snapshots.receives_failed.inc();
            warn!(source.logger, "did not receive a snapshot"; "member" => from, "error" => %error);
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
    newcomer: &'a Newcomer,
    /// The certificate that the peer has shown. `None`: without TLS.
    shown: Option<Arc<Shown>>,
    socket: Stream,
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
    #[error(transparent)]
    Untrusted(#[from] NoLonger),
    /// The certificate of this member was replaced. The peer connects again, and sees the new key.
    #[error("this member has another key now")]
    OtherKey,
    #[error("the frames that all peers have begun to send are too large together")]
    Crowded,
    #[error(
        "it waits to be added, and sends a frame of more than {} bytes",
        limits::PEER_WAITING_FRAME_BYTES_MAX
    )]
    Verbose,
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
        if self.standing == Standing::Waiting && held > limits::PEER_WAITING_FRAME_BYTES_MAX {
            return Err(StreamEnd::Verbose);
        }
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
                welcome(self.shared, &self.claims, standing, self.newcomer);
            }
            Err(reason) => {
                self.shared.forget(&self.claims);
                return Err(StreamEnd::Denied(reason));
            }
        }
        // The certificate is checked after the claims, because a removal revokes the key, and the peer has to learn of the
        // removal.
        self.shared.check_shown(self.shown.as_ref())?;
        let own_key = self.shown.as_ref().map(|shown| shown.own_key());
        match self.shared.own_key() == own_key {
            true => Ok(()),
            false => Err(StreamEnd::OtherKey),
        }
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
