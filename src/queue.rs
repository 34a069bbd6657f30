//! A shard's queue: many connections put jobs in, one thread takes all that wait.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A queue that is drained whole. It has no bound of its own: what can grow in it is bounded by the permits that its
/// jobs carry (`max_queue_bytes`) and by the number of connections.
#[derive(Debug)]
pub struct Queue<T> {
    waiting: Mutex<Vec<T>>,
    arrived: Condvar,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue { waiting: Mutex::new(Vec::new()), arrived: Condvar::new() }
    }
}

impl<T> Queue<T> {
    /// Puts the jobs in, in order and with none between them, and leaves `jobs` empty.
    pub fn push_all(&self, jobs: &mut Vec<T>) {
        if jobs.is_empty() {
            return;
        }
        // Nothing panics while the lock is held, so a poisoned one guards a whole queue.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).append(jobs);
        self.arrived.notify_one();
    }

    /// Puts one job in.
    pub fn push(&self, job: T) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(job);
        self.arrived.notify_one();
    }

    /// Swaps all that waits into `jobs`, which must be empty; waits for something to come, at most `timeout`.
    pub fn drain(&self, jobs: &mut Vec<T>, timeout: Duration) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut waiting, _) = self
            .arrived
            .wait_timeout_while(waiting, timeout, |waiting| waiting.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut *waiting, jobs);
    }
}
