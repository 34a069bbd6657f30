//! What an embedded key-value engine has to do, and how it says what went wrong.

use std::io;
use std::ops::Bound;
use std::path::Path;

use crate::backend::StoreOptions;

/// The engine under a [`kv`](super) store: one database, which sorts its keys as bytes. Called from any thread.
pub(crate) trait Engine: Send + Sync + Sized + 'static {
    /// Its name: the store's, that of its directory in the data directory, and in errors.
    const NAME: &'static str;

    /// A key or a value; cheap to clone, and short ones cheap to make.
    type Bytes: AsRef<[u8]>
        + Clone
        + PartialEq
        + Send
        + Sync
        + From<Vec<u8>>
        + for<'a> From<&'a [u8]>
        + 'static;

    /// Whether it looks one key up much faster than it scans. Then each row has a key of its own that names its cells, and none is
    /// scanned for. It is part of the format.
    const MARKS_ROWS: bool;

    /// Opens the database at `path`, and makes it, durably but for the entry of `path` itself, if there is none. One that this
    /// process has just closed may still have to let go of its files.
    fn open(path: &Path, options: &StoreOptions) -> Result<Self, Failure>;

    /// What lies under `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Self::Bytes>, Failure>;

    /// All keys of the range, in order, with their values. What is written meanwhile may be among them or not.
    fn range<'a>(
        &'a self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> impl Iterator<Item = Result<Pair<Self>, Failure>> + use<'a, Self>;

    /// Writes a value under each key, or takes away what lies there: all of it or nothing, also after a crash. Reads see it from
    /// then on. After a failure of this or of what follows the engine is not asked for anything any more: it is opened anew.
    fn apply(&self, batch: impl Iterator<Item = Write<Self>>) -> Result<(), Failure>;

    /// Makes what was applied outlive the process.
    fn write_out(&self) -> Result<(), Failure>;

    /// Makes what was applied outlive a power cut.
    fn sync(&self) -> Result<(), Failure>;
}

/// A key and its value.
pub(crate) type Pair<E> = (<E as Engine>::Bytes, <E as Engine>::Bytes);
/// A key and the value that it gets; `None` takes it away.
pub(crate) type Write<E> = (Vec<u8>, Option<<E as Engine>::Bytes>);

/// What an engine says when it cannot do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What it has on the disk is not what it wrote.
    Corrupt(String),
    /// The system failed.
    Io(io::Error),
    /// Anything else.
    Other(String),
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Failure::Io(e)
    }
}
