//! A whole channel read to its end in pages of the default size, each encoded and framed as the server sends it, on
//! every backend. The rows have been written lately: what is timed is the store and the encoder, not a cold disk.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::hint::black_box;
use std::sync::Arc;

use causeway::config::Config;
use causeway::outbox::PageStart;
use causeway::page::{PageLimits, Readers};
use causeway::protocol::encode::Encoder;
use causeway_storage::{BACKENDS, Backend, ChangeStore, Position, StoreOptions};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use tempfile::TempDir;

const CHANNEL: &str = "bench";

/// Rows of the channel: stored cells, as a client gets them.
const ROWS: usize = 100_000;
/// The same where nothing is measured. More than a page.
const TEST_ROWS: usize = 12_000;
/// Rows of one version.
const VERSION_ROWS: usize = 1_000;

fn pull_all(c: &mut Criterion) {
    let config = Config::default();
    let limits = PageLimits { max_bytes: config.page_max_bytes, max_changes: config.page_max_changes };
    let rows = common::size(ROWS, TEST_ROWS);
    let mut group = c.benchmark_group("pull");
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(rows as u64));
    for backend in BACKENDS {
        let mut filled = None;
        group.bench_function(BenchmarkId::new(backend.name, rows), |b| {
            // This closure runs once a sample, and not at all if the bench is not asked for.
            let filled = filled.get_or_insert_with(|| Filled::new(backend, rows));
            b.iter(|| {
                let pulled = filled.pull(limits);
                assert_eq!((pulled.rows, pulled.version), (rows, filled.version));
                assert!(pulled.pages > 1 && pulled.bytes > rows * 64, "{pulled:?}");
            });
        });
        if let Some(filled) = filled {
            let Filled { readers, store, .. } = filled;
            drop(readers);
            store.close().unwrap();
        }
    }
    group.finish();
}

/// A channel with rows in it.
struct Filled {
    channel: Arc<str>,
    version: u64,
    encoder: Encoder,
    readers: Readers,
    store: Arc<dyn ChangeStore>,
    _dir: TempDir,
}

#[derive(Debug, Default)]
struct Pulled {
    rows: usize,
    pages: usize,
    bytes: usize,
    /// What the last page says.
    version: u64,
}

impl Filled {
    fn new(backend: &Backend, rows: usize) -> Self {
        let dir = common::data_dir();
        let store = (backend.open)(&StoreOptions::new(dir.path())).unwrap();
        let mut channel = store.open(CHANNEL).unwrap();
        for cells in common::Source::new().cells(rows).chunks(VERSION_ROWS) {
            common::merge_all(channel.as_mut(), cells);
        }
        Filled {
            channel: CHANNEL.into(),
            version: channel.head().version,
            encoder: Encoder::new(CHANNEL, channel.site_id()),
            readers: Readers::new(store.clone(), Config::default().page_readers),
            store,
            _dir: dir,
        }
    }

    fn pull(&self, limits: PageLimits) -> Pulled {
        let mut pulled = Pulled::default();
        let mut start = PageStart { from: Position::default(), complete: 0, has_versions: true };
        loop {
            let (page, end) = self.readers.read(&self.channel, start, limits).unwrap();
            pulled.rows += page.changes();
            pulled.pages += 1;
            pulled.version = end.tail.unwrap_or(end.complete);
            let message = page.finish(&self.encoder, pulled.version, Some(end.tail.is_none()));
            pulled.bytes += black_box(message).len();
            if end.tail.is_some() {
                return pulled;
            }
            start = PageStart { from: end.next, complete: end.complete, has_versions: true };
        }
    }
}

criterion_group! { name = benches; config = common::settings(); targets = pull_all }
criterion_main!(benches);
