//! Messages as JSON, for the bus.

use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use causeway_storage::Position;

use super::{MAX_HEARD, PROTOCOL, PageFacts, Pull, State};
use crate::protocol::json;

/// What all messages of a node have in common. `boot` differs from start to start, so that two nodes of one name notice each
/// other.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The node's name.
    pub node: Arc<str>,
    pub(super) prefix: Box<[u8]>,
}

impl Identity {
    /// The identity of a node's start.
    pub fn new(node: &str, boot: &str) -> Self {
        let mut prefix = format!("{{\"v\":{PROTOCOL},").into_bytes();
        for (key, value) in [("node", node), ("boot", boot)] {
            prefix.extend_from_slice(format!("\"{key}\":").as_bytes());
            json::string(value, &mut prefix);
            prefix.push(b',');
        }
        Identity { node: node.into(), prefix: prefix.into() }
    }

    fn begin(&self, kind: &str, room: usize) -> Writer {
        let mut out = Vec::with_capacity(self.prefix.len() + room + 512);
        out.extend_from_slice(&self.prefix);
        out.extend_from_slice(format!("\"type\":\"{kind}\"").as_bytes());
        Writer(out)
    }

    /// Encodes `Body::Hello`.
    pub fn hello(&self) -> Bytes {
        self.begin("hello", 0).end()
    }

    /// Encodes `Body::Bye`.
    pub fn bye(&self) -> Bytes {
        self.begin("bye", 0).end()
    }

    /// Encodes `Body::States`, of at most [`MAX_CHANNELS`](super::MAX_CHANNELS).
    pub fn states<'s>(&self, states: impl IntoIterator<Item = &'s State>, ask: bool) -> Bytes {
        let mut out = self.begin("state", 0);
        let _ = write!(out, ",\"ask\":{ask},\"states\":[");
        for (n, state) in states.into_iter().enumerate() {
            out.0.extend_from_slice(if n == 0 { b"[" } else { b",[" });
            json::string(&state.channel, &mut out.0);
            out.0.push(b',');
            json::string(&state.site_id, &mut out.0);
            let _ = write!(out, ",{},\"{}\",{},[", state.version, state.digest, state.published);
            for (n, (site_id, version)) in state.heard.iter().take(MAX_HEARD).enumerate() {
                out.0.extend_from_slice(if n == 0 { b"[" } else { b",[" });
                json::string(site_id, &mut out.0);
                let _ = write!(out, ",{version}]");
            }
            out.0.extend_from_slice(b"]]");
        }
        out.0.push(b']');
        out.end()
    }

    /// Encodes `Body::Update`; `changes` are JSON with commas between them.
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

    /// Encodes the `Page` that answers a pull: of the channel with that site id there, complete up to `version`.
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
