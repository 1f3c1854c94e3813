//! The client port.

use crate::config::{self, Config};
use crate::inbox::Inbox;
use crate::store::Store;
use slog::Logger;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// What the API needs of the rest of the process.
#[derive(Debug, Clone)]
pub struct Api {
    /// Where proposals and reads go.
    pub inbox: Arc<Inbox>,
    /// The map, to read.
    pub store: Arc<Store>,
    /// What requests have to keep to.
    pub limits: Limits,
    /// Length of the node's tick, in which it counts deadlines.
    pub tick: Duration,
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
    pub connections_max: usize,
    /// Bytes of bodies that are being read or wait for their outcome.
    pub body_bytes_max: usize,
}

impl Limits {
    /// The limits that a configuration sets.
    pub fn new(config: &Config) -> Limits {
        Limits {
            key_bytes_max: config.key_bytes_max,
            value_bytes_max: config.value_bytes_max,
            request_timeout: config.request_timeout,
            header_timeout: config::HEADER_TIMEOUT,
            connections_max: config::CLIENT_CONNECTIONS_MAX,
            body_bytes_max: config::BODY_BYTES_MAX,
        }
    }
}

/// Serves clients until `shutdown` completes; then lets requests that are under way finish, closes idle connections,
/// and returns when none is left.
pub async fn serve(listener: TcpListener, api: Api, shutdown: impl Future<Output = ()>) {
    let _ = api;
    shutdown.await;
    drop(listener);
}
