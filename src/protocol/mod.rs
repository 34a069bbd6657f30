//! The messages of the wire contract: what clients send ([`decode`]) and what they are sent ([`encode`]).
//!
//! Knows JSON and WebSocket frames; knows nothing of connections, channels or stores.

mod check;
pub mod decode;
pub mod encode;
pub mod frame;
pub(crate) mod json;
mod update;

pub use check::check;
pub use update::IncomingUpdate;

/// A message from a client, checked against every bound of the contract.
#[derive(Debug)]
pub enum Incoming {
    /// Changes to merge.
    Update(Box<IncomingUpdate>),
    /// A request for everything above a version.
    Pull {
        /// The client's cursor.
        version: u64,
    },
    /// A fresh token.
    Auth {
        /// The token.
        token: Token,
    },
}

/// What somebody shows to be let in. It is never written anywhere, not even by `{:?}`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Box<str>);

impl Token {
    /// The token itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Token {
    fn from(token: String) -> Self {
        Token(token.into())
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The codes of an `error` message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// Not a message at all: not JSON, not an object, a field missing or of the wrong type.
    Malformed,
    /// A `type` that clients do not send.
    UnknownType,
    /// A change outside the contract's bounds.
    InvalidChange,
    /// A change of a table that the schema does not have.
    UnknownTable,
    /// A change of a column that its table does not have.
    UnknownColumn,
    /// A frame over `max_message_bytes`.
    TooLarge,
    /// An update with more than `max_changes_per_update` changes.
    TooManyChanges,
    /// Too much asked for at once.
    RateLimited,
    /// The connection's token does not allow it.
    Forbidden,
    /// The token is bad, or has expired.
    Unauthorized,
    /// An update that would make its channel, or the number of channels, larger than it may be.
    QuotaExceeded,
    /// A `channel` that is not the connection's, where `strict_channel` is set.
    WrongChannel,
    /// The store failed; nothing of the update is kept, or it is not known to be.
    Storage,
    /// The server is going away; nothing of the update is kept.
    ShuttingDown,
}

impl Code {
    /// Every code, for the metrics.
    pub const ALL: [Code; 14] = [
        Code::Malformed,
        Code::UnknownType,
        Code::InvalidChange,
        Code::UnknownTable,
        Code::UnknownColumn,
        Code::TooLarge,
        Code::TooManyChanges,
        Code::RateLimited,
        Code::Forbidden,
        Code::Unauthorized,
        Code::QuotaExceeded,
        Code::WrongChannel,
        Code::Storage,
        Code::ShuttingDown,
    ];

    /// The code as it stands in a message.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::Malformed => "malformed",
            Code::UnknownType => "unknown_type",
            Code::InvalidChange => "invalid_change",
            Code::UnknownTable => "unknown_table",
            Code::UnknownColumn => "unknown_column",
            Code::TooLarge => "too_large",
            Code::TooManyChanges => "too_many_changes",
            Code::RateLimited => "rate_limited",
            Code::Forbidden => "forbidden",
            Code::Unauthorized => "unauthorized",
            Code::QuotaExceeded => "quota_exceeded",
            Code::WrongChannel => "wrong_channel",
            Code::Storage => "storage",
            Code::ShuttingDown => "shutting_down",
        }
    }
}

/// Why a message was refused: what its sender is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct Refusal {
    /// The kind of error.
    pub code: Code,
    /// What is wrong and where, for people.
    pub message: String,
    /// The `version` of the update that was refused, if it carried one.
    pub received: Option<u64>,
    /// After how many milliseconds it is worth a try again, where that is known.
    pub retry_after_ms: Option<u64>,
}

impl Refusal {
    /// A refusal that answers no update in particular.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Refusal { code, message: message.into(), received: None, retry_after_ms: None }
    }

    /// The same, as the answer to the update of that version.
    pub fn of_update(self, received: u64) -> Self {
        Refusal { received: Some(received), ..self }
    }
}
