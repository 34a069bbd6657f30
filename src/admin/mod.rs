//! What an operator asks of a store, while it is served or while it is not.
//!
//! | file | what it holds |
//! | --- | --- |
//! | this one | [`execute`], which does what is asked where the store is open |
//! | `line` | what can be asked, and the lines that answer |
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
mod line;
mod rebuild;
mod rows;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use causeway_storage::{Backend, ChangeStore, RemadeTable, Schema, StoreError, Verified, verify};

use crate::backup;

pub use line::{Event, Line, Problem, ProblemCode, Request, Unfit};
pub use rows::{ROWS_DEFAULT, ROWS_MAX};

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

    /// Whether the server is one of several, which bring back what is removed from one of them.
    fn is_of_several(&self) -> bool {
        false
    }

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
            tell(deleted(channel, open.writer.remove(channel), open.writer.is_of_several()));
            Ok(())
        }
        Request::Rebuild { channel } => rebuild::tell(open, channel, tell),
    };
    if done.map_or_else(|problem| tell(Line::Problem(problem)), |()| true) {
        tell(Line::End);
    }
}

/// What a removal came to.
fn deleted(channel: &str, removed: Result<bool, StoreError>, of_several: bool) -> Line {
    match removed {
        Ok(true) => Line::Removed { channel: channel.into(), of_several },
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
