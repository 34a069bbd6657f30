//! Frames as clients send them, and every breach of the protocol.

use causeway_fuzz::frames::{LARGE_BYTES, MAX_MESSAGE_BYTES, RAW, write_frame};

/// The settings of the largest limit, and of one of 300 bytes.
const FREE: u8 = 7;
const SHORT: u8 = 3;

/// The inputs by name.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    assert_eq!(MAX_MESSAGE_BYTES[usize::from(SHORT)], 300);
    let message = br#"{"type":"pull","siteId":"A","version":1,"channel":"c"}"#;
    let face = "😀".as_bytes();
    let mut seeds = vec![
        built("text", FREE, &[], &[(0x81, message)]),
        built("binary", FREE, &[], &[(0x82, b"\xff\x00")]),
        built("empty", FREE, &[], &[(0x81, b""), (0x82, b"")]),
        built("two-in-one-piece", FREE, &[200], &[(0x81, message), (0x81, message)]),
        built("in-pieces", FREE, &[1, 5, 2], &[(0x81, message), (0x8a, b"pong"), (0x81, message)]),
        built("ping-and-pong", FREE, &[3], &[(0x89, b"ping"), (0x8a, b"")]),
        built("fragments", FREE, &[7], &[(1, b"ab"), (0, b""), (0x80, b"cd")]),
        built("ping-between-fragments", FREE, &[2], &[(2, b"ab"), (0x89, b"p"), (0x80, b"cd")]),
        built("character-cut-by-fragments", FREE, &[4], &[(1, &face[..2]), (0x80, &face[2..])]),
        built("character-cut-short", FREE, &[], &[(1, b"a"), (0x80, &face[..3])]),
        built("not-utf8", FREE, &[], &[(0x81, b"\xc0\x80")]),
        built("close", FREE, &[1], &[(0x88, b"\x03\xe8done")]),
        built("close-without-code", FREE, &[], &[(0x88, b""), (0x81, b"after")]),
        built("close-of-one-byte", FREE, &[], &[(0x88, b"\x03")]),
        built("close-code-of-none", FREE, &[], &[(0x88, b"\x03\xed")]),
        built("close-code-private", FREE, &[], &[(0x88, b"\x0f\xa0")]),
        built("close-reason-not-utf8", FREE, &[], &[(0x88, b"\x03\xe8\xff")]),
        built("continues-nothing", FREE, &[], &[(0x80, b"a")]),
        built("message-in-message", FREE, &[], &[(1, b"a"), (0x81, b"b")]),
        built("fragmented-ping", FREE, &[], &[(9, b"a")]),
        built("reserved-bit", FREE, &[], &[(0xc1, b"a")]),
        built("reserved-opcode", FREE, &[], &[(0x83, b"a")]),
        raw("not-masked", &[0x81, 1, b'a']),
        raw("head-cut-short", &[0x81, 0xfe, 1]),
        raw("huge-length", &[0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4]),
        raw("announced-and-not-sent", &[0x82, 0xff, 0, 0, 0, 0, 0x10, 0, 0, 0, 1, 2, 3, 4, 5]),
        raw("length-in-two-bytes-of-one", &[0x82, 0xfe, 0, 125, 1, 2, 3, 4]),
        raw("length-in-eight-bytes-of-two", &[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4]),
    ];
    for (n, bytes) in (240..=255).zip(LARGE_BYTES) {
        seeds.push((
            format!("ping-or-text-of-{bytes}"),
            vec![FREE, 1, 254, if bytes < 126 { 0x89 } else { 0x81 }, n, b'x'],
        ));
        if bytes < 1024 {
            seeds.push((format!("limit-300-and-{bytes}"), vec![SHORT, 1, 10, 2, n, b'x', 0x80, 1, b'x']));
        }
    }
    let mut two = Vec::new();
    write_frame(0x81, message, &mut two);
    write_frame(1, b"cut", &mut two);
    seeds.push(raw("as-they-arrive", &two));
    seeds
}

fn built(name: &str, settings: u8, pieces: &[u8], frames: &[(u8, &[u8])]) -> (String, Vec<u8>) {
    let mut input = vec![settings, pieces.len() as u8];
    input.extend(pieces);
    for (first, payload) in frames {
        input.extend([*first, payload.len() as u8]);
        input.extend(*payload);
    }
    (name.into(), input)
}

fn raw(name: &str, bytes: &[u8]) -> (String, Vec<u8>) {
    (name.into(), [&[RAW | FREE, 1, 3], bytes].concat())
}
