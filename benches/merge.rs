//! One durable commit of one update, on every backend, in a channel that has rows already: cells of new rows with
//! random keys, and new values of random cells that are there. New cells make the channel grow while they are timed.
//!
//! Files lie beside the build's, on its disk. `memory` is there to show what the rule itself costs: it has nothing to
//! make durable.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use causeway_storage::{BACKENDS, Backend, ChangeStore, ChannelStore, Durability, StoreOptions};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tempfile::TempDir;

use common::{NewCell, Source};

const CHANNEL: &str = "bench";
const DURABILITY: Durability = Durability::Full;

/// Cells of the channel before the first commit that is timed.
const CELLS: usize = 20_000;
/// The same where nothing is measured. At least as many as one commit changes.
const TEST_CELLS: usize = 2_000;
/// Cells of the commits that fill the channel.
const FILL_CELLS: usize = 1_000;

fn merge_new_cells(c: &mut Criterion) {
    merge_cells(c, "new", Input::new_cells);
}

fn merge_updates(c: &mut Criterion) {
    merge_cells(c, "update", Input::newer_cells);
}

fn merge_cells(c: &mut Criterion, what: &str, cells: fn(&mut Input, usize) -> Vec<NewCell>) {
    let mut group = c.benchmark_group(format!("merge/{what}/durability-{DURABILITY}"));
    for backend in BACKENDS {
        for count in [1, 10, 100, 1000] {
            let mut filled = None;
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(BenchmarkId::new(backend.name, count), |b| {
                // This closure runs once a sample, and not at all if the bench is not asked for.
                let Filled { input, channel, commits, .. } =
                    filled.get_or_insert_with(|| Filled::new(backend));
                b.iter_batched_ref(
                    || cells(input, count),
                    |cells| {
                        common::merge_all(channel.as_mut(), cells);
                        *commits += 1;
                    },
                    BatchSize::SmallInput,
                );
            });
            if let Some(filled) = filled {
                filled.finish();
            }
        }
    }
    group.finish();
}

/// What a commit is to write.
struct Input {
    source: Source,
    /// The cells that the channel was filled with, as they stand now, in random order.
    filled: Vec<NewCell>,
    /// The next of them to change.
    next: usize,
}

impl Input {
    fn new_cells(&mut self, count: usize) -> Vec<NewCell> {
        self.source.cells(count)
    }

    /// New values of cells that are there, no two of them the same.
    fn newer_cells(&mut self, count: usize) -> Vec<NewCell> {
        let values = self.source.cells(count);
        let newer = values.into_iter().map(|value| {
            let at = self.next;
            self.next = (at + 1) % self.filled.len();
            let cell = &mut self.filled[at];
            cell.col_version += 1;
            NewCell { val: value.val, seq: value.seq, ..cell.clone() }
        });
        newer.collect()
    }
}

/// A channel with rows in it.
struct Filled {
    input: Input,
    /// Commits so far.
    commits: u64,
    channel: Box<dyn ChannelStore>,
    store: Arc<dyn ChangeStore>,
    _dir: TempDir,
}

impl Filled {
    fn new(backend: &Backend) -> Self {
        let dir = common::data_dir();
        let options = StoreOptions { durability: DURABILITY, ..StoreOptions::new(dir.path()) };
        let store = (backend.open)(&options).unwrap();
        let mut channel = store.open(CHANNEL).unwrap();
        let mut source = Source::new();
        let mut filled = source.cells(common::size(CELLS, TEST_CELLS));
        let mut commits = 0;
        for cells in filled.chunks(FILL_CELLS) {
            common::merge_all(channel.as_mut(), cells);
            commits += 1;
        }
        source.shuffle(&mut filled);
        Filled { input: Input { source, filled, next: 0 }, commits, channel, store, _dir: dir }
    }

    /// Opens the channel anew: it must be where the commits left it.
    fn finish(self) {
        let head = self.channel.head();
        assert_eq!(head.version, self.commits);
        drop(self.channel);
        let channel = self.store.open(CHANNEL).unwrap();
        assert_eq!(channel.head(), head);
        drop(channel);
        self.store.close().unwrap();
    }
}

criterion_group! { name = benches; config = common::settings(); targets = merge_new_cells, merge_updates }
criterion_main!(benches);
