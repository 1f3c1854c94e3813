//! The counters and measurements of this process, for `GET /-/metrics`.
//!
//! Each part of the process holds handles and counts into them. Counting costs one or two additions to atomic numbers
//! and takes no lock, because the labels were looked up when the handle was made. Only a scrape reads the numbers. It
//! adds the state at its moment (`api/metrics.rs`), and `prometheus-client` encodes everything.
//!
//! Invariants:
//! - No label comes from client input, so the number of series is bounded, and no series contains a key or a value.
//! - The series of a peer end with the peer.

mod histogram;
pub mod peer_handshake;
mod peers;
mod process;
mod requests;
mod shortages;
mod text_format;
mod tls;

pub use histogram::Histogram;
pub use peers::{LaneMetrics, PeerMetrics, PeersMetrics};
pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::registry::Registry;
pub use requests::Requests;
pub use shortages::{AcceptingPort, Shortages};
pub use text_format::{TEXT_FORMAT, to_text_format};
pub use tls::TlsMetrics;

use process::Process;
use prometheus_client::encoding::text;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Unit;
use std::sync::Arc;
use std::time::Duration;

/// The only label of a series, as name and value.
type Label = [(&'static str, &'static str); 1];

/// The metrics of one process, with the registry that shows them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    process: Process,
    /// Requests of the client port.
    pub requests: Requests,
    /// Work that could not be done because a resource was used up.
    pub shortages: Shortages,
    /// Requests that the HTTP library refused, so that [`Metrics::requests`] does not count them.
    pub requests_refused: Reasons,
    /// Connections to the peer port that became no stream of a peer.
    pub peer_handshakes_failed: Reasons,
    /// Proposals without an outcome, by the error code that their clients got.
    pub proposals_failed: Reasons,
    /// Linearizable reads that were not confirmed, by the error code that their clients got.
    pub reads_failed: Reasons,
    /// How often this member learned of a new leader.
    pub leader_changes: Counter,
    /// Commands in each published entry that had any.
    pub entry_commands: Histogram,
    /// The write-ahead log.
    pub wal: WalMetrics,
    /// Snapshots.
    pub snapshots: SnapshotMetrics,
    /// The other members.
    pub peers: PeersMetrics,
    /// TLS on both ports.
    pub tls: Arc<TlsMetrics>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let mut metrics = Metrics {
            registry: Registry::with_prefix("raftkvd"),
            process: Process::default(),
            requests: Requests::default(),
            shortages: Shortages::default(),
            requests_refused: Reasons::default(),
            peer_handshakes_failed: Reasons::default(),
            proposals_failed: Reasons::default(),
            reads_failed: Reasons::default(),
            leader_changes: Counter::default(),
            entry_commands: Histogram::of_counts(),
            wal: WalMetrics::default(),
            snapshots: SnapshotMetrics::default(),
            peers: PeersMetrics::default(),
            tls: Arc::default(),
        };
        let registry = &mut metrics.registry;
        registry.register(
            "leader_changes",
            "How often this member learned who leads, the first time included",
            metrics.leader_changes.clone(),
        );
        registry.register(
            "proposals_failed",
            "Writes and changes of members without an outcome, by the code of the refusal",
            metrics.proposals_failed.0.clone(),
        );
        registry.register(
            "reads_failed",
            "Linearizable reads that were not confirmed, by the code of the refusal",
            metrics.reads_failed.0.clone(),
        );
        registry.register(
            "entry_commands",
            "Commands in one entry of the log, as they were handed to the map",
            metrics.entry_commands.clone(),
        );
        metrics.wal.register(registry);
        metrics.snapshots.register(registry);
        metrics.peers.register(registry);
        metrics
            .peer_handshakes_failed
            .expect(peer_handshake::REASONS);
        registry.register(
            "peer_handshakes_failed",
            "Connections to the peer port that did not become a peer's, by reason",
            metrics.peer_handshakes_failed.0.clone(),
        );
        metrics.requests.register(registry);
        metrics.shortages.register(registry);
        metrics.tls.register(registry);
        registry.register(
            "http_requests_refused",
            "Requests on the client port that were refused before they could be read, by reason",
            metrics.requests_refused.0.clone(),
        );
        metrics
    }
}

impl Metrics {
    /// Everything as OpenMetrics text, with `moment` before the counters. Reads files of `/proc`, so it must not run on
    /// a thread that may not block.
    pub fn text(&self, moment: &Registry) -> String {
        let mut process = Registry::with_prefix("process");
        self.process.register(&mut process);
        let mut shown = String::new();
        text::encode_registry(&mut shown, moment)
            .and_then(|()| text::encode_registry(&mut shown, &self.registry))
            .and_then(|()| text::encode(&mut shown, &process))
            .expect("writing to a string does not fail");
        shown
    }
}

/// Failures by reason. Failures are rare, so the label is looked up each time.
#[derive(Debug, Default)]
pub struct Reasons(Family<Label, Counter>);

impl Reasons {
    /// Exports the series of these reasons at zero, so that the first failure yields a rate.
    pub fn expect(&self, reasons: &[&'static str]) {
        for reason in reasons {
            drop(self.0.get_or_create(&[("reason", reason)]));
        }
    }

    /// The failures for this reason.
    #[cfg(test)]
    pub fn count(&self, reason: &'static str) -> u64 {
        self.0.get_or_create(&[("reason", reason)]).get()
    }

    /// Counts one failure.
    pub fn add(&self, reason: &'static str) {
        self.0.get_or_create(&[("reason", reason)]).inc();
    }
}

/// Measurements of the write-ahead log. Clones share the numbers.
#[derive(Debug, Clone)]
pub struct WalMetrics {
    /// Duration of each fdatasync. There is one fdatasync per batch.
    pub syncs: Histogram,
    /// Bytes of all batches.
    pub bytes: Counter,
    /// Entries in each batch that had any.
    pub batch_entries: Histogram,
    /// Failed attempts to keep a segment aside.
    pub spares_failed: Counter,
}

impl Default for WalMetrics {
    fn default() -> WalMetrics {
        WalMetrics {
            syncs: Histogram::of_latencies(),
            bytes: Counter::default(),
            batch_entries: Histogram::of_counts(),
            spares_failed: Counter::default(),
        }
    }
}

impl WalMetrics {
    /// Records a batch that was written and synced.
    pub fn wrote(&self, bytes: u64, entries: u64, sync: Duration) {
        self.syncs.observe(sync);
        self.bytes.inc_by(bytes);
        if entries > 0 {
            self.batch_entries.observe_count(entries);
        }
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "wal_fsync_duration_seconds",
            "How long the fdatasync of a batch of the write-ahead log took",
            self.syncs.clone(),
        );
        registry.register_with_unit(
            "wal_written",
            "What was written to the write-ahead log",
            Unit::Bytes,
            self.bytes.clone(),
        );
        registry.register(
            "wal_batch_entries",
            "Entries that one write and sync of the write-ahead log made durable",
            self.batch_entries.clone(),
        );
        registry.register(
            "wal_segments_denied",
            "How often the next segment of the write-ahead log could not be made, most likely because the disk had no room",
            self.spares_failed.clone(),
        );
    }
}

/// Measurements of snapshots. Each operation has its own label.
#[derive(Debug)]
pub struct SnapshotMetrics {
    seconds: Family<Label, Histogram, fn() -> Histogram>,
    bytes: Family<Label, Counter>,
    failed: Family<Label, Counter>,
    /// Snapshots that were taken of this member's map.
    pub written: SnapshotOperation,
    /// Snapshots that were read into the map, at the start or from the leader.
    pub loaded: SnapshotOperation,
    /// Snapshots that were sent to a peer that is behind the start of the log.
    pub sent: SnapshotOperation,
    /// Snapshots that were received from the leader.
    pub received: SnapshotOperation,
    /// Transfers to peers that failed and are retried.
    pub sends_failed: Counter,
    /// Transfers from the leader that failed.
    pub receives_failed: Counter,
    /// Snapshots of this member's map that could not be written and are tried again.
    pub writes_failed: Counter,
}

/// One kind of operation on snapshots.
#[derive(Debug)]
pub struct SnapshotOperation {
    seconds: Histogram,
    bytes: Counter,
}

impl SnapshotOperation {
    /// Records an operation that is done, with the size of its file.
    pub fn add(&self, took: Duration, bytes: u64) {
        self.seconds.observe(took);
        self.bytes.inc_by(bytes);
    }
}

impl Default for SnapshotMetrics {
    fn default() -> SnapshotMetrics {
        let seconds = Family::new_with_constructor(Histogram::of_transfers as fn() -> Histogram);
        let (bytes, failed) = (Family::default(), Family::default());
        let done = |operation| SnapshotOperation {
            seconds: seconds.get_or_create_owned(&[("operation", operation)]),
            bytes: Family::get_or_create_owned(&bytes, &[("operation", operation)]),
        };
        SnapshotMetrics {
            written: done("write"),
            loaded: done("load"),
            sent: done("send"),
            received: done("receive"),
            sends_failed: Family::get_or_create_owned(&failed, &[("operation", "send")]),
            receives_failed: Family::get_or_create_owned(&failed, &[("operation", "receive")]),
            writes_failed: Counter::default(),
            seconds,
            bytes,
            failed,
        }
    }
}

impl SnapshotMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "snapshot_duration_seconds",
            "How long it took to write, load, send or receive a snapshot",
            self.seconds.clone(),
        );
        registry.register_with_unit(
            "snapshot",
            "Size of the snapshots that were written, loaded, sent or received",
            Unit::Bytes,
            self.bytes.clone(),
        );
        registry.register(
            "snapshot_transfers_failed",
            "Snapshots that did not reach their receiver",
            self.failed.clone(),
        );
        registry.register(
            "snapshot_writes_failed",
            "Snapshots of this member's map that could not be written and are tried again",
            self.writes_failed.clone(),
        );
    }
}
