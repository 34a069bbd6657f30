//! WebSocket frames as bytes, right and wrong ones.

pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xA;

const FIN: u8 = 0x80;
const MASK_BIT: u8 = 0x80;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame of the server's.
#[derive(Debug, Clone)]
pub struct Frame {
    pub fin: bool,
    pub opcode: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code of a close frame, `None` if it has no payload.
    pub fn close_code(&self) -> Option<u16> {
        assert_eq!(self.opcode, CLOSE, "not a close frame: {self:?}");
        self.payload.first_chunk().map(|code| u16::from_be_bytes(*code))
    }

    /// Takes one frame from the front of `buffer`, if it is there as a whole. A frame that no server may send panics.
    pub fn take(buffer: &mut Vec<u8>) -> Option<Self> {
        let (&first, &second) = (buffer.first()?, buffer.get(1)?);
        assert_eq!(first & 0x70, 0, "the server set a reserved bit");
        assert_eq!(second & MASK_BIT, 0, "the server masked a frame");
        let (start, length) = match second {
            126 => (4, usize::from(u16::from_be_bytes(buffer.get(2..4)?.try_into().unwrap()))),
            127 => (10, usize::try_from(u64::from_be_bytes(buffer.get(2..10)?.try_into().unwrap())).unwrap()),
            short => (2, usize::from(short)),
        };
        let minimal = match start {
            2 => true,
            4 => length > 125,
            _ => length > 0xffff,
        };
        assert!(minimal, "the server wrote the length {length} in {start} bytes");
        let payload = buffer.get(start..start + length)?.to_vec();
        buffer.drain(..start + length);
        let frame = Self { fin: first & FIN != 0, opcode: first & 0x0f, payload };
        assert!(frame.opcode < 0x8 || (frame.fin && length <= 125), "a bad control frame: {frame:?}");
        Some(frame)
    }
}

/// How a payload's length is written.
#[derive(Debug, Clone, Copy)]
pub enum Length {
    /// In as few bytes as possible, as the RFC wants it.
    Minimal,
    /// As 126 and two bytes.
    Two,
    /// As 127 and eight bytes.
    Eight,
}

/// A frame from its first byte (FIN, reserved bits, opcode), right or not.
pub fn wire(first: u8, masked: bool, length: Length, payload: &[u8]) -> Vec<u8> {
    let mask_bit = if masked { MASK_BIT } else { 0 };
    let mut bytes = vec![first];
    match (length, payload.len()) {
        (Length::Minimal, n @ 0..=125) => bytes.push(mask_bit | n as u8),
        (Length::Minimal, n @ 126..=0xffff) | (Length::Two, n) => {
            bytes.push(mask_bit | 126);
            bytes.extend((n as u16).to_be_bytes());
        }
        (Length::Minimal | Length::Eight, n) => {
            bytes.push(mask_bit | 127);
            bytes.extend((n as u64).to_be_bytes());
        }
    }
    if masked {
        bytes.extend(MASK);
        let start = bytes.len();
        bytes.extend(payload);
        for four in bytes[start..].chunks_mut(4) {
            four.iter_mut().zip(MASK).for_each(|(byte, mask)| *byte ^= mask);
        }
    } else {
        bytes.extend(payload);
    }
    bytes
}

/// A whole message in one good frame.
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    fragment(opcode, true, payload)
}

/// A good frame, the last of its message or not.
pub fn fragment(opcode: u8, fin: bool, payload: &[u8]) -> Vec<u8> {
    wire(if fin { FIN | opcode } else { opcode }, true, Length::Minimal, payload)
}

/// A close frame with a code and a reason.
pub fn close_frame(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(CLOSE, &[&code.to_be_bytes(), reason].concat())
}
