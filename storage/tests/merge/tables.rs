//! The application's tables beside the cells, in SQLite: the engine's cases with their rows, and what else can happen to a
//! row, against a table made from the cells at the end.

use std::path::Path;
use std::sync::Arc;

use causeway_storage::schema::{KeyFormat, Schema, key};
use causeway_storage::store::ChangeStore;
use causeway_storage::{Change, Clamp, Durability, StoreOptions, Update, Value, merge, sqlite};
use proptest::prelude::*;
use rusqlite::types::Value as Sql;
use serde_json::{Value as Json, json};

use crate::model::OwnedChange;
use crate::vectors::{WAYS, changes};

fn open(dir: &Path, schema: Option<&str>) -> Arc<dyn ChangeStore> {
    let schema = schema.map(|text| {
        Arc::new(Schema::parse(text, "schema.sql", KeyFormat::Packed).expect("a schema that can be taken"))
    });
    let options = StoreOptions { durability: Durability::Off, schema, ..StoreOptions::new(dir) };
    (sqlite::BACKEND.open)(&options).expect("opened")
}

fn deliver(store: &dyn ChangeStore, channel: &str, groups: &[Vec<Vec<OwnedChange>>]) {
    let mut channel = store.open(channel).expect("opened");
    for group in groups {
        let changes: Vec<Vec<Change<'_>>> =
            group.iter().map(|update| update.iter().map(OwnedChange::as_change).collect()).collect();
        let updates: Vec<_> =
            changes.iter().map(|changes| Update { site_id: "S", version: 1, changes }).collect();
        merge(&mut *channel, &updates, &Clamp::default()).expect("merged");
    }
}

/// All rows of a table as JSON, as another process reads them.
fn rows(dir: &Path, channel: &str, table: &str) -> Vec<Json> {
    let conn = rusqlite::Connection::open(dir.join(format!("{channel}.db"))).expect("opened");
    let mut select = conn.prepare(&format!("SELECT * FROM \"{table}\"")).expect("there is such a table");
    let columns = select.column_count();
    let json = |value| match value {
        Sql::Null => Json::Null,
        Sql::Integer(i) => json!(i),
        Sql::Real(r) => json!(r),
        Sql::Text(text) => json!(text),
        Sql::Blob(blob) => json!({"$blob": blob.iter().map(|b| format!("{b:02X}")).collect::<String>()}),
    };
    let row = |row: &rusqlite::Row<'_>| {
        (0..columns).map(|at| row.get(at).map(json)).collect::<rusqlite::Result<Vec<Json>>>()
    };
    select.query_map([], row).expect("read").map(|row| row.expect("read").into()).collect()
}

#[test]
fn tables_many_times_the_cache_are_made_whole() {
    const ROWS: i64 = 8_000;
    let dir = tempfile::tempdir().expect("a directory");
    let schema =
        Schema::parse("CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, a);", "s", KeyFormat::Packed);
    let options = |schema| StoreOptions {
        durability: Durability::Off,
        cache_bytes: 1 << 16,
        schema,
        ..StoreOptions::new(dir.path())
    };
    let text = "x".repeat(200);
    let keys: Vec<String> = (0..ROWS).map(|id| key::pack([Value::Integer(id)])).collect();
    let change = |pk, val, col_version| Change {
        table: "t",
        pk,
        cid: "a",
        val,
        col_version,
        db_version: 1,
        site_id: "S",
        cl: 1,
        seq: 0,
    };
    let cells: Vec<_> = keys.iter().map(|pk| change(pk, Value::Text(&text), 1)).collect();
    let put = |store: Arc<dyn ChangeStore>, version, changes: &[Change<'_>]| {
        let update = Update { site_id: "S", version, changes };
        let mut channel = store.open("c").expect("opened");
        merge(&mut *channel, &[update], &Clamp::default()).expect("merged");
    };
    put((sqlite::BACKEND.open)(&options(None)).expect("opened"), 1, &cells);
    let schema = Some(Arc::new(schema.expect("a schema that can be taken")));
    let last = [change(&keys[7], Value::Integer(7), 2)];
    put((sqlite::BACKEND.open)(&options(schema)).expect("opened"), 2, &last);
    let expected: Vec<Json> =
        (0..ROWS).map(|id| if id == 7 { json!([id, 7]) } else { json!([id, text]) }).collect();
    assert_eq!(rows(dir.path(), "c", "t"), expected);
}

#[test]
fn the_engines_cases_give_the_engines_rows() {
    let vectors: Vec<Json> =
        serde_json::from_str(include_str!("../data/merge-vectors.json")).expect("the vectors are JSON");
    for vector in &vectors {
        let name = vector["name"].as_str().expect("a name");
        let statements = vector["schema"].as_array().expect("statements");
        let schema: String =
            statements.iter().map(|sql| sql.as_str().expect("SQL").to_owned() + ";\n").collect();
        // Where the engine depends on the order, the relay ends as it says in `merge.md`.
        let tables = match name {
            "raw_missed_delete_sentinel_first" => &vector["b_then_a"]["table"],
            _ => &vector["table"],
        };
        let sides = ["a", "b"].map(|side| changes(&vector[side]));
        let dir = tempfile::tempdir().expect("a directory to test in");
        let store = open(dir.path(), Some(&schema));
        for (order, way) in [[0, 1], [1, 0]].into_iter().zip(["ab", "ba"]) {
            let [first, second] = order.map(|side| &sides[side]);
            for (number, (what, groups)) in WAYS.iter().enumerate() {
                let channel = format!("{way}{number}");
                deliver(&*store, &channel, &groups(first, second));
                for (table, expected) in tables.as_object().expect("tables") {
                    let mut found = rows(dir.path(), &channel, table);
                    let mut expected = expected.as_array().expect("rows").clone();
                    found.sort_by_key(Json::to_string);
                    expected.sort_by_key(Json::to_string);
                    assert_eq!(found, expected, "{name}, {what}, {way}");
                }
            }
        }
    }
}

const SCHEMA: &str =
    "CREATE TABLE t (id PRIMARY KEY NOT NULL, a, b DEFAULT 'none', c INTEGER NOT NULL DEFAULT 7);
     CREATE TABLE pair (x INTEGER NOT NULL, y TEXT NOT NULL, v ANY, PRIMARY KEY (y, x)) STRICT;";

fn any_change() -> impl Strategy<Value = OwnedChange> {
    let keys = prop_oneof![
        (0..3i64).prop_map(|n| ("t", key::pack([Value::Integer(n)]))),
        (0..2i64).prop_map(|n| ("pair", key::pack([Value::Text("y"), Value::Integer(n)]))),
    ];
    (keys, 0..4usize, 1..6u64, 1..4u64, 0..5i64).prop_map(|((table, pk), column, cl, col_version, val)| {
        let cid = match table {
            "t" => ["a", "b", "c", "-1"][column],
            _ => ["v", "v", "v", "-1"][column],
        };
        let cid = if cl % 2 == 0 { "-1" } else { cid };
        let (val, col_version) = match cid {
            "-1" => (Value::Null, cl),
            _ => (Value::Integer(val), col_version),
        };
        OwnedChange { table: table.into(), ..OwnedChange::cell(&pk, cid, val, col_version, cl) }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes, in whatever groups, the tables are those that the cells at the end make.
    #[test]
    fn tables_are_what_the_cells_make(
        groups in prop::collection::vec(prop::collection::vec(prop::collection::vec(any_change(), 1..6), 1..4), 1..8),
    ) {
        let dir = tempfile::tempdir().expect("a directory to test in");
        deliver(&*open(dir.path(), Some(SCHEMA)), "list", &groups);
        let kept = ["t", "pair"].map(|table| rows(dir.path(), "list", table));
        // Without a schema the tables are left as they are; with one again they are made anew.
        drop(open(dir.path(), None).open("list").expect("opened"));
        drop(open(dir.path(), Some(SCHEMA)).open("list").expect("opened"));
        let made = ["t", "pair"].map(|table| rows(dir.path(), "list", table));
        prop_assert_eq!(kept, made);
    }
}

fn cell(pk: i64, cid: &str, val: Value<'_>) -> OwnedChange {
    OwnedChange { table: "t".into(), ..OwnedChange::cell(&key::pack([Value::Integer(pk)]), cid, val, 1, 1) }
}

#[test]
fn a_table_or_a_column_that_is_new_in_the_schema_is_filled() {
    let dir = tempfile::tempdir().expect("a directory to test in");
    let update = |n| vec![cell(n, "a", Value::Text("a")), cell(n, "later", Value::Integer(n))];
    let groups: Vec<_> = (0..50).map(|n| vec![update(n)]).collect();
    deliver(&*open(dir.path(), None), "list", &groups);
    // A key that no table can have, taken before there was a schema.
    let foreign = OwnedChange { pk: "no key".into(), ..cell(0, "a", Value::Null) };
    deliver(&*open(dir.path(), None), "list", &[vec![vec![foreign]]]);
    drop(open(dir.path(), Some("CREATE TABLE t (id PRIMARY KEY NOT NULL, a)")).open("list").expect("opened"));
    assert_eq!(rows(dir.path(), "list", "t").len(), 50);
    assert_eq!(rows(dir.path(), "list", "t")[7], json!([7, "a"]));
    let wider = "CREATE TABLE t (id PRIMARY KEY NOT NULL, a, later, never DEFAULT 3)";
    let store = open(dir.path(), Some(wider));
    drop(store.open("list").expect("opened"));
    assert_eq!(rows(dir.path(), "list", "t")[7], json!([7, "a", 7, 3]));
    // A commit that is rolled back leaves the tables as they were.
    let mut channel = store.open("list").expect("opened");
    channel.begin().expect("begun");
    let change = cell(99, "a", Value::Null);
    let change = change.as_change();
    let at = causeway_storage::Position { version: channel.head().version + 1, seq: 0 };
    let Change { table, pk, cid, val, col_version, site_id, cl, .. } = change;
    channel
        .put(&causeway_storage::Cell { table, pk, cid, val, col_version, site_id, cl, at }, None)
        .expect("put");
    channel.rollback();
    drop(channel);
    assert_eq!(rows(dir.path(), "list", "t").len(), 50);
}

/// The table stores what the clients' tables store; the cell stays as it was sent.
#[test]
fn values_get_the_columns_affinity_in_the_table_only() {
    let dir = tempfile::tempdir().expect("a directory to test in");
    let store = open(dir.path(), Some("CREATE TABLE t (id PRIMARY KEY NOT NULL, a INTEGER, b REAL, c TEXT)"));
    let sent = [("a", Value::Text("12")), ("b", Value::Integer(1)), ("c", Value::Real(1.5))];
    let update: Vec<_> = sent.iter().map(|(cid, val)| cell(1, cid, *val)).collect();
    deliver(&*store, "list", &[vec![update]]);
    assert_eq!(rows(dir.path(), "list", "t"), [json!([1, 12, 1.0, "1.5"])]);
    let (cells, _) = causeway_storage::conformance::read_all(&mut *store.reader("list").expect("readable"));
    let found: Vec<_> = cells.iter().map(|cell| cell.val.clone()).collect();
    assert_eq!(found, sent.map(|(_, val)| val.to_owned()));
}
