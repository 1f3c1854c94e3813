//! TLS on the peer port: the handshake of a peer that has connected, and the renewal of certificates.

use super::admission::Source;
use super::state::TransportState;
use crate::logging::AUDIT;
use crate::metrics::AcceptingPort;
use crate::metrics::peer_handshake::{FOREIGN, LATE};
use crate::tls::{self, AcceptError, Credentials, Shown, Stream};
use slog::warn;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, timeout_at};

/// Completes the TLS handshake by the deadline, if this member has TLS. `None`: there is no connection to serve.
pub(super) async fn secure(
    shared: &TransportState,
    socket: TcpStream,
    deadline: Instant,
    source: &Source,
) -> Option<(Stream, Option<Arc<Shown>>)> {
    let Some(tls) = &shared.tls else {
        return plaintext(shared, socket, deadline, source).await;
    };
    let accepted = timeout_at(deadline, tls.accept_peer(socket)).await;
    let accepted = accepted.unwrap_or(Err(AcceptError::Late));
    let metrics = &shared.metrics;
    let error = match accepted {
        Ok((stream, shown)) => {
            metrics.tls.handshake(AcceptingPort::Peer, true);
            return Some((stream, Some(Arc::new(shown))));
        }
        // A probe only connects, and is no handshake.
        Err(AcceptError::Closed) => return None,
        Err(error) => error,
    };
    metrics.tls.handshake(AcceptingPort::Peer, false);
    let reason = match error {
        AcceptError::Late => LATE,
        _ => FOREIGN,
    };
    metrics.peer_handshakes_failed.add(reason);
    warn!(source.logger, #AUDIT, "refused a peer's connection"; "audit" => "tls", "why" => %error);
    None
}

/// The connection of a peer on a port without TLS. Logs a peer that speaks TLS, whose request hyper refuses then.
async fn plaintext(
    shared: &TransportState,
    socket: TcpStream,
    deadline: Instant,
    source: &Source,
) -> Option<(Stream, Option<Arc<Shown>>)> {
    let mut first = [0];
    match timeout_at(deadline, socket.peek(&mut first)).await {
        Ok(Ok(count)) => {
            if count > 0 && tls::is_tls(first[0]) {
                warn!(source.logger, #AUDIT, "a peer speaks TLS to the peer port, which has none: start this member with \
                    --tls too, or that one without"; "audit" => "tls");
            }
            Some((socket.into(), None))
        }
        Ok(Err(_)) => None,
        Err(_) => {
            shared.metrics.peer_handshakes_failed.add(LATE);
            None
        }
    }
}

/// Completes when the certificates of this member were read again. Never completes without TLS.
pub(super) async fn renewed(renewals: &mut Option<watch::Receiver<Arc<Credentials>>>) {
    if let Some(renewals) = renewals
        && renewals.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Completes when it is time to look whether the certificate of a peer has ended. Never completes without TLS.
pub(super) async fn passed(ends: &mut Option<Interval>) {
    match ends {
        Some(ends) => ends.tick().await,
        None => std::future::pending().await,
    };
}
