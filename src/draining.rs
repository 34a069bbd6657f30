//! The beginning of the end, told to every connection.

use std::array;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use tokio::sync::Notify;

/// Lists of those who wait, so that connections on different threads mostly have different locks. A
/// `tokio::sync::watch` has such lists too, but chooses among them at random, so that no simulation could repeat its run.
const LISTS: usize = 8;

/// Whether the server drains.
pub struct Draining {
    begun: AtomicBool,
    waiting: [Notify; LISTS],
}

impl Default for Draining {
    fn default() -> Self {
        Draining { begun: AtomicBool::new(false), waiting: array::from_fn(|_| Notify::new()) }
    }
}

impl Draining {
    /// Begins, and tells all who wait for it.
    pub fn begin(&self) {
        self.begun.store(true, SeqCst);
        self.waiting.iter().for_each(Notify::notify_waiters);
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.begun.load(SeqCst)
    }

    /// Waits until it has begun. `who` is any number; different ones get in each other's way less.
    pub async fn wait(&self, who: u64) {
        let begun = self.waiting[who as usize % LISTS].notified();
        // Who begins now tells those who have got this far.
        if !self.has_begun() {
            begun.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn those_who_wait_are_told_and_those_who_come_later_do_not_wait() {
        let draining = Arc::<Draining>::default();
        let waiting: Vec<_> = (0..20)
            .map(|who| {
                let draining = draining.clone();
                tokio::spawn(async move { draining.wait(who).await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(!draining.has_begun());
        draining.begin();
        for waiting in waiting {
            waiting.await.unwrap();
        }
        draining.wait(7).await;
        assert!(draining.has_begun());
    }
}
