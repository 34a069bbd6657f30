//! Messages that wait to be published, or to be decoded, bounded in bytes. What does not fit is dropped, and so becomes a gap that is
//! noticed and repaired: a slow Redis costs neither memory nor anybody's time.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::message::Topic;

/// What a message counts beside its own bytes.
const OVERHEAD_BYTES: usize = 128;

/// See the module.
#[derive(Debug)]
pub struct Mailbox {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<(Topic, Bytes)>,
    bytes: usize,
}

impl Mailbox {
    /// A queue of at most so many bytes, or of one message.
    pub fn new(max_bytes: usize) -> Self {
        Mailbox { waiting: Mutex::default(), arrived: Notify::new(), max_bytes }
    }

    /// Puts a message in, or drops it and gives `false`. What comes into an empty queue is taken whatever its size: else it
    /// would never leave, however often it is tried.
    pub fn push(&self, topic: Topic, message: Bytes) -> bool {
        let mut waiting = self.lock();
        let bytes = waiting.bytes + message.len() + OVERHEAD_BYTES;
        if bytes > self.max_bytes && !waiting.messages.is_empty() {
            return false;
        }
        waiting.bytes = bytes;
        waiting.messages.push_back((topic, message));
        drop(waiting);
        self.arrived.notify_one();
        true
    }

    /// Takes the longest waiting messages, at most `max_bytes` of them but at least one; none if none wait.
    pub fn take(&self, max_bytes: usize) -> Vec<(Topic, Bytes)> {
        let mut waiting = self.lock();
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some((_, message)) = waiting.messages.front() {
            let next = message.len() + OVERHEAD_BYTES;
            if !taken.is_empty() && bytes + next > max_bytes {
                break;
            }
            bytes += next;
            taken.extend(waiting.messages.pop_front());
        }
        waiting.bytes -= bytes;
        taken
    }

    /// Drops all that waits; gives how many there were.
    pub fn clear(&self) -> usize {
        std::mem::take(&mut *self.lock()).messages.len()
    }

    /// Ready when something was put in since it was last ready.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// How many bytes may wait.
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while the lock is held.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_dropped_and_the_rest_leaves_in_order() {
        let queue = Mailbox::new(1_000);
        let message = |n: u8| Bytes::from(vec![n; 300]);
        assert!(queue.push(Topic::All, message(1)));
        assert!(queue.push(Topic::All, message(2)));
        assert!(!queue.push(Topic::All, message(3)), "1,284 bytes are too many");
        assert_eq!(queue.bytes(), 856);
        assert_eq!(queue.take(1), [(Topic::All, message(1))], "one, however large");
        assert!(queue.push(Topic::All, message(4)));
        let rest: Vec<_> = queue.take(10_000).into_iter().map(|(_, message)| message[0]).collect();
        assert_eq!(rest, [2, 4]);
        assert_eq!((queue.bytes(), queue.take(1)), (0, vec![]));
        assert!(queue.push(Topic::All, message(5)));
        assert_eq!((queue.clear(), queue.bytes()), (1, 0));
        assert!(queue.push(Topic::All, Bytes::from(vec![0; 5_000])), "a large one, alone");
        assert!(!queue.push(Topic::All, message(6)));
    }
}
