//! Making a channel's file: all of it at once, under another name until it is on the disk, so that a crash leaves no half of
//! one. SQLite by itself would make it in steps, and sync nine times instead of two.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use rusqlite::{Connection, MAIN_DB};

use super::{error, remove_if_there};
use crate::backend::Durability;
use crate::digest::Digest;
use crate::error::{Result, StoreError, is_full};

/// `PRAGMA application_id` of a channel's file: "CWAY".
pub(super) const APPLICATION_ID: i64 = 0x4357_4159;

/// `PRAGMA user_version`: the version of the schema.
pub(super) const SCHEMA_VERSION: i64 = 4;

pub(super) const VIEWS: &str = include_str!("views.sql");

/// What a file is called until it is whole. One that a crash has left is written over when the channel is made again.
pub(super) const UNFINISHED: &str = "new";

/// What SQLite may keep beside a file. It would take a log that an older file has left for the log of a new one.
pub(super) const BESIDE: [&str; 3] = ["db-wal", "db-shm", "db-journal"];

/// Where a file says which versions of its format write and read it (SQLite's file format, 1.3), and the one with a
/// write-ahead log.
const FORMAT_AT: usize = 18;
const WAL_FORMAT: [u8; 2] = [2, 2];

/// Makes the file of a channel, which is not there or is no channel's yet. It is on the disk afterwards, unless durability is
/// off.
pub(super) fn file(path: &Path, channel: &str, site_id: &str, durability: Durability) -> Result<()> {
    let doing = "making its file";
    let image = image(channel, site_id).map_err(|e| error(channel, doing, e))?;
    write(path, &image, durability != Durability::Off).map_err(|e| {
        let (channel, engine, detail) = (channel.to_owned(), "SQLite", e.to_string());
        if is_full(&e) {
            StoreError::Full { channel, engine, doing, detail }
        } else {
            StoreError::Engine { channel, engine, doing, detail }
        }
    })
}

/// What is in the file of an empty channel.
fn image(channel: &str, site_id: &str) -> rusqlite::Result<Vec<u8>> {
    let mut conn = Connection::open_in_memory()?;
    conn.execute_batch("BEGIN")?;
    conn.execute_batch(include_str!("schema.sql"))?;
    conn.execute_batch(VIEWS)?;
    conn.pragma_update(None, "application_id", APPLICATION_ID)?;
    conn.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    conn.execute("INSERT INTO crdt_site_id VALUES (?)", [site_id])?;
    conn.execute("INSERT INTO crdt_db_version VALUES (0)", [])?;
    let state = "INSERT INTO causeway_state (channel, digest) VALUES (?, ?)";
    conn.execute(state, (channel, Digest::default().to_string()))?;
    conn.execute_batch("COMMIT")?;
    let mut image = conn.serialize(MAIN_DB)?.to_vec();
    image[FORMAT_AT..][..WAL_FORMAT.len()].copy_from_slice(&WAL_FORMAT);
    Ok(image)
}

fn write(path: &Path, image: &[u8], durable: bool) -> io::Result<()> {
    let unfinished = path.with_extension(UNFINISHED);
    let sync_dir = || match path.parent() {
        Some(dir) if durable => File::open(dir)?.sync_all(),
        _ => Ok(()),
    };
    let mut file = File::create(&unfinished)?;
    file.write_all(image)?;
    if durable {
        file.sync_all()?;
    }
    drop(file);
    let mut cleared = false;
    for ending in BESIDE {
        cleared |= remove_if_there(&path.with_extension(ending))?;
    }
    if cleared {
        sync_dir()?;
    }
    fs::rename(&unfinished, path)?;
    sync_dir()
}
