//! What a channel's writer and its readers share: the last commit, and the cells that readers of it still need.
//!
//! An engine need not have snapshots, and readers do not wait for the writer. A reader takes only positions up to the version it
//! began with, so of what a commit adds it sees nothing. What a commit takes away, because it moved to a newer position
//! or is gone, the commit leaves here before it writes, until nobody reads an older version any more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::change::Position;
use crate::store::Head;

/// The state of one channel that its handles share.
#[derive(Debug)]
pub(super) struct Shared<B> {
    /// The channel's id in the keys.
    pub(super) id: u64,
    state: Mutex<State<B>>,
}

#[derive(Debug)]
struct State<B> {
    head: Head,
    removed: bool,
    /// How many readers are in the middle of which version.
    readers: BTreeMap<u64, usize>,
    /// Cells that a commit took away, with the version that it made.
    ghosts: BTreeMap<Position, (u64, B)>,
}

impl<B: Clone> Shared<B> {
    pub(super) fn new(id: u64, head: Head) -> Self {
        let state = State { head, removed: false, readers: BTreeMap::new(), ghosts: BTreeMap::new() };
        Shared { id, state: Mutex::new(state) }
    }

    /// The last commit; `None` if the channel was removed.
    pub(super) fn head(&self) -> Option<Head> {
        let state = self.lock();
        (!state.removed).then_some(state.head)
    }

    /// Keeps the cells that the commit of `version` takes away. To be called before the commit is written.
    pub(super) fn retire(&self, cells: Vec<(Position, B)>, version: u64) {
        self.lock().ghosts.extend(cells.into_iter().map(|(at, cell)| (at, (version, cell))));
    }

    /// Shows a commit to all who read from now on. To be called when it is durable.
    pub(super) fn publish(&self, head: Head) {
        let mut state = self.lock();
        state.head = head;
        state.purge();
    }

    /// The channel is gone; what its readers find is no longer all of it.
    pub(super) fn remove(&self) {
        self.lock().removed = true;
    }

    /// Begins to read the last commit; `None` if the channel was removed.
    pub(super) fn snapshot(self: &Arc<Self>) -> Option<Snapshot<B>> {
        let mut state = self.lock();
        if state.removed {
            return None;
        }
        let head = state.head;
        *state.readers.entry(head.version).or_default() += 1;
        Some(Snapshot { shared: Arc::clone(self), head })
    }

    fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }
}

impl<B> State<B> {
    /// Drops the cells that no reader needs, now or later.
    fn purge(&mut self) {
        let oldest = self.readers.keys().next().copied().unwrap_or(self.head.version);
        self.ghosts.retain(|_, (gone_at, _)| *gone_at > oldest);
    }
}

/// One commit, being read.
#[derive(Debug)]
pub(super) struct Snapshot<B: Clone> {
    shared: Arc<Shared<B>>,
    /// The commit's version and digest.
    pub(super) head: Head,
}

impl<B: Clone> Snapshot<B> {
    /// The cells of this commit after `after` up to `end` that later ones took away, in order. To be asked for after
    /// the database was, so that what is no longer there is here.
    pub(super) fn ghosts(&self, after: Position, end: Position) -> Vec<(Position, B)> {
        let state = self.shared.lock();
        let ghosts = state.ghosts.range(after..=end).filter(|(at, _)| **at > after);
        ghosts
            .filter(|(_, (gone_at, _))| *gone_at > self.head.version)
            .map(|(at, (_, cell))| (*at, cell.clone()))
            .collect()
    }

    /// Whether the channel is still there.
    pub(super) fn is_whole(&self) -> bool {
        !self.shared.lock().removed
    }
}

impl<B: Clone> Drop for Snapshot<B> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(count) = state.readers.get_mut(&self.head.version) {
            *count -= 1;
            if *count == 0 {
                state.readers.remove(&self.head.version);
                state.purge();
            }
        }
    }
}
