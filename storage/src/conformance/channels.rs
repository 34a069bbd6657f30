//! Channels: made, named, listed, kept apart, removed.

use std::collections::BTreeSet;
use std::thread;

use super::kit::{Context, assert_cells, commit, head, read_all, row, stored};
use crate::backend::Durability;
use crate::change::Value;
use crate::error::StoreError;
use crate::store::{Head, RECEIVED, TableCounts, TrackedPeer};

/// A channel begins at version 0, with the empty digest, no cells and no peers, and can be read at once.
pub fn a_new_channel_is_empty(context: &Context) {
    let store = context.open();
    assert_eq!(store.channels().expect("listed").names, Vec::<String>::new());
    let mut channel = store.open("new").expect("opened");
    assert_eq!(channel.head(), Head::default());
    assert_cells(&row(&mut *channel, "todos", "1"), &[]);
    let mut reader = store.reader("new").expect("readable");
    assert_eq!(reader.head().expect("read"), Head::default());
    assert_eq!(reader.peers().expect("read"), []);
    assert_eq!(read_all(&mut *reader), (vec![], 0));
    assert_eq!(store.channels().expect("listed").names, ["new"]);
}

/// What is there is opened, at its head; what is not is not made by asking. Both are counted.
pub fn what_is_not_there_is_not_opened(context: &Context) {
    let store = context.open();
    assert!(store.open_existing("a").expect("asked").is_none() && store.count().expect("counted") == 0);
    assert_eq!(store.channels().expect("listed").names, Vec::<String>::new());
    commit(&mut *store.open("a").expect("opened"), &[stored("1", "n", Value::Null, 1, 0)]);
    store.create("b", "B").expect("created");
    let store = context.reopen(store);
    assert_eq!(store.count().expect("counted"), 2);
    let mut channel = store.open_existing("a").expect("asked").expect("there");
    assert_eq!(channel.head(), head(1));
    commit(&mut *channel, &[stored("2", "n", Value::Null, 2, 0)]);
    drop(channel);
    assert_eq!(store.reader("a").expect("readable").head().expect("read"), head(2));
    assert_eq!(store.open_existing("b").expect("asked").expect("there").site_id(), "B");
    store.remove("a").expect("removed");
    assert!(store.open_existing("a").expect("asked").is_none() && store.count().expect("counted") == 1);
}

/// A site id is 32 upper-case hex digits, another for each channel, and stays.
pub fn a_site_id_is_made_once(context: &Context) {
    let store = context.open();
    let ids = ["a", "b"].map(|name| store.open(name).expect("opened").site_id().to_owned());
    assert_ne!(ids[0], ids[1]);
    for id in &ids {
        assert!(
            id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b)),
            "{id}"
        );
    }
    assert_eq!(store.open("a").expect("opened").site_id(), ids[0]);
    assert_eq!(store.reader("a").expect("readable").site_id().expect("read"), ids[0]);
    let store = context.reopen(store);
    assert_eq!(store.open("a").expect("opened").site_id(), ids[0]);
    assert_eq!(store.open("b").expect("opened").site_id(), ids[1]);
}

/// With the site id that it is given; one that is there is left as it is.
pub fn a_channel_is_created_with_a_site_id(context: &Context) {
    let store = context.open();
    store.create("a", "A").expect("created");
    commit(&mut *store.open("a").expect("opened"), &[stored("1", "n", Value::Null, 1, 0)]);
    match store.create("a", "B") {
        Err(StoreError::Exists { channel }) => assert_eq!(channel, "a"),
        other => panic!("created twice: {other:?}"),
    }
    let store = context.reopen(store);
    assert_eq!(store.open("a").expect("opened").site_id(), "A");
    assert_eq!(read_all(&mut *store.reader("a").expect("readable")).1, 1);
}

/// The error names the channel, and asking does not make it.
pub fn a_channel_that_is_not_there_cannot_be_read(context: &Context) {
    let store = context.open();
    let Err(error) = store.reader("nobody") else { panic!("a reader of a channel that is not there") };
    assert!(matches!(&error, StoreError::Missing { channel } if channel == "nobody"), "{error}");
    assert_eq!(store.channels().expect("listed").names, Vec::<String>::new());
}

/// [`StoreError::BadName`] from every call that takes a name.
pub fn names_that_are_none_are_refused(context: &Context) {
    let store = context.open();
    for name in ["", "a\0b", "a\nb", "\u{7f}", &"x".repeat(256)] {
        assert!(matches!(store.open(name), Err(StoreError::BadName { .. })), "open {name:?}");
        assert!(matches!(store.create(name, "A"), Err(StoreError::BadName { .. })), "create {name:?}");
        assert!(matches!(store.reader(name), Err(StoreError::BadName { .. })), "reader {name:?}");
        assert!(matches!(store.remove(name), Err(StoreError::BadName { .. })), "remove {name:?}");
    }
    assert_eq!(store.channels().expect("listed").names, Vec::<String>::new());
}

/// Names that look like paths, differ in case only, or are as long as can be, have their own data and are listed as
/// they are.
pub fn every_name_has_a_channel_of_its_own(context: &Context) {
    let long = "x".repeat(255);
    let accents = "é".repeat(127);
    let also_long = format!("{}y", "x".repeat(254));
    let names = [
        "../x",
        "..",
        ".",
        "/",
        "/etc/passwd",
        "a/b",
        "a%2fb",
        "a\\b",
        "Foo",
        "foo",
        "FOO",
        "NUL",
        "con.txt",
        " ",
        "a ",
        " a",
        "a",
        "日本",
        "😀",
        "é",
        "e\u{301}",
        "-",
        "~",
        "%",
        "a.db",
        "a.db-wal",
        "causeway.lock",
        "sled",
        "'; drop table x; --",
        &long,
        &also_long,
        &accents,
    ];
    let mut store = context.open();
    for reopened in [false, true] {
        for (index, name) in names.iter().enumerate() {
            let mut channel = store.open(name).expect("opened");
            let expected = stored(name, "col", Value::Integer(index as i64), 1, 0);
            if !reopened {
                assert_eq!(channel.head().version, 0, "{name:?} is new");
                commit(&mut *channel, std::slice::from_ref(&expected));
            }
            drop(channel);
            let (cells, version) = read_all(&mut *store.reader(name).expect("readable"));
            assert_cells(&cells, &[expected]);
            assert_eq!(version, 1);
        }
        let listed = store.channels().expect("listed").names;
        assert_eq!(listed.len(), names.len());
        let listed: BTreeSet<&str> = listed.iter().map(String::as_str).collect();
        assert_eq!(listed, BTreeSet::from(names));
        if !reopened {
            store = context.reopen(store);
        }
    }
}

/// Two hundred channels, open at once.
pub fn many_channels_are_kept_apart(context: &Context) {
    let store = context.open();
    let mut open: Vec<_> = (0..200).map(|n| store.open(&format!("channel-{n}")).expect("opened")).collect();
    for round in 1..=2 {
        for (n, channel) in open.iter_mut().enumerate() {
            commit(&mut **channel, &[stored("1", "n", Value::Integer(n as i64), round, 0)]);
        }
    }
    drop(open);
    let store = context.reopen(store);
    assert_eq!(store.channels().expect("listed").names.len(), 200);
    for n in 0..200 {
        let (cells, version) = read_all(&mut *store.reader(&format!("channel-{n}")).expect("readable"));
        assert_cells(&cells, &[stored("1", "n", Value::Integer(n), 2, 0)]);
        assert_eq!(version, 2);
    }
}

/// Threads make, fill and read channels of their own at once, while the list of channels is asked for.
pub fn writers_of_different_channels_do_not_meet(context: &Context) {
    const VERSIONS: u64 = 25;
    let store = context.open();
    thread::scope(|scope| {
        for writer in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for n in 0..3 {
                    let name = format!("{writer}-{n}");
                    let mut channel = store.open(&name).expect("opened");
                    let mut reader = store.reader(&name).expect("readable");
                    for version in 1..=VERSIONS {
                        let cells = [("same", version * 10 + writer), ("moves", version)];
                        let cells = (0..).zip(cells).map(|(seq, (cid, val))| {
                            stored("1", cid, Value::Integer(val as i64), version, seq)
                        });
                        let cells: Vec<_> = cells.collect();
                        commit(&mut *channel, &cells);
                        assert_eq!(read_all(&mut *reader), (cells, version));
                    }
                    assert!(store.channels().expect("listed").names.contains(&name));
                }
            });
        }
    });
    let store = context.reopen(store);
    assert_eq!(store.channels().expect("listed").names.len(), 12);
    for writer in 0..4 {
        let (cells, version) = read_all(&mut *store.reader(&format!("{writer}-2")).expect("readable"));
        assert_eq!(version, VERSIONS);
        let val = Value::Integer((VERSIONS * 10 + writer) as i64);
        assert!(cells[0] == stored("1", "same", val, VERSIONS, 0), "{cells:?}");
    }
}

/// Nothing of it is left, not for a channel made anew under its name either, and its neighbours stay.
pub fn a_removed_channel_is_gone(context: &Context) {
    let store = context.open();
    assert!(!store.remove("a").expect("asked"));
    let names = ["a", "aa", "b"];
    let ids = names.map(|name| {
        let mut channel = store.open(name).expect("opened");
        // Enough for a backend that removes piece by piece to need several.
        let cells: Vec<_> = (0..3000).map(|n| stored("1", &format!("c{n}"), Value::Null, 1, n)).collect();
        channel.begin().expect("begun");
        cells.iter().for_each(|cell| channel.put(&cell.as_cell(), None).expect("put"));
        let peer = TrackedPeer { site_id: "P".into(), tag: 0, event: RECEIVED, version: 1, seen_s: 1 };
        channel.track(&peer).expect("tracked");
        channel.commit(head(1)).expect("committed");
        channel.site_id().to_owned()
    });
    assert!(store.remove("a").expect("removed"));
    assert!(!store.remove("a").expect("asked"));
    assert!(store.reader("a").is_err());
    let store = context.reopen(store);
    assert_eq!(
        BTreeSet::from_iter(store.channels().expect("listed").names),
        ["aa", "b"].map(String::from).into()
    );
    let mut anew = store.open("a").expect("opened");
    assert_ne!(anew.site_id(), ids[0]);
    assert_eq!(anew.head(), Head::default());
    assert_eq!(store.reader("a").expect("readable").peers().expect("read"), []);
    assert_cells(&row(&mut *anew, "todos", "1"), &[]);
    assert_eq!(read_all(&mut *store.reader("a").expect("readable")), (vec![], 0));
    for name in ["aa", "b"] {
        let (cells, version) = read_all(&mut *store.reader(name).expect("readable"));
        assert_eq!((cells.len(), version), (3000, 1));
    }
}

/// Every table's live rows, deleted rows and cells, and what the channel takes; a row counts once, however many cells it has.
pub fn tables_are_counted(context: &Context) {
    let store = context.open();
    let mut channel = store.open("a").expect("opened");
    let empty = store.reader("a").expect("readable").size_bytes().expect("measured");
    let mut seq = 0;
    let mut cell = |table: &str, pk: &str, cid: &str, cl| {
        seq += 1;
        let mut cell = stored(pk, cid, Value::Null, 1, seq);
        (cell.table, cell.cl) = (table.into(), cl);
        cell
    };
    let mut cells = Vec::new();
    for (table, rows) in [("t", 40), ("ta", 3), ("", 1)] {
        for row in 0..rows {
            let pk = format!("{row}");
            match row % 4 {
                0 => cells.extend([
                    cell(table, &pk, "a", 1),
                    cell(table, &pk, "-1", 3),
                    cell(table, &pk, "-", 1),
                ]),
                1 => cells.push(cell(table, &pk, "-1", 2)),
                2 => cells.push(cell(table, &pk, "-1", 1)),
                _ => cells.push(cell(table, &pk, "b", 1)),
            }
        }
    }
    cells.push(cell("gone", "0", "-1", 4));
    commit(&mut *channel, &cells);
    let mut found = Vec::new();
    let mut reader = store.reader("a").expect("readable");
    reader.tables(&mut |counts| found.push(counts)).expect("counted");
    found.sort_by(|a, b| a.table.cmp(&b.table));
    let counts =
        |table: &str, rows, deleted, cells| TableCounts { table: table.into(), rows, deleted, cells };
    let expected =
        [counts("", 1, 0, 3), counts("gone", 0, 1, 1), counts("t", 30, 10, 60), counts("ta", 2, 1, 5)];
    assert_eq!(found, expected);
    assert!(reader.size_bytes().expect("measured") > empty);
    let mut other = store.open("b").expect("opened");
    commit(&mut *other, &cells[..1]);
    found.clear();
    store.reader("b").expect("readable").tables(&mut |counts| found.push(counts)).expect("counted");
    assert_eq!(found, [counts("t", 1, 0, 1)]);
}

/// A second store on a directory is refused with [`StoreError::Locked`], until the first is dropped.
pub fn a_directory_has_one_store(context: &Context) {
    let store = context.open();
    drop(store.open("a").expect("opened"));
    if !context.backend.persistent {
        return;
    }
    for durability in Durability::ALL {
        match context.try_open(durability) {
            Err(StoreError::Locked { path }) => assert_eq!(path, context.dir),
            Err(other) => panic!("not refused as locked: {other}"),
            Ok(_) => panic!("the directory is open twice"),
        }
    }
    drop(store);
    assert_eq!(context.open().channels().expect("listed").names, ["a"]);
}
