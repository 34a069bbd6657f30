//! What only an engine's own check can notice: an index that leads astray.

use std::path::Path;

use causeway_storage::store::ChangeStore;
use causeway_storage::{
    BACKENDS, Backend, Change, Clamp, StoreError, StoreOptions, Update, Value, merge, verify,
};

const CHANNEL: &str = "list";

fn open(backend: &Backend, dir: &Path) -> std::sync::Arc<dyn ChangeStore> {
    (backend.open)(&StoreOptions::new(dir)).expect("opened")
}

fn fill(backend: &Backend, dir: &Path) {
    let store = open(backend, dir);
    let mut channel = store.open(CHANNEL).expect("opened");
    let pks: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    let change = |pk| Change {
        table: "t",
        pk,
        cid: "c",
        val: Value::Integer(7),
        col_version: 1,
        db_version: 1,
        site_id: "S",
        cl: 1,
        seq: 0,
    };
    let changes: Vec<Change<'_>> = pks.iter().map(|pk| change(pk)).collect();
    merge(&mut *channel, &[Update { site_id: "S", version: 1, changes: &changes }], &Clamp::default())
        .expect("merged");
    drop(channel);
    store.close().expect("closed");
}

#[track_caller]
fn assert_noticed(backend: &Backend, dir: &Path) {
    let store = open(backend, dir);
    let found = store.reader(CHANNEL).and_then(|mut reader| verify(CHANNEL, &mut *reader));
    match found {
        Err(StoreError::Corrupt { channel, .. }) => assert_eq!(channel, CHANNEL),
        other => panic!("not noticed: {other:?}"),
    }
}

#[test]
fn every_backend_verifies_what_it_has_written() {
    for backend in BACKENDS.iter().filter(|backend| backend.persistent) {
        let dir = tempfile::tempdir().expect("a directory to test in");
        fill(backend, dir.path());
        let mut reader = open(backend, dir.path()).reader(CHANNEL).expect("readable");
        assert_eq!(verify(CHANNEL, &mut *reader).expect("whole").cells, 50);
    }
}

#[test]
fn a_hole_in_sqlites_index_is_noticed() {
    let backend = causeway_storage::backend("sqlite").expect("known");
    let dir = tempfile::tempdir().expect("a directory to test in");
    fill(backend, dir.path());
    let conn = rusqlite::Connection::open(dir.path().join("list.db")).expect("opened");
    // The index is taken for one of another, narrower definition while a cell goes, and so keeps its entry.
    conn.execute_batch(
        "PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET sql = 'CREATE UNIQUE INDEX crdt_changes_key ON crdt_changes (\"table\", pk, cid) WHERE cid = ''x'''
         WHERE name = 'crdt_changes_key';",
    )
    .expect("the schema is changed");
    drop(conn);
    let conn = rusqlite::Connection::open(dir.path().join("list.db")).expect("opened");
    conn.execute("UPDATE crdt_changes SET pk = 'moved' WHERE pk = '7'", []).expect("changed");
    conn.execute_batch(
        "PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET sql = 'CREATE UNIQUE INDEX crdt_changes_key ON crdt_changes (\"table\", pk, cid)'
         WHERE name = 'crdt_changes_key';",
    )
    .expect("the schema is changed back");
    drop(conn);
    assert_noticed(backend, dir.path());
}

#[test]
fn a_hole_in_the_keys_is_noticed() {
    for (backend, open_keys) in BACKENDS.iter().filter_map(|backend| Some((backend, backend.keys?))) {
        for kind in [b'm', b'r', b'v', b'h', b's'] {
            let dir = tempfile::tempdir().expect("a directory to test in");
            fill(backend, dir.path());
            let keys = open_keys(dir.path());
            let all = keys.all();
            let of_kind = all.iter().find(|(key, _)| key[0] == b'c' && key[9] == kind);
            // Not every engine marks rows.
            let Some((key, _)) = of_kind else {
                assert_eq!(kind, b'm');
                continue;
            };
            keys.write(key, None);
            drop(keys);
            if kind == b's' {
                let found = open(backend, dir.path()).reader(CHANNEL).expect("readable").site_id();
                assert!(matches!(found, Err(StoreError::Corrupt { .. })), "{found:?}");
            } else {
                assert_noticed(backend, dir.path());
            }
        }
    }
}
