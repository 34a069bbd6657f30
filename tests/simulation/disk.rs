//! The server's disk: a store that outlives the server's crashes, fails when the seed says so, and tells the oracle what
//! is on it.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use causeway_storage::store::{CellVisitor, Listing, TrackedPeer};
use causeway_storage::{
    Cell, ChangeStore, ChannelReader, ChannelStore, Head, OwnedCell, Position, StoreError, TableCounts,
};

use crate::oracle::Oracle;
use crate::random::Random;

type Result<T> = std::result::Result<T, StoreError>;

/// How often a disk fails, of 1000.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trouble {
    pub(crate) opens: u64,
    pub(crate) commits: u64,
    pub(crate) pages: u64,
}

#[derive(Clone)]
pub(crate) struct Disk {
    inner: Arc<dyn ChangeStore>,
    oracle: Oracle,
    luck: Arc<Mutex<Luck>>,
}

struct Luck {
    random: Random,
    trouble: Trouble,
}

/// What becomes of a transaction.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Good,
    FailsAtBegin,
    FailsAtLookup,
    FailsAtPut,
    FailsAtCommit,
    /// The data is durable, and the store does not know.
    FailsAfterCommit,
}

impl Disk {
    pub(crate) fn new(inner: Arc<dyn ChangeStore>, oracle: Oracle, random: Random) -> Self {
        let luck = Luck { random, trouble: Trouble::default() };
        Disk { inner, oracle, luck: Arc::new(Mutex::new(luck)) }
    }

    pub(crate) fn set_trouble(&self, trouble: Trouble) {
        self.luck.lock().unwrap().trouble = trouble;
    }

    /// What is on it, read without any trouble.
    pub(crate) fn contents(&self) -> &dyn ChangeStore {
        self.inner.as_ref()
    }

    fn fails(&self, chance: impl FnOnce(Trouble) -> u64, what: &'static str) -> Result<()> {
        let mut luck = self.luck.lock().unwrap();
        let chance = chance(luck.trouble);
        if !luck.random.permille(chance) {
            return Ok(());
        }
        drop(luck);
        self.oracle.count(what);
        Err(failed(what))
    }

    fn writer(&self, inner: Box<dyn ChannelStore>, channel: &str) -> Box<dyn ChannelStore> {
        let (channel, disk) = (channel.to_owned(), self.clone());
        let (written, removed) = (Vec::new(), Vec::new());
        Box::new(DiskChannel { inner, disk, channel, fate: Fate::Good, written, removed })
    }

    fn fate(&self) -> Fate {
        let mut luck = self.luck.lock().unwrap();
        let chance = luck.trouble.commits;
        if !luck.random.permille(chance) {
            return Fate::Good;
        }
        luck.random.pick(&[
            Fate::FailsAtBegin,
            Fate::FailsAtLookup,
            Fate::FailsAtPut,
            Fate::FailsAtCommit,
            Fate::FailsAfterCommit,
            Fate::FailsAfterCommit,
        ])
    }
}

fn failed(doing: &'static str) -> StoreError {
    StoreError::Engine { channel: String::new(), engine: "simulated", doing, detail: "bad luck".into() }
}

impl ChangeStore for Disk {
    fn open(&self, channel: &str) -> Result<Box<dyn ChannelStore>> {
        self.fails(|trouble| trouble.opens, "failed opens")?;
        Ok(self.writer(self.inner.open(channel)?, channel))
    }

    fn open_existing(&self, channel: &str) -> Result<Option<Box<dyn ChannelStore>>> {
        self.fails(|trouble| trouble.opens, "failed opens")?;
        Ok(self.inner.open_existing(channel)?.map(|inner| self.writer(inner, channel)))
    }

    fn create(&self, channel: &str, site_id: &str) -> Result<()> {
        self.inner.create(channel, site_id)
    }

    fn reader(&self, channel: &str) -> Result<Box<dyn ChannelReader>> {
        Ok(Box::new(DiskReader { inner: self.inner.reader(channel)?, disk: self.clone() }))
    }

    fn count(&self) -> Result<usize> {
        self.inner.count()
    }

    fn channels(&self) -> Result<Listing> {
        self.inner.channels()
    }

    fn remove(&self, channel: &str) -> Result<bool> {
        self.inner.remove(channel)
    }

    fn close(&self) -> Result<()> {
        self.inner.close()
    }
}

struct DiskChannel {
    inner: Box<dyn ChannelStore>,
    disk: Disk,
    channel: String,
    fate: Fate,
    /// What the open transaction has written, and the pk and cid of what it has removed.
    written: Vec<OwnedCell>,
    removed: Vec<(String, String)>,
}

impl DiskChannel {
    fn check(&mut self, here: Fate) -> Result<()> {
        if self.fate != here {
            return Ok(());
        }
        self.fate = Fate::Good;
        let after = here == Fate::FailsAfterCommit;
        self.disk.oracle.count(if after {
            "commits that failed after all was done"
        } else {
            "failed commits"
        });
        self.disk.oracle.trace(|| format!("disk {}: {here:?}", self.channel));
        Err(failed("writing"))
    }
}

impl ChannelStore for DiskChannel {
    fn site_id(&self) -> &str {
        self.inner.site_id()
    }

    fn head(&self) -> Head {
        self.inner.head()
    }

    fn begin(&mut self) -> Result<()> {
        self.fate = self.disk.fate();
        self.written.clear();
        self.removed.clear();
        self.check(Fate::FailsAtBegin)?;
        self.inner.begin()
    }

    fn row(&mut self, table: &str, pk: &str, visit: CellVisitor<'_>) -> Result<()> {
        self.check(Fate::FailsAtLookup)?;
        self.inner.row(table, pk, visit)
    }

    fn cell(&mut self, table: &str, pk: &str, cid: &str, visit: CellVisitor<'_>) -> Result<()> {
        self.inner.cell(table, pk, cid, visit)
    }

    fn put(&mut self, cell: &Cell<'_>, old: Option<Position>) -> Result<()> {
        self.written.push(OwnedCell::from(cell));
        self.inner.put(cell, old)?;
        self.check(Fate::FailsAtPut)
    }

    fn remove(&mut self, table: &str, pk: &str, cid: &str, old: Position) -> Result<()> {
        self.removed.push((pk.into(), cid.into()));
        self.inner.remove(table, pk, cid, old)
    }

    fn track(&mut self, peer: &TrackedPeer) -> Result<()> {
        self.inner.track(peer)
    }

    fn forget_peers(&mut self, seen_s: u64, max: usize) -> Result<usize> {
        self.inner.forget_peers(seen_s, max)
    }

    fn commit(&mut self, head: Head) -> Result<()> {
        self.check(Fate::FailsAtCommit)?;
        self.inner.commit(head)?;
        self.disk.oracle.trace(|| format!("disk {}: version {}", self.channel, head.version));
        self.disk.oracle.committed(&self.channel, head.version, &self.written, &self.removed);
        self.check(Fate::FailsAfterCommit)
    }

    fn rollback(&mut self) {
        self.inner.rollback();
    }
}

struct DiskReader {
    inner: Box<dyn ChannelReader>,
    disk: Disk,
}

impl ChannelReader for DiskReader {
    fn read(&mut self, after: Position, visit: CellVisitor<'_>) -> Result<Head> {
        let fails = self.disk.fails(|trouble| trouble.pages, "failed pages");
        // It fails in the middle.
        let mut cells = if fails.is_err() { 2 } else { usize::MAX };
        let head = self.inner.read(after, &mut |cell| {
            cells -= 1;
            if cells == 0 { ControlFlow::Break(()) } else { visit(cell) }
        })?;
        fails.map(|()| head)
    }

    fn head(&mut self) -> Result<Head> {
        self.inner.head()
    }

    fn site_id(&mut self) -> Result<String> {
        self.inner.site_id()
    }

    fn peers(&mut self) -> Result<Vec<TrackedPeer>> {
        self.inner.peers()
    }

    fn check(&mut self) -> Result<()> {
        self.inner.check()
    }

    fn tables(&mut self, visit: &mut dyn FnMut(TableCounts)) -> Result<()> {
        self.inner.tables(visit)
    }

    fn size_bytes(&mut self) -> Result<u64> {
        self.inner.size_bytes()
    }
}
