//! Jitter: numbers from a seed, so that a test can repeat them.

/// SplitMix64. Nothing secret comes from it.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `ms` give or take a quarter.
    pub fn around(&mut self, ms: u64) -> u64 {
        ms - ms / 4 + self.number() % (ms / 2 + 1)
    }
}

/// The n-th pause of who tries again: twice the one before it, at most `max_ms`, give or take a quarter.
pub fn backoff_ms(random: &mut Random, first_ms: u64, max_ms: u64, attempt: u32) -> u64 {
    random.around(first_ms.saturating_mul(1 << attempt.min(30)).min(max_ms))
}

/// A seed that no other start has.
pub(super) fn seed() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness nodes that start together would try again together, which they survive.
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        let mut random = Random::new(7);
        for attempt in 0..100 {
            let expected = (100u64 << attempt.min(20)).min(5_000);
            let pause = backoff_ms(&mut random, 100, 5_000, attempt);
            assert!((expected * 3 / 4..=expected * 5 / 4).contains(&pause), "{attempt}: {pause}");
        }
        assert_ne!(Random::new(1).around(1_000), Random::new(2).around(1_000));
        assert_eq!(Random::new(1).around(0), 0);
    }
}
