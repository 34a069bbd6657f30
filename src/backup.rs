//! Backups: a directory with a SQLite file a channel, whatever store it came from, and a manifest written last.
//!
//! A backup can be read with the `sqlite3` shell, and it is a data directory of the `sqlite` store: it can be verified, or
//! served from. What is copied is checked on its way, against the channel's digest when it is made and against the
//! manifest when it is restored.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use causeway_storage::store::{new_site_id, unix_time_s};
use causeway_storage::{ChangeStore, Digest, StoreError, StoreOptions, copy, names, sqlite, verify};
use serde::{Deserialize, Serialize};

/// The manifest's name in the backup's directory.
pub const MANIFEST: &str = "manifest.json";

/// The form of the manifest.
const FORMAT: u32 = 1;

/// Lies in a data directory while a restore writes into it.
const RESTORING: &str = "causeway.restoring";

/// What a backup holds.
#[derive(Debug, Deserialize, Serialize)]
pub struct Manifest {
    format: u32,
    /// The Causeway that made it.
    causeway: String,
    /// When it was begun, in seconds of Unix time. Each channel's state is one that it had since.
    began_s: u64,
    /// The channels.
    pub channels: Vec<Entry>,
    /// Channels that could not be read, and are not in it.
    pub failed: Vec<Failed>,
}

/// A channel of a backup.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its name.
    pub channel: String,
    /// Its file.
    pub file: String,
    /// Its site id.
    pub site_id: String,
    /// Its version.
    pub version: u64,
    /// Its content digest.
    pub digest: String,
    /// How many cells it has.
    pub cells: u64,
}

/// A channel that could not be backed up or restored.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// Its name.
    pub channel: String,
    /// Why.
    pub problem: String,
}

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file or a directory.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The backup would be mixed with what is there.
    #[error("{path} is not empty; a backup needs a directory of its own")]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// There is no backup here, or one that did not come to its end.
    #[error("{path}: {detail}; this is no whole backup")]
    NoBackup {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The backup has no such channel.
    #[error("the backup has no channel {channel:?}")]
    NoSuchChannel {
        /// The name.
        channel: String,
    },
    /// A store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What happened to one channel.
pub type Outcome<'a> = Result<&'a Entry, &'a Failed>;

/// Backs all channels up into `to`, which must be empty or not there, and tells of each; `tell` gives `false` to stop. The
/// store may be in use: each channel is one committed state. A channel that cannot be read hinders no other.
///
/// Everything is synced before the manifest is there.
pub fn backup(
    store: &dyn ChangeStore,
    to: &Path,
    tell: &mut dyn FnMut(Outcome<'_>) -> bool,
) -> Result<Manifest, BackupError> {
    let failed = |source| BackupError::Io { path: to.into(), source };
    fs::create_dir_all(to).map_err(failed)?;
    if fs::read_dir(to).map_err(failed)?.next().is_some() {
        return Err(BackupError::NotEmpty { path: to.into() });
    }
    let mut manifest = Manifest {
        format: FORMAT,
        causeway: env!("CARGO_PKG_VERSION").into(),
        began_s: unix_time_s(),
        channels: Vec::new(),
        failed: Vec::new(),
    };
    let copies = open(to)?;
    let listing = store.channels()?;
    for e in listing.unreadable {
        manifest.failed.push(Failed { channel: String::new(), problem: e.to_string() });
        if !tell(Err(&manifest.failed[manifest.failed.len() - 1])) {
            return Err(stopped(to));
        }
    }
    for channel in listing.names {
        let go_on = match back_up_channel(store, copies.as_ref(), &channel) {
            Ok(entry) => {
                manifest.channels.push(entry);
                tell(Ok(&manifest.channels[manifest.channels.len() - 1]))
            }
            Err(e) => {
                manifest.failed.push(Failed { channel, problem: e.to_string() });
                tell(Err(&manifest.failed[manifest.failed.len() - 1]))
            }
        };
        if !go_on {
            return Err(stopped(to));
        }
    }
    copies.close()?;
    drop(copies);
    File::open(to).and_then(|dir| dir.sync_all()).map_err(failed)?;
    write_manifest(&to.join(MANIFEST), &manifest)?;
    Ok(manifest)
}

fn back_up_channel(
    store: &dyn ChangeStore,
    copies: &dyn ChangeStore,
    channel: &str,
) -> Result<Entry, StoreError> {
    let mut reader = store.reader(channel)?;
    let site_id = reader.site_id()?;
    let copied = copy(channel, reader.as_mut(), copies, &site_id)?;
    Ok(Entry {
        channel: channel.into(),
        file: names::file_stem(channel) + ".db",
        site_id,
        version: copied.head.version,
        digest: copied.head.digest.to_string(),
        cells: copied.cells,
    })
}

/// What a restore does.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// The channels; none means all.
    pub channels: Vec<String>,
    /// Whether a channel that is there, whole or corrupt, is removed first. Else it is left as it is and told of.
    pub replace: bool,
    /// Whether the channels keep their site ids. Right only if nothing was written since the backup: a client that keeps
    /// its cursor by site id else takes what is written from now on for what it has seen.
    pub keep_site_ids: bool,
}

/// Restores channels from a backup into the store of `data`, and tells of each. Nobody else uses the store.
pub fn restore(
    from: &Path,
    data: &Path,
    store: &dyn ChangeStore,
    options: &RestoreOptions,
    tell: &mut dyn FnMut(Outcome<'_>),
) -> Result<(), BackupError> {
    let manifest = read_manifest(&from.join(MANIFEST))?;
    for name in &options.channels {
        if !manifest.channels.iter().any(|entry| entry.channel == *name) {
            return Err(BackupError::NoSuchChannel { channel: name.clone() });
        }
    }
    let copies = open(from)?;
    let marker = data.join(RESTORING);
    let failed = |source| BackupError::Io { path: marker.clone(), source };
    File::create(&marker).and_then(|file| file.sync_all()).map_err(failed)?;
    let wanted = |entry: &&Entry| options.channels.is_empty() || options.channels.contains(&entry.channel);
    for entry in manifest.channels.iter().filter(wanted) {
        match restore_channel(copies.as_ref(), store, entry, options) {
            Ok(()) => tell(Ok(entry)),
            Err(e) => tell(Err(&Failed { channel: entry.channel.clone(), problem: e.to_string() })),
        }
    }
    store.close()?;
    fs::remove_file(&marker).map_err(failed)
}

fn restore_channel(
    copies: &dyn ChangeStore,
    store: &dyn ChangeStore,
    entry: &Entry,
    options: &RestoreOptions,
) -> Result<(), StoreError> {
    let channel = &entry.channel;
    let mut reader = copies.reader(channel)?;
    // Before anything is removed for it.
    let head = verify(channel, reader.as_mut())?.head;
    if (Some(head.digest), head.version) != (Digest::parse(&entry.digest), entry.version) {
        let detail = format!("its file has {head:?}, the manifest {} and {}", entry.version, entry.digest);
        return Err(StoreError::Corrupt { channel: channel.clone(), detail });
    }
    if options.replace {
        store.remove(channel)?;
    }
    let site_id = if options.keep_site_ids { entry.site_id.clone() } else { new_site_id() };
    copy(channel, reader.as_mut(), store, &site_id).map(drop)
}

/// Says so if a restore into this data directory did not come to its end: it must not be served.
pub fn check_restored(data: &Path) -> Result<(), String> {
    match data.join(RESTORING).try_exists() {
        Ok(false) => Ok(()),
        Ok(true) => Err(format!(
            "data directory {}: a restore into it did not come to its end; run it again, with --replace",
            data.display()
        )),
        Err(e) => Err(format!("data directory {}: {e}", data.display())),
    }
}

fn open(dir: &Path) -> Result<Arc<dyn ChangeStore>, StoreError> {
    (sqlite::BACKEND.open)(&StoreOptions::new(dir))
}

fn stopped(to: &Path) -> BackupError {
    BackupError::Io {
        path: to.into(),
        source: io::Error::new(io::ErrorKind::Interrupted, "nobody waits for it any more"),
    }
}

fn write_manifest(path: &Path, manifest: &Manifest) -> Result<(), BackupError> {
    let write = || {
        let unfinished = path.with_extension("json.unfinished");
        let mut file = File::create(&unfinished)?;
        file.write_all(serde_json::to_string_pretty(manifest)?.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        File::open(path.parent().unwrap_or(path))?.sync_all()
    };
    write().map_err(|source| BackupError::Io { path: path.into(), source })
}

fn read_manifest(path: &Path) -> Result<Manifest, BackupError> {
    let none = |detail: String| BackupError::NoBackup { path: path.into(), detail };
    let text = fs::read_to_string(path).map_err(|e| none(e.to_string()))?;
    let manifest: Manifest = serde_json::from_str(&text).map_err(|e| none(e.to_string()))?;
    match manifest.format {
        FORMAT => Ok(manifest),
        other => Err(none(format!("it has format {other}, this Causeway reads {FORMAT}"))),
    }
}
