//! A channel's readers: ranges of positions up to the version that they began with.

use std::ops::Bound;

use super::codec;
use super::current::Handle;
use super::engine::{Engine, Pair};
use super::guarded::{Guarded, corrupt};
use super::no_such_channel;
use crate::change::{Position, SENTINEL};
use crate::error::Result;
use crate::store::{CellVisitor, ChannelReader, Head, TableCounts, TrackedPeer};

/// How many cells a reader takes from the database at once, and after how many bytes it takes no more.
const CHUNK_CELLS: usize = 128;
const CHUNK_BYTES: usize = 256 << 10;

pub(super) struct KvReader<E: Engine> {
    handle: Handle<E>,
}

impl<E: Engine> KvReader<E> {
    pub(super) fn new(handle: Handle<E>) -> Self {
        KvReader { handle }
    }
}

impl<E: Engine> ChannelReader for KvReader<E> {
    fn read(&mut self, after: Position, visit: CellVisitor<'_>) -> Result<Head> {
        let (database, _) = self.handle.database()?;
        let snapshot = self.handle.shared.snapshot().ok_or_else(|| no_such_channel(&self.handle.channel))?;
        let end = Position::end_of(snapshot.head.version);
        if after >= end {
            return Ok(snapshot.head);
        }
        let key = |at| codec::position_key(self.handle.shared.id, at);
        let (from, to) = (key(after), key(end));
        let (from, to) = (Bound::Excluded(&from[..]), Bound::Included(&to[..]));
        let mut found = database.engine.range(&self.handle.channel, from, to)?;
        let mut done = after;
        while done < end {
            let mut chunk = self.chunk(&mut found)?;
            let upto = chunk.last().map_or(end, |(at, _)| *at);
            let ghosts = snapshot.ghosts(done, upto);
            if !ghosts.is_empty() {
                chunk.extend(ghosts);
                chunk.sort_by_key(|(at, _)| *at);
                chunk.dedup_by_key(|(at, _)| *at);
            }
            if !snapshot.is_whole() {
                return Err(no_such_channel(&self.handle.channel));
            }
            for (at, bytes) in &chunk {
                let cell = codec::cell(*at, bytes.as_ref()).ok_or_else(|| self.corrupt(*at))?;
                if visit(&cell).is_break() {
                    return Ok(snapshot.head);
                }
            }
            done = upto;
        }
        Ok(snapshot.head)
    }

    fn head(&mut self) -> Result<Head> {
        self.handle.database()?;
        self.handle.shared.head().ok_or_else(|| no_such_channel(&self.handle.channel))
    }

    fn site_id(&mut self) -> Result<String> {
        let (database, _) = self.handle.database()?;
        database.engine.site_id(&self.handle.channel, self.handle.shared.id)
    }

    fn peers(&mut self) -> Result<Vec<TrackedPeer>> {
        let (database, _) = self.handle.database()?;
        let prefix = codec::peers_prefix(self.handle.shared.id);
        let peers = database.engine.prefix(&self.handle.channel, &prefix)?.map(|item| {
            let (key, value) = item?;
            codec::peer(key.as_ref(), value.as_ref())
                .ok_or_else(|| corrupt(&self.handle.channel, codec::UNREADABLE_PEER))
        });
        let mut peers = peers.collect::<Result<Vec<_>>>()?;
        peers.sort_unstable();
        Ok(peers)
    }

    /// Every cell's key leads to the cell, and every cell has its key, and its row the mark.
    fn check(&mut self) -> Result<()> {
        let (database, _) = self.handle.database()?;
        let (engine, channel, id) = (&database.engine, &self.handle.channel, self.handle.shared.id);
        for item in engine.prefix(channel, &codec::cells_prefix(id))? {
            self.check_key(engine, item?.0.as_ref())?;
        }
        for item in engine.prefix(channel, &codec::positions_prefix(id))? {
            self.check_cell(engine, item?.0.as_ref())?;
        }
        Ok(())
    }

    /// The keys of a row stand together, and so do the rows of a table.
    fn tables(&mut self, visit: &mut dyn FnMut(TableCounts)) -> Result<()> {
        let (database, _) = self.handle.database()?;
        let (engine, channel) = (&database.engine, &self.handle.channel);
        let unreadable = |what| corrupt(channel, format!("{what} cannot be read"));
        let mut counts = TableCounts::default();
        let mut row = String::new();
        for item in engine.prefix(channel, &codec::cells_prefix(self.handle.shared.id))? {
            let (key, at) = item?;
            let (table, pk, cid) = codec::names_in_key(key.as_ref()).ok_or_else(|| unreadable("a key"))?;
            let deleted = cid == SENTINEL && {
                let at = codec::position(at.as_ref()).ok_or_else(|| unreadable("a position"))?;
                let bytes = engine.get(channel, &codec::position_key(self.handle.shared.id, at))?;
                // Where there is none it has moved meanwhile.
                let cl = bytes.map(|bytes| codec::cell(at, bytes.as_ref()).map(|cell| cell.cl));
                cl.is_some_and(|cl| cl.is_some_and(|cl| cl.is_multiple_of(2)))
            };
            let new_table = counts.cells == 0 || counts.table != table;
            if new_table && counts.cells > 0 {
                visit(std::mem::take(&mut counts));
            }
            if new_table {
                counts.table.push_str(table);
            }
            if deleted {
                counts.deleted += 1;
            } else if new_table || row != pk || counts.rows == 0 {
                counts.rows += 1;
                row.clear();
                row.push_str(pk);
            }
            counts.cells += 1;
        }
        if counts.cells > 0 {
            visit(counts);
        }
        Ok(())
    }

    fn size_bytes(&mut self) -> Result<u64> {
        let (database, _) = self.handle.database()?;
        let prefix = codec::channel_prefix(self.handle.shared.id);
        let mut bytes = 0;
        for item in database.engine.prefix(&self.handle.channel, &prefix)? {
            let (key, value) = item?;
            bytes += (key.as_ref().len() + value.as_ref().len()) as u64;
        }
        Ok(bytes)
    }
}

impl<E: Engine> KvReader<E> {
    /// The next cells; none at the end.
    fn chunk(&self, found: &mut impl Iterator<Item = Result<Pair<E>>>) -> Result<Vec<(Position, E::Bytes)>> {
        let mut chunk = Vec::new();
        let mut bytes = 0;
        while chunk.len() < CHUNK_CELLS && bytes < CHUNK_BYTES {
            let Some(item) = found.next() else { break };
            let (key, value) = item?;
            let at = codec::position_in_key(key.as_ref())
                .ok_or_else(|| corrupt(&self.handle.channel, "a key cannot be read"))?;
            bytes += value.as_ref().len();
            chunk.push((at, value));
        }
        Ok(chunk)
    }

    /// A position is never used twice: a key that says the same before and after the look at its cell has not moved.
    fn check_key(&self, engine: &Guarded<E>, key: &[u8]) -> Result<()> {
        let Some(position) = engine.get(&self.handle.channel, key)? else { return Ok(()) };
        let cell_key =
            codec::position(position.as_ref()).map(|at| codec::position_key(self.handle.shared.id, at));
        let cell = cell_key.map(|key| engine.get(&self.handle.channel, &key)).transpose()?.flatten();
        if cell.is_none() && engine.get(&self.handle.channel, key)? == Some(position) {
            return Err(corrupt(&self.handle.channel, format!("a key leads to no cell: {key:?}")));
        }
        Ok(())
    }

    fn check_cell(&self, engine: &Guarded<E>, key: &[u8]) -> Result<()> {
        let Some(bytes) = engine.get(&self.handle.channel, key)? else { return Ok(()) };
        let unreadable = || corrupt(&self.handle.channel, format!("a cell cannot be read, at key {key:?}"));
        let at = codec::position_in_key(key).ok_or_else(unreadable)?;
        let cell = codec::cell(at, bytes.as_ref()).ok_or_else(unreadable)?;
        let id = self.handle.shared.id;
        let cell_key = codec::cell_key(id, cell.table, cell.pk, cell.cid).ok_or_else(unreadable)?;
        let row = codec::row_prefix(id, cell.table, cell.pk).ok_or_else(unreadable)?;
        let leads_here =
            |position: Option<E::Bytes>| position.is_some_and(|p| codec::position(p.as_ref()) == Some(at));
        if !leads_here(engine.get(&self.handle.channel, &cell_key)?)
            && engine.get(&self.handle.channel, key)?.is_some()
        {
            return Err(corrupt(&self.handle.channel, format!("no key leads to the cell at {at:?}")));
        }
        let is_marked = |mark: E::Bytes| {
            let mark = mark.as_ref();
            mark == codec::SCANNED || codec::cids(mark).any(|cid| cid == Some(cell.cid))
        };
        if E::MARKS_ROWS
            && !engine.get(&self.handle.channel, &codec::mark_key(row))?.is_some_and(is_marked)
            && engine.get(&self.handle.channel, key)?.is_some()
        {
            return Err(corrupt(
                &self.handle.channel,
                format!("the mark of its row does not name the cell at {at:?}"),
            ));
        }
        Ok(())
    }

    fn corrupt(&self, at: Position) -> crate::StoreError {
        corrupt(&self.handle.channel, format!("the cell at {at:?} cannot be read"))
    }
}
