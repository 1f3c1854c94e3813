//! What a transport is made of, and the limits that tests make smaller.

use super::files::{IdentityStore, SnapshotStore};
use crate::identity::View;
use crate::limits;
use crate::metrics::Metrics;
use crate::peer_url::PeerUrl;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What a transport works with.
pub struct TransportSettings {
    /// The data directory.
    pub directory: Arc<dyn IdentityStore>,
    /// The snapshot files.
    pub snapshots: Arc<dyn SnapshotStore>,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
    /// Its limits.
    pub limits: TransportLimits,
    /// Who this member is, and whom it knows.
    pub view: View,
    /// Up to where that is applied.
    pub applied: u64,
    /// Where members are dialled while no leader is known, and while this one is empty.
    pub list: BTreeMap<u64, PeerUrl>,
}

/// The limits that tests make smaller.
#[derive(Debug, Clone)]
pub struct TransportLimits {
    /// Connections that the peer port holds at one time.
    pub connections: usize,
    /// Time to send the head of a request.
    pub header_timeout: Duration,
    /// Time to answer a handshake.
    pub handshake_timeout: Duration,
    /// A snapshot transfer that takes longer than this for one piece is given up.
    pub snapshot_stall: Duration,
    /// A failed snapshot transfer is reported, and so tried again, after this pause.
    pub snapshot_pause: Duration,
    /// Bytes of a snapshot that are sent in a second, at most.
    pub snapshot_pace: u64,
}

impl Default for TransportLimits {
    fn default() -> TransportLimits {
        TransportLimits {
            connections: limits::PEER_CONNECTIONS_MAX,
            header_timeout: limits::HEADER_TIMEOUT,
            handshake_timeout: limits::PEER_HANDSHAKE_TIMEOUT,
            snapshot_stall: limits::SNAPSHOT_STALL_TIMEOUT,
            snapshot_pause: limits::PEER_BACKOFF_MAX,
            snapshot_pace: limits::SNAPSHOT_BYTES_PER_SECOND,
        }
    }
}
