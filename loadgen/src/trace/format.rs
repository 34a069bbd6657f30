//! The lines of a trace; the README describes them for other programs.

use serde::{Deserialize, Serialize};

use super::shape::Shape;

/// The only version that there is.
pub(crate) const VERSION: u32 = 1;

/// The first line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) causeway_trace: u32,
}

/// What happened: microseconds since the start, the connection's number, and what it did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event(pub(crate) u64, pub(crate) u32, pub(crate) What);

/// What a connection did. `bytes` is the length of the message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum What {
    /// It was upgraded.
    Open { channel: u32 },
    /// It ended.
    Close,
    /// An `update` that the contract allows.
    Update {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        site: Option<u32>,
        bytes: u64,
        changes: Vec<Change>,
    },
    /// A `pull`.
    Pull {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        site: Option<u32>,
        bytes: u64,
        /// How many versions its cursor was behind what the channel's clients had been shown; None: from 0.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        behind: Option<u64>,
    },
    /// An `auth`.
    Auth { bytes: u64 },
    /// Any other message.
    Other { bytes: u64 },
}

/// One change: table, key, the key's bytes, column (null: the sentinel), the value's shape, and how far `cl` is above the
/// highest that the row had, and `col_version` above the highest that the cell had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change(
    pub(crate) u32,
    pub(crate) u32,
    pub(crate) u32,
    pub(crate) Option<u32>,
    pub(crate) Shape,
    pub(crate) i64,
    pub(crate) i64,
);

/// The last line of a recording that was not cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct End {
    /// Microseconds since the start.
    pub(crate) end: u64,
    /// It went on, but the file had reached its limit.
    pub(crate) full: bool,
}
