//! What comparing and answering read of the store. All of it blocks.

use std::sync::Arc;

use causeway_storage::{ChangeStore, Digest, Position, StoreError};

use super::heard::HeardOf;
use super::hub::Hub;
use super::message::{PageFacts, Pull, State};
use crate::outbox::PageStart;
use crate::page::{PageLimits, read_page};

/// How a channel stands here, and what was heard of one other node; nothing at all if there is no such channel.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Its site id here.
    pub site_id: Option<Arc<str>>,
    /// Its version here.
    pub version: u64,
    /// Its digest here.
    pub digest: Digest,
    /// Up to which version the other node was heard.
    pub heard: u64,
}

/// Reads how a channel stands, and what was heard of the node where it has that site id.
pub fn read(store: &dyn ChangeStore, channel: &str, site_id: &str) -> Result<Facts, StoreError> {
    let mut reader = match store.reader(channel) {
        Ok(reader) => reader,
        Err(StoreError::Missing { .. }) => return Ok(Facts::default()),
        Err(e) => return Err(e),
    };
    let heard = HeardOf::read(reader.as_mut())?.of(site_id);
    let head = reader.head()?;
    let site_id = Some(reader.site_id()?.into());
    Ok(Facts { site_id, version: head.version, digest: head.digest, heard })
}

/// How a channel stands, to be told; `None` if there is nothing in it. Of one that is not in use, all is taken as published.
pub fn state(store: &dyn ChangeStore, hub: &Hub, channel: &str) -> Result<Option<State>, StoreError> {
    if let Some(active) = hub.active(channel) {
        return Ok(Some(active.state));
    }
    let facts = read(store, channel, "")?;
    let state = |site_id| State {
        channel: channel.into(),
        site_id,
        version: facts.version,
        digest: facts.digest,
        published: facts.version,
    };
    Ok(facts.site_id.filter(|_| facts.version > 0).map(state))
}

/// The site id, the facts and the rows, as JSON, of the page that another node asks for. Where its question is of another
/// database than the one there is, or of versions that this one does not have, it gets the first page.
pub fn page(
    store: &dyn ChangeStore,
    pull: &Pull,
    limits: PageLimits,
) -> Result<(String, PageFacts, bytes::Bytes), StoreError> {
    let mut reader = store.reader(&pull.channel)?;
    let site_id = reader.site_id()?;
    // What is complete may well be above the last that was read: versions that were written over have nothing.
    let is_ours = site_id == *pull.site_id && pull.after.version.max(pull.complete) <= reader.head()?.version;
    let (after, from) = if is_ours { (pull.after, pull.complete) } else { (Position::default(), 0) };
    let start = PageStart { from: after, complete: from, has_versions: true };
    let (page, end) = read_page(reader.as_mut(), start, limits)?;
    let facts = PageFacts {
        from,
        complete: end.tail.unwrap_or(end.complete),
        next: end.next,
        is_last: end.tail.is_some(),
    };
    Ok((site_id, facts, page.into_changes()))
}
