//! What a connection has used of its rates, and of its subject's. It belongs to the connection's reader: what is the
//! connection's own costs no lock, and the clock is read once a read, not once a message.

use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::bucket::{Bucket, Rate};
use super::holders::{Place, Used};
use super::settings::{Copy, MessageRates};
use super::{Limit, Limits};

/// What is used of three rates.
#[derive(Clone, Copy, Debug)]
pub struct MessageUse {
    messages: Bucket,
    bytes: Bucket,
    changes: Bucket,
}

impl MessageUse {
    fn new(now: Instant) -> Self {
        let bucket = Bucket::new(now);
        MessageUse { messages: bucket, bytes: bucket, changes: bucket }
    }

    fn refill(&mut self, now: Instant, rates: MessageRates) {
        self.messages.refill(now, rates.messages);
        self.bytes.refill(now, rates.bytes);
        self.changes.refill(now, rates.changes);
    }
}

/// What a subject's connections have used, together.
#[derive(Debug)]
pub struct SubjectUse {
    used: MessageUse,
    /// The rates that it was last held to.
    rates: Option<MessageRates>,
}

impl Used for SubjectUse {
    fn new(now: Instant) -> Self {
        SubjectUse { used: MessageUse::new(now), rates: None }
    }

    fn is_unused(&mut self, now: Instant) -> bool {
        if let Some(rates) = self.rates {
            self.used.refill(now, rates);
        }
        self.used.messages.is_full() && self.used.bytes.is_full() && self.used.changes.is_full()
    }
}

fn open(bucket: &Bucket, rate: Rate, limit: Limit) -> Result<(), Limited> {
    if bucket.is_open(rate) { Ok(()) } else { Err(Limited { limit, retry_after: bucket.wait(rate) }) }
}

/// A rate is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    /// Which.
    pub limit: Limit,
    /// When something is left again.
    pub retry_after: Duration,
}

impl Limited {
    /// The time to wait, as the wire has it: in whole milliseconds, and at least one.
    pub fn retry_after_ms(&self) -> u64 {
        u64::try_from(self.retry_after.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).max(1)
    }
}

/// A connection's place among those of its subject.
pub type SubjectPlace = Place<Arc<str>, SubjectUse>;

/// See the module.
#[derive(Debug)]
pub struct Meter<'c> {
    limits: &'c Limits,
    settings: Copy,
    own: MessageUse,
    subject: Option<&'c SubjectPlace>,
    refusals: Bucket,
    now: Instant,
}

impl<'c> Meter<'c> {
    /// A connection that has used nothing yet.
    pub fn new(limits: &'c Limits, subject: Option<&'c SubjectPlace>) -> Self {
        let now = Instant::now();
        Meter {
            limits,
            settings: Copy::new(&limits.settings),
            own: MessageUse::new(now),
            subject,
            refusals: Bucket::new(now),
            now,
        }
    }

    /// To be called for each read, before what it has brought is charged.
    pub fn read(&mut self, now: Instant) {
        self.now = now;
        self.settings.get(&self.limits.settings);
        self.own.refill(self.now, self.settings.last().connection);
    }

    /// Charges frames, and payload bytes in them, before they are looked at, unless a rate is used up.
    pub fn take(&mut self, frames: u64, bytes: usize) -> Result<(), Limited> {
        let (rates, bytes) = (self.settings.last().connection, bytes as u64);
        open(&self.own.messages, rates.messages, Limit::Messages)?;
        open(&self.own.bytes, rates.bytes, Limit::Bytes)?;
        if let Some((mut subject, rates)) = self.subjects() {
            let used = &mut subject.used;
            open(&used.messages, rates.messages, Limit::SubjectMessages)?;
            open(&used.bytes, rates.bytes, Limit::SubjectBytes)?;
            used.messages.charge(frames, rates.messages);
            used.bytes.charge(bytes, rates.bytes);
        }
        self.own.messages.charge(frames, rates.messages);
        self.own.bytes.charge(bytes, rates.bytes);
        Ok(())
    }

    /// Charges the changes of an update, unless their rate is used up.
    pub fn take_changes(&mut self, changes: usize) -> Result<(), Limited> {
        let (rates, changes) = (self.settings.last().connection, changes as u64);
        open(&self.own.changes, rates.changes, Limit::Changes)?;
        if let Some((mut subject, rates)) = self.subjects() {
            let used = &mut subject.used;
            open(&used.changes, rates.changes, Limit::SubjectChanges)?;
            used.changes.charge(changes, rates.changes);
        }
        self.own.changes.charge(changes, rates.changes);
        Ok(())
    }

    /// What is used of the subject's rates, and these.
    fn subjects(&self) -> Option<(MutexGuard<'c, SubjectUse>, MessageRates)> {
        let rates = self.settings.last().subject;
        let mut subject = self.subject?.used();
        subject.used.refill(self.now, rates);
        subject.rates = Some(rates);
        Some((subject, rates))
    }

    /// Notes that something was refused; gives whether it was one too many.
    pub fn refused(&mut self, limited: Limited) -> bool {
        self.limits.metrics.limited(limited.limit);
        let goes_on = self.refusals.take_one(self.now, self.settings.last().refusals).is_err();
        if goes_on {
            self.limits.metrics.limited(Limit::Refusals);
        }
        goes_on
    }
}
