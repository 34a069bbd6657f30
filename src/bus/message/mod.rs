//! What nodes tell each other. `encode` writes it as JSON, `decode` reads it.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use causeway_storage::{Digest, Position};

use crate::protocol::IncomingUpdate;

pub use encode::Identity;

/// The version of this protocol. A node with another is not believed.
pub const PROTOCOL: u64 = 1;

/// The longest name of a node, in bytes.
pub const MAX_NODE_BYTES: usize = 64;

/// The most channels in one message.
pub const MAX_CHANNELS: usize = 256;

/// The most peers that a state names. Of more, those that were heard lately are told.
pub const MAX_HEARD: usize = 64;

/// Who hears a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topic {
    /// All nodes, the sender too.
    All,
    /// All nodes but the sender, which has no use for its own updates.
    Others,
    /// One of them.
    Node(Arc<str>),
}

/// A message from another node.
#[derive(Debug)]
pub struct Message {
    /// Whose.
    pub node: Arc<str>,
    /// That node's start.
    pub boot: Box<str>,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Debug)]
pub enum Body {
    /// Who sends it can hear since now: answer, and tell it of all channels.
    Hello,
    /// Who sends it is about to end.
    Bye,
    /// How channels stand at the sender's.
    States {
        /// One for each, none twice. There may be none at all: then it only says that the node is there.
        states: Vec<State>,
        /// Whether it wants to be told how the same channels stand at who hears it.
        ask: bool,
    },
    /// What clients of the sender did.
    Update {
        /// The channel.
        channel: Arc<str>,
        /// The version that the sender published before.
        from: u64,
        /// The winners, with the site id and the version of the sender's channel.
        update: Box<IncomingUpdate>,
    },
    /// A page is asked for.
    Pull(Pull),
    /// A page.
    Page(Box<Page>),
}

/// How a channel stands at a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The channel.
    pub channel: Arc<str>,
    /// Its site id there; empty if the node has no such channel.
    pub site_id: Arc<str>,
    /// Its version there.
    pub version: u64,
    /// Its digest at that version.
    pub digest: Digest,
    /// The version that the node has published last, or a higher one that it knows to be there.
    pub published: u64,
    /// Up to which version the node has heard its peers: by their site ids.
    pub heard: Vec<(Arc<str>, u64)>,
}

impl State {
    /// A channel that the node does not have.
    pub fn absent(channel: Arc<str>) -> Self {
        let digest = Digest::default();
        State { channel, site_id: "".into(), version: 0, digest, published: 0, heard: Vec::new() }
    }

    /// Whether the node has no such channel.
    pub fn is_absent(&self) -> bool {
        self.site_id.is_empty()
    }
}

/// Asks a node for the page of a channel behind a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pull {
    /// Names the question, for its answer.
    pub id: u64,
    /// The channel.
    pub channel: Arc<str>,
    /// The site id that the channel is expected to have there; if it has another, its versions are others, and the page is
    /// the first.
    pub site_id: Arc<str>,
    /// The rows behind this.
    pub after: Position,
    /// The version that is complete before it.
    pub complete: u64,
}

/// A page of a channel, whose rows are those of `update`, with the site id of the channel at the sender's, and, as its version,
/// the one that is complete with it.
#[derive(Debug)]
pub struct Page {
    /// The question's name.
    pub id: u64,
    /// The channel.
    pub channel: Arc<str>,
    /// The version that was complete before the page, as the sender took the question.
    pub from: u64,
    /// The place of its last row.
    pub next: Position,
    /// Whether it reaches the channel's end.
    pub is_last: bool,
    /// The rows.
    pub update: Box<IncomingUpdate>,
}

/// What a page is beside its rows.
#[derive(Clone, Copy, Debug)]
pub struct PageFacts {
    /// The version that was complete before it.
    pub from: u64,
    /// The version that is complete with it.
    pub complete: u64,
    /// The place of its last row.
    pub next: Position,
    /// Whether it reaches the channel's end.
    pub is_last: bool,
}

/// Why a message was not heard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unheard {
    /// This node has sent it.
    #[error("it is this node's own")]
    Own,
    /// It is longer than messages may be.
    #[error("a message of {bytes} bytes, the most is {max}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// It is none of ours.
    #[error("not a message: {problem}")]
    Malformed {
        /// What is wrong.
        problem: String,
    },
    /// Its sender speaks another version.
    #[error("node {node:?} speaks version {version} of the protocol, this one {PROTOCOL}")]
    OtherProtocol {
        /// The sender.
        node: Box<str>,
        /// Its version.
        version: u64,
    },
}

impl Unheard {
    /// Its name in a label.
    pub fn as_str(&self) -> &'static str {
        match self {
            Unheard::Own => "own",
            Unheard::TooLarge { .. } => "too_large",
            Unheard::Malformed { .. } => "malformed",
            Unheard::OtherProtocol { .. } => "other_protocol",
        }
    }
}

/// Whether a node may have that name: 1 to 64 of letters, digits, `.`, `-` and `_`.
pub fn is_node_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    (1..=MAX_NODE_BYTES).contains(&name.len()) && name.bytes().all(fits)
}
