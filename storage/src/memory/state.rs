//! What a channel holds, and how a writer and readers of it stay out of each other's way.
//!
//! A writer writes at once into the maps that readers read, at positions above the published version, where readers do
//! not look; what it takes away stays for those who read the version it was in. So a commit is one store of the head,
//! and a rollback takes back what lies above it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::change::{OwnedValue, Position};
use crate::store::{Cell, Head, TrackedPeer};

#[derive(Default)]
pub(super) struct State {
    pub(super) head: Head,
    pub(super) removed: bool,
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

pub(super) struct OwnedCell {
    table: Box<str>,
    pk: Box<str>,
    pub(super) cid: Box<str>,
    val: OwnedValue,
    col_version: u64,
    site_id: Box<str>,
    cl: u64,
    pub(super) at: Position,
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

    pub(super) fn as_cell(&self) -> Cell<'_> {
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

impl State {
    pub(super) fn put(&mut self, cell: &Cell<'_>, old: Option<Position>) {
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

    /// The cells of a row after a `cid`, in order.
    pub(super) fn row_after(
        &self,
        table: &str,
        pk: &str,
        cid: Bound<&str>,
    ) -> impl Iterator<Item = &Arc<OwnedCell>> {
        let row = self.tables.get(table).and_then(|rows| rows.get(pk));
        row.into_iter()
            .flat_map(move |row| row.range::<str, _>((cid, Bound::Unbounded)))
            .map(|(_, at)| self.at(*at))
    }

    pub(super) fn cell(&self, table: &str, pk: &str, cid: &str) -> Option<&Arc<OwnedCell>> {
        let at = self.tables.get(table)?.get(pk)?.get(cid)?;
        Some(self.at(*at))
    }

    fn at(&self, at: Position) -> &Arc<OwnedCell> {
        &self.cells.get(&at).expect("a key leads to its cell").cell
    }

    /// The cells that version `version` has after `after` up to `end`, in order.
    pub(super) fn cells_of(
        &self,
        version: u64,
        after: Position,
        end: Position,
    ) -> impl Iterator<Item = &Arc<OwnedCell>> {
        let range = self.cells.range((Bound::Excluded(after), Bound::Included(end)));
        range.filter(move |(_, entry)| entry.until >= version).map(|(_, entry)| &entry.cell)
    }

    pub(super) fn peers(&self) -> Vec<TrackedPeer> {
        let mut peers = self.peers.clone();
        peers.extend(self.tracked.clone());
        let peer = |((site_id, tag, event), version)| TrackedPeer { site_id, tag, event, version };
        peers.into_iter().map(peer).collect()
    }

    pub(super) fn track(&mut self, peer: &TrackedPeer) {
        let key = (peer.site_id.clone(), peer.tag, peer.event);
        let known = self.tracked.get(&key).or_else(|| self.peers.get(&key)).copied().unwrap_or(0);
        self.tracked.insert(key, known.max(peer.version));
    }

    pub(super) fn remove(&mut self, table: &str, pk: &str, cid: &str, old: Position) {
        self.forget(table, pk, cid);
        self.take_away(old);
    }

    /// Begins to read the last commit; gives its version, for [`State::end_read`].
    pub(super) fn begin_read(&mut self) -> u64 {
        let version = self.head.version;
        *self.readers.entry(version).or_default() += 1;
        version
    }

    pub(super) fn end_read(&mut self, version: u64) {
        if let Some(count) = self.readers.get_mut(&version) {
            *count -= 1;
            if *count == 0 {
                self.readers.remove(&version);
                self.purge();
            }
        }
    }

    pub(super) fn commit(&mut self, head: Head) {
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

    pub(super) fn rollback(&mut self) {
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
