//! What went wrong in a run, named, and the first of it kept for people to read.

use std::sync::{Mutex, PoisonError};

/// How many faults are named; all are counted.
pub(crate) const NAMED_MAX: usize = 10;

/// Collects faults from all tasks. A run passes if there is none.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    named: Vec<String>,
    faults: u64,
    lost: u64,
    checked: u64,
}

/// The end result.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Outcome {
    /// Whether anything was compared at all (`--no-verify` leaves only what shows by itself).
    pub(crate) verified: bool,
    /// How many (change, place where it must be) pairs were compared.
    pub(crate) checked: u64,
    pub(crate) faults: u64,
    /// Those of them that are acked changes which were not where they must be.
    pub(crate) lost: u64,
    pub(crate) first_faults: Vec<String>,
}

impl Outcome {
    pub(crate) fn passed(&self) -> bool {
        self.faults == 0
    }
}

impl Verdict {
    /// One fault.
    pub(crate) fn fault(&self, what: impl FnOnce() -> String) {
        self.faults(1, || vec![what()]);
    }

    /// `count` faults of one kind, of which the first ones are named.
    pub(crate) fn faults(&self, count: u64, named: impl FnOnce() -> Vec<String>) {
        if count == 0 {
            return;
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.faults += count;
        let room = NAMED_MAX - inner.named.len();
        if room > 0 {
            inner.named.extend(named().into_iter().take(room));
        }
    }

    /// The same, of acked changes that are not where they must be.
    pub(crate) fn lost(&self, count: u64, named: impl FnOnce() -> Vec<String>) {
        self.faults(count, named);
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).lost += count;
    }

    /// Notes that `n` things were compared.
    pub(crate) fn checked(&self, n: u64) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).checked += n;
    }

    pub(crate) fn outcome(&self, verified: bool) -> Outcome {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        Outcome {
            verified,
            checked: inner.checked,
            faults: inner.faults,
            lost: inner.lost,
            first_faults: inner.named.clone(),
        }
    }
}

/// Watches that versions never fall on a connection.
///
/// A pull moves the connection's cursor back on purpose: then the pages start over from the pull's version.
#[derive(Debug, Default)]
pub(crate) struct VersionGuard {
    highest: u64,
    /// A pull is being answered: pages come from its version upwards, beside acks and live updates.
    pulling: bool,
}

impl VersionGuard {
    pub(crate) fn start(version: u64) -> Self {
        Self { highest: version, pulling: false }
    }

    /// The highest version that was shown.
    pub(crate) fn highest(&self) -> u64 {
        self.highest
    }

    /// A pull from `version` was sent.
    pub(crate) fn pulled(&mut self, version: u64) {
        self.pulling = true;
        self.highest = self.highest.min(version);
    }

    /// The answer to the pull is complete.
    pub(crate) fn answered(&mut self) {
        self.pulling = false;
    }

    /// A message with this version came; the version it fell from, if it fell.
    pub(crate) fn saw(&mut self, version: u64) -> Option<u64> {
        let fell = (version < self.highest && !self.pulling).then_some(self.highest);
        self.highest = self.highest.max(version);
        fell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_all_counted_and_the_first_are_named() {
        let verdict = Verdict::default();
        assert!(verdict.outcome(true).passed());
        for n in 0..NAMED_MAX + 5 {
            verdict.fault(|| format!("fault {n}"));
        }
        verdict.lost(2, || vec!["one".into(), "other".into()]);
        verdict.faults(0, || unreachable!("no fault, no name"));
        let outcome = verdict.outcome(true);
        assert!(!outcome.passed());
        assert_eq!((outcome.faults, outcome.lost, outcome.first_faults.len()), (17, 2, 10));
        assert_eq!(outcome.first_faults[0], "fault 0");
    }

    #[test]
    fn a_fall_is_seen_but_for_a_pull() {
        let mut guard = VersionGuard::start(5);
        assert_eq!((guard.saw(5), guard.saw(7), guard.saw(6)), (None, None, Some(7)));
        guard.pulled(0);
        assert_eq!((guard.saw(2), guard.saw(9), guard.saw(4)), (None, None, None));
        guard.answered();
        assert_eq!((guard.saw(9), guard.saw(8)), (None, Some(9)));
    }
}
