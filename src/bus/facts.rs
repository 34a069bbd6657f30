//! What comparing and answering read of the store. All of it blocks.

use std::sync::Arc;

use causeway_storage::{Digest, Position, StoreError};

use super::heard::HeardOf;
use super::hub::Hub;
use super::message::{MAX_HEARD, PageFacts, Pull, State};
use crate::outbox::PageStart;
use crate::page::{PageLimits, Readers, read_page};

/// How a channel stands here, and what was heard of other nodes; nothing at all if there is no such channel.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Its site id here.
    pub site_id: Option<Arc<str>>,
    /// Its version here.
    pub version: u64,
    /// Its digest here.
    pub digest: Digest,
    /// Up to which versions other nodes were heard.
    pub heard: HeardOf,
}

impl Facts {
    /// How the channel stands, to be told; of one that is not in use, all is taken as published.
    pub fn state(&self, channel: &Arc<str>, published: Option<u64>) -> State {
        let Some(site_id) = &self.site_id else { return State::absent(channel.clone()) };
        State {
            channel: channel.clone(),
            site_id: site_id.clone(),
            version: self.version,
            digest: self.digest,
            published: published.unwrap_or(self.version),
            heard: self.heard.latest(MAX_HEARD),
        }
    }
}

/// Reads how a channel stands.
pub fn read(readers: &Readers, channel: &Arc<str>) -> Result<Facts, StoreError> {
    let facts = readers.with(channel, |reader| {
        let heard = HeardOf::read(reader)?;
        let head = reader.head()?;
        let site_id = Some(reader.site_id()?.into());
        Ok(Facts { site_id, version: head.version, digest: head.digest, heard })
    });
    match facts {
        Err(StoreError::Missing { .. }) => Ok(Facts::default()),
        facts => facts,
    }
}

/// How a channel stands, to be told.
pub fn state(readers: &Readers, hub: &Hub, channel: &Arc<str>) -> Result<State, StoreError> {
    // Bound first: the lock is not to be held while the store is read.
    let active = hub.active().get(channel).filter(|active| active.heard.is_some()).cloned();
    match active {
        Some(active) => Ok(active.told()),
        None => {
            let facts = read(readers, channel)?;
            let published = hub.active().learn(channel, &facts);
            Ok(facts.state(channel, published))
        }
    }
}

/// The site id, the facts and the rows, as JSON, of the page that another node asks for. Where its question is of another
/// database than the one there is, or of versions that this one does not have, it gets the first page.
pub fn page(
    readers: &Readers,
    pull: &Pull,
    limits: PageLimits,
) -> Result<(String, PageFacts, bytes::Bytes), StoreError> {
    readers.with(&pull.channel, |reader| {
        let site_id = reader.site_id()?;
        // What is complete may well be above the last that was read: versions that were written over have nothing.
        let asked = pull.after.version.max(pull.complete);
        let is_ours = site_id == *pull.site_id && asked <= reader.head()?.version;
        let (after, from) = if is_ours { (pull.after, pull.complete) } else { (Position::default(), 0) };
        let start = PageStart { from: after, complete: from, has_versions: true };
        let (page, end) = read_page(reader, &pull.channel, start, limits)?;
        let facts = PageFacts {
            from,
            complete: end.tail.unwrap_or(end.complete),
            next: end.next,
            is_last: end.tail.is_some(),
        };
        Ok((site_id, facts, page.into_changes()))
    })
}
