//! Every type of column, as a key and as a value, against what SQLite makes of it.

use causeway_storage::schema::key::pack;
use causeway_storage::{SENTINEL, Schema, Value};
use proptest::prelude::*;
use rusqlite::Connection;

use crate::{any_value, change, check, parse};

/// A column of each kind, as a key and as a value.
const KINDS: [(&str, &str); 16] = [
    ("", ""),
    ("TEXT", ""),
    ("INT", ""),
    ("NUMERIC", ""),
    ("REAL", ""),
    ("BLOB", ""),
    ("ANY", ""),
    ("FLOATING POINT", ""),
    ("INTEGER", ""),
    ("INTEGER", "WITHOUT ROWID"),
    ("INT", "STRICT"),
    ("INTEGER", "STRICT"),
    ("REAL", "STRICT"),
    ("TEXT", "STRICT"),
    ("BLOB", "STRICT"),
    ("ANY", "STRICT"),
];

fn bind(value: Value<'_>) -> rusqlite::types::ToSqlOutput<'_> {
    use rusqlite::types::ValueRef;
    rusqlite::types::ToSqlOutput::Borrowed(match value {
        Value::Null => ValueRef::Null,
        Value::Integer(i) => ValueRef::Integer(i),
        Value::Real(r) => ValueRef::Real(r),
        Value::Text(t) => ValueRef::Text(t.as_bytes()),
        Value::Blob(b) => ValueRef::Blob(b),
    })
}

/// What SQLite stores as a key and as a cell, `None` if it refuses.
fn stored(db: &Connection, table: &str, column: &str, value: Value<'_>) -> Option<String> {
    db.execute_batch("SAVEPOINT s").unwrap();
    let insert = match column {
        "id" => format!("INSERT INTO {table} (id) VALUES (?)"),
        _ => format!("INSERT INTO {table} (id, x) SELECT some, ? FROM some WHERE name = '{table}'"),
    };
    let stored = db.execute(&insert, [bind(value)]).ok().map(|_| {
        let select = format!("SELECT {column} FROM {table}");
        db.query_row(&select, [], |row| Ok(format!("{:?}", row.get_ref(0)?))).unwrap()
    });
    db.execute_batch("ROLLBACK TO s; RELEASE s").unwrap();
    stored
}

/// Whether two values cannot both be keys.
fn collide(db: &Connection, table: &str, one: Value<'_>, other: Value<'_>) -> bool {
    db.execute_batch("SAVEPOINT s").unwrap();
    let insert = format!("INSERT INTO {table} (id) VALUES (?)");
    let good = db.execute(&insert, [bind(one)]).unwrap() == 1;
    let collide = db.execute(&insert, [bind(other)]).is_err();
    db.execute_batch("ROLLBACK TO s; RELEASE s").unwrap();
    good && collide
}

struct Kinds {
    schema: Schema,
    db: Connection,
}

fn kinds() -> Kinds {
    let create = |(n, (kind, more)): (usize, &(&str, &str))| {
        format!("CREATE TABLE k{n} (id {kind} NOT NULL PRIMARY KEY, x {kind}) {more};\n")
    };
    let sql: String = KINDS.iter().enumerate().map(create).collect();
    let db = Connection::open_in_memory().unwrap();
    db.execute_batch(&sql).unwrap();
    db.execute_batch("CREATE TABLE some (name, some)").unwrap();
    for (n, (kind, _)) in KINDS.iter().enumerate() {
        let some = match *kind {
            "TEXT" => "'a'",
            "BLOB" => "x'00'",
            _ => "1",
        };
        db.execute_batch(&format!("INSERT INTO some VALUES ('k{n}', {some})")).unwrap();
    }
    Kinds { schema: parse(&sql), db }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    /// SQLite stores a key that is taken as it is, and a value that is refused not at all.
    #[test]
    fn sqlite_agrees_on_every_value(any in any_value()) {
        thread_local! { static KINDS_MADE: Kinds = kinds(); }
        KINDS_MADE.with(|Kinds { schema, db }| {
            for (table, kind) in schema.tables().iter().zip(KINDS) {
                let (name, value) = (table.name.as_str(), any.value());
                let some = match kind.0 {
                    "TEXT" => Value::Text("a"),
                    "BLOB" => Value::Blob(&[0]),
                    "REAL" => Value::Real(1.0),
                    _ => Value::Integer(1),
                };
                let cell = check(schema, change(name, &pack([some]), "x", value));
                assert_eq!(cell.is_ok(), stored(db, name, "x", value).is_some(), "{value:?} in {kind:?}: {cell:?}");

                // -0.0 is no key at all.
                let zero = matches!(value, Value::Real(r) if r == 0.0 && r.is_sign_negative());
                let key = check(schema, change(name, &pack([value]), SENTINEL, Value::Null)).is_ok();
                let as_it_is = stored(db, name, "id", value) == Some(format!("{:?}", rusqlite::types::ValueRef::from(&owned(value))));
                // No other type has a value that SQLite takes for the same.
                let twin = match value {
                    Value::Real(r) if kind.0 != "REAL" => Some(Value::Integer(r as i64)),
                    _ => None,
                };
                let unique = as_it_is && !twin.is_some_and(|twin| collide(db, name, twin, value));
                assert_eq!(key, unique && !zero, "key {value:?} in {kind:?}");
            }
        });
    }
}

fn owned(value: Value<'_>) -> rusqlite::types::Value {
    match value {
        Value::Null => rusqlite::types::Value::Null,
        Value::Integer(i) => i.into(),
        Value::Real(r) => r.into(),
        Value::Text(t) => t.to_owned().into(),
        Value::Blob(b) => b.to_owned().into(),
    }
}
