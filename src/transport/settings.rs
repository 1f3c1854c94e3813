//! The settings of a transport, and the limits that tests reduce.

use super::files::{IdentityStore, SnapshotStore};
use super::handshake::About;
use crate::identity::View;
use crate::limits;
use crate::metrics::Metrics;
use crate::peer_url::PeerUrl;
use crate::tls::Tls;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The settings of a transport.
pub struct TransportSettings {
    /// The data directory.
    pub directory: Arc<dyn IdentityStore>,
    /// The snapshot files.
    pub snapshots: Arc<dyn SnapshotStore>,
    /// The metrics of this process.
    pub metrics: Arc<Metrics>,
    /// Limits, which tests reduce.
    pub limits: TransportLimits,
    /// The identity of this member, and its view of the members.
    pub view: View,
    /// The certificates of this member. `None`: without TLS.
    pub tls: Option<Tls>,
    /// What this member says about itself.
    pub about: About,
    /// The index up to which the view is applied.
    pub applied: u64,
    /// The URLs of members to dial while no leader is known, while the cluster forms, and while this member is empty.
    pub list: BTreeMap<u64, PeerUrl>,
}

/// The limits that tests reduce.
#[derive(Debug, Clone)]
pub struct TransportLimits {
    /// Connections that the peer port holds at one time.
    pub connections: usize,
    /// Those of them that may have proved nothing.
    pub newcomers: usize,
    /// Time from the accept of a connection until the head of its request is read.
    pub header_timeout: Duration,
    /// Time to answer a handshake.
    pub handshake_timeout: Duration,
    /// A snapshot transfer ends if one piece takes longer than this.
    pub snapshot_stall: Duration,
    /// The pause before a failed snapshot transfer is reported, and therefore retried.
    pub snapshot_pause: Duration,
    /// Bytes of a snapshot that are sent in one second, at most.
    pub snapshot_pace: u64,
}

impl Default for TransportLimits {
    fn default() -> TransportLimits {
        TransportLimits {
            connections: limits::PEER_CONNECTIONS_MAX,
            newcomers: limits::PEER_NEWCOMERS_MAX,
            header_timeout: limits::PEER_HEAD_TIMEOUT,
            handshake_timeout: limits::PEER_HANDSHAKE_TIMEOUT,
            snapshot_stall: limits::SNAPSHOT_STALL_TIMEOUT,
            snapshot_pause: limits::PEER_BACKOFF_MAX,
            snapshot_pace: limits::SNAPSHOT_BYTES_PER_SECOND,
        }
    }
}
