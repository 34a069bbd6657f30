//! Which fault is made when, where, and for how long: by the seed, and nothing else.

use std::ops::Range;
use std::time::Duration;

use crate::options::Cluster;
use crate::rng::{Rng, mix};

/// How long after the one before a fault begins, in milliseconds.
const AFTER_MS: Range<u64> = 200..1_800;
/// How long a killed process stays away, in milliseconds.
const AWAY_MS: Range<u64> = 50..1_500;
/// How long Redis is stopped, in milliseconds: about half of the pauses are longer than the nodes wait for it.
const PAUSE_MS: Range<u64> = 50..2_000;
/// How long a partition lasts, in milliseconds.
const PARTITION_MS: Range<u64> = 200..2_500;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    KillNode,
    KillRedis,
    PauseRedis,
    Partition,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// SIGKILL; the node is started again.
    KillNode(usize),
    /// SIGKILL; it is started again.
    KillRedis,
    /// SIGSTOP, then SIGCONT.
    PauseRedis,
    /// What the node sends to Redis, or gets from there, or both, is swallowed.
    Swallow { node: usize, to_redis: bool, from_redis: bool },
    /// The node's connections to Redis are cut.
    Reset(usize),
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    /// How long after the one before it begins, whether that has ended or not.
    pub(super) after: Duration,
    /// How long it lasts.
    pub(super) lasts: Duration,
    pub(super) what: What,
}

/// The kinds that are asked for.
pub(super) fn kinds(cluster: &Cluster) -> Vec<Kind> {
    let all = [
        (cluster.kill_node, Kind::KillNode),
        (cluster.kill_redis, Kind::KillRedis),
        (cluster.pause_redis, Kind::PauseRedis),
        (cluster.partition, Kind::Partition),
    ];
    all.into_iter().filter(|(wanted, _)| *wanted).map(|(_, kind)| kind).collect()
}

/// The fault of this number, on one of so many nodes. The kinds come in turn; there must be one.
pub(super) fn fault(seed: u64, number: u64, kinds: &[Kind], nodes: usize) -> Fault {
    let mut rng = Rng::new(mix(seed) ^ mix(!number));
    let mut pick = |range: Range<u64>| range.start + rng.below(range.end - range.start);
    let after = Duration::from_millis(pick(AFTER_MS));
    let node = pick(0..nodes as u64) as usize;
    let kind = kinds[((seed % kinds.len() as u64 + number) % kinds.len() as u64) as usize];
    let (what, lasts) = match kind {
        Kind::KillNode => (What::KillNode(node), AWAY_MS),
        Kind::KillRedis => (What::KillRedis, AWAY_MS),
        Kind::PauseRedis => (What::PauseRedis, PAUSE_MS),
        Kind::Partition => match pick(0..4) {
            0 => (What::Reset(node), 0..1),
            way => {
                let (to_redis, from_redis) = (way != 1, way != 2);
                (What::Swallow { node, to_redis, from_redis }, PARTITION_MS)
            }
        },
    };
    Fault { after, lasts: Duration::from_millis(pick(lasts)), what }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Kind; 4] = [Kind::KillNode, Kind::KillRedis, Kind::PauseRedis, Kind::Partition];

    fn faults(seed: u64, kinds: &[Kind]) -> Vec<Fault> {
        (0..400).map(|number| fault(seed, number, kinds, 3)).collect()
    }

    #[test]
    fn a_seed_gives_the_same_faults_and_another_seed_others() {
        assert_eq!(faults(1, &ALL), faults(1, &ALL));
        assert_ne!(faults(1, &ALL), faults(2, &ALL));
    }

    #[test]
    fn all_kinds_come_in_turn_and_every_node_has_its_share() {
        let made = faults(u64::MAX, &ALL);
        let count = |is: &dyn Fn(What) -> bool| made.iter().filter(|fault| is(fault.what)).count();
        assert_eq!(count(&|what| what == What::KillRedis), 100);
        assert_eq!(count(&|what| what == What::PauseRedis), 100);
        for node in 0..3 {
            assert!(count(&|what| what == What::KillNode(node)) > 15);
            assert!(count(&|what| what == What::Reset(node)) > 2);
            for (to_redis, from_redis) in [(true, true), (true, false), (false, true)] {
                assert!(count(&|what| what == What::Swallow { node, to_redis, from_redis }) > 2);
            }
        }
        assert!(faults(1, &[Kind::KillRedis]).iter().all(|fault| fault.what == What::KillRedis));
    }
}
