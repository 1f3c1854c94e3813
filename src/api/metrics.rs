//! `GET /-/metrics`: the counters of this process and its state at the time of the scrape, as Prometheus text 0.0.4, or
//! as OpenMetrics text if the scraper asks for that.
//!
//! If the raft loop does not answer in time, a scrape shows everything else and `raftkvd_live` 0. While the snapshot is
//! loading, there is no raft loop and no map, so their series are left out.

use super::connection;
use super::error_code::Code;
use super::reply::{self, Reply, ReplyResult};
use super::status::within;
use super::{Front, accept};
use crate::channels::inbox::Inbox;
use crate::channels::status::Status;
use crate::limits;
use crate::metrics::{Metrics, Registry, TEXT_FORMAT, to_text_format};
use crate::store::Store;
use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Unit;
use tokio::time::Instant;

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

const TEXT: HeaderValue = HeaderValue::from_static(TEXT_FORMAT);

/// The reasons for which a proposal can fail.
const PROPOSALS: [Code; 6] = [
    Code::NoLeader,
    Code::LeaderBusy,
    Code::DiskFull,
    Code::QueueFull,
    Code::Stopping,
    Code::UnknownOutcome,
];
/// The reasons for which a read can fail.
const READS: [Code; 4] = [
    Code::NoLeader,
    Code::NoQuorum,
    Code::QueueFull,
    Code::Stopping,
];

/// Exports the series of all reasons at zero, so that the first failure yields a rate.
pub(super) fn prepare(metrics: &Metrics) {
    metrics.proposals_failed.expect(&PROPOSALS.map(Code::text));
    metrics.reads_failed.expect(&READS.map(Code::text));
    metrics.requests_refused.expect(&connection::REFUSED);
}

/// Whether the scraper prefers OpenMetrics. Prometheus names both formats, with a higher weight for OpenMetrics.
fn wants_open_metrics(request: &HeaderMap) -> bool {
    let open_metrics = accept::weight(request, &["application/openmetrics-text"]).unwrap_or(0.0);
    let text = accept::weight(request, &["text/plain"]).unwrap_or(0.0);
    open_metrics > 0.0 && open_metrics >= text
}

impl Front {
    /// `GET /-/metrics`.
    pub(super) async fn show_metrics(&self, request: &HeaderMap, deadline: Instant) -> ReplyResult {
        let loading = self.api.state_machine.replay.is_loading();
        let status = match loading {
            true => None,
            false => self.status(within(limits::STATUS_TIMEOUT, deadline)).await,
        };
        let mut moment = Registry::with_prefix("raftkvd");
        describe_process(&mut moment, loading || status.is_some());
        let replays = self.api.state_machine.replay.under_way().is_some();
        moment.register(
            "replaying",
            "1 while this member reads its snapshot and its log into the map after a start",
            flag(replays),
        );
        if let Some(status) = &status {
            describe_raft(&mut moment, status);
        }
        if !loading {
            describe_queues(&mut moment, &self.api.inbox);
            describe_map(&mut moment, &self.api.state_machine.store);
        }
        let metrics = self.api.metrics.clone();
        let is_open = wants_open_metrics(request);
        let made = self.api.workers.run(move || {
            let text = metrics.text(&moment);
            match is_open {
                true => text,
                false => to_text_format(&text),
            }
        });
        let text = made.await;
        // An error here means that the runtime has ended.
        let text =
            text.map_err(|_| reply::unavailable(Code::Stopping, "this member is stopping"))?;
        let mut reply = Reply::new(Bytes::from(text).into());
        let kind = if is_open { OPEN_METRICS } else { TEXT };
        reply.headers_mut().insert(CONTENT_TYPE, kind);
        Ok(reply)
    }
}

fn describe_process(moment: &mut Registry, live: bool) {
    let build = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("os", std::env::consts::OS),
        ("arch", std::env::consts::ARCH),
    ];
    moment.register(
        "build",
        "The version and the platform of this build",
        Info::new(build),
    );
    moment.register(
        "live",
        "1 if the raft loop answers or has not started yet; if 0, the series of the raft loop are missing",
        flag(live),
    );
}

fn describe_raft(moment: &mut Registry, status: &Status) {
    moment.register(
        "has_leader",
        "1 if this member knows of a leader",
        flag(status.leader != 0),
    );
    moment.register(
        "is_leader",
        "1 if this member is the leader",
        flag(status.leader == status.id),
    );
    let numbers = [
        ("term", "The term of raft", status.term),
        (
            "committed_index",
            "Highest index that is known to be committed",
            status.committed,
        ),
        ("applied_index", "Highest index in the map", status.applied),
        ("last_index", "Highest index in the log", status.last),
        (
            "snapshot_index",
            "Index of the newest snapshot",
            status.snapshot,
        ),
    ];
    for (name, help, number) in numbers {
        moment.register(name, help, ConstGauge::new(number));
    }
}

fn describe_queues(moment: &mut Registry, inbox: &Inbox) {
    let open = inbox.open();
    moment.register(
        "proposals_pending",
        "Writes and changes of members without an outcome",
        ConstGauge::new(open.proposals),
    );
    moment.register(
        "reads_pending",
        "Linearizable reads that are not confirmed",
        ConstGauge::new(open.reads),
    );
    moment.register(
        "disk_full",
        "1 while the disk has no room for the log, and this member refuses writes",
        flag(inbox.disk_is_full()),
    );
    moment.register(
        "inbox_messages_dropped",
        "Messages of peers that this member could not keep up with",
        ConstCounter::new(inbox.messages_dropped()),
    );
}

fn describe_map(moment: &mut Registry, store: &Store) {
    moment.register(
        "store_keys",
        "Keys in the map",
        ConstGauge::new(store.len()),
    );
    moment.register_with_unit(
        "store",
        "Keys and values in the map",
        Unit::Bytes,
        ConstGauge::new(store.bytes()),
    );
}

fn flag(is_so: bool) -> ConstGauge<u64> {
    ConstGauge::new(u64::from(is_so))
}
