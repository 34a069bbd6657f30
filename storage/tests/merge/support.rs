//! A store to test on, and what a channel of it holds.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use causeway_storage::OwnedCell;
use causeway_storage::conformance::{digest_of, read_all, size_of};
use causeway_storage::store::TrackedPeer;
use causeway_storage::{
    Backend, Change, ChangeStore, ChannelStore, Clamp, Durability, Head, Outcome, Quota, StoreOptions,
    Update, merge_within,
};
use tempfile::TempDir;

use crate::model::{Content, OwnedChange};

/// A store of its own directory, and channels of it that nobody has used.
pub(crate) struct Store {
    pub(crate) backend: Backend,
    store: Arc<dyn ChangeStore>,
    channels: AtomicU64,
    _dir: TempDir,
}

impl Store {
    pub(crate) fn new(backend: Backend) -> Self {
        let dir = tempfile::tempdir().expect("a directory to test in");
        let options = StoreOptions { durability: Durability::Off, ..StoreOptions::new(dir.path()) };
        let store = (backend.open)(&options).expect("the store opens");
        Store { backend, store, channels: AtomicU64::new(0), _dir: dir }
    }

    /// How many random cases this store is worth: a memory is tried in no time.
    pub(crate) fn cases(&self, many: u32) -> u32 {
        if self.backend.persistent { many / 8 } else { many }
    }

    pub(crate) fn channel(&self) -> Channel {
        let name = format!("channel {}", self.channels.fetch_add(1, Ordering::Relaxed));
        Channel { writer: self.store.open(&name).expect("opened"), store: Arc::clone(&self.store), name }
    }
}

pub(crate) struct Channel {
    pub(crate) writer: Box<dyn ChannelStore>,
    pub(crate) store: Arc<dyn ChangeStore>,
    pub(crate) name: String,
}

impl Channel {
    /// Merges updates of one site, at versions 1, 2, …, in one group commit.
    pub(crate) fn merge(&mut self, updates: &[Vec<OwnedChange>], clamp: &Clamp) -> Vec<Outcome> {
        self.merge_within(updates, clamp, Quota::default())
    }

    /// The same, of a channel with a quota.
    pub(crate) fn merge_within(
        &mut self,
        updates: &[Vec<OwnedChange>],
        clamp: &Clamp,
        quota: Quota,
    ) -> Vec<Outcome> {
        let changes: Vec<Vec<Change<'_>>> =
            updates.iter().map(|update| update.iter().map(OwnedChange::as_change).collect()).collect();
        let updates: Vec<Update<'_>> = changes
            .iter()
            .zip(1..)
            .map(|(changes, version)| Update { site_id: "CLIENT", version, changes })
            .collect();
        let outcomes = merge_within(&mut *self.writer, &updates, clamp, quota).expect("the merge succeeds");
        assert_eq!(outcomes.len(), updates.len());
        outcomes
    }

    /// Merges each update in a commit of its own.
    pub(crate) fn merge_one_by_one(&mut self, updates: &[Vec<OwnedChange>]) {
        for update in updates {
            self.merge(std::slice::from_ref(update), &Clamp::default());
        }
    }

    /// All cells in order. Checks that head, digest and positions are as they have to be.
    pub(crate) fn cells(&self) -> Vec<OwnedCell> {
        let mut reader = self.store.reader(&self.name).expect("readable");
        let (cells, version) = read_all(&mut *reader);
        let head = reader.head().expect("read");
        assert_eq!(head, self.writer.head(), "reader and writer agree");
        assert_eq!(version, head.version);
        assert!(cells.is_sorted_by(|a, b| a.at < b.at), "positions ascend: {cells:?}");
        assert!(cells.iter().all(|cell| (1..=version).contains(&cell.at.version)), "{cells:?}");
        assert_eq!(head.digest, digest_of(&cells), "the digest is that of the cells");
        assert_eq!(head.size, size_of(&cells), "the size is that of the cells");
        cells
    }

    pub(crate) fn content(&self) -> Content {
        let content =
            |cell: OwnedCell| ((cell.table, cell.pk, cell.cid), (cell.val, cell.col_version, cell.cl));
        self.cells().into_iter().map(content).collect()
    }

    pub(crate) fn head(&self) -> Head {
        self.writer.head()
    }

    pub(crate) fn peers(&mut self) -> Vec<TrackedPeer> {
        self.store.reader(&self.name).expect("readable").peers().expect("read")
    }

    /// Closes the writer and opens it anew.
    pub(crate) fn reopen(self) -> Self {
        let Channel { writer, store, name } = self;
        drop(writer);
        Channel { writer: store.open(&name).expect("opened"), store, name }
    }

    /// The row's cells as the writer looks them up.
    pub(crate) fn row(&mut self, table: &str, pk: &str) -> Vec<OwnedCell> {
        let mut cells = Vec::new();
        let visit = &mut |cell: &causeway_storage::Cell<'_>| {
            cells.push(OwnedCell::from(cell));
            ControlFlow::Continue(())
        };
        self.writer.row(table, pk, visit).expect("read");
        cells
    }
}
