//! A histogram of times that costs nothing on the way of a change: power-of-two buckets, counted together.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// The upper bound of the first bucket, in microseconds; each next one is twice as high.
const FIRST_US: u64 = 100;

/// Buckets, without the one above all: up to 26 seconds.
const BUCKETS: usize = 19;

/// Where a time belongs.
fn bucket_of(time: Duration) -> usize {
    let over = (time.as_nanos() as u64).saturating_sub(1) / (FIRST_US * 1000);
    (u64::BITS - over.leading_zeros()) as usize
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Latency(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// The last one is that of all times above the others.
    buckets: [AtomicU64; BUCKETS + 1],
    sum_ns: AtomicU64,
}

impl Latency {
    /// Counts a time.
    pub(super) fn observe(&self, time: Duration) {
        self.0.buckets[bucket_of(time).min(BUCKETS)].fetch_add(1, Relaxed);
        self.0.sum_ns.fetch_add(time.as_nanos() as u64, Relaxed);
    }

    /// Counts the times, together.
    pub(super) fn observe_all(&self, times: impl Iterator<Item = Duration>) {
        let (mut counts, mut sum_ns) = ([0; BUCKETS + 1], 0);
        for time in times {
            counts[bucket_of(time).min(BUCKETS)] += 1;
            sum_ns += time.as_nanos() as u64;
        }
        for (bucket, count) in self.0.buckets.iter().zip(counts).filter(|(_, count)| *count > 0) {
            bucket.fetch_add(count, Relaxed);
        }
        self.0.sum_ns.fetch_add(sum_ns, Relaxed);
    }
}

impl TypedMetric for Latency {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Latency {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let bound = |n: usize| if n == BUCKETS { f64::INFINITY } else { (FIRST_US << n) as f64 / 1e6 };
        let counts = self.0.buckets.iter().map(|bucket| bucket.load(Relaxed));
        let buckets: Vec<(f64, u64)> = counts.enumerate().map(|(n, count)| (bound(n), count)).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_nanos(self.0.sum_ns.load(Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_bucket_whose_bound_it_does_not_pass() {
        for (us, bucket) in
            [(0, 0), (100, 0), (101, 1), (200, 1), (201, 2), (400, 2), (401, 3), (26_214_400, 18)]
        {
            assert_eq!(bucket_of(Duration::from_micros(us)), bucket, "{us}");
        }
        assert!(bucket_of(Duration::from_secs(27)) >= BUCKETS);
        let latency = Latency::default();
        latency.observe_all([1, 150, u64::MAX / 1_000_000].map(Duration::from_micros).into_iter());
        let counts: Vec<_> = latency.0.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        assert_eq!((counts[0], counts[1], counts[BUCKETS], counts.iter().sum()), (1, 1, 1, 3_u64));
    }
}
