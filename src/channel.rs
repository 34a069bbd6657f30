//! A shard's state for one channel: its store, its version, its followers.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use causeway_storage::{
    Change, ChangeStore, ChannelStore, Clamp, Outcome, StoreError, Update as StoreUpdate, merge,
};

use crate::metrics::Metrics;
use crate::outbox::{ConnectionId, Delivery, Outbox, TOO_MANY_BAD};
use crate::protocol::encode::Encoder;
use crate::protocol::frame::close;
use crate::protocol::{Code, IncomingUpdate, Refusal};

/// An update and the connection that it came from.
#[derive(Debug)]
pub struct Pending {
    /// The sender.
    pub outbox: Arc<Outbox>,
    /// What it sent.
    pub update: Box<IncomingUpdate>,
}

/// A channel that has followers, or had some a short while ago.
pub struct Channel {
    name: Arc<str>,
    encoder: Arc<Encoder>,
    version: u64,
    followers: Vec<Arc<Outbox>>,
    /// `None` while the channel is idle, or after an error: then it is opened anew for the next update.
    store: Option<Box<dyn ChannelStore>>,
    used: Instant,
}

impl Channel {
    /// Opens a channel; makes it if there is none.
    pub fn open(store: &dyn ChangeStore, name: &Arc<str>) -> Result<Self, StoreError> {
        let opened = store.open(name)?;
        Ok(Channel {
            name: name.clone(),
            encoder: Arc::new(Encoder::new(name, opened.site_id())),
            version: opened.head().version,
            followers: Vec::new(),
            store: Some(opened),
            used: Instant::now(),
        })
    }

    /// Adds a follower, greeted at the channel's version.
    pub fn join(&mut self, outbox: Arc<Outbox>) -> Arc<Encoder> {
        outbox.greet(self.encoder.connected(self.version), self.version);
        self.followers.push(outbox);
        self.encoder.clone()
    }

    /// Takes a follower away.
    pub fn leave(&mut self, connection: ConnectionId) {
        if let Some(at) = self.followers.iter().position(|f| f.id() == connection) {
            self.followers.swap_remove(at);
        }
    }

    /// The channel's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The channel's version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Everyone who is connected to it.
    pub fn followers(&self) -> &[Arc<Outbox>] {
        &self.followers
    }

    /// Whether its store is open.
    pub fn is_open(&self) -> bool {
        self.store.is_some()
    }

    /// When it was last written.
    pub fn used(&self) -> Instant {
        self.used
    }

    /// Closes its store; the next update opens it again.
    pub fn close(&mut self) {
        self.store = None;
    }

    /// Merges the updates in one durable commit, then acks them and passes the winners on. If the store fails, each
    /// sender is told so, nobody else hears of it, and the channel is read from disk again.
    pub fn commit(&mut self, store: &dyn ChangeStore, pending: &[Pending], clamp: &Clamp, metrics: &Metrics) {
        self.used = Instant::now();
        match self.merge(store, pending, clamp) {
            Ok(outcomes) => {
                metrics.committed(
                    pending.iter().map(|p| p.update.len()).sum(),
                    self.used.elapsed(),
                    &outcomes,
                );
                self.answer(pending, &outcomes, metrics);
            }
            Err(e) => {
                tracing::error!(channel = %self.name, error = %e, updates = pending.len(), "commit failed");
                self.store = None;
                for Pending { outbox, update } in pending {
                    let refusal = Refusal {
                        code: Code::Storage,
                        message: "the server could not store this update; send it again later".into(),
                        received: Some(update.version),
                    };
                    outbox.reply(self.refusal(&refusal, metrics));
                }
            }
        }
    }

    fn merge(
        &mut self,
        store: &dyn ChangeStore,
        pending: &[Pending],
        clamp: &Clamp,
    ) -> Result<Vec<Outcome>, StoreError> {
        let opened = match &mut self.store {
            Some(opened) => opened,
            closed => {
                let opened = store.open(&self.name)?;
                self.version = opened.head().version;
                closed.insert(opened)
            }
        };
        let changes: Vec<Change<'_>> = pending.iter().flat_map(|p| p.update.changes()).collect();
        let mut rest = &changes[..];
        let updates: Vec<StoreUpdate<'_>> = pending
            .iter()
            .map(|Pending { update, .. }| {
                let (changes, others) = rest.split_at(update.len());
                rest = others;
                StoreUpdate { site_id: update.site_id(), version: update.version, changes }
            })
            .collect();
        merge(opened.as_mut(), &updates, clamp)
    }

    /// Sends what came of a commit: to every follower all of it in one slab, to the senders acks in the place of their own.
    fn answer(&mut self, pending: &[Pending], outcomes: &[Outcome], metrics: &Metrics) {
        let first = self.version + 1;
        let mut slab = Vec::new();
        // Where each update's frame ends in the slab, and the version after it.
        let mut ends = Vec::with_capacity(outcomes.len());
        for (Pending { update, .. }, outcome) in pending.iter().zip(outcomes) {
            if let Outcome::Merged { version, winners } = outcome {
                if !winners.is_empty() {
                    self.encoder.update(update, winners, *version, &mut slab);
                }
                self.version = *version;
            }
            ends.push((slab.len(), self.version));
        }
        let slab = Bytes::from(slab);

        let mut senders: Vec<&Arc<Outbox>> = pending.iter().map(|p| &p.outbox).collect();
        senders.sort_unstable_by_key(|outbox| outbox.id());
        senders.dedup_by_key(|outbox| outbox.id());
        for sender in &senders {
            self.answer_sender(sender, pending, outcomes, &ends, &slab, first, metrics);
        }
        if slab.is_empty() {
            return;
        }
        let mut told = 0;
        for follower in &self.followers {
            if senders.binary_search_by_key(&follower.id(), |sender| sender.id()).is_err() {
                follower.deliver([Delivery::Live { slab: slab.clone(), first, last: self.version }]);
                told += 1;
            }
        }
        metrics.fanned_out(told);
    }

    /// One sender's part of a commit, in commit order: an ack for each update of its own, the frames of the others.
    #[expect(clippy::too_many_arguments, reason = "one commit's facts, all read only")]
    fn answer_sender(
        &self,
        sender: &Arc<Outbox>,
        pending: &[Pending],
        outcomes: &[Outcome],
        ends: &[(usize, u64)],
        slab: &Bytes,
        first: u64,
        metrics: &Metrics,
    ) {
        let mut deliveries = Vec::new();
        let (mut acks, mut acked) = (Vec::new(), 0);
        // How far the slab has been gone through, and the start of what of it this sender has yet to be given.
        let (mut at, mut version) = (0, first - 1);
        let (mut run_at, mut run_first) = (0, first);
        let mut one_too_many = false;
        for ((Pending { outbox, update }, outcome), &(end, after)) in pending.iter().zip(outcomes).zip(ends) {
            if outbox.id() == sender.id() {
                flush_run(slab, run_at..at, run_first, version, &mut deliveries);
                (run_at, run_first) = (end, after + 1);
                match outcome {
                    Outcome::Merged { .. } => {
                        sender.good_message();
                        self.encoder.ack(after, update.version, &mut acks);
                        acked = after;
                    }
                    Outcome::Refused { index, field, max } => {
                        flush_acks(&mut acks, acked, &mut deliveries);
                        let message =
                            format!("changes[{index}].{field}: too far ahead, here it is at most {max}");
                        let received = Some(update.version);
                        let frame =
                            self.refusal(&Refusal { code: Code::InvalidChange, message, received }, metrics);
                        one_too_many |= sender.bad_message();
                        deliveries.push(Delivery::Error { frame });
                    }
                }
            } else if end > at {
                flush_acks(&mut acks, acked, &mut deliveries);
            }
            (at, version) = (end, after);
        }
        flush_acks(&mut acks, acked, &mut deliveries);
        flush_run(slab, run_at..at, run_first, version, &mut deliveries);
        sender.deliver(deliveries);
        if one_too_many {
            sender.close(close::POLICY, TOO_MANY_BAD, false);
        }
    }

    fn refusal(&self, refusal: &Refusal, metrics: &Metrics) -> Bytes {
        metrics.refused(refusal.code);
        let mut frame = Vec::new();
        self.encoder.error(refusal, &mut frame);
        frame.into()
    }
}

fn flush_acks(acks: &mut Vec<u8>, version: u64, deliveries: &mut Vec<Delivery>) {
    if !acks.is_empty() {
        deliveries.push(Delivery::Ack { frames: std::mem::take(acks).into(), version });
    }
}

fn flush_run(slab: &Bytes, run: Range<usize>, first: u64, last: u64, deliveries: &mut Vec<Delivery>) {
    if !run.is_empty() {
        deliveries.push(Delivery::Live { slab: slab.slice(run), first, last });
    }
}
