//! The engine as the store uses it: what makes writes durable, and what a failed one does. After it nothing is read or written any
//! more, as the engine's memory may then hold half a batch, while the disk holds the whole of it or nothing: it has to be
//! opened anew.

use std::fs::File;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::codec;
use super::engine::{Engine, Failure, Pair, Write};
use crate::backend::{Durability, StoreOptions};
use crate::error::{Result, StoreError, is_full};

pub(super) struct Guarded<E: Engine> {
    engine: E,
    durability: Durability,
    failed: AtomicBool,
    /// Nothing is written before, if this was opened because writes fail.
    writable_from: Option<Instant>,
}

impl<E: Engine> Guarded<E> {
    /// Opens the engine's directory in the data directory; with `make`, makes it if need be. The caller holds the directory's lock.
    pub(super) fn open(options: &StoreOptions, make: bool, writable_from: Option<Instant>) -> Result<Self> {
        let path = options.dir.join(E::NAME);
        let failed = |e| error::<E>("", "opening its database", e);
        let engine = E::open(&path, options).map_err(failed)?;
        for dir in [&path, &options.dir] {
            File::open(dir).and_then(|dir| dir.sync_data()).map_err(|e| failed(e.into()))?;
        }
        let engine =
            Guarded { engine, durability: options.durability, failed: AtomicBool::new(false), writable_from };
        engine.check_format(make)?;
        Ok(engine)
    }

    /// What lies under `key`.
    pub(super) fn get(&self, channel: &str, key: &[u8]) -> Result<Option<E::Bytes>> {
        self.check(channel)?;
        self.engine.get(key).map_err(|e| error::<E>(channel, "reading", e))
    }

    /// The channel's site id.
    pub(super) fn site_id(&self, channel: &str, id: u64) -> Result<String> {
        let site_id = self.get(channel, &codec::site_key(id))?;
        let site_id = site_id.and_then(|bytes| String::from_utf8(bytes.as_ref().to_vec()).ok());
        site_id.ok_or_else(|| corrupt(channel, "it has no site id"))
    }

    /// All keys that begin with `prefix`, in order, with their values.
    pub(super) fn prefix<'a>(
        &'a self,
        channel: &'a str,
        prefix: &[u8],
    ) -> Result<impl Iterator<Item = Result<Pair<E>>> + use<'a, E>> {
        let end = codec::end_of(prefix);
        self.range(channel, Bound::Included(prefix), Bound::Excluded(&end))
    }

    /// All keys of the range, in order, with their values.
    pub(super) fn range<'a>(
        &'a self,
        channel: &'a str,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Result<impl Iterator<Item = Result<Pair<E>>> + use<'a, E>> {
        self.check(channel)?;
        let found = self.engine.range(from, to);
        Ok(found.map(move |item| item.map_err(|e| error::<E>(channel, "scanning", e))))
    }

    /// Writes the batch, all of it or nothing, and makes it durable.
    pub(super) fn commit(&self, channel: &str, batch: Vec<Write<E>>) -> Result<()> {
        self.apply(channel, batch)?;
        self.persist(channel)
    }

    /// Writes the batch, all of it or nothing. It is durable after the next [`Guarded::persist`].
    pub(super) fn apply(&self, channel: &str, batch: Vec<Write<E>>) -> Result<()> {
        self.check_writable(channel)?;
        self.guard(channel, "writing", self.engine.apply(batch.into_iter()))
    }

    /// Makes what was applied as durable as the store was opened.
    pub(super) fn persist(&self, channel: &str) -> Result<()> {
        self.write_out(channel, self.durability)
    }

    /// Makes what was applied survive a power cut.
    pub(super) fn sync(&self, channel: &str) -> Result<()> {
        self.write_out(channel, Durability::Full)
    }

    fn write_out(&self, channel: &str, durability: Durability) -> Result<()> {
        self.check(channel)?;
        match durability {
            Durability::Full => self.guard(channel, "syncing", self.engine.sync()),
            Durability::Normal => self.guard(channel, "flushing", self.engine.write_out()),
            Durability::Off => Ok(()),
        }
    }

    fn check_format(&self, make: bool) -> Result<()> {
        let format = self.get("", codec::FORMAT_KEY)?;
        match format.as_ref().map(AsRef::as_ref) {
            Some(format) if format == codec::FORMAT => Ok(()),
            // What has been opened before is never made again: it would be a loss that nobody notices.
            None if make && self.range("", Bound::Unbounded, Bound::Unbounded)?.next().is_none() => {
                self.commit("", vec![(codec::FORMAT_KEY.into(), Some(codec::FORMAT.into()))])
            }
            other => Err(StoreError::Engine {
                channel: String::new(),
                engine: E::NAME,
                doing: "opening its database",
                detail: format!("it has format {other:?}, this Causeway reads {:?}", codec::FORMAT),
            }),
        }
    }

    /// Whether a write has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Whether a batch is taken now.
    pub(super) fn check_writable(&self, channel: &str) -> Result<()> {
        self.check(channel)?;
        match self.writable_from {
            Some(from) if Instant::now() < from => {
                Err(refused::<E>(channel, "an earlier write failed; the next is tried in a moment"))
            }
            _ => Ok(()),
        }
    }

    fn check(&self, channel: &str) -> Result<()> {
        match self.has_failed() {
            false => Ok(()),
            true => Err(refused::<E>(channel, "an earlier write failed; the database must be opened anew")),
        }
    }

    fn guard(&self, channel: &str, doing: &'static str, written: Result<(), Failure>) -> Result<()> {
        if written.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        written.map_err(|e| error::<E>(channel, doing, e))
    }
}

/// The engine does not go on as it is.
pub(super) fn refused<E: Engine>(channel: &str, detail: &str) -> StoreError {
    let (channel, detail) = (channel.into(), detail.into());
    StoreError::Engine { channel, engine: E::NAME, doing: "going on", detail }
}

/// What the engine said, as a [`StoreError`].
fn error<E: Engine>(channel: &str, doing: &'static str, failure: Failure) -> StoreError {
    let engine = E::NAME;
    let (channel, detail) = match failure {
        Failure::Corrupt(e) if !channel.is_empty() => {
            return corrupt(channel, format!("{engine}, while {doing}: {e}"));
        }
        Failure::Io(e) if is_full(&e) => {
            return StoreError::Full { channel: channel.into(), engine, doing, detail: e.to_string() };
        }
        Failure::Corrupt(e) => (channel.into(), format!("the database is corrupt: {e}")),
        Failure::Other(e) => (channel.into(), e),
        Failure::Io(e) => (channel.into(), e.to_string()),
    };
    StoreError::Engine { channel, engine, doing, detail }
}

/// The channel's bytes are not what this backend writes.
pub(super) fn corrupt(channel: &str, detail: impl Into<String>) -> StoreError {
    StoreError::Corrupt { channel: channel.into(), detail: detail.into() }
}
