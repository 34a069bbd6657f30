//! Cells from before there was a schema, or from elsewhere, that do not fit it.

use std::thread;

use serde_json::{Value, json};

use crate::common::{PATIENCE, Place, SITE, change, keys};
use crate::of_kind;

on_durable_stores!(what_does_not_fit_is_told_and_hinders_nobody);

const SCHEMA: &str =
    "CREATE TABLE todos (id TEXT PRIMARY KEY NOT NULL, text, done INTEGER NOT NULL DEFAULT 0);";

/// Waits until every cell that is there was held against the schema.
pub(crate) fn until_checked(place: &Place) {
    let note = place.data().join("causeway.schema.sql");
    let deadline = std::time::Instant::now() + PATIENCE;
    while std::fs::read_to_string(&note).unwrap().contains("that do not fit") {
        assert!(std::time::Instant::now() < deadline, "the cells should be looked at");
        thread::yield_now();
    }
}

/// The fields of the lines about cells that do not fit.
fn unfit(place: &Place, channel: &str, more: &[&str]) -> (Value, Vec<Value>) {
    let found = place.json(&[&["inspect", channel], more].concat());
    let unfit = of_kind(&found, "unfit")
        .into_iter()
        .map(|line| json!([line["table"], line["cells"], line["reason"]]));
    (found[0]["unfit"].clone(), unfit.collect())
}

fn what_does_not_fit_is_told_and_hinders_nobody(store: &'static str) {
    let place = Place::new(store);
    let server = place.serve();
    let old = [
        change("todos", "010B0161", "text", "fits"),
        change("todos", "010B0161", "colour", "of a column that is unknown"),
        change("todos", "010B0162", "done", Value::Null),
        change("todos", "no key", "text", "x"),
        change("todos", "02090A0B0161", "text", "x"),
        change("notes", "010B0161", "text", "of a table that is unknown"),
        change("notes", "010B0162", "text", "another"),
        json!(["notes", "010B0163", "-1", null, 2, 1, SITE, 2, 0]),
        change("crdt_changes", "\"; DROP TABLE todos", "'", 1),
    ];
    server.connect("old").update(1, &old);
    server.connect("good").update(1, &old[..1]);
    assert_eq!(unfit(&place, "old", &[]), (Value::Null, vec![]), "nothing is said where there is no schema");
    server.stop();

    let schema = place.write("schema.sql", SCHEMA);
    let settings = [("schema", schema.as_str())];
    let server = place.serve_with(&settings);
    until_checked(&place);
    // It serves: old cells as they are, new ones if they fit.
    let (mut client, mut other) = (server.connect("old"), server.connect("old"));
    assert_eq!(keys(&client.pull_rows(0)).len(), old.len());
    let newer = [
        json!(["todos", "010B0161", "text", "newer", 2, 1, SITE, 1, 0]),
        json!(["todos", "010B0162", "-1", null, 2, 1, SITE, 2, 0]),
        change("todos", "010B0164", "text", "new"),
    ];
    assert_eq!(client.update(2, &newer)["version"], 2);
    assert_eq!(other.recv_type("update")["version"], 2);
    let reasons = [
        json!(["crdt_changes", 1, "table: the schema has no table \"crdt_changes\""]),
        json!(["notes", 3, "table: the schema has no table \"notes\""]),
        json!(["todos", 1, "cid: table \"todos\" has no column \"colour\""]),
        json!(["todos", 1, "pk: has 2 columns, the key of its table has 1"]),
        json!(["todos", 1, "pk: is no packed key: its byte 0 is not a hex digit"]),
    ];
    let told = unfit(&place, "old", &[]);
    assert_eq!(told, (json!(7), reasons.to_vec()));
    assert_eq!(unfit(&place, "good", &[]), (json!(0), vec![]));
    let people = place.people(&["inspect", "old"]).join("\n");
    assert!(
        people.contains("of which 7 do not fit the schema") && people.contains("DOES NOT FIT "),
        "{people}"
    );
    let remade = place.json(&["rebuild", "old"]);
    if store == "sqlite" {
        assert_eq!(remade[0], json!({"line": "rebuilt_table", "table": "todos", "rows": 2, "unfit": 3}));
        let conn = rusqlite::Connection::open(place.data().join("old.db")).unwrap();
        let mut select = conn.prepare("SELECT id || ' ' || text || ' ' || done FROM todos").unwrap();
        let rows: Vec<String> = select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        assert_eq!(rows, ["a newer 0", "d new 0"]);
    }
    let log = server.stop_and_log();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("do not fit")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("old") && warnings[0].contains("cells=8"), "{log}");
    assert_eq!(unfit(&place, "old", &["--schema", "/schema.sql"]), told, "and where no server runs");

    // Once is enough, unless the schema is another, or cells came in that nobody checked.
    for (settings, warned) in [(&settings[..], false), (&[], false), (&settings, true), (&settings, false)] {
        let server = place.serve_with(settings);
        if !settings.is_empty() {
            until_checked(&place);
        }
        server.connect("good").pull_rows(0);
        assert_eq!(server.stop_and_log().contains("do not fit"), warned, "{settings:?}");
    }
    place.write("schema.sql", &format!("{SCHEMA} CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, text);"));
    let server = place.serve_with(&settings);
    until_checked(&place);
    assert_eq!(unfit(&place, "old", &[]).0, 4, "a table that is added takes its cells");
    assert!(server.stop_and_log().contains("cells=4"));
    place.people(&["backup", "--to", "/backup"]);
    place.people(&["restore", "--from", "/backup", "--replace"]);
    let server = place.serve_with(&settings);
    until_checked(&place);
    assert!(server.stop_and_log().contains("cells=4"), "what is restored is looked at as well");
}
