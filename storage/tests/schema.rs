//! The schema: what a file may say, what a key may be, what a change may hold. SQLite is asked what it makes of each value, and the
//! keys that the real cr-sqlite packed are read.

#![allow(clippy::unwrap_used)]

use causeway_storage::schema::key::{KeyError, pack, unpack};
use causeway_storage::schema::{Affinity, Refused};
use causeway_storage::{Change, KeyFormat, SENTINEL, Schema, Value};
use proptest::prelude::*;
use rusqlite::Connection;

fn parse(text: &str) -> Schema {
    Schema::parse(text, "schema.sql", KeyFormat::Packed).unwrap_or_else(|e| panic!("{e} in {text}"))
}

fn change<'a>(table: &'a str, pk: &'a str, cid: &'a str, val: Value<'a>) -> Change<'a> {
    Change { table, pk, cid, val, col_version: 1, db_version: 1, site_id: "S", cl: 1, seq: 0 }
}

fn check(schema: &Schema, change: Change<'_>) -> Result<(), Refused> {
    schema.check(&change, &mut Vec::new())
}

#[test]
fn a_file_tells_tables_as_sqlite_makes_them() {
    let schema = parse(
        "\u{feff}-- the app's; tables\r\nCREATE TABLE todos (id PRIMARY KEY NOT NULL, text, \"done; CHECK\" INT DEFAULT 0);
        create table if not exists tags (
            b TEXT NOT NULL, a INTEGER NOT NULL, note VARCHAR(9) NOT NULL DEFAULT 'CHECK (;)', -- a CHECK; of nothing
            weight DOUBLE PRECISION, at DATE, PRIMARY KEY (a, b));",
    );
    let names: Vec<_> = schema.tables().iter().map(|table| table.name.as_str()).collect();
    assert_eq!(names, ["todos", "tags"]);
    let tags = schema.table("tags").unwrap();
    let key: Vec<_> = tags.key_columns().map(|column| column.name.as_str()).collect();
    assert_eq!(key, ["a", "b"], "the key's order, not the table's");
    let affinities: Vec<_> = tags.columns.iter().map(|column| column.affinity).collect();
    use Affinity::{Blob, Integer, Numeric, Real, Text};
    assert_eq!(affinities, [Text, Integer, Text, Real, Numeric]);
    assert_eq!(tags.column("note").map(|c| (c.not_null, c.in_key, c.exact)), Some((true, false, false)));
    assert_eq!(schema.table("todos").unwrap().columns[0].affinity, Blob);
    assert!(schema.table("Todos").is_none() && tags.column("NOTE").is_none());
    assert!(tags.sql.starts_with("CREATE TABLE tags ("), "{}", tags.sql);
    // The statement makes the table again.
    let again = parse(&schema.tables().iter().map(|table| format!("{};\n", table.sql)).collect::<String>());
    assert_eq!(format!("{:?}", again.tables()[1].columns), format!("{:?}", tags.columns));
}

#[test]
fn what_cannot_be_an_applications_table_is_refused_with_its_line() {
    let good = "CREATE TABLE good (id PRIMARY KEY NOT NULL, x);\n";
    let long = format!("CREATE TABLE {} (id PRIMARY KEY NOT NULL)", "t".repeat(256));
    let long_column = format!("CREATE TABLE t (id PRIMARY KEY NOT NULL, {})", "c".repeat(256));
    let many: Vec<_> = (0..2001).map(|n| format!("c{n}")).collect();
    let many = format!("CREATE TABLE t (id PRIMARY KEY NOT NULL, {})", many.join(","));
    let wide: Vec<_> = (0..256).map(|n| format!("c{n} NOT NULL")).collect();
    let wide_key: Vec<_> = (0..256).map(|n| format!("c{n}")).collect();
    let wide = format!("CREATE TABLE t ({}, PRIMARY KEY ({}))", wide.join(","), wide_key.join(","));
    // Behind the good table, which is the first line.
    for (bad, line, told) in [
        ("CREATE TABLE t (\n id PRIMARY KEY NOT NULL,\n x y z( )", 4, "syntax error"),
        ("CREATE TABLE t (id PRIMARY KEY NOT NULL, id)", 2, "duplicate column"),
        ("CREATE TABLE t (id PRIMARY KEY NOT NULL, 'x", 2, "unrecognized token"),
        ("CREATE TABLE t (id PRIMARY KEY NOT NULL, x", 2, "incomplete input"),
        ("CREATE TABLE", 2, "incomplete input"),
        ("hello", 2, "hello: there may be nothing but CREATE TABLE"),
        ("\n\nCREATE VIEW v AS SELECT 1", 4, "CREATE VIEW"),
        ("CREATE TRIGGER r AFTER INSERT ON good BEGIN SELECT 1; END", 2, "CREATE TRIGGER"),
        ("CREATE INDEX i ON good (x)", 2, "CREATE INDEX"),
        ("CREATE UNIQUE INDEX i ON good (x)", 2, "CREATE UNIQUE"),
        ("CREATE VIRTUAL TABLE v USING fts5(x)", 2, "CREATE VIRTUAL"),
        ("INSERT INTO good VALUES (1, 2)", 2, "INSERT INTO"),
        ("DROP TABLE good", 2, "DROP TABLE"),
        ("PRAGMA writable_schema = 1", 2, "PRAGMA writable_schema"),
        ("SELECT crsql_as_crr('good')", 2, "SELECT crsql_as_crr"),
        ("BEGIN", 2, "BEGIN: there may be nothing"),
        ("ATTACH ':memory:' AS other", 2, "ATTACH"),
        ("CREATE TEMP TABLE t (id PRIMARY KEY NOT NULL)", 2, "CREATE TEMP"),
        ("CREATE TABLE temp.t (id PRIMARY KEY NOT NULL)", 2, "stands alone"),
        ("CREATE TABLE t AS SELECT 1 AS id", 2, "CREATE TABLE AS"),
        ("CREATE TABLE t/*(*/AS SELECT (1) AS id", 2, "CREATE TABLE AS"),
        ("CREATE TABLE t (id, x)", 2, "no PRIMARY KEY"),
        ("CREATE TABLE t (id PRIMARY KEY, x)", 2, "column \"id\" is in the key and must be NOT NULL"),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY, x)", 2, "must be NOT NULL"),
        ("CREATE TABLE t (a NOT NULL, b, PRIMARY KEY (a, b))", 2, "column \"b\" is in the key"),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL)", 2, "AUTOINCREMENT"),
        ("CREATE TABLE t (id PRIMARY KEY NOT NULL, x, y AS (x + 1))", 2, "column \"y\" is generated"),
        ("CREATE TABLE t (id PRIMARY KEY NOT NULL, x, y AS (x + 1) STORED)", 2, "column \"y\" is generated"),
        ("CREATE TABLE t (id PRIMARY KEY NOT NULL, x UNIQUE)", 2, "UNIQUE"),
        ("CREATE TABLE t (id PRIMARY KEY NOT NULL, x, y, UNIQUE (x, y))", 2, "UNIQUE"),
        ("CREATE TABLE t (id PRIMARY KEY NOT NULL, x check(x > 1))", 2, "CHECK"),
        ("CREATE TABLE t (id PRIMARY KEY NOT NULL, x, CHECK (x > 1))", 2, "CHECK"),
        ("CREATE TABLE t (id PRIMARY KEY NOT NULL, x REFERENCES good)", 2, "foreign key"),
        ("CREATE TABLE t (id PRIMARY KEY NOT NULL, x NOT NULL)", 2, "column \"x\" is NOT NULL"),
        ("CREATE TABLE t (id PRIMARY KEY NOT NULL, x NOT NULL DEFAULT NULL)", 2, "NOT NULL constraint"),
        ("CREATE TABLE t (id TEXT PRIMARY KEY, x INT DEFAULT 'a') STRICT", 2, "cannot store TEXT"),
        ("CREATE TABLE t (id TEXT COLLATE NOCASE PRIMARY KEY NOT NULL)", 2, "COLLATE"),
        ("CREATE TABLE t (a NOT NULL, b NOT NULL, PRIMARY KEY (a, b COLLATE RTRIM))", 2, "COLLATE"),
        ("CREATE TABLE t (id TEXT COLLATE NOCASE PRIMARY KEY) WITHOUT ROWID", 2, "COLLATE"),
        ("CREATE TABLE crdt_x (id PRIMARY KEY NOT NULL)", 2, "begin with crdt_"),
        ("CREATE TABLE \"Causeway_x\" (id PRIMARY KEY NOT NULL)", 2, "begin with causeway_"),
        ("CREATE TABLE CRSQL_x (id PRIMARY KEY NOT NULL)", 2, "begin with crsql_"),
        ("CREATE TABLE sqlite_x (id PRIMARY KEY NOT NULL)", 2, "reserved"),
        ("CREATE TABLE t (id PRIMARY KEY NOT NULL, \"-1\")", 2, "the name of the sentinel"),
        ("CREATE TABLE \"\" (id PRIMARY KEY NOT NULL)", 2, "1 to 255 bytes"),
        ("CREATE TABLE t (id PRIMARY KEY NOT NULL, \"\")", 2, "1 to 255 bytes"),
        (&long, 2, "1 to 255 bytes"),
        (&long_column, 2, "1 to 255 bytes"),
        (&many, 2, "too many columns"),
        (&wide, 2, "more than 255 columns in its key"),
        ("\nCREATE TABLE good (id PRIMARY KEY NOT NULL)", 3, "already exists"),
        ("CREATE TABLE GOOD (id PRIMARY KEY NOT NULL)", 2, "already exists"),
        ("CREATE TABLE IF NOT EXISTS Good (id PRIMARY KEY NOT NULL)", 2, "it exists"),
        ("-- \0\n", 2, "NUL"),
    ] {
        let text = format!("{good}{bad};");
        let text = if bad.ends_with(['x', '\n']) { format!("{good}{bad}") } else { text };
        let e = Schema::parse(&text, "a/schema.sql", KeyFormat::Packed).expect_err(bad).to_string();
        assert!(e.starts_with(&format!("a/schema.sql:{line}: ")) && e.contains(told), "{e} of {bad}");
    }
    for empty in ["", " \n;;", "-- nothing"] {
        let e = Schema::parse(empty, "f", KeyFormat::Packed).unwrap_err().to_string();
        assert!(e.ends_with("there is no CREATE TABLE in it"), "{e}");
    }
    let table = |n: usize| format!("CREATE TABLE t{n} (id PRIMARY KEY NOT NULL);\n");
    let tables = |count: usize| (0..count).map(table).collect::<String>();
    assert_eq!(parse(&tables(1000)).tables().len(), 1000);
    let e = Schema::parse(&tables(1001), "f", KeyFormat::Packed).unwrap_err();
    assert_eq!((e.line, e.problem.contains("more than 1000")), (1001, true), "{e}");
    let e = Schema::parse(&" ".repeat((4 << 20) + 1), "f", KeyFormat::Packed).unwrap_err().to_string();
    assert!(e.contains("the most is"), "{e}");
}

#[test]
fn the_engines_keys_are_read_and_written_alike() {
    let vectors: Vec<serde_json::Value> =
        serde_json::from_str(include_str!("data/merge-vectors.json")).unwrap();
    let mut seen = 0;
    for vector in &vectors {
        let sql = vector["schema"].as_array().unwrap().iter().map(|sql| sql.as_str().unwrap());
        let schema = parse(&sql.collect::<Vec<_>>().join(";\n"));
        let sides = ["a", "b"].into_iter().flat_map(|side| vector[side].as_array().unwrap());
        for row in sides {
            let (table, pk) = (row[0].as_str().unwrap(), row[1].as_str().unwrap());
            let mut buffer = Vec::new();
            let key = schema.key(schema.table(table).unwrap(), pk, &mut buffer).unwrap();
            assert_eq!(pack(key.values()), pk);
            let change = change(table, pk, row[2].as_str().unwrap(), Value::Null);
            schema.check(&change, &mut Vec::new()).unwrap_or_else(|e| panic!("{e} of {row}"));
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen}");
}

/// Each as the real cr-sqlite packed it.
#[test]
fn keys_of_every_type_and_size() {
    let blob = [0; 200];
    let of_blob = format!("010CC8{}", "00".repeat(200));
    for (pk, values) in [
        ("0101", &[Value::Integer(0)][..]),
        ("01097F", &[Value::Integer(127)]),
        ("010980", &[Value::Integer(128)]),
        ("0119010000", &[Value::Integer(65536)]),
        ("0141FFFFFFFFFFFFFFFF", &[Value::Integer(-1)]),
        ("0103", &[Value::Text("")]),
        ("010B0161", &[Value::Text("a")]),
        ("0104", &[Value::Blob(&[])]),
        (&of_blob, &[Value::Blob(&blob)]),
        ("0102401E000000000000", &[Value::Real(7.5)]),
        ("01027FF0000000000000", &[Value::Real(f64::INFINITY)]),
        ("0209020901", &[Value::Integer(2), Value::Integer(1)]),
    ] {
        let mut buffer = vec![7; 3];
        let key = unpack(pk, &mut buffer).unwrap_or_else(|e| panic!("{e} of {pk}"));
        assert_eq!(key.values().collect::<Vec<_>>(), values, "{pk}");
        assert_eq!(key.columns(), values.len());
        assert_eq!(pack(values.iter().copied()), pk);
    }
}

#[test]
fn what_the_engine_does_not_write_is_no_key() {
    let column = 1;
    for (pk, error) in [
        ("", KeyError::NoColumns),
        ("00", KeyError::NoColumns),
        ("0", KeyError::OddHex),
        ("010", KeyError::OddHex),
        ("010B016", KeyError::OddHex),
        ("010b0161", KeyError::LowerCase),
        ("010B016a", KeyError::LowerCase),
        ("010B016g", KeyError::NotHex { at: 7 }),
        ("todo 1", KeyError::NotHex { at: 0 }),
        ("01é1", KeyError::NotHex { at: 2 }),
        ("+1", KeyError::NotHex { at: 0 }),
        ("01", KeyError::CutShort { column }),
        ("0109", KeyError::CutShort { column }),
        ("010B", KeyError::CutShort { column }),
        ("010B0261", KeyError::CutShort { column }),
        ("0123FFFFFFFF61", KeyError::CutShort { column }),
        ("0102401E0000000000", KeyError::CutShort { column }),
        ("020901", KeyError::CutShort { column: 2 }),
        ("FF0901", KeyError::CutShort { column: 2 }),
        ("01090102", KeyError::TrailingBytes { bytes: 1 }),
        ("010100", KeyError::TrailingBytes { bytes: 1 }),
        ("0100", KeyError::UnknownType { column, byte: 0 }),
        ("0106", KeyError::UnknownType { column, byte: 6 }),
        ("0107", KeyError::UnknownType { column, byte: 7 }),
        ("0149010203040506070809", KeyError::UnknownType { column, byte: 0x49 }),
        ("010A401E000000000000", KeyError::UnknownType { column, byte: 0x0a }),
        ("012B000000000161", KeyError::UnknownType { column, byte: 0x2b }),
        ("010D00", KeyError::UnknownType { column, byte: 0x0d }),
        ("0105", KeyError::Null { column }),
        ("010900", KeyError::NotMinimal { column }),
        ("01110001", KeyError::NotMinimal { column }),
        ("0141007FFFFFFFFFFFFFFF", KeyError::NotMinimal { column }),
        ("010B00", KeyError::NotMinimal { column }),
        ("0113000161", KeyError::NotMinimal { column }),
        ("010B01FF", KeyError::NotUtf8 { column }),
        ("010B03EDA080", KeyError::NotUtf8 { column }),
        ("01028000000000000000", KeyError::BadReal { column, value: "-0" }),
        ("01027FF8000000000000", KeyError::BadReal { column, value: "NaN" }),
        ("0102FFF0000000000001", KeyError::BadReal { column, value: "NaN" }),
    ] {
        let mut buffer = Vec::new();
        assert_eq!(unpack(pk, &mut buffer).map(|key| key.columns()), Err(error), "{pk}");
        assert!(buffer.capacity() <= pk.len().max(8), "no more than there is");
    }
}

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

/// A column of each kind, as a key and as a value.
const KINDS: [(&str, &str); 14] = [
    ("", ""),
    ("TEXT", ""),
    ("INT", ""),
    ("NUMERIC", ""),
    ("REAL", ""),
    ("BLOB", ""),
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

/// A value as it would be written by another program.
#[derive(Clone, Debug)]
enum Any {
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

impl Any {
    fn value(&self) -> Value<'_> {
        match self {
            Any::Integer(i) => Value::Integer(*i),
            Any::Real(r) => Value::Real(*r),
            Any::Text(t) => Value::Text(t),
            Any::Blob(b) => Value::Blob(b),
        }
    }
}

fn any_value() -> impl Strategy<Value = Any> {
    let two_63 = 2f64.powi(63);
    prop_oneof![
        any::<i64>().prop_map(Any::Integer),
        (-300i64..300).prop_map(Any::Integer),
        prop::sample::select(vec![i64::MIN, i64::MAX, 1 << 53, -(1 << 53)]).prop_map(Any::Integer),
        any::<f64>().prop_filter("no NaN", |r| !r.is_nan()).prop_map(Any::Real),
        (-300i32..300).prop_map(|i| Any::Real(f64::from(i) / 2.0)),
        prop::sample::select(vec![two_63, -two_63, two_63 - 1024.0, 1e30, 2f64.powi(53), 5e-324])
            .prop_map(Any::Real),
        "[ \t]?[-+]?[0-9]{0,3}[.]?[0-9]{0,2}([eE][-+]?[0-9]{0,2})?[ \n]?".prop_map(Any::Text),
        "[-+]?9223372036854775(80[678]|8070)([.]0)?|0x1F|inf|nan|NaN|1_000|١".prop_map(Any::Text),
        any::<String>().prop_map(Any::Text),
        prop::collection::vec(any::<u8>(), 0..9).prop_map(Any::Blob),
    ]
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

    #[test]
    fn a_key_comes_back(values in prop::collection::vec(any_value(), 1..9)) {
        let values: Vec<_> = values.iter().map(Any::value).map(|value| match value {
            Value::Real(0.0) => Value::Real(0.0),
            value => value,
        }).collect();
        let pk = pack(values.iter().copied());
        let mut buffer = Vec::new();
        let key = unpack(&pk, &mut buffer).unwrap();
        prop_assert_eq!(key.values().collect::<Vec<_>>(), values);
    }

    /// Whatever is read is written the same: no key has a second spelling.
    #[test]
    fn a_key_has_one_spelling(bytes in prop::collection::vec(prop_oneof![0u8..12, any::<u8>()], 0..20), count in 0u8..4) {
        let pk: String = std::iter::once(count).chain(bytes).map(|byte| format!("{byte:02X}")).collect();
        let mut buffer = Vec::new();
        if let Ok(key) = unpack(&pk, &mut buffer) {
            prop_assert_eq!(pack(key.values()), pk);
        }
    }

    #[test]
    fn no_text_breaks_the_reader(pk in any::<String>()) {
        let _ = unpack(&pk, &mut Vec::new());
    }

    #[test]
    fn no_file_breaks_the_parser(
        words in prop::collection::vec(prop::sample::select(vec![
            "CREATE", "TABLE", "t", "(", ")", ",", ";", "'", "\"", "[", "--", "/*", "id", "PRIMARY KEY", "NOT NULL", "AS", ".", "é", "\n",
        ]), 0..20)
    ) {
        let _ = Schema::parse(&words.join(" "), "f", KeyFormat::Packed);
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
