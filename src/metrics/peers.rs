//! Measurements of the connections to the other members.

use super::Histogram;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

type PeerLabel = [(&'static str, String); 1];
type LaneLabels = (
    [(&'static str, String); 1],
    [(&'static str, &'static str); 1],
);

/// The series of all peers. Clones share the series.
#[derive(Debug, Clone)]
pub struct PeersMetrics {
    round_trips: Family<PeerLabel, Histogram, fn() -> Histogram>,
    queue_messages: Family<LaneLabels, Gauge>,
    queue_bytes: Family<LaneLabels, Gauge>,
    dropped: Family<LaneLabels, Counter>,
    connections: Family<LaneLabels, Counter>,
}

impl Default for PeersMetrics {
    fn default() -> PeersMetrics {
        PeersMetrics {
            round_trips: Family::new_with_constructor(Histogram::of_latencies),
            queue_messages: Family::default(),
            queue_bytes: Family::default(),
            dropped: Family::default(),
            connections: Family::default(),
        }
    }
}

/// The series of one peer. Dropping the value ends the series.
#[derive(Debug)]
pub struct PeerMetrics {
    id: u64,
    names: [&'static str; 2],
    peers: PeersMetrics,
    /// The time that the peer takes to answer a heartbeat.
    pub round_trips: Histogram,
    /// The lanes, in the order of their names in [`PeersMetrics::add`].
    pub lanes: [LaneMetrics; 2],
}

/// One connection to a peer and its queue.
#[derive(Debug, Clone, Default)]
pub struct LaneMetrics {
    /// Messages in the queue.
    pub messages: Gauge,
    /// Bytes of the messages in the queue.
    pub bytes: Gauge,
    /// Messages that found the queue full, or that waited for a connection that failed.
    pub dropped: Counter,
    /// Connections that were made.
    pub connections: Counter,
}

impl PeersMetrics {
    /// Starts the series of a peer with these lanes. Earlier series of the same peer must have ended.
    pub fn add(&self, id: u64, names: [&'static str; 2]) -> PeerMetrics {
        PeerMetrics {
            id,
            names,
            peers: self.clone(),
            round_trips: self.round_trips.get_or_create_owned(&peer(id)),
            lanes: names.map(|name| {
                let labels = lane(id, name);
                LaneMetrics {
                    messages: self.queue_messages.get_or_create_owned(&labels),
                    bytes: self.queue_bytes.get_or_create_owned(&labels),
                    dropped: self.dropped.get_or_create_owned(&labels),
                    connections: self.connections.get_or_create_owned(&labels),
                }
            }),
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "peer_round_trip_seconds",
            "From a heartbeat of this member, as the leader, to the peer's answer",
            self.round_trips.clone(),
        );
        registry.register(
            "peer_queue_messages",
            "Messages that wait to be sent to a peer",
            self.queue_messages.clone(),
        );
        registry.register_with_unit(
            "peer_queue",
            "Size of the messages that wait to be sent to a peer",
            Unit::Bytes,
            self.queue_bytes.clone(),
        );
        registry.register(
            "peer_messages_dropped",
            "Messages to a peer that found its queue full, or whose connection failed",
            self.dropped.clone(),
        );
        registry.register(
            "peer_connections",
            "Connections that were made to a peer",
            self.connections.clone(),
        );
    }
}

impl Drop for PeerMetrics {
    fn drop(&mut self) {
        self.peers.round_trips.remove(&peer(self.id));
        for name in self.names {
            let labels = lane(self.id, name);
            self.peers.queue_messages.remove(&labels);
            self.peers.queue_bytes.remove(&labels);
            self.peers.dropped.remove(&labels);
            self.peers.connections.remove(&labels);
        }
    }
}

fn peer(id: u64) -> PeerLabel {
    [("peer", id.to_string())]
}

fn lane(id: u64, name: &'static str) -> LaneLabels {
    (peer(id), [("lane", name)])
}
