//! When the server dies in each round, and how: by the seed, and nothing else.

use std::time::Duration;

use crate::rng::{Rng, mix};

/// The longest load before a kill, in milliseconds.
const LOAD_MS_MAX: u64 = 1_500;
/// The same for the quarter of the rounds that are short: clients still connect and send their first updates.
const SHORT_LOAD_MS_MAX: u64 = 150;
/// A server is killed at most so long after it was spawned, in milliseconds, if it is to be killed while starting.
const START_MS_MAX: u64 = 20;
/// A server is killed at most so long after its clients began to come back, in milliseconds.
const RECOVERY_MS_MAX: u64 = 200;
/// Further kills of a round, at most, before the server is let up.
const FURTHER_MAX: u64 = 3;
/// Each kind of round comes once in so many.
const KINDS: u64 = 5;

/// One round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Round {
    /// The load before the server dies.
    pub(super) load: Duration,
    /// SIGTERM instead of SIGKILL.
    pub(super) terminate: bool,
    /// Kills in quick succession before the server is let up.
    pub(super) further: Vec<Further>,
}

/// A kill of a server that has just been started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Further {
    /// So long after the process was spawned, whether it is up or not.
    Starting(Duration),
    /// So long after its clients began to come back.
    Recovering(Duration),
}

/// The round of this number. Any five in a row have a SIGTERM, kills while starting, and kills while recovering.
pub(super) fn round(seed: u64, number: u64) -> Round {
    let mut rng = Rng::new(mix(seed) ^ mix(!number));
    let mut ms = |bound: u64| Duration::from_millis(rng.below(bound));
    let load = match number % 4 {
        2 => ms(SHORT_LOAD_MS_MAX),
        _ => ms(LOAD_MS_MAX),
    };
    let count = 1 + ms(FURTHER_MAX).as_millis();
    let further = match number % KINDS {
        1 => (0..count).map(|_| Further::Starting(ms(START_MS_MAX))).collect(),
        3 => (0..count).map(|_| Further::Recovering(ms(RECOVERY_MS_MAX))).collect(),
        _ => Vec::new(),
    };
    Round { load, terminate: number % KINDS == 4, further }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_rounds_and_another_seed_others() {
        let rounds = |seed| (0..100).map(|number| round(seed, number)).collect::<Vec<_>>();
        assert_eq!(rounds(1), rounds(1));
        assert_ne!(rounds(1), rounds(2));
        assert!(rounds(1).iter().all(|round| round.load < Duration::from_millis(LOAD_MS_MAX)));
    }

    #[test]
    fn five_rounds_have_every_kind() {
        for first in 0..20 {
            let five: Vec<_> = (first..first + KINDS).map(|number| round(7, number)).collect();
            let further: Vec<_> = five.iter().flat_map(|round| &round.further).collect();
            assert_eq!(five.iter().filter(|round| round.terminate).count(), 1);
            assert!(further.iter().any(|further| matches!(further, Further::Starting(_))));
            assert!(further.iter().any(|further| matches!(further, Further::Recovering(_))));
        }
    }
}
