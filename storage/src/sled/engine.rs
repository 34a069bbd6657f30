//! The one sled database under all channels: reads, atomic writes, what makes them durable, and sled's errors.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::ops::RangeBounds;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use sled::{Batch, IVec};

use super::codec;
use crate::backend::{Durability, StoreOptions};
use crate::error::{Result, StoreError, is_full};

/// How often sled writes its log out by itself. Its background thread is also the only one that reclaims space, so it
/// runs at every durability.
const FLUSH_EVERY_MS: u64 = 500;
/// The same where nothing need survive.
const LAZY_FLUSH_EVERY_MS: u64 = 5_000;
/// How many caches of a channel the whole store has.
const CACHES: usize = 8;
/// How long to wait for a database that this process has just closed: sled's threads let go of it a little later.
const LET_GO: Duration = Duration::from_secs(5);

/// The database. After a failed write it refuses everything: sled's memory may then hold half a batch, while its file
/// holds the whole of it or nothing. It has to be opened anew.
pub(super) struct Engine {
    db: sled::Db,
    log: File,
    blobs: PathBuf,
    /// The files in `blobs` that were synced, at which length.
    synced_blobs: Mutex<HashMap<OsString, u64>>,
    durability: Durability,
    failed: AtomicBool,
    /// Nothing is written before, if this was opened because writes fail.
    writable_from: Option<Instant>,
}

impl Engine {
    /// Opens `<dir>/sled`; with `make`, makes it if need be. The caller holds the directory's lock.
    pub(super) fn open(options: &StoreOptions, make: bool, writable_from: Option<Instant>) -> Result<Self> {
        let path = options.dir.join("sled");
        let config = sled::Config::new()
            .path(&path)
            .cache_capacity((options.cache_bytes * CACHES) as u64)
            .flush_every_ms(Some(match options.durability {
                Durability::Full | Durability::Normal => FLUSH_EVERY_MS,
                Durability::Off => LAZY_FLUSH_EVERY_MS,
            }));
        let failed = |e| error("", "opening its database", e);
        let db = open_patiently(&config).map_err(failed)?;
        let log = File::open(path.join("db")).map_err(|e| failed(e.into()))?;
        for dir in [&path, &options.dir] {
            File::open(dir).and_then(|dir| dir.sync_data()).map_err(|e| failed(e.into()))?;
        }
        let engine = Engine {
            db,
            log,
            blobs: path.join("blobs"),
            synced_blobs: Mutex::default(),
            durability: options.durability,
            failed: AtomicBool::new(false),
            writable_from,
        };
        engine.check_format(make)?;
        Ok(engine)
    }

    /// What lies under `key`.
    pub(super) fn get(&self, channel: &str, key: &[u8]) -> Result<Option<IVec>> {
        self.check(channel)?;
        self.db.get(key).map_err(|e| error(channel, "reading", e))
    }

    /// The channel's site id.
    pub(super) fn site_id(&self, channel: &str, id: u64) -> Result<String> {
        let site_id = self.get(channel, &codec::site_key(id))?;
        let site_id = site_id.and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
        site_id.ok_or_else(|| corrupt(channel, "it has no site id"))
    }

    /// All keys that begin with `prefix`, in order, with their values.
    pub(super) fn prefix(
        &self,
        channel: &str,
        prefix: &[u8],
    ) -> Result<impl Iterator<Item = Result<(IVec, IVec)>>> {
        self.check(channel)?;
        Ok(self.db.scan_prefix(prefix).map(move |item| item.map_err(|e| error(channel, "scanning", e))))
    }

    /// All keys of `range`, in order, with their values.
    pub(super) fn range(
        &self,
        channel: &str,
        range: impl RangeBounds<Vec<u8>>,
    ) -> Result<impl Iterator<Item = Result<(IVec, IVec)>>> {
        self.check(channel)?;
        Ok(self.db.range(range).map(move |item| item.map_err(|e| error(channel, "scanning", e))))
    }

    /// Writes the batch, all of it or nothing. It outlives the process only after [`Engine::sync`].
    pub(super) fn apply(&self, channel: &str, batch: Batch) -> Result<()> {
        self.check_writable(channel)?;
        self.guard(self.db.apply_batch(batch).map_err(|e| error(channel, "writing", e)))
    }

    /// Makes what was applied as durable as the store was opened.
    pub(super) fn sync(&self, channel: &str) -> Result<()> {
        match self.durability {
            Durability::Full => self.sync_to_disk(channel),
            Durability::Normal => self.write_out(channel),
            Durability::Off => Ok(()),
        }
    }

    /// Makes what was applied survive a power cut.
    pub(super) fn sync_to_disk(&self, channel: &str) -> Result<()> {
        self.write_out(channel)?;
        // On Linux sled's flush ends in sync_file_range, which tells neither the file's new length nor the disk's
        // cache, and what it puts beside its log, as it does with large pages, it never syncs.
        let synced = self.log.sync_data().and_then(|()| self.sync_blobs());
        self.guard(synced.map_err(|e| error(channel, "syncing", e.into())))
    }

    /// Hands what was applied to the operating system.
    fn write_out(&self, channel: &str) -> Result<()> {
        self.check(channel)?;
        self.guard(self.db.flush().map(drop).map_err(|e| error(channel, "flushing", e)))
    }

    fn sync_blobs(&self) -> io::Result<()> {
        // Other commits that need the same files wait here until they are synced.
        let mut synced = self.synced_blobs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut there = HashMap::new();
        let mut new = false;
        for entry in fs::read_dir(&self.blobs)? {
            let entry = entry?;
            let mut sync = || {
                let file = File::open(entry.path())?;
                let len = file.metadata()?.len();
                if synced.get(&entry.file_name()) != Some(&len) {
                    file.sync_data()?;
                    new = true;
                }
                Ok::<u64, io::Error>(len)
            };
            match sync() {
                Ok(len) => drop(there.insert(entry.file_name(), len)),
                // Removed meanwhile: nothing needs it.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        if new {
            File::open(&self.blobs)?.sync_data()?;
        }
        *synced = there;
        Ok(())
    }

    fn check_format(&self, make: bool) -> Result<()> {
        match self.get("", codec::FORMAT_KEY)? {
            Some(format) if format == codec::FORMAT => Ok(()),
            // What has been opened before is never made again: it would be a loss that nobody notices.
            None if make && self.db.is_empty() => {
                let mut batch = Batch::default();
                batch.insert(codec::FORMAT_KEY, codec::FORMAT);
                self.apply("", batch)?;
                self.sync("")
            }
            other => Err(StoreError::Engine {
                channel: String::new(),
                engine: ENGINE,
                doing: "opening its database",
                detail: format!("it has format {other:?}, this Causeway reads {:?}", codec::FORMAT),
            }),
        }
    }

    /// Whether a write has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Whether a batch is taken now.
    pub(super) fn check_writable(&self, channel: &str) -> Result<()> {
        self.check(channel)?;
        match self.writable_from {
            Some(from) if Instant::now() < from => {
                refused(channel, "an earlier write failed; the next is tried in a moment")
            }
            _ => Ok(()),
        }
    }

    fn check(&self, channel: &str) -> Result<()> {
        match self.has_failed() {
            false => Ok(()),
            true => refused(channel, "an earlier write failed; the database must be opened anew"),
        }
    }

    fn guard<T>(&self, written: Result<T>) -> Result<T> {
        if written.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        written
    }
}

/// The engine's name in errors.
pub(super) const ENGINE: &str = "sled";

fn refused(channel: &str, detail: &str) -> Result<()> {
    let (channel, detail) = (channel.into(), detail.into());
    Err(StoreError::Engine { channel, engine: ENGINE, doing: "going on", detail })
}

fn open_patiently(config: &sled::Config) -> sled::Result<sled::Db> {
    let start = Instant::now();
    loop {
        match config.open() {
            // The directory's lock is ours, so whoever has the database open is this process, closing it.
            Err(sled::Error::Io(e))
                if e.to_string().contains("could not acquire lock") && start.elapsed() < LET_GO =>
            {
                thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
}

/// What sled said, as a [`StoreError`].
fn error(channel: &str, doing: &'static str, e: sled::Error) -> StoreError {
    match e {
        e @ sled::Error::Corruption { .. } if !channel.is_empty() => {
            corrupt(channel, format!("sled, while {doing}: {e}"))
        }
        sled::Error::Io(e) if is_full(&e) => {
            StoreError::Full { channel: channel.into(), engine: ENGINE, doing, detail: e.to_string() }
        }
        e => StoreError::Engine { channel: channel.into(), engine: ENGINE, doing, detail: e.to_string() },
    }
}

/// The channel's bytes are not what this backend writes.
pub(super) fn corrupt(channel: &str, detail: impl Into<String>) -> StoreError {
    StoreError::Corrupt { channel: channel.into(), detail: detail.into() }
}
