//! The memory backend: for tests, benches, and to see what a relay costs without a disk. Its data lives as long as the
//! store. It makes no directory.
//!
//! A writer writes at once into the maps that readers read, at positions above the published version, where readers do
//! not look; what it takes away stays for those who read the version it was in. So a commit is one store of the head,
//! and a rollback takes back what lies above it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::change::{OwnedValue, Position};
use crate::error::{Result, StoreError};
use crate::names;
use crate::registry::Backend;
use crate::store::{
    Cell, CellVisitor, ChangeStore, ChannelReader, ChannelStore, Head, TrackedPeer, new_site_id,
};

/// Memory.
pub const BACKEND: Backend = Backend {
    name: "memory",
    about: "maps in memory, gone when the process ends",
    persistent: false,
    open: |_| Ok(Arc::new(MemoryStore::default())),
};

/// How many cells a reader takes under the lock at once.
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

#[derive(Default)]
struct State {
    head: Head,
    removed: bool,
    /// By position: the cells of the last commit, those that it took from readers of older ones, and those of the open
    /// transaction.
    cells: BTreeMap<Position, Entry>,
    /// The rows of each table, by pk.
    tables: BTreeMap<Box<str>, BTreeMap<Box<str>, Row>>,
    peers: BTreeMap<(String, u64, u8), u64>,
    /// What the open transaction took away that is in the last commit, and what it tracked.
    gone: Vec<Position>,
    tracked: BTreeMap<(String, u64, u8), u64>,
    /// What commits took away that readers still need.
    ghosts: Vec<Position>,
    /// How many readers are in the middle of which version.
    readers: BTreeMap<u64, usize>,
}

/// Where the cells of a row stand, by cid.
type Row = BTreeMap<Box<str>, Position>;

struct Entry {
    cell: Arc<OwnedCell>,
    /// The last version that has the cell.
    until: u64,
}

struct OwnedCell {
    table: Box<str>,
    pk: Box<str>,
    cid: Box<str>,
    val: OwnedValue,
    col_version: u64,
    site_id: Box<str>,
    cl: u64,
    at: Position,
}

impl OwnedCell {
    fn of(cell: &Cell<'_>) -> Self {
        OwnedCell {
            table: cell.table.into(),
            pk: cell.pk.into(),
            cid: cell.cid.into(),
            val: cell.val.to_owned(),
            col_version: cell.col_version,
            site_id: cell.site_id.into(),
            cl: cell.cl,
            at: cell.at,
        }
    }

    fn as_cell(&self) -> Cell<'_> {
        Cell {
            table: &self.table,
            pk: &self.pk,
            cid: &self.cid,
            val: self.val.as_value(),
            col_version: self.col_version,
            site_id: &self.site_id,
            cl: self.cl,
            at: self.at,
        }
    }
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
        let channel = channels.entry(channel.into()).or_insert_with(|| {
            Arc::new(Channel { name: channel.into(), site_id: new_site_id(), state: Mutex::default() })
        });
        Ok(Box::new(MemoryChannel { head: channel.state().head, channel: Arc::clone(channel) }))
    }

    fn reader(&self, channel: &str) -> Result<Box<dyn ChannelReader>> {
        names::check(channel)?;
        let channel = self.channels().get(channel).cloned().ok_or_else(|| no_such_channel(channel))?;
        Ok(Box::new(MemoryReader { channel }))
    }

    fn channels(&self) -> Result<Vec<String>> {
        Ok(self.channels().keys().cloned().collect())
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
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }

    fn readable(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.removed { Err(no_such_channel(&self.name)) } else { Ok(state) }
    }
}

impl State {
    fn put(&mut self, cell: &Cell<'_>, old: Option<Position>) {
        if let Some(old) = old {
            self.take_away(old);
        }
        // A row that is known needs no copy of its names.
        let rows = match self.tables.get_mut(cell.table) {
            Some(rows) => rows,
            None => self.tables.entry(cell.table.into()).or_default(),
        };
        let cells = match rows.get_mut(cell.pk) {
            Some(cells) => cells,
            None => rows.entry(cell.pk.into()).or_default(),
        };
        cells.insert(cell.cid.into(), cell.at);
        self.cells.insert(cell.at, Entry { cell: Arc::new(OwnedCell::of(cell)), until: u64::MAX });
    }

    /// Takes the cell's key away.
    fn forget(&mut self, table: &str, pk: &str, cid: &str) {
        let Some(rows) = self.tables.get_mut(table) else { return };
        let Some(cells) = rows.get_mut(pk) else { return };
        cells.remove(cid);
        if cells.is_empty() {
            rows.remove(pk);
        }
    }

    /// Takes the cell at `old` away, at once if no reader can have seen it.
    fn take_away(&mut self, old: Position) {
        if old.version > self.head.version {
            self.cells.remove(&old);
        } else if let Some(entry) = self.cells.get_mut(&old) {
            entry.until = self.head.version;
            self.gone.push(old);
        }
    }

    fn row(&self, table: &str, pk: &str) -> impl Iterator<Item = (&str, &Arc<OwnedCell>)> {
        let cells = self.tables.get(table).and_then(|rows| rows.get(pk)).into_iter().flatten();
        cells.map(|(cid, at)| (&**cid, &self.cells.get(at).expect("a key leads to its cell").cell))
    }

    fn commit(&mut self, head: Head) {
        debug_assert!(
            self.gone.is_empty() || head.version > self.head.version,
            "cells moved without a new version"
        );
        self.head = head;
        let (gone, tracked) = (std::mem::take(&mut self.gone), std::mem::take(&mut self.tracked));
        self.ghosts.extend(gone);
        self.peers.extend(tracked);
        self.purge();
    }

    fn rollback(&mut self) {
        self.tracked.clear();
        let written = self.cells.split_off(&Position { version: self.head.version + 1, seq: 0 });
        for entry in written.values() {
            self.forget(&entry.cell.table, &entry.cell.pk, &entry.cell.cid);
        }
        for at in std::mem::take(&mut self.gone) {
            let entry = self.cells.get_mut(&at).expect("what an open transaction took away is kept");
            entry.until = u64::MAX;
            let cell = Arc::clone(&entry.cell);
            self.put(&cell.as_cell(), None);
        }
    }

    /// Drops the cells that no reader needs, now or later.
    fn purge(&mut self) {
        let oldest = self.readers.keys().next().copied().unwrap_or(self.head.version);
        let cells = &mut self.cells;
        self.ghosts.retain(|at| {
            let needed = cells.get(at).is_some_and(|entry| entry.until >= oldest);
            if !needed {
                cells.remove(at);
            }
            needed
        });
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

    fn peers(&mut self) -> Result<Vec<TrackedPeer>> {
        let state = self.channel.state();
        let mut peers = state.peers.clone();
        peers.extend(state.tracked.clone());
        let peer = |((site_id, tag, event), version)| TrackedPeer { site_id, tag, event, version };
        Ok(peers.into_iter().map(peer).collect())
    }

    fn begin(&mut self) -> Result<()> {
        Ok(())
    }

    fn row(&mut self, table: &str, pk: &str, visit: CellVisitor<'_>) -> Result<()> {
        let cells: Vec<_> = self.channel.state().row(table, pk).map(|(_, cell)| Arc::clone(cell)).collect();
        let _ = cells.iter().try_for_each(|cell| visit(&cell.as_cell()));
        Ok(())
    }

    fn cell(&mut self, table: &str, pk: &str, cid: &str, visit: CellVisitor<'_>) -> Result<()> {
        let found =
            self.channel.state().row(table, pk).find(|(of, _)| *of == cid).map(|(_, c)| Arc::clone(c));
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
        let mut state = self.channel.state();
        state.forget(table, pk, cid);
        state.take_away(old);
        Ok(())
    }

    fn track(&mut self, peer: &TrackedPeer) -> Result<()> {
        let mut state = self.channel.state();
        let key = (peer.site_id.clone(), peer.tag, peer.event);
        let known = state.tracked.get(&key).or_else(|| state.peers.get(&key)).copied().unwrap_or(0);
        state.tracked.insert(key, known.max(peer.version));
        Ok(())
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
    fn read(&mut self, after: Position, visit: CellVisitor<'_>) -> Result<u64> {
        let reading = Reading::begin(&self.channel)?;
        let end = Position::end_of(reading.version);
        let mut done = after;
        while done < end {
            let cells = reading.chunk(done, end)?;
            if cells.iter().try_for_each(|cell| visit(&cell.as_cell())).is_break() {
                break;
            }
            done = cells.last().map_or(end, |cell| cell.at);
        }
        Ok(reading.version)
    }

    fn head(&mut self) -> Result<Head> {
        Ok(self.channel.readable()?.head)
    }
}

/// One commit, being read.
struct Reading<'a> {
    channel: &'a Channel,
    version: u64,
}

impl<'a> Reading<'a> {
    fn begin(channel: &'a Channel) -> Result<Self> {
        let mut state = channel.readable()?;
        let version = state.head.version;
        *state.readers.entry(version).or_default() += 1;
        Ok(Reading { channel, version })
    }

    /// The next cells; none at the end.
    fn chunk(&self, after: Position, end: Position) -> Result<Vec<Arc<OwnedCell>>> {
        let state = self.channel.readable()?;
        let range = state.cells.range((Bound::Excluded(after), Bound::Included(end)));
        let there = range.filter(|(_, entry)| entry.until >= self.version);
        Ok(there.take(CHUNK_CELLS).map(|(_, entry)| Arc::clone(&entry.cell)).collect())
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut state = self.channel.state();
        if let Some(count) = state.readers.get_mut(&self.version) {
            *count -= 1;
            if *count == 0 {
                state.readers.remove(&self.version);
                state.purge();
            }
        }
    }
}

/// There is nothing to read.
fn no_such_channel(channel: &str) -> StoreError {
    StoreError::Engine {
        channel: channel.into(),
        engine: "memory",
        doing: "opening it for reading",
        detail: "there is no such channel".into(),
    }
}
