//! One client's connection: hyper on a [socket](super::socket) with limits.
//!
//! hyper limits the size of a request's head and the time until the head is complete, which also closes idle
//! connections. This module adds these rules:
//! - A client whose host or network is gone is noticed within a minute.
//! - Stopping does not wait for half-sent heads.
//! - Requests that hyper refuses by itself are counted.

use super::Front;
use super::access::ShownCertificate;
use super::audit::Client;
use super::caller::Caller;
use super::reply::{self, ReplyBody};
use super::slots::{Full, Slot};
use super::socket::{ConnectionState, Socket};
use crate::limits;
use crate::logging::AUDIT;
use crate::metrics::AcceptingPort;
use crate::tls::{AcceptError, Stream};
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::{Method, Request, Response, Version, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::coop::unconstrained;
use tokio::time::sleep;

/// Serves a connection until the connection ends or, after `stopping` becomes true, until its last request is answered.
pub(super) async fn run(
    socket: TcpStream,
    client: Client,
    slot: Slot,
    front: Arc<Front>,
    stopping: watch::Receiver<bool>,
) {
    if let Err(error) = tune(&socket) {
        // The connection works without them too.
        let logger = &front.api.logger;
        slog::debug!(logger, "set the options of a client's socket: {}", error);
    }
    let Some((stream, client)) = secure(socket, client, &front, stopping.clone()).await else {
        return;
    };
    let state = ConnectionState::new(slot.progress(), Arc::clone(&front.head_bytes));
    let state = Arc::new(state);
    let socket = Socket::new(stream, Arc::clone(&state));
    let header_timeout = front.api.limits.header_timeout;
    let header_timeout = match client.full() {
        Some(_) => header_timeout.min(limits::SPARE_HEADER_TIMEOUT),
        None => header_timeout,
    };
    let logger = front.api.logger.clone();
    let refused = Arc::clone(&front.api.metrics);
    let shown = ShownCertificate::of(&client, front.api.tls.as_ref());
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(client.clone());
        answer(
            request,
            Arc::clone(&front),
            Arc::clone(&state),
            shown.clone(),
        )
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
        if state.speaks_tls.load(Ordering::SeqCst) {
            slog::warn!(logger, #AUDIT, "a client speaks TLS to the client port, which has none: it must use http://, or this \
                member needs --tls"; "audit" => "tls", "from" => %client.address());
        }
        if let Some(reason) = refusal(&error) {
            refused.requests_refused.add(reason);
        }
    }
    drop(slot);
}

/// Completes the TLS handshake, if this member has TLS. `None`: there is no connection to serve.
async fn secure(
    socket: TcpStream,
    client: Client,
    front: &Front,
    mut stopping: watch::Receiver<bool>,
) -> Option<(Stream, Client)> {
    let Some(tls) = &front.api.tls else {
        return Some((socket.into(), client));
    };
    let accepted = tokio::select! {
        _ = stopping.wait_for(|stopping| *stopping) => return None,
        accepted = tls.accept_client(socket) => accepted,
    };
    // Load balancers probe the port by a connection without a request. Such a probe is no handshake.
    if !matches!(accepted, Err(AcceptError::Closed)) {
        let metrics = &front.api.metrics.tls;
        metrics.handshake(AcceptingPort::Client, accepted.is_ok());
    }
    match accepted {
        Ok((stream, Some(shown))) => Some((stream, client.proved(Caller::Known(Arc::new(shown))))),
        Ok((stream, None)) => Some((stream, client.proved(Caller::Stranger))),
        Err(AcceptError::Closed) => None,
        Err(error) => {
            let from = client.address();
            slog::warn!(front.api.logger, #AUDIT, "refused a client's connection"; "audit" => "tls", "from" => %from,
                "why" => %error);
            None
        }
    }
}

/// Sets the options of a client's socket.
fn tune(stream: &TcpStream) -> io::Result<()> {
    // Responses are written whole. Without `TCP_NODELAY`, a response could wait for the ACK of the previous response.
    stream.set_nodelay(true)?;
    // Other systems lack these options. There, the much longer timeouts of TCP apply, and the member sees the progress of
    // a client in larger steps.
    #[cfg(target_os = "linux")]
    {
        use rustix::net::sockopt;
        // Keepalive detects a vanished client on an idle connection.
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, limits::CLIENT_KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(stream, limits::CLIENT_KEEPALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(stream, limits::CLIENT_KEEPALIVE_PROBES)?;
        // Without this option, the kernel takes megabytes for a slow client, and then nothing until the client has read
        // a third of these bytes. With this option, the kernel takes more bytes whenever it has sent some.
        let socket = socket2::SockRef::from(stream);
        socket.set_tcp_notsent_lowat(limits::UNSENT_BYTES_MAX)?;
    }
    Ok(())
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
    shown: Option<Arc<ShownCertificate>>,
) -> Result<Response<AnswerBody>, Infallible> {
    state.heads.complete(&request);
    let has_end = request.version() > Version::HTTP_10 || request.method() == Method::HEAD;
    let reply = if state.progress.begin() {
        state.busy.store(true, Ordering::SeqCst);
        let (reply, unread) = front.answer(request).await;
        state.unread.store(unread, Ordering::SeqCst);
        state.heads.answered();
        let body = reply.body();
        let ends_response = !has_end && body.size_hint().exact().is_none();
        state.ends_response.store(ends_response, Ordering::SeqCst);
        let is_endless = matches!(body, ReplyBody::Endless(_));
        state.is_endless.store(is_endless, Ordering::SeqCst);
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
    Ok(reply.map(|body| {
        // Only a stream lasts long enough for the certificate to become invalid meanwhile. Its length is not known.
        let shown = shown.filter(|_| body.size_hint().exact().is_none());
        AnswerBody { body, state, shown }
    }))
}

/// The body of an answer. hyper drops it when it has taken the last byte.
struct AnswerBody {
    body: ReplyBody,
    state: Arc<ConnectionState>,
    /// Breaks off the answer when this certificate is not accepted any more. `None`: the answer is short, or the client has
    /// shown no certificate.
    shown: Option<Arc<ShownCertificate>>,
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.state.is_endless.store(false, Ordering::SeqCst);
        self.state.progress.answered();
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        if let Some(Err(no_longer)) = this.shown.as_ref().map(|shown| shown.check()) {
            return Poll::Ready(Some(Err(io::Error::other(no_longer))));
        }
        Pin::new(&mut this.body).poll_frame(cx)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_vanished_idle_client_is_noticed_within_a_minute() {
        use rustix::net::sockopt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let _client = client.await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        tune(&stream).unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 0);
        let idle = sockopt::tcp_keepidle(&stream).unwrap();
        let interval = sockopt::tcp_keepintvl(&stream).unwrap();
        let probes = sockopt::tcp_keepcnt(&stream).unwrap();
        assert!(idle + interval * probes < Duration::from_secs(60));
    }
}
