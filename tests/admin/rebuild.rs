//! Tables that are made anew from the cells.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::common::{Client, Place, SITE, change, lines, update};
use crate::operators::Operators;

on_durable_stores!(the_answer_says_what_was_made_or_that_there_is_nothing_to_make);

const SCHEMA: &str =
    "CREATE TABLE todos (id TEXT PRIMARY KEY NOT NULL, text, done INTEGER NOT NULL DEFAULT 0);
CREATE TABLE tags (todo TEXT NOT NULL, n INTEGER NOT NULL, note, PRIMARY KEY (n, todo));
CREATE TABLE marks (id INTEGER PRIMARY KEY NOT NULL) STRICT;
";

/// Changes to all tables: every type of value, rows without columns, a deleted one and one in its second life.
fn changes() -> Vec<Value> {
    let blob = json!({"$blob": "00FF"});
    let mut changes = vec![
        change("todos", "010B0162", "text", "milk"),
        change("todos", "010B0161", "text", 1.0),
        change("todos", "010B0161", "done", "not a number"),
        change("todos", "010B0163", "text", blob),
        change("tags", "02090A0B0161", "note", Value::Null),
        change("tags", "0209030B0162", "note", 3),
        json!(["marks", "010907", "-1", null, 1, 1, SITE, 1, 0]),
        json!(["todos", "010B0164", "-1", null, 2, 1, SITE, 2, 0]),
        json!(["todos", "010B0165", "-1", null, 3, 1, SITE, 3, 0]),
        json!(["todos", "010B0165", "text", "again", 1, 1, SITE, 3, 0]),
    ];
    changes.extend((0..50).map(|n| change("todos", &format!("010B02{:02X}78", 0x30 + n), "text", n)));
    changes
}

fn connect(file: &Path) -> Connection {
    let conn = Connection::open(file).unwrap();
    conn.busy_timeout(crate::common::PATIENCE).unwrap();
    conn
}

/// The application's tables of a channel's file, as another process reads them: their statements, and each row in the order in
/// which it comes, to the last bit.
fn dump(file: &Path) -> Vec<String> {
    let mut conn = connect(file);
    let conn = conn.transaction().unwrap();
    let text = |sql: &str| -> Vec<String> {
        let mut select = conn.prepare(sql).unwrap();
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let of_app = "WHERE name NOT LIKE 'crdt\\_%' ESCAPE '\\' AND name NOT LIKE 'causeway\\_%' ESCAPE '\\'";
    let mut dump = text(&format!(
        "SELECT concat_ws('|', type, name, tbl_name, sql) FROM sqlite_schema {of_app} ORDER BY name"
    ));
    dump.extend(text("SELECT concat_ws('|', name, made_as) FROM causeway_schema"));
    for table in text(&format!("SELECT name FROM sqlite_schema {of_app} AND type = 'table' ORDER BY name")) {
        let columns = text(&format!("SELECT name FROM pragma_table_info('{table}')"));
        let shown: Vec<_> =
            columns.iter().map(|name| format!("typeof(\"{name}\"), quote(\"{name}\")")).collect();
        dump.extend(text(&format!(
            "SELECT concat_ws('|', '{table}', {}) FROM \"{table}\"",
            shown.join(", ")
        )));
    }
    dump
}

/// Rows changed, added and removed; and if nobody writes meanwhile, a table that is gone and one that is another.
fn damage(file: &Path, tables_too: bool) {
    let conn = connect(file);
    conn.execute_batch(
        "UPDATE todos SET text = 'nobody wrote this' WHERE id < 'c';
         DELETE FROM todos WHERE id LIKE '%x';
         INSERT OR IGNORE INTO todos (id, text) VALUES ('foreign', 1);",
    )
    .unwrap();
    if tables_too {
        conn.execute_batch("DROP TABLE tags; DROP TABLE marks; CREATE TABLE marks (id, more); INSERT INTO marks VALUES (1, 2);").unwrap();
    }
}

/// What the channel's cells say, in tables that were made as they came: pulled, and sent to another channel.
fn as_pulled(place: &Place, reader: &mut Client, mut into: Client, name: &str) -> Vec<String> {
    let pulled = reader.pull_rows(0);
    for (n, some) in pulled.chunks(10_000).enumerate() {
        into.update(n as u64 + 1, some);
    }
    dump(&place.data().join(format!("{name}.db")))
}

#[test]
fn damaged_tables_become_what_they_were() {
    let place = Place::new("sqlite");
    let schema = place.write("schema.sql", SCHEMA);
    let server = place.serve_with(&[("schema", &schema)]);
    let (mut writer, mut follower) = (server.connect("list"), server.connect("list"));
    writer.update(1, &changes());
    follower.recv_type("update");
    let file = place.data().join("list.db");
    let whole = dump(&file);
    assert!(whole.len() > 60, "{whole:?}");

    let told = [
        json!({"line": "rebuilt_table", "table": "todos", "rows": 54, "unfit": 0}),
        json!({"line": "rebuilt_table", "table": "tags", "rows": 2, "unfit": 0}),
        json!({"line": "rebuilt_table", "table": "marks", "rows": 1, "unfit": 0}),
        json!({"line": "rebuilt", "channel": "list", "tables": 3, "rows": 57}),
    ];
    damage(&file, true);
    assert_ne!(dump(&file), whole);
    writer.send_json(&update(2, &[change("tags", "0209030B0162", "note", 9)]));
    assert_eq!(writer.recv_type("error")["code"], "storage", "a row of a table that is gone");
    assert_eq!(place.json(&["rebuild", "list"]), told, "the server's schema counts");
    assert_eq!(dump(&file), whole);
    // Nobody was closed, and tables are kept up as before.
    writer.update(
        3,
        &[change("todos", "010B0166", "text", "more"), change("marks", "010907", "-1", Value::Null)],
    );
    follower.recv_type("update");
    let whole = dump(&file);
    assert!(whole.contains(&"todos|text|'f'|text|'more'|integer|0".to_owned()), "{whole:?}");
    assert_eq!(as_pulled(&place, &mut follower, server.connect("other"), "other"), whole);
    assert_eq!(place.people(&["rebuild", "list"]).last().unwrap(), "rebuilt  list: 3 tables, 58 rows");
    assert_eq!(dump(&file), whole, "what is right stays so");
    server.stop();

    damage(&file, true);
    let damaged = dump(&file);
    let refused = place.run(&["rebuild", "list", "--json"]);
    assert_eq!((refused.code, &lines(&refused.stdout)[0]["code"]), (Some(1), &"no_schema".into()));
    place.write("less.sql", "CREATE TABLE todos (id TEXT PRIMARY KEY NOT NULL, text)");
    let refused = place.run(&["rebuild", "list", "--schema", "/less.sql"]);
    assert!(refused.code == Some(1) && refused.stderr.contains("done"), "{refused:?}");
    assert_eq!(dump(&file), damaged, "what is refused changes nothing");
    place.people(&["rebuild", "list", "--schema", "/schema.sql"]);
    assert_eq!(dump(&file), whole);
}

/// A channel is made anew over and over, and its tables are damaged, while clients write into it and beside it.
/// Also when the test fails the writers are to come to their end.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn clients_write_while_tables_are_made_anew() {
    let place = Place::new("sqlite");
    let schema = place.write("schema.sql", SCHEMA);
    let server = place.serve_with(&[("schema", &schema), ("shards", "1")]);
    let file = place.data().join("list.db");
    // The channel is made by its first update.
    server.connect("list").update(1, &changes());
    let stop = AtomicBool::new(false);
    let write = |mut client: Client, own: usize| {
        let mut n = 0u64;
        while !stop.load(Ordering::Relaxed) {
            n += 1;
            let row = format!("010B02{:02X}{:02X}", 0x41 + own, 0x30 + n % 50);
            let text = json!(["todos", row, "text", n, n, 1, SITE, 1, 0]);
            client.send_json(&update(n, &[text, change("tags", "0209030B0162", "note", n)]));
            // What the others write comes in between.
            let mut answers = std::iter::repeat_with(|| client.recv_json());
            let ack = answers.find(|answer| answer["type"] != "update").unwrap();
            assert_eq!((&ack["type"], &ack["received"]), (&"ack".into(), &n.into()), "{ack}");
        }
        n
    };
    thread::scope(|scope| {
        let clients: Vec<_> = ["list", "list", "other"].map(|name| server.connect(name)).into();
        let writers: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(own, client)| scope.spawn(move || write(client, own)))
            .collect();
        let over = Over(&stop);
        for _ in 0..8 {
            damage(&file, false);
            place.people(&["rebuild", "list"]);
        }
        drop(over);
        assert!(writers.into_iter().all(|writer| writer.join().unwrap() > 0));
    });
    // The damage that came last was undone, and what was written since is there.
    let found = dump(&file);
    let pulled = as_pulled(&place, &mut server.connect("list"), server.connect("again"), "again");
    assert_eq!(found, pulled);
    assert_eq!(place.json(&["verify"]).len(), 3);
}

/// A server that is killed while it makes tables anew, or has no room for them, leaves those that were there.
#[test]
fn what_does_not_come_to_its_end_leaves_the_old_tables() {
    let place = Place::new("sqlite");
    let schema = place.write("schema.sql", SCHEMA);
    let settings = [("schema", schema.as_str()), ("cache-bytes", "65536"), ("durability", "off")];
    let server = place.serve_with(&settings);
    let mut client = server.connect("list");
    let long = "x".repeat(500);
    for n in 0..20u64 {
        let row = |i| change("todos", &format!("010C02{:04X}", n * 500 + i), "text", &*long);
        let rows: Vec<Value> = (0..500).map(row).collect();
        client.update(n + 1, &rows);
    }
    drop(client);
    server.stop();
    let file = place.data().join("list.db");
    let whole = dump(&file);
    damage(&file, true);
    connect(&file).execute_batch("UPDATE todos SET text = 'short'").unwrap();
    let damaged = dump(&file);
    let server = place.serve_with(&settings);
    // Nor does one that ends in a full disk.
    server.limit_files(Some(1 << 20));
    assert_eq!(place.run(&["rebuild", "list"]).code, Some(1));
    server.limit_files(None);
    assert_eq!(dump(&file), damaged);
    let log = file.with_extension("db-wal");
    thread::scope(|scope| {
        let rebuild = scope.spawn(|| place.run(&["rebuild", "list"]));
        // It has written much of it, and has not committed.
        while !rebuild.is_finished() && fs::metadata(&log).map_or(0, |log| log.len()) < 2 << 20 {
            thread::yield_now();
        }
        server.kill();
        assert!(matches!(rebuild.join().unwrap().code, Some(0 | 1)));
    });
    let left = dump(&file);
    assert!(left == damaged || left == whole, "it is neither");
    let server = place.serve_with(&settings);
    place.people(&["rebuild", "list"]);
    assert_eq!(dump(&file), whole);
    server.stop();
}

fn the_answer_says_what_was_made_or_that_there_is_nothing_to_make(store: &'static str) {
    let place = Place::new(store);
    let schema = place.write("schema.sql", SCHEMA);
    let operators = Operators::start_with(&place, &[("schema", &schema)]);
    operators.server.connect("a/ü").update(1, &changes());
    let has_tables = causeway_storage::backend(store).unwrap().tables;
    let told = operators.succeed("POST", "/admin/channels/a%2F%C3%BC/rebuild");
    let expected = match has_tables {
        true => json!({"line": "rebuilt", "channel": "a/ü", "tables": 3, "rows": 57}),
        false => json!({"line": "no_tables", "channel": "a/ü", "store": store}),
    };
    assert_eq!(told.last(), Some(&expected));
    assert_eq!(place.json(&["rebuild", "a/ü"]), told);
    let people = place.people(&["rebuild", "a/ü"]).join("\n");
    assert_eq!(people.contains("nothing to rebuild"), !has_tables, "{people}");
    assert_eq!(operators.ask("POST", "/admin/channels/nobody/rebuild").status, 404);
    for method in ["GET", "DELETE", "PUT"] {
        assert_eq!(operators.ask(method, "/admin/channels/a%2F%C3%BC/rebuild").status, 405);
    }
    assert_eq!(place.run(&["rebuild", "nobody"]).code, Some(1));
    operators.server.stop();
    assert_eq!(place.json(&["rebuild", "a/ü", "--schema", "/schema.sql"]), told);
    assert_eq!(place.run(&["rebuild", "nobody", "--schema", "/schema.sql"]).code, Some(1));
    assert_eq!(place.json(&["channels"]).len(), 1, "nothing was made by asking for it");

    let operators = Operators::start(&place);
    let answer = operators.ask("POST", "/admin/channels/a%2F%C3%BC/rebuild");
    let (status, code) = if has_tables { (409, Some("no_schema")) } else { (200, None) };
    assert_eq!(answer.status, status);
    assert!(code.is_none_or(|code| answer.text().contains(code)), "{}", answer.text());
}
