//! The contract of a backend.
//!
//! A backend keeps cells and decides nothing: [`mod@crate::merge`] looks clocks up, applies the rule and says what to
//! write. What a backend owes:
//!
//! - **Atomic.** Everything between [`ChannelStore::begin`] and [`ChannelStore::commit`] is there afterwards, or none
//!   of it: after an error, after `kill -9`, after a power cut.
//! - **Durable.** When `commit` returns, the changes outlive the process; at [`Durability::Full`] a power cut too.
//! - **Readable when committed, not before.** A reader sees a version whole or not at all, and never waits for the
//!   writer, nor the writer for it.
//! - **One writer.** The caller has at most one [`ChannelStore`] a channel at a time; readers are as many as it likes.
//! - **An error leaves what was there.** After an error of `commit`, or of any step before it, the caller drops the
//!   [`ChannelStore`] and opens the channel anew; the state is the one before `begin`, or, if `commit` failed after
//!   its data had reached the disk, the one after it. It is never a mixture.
//!
//! [`Durability::Full`]: crate::Durability::Full

use std::ops::ControlFlow;

use crate::change::{Change, OwnedValue, Position, SENTINEL, Value};
use crate::digest::Digest;
use crate::error::{Result, StoreError};

/// All channels of one data directory. Called from any thread; every call may block on the disk.
pub trait ChangeStore: Send + Sync {
    /// Opens a channel for its one writer, and makes it, durably, with a site id of its own, if it is not there.
    fn open(&self, channel: &str) -> Result<Box<dyn ChannelStore>>;

    /// Opens a channel that exists for its one writer; `None`, and nothing made, if it does not.
    fn open_existing(&self, channel: &str) -> Result<Option<Box<dyn ChannelStore>>>;

    /// Makes a channel, durably, with that site id: 1 to 64 bytes. An error if it is there already, which then stays as
    /// it is.
    fn create(&self, channel: &str, site_id: &str) -> Result<()>;

    /// A reader of a channel that exists, else [`StoreError::Missing`].
    fn reader(&self, channel: &str) -> Result<Box<dyn ChannelReader>>;

    /// How many channels there are. What was being made when the process ended may be counted too.
    fn count(&self) -> Result<usize>;

    /// All channels.
    fn channels(&self) -> Result<Listing>;

    /// Removes a channel that no [`ChannelStore`] has open, corrupt or not; `false` if there was none. A crash in the middle
    /// leaves the channel whole or removed. Readers of it may still read it to their end, or fail; they never read a
    /// channel that is made anew under its name.
    fn remove(&self, channel: &str) -> Result<bool>;

    /// Makes everything durable that is not yet so, at any durability. Called once, last, with no channel open.
    fn close(&self) -> Result<()>;
}

/// The channels of a store.
#[derive(Debug, Default)]
pub struct Listing {
    /// Their names, in no particular order.
    pub names: Vec<String>,
    /// What looks like a channel whose name cannot be read.
    pub unreadable: Vec<StoreError>,
}

/// One channel, open for its one writer.
pub trait ChannelStore: Send {
    /// The channel's site id: 16 random bytes as upper-case hex, made once.
    fn site_id(&self) -> &str;

    /// The version and digest of the last commit.
    fn head(&self) -> Head;

    /// Begins the transaction of one group commit. What follows sees what it has written. All that is put and removed of a
    /// row comes in a run, with nothing of another row between, and no row comes twice.
    fn begin(&mut self) -> Result<()>;

    /// Gives the cells of the row, sentinel included, in any order, until `visit` breaks.
    fn row(&mut self, table: &str, pk: &str, visit: CellVisitor<'_>) -> Result<()>;

    /// Gives one cell, if it is there.
    fn cell(&mut self, table: &str, pk: &str, cid: &str, visit: CellVisitor<'_>) -> Result<()>;

    /// Writes a cell. `old` is where the cell stands now, `None` if the row has no such cell: the caller has looked.
    fn put(&mut self, cell: &Cell<'_>, old: Option<Position>) -> Result<()>;

    /// Takes a cell away that stands at `old`.
    fn remove(&mut self, table: &str, pk: &str, cid: &str, old: Position) -> Result<()>;

    /// Notes what a peer has sent or was sent; neither its version nor its time goes down.
    fn track(&mut self, peer: &TrackedPeer) -> Result<()>;

    /// Forgets at most `max` tracked peers that were last seen before `seen_s`; gives how many.
    fn forget_peers(&mut self, seen_s: u64, max: usize) -> Result<usize>;

    /// Makes the application's tables anew from the cells, in a transaction of its own; `None` if the store has none. May read all
    /// of the channel.
    fn remake_tables(&mut self) -> Result<Option<Vec<RemadeTable>>> {
        Ok(None)
    }

    /// Sets version, digest and size and commits, durably as the store was opened.
    fn commit(&mut self, head: Head) -> Result<()>;

    /// Gives the transaction up.
    fn rollback(&mut self);
}

/// Takes a cell; `Break` ends the visit.
pub type CellVisitor<'a> = &'a mut dyn FnMut(&Cell<'_>) -> ControlFlow<()>;

/// Reads a channel without disturbing its writer.
pub trait ChannelReader: Send {
    /// Gives the cells after `after` in the order of their positions until `visit` breaks, all of one committed state,
    /// and returns that state's head. A cell given to a visit that breaks counts as not taken.
    ///
    /// A cell that is written again while a caller pages moves to the newest version, where the caller finds it later.
    fn read(&mut self, after: Position, visit: CellVisitor<'_>) -> Result<Head>;

    /// The version and digest of the last commit.
    fn head(&mut self) -> Result<Head>;

    /// The channel's site id.
    fn site_id(&mut self) -> Result<String>;

    /// All tracked peers of the last commit, ordered by site, tag and event.
    fn peers(&mut self) -> Result<Vec<TrackedPeer>>;

    /// Checks what only the engine knows of, such as that its indexes lead to every cell and to nothing else. May read all of
    /// the channel. [`StoreError::Corrupt`] says what is wrong.
    fn check(&mut self) -> Result<()>;

    /// Counts what each table has, and gives one after the other, in any order. Reads all keys of the channel. If commits
    /// pass meanwhile, what they change is counted as it was before or after, or, where the engine has no snapshots of its
    /// keys, missed.
    fn tables(&mut self, visit: &mut dyn FnMut(TableCounts)) -> Result<()>;

    /// What the channel takes in the store, in bytes, by the store's own measure: its file with its log where it has some,
    /// else the sum of its keys and values.
    fn size_bytes(&mut self) -> Result<u64>;
}

/// What a table of a channel has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableCounts {
    /// Its name.
    pub table: String,
    /// Rows that live.
    pub rows: u64,
    /// Rows that are deleted: only a sentinel is left, with an even `cl`.
    pub deleted: u64,
    /// Cells, sentinels included.
    pub cells: u64,
}

/// One of the application's tables that was made anew from the cells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemadeTable {
    /// Its name.
    pub table: String,
    /// The rows that it has now.
    pub rows: u64,
    /// Cells of a table of this name that do not fit the schema: nothing of the row shows them.
    pub unfit: u64,
}

/// What a commit leaves: the channel's version, digest and size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The channel's `db_version`.
    pub version: u64,
    /// Its content digest.
    pub digest: Digest,
    /// Its size.
    pub size: Size,
}

/// What a channel's cells are, put together; whoever writes them counts, so that nobody else has to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Cells, sentinels included.
    pub cells: u64,
    /// The sum of their [`Cell::bytes`].
    pub bytes: u64,
}

impl Size {
    /// Puts a cell in that has so many bytes.
    pub fn add(&mut self, cell_bytes: u64) {
        self.cells = self.cells.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(cell_bytes);
    }

    /// Takes a cell out that was put in before.
    pub fn sub(&mut self, cell_bytes: u64) {
        self.cells = self.cells.wrapping_sub(1);
        self.bytes = self.bytes.wrapping_sub(cell_bytes);
    }
}

/// What every cell counts beside its names and its value, in bytes: clocks, site id, and what an engine adds, about.
pub const CELL_OVERHEAD_BYTES: usize = 64;

/// A cell as it is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell<'a> {
    /// The table's name.
    pub table: &'a str,
    /// The row's key.
    pub pk: &'a str,
    /// The column's name, or the sentinel's.
    pub cid: &'a str,
    /// The value.
    pub val: Value<'a>,
    /// The cell's clock.
    pub col_version: u64,
    /// Who wrote it.
    pub site_id: &'a str,
    /// The row's causal length.
    pub cl: u64,
    /// Where it stands: the stored `db_version` and `seq`.
    pub at: Position,
}

impl<'a> Cell<'a> {
    /// The cell as a change.
    pub fn as_change(&self) -> Change<'a> {
        let Cell { table, pk, cid, val, col_version, site_id, cl, at } = *self;
        Change { table, pk, cid, val, col_version, db_version: at.version, site_id, cl, seq: at.seq }
    }

    /// What it counts, as [`cell_bytes`] says.
    pub fn bytes(&self) -> usize {
        cell_bytes(self.table, self.pk, self.cid, &self.val)
    }
}

/// What a cell counts, in bytes: [`CELL_OVERHEAD_BYTES`], its names and its value; a number or null is 8. Of a sentinel only
/// the row's names count, so that a deleted row is never larger than it was. The function is part of the data: stored sizes
/// rely on it.
pub fn cell_bytes(table: &str, pk: &str, cid: &str, val: &Value<'_>) -> usize {
    let row = CELL_OVERHEAD_BYTES + table.len() + pk.len();
    if cid == SENTINEL {
        return row;
    }
    let val = match val {
        Value::Text(text) => text.len(),
        Value::Blob(bytes) => bytes.len(),
        Value::Null | Value::Integer(_) | Value::Real(_) => 8,
    };
    row + cid.len() + val
}

/// The event of a [`TrackedPeer`]: the channel has received the peer's changes up to the version.
pub const RECEIVED: u8 = 0;
/// The event of a [`TrackedPeer`]: the channel's changes up to the version were sent to the peer.
pub const SENT: u8 = 1;

/// The tag of a [`TrackedPeer`] that is the channel at another node of the cluster. No client can make one, so none can make
/// a node believe that it has heard what it has not.
pub const NODE_TAG: u64 = 1;

/// A line of `crdt_tracked_peers`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TrackedPeer {
    /// The peer.
    pub site_id: String,
    /// cr-sqlite's tag: 0 for clients, [`NODE_TAG`] for nodes.
    pub tag: u64,
    /// [`RECEIVED`] or [`SENT`].
    pub event: u8,
    /// The highest version the event was seen with.
    pub version: u64,
    /// When the event was last seen, in seconds of Unix time. What is less than [`SEEN_STEP_S`] later than what is
    /// stored need not be.
    pub seen_s: u64,
}

/// How exactly a store keeps when a peer was seen, in seconds.
pub const SEEN_STEP_S: u64 = 3_600;

/// Now, in seconds of Unix time; 0 on a machine that believes to live before 1970.
pub fn unix_time_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// A [`Cell`] that owns its parts.
#[derive(Clone, Debug)]
pub struct OwnedCell {
    /// The table's name.
    pub table: String,
    /// The row's key.
    pub pk: String,
    /// The column's name.
    pub cid: String,
    /// The value.
    pub val: OwnedValue,
    /// The cell's clock.
    pub col_version: u64,
    /// Who wrote it.
    pub site_id: String,
    /// The row's causal length.
    pub cl: u64,
    /// Where it stands.
    pub at: Position,
}

impl OwnedCell {
    /// The cell, borrowed.
    pub fn as_cell(&self) -> Cell<'_> {
        Cell {
            table: &self.table,
            pk: &self.pk,
            cid: &self.cid,
            val: self.val.as_value(),
            col_version: self.col_version,
            site_id: &self.site_id,
            cl: self.cl,
            at: self.at,
        }
    }
}

impl From<&Cell<'_>> for OwnedCell {
    fn from(cell: &Cell<'_>) -> Self {
        OwnedCell {
            table: cell.table.into(),
            pk: cell.pk.into(),
            cid: cell.cid.into(),
            val: cell.val.to_owned(),
            col_version: cell.col_version,
            site_id: cell.site_id.into(),
            cl: cell.cl,
            at: cell.at,
        }
    }
}

/// All alike, and reals to the last bit.
impl PartialEq for OwnedCell {
    fn eq(&self, other: &Self) -> bool {
        let reals = match (&self.val, &other.val) {
            (OwnedValue::Real(a), OwnedValue::Real(b)) => a.to_bits() == b.to_bits(),
            _ => true,
        };
        reals && self.as_cell() == other.as_cell()
    }
}

/// A fresh site id: 16 random bytes as upper-case hex.
pub fn new_site_id() -> String {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    site_id_of(&bytes)
}

/// The site id that these bytes are: upper-case hex.
pub fn site_id_of(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02X}")).collect()
}
