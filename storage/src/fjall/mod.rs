//! The fjall backend: `crate::kv` over fjall 3, a log-structured merge tree behind a journal.
//!
//! All keys are in one keyspace, so that whatever a crash leaves of journal and tables is one moment of all channels.

mod journal;

use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ::fjall::{
    Database, Error, Keyspace, KeyspaceCreateOptions, LsmError, OwnedWriteBatch, PersistMode, Readable,
    UserValue,
};

use crate::backend::{Backend, StoreOptions};
use crate::kv::{self, Engine, Failure, Pair, Write};

use journal::Journal;

/// fjall.
pub const BACKEND: Backend = Backend {
    // The first journal; another follows after 64 MB.
    log: Some("fjall/0.jnl"),
    crates: &["fjall", "lsm_tree"],
    ..kv::backend::<Fjall>("one fjall database for all channels")
};

/// The keyspace that has all keys.
const KEYSPACE: &str = "channels";
/// What is written is kept in memory until it is so much, in bytes, and then becomes a table; it is in the journal anyway.
const MEMTABLE_BYTES: u64 = 16 << 20;
/// How many tables' files are kept open.
const OPEN_FILES: usize = 128;
/// Threads that write tables and merge them. (Of two, fjall 3.1 has one spin while the other merges.)
const WORKERS: usize = 1;
/// How many full memtables may wait to be written, and how many tables to be merged, before commits wait. Both are less than
/// what fjall itself waits at, as it would wait for ever where the thread that it waits for has failed.
const MAX_SEALED_MEMTABLES: usize = 2;
const MAX_UNMERGED_TABLES: usize = 24;
/// How often to look whether there is room again.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// The longest key that fjall takes, in bytes.
const KEY_MAX_BYTES: usize = u16::MAX as usize;
/// How long to wait for a database that this process has just closed.
const LET_GO: Duration = Duration::from_secs(5);

struct Fjall {
    db: Database,
    keys: Keyspace,
    journal: Journal,
}

impl Engine for Fjall {
    const NAME: &'static str = "fjall";
    const MARKS_ROWS: bool = true;
    type Bytes = UserValue;

    fn open(path: &Path, options: &StoreOptions) -> Result<Self, Failure> {
        if !path.try_exists()? {
            make(path, options)?;
        }
        // Without this file fjall would make another database.
        if !path.join("version").try_exists()? {
            return Err(Failure::Corrupt(format!("{} has no file `version`", path.display())));
        }
        let start = Instant::now();
        while journal::is_open(path)? {
            if start.elapsed() > LET_GO {
                return Err(Failure::Other("the database is still open in this process".into()));
            }
            thread::sleep(LOOK_EVERY);
        }
        journal::repair(path)?;
        let (db, keys) = open(path, options)?;
        Ok(Fjall { db, keys, journal: Journal::open(path)? })
    }

    fn get(&self, key: &[u8]) -> Result<Option<UserValue>, Failure> {
        Ok(self.keys.get(key)?)
    }

    fn range<'a>(
        &'a self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> impl Iterator<Item = Result<Pair<Self>, Failure>> + use<'a> {
        self.db.snapshot().range::<&[u8], _>(&self.keys, (from, to)).map(|item| Ok(item.into_inner()?))
    }

    fn apply(&self, writes: impl Iterator<Item = Write<Self>>) -> Result<(), Failure> {
        self.wait_for_room()?;
        let mut batch = OwnedWriteBatch::with_capacity(self.db.clone(), writes.size_hint().0);
        for (key, value) in writes {
            if key.len() > KEY_MAX_BYTES {
                return Err(Failure::Other(format!("a key of {} bytes is too long", key.len())));
            }
            match value {
                Some(value) => batch.insert(&self.keys, key, value),
                None => batch.remove(&self.keys, key),
            }
        }
        Ok(batch.commit()?)
    }

    fn write_out(&self) -> Result<(), Failure> {
        Ok(self.db.persist(PersistMode::Buffer)?)
    }

    /// Not by fjall, which would let nobody write meanwhile, and so nobody sync at the same time.
    fn sync(&self) -> Result<(), Failure> {
        self.write_out()?;
        Ok(self.journal.sync()?)
    }
}

impl Fjall {
    fn wait_for_room(&self) -> Result<(), Failure> {
        while self.keys.sealed_memtable_count() > MAX_SEALED_MEMTABLES
            || self.keys.l0_table_count() > MAX_UNMERGED_TABLES
        {
            // An error if the thread that makes room has failed.
            self.write_out()?;
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

/// Makes a database beside the path and moves it there: fjall cannot open one whose making a crash cut short.
fn make(path: &Path, options: &StoreOptions) -> Result<(), Failure> {
    let new = path.with_extension("new");
    match fs::remove_dir_all(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
        _ => {}
    }
    let (db, keys) = open(&new, options)?;
    db.persist(PersistMode::SyncAll)?;
    drop((db, keys));
    File::open(&new)?.sync_all()?;
    Ok(fs::rename(&new, path)?)
}

fn open(path: &Path, options: &StoreOptions) -> Result<(Database, Keyspace), Error> {
    let start = Instant::now();
    loop {
        let db = Database::builder(path)
            .cache_size(options.shared_cache_bytes() as u64)
            .max_cached_files(Some(OPEN_FILES))
            .worker_threads(WORKERS)
            .manual_journal_persist(true)
            .open();
        match db {
            // The data directory's lock is ours, so whoever has the database open is this process, closing it.
            Err(Error::Locked) if start.elapsed() < LET_GO => {}
            db => {
                let db = db?;
                let keys = db.keyspace(KEYSPACE, || {
                    KeyspaceCreateOptions::default()
                        .max_memtable_size(MEMTABLE_BYTES)
                        .manual_journal_persist(true)
                })?;
                return Ok((db, keys));
            }
        }
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        match e {
            Error::Io(e) | Error::Storage(LsmError::Io(e)) => Failure::Io(e),
            Error::Poisoned => Failure::Other("a write in the background failed; fjall has logged it".into()),
            Error::Locked | Error::KeyspaceDeleted => Failure::Other(e.to_string()),
            e => Failure::Corrupt(e.to_string()),
        }
    }
}
