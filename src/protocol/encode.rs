//! The server's messages, each encoded and framed once into bytes that any number of connections share.

use bytes::Bytes;
use causeway_storage::Cell;
use fastwebsockets::OpCode;

use super::frame::{self, MAX_HEAD_BYTES};
use super::json;
use super::{IncomingUpdate, Refusal};

/// The most that a page has behind its changes, in bytes: version, `more`, a site id, a channel name that is all quotes.
const PAGE_END_MAX_BYTES: usize = 640;

/// What a page begins with.
const PAGE_START: &[u8] = b"{\"type\":\"update\",\"changes\":[";

/// Encodes the messages of one channel: what is the same in all of them is written once.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// `,"siteId":"…","channel":"…"}`
    tail: Box<[u8]>,
    /// `"…"`
    channel: Box<[u8]>,
}

impl Encoder {
    /// An encoder for the channel with that site id.
    pub fn new(channel: &str, site_id: &str) -> Self {
        let mut name = Vec::new();
        json::string(channel, &mut name);
        let mut tail = b",\"siteId\":".to_vec();
        json::string(site_id, &mut tail);
        tail.extend_from_slice(b",\"channel\":");
        tail.extend_from_slice(&name);
        tail.push(b'}');
        Encoder { tail: tail.into(), channel: name.into() }
    }

    /// The greeting of a connection.
    pub fn connected(&self, version: u64) -> Bytes {
        let mut out = Vec::new();
        self.framed(&mut out, |json| {
            json.extend_from_slice(b"{\"type\":\"connected\",\"version\":");
            json::integer(version, json);
            json.extend_from_slice(&self.tail);
        });
        out.into()
    }

    /// Appends the answer to an update that was merged: the channel's version, and the update's own.
    pub fn ack(&self, version: u64, received: u64, out: &mut Vec<u8>) {
        self.framed(out, |json| {
            json.extend_from_slice(b"{\"type\":\"ack\",\"version\":");
            json::integer(version, json);
            json.extend_from_slice(b",\"received\":");
            json::integer(received, json);
            json.extend_from_slice(&self.tail);
        });
    }

    /// Appends the winners of an update, as its sender wrote them.
    pub fn update(&self, update: &IncomingUpdate, winners: &[u32], version: u64, out: &mut Vec<u8>) {
        self.framed(out, |json| {
            json.extend_from_slice(b"{\"type\":\"update\",\"changes\":[");
            update.write_json(winners, json);
            json.extend_from_slice(b"],\"version\":");
            json::integer(version, json);
            json.extend_from_slice(&self.tail);
        });
    }

    /// An error.
    pub fn error_frame(&self, refusal: &Refusal) -> Bytes {
        let mut out = Vec::new();
        self.framed(&mut out, |json| {
            json.extend_from_slice(b"{\"type\":\"error\",\"code\":\"");
            json.extend_from_slice(refusal.code.as_str().as_bytes());
            json.extend_from_slice(b"\",\"message\":");
            json::string(&refusal.message, json);
            if let Some(received) = refusal.received {
                json.extend_from_slice(b",\"received\":");
                json::integer(received, json);
            }
            if let Some(ms) = refusal.retry_after_ms {
                json.extend_from_slice(b",\"retryAfterMs\":");
                json::integer(ms, json);
            }
            json.extend_from_slice(b",\"channel\":");
            json.extend_from_slice(&self.channel);
            json.push(b'}');
        });
        out.into()
    }

    /// Appends a text frame of what `write` writes.
    fn framed(&self, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
        // The head depends on the length of what follows it: leave room for the longest, then close the gap.
        let start = out.len();
        out.extend_from_slice(&[0; MAX_HEAD_BYTES]);
        write(out);
        let mut head = [0; MAX_HEAD_BYTES];
        let head_len = frame::head_of(OpCode::Text, &out[start + MAX_HEAD_BYTES..], &mut head);
        let gap = MAX_HEAD_BYTES - head_len;
        out.copy_within(start + MAX_HEAD_BYTES.., start + head_len);
        out.truncate(out.len() - gap);
        out[start..start + head_len].copy_from_slice(&head[..head_len]);
    }
}

/// A page being written: rows of the store as one `update` message.
#[derive(Debug)]
pub struct PageEncoder {
    /// Room for the frame's head, then the JSON.
    out: Vec<u8>,
    changes: usize,
}

impl Default for PageEncoder {
    fn default() -> Self {
        let mut out = vec![0; MAX_HEAD_BYTES];
        out.extend_from_slice(PAGE_START);
        PageEncoder { out, changes: 0 }
    }
}

impl PageEncoder {
    /// The rows taken in so far.
    pub fn changes(&self) -> usize {
        self.changes
    }

    /// Takes a stored cell in, with the server's version and seq, and says so, unless that makes the page longer than
    /// `max_bytes`. A first cell always fits.
    pub fn push(&mut self, cell: &Cell<'_>, max_bytes: usize) -> bool {
        let before = self.out.len();
        let out = &mut self.out;
        out.extend_from_slice(if self.changes == 0 { b"[" } else { b",[" });
        self.changes += 1;
        for text in [cell.table, cell.pk, cell.cid] {
            json::string(text, out);
            out.push(b',');
        }
        json::value(&cell.val, out);
        for number in [cell.col_version, cell.at.version] {
            out.push(b',');
            json::integer(number, out);
        }
        out.push(b',');
        json::string(cell.site_id, out);
        for number in [cell.cl, cell.at.seq] {
            out.push(b',');
            json::integer(number, out);
        }
        out.push(b']');
        if self.changes > 1 && self.out.len() + PAGE_END_MAX_BYTES > max_bytes {
            self.out.truncate(before);
            self.changes -= 1;
            return false;
        }
        true
    }

    /// The changes as one piece of JSON, with commas between them.
    pub fn into_changes(self) -> Bytes {
        Bytes::from(self.out).slice(MAX_HEAD_BYTES + PAGE_START.len()..)
    }

    /// The page as one frame; without `more` if that is `None`.
    pub fn finish(self, encoder: &Encoder, version: u64, more: Option<bool>) -> Bytes {
        let mut out = self.out;
        out.extend_from_slice(b"],\"version\":");
        json::integer(version, &mut out);
        out.extend_from_slice(match more {
            Some(true) => b",\"more\":true",
            Some(false) => b",\"more\":false",
            None => b"",
        });
        out.extend_from_slice(&encoder.tail);
        let mut head = [0; MAX_HEAD_BYTES];
        let head_len = frame::head_of(OpCode::Text, &out[MAX_HEAD_BYTES..], &mut head);
        let start = MAX_HEAD_BYTES - head_len;
        out[start..MAX_HEAD_BYTES].copy_from_slice(&head[..head_len]);
        Bytes::from(out).slice(start..)
    }
}

#[cfg(test)]
mod tests;
