//! RFC 6455 frames, as a client needs them: writing masked ones, finding unmasked ones in a buffer; and any frame's head.

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

/// A frame found at the start of a buffer; its payload lies at `payload_at..end`, the next frame at `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) fin: bool,
    pub(crate) opcode: Opcode,
    pub(crate) payload_at: usize,
    pub(crate) end: usize,
}

/// What the start of a buffer holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A whole frame.
    Whole(Frame),
    /// Part of a frame; `need` bytes are known to be needed before it is worth looking again.
    Part { need: usize },
}

/// Frames above this are refused: no server sends one on purpose, and the length would be reserved.
pub(crate) const FRAME_BYTES_MAX: u64 = 2 << 30;

/// A frame's first bytes, without its mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) fin: bool,
    /// A bit that only an extension may set, such as compression.
    pub(crate) reserved: bool,
    /// None for one that RFC 6455 does not know.
    pub(crate) opcode: Option<Opcode>,
    /// Whether a mask of four bytes follows.
    pub(crate) masked: bool,
    /// The payload's.
    pub(crate) len: u64,
    /// Where the head ends: the mask or the payload begins.
    pub(crate) end: usize,
}

/// Reads the head at the start of `buf`; else says how many bytes are needed before it is worth looking again.
pub(crate) fn head(buf: &[u8]) -> Result<Head, usize> {
    let &[b0, b1, ref rest @ ..] = buf else { return Err(2) };
    let opcode = match b0 & 0x0f {
        0 => Some(Opcode::Continuation),
        1 => Some(Opcode::Text),
        2 => Some(Opcode::Binary),
        8 => Some(Opcode::Close),
        9 => Some(Opcode::Ping),
        10 => Some(Opcode::Pong),
        _ => None,
    };
    let (len, end) = match b1 & 0x7f {
        126 => (u64::from(u16::from_be_bytes(*rest.first_chunk::<2>().ok_or(4_usize)?)), 4),
        127 => (u64::from_be_bytes(*rest.first_chunk::<8>().ok_or(10_usize)?), 10),
        len => (u64::from(len), 2),
    };
    Ok(Head { fin: b0 & 0x80 != 0, reserved: b0 & 0x70 != 0, opcode, masked: b1 & 0x80 != 0, len, end })
}

/// Finds the frame at the start of `buf`.
pub(crate) fn find(buf: &[u8]) -> Result<Found, &'static str> {
    let Head { fin, reserved, opcode, masked, len, end: payload_at } = match head(buf) {
        Ok(head) => head,
        Err(need) => return Ok(Found::Part { need }),
    };
    if reserved {
        return Err("a reserved bit is set");
    }
    if masked {
        return Err("a server frame is masked");
    }
    let opcode = opcode.ok_or("an unknown opcode")?;
    if len > FRAME_BYTES_MAX {
        return Err("a frame is larger than 2 GiB");
    }
    let end = payload_at + len as usize;
    if buf.len() < end {
        return Ok(Found::Part { need: end });
    }
    Ok(Found::Whole(Frame { fin, opcode, payload_at, end }))
}

/// Appends one whole masked frame to `out`.
///
/// The mask is never zero: some servers skip unmasking then, which would flatter them.
pub(crate) fn write_masked(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: u32) {
    let mask = mask | 1;
    out.reserve(payload.len() + 14);
    out.push(
        0x80 | match opcode {
            Opcode::Continuation => 0,
            Opcode::Text => 1,
            Opcode::Binary => 2,
            Opcode::Close => 8,
            Opcode::Ping => 9,
            Opcode::Pong => 10,
        },
    );
    match payload.len() {
        len @ 0..=125 => out.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask.to_ne_bytes());
    let at = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[at..], mask);
}

/// XORs with the repeated mask, eight bytes at a time.
pub(crate) fn apply_mask(bytes: &mut [u8], mask: u32) {
    let wide = u64::from(mask) | u64::from(mask) << 32;
    let mut chunks = bytes.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let word = u64::from_ne_bytes(chunk.try_into().expect("chunks_exact gives 8 bytes")) ^ wide;
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    for (byte, mask) in chunks.into_remainder().iter_mut().zip(wide.to_ne_bytes()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        match payload.len() {
            len @ 0..=125 => out.push(len as u8),
            len @ 126..=0xffff => {
                out.push(126);
                out.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                out.push(127);
                out.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        out.extend_from_slice(payload);
        out
    }

    #[test]
    fn finds_frames_of_every_length_class_and_asks_for_the_rest() {
        for len in [0, 1, 125, 126, 127, 65_535, 65_536, 100_000] {
            let frame = server_frame(0x81, &vec![b'x'; len]);
            for cut in [0, 1, 2, 3, 5, 9, frame.len() - 1] {
                if cut < frame.len() {
                    let Ok(Found::Part { need }) = find(&frame[..cut]) else { panic!("{len} {cut}") };
                    assert!(need > cut && need <= frame.len());
                }
            }
            let Ok(Found::Whole(found)) = find(&frame) else { panic!("{len}") };
            assert!(found.fin && found.opcode == Opcode::Text);
            assert_eq!((found.end, found.end - found.payload_at), (frame.len(), len));
        }
    }

    #[test]
    fn refuses_what_a_server_must_not_send() {
        assert!(find(&[0x81, 0x81, 0, 0]).is_err(), "masked");
        assert!(find(&[0xc1, 0]).is_err(), "reserved bit: nothing was negotiated");
        assert!(find(&[0x83, 0]).is_err(), "unknown opcode");
        assert!(find(&[0x81, 127, 0xff, 0, 0, 0, 0, 0, 0, 0]).is_err(), "absurd length");
    }

    #[test]
    fn masked_frames_unmask_to_what_was_written() {
        for len in [0, 1, 7, 8, 9, 125, 126, 65_536] {
            let payload: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let mut out = Vec::new();
            write_masked(&mut out, Opcode::Text, &payload, 0);
            assert_eq!(out[0], 0x81);
            assert_eq!(out[1] & 0x80, 0x80, "the mask bit");
            let at = out.len() - len;
            let mask: [u8; 4] = out[at - 4..at].try_into().expect("four bytes");
            assert_ne!(mask, [0; 4]);
            let clear: Vec<u8> = out[at..].iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m).collect();
            assert_eq!(clear, payload);
        }
    }
}
