//! TLS handshakes: of connections that the two ports accept, and of connections that this process dials.

use super::credentials::{BUFFER_BYTES_MAX, Credentials};
use super::explain;
use super::shown::{Shown, Side};
use super::stream::Counted;
use super::{Stream, Tls};
use crate::certificates::{Facts, facts};
use crate::limits;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ServerConfig};
use serde_json::json;
use std::io;
use std::sync::Arc;
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// The first byte of a connection with TLS: the type of a handshake record.
const HANDSHAKE_RECORD: u8 = 0x16;

/// Why a connection was not accepted.
#[derive(Debug, Error)]
pub enum AcceptError {
    /// The other side has sent something else than TLS, and was answered in HTTP.
    #[error("it speaks no TLS: it needs https:// and the certificates, or --tls if it is a member")]
    Plaintext,
    /// The handshake failed.
    #[error("{0}")]
    Failed(io::Error),
    /// The handshake did not end in time.
    #[error("it did not complete the TLS handshake in time")]
    Late,
    /// The other side has closed the connection, without a word.
    #[error("it closed the connection before the TLS handshake")]
    Closed,
}

impl Tls {
    /// Accepts a client. `None`: it has shown no certificate.
    pub async fn accept_client(
        &self,
        socket: TcpStream,
    ) -> Result<(Stream, Option<Shown>), AcceptError> {
        let own = self.credentials();
        let (stream, chain) = accept(socket, own.for_clients.clone()).await?;
        Ok((stream, shown(chain, Side::Client, own)))
    }

    /// Accepts a peer. Its certificate is a member's.
    pub async fn accept_peer(&self, socket: TcpStream) -> Result<(Stream, Shown), AcceptError> {
        let own = self.credentials();
        let (stream, chain) = accept(socket, own.for_peers.clone()).await?;
        match shown(chain, Side::Peer, own) {
            Some(shown) => Ok((stream, shown)),
            None => Err(AcceptError::Failed(io::Error::other(
                "it has no certificate",
            ))),
        }
    }

    /// Completes a connection to a member. The error is one line.
    pub async fn dial(&self, socket: TcpStream, host: &str) -> Result<(Stream, Shown), String> {
        let own = self.credentials();
        let (stream, chain) = dial(socket, host, own.dialling.clone()).await?;
        let shown = shown(chain, Side::Dialled, own);
        Ok((stream, shown.ok_or("it has no certificate of a member")?))
    }
}

/// The certificates that the other side has sent: its own, and those of intermediate CAs.
type Chain = Vec<CertificateDer<'static>>;

fn shown(chain: Chain, side: Side, own: Arc<Credentials>) -> Option<Shown> {
    let facts = facts_of(&chain)?;
    Some(Shown::new(facts, side, chain, own))
}

/// Accepts a connection within [`limits::TLS_HANDSHAKE_TIMEOUT`].
async fn accept(
    socket: TcpStream,
    config: Arc<ServerConfig>,
) -> Result<(Stream, Chain), AcceptError> {
    let accepting = async {
        match first_byte(&socket).await? {
            Some(HANDSHAKE_RECORD) => {}
            Some(_) => {
                // Whether this is read is the concern of the other side.
                let _ = answer_plaintext(socket).await;
                return Err(AcceptError::Plaintext);
            }
            None => return Err(AcceptError::Closed),
        }
        let accepting = TlsAcceptor::from(config).accept(Counted::from(socket));
        let mut stream = match accepting.into_fallible().await {
            Ok(stream) => stream,
            Err((error, socket)) => {
                // The other side may send its first request before it reads the alert.
                let _ = drain(socket.socket).await;
                return Err(AcceptError::Failed(explain::handshake(error)));
            }
        };
        let (_, connection) = stream.get_mut();
        connection.set_buffer_limit(Some(BUFFER_BYTES_MAX));
        let chain = connection.peer_certificates().unwrap_or_default().to_vec();
        Ok((Stream::Tls(Box::new(TlsStream::from(stream))), chain))
    };
    let accepted = timeout(limits::TLS_HANDSHAKE_TIMEOUT, accepting).await;
    accepted.unwrap_or(Err(AcceptError::Late))
}

/// Completes a connection as the side that dials. The caller limits the time.
pub(super) async fn dial(
    socket: TcpStream,
    host: &str,
    config: Arc<ClientConfig>,
) -> Result<(Stream, Chain), String> {
    // Certificates of members are not checked against a host, so a host that can't be a name in TLS is no obstacle.
    let name = ServerName::try_from(host.to_owned());
    let name = name.or_else(|_| ServerName::try_from("raftkvd.invalid".to_owned()));
    let name = name.map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(config)
        .connect(name, Counted::from(socket))
        .await;
    let mut stream = stream.map_err(|error| explain::handshake(error).to_string())?;
    let (_, connection) = stream.get_mut();
    connection.set_buffer_limit(Some(BUFFER_BYTES_MAX));
    let chain = connection.peer_certificates().unwrap_or_default().to_vec();
    Ok((Stream::Tls(Box::new(TlsStream::from(stream))), chain))
}

/// The facts of a certificate that the handshake has checked.
pub(super) fn facts_of(chain: &[CertificateDer<'_>]) -> Option<Facts> {
    facts(chain.first()?).ok()
}

/// The first byte that the other side sends. The byte stays unread. `None`: the other side has closed the connection, or has
/// reset it, as some probes do.
async fn first_byte(socket: &TcpStream) -> Result<Option<u8>, AcceptError> {
    let mut byte = [0];
    match socket.peek(&mut byte).await {
        Ok(count) => Ok((count > 0).then_some(byte[0])),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
        Err(error) => Err(AcceptError::Failed(error)),
    }
}

/// Whether the other side starts a TLS handshake on a port without TLS.
pub fn is_tls(first_byte: u8) -> bool {
    first_byte == HANDSHAKE_RECORD
}

/// The answer to a client that speaks HTTP without TLS.
const PLAINTEXT_ANSWER: &str = "this port speaks TLS only: use https:// and certificates, as in curl --cacert ca.pem --cert \
    client.pem --key client.key; raftkvd itself takes --tls DIR";

/// Whether the client asks for errors in JSON, as `raftkvd backup` and members that join do. Only the part of the head
/// that has arrived is read.
async fn asks_for_json(socket: &TcpStream) -> io::Result<bool> {
    let mut head = [0; 2048];
    let count = socket.peek(&mut head).await?;
    let head = String::from_utf8_lossy(&head[..count]).to_ascii_lowercase();
    Ok(head.contains("\r\naccept: application/json\r\n"))
}

/// Answers a client that speaks HTTP without TLS.
async fn answer_plaintext(mut socket: TcpStream) -> io::Result<()> {
    let line = PLAINTEXT_ANSWER;
    let (kind, body) = match asks_for_json(&socket).await? {
        true => {
            let problem = json!({"type": "about:blank", "title": "Bad Request", "status": 400, "detail": line});
            ("application/problem+json", problem.to_string())
        }
        false => ("text/plain; charset=utf-8", format!("{line}\n")),
    };
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(answer.as_bytes()).await?;
    drain(socket).await
}

/// Closes a connection. Reads the bytes that the other side still sends, because a connection that is closed with unread
/// bytes is reset, and the last bytes written could be lost.
async fn drain(mut socket: TcpStream) -> io::Result<()> {
    socket.shutdown().await?;
    let mut space = [0; 4096];
    let draining = async {
        while socket.read(&mut space).await? > 0 {}
        Ok(())
    };
    timeout(limits::LINGER_TIMEOUT, draining)
        .await
        .unwrap_or(Ok(()))
}
