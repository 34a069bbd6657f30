//! The frame collector, fed in every kind of piece, against [`crate::naive`].
//!
//! An input is a byte of settings (the low three bits choose `max_message_bytes`, 8 is not to rest between pieces, 128 is raw), a byte
//! that counts pieces (its low four bits; what is left is one more), the pieces' sizes, and then: if raw, the bytes as they arrive; else frames, each the
//! first byte of its head, a byte of its size, and its payload, which are masked and given their length, so that the
//! fuzzer need not find these out.

use std::alloc::System;
use std::iter::{once, repeat};

use cap::Cap;
use causeway::protocol::frame::{Event, FrameCollector};

use crate::naive::{self, Reading};

/// Counts the memory that a collector holds.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// The values of `max_message_bytes`, in bytes.
pub const MAX_MESSAGE_BYTES: [usize; 8] = [0, 1, 125, 300, 1024, 65_535, 65_536, 1 << 30];

/// The settings' bit for bytes that are no frames.
pub const RAW: u8 = 0x80;

/// The settings' bit for a collector that is never told to rest.
pub const RESTLESS: u8 = 8;

/// A frame's sizes from 240 on stand for these, in bytes, all of them the same byte.
pub const LARGE_BYTES: [usize; 16] =
    [124, 125, 126, 127, 299, 300, 301, 1023, 1024, 1025, 4000, 8192, 65_534, 65_535, 65_536, 65_537];

/// The longest head of a client's frame and the longest payload of a control frame, in bytes.
const MAX_HEAD_BYTES: usize = 14;
const MAX_CONTROL_BYTES: usize = 125;

/// The frames of an input end behind this many bytes: time is better spent on short ones.
const BUILT_MAX_BYTES: usize = 70_000;

/// Inputs up to this are also fed byte by byte.
const BYTE_BY_BYTE_MAX_BYTES: usize = 1024;

/// The fuzz target.
pub fn check(input: &[u8]) {
    let [settings, count, rest @ ..] = input else { return };
    let Some((pieces, rest)) = rest.split_at_checked(usize::from(count & 15)) else { return };
    let max = MAX_MESSAGE_BYTES[usize::from(settings & 7)];
    let bytes = if settings & RAW == 0 { built(rest) } else { rest.to_vec() };
    let expected = naive::read(&bytes, max);

    feed(&bytes, max, once(bytes.len()), false, &expected);
    let pieces = pieces.iter().map(|size| piece_bytes(*size)).chain(once(bytes.len()));
    feed(&bytes, max, pieces, settings & RESTLESS == 0, &expected);
    if bytes.len() <= BYTE_BY_BYTE_MAX_BYTES {
        feed(&bytes, max, repeat(1), true, &expected);
    }
}

/// The size of a piece, in bytes: small ones exactly, others up to more than one read of the server.
fn piece_bytes(size: u8) -> usize {
    match usize::from(size) {
        small @ ..200 => small,
        large => (large - 199) * 1500,
    }
}

/// The frames of an input that is not raw.
fn built(mut input: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let [first, size, rest @ ..] = input
        && bytes.len() < BUILT_MAX_BYTES
    {
        let payload = if let Some(large) = size.checked_sub(240) {
            let (byte, after) = rest.split_first().unwrap_or((&b'x', &[]));
            input = after;
            vec![*byte; LARGE_BYTES[usize::from(large)]]
        } else {
            let (payload, after) = rest.split_at(rest.len().min(usize::from(*size)));
            input = after;
            payload.to_vec()
        };
        write_frame(*first, &payload, &mut bytes);
    }
    bytes
}

/// Appends a client's frame: masked, its length in the shortest form.
pub fn write_frame(first: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(first);
    match payload.len() {
        len @ 0..126 => out.push(0x80 | len as u8),
        len @ 126..65_536 => {
            out.push(0x80 | 126);
            out.extend((len as u16).to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend((len as u64).to_be_bytes());
        }
    }
    let mask = [first ^ 0x5a, payload.len() as u8, 0, 0xff];
    out.extend(mask);
    out.extend(payload.iter().enumerate().map(|(n, byte)| byte ^ mask[n & 3]));
}

/// Feeds a collector; what it says, wants and holds must be as expected after every piece.
fn feed(bytes: &[u8], max: usize, pieces: impl Iterator<Item = usize>, rests: bool, expected: &Reading) {
    let held_before = ALLOCATOR.allocated();
    let mut frames = FrameCollector::new(max);
    let mut events = expected.events.iter().peekable();
    let (mut fed, mut largest_piece) = (0, 0);
    for piece in pieces {
        let piece = piece.clamp(1, bytes.len().max(1)).min(bytes.len() - fed);
        frames.buffer().extend_from_slice(&bytes[fed..fed + piece]);
        fed += piece;
        largest_piece = piece.max(largest_piece);
        loop {
            match frames.next_event() {
                Ok(None) => break,
                Ok(Some(event)) => {
                    let next = events.next();
                    assert_eq!(Some(&event), next.map(|(event, _)| event), "after {fed} bytes");
                    if matches!(event, Event::Close(_)) {
                        return;
                    }
                }
                Err(broken) => {
                    assert_eq!(Some(broken.code), expected.refused, "{broken} after {fed} bytes");
                    assert_eq!(events.next(), None, "before {broken}");
                    return;
                }
            }
        }
        assert!(events.peek().is_none_or(|(_, due)| *due > fed), "{:?} is due at {fed}", events.peek());
        let frame = expected.frames.get(expected.frames.partition_point(|(_, end)| *end <= fed));
        let wanted = frame.filter(|(head, _)| *head <= fed).map_or(0, |(_, end)| end - fed);
        assert_eq!(frames.wanted(), wanted, "after {fed} bytes");
        if rests {
            frames.rest();
            let frame_max = MAX_HEAD_BYTES + max.max(MAX_CONTROL_BYTES);
            assert!(frames.buffer().len() < frame_max, "{} bytes are buffered", frames.buffer().len());
            // A vector doubles: the buffer holds a frame that has not ended and one read, the message its fragments.
            let held = ALLOCATOR.allocated() - held_before;
            assert!(held <= 2 * (frame_max + largest_piece + max), "{held} bytes are held");
            let between_messages = expected.rests.binary_search(&fed).is_ok();
            assert!(held == 0 || !between_messages, "{held} bytes are held between messages");
        }
        if fed == bytes.len() {
            assert_eq!((expected.refused, events.next()), (None, None), "all is fed");
            return;
        }
    }
}
