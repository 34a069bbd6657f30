//! A channel's readers: a connection of their own, so that they and the writer never wait for each other.

use std::path::Path;

use rusqlite::Connection;

use super::channel::{select_cells, visit_rows};
use super::{error, open};
use crate::backend::StoreOptions;
use crate::change::Position;
use crate::error::Result;
use crate::store::{CellVisitor, ChannelReader, Head};

pub(super) struct SqliteReader {
    conn: Connection,
    channel: String,
}

impl SqliteReader {
    pub(super) fn open(path: &Path, channel: &str, options: &StoreOptions) -> Result<Self> {
        Ok(SqliteReader { conn: open::reader(path, channel, options)?, channel: channel.into() })
    }
}

impl ChannelReader for SqliteReader {
    fn read(&mut self, after: Position, visit: CellVisitor<'_>) -> Result<u64> {
        let mut run = || {
            // One snapshot for the version and the cells.
            let snapshot = self.conn.unchecked_transaction()?;
            let version = open::head(&snapshot)?.version;
            if after.version <= version {
                let mut select = snapshot.prepare_cached(select_cells!(
                    "WHERE (db_version, seq) > (?1, ?2) ORDER BY db_version, seq"
                ))?;
                visit_rows(select.query([after.version as i64, after.seq as i64])?, visit)?;
            }
            Ok(version)
        };
        run().map_err(|e| error(&self.channel, "reading a page", e))
    }

    fn head(&mut self) -> Result<Head> {
        open::head(&self.conn).map_err(|e| error(&self.channel, "reading its version", e))
    }
}
