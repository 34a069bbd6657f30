//! What a writer and its followers tell each other: when each update was sent, and which ones all followers have.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use tokio::sync::Notify;

/// Updates that may be on their way at once without their entries being overwritten. A power of two.
const RING: usize = 1 << 20;

/// The updates of one writer, by number.
#[derive(Debug)]
pub(crate) struct Sent {
    at_ns: Vec<AtomicU64>,
    /// How many followers have reached the update.
    reached: Vec<AtomicU32>,
    followers: u32,
    complete: AtomicU64,
    changed: Notify,
    holds_window: bool,
}

impl Sent {
    /// `holds_window`: whether an update stays in flight until all followers have it.
    pub(crate) fn new(followers: usize, holds_window: bool) -> Self {
        Self {
            at_ns: (0..RING).map(|_| AtomicU64::new(0)).collect(),
            reached: (0..RING).map(|_| AtomicU32::new(0)).collect(),
            followers: followers as u32,
            complete: AtomicU64::new(0),
            changed: Notify::new(),
            holds_window,
        }
    }

    pub(crate) fn holds_window(&self) -> bool {
        self.holds_window
    }

    /// The writer sends this update, due at this time.
    pub(crate) fn note(&self, update: u64, due_ns: u64) {
        self.at_ns[update as usize % RING].store(due_ns, Ordering::Relaxed);
    }

    /// When the update was sent, or due.
    pub(crate) fn at_ns(&self, update: u32) -> u64 {
        self.at_ns[update as usize % RING].load(Ordering::Relaxed)
    }

    /// A follower, which had all updates below `from`, now has all below `to`.
    ///
    /// Updates reach a follower in order, so one that has a later update will not get an earlier one: it has been
    /// overwritten, or it is lost, which the verification at the end finds out.
    pub(crate) fn reached(&self, from: u32, to: u32) {
        let mut complete = 0;
        for update in from..to {
            let reached = &self.reached[update as usize % RING];
            if reached.fetch_add(1, Ordering::Relaxed) + 1 == self.followers {
                reached.store(0, Ordering::Relaxed);
                complete += 1;
            }
        }
        if complete > 0 {
            self.complete.fetch_add(complete, Ordering::Release);
            if self.holds_window {
                self.changed.notify_one();
            }
        }
    }

    /// How many updates, from the first on, all followers have.
    pub(crate) fn complete(&self) -> u64 {
        self.complete.load(Ordering::Acquire)
    }

    /// Waits until [`Sent::complete`] has grown. A growth that nobody waited for is remembered.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_is_complete_when_the_last_follower_has_it() {
        let sent = Sent::new(2, true);
        sent.reached(0, 3);
        assert_eq!(sent.complete(), 0);
        sent.reached(0, 1);
        assert_eq!(sent.complete(), 1);
        sent.reached(1, 5);
        assert_eq!(sent.complete(), 3);
    }
}
