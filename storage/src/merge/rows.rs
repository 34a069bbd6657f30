//! The rows that a group commit touches, in memory: loaded once, changed by the rule, written once.

use std::borrow::Cow;
use std::hash::BuildHasher;
use std::ops::ControlFlow;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::change::{Change, OwnedValue, Position, SENTINEL, Value};
use crate::digest::cell_hash;
use crate::error::Result;
use crate::store::{Cell, ChannelStore, Head, cell_bytes};

/// Cells that are loaded with their row; of a wider row the others are looked up one by one. Most rows are read with
/// one look-up so, and a row of a million cells costs no more than one of this many.
const ROW_LOAD_MAX_CELLS: usize = 64;

/// The `seq` of a sentinel that nobody sent, until the winners of its update have theirs.
const UNPLACED_SEQ: u64 = u64::MAX;

/// The end of a row's list of cells.
const NONE: usize = usize::MAX;

pub(super) struct Rows<'a> {
    rows: Vec<Row<'a>>,
    cells: Vec<CellState<'a>>,
    row_index: HashTable<usize>,
    cell_index: HashTable<usize>,
    hasher: RandomState,
    /// `None` where nothing need be taken back.
    undo: Option<Vec<Undo<'a>>>,
}

struct Row<'a> {
    table: &'a str,
    pk: &'a str,
    /// The row's causal length.
    cl: u64,
    /// Whether all its cells are known here.
    complete: bool,
    /// The list of its known cells, linked by [`CellState::next`].
    first: usize,
}

struct CellState<'a> {
    row: usize,
    cid: Cow<'a, str>,
    next: usize,
    /// Where the store has the cell, if it has it.
    stored: Option<Position>,
    now: State<'a>,
}

enum State<'a> {
    Absent,
    /// As the store has it.
    Loaded {
        col_version: u64,
        val: OwnedValue,
        hash: u128,
        bytes: u64,
    },
    /// A change won it.
    Won {
        change: Change<'a>,
        hash: u128,
        bytes: u64,
        at: Position,
    },
}

impl<'a> CellState<'a> {
    fn clock(&self) -> Option<(u64, Value<'_>)> {
        match &self.now {
            State::Absent => None,
            State::Loaded { col_version, val, .. } => Some((*col_version, val.as_value())),
            State::Won { change, .. } => Some((change.col_version, change.val)),
        }
    }

    /// Replaces the state, and keeps digest and size in step; gives the one before.
    fn set(&mut self, now: State<'a>, head: &mut Head) -> State<'a> {
        let weight = |state: &State<'_>| match state {
            State::Absent => None,
            State::Loaded { hash, bytes, .. } | State::Won { hash, bytes, .. } => Some((*hash, *bytes)),
        };
        if let Some((hash, bytes)) = weight(&self.now) {
            head.digest.sub(hash);
            head.size.sub(bytes);
        }
        if let Some((hash, bytes)) = weight(&now) {
            head.digest.add(hash);
            head.size.add(bytes);
        }
        std::mem::replace(&mut self.now, now)
    }
}

/// What an update has changed, to be taken back if it makes the channel too large.
enum Undo<'a> {
    Cell(usize, State<'a>),
    RowCl(usize, u64),
}

impl<'a> Rows<'a> {
    pub(super) fn with_capacity(changes: usize) -> Self {
        Rows {
            rows: Vec::with_capacity(changes),
            cells: Vec::with_capacity(changes),
            row_index: HashTable::with_capacity(changes),
            cell_index: HashTable::with_capacity(changes),
            hasher: RandomState::default(),
            undo: None,
        }
    }

    /// The causal length of a row, and the clock and value of a cell of it.
    pub(super) fn clocks(&self, row: usize, cell: usize) -> (u64, Option<(u64, Value<'_>)>) {
        (self.rows[row].cl, self.cells[cell].clock())
    }

    /// Finds the row of a change, loaded if it is new here.
    pub(super) fn find_row(&mut self, store: &mut dyn ChannelStore, change: &Change<'a>) -> Result<usize> {
        let (table, pk) = (change.table, change.pk);
        let is_it = |row: &Row<'_>| row.pk == pk && row.table == table;
        // The cells of a row mostly come one after the other.
        if self.rows.last().is_some_and(is_it) {
            return Ok(self.rows.len() - 1);
        }
        let hash = self.hasher.hash_one((table, pk));
        if let Some(&row) = self.row_index.find(hash, |&i| is_it(&self.rows[i])) {
            return Ok(row);
        }
        let row = self.rows.len();
        self.rows.push(Row { table, pk, cl: 0, complete: true, first: NONE });
        self.load(store, row, ROW_LOAD_MAX_CELLS)?;
        let (rows, hasher) = (&self.rows, &self.hasher);
        self.row_index.insert_unique(hash, row, |&i| hasher.hash_one((rows[i].table, rows[i].pk)));
        if !self.rows[row].complete {
            self.find_cell(store, row, SENTINEL)?;
        }
        Ok(row)
    }

    /// Finds a cell of a row, looked up if the row is not known whole; one that is not there is `Absent`.
    pub(super) fn find_cell(
        &mut self,
        store: &mut dyn ChannelStore,
        row: usize,
        cid: impl Into<Cow<'a, str>>,
    ) -> Result<usize> {
        let cid = cid.into();
        if let Some(cell) = self.known_cell(row, &cid) {
            return Ok(cell);
        }
        let Row { table, pk, complete, .. } = self.rows[row];
        if !complete {
            store.cell(table, pk, &cid, &mut |cell| {
                self.add_loaded(row, cell);
                ControlFlow::Break(())
            })?;
            if let Some(cell) = self.known_cell(row, &cid) {
                return Ok(cell);
            }
        }
        Ok(self.add(row, cid, None, State::Absent))
    }

    /// Takes every cell of the row away, the sentinel too.
    pub(super) fn clear(&mut self, store: &mut dyn ChannelStore, row: usize, head: &mut Head) -> Result<()> {
        if !self.rows[row].complete {
            self.load(store, row, usize::MAX)?;
            self.rows[row].complete = true;
        }
        let mut cell = self.rows[row].first;
        while cell != NONE {
            self.set(cell, State::Absent, head);
            cell = self.cells[cell].next;
        }
        Ok(())
    }

    /// Gives the cell the change's value, and the row its causal length.
    pub(super) fn put(
        &mut self,
        row: usize,
        cell: usize,
        change: &Change<'a>,
        at: Position,
        head: &mut Head,
    ) {
        let Change { table, pk, cid, ref val, col_version, cl, .. } = *change;
        let hash = cell_hash(table, pk, cid, val, col_version, cl);
        let bytes = cell_bytes(table, pk, cid, val) as u64;
        self.set(cell, State::Won { change: *change, hash, bytes, at }, head);
        if let Some(undo) = &mut self.undo {
            undo.push(Undo::RowCl(row, self.rows[row].cl));
        }
        self.rows[row].cl = cl;
    }

    fn set(&mut self, cell: usize, now: State<'a>, head: &mut Head) {
        let before = self.cells[cell].set(now, head);
        if let Some(undo) = &mut self.undo {
            undo.push(Undo::Cell(cell, before));
        }
    }

    /// From here on, what is changed can be taken back.
    pub(super) fn remember(&mut self) {
        self.undo = Some(Vec::new());
    }

    /// What was changed stays.
    pub(super) fn forget(&mut self) {
        self.undo = None;
    }

    /// Takes back what was changed since [`Rows::remember`]. What was looked up is still right.
    pub(super) fn undo(&mut self) {
        for undo in self.undo.take().into_iter().flatten().rev() {
            match undo {
                Undo::Cell(cell, before) => self.cells[cell].now = before,
                Undo::RowCl(row, cl) => self.rows[row].cl = cl,
            }
        }
    }

    /// Gives the row the sentinel that a cell of a new life brings with it.
    pub(super) fn put_sentinel(
        &mut self,
        row: usize,
        cell_change: &Change<'a>,
        version: u64,
        head: &mut Head,
    ) {
        let cl = cell_change.cl;
        let change = Change { cid: SENTINEL, val: Value::Null, col_version: cl, ..*cell_change };
        let sentinel = self
            .known_cell(row, SENTINEL)
            .unwrap_or_else(|| self.add(row, Cow::Borrowed(SENTINEL), None, State::Absent));
        self.put(row, sentinel, &change, Position { version, seq: UNPLACED_SEQ }, head);
    }

    /// Moves such a sentinel to its place, unless a later change of the update has won over it.
    pub(super) fn place_sentinel(&mut self, row: usize, place: Position) {
        let Some(sentinel) = self.known_cell(row, SENTINEL) else { return };
        if let State::Won { at, .. } = &mut self.cells[sentinel].now
            && at.seq == UNPLACED_SEQ
        {
            *at = place;
        }
    }

    /// Writes what has changed, in the order of the keys: neighbours share the pages of an index.
    pub(super) fn write(&self, store: &mut dyn ChannelStore) -> Result<()> {
        let key = |cell: &CellState<'a>| (self.rows[cell.row].table, self.rows[cell.row].pk);
        let mut changed: Vec<&CellState<'a>> =
            self.cells.iter().filter(|cell| !matches!(cell.now, State::Loaded { .. })).collect();
        changed.sort_unstable_by(|a, b| key(a).cmp(&key(b)).then_with(|| a.cid.cmp(&b.cid)));
        for cell in changed {
            let Row { table, pk, .. } = self.rows[cell.row];
            match (&cell.now, cell.stored) {
                (State::Won { change, at, .. }, stored) => {
                    let Change { val, col_version, site_id, cl, .. } = *change;
                    let cid = &cell.cid;
                    store.put(&Cell { table, pk, cid, val, col_version, site_id, cl, at: *at }, stored)?;
                }
                (State::Absent, Some(stored)) => store.remove(table, pk, &cell.cid, stored)?,
                (State::Absent, None) | (State::Loaded { .. }, _) => {}
            }
        }
        Ok(())
    }

    /// Loads the row's cells, up to `max` of them, that are not known yet.
    fn load(&mut self, store: &mut dyn ChannelStore, row: usize, max: usize) -> Result<()> {
        let Row { table, pk, .. } = self.rows[row];
        let mut count = 0;
        store.row(table, pk, &mut |cell| {
            if count == max {
                self.rows[row].complete = false;
                return ControlFlow::Break(());
            }
            count += 1;
            if self.known_cell(row, cell.cid).is_none() {
                self.add_loaded(row, cell);
            }
            ControlFlow::Continue(())
        })
    }

    fn add_loaded(&mut self, row: usize, cell: &Cell<'_>) {
        let Cell { table, pk, cid, ref val, col_version, cl, at, .. } = *cell;
        let hash = cell_hash(table, pk, cid, val, col_version, cl);
        let bytes = cell_bytes(table, pk, cid, val) as u64;
        let state = State::Loaded { col_version, val: val.to_owned(), hash, bytes };
        self.add(row, Cow::Owned(cid.into()), Some(at), state);
        // The sentinel's clock if there is one, else 1.
        let cl = if cid == SENTINEL { col_version } else { 1 };
        self.rows[row].cl = cl.max(self.rows[row].cl);
    }

    fn add(&mut self, row: usize, cid: Cow<'a, str>, stored: Option<Position>, now: State<'a>) -> usize {
        let cell = self.cells.len();
        let hash = self.hasher.hash_one((row, cid.as_ref()));
        self.cells.push(CellState { row, cid, next: self.rows[row].first, stored, now });
        self.rows[row].first = cell;
        let (cells, hasher) = (&self.cells, &self.hasher);
        self.cell_index
            .insert_unique(hash, cell, |&i| hasher.hash_one((cells[i].row, cells[i].cid.as_ref())));
        cell
    }

    fn known_cell(&self, row: usize, cid: &str) -> Option<usize> {
        let hash = self.hasher.hash_one((row, cid));
        self.cell_index.find(hash, |&i| self.cells[i].row == row && self.cells[i].cid == cid).copied()
    }
}
