//! The application's tables in a channel's file: what the cells say as rows, written in the cells' own transaction.
//!
//! They are made `WITHOUT ROWID`: so they lie in the order of their keys, whatever the order of arrival, and a row is
//! one entry of one tree.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use foldhash::fast::RandomState;
use rusqlite::{Connection, OptionalExtension, params_from_iter};

use super::channel::{Sql, select_cells, visit_rows};
use crate::change::{Change, OwnedValue, SENTINEL};
use crate::schema::{Schema, Table};
use crate::store::Cell;

/// The most statements of a table whose text is kept: one for each set of columns that are written together.
const MAX_TEXTS: usize = 1_000;

/// The statements that stay prepared beside the cells' own.
pub(super) const STATEMENTS: usize = 48;

type Result<T> = rusqlite::Result<T>;

/// The tables of one channel, for its writer.
pub(super) struct Tables {
    schema: Arc<Schema>,
    /// The row that the cells of now belong to: a commit writes a row's cells one after the other.
    row: Row,
    key: Vec<u8>,
    /// By table, and by the columns that are written together.
    upserts: HashMap<String, HashMap<Vec<usize>, Box<str>, RandomState>, RandomState>,
}

#[derive(Default)]
struct Row {
    table: String,
    pk: String,
    /// Whether it is one at all.
    touched: bool,
    /// Whether cells went that are not said anew.
    reset: bool,
    /// Whether it is deleted.
    dead: bool,
    /// The indexes of the columns that have new values, and these.
    columns: Vec<usize>,
    values: Vec<OwnedValue>,
}

impl Tables {
    /// The schema's tables in this file, made and filled from the cells if they are not there as the schema has them.
    pub(super) fn open(conn: &mut Connection, schema: &Arc<Schema>) -> Result<Self> {
        let mut tables = Tables {
            schema: Arc::clone(schema),
            row: Row::default(),
            key: Vec::new(),
            upserts: HashMap::default(),
        };
        conn.execute_batch(
            "CREATE TABLE IF NOT EXISTS causeway_schema (name TEXT NOT NULL PRIMARY KEY, made_as TEXT) STRICT, WITHOUT ROWID",
        )?;
        let mut there: Vec<(String, Option<String>)> = conn
            .prepare("SELECT name, made_as FROM causeway_schema")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_>>()?;
        let mut wanted: Vec<_> =
            schema.tables().iter().map(|table| (table.name.clone(), Some(made_as(schema, table)))).collect();
        there.sort_unstable();
        wanted.sort_unstable();
        if there != wanted {
            tables.remake(conn)?;
        }
        Ok(tables)
    }

    /// Makes the tables anew from the cells, in a transaction of its own.
    pub(super) fn remake(&mut self, conn: &mut Connection) -> Result<()> {
        // Nothing but the channel's size bounds what this writes: the cache must not hold it to the end.
        conn.pragma_update(None, "cache_spill", true)?;
        let made = self.remake_in_transaction(conn);
        conn.pragma_update(None, "cache_spill", false)?;
        made
    }

    fn remake_in_transaction(&mut self, conn: &mut Connection) -> Result<()> {
        let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let old: Vec<String> = tx
            .prepare("SELECT name FROM causeway_schema")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_>>()?;
        for name in old {
            tx.execute_batch(&format!("DROP TABLE IF EXISTS {}", quoted(&name)))?;
        }
        tx.execute("DELETE FROM causeway_schema", [])?;
        let schema = Arc::clone(&self.schema);
        for table in schema.tables() {
            make(&tx, table)?;
            tx.execute(
                "INSERT INTO causeway_schema VALUES (?1, ?2)",
                (&table.name, made_as(&schema, table)),
            )?;
            self.fill(&tx, table)?;
        }
        tx.commit()
    }

    fn fill(&mut self, conn: &Connection, table: &Table) -> Result<()> {
        let mut select = conn.prepare(select_cells!(r#"WHERE "table" = ?1 ORDER BY pk"#))?;
        let mut failed = Ok(());
        let mut key = Vec::new();
        visit_rows(select.query([&table.name])?, &mut |cell| {
            // What was taken before there was this schema need not fit it.
            let fits = self.schema.check(&as_change(cell), &mut key).is_ok();
            failed = if fits { self.put(conn, cell) } else { Ok(()) };
            if failed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        failed?;
        self.flush(conn)
    }

    /// A cell was written.
    pub(super) fn put(&mut self, conn: &Connection, cell: &Cell<'_>) -> Result<()> {
        self.turn_to(conn, cell.table, cell.pk)?;
        if cell.cid == SENTINEL {
            self.row.touched = true;
            self.row.dead = cell.cl.is_multiple_of(2);
        } else if let Some(column) = self.schema.table(cell.table).and_then(|table| table.index_of(cell.cid))
        {
            self.row.touched = true;
            self.row.columns.push(column);
            self.row.values.push(cell.val.to_owned());
        }
        Ok(())
    }

    /// A cell was taken away.
    pub(super) fn remove(&mut self, conn: &Connection, table: &str, pk: &str, cid: &str) -> Result<()> {
        self.turn_to(conn, table, pk)?;
        if cid != SENTINEL {
            (self.row.touched, self.row.reset) = (true, true);
        }
        Ok(())
    }

    /// Forgets what is not written yet.
    pub(super) fn clear(&mut self) {
        self.row.touched = false;
    }

    fn turn_to(&mut self, conn: &Connection, table: &str, pk: &str) -> Result<()> {
        if self.row.touched && (self.row.pk != pk || self.row.table != table) {
            self.flush(conn)?;
        }
        if !self.row.touched {
            let row = &mut self.row;
            row.table.clear();
            row.table.push_str(table);
            row.pk.clear();
            row.pk.push_str(pk);
            row.columns.clear();
            row.values.clear();
            (row.reset, row.dead) = (false, false);
        }
        Ok(())
    }

    /// Writes the row that is on its way.
    pub(super) fn flush(&mut self, conn: &Connection) -> Result<()> {
        if !std::mem::take(&mut self.row.touched) {
            return Ok(());
        }
        let Some(table) = self.schema.table(&self.row.table) else { return Ok(()) };
        // What does not fit the schema was taken before there was one.
        let Ok(key) = self.schema.key(table, &self.row.pk, &mut self.key) else { return Ok(()) };
        if self.row.dead || self.row.reset {
            let delete = format!("DELETE FROM {} WHERE {}", quoted(&table.name), key_equals(table));
            conn.prepare_cached(&delete)?.execute(params_from_iter(key.values().map(Sql)))?;
        }
        if self.row.dead {
            return Ok(());
        }
        // What is known needs no copy of its names.
        let texts = match self.upserts.get_mut(&table.name) {
            Some(texts) => texts,
            None => self.upserts.entry(table.name.clone()).or_default(),
        };
        let columns = &self.row.columns;
        if !texts.contains_key(columns) {
            if texts.len() >= MAX_TEXTS {
                texts.clear();
            }
            texts.insert(columns.clone(), upsert(table, columns).into());
        }
        let upsert = &texts[columns];
        let values = self.row.values.iter().map(|value| Sql(value.as_value()));
        conn.prepare_cached(upsert)?.execute(params_from_iter(key.values().map(Sql).chain(values)))?;
        Ok(())
    }
}

/// Says that the tables are not kept up any more, if there are any: the server goes on without a schema.
pub(super) fn abandon(conn: &Connection) -> Result<()> {
    let there: Option<i64> = conn
        .query_row("SELECT 1 FROM sqlite_schema WHERE name = 'causeway_schema'", [], |row| row.get(0))
        .optional()?;
    if there.is_some() {
        conn.execute("UPDATE causeway_schema SET made_as = NULL WHERE made_as IS NOT NULL", [])?;
    }
    Ok(())
}

/// What a table that is there was made of: made otherwise, it is made anew.
fn made_as(schema: &Schema, table: &Table) -> String {
    format!("-- {} keys\n{}", schema.key_format(), table.sql)
}

fn make(conn: &Connection, table: &Table) -> Result<()> {
    conn.execute_batch(&table.sql)?;
    let without_rowid: bool =
        conn.query_row("SELECT wr FROM pragma_table_list(?1)", [&table.name], |row| row.get(0))?;
    if !without_rowid {
        let and = if table.strict { "," } else { "" };
        // The statement may end in a comment.
        let sql = format!("{}\n{and} WITHOUT ROWID", table.sql.trim_end().trim_end_matches(';'));
        conn.execute_batch(&format!("DROP TABLE {}", quoted(&table.name)))?;
        conn.execute_batch(&sql)?;
    }
    Ok(())
}

fn upsert(table: &Table, columns: &[usize]) -> String {
    let names = |columns: &[usize]| {
        columns.iter().map(|at| quoted(&table.columns[*at].name)).collect::<Vec<_>>().join(", ")
    };
    let all = [&table.key[..], columns].concat();
    let places = vec!["?"; all.len()].join(", ");
    let set = columns.iter().map(|at| {
        let name = quoted(&table.columns[*at].name);
        format!("{name} = excluded.{name}")
    });
    let resolve = match columns {
        [] => "NOTHING".to_owned(),
        _ => format!("UPDATE SET {}", set.collect::<Vec<_>>().join(", ")),
    };
    format!(
        "INSERT INTO {} ({}) VALUES ({places}) ON CONFLICT ({}) DO {resolve}",
        quoted(&table.name),
        names(&all),
        names(&table.key),
    )
}

fn key_equals(table: &Table) -> String {
    table
        .key_columns()
        .map(|column| format!("{} = ?", quoted(&column.name)))
        .collect::<Vec<_>>()
        .join(" AND ")
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn as_change<'a>(cell: &Cell<'a>) -> Change<'a> {
    let Cell { table, pk, cid, val, col_version, site_id, cl, at } = *cell;
    Change { table, pk, cid, val, col_version, db_version: at.version, site_id, cl, seq: at.seq }
}
