//! What one commit tells whom: every follower all that won, in one slab; every sender an ack in the place of each update
//! of its own.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use causeway_storage::{Excess, Outcome};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::ending::Ending;
use crate::limits::Limit;
use crate::metrics::Metrics;
use crate::outbox::{Delivery, Outbox};
use crate::protocol::encode::Encoder;
use crate::protocol::{Code, IncomingUpdate, Refusal};

/// A sender's share of a slab is copied if it is less than one of so many parts.
const MAX_SLAB_PARTS: usize = 8;

/// An update and who sent it.
#[derive(Debug)]
pub struct Pending {
    /// The sender.
    pub sender: Sender,
    /// What it sent.
    pub update: Box<IncomingUpdate>,
    /// When it was read.
    pub received: Instant,
}

/// Who sends updates.
#[derive(Debug)]
pub enum Sender {
    /// A client, which gets an ack.
    Client(Arc<Outbox>),
    /// Another node of the cluster.
    Node {
        /// Its name.
        node: Arc<str>,
        /// The version that it published before this one, or that was complete before this page of it.
        from: u64,
        /// Where it is said that a page is durable.
        merged: Option<oneshot::Sender<()>>,
    },
}

impl Pending {
    /// The client that sent it, if it was one.
    pub fn client(&self) -> Option<&Arc<Outbox>> {
        match &self.sender {
            Sender::Client(outbox) => Some(outbox),
            Sender::Node { .. } => None,
        }
    }
}

/// A commit that is durable, about to be told.
pub struct Fanout<'c> {
    encoder: &'c Encoder,
    metrics: &'c Metrics,
    pending: &'c [Pending],
    outcomes: &'c [Outcome],
    /// The frames of all updates that won something, in commit order.
    slab: Bytes,
    /// What lies before each update, and, at the end, all there is.
    marks: Vec<Mark>,
}

/// A place between the updates of a commit.
#[derive(Clone, Copy)]
struct Mark {
    /// The bytes of the slab before it.
    bytes: usize,
    /// The frames in them, and the changes in those.
    frames: usize,
    changes: usize,
    /// The channel's version there.
    version: u64,
}

impl<'c> Fanout<'c> {
    /// Encodes what the updates of a commit have won; `before` is the channel's version before it.
    pub fn new(
        encoder: &'c Encoder,
        metrics: &'c Metrics,
        pending: &'c [Pending],
        outcomes: &'c [Outcome],
        before: u64,
    ) -> Self {
        let mut slab = Vec::new();
        let mut mark = Mark { bytes: 0, frames: 0, changes: 0, version: before };
        let mut marks = vec![mark];
        for (Pending { update, .. }, outcome) in pending.iter().zip(outcomes) {
            if let Outcome::Merged { version, winners } = outcome
                && !winners.is_empty()
            {
                encoder.update(update, winners, *version, &mut slab);
                mark = Mark {
                    bytes: slab.len(),
                    frames: mark.frames + 1,
                    changes: mark.changes + winners.len(),
                    version: *version,
                };
            }
            marks.push(mark);
        }
        Fanout { encoder, metrics, pending, outcomes, slab: slab.into(), marks }
    }

    /// The channel's version after the commit.
    pub fn version(&self) -> u64 {
        self.marks[self.marks.len() - 1].version
    }

    /// Tells the senders, then the followers. A sender's outbox hears of the commit once, whether it follows or not.
    pub fn tell(&self, followers: &[Arc<Outbox>]) {
        // Every client's update, sender by sender.
        let client = |(index, pending): (usize, &'c Pending)| Some((pending.client()?, index));
        let mut order: Vec<_> = self.pending.iter().enumerate().filter_map(client).collect();
        order.sort_by_key(|(outbox, _)| outbox.id());
        let mut senders = Vec::new();
        for own in order.chunk_by(|(a, _), (b, _)| a.id() == b.id()) {
            senders.push(own[0].0.id());
            let indexes: Vec<usize> = own.iter().map(|(_, index)| *index).collect();
            self.tell_sender(own[0].0, &indexes);
        }
        let mut told = 0;
        let deliveries = self.run(0, self.pending.len());
        for follower in followers {
            if senders.binary_search(&follower.id()).is_err() && deliveries.is_some() {
                follower.deliver(deliveries.clone());
                told += 1;
            }
        }
        let all = self.marks[self.pending.len()];
        self.metrics.sent_updates(told * all.frames, told * all.changes);
    }

    /// One sender's part, in commit order. `own` are the indexes of its updates, ascending.
    fn tell_sender(&self, sender: &Outbox, own: &[usize]) {
        let mut deliveries = Vec::new();
        let mut acks = Vec::new();
        let mut acked = 0;
        let mut one_too_many = false;
        // The first update that this sender has yet to be told of.
        let mut next = 0;
        for &index in own {
            let version = self.marks[index].version;
            if let Some(run) = self.run(next, index) {
                flush_acks(&mut acks, self.marks[next].version, &mut deliveries);
                deliveries.push(run);
            }
            match &self.outcomes[index] {
                Outcome::Merged { version, .. } => {
                    sender.good_message();
                    acked += 1;
                    self.encoder.ack(*version, self.pending[index].update.version, &mut acks);
                }
                Outcome::Refused { index: change, field, max } => {
                    flush_acks(&mut acks, version, &mut deliveries);
                    one_too_many |= sender.bad_message();
                    let message =
                        format!("changes[{change}].{field}: too far ahead, here it is at most {max}");
                    let refusal = Refusal::new(Code::InvalidChange, message)
                        .of_update(self.pending[index].update.version);
                    self.metrics.refused(refusal.code);
                    deliveries.push(Delivery::Error { frame: self.encoder.error_frame(&refusal) });
                }
                Outcome::OverQuota(excess) => {
                    flush_acks(&mut acks, version, &mut deliveries);
                    let (what, limit) = match excess {
                        Excess::Cells => ("rows", Limit::ChannelRows),
                        Excess::Bytes => ("bytes", Limit::ChannelBytes),
                    };
                    let message =
                        format!("the channel has as many {what} as it may ({limit}); delete some first");
                    let refusal = Refusal::new(Code::QuotaExceeded, message)
                        .of_update(self.pending[index].update.version);
                    self.metrics.limited(limit);
                    self.metrics.refused(refusal.code);
                    deliveries.push(Delivery::Error { frame: self.encoder.error_frame(&refusal) });
                }
            }
            next = index + 1;
        }
        flush_acks(&mut acks, self.marks[next].version, &mut deliveries);
        deliveries.extend(self.run(next, self.pending.len()));
        let (all, mine) = (self.marks[self.pending.len()], self.own_share(own));
        self.metrics.sent_updates(all.frames - mine.0, all.changes - mine.1);
        self.metrics.sent_acks(acked);
        sender.deliver(deliveries);
        if one_too_many {
            sender.close(Ending::BAD_MESSAGES, false);
        }
    }

    /// The frames, and the changes in them, of the updates at `own`.
    fn own_share(&self, own: &[usize]) -> (usize, usize) {
        let share = |index: &usize| {
            let (before, after) = (self.marks[*index], self.marks[index + 1]);
            (after.frames - before.frames, after.changes - before.changes)
        };
        own.iter().map(share).fold((0, 0), |sum, share| (sum.0 + share.0, sum.1 + share.1))
    }

    /// What the updates from `start` to before `end` have won; `None` if that is nothing.
    fn run(&self, start: usize, end: usize) -> Option<Delivery> {
        let (start, end) = (self.marks[start], self.marks[end]);
        let bytes: Range<usize> = start.bytes..end.bytes;
        // A part keeps the whole alive, and an outbox counts the part.
        let small = bytes.len() < self.slab.len() / MAX_SLAB_PARTS;
        (!bytes.is_empty()).then(|| Delivery::Live {
            slab: if small { Bytes::copy_from_slice(&self.slab[bytes]) } else { self.slab.slice(bytes) },
            first: start.version + 1,
            last: end.version,
        })
    }
}

fn flush_acks(acks: &mut Vec<u8>, version: u64, deliveries: &mut Vec<Delivery>) {
    if !acks.is_empty() {
        deliveries.push(Delivery::Ack { frames: std::mem::take(acks).into(), version });
    }
}
