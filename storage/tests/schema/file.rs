//! What a file may say.

use causeway_storage::schema::Affinity;
use causeway_storage::{KeyFormat, Schema};
use proptest::prelude::*;

use crate::parse;

#[test]
fn a_file_tells_tables_as_sqlite_makes_them() {
    let schema = parse(
        "\u{feff}-- the app's; tables\r\nCREATE TABLE todos (id PRIMARY KEY NOT NULL, text, \"done; CHECK\" INT DEFAULT 0);
        create table if not exists tags (
            b TEXT NOT NULL, a INTEGER NOT NULL, note VARCHAR(9) NOT NULL DEFAULT 'CHECK (;)', -- a CHECK; of nothing
            weight DOUBLE PRECISION, at DATE, PRIMARY KEY (a, b));
        CREATE TABLE kept (id TEXT PRIMARY KEY, note COLLATE NOCASE) WITHOUT ROWID",
    );
    let names: Vec<_> = schema.tables().iter().map(|table| table.name.as_str()).collect();
    assert_eq!(names, ["todos", "tags", "kept"]);
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
    assert!(e.contains("more than 4194304 bytes"), "{e}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_file_breaks_the_parser(
        words in prop::collection::vec(prop::sample::select(vec![
            "CREATE", "TABLE", "t", "(", ")", ",", ";", "'", "\"", "[", "--", "/*", "id", "PRIMARY KEY", "NOT NULL", "AS", ".", "é", "\n",
        ]), 0..20)
    ) {
        let _ = Schema::parse(&words.join(" "), "f", KeyFormat::Packed);
    }
}
