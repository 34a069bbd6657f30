//! What nodes tell each other, as JSON. Whatever comes from the bus is untrusted in shape: its size is bounded before it is
//! looked at, every field is checked, and what does not fit is an error that says why.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use causeway_storage::{Digest, Position, names};
use serde::Deserialize;

use crate::protocol::IncomingUpdate;
use crate::protocol::decode::{MAX_INTEGER, MAX_SITE_ID_BYTES, decode_changes};
use crate::protocol::json;

/// The version of this protocol. A node with another is not believed.
pub const PROTOCOL: u64 = 1;

/// The longest name of a node, in bytes.
pub const MAX_NODE_BYTES: usize = 64;

/// The most channels in one message.
pub const MAX_CHANNELS: usize = 256;

/// Who hears a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topic {
    /// All nodes.
    All,
    /// One of them.
    Node(Arc<str>),
}

/// What all messages of a node have in common. `boot` differs from start to start, so that two nodes of one name notice each
/// other; nodes whose schemas differ do not believe each other.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The node's name.
    pub node: Arc<str>,
    schema: Box<str>,
    prefix: Box<[u8]>,
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
    /// Who sends it can hear since now: tell it of all channels.
    Hello,
    /// How channels stand at the sender's.
    States(Vec<State>),
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
    /// Its site id there.
    pub site_id: Arc<str>,
    /// Its version there.
    pub version: u64,
    /// Its digest at that version.
    pub digest: Digest,
    /// The version that the node has published last, or a higher one that it knows to be there.
    pub published: u64,
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
    /// Its sender has another schema.
    #[error("node {node:?} has another schema")]
    OtherSchema {
        /// The sender.
        node: Box<str>,
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
            Unheard::OtherSchema { .. } => "other_schema",
        }
    }
}

/// Whether a node may have that name: 1 to 64 of letters, digits, `.`, `-` and `_`.
pub fn is_node_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    (1..=MAX_NODE_BYTES).contains(&name.len()) && name.bytes().all(fits)
}

impl Identity {
    /// The identity of a node's start; `schema` names the schema, empty if there is none.
    pub fn new(node: &str, boot: &str, schema: &str) -> Self {
        let mut prefix = format!("{{\"v\":{PROTOCOL},").into_bytes();
        for (key, value) in [("node", node), ("boot", boot), ("schema", schema)] {
            prefix.extend_from_slice(format!("\"{key}\":").as_bytes());
            json::string(value, &mut prefix);
            prefix.push(b',');
        }
        Identity { node: node.into(), schema: schema.into(), prefix: prefix.into() }
    }

    fn begin(&self, kind: &str, room: usize) -> Writer {
        let mut out = Vec::with_capacity(self.prefix.len() + room + 512);
        out.extend_from_slice(&self.prefix);
        out.extend_from_slice(format!("\"type\":\"{kind}\"").as_bytes());
        Writer(out)
    }

    /// Encodes [`Body::Hello`].
    pub fn hello(&self) -> Bytes {
        self.begin("hello", 0).end()
    }

    /// Encodes [`Body::States`], of at most [`MAX_CHANNELS`].
    pub fn states<'s>(&self, states: impl IntoIterator<Item = &'s State>) -> Bytes {
        let mut out = self.begin("state", 0);
        out.0.extend_from_slice(b",\"states\":[");
        for (n, state) in states.into_iter().enumerate() {
            out.0.extend_from_slice(if n == 0 { b"[" } else { b",[" });
            json::string(&state.channel, &mut out.0);
            out.0.push(b',');
            json::string(&state.site_id, &mut out.0);
            let _ = write!(out, ",{},\"{}\",{}]", state.version, state.digest, state.published);
        }
        out.0.push(b']');
        out.end()
    }

    /// Encodes [`Body::Update`]; `changes` are JSON with commas between them.
    pub fn update(&self, channel: &str, site_id: &str, from: u64, version: u64, changes: &[u8]) -> Bytes {
        let mut out = self.begin("update", changes.len());
        out.text("channel", channel);
        out.text("siteId", site_id);
        out.number("from", from);
        out.number("version", version);
        out.changes(changes);
        out.end()
    }

    /// Encodes a [`Pull`].
    pub fn pull(&self, pull: &Pull) -> Bytes {
        let mut out = self.begin("pull", 0);
        out.text("channel", &pull.channel);
        out.text("siteId", &pull.site_id);
        out.number("id", pull.id);
        out.number("from", pull.complete);
        out.position(pull.after);
        out.end()
    }

    /// Encodes the [`Page`] that answers a pull: of the channel with that site id there, complete up to `version`.
    pub fn page(&self, pull: &Pull, site_id: &str, end: PageFacts, changes: &[u8]) -> Bytes {
        let mut out = self.begin("page", changes.len());
        out.text("channel", &pull.channel);
        out.text("siteId", site_id);
        out.number("id", pull.id);
        out.number("from", end.from);
        out.number("version", end.complete);
        out.position(end.next);
        out.0.extend_from_slice(if end.is_last { b",\"last\":true" } else { b",\"last\":false" });
        out.changes(changes);
        out.end()
    }

    /// Decodes a message of at most `max_bytes`.
    pub fn decode(&self, bytes: &mut Vec<u8>, max_bytes: usize) -> Result<Message, Unheard> {
        if bytes.starts_with(&self.prefix) {
            return Err(Unheard::Own);
        }
        if bytes.len() > max_bytes {
            return Err(Unheard::TooLarge { bytes: bytes.len(), max: max_bytes });
        }
        let wire = match serde_json::from_slice::<Wire<'_>>(bytes) {
            Ok(wire) if wire.v == PROTOCOL => wire,
            result => {
                // Another version may have fields of other types.
                let head: Head<'_> = serde_json::from_slice(bytes).map_err(malformed)?;
                if head.v != PROTOCOL {
                    let node = head.node.chars().take(MAX_NODE_BYTES).collect::<String>().into();
                    return Err(Unheard::OtherProtocol { node, version: head.v });
                }
                result.map_err(malformed)?
            }
        };
        if !is_node_name(&wire.node) || !(1..=64).contains(&wire.boot.len()) {
            return Err(malformed("node or boot: not a name"));
        }
        if wire.schema != self.schema.as_ref() {
            return Err(Unheard::OtherSchema { node: wire.node.into() });
        }
        let (node, boot) = (wire.node.as_ref().into(), wire.boot.as_ref().into());
        let body = match wire.kind.as_ref() {
            "hello" => Body::Hello,
            "state" => Body::States(wire.states()?),
            "pull" => Body::Pull(Pull {
                id: wire.number("id", wire.id)?,
                channel: wire.channel()?,
                site_id: wire.site_id()?,
                after: wire.position()?,
                complete: wire.number("from", wire.from)?,
            }),
            "update" => {
                let (channel, from) = (wire.channel()?, wire.number("from", wire.from)?);
                let update = decode_changes(bytes).map_err(malformed)?;
                if from >= update.version {
                    return Err(malformed("from: not below version"));
                }
                Body::Update { channel, from, update }
            }
            "page" => {
                let (id, from) = (wire.number("id", wire.id)?, wire.number("from", wire.from)?);
                let (channel, next) = (wire.channel()?, wire.position()?);
                let is_last = wire.last.ok_or_else(|| malformed("last: missing"))?;
                let update = decode_changes(bytes).map_err(malformed)?;
                Body::Page(Box::new(Page { id, channel, from, next, is_last, update }))
            }
            _ => return Err(malformed("type: there is no such one")),
        };
        Ok(Message { node, boot, body })
    }
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

fn malformed(problem: impl ToString) -> Unheard {
    Unheard::Malformed { problem: problem.to_string().chars().take(200).collect() }
}

/// A message being written.
struct Writer(Vec<u8>);

impl Writer {
    fn text(&mut self, key: &str, value: &str) {
        let _ = write!(self, ",\"{key}\":");
        json::string(value, &mut self.0);
    }

    fn number(&mut self, key: &str, value: u64) {
        let _ = write!(self, ",\"{key}\":{value}");
    }

    fn position(&mut self, at: Position) {
        let _ = write!(self, ",\"at\":[{},{}]", at.version, at.seq);
    }

    fn changes(&mut self, changes: &[u8]) {
        self.0.extend_from_slice(b",\"changes\":[");
        self.0.extend_from_slice(changes);
        self.0.push(b']');
    }

    fn end(mut self) -> Bytes {
        self.0.push(b'}');
        self.0.into()
    }
}

impl Write for Writer {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// What messages of every version have.
#[derive(Deserialize)]
struct Head<'a> {
    v: u64,
    #[serde(borrow)]
    node: Cow<'a, str>,
}

/// The fields of all messages but `changes`.
#[derive(Deserialize)]
struct Wire<'a> {
    v: u64,
    #[serde(borrow)]
    node: Cow<'a, str>,
    #[serde(borrow)]
    boot: Cow<'a, str>,
    #[serde(borrow)]
    schema: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    channel: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "siteId")]
    site_id: Option<Cow<'a, str>>,
    id: Option<u64>,
    from: Option<u64>,
    at: Option<(u64, u64)>,
    last: Option<bool>,
    #[serde(borrow, default)]
    states: Vec<WireState<'a>>,
}

/// Channel, site id, version, digest, published.
#[derive(Deserialize)]
struct WireState<'a>(
    #[serde(borrow)] Cow<'a, str>,
    #[serde(borrow)] Cow<'a, str>,
    u64,
    #[serde(borrow)] Cow<'a, str>,
    u64,
);

impl Wire<'_> {
    fn number(&self, key: &str, value: Option<u64>) -> Result<u64, Unheard> {
        let value = value.filter(|value| *value <= MAX_INTEGER);
        value.ok_or_else(|| malformed(format!("{key}: must be an integer from 0 to {MAX_INTEGER}")))
    }

    fn channel(&self) -> Result<Arc<str>, Unheard> {
        channel(self.channel.as_deref().unwrap_or_default())
    }

    fn site_id(&self) -> Result<Arc<str>, Unheard> {
        site_id(self.site_id.as_deref().unwrap_or_default())
    }

    fn position(&self) -> Result<Position, Unheard> {
        let (version, seq) = self.at.ok_or_else(|| malformed("at: missing"))?;
        let (version, seq) = (self.number("at", Some(version))?, self.number("at", Some(seq))?);
        Ok(Position { version, seq })
    }

    fn states(&self) -> Result<Vec<State>, Unheard> {
        if self.states.len() > MAX_CHANNELS {
            return Err(malformed(format!("states: more than {MAX_CHANNELS}")));
        }
        let state = |wire: &WireState<'_>| {
            let WireState(name, site, version, digest, published) = wire;
            Ok(State {
                channel: channel(name)?,
                site_id: site_id(site)?,
                version: self.number("version", Some(*version))?,
                digest: Digest::parse(digest).ok_or_else(|| malformed("digest: not 32 hex digits"))?,
                published: self.number("published", Some(*published))?,
            })
        };
        self.states.iter().map(state).collect()
    }
}

fn channel(name: &str) -> Result<Arc<str>, Unheard> {
    names::check(name).map_err(malformed)?;
    Ok(name.into())
}

fn site_id(site_id: &str) -> Result<Arc<str>, Unheard> {
    if !(1..=MAX_SITE_ID_BYTES).contains(&site_id.len()) {
        return Err(malformed(format!("siteId: must be a string of 1 to {MAX_SITE_ID_BYTES} bytes")));
    }
    Ok(site_id.into())
}

#[cfg(test)]
mod tests;
