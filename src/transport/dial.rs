//! Opens connections to peers: the socket, the request, and the meaning of the answer.

use super::handshake::{self, Trust};
use super::link::LaneState;
use super::state::TransportState;
use crate::certificates::Subject;
use crate::connect;
use crate::identity::{Claims, PeerRefusal, Reason};
use crate::limits;
use crate::peer_url::PeerUrl;
use crate::tls::{Shown, Stream};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("connect: {0}")]
    Connect(io::Error),
    #[error("the connection failed: {0}")]
    Broken(String),
    /// The two sides do not agree on TLS, or on a certificate.
    #[error("TLS: {0}")]
    Tls(String),
    #[error("it did not answer in time")]
    Silent,
    #[error("it refuses this member: {}", .0.reason)]
    Refused(PeerRefusal),
    /// The peer was dialled with the claims of an empty member.
    #[error(
        "it refuses this member, so it does not wait to be added: perhaps it belongs to another cluster, or it was added since"
    )]
    NotWaiting,
    #[error("it is not the peer that was expected: {0}")]
    Disliked(Reason),
    #[error("it answered {0}")]
    Unexpected(String),
    /// The peer has a fault of its own, most likely of its disk.
    #[error("it answered {0}")]
    Troubled(String),
}

impl DialError {
    /// Whether the peer's host answered that no process listens on the port.
    pub(super) fn nobody_listens(&self) -> bool {
        matches!(self, DialError::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused)
    }

    /// Whether something answered as a peer could.
    pub(super) fn answered(&self) -> bool {
        !matches!(
            self,
            DialError::Connect(_) | DialError::Broken(_) | DialError::Silent
        )
    }

    /// The state of a lane that is not connected because of this error.
    pub(super) fn found(&self) -> LaneState {
        LaneState::Down {
            why: self.to_string(),
            answered: self.answered(),
        }
    }
}

impl From<hyper::Error> for DialError {
    fn from(error: hyper::Error) -> DialError {
        // The text of the error itself says little. Its cause says what happened.
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        DialError::Broken(cause.unwrap_or_else(|| error.to_string()))
    }
}

/// Connects to a peer, and completes the TLS handshake if this member has TLS. The peer has then proved that it is the
/// member `id`. On Linux, the connection ends when the peer accepts no bytes for the duration `silence`.
pub(super) async fn connect(
    shared: &TransportState,
    id: u64,
    url: &PeerUrl,
    silence: Duration,
) -> Result<(Stream, Option<Arc<Shown>>), DialError> {
    let connected = connect::connect(url.host(), url.port()).await;
    let socket = connected.map_err(DialError::Connect)?;
    prepare(&socket, silence).map_err(DialError::Connect)?;
    let Some(tls) = &shared.tls else {
        return Ok((socket.into(), None));
    };
    let securing = tls.dial(socket, url.host());
    let secured = timeout(shared.limits.handshake_timeout, securing).await;
    let (stream, shown) = secured
        .map_err(|_| DialError::Silent)?
        .map_err(DialError::Tls)?;
    match shown.facts.name.subject {
        Subject::Member(actual) if actual == id => match shared.is_revoked(Some(shown.key())) {
            true => Err(DialError::Disliked(Reason::KeyRevoked)),
            false => Ok((stream, Some(Arc::new(shown)))),
        },
        Subject::Member(actual) => Err(DialError::Disliked(Reason::WrongReceiver { actual })),
        Subject::Client { .. } => Err(DialError::Tls(
            "its certificate is that of a client".to_owned(),
        )),
    }
}

/// Sets the socket options that both ends of every peer connection use.
pub(super) fn prepare(stream: &TcpStream, silence: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // Other systems lack these options. There, TCP's own, much longer timeouts apply.
    #[cfg(not(target_os = "linux"))]
    let _ = silence;
    #[cfg(target_os = "linux")]
    {
        use rustix::net::sockopt;
        // Keepalive detects a vanished peer on an idle connection. The user timeout detects it while data is in flight.
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, limits::PEER_SILENCE_MAX)?;
        sockopt::set_tcp_keepintvl(stream, limits::PEER_SILENCE_MAX)?;
        // The user timeout also runs while the peer's window is closed, so a slow disk of a snapshot's receiver counts
        // too.
        sockopt::set_tcp_user_timeout(stream, silence.as_millis() as u32)?;
    }
    Ok(())
}

/// A request with these claims in its head.
pub(super) fn request<B>(
    claims: &Claims,
    url: &PeerUrl,
    path: &'static str,
    body: B,
) -> Result<Request<B>, DialError> {
    let host = HeaderValue::try_from(url.authority())
        .map_err(|error| DialError::Unexpected(error.to_string()))?;
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = hyper::Uri::from_static(path);
    request.headers_mut().insert(HOST, host);
    handshake::write(claims, request.headers_mut());
    Ok(request)
}

/// Sends a request on a new connection, and passes the answer to `then`. Dropping the returned future ends everything.
pub(super) async fn exchange<B, T, F>(
    stream: Stream,
    request: Request<B>,
    then: impl FnOnce(Response<Incoming>) -> F,
) -> Result<T, DialError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    F: Future<Output = Result<T, DialError>>,
{
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(limits::SNAPSHOT_CHUNK_BYTES)
        .handshake::<_, B>(TokioIo::new(stream))
        .await?;
    let mut exchange = pin!(async move {
        let response = sender.send_request(request).await?;
        then(response).await
    });
    // The connection makes progress only while it is polled. If the connection ends first, because it was upgraded or
    // because it broke, the exchange still yields the outcome.
    tokio::select! {
        outcome = &mut exchange => outcome,
        _ = connection.with_upgrades() => exchange.await,
    }
}

/// The error for an answer other than the expected one. `trust` says how certain it is that the place belongs to the
/// peer.
pub(super) async fn read_refusal(response: Response<Incoming>, trust: Trust) -> DialError {
    let status = response.status();
    let body = Limited::new(response.into_body(), handshake::REFUSAL_BYTES_MAX);
    let Ok(body) = body.collect().await else {
        return DialError::Unexpected(status.to_string());
    };
    let body = body.to_bytes();
    match handshake::parse_refusal(&body, trust) {
        Some(refusal) => DialError::Refused(refusal),
        None => {
            let text = String::from_utf8_lossy(&body);
            let line = text.lines().next().unwrap_or_default();
            let answer = format!("{status} {line:?}");
            match status {
                StatusCode::INTERNAL_SERVER_ERROR => DialError::Troubled(answer),
                _ => DialError::Unexpected(answer),
            }
        }
    }
}
