//! The application's tables in a channel's file, read by another process while the server writes them, and compared with
//! a real client's in the end.

use super::node;
use crate::common::loadgen::{SCHEMA, loadgen};
use crate::common::{PATIENCE, Server};
use causeway_storage::names::file_stem;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, OpenFlags, params_from_iter};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Two channels, whose rows are inserted, edited, deleted and inserted again, with values of every type.
const LOAD: &str = "mixed --channel-prefix show --channels 2 --rows 60 --columns 8 --values any --warmup-seconds 0 --seconds 4";
const CHANNELS: [&str; 2] = ["show-0", "show-1"];

#[test]
fn tables_are_right_at_every_commit_and_a_real_clients_in_the_end() {
    let server = Server::with("sqlite", &[("schema", SCHEMA)]);
    let file = |channel: &str| server.data.join(format!("{channel}.db"));
    let is_over = AtomicBool::new(false);
    let versions = thread::scope(|scope| {
        let readers = CHANNELS.map(|channel| {
            let (file, is_over) = (file(channel), &is_over);
            scope.spawn(move || {
                wait_for_table(&file);
                let mut reader = Reader::open(&file);
                let mut versions = BTreeSet::new();
                while !is_over.load(Ordering::Acquire) {
                    let Snapshot { version, table, made } = reader.look();
                    assert_same(&table, &made, &format!("{channel} at version {version}"));
                    versions.insert(version);
                }
                versions.len()
            })
        });
        let load = loadgen().args(LOAD.split(' ')).args(["--url", &format!("ws://{}", server.addr)]).output();
        is_over.store(true, Ordering::Release);
        let load = load.unwrap();
        assert_eq!(load.status.code(), Some(0), "{}", String::from_utf8_lossy(&load.stdout));
        readers.map(|reader| reader.join().unwrap())
    });
    println!("looked at {versions:?} versions of the channels");
    assert!(versions.iter().all(|count| *count >= 5), "too few to tell: {versions:?}");
    for channel in CHANNELS {
        let mut reader = Reader::open(&file(channel));
        let Snapshot { table, made, .. } = reader.look();
        let arguments = ["--channel", channel, "--schema", SCHEMA, "--table", "todos"];
        let client = node("table.mjs", &[server.addr], &arguments, |_| {}).succeeds();
        let mut expected: Vec<_> = client.lines().map(str::to_owned).collect();
        expected.sort_unstable();
        assert_same(&table, &expected, channel);
        let all = table.join(", ");
        for kind in ["NULL", "X'", "'v", "real ", ", -"] {
            assert!(all.contains(kind), "no value is {kind}: {all}");
        }
        assert!(table.len() > 10, "{}", table.len());
        let died = "SELECT count(*) FROM crdt_changes WHERE cid = '-1' AND cl > 1";
        assert_ne!(reader.file.query_row(died, [], |row| row.get(0)), Ok(0), "no row was deleted");
        let tamper = "UPDATE todos SET c7 = 'x' WHERE id = (SELECT max(id) FROM todos)";
        assert_eq!(opened(&file(channel), OpenFlags::SQLITE_OPEN_READ_WRITE).execute(tamper, []), Ok(1));
        assert_ne!(reader.look().table, made, "the reader sees what is wrong");
    }
    assert_eq!(server.metric("errors_total"), 0, "nothing was refused");
}

/// Asserts that the files have these tables, which are JSON: lines by channel and table.
pub(super) fn are_in_the_files(server: &Server, tables: &str, channels: usize) {
    let tables: BTreeMap<String, BTreeMap<String, Vec<String>>> = serde_json::from_str(tables).unwrap();
    assert_eq!(tables.len(), channels);
    for (channel, tables) in tables {
        let file = server.data.join(file_stem(&channel) + ".db");
        let file = opened(&file, OpenFlags::SQLITE_OPEN_READ_ONLY);
        for (name, mut expected) in tables {
            assert!(!expected.is_empty(), "{channel} {name}");
            expected.sort_unstable();
            assert_same(&lines(&file, &name), &expected, &format!("{channel} {name}"));
        }
    }
}

/// Shows no more than what differs.
#[track_caller]
fn assert_same(table: &[String], expected: &[String], place: &str) {
    let lacks = |of: &[String], other: &[String]| {
        of.iter().filter(|line| !other.contains(line)).cloned().collect::<Vec<_>>().join("\n  ")
    };
    assert!(
        table == expected,
        "{place}: the file alone has\n  {}\nand it should have\n  {}",
        lacks(table, expected),
        lacks(expected, table),
    );
}

/// One who reads a channel's file, with a database of his own to make the same table in.
struct Reader {
    file: Connection,
    own: Connection,
}

/// What one moment of a channel holds.
struct Snapshot {
    version: i64,
    table: Vec<String>,
    /// The table as it follows from the cells.
    made: Vec<String>,
}

impl Reader {
    fn open(file: &Path) -> Self {
        let own = Connection::open_in_memory().unwrap();
        own.execute_batch(&fs::read_to_string(SCHEMA).unwrap()).unwrap();
        Self { file: opened(file, OpenFlags::SQLITE_OPEN_READ_ONLY), own }
    }

    fn look(&mut self) -> Snapshot {
        let moment = self.file.transaction().unwrap();
        let version = moment.query_row("SELECT version FROM crdt_db_version", [], |row| row.get(0)).unwrap();
        let mut rows: BTreeMap<i64, Option<Vec<(String, Value)>>> = BTreeMap::new();
        let mut select = moment.prepare("SELECT pk, cid, val, cl FROM crdt_changes").unwrap();
        let mut cells = select.query([]).unwrap();
        while let Some(cell) = cells.next().unwrap() {
            let id = unpacked(&cell.get::<_, String>(0).unwrap());
            let (cid, val, cl): (String, _, i64) =
                (cell.get(1).unwrap(), cell.get(2).unwrap(), cell.get(3).unwrap());
            let row = rows.entry(id).or_insert_with(|| Some(Vec::new()));
            match row {
                _ if cl % 2 == 0 => *row = None,
                Some(row) if cid != "-1" => row.push((cid, val)),
                _ => {}
            }
        }
        let own = self.own.transaction().unwrap();
        for (id, row) in rows {
            let Some(row) = row else { continue };
            let names: String = row.iter().map(|(cid, _)| format!(", {cid}")).collect();
            let insert = format!("INSERT INTO todos (id{names}) VALUES (?{})", ", ?".repeat(row.len()));
            let values = [Value::Integer(id)].into_iter().chain(row.into_iter().map(|(_, val)| val));
            own.execute(&insert, params_from_iter(values)).unwrap();
        }
        // Rolled back, so that the next look begins with an empty one.
        Snapshot { version, table: lines(&moment, "todos"), made: lines(&own, "todos") }
    }
}

fn opened(file: &Path, flags: OpenFlags) -> Connection {
    let file = Connection::open_with_flags(file, flags).unwrap();
    file.busy_timeout(PATIENCE).unwrap();
    file
}

/// Waits for the file and its table, which are made with the channel's first update.
fn wait_for_table(file: &Path) {
    let start = Instant::now();
    let is_there = || {
        let opened = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY);
        opened.is_ok_and(|opened| opened.prepare("SELECT * FROM todos").is_ok())
    };
    while !is_there() {
        assert!(start.elapsed() < PATIENCE, "{}", file.display());
        thread::sleep(Duration::from_millis(5));
    }
}

/// The integer in a packed key.
fn unpacked(pk: &str) -> i64 {
    let bytes = (0..pk.len()).step_by(2).map(|at| u8::from_str_radix(&pk[at..at + 2], 16).unwrap());
    let bytes: Vec<_> = bytes.collect();
    assert!(bytes[0] == 1 && bytes[1] & 7 == 1 && bytes.len() == 2 + usize::from(bytes[1] >> 3), "{pk}");
    bytes[2..].iter().fold(0, |id, byte| id << 8 | i64::from(*byte))
}

/// The table as the scripts' `tableLines` has it, sorted.
fn lines(db: &Connection, table: &str) -> Vec<String> {
    let mut select = db.prepare(&format!("SELECT * FROM {table}")).unwrap();
    let columns = select.column_count();
    let line = |row: &rusqlite::Row<'_>| {
        let values = (0..columns).map(|at| literal(row.get_ref(at).unwrap()));
        Ok(values.collect::<Vec<_>>().join(", "))
    };
    let mut lines: Vec<_> = select.query_map([], line).unwrap().map(Result::unwrap).collect();
    lines.sort_unstable();
    lines
}

fn literal(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".into(),
        ValueRef::Integer(integer) => integer.to_string(),
        ValueRef::Real(real) => format!("real {:016X}", real.to_bits()),
        ValueRef::Text(text) => format!("'{}'", std::str::from_utf8(text).unwrap().replace('\'', "''")),
        ValueRef::Blob(blob) => {
            format!("X'{}'", blob.iter().map(|byte| format!("{byte:02X}")).collect::<String>())
        }
    }
}
