//! Transactions: what is there within one, after a commit, and after anything else.

use super::kit::{Context, assert_cells, cell, collect, commit, head, put, read_all, row, stored};
use crate::backend::Durability;
use crate::change::{Position, SENTINEL, Value};
use crate::store::{ChangeStore, ChannelStore, OwnedCell, RECEIVED, SEEN_STEP_S, SENT, TrackedPeer};

fn text(pk: &str, cid: &str, val: &str, version: u64, seq: u64) -> OwnedCell {
    stored(pk, cid, Value::Text(val), version, seq)
}

fn peer(site_id: &str, tag: u64, event: u8, version: u64) -> TrackedPeer {
    TrackedPeer { site_id: site_id.into(), tag, event, version, seen_s: 10 }
}

fn peers(store: &dyn ChangeStore) -> Vec<TrackedPeer> {
    store.reader("a").expect("readable").peers().expect("read")
}

/// Two rows and a peer, committed as version 1.
fn two_rows(channel: &mut dyn ChannelStore) -> Vec<OwnedCell> {
    let cells = vec![text("1", "a", "one", 1, 0), text("1", "b", "two", 1, 1), text("2", "a", "three", 1, 2)];
    channel.begin().expect("begun");
    cells.iter().for_each(|cell| put(channel, cell));
    channel.track(&peer("P", 0, RECEIVED, 5)).expect("tracked");
    channel.commit(head(1)).expect("committed");
    cells
}

/// Writes of every kind over [`two_rows`], not committed; gives what row 1 and row 2 are then.
fn write_everything(channel: &mut dyn ChannelStore) -> (Vec<OwnedCell>, Vec<OwnedCell>) {
    channel.begin().expect("begun");
    let [moved, new] = [text("1", "a", "moved", 2, 0), text("1", "c", "new", 2, 1)];
    channel.put(&moved.as_cell(), Some(Position { version: 1, seq: 0 })).expect("put");
    channel.put(&new.as_cell(), None).expect("put");
    channel.remove("todos", "1", "b", Position { version: 1, seq: 1 }).expect("removed");
    channel.remove("todos", "2", "a", Position { version: 1, seq: 2 }).expect("removed");
    let sentinel = OwnedCell { cl: 2, ..stored("2", SENTINEL, Value::Null, 2, 2) };
    channel.put(&sentinel.as_cell(), None).expect("put");
    channel.track(&peer("P", 0, RECEIVED, 9)).expect("tracked");
    channel.track(&peer("Q", 0, RECEIVED, 1)).expect("tracked");
    (vec![moved, new], vec![sentinel])
}

/// Nothing but [`two_rows`] is there.
fn assert_two_rows(store: &dyn ChangeStore, channel: &mut dyn ChannelStore, cells: &[OwnedCell]) {
    assert_eq!(channel.head(), head(1));
    assert_cells(&row(channel, "todos", "1"), &cells[..2]);
    assert_cells(&row(channel, "todos", "2"), &cells[2..]);
    assert_eq!(peers(store), [peer("P", 0, RECEIVED, 5)]);
    let mut reader = store.reader("a").expect("readable");
    let (found, version) = read_all(&mut *reader);
    assert_cells(&found, cells);
    assert_eq!((version, reader.head().expect("read")), (1, head(1)));
}

/// Rows, cells and peers show what was put, moved, removed, put again and tracked, before the commit and after it.
pub fn a_transaction_sees_what_it_has_written(context: &Context) {
    let store = context.open();
    let mut channel = store.open("a").expect("opened");
    two_rows(&mut *channel);
    let (first, second) = write_everything(&mut *channel);
    let assert_all = |channel: &mut dyn ChannelStore, first: &[OwnedCell]| {
        assert_cells(&row(channel, "todos", "1"), first);
        assert_cells(&row(channel, "todos", "2"), &second);
        assert_eq!(cell(channel, "todos", "1", "a").as_ref(), Some(&first[0]));
        assert_eq!(cell(channel, "todos", "1", "b"), None);
        assert_eq!(cell(channel, "todos", "2", "a"), None);
    };
    assert_all(&mut *channel, &first);
    // A cell of the transaction moves, and one comes and goes, in the same transaction.
    let again = text("1", "c", "newer", 3, 0);
    channel.put(&again.as_cell(), Some(first[1].at)).expect("put");
    let short = text("1", "d", "short", 3, 1);
    channel.put(&short.as_cell(), None).expect("put");
    channel.remove("todos", "1", "d", short.at).expect("removed");
    let first = [first[0].clone(), again];
    assert_all(&mut *channel, &first);
    channel.commit(head(3)).expect("committed");
    assert_eq!(channel.head(), head(3));
    assert_all(&mut *channel, &first);
    let (found, version) = read_all(&mut *store.reader("a").expect("readable"));
    assert_cells(&found, &[first[0].clone(), second[0].clone(), first[1].clone()]);
    assert_eq!(version, 3);
}

/// Neither in the handle nor for readers nor on the disk; and the handle goes on.
pub fn a_rollback_leaves_nothing(context: &Context) {
    let store = context.open();
    let mut channel = store.open("a").expect("opened");
    let cells = two_rows(&mut *channel);
    for _ in 0..2 {
        write_everything(&mut *channel);
        channel.rollback();
        assert_two_rows(&*store, &mut *channel, &cells);
    }
    let next = text("1", "b", "next", 2, 0);
    commit(&mut *channel, std::slice::from_ref(&next));
    drop(channel);
    let store = context.reopen(store);
    let (found, _) = read_all(&mut *store.reader("a").expect("readable"));
    assert_cells(&found, &[cells[0].clone(), cells[2].clone(), next]);
}

/// A handle that goes in the middle of a transaction, as after an error, is as a rollback.
pub fn a_dropped_transaction_leaves_nothing(context: &Context) {
    let store = context.open();
    let mut channel = store.open("a").expect("opened");
    let cells = two_rows(&mut *channel);
    write_everything(&mut *channel);
    drop(channel);
    assert_two_rows(&*store, &mut *store.open("a").expect("opened"), &cells);
    let store = context.reopen(store);
    assert_two_rows(&*store, &mut *store.open("a").expect("opened"), &cells);
}

/// Whatever a commit survives, an orderly end is among it.
pub fn commits_are_kept_at_every_durability(context: &Context) {
    for durability in Durability::ALL {
        let context = Context { dir: context.dir.join(durability.to_string()), ..context.clone() };
        let store = context.try_open(durability).expect("opened");
        let mut channel = store.open("a").expect("opened");
        let cells = two_rows(&mut *channel);
        drop(channel);
        let store = context.reopen(store);
        let mut channel = store.open("a").expect("opened");
        assert_two_rows(&*store, &mut *channel, &cells);
        let (first, second) = write_everything(&mut *channel);
        channel.commit(head(2)).expect("committed");
        drop(channel);
        let store = context.reopen(store);
        let mut reader = store.reader("a").expect("readable");
        assert_cells(&read_all(&mut *reader).0, &[first, second].concat());
        assert_eq!(reader.head().expect("read"), head(2));
    }
}

/// Every type, at its ends, to the last bit: `1` and `1.0` stay apart, and so do `0.0` and `-0.0`.
pub fn values_are_kept_exactly(context: &Context) {
    let long = "é".repeat(1 << 19);
    let blob: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    let values = [
        Value::Null,
        Value::Integer(i64::MIN),
        Value::Integer(i64::MAX),
        Value::Integer(0),
        Value::Integer(1),
        Value::Integer((1 << 53) + 1),
        Value::Real(1.0),
        Value::Real(0.0),
        Value::Real(-0.0),
        Value::Real(0.1 + 0.2),
        Value::Real(1e308),
        Value::Real(-f64::MAX),
        Value::Real(5e-324),
        Value::Real(9_007_199_254_740_993.0),
        Value::Text(""),
        Value::Text("a\0b"),
        Value::Text("\0"),
        Value::Text("1"),
        Value::Text("1.0"),
        Value::Text("👩‍👩‍👧 \u{feff}\u{10ffff}"),
        Value::Text(&long),
        Value::Blob(b""),
        Value::Blob(b"\0"),
        Value::Blob(b"text"),
        Value::Blob(&[0xff, 0xfe]),
        Value::Blob(&blob),
    ];
    let store = context.open();
    let mut channel = store.open("a").expect("opened");
    let cells: Vec<_> =
        values.iter().enumerate().map(|(n, val)| stored("1", &n.to_string(), *val, 1, n as u64)).collect();
    commit(&mut *channel, &cells);
    drop(channel);
    let store = context.reopen(store);
    let mut channel = store.open("a").expect("opened");
    assert_cells(&row(&mut *channel, "todos", "1"), &cells);
    let (found, _) = read_all(&mut *store.reader("a").expect("readable"));
    assert_cells(&found, &cells);
    // The longest again, over itself.
    let again = stored("1", "20", Value::Text(&long), 2, 0);
    commit(&mut *channel, std::slice::from_ref(&again));
    assert_eq!(cell(&mut *channel, "todos", "1", "20"), Some(again));
}

/// NUL bytes, spaces, case, accents, and names of all lengths: no two of them meet.
pub fn rows_with_similar_names_are_kept_apart(context: &Context) {
    let long_pk = "k".repeat(4096);
    let almost = format!("{}j", "k".repeat(4095));
    let long = "n".repeat(255);
    let pks = [
        "a",
        "A",
        "a ",
        " a",
        "a\0",
        "\0a",
        "\0",
        "\0\0",
        "ab",
        "b",
        "é",
        "e\u{301}",
        "%",
        "_",
        "'",
        "\"",
        &long,
        &long_pk[..255],
        &long_pk[..256],
        &long_pk[..257],
        &almost,
        &long_pk,
    ];
    let tables = ["t", "T", "ta", " ", "t\u{1}", "🗒", "select", "\"", &long];
    let cids = [SENTINEL, "-", "1", "a", "A", "ab", "é", "\u{1}", &long];
    let mut cells = Vec::new();
    for table in tables {
        for pk in pks {
            for cid in cids {
                let val = Value::Integer(cells.len() as i64);
                let site_id = if cells.len() % 2 == 0 { "s".repeat(64) } else { "x".into() };
                let cell = stored(pk, cid, val, 1, cells.len() as u64);
                cells.push(OwnedCell { table: table.into(), site_id, ..cell });
            }
        }
    }
    let store = context.open();
    let mut channel = store.open("a").expect("opened");
    channel.begin().expect("begun");
    cells.iter().for_each(|cell| channel.put(&cell.as_cell(), None).expect("put"));
    for committed in [false, true] {
        for of_row in cells.chunks(cids.len()) {
            assert_cells(&row(&mut *channel, &of_row[0].table, &of_row[0].pk), of_row);
            for one in of_row {
                assert_eq!(cell(&mut *channel, &one.table, &one.pk, &one.cid).as_ref(), Some(one));
            }
        }
        if !committed {
            channel.commit(head(1)).expect("committed");
        }
    }
    assert_cells(&row(&mut *channel, "t", "none"), &[]);
    assert_cells(&row(&mut *channel, "none", "a"), &[]);
    drop(channel);
    let store = context.reopen(store);
    assert_cells(&read_all(&mut *store.reader("a").expect("readable")).0, &cells);
}

/// A row of five thousand cells, some of them not committed yet.
pub fn wide_rows_are_visited_until_the_visit_breaks(context: &Context) {
    let store = context.open();
    let mut channel = store.open("a").expect("opened");
    let cell = |n: u64, version| text("1", &format!("c{n}"), "x", version, n);
    let mut cells: Vec<_> = (0..4500).map(|n| cell(n, 1)).collect();
    channel.begin().expect("begun");
    cells.iter().for_each(|cell| channel.put(&cell.as_cell(), None).expect("put"));
    channel.commit(head(1)).expect("committed");
    channel.begin().expect("begun");
    cells.extend((4500..5000).map(|n| cell(n, 2)));
    cells[4500..].iter().for_each(|cell| channel.put(&cell.as_cell(), None).expect("put"));
    assert_cells(&row(&mut *channel, "todos", "1"), &cells);
    for limit in [0, 1, 63, 4999, 5000] {
        let (found, ()) = collect(limit, |visit| channel.row("todos", "1", visit));
        assert_eq!(found.len(), limit);
    }
}

/// A row that gets a cell in each transaction, loses some, and gets them again.
pub fn rows_grow_and_shrink(context: &Context) {
    let store = context.open();
    let mut channel = store.open("a").expect("opened");
    let mut cells: Vec<OwnedCell> = Vec::new();
    for version in 1..=80 {
        channel.begin().expect("begun");
        let cell = text("1", &format!("c{}", version % 45), "x", version, 0);
        let old = cells.iter().position(|known| known.cid == cell.cid).map(|at| cells.remove(at));
        channel.put(&cell.as_cell(), old.map(|old| old.at)).expect("put");
        cells.push(cell);
        if version % 3 == 0 {
            let lost = cells.remove(cells.len() / 2);
            channel.remove(&lost.table, &lost.pk, &lost.cid, lost.at).expect("removed");
        }
        assert_cells(&row(&mut *channel, "todos", "1"), &cells);
        channel.commit(head(version)).expect("committed");
        assert_cells(&row(&mut *channel, "todos", "1"), &cells);
    }
    store.reader("a").expect("readable").check().expect("all is well");
}

/// For each site, tag and event by itself, listed in that order, whatever came in which order.
pub fn peers_keep_their_highest_version(context: &Context) {
    let store = context.open();
    let mut channel = store.open("a").expect("opened");
    let long = "Z".repeat(64);
    let top = (1 << 53) - 1;
    let mut expected = vec![
        peer("A", 0, RECEIVED, 7),
        peer("A", 0, SENT, 3),
        peer("A", 256, RECEIVED, 1),
        peer("AA", 0, RECEIVED, 0),
        peer("B", 0, RECEIVED, top),
        peer(&long, 0, RECEIVED, 2),
        peer("a", 0, RECEIVED, 2),
    ];
    channel.begin().expect("begun");
    for peer in expected.iter().rev() {
        channel.track(peer).expect("tracked");
    }
    channel.track(&peer("A", 0, RECEIVED, 6)).expect("tracked");
    channel.commit(head(0)).expect("committed without a new version");
    assert_eq!(peers(&*store), expected);
    channel.begin().expect("begun");
    channel.track(&peer("A", 0, SENT, 2)).expect("tracked");
    channel.track(&peer("A", 0, SENT, 4)).expect("tracked");
    channel.track(&TrackedPeer { seen_s: 10 + SEEN_STEP_S, ..peer("B", 0, RECEIVED, 1) }).expect("tracked");
    channel.track(&TrackedPeer { seen_s: 9, ..peer("a", 0, RECEIVED, 3) }).expect("tracked");
    channel.commit(head(0)).expect("committed without a new version");
    expected[1].version = 4;
    expected[4].seen_s = 10 + SEEN_STEP_S;
    expected[6].version = 3;
    assert_eq!(peers(&*store), expected);
    drop(channel);
    let store = context.reopen(store);
    assert_eq!(peers(&*store), expected);
}

/// Those that were last seen before a time, at most so many at once; a rollback brings them back.
pub fn old_peers_are_forgotten(context: &Context) {
    let store = context.open();
    let mut channel = store.open("a").expect("opened");
    let seen = |n: u64| TrackedPeer { seen_s: n, ..peer(&format!("P{n}"), 0, RECEIVED, 1) };
    channel.begin().expect("begun");
    (0..9).for_each(|n| channel.track(&seen(n)).expect("tracked"));
    channel.commit(head(0)).expect("committed");
    channel.begin().expect("begun");
    assert_eq!(channel.forget_peers(u64::MAX, 100).expect("forgotten"), 9);
    channel.rollback();
    assert_eq!(peers(&*store).len(), 9);
    for (max, forgotten, left) in [(4, 4, 5), (4, 2, 3), (4, 0, 3)] {
        channel.begin().expect("begun");
        assert_eq!(channel.forget_peers(6, max).expect("forgotten"), forgotten);
        channel.commit(head(0)).expect("committed");
        assert_eq!(peers(&*store).len(), left);
    }
    drop(channel);
    let store = context.reopen(store);
    assert_eq!(peers(&*store), [6, 7, 8].map(seen));
}
