//! The channels whose store failed when it was last asked, for `/metrics`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many are remembered. Beyond it new ones are only counted and logged.
const MAX_CHANNELS: usize = 1_000;

/// What a channel's store was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// To be opened for writing, or to commit.
    Write,
    /// A page.
    Read,
}

impl Use {
    /// Its name in a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Use::Write => "write",
            Use::Read => "read",
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Unavailable {
    channels: Mutex<BTreeSet<(Box<str>, Use)>>,
    /// How many there are: while there are none, a commit need not look.
    count: AtomicUsize,
}

impl Unavailable {
    /// The channel's store has failed; gives whether that is news.
    pub fn failed(&self, channel: &str, using: Use) -> bool {
        let mut channels = self.lock();
        let is_new = channels.len() >= MAX_CHANNELS || channels.insert((channel.into(), using));
        self.count.store(channels.len(), Relaxed);
        is_new
    }

    /// The channel's store has done what it was asked; gives whether that is news.
    pub fn works(&self, channel: &str, using: Use) -> bool {
        if self.count.load(Relaxed) == 0 {
            return false;
        }
        let mut channels = self.lock();
        let is_new = channels.remove(&(channel.into(), using));
        self.count.store(channels.len(), Relaxed);
        is_new
    }

    /// At most `max` of them.
    pub fn list(&self, max: usize) -> Vec<(Box<str>, Use)> {
        self.lock().iter().take(max).cloned().collect()
    }

    /// How many there are, of those that are remembered.
    pub fn count(&self, using: Use) -> usize {
        self.lock().iter().filter(|(_, failed)| *failed == using).count()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<(Box<str>, Use)>> {
        // Nothing panics while the lock is held.
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_listed_until_it_works_again_and_there_are_not_too_many() {
        let unavailable = Unavailable::default();
        assert!(unavailable.failed("b", Use::Write));
        assert!(unavailable.failed("b", Use::Read));
        assert!(unavailable.failed("a", Use::Read));
        assert!(!unavailable.failed("a", Use::Read));
        let (a, b) = ("a".into(), "b".into());
        assert_eq!(unavailable.list(2), [(a, Use::Read), (b, Use::Write)]);
        assert!(unavailable.works("b", Use::Write));
        assert!(!unavailable.works("b", Use::Write));
        assert!(!unavailable.works("a", Use::Write));
        assert_eq!(unavailable.list(9), [("a".into(), Use::Read), ("b".into(), Use::Read)]);
        for n in 0..2 * MAX_CHANNELS {
            unavailable.failed(&format!("channel {n}"), Use::Write);
        }
        assert_eq!(unavailable.list(usize::MAX).len(), MAX_CHANNELS);
    }
}
