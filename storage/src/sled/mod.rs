//! The sled backend: one database for all channels, whose keys begin with the channel's id.
//!
//! A writer's transaction is a batch in memory, which sled applies atomically with the channel's head in it. What a
//! failed write leaves in sled's memory is unknown, so the database is then closed, and opened again by whoever needs
//! it next: sled recovers the last whole batch.

mod channel;
mod codec;
mod current;
mod database;
mod engine;
mod reader;
mod snapshots;

use std::sync::Arc;

use ::sled::Batch;

use crate::backend::{Backend, StoreOptions};
use crate::error::{Result, StoreError};
use crate::names;
use crate::store::{ChangeStore, ChannelReader, ChannelStore, Listing, new_site_id};

use channel::SledChannel;
use current::{Current, Handle};
use database::Database;
use engine::corrupt;
use reader::SledReader;
use snapshots::Shared;

/// sled.
pub const BACKEND: Backend = Backend {
    name: "sled",
    about: "one sled database for all channels",
    persistent: true,
    tables: false,
    open: |options| Ok(Arc::new(SledStore::open(options)?)),
};

struct SledStore {
    current: Arc<Current>,
}

impl SledStore {
    fn open(options: &StoreOptions) -> Result<Self> {
        Ok(SledStore { current: Arc::new(Current::open(options)?) })
    }

    fn writer(
        &self,
        database: &Database,
        shared: Arc<Shared>,
        channel: &str,
    ) -> Result<Box<dyn ChannelStore>> {
        let site_id = database.engine.site_id(channel, shared.id)?;
        let handle = Handle::new(&self.current, database, shared, channel);
        Ok(Box::new(SledChannel::open(handle, site_id)?))
    }
}

impl ChangeStore for SledStore {
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
            database.engine.sync(channel)?;
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
        database.engine.sync(channel)
    }

    fn reader(&self, channel: &str) -> Result<Box<dyn ChannelReader>> {
        names::check(channel)?;
        let database = self.current.get(channel)?;
        let shared = database.shared(&mut database.channels(), channel)?;
        let shared = shared.ok_or_else(|| no_such_channel(channel))?;
        Ok(Box::new(SledReader::new(Handle::new(&self.current, &database, shared, channel))))
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
            match name(&item?.0) {
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
        let mut batch = Batch::default();
        batch.remove(codec::name_key(channel));
        if let Some(id) = id {
            batch.insert(codec::doomed_key(id), &[]);
        }
        database.engine.apply(channel, batch)?;
        if let Some(shared) = channels.open.remove(channel).and_then(|shared| shared.upgrade()) {
            shared.remove();
        }
        drop(channels);
        if let Some(id) = id {
            database.sweep(channel, id)?;
        }
        database.engine.sync(channel)?;
        Ok(true)
    }

    fn close(&self) -> Result<()> {
        self.current.get("")?.engine.sync_to_disk("")
    }
}

/// There is nothing to read.
fn no_such_channel(channel: &str) -> StoreError {
    StoreError::Missing { channel: channel.into() }
}
