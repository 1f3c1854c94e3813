//! One client's connection: hyper on a socket with limits.
//!
//! hyper limits the size of a request's head and the time until the head is complete, which also closes idle
//! connections. This module adds these rules:
//! - It disconnects a client that takes no byte of its response.
//! - A connection that ends while the client still sends stays open for reading for a moment. If it were closed at
//!   once, the kernel would send a reset, which can destroy the response on its way.
//! - Stopping does not wait for half-sent heads.
//! - The bytes of incomplete heads are limited over all connections.
//! - In HTTP/1.0, a stream has neither a length nor a last chunk, so the end of the connection is the end of the
//!   stream. If a stream breaks off, its connection therefore ends with a reset, also when this process is killed.
//! - Requests that hyper refuses by itself are counted.

use super::Front;
use super::audit::Client;
use super::reply::{self, ReplyBody};
use super::slots::{Full, Progress, Slot};
use crate::limits;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::{Method, Request, Response, Version, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt::set_socket_linger;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::task::coop::unconstrained;
use tokio::time::{Sleep, sleep};

/// State that a connection's socket, its requests and its task share.
struct ConnectionState {
    /// Whether the connection may give way to another.
    progress: Arc<Progress>,
    /// Bytes of the head of the next request that have arrived.
    head_bytes: AtomicUsize,
    /// The same, for all connections together.
    all_head_bytes: Arc<AtomicUsize>,
    /// The API is processing a request.
    busy: AtomicBool,
    /// A request was answered before its whole body was read.
    unread: AtomicBool,
    /// A response whose end is the end of the connection is being sent.
    ends_response: AtomicBool,
    /// The process is stopping.
    stopping: AtomicBool,
    /// Notified when the process is stopping and the request was answered.
    answered: Notify,
}

impl ConnectionState {
    fn new(progress: Arc<Progress>, all_head_bytes: Arc<AtomicUsize>) -> ConnectionState {
        ConnectionState {
            progress,
            head_bytes: AtomicUsize::new(0),
            all_head_bytes,
            busy: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            ends_response: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            answered: Notify::new(),
        }
    }

    /// Counts bytes of a head. Returns an error if the heads of all connections are too large together, and the head on
    /// this connection is not small.
    fn take_head_bytes(&self, count: usize) -> io::Result<()> {
        let own = self.head_bytes.fetch_add(count, Ordering::Relaxed) + count;
        let all = self.all_head_bytes.fetch_add(count, Ordering::Relaxed) + count;
        match own > limits::HEAD_SMALL_BYTES && all > limits::HEADS_BYTES_MAX {
            true => Err(io::Error::other("too many incomplete heads of requests")),
            false => Ok(()),
        }
    }

    /// The head is complete, or the connection has ended.
    fn return_head_bytes(&self) {
        let own = self.head_bytes.swap(0, Ordering::Relaxed);
        self.all_head_bytes.fetch_sub(own, Ordering::Relaxed);
    }
}

impl Drop for ConnectionState {
    fn drop(&mut self) {
        self.return_head_bytes();
    }
}

/// Serves a connection until the connection ends or, after `stopping` becomes true, until its last request is answered.
pub(super) async fn run(
    stream: TcpStream,
    client: Client,
    slot: Slot,
    front: Arc<Front>,
    stopping: watch::Receiver<bool>,
) {
    // Responses are written whole. Without `TCP_NODELAY`, a response could wait for the ACK of the previous response.
    if let Err(error) = stream.set_nodelay(true) {
        slog::debug!(front.api.logger, "set TCP_NODELAY for a client: {}", error);
        return;
    }
    let state = ConnectionState::new(slot.progress(), Arc::clone(&front.head_bytes));
    let state = Arc::new(state);
    let socket = Socket {
        stream,
        state: Arc::clone(&state),
        resets: false,
        stalled: None,
        lingering: None,
    };
    let header_timeout = front.api.limits.header_timeout;
    let header_timeout = match client.full() {
        Some(_) => header_timeout.min(limits::SPARE_HEADER_TIMEOUT),
        None => header_timeout,
    };
    let logger = front.api.logger.clone();
    let refused = Arc::clone(&front.api.metrics);
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(client);
        answer(request, Arc::clone(&front), Arc::clone(&state))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(limits::HEADER_BYTES_MAX)
        // A client that shuts down its sending side after its request still gets its response.
        .half_close(true)
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = pin!(connection);
    let ended = match until_stop(connection.as_mut(), stopping).await {
        Some(ended) => ended,
        None => {
            state.stopping.store(true, Ordering::SeqCst);
            // Closes an idle connection now, and a busy connection after its current request.
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = overdue(&state) => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        // Clients may disconnect at any time and send anything, so this is not worth a warning.
        slog::debug!(logger, "a client's connection ended: {}", error);
        if let Some(reason) = refusal(&error) {
            refused.requests_refused.add(reason);
        }
    }
    drop(slot);
}

/// The reasons of [`refusal`].
pub(super) const REFUSED: [&str; 3] = [MALFORMED, TOO_LARGE, HTTP_2];
const MALFORMED: &str = "malformed";
const TOO_LARGE: &str = "too-large";
const HTTP_2: &str = "http-2";

/// Why hyper has refused a request, if the refusal ended the connection.
fn refusal(error: &hyper::Error) -> Option<&'static str> {
    if error.is_parse_too_large() {
        Some(TOO_LARGE)
    } else if error.is_parse_version_h2() {
        Some(HTTP_2)
    } else {
        error.is_parse().then_some(MALFORMED)
    }
}

/// Answers one request and records its progress for the socket and the task of the connection.
async fn answer(
    request: Request<Incoming>,
    front: Arc<Front>,
    state: Arc<ConnectionState>,
) -> Result<Response<AnswerBody>, Infallible> {
    state.return_head_bytes();
    let has_end = request.version() > Version::HTTP_10 || request.method() == Method::HEAD;
    let reply = if state.progress.begin() {
        state.busy.store(true, Ordering::SeqCst);
        let (reply, unread) = front.answer(request).await;
        state.unread.store(unread, Ordering::SeqCst);
        if !has_end && reply.body().size_hint().exact().is_none() {
            state.ends_response.store(true, Ordering::SeqCst);
        }
        state.busy.store(false, Ordering::SeqCst);
        if state.stopping.load(Ordering::SeqCst) {
            state.answered.notify_one();
        }
        reply
    } else {
        // The connection gave way while the last bytes of the head arrived.
        let mut reply = front.turn_away(Full::All);
        reply::close(&mut reply);
        *reply
    };
    let progress = Arc::clone(&state.progress);
    Ok(reply.map(|body| AnswerBody { body, progress }))
}

/// The body of an answer. hyper drops it when it has taken the last byte.
struct AnswerBody {
    body: ReplyBody,
    progress: Arc<Progress>,
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.progress.answered();
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Serves the connection until it ends, or returns `None` when the process starts to stop.
async fn until_stop<C: Future>(
    mut connection: Pin<&mut C>,
    mut stopping: watch::Receiver<bool>,
) -> Option<C::Output> {
    let stops = stopping.clone();
    // The poll below runs once, and the connection may have used up tokio's budget before. If the poll counted against
    // the budget, it could return early without registering the waker.
    let stop = unconstrained(stopping.wait_for(|stopping| *stopping));
    let mut stop = pin!(stop);
    let mut waits_for_stop = false;
    poll_fn(|cx| {
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(Some(ended));
        }
        // One poll is enough to register this task, whose waker never changes. Polling at each request would take a
        // lock that all connections share. An error means that the sender is gone, which counts as a stop.
        if !waits_for_stop || stops.has_changed().unwrap_or(true) {
            waits_for_stop = true;
            ready!(stop.as_mut().poll(cx)).ok();
            return Poll::Ready(None);
        }
        Poll::Pending
    })
    .await
}

/// Completes when a connection that should stop has used up its grace period after its last request.
async fn overdue(state: &ConnectionState) {
    while state.busy.load(Ordering::SeqCst) {
        state.answered.notified().await;
    }
    sleep(limits::CONNECTION_END_TIMEOUT).await;
}

struct Socket {
    stream: TcpStream,
    state: Arc<ConnectionState>,
    /// The kernel resets the connection when the socket is closed.
    resets: bool,
    /// Runs while the client takes no bytes.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Runs after this side of the connection was shut down.
    lingering: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    /// If the end of the connection is the end of the response, makes the kernel reset the connection on close. Called
    /// before each write.
    fn reset_if_broken_off(&mut self) -> io::Result<()> {
        if !self.resets && self.state.ends_response.load(Ordering::SeqCst) {
            set_socket_linger(&self.stream, Some(Duration::ZERO))?;
            self.resets = true;
        }
        Ok(())
    }

    /// Limits how long a write may be pending.
    fn watched(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(sleep(limits::WRITE_STALL_TIMEOUT)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.state.progress.is_waiting() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        Poll::Ready(self.state.take_head_bytes(buffer.filled().len() - before))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.reset_if_broken_off()?;
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watched(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.reset_if_broken_off()?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.watched(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.state.progress.flushed();
        Poll::Ready(Ok(()))
    }

    /// Shuts down this side, then discards what the client still sends, until the client closes its side too or a short
    /// time has passed.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            // hyper shuts the connection down only after a whole response.
            if std::mem::take(&mut self.resets) {
                set_socket_linger(&self.stream, None)?;
            }
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            // While the process stops, an idle client may never close its side, so there is nothing to wait for.
            if self.state.stopping.load(Ordering::SeqCst)
                && !self.state.unread.load(Ordering::SeqCst)
            {
                return Poll::Ready(Ok(()));
            }
        }
        let this = &mut *self;
        let lingering = this
            .lingering
            .get_or_insert_with(|| Box::pin(sleep(limits::LINGER_TIMEOUT)));
        loop {
            if lingering.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut space = [MaybeUninit::uninit(); 4096];
            let mut buffer = ReadBuf::uninit(&mut space);
            // tokio's budget makes this read pending now and then, so a client that never stops sending can't occupy
            // the thread.
            match ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                Ok(()) | Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}
