//! The SQLite backend: one file a channel, in WAL mode, pleasant to read with the `sqlite3` shell.

mod channel;
mod make;
mod open;
mod reader;
mod seen;
mod tables;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backend::{Backend, StoreOptions};
use crate::error::{Result, StoreError};
use crate::lock::DirLock;
use crate::names;
use crate::store::{ChangeStore, ChannelReader, ChannelStore, Listing};

use channel::SqliteChannel;
use reader::SqliteReader;

/// SQLite, the default.
pub const BACKEND: Backend = Backend {
    name: "sqlite",
    about: "one SQLite file a channel (the default)",
    persistent: true,
    tables: true,
    log: None,
    crates: &[],
    keys: None,
    open: |options| Ok(Arc::new(SqliteStore::open(options)?)),
};

/// A directory of SQLite files.
#[derive(Debug)]
struct SqliteStore {
    options: StoreOptions,
    _lock: DirLock,
}

impl SqliteStore {
    fn open(options: &StoreOptions) -> Result<Self> {
        Ok(SqliteStore { _lock: DirLock::acquire(&options.dir)?, options: options.clone() })
    }

    fn path(&self, channel: &str) -> Result<PathBuf> {
        names::check(channel)?;
        Ok(self.options.dir.join(names::file_stem(channel) + ".db"))
    }

    fn directory_error(&self, source: std::io::Error) -> StoreError {
        StoreError::Directory { path: self.options.dir.clone(), source }
    }
}

impl ChangeStore for SqliteStore {
    fn open(&self, channel: &str) -> Result<Box<dyn ChannelStore>> {
        let opened = SqliteChannel::open(&self.path(channel)?, channel, &self.options, true)?;
        Ok(Box::new(opened.ok_or_else(|| StoreError::Missing { channel: channel.into() })?))
    }

    fn open_existing(&self, channel: &str) -> Result<Option<Box<dyn ChannelStore>>> {
        let opened = SqliteChannel::open(&self.path(channel)?, channel, &self.options, false)?;
        Ok(opened.map(|opened| Box::new(opened) as Box<dyn ChannelStore>))
    }

    fn create(&self, channel: &str, site_id: &str) -> Result<()> {
        open::create(&self.path(channel)?, channel, site_id, &self.options)
    }

    fn reader(&self, channel: &str) -> Result<Box<dyn ChannelReader>> {
        Ok(Box::new(SqliteReader::open(&self.path(channel)?, channel, &self.options)?))
    }

    fn count(&self) -> Result<usize> {
        let mut count = 0;
        for entry in fs::read_dir(&self.options.dir).map_err(|e| self.directory_error(e))? {
            let name = entry.map_err(|e| self.directory_error(e))?.file_name();
            count += usize::from(name.to_str().is_some_and(|name| name.ends_with(".db")));
        }
        Ok(count)
    }

    fn channels(&self) -> Result<Listing> {
        let mut listing = Listing::default();
        for entry in fs::read_dir(&self.options.dir).map_err(|e| self.directory_error(e))? {
            let path = entry.map_err(|e| self.directory_error(e))?.path();
            let Some(stem) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".db")) else {
                continue;
            };
            match names::of_file_stem(stem) {
                Some(name) if is_surely_made(&path) => listing.names.push(name),
                // Only the file can tell: its name, if that is not in the file's, and whether it is a channel. One that an
                // older Causeway was making when it was killed is none.
                name => match (open::channel_of(&path), name) {
                    (Ok(found), _) => listing.names.extend(found),
                    // Whoever reads it is told what is wrong.
                    (Err(_), Some(name)) => listing.names.push(name),
                    (Err(e), None) => listing.unreadable.push(e),
                },
            }
        }
        Ok(listing)
    }

    fn remove(&self, channel: &str) -> Result<bool> {
        let path = self.path(channel)?;
        // The file first: without its log it would be an older state of the channel. A log without its file is nothing, and
        // whoever makes the file anew removes it. Readers keep the files that they have open.
        let remove = || {
            let removed = remove_if_there(&path)?;
            let dir = File::open(&self.options.dir)?;
            dir.sync_all()?;
            for ending in make::BESIDE.into_iter().chain([make::UNFINISHED]) {
                remove_if_there(&path.with_extension(ending))?;
            }
            Ok(removed)
        };
        remove().map_err(|e| self.directory_error(e))
    }

    fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// A file of more than its first page has had its log moved into it, and a channel's making is the first thing in there.
fn is_surely_made(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.len() > open::PAGE_BYTES)
}

fn remove_if_there(path: &Path) -> std::io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// What SQLite said, as a [`StoreError`].
fn error(channel: &str, doing: &'static str, e: rusqlite::Error) -> StoreError {
    use rusqlite::ErrorCode::{DatabaseCorrupt, DiskFull, NotADatabase};
    let channel = channel.to_owned();
    let corrupt = matches!(e.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
        || matches!(
            e,
            rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::Utf8Error(..)
                | rusqlite::Error::QueryReturnedNoRows
        );
    match e.sqlite_error_code() {
        _ if corrupt => StoreError::Corrupt { channel, detail: format!("SQLite, while {doing}: {e}") },
        Some(DiskFull) => StoreError::Full { channel, engine: "SQLite", doing, detail: e.to_string() },
        _ => StoreError::Engine { channel, engine: "SQLite", doing, detail: e.to_string() },
    }
}
