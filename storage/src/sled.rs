//! The sled backend: `crate::kv` over sled 0.34.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ::sled::{Batch, Config, Db, IVec};

use crate::backend::{Backend, Durability, StoreOptions};
use crate::kv::{self, Engine, Failure, Pair, Write};

/// sled.
pub const BACKEND: Backend = Backend {
    log: Some("sled/db"),
    crates: &["sled"],
    ..kv::backend::<Sled>("one sled database for all channels")
};

/// How often sled writes its log out by itself. Its background thread is also the only one that reclaims space, so it
/// runs at every durability.
const FLUSH_EVERY_MS: u64 = 500;
/// The same where nothing need survive.
const LAZY_FLUSH_EVERY_MS: u64 = 5_000;
/// How long to wait for a database that this process has just closed: sled's threads let go of it a little later.
const LET_GO: Duration = Duration::from_secs(5);

struct Sled {
    db: Db,
    log: File,
    blobs: PathBuf,
    /// The files in `blobs` that were synced, at which length.
    synced_blobs: Mutex<HashMap<OsString, u64>>,
}

impl Engine for Sled {
    const NAME: &'static str = "sled";
    const MARKS_ROWS: bool = false;
    type Bytes = IVec;

    fn open(path: &Path, options: &StoreOptions) -> Result<Self, Failure> {
        let config = Config::new()
            .path(path)
            .cache_capacity(options.shared_cache_bytes() as u64)
            .flush_every_ms(Some(match options.durability {
                Durability::Full | Durability::Normal => FLUSH_EVERY_MS,
                Durability::Off => LAZY_FLUSH_EVERY_MS,
            }));
        let db = match open_patiently(&config) {
            Err(e @ ::sled::Error::Corruption { .. }) => match remove_unfinished_snapshots(path)? {
                true => open_patiently(&config)?,
                false => return Err(e.into()),
            },
            opened => opened?,
        };
        let log = File::open(path.join("db"))?;
        Ok(Sled { db, log, blobs: path.join("blobs"), synced_blobs: Mutex::default() })
    }

    fn get(&self, key: &[u8]) -> Result<Option<IVec>, Failure> {
        Ok(self.db.get(key)?)
    }

    fn range<'a>(
        &'a self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> impl Iterator<Item = Result<Pair<Self>, Failure>> + use<'a> {
        self.db.range::<&[u8], _>((from, to)).map(|item| Ok(item?))
    }

    fn apply(&self, writes: impl Iterator<Item = Write<Self>>) -> Result<(), Failure> {
        let mut batch = Batch::default();
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        Ok(self.db.apply_batch(batch)?)
    }

    fn write_out(&self) -> Result<(), Failure> {
        self.db.flush()?;
        Ok(())
    }

    /// On Linux sled's flush ends in `sync_file_range`, which tells neither the file's new length nor the disk's cache, and what it
    /// puts beside its log, as it does with large pages, it never syncs.
    fn sync(&self) -> Result<(), Failure> {
        self.write_out()?;
        self.log.sync_data()?;
        Ok(self.sync_blobs()?)
    }
}

impl Sled {
    fn sync_blobs(&self) -> io::Result<()> {
        // Others that need the same files wait here until they are synced.
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
}

fn open_patiently(config: &Config) -> ::sled::Result<Db> {
    let start = Instant::now();
    loop {
        match config.open() {
            // The directory's lock is ours, so whoever has the database open is this process, closing it.
            Err(::sled::Error::Io(e))
                if e.to_string().contains("could not acquire lock") && start.elapsed() < LET_GO =>
            {
                thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
}

/// Removes the snapshots that were being written when the process was killed, while the database was opened; gives whether there
/// were any. sled takes them for finished ones, and then for corrupt; without them it reads the one before, or the whole log.
fn remove_unfinished_snapshots(path: &Path) -> io::Result<bool> {
    let mut removed = false;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with("snap.") && name.ends_with(".generating"))
        {
            fs::remove_file(entry.path())?;
            removed = true;
        }
    }
    Ok(removed)
}

impl From<::sled::Error> for Failure {
    fn from(e: ::sled::Error) -> Self {
        match e {
            e @ ::sled::Error::Corruption { .. } => Failure::Corrupt(e.to_string()),
            ::sled::Error::Io(e) => Failure::Io(e),
            e => Failure::Other(e.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::ChangeStore;

    /// What a kill leaves while the database is opened.
    #[test]
    fn a_snapshot_that_was_being_written_is_no_corruption() {
        let dir = tempfile::tempdir().expect("a directory to test in");
        let open = || -> Arc<dyn ChangeStore> {
            (BACKEND.open)(&StoreOptions::new(dir.path())).expect("it opens on what it left")
        };
        open().create("a", "A").expect("created");
        // Reads the log, and writes a snapshot of it.
        drop(open());
        let database = dir.path().join("sled");
        let named = |name: &str| name.starts_with("snap.");
        let names = fs::read_dir(&database).expect("there").map(|entry| entry.expect("read").file_name());
        let name =
            names.filter_map(|name| name.into_string().ok()).find(|name| named(name)).expect("a snapshot");
        let snapshot = fs::read(database.join(&name)).expect("read");
        for (name, written) in [
            (name.as_str(), snapshot.len() - 1),
            ("snap.FFFFFFFFFFFFFFF0", 0),
            ("snap.FFFFFFFFFFFFFFF0", 13),
            ("snap.FFFFFFFFFFFFFFF0", snapshot.len() - 1),
        ] {
            let unfinished = database.join(format!("{name}.generating"));
            fs::write(&unfinished, &snapshot[..written]).expect("written");
            assert_eq!(open().channels().expect("listed").names, ["a"], "{name} of {written} bytes");
            assert!(!unfinished.exists());
        }
        // What it has finished is another matter.
        fs::write(database.join("snap.FFFFFFFFFFFFFFF0"), []).expect("written");
        assert!((BACKEND.open)(&StoreOptions::new(dir.path())).is_err());
    }
}
