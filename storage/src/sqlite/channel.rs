//! A channel's writer.

use std::path::Path;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Row, ToSql, params};

use super::seen::LatelySeen;
use super::tables::{self, Tables};
use super::{error, open};
use crate::backend::StoreOptions;
use crate::change::{Position, Value};
use crate::error::{Result, StoreError};
use crate::store::{Cell, CellVisitor, ChannelStore, Head, RemadeTable, TrackedPeer};

/// A SELECT of whole cells, in the order of columns that [`visit_rows`] reads.
macro_rules! select_cells {
    ($where:literal) => {
        concat!(
            r#"SELECT "table", pk, cid, val, col_version, site_id, cl, db_version, seq FROM crdt_changes "#,
            $where
        )
    };
}
pub(super) use select_cells;

/// Statements that a channel keeps prepared.
const STATEMENTS: usize = 16;

pub(super) struct SqliteChannel {
    conn: Connection,
    channel: String,
    site_id: String,
    head: Head,
    seen: LatelySeen,
    tables: Option<Tables>,
}

impl SqliteChannel {
    /// Opens the channel; if it is not there, makes it if it is to be made, else gives `None`.
    pub(super) fn open(
        path: &Path,
        channel: &str,
        options: &StoreOptions,
        make: bool,
    ) -> Result<Option<Self>> {
        let Some(mut opened) = open::writer(path, channel, options, make)? else { return Ok(None) };
        let tables = match &options.schema {
            Some(schema) => Tables::open(&mut opened.conn, schema).map(Some),
            None => tables::abandon(&opened.conn).map(|()| None),
        };
        let tables = tables.map_err(|e| error(channel, "making its tables", e))?;
        let more = if tables.is_some() { tables::STATEMENTS } else { 0 };
        opened.conn.set_prepared_statement_cache_capacity(STATEMENTS + more);
        let head = open::head(&opened.conn, true).map_err(|e| error(channel, "reading its version", e))?;
        Ok(Some(SqliteChannel {
            conn: opened.conn,
            channel: channel.into(),
            site_id: opened.site_id,
            head,
            seen: LatelySeen::default(),
            tables,
        }))
    }

    fn execute(&self, doing: &'static str, sql: &str, params: impl rusqlite::Params) -> Result<usize> {
        let run = || self.conn.prepare_cached(sql)?.execute(params);
        run().map_err(|e| error(&self.channel, doing, e))
    }

    /// Runs what must write one cell. If it does not, the caller and the file disagree about where the cells stand.
    fn write_cell(&self, doing: &'static str, sql: &str, params: impl rusqlite::Params) -> Result<()> {
        match self.execute(doing, sql, params)? {
            1 => Ok(()),
            n => {
                let detail = format!("{n} cells stand where one should, while {doing}");
                Err(StoreError::Corrupt { channel: self.channel.clone(), detail })
            }
        }
    }

    fn write_tables(
        &mut self,
        write: impl FnOnce(&mut Tables, &Connection) -> rusqlite::Result<()>,
    ) -> Result<()> {
        match &mut self.tables {
            None => Ok(()),
            Some(tables) => {
                write(tables, &self.conn).map_err(|e| error(&self.channel, "writing a row of a table", e))
            }
        }
    }

    fn select(&self, sql: &str, params: impl rusqlite::Params, visit: CellVisitor<'_>) -> Result<()> {
        let run = || visit_rows(self.conn.prepare_cached(sql)?.query(params)?, visit);
        run().map_err(|e| error(&self.channel, "looking a row up", e))
    }
}

impl ChannelStore for SqliteChannel {
    fn site_id(&self) -> &str {
        &self.site_id
    }

    fn head(&self) -> Head {
        self.head
    }

    fn begin(&mut self) -> Result<()> {
        self.execute("beginning a transaction", "BEGIN IMMEDIATE", [])?;
        Ok(())
    }

    fn row(&mut self, table: &str, pk: &str, visit: CellVisitor<'_>) -> Result<()> {
        let sql = select_cells!(r#"WHERE "table" = ?1 AND pk = ?2"#);
        self.select(sql, [table, pk], visit)
    }

    fn cell(&mut self, table: &str, pk: &str, cid: &str, visit: CellVisitor<'_>) -> Result<()> {
        let sql = select_cells!(r#"WHERE "table" = ?1 AND pk = ?2 AND cid = ?3"#);
        self.select(sql, [table, pk, cid], visit)
    }

    fn put(&mut self, cell: &Cell<'_>, old: Option<Position>) -> Result<()> {
        let Cell { table, pk, cid, val, col_version, site_id, cl, at } = *cell;
        let (col_version, cl) = (col_version as i64, cl as i64);
        let (version, seq) = (at.version as i64, at.seq as i64);
        let written = match old {
            None => self.write_cell(
                "adding a cell",
                "INSERT INTO crdt_changes VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                params![table, pk, cid, Sql(val), col_version, version, site_id, cl, seq],
            ),
            Some(old) => self.write_cell(
                "replacing a cell",
                "UPDATE crdt_changes SET val = ?1, col_version = ?2, db_version = ?3, site_id = ?4, cl = ?5, seq = ?6
                 WHERE db_version = ?7 AND seq = ?8",
                params![Sql(val), col_version, version, site_id, cl, seq, old.version as i64, old.seq as i64],
            ),
        };
        written?;
        self.write_tables(|tables, conn| tables.put(conn, cell))
    }

    fn remove(&mut self, table: &str, pk: &str, cid: &str, old: Position) -> Result<()> {
        let sql = "DELETE FROM crdt_changes WHERE db_version = ?1 AND seq = ?2";
        self.write_cell("removing a cell", sql, [old.version as i64, old.seq as i64])?;
        self.write_tables(|tables, conn| tables.remove(conn, table, pk, cid))
    }

    fn track(&mut self, peer: &TrackedPeer) -> Result<()> {
        self.execute(
            "tracking a peer",
            "INSERT INTO crdt_tracked_peers VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET version = max(version, excluded.version)",
            params![peer.site_id, peer.version as i64, peer.tag as i64, peer.event],
        )?;
        if self.seen.is_news(peer) {
            self.execute(
                "noting when a peer was seen",
                "INSERT INTO causeway_peers_seen VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET seen_s = max(seen_s, excluded.seen_s)",
                params![peer.site_id, peer.tag as i64, peer.event, peer.seen_s as i64],
            )?;
        }
        Ok(())
    }

    fn forget_peers(&mut self, seen_s: u64, max: usize) -> Result<usize> {
        self.seen.clear();
        let limits = [seen_s.min(i64::MAX as u64) as i64, max as i64];
        let old = "(site_id, tag, event) IN
             (SELECT site_id, tag, event FROM causeway_peers_seen WHERE seen_s < ?1 ORDER BY 1, 2, 3 LIMIT ?2)";
        self.execute("forgetting peers", &format!("DELETE FROM crdt_tracked_peers WHERE {old}"), limits)?;
        self.execute("forgetting peers", &format!("DELETE FROM causeway_peers_seen WHERE {old}"), limits)
    }

    fn commit(&mut self, head: Head) -> Result<()> {
        self.write_tables(Tables::flush)?;
        if head != self.head {
            self.execute(
                "setting its version",
                "UPDATE crdt_db_version SET version = ?1",
                [head.version as i64],
            )?;
            self.execute(
                "setting its digest and size",
                "UPDATE causeway_state SET digest = ?1, cells = ?2, bytes = ?3",
                params![head.digest.to_string(), head.size.cells as i64, head.size.bytes as i64],
            )?;
        }
        self.execute("committing", "COMMIT", [])?;
        self.head = head;
        Ok(())
    }

    fn remake_tables(&mut self) -> Result<Option<Vec<RemadeTable>>> {
        let Some(tables) = &mut self.tables else { return Ok(None) };
        let made = tables.remake(&mut self.conn);
        made.map(Some).map_err(|e| error(&self.channel, "making its tables", e))
    }

    fn rollback(&mut self) {
        // Some errors have rolled back already, and closing the handle does in any case.
        let _ = self.execute("rolling back", "ROLLBACK", []);
        self.seen.clear();
        if let Some(tables) = &mut self.tables {
            tables.clear();
        }
    }
}

/// Gives each row, selected by [`select_cells`], to `visit` until it breaks.
pub(super) fn visit_rows(mut rows: rusqlite::Rows<'_>, visit: CellVisitor<'_>) -> rusqlite::Result<()> {
    while let Some(row) = rows.next()? {
        if visit(&cell(row)?).is_break() {
            break;
        }
    }
    Ok(())
}

fn cell<'r>(row: &'r Row<'_>) -> rusqlite::Result<Cell<'r>> {
    let text = |i| row.get_ref(i)?.as_str().map_err(rusqlite::Error::from);
    let number = |i| Ok::<u64, rusqlite::Error>(row.get_ref(i)?.as_i64()? as u64);
    Ok(Cell {
        table: text(0)?,
        pk: text(1)?,
        cid: text(2)?,
        val: match row.get_ref(3)? {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(i) => Value::Integer(i),
            ValueRef::Real(r) => Value::Real(r),
            ValueRef::Text(t) => {
                Value::Text(std::str::from_utf8(t).map_err(|e| rusqlite::Error::Utf8Error(3, e))?)
            }
            ValueRef::Blob(b) => Value::Blob(b),
        },
        col_version: number(4)?,
        site_id: text(5)?,
        cl: number(6)?,
        at: Position { version: number(7)?, seq: number(8)? },
    })
}

/// A value as SQLite binds it.
pub(super) struct Sql<'a>(pub(super) Value<'a>);

impl ToSql for Sql<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Integer(i) => ValueRef::Integer(i),
            Value::Real(r) => ValueRef::Real(r),
            Value::Text(t) => ValueRef::Text(t.as_bytes()),
            Value::Blob(b) => ValueRef::Blob(b),
        }))
    }
}
