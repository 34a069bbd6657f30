//! What an operator asks of a store, while it is served or while it is not.
//!
//! | file | what it holds |
//! | --- | --- |
//! | this one | what can be asked, what is answered, and [`execute`], which does it where the store is open |
//! | `channels`, `inspect`, `rows`, `rebuild` | a command each |
//! | [`fit`] | the cells of a channel that do not fit the schema |
//! | [`commands`] | commands in a server: threads of their own, a few at once, what only the relay knows |
//! | [`control`], [`http`] | how they reach a server: a socket in the data directory, a listener of their own |

mod channels;
pub mod commands;
pub mod control;
pub mod fit;
pub mod http;
mod inspect;
mod rebuild;
mod rows;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use causeway_storage::{Backend, ChangeStore, RemadeTable, Schema, StoreError, Verified, verify};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::backup;

pub use rows::{ROWS_DEFAULT, ROWS_MAX};

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
        /// At most so many, from 1 to [`ROWS_MAX`].
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
        /// What it takes, by the store's own measure: SQLite's file and log, sled's keys and values.
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
    fn store(channel: Option<&str>, e: &StoreError) -> Self {
        let code = match e {
            StoreError::Missing { .. } | StoreError::BadName { .. } => ProblemCode::NotFound,
            _ => ProblemCode::Failed,
        };
        Problem { channel: channel.map(str::to_owned), code, problem: e.to_string() }
    }
}

/// Takes a line; gives `false` to stop.
pub type Tell<'a> = &'a mut dyn FnMut(Line) -> bool;

/// How many clients are connected to each channel.
#[derive(Debug, Default)]
pub struct Connections {
    counts: HashMap<String, u64>,
    /// Whether a channel that is not in there has none; else nobody can tell.
    complete: bool,
}

impl Connections {
    fn of(&self, channel: &str) -> Option<u64> {
        self.counts.get(channel).copied().or(self.complete.then_some(0))
    }
}

/// A store that is open, and what is known around it.
#[derive(Clone, Copy)]
pub struct OpenStore<'a> {
    /// The store.
    pub store: &'a dyn ChangeStore,
    /// What it is.
    pub backend: &'a Backend,
    /// What changes are checked against, if anything.
    pub schema: Option<&'a Schema>,
    /// Who is connected.
    pub connections: &'a Connections,
    /// Who may write.
    pub writer: &'a dyn Writer,
}

/// What only a channel's one writer may do. Blocks.
pub trait Writer {
    /// See [`ChangeStore::remove`].
    fn remove(&self, channel: &str) -> Result<bool, StoreError>;

    /// Makes the tables of a channel that exists anew; `None` if the store keeps none.
    fn rebuild(&self, channel: &str) -> Result<Option<Vec<RemadeTable>>, StoreError>;
}

/// The writer of a store that nobody else has open.
pub struct Alone(pub Arc<dyn ChangeStore>);

impl Writer for Alone {
    fn remove(&self, channel: &str) -> Result<bool, StoreError> {
        self.0.remove(channel)
    }

    fn rebuild(&self, channel: &str) -> Result<Option<Vec<RemadeTable>>, StoreError> {
        // It is not to be made by this.
        self.0.reader(channel)?;
        self.0.open(channel)?.remake_tables()
    }
}

/// Does what is asked, and tells line by line; [`Line::End`] is the last, if nobody stops it. May take long, and blocks.
pub fn execute(open: &OpenStore<'_>, request: &Request, tell: Tell<'_>) {
    let OpenStore { store, connections, .. } = *open;
    let done = match request {
        Request::Backup { to } => back_up(store, to, tell),
        Request::Verify { channels } => {
            verify_all(store, channels, tell).map_err(|e| Problem::store(None, &e))
        }
        Request::Channels => channels::tell(store, connections, tell).map_err(|e| Problem::store(None, &e)),
        Request::Inspect { channel } => {
            inspect::tell(open, channel, tell).map_err(|e| Problem::store(Some(channel), &e))
        }
        Request::Rows { channel, table, limit, after } => {
            rows::tell(store, channel, table, *limit, after.as_deref(), tell)
        }
        Request::Delete { channel } => {
            tell(deleted(channel, open.writer.remove(channel)));
            Ok(())
        }
        Request::Rebuild { channel } => rebuild::tell(open, channel, tell),
    };
    if done.map_or_else(|problem| tell(Line::Problem(problem)), |()| true) {
        tell(Line::End);
    }
}

/// What a removal came to.
fn deleted(channel: &str, removed: Result<bool, StoreError>) -> Line {
    match removed {
        Ok(true) => Line::Removed { channel: channel.into() },
        Ok(false) => {
            Line::Problem(Problem::store(Some(channel), &StoreError::Missing { channel: channel.into() }))
        }
        Err(e) => Line::Problem(Problem::store(Some(channel), &e)),
    }
}

fn back_up(store: &dyn ChangeStore, to: &Path, tell: Tell<'_>) -> Result<(), Problem> {
    backup::backup(store, to, &mut |outcome| tell(outcome.into())).map(drop).map_err(Problem::failed)
}

impl From<backup::Outcome<'_>> for Line {
    fn from(outcome: backup::Outcome<'_>) -> Self {
        match outcome {
            Ok(entry) => Line::Ok {
                channel: entry.channel.clone(),
                version: entry.version,
                digest: entry.digest.clone(),
                cells: entry.cells,
            },
            Err(failed) => Line::Problem(Problem {
                channel: Some(failed.channel.clone()).filter(|name| !name.is_empty()),
                code: ProblemCode::Failed,
                problem: failed.problem.clone(),
            }),
        }
    }
}

/// The names of all channels, sorted; what cannot be read is told.
fn sorted_names(store: &dyn ChangeStore, tell: Tell<'_>) -> Result<Vec<String>, StoreError> {
    let mut listing = store.channels()?;
    listing.names.sort_unstable();
    for e in listing.unreadable {
        tell(Line::Problem(Problem::failed(e)));
    }
    Ok(listing.names)
}

fn verify_all(store: &dyn ChangeStore, channels: &[String], tell: Tell<'_>) -> Result<(), StoreError> {
    let names = if channels.is_empty() { sorted_names(store, tell)? } else { channels.to_vec() };
    for channel in names {
        let verified = store.reader(&channel).and_then(|mut reader| verify(&channel, reader.as_mut()));
        let line = match verified {
            Ok(Verified { head, cells }) => {
                Line::Ok { channel, version: head.version, digest: head.digest.to_string(), cells }
            }
            Err(e) => Line::Problem(Problem::store(Some(&channel), &e)),
        };
        if !tell(line) {
            break;
        }
    }
    Ok(())
}
