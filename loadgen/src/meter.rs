//! Counters and latencies of a run, cheap enough to touch for each delivery.
//!
//! Counters only ever grow; the figures of the measured window are the difference between two readings. Latencies are
//! recorded only while the window is open. Both are split over shards, so that tasks on two workers rarely meet.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

const SHARDS: usize = 8;
/// Latencies above this are recorded as this.
const LATENCY_MAX_NS: u64 = 600_000_000_000;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    /// Updates that were acked.
    Acks,
    /// Changes in those.
    Changes,
    /// Update messages that reached one follower.
    Deliveries,
    /// Changes in those.
    DeliveredChanges,
    /// Full pulls that were answered to the end.
    Pulls,
    /// Rows in those.
    PulledRows,
    /// Follower connections that were cut and resumed.
    Reconnects,
    /// Bytes read from and written to the sockets.
    BytesIn,
    BytesOut,
}

const COUNTS: usize = Count::BytesOut as usize + 1;

/// A reading of all counters.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts([u64; COUNTS]);

impl Counts {
    pub(crate) fn get(&self, count: Count) -> u64 {
        self.0[count as usize]
    }

    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] - earlier.0[at]))
    }
}

/// Which latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Latency {
    /// From an update's due or send time to its ack.
    Ack,
    /// From an update's due or send time to its receipt by one follower.
    Delivery,
    /// The same, to a follower at another server than the update was sent to.
    CrossDelivery,
    /// From a pull to the end of its answer.
    Pull,
    /// From a server's start to where it listens.
    Reopen,
    /// From a server's start to the end of the first pull's answer.
    FirstPull,
    /// From an open loop's due time to when this program wrote the update: its own fault, not the server's.
    Late,
}

const LATENCIES: usize = Latency::Late as usize + 1;

#[derive(Debug)]
#[repr(align(128))]
struct Shard {
    counts: [AtomicU64; COUNTS],
    latencies: Mutex<[Histogram<u64>; LATENCIES]>,
}

/// All that a run counts.
#[derive(Debug)]
pub(crate) struct Meter {
    base: Instant,
    /// The measured window, in nanoseconds since `base`.
    opens_ns: AtomicU64,
    closes_ns: AtomicU64,
    shards: [Shard; SHARDS],
    errors: Mutex<BTreeMap<String, u64>>,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self {
            base: Instant::now(),
            opens_ns: AtomicU64::new(u64::MAX),
            closes_ns: AtomicU64::new(u64::MAX),
            shards: std::array::from_fn(|_| Shard {
                counts: std::array::from_fn(|_| AtomicU64::new(0)),
                latencies: Mutex::new(std::array::from_fn(|_| histogram())),
            }),
            errors: Mutex::default(),
        }
    }

    /// Sets when the measured window opens, from now, and how long it stays open.
    pub(crate) fn set_window(&self, warmup: Duration, length: Duration) {
        let opens = self.now_ns() + warmup.as_nanos() as u64;
        self.closes_ns.store(opens + length.as_nanos() as u64, Ordering::Relaxed);
        self.opens_ns.store(opens, Ordering::Relaxed);
    }

    pub(crate) fn opens_ns(&self) -> u64 {
        self.opens_ns.load(Ordering::Relaxed)
    }

    pub(crate) fn closes_ns(&self) -> u64 {
        self.closes_ns.load(Ordering::Relaxed)
    }

    /// Nanoseconds since the run began: the one clock that all latencies use.
    pub(crate) fn now_ns(&self) -> u64 {
        self.base.elapsed().as_nanos() as u64
    }

    pub(crate) fn instant_of(&self, ns: u64) -> Instant {
        self.base + Duration::from_nanos(ns)
    }

    /// Adds to a counter. `who` only chooses the shard.
    pub(crate) fn add(&self, who: usize, count: Count, n: u64) {
        self.shards[who % SHARDS].counts[count as usize].fetch_add(n, Ordering::Relaxed);
    }

    /// Records a latency, if the window is open at its end.
    pub(crate) fn latency(&self, who: usize, which: Latency, from_ns: u64, to_ns: u64) {
        if to_ns < self.opens_ns() || to_ns > self.closes_ns() {
            return;
        }
        let ns = to_ns.saturating_sub(from_ns).clamp(1, LATENCY_MAX_NS);
        // A panic elsewhere leaves a histogram valid, so a poisoned lock may be used.
        let mut latencies =
            self.shards[who % SHARDS].latencies.lock().unwrap_or_else(PoisonError::into_inner);
        latencies[which as usize].saturating_record(ns);
    }

    /// Counts an error by its code.
    pub(crate) fn error(&self, code: &str) {
        *self.errors.lock().unwrap_or_else(PoisonError::into_inner).entry(code.to_owned()).or_default() += 1;
    }

    pub(crate) fn errors(&self) -> BTreeMap<String, u64> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn read(&self) -> Counts {
        Counts(std::array::from_fn(|at| {
            self.shards.iter().map(|shard| shard.counts[at].load(Ordering::Relaxed)).sum()
        }))
    }

    /// The latencies of all shards together.
    pub(crate) fn histogram(&self, which: Latency) -> Histogram<u64> {
        let mut all = histogram();
        for shard in &self.shards {
            let latencies = shard.latencies.lock().unwrap_or_else(PoisonError::into_inner);
            all.add(&latencies[which as usize]).expect("histograms of the same bounds always add up");
        }
        all
    }
}

fn histogram() -> Histogram<u64> {
    // Steps of a microsecond at the fine end, three digits everywhere.
    Histogram::new_with_bounds(1_000, LATENCY_MAX_NS, 3).expect("the bounds are constant and valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_outside_the_window_are_left_out() {
        let meter = Meter::new();
        meter.latency(0, Latency::Ack, 0, meter.now_ns());
        meter.set_window(Duration::ZERO, Duration::from_secs(60));
        let now = meter.now_ns();
        meter.latency(1, Latency::Ack, now, now + 5_000_000);
        meter.latency(2, Latency::Ack, now, now + 120_000_000_000);
        let all = meter.histogram(Latency::Ack);
        assert_eq!(all.len(), 1);
        assert!((4_990_000..=5_010_000).contains(&all.max()));
    }

    #[test]
    fn counters_are_summed_over_shards() {
        let meter = Meter::new();
        let before = meter.read();
        (0..20).for_each(|who| meter.add(who, Count::Acks, 2));
        assert_eq!(meter.read().since(&before).get(Count::Acks), 40);
    }
}
