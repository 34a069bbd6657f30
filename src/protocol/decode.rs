//! Bytes of a message to a checked [`Incoming`]: simd-json's tape, walked by hand.
//!
//! The tape lies in buffers that a thread keeps, so a message costs the allocations of its [`IncomingUpdate`] and no
//! others.

use std::cell::RefCell;
use std::collections::HashSet;

use causeway_storage::SENTINEL;
use simd_json::{Buffers, Node, StaticNode, Tape};

use super::json;
use super::update::{ChangeSpans, IncomingUpdate, Span, ValueSpan};
use super::{Code, Incoming, Refusal};

/// The highest integer of the contract: 2^53 - 1, the last that JavaScript counts exactly.
pub const MAX_INTEGER: u64 = (1 << 53) - 1;

/// What the decoder appends to a message, in bytes.
pub const PADDING_BYTES: usize = simd_json::INPUT_PADDING;

/// Levels of nesting that a message may have.
pub const MAX_NESTING: usize = 64;

/// The longest table and column name, in bytes.
pub const MAX_IDENTIFIER_BYTES: usize = 255;

/// The longest row key, in bytes.
pub const MAX_PK_BYTES: usize = 4096;

/// The longest site id, in bytes.
pub const MAX_SITE_ID_BYTES: usize = 64;

/// The longest token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// The largest message whose parse buffers a thread keeps for the next one, in bytes.
const KEEP_BUFFERS_BYTES: usize = 256 * 1024;

/// Objects with more keys than this are checked for duplicates with a set.
const FEW_KEYS: usize = 16;

/// What a message is checked against beside the fixed bounds.
#[derive(Clone, Copy, Debug)]
pub struct DecodeRules<'a> {
    /// The most changes in one update.
    pub max_changes: usize,
    /// The connection's channel, if a message that names another is to be refused.
    pub strict_channel: Option<&'a str>,
}

/// Decodes one message. `bytes` are parsed in place and are of no further use.
///
/// # Errors
/// A [`Refusal`] for the sender, naming what is wrong and where.
pub fn decode(bytes: &mut Vec<u8>, rules: DecodeRules<'_>) -> Result<Incoming, Refusal> {
    let len = bytes.len();
    parsed(bytes, |nodes| message(nodes, len, rules))
}

/// Decodes the changes of another node's message, with their `siteId` and `version`, whatever its `type` and their number.
/// `bytes` are parsed in place and are of no further use.
///
/// # Errors
/// A [`Refusal`] that names what is wrong and where.
pub fn decode_changes(bytes: &mut Vec<u8>) -> Result<Box<IncomingUpdate>, Refusal> {
    let len = bytes.len();
    parsed(bytes, |nodes| update(nodes, &Fields::of(nodes)?, len, usize::MAX))
}

fn parsed<T>(
    bytes: &mut Vec<u8>,
    read: impl FnOnce(&[Node<'_>]) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    thread_local! {
        static KEPT: RefCell<(Buffers, Tape<'static>)> = RefCell::new(fresh());
    }
    let len = bytes.len();
    bytes.resize(len + PADDING_BYTES, 0);
    if len > KEEP_BUFFERS_BYTES {
        return parse(bytes, len, &mut fresh(), read);
    }
    KEPT.with_borrow_mut(|kept| parse(bytes, len, kept, read))
}

fn fresh() -> (Buffers, Tape<'static>) {
    (Buffers::with_max_depth(0, MAX_NESTING), Tape(Vec::new()))
}

fn parse<T>(
    bytes: &mut [u8],
    len: usize,
    (buffers, kept): &mut (Buffers, Tape<'static>),
    read: impl FnOnce(&[Node<'_>]) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let mut tape = std::mem::replace(kept, Tape(Vec::new())).reset();
    let result = simd_json::fill_tape_padded(bytes, len, buffers, &mut tape)
        .map_err(|e| malformed(format!("not JSON: {e}")))
        .and_then(|()| read(&tape.0));
    *kept = tape.reset();
    result
}

fn malformed(message: impl Into<String>) -> Refusal {
    Refusal::new(Code::Malformed, message)
}

/// The places of a message's fields.
#[derive(Default)]
struct Fields {
    kind: Option<usize>,
    site_id: Option<usize>,
    version: Option<usize>,
    channel: Option<usize>,
    changes: Option<usize>,
    token: Option<usize>,
}

impl Fields {
    fn of(nodes: &[Node<'_>]) -> Result<Self, Refusal> {
        if !matches!(nodes.first(), Some(Node::Object { .. })) {
            return Err(malformed("a message is a JSON object"));
        }
        no_duplicate_keys(nodes)?;
        let mut fields = Fields::default();
        for (key, at) in entries(nodes, 0) {
            match key {
                "type" => fields.kind = Some(at),
                "siteId" => fields.site_id = Some(at),
                "version" => fields.version = Some(at),
                "channel" => fields.channel = Some(at),
                "changes" => fields.changes = Some(at),
                "token" => fields.token = Some(at),
                _ => {}
            }
        }
        Ok(fields)
    }

    fn version(&self, nodes: &[Node<'_>]) -> Result<u64, Refusal> {
        let version = self.version.and_then(|at| integer(&nodes[at]));
        version.ok_or_else(|| malformed(format!("version: must be an integer from 0 to {MAX_INTEGER}")))
    }
}

fn text<'s>(nodes: &[Node<'s>], at: Option<usize>) -> Option<&'s str> {
    match at.map(|at| nodes[at]) {
        Some(Node::String(s)) => Some(s),
        _ => None,
    }
}

fn message(nodes: &[Node<'_>], len: usize, rules: DecodeRules<'_>) -> Result<Incoming, Refusal> {
    let fields = Fields::of(nodes)?;
    let Some(kind) = text(nodes, fields.kind) else {
        return Err(malformed("type: a message has one, a string"));
    };
    let received = fields.version(nodes).ok().filter(|_| kind == "update");
    let refuse = |code, message: String| Err(Refusal { received, ..Refusal::new(code, message) });
    if let (Some(ours), Some(theirs)) = (rules.strict_channel, text(nodes, fields.channel))
        && ours != theirs
    {
        return refuse(
            Code::WrongChannel,
            format!("channel: this connection is for {ours:?}, as its URL says"),
        );
    }
    match kind {
        "update" => update(nodes, &fields, len, rules.max_changes).map(Incoming::Update),
        "pull" => Ok(Incoming::Pull { version: fields.version(nodes)? }),
        "auth" => match text(nodes, fields.token) {
            Some(token) if token.len() <= MAX_TOKEN_BYTES => {
                Ok(Incoming::Auth { token: token.to_owned().into() })
            }
            _ => Err(malformed(format!("token: must be a string of at most {MAX_TOKEN_BYTES} bytes"))),
        },
        other => {
            let other: String = other.chars().take(32).collect();
            refuse(Code::UnknownType, format!("type: {other:?} is none of update, pull, auth"))
        }
    }
}

/// The changes of a message of `len` bytes.
fn update(
    nodes: &[Node<'_>],
    fields: &Fields,
    len: usize,
    max_changes: usize,
) -> Result<Box<IncomingUpdate>, Refusal> {
    let version = fields.version(nodes)?;
    let refuse = |code, message: String| Err(Refusal::new(code, message).of_update(version));
    let site_id = match text(nodes, fields.site_id) {
        Some(s) if (1..=MAX_SITE_ID_BYTES).contains(&s.len()) => s,
        _ => {
            let message = format!("siteId: must be a string of 1 to {MAX_SITE_ID_BYTES} bytes");
            return refuse(Code::Malformed, message);
        }
    };
    let Some((at, Node::Array { len: count, .. })) = fields.changes.map(|at| (at, nodes[at])) else {
        return refuse(Code::Malformed, "changes: must be an array".into());
    };
    if count > max_changes {
        let message = format!("changes: {count}, the most is {max_changes}; send fewer at once");
        return refuse(Code::TooManyChanges, message);
    }
    let mut update = IncomingUpdate {
        version,
        site_id: Span::default(),
        text: String::with_capacity(len.min(count * 96 + 64)),
        blobs: Vec::new(),
        json: Vec::with_capacity(len),
        changes: Vec::with_capacity(count),
    };
    update.site_id = update.push_text(site_id);
    let mut next = at + 1;
    for index in 0..count {
        if let Err(message) = update.push_change(&nodes[next..]) {
            // Of the change itself, or of a field of it.
            let dot = if message.starts_with(' ') { "" } else { "." };
            return refuse(Code::InvalidChange, format!("changes[{index}]{dot}{message}"));
        }
        next = after(nodes, next);
    }
    Ok(Box::new(update))
}

/// The place behind the value at `at`.
fn after(nodes: &[Node<'_>], at: usize) -> usize {
    at + 1
        + match nodes[at] {
            Node::Object { count, .. } | Node::Array { count, .. } => count,
            Node::String(_) | Node::Static(_) => 0,
        }
}

/// The keys of the object at `at`, each with the place of its value.
fn entries<'n, 's>(nodes: &'n [Node<'s>], at: usize) -> impl Iterator<Item = (&'s str, usize)> + use<'n, 's> {
    let len = match nodes[at] {
        Node::Object { len, .. } => len,
        _ => 0,
    };
    let mut next = at + 1;
    (0..len).filter_map(move |_| {
        let Node::String(key) = nodes[next] else { return None };
        let value = next + 1;
        next = after(nodes, value);
        Some((key, value))
    })
}

/// A tape keeps them all; whoever reads the first and whoever reads the last would see two messages.
fn no_duplicate_keys(nodes: &[Node<'_>]) -> Result<(), Refusal> {
    for (at, node) in nodes.iter().enumerate() {
        let Node::Object { len, .. } = *node else { continue };
        let duplicate = if len <= FEW_KEYS {
            entries(nodes, at)
                .enumerate()
                .find(|(n, (key, _))| entries(nodes, at).take(*n).any(|(k, _)| k == *key))
                .map(|(_, (key, _))| key)
        } else {
            let mut seen = HashSet::with_capacity(len);
            entries(nodes, at).map(|(key, _)| key).find(|key| !seen.insert(*key))
        };
        if let Some(key) = duplicate {
            let key: String = key.chars().take(32).collect();
            return Err(malformed(format!("the key {key:?} stands twice in one object")));
        }
    }
    Ok(())
}

fn integer(node: &Node<'_>) -> Option<u64> {
    let i = match *node {
        Node::Static(StaticNode::I64(i)) => u64::try_from(i).ok()?,
        Node::Static(StaticNode::U64(i)) => i,
        _ => return None,
    };
    (i <= MAX_INTEGER).then_some(i)
}

impl IncomingUpdate {
    fn push_text(&mut self, text: &str) -> Span {
        let start = self.text.len();
        self.text.push_str(text);
        Span::new(start..self.text.len())
    }

    /// Like [`Self::push_text`] for a text that is mostly the one before.
    fn push_repeated(&mut self, text: &str, before: impl FnOnce(&ChangeSpans) -> Span) -> Span {
        match self.changes.last().map(before) {
            Some(span) if &self.text[span.range()] == text => span,
            _ => self.push_text(text),
        }
    }

    /// Checks the change that starts the tape and takes it in; else says what is wrong, starting with the field.
    fn push_change(&mut self, tape: &[Node<'_>]) -> Result<(), String> {
        if !matches!(tape[0], Node::Array { len: 9, .. }) {
            return Err(
                " must be an array of nine: [table, pk, cid, val, col_version, db_version, site_id, cl, seq]"
                    .into(),
            );
        }
        let val_at = 4;
        let rest = after(tape, val_at);
        let text = |field: &str, at: usize, max: usize, nul_allowed: bool| match tape[at] {
            Node::String(s) if (1..=max).contains(&s.len()) && (nul_allowed || !s.contains('\0')) => Ok(s),
            Node::String(s) if s.len() <= max && !s.is_empty() => {
                Err(format!("{field}: must not contain NUL"))
            }
            _ => Err(format!("{field}: must be a string of 1 to {max} bytes")),
        };
        let number = |field: &str, at: usize, min: u64| {
            integer(&tape[at])
                .filter(|i| *i >= min)
                .ok_or_else(|| format!("{field}: must be an integer from {min} to {MAX_INTEGER}"))
        };
        let table = text("table", 1, MAX_IDENTIFIER_BYTES, false)?;
        let pk = text("pk", 2, MAX_PK_BYTES, true)?;
        let cid = text("cid", 3, MAX_IDENTIFIER_BYTES, false)?;
        let col_version = number("col_version", rest, 0)?;
        let db_version = number("db_version", rest + 1, 0)?;
        let site_id = text("site_id", rest + 2, MAX_SITE_ID_BYTES, true)?;
        let cl = number("cl", rest + 3, 1)?;
        let seq = number("seq", rest + 4, 0)?;

        // The real engine takes what is refused here and corrupts its state (`cr-sqlite-facts.md`).
        if cid == SENTINEL {
            if !matches!(tape[val_at], Node::Static(StaticNode::Null)) {
                return Err("val: a sentinel (cid \"-1\") has null".into());
            }
            if col_version != cl {
                return Err("col_version: a sentinel's (cid \"-1\") is its cl".into());
            }
        } else if cl % 2 == 0 {
            return Err("cl: of a cell must be odd; a delete is a sentinel (cid \"-1\")".into());
        }

        if !self.json.is_empty() {
            self.json.push(b',');
        }
        let start = self.json.len();
        self.json.push(b'[');
        json::string(table, &mut self.json);
        self.json.push(b',');
        json::string(pk, &mut self.json);
        self.json.push(b',');
        json::string(cid, &mut self.json);
        self.json.push(b',');
        let val = self.push_value(&tape[val_at..])?;
        for number in [col_version, db_version] {
            self.json.push(b',');
            json::integer(number, &mut self.json);
        }
        self.json.push(b',');
        json::string(site_id, &mut self.json);
        for number in [cl, seq] {
            self.json.push(b',');
            json::integer(number, &mut self.json);
        }
        self.json.push(b']');

        let change = ChangeSpans {
            table: self.push_repeated(table, |before| before.table),
            pk: self.push_repeated(pk, |before| before.pk),
            cid: self.push_text(cid),
            site_id: self.push_repeated(site_id, |before| before.site_id),
            val,
            col_version,
            db_version,
            cl,
            seq,
            json: Span::new(start..self.json.len()),
        };
        self.changes.push(change);
        Ok(())
    }

    /// Takes the value in that starts the tape, and writes it as it will be forwarded.
    fn push_value(&mut self, tape: &[Node<'_>]) -> Result<ValueSpan, String> {
        let refused =
            || Err("val: must be null, a number, a string, a boolean or {\"$blob\": \"<hex>\"}".to_owned());
        let (val, wire) = match tape[0] {
            Node::Static(StaticNode::Null) => (ValueSpan::Null, causeway_storage::Value::Null),
            Node::Static(StaticNode::Bool(b)) => {
                (ValueSpan::Integer(b.into()), causeway_storage::Value::Integer(b.into()))
            }
            Node::Static(StaticNode::I64(i)) => (ValueSpan::Integer(i), causeway_storage::Value::Integer(i)),
            // SQLite takes an integer that needs more than 64 bits as a real, and so do its clients.
            Node::Static(StaticNode::U64(u)) => match i64::try_from(u) {
                Ok(i) => (ValueSpan::Integer(i), causeway_storage::Value::Integer(i)),
                Err(_) => (ValueSpan::Real(u as f64), causeway_storage::Value::Real(u as f64)),
            },
            Node::Static(StaticNode::F64(r)) if r.is_finite() => {
                (ValueSpan::Real(r), causeway_storage::Value::Real(r))
            }
            Node::Static(StaticNode::F64(_)) => return Err("val: beyond what a double holds".into()),
            Node::String(s) => (ValueSpan::Text(self.push_text(s)), causeway_storage::Value::Text(s)),
            Node::Object { len: 1, .. } => match (&tape[1], &tape[2]) {
                (Node::String("$blob"), Node::String(hex)) => {
                    let start = self.blobs.len();
                    if !push_unhex(hex, &mut self.blobs) {
                        return Err("val: $blob must be an even number of hex digits".into());
                    }
                    self.json.extend_from_slice(b"{\"$blob\":");
                    json::string(hex, &mut self.json);
                    self.json.push(b'}');
                    return Ok(ValueSpan::Blob(Span::new(start..self.blobs.len())));
                }
                _ => return refused(),
            },
            Node::Object { .. } | Node::Array { .. } => return refused(),
        };
        json::value(&wire, &mut self.json);
        Ok(val)
    }
}

/// Appends the bytes that the hexadecimal digits stand for; `false` if they are none, or their number is odd.
pub(crate) fn push_unhex(hex: &str, out: &mut Vec<u8>) -> bool {
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let (pairs, odd) = hex.as_bytes().as_chunks::<2>();
    odd.is_empty()
        && pairs.iter().all(|[high, low]| match (digit(*high), digit(*low)) {
            (Some(high), Some(low)) => {
                out.push(high << 4 | low);
                true
            }
            _ => false,
        })
}

#[cfg(test)]
mod tests;
