//! A store that fails once, when and where it is told to.

use std::sync::Mutex;

use causeway_storage::store::{CellVisitor, TrackedPeer};
use causeway_storage::{Cell, ChannelReader, Head, Position};

use super::*;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fails {
    AtOpen,
    AtBegin,
    AtLookup,
    AtCommit,
    /// The data is durable, and the store does not know.
    AfterCommit,
}

pub(super) struct Failing {
    inner: Arc<dyn ChangeStore>,
    next: Arc<Mutex<Option<Fails>>>,
}

struct FailingChannel {
    inner: Box<dyn ChannelStore>,
    next: Arc<Mutex<Option<Fails>>>,
}

type Result<T> = std::result::Result<T, StoreError>;

fn check(next: &Mutex<Option<Fails>>, here: Fails) -> Result<()> {
    let mut next = next.lock().unwrap();
    if *next == Some(here) {
        *next = None;
        let detail = "it was told to fail".into();
        return Err(StoreError::Engine { channel: "c".into(), engine: "failing", doing: "testing", detail });
    }
    Ok(())
}

impl Failing {
    pub(super) fn new(inner: Arc<dyn ChangeStore>) -> Self {
        Failing { inner, next: Arc::default() }
    }

    pub(super) fn fail(&self, fails: Fails) {
        *self.next.lock().unwrap() = Some(fails);
    }
}

impl ChangeStore for Failing {
    fn open(&self, channel: &str) -> Result<Box<dyn ChannelStore>> {
        check(&self.next, Fails::AtOpen)?;
        Ok(Box::new(FailingChannel { inner: self.inner.open(channel)?, next: self.next.clone() }))
    }

    fn create(&self, channel: &str, site_id: &str) -> Result<()> {
        self.inner.create(channel, site_id)
    }

    fn reader(&self, channel: &str) -> Result<Box<dyn ChannelReader>> {
        self.inner.reader(channel)
    }

    fn channels(&self) -> Result<causeway_storage::store::Listing> {
        self.inner.channels()
    }

    fn remove(&self, channel: &str) -> Result<bool> {
        self.inner.remove(channel)
    }

    fn close(&self) -> Result<()> {
        self.inner.close()
    }
}

impl ChannelStore for FailingChannel {
    fn site_id(&self) -> &str {
        self.inner.site_id()
    }

    fn head(&self) -> Head {
        self.inner.head()
    }

    fn begin(&mut self) -> Result<()> {
        check(&self.next, Fails::AtBegin)?;
        self.inner.begin()
    }

    fn row(&mut self, table: &str, pk: &str, visit: CellVisitor<'_>) -> Result<()> {
        check(&self.next, Fails::AtLookup)?;
        self.inner.row(table, pk, visit)
    }

    fn cell(&mut self, table: &str, pk: &str, cid: &str, visit: CellVisitor<'_>) -> Result<()> {
        self.inner.cell(table, pk, cid, visit)
    }

    fn put(&mut self, cell: &Cell<'_>, old: Option<Position>) -> Result<()> {
        self.inner.put(cell, old)
    }

    fn remove(&mut self, table: &str, pk: &str, cid: &str, old: Position) -> Result<()> {
        self.inner.remove(table, pk, cid, old)
    }

    fn track(&mut self, peer: &TrackedPeer) -> Result<()> {
        self.inner.track(peer)
    }

    fn forget_peers(&mut self, seen_s: u64, max: usize) -> Result<usize> {
        self.inner.forget_peers(seen_s, max)
    }

    fn commit(&mut self, head: Head) -> Result<()> {
        check(&self.next, Fails::AtCommit)?;
        self.inner.commit(head)?;
        check(&self.next, Fails::AfterCommit)
    }

    fn rollback(&mut self) {
        self.inner.rollback();
    }
}
