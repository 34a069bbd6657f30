//! A connection's out-queue, and its cursor over the channel's versions (`wire.md`, the cursor rule).
//!
//! Whoever has something for the connection (its shard, its reader, the page reader) puts it here; the connection's
//! writer takes it. The queue holds references to bytes that many connections share, and is bounded in bytes: live
//! updates that would pass the bound are dropped with all others that wait, and the cursor falls back to pages from
//! the last version that has left. Nothing in here waits, and the lock is held for a few instructions.

mod waiting;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use bytes::Bytes;
use causeway_storage::Position;
use tokio::sync::Notify;

use crate::ending::Ending;

use waiting::{Closing, Waiting};

/// What a writer takes at once, in bytes. What it has taken can no longer be dropped, so this adds to the bound.
const TAKE_MAX_BYTES: usize = 256 * 1024;

/// What a writer takes at once, in slabs: one vectored write.
pub const TAKE_MAX_SLABS: usize = 64;

/// Pulls that may wait behind the one being answered.
const MAX_WAITING_PULLS: usize = 16;

/// The bounds of an outbox.
#[derive(Clone, Copy, Debug)]
pub struct OutboxLimits {
    /// Bytes of live updates that may wait. A single commit's slab is taken whole by an empty queue.
    pub max_bytes: usize,
    /// Bytes of answers (acks, errors, pongs) above which the connection's reader pauses.
    pub max_reply_bytes: usize,
    /// Bad messages in a row that end the connection.
    pub max_bad_messages: u32,
}

/// Names a connection within this process.
pub type ConnectionId = u64;

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    id: ConnectionId,
    limits: OutboxLimits,
    state: Mutex<State>,
    /// Wakes a reader that waits for answers to leave.
    drained: Notify,
    /// The highest version that has wholly left.
    sent_version: AtomicU64,
    /// Bad messages since the last good one: the reader counts what it cannot read, the shard what it refuses.
    bad_messages: AtomicU32,
    /// Whether the channel that it belongs to was removed.
    evicted: AtomicBool,
}

/// What waits, and who for.
#[derive(Debug, Default)]
struct State {
    waiting: Waiting,
    /// Whether something has come since the writer last took.
    fresh: bool,
    /// Wakes the writer, if it waits.
    writer: Option<Waker>,
}

/// What one commit has for one connection, in order.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// Updates of other connections, of the versions `first..=last`.
    Live {
        /// Their frames.
        slab: Bytes,
        /// The first version in it.
        first: u64,
        /// The last.
        last: u64,
    },
    /// Answers to this connection's own updates.
    Ack {
        /// Their frames.
        frames: Bytes,
        /// The channel's version with the last of them.
        version: u64,
    },
    /// An error that answers one of its updates.
    Error {
        /// Its frame.
        frame: Bytes,
    },
}

/// What the writer is to do next.
#[derive(Debug, Default)]
pub struct Taken {
    /// Frames to write, in order.
    pub slabs: Vec<Bytes>,
    /// What to tell [`Outbox::sent`] when they are written.
    pub version: u64,
    /// A page to have read and given to [`Outbox::page`].
    pub read_page: Option<PageStart>,
    /// How to close after `slabs`; nothing follows.
    pub close: Option<Ending>,
}

/// Where a page is to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageStart {
    /// The rows after this.
    pub from: Position,
    /// The version that is complete before it.
    pub complete: u64,
    /// Whether the channel is known to have a version. Else it may not have been made yet.
    pub has_versions: bool,
}

/// What a page reader found.
#[derive(Clone, Copy, Debug)]
pub struct PageEnd {
    /// The place of the last row in the page.
    pub next: Position,
    /// The highest version that is complete with it.
    pub complete: u64,
    /// The channel's version when it was read, if the page reaches it.
    pub tail: Option<u64>,
}

/// What waits for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// Bytes.
    pub bytes: usize,
    /// Whether the connection lags behind, its updates left to pages.
    pub lags: bool,
    /// Pulls that are being answered, or wait for that.
    pub pulls: usize,
}

/// The client asked for more pulls at once than [`Outbox::pull`] keeps.
#[derive(Debug, thiserror::Error)]
#[error("{MAX_WAITING_PULLS} pulls wait for their answers already")]
pub struct TooManyPulls;

impl Outbox {
    /// An empty outbox; it begins with [`Outbox::greet`].
    pub fn new(id: ConnectionId, limits: OutboxLimits) -> Self {
        Outbox {
            id,
            limits,
            state: Mutex::default(),
            drained: Notify::new(),
            sent_version: AtomicU64::new(0),
            bad_messages: AtomicU32::new(0),
            evicted: AtomicBool::new(false),
        }
    }

    /// The connection's id.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the state whole: every change to it is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins with the greeting at the channel's version.
    pub fn greet(&self, greeting: Bytes, version: u64) {
        let mut state = self.state();
        state.waiting.greet(greeting, version);
        self.sent_version.store(version, Relaxed);
        wake_writer(state);
    }

    /// Takes what a commit has for this connection.
    pub fn deliver(&self, deliveries: impl IntoIterator<Item = Delivery>) {
        let mut state = self.state();
        for delivery in deliveries {
            state.waiting.deliver(delivery, self.limits);
        }
        wake_writer(state);
    }

    /// Notes that the channel has come to `version` by a commit that nobody was told of: the pages will bring it.
    pub fn missed(&self, version: u64) {
        let mut state = self.state();
        state.waiting.missed(version);
        wake_writer(state);
    }

    /// Queues an answer that belongs to no version: an error, a pong, a ping.
    pub fn reply(&self, frame: Bytes) {
        let mut state = self.state();
        state.waiting.reply(frame);
        wake_writer(state);
    }

    /// Moves the cursor: everything above `version` is sent in pages, then live.
    pub fn pull(&self, version: u64) -> Result<(), TooManyPulls> {
        let mut state = self.state();
        state.waiting.pull(version)?;
        wake_writer(state);
        Ok(())
    }

    /// Takes the page that [`Taken::read_page`] asked for. `finish` frames it, given its version and whether another
    /// page follows (`None` if the client is not told); the lock is held meanwhile, as a commit may not come between the
    /// two.
    pub fn page(&self, end: PageEnd, finish: impl FnOnce(u64, Option<bool>) -> Bytes) {
        let mut state = self.state();
        state.waiting.page(end, finish);
        wake_writer(state);
    }

    /// Ends the connection so when all that is queued has left; with `after_pages` also what a pull still
    /// has to give. Nothing that is put in later is sent.
    pub fn close(&self, ending: Ending, after_pages: bool) {
        let mut state = self.state();
        if state.waiting.closing.is_none() {
            state.waiting.closing = Some(Closing { ending, after_pages });
        }
        wake_writer(state);
        self.drained.notify_one();
    }

    /// The same, as the channel is removed: what the connection sends from now on belongs to no channel.
    pub fn evict(&self) {
        self.evicted.store(true, Relaxed);
        self.close(Ending::CHANNEL_REMOVED, false);
    }

    /// Whether it was told to [`evict`](Outbox::evict).
    pub fn is_evicted(&self) -> bool {
        self.evicted.load(Relaxed)
    }

    /// Ends the connection when all that is queued has left, as the page that was asked for cannot be read. What waits for
    /// pages is not sent: an ack that does not come makes its sender send again.
    pub fn page_failed(&self, ending: Ending) {
        let mut state = self.state();
        state.waiting.pages_failed = true;
        let closing = state.waiting.closing.unwrap_or(Closing { ending, after_pages: false });
        state.waiting.closing = Some(Closing { after_pages: false, ..closing });
        wake_writer(state);
        self.drained.notify_one();
    }

    /// Takes what is to be done next into `taken`, which is empty afterwards if there is nothing.
    pub fn take(&self, taken: &mut Taken) {
        taken.slabs.clear();
        (taken.read_page, taken.close) = (None, None);
        let mut state = self.state();
        state.fresh = false;
        state.waiting.take(taken);
        let drained = state.waiting.reply_bytes <= self.limits.max_reply_bytes / 2;
        drop(state);
        if drained && !taken.slabs.is_empty() {
            self.drained.notify_one();
        }
    }

    /// Notes that everything up to `version` has left.
    pub fn sent(&self, version: u64) {
        self.sent_version.store(version, Relaxed);
    }

    /// Notes a message of the client that was taken.
    pub fn good_message(&self) {
        self.bad_messages.store(0, Relaxed);
    }

    /// Notes a message that was refused; gives whether it is one too many.
    pub fn bad_message(&self) -> bool {
        self.bad_messages.fetch_add(1, Relaxed) + 1 >= self.limits.max_bad_messages
    }

    /// The highest version that has wholly left, or that a pull has named.
    pub fn sent_version(&self) -> u64 {
        self.sent_version.load(Relaxed)
    }

    /// What waits for the connection.
    pub fn backlog(&self) -> Backlog {
        let waiting = &self.state().waiting;
        Backlog { bytes: waiting.queued_bytes, lags: waiting.lags(), pulls: waiting.pulls() }
    }

    /// Waits until there may be something to take. Only one task may wait at a time.
    pub async fn wait(&self) {
        std::future::poll_fn(|cx| {
            let mut state = self.state();
            if state.fresh {
                return Poll::Ready(());
            }
            state.writer = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Waits until so few answers are queued that a reader may make more of them.
    pub async fn wait_drained(&self) {
        loop {
            {
                let state = self.state();
                if state.waiting.reply_bytes <= self.limits.max_reply_bytes || state.waiting.closing.is_some()
                {
                    return;
                }
            }
            self.drained.notified().await;
        }
    }
}

/// Lets go of the lock and wakes the writer, if it waits: one that is writing looks again before it does.
fn wake_writer(mut state: MutexGuard<'_, State>) {
    state.fresh = true;
    let writer = state.writer.take();
    drop(state);
    if let Some(writer) = writer {
        writer.wake();
    }
}

#[cfg(test)]
mod tests;
