//! What only the SQLite backend can go through: files of an older version, views, and a removal that a crash cut short.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use causeway_storage::conformance::read_all;
use causeway_storage::store::{ChangeStore, RECEIVED, SENT, TrackedPeer};
use causeway_storage::{Change, Clamp, StoreError, StoreOptions, Update, Value, merge, sqlite, verify};

fn open(dir: &Path) -> Arc<dyn ChangeStore> {
    (sqlite::BACKEND.open)(&StoreOptions::new(dir)).expect("opened")
}

fn change<'a>(pk: &'a str, cid: &'a str, val: Value<'a>, cl: u64) -> Change<'a> {
    let col_version = if cid == "-1" { cl } else { 1 };
    Change { table: "t", pk, cid, val, col_version, db_version: 1, site_id: "S", cl, seq: 0 }
}

/// A channel with a live row and a deleted one.
fn fill(store: &dyn ChangeStore, channel: &str) {
    let mut channel = store.open(channel).expect("opened");
    for changes in [
        &[change("1", "a", Value::Integer(1), 1), change("1", "b", Value::Text("x"), 1)][..],
        &[change("2", "-1", Value::Null, 2)],
    ] {
        let update = Update { site_id: "S", version: 1, changes };
        merge(&mut *channel, &[update], &Clamp::default()).expect("merged");
    }
}

fn views(path: &Path) -> Vec<String> {
    let conn = rusqlite::Connection::open(path).expect("a database");
    let mut select =
        conn.prepare("SELECT name FROM sqlite_schema WHERE type = 'view' ORDER BY name").expect("SQL");
    select.query_map([], |row| row.get(0)).expect("read").map(|name| name.expect("text")).collect()
}

const VIEWS: [&str; 4] = ["causeway_deleted", "causeway_latest", "causeway_peers", "causeway_tables"];

/// Makes the file one of the version without views and sizes.
fn make_old(path: &Path) {
    let conn = rusqlite::Connection::open(path).expect("a database");
    for view in views(path) {
        conn.execute_batch(&format!("DROP VIEW {view}")).expect("dropped");
    }
    forget_size(&conn, 2);
}

/// Makes the file one of an older version, without sizes.
fn forget_size(conn: &rusqlite::Connection, version: i64) {
    conn.execute_batch(
        "ALTER TABLE causeway_state DROP COLUMN cells; ALTER TABLE causeway_state DROP COLUMN bytes",
    )
    .expect("dropped");
    conn.pragma_update(None, "user_version", version).expect("set");
}

#[test]
fn an_old_file_is_counted_once() {
    let dir = tempfile::tempdir().expect("a directory to test in");
    let store = open(dir.path());
    fill(&*store, "a");
    let channel = store.open("a").expect("opened");
    let head = channel.head();
    assert!(head.size.cells == 3 && head.size.bytes > 3 * 64, "{head:?}");
    drop(channel);
    forget_size(&rusqlite::Connection::open(dir.path().join("a.db")).expect("a database"), 3);
    assert_eq!(store.reader("a").expect("readable").head().expect("read"), head);
    assert_eq!(store.open("a").expect("opened").head(), head);
    verify("a", &mut *store.reader("a").expect("readable")).expect("whole");
}

#[test]
fn an_old_file_is_read_as_it_is_and_gets_its_views_when_it_is_written() {
    let dir = tempfile::tempdir().expect("a directory to test in");
    let path = dir.path().join("a.db");
    let store = open(dir.path());
    fill(&*store, "a");
    assert_eq!(views(&path), VIEWS);
    let whole = verify("a", &mut *store.reader("a").expect("readable")).expect("whole");
    make_old(&path);
    let mut reader = store.reader("a").expect("an old file can be read");
    assert_eq!(verify("a", &mut *reader).expect("whole"), whole);
    let mut cells = 0;
    reader.tables(&mut |counts| cells += counts.cells).expect("counted");
    assert_eq!(cells, 3);
    assert_eq!(views(&path), Vec::<String>::new(), "who reads does not write");
    // A writer that comes second finds it done.
    for _ in 0..2 {
        drop(store.open("a").expect("an old file is brought up to date"));
        assert_eq!(views(&path), VIEWS);
    }
    assert_eq!(verify("a", &mut *reader).expect("whole"), whole, "for those who read it meanwhile, too");
    for other in [1, 5] {
        let conn = rusqlite::Connection::open(&path).expect("a database");
        conn.pragma_update(None, "user_version", other).expect("set");
        assert!(matches!(store.open("a"), Err(StoreError::Corrupt { .. })), "schema {other}");
        assert!(matches!(store.reader("a"), Err(StoreError::Corrupt { .. })), "schema {other}");
    }
}

/// What fails on the way leaves the file as it was.
#[test]
fn an_old_file_is_brought_up_to_date_wholly_or_not_at_all() {
    let dir = tempfile::tempdir().expect("a directory to test in");
    let path = dir.path().join("a.db");
    let store = open(dir.path());
    fill(&*store, "a");
    make_old(&path);
    let conn = rusqlite::Connection::open(&path).expect("a database");
    // The last view that is made finds its name taken.
    conn.execute_batch("CREATE TABLE causeway_tables (x)").expect("made");
    assert!(store.open("a").is_err());
    assert_eq!(views(&path), Vec::<String>::new());
    let version: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0)).expect("read");
    assert_eq!(version, 2);
    conn.execute_batch("DROP TABLE causeway_tables").expect("dropped");
    drop(store.open("a").expect("opened"));
    assert_eq!(views(&path), VIEWS);
}

#[test]
fn the_views_answer_what_an_operator_asks() {
    let dir = tempfile::tempdir().expect("a directory to test in");
    let store = open(dir.path());
    fill(&*store, "a");
    let mut channel = store.open("a").expect("opened");
    channel.begin().expect("begun");
    for (site_id, event, version, seen_s) in [("OLD", RECEIVED, 5, 0), ("NEW", SENT, 1, 1_000_000_000)] {
        channel
            .track(&TrackedPeer { site_id: site_id.into(), tag: 0, event, version, seen_s })
            .expect("tracked");
    }
    let head = channel.head();
    channel.commit(head).expect("committed");
    let conn = rusqlite::Connection::open(dir.path().join("a.db")).expect("a database");
    let ask = |sql: &str| -> Vec<String> {
        let mut select = conn.prepare(sql).expect("SQL");
        let columns = select.column_count();
        let mut rows = select.query([]).expect("asked");
        let mut lines = Vec::new();
        while let Some(row) = rows.next().expect("read") {
            let values = (0..columns).map(|i| match row.get_ref(i).expect("a column") {
                rusqlite::types::ValueRef::Null => "NULL".into(),
                rusqlite::types::ValueRef::Integer(n) => n.to_string(),
                other => other.as_str().expect("text").to_owned(),
            });
            lines.push(values.collect::<Vec<_>>().join("|"));
        }
        lines
    };
    let peers = ask("SELECT * FROM causeway_peers WHERE site_id <> 'S'");
    assert_eq!(peers, ["NEW|sent|1|1|2001-09-09 01:46:40|0", "OLD|received|5|NULL|1970-01-01 00:00:00|0"]);
    let latest = ask("SELECT * FROM causeway_latest");
    assert_eq!(latest, ["t|2|-1|NULL|2|S|2|2", "t|1|b|x|1|S|1|1", "t|1|a|1|1|S|1|1"]);
    assert_eq!(ask("SELECT * FROM causeway_deleted"), ["t|2|2|S|2"]);
    assert_eq!(ask("SELECT * FROM causeway_tables"), ["t|1|1|3"]);
}

/// A crash after the file was removed leaves its log, which is not taken for that of a channel made anew.
#[test]
fn a_file_is_made_whole_whatever_a_crash_has_left_of_it() {
    let dir = tempfile::tempdir().expect("a directory to test in");
    let path = dir.path().join("a.db");
    let store = open(dir.path());
    // What this version leaves, and what the one before did: a file in which nothing is yet.
    fs::write(dir.path().join("a.new"), [1; 100_000]).expect("written");
    rusqlite::Connection::open(&path)
        .expect("a database")
        .execute_batch("PRAGMA journal_mode = WAL")
        .expect("set");
    assert!(fs::metadata(&path).expect("there").len() > 0);
    assert_eq!(store.channels().expect("listed").names, Vec::<String>::new());
    assert!(store.open_existing("a").expect("read").is_none() && store.reader("a").is_err());
    store.create("a", "A").expect("created");
    let mut files: Vec<_> =
        fs::read_dir(dir.path()).expect("read").map(|e| e.expect("read").file_name()).collect();
    files.sort();
    assert_eq!(files, ["a.db", "causeway.lock"]);
    let conn = rusqlite::Connection::open(&path).expect("a database");
    let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, String>(0)).expect("read");
    assert_eq!((&*pragma("journal_mode"), &*pragma("integrity_check")), ("wal", "ok"));
    assert_eq!(store.open("a").expect("opened").site_id(), "A");
    fill(&*store, "a");
    verify("a", &mut *store.reader("a").expect("readable")).expect("whole");
}

#[test]
fn the_log_of_a_removed_file_comes_back_in_no_other() {
    let dir = tempfile::tempdir().expect("a directory to test in");
    let path = dir.path().join("a.db");
    let store = open(dir.path());
    let site_id = store.open("a").expect("opened").site_id().to_owned();
    // Open all the time, so that the log is not moved into the file.
    let mut reader = store.reader("a").expect("readable");
    fill(&*store, "a");
    let log = fs::read(path.with_extension("db-wal")).expect("a log");
    assert!(!log.is_empty() && store.remove("a").expect("removed"));
    fs::write(path.with_extension("db-wal"), &log).expect("written");
    assert_eq!(store.channels().expect("listed").names, Vec::<String>::new());
    let anew = store.open("a").expect("opened");
    assert_ne!(anew.site_id(), site_id);
    assert_eq!(read_all(&mut *store.reader("a").expect("readable")), (vec![], 0));
    // Who had it open has what was there, and closing it does no harm to what is there now.
    assert_eq!(read_all(&mut *reader).1, 2);
    drop(reader);
    drop(anew);
    fill(&*store, "a");
    assert_eq!(verify("a", &mut *store.reader("a").expect("readable")).expect("whole").cells, 3);
}

#[test]
fn what_is_no_database_can_be_removed() {
    let dir = tempfile::tempdir().expect("a directory to test in");
    let store = open(dir.path());
    fs::write(dir.path().join("a.db"), [0x5a; 8192]).expect("written");
    assert!(matches!(store.open("a"), Err(StoreError::Corrupt { .. })));
    assert!(store.remove("a").expect("removed"));
    fill(&*store, "a");
}
