//! A histogram of atomic numbers. An observation costs two additions and takes no lock, unlike the histogram of
//! `prometheus-client`.

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A histogram of observations. Clones share the buckets.
#[derive(Debug, Clone)]
pub struct Histogram(Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    /// The largest value of each bucket, ascending. One more bucket holds larger values.
    bounds: &'static [u64],
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
    /// The number of observed units in one shown unit.
    scale: f64,
}

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

/// Bucket bounds in nanoseconds.
const LATENCIES: &[u64] = &[
    50 * MICROSECOND,
    100 * MICROSECOND,
    250 * MICROSECOND,
    500 * MICROSECOND,
    MILLISECOND,
    2_500 * MICROSECOND,
    5 * MILLISECOND,
    10 * MILLISECOND,
    25 * MILLISECOND,
    50 * MILLISECOND,
    100 * MILLISECOND,
    250 * MILLISECOND,
    500 * MILLISECOND,
    SECOND,
    2_500 * MILLISECOND,
    5 * SECOND,
    10 * SECOND,
];

/// Bucket bounds in nanoseconds.
const TRANSFERS: &[u64] = &[
    10 * MILLISECOND,
    50 * MILLISECOND,
    100 * MILLISECOND,
    500 * MILLISECOND,
    SECOND,
    5 * SECOND,
    10 * SECOND,
    30 * SECOND,
    60 * SECOND,
    300 * SECOND,
    600 * SECOND,
];

const COUNTS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096];

impl Histogram {
    /// For durations between 50 us and 10 s, shown in seconds.
    pub fn of_latencies() -> Histogram {
        Histogram::new(LATENCIES, SECOND as f64)
    }

    /// For durations between 10 ms and 10 min, shown in seconds.
    pub fn of_transfers() -> Histogram {
        Histogram::new(TRANSFERS, SECOND as f64)
    }

    /// For numbers between 1 and 4,096.
    pub fn of_counts() -> Histogram {
        Histogram::new(COUNTS, 1.0)
    }

    fn new(bounds: &'static [u64], scale: f64) -> Histogram {
        Histogram(Arc::new(Buckets {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
            scale,
        }))
    }

    /// Records a duration. Nanoseconds in 64 bits last for five centuries.
    pub fn observe(&self, duration: Duration) {
        self.observe_count(duration.as_nanos() as u64);
    }

    /// Records a number.
    pub fn observe_count(&self, value: u64) {
        let buckets = &*self.0;
        let bucket = buckets.bounds.partition_point(|bound| *bound < value);
        buckets.counts[bucket].fetch_add(1, Ordering::Relaxed);
        buckets.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// The number of observations.
    pub fn count(&self) -> u64 {
        let counts = self.0.counts.iter();
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let buckets = &*self.0;
        let bounds = buckets.bounds.iter().map(|bound| *bound as f64);
        // The quotient is the closest number to the decimal bound, so it is printed as that decimal.
        let bounds = bounds.map(|bound| bound / buckets.scale);
        let counts = buckets.counts.iter();
        let shown: Vec<(f64, u64)> = bounds
            .chain([f64::INFINITY])
            .zip(counts.map(|count| count.load(Ordering::Relaxed)))
            .collect();
        // The count is the sum of the shown buckets, so that it equals the last cumulative bucket even if observations
        // arrive meanwhile.
        let count = shown.iter().map(|(_, count)| count).sum();
        let sum = buckets.sum.load(Ordering::Relaxed) as f64 / buckets.scale;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &shown, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode_registry;
    use prometheus_client::registry::Registry;

    fn shown(histogram: &Histogram) -> String {
        let mut registry = Registry::default();
        registry.register("h", "Help", histogram.clone());
        let mut text = String::new();
        encode_registry(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn a_bucket_holds_what_is_at_most_its_bound() {
        let histogram = Histogram::of_counts();
        for value in [0, 1, 2, 3, 4, 4_096, 4_097, 1 << 40] {
            histogram.observe_count(value);
        }
        let text = shown(&histogram);
        for line in [
            "h_bucket{le=\"1.0\"} 2",
            "h_bucket{le=\"2.0\"} 3",
            "h_bucket{le=\"4.0\"} 5",
            "h_bucket{le=\"2048.0\"} 5",
            "h_bucket{le=\"4096.0\"} 6",
            "h_bucket{le=\"+Inf\"} 8",
            "h_count 8",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
        }
        assert_eq!(histogram.count(), 8);
    }

    #[test]
    fn durations_are_shown_in_seconds_with_bounds_that_read_well() {
        let histogram = Histogram::of_latencies();
        histogram.observe(Duration::from_micros(50));
        histogram.observe(Duration::from_millis(1_500));
        let text = shown(&histogram);
        for line in [
            "h_bucket{le=\"0.00005\"} 1",
            "h_bucket{le=\"0.0001\"} 1",
            "h_bucket{le=\"1.0\"} 1",
            "h_bucket{le=\"2.5\"} 2",
            "h_sum 1.50005",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
        }
        for histogram in [Histogram::of_latencies(), Histogram::of_transfers()] {
            let text = shown(&histogram);
            assert!(!text.contains("00000"), "{text}");
        }
    }
}
