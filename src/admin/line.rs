//! What can be asked, and the lines that answer it: lines of JSON on their way to whoever asked.

use std::path::PathBuf;

use causeway_storage::StoreError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What is asked.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Request {
    /// A backup of all channels.
    Backup {
        /// An absolute path.
        to: PathBuf,
    },
    /// A check of channels.
    Verify {
        /// Their names; none means all.
        channels: Vec<String>,
    },
    /// All channels.
    Channels,
    /// What one channel holds.
    Inspect {
        /// Its name.
        channel: String,
    },
    /// The rows of a table as users see them: those that live, ordered by key.
    Rows {
        /// The channel.
        channel: String,
        /// The table.
        table: String,
        /// At most so many, from 1 to [`ROWS_MAX`](super::ROWS_MAX).
        limit: usize,
        /// Only rows whose stored key is above this.
        after: Option<String>,
    },
    /// The removal of a channel.
    Delete {
        /// Its name.
        channel: String,
    },
    /// The application's tables of a channel, made anew from its cells.
    Rebuild {
        /// Its name.
        channel: String,
    },
}

impl Request {
    /// What is asked, in a word.
    pub fn name(&self) -> &'static str {
        match self {
            Request::Backup { .. } => "backup",
            Request::Verify { .. } => "verify",
            Request::Channels => "channels",
            Request::Inspect { .. } => "inspect",
            Request::Rows { .. } => "rows",
            Request::Delete { .. } => "delete",
            Request::Rebuild { .. } => "rebuild",
        }
    }

    /// The channels that it names.
    pub fn channels(&self) -> &[String] {
        match self {
            Request::Backup { .. } | Request::Channels => &[],
            Request::Verify { channels } => channels,
            Request::Inspect { channel }
            | Request::Rows { channel, .. }
            | Request::Delete { channel }
            | Request::Rebuild { channel } => std::slice::from_ref(channel),
        }
    }
}

/// A line of the answer.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Line {
    /// A channel that is as it has to be, or was backed up.
    Ok {
        /// Its name.
        channel: String,
        /// Its version.
        version: u64,
        /// Its content digest.
        digest: String,
        /// How many cells it has.
        cells: u64,
    },
    /// One of all channels.
    Channel {
        /// Its name.
        channel: String,
        /// Its version.
        version: u64,
        /// How many cells it has.
        cells: u64,
        /// How many clients are connected to it; `None` if there is no server, or the server cannot tell.
        connections: Option<u64>,
        /// What it takes, by the store's own measure: SQLite's file and log, else keys and values.
        bytes: u64,
        /// When a client was last heard, in seconds of Unix time, up to an hour late; `None` if none ever was.
        seen_s: Option<u64>,
    },
    /// A channel that is looked into; its tables and peers follow.
    Inspected {
        /// Its name.
        channel: String,
        /// Its version.
        version: u64,
        /// Its content digest.
        digest: String,
        /// Its site id.
        site_id: String,
        /// How many tables it has; a thousand are told of one by one.
        tables: u64,
        /// How many rows live in all tables.
        rows: u64,
        /// How many rows are deleted: only a sentinel is left.
        deleted: u64,
        /// How many cells it has, sentinels included.
        cells: u64,
        /// How many of them do not fit the schema; `None` if there is no schema.
        unfit: Option<u64>,
        /// See [`Line::Channel`].
        connections: Option<u64>,
        /// See [`Line::Channel`].
        bytes: u64,
    },
    /// A table of it.
    Table {
        /// Its name.
        table: String,
        /// How many rows live.
        rows: u64,
        /// How many are deleted.
        deleted: u64,
        /// How many cells it has, sentinels included.
        cells: u64,
    },
    /// Cells of it that do not fit the schema.
    Unfit(Unfit),
    /// A peer of it, the last seen first.
    Peer {
        /// The peer.
        site_id: String,
        /// Whether the peer's changes were received, or the channel's sent to it.
        event: Event,
        /// cr-sqlite's tag.
        tag: u64,
        /// Up to which version: of the peer's if received, of the channel's if sent.
        version: u64,
        /// By how many versions the peer is behind; `None` where only it can know.
        lag: Option<u64>,
        /// When, in seconds of Unix time, up to an hour late; 0 if that is not known.
        seen_s: u64,
    },
    /// The columns that the rows that follow have.
    Columns {
        /// The table.
        table: String,
        /// Their names, in order.
        columns: Vec<String>,
    },
    /// A row.
    Row {
        /// Its key as it is stored.
        pk: String,
        /// Its key for people.
        key: Value,
        /// What its columns hold, as `val` in a change; a column that it lacks is not there.
        columns: Map<String, Value>,
    },
    /// There are more rows.
    More {
        /// The last key that was told; the others are above it.
        after: String,
    },
    /// A channel that was removed.
    Removed {
        /// Its name.
        channel: String,
        /// Whether the server is one of several: then others have the channel, too, and bring it back.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        of_several: bool,
    },
    /// A table that was made anew; [`Line::Rebuilt`] follows the last one.
    RebuiltTable {
        /// Its name.
        table: String,
        /// The rows that it has.
        rows: u64,
        /// Cells of a table of this name that do not fit the schema, and are not in it.
        unfit: u64,
    },
    /// A channel whose tables were made anew.
    Rebuilt {
        /// Its name.
        channel: String,
        /// How many tables.
        tables: u64,
        /// How many rows they have.
        rows: u64,
    },
    /// A channel whose store keeps no tables: rows are put together from cells whenever they are read, and cannot be wrong.
    NoTables {
        /// Its name.
        channel: String,
        /// The store.
        store: String,
    },
    /// Something of the configuration that is as it has to be.
    Checked {
        /// The setting.
        setting: String,
        /// What it is.
        found: String,
    },
    /// Something that failed.
    Problem(Problem),
    /// All was done that could be.
    End,
}

/// Cells of a table that do not fit the schema, all for one reason.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Unfit {
    /// The table that they name.
    pub table: String,
    /// Why, as a change would be told.
    pub reason: String,
    /// How many.
    pub cells: u64,
    /// The key of one of them.
    pub pk: String,
    /// Its column.
    pub cid: String,
}

/// What a peer and the channel have exchanged.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The peer's changes were received.
    Received,
    /// The channel's changes were sent.
    Sent,
    /// What an event is called that this Causeway does not know.
    Other,
}

/// Something that failed.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The channel, if it is one's.
    pub channel: Option<String>,
    /// What kind of problem it is.
    pub code: ProblemCode,
    /// What is wrong.
    pub problem: String,
}

/// The kind of a problem.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemCode {
    /// There is no such channel, or no such table.
    NotFound,
    /// Too many commands are under way.
    Busy,
    /// There is no schema, and the command needs one.
    NoSchema,
    /// Anything else.
    Failed,
}

impl Problem {
    /// A problem of no channel.
    pub fn failed(problem: impl ToString) -> Self {
        Problem { channel: None, code: ProblemCode::Failed, problem: problem.to_string() }
    }

    /// What a store could not do.
    pub(super) fn store(channel: Option<&str>, e: &StoreError) -> Self {
        let code = match e {
            StoreError::Missing { .. } | StoreError::BadName { .. } => ProblemCode::NotFound,
            _ => ProblemCode::Failed,
        };
        Problem { channel: channel.map(str::to_owned), code, problem: e.to_string() }
    }
}
