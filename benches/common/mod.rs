//! What all benches share: the data they send, where they put files, and how long they measure.
//!
//! Every bench asserts what came of what it timed. Under `cargo bench -- --test` each runs once, over less data.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::time::Duration;

use causeway_storage::change::OwnedValue;
use causeway_storage::{Change, ChannelStore, Clamp, Outcome, Update, merge};
use criterion::Criterion;
use serde_json::{Value, json};
use tempfile::TempDir;

// The allocator of the `causeway` command.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Who writes all changes.
pub const SITE: &str = "0F1E2D3C4B5A69788796A5B4C3D2E1F0";

/// The columns of a row, each with its own type of value.
const COLUMNS: [&str; 4] = ["title", "position", "updated_at", "completed"];

/// Few samples: most of what is timed waits for a disk or a socket, and there are many benches.
pub fn settings() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
}

/// Whether everything runs once only, to see that it runs: criterion's own rule.
pub fn is_test() -> bool {
    let given = |flag: &str| std::env::args().any(|argument| argument == flag);
    given("--test") || !given("--bench")
}

/// `full`, or `small` where nothing is measured.
pub fn size(full: usize, small: usize) -> usize {
    if is_test() { small } else { full }
}

/// A directory beside the build's own files: a real disk wherever the build is on one, which `/tmp` often is not.
pub fn data_dir() -> TempDir {
    tempfile::Builder::new().prefix("bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A cell that a bench writes.
#[derive(Clone, Debug)]
pub struct NewCell {
    pub pk: String,
    pub cid: &'static str,
    pub val: OwnedValue,
    pub col_version: u64,
    pub seq: u64,
}

impl NewCell {
    pub fn change(&self) -> Change<'_> {
        Change {
            table: "todos",
            pk: &self.pk,
            cid: self.cid,
            val: self.val.as_value(),
            col_version: self.col_version,
            db_version: 1,
            site_id: SITE,
            cl: 1,
            seq: self.seq,
        }
    }

    /// The change as clients send it.
    pub fn json(&self) -> Value {
        let val = match &self.val {
            OwnedValue::Integer(i) => json!(i),
            OwnedValue::Real(r) => json!(r),
            OwnedValue::Text(t) => json!(t),
            OwnedValue::Null | OwnedValue::Blob(_) => unreachable!("no bench writes one"),
        };
        json!(["todos", self.pk, self.cid, val, self.col_version, 1, SITE, 1, self.seq])
    }
}

/// Makes the same data in every run.
pub struct Source(u64);

impl Source {
    pub fn new() -> Self {
        Source(42)
    }

    /// SplitMix64.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// The cells of rows with random keys, four to a row, the first of a row that is new.
    pub fn cells(&mut self, count: usize) -> Vec<NewCell> {
        let mut pk = String::new();
        (0..count)
            .map(|n| {
                if n % COLUMNS.len() == 0 {
                    pk = format!("{:016X}{:016X}", self.number(), self.number());
                }
                let cid = COLUMNS[n % COLUMNS.len()];
                let number = self.number();
                let val = match cid {
                    "title" => OwnedValue::Text(format!("buy {number:016x} apples").into()),
                    "position" => OwnedValue::Real((number >> 40) as f64 / 1024.0),
                    // Milliseconds since 1970, within a year.
                    "updated_at" => OwnedValue::Integer(1_750_000_000_000 + (number >> 30) as i64),
                    _ => OwnedValue::Integer((number & 1) as i64),
                };
                NewCell { pk: pk.clone(), cid, val, col_version: 1, seq: n as u64 }
            })
            .collect()
    }

    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for n in (1..all.len()).rev() {
            all.swap(n, (self.number() % (n as u64 + 1)) as usize);
        }
    }
}

/// Merges the cells as one update in one commit; every one must win.
pub fn merge_all(channel: &mut dyn ChannelStore, cells: &[NewCell]) {
    let changes: Vec<Change<'_>> = cells.iter().map(NewCell::change).collect();
    let update = Update { site_id: SITE, version: 1, changes: &changes };
    let version = channel.head().version + 1;
    let outcomes = merge(channel, &[update], &Clamp::default()).unwrap();
    match &outcomes[..] {
        [Outcome::Merged { version: merged, winners }] => {
            assert_eq!((*merged, winners.len()), (version, cells.len()));
        }
        other => panic!("one update, but {other:?}"),
    }
}
