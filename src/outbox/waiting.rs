//! What waits for a connection and where its cursor stands: a state machine that neither locks nor waits.

use std::collections::VecDeque;

use bytes::Bytes;
use causeway_storage::Position;

use super::{
    Delivery, MAX_WAITING_PULLS, OutboxLimits, PageEnd, PageStart, TAKE_MAX_BYTES, TAKE_MAX_SLABS, Taken,
    TooManyPulls,
};
use crate::ending::Ending;

#[derive(Debug, Default)]
pub(super) struct Waiting {
    queue: VecDeque<Item>,
    pub(super) queued_bytes: usize,
    queued_pages: usize,
    pub(super) reply_bytes: usize,
    cursor: Cursor,
    /// The highest version that the writer has taken.
    taken_version: u64,
    /// Acks of versions that the pages have not reached: an ack never overtakes an update of a lower version.
    held_acks: VecDeque<Item>,
    waiting_pulls: VecDeque<u64>,
    /// Whether the client has ever pulled.
    pulled: bool,
    pub(super) closing: Option<Closing>,
    /// What waits for pages waits in vain.
    pub(super) pages_failed: bool,
}

/// What a reply takes beside its bytes, about: else a quarter of a megabyte of empty pongs would be fifteen.
pub(super) const REPLY_OVERHEAD_BYTES: usize = 100;

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

    /// What it takes of `max_reply_bytes`.
    fn reply_bytes(&self) -> usize {
        if self.is_reply() { self.bytes.len() + REPLY_OVERHEAD_BYTES } else { 0 }
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
pub(super) struct Closing {
    pub(super) ending: Ending,
    /// Whether a pull is answered to its end first.
    pub(super) after_pages: bool,
}

impl Default for Cursor {
    fn default() -> Self {
        Cursor::Following { version: 0 }
    }
}

impl Waiting {
    /// Begins at the channel's version.
    pub(super) fn greet(&mut self, greeting: Bytes, version: u64) {
        self.cursor = Cursor::Following { version };
        self.taken_version = version;
        self.reply(greeting);
    }

    pub(super) fn deliver(&mut self, delivery: Delivery, limits: OutboxLimits) {
        match delivery {
            Delivery::Live { slab, first, last } => self.deliver_live(slab, first, last, limits),
            Delivery::Ack { frames, version } => self.deliver_ack(frames, version),
            Delivery::Error { frame } => self.reply(frame),
        }
    }

    pub(super) fn reply(&mut self, frame: Bytes) {
        self.push(Item { bytes: frame, kind: Kind::Reply });
    }

    pub(super) fn missed(&mut self, version: u64) {
        match &mut self.cursor {
            Cursor::Paging { skipped, .. } => *skipped = version.max(*skipped),
            Cursor::Following { version: known } if *known >= version => {}
            Cursor::Following { .. } => self.fall_back(version),
        }
    }

    pub(super) fn pull(&mut self, version: u64) -> Result<(), TooManyPulls> {
        // A page that is being read is no answer to a pull that comes meanwhile: one thing after the other.
        if matches!(self.cursor, Cursor::Paging { pull: true, .. } | Cursor::Paging { reading: true, .. }) {
            if self.waiting_pulls.len() == MAX_WAITING_PULLS {
                return Err(TooManyPulls);
            }
            self.waiting_pulls.push_back(version);
        } else {
            self.start_pull(version);
        }
        Ok(())
    }

    pub(super) fn page(&mut self, end: PageEnd, finish: impl FnOnce(u64, Option<bool>) -> Bytes) {
        let Cursor::Paging { skipped, pull, .. } = self.cursor else { return };
        if !pull && let Some(version) = self.waiting_pulls.pop_front() {
            // It moves the cursor, so nobody needs this page.
            return self.start_pull(version);
        }
        let version = end.tail.unwrap_or(end.complete);
        let more = end.tail.is_none_or(|tail| skipped > tail);
        // Before a first pull nobody waits for an answer, and pages that look like one would be taken for the answer to a
        // pull that is under way.
        let page = finish(version, self.pulled.then_some(more));
        self.push(Item { bytes: page, kind: Kind::Page(version) });
        while let Some(Item { kind: Kind::Ack(ack), .. }) = self.held_acks.front()
            && *ack <= version
            && let Some(ack) = self.held_acks.pop_front()
        {
            // Its bytes are counted already.
            self.reply_bytes -= ack.reply_bytes();
            self.push(ack);
        }
        if more {
            let from = if end.tail.is_some() { Position::end_of(version) } else { end.next };
            self.cursor = Cursor::Paging { from, complete: version, skipped, reading: false, pull };
        } else {
            self.cursor = Cursor::Following { version };
            if let Some(version) = self.waiting_pulls.pop_front() {
                self.start_pull(version);
            }
        }
    }

    pub(super) fn take(&mut self, taken: &mut Taken) {
        let mut bytes = 0;
        while bytes < TAKE_MAX_BYTES
            && taken.slabs.len() < TAKE_MAX_SLABS
            && let Some(item) = self.queue.pop_front()
        {
            bytes += item.bytes.len();
            self.reply_bytes -= item.reply_bytes();
            match item.kind {
                Kind::Live(version) => self.taken_version = version,
                Kind::Page(version) => {
                    self.taken_version = version;
                    self.queued_pages -= 1;
                }
                // Everything below it was queued before it.
                Kind::Ack(version) => self.taken_version = version.max(self.taken_version),
                Kind::Reply => {}
            }
            taken.slabs.push(item.bytes);
        }
        self.queued_bytes -= bytes;
        taken.version = self.taken_version;
        // One page is read while the one before it is written.
        let close_first = self.closes_first();
        if self.queued_pages == 0
            && !close_first
            && let Cursor::Paging { from, complete, skipped, reading: reading @ false, .. } = &mut self.cursor
        {
            *reading = true;
            taken.read_page =
                Some(PageStart { from: *from, complete: *complete, has_versions: *skipped > 0 });
        }
        if let Some(closing) = self.closing
            && self.queue.is_empty()
            && (close_first || matches!(self.cursor, Cursor::Following { .. }))
        {
            taken.close = Some(closing.ending);
        }
    }

    /// Whether the connection lags: its updates are left to pages, and no pull has asked for them.
    pub(super) fn lags(&self) -> bool {
        matches!(self.cursor, Cursor::Paging { pull: false, .. })
    }

    /// The pulls that are being answered, or wait for that.
    pub(super) fn pulls(&self) -> usize {
        self.waiting_pulls.len() + usize::from(matches!(self.cursor, Cursor::Paging { pull: true, .. }))
    }

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
        self.reply_bytes += item.reply_bytes();
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
                    self.reply_bytes += item.reply_bytes();
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
        self.pulled = true;
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
