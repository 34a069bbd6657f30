//! The sled backend: one database for all channels, whose keys begin with the channel's id.
//!
//! A writer's transaction is a batch in memory, which sled applies atomically with the channel's head in it. What a
//! failed write leaves in sled's memory is unknown, so the store then refuses everything until it is opened anew, by
//! which sled recovers the last whole batch.

mod channel;
mod codec;
mod engine;
mod reader;
mod snapshots;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use ::sled::Batch;

use crate::backend::{Backend, StoreOptions};
use crate::error::{Result, StoreError};
use crate::names;
use crate::store::{ChangeStore, ChannelReader, ChannelStore, Head, Listing, new_site_id};

use channel::SledChannel;
use engine::{ENGINE, Engine, corrupt};
use reader::SledReader;
use snapshots::Shared;

/// sled.
pub const BACKEND: Backend = Backend {
    name: "sled",
    about: "one sled database for all channels",
    persistent: true,
    open: |options| Ok(Arc::new(SledStore::open(options)?)),
};

/// How many keys one batch of a channel's removal takes.
const SWEEP_KEYS: usize = 1_000;

/// How many entries the table of open channels may have before those that nobody has open any more are dropped.
const MIN_PRUNE: usize = 1_024;

struct SledStore {
    engine: Arc<Engine>,
    channels: Mutex<Channels>,
}

/// The channels that have a handle, by name. Whoever makes or removes a channel holds the lock.
struct Channels {
    open: HashMap<Box<str>, Weak<Shared>>,
    prune_at: usize,
}

impl SledStore {
    fn open(options: &StoreOptions) -> Result<Self> {
        let channels = Mutex::new(Channels { open: HashMap::new(), prune_at: MIN_PRUNE });
        let store = SledStore { engine: Arc::new(Engine::open(options)?), channels };
        // What the last process did not come to the end of.
        for item in store.engine.prefix("", codec::DOOMED)? {
            let (key, _) = item?;
            if let Some(id) = codec::number(&key[codec::DOOMED.len()..]) {
                store.sweep("", id)?;
            }
        }
        Ok(store)
    }

    fn channels(&self) -> MutexGuard<'_, Channels> {
        self.channels.lock().expect("nothing panics while it holds this lock")
    }

    fn id(&self, channel: &str) -> Result<Option<u64>> {
        let Some(id) = self.engine.get(channel, &codec::name_key(channel))? else { return Ok(None) };
        codec::number(&id).map(Some).ok_or_else(|| corrupt(channel, "its id is not a number"))
    }

    /// What the handles of a channel share; `None` if there is no such channel.
    fn shared(&self, channels: &mut Channels, channel: &str) -> Result<Option<Arc<Shared>>> {
        if let Some(shared) = channels.open.get(channel).and_then(Weak::upgrade) {
            return Ok(Some(shared));
        }
        let Some(id) = self.id(channel)? else { return Ok(None) };
        let head = self.engine.get(channel, &codec::head_key(id))?;
        let head =
            head.and_then(|bytes| codec::head(&bytes)).ok_or_else(|| corrupt(channel, "it has no head"))?;
        Ok(Some(channels.add(channel, id, head)))
    }

    /// Makes a channel. It is durable after the next sync.
    fn make(&self, channels: &mut Channels, channel: &str, site_id: &str) -> Result<Arc<Shared>> {
        let next = self.engine.get(channel, codec::NEXT_ID_KEY)?;
        let id = next.map_or(Some(0), |bytes| codec::number(&bytes));
        let id = id.ok_or_else(|| corrupt(channel, "the next channel's id is not a number"))?;
        let mut batch = Batch::default();
        batch.insert(codec::NEXT_ID_KEY, &(id + 1).to_be_bytes());
        batch.insert(codec::name_key(channel), &id.to_be_bytes());
        batch.insert(codec::site_key(id), site_id.as_bytes());
        batch.insert(codec::head_key(id), codec::head_bytes(Head::default()));
        self.engine.apply(channel, batch)?;
        Ok(channels.add(channel, id, Head::default()))
    }

    /// Deletes all keys of a channel that has no name any more.
    fn sweep(&self, channel: &str, id: u64) -> Result<()> {
        loop {
            let mut batch = Batch::default();
            let mut keys = 0;
            for item in self.engine.prefix(channel, &codec::channel_prefix(id))?.take(SWEEP_KEYS) {
                batch.remove(item?.0);
                keys += 1;
            }
            if keys < SWEEP_KEYS {
                batch.remove(codec::doomed_key(id));
            }
            self.engine.apply(channel, batch)?;
            if keys < SWEEP_KEYS {
                return Ok(());
            }
        }
    }
}

impl Channels {
    fn add(&mut self, channel: &str, id: u64, head: Head) -> Arc<Shared> {
        if self.open.len() >= self.prune_at {
            self.open.retain(|_, shared| shared.strong_count() > 0);
            self.prune_at = MIN_PRUNE.max(2 * self.open.len());
        }
        let shared = Arc::new(Shared::new(id, head));
        self.open.insert(channel.into(), Arc::downgrade(&shared));
        shared
    }
}

impl ChangeStore for SledStore {
    fn open(&self, channel: &str) -> Result<Box<dyn ChannelStore>> {
        names::check(channel)?;
        let mut channels = self.channels();
        let found = self.shared(&mut channels, channel)?;
        let is_new = found.is_none();
        let shared = found.map_or_else(|| self.make(&mut channels, channel, &new_site_id()), Ok)?;
        // Others need not wait for the disk.
        drop(channels);
        if is_new {
            self.engine.sync(channel)?;
        }
        Ok(Box::new(SledChannel::open(Arc::clone(&self.engine), shared, channel)?))
    }

    fn create(&self, channel: &str, site_id: &str) -> Result<()> {
        names::check(channel)?;
        let mut channels = self.channels();
        if self.id(channel)?.is_some() {
            return Err(StoreError::Exists { channel: channel.into() });
        }
        self.make(&mut channels, channel, site_id)?;
        drop(channels);
        self.engine.sync(channel)
    }

    fn reader(&self, channel: &str) -> Result<Box<dyn ChannelReader>> {
        names::check(channel)?;
        let shared = self.shared(&mut self.channels(), channel)?.ok_or_else(|| no_such_channel(channel))?;
        Ok(Box::new(SledReader::new(Arc::clone(&self.engine), shared, channel)))
    }

    fn channels(&self) -> Result<Listing> {
        let name = |key: &[u8]| {
            let name = String::from_utf8(key[codec::NAMES.len()..].to_vec());
            name.map_err(|e| corrupt(&String::from_utf8_lossy(e.as_bytes()), "its name is not UTF-8"))
        };
        let mut listing = Listing::default();
        for item in self.engine.prefix("", codec::NAMES)? {
            match name(&item?.0) {
                Ok(name) => listing.names.push(name),
                Err(e) => listing.unreadable.push(e),
            }
        }
        Ok(listing)
    }

    fn remove(&self, channel: &str) -> Result<bool> {
        names::check(channel)?;
        let mut channels = self.channels();
        let Some(id) = self.id(channel)? else { return Ok(false) };
        let mut batch = Batch::default();
        batch.remove(codec::name_key(channel));
        batch.insert(codec::doomed_key(id), &[]);
        self.engine.apply(channel, batch)?;
        if let Some(shared) = channels.open.remove(channel).and_then(|shared| shared.upgrade()) {
            shared.remove();
        }
        drop(channels);
        self.sweep(channel, id)?;
        self.engine.sync(channel)?;
        Ok(true)
    }

    fn close(&self) -> Result<()> {
        self.engine.sync_to_disk("")
    }
}

/// There is nothing to read.
fn no_such_channel(channel: &str) -> StoreError {
    StoreError::Engine {
        channel: channel.into(),
        engine: ENGINE,
        doing: "opening it for reading",
        detail: "there is no such channel".into(),
    }
}
