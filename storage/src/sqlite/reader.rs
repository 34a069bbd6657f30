//! A channel's readers: a connection of their own, so that they and the writer never wait for each other.

use std::path::Path;

use rusqlite::Connection;

use super::channel::{select_cells, visit_rows};
use super::{error, open};
use crate::backend::StoreOptions;
use crate::change::Position;
use crate::error::{Result, StoreError};
use crate::store::{CellVisitor, ChannelReader, Head, TableCounts, TrackedPeer};

/// The view `causeway_tables`, which a file of an older version does not have.
const COUNT_TABLES: &str = r#"SELECT "table", rows - coalesce(deleted, 0), coalesce(deleted, 0), cells
    FROM (SELECT "table", count(*) AS rows, sum(cells) AS cells
      FROM (SELECT "table", count(*) AS cells FROM crdt_changes GROUP BY "table", pk) GROUP BY "table")
    LEFT JOIN (SELECT "table", count(*) AS deleted FROM crdt_changes WHERE cid = '-1' AND cl % 2 = 0 GROUP BY "table")
    USING ("table")"#;

pub(super) struct SqliteReader {
    conn: Connection,
    channel: String,
    sized: bool,
}

impl SqliteReader {
    pub(super) fn open(path: &Path, channel: &str, options: &StoreOptions) -> Result<Self> {
        let (conn, sized) = open::reader(path, channel, options)?;
        Ok(SqliteReader { conn, channel: channel.into(), sized })
    }
}

impl ChannelReader for SqliteReader {
    fn read(&mut self, after: Position, visit: CellVisitor<'_>) -> Result<Head> {
        let mut run = || {
            // One snapshot for the head and the cells.
            let snapshot = self.conn.unchecked_transaction()?;
            let head = open::head(&snapshot, self.sized)?;
            if after.version <= head.version {
                let mut select = snapshot.prepare_cached(select_cells!(
                    "WHERE (db_version, seq) > (?1, ?2) ORDER BY db_version, seq"
                ))?;
                visit_rows(select.query([after.version as i64, after.seq as i64])?, visit)?;
            }
            Ok(head)
        };
        run().map_err(|e| error(&self.channel, "reading a page", e))
    }

    fn head(&mut self) -> Result<Head> {
        open::head(&self.conn, self.sized).map_err(|e| error(&self.channel, "reading its version", e))
    }

    fn site_id(&mut self) -> Result<String> {
        open::site_id(&self.conn).map_err(|e| error(&self.channel, "reading its site id", e))
    }

    fn peers(&mut self) -> Result<Vec<TrackedPeer>> {
        let run = || {
            self.conn
                .prepare_cached(
                    "SELECT site_id, tag, event, version, coalesce(seen_s, 0)
                     FROM crdt_tracked_peers LEFT JOIN causeway_peers_seen USING (site_id, tag, event)
                     ORDER BY 1, 2, 3",
                )?
                .query_map([], |row| {
                    Ok(TrackedPeer {
                        site_id: row.get(0)?,
                        tag: row.get::<_, i64>(1)? as u64,
                        event: row.get(2)?,
                        version: row.get::<_, i64>(3)? as u64,
                        seen_s: row.get::<_, i64>(4)? as u64,
                    })
                })?
                .collect::<rusqlite::Result<Vec<_>>>()
        };
        run().map_err(|e| error(&self.channel, "reading its peers", e))
    }

    fn tables(&mut self, visit: &mut dyn FnMut(TableCounts)) -> Result<()> {
        let mut run = || {
            let mut select = self.conn.prepare(COUNT_TABLES)?;
            let mut rows = select.query([])?;
            while let Some(row) = rows.next()? {
                let number = |i| row.get::<_, i64>(i).map(|n| n as u64);
                let (rows, deleted) = (number(1)?, number(2)?);
                visit(TableCounts { table: row.get(0)?, rows, deleted, cells: number(3)? });
            }
            Ok(())
        };
        run().map_err(|e| error(&self.channel, "counting its rows", e))
    }

    fn size_bytes(&mut self) -> Result<u64> {
        let file = Path::new(self.conn.path().unwrap_or_default());
        let mut bytes = 0;
        for ending in ["db", "db-wal"] {
            let path = file.with_extension(ending);
            match std::fs::metadata(&path) {
                Ok(file) => bytes += file.len(),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(StoreError::Directory { path, source }),
            }
        }
        Ok(bytes)
    }

    /// SQLite's own check: every page, every index against its table.
    fn check(&mut self) -> Result<()> {
        let run = || {
            let mut check = self.conn.prepare("PRAGMA integrity_check(5)")?;
            check.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()
        };
        let found = run().map_err(|e| error(&self.channel, "checking its file", e))?;
        match &found[..] {
            [ok] if ok == "ok" => Ok(()),
            found => {
                let detail = format!("SQLite's integrity check: {}", found.join("; "));
                Err(StoreError::Corrupt { channel: self.channel.clone(), detail })
            }
        }
    }
}
