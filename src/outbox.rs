//! A connection's out-queue, and its cursor over the channel's versions (`wire.md`, the cursor rule).
//!
//! Whoever has something for the connection (its shard, its reader, the page reader) puts it here; the connection's
//! writer takes it. The queue holds references to bytes that many connections share, and is bounded in bytes: live
//! updates that would pass the bound are dropped with all others that wait, and the cursor falls back to pages from
//! the last version that has left. Nothing in here waits, and the lock is held for a few instructions.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use bytes::Bytes;
use causeway_storage::Position;
use tokio::sync::Notify;

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

/// The reason of the close that ends a connection after `max_bad_messages`.
pub const TOO_MANY_BAD: &str = "too many bad messages in a row";

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
}

#[derive(Debug)]
struct State {
    queue: VecDeque<Item>,
    queued_bytes: usize,
    queued_pages: usize,
    reply_bytes: usize,
    cursor: Cursor,
    /// The highest version that the writer has taken.
    taken_version: u64,
    /// Acks of versions that the pages have not reached: an ack never overtakes an update of a lower version.
    held_acks: VecDeque<Item>,
    waiting_pulls: VecDeque<u64>,
    closing: Option<Closing>,
    /// What waits for pages waits in vain.
    pages_failed: bool,
    /// Whether something has come since the writer last took.
    fresh: bool,
    /// Wakes the writer, if it waits.
    writer: Option<Waker>,
}

#[derive(Debug)]
struct Item {
    bytes: Bytes,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Updates of commits up to the version.
    Live(u64),
    /// A page that is complete up to the version.
    Page(u64),
    /// Acks of versions up to this.
    Ack(u64),
    /// Anything else.
    Reply,
}

impl Item {
    fn is_reply(&self) -> bool {
        matches!(self.kind, Kind::Ack(_) | Kind::Reply)
    }
}

#[derive(Clone, Copy, Debug)]
enum Cursor {
    /// Everything up to `version` is queued or sent; the next commit is put in as it comes.
    Following { version: u64 },
    /// Pages are being sent from `from`; commits are left to them.
    Paging {
        from: Position,
        /// The highest version that is complete with the pages so far.
        complete: u64,
        /// The highest version that was left to the pages.
        skipped: u64,
        /// Whether a page is being read.
        reading: bool,
        /// Whether a client's pull began this, or its slowness.
        pull: bool,
    },
}

#[derive(Clone, Copy, Debug)]
struct Closing {
    code: u16,
    reason: &'static str,
    /// Whether a pull is answered to its end first.
    after_pages: bool,
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
    /// The code and reason to close with after `slabs`; nothing follows.
    pub close: Option<(u16, &'static str)>,
}

/// Where a page is to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageStart {
    /// The rows after this.
    pub from: Position,
    /// The version that is complete before it.
    pub complete: u64,
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
            state: Mutex::new(State {
                queue: VecDeque::new(),
                queued_bytes: 0,
                queued_pages: 0,
                reply_bytes: 0,
                cursor: Cursor::Following { version: 0 },
                taken_version: 0,
                held_acks: VecDeque::new(),
                waiting_pulls: VecDeque::new(),
                closing: None,
                pages_failed: false,
                fresh: false,
                writer: None,
            }),
            drained: Notify::new(),
            sent_version: AtomicU64::new(0),
            bad_messages: AtomicU32::new(0),
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
        state.cursor = Cursor::Following { version };
        state.taken_version = version;
        state.push(Item { bytes: greeting, kind: Kind::Reply });
        self.sent_version.store(version, Relaxed);
        wake_writer(state);
    }

    /// Takes what a commit has for this connection.
    pub fn deliver(&self, deliveries: impl IntoIterator<Item = Delivery>) {
        let mut state = self.state();
        for delivery in deliveries {
            match delivery {
                Delivery::Live { slab, first, last } => state.deliver_live(slab, first, last, self.limits),
                Delivery::Ack { frames, version } => state.deliver_ack(frames, version),
                Delivery::Error { frame } => state.push(Item { bytes: frame, kind: Kind::Reply }),
            }
        }
        wake_writer(state);
    }

    /// Notes that the channel has come to `version` by a commit that nobody was told of: the pages will bring it.
    pub fn missed(&self, version: u64) {
        let mut state = self.state();
        match &mut state.cursor {
            Cursor::Paging { skipped, .. } => *skipped = version.max(*skipped),
            Cursor::Following { version: known } if *known >= version => {}
            Cursor::Following { .. } => state.fall_back(version),
        }
        wake_writer(state);
    }

    /// Queues an answer that belongs to no version: an error, a pong, a ping.
    pub fn reply(&self, frame: Bytes) {
        let mut state = self.state();
        state.push(Item { bytes: frame, kind: Kind::Reply });
        wake_writer(state);
    }

    /// Moves the cursor: everything above `version` is sent in pages, then live.
    pub fn pull(&self, version: u64) -> Result<(), TooManyPulls> {
        let mut state = self.state();
        // A page that is being read is no answer to a pull that comes meanwhile: one thing after the other.
        if matches!(state.cursor, Cursor::Paging { pull: true, .. } | Cursor::Paging { reading: true, .. }) {
            if state.waiting_pulls.len() == MAX_WAITING_PULLS {
                return Err(TooManyPulls);
            }
            state.waiting_pulls.push_back(version);
        } else {
            state.start_pull(version);
            wake_writer(state);
        }
        Ok(())
    }

    /// Takes the page that [`Taken::read_page`] asked for. `finish` frames it, given its version and whether another
    /// page follows; the lock is held meanwhile, as a commit may not come between the two.
    pub fn page(&self, end: PageEnd, finish: impl FnOnce(u64, bool) -> Bytes) {
        let mut state = self.state();
        let Cursor::Paging { skipped, pull, .. } = state.cursor else { return };
        if !pull && let Some(version) = state.waiting_pulls.pop_front() {
            // It moves the cursor, so nobody needs this page.
            state.start_pull(version);
            return wake_writer(state);
        }
        let version = end.tail.unwrap_or(end.complete);
        let more = end.tail.is_none_or(|tail| skipped > tail);
        let page = finish(version, more);
        state.push(Item { bytes: page, kind: Kind::Page(version) });
        while let Some(Item { kind: Kind::Ack(ack), .. }) = state.held_acks.front()
            && *ack <= version
            && let Some(ack) = state.held_acks.pop_front()
        {
            // Its bytes are counted already.
            state.reply_bytes -= ack.bytes.len();
            state.push(ack);
        }
        if more {
            let from = if end.tail.is_some() { Position::end_of(version) } else { end.next };
            state.cursor = Cursor::Paging { from, complete: version, skipped, reading: false, pull };
        } else {
            state.cursor = Cursor::Following { version };
            if let Some(version) = state.waiting_pulls.pop_front() {
                state.start_pull(version);
            }
        }
        wake_writer(state);
    }

    /// Ends the connection with that code when all that is queued has left; with `after_pages` also what a pull still
    /// has to give. Nothing that is put in later is sent.
    pub fn close(&self, code: u16, reason: &'static str, after_pages: bool) {
        let mut state = self.state();
        if state.closing.is_none() {
            state.closing = Some(Closing { code, reason, after_pages });
        }
        wake_writer(state);
        self.drained.notify_one();
    }

    /// Ends the connection when all that is queued has left, as the page that was asked for cannot be read. What waits for
    /// pages is not sent: an ack that does not come makes its sender send again.
    pub fn page_failed(&self, code: u16, reason: &'static str) {
        let mut state = self.state();
        state.pages_failed = true;
        let closing = state.closing.unwrap_or(Closing { code, reason, after_pages: false });
        state.closing = Some(Closing { after_pages: false, ..closing });
        wake_writer(state);
        self.drained.notify_one();
    }

    /// Takes what is to be done next into `taken`, which is empty afterwards if there is nothing.
    pub fn take(&self, taken: &mut Taken) {
        taken.slabs.clear();
        (taken.read_page, taken.close) = (None, None);
        let mut state = self.state();
        state.fresh = false;
        let mut bytes = 0;
        while bytes < TAKE_MAX_BYTES
            && taken.slabs.len() < TAKE_MAX_SLABS
            && let Some(item) = state.queue.pop_front()
        {
            bytes += item.bytes.len();
            if item.is_reply() {
                state.reply_bytes -= item.bytes.len();
            }
            match item.kind {
                Kind::Live(version) => state.taken_version = version,
                Kind::Page(version) => {
                    state.taken_version = version;
                    state.queued_pages -= 1;
                }
                // Everything below it was queued before it.
                Kind::Ack(version) => state.taken_version = version.max(state.taken_version),
                Kind::Reply => {}
            }
            taken.slabs.push(item.bytes);
        }
        state.queued_bytes -= bytes;
        taken.version = state.taken_version;
        // One page is read while the one before it is written.
        let close_first = state.closes_first();
        if state.queued_pages == 0
            && !close_first
            && let Cursor::Paging { from, complete, reading: reading @ false, .. } = &mut state.cursor
        {
            *reading = true;
            taken.read_page = Some(PageStart { from: *from, complete: *complete });
        }
        if let Some(closing) = state.closing
            && state.queue.is_empty()
            && (close_first || matches!(state.cursor, Cursor::Following { .. }))
        {
            taken.close = Some((closing.code, closing.reason));
        }
        let drained = state.reply_bytes <= self.limits.max_reply_bytes / 2;
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

    /// The bytes that wait, and whether the connection lags behind, its updates left to pages.
    pub fn backlog(&self) -> (usize, bool) {
        let state = self.state();
        (state.queued_bytes, matches!(state.cursor, Cursor::Paging { pull: false, .. }))
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
                if state.reply_bytes <= self.limits.max_reply_bytes || state.closing.is_some() {
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

impl State {
    /// Whether the connection ends without what its pages have yet to bring. Acks that wait for pages are promised.
    fn closes_first(&self) -> bool {
        self.closing.is_some_and(|c| !c.after_pages) && (self.held_acks.is_empty() || self.pages_failed)
    }

    fn push(&mut self, item: Item) {
        if self.closes_first() && !item.is_reply() {
            return;
        }
        self.queued_pages += usize::from(matches!(item.kind, Kind::Page(_)));
        self.queued_bytes += item.bytes.len();
        if item.is_reply() {
            self.reply_bytes += item.bytes.len();
        }
        self.queue.push_back(item);
    }

    fn deliver_live(&mut self, slab: Bytes, first: u64, last: u64, limits: OutboxLimits) {
        match &mut self.cursor {
            Cursor::Paging { skipped, .. } => *skipped = last.max(*skipped),
            // A page has brought it already.
            Cursor::Following { version } if *version >= last => {}
            Cursor::Following { version } => {
                let dense = first == *version + 1;
                let fits = self.queued_bytes == 0 || self.queued_bytes + slab.len() <= limits.max_bytes;
                if dense && fits {
                    *version = last;
                    self.push(Item { bytes: slab, kind: Kind::Live(last) });
                } else {
                    self.fall_back(last);
                }
            }
        }
    }

    fn deliver_ack(&mut self, frames: Bytes, ack: u64) {
        let item = Item { bytes: frames, kind: Kind::Ack(ack) };
        match &mut self.cursor {
            Cursor::Paging { complete, skipped, .. } => {
                *skipped = ack.max(*skipped);
                // Nor does an ack overtake another.
                if ack > *complete || !self.held_acks.is_empty() {
                    self.reply_bytes += item.bytes.len();
                    self.held_acks.push_back(item);
                    return;
                }
            }
            // The sender has its own winners: the cursor passes over them.
            Cursor::Following { version } => *version = ack.max(*version),
        }
        self.push(item);
    }

    /// Drops the live updates that wait, and turns to pages from the last version that stays queued or has been taken.
    fn fall_back(&mut self, skipped: u64) {
        let mut from = self.taken_version;
        for item in std::mem::take(&mut self.queue) {
            match item.kind {
                Kind::Live(_) => self.queued_bytes -= item.bytes.len(),
                // Still counted as answers, no longer as queued.
                Kind::Ack(version) if version > from => {
                    self.queued_bytes -= item.bytes.len();
                    self.held_acks.push_back(item);
                }
                Kind::Page(version) => {
                    from = version;
                    self.queue.push_back(item);
                }
                Kind::Ack(_) | Kind::Reply => self.queue.push_back(item),
            }
        }
        self.cursor = Cursor::Paging {
            from: Position::end_of(from),
            complete: from,
            skipped,
            reading: false,
            pull: false,
        };
    }

    fn start_pull(&mut self, version: u64) {
        let skipped = match self.cursor {
            Cursor::Following { version } => version,
            Cursor::Paging { skipped, .. } => skipped,
        };
        self.cursor = Cursor::Paging {
            from: Position::end_of(version),
            // From above the channel's version the pages will begin at 0, and acks wait for them.
            complete: if version > skipped { 0 } else { version },
            skipped,
            reading: false,
            pull: true,
        };
    }
}

#[cfg(test)]
mod tests;
