//! The memory backend: for tests, benches, and to see what a relay costs without a disk. Its data lives as long as the
//! store. It makes no directory.

mod state;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::backend::Backend;
use crate::change::Position;
use crate::error::{Result, StoreError};
use crate::names;
use crate::store::{
    Cell, CellVisitor, ChangeStore, ChannelReader, ChannelStore, Head, Listing, OwnedCell, TableCounts,
    TrackedPeer, new_site_id,
};

use state::State;

/// Memory.
pub const BACKEND: Backend = Backend {
    name: "memory",
    about: "maps in memory, gone when the process ends",
    persistent: false,
    tables: false,
    log: None,
    crates: &[],
    keys: None,
    open: |_| Ok(Arc::new(MemoryStore::default())),
};

/// How many cells are taken under the lock at once.
const CHUNK_CELLS: usize = 256;

#[derive(Default)]
struct MemoryStore {
    channels: Mutex<BTreeMap<String, Arc<Channel>>>,
}

struct Channel {
    name: String,
    site_id: String,
    state: Mutex<State>,
}

impl MemoryStore {
    fn channels(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Channel>>> {
        self.channels.lock().expect("nothing panics while it holds this lock")
    }
}

impl ChangeStore for MemoryStore {
    fn open(&self, channel: &str) -> Result<Box<dyn ChannelStore>> {
        names::check(channel)?;
        let mut channels = self.channels();
        let channel = channels.entry(channel.into()).or_insert_with(|| Channel::new(channel, &new_site_id()));
        Ok(Box::new(MemoryChannel { head: channel.state().head, channel: Arc::clone(channel) }))
    }

    fn open_existing(&self, channel: &str) -> Result<Option<Box<dyn ChannelStore>>> {
        names::check(channel)?;
        let channel = self.channels().get(channel).cloned();
        Ok(channel.map(|channel| {
            let head = channel.state().head;
            Box::new(MemoryChannel { channel, head }) as Box<dyn ChannelStore>
        }))
    }

    fn create(&self, channel: &str, site_id: &str) -> Result<()> {
        names::check(channel)?;
        match self.channels().entry(channel.into()) {
            Entry::Occupied(_) => Err(StoreError::Exists { channel: channel.into() }),
            Entry::Vacant(vacant) => {
                vacant.insert(Channel::new(channel, site_id));
                Ok(())
            }
        }
    }

    fn reader(&self, channel: &str) -> Result<Box<dyn ChannelReader>> {
        names::check(channel)?;
        let channel = self.channels().get(channel).cloned().ok_or_else(|| no_such_channel(channel))?;
        Ok(Box::new(MemoryReader { channel }))
    }

    fn count(&self) -> Result<usize> {
        Ok(self.channels().len())
    }

    fn channels(&self) -> Result<Listing> {
        Ok(Listing { names: self.channels().keys().cloned().collect(), ..Listing::default() })
    }

    fn remove(&self, channel: &str) -> Result<bool> {
        names::check(channel)?;
        let removed = self.channels().remove(channel);
        if let Some(channel) = &removed {
            channel.state().removed = true;
        }
        Ok(removed.is_some())
    }

    fn close(&self) -> Result<()> {
        Ok(())
    }
}

impl Channel {
    fn new(name: &str, site_id: &str) -> Arc<Self> {
        Arc::new(Channel { name: name.into(), site_id: site_id.into(), state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }

    fn readable(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.removed { Err(no_such_channel(&self.name)) } else { Ok(state) }
    }
}

/// A channel's writer.
struct MemoryChannel {
    channel: Arc<Channel>,
    head: Head,
}

impl ChannelStore for MemoryChannel {
    fn site_id(&self) -> &str {
        &self.channel.site_id
    }

    fn head(&self) -> Head {
        self.head
    }

    fn begin(&mut self) -> Result<()> {
        Ok(())
    }

    fn row(&mut self, table: &str, pk: &str, visit: CellVisitor<'_>) -> Result<()> {
        let mut chunk: Vec<Arc<OwnedCell>> = Vec::new();
        loop {
            let after = chunk.last().map_or(Bound::Unbounded, |cell| Bound::Excluded(cell.cid.as_str()));
            let next = self.channel.state().row_after(table, pk, after).take(CHUNK_CELLS).cloned().collect();
            chunk = next;
            let visited = chunk.iter().try_for_each(|cell| visit(&cell.as_cell()));
            if chunk.is_empty() || visited.is_break() {
                return Ok(());
            }
        }
    }

    fn cell(&mut self, table: &str, pk: &str, cid: &str, visit: CellVisitor<'_>) -> Result<()> {
        let found = self.channel.state().cell(table, pk, cid).cloned();
        if let Some(cell) = found {
            let _ = visit(&cell.as_cell());
        }
        Ok(())
    }

    fn put(&mut self, cell: &Cell<'_>, old: Option<Position>) -> Result<()> {
        self.channel.state().put(cell, old);
        Ok(())
    }

    fn remove(&mut self, table: &str, pk: &str, cid: &str, old: Position) -> Result<()> {
        self.channel.state().remove(table, pk, cid, old);
        Ok(())
    }

    fn track(&mut self, peer: &TrackedPeer) -> Result<()> {
        self.channel.state().track(peer);
        Ok(())
    }

    fn forget_peers(&mut self, seen_s: u64, max: usize) -> Result<usize> {
        Ok(self.channel.state().forget_peers(seen_s, max))
    }

    fn commit(&mut self, head: Head) -> Result<()> {
        self.channel.state().commit(head);
        self.head = head;
        Ok(())
    }

    fn rollback(&mut self) {
        self.channel.state().rollback();
    }
}

impl Drop for MemoryChannel {
    fn drop(&mut self) {
        self.rollback();
    }
}

/// A channel's reader.
struct MemoryReader {
    channel: Arc<Channel>,
}

impl ChannelReader for MemoryReader {
    fn read(&mut self, after: Position, visit: CellVisitor<'_>) -> Result<Head> {
        let reading = Reading::begin(&self.channel)?;
        let end = Position::end_of(reading.head.version);
        let mut done = after;
        while done < end {
            let cells = reading.chunk(done, end)?;
            if cells.iter().try_for_each(|cell| visit(&cell.as_cell())).is_break() {
                break;
            }
            done = cells.last().map_or(end, |cell| cell.at);
        }
        Ok(reading.head)
    }

    fn head(&mut self) -> Result<Head> {
        Ok(self.channel.readable()?.head)
    }

    fn site_id(&mut self) -> Result<String> {
        Ok(self.channel.site_id.clone())
    }

    fn peers(&mut self) -> Result<Vec<TrackedPeer>> {
        Ok(self.channel.readable()?.peers())
    }

    fn check(&mut self) -> Result<()> {
        Ok(())
    }

    fn tables(&mut self, visit: &mut dyn FnMut(TableCounts)) -> Result<()> {
        // All of it is in memory anyway.
        let mut rows: BTreeMap<String, (BTreeSet<String>, TableCounts)> = BTreeMap::new();
        self.read(Position::default(), &mut |cell| {
            let (pks, counts) = rows.entry(cell.table.into()).or_default();
            counts.cells += 1;
            if cell.cl.is_multiple_of(2) {
                counts.deleted += 1;
            } else {
                pks.insert(cell.pk.into());
            }
            ControlFlow::Continue(())
        })?;
        for (table, (pks, counts)) in rows {
            visit(TableCounts { table, rows: pks.len() as u64, ..counts });
        }
        Ok(())
    }

    fn size_bytes(&mut self) -> Result<u64> {
        let mut bytes = 0;
        self.read(Position::default(), &mut |cell| {
            bytes += cell.bytes() as u64;
            ControlFlow::Continue(())
        })?;
        Ok(bytes)
    }
}

/// One commit, being read.
struct Reading<'a> {
    channel: &'a Channel,
    head: Head,
}

impl<'a> Reading<'a> {
    fn begin(channel: &'a Channel) -> Result<Self> {
        let head = channel.readable()?.begin_read();
        Ok(Reading { channel, head })
    }

    /// The next cells; none at the end.
    fn chunk(&self, after: Position, end: Position) -> Result<Vec<Arc<OwnedCell>>> {
        let state = self.channel.readable()?;
        Ok(state.cells_of(self.head.version, after, end).take(CHUNK_CELLS).cloned().collect())
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.channel.state().end_read(self.head.version);
    }
}

/// There is nothing to read.
fn no_such_channel(channel: &str) -> StoreError {
    StoreError::Missing { channel: channel.into() }
}
