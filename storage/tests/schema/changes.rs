//! Changes against a schema.

use causeway_storage::schema::Refused;
use causeway_storage::{KeyFormat, SENTINEL, Schema, Value};

use crate::{change, check, parse};

const TABLES: &str = "
    CREATE TABLE todos (id PRIMARY KEY NOT NULL, text, done NOT NULL DEFAULT 0);
    CREATE TABLE tags (b TEXT NOT NULL, a INTEGER NOT NULL, note, PRIMARY KEY (a, b));
    CREATE TABLE only (id TEXT PRIMARY KEY NOT NULL);
    CREATE TABLE strict (id INTEGER PRIMARY KEY NOT NULL, i INT, r REAL, t TEXT, b BLOB, a ANY, n INT NOT NULL DEFAULT 1) STRICT;";

#[test]
fn a_change_of_the_schema_passes_and_others_are_refused() {
    let schema = parse(TABLES);
    let blob = Value::Blob(&[1]);
    for good in [
        change("todos", "010B0178", "text", Value::Null),
        change("todos", "010901", "text", blob),
        change("todos", "010C01FF", "done", Value::Text("x")),
        change("todos", "010901", SENTINEL, Value::Null),
        change("tags", "02090A0B0161", "note", Value::Real(1.5)),
        change("only", "010B0178", SENTINEL, Value::Null),
        change("strict", "010901", "i", Value::Integer(1)),
        change("strict", "010901", "i", Value::Null),
        change("strict", "010901", "a", blob),
    ] {
        assert_eq!(check(&schema, good), Ok(()), "{good:?}");
    }
    for (bad, told) in [
        (change("Todos", "010901", "text", Value::Null), "table: the schema has no table \"Todos\""),
        (change("t", "010901", SENTINEL, Value::Null), "table: the schema has no table \"t\""),
        (change("crdt_changes", "010901", "pk", Value::Null), "table: the schema has no"),
        (change("todos", "010901", "Text", Value::Null), "cid: table \"todos\" has no column \"Text\""),
        (change("todos", "010901", "rowid", Value::Null), "cid: table \"todos\" has no column \"rowid\""),
        (change("todos", "010901", "id", Value::Null), "cid: column \"id\" is in the key"),
        (change("only", "010B0178", "id", Value::Null), "cid: column \"id\" is in the key"),
        (change("todos", "k", "text", Value::Null), "pk: is no packed key"),
        (change("todos", "k", SENTINEL, Value::Null), "pk: is no packed key"),
        (change("todos", "0209010901", "text", Value::Null), "pk: has 2 columns, the key of its table has 1"),
        (change("tags", "010901", "note", Value::Null), "pk: has 1 columns, the key of its table has 2"),
        (change("tags", "020B01610901", "note", Value::Null), "pk: column \"b\" does not store an integer"),
        (change("strict", "010B0131", "i", Value::Null), "pk: column \"id\" does not store this text"),
        (
            change("todos", "01023FF0000000000000", "text", Value::Null),
            "pk: column \"id\" does not store this",
        ),
        (change("todos", "010901", "done", Value::Null), "val: column \"done\" is NOT NULL"),
        (change("strict", "010901", "n", Value::Null), "val: column \"n\" is NOT NULL"),
        (
            change("strict", "010901", "i", Value::Text("x")),
            "val: column \"i\" of type INT does not take this text",
        ),
        (change("strict", "010901", "b", Value::Text("x")), "val: column \"b\" of type BLOB does not take"),
        (change("strict", "010901", "t", blob), "val: column \"t\" of type TEXT does not take a blob"),
    ] {
        let refused = check(&schema, bad).expect_err(told).to_string();
        assert!(refused.starts_with(told), "{refused} of {bad:?}");
    }
    let long = "é".repeat(127);
    let refused = check(&schema, change(&long, "010901", "text", Value::Null)).unwrap_err();
    assert_eq!(refused, Refused::UnknownTable { table: "é".repeat(64) });
}

#[test]
fn a_plain_key_is_its_columns_value() {
    let plain = |sql: &str| Schema::parse(sql, "f", KeyFormat::Plain);
    let schema = plain(
        "CREATE TABLE todos (id PRIMARY KEY NOT NULL, x); CREATE TABLE n (id INTEGER PRIMARY KEY NOT NULL, x);
         CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, x); CREATE TABLE m (id NUMERIC PRIMARY KEY NOT NULL, x);",
    )
    .unwrap();
    let text = |pk| Some(Value::Text(pk));
    let integer = |i| Some(Value::Integer(i));
    for (table, pk, value) in [
        ("todos", "todo 1", text("todo 1")),
        ("todos", "12", text("12")),
        ("todos", "010B0178", text("010B0178")),
        ("t", "12", text("12")),
        ("n", "12", integer(12)),
        ("n", "-9223372036854775808", integer(i64::MIN)),
        ("n", "0", integer(0)),
        ("n", "-0", None),
        ("n", "012", None),
        ("n", "+12", None),
        ("n", "12 ", None),
        ("n", "1.5", None),
        ("n", "x", None),
        ("n", "9223372036854775808", None),
        ("m", "12", integer(12)),
        ("m", "x", text("x")),
        ("m", "1.5", None),
        ("m", "1e3", None),
    ] {
        let mut buffer = Vec::new();
        let key = schema.key(schema.table(table).unwrap(), pk, &mut buffer);
        assert_eq!(key.as_ref().ok().and_then(|key| key.values().next()), value, "{table} {pk}");
        assert_eq!(
            check(&schema, change(table, pk, "x", Value::Null)).is_ok(),
            value.is_some(),
            "{table} {pk}"
        );
    }
    for sql in [
        "CREATE TABLE t (a NOT NULL, b NOT NULL, PRIMARY KEY (a, b))",
        "CREATE TABLE t (a REAL PRIMARY KEY NOT NULL)",
        "CREATE TABLE t (a BLOB PRIMARY KEY) STRICT",
    ] {
        let e = plain(sql).unwrap_err().to_string();
        assert!(e.contains("plain"), "{e}");
    }
}
