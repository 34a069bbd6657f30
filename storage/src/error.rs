//! What can go wrong in a store.

use std::io;
use std::path::PathBuf;

/// An error of a store: what happened, to what, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The data directory cannot be made or written.
    #[error("data directory {path}: {source}; check that it exists, or can be made, and is writable")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has the data directory open.
    #[error("data directory {path} is in use by another process; stop it, or choose another --data")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// No backend has this name.
    #[error("there is no store named {name:?}; it must be one of {known}")]
    UnknownStore {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The name is not a channel name: 1 to 255 bytes of UTF-8 without control characters.
    #[error("{name:?} is not a channel name: it must be 1 to 255 bytes without control characters")]
    BadName {
        /// The name.
        name: String,
    },
    /// A channel that was to be made is there already. It is left as it is.
    #[error("channel {channel:?} is there already; remove it first, or choose another data directory")]
    Exists {
        /// The channel.
        channel: String,
    },
    /// There is no such channel.
    #[error("there is no channel {channel:?}")]
    Missing {
        /// What was asked for.
        channel: String,
    },
    /// The channel's data is not what this store writes. Nothing was changed; the channel needs a restore.
    #[error("channel {channel:?} is corrupt: {detail}; it is left as it is, restore it from a backup")]
    Corrupt {
        /// The channel.
        channel: String,
        /// What was found.
        detail: String,
    },
    /// There is no room for what was to be written. Nothing that was committed is lost.
    #[error(
        "channel {channel:?}: no room left for {engine} while {doing}: {detail}; make room on the disk, no restart is needed"
    )]
    Full {
        /// The channel, empty where the store as a whole is meant.
        channel: String,
        /// The backend.
        engine: &'static str,
        /// What it was asked to do.
        doing: &'static str,
        /// What it said.
        detail: String,
    },
    /// The engine failed: an I/O error, a limit of the system.
    #[error("channel {channel:?}: {engine} failed while {doing}: {detail}")]
    Engine {
        /// The channel, empty where the store as a whole is meant.
        channel: String,
        /// The backend.
        engine: &'static str,
        /// What it was asked to do.
        doing: &'static str,
        /// What it said.
        detail: String,
    },
}

impl StoreError {
    /// All that [`kind`](StoreError::kind) gives.
    pub const KINDS: [&str; 3] = ["corrupt", "full", "engine"];

    /// The kind of failure in a word, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            StoreError::Corrupt { .. } => "corrupt",
            StoreError::Full { .. } => "full",
            _ => "engine",
        }
    }
}

/// Whether the system has no room for a write: a full disk, a quota, a file's limit.
pub(crate) fn is_full(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// The result of a store.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;
