//! Finds the messages in one direction of a connection's bytes, as they pass.

use super::MESSAGE_BYTES_MAX;
use crate::frame::{self, Opcode};

/// A message's buffer above this is given back when the message is over.
const KEPT_BYTES_MAX: usize = 16 * 1024;

/// What has come so far. It holds one unfinished message, of at most [`MESSAGE_BYTES_MAX`].
#[derive(Debug, Default)]
pub(super) struct Tap {
    /// The beginning of a frame's head and mask: at most 14 bytes.
    head: Vec<u8>,
    frame: Option<Frame>,
    payload: Vec<u8>,
    /// The message's length so far, also where its payload is not kept.
    bytes: u64,
    /// It is compressed, or too long.
    is_opaque: bool,
}

/// A frame whose payload is passing.
#[derive(Debug)]
struct Frame {
    left: u64,
    /// The mask, turned so that it begins with the next byte.
    mask: [u8; 4],
    is_control: bool,
    fin: bool,
}

impl Tap {
    /// Takes the next bytes; hands out the length and the payload of each message that ends in them. The payload of one
    /// that is compressed or above the limit is None.
    pub(super) fn take(&mut self, mut bytes: &[u8], mut on_message: impl FnMut(u64, Option<&[u8]>)) {
        while let [next, rest @ ..] = bytes {
            match &mut self.frame {
                // A head is short.
                None => {
                    self.head.push(*next);
                    bytes = rest;
                    self.begin();
                }
                Some(frame) => {
                    let now = frame.left.min(bytes.len() as u64) as usize;
                    let (payload, rest) = bytes.split_at(now);
                    bytes = rest;
                    frame.left -= now as u64;
                    let mask = frame.mask;
                    frame.mask.rotate_left(now % 4);
                    if !frame.is_control {
                        self.bytes += now as u64;
                        self.keep(payload, mask);
                    }
                }
            }
            if let Some(frame) = self.frame.take_if(|frame| frame.left == 0)
                && frame.fin
                && !frame.is_control
            {
                on_message(self.bytes, (!self.is_opaque).then_some(&self.payload));
                (self.bytes, self.is_opaque) = (0, false);
                self.payload.clear();
                self.payload.shrink_to(KEPT_BYTES_MAX);
            }
        }
    }

    /// Begins a frame, if its head and mask are complete.
    fn begin(&mut self) {
        let Ok(head) = frame::head(&self.head) else { return };
        let mask = match self.head[head.end..] {
            _ if !head.masked => [0; 4],
            [a, b, c, d] => [a, b, c, d],
            _ => return,
        };
        let is_control = !matches!(head.opcode, Some(Opcode::Text | Opcode::Binary | Opcode::Continuation));
        self.is_opaque |= head.reserved && !is_control;
        self.frame = Some(Frame { left: head.len, mask, is_control, fin: head.fin });
        self.head.clear();
    }

    fn keep(&mut self, payload: &[u8], mask: [u8; 4]) {
        if self.bytes > MESSAGE_BYTES_MAX as u64 {
            self.is_opaque = true;
        }
        if self.is_opaque {
            return;
        }
        let at = self.payload.len();
        self.payload.extend_from_slice(payload);
        frame::apply_mask(&mut self.payload[at..], u32::from_ne_bytes(mask));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// A frame of the payload, of which only the first byte is special.
    fn frame(first: u8, payload: &[u8], mask: Option<u32>) -> Vec<u8> {
        let mut out = Vec::new();
        frame::write_masked(&mut out, Opcode::Text, payload, mask.unwrap_or(1));
        out[0] = first;
        if mask.is_none() {
            let at = out.len() - payload.len();
            out.drain(at - 4..at);
            out[1] &= 0x7f;
            out[at - 4..].copy_from_slice(payload);
        }
        out
    }

    fn messages(tap: &mut Tap, bytes: &[u8]) -> Vec<(u64, Option<Vec<u8>>)> {
        let mut found = Vec::new();
        tap.take(bytes, |bytes, payload| found.push((bytes, payload.map(<[u8]>::to_vec))));
        found
    }

    #[test]
    fn messages_are_found_however_the_bytes_are_cut() {
        let mut rng = Rng::new(1);
        for round in 0..200 {
            let mask = || (round % 2 == 0).then_some(0x9a3b_c5d7 ^ round);
            let long = vec![b'l'; 70_000];
            let stream = [
                frame(0x81, b"text", mask()),
                frame(0x01, b"in ", mask()),
                frame(0x89, b"a ping between", mask()),
                frame(0x00, b"three ", mask()),
                frame(0x80, b"parts", mask()),
                frame(0x82, b"", mask()),
                frame(0xc1, b"compressed", mask()),
                frame(0x8a, b"", mask()),
                frame(0x82, &long, mask()),
                frame(0x88, b"\x03\xe8", mask()),
                frame(0x81, b"after", mask()),
            ]
            .concat();
            let some = |text: &[u8]| (text.len() as u64, Some(text.to_vec()));
            let expected =
                [some(b"text"), some(b"in three parts"), some(b""), (10, None), some(&long), some(b"after")];
            let (mut tap, mut rest, mut found) = (Tap::default(), &stream[..], Vec::new());
            while !rest.is_empty() {
                let most = if round % 3 == 0 { 3 } else { 40_000 };
                let now = (1 + rng.below(most) as usize).min(rest.len());
                found.extend(messages(&mut tap, &rest[..now]));
                rest = &rest[now..];
            }
            assert!(found == expected, "round {round}");
            assert!(tap.payload.capacity() <= KEPT_BYTES_MAX);
        }
    }

    #[test]
    fn a_message_without_an_end_takes_no_memory_without_one() {
        let mut tap = Tap::default();
        let mut head = vec![0x82, 127];
        head.extend((1_u64 << 40).to_be_bytes());
        assert_eq!(messages(&mut tap, &head), []);
        let chunk = vec![0; 1 << 20];
        for _ in 0..40 {
            assert_eq!(messages(&mut tap, &chunk), []);
        }
        assert!(tap.payload.capacity() <= 2 * MESSAGE_BYTES_MAX);
        assert_eq!(tap.bytes, 40 << 20);
    }
}
