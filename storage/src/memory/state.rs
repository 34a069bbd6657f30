//! What a channel holds, and how a writer and readers of it stay out of each other's way.
//!
//! A writer writes at once into the maps that readers read, at positions above the published version, where readers do
//! not look; what it takes away stays for those who read the version it was in. So a commit is one store of the head,
//! and a rollback takes back what lies above it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::change::Position;
use crate::store::{Cell, Head, OwnedCell, TrackedPeer};

#[derive(Default)]
pub(super) struct State {
    pub(super) head: Head,
    pub(super) removed: bool,
    /// By position: the cells of the last commit, those that it took from readers of older ones, and those of the open
    /// transaction.
    cells: BTreeMap<Position, Entry>,
    /// The rows of each table, by pk.
    tables: BTreeMap<Box<str>, BTreeMap<Box<str>, Row>>,
    peers: BTreeMap<PeerKey, Seen>,
    /// What the open transaction took away that is in the last commit, and what it tracked.
    gone: Vec<Position>,
    tracked: BTreeMap<PeerKey, Seen>,
    forgotten: Vec<PeerKey>,
    /// What commits took away that readers still need.
    ghosts: Vec<Position>,
    /// How many readers are in the middle of which version.
    readers: BTreeMap<u64, usize>,
}

/// Site, tag and event.
type PeerKey = (String, u64, u8);
/// The version, and when it was seen.
type Seen = (u64, u64);

/// Where the cells of a row stand, by cid.
type Row = BTreeMap<Box<str>, Position>;

struct Entry {
    cell: Arc<OwnedCell>,
    /// The last version that has the cell.
    until: u64,
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
        self.cells.insert(cell.at, Entry { cell: Arc::new(OwnedCell::from(cell)), until: u64::MAX });
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
        let peer = |((site_id, tag, event), (version, seen_s)): (&PeerKey, &Seen)| TrackedPeer {
            site_id: site_id.clone(),
            tag: *tag,
            event: *event,
            version: *version,
            seen_s: *seen_s,
        };
        self.peers.iter().map(peer).collect()
    }

    pub(super) fn track(&mut self, peer: &TrackedPeer) {
        let key = (peer.site_id.clone(), peer.tag, peer.event);
        let (version, seen_s) =
            self.tracked.get(&key).or_else(|| self.peers.get(&key)).copied().unwrap_or_default();
        self.tracked.insert(key, (version.max(peer.version), seen_s.max(peer.seen_s)));
    }

    pub(super) fn forget_peers(&mut self, seen_s: u64, max: usize) -> usize {
        let old = self.peers.iter().filter(|(_, (_, seen))| *seen < seen_s);
        self.forgotten = old.map(|(key, _)| key.clone()).take(max).collect();
        self.forgotten.len()
    }

    pub(super) fn remove(&mut self, table: &str, pk: &str, cid: &str, old: Position) {
        self.forget(table, pk, cid);
        self.take_away(old);
    }

    /// Begins to read the last commit; gives its head, whose version is for [`State::end_read`].
    pub(super) fn begin_read(&mut self) -> Head {
        *self.readers.entry(self.head.version).or_default() += 1;
        self.head
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
        for key in std::mem::take(&mut self.forgotten) {
            self.peers.remove(&key);
        }
        self.peers.extend(tracked);
        self.purge();
    }

    pub(super) fn rollback(&mut self) {
        self.tracked.clear();
        self.forgotten.clear();
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
