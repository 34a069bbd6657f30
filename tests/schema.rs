//! The application's schema over the real binary: what a start refuses, what an update is refused for, and that nobody hears of it.

#![allow(missing_docs, clippy::unwrap_used)]

#[macro_use]
mod common;

use common::{Client, SITE, Server, change, changes, keys, run, update};
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

on_every_store!(
    every_refusal_is_told_and_reaches_nobody,
    every_value_type_of_the_schema_passes,
    one_bad_change_refuses_its_whole_message,
    plain_keys_are_the_value_itself,
);

const TABLES: &str = "-- The app's tables.
CREATE TABLE todos (id TEXT PRIMARY KEY NOT NULL, text, done INTEGER NOT NULL DEFAULT 0);
CREATE TABLE tags (todo TEXT NOT NULL, n INTEGER NOT NULL, note, PRIMARY KEY (n, todo));
CREATE TABLE marks (id TEXT PRIMARY KEY NOT NULL);
CREATE TABLE strict (id INTEGER PRIMARY KEY NOT NULL, i INT, r REAL, t TEXT, b BLOB, a ANY) STRICT;
";

/// A server with that schema, and where it lies.
fn with_schema(store: &str, tables: &str, more: &[(&str, &str)]) -> (Server, TempDir) {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("schema.sql");
    std::fs::write(&file, tables).unwrap();
    let server = Server::with(store, &[&[("schema", file.to_str().unwrap())], more].concat());
    (server, temp)
}

fn delete(table: &str, pk: &str) -> Value {
    json!([table, pk, "-1", null, 2, 1, SITE, 2, 0])
}

/// Sends what must be refused so.
#[track_caller]
fn assert_refused(client: &mut Client, changes: &[Value], code: &str, place: &str) {
    client.send_json(&update(77, changes));
    let error = client.recv_type("error");
    assert_eq!((&error["code"], &error["received"]), (&json!(code), &json!(77)), "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(message.starts_with(place), "{message}, not {place}");
}

fn every_refusal_is_told_and_reaches_nobody(store: &str) {
    let (server, _temp) = with_schema(store, TABLES, &[]);
    let (mut client, mut other) = (server.connect("list"), server.connect("list"));
    let blob = json!({"$blob": "00ff"});
    let cases = [
        (change("todo", "010B0178", "text", "x"), "unknown_table", "table"),
        (change("Todos", "010B0178", "text", "x"), "unknown_table", "table"),
        (change("crdt_changes", "010B0178", "val", "x"), "unknown_table", "table"),
        (delete("other", "010B0178"), "unknown_table", "table"),
        (change("todos", "010B0178", "title", "x"), "unknown_column", "cid"),
        (change("todos", "010B0178", "TEXT", "x"), "unknown_column", "cid"),
        (change("todos", "010B0178", "id", "x"), "unknown_column", "cid"),
        (change("marks", "010B0178", "id", "x"), "unknown_column", "cid"),
        (change("tags", "02090A0B0178", "todo", "x"), "unknown_column", "cid"),
        (change("todos", "x", "text", "x"), "invalid_change", "pk: is no packed key"),
        (change("todos", "010b0178", "text", "x"), "invalid_change", "pk: has lower-case hex"),
        (change("todos", "010B0278", "text", "x"), "invalid_change", "pk: is cut short"),
        (change("todos", "010B017800", "text", "x"), "invalid_change", "pk: has 1 bytes behind"),
        (change("todos", "0113000178", "text", "x"), "invalid_change", "pk: column 1 has a number"),
        (change("todos", "010B01FF", "text", "x"), "invalid_change", "pk: column 1 is text that is not"),
        (change("todos", "0105", "text", "x"), "invalid_change", "pk: column 1 is NULL"),
        (change("todos", "0109", "text", "x"), "invalid_change", "pk: is cut short"),
        (change("todos", "010901", "text", "x"), "invalid_change", "pk: column \"id\" does not store"),
        (change("todos", "020B01780901", "text", "x"), "invalid_change", "pk: has 2 columns"),
        (delete("todos", "0107"), "invalid_change", "pk: column 1 has the type byte"),
        (change("tags", "010B0178", "note", "x"), "invalid_change", "pk: has 1 columns"),
        (change("tags", "020B017809", "note", "x"), "invalid_change", "pk: is cut short"),
        (change("tags", "020B01310901", "note", "x"), "invalid_change", "pk: column \"n\" does not store"),
        (change("strict", "010B0131", "i", 1), "invalid_change", "pk: column \"id\" does not store"),
        (change("todos", "010B0178", "done", Value::Null), "invalid_change", "val: column \"done\" is NOT"),
        (change("strict", "010901", "i", 1.5), "invalid_change", "val: column \"i\" of type INT"),
        (change("strict", "010901", "r", "x"), "invalid_change", "val: column \"r\" of type REAL"),
        (change("strict", "010901", "t", blob), "invalid_change", "val: column \"t\" of type TEXT"),
        (change("strict", "010901", "b", "x"), "invalid_change", "val: column \"b\" of type BLOB"),
    ];
    for (n, (bad, code, place)) in cases.iter().enumerate() {
        assert_refused(&mut client, std::slice::from_ref(bad), code, &format!("changes[0].{place}"));
        let good = change("todos", &format!("010B02{:02X}{:02X}", 48 + n / 10, 48 + n % 10), "text", n);
        assert_eq!(
            client.update(n as u64, std::slice::from_ref(&good))["version"],
            n + 1,
            "nothing of {bad}"
        );
        let told = other.recv_type("update");
        assert_eq!((&told["version"], changes(&told)), (&json!(n + 1), &[good][..]), "nobody heard of {bad}");
    }
    assert_eq!(client.pull_rows(0).len(), cases.len());
    for (code, times) in [("unknown_table", 4), ("unknown_column", 5), ("invalid_change", 20)] {
        let counted = server.metric_lines(&format!("causeway_errors_total{{code=\"{code}\"}}"));
        assert!(counted[0].ends_with(&format!(" {times}")), "{counted:?}");
    }
}

fn every_value_type_of_the_schema_passes(store: &str) {
    let (server, _temp) = with_schema(store, TABLES, &[]);
    let (mut client, mut other) = (server.connect("list"), server.connect("list"));
    let blob = json!({"$blob": "00ff"});
    let good = [
        change("todos", "010B0178", "text", Value::Null),
        change("todos", "010B0178", "done", "in any type"),
        change("todos", "0103", "text", 1.5),
        change("todos", "010C01FF", "text", blob.clone()),
        delete("todos", "010B0179"),
        change("tags", "02090A0B0178", "note", "ten, x"),
        change("tags", "0241FFFFFFFFFFFFFFFF03", "note", 1),
        json!(["marks", "010B0178", "-1", null, 1, 1, SITE, 1, 0]),
        // What SQLite converts without loss.
        change("strict", "0101", "i", "12"),
        change("strict", "0101", "r", 1),
        change("strict", "0101", "t", 1),
        change("strict", "0101", "b", blob.clone()),
        change("strict", "0101", "a", blob),
        change("strict", "010901", "a", Value::Null),
    ];
    assert_eq!(client.update(1, &good)["version"], 1);
    assert_eq!(changes(&other.recv_type("update")), good, "as they were sent");
    assert_eq!(client.pull_rows(0).len(), good.len());
}

fn one_bad_change_refuses_its_whole_message(store: &str) {
    let (server, _temp) = with_schema(store, TABLES, &[]);
    let (mut client, mut other) = (server.connect("list"), server.connect("list"));
    // Also one so large that it is decoded elsewhere.
    for (count, text) in [(40, "x".to_owned()), (400, "x".repeat(1000))] {
        for index in [0, 17, count - 1] {
            let mut sent: Vec<_> = (0..count)
                .map(|n| {
                    change(
                        "todos",
                        &format!("010B03{:02X}{:02X}61", 48 + n / 20, 48 + n % 20),
                        "text",
                        &*text,
                    )
                })
                .collect();
            sent[index][0] = json!("elsewhere");
            assert_refused(&mut client, &sent, "unknown_table", &format!("changes[{index}].table"));
        }
    }
    assert_eq!(client.update(78, &[change("todos", "010B0178", "text", "x")])["version"], 1);
    assert_eq!(keys(changes(&other.recv_type("update"))), ["010B0178"]);
    assert_eq!(keys(&client.pull_rows(0)), ["010B0178"]);
}

fn plain_keys_are_the_value_itself(store: &str) {
    let tables = "CREATE TABLE todos (id TEXT PRIMARY KEY NOT NULL, text);
        CREATE TABLE numbers (id INTEGER PRIMARY KEY NOT NULL, text);";
    let (server, _temp) = with_schema(store, tables, &[("key-format", "plain")]);
    let (mut client, mut other) = (server.connect("list"), server.connect("list"));
    let good = [
        change("todos", "todo 1", "text", "x"),
        change("todos", "010b0178", "text", "x"),
        change("numbers", "-12", "text", "x"),
        delete("numbers", "0"),
    ];
    assert_eq!(client.update(1, &good)["version"], 1);
    assert_eq!(changes(&other.recv_type("update")), good);
    for bad in ["x", "012", "+1", "-0", "1.0", " 1", "9223372036854775808"] {
        let bad = [change("numbers", bad, "text", "x")];
        assert_refused(&mut client, &bad, "invalid_change", "changes[0].pk: column \"id\" does not store");
    }
}

#[test]
fn without_a_schema_any_table_is_taken() {
    for schema in [&[][..], &[("schema", "")]] {
        let server = Server::with("memory", schema);
        let mut client = server.connect("list");
        assert_eq!(client.update(1, &[change("any", "key", "column", 1)])["version"], 1);
    }
}

#[test]
fn refused_changes_count_as_bad_messages() {
    let (server, _temp) = with_schema("memory", TABLES, &[("max-bad-messages", "3")]);
    let mut client = server.connect("list");
    for n in 0..3 {
        client.send_json(&update(n, &[change("any", "key", "column", 1)]));
    }
    client.expect_close(1008);
}

/// What a start with this schema says, where it must fail.
fn start_with(file: &Path, more: &[&str]) -> String {
    let data = file.with_extension("data");
    let schema = file.to_str().unwrap();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap(), "--schema", schema];
    let finished = run(&[&serve, more].concat(), &[]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(!finished.stdout.contains("ws://") && !data.exists(), "nothing was started: {finished:?}");
    let line = finished.stderr.trim_end().to_owned();
    assert!(!line.is_empty() && !line.contains('\n'), "one line: {finished:?}");
    line
}

#[test]
fn a_schema_that_cannot_be_is_told_with_file_line_and_reason() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("schema.sql");
    let path = file.to_str().unwrap();
    for (line, statement, reason) in [
        (7, "CREATE TABLE t (\n  id PRIMARY KEY NOT NULL,, x)", "syntax error"),
        (6, "CREATE VIEW v AS SELECT 1", "nothing but CREATE TABLE"),
        (6, "CREATE TABLE t (id, x)", "no PRIMARY KEY"),
        (6, "CREATE TABLE t (id PRIMARY KEY, x)", "must be NOT NULL"),
        (6, "CREATE TABLE t (id PRIMARY KEY NOT NULL, x NOT NULL)", "must have a DEFAULT"),
        (6, "CREATE TABLE t (id PRIMARY KEY NOT NULL, x UNIQUE)", "UNIQUE"),
        (6, "CREATE TABLE t (id PRIMARY KEY NOT NULL, x CHECK (x > 0))", "CHECK"),
        (6, "CREATE TABLE t (id PRIMARY KEY NOT NULL, x REFERENCES todos)", "foreign key"),
        (6, "CREATE TABLE t (id PRIMARY KEY NOT NULL, x AS (1))", "generated"),
        (6, "CREATE TABLE crdt_t (id PRIMARY KEY NOT NULL)", "crdt_"),
        (6, "CREATE TABLE TODOS (id PRIMARY KEY NOT NULL)", "already exists"),
    ] {
        std::fs::write(&file, format!("{TABLES}{statement};\n")).unwrap();
        let told = start_with(&file, &[]);
        assert!(told.starts_with(&format!("causeway: {path}:{line}: ")) && told.contains(reason), "{told}");
    }
    std::fs::write(&file, TABLES).unwrap();
    let told = start_with(&file, &["--key-format", "plain"]);
    assert!(told.starts_with(&format!("causeway: {path}:3: ")) && told.contains("key_format"), "{told}");
    let told = start_with(&file, &["--key-format", "json"]);
    assert!(told.contains("--key-format") && told.contains("packed or plain"), "{told}");
    std::fs::write(&file, " ".repeat(5 << 20)).unwrap();
    let told = start_with(&file, &[]);
    assert!(told.contains(path) && told.contains("more than 4194304 bytes"), "{told}");
    std::fs::write(&file, b"CREATE TABLE \xff").unwrap();
    let told = start_with(&file, &[]);
    assert!(told.contains(path) && told.contains("UTF-8"), "{told}");
    let told = start_with(&temp.path().join("missing.sql"), &[]);
    assert!(told.contains("missing.sql") && told.contains("No such file"), "{told}");
}
