//! Readers: pages, cursors, and what they see of a writer beside them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::kit::{Context, assert_cells, collect, commit, head, read_all, stored};
use crate::change::{Position, Value};
use crate::store::{ChannelReader, ChannelStore, Head, OwnedCell};

/// The cell `n` of a channel all of whose cells say their version.
fn cell(n: u64, version: u64) -> OwnedCell {
    stored(&format!("row {}", n / 3), &format!("c{n}"), Value::Integer(version as i64), version, n)
}

/// Makes all of `count` cells say `version`, in one commit.
fn rewrite_all(channel: &mut dyn ChannelStore, count: u64, version: u64) {
    commit(channel, &(0..count).map(|n| cell(n, version)).collect::<Vec<_>>());
}

/// From any position, stored or not, with any limit: what lies after it, in order, up to the limit. Taking page after
/// page gives all.
pub fn pages_from_any_cursor_are_complete(context: &Context) {
    let store = context.open();
    let mut channel = store.open("a").expect("opened");
    // Versions of 1 to 5 cells, of which later ones take some away: gaps in versions and within them.
    for version in 1..=9 {
        let cells = (0..version % 5 + 1).map(|seq| {
            let key = (version * 7 + seq * 3) % 17;
            stored("1", &key.to_string(), Value::Integer(version as i64), version, seq)
        });
        commit(&mut *channel, &cells.collect::<Vec<_>>());
    }
    let mut reader = store.reader("a").expect("readable");
    let (all, version) = read_all(&mut *reader);
    assert_eq!(version, 9);
    assert!(all.len() > 10 && all.is_sorted_by_key(|cell| cell.at), "{all:?}");
    for after_version in 0..=11 {
        for seq in [0, 1, 2, 3, 4, 5, i64::MAX as u64] {
            let after = Position { version: after_version, seq };
            let rest: Vec<_> = all.iter().filter(|cell| cell.at > after).cloned().collect();
            for limit in (0..=rest.len()).chain([usize::MAX]) {
                let (page, at) = collect(limit, |visit| reader.read(after, visit));
                assert_eq!(at, head(9));
                assert_cells(&page, &rest[..limit.min(rest.len())]);
            }
        }
    }
    for limit in 1..=all.len() {
        let mut paged = Vec::new();
        loop {
            let after = paged.last().map_or(Position::default(), |cell: &OwnedCell| cell.at);
            let (page, _) = collect(limit, |visit| reader.read(after, visit));
            if page.is_empty() {
                break;
            }
            paged.extend(page);
        }
        assert_cells(&paged, &all);
    }
}

/// However often it moves, and over a reopen.
pub fn a_moved_cell_is_at_its_new_position_only(context: &Context) {
    let store = context.open();
    let mut channel = store.open("a").expect("opened");
    rewrite_all(&mut *channel, 10, 1);
    for version in 2..=20 {
        commit(&mut *channel, &[cell(version % 3, version)]);
    }
    drop(channel);
    let store = context.reopen(store);
    let expected: Vec<_> = (3..10).map(|n| cell(n, 1)).chain((18..=20).map(|v| cell(v % 3, v))).collect();
    let mut reader = store.reader("a").expect("readable");
    assert_cells(&read_all(&mut *reader).0, &expected);
    let (late, _) = collect(usize::MAX, |visit| reader.read(Position::end_of(18), visit));
    assert_cells(&late, &expected[8..]);
}

/// One reader sees each commit when it is there, and nothing of an open transaction.
pub fn a_reader_sees_commits_but_nothing_before(context: &Context) {
    let store = context.open();
    let mut channel = store.open("a").expect("opened");
    let mut reader = store.reader("a").expect("readable");
    for version in 1..=5 {
        let before = read_all(&mut *reader);
        channel.begin().expect("begun");
        for n in 0..version {
            let old = (n + 1 < version).then_some(Position { version: version - 1, seq: n });
            channel.put(&cell(n, version).as_cell(), old).expect("put");
        }
        assert_eq!(read_all(&mut *reader), before);
        assert_eq!(read_all(&mut *store.reader("a").expect("readable")), before);
        assert_eq!(
            reader.head().expect("read"),
            if version == 1 { Default::default() } else { head(version - 1) }
        );
        channel.commit(head(version)).expect("committed");
        let (cells, at) = read_all(&mut *reader);
        assert_eq!((cells.len() as u64, at), (version, version));
        assert_eq!(reader.head().expect("read"), head(version));
    }
    // It goes on when the writer is gone, and sees the next one's commits.
    drop(channel);
    assert_eq!(read_all(&mut *reader).1, 5);
    commit(&mut *store.open("a").expect("opened"), &[cell(0, 6)]);
    let (cells, at) = read_all(&mut *reader);
    assert_eq!((cells.len(), cells.last(), at), (5, Some(&cell(0, 6)), 6));
}

/// In the middle of a read, commits move every cell and remove some: the read ends with the state it began with.
pub fn a_read_is_one_state_while_commits_pass(context: &Context) {
    const CELLS: u64 = 1000;
    let store = context.open();
    let mut channel = store.open("a").expect("opened");
    rewrite_all(&mut *channel, CELLS, 1);
    let expected: Vec<_> = (0..CELLS).map(|n| cell(n, 1)).collect();
    let mut reader = store.reader("a").expect("readable");
    let mut other = store.reader("a").expect("readable");
    let mut found = Vec::new();
    let mut version = 1;
    let read = reader.read(Position::default(), &mut |one| {
        if found.len() % 300 == 10 {
            version += 1;
            rewrite_all(&mut *channel, CELLS - version, version);
            // A reader that begins now has the new state, and does not spoil the old one.
            let (cells, at) = read_all(&mut *other);
            assert_eq!((cells.len() as u64, at), (CELLS, version));
            let moved = cells.iter().filter(|cell| cell.at.version == version).count() as u64;
            assert_eq!(moved, CELLS - version);
        }
        found.push(OwnedCell::from(one));
        ControlFlow::Continue(())
    });
    assert_eq!(read.expect("the read succeeds").version, 1);
    assert_eq!(version, 5);
    assert_cells(&found, &expected);
    // And the next read has it all, with what is removed gone.
    channel.begin().expect("begun");
    for n in 0..CELLS - version {
        let OwnedCell { table, pk, cid, at, .. } = cell(n, version);
        channel.remove(&table, &pk, &cid, at).expect("removed");
    }
    channel.commit(head(version + 1)).expect("committed");
    let (left, at) = read_all(&mut *reader);
    assert_eq!((left.len() as u64, at), (version, version + 1));
}

/// Threads read without pause while every commit moves every cell: each read is one version, all of it, and never an
/// older one than the read before.
pub fn readers_beside_a_writer_see_whole_versions(context: &Context) {
    const CELLS: u64 = 300;
    const VERSIONS: u64 = 60;
    beside_a_writer(context, CELLS, VERSIONS, |reader, ended| {
        let mut last = 0;
        let mut reads = 0;
        while !ended() || reads == 0 {
            let known = reader.head().expect("read").version;
            let (cells, version) = read_all(reader);
            assert!(version >= last && version >= known, "{version} after {last} and {known}");
            let expected: Vec<_> = (0..CELLS).map(|n| cell(n, version)).collect();
            assert_cells(&cells, &expected);
            last = version;
            reads += 1;
        }
        assert_eq!(read_all(reader).1, VERSIONS);
    });
}

/// Threads take small pages from the cursor they have come to, as a connection does, while every commit moves every
/// cell: in the end they hold what the channel holds.
pub fn a_follower_beside_a_writer_misses_nothing(context: &Context) {
    const CELLS: u64 = 100;
    const VERSIONS: u64 = 60;
    beside_a_writer(context, CELLS, VERSIONS, |reader, ended| {
        let mut held = BTreeMap::new();
        let mut cursor = Position::default();
        loop {
            // Asked before the read: a page that is empty after the end is the end.
            let is_last = ended();
            let (page, Head { version, .. }) = collect(7, |visit| reader.read(cursor, visit));
            match page.last() {
                Some(last) => cursor = last.at,
                None if is_last => break,
                None => cursor = Position::end_of(version),
            }
            for cell in page {
                assert!(cell.at.version <= version, "{cell:?} in a read of {version}");
                held.insert(cell.cid.clone(), cell);
            }
        }
        let mut held: Vec<_> = held.into_values().collect();
        held.sort_by_key(|cell| cell.at);
        assert_cells(&held, &(0..CELLS).map(|n| cell(n, VERSIONS)).collect::<Vec<_>>());
    });
}

/// Runs `read` in three threads while a writer commits `versions` that each move all of `cells` cells, the first before
/// they begin. `read` is given a reader and a way to ask whether the writer has ended.
fn beside_a_writer(
    context: &Context,
    cells: u64,
    versions: u64,
    read: impl Fn(&mut dyn ChannelReader, &dyn Fn() -> bool) + Sync,
) {
    let store = context.open();
    let mut channel = store.open("a").expect("opened");
    rewrite_all(&mut *channel, cells, 1);
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut reader = store.reader("a").expect("readable");
                read(&mut *reader, &|| ended.load(Ordering::Acquire));
            });
        }
        for version in 2..=versions {
            rewrite_all(&mut *channel, cells, version);
        }
        ended.store(true, Ordering::Release);
    });
}
