//! How connections end: the closed set of reasons that the log, the metrics and `docs/operations.md` have.

use crate::protocol::frame::{Broken, close};

macro_rules! reasons {
    ($(#[doc = $set:literal])+ $name:ident: $($(#[doc = $about:literal])+ $reason:ident = $text:literal;)+) => {
        $(#[doc = $set])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[doc = $about])+ $reason,)+ }

        impl $name {
            /// All there are.
            pub const ALL: &[$name] = &[$($name::$reason,)+];

            /// As it stands in the log and in a label.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$reason => $text,)+ }
            }
        }
    };
}

reasons! {
    /// Why a WebSocket connection has ended.
    Reason:
    /// The client closed it.
    ClientClosed = "client_closed";
    /// The client ended its direction without a close.
    ClientEnded = "client_ended";
    /// The network or the client's system broke it.
    Broken = "broken";
    /// The client broke RFC 6455.
    ProtocolError = "protocol_error";
    /// A text was not UTF-8.
    NotUtf8 = "not_utf8";
    /// A message was over `max_message_bytes`.
    TooLarge = "too_large";
    /// Messages that were not whole took `max_partial_bytes`, and it sent more of its own.
    NoRoom = "no_room";
    /// `max_bad_messages` came in a row.
    BadMessages = "bad_messages";
    /// `max_rate_limited_per_min` messages were refused for their rate, and more came.
    RateLimited = "rate_limited";
    /// Its token expired.
    TokenExpired = "token_expired";
    /// The key of its token is no longer among the server's.
    KeyRemoved = "key_removed";
    /// The client took no byte for `slow_client_timeout`.
    Slow = "slow";
    /// The client gave no sign of life for `pong_timeout`.
    Silent = "silent";
    /// The server went away.
    Draining = "draining";
    /// An operator removed the channel.
    ChannelRemoved = "channel_removed";
    /// A page could not be read.
    PageFailed = "page_failed";
    /// The server gave it up: the drain was over, or it has a bug.
    Abandoned = "abandoned";
}

reasons! {
    /// Why an accepted connection was given up that had become no WebSocket.
    Refused:
    /// Over a limit of connections: `causeway_limited_total` says which.
    OverLimit = "over_limit";
    /// No whole request came within `handshake_timeout`.
    HandshakeTimeout = "handshake_timeout";
    /// What came was no HTTP, or ended in the middle of it.
    BadHandshake = "bad_handshake";
    /// It did not take its answer within `slow_client_timeout`.
    AnswerNotTaken = "answer_not_taken";
}

/// How a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// For the operator.
    pub reason: Reason,
    /// The close code.
    pub code: u16,
    /// For the client; at most 123 bytes.
    pub text: &'static str,
}

impl Ending {
    /// The server goes away.
    pub const DRAINING: Ending =
        Ending { reason: Reason::Draining, code: close::GOING_AWAY, text: "the server is going away" };

    /// `max_bad_messages` came.
    pub const BAD_MESSAGES: Ending =
        Ending { reason: Reason::BadMessages, code: close::POLICY, text: "too many bad messages in a row" };

    /// There was no room for its message beside those of others.
    pub const NO_ROOM: Ending = Ending {
        reason: Reason::NoRoom,
        code: close::TRY_AGAIN_LATER,
        text: "too many large messages are on their way; come back later",
    };

    /// Too many messages were refused for their rate.
    pub const RATE_LIMITED: Ending = Ending {
        reason: Reason::RateLimited,
        code: close::POLICY,
        text: "too many messages were sent that were rate_limited",
    };

    /// Its token expired.
    pub const TOKEN_EXPIRED: Ending =
        Ending { reason: Reason::TokenExpired, code: close::POLICY, text: "the token has expired" };

    /// The key of its token was removed.
    pub const KEY_REMOVED: Ending = Ending {
        reason: Reason::KeyRemoved,
        code: close::POLICY,
        text: "the key of the token is no longer valid",
    };

    /// The channel was removed.
    pub const CHANNEL_REMOVED: Ending = Ending {
        reason: Reason::ChannelRemoved,
        code: close::TRY_AGAIN_LATER,
        text: "the channel was removed; connect again",
    };

    /// A page could not be read.
    pub const PAGE_FAILED: Ending = Ending {
        reason: Reason::PageFailed,
        code: close::TRY_AGAIN_LATER,
        text: "the server could not read the channel",
    };

    /// The client said no more; it may still read.
    pub const CLIENT_ENDED: Ending = Ending { reason: Reason::ClientEnded, code: close::NORMAL, text: "" };

    /// The connection is gone.
    pub const BROKEN: Ending = Ending { reason: Reason::Broken, code: close::GOING_AWAY, text: "" };

    /// The client closed, and is answered with `code`.
    pub fn client_closed(code: u16) -> Self {
        Ending { reason: Reason::ClientClosed, code, text: "" }
    }
}

impl From<Broken> for Ending {
    fn from(Broken { code, reason: text }: Broken) -> Self {
        let reason = match code {
            close::TOO_LARGE => Reason::TooLarge,
            close::NOT_UTF8 => Reason::NotUtf8,
            _ => Reason::ProtocolError,
        };
        Ending { reason, code, text }
    }
}
