//! Requests of the client port: their number by method and status code, and their duration by method.
//!
//! This is the only place in the metrics on a hot path. A request costs three additions to atomic numbers, which are
//! found by position.

use super::{Histogram, Label};
use hyper::{Method, StatusCode};
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// In the order of [`position`]. Unknown methods count as `other`, because clients may send any method and must not
/// create labels.
const METHODS: [&str; 6] = ["GET", "HEAD", "PUT", "DELETE", "POST", "other"];

/// The number of status codes, from 100 on.
const CODES: usize = 500;
const FIRST_CODE: usize = 100;

/// The requests that were answered.
#[derive(Debug)]
pub struct Requests {
    counts: Counts,
    by_method: Family<Label, Histogram, fn() -> Histogram>,
    /// In the order of [`METHODS`].
    seconds: [Histogram; METHODS.len()],
}

impl Default for Requests {
    fn default() -> Requests {
        let by_method = Family::new_with_constructor(Histogram::of_latencies as fn() -> Histogram);
        Requests {
            counts: Counts::default(),
            seconds: METHODS.map(|method| by_method.get_or_create_owned(&[("method", method)])),
            by_method,
        }
    }
}

impl Requests {
    /// Counts a request that was answered. A stream counts when its answer starts.
    pub fn answered(&self, method: &Method, status: StatusCode, took: Duration) {
        let method = position(method);
        self.seconds[method].observe(took);
        let code = usize::from(status.as_u16()) - FIRST_CODE;
        // There are no codes beyond, and a status is at least 100.
        if let Some(count) = self.counts.0[method].get(code) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "http_requests",
            "Requests on the client port that were answered",
            self.counts.clone(),
        );
        registry.register(
            "http_request_duration_seconds",
            "From the head of a request on the client port to its response",
            self.by_method.clone(),
        );
    }
}

fn position(method: &Method) -> usize {
    match *method {
        Method::GET => 0,
        Method::HEAD => 1,
        Method::PUT => 2,
        Method::DELETE => 3,
        Method::POST => 4,
        _ => 5,
    }
}

/// Numbers by method and status. Zeros are not shown, because most combinations never occur.
#[derive(Debug, Clone)]
struct Counts(Arc<[Box<[AtomicU64]>; METHODS.len()]>);

impl Default for Counts {
    fn default() -> Counts {
        let codes = || (0..CODES).map(|_| AtomicU64::new(0)).collect();
        Counts(Arc::new(METHODS.map(|_| codes())))
    }
}

impl TypedMetric for Counts {
    const TYPE: MetricType = MetricType::Counter;
}

impl EncodeMetric for Counts {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        for (method, counts) in METHODS.into_iter().zip(&*self.0) {
            for (code, count) in (FIRST_CODE..).zip(counts) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    let labels = ([("method", method)], [("code", code as u64)]);
                    encoder
                        .encode_family(&labels)?
                        .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
                }
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }

    fn is_empty(&self) -> bool {
        let mut counts = self.0.iter().flatten();
        counts.all(|count| count.load(Ordering::Relaxed) == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode_registry;

    #[test]
    fn every_method_counts_for_itself_and_those_that_clients_invent_together() {
        let requests = Requests::default();
        let took = Duration::from_millis(1);
        for name in METHODS {
            let method = Method::from_bytes(name.as_bytes()).unwrap();
            assert_eq!(METHODS[position(&method)], name);
            requests.answered(&method, StatusCode::OK, took);
        }
        requests.answered(&Method::from_bytes(b"BREW").unwrap(), StatusCode::OK, took);
        requests.answered(&Method::PUT, StatusCode::NO_CONTENT, took);
        let unheard_of = StatusCode::from_u16(999).unwrap();
        requests.answered(&Method::PUT, unheard_of, took);
        let mut registry = Registry::default();
        requests.register(&mut registry);
        let mut text = String::new();
        encode_registry(&mut text, &registry).unwrap();
        for line in [
            "http_requests_total{method=\"GET\",code=\"200\"} 1",
            "http_requests_total{method=\"PUT\",code=\"200\"} 1",
            "http_requests_total{method=\"PUT\",code=\"204\"} 1",
            "http_requests_total{method=\"other\",code=\"200\"} 2",
            "http_request_duration_seconds_count{method=\"PUT\"} 3",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
        }
        assert_eq!(text.matches("http_requests_total{").count(), 7, "{text}");
    }
}
