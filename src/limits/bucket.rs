//! A token bucket: pure, and exact in integers, so that nothing drifts however often it is asked.
//!
//! It counts what is used rather than what is left. What is taken at once may be more than the whole bucket: it is let
//! through while anything is left, and charged in full, so that a message larger than the burst is possible, and paid for
//! by what must wait after it.

use std::time::Duration;

use tokio::time::Instant;

/// How many seconds' worth of a rate may come at once.
pub const BURST_S: u64 = 10;

/// So much in so long, and how much of it at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// 0 means that there is no limit.
    amount: u64,
    per_ns: u64,
    burst: u64,
}

impl Rate {
    /// `amount` a second, [`BURST_S`] seconds' worth of it at once; 0 means that there is no limit.
    pub fn per_second(amount: u64) -> Self {
        Rate { amount, per_ns: 1_000_000_000, burst: amount.saturating_mul(BURST_S) }
    }

    /// `amount` a minute, all of it at once if need be; 0 means that there is no limit.
    pub fn per_minute(amount: u64) -> Self {
        Rate { amount, per_ns: 60_000_000_000, burst: amount }
    }

    /// What may be used, in the units of [`Bucket::used`].
    fn room(self) -> u128 {
        u128::from(self.burst) * u128::from(self.per_ns)
    }
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// In parts of a token: a token has as many as its rate's time has nanoseconds, so that a nanosecond gives back `amount`
    /// of them.
    used: u128,
    at: Instant,
}

impl Bucket {
    /// A bucket of which nothing is used.
    pub fn new(now: Instant) -> Self {
        Bucket { used: 0, at: now }
    }

    /// Gives back what the time since the last refill is worth.
    pub fn refill(&mut self, now: Instant, rate: Rate) {
        let elapsed_ns = now.saturating_duration_since(self.at).as_nanos();
        // Others may have asked with a later time.
        self.at = self.at.max(now);
        match rate.amount {
            0 => self.used = 0,
            amount => self.used = self.used.saturating_sub(elapsed_ns.saturating_mul(amount.into())),
        }
    }

    /// Whether anything is left.
    pub fn is_open(&self, rate: Rate) -> bool {
        rate.amount == 0 || self.used < rate.room()
    }

    /// Takes so much, whether it is left or not.
    pub fn charge(&mut self, tokens: u64, rate: Rate) {
        if rate.amount > 0 {
            let parts = u128::from(tokens) * u128::from(rate.per_ns);
            self.used = self.used.saturating_add(parts);
        }
    }

    /// The time after which something is left again, from the last refill on.
    pub fn wait(&self, rate: Rate) -> Duration {
        if self.is_open(rate) {
            return Duration::ZERO;
        }
        let ns = (self.used - rate.room()) / u128::from(rate.amount) + 1;
        Duration::from_nanos(ns.try_into().unwrap_or(u64::MAX))
    }

    /// Takes one of what is counted singly, if a whole one is left; else says after which time it is.
    pub fn take_one(&mut self, now: Instant, rate: Rate) -> Result<(), Duration> {
        self.refill(now, rate);
        let one = u128::from(rate.per_ns);
        match (self.used + one).checked_sub(rate.room()) {
            Some(missing @ 1..) if rate.amount > 0 => {
                let ns = missing.div_ceil(rate.amount.into());
                Err(Duration::from_nanos(ns.try_into().unwrap_or(u64::MAX)))
            }
            _ => {
                self.charge(1, rate);
                Ok(())
            }
        }
    }

    /// Whether nothing is used: a new one would be the same.
    pub fn is_full(&self) -> bool {
        self.used == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_comes_at_once_and_the_rest_at_its_rate() {
        let (start, rate) = (Instant::now(), Rate::per_second(3));
        let mut bucket = Bucket::new(start);
        let mut taken = 0;
        while bucket.is_open(rate) {
            bucket.charge(1, rate);
            taken += 1;
        }
        assert_eq!(taken, 3 * BURST_S);
        assert_eq!(bucket.wait(rate), Duration::from_nanos(1));
        // A third of a second is no whole number of nanoseconds, and nothing is lost over a thousand of them.
        for n in 1..=3_000_u64 {
            bucket.refill(start + Duration::from_nanos(n * 1_000_000_000 / 3), rate);
            while bucket.is_open(rate) {
                bucket.charge(1, rate);
                taken += 1;
            }
        }
        assert!((30 + 3_000..=30 + 3_001).contains(&taken), "{taken}");
    }

    #[test]
    fn more_than_the_burst_is_taken_once_and_paid_for() {
        let (start, rate) = (Instant::now(), Rate::per_second(10));
        let mut bucket = Bucket::new(start);
        bucket.charge(1_000, rate);
        let wait = bucket.wait(rate);
        assert_eq!(wait, Duration::from_secs(90) + Duration::from_nanos(1));
        bucket.refill(start + wait - Duration::from_nanos(1), rate);
        assert!(!bucket.is_open(rate));
        bucket.refill(start + wait, rate);
        assert!(bucket.is_open(rate));
    }

    #[test]
    fn what_is_counted_singly_is_whole() {
        let (start, rate) = (Instant::now(), Rate::per_minute(3));
        let mut bucket = Bucket::new(start);
        for _ in 0..3 {
            bucket.take_one(start, rate).unwrap();
        }
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(bucket.take_one(at(19_000), rate), Err(Duration::from_secs(1)));
        bucket.take_one(at(20_000), rate).unwrap();
        assert_eq!(bucket.take_one(at(20_001), rate), Err(Duration::from_millis(19_999)));
        bucket.take_one(start, Rate::per_minute(0)).unwrap();
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let mut bucket = Bucket::new(Instant::now());
        bucket.charge(u64::MAX, Rate::per_second(0));
        assert!(bucket.is_open(Rate::per_second(0)) && bucket.is_full());
    }

    proptest! {
        /// Whatever comes whenever: in no stretch of time more is let through than burst, rate and one message make, and
        /// who waits as long as it is told to is let through, and not a moment sooner.
        #[test]
        fn no_stretch_of_time_has_more(
            amount in 1_u64..1_000_000,
            asked in vec((0_u64..3_000_000_000, 1_u64..2_000_000), 1..60),
        ) {
            let (start, rate) = (Instant::now(), Rate::per_second(amount));
            let mut bucket = Bucket::new(start);
            let mut now = start;
            let mut passed: Vec<(Instant, u64)> = Vec::new();
            for (pause_ns, tokens) in asked {
                now += Duration::from_nanos(pause_ns);
                bucket.refill(now, rate);
                if !bucket.is_open(rate) {
                    let wait = bucket.wait(rate);
                    let mut then = bucket;
                    then.refill(now + wait - Duration::from_nanos(1), rate);
                    prop_assert!(!then.is_open(rate));
                    then.refill(now + wait, rate);
                    prop_assert!(then.is_open(rate));
                    continue;
                }
                bucket.charge(tokens, rate);
                passed.push((now, tokens));
            }
            for first in 0..passed.len() {
                let mut sum = 0_u128;
                for (at, tokens) in &passed[first..] {
                    let ns = (*at - passed[first].0).as_nanos();
                    // Before the last one, no more than this was used.
                    let most = u128::from(amount * BURST_S) * 1_000_000_000 + ns * u128::from(amount);
                    prop_assert!(sum * 1_000_000_000 <= most, "{sum} tokens in {ns} ns");
                    sum += u128::from(*tokens);
                }
            }
        }

        /// How often it is asked in between changes nothing.
        #[test]
        fn refills_add_up(amount in 1_u64..u64::from(u32::MAX), steps in vec(0_u64..1_000_000_000, 1..50)) {
            let (start, rate) = (Instant::now(), Rate::per_second(amount));
            let (mut often, mut once) = (Bucket::new(start), Bucket::new(start));
            often.charge(amount * 60, rate);
            once.charge(amount * 60, rate);
            let mut now = start;
            for step in steps {
                now += Duration::from_nanos(step);
                often.refill(now, rate);
            }
            once.refill(now, rate);
            prop_assert_eq!(often.used, once.used);
        }
    }
}
