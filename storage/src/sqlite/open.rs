//! Opening a channel's file: pragmas, and the checks of what is there.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::error;
use super::make::{self, APPLICATION_ID, SCHEMA_VERSION, VIEWS};
use crate::backend::{Durability, StoreOptions};
use crate::digest::Digest;
use crate::error::{Result, StoreError};
use crate::store::{Head, Size};

/// The version that does not know its size, and the one before, which has no views either. Such a file can be read, and gets
/// what it lacks when it is opened for writing.
const WITHOUT_SIZE: i64 = 3;
const WITHOUT_VIEWS: i64 = 2;

/// The page that SQLite makes unless it is told otherwise, in bytes.
pub(super) const PAGE_BYTES: u64 = 4096;

/// Pages of write-ahead log after which a commit moves them into the file: 20 MiB, and as much again if there are tables. A
/// long log makes commits cheap, as a page that changes often is moved once; a short one makes reads and restarts cheap.
const WAL_AUTOCHECKPOINT_PAGES: i64 = 5_000;

/// The cache of a reader, in pages: it goes through the file once, and sees no page twice.
const READER_CACHE_PAGES: i64 = 64;

/// How long a statement waits for a lock that only an operator's own `sqlite3` could hold.
const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// A connection and what a channel's file says of itself.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) conn: Connection,
    pub(super) site_id: String,
}

/// Opens the channel's file for writing; if it is not there, makes it if it is to be made, else gives `None`.
pub(super) fn writer(
    path: &Path,
    channel: &str,
    options: &StoreOptions,
    make: bool,
) -> Result<Option<Opened>> {
    let failed = |e| error(channel, "opening its file", e);
    let mut conn = match existing(path, channel, options)? {
        Some(conn) => conn,
        None if make => {
            make::file(path, channel, &crate::store::new_site_id(), options.durability)?;
            connect(path, options).map_err(failed)?
        }
        None => return Ok(None),
    };
    let version = check(&conn, channel)?;
    if version < SCHEMA_VERSION {
        upgrade(&mut conn, version).map_err(|e| error(channel, "bringing its file up to date", e))?;
    }
    let site_id = site_id(&conn).map_err(failed)?;
    Ok(Some(Opened { conn, site_id }))
}

/// Makes the channel's file.
pub(super) fn create(path: &Path, channel: &str, site_id: &str, options: &StoreOptions) -> Result<()> {
    match existing(path, channel, options)? {
        Some(_) => Err(StoreError::Exists { channel: channel.into() }),
        None => make::file(path, channel, site_id, options.durability),
    }
}

/// A connection to the file, if there is one that holds anything.
fn existing(path: &Path, channel: &str, options: &StoreOptions) -> Result<Option<Connection>> {
    let failed = |e| error(channel, "opening its file", e);
    if !is_there(path)? {
        return Ok(None);
    }
    let conn = connect(path, options).map_err(failed)?;
    Ok(if is_empty(&conn).map_err(failed)? { None } else { Some(conn) })
}

fn is_there(path: &Path) -> Result<bool> {
    path.try_exists().map_err(|source| StoreError::Directory { path: path.into(), source })
}

/// Opens the channel's file for reading only; `false` if it does not know its size.
pub(super) fn reader(path: &Path, channel: &str, options: &StoreOptions) -> Result<(Connection, bool)> {
    let failed = |e| error(channel, "opening its file for reading", e);
    // A read-only handle cannot open a file in WAL mode that nobody else has open, so this one just promises.
    let Some(conn) = existing(path, channel, options)? else {
        return Err(StoreError::Missing { channel: channel.into() });
    };
    conn.pragma_update(None, "cache_size", READER_CACHE_PAGES).map_err(failed)?;
    conn.pragma_update(None, "query_only", true).map_err(failed)?;
    let sized = check(&conn, channel)? == SCHEMA_VERSION;
    Ok((conn, sized))
}

/// The channel whose file this is; `None` if the file is not finished.
pub(super) fn channel_of(path: &Path) -> Result<Option<String>> {
    let failed = |e| error(&path.to_string_lossy(), "reading its name", e);
    let conn = Connection::open_with_flags(path, flags()).map_err(failed)?;
    conn.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    if is_empty(&conn).map_err(failed)? {
        return Ok(None);
    }
    conn.query_row("SELECT channel FROM causeway_state", [], |row| row.get(0)).map(Some).map_err(failed)
}

/// What [`crate::store::Size`] says, counted.
macro_rules! count_cells {
    () => {
        r#"SELECT count(*) AS cells, coalesce(sum(64 + octet_length("table") + octet_length(pk) + iif(cid = '-1', 0,
             octet_length(cid) + iif(typeof(val) IN ('text', 'blob'), octet_length(val), 8))), 0) AS bytes
           FROM crdt_changes"#
    };
}

/// The head of the last commit. Where the file is not `sized`, it is counted.
pub(super) fn head(conn: &Connection, sized: bool) -> rusqlite::Result<Head> {
    let mut select = conn.prepare_cached(if sized {
        "SELECT version, digest, cells, bytes FROM crdt_db_version, causeway_state"
    } else {
        concat!(
            "SELECT version, digest, counted.cells, counted.bytes FROM crdt_db_version, causeway_state, (",
            count_cells!(),
            ") AS counted"
        )
    })?;
    select.query_row([], |row| {
        let number = |i| row.get::<_, i64>(i).map(|n| n as u64);
        let digest = Digest::parse(row.get_ref(1)?.as_str()?).ok_or(rusqlite::Error::InvalidQuery)?;
        let size = Size { cells: number(2)?, bytes: number(3)? };
        Ok(Head { version: number(0)?, digest, size })
    })
}

/// The channel's site id.
pub(super) fn site_id(conn: &Connection) -> rusqlite::Result<String> {
    conn.query_row("SELECT id FROM crdt_site_id", [], |row| row.get(0))
}

fn flags() -> OpenFlags {
    // One thread at a time uses a connection, so SQLite need not lock it.
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

fn connect(path: &Path, options: &StoreOptions) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(path, flags())?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    // The same rows change about as many pages of the tables as of the cells.
    let shares = if options.schema.is_some() { 2 } else { 1 };
    conn.pragma_update(None, "cache_size", -((options.cache_bytes / 1024) as i64) * shares)?;
    conn.pragma_update(
        None,
        "synchronous",
        match options.durability {
            Durability::Full => "FULL",
            Durability::Normal => "NORMAL",
            Durability::Off => "OFF",
        },
    )?;
    // A commit's pages are written once, at its end, even if they are more than the cache: the limits of a commit bound
    // them.
    conn.pragma_update(None, "cache_spill", false)?;
    conn.pragma_update(None, "wal_autocheckpoint", WAL_AUTOCHECKPOINT_PAGES * shares)?;
    Ok(conn)
}

fn is_empty(conn: &Connection) -> rusqlite::Result<bool> {
    conn.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get(0))
}

/// Brings a file from an older version to [`SCHEMA_VERSION`].
fn upgrade(conn: &mut Connection, version: i64) -> rusqlite::Result<()> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if version == WITHOUT_VIEWS {
        tx.execute_batch(VIEWS)?;
    }
    tx.execute_batch(concat!(
        "ALTER TABLE causeway_state ADD COLUMN cells INTEGER NOT NULL DEFAULT 0;
         ALTER TABLE causeway_state ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
         UPDATE causeway_state SET (cells, bytes) = (",
        count_cells!(),
        ");"
    ))?;
    tx.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    tx.commit()
}

/// Gives the version of the schema. A file that is not ours, or not this channel's, is never written to.
fn check(conn: &Connection, channel: &str) -> Result<i64> {
    let failed = |e| error(channel, "checking its file", e);
    let corrupt = |detail: String| Err(StoreError::Corrupt { channel: channel.into(), detail });
    let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(failed);
    if pragma("application_id")? != APPLICATION_ID {
        return corrupt("its file was not made by Causeway".into());
    }
    let version = pragma("user_version")?;
    if ![SCHEMA_VERSION, WITHOUT_SIZE, WITHOUT_VIEWS].contains(&version) {
        return corrupt(format!("its file has schema {version}, this Causeway reads {SCHEMA_VERSION}"));
    }
    let name: String =
        conn.query_row("SELECT channel FROM causeway_state", [], |row| row.get(0)).map_err(failed)?;
    if name != channel {
        return corrupt(format!("its file belongs to channel {name:?}"));
    }
    Ok(version)
}
