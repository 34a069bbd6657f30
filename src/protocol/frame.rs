//! WebSocket frames (RFC 6455): the head of what the server sends, and what a client's bytes mean.
//!
//! fastwebsockets does the handshake, the mask and the head; its reader gives one frame at a time and does not
//! see what RFC 6455 wants refused (unmasked frames, lengths written too long, fragments cut short), so frames are
//! read here: as many as have arrived, with one read.

use fastwebsockets::{Frame, OpCode, Payload, unmask};

/// The longest head of a server's frame, in bytes.
pub const MAX_HEAD_BYTES: usize = 10;

/// The longest payload of a control frame, in bytes (RFC 6455, 5.5).
const MAX_CONTROL_BYTES: usize = 125;

/// Close codes (RFC 6455, 7.4.1) that the server sends.
pub mod close {
    /// All is done.
    pub const NORMAL: u16 = 1000;
    /// The server is going away.
    pub const GOING_AWAY: u16 = 1001;
    /// The client broke the protocol.
    pub const PROTOCOL: u16 = 1002;
    /// A text that is not UTF-8.
    pub const NOT_UTF8: u16 = 1007;
    /// The client broke a rule of the server.
    pub const POLICY: u16 = 1008;
    /// A message over `max_message_bytes`.
    pub const TOO_LARGE: u16 = 1009;
    /// The client is too slow, or should come back later.
    pub const TRY_AGAIN_LATER: u16 = 1013;
}

/// Appends a whole frame.
pub fn write(opcode: OpCode, payload: &[u8], out: &mut Vec<u8>) {
    let mut head = [0; MAX_HEAD_BYTES];
    let len = head_of(opcode, payload, &mut head);
    out.extend_from_slice(&head[..len]);
    out.extend_from_slice(payload);
}

/// Writes the head of a frame with that payload; gives its length.
pub fn head_of(opcode: OpCode, payload: &[u8], head: &mut [u8; MAX_HEAD_BYTES]) -> usize {
    Frame::new(true, opcode, None, Payload::Borrowed(payload)).fmt_head(head)
}

/// Appends a close frame.
pub fn write_close(code: u16, reason: &str, out: &mut Vec<u8>) {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(reason.as_bytes());
    payload.truncate(MAX_CONTROL_BYTES);
    write(OpCode::Close, &payload, out);
}

/// What a client's bytes mean.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A whole message, its fragments put together.
    Message {
        /// The payload.
        payload: Vec<u8>,
        /// Whether it came as text, and so is valid UTF-8.
        text: bool,
    },
    /// A ping to be answered with the same payload.
    Ping(Vec<u8>),
    /// An answer to a ping.
    Pong,
    /// The client closes; the code to answer with.
    Close(u16),
}

/// The client broke the protocol: the code to close with, and why.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Broken {
    /// The close code.
    pub code: u16,
    /// What the client did.
    pub reason: &'static str,
}

/// Collects messages from the bytes of a client: feed it with [`FrameCollector::buffer`], take from it with
/// [`FrameCollector::next_event`].
#[derive(Debug)]
pub struct FrameCollector {
    max_message_bytes: usize,
    buffer: Vec<u8>,
    /// What of `buffer` is used up.
    start: usize,
    message: Vec<u8>,
    /// Frames taken since they were last asked for.
    taken: u64,
    /// The kind of the message whose fragments are being collected.
    collecting: Option<OpCode>,
}

struct Head {
    fin: bool,
    opcode: OpCode,
    mask: [u8; 4],
    head_bytes: usize,
    payload_bytes: usize,
}

impl FrameCollector {
    /// A collector that refuses messages over `max_message_bytes`, however they are cut.
    pub fn new(max_message_bytes: usize) -> Self {
        FrameCollector {
            max_message_bytes,
            buffer: Vec::new(),
            start: 0,
            message: Vec::new(),
            taken: 0,
            collecting: None,
        }
    }

    /// Where received bytes are appended.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// How many more bytes the frame needs that is arriving; 0 if that is not known.
    pub fn wanted(&self) -> usize {
        match self.head() {
            Ok(Some(head)) => {
                (head.head_bytes + head.payload_bytes).saturating_sub(self.buffer.len() - self.start)
            }
            _ => 0,
        }
    }

    /// How many frames were taken since this was last asked, fragments and control frames included.
    pub fn take_count(&mut self) -> u64 {
        std::mem::take(&mut self.taken)
    }

    /// What is held of frames and messages that are not whole yet, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.buffer.capacity() + self.message.capacity()
    }

    /// Lets go of memory that an idle connection does not need.
    pub fn rest(&mut self) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        // The start of a frame behind a large one must not hold on to the large one's memory.
        if self.buffer.len() <= self.buffer.capacity() / 8 {
            self.buffer.shrink_to(2 * self.buffer.len());
        }
        if self.collecting.is_none() {
            self.message = Vec::new();
        }
    }

    /// The next event, or `None` if more bytes are needed.
    ///
    /// # Errors
    /// The client broke the protocol; the connection is to be closed with the code.
    pub fn next_event(&mut self) -> Result<Option<Event>, Broken> {
        loop {
            let Some(head) = self.head()? else { return Ok(None) };
            let payload = self.start + head.head_bytes..self.start + head.head_bytes + head.payload_bytes;
            if self.buffer.len() < payload.end {
                return Ok(None);
            }
            self.start = payload.end;
            self.taken += 1;
            let payload = &mut self.buffer[payload];
            unmask(payload, head.mask);
            match head.opcode {
                OpCode::Ping => return Ok(Some(Event::Ping(payload.to_vec()))),
                OpCode::Pong => return Ok(Some(Event::Pong)),
                OpCode::Close => return closed_with(payload).map(|code| Some(Event::Close(code))),
                OpCode::Text | OpCode::Binary if head.fin => {
                    let text = head.opcode == OpCode::Text;
                    // With room for the decoder's padding, so that it need not move the message.
                    let mut message = Vec::with_capacity(payload.len() + super::decode::PADDING_BYTES);
                    message.extend_from_slice(payload);
                    return whole(message, text).map(Some);
                }
                opcode => {
                    self.message.extend_from_slice(payload);
                    let kind = *self.collecting.get_or_insert(opcode);
                    if head.fin {
                        self.collecting = None;
                        return whole(std::mem::take(&mut self.message), kind == OpCode::Text).map(Some);
                    }
                }
            }
        }
    }

    /// Reads the head of the next frame, if it is there, and checks all that it says.
    fn head(&self) -> Result<Option<Head>, Broken> {
        let bytes = &self.buffer[self.start..];
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        let fin = first & 0x80 != 0;
        if first & 0x70 != 0 {
            return broken("a reserved bit is set and no extension was agreed on");
        }
        let opcode = match first & 0x0f {
            0x0 => OpCode::Continuation,
            0x1 => OpCode::Text,
            0x2 => OpCode::Binary,
            0x8 => OpCode::Close,
            0x9 => OpCode::Ping,
            0xa => OpCode::Pong,
            _ => return broken("a reserved opcode"),
        };
        if second & 0x80 == 0 {
            return broken("a client's frame is not masked");
        }
        let (length_bytes, payload_bytes) = match second & 0x7f {
            126 => match rest.first_chunk::<2>() {
                Some(length) => (2, u64::from(u16::from_be_bytes(*length))),
                None => return Ok(None),
            },
            127 => match rest.first_chunk::<8>() {
                Some(length) => (8, u64::from_be_bytes(*length)),
                None => return Ok(None),
            },
            short => (0, u64::from(short)),
        };
        if (length_bytes == 2 && payload_bytes < 126) || (length_bytes == 8 && payload_bytes <= 0xffff) {
            return broken("a length is not written in its shortest form");
        }
        let control = matches!(opcode, OpCode::Close | OpCode::Ping | OpCode::Pong);
        match opcode {
            _ if control && !fin => return broken("a control frame is fragmented"),
            _ if control && payload_bytes > MAX_CONTROL_BYTES as u64 => {
                return broken("a control frame is longer than 125 bytes");
            }
            OpCode::Continuation if self.collecting.is_none() => {
                return broken("a continuation with nothing to continue");
            }
            OpCode::Text | OpCode::Binary if self.collecting.is_some() => {
                return broken("a new message inside a fragmented one");
            }
            _ => {}
        }
        let message_bytes = payload_bytes.saturating_add(self.message.len() as u64);
        if !control && message_bytes > self.max_message_bytes as u64 {
            return Err(Broken { code: close::TOO_LARGE, reason: "a message is over max_message_bytes" });
        }
        let Some(mask) = rest[length_bytes..].first_chunk::<4>() else { return Ok(None) };
        let head_bytes = 2 + length_bytes + 4;
        Ok(Some(Head { fin, opcode, mask: *mask, head_bytes, payload_bytes: payload_bytes as usize }))
    }
}

fn broken<T>(reason: &'static str) -> Result<T, Broken> {
    Err(Broken { code: close::PROTOCOL, reason })
}

fn whole(payload: Vec<u8>, text: bool) -> Result<Event, Broken> {
    if text && std::str::from_utf8(&payload).is_err() {
        return Err(Broken { code: close::NOT_UTF8, reason: "a text message is not UTF-8" });
    }
    Ok(Event::Message { payload, text })
}

/// The code to answer a client's close frame with: its own (RFC 6455, 5.5.1 and 7.4).
fn closed_with(payload: &[u8]) -> Result<u16, Broken> {
    let [high, low, reason @ ..] = payload else {
        return if payload.is_empty() { Ok(close::NORMAL) } else { broken("a close frame of one byte") };
    };
    if std::str::from_utf8(reason).is_err() {
        return Err(Broken { code: close::NOT_UTF8, reason: "a close reason is not UTF-8" });
    }
    match u16::from_be_bytes([*high, *low]) {
        code @ (1000..=1003 | 1007..=1014 | 3000..=4999) => Ok(code),
        _ => broken("a close code that must not be sent"),
    }
}

#[cfg(test)]
mod tests;
