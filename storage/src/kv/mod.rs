//! A store over an embedded key-value engine: one database for all channels, whose keys begin with the channel's id. The engine
//! is an [`Engine`]; all else is written once, here.
//!
//! A writer's transaction is a batch in memory, which the engine applies atomically with the channel's head in it. What a failed
//! write leaves in the engine's memory is unknown, so the database is then closed, and opened again by whoever needs it next
//! ([`current`]).

mod channel;
mod codec;
mod current;
mod database;
mod engine;
mod guarded;
mod raw;
mod reader;
mod snapshots;

use std::sync::Arc;

use crate::backend::{Backend, StoreOptions};
use crate::error::{Result, StoreError};
use crate::names;
use crate::store::{ChangeStore, ChannelReader, ChannelStore, Listing, new_site_id};

use channel::KvChannel;
use current::{Current, Handle};
use database::Database;
pub(crate) use engine::{Engine, Failure, Pair, Write};
use guarded::corrupt;
use reader::KvReader;
use snapshots::Shared;

/// The backend that an engine makes.
pub(crate) const fn backend<E: Engine>(about: &'static str) -> Backend {
    Backend {
        name: E::NAME,
        about,
        persistent: true,
        tables: false,
        log: None,
        crates: &[],
        keys: Some(raw::open::<E>),
        open: |options| Ok(Arc::new(KvStore::<E>::open(options)?)),
    }
}

struct KvStore<E: Engine> {
    current: Arc<Current<E>>,
}

impl<E: Engine> KvStore<E> {
    fn open(options: &StoreOptions) -> Result<Self> {
        Ok(KvStore { current: Arc::new(Current::open(options)?) })
    }

    fn writer(
        &self,
        database: &Database<E>,
        shared: Arc<Shared<E::Bytes>>,
        channel: &str,
    ) -> Result<Box<dyn ChannelStore>> {
        let site_id = database.engine.site_id(channel, shared.id)?;
        let handle = Handle::new(&self.current, database, shared, channel);
        Ok(Box::new(KvChannel::open(handle, site_id)?))
    }
}

impl<E: Engine> ChangeStore for KvStore<E> {
    fn open(&self, channel: &str) -> Result<Box<dyn ChannelStore>> {
        names::check(channel)?;
        let database = self.current.get(channel)?;
        let mut channels = database.channels();
        let found = database.shared(&mut channels, channel)?;
        let is_new = found.is_none();
        let shared = found.map_or_else(|| database.make(&mut channels, channel, &new_site_id()), Ok)?;
        // Others need not wait for the disk.
        drop(channels);
        if is_new {
            database.engine.persist(channel)?;
        }
        self.writer(&database, shared, channel)
    }

    fn open_existing(&self, channel: &str) -> Result<Option<Box<dyn ChannelStore>>> {
        names::check(channel)?;
        let database = self.current.get(channel)?;
        let found = database.shared(&mut database.channels(), channel)?;
        found.map(|shared| self.writer(&database, shared, channel)).transpose()
    }

    fn create(&self, channel: &str, site_id: &str) -> Result<()> {
        names::check(channel)?;
        let database = self.current.get(channel)?;
        let mut channels = database.channels();
        if database.id(channel)?.is_some() {
            return Err(StoreError::Exists { channel: channel.into() });
        }
        database.make(&mut channels, channel, site_id)?;
        drop(channels);
        database.engine.persist(channel)
    }

    fn reader(&self, channel: &str) -> Result<Box<dyn ChannelReader>> {
        names::check(channel)?;
        let database = self.current.get(channel)?;
        let shared = database.shared(&mut database.channels(), channel)?;
        let shared = shared.ok_or_else(|| no_such_channel(channel))?;
        Ok(Box::new(KvReader::new(Handle::new(&self.current, &database, shared, channel))))
    }

    fn count(&self) -> Result<usize> {
        let mut count = 0;
        for item in self.current.get("")?.engine.prefix("", codec::NAMES)? {
            item?;
            count += 1;
        }
        Ok(count)
    }

    fn channels(&self) -> Result<Listing> {
        let name = |key: &[u8]| {
            let name = String::from_utf8(key[codec::NAMES.len()..].to_vec());
            name.map_err(|e| corrupt(&String::from_utf8_lossy(e.as_bytes()), "its name is not UTF-8"))
        };
        let mut listing = Listing::default();
        for item in self.current.get("")?.engine.prefix("", codec::NAMES)? {
            match name(item?.0.as_ref()) {
                Ok(name) => listing.names.push(name),
                Err(e) => listing.unreadable.push(e),
            }
        }
        Ok(listing)
    }

    fn remove(&self, channel: &str) -> Result<bool> {
        names::check(channel)?;
        let database = self.current.get(channel)?;
        let mut channels = database.channels();
        let id = match database.id(channel) {
            Ok(None) => return Ok(false),
            Ok(id) => id,
            // Nobody can tell which keys are its own; without its name none of them is found.
            Err(StoreError::Corrupt { .. }) => None,
            Err(e) => return Err(e),
        };
        let mut batch = vec![(codec::name_key(channel), None)];
        if let Some(id) = id {
            batch.push((codec::doomed_key(id), Some(Vec::new().into())));
        }
        database.engine.apply(channel, batch)?;
        if let Some(shared) = channels.open.remove(channel).and_then(|shared| shared.upgrade()) {
            shared.remove();
        }
        drop(channels);
        if let Some(id) = id {
            database.sweep(channel, id)?;
        }
        database.engine.persist(channel)?;
        Ok(true)
    }

    fn close(&self) -> Result<()> {
        self.current.get("")?.engine.sync("")
    }
}

/// There is nothing to read.
fn no_such_channel(channel: &str) -> StoreError {
    StoreError::Missing { channel: channel.into() }
}
