//! A client of a member: one HTTP/1.1 request on its own connection, for commands that join a cluster or take a backup.
//!
//! This module limits the time until the head of a response arrives. The caller limits the time of the whole exchange.
//! Dropping the future of an exchange closes its connection.

use crate::connect;
use crate::limits;
use crate::peer_url::PeerUrl;
use crate::tls::Stream;
use crate::tls::client::ClientTls;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

/// Connects to the client URL of a member, with TLS if the caller has files for it. An error is one line.
pub async fn connect(to: &PeerUrl, tls: Option<&ClientTls>) -> Result<Stream, String> {
    let connected = connect::connect(to.host(), to.port()).await;
    let socket = connected.map_err(|error| format!("connect: {error}"))?;
    let Some(tls) = tls else {
        return Ok(socket.into());
    };
    let dialling = timeout(limits::MEMBER_ANSWER_TIMEOUT, tls.dial(socket, to.host()));
    let dialled = dialling.await.map_err(|_| "no answer in time".to_owned())?;
    dialled
        .map(|(stream, _)| stream)
        .map_err(|why| format!("TLS: {why}"))
}

/// Sends a request and returns what `take` makes of the response; the connection delivers the body meanwhile. A
/// connection error is one line. The body of a request is JSON, and a refusal is requested as JSON.
pub async fn exchange<T, E: From<String>>(
    stream: Stream,
    to: &PeerUrl,
    method: Method,
    path: &'static str,
    body: String,
    take: impl AsyncFnOnce(Response<Incoming>) -> Result<T, E>,
) -> Result<T, E> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, to.authority())
        .header(ACCEPT, "application/json")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::<Bytes>::from(body))
        .map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| cause(&error))?;
    // The connection ends when the response was taken and the sender is dropped, or when this future is dropped.
    let answer = async move {
        let answering = sender.send_request(request);
        let answer = timeout(limits::MEMBER_ANSWER_TIMEOUT, answering).await;
        let answer = answer.map_err(|_| "no answer in time".to_owned())?;
        take(answer.map_err(|error| cause(&error))?).await
    };
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        outcome = &mut answer => outcome,
        _ = connection => answer.await,
    }
}

/// The cause of the error. The text of the error itself says little, for example nothing about a certificate that the
/// member has refused.
fn cause(error: &hyper::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
