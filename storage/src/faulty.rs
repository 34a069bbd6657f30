//! A store that fails on command, around one that does not: for tests of what a failing disk does to everybody else.
//! It is in no registry.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::change::Position;
use crate::error::{Result, StoreError};
use crate::store::{
    Cell, CellVisitor, ChangeStore, ChannelReader, ChannelStore, Head, Listing, RemadeTable, TableCounts,
    TrackedPeer,
};

/// Where a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// A channel is opened for writing.
    Open,
    /// A transaction begins.
    Begin,
    /// A row or a cell is looked up.
    Lookup,
    /// A cell is written or removed.
    Put,
    /// A commit, before anything of it is durable.
    Commit,
    /// A commit that is durable, and the caller is told that it failed.
    Committed,
    /// A page is read.
    Read,
}

/// What a fault does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The engine reports an I/O error.
    Engine,
    /// The engine reports a full disk.
    Full,
    /// The engine finds the channel corrupt.
    Corrupt,
    /// It takes that long, and then works.
    Slow(Duration),
    /// It takes until [`Faults::release`], and then works.
    Held,
}

/// The command over a [`Faulty`]; clones command the same store.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    set: Vec<Set>,
    /// How many wait for the next release, and how many releases there were.
    held: usize,
    releases: u64,
}

#[derive(Debug)]
struct Set {
    channel: Option<Box<str>>,
    at: At,
    fault: Fault,
    /// How often it strikes yet; `None`: until it is cleared.
    left: Option<usize>,
}

impl Faults {
    /// The next `times` (`None`: all until [`Faults::clear`]) at `at` meet the fault, of that channel or of all. Of
    /// several, the one that was set first strikes first.
    pub fn set(&self, channel: Option<&str>, at: At, fault: Fault, times: Option<usize>) {
        self.lock().set.push(Set { channel: channel.map(Into::into), at, fault, left: times });
    }

    /// The next of the channel at `at` meets the fault.
    pub fn once(&self, channel: &str, at: At, fault: Fault) {
        self.set(Some(channel), at, fault, Some(1));
    }

    /// Takes all faults back that have not struck.
    pub fn clear(&self) {
        self.lock().set.clear();
    }

    /// Whether a fault waits to strike.
    pub fn are_set(&self) -> bool {
        !self.lock().set.is_empty()
    }

    /// Waits until somebody is [`Fault::Held`].
    pub fn wait_held(&self) {
        let waiting = self.0.changed.wait_while(self.lock(), |state| state.held == 0);
        drop(waiting.unwrap_or_else(PoisonError::into_inner));
    }

    /// Lets all go on that are [`Fault::Held`].
    pub fn release(&self) {
        let mut state = self.lock();
        (state.held, state.releases) = (0, state.releases + 1);
        self.0.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Meets the first fault that is set for here, if any.
    fn meet(&self, channel: &str, here: At) -> Result<()> {
        let mut state = self.lock();
        let strikes = |set: &Set| set.at == here && set.channel.as_deref().is_none_or(|only| only == channel);
        let Some(place) = state.set.iter().position(strikes) else { return Ok(()) };
        let fault = state.set[place].fault;
        if let Some(left) = &mut state.set[place].left {
            *left -= 1;
            if *left == 0 {
                state.set.remove(place);
            }
        }
        let (channel, engine, doing) = (channel.to_owned(), "faulty", "doing as it was told");
        Err(match fault {
            Fault::Engine => StoreError::Engine { channel, engine, doing, detail: "disk I/O error".into() },
            Fault::Full => {
                StoreError::Full { channel, engine, doing, detail: "database or disk is full".into() }
            }
            Fault::Corrupt => {
                StoreError::Corrupt { channel, detail: "database disk image is malformed".into() }
            }
            Fault::Slow(time) => {
                drop(state);
                thread::sleep(time);
                return Ok(());
            }
            Fault::Held => {
                let releases = state.releases;
                state.held += 1;
                self.0.changed.notify_all();
                let released = self.0.changed.wait_while(state, |state| state.releases == releases);
                drop(released.unwrap_or_else(PoisonError::into_inner));
                return Ok(());
            }
        })
    }
}

/// The store. What its [`Faults`] do not strike is done by the inner one.
pub struct Faulty {
    inner: Arc<dyn ChangeStore>,
    faults: Faults,
}

impl Faulty {
    /// A store over `inner` that does as `faults` says.
    pub fn new(inner: Arc<dyn ChangeStore>, faults: Faults) -> Self {
        Faulty { inner, faults }
    }
}

/// A writer or a reader of a channel, and the faults that await it.
struct Channel<T: ?Sized> {
    inner: Box<T>,
    name: Box<str>,
    faults: Faults,
}

impl<T: ?Sized> Channel<T> {
    fn meet(&self, here: At) -> Result<()> {
        self.faults.meet(&self.name, here)
    }
}

impl ChangeStore for Faulty {
    fn open(&self, channel: &str) -> Result<Box<dyn ChannelStore>> {
        self.faults.meet(channel, At::Open)?;
        let inner = self.inner.open(channel)?;
        Ok(Box::new(Channel { inner, name: channel.into(), faults: self.faults.clone() }))
    }

    fn open_existing(&self, channel: &str) -> Result<Option<Box<dyn ChannelStore>>> {
        self.faults.meet(channel, At::Open)?;
        let inner = self.inner.open_existing(channel)?;
        let (name, faults) = (channel.into(), self.faults.clone());
        Ok(inner.map(|inner| Box::new(Channel { inner, name, faults }) as Box<dyn ChannelStore>))
    }

    fn create(&self, channel: &str, site_id: &str) -> Result<()> {
        self.inner.create(channel, site_id)
    }

    fn reader(&self, channel: &str) -> Result<Box<dyn ChannelReader>> {
        let inner = self.inner.reader(channel)?;
        Ok(Box::new(Channel { inner, name: channel.into(), faults: self.faults.clone() }))
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

impl ChannelStore for Channel<dyn ChannelStore> {
    fn site_id(&self) -> &str {
        self.inner.site_id()
    }

    fn head(&self) -> Head {
        self.inner.head()
    }

    fn begin(&mut self) -> Result<()> {
        self.meet(At::Begin)?;
        self.inner.begin()
    }

    fn row(&mut self, table: &str, pk: &str, visit: CellVisitor<'_>) -> Result<()> {
        self.meet(At::Lookup)?;
        self.inner.row(table, pk, visit)
    }

    fn cell(&mut self, table: &str, pk: &str, cid: &str, visit: CellVisitor<'_>) -> Result<()> {
        self.meet(At::Lookup)?;
        self.inner.cell(table, pk, cid, visit)
    }

    fn put(&mut self, cell: &Cell<'_>, old: Option<Position>) -> Result<()> {
        self.meet(At::Put)?;
        self.inner.put(cell, old)
    }

    fn remove(&mut self, table: &str, pk: &str, cid: &str, old: Position) -> Result<()> {
        self.meet(At::Put)?;
        self.inner.remove(table, pk, cid, old)
    }

    fn track(&mut self, peer: &TrackedPeer) -> Result<()> {
        self.inner.track(peer)
    }

    fn forget_peers(&mut self, seen_s: u64, max: usize) -> Result<usize> {
        self.inner.forget_peers(seen_s, max)
    }

    fn remake_tables(&mut self) -> Result<Option<Vec<RemadeTable>>> {
        self.inner.remake_tables()
    }

    fn commit(&mut self, head: Head) -> Result<()> {
        self.meet(At::Commit)?;
        self.inner.commit(head)?;
        self.meet(At::Committed)
    }

    fn rollback(&mut self) {
        self.inner.rollback();
    }
}

impl ChannelReader for Channel<dyn ChannelReader> {
    fn read(&mut self, after: Position, visit: CellVisitor<'_>) -> Result<Head> {
        self.meet(At::Read)?;
        self.inner.read(after, visit)
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
        self.meet(At::Read)?;
        self.inner.tables(visit)
    }

    fn size_bytes(&mut self) -> Result<u64> {
        self.inner.size_bytes()
    }
}
