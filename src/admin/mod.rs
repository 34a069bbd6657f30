//! What an operator asks of a store, while it is served or while it is not: [`execute`] does it, [`control`] brings it to a
//! server that has the store open.

pub mod control;

use std::path::PathBuf;

use causeway_storage::{ChangeStore, StoreError, Verified, verify};
use serde::{Deserialize, Serialize};

use crate::backup;

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
}

/// A line of the answer.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
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
    /// Something that failed.
    Problem {
        /// The channel, if it is one's.
        channel: Option<String>,
        /// What is wrong.
        problem: String,
    },
    /// All was done that could be.
    End,
}

/// Does what is asked, and tells line by line; `tell` gives `false` to stop. May take long, and blocks.
pub fn execute(store: &dyn ChangeStore, request: &Request, tell: &mut dyn FnMut(Line) -> bool) {
    let done = match request {
        Request::Backup { to } => back_up(store, to, tell).map_err(|e| e.to_string()),
        Request::Verify { channels } => verify_all(store, channels, tell).map_err(|e| e.to_string()),
    };
    if let Err(problem) = done {
        tell(Line::Problem { channel: None, problem });
    }
    tell(Line::End);
}

fn back_up(
    store: &dyn ChangeStore,
    to: &std::path::Path,
    tell: &mut dyn FnMut(Line) -> bool,
) -> Result<(), backup::BackupError> {
    backup::backup(store, to, &mut |outcome| tell(outcome.into())).map(drop)
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
            Err(failed) => Line::Problem {
                channel: Some(failed.channel.clone()).filter(|name| !name.is_empty()),
                problem: failed.problem.clone(),
            },
        }
    }
}

fn verify_all(
    store: &dyn ChangeStore,
    channels: &[String],
    tell: &mut dyn FnMut(Line) -> bool,
) -> Result<(), StoreError> {
    let mut names = channels.to_vec();
    if names.is_empty() {
        let listing = store.channels()?;
        names = listing.names;
        names.sort_unstable();
        for e in listing.unreadable {
            tell(Line::Problem { channel: None, problem: e.to_string() });
        }
    }
    for channel in names {
        let verified = store.reader(&channel).and_then(|mut reader| verify(&channel, reader.as_mut()));
        let line = match verified {
            Ok(Verified { head, cells }) => {
                Line::Ok { channel, version: head.version, digest: head.digest.to_string(), cells }
            }
            Err(e) => Line::Problem { channel: Some(channel), problem: e.to_string() },
        };
        if !tell(line) {
            break;
        }
    }
    Ok(())
}
