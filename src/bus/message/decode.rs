//! Messages from the bus. Whatever comes is untrusted in shape: its size is bounded before it is looked at, every field is
//! checked, and what does not fit is an error that says why.

use std::borrow::Cow;
use std::sync::Arc;

use causeway_storage::{Digest, Position, names};
use serde::Deserialize;

use super::{
    Body, Identity, MAX_CHANNELS, MAX_HEARD, MAX_NODE_BYTES, Message, PROTOCOL, Page, Pull, State, Unheard,
    is_node_name,
};
use crate::protocol::decode::{MAX_INTEGER, MAX_SITE_ID_BYTES, decode_changes};

impl Identity {
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
        let (node, boot) = (wire.node.as_ref().into(), wire.boot.as_ref().into());
        let body = match wire.kind.as_ref() {
            "hello" => Body::Hello,
            "bye" => Body::Bye,
            "state" => Body::States { states: wire.states()?, ask: wire.ask },
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

fn malformed(problem: impl ToString) -> Unheard {
    Unheard::Malformed { problem: problem.to_string().chars().take(200).collect() }
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
    #[serde(default)]
    ask: bool,
    #[serde(borrow, default)]
    states: Vec<WireState<'a>>,
}

/// Channel, site id, version, digest, published, heard.
#[derive(Deserialize)]
struct WireState<'a>(
    #[serde(borrow)] Cow<'a, str>,
    #[serde(borrow)] Cow<'a, str>,
    u64,
    #[serde(borrow)] Cow<'a, str>,
    u64,
    #[serde(borrow)] Vec<(Cow<'a, str>, u64)>,
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
            let WireState(name, site, version, digest, published, heard) = wire;
            if site.is_empty() {
                return Ok(State::absent(channel(name)?));
            }
            if heard.len() > MAX_HEARD {
                return Err(malformed(format!("heard: more than {MAX_HEARD}")));
            }
            let heard = heard
                .iter()
                .map(|(site, version)| Ok((site_id(site)?, self.number("heard", Some(*version))?)));
            Ok(State {
                channel: channel(name)?,
                site_id: site_id(site)?,
                version: self.number("version", Some(*version))?,
                digest: Digest::parse(digest).ok_or_else(|| malformed("digest: not 32 hex digits"))?,
                published: self.number("published", Some(*published))?,
                heard: heard.collect::<Result<_, _>>()?,
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
