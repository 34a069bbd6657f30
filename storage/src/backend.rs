//! What a backend says of itself, and what it is opened with.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use crate::error::Result;
use crate::schema::Schema;
use crate::store::ChangeStore;

/// A backend and what it can do.
#[derive(Clone, Copy, Debug)]
pub struct Backend {
    /// Its name, as `--store` takes it.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// Whether what it commits outlives the process.
    pub persistent: bool,
    /// Whether it keeps the application's tables as tables, of [`StoreOptions::schema`].
    pub tables: bool,
    /// The log that the commits of all channels go through, if there is one: its path in the data directory.
    pub log: Option<&'static str>,
    /// The crates of its engine, of which nothing but warnings and errors is to be logged: they tell keys, values and how they go about it.
    pub crates: &'static [&'static str],
    /// Opens the keys under all channels, if it keeps them as keys, in a data directory that is not open: for tests that
    /// damage them. Panics if it cannot.
    pub keys: Option<OpenKeys>,
    /// Opens, and makes if need be, a data directory.
    pub open: fn(&StoreOptions) -> Result<Arc<dyn ChangeStore>>,
}

/// Opens the keys in a data directory.
pub type OpenKeys = fn(&Path) -> Box<dyn Keys>;

/// The keys and values under a store, as they lie on the disk.
pub trait Keys {
    /// All of them, in order.
    fn all(&self) -> Vec<(Vec<u8>, Vec<u8>)>;

    /// Writes a value under a key, durably, or takes away what lies there.
    fn write(&self, key: &[u8], value: Option<&[u8]>);
}

/// What a backend is opened with.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The data directory.
    pub dir: PathBuf,
    /// What a commit survives.
    pub durability: Durability,
    /// The cache of one open channel, in bytes (SQLite: for its cells, and as much again for its tables). A store that has one for
    /// all channels has [`SHARED_CACHES`] times as much.
    pub cache_bytes: usize,
    /// The application's tables, which a backend keeps beside the cells if it can ([`Backend::tables`]).
    pub schema: Option<Arc<Schema>>,
}

/// How many caches of a channel a store has that keeps one for all.
pub const SHARED_CACHES: usize = 8;

impl StoreOptions {
    /// Options for `dir` at full durability with the default cache of 4 MiB.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        StoreOptions { dir: dir.into(), durability: Durability::Full, cache_bytes: 4 << 20, schema: None }
    }

    /// The cache of a store that has one for all channels, in bytes.
    pub fn shared_cache_bytes(&self) -> usize {
        self.cache_bytes.saturating_mul(SHARED_CACHES)
    }
}

/// What an acked change survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// A power cut: every commit waits for the disk.
    #[default]
    Full,
    /// A crash of the process; a power cut may take the last commits, never the rest.
    Normal,
    /// Nothing but an orderly end: for tests and throw-away data.
    Off,
}

impl Durability {
    /// All levels, safest first.
    pub const ALL: [Durability; 3] = [Durability::Full, Durability::Normal, Durability::Off];
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::Full => "full",
            Durability::Normal => "normal",
            Durability::Off => "off",
        })
    }
}

impl FromStr for Durability {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|d| d.to_string() == s)
            .ok_or_else(|| format!("{s:?} is not a durability: it must be full, normal or off"))
    }
}
