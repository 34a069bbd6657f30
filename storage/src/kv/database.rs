//! One opening of the database: its engine, and what the handles of each channel share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Instant;

use super::codec;
use super::engine::{Engine, Pair};
use super::guarded::{Guarded, corrupt};
use super::snapshots::Shared;
use crate::backend::StoreOptions;
use crate::error::Result;
use crate::store::{Head, Size};

/// How many keys one batch of a channel's removal takes.
const SWEEP_KEYS: usize = 1_000;

/// How many entries the table of open channels may have before those that nobody has open any more are dropped.
const MIN_PRUNE: usize = 1_024;

pub(super) struct Database<E: Engine> {
    /// How often the store had been opened before.
    pub(super) opened: u64,
    pub(super) engine: Guarded<E>,
    channels: Mutex<Channels<E>>,
}

/// The channels that have a handle, by name. Whoever makes or removes a channel holds the lock.
pub(super) struct Channels<E: Engine> {
    pub(super) open: HashMap<Box<str>, Weak<Shared<E::Bytes>>>,
    prune_at: usize,
}

impl<E: Engine> Database<E> {
    /// Opens it for the `opened`th time after the first, which may make it.
    pub(super) fn open(options: &StoreOptions, opened: u64, writable_from: Option<Instant>) -> Result<Self> {
        let channels = Mutex::new(Channels { open: HashMap::new(), prune_at: MIN_PRUNE });
        let engine = Guarded::open(options, opened == 0, writable_from)?;
        let database = Database { opened, engine, channels };
        // What the last process did not come to the end of.
        let doomed: Vec<Pair<E>> = database.engine.prefix("", codec::DOOMED)?.collect::<Result<_>>()?;
        for (key, _) in doomed {
            if let Some(id) = codec::number(&key.as_ref()[codec::DOOMED.len()..]) {
                database.sweep("", id)?;
            }
        }
        Ok(database)
    }

    pub(super) fn channels(&self) -> MutexGuard<'_, Channels<E>> {
        self.channels.lock().expect("nothing panics while it holds this lock")
    }

    /// The id of a channel; `None` if there is no such channel.
    pub(super) fn id(&self, channel: &str) -> Result<Option<u64>> {
        let Some(id) = self.engine.get(channel, &codec::name_key(channel))? else { return Ok(None) };
        codec::number(id.as_ref()).map(Some).ok_or_else(|| corrupt(channel, "its id is not a number"))
    }

    /// What the handles of a channel share; `None` if there is no such channel.
    pub(super) fn shared(
        &self,
        channels: &mut Channels<E>,
        channel: &str,
    ) -> Result<Option<Arc<Shared<E::Bytes>>>> {
        if let Some(shared) = channels.open.get(channel).and_then(Weak::upgrade) {
            return Ok(Some(shared));
        }
        let Some(id) = self.id(channel)? else { return Ok(None) };
        let head = self.engine.get(channel, &codec::head_key(id))?;
        let head = head.and_then(|bytes| codec::head(bytes.as_ref()));
        let (mut head, sized) = head.ok_or_else(|| corrupt(channel, "it has no head"))?;
        if !sized {
            // Its next commit writes it down.
            head.size = self.count(channel, id)?;
        }
        Ok(Some(channels.add(channel, id, head)))
    }

    /// Counts a channel's cells. Nobody has it open.
    fn count(&self, channel: &str, id: u64) -> Result<Size> {
        let mut size = Size::default();
        for item in self.engine.prefix(channel, &codec::positions_prefix(id))? {
            let (key, bytes) = item?;
            let cell = codec::position_in_key(key.as_ref()).and_then(|at| codec::cell(at, bytes.as_ref()));
            let cell = cell.ok_or_else(|| {
                corrupt(channel, format!("a cell cannot be read, at key {:?}", key.as_ref()))
            })?;
            size.add(cell.bytes() as u64);
        }
        Ok(size)
    }

    /// Makes a channel. It is durable after the next persist.
    pub(super) fn make(
        &self,
        channels: &mut Channels<E>,
        channel: &str,
        site_id: &str,
    ) -> Result<Arc<Shared<E::Bytes>>> {
        let next = self.engine.get(channel, codec::NEXT_ID_KEY)?;
        let id = next.map_or(Some(0), |bytes| codec::number(bytes.as_ref()));
        let id = id.ok_or_else(|| corrupt(channel, "the next channel's id is not a number"))?;
        let batch = vec![
            (codec::NEXT_ID_KEY.to_vec(), Some((id + 1).to_be_bytes()[..].into())),
            (codec::name_key(channel), Some(id.to_be_bytes()[..].into())),
            (codec::site_key(id), Some(site_id.as_bytes().into())),
            (codec::head_key(id), Some(codec::head_bytes(Head::default()).into())),
        ];
        self.engine.apply(channel, batch)?;
        Ok(channels.add(channel, id, Head::default()))
    }

    /// Deletes all keys of a channel that has no name any more.
    pub(super) fn sweep(&self, channel: &str, id: u64) -> Result<()> {
        loop {
            let found = self.engine.prefix(channel, &codec::channel_prefix(id))?.take(SWEEP_KEYS);
            let keys = found.map(|item| Ok((item?.0.as_ref().to_vec(), None)));
            let mut batch = keys.collect::<Result<Vec<_>>>()?;
            let is_last = batch.len() < SWEEP_KEYS;
            if is_last {
                batch.push((codec::doomed_key(id), None));
            }
            self.engine.apply(channel, batch)?;
            if is_last {
                return Ok(());
            }
        }
    }
}

impl<E: Engine> Channels<E> {
    fn add(&mut self, channel: &str, id: u64, head: Head) -> Arc<Shared<E::Bytes>> {
        if self.open.len() >= self.prune_at {
            self.open.retain(|_, shared| shared.strong_count() > 0);
            self.prune_at = MIN_PRUNE.max(2 * self.open.len());
        }
        let shared = Arc::new(Shared::new(id, head));
        self.open.insert(channel.into(), Arc::downgrade(&shared));
        shared
    }
}
