//! What the checks are written with.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backend::{Backend, Durability, StoreOptions};
use crate::change::{Position, Value};
use crate::digest::{Digest, cell_hash};
use crate::error::Result;
use crate::store::{Cell, CellVisitor, ChangeStore, ChannelReader, ChannelStore, Head, OwnedCell, Size};

/// What a check is given: a backend, and a directory of its own.
#[derive(Clone, Debug)]
pub struct Context {
    /// The backend.
    pub backend: Backend,
    /// The directory.
    pub dir: PathBuf,
}

impl Context {
    /// A check of `backend` in `dir`.
    pub fn new(backend: Backend, dir: impl AsRef<Path>) -> Self {
        Context { backend, dir: dir.as_ref().into() }
    }

    /// Opens the store at a durability.
    pub fn try_open(&self, durability: Durability) -> Result<Arc<dyn ChangeStore>> {
        (self.backend.open)(&StoreOptions { durability, ..StoreOptions::new(&self.dir) })
    }

    /// Opens the store as fast as it is.
    pub fn open(&self) -> Arc<dyn ChangeStore> {
        self.try_open(Durability::Off).expect("the store opens")
    }

    /// Ends a store in good order and opens it again; a store that forgets stays as it is.
    pub(super) fn reopen(&self, store: Arc<dyn ChangeStore>) -> Arc<dyn ChangeStore> {
        if !self.backend.persistent {
            return store;
        }
        store.close().expect("the store closes");
        assert_eq!(Arc::strong_count(&store), 1, "the check holds the store only once");
        drop(store);
        self.open()
    }
}

/// The cell that `col` of row `pk` has at a position; the value is for the check to say.
pub(super) fn stored(pk: &str, cid: &str, val: Value<'_>, version: u64, seq: u64) -> OwnedCell {
    OwnedCell {
        table: "todos".into(),
        pk: pk.into(),
        cid: cid.into(),
        val: val.to_owned(),
        col_version: version,
        site_id: "5EED5EED5EED5EED5EED5EED5EED5EED".into(),
        cl: 1,
        at: Position { version, seq },
    }
}

/// What `visit` is given, up to `limit` cells: the visit breaks at the one after them.
pub fn collect<T>(limit: usize, visit: impl FnOnce(CellVisitor<'_>) -> Result<T>) -> (Vec<OwnedCell>, T) {
    let mut cells = Vec::new();
    let mut broken = false;
    let result = visit(&mut |cell| {
        assert!(!broken, "a visit that broke got another cell");
        if cells.len() == limit {
            broken = true;
            return ControlFlow::Break(());
        }
        cells.push(OwnedCell::from(cell));
        ControlFlow::Continue(())
    });
    (cells, result.expect("the read succeeds"))
}

/// Every cell of a channel, in order, and its version.
pub fn read_all(reader: &mut dyn ChannelReader) -> (Vec<OwnedCell>, u64) {
    let (cells, head) = collect(usize::MAX, |visit| reader.read(Position::default(), visit));
    (cells, head.version)
}

/// The size, from nothing but the cells.
pub fn size_of(cells: &[OwnedCell]) -> Size {
    let mut size = Size::default();
    cells.iter().for_each(|cell| size.add(cell.as_cell().bytes() as u64));
    size
}

/// The digest, from nothing but the cells.
pub fn digest_of(cells: &[OwnedCell]) -> Digest {
    let mut digest = Digest::default();
    for cell in cells {
        let Cell { table, pk, cid, ref val, col_version, cl, .. } = cell.as_cell();
        digest.add(cell_hash(table, pk, cid, val, col_version, cl));
    }
    digest
}

/// The row's cells, by position.
pub(super) fn row(channel: &mut dyn ChannelStore, table: &str, pk: &str) -> Vec<OwnedCell> {
    let (mut cells, ()) = collect(usize::MAX, |visit| channel.row(table, pk, visit));
    cells.sort_by_key(|cell| cell.at);
    cells
}

/// One cell, if it is there.
pub(super) fn cell(channel: &mut dyn ChannelStore, table: &str, pk: &str, cid: &str) -> Option<OwnedCell> {
    let (mut cells, ()) = collect(usize::MAX, |visit| channel.cell(table, pk, cid, visit));
    assert!(cells.len() <= 1, "one cell was asked for: {cells:?}");
    cells.pop()
}

/// Puts a cell where its key stands now.
pub(super) fn put(channel: &mut dyn ChannelStore, new: &OwnedCell) {
    let old = cell(channel, &new.table, &new.pk, &new.cid).map(|cell| cell.at);
    channel.put(&new.as_cell(), old).expect("the cell is put");
}

/// Commits cells as the version that they say they are of.
pub(super) fn commit(channel: &mut dyn ChannelStore, cells: &[OwnedCell]) {
    let version = cells.iter().map(|cell| cell.at.version).max().unwrap_or(0).max(channel.head().version);
    channel.begin().expect("the transaction begins");
    cells.iter().for_each(|cell| put(channel, cell));
    channel.commit(head(version)).expect("the commit succeeds");
}

/// A head of that version, with a digest and a size that no other has.
pub(super) fn head(version: u64) -> Head {
    Head {
        version,
        digest: Digest(u128::from(version).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)),
        size: Size { cells: version * 3, bytes: version << 20 },
    }
}

/// The cells that are there, and nothing more.
pub(super) fn assert_cells(found: &[OwnedCell], expected: &[OwnedCell]) {
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(found == expected, "cell {index}: found {found:?}, expected {expected:?}");
    }
    assert_eq!(found.len(), expected.len(), "as many cells as expected");
}
