#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

const MAX: usize = 300;

/// A client's frame: masked, its length in the shortest form.
fn client_frame(first: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
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
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

/// What comes out when the bytes arrive in pieces that end at `cuts`, up to the first error.
fn events(max: usize, bytes: &[u8], cuts: &[usize], rests: bool) -> (Vec<Event>, Option<u16>) {
    let mut frames = FrameCollector::new(max);
    let mut events = Vec::new();
    let mut start = 0;
    for &end in cuts.iter().chain([&bytes.len()]) {
        frames.buffer().extend_from_slice(&bytes[start..end]);
        start = end;
        loop {
            match frames.next_event() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(broken) => {
                    assert!(!broken.reason.is_empty());
                    return (events, Some(broken.code));
                }
            }
        }
        if rests {
            frames.rest();
            assert_eq!(frames.start, 0);
        }
    }
    (events, None)
}

fn all_events(bytes: &[u8]) -> (Vec<Event>, Option<u16>) {
    events(MAX, bytes, &[], false)
}

fn error(bytes: &[u8]) -> Option<u16> {
    all_events(bytes).1
}

fn message(payload: impl Into<Vec<u8>>, text: bool) -> Event {
    Event::Message { payload: payload.into(), text }
}

/// What a client may send, and what is to come of it.
#[derive(Debug)]
struct Sent {
    bytes: Vec<u8>,
    events: Vec<Event>,
}

/// A message in fragments with control frames between them.
fn sent() -> impl Strategy<Value = Sent> {
    let control = (select(vec![0x89u8, 0x8a]), any::<[u8; 4]>(), vec(any::<u8>(), 0..=125));
    let whole = (any::<bool>(), "\\PC{0,60}", vec(any::<Index>(), 0..4), any::<[u8; 4]>());
    (whole, vec(control, 0..4)).prop_map(|((text, payload, cuts, mask), mut controls)| {
        let payload = payload.into_bytes();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.index(payload.len() + 1)).collect();
        cuts.push(payload.len());
        cuts.sort_unstable();
        let mut sent = Sent { bytes: Vec::new(), events: Vec::new() };
        let mut start = 0;
        for (n, &end) in cuts.iter().enumerate() {
            let opcode = if n > 0 { 0 } else { 2 - u8::from(text) };
            let fin = if n + 1 == cuts.len() { 0x80 } else { 0 };
            sent.bytes.extend(client_frame(fin | opcode, mask, &payload[start..end]));
            start = end;
            if let Some((first, mask, payload)) = controls.pop().filter(|_| fin == 0) {
                sent.bytes.extend(client_frame(first, mask, &payload));
                sent.events.push(if first == 0x89 { Event::Ping(payload) } else { Event::Pong });
            }
        }
        sent.events.push(message(payload, text));
        sent
    })
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(500))]

    #[test]
    fn any_split_of_the_bytes_means_the_same(
        sent in vec(sent(), 0..4), cuts in vec(any::<Index>(), 0..9), rests in any::<bool>(),
    ) {
        let bytes = sent.iter().map(|sent| &sent.bytes[..]).collect::<Vec<_>>().concat();
        let expected: Vec<Event> = sent.into_iter().flat_map(|sent| sent.events).collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let every: Vec<usize> = (0..bytes.len()).collect();
        for cuts in [&cuts, &every] {
            let (got, error) = events(MAX, &bytes, cuts, rests);
            prop_assert_eq!(&got, &expected);
            prop_assert_eq!(error, None);
        }
    }

    #[test]
    fn bytes_that_break_the_protocol_do_so_in_any_split(
        sent in vec(sent(), 1..4), breaks in vec((any::<Index>(), any::<u8>()), 0..4), noise in vec(any::<u8>(), 0..40),
        cuts in vec(any::<Index>(), 0..9),
    ) {
        let mut bytes = sent.iter().map(|sent| &sent.bytes[..]).collect::<Vec<_>>().concat();
        for (at, byte) in breaks {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.extend(noise);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        prop_assert_eq!(events(MAX, &bytes, &cuts, true), all_events(&bytes));
    }

    #[test]
    fn noise_never_panics(bytes in vec(any::<u8>(), 0..400), max in 0..200usize) {
        let (got, _) = events(max, &bytes, &[], false);
        for event in got {
            if let Event::Message { payload, .. } = event {
                prop_assert!(payload.len() <= max);
            }
        }
    }

    #[test]
    fn a_frame_that_is_written_can_be_read(
        len in prop_oneof![0..300usize, select(vec![125usize, 126, 0xffff, 0x10000, 100_000])],
        code in select(vec![OpCode::Text, OpCode::Binary, OpCode::Ping, OpCode::Pong]),
    ) {
        let payload = vec![b'x'; if matches!(code, OpCode::Ping | OpCode::Pong) { len.min(125) } else { len }];
        let mut bytes = b"before".to_vec();
        write(code, &payload, &mut bytes);
        let (head, at) = server_head(&bytes[6..]);
        prop_assert_eq!(head, (0x80 | code as u8, payload.len() as u64));
        prop_assert_eq!(&bytes[6 + at..], &payload[..]);
        let mut head = [0; MAX_HEAD_BYTES];
        prop_assert_eq!(head_of(code, &payload, &mut head), at);
        prop_assert_eq!(&head[..at], &bytes[6..6 + at]);
    }
}

/// The first byte, the length, and the length of the head of a server's frame.
fn server_head(bytes: &[u8]) -> ((u8, u64), usize) {
    assert_eq!(bytes[1] & 0x80, 0, "a server masks nothing");
    let (len, at) = match bytes[1] {
        126 => (u64::from(u16::from_be_bytes(bytes[2..4].try_into().unwrap())), 4),
        127 => (u64::from_be_bytes(bytes[2..10].try_into().unwrap()), 10),
        short => (u64::from(short), 2),
    };
    assert!(match at {
        4 => len >= 126,
        10 => len > 0xffff,
        _ => true,
    });
    ((bytes[0], len), at)
}

#[test]
fn every_breach_has_its_code() {
    let mask = [1, 2, 3, 4];
    for bit in [0x40, 0x20, 0x10, 0x70] {
        assert_eq!(
            error(&client_frame(0x81 | bit, mask, b"a")),
            Some(close::PROTOCOL),
            "reserved bit {bit:x}"
        );
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        assert_eq!(error(&client_frame(0x80 | opcode, mask, b"")), Some(close::PROTOCOL), "opcode {opcode}");
    }
    assert_eq!(error(&[0x81, 1, b'a']), Some(close::PROTOCOL), "not masked");
    for long in [
        &[0x82, 0xfe, 0, 125][..],
        &[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
        &[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0, 1],
    ] {
        assert_eq!(error(long), Some(close::PROTOCOL), "a length written too long: {long:x?}");
    }
    for control in [0x8, 0x9, 0xa] {
        assert_eq!(
            error(&client_frame(control, mask, b"")),
            Some(close::PROTOCOL),
            "a fragment of {control:x}"
        );
        assert_eq!(
            error(&client_frame(0x80 | control, mask, &[0; 126])),
            Some(close::PROTOCOL),
            "126 bytes of {control:x}"
        );
    }
    let start = client_frame(0x01, mask, b"a");
    for first in [0x00, 0x80] {
        assert_eq!(error(&client_frame(first, mask, b"a")), Some(close::PROTOCOL), "nothing to continue");
    }
    for first in [0x01, 0x81, 0x02, 0x82] {
        let bytes = [&start[..], &client_frame(first, mask, b"b")].concat();
        assert_eq!(error(&bytes), Some(close::PROTOCOL), "a message inside another");
    }
    // A finished message is continued by nothing.
    let bytes = [&start[..], &client_frame(0x80, mask, b"b"), &client_frame(0x80, mask, b"c")].concat();
    assert_eq!(all_events(&bytes), (vec![message("ab", true)], Some(close::PROTOCOL)));
}

#[test]
fn text_is_utf8_and_its_fragments_need_not_be() {
    let mask = [9, 8, 7, 6];
    let bytes = "é😀".as_bytes();
    for cut in 0..=bytes.len() {
        let split =
            [client_frame(0x01, mask, &bytes[..cut]), client_frame(0x80, mask, &bytes[cut..])].concat();
        assert_eq!(all_events(&split), (vec![message(bytes, true)], None));
        let cut_short = client_frame(0x81, mask, &bytes[..cut]);
        let whole = [0, 2, bytes.len()].contains(&cut);
        assert_eq!(error(&cut_short), (!whole).then_some(close::NOT_UTF8), "cut at {cut}");
        let cut_short = [client_frame(0x01, mask, &bytes[..cut]), client_frame(0x80, mask, b"")].concat();
        assert_eq!(error(&cut_short), (!whole).then_some(close::NOT_UTF8), "a fragment cut at {cut}");
    }
    let binary = [client_frame(0x02, mask, b"\xff"), client_frame(0x80, mask, b"\xc3")].concat();
    assert_eq!(all_events(&binary), (vec![message(*b"\xff\xc3", false)], None), "binary is not checked here");
}

#[test]
fn the_limit_holds_over_all_fragments() {
    let mask = [0; 4];
    let of = |len: usize| vec![b'a'; len];
    assert_eq!(error(&client_frame(0x81, mask, &of(MAX))), None);
    assert_eq!(error(&client_frame(0x81, mask, &of(MAX + 1))), Some(close::TOO_LARGE));
    for cut in [0, 1, 150, MAX] {
        let fragments = |len: usize| {
            [
                client_frame(0x01, mask, &of(cut)),
                client_frame(0x89, mask, &of(125)),
                client_frame(0x00, mask, b""),
                client_frame(0x80, mask, &of(len - cut)),
            ]
            .concat()
        };
        let expected = vec![Event::Ping(of(125)), message(of(MAX), true)];
        assert_eq!(all_events(&fragments(MAX)), (expected, None));
        assert_eq!(error(&fragments(MAX + 1)), Some(close::TOO_LARGE));
    }
    // Each message counts for itself.
    let twice = [client_frame(0x81, mask, &of(MAX)), client_frame(0x82, mask, &of(MAX))].concat();
    assert_eq!(all_events(&twice), (vec![message(of(MAX), true), message(of(MAX), false)], None));
    // A control frame is no message.
    assert_eq!(
        events(0, &client_frame(0x89, mask, &of(125)), &[], false),
        (vec![Event::Ping(of(125))], None)
    );
}

#[test]
fn a_huge_length_is_refused_by_its_head_alone() {
    for len in [MAX as u64 + 1, 1 << 32, 1 << 62, 1 << 63, u64::MAX - 13, u64::MAX] {
        let mut bytes = vec![0x82, 0xff];
        bytes.extend_from_slice(&len.to_be_bytes());
        let short = len <= 0xffff;
        if short {
            bytes = [&[0x82, 0xfe][..], &(len as u16).to_be_bytes()].concat();
        }
        let mut frames = FrameCollector::new(MAX);
        frames.buffer().extend_from_slice(&bytes);
        assert_eq!(frames.wanted(), 0, "nothing is reserved for {len}");
        assert_eq!(frames.next_event().unwrap_err().code, close::TOO_LARGE, "{len}");
        assert!(frames.buffer.capacity() <= 64 && frames.message.capacity() == 0);
        // As a fragment that would overflow the sum, too.
        let start = client_frame(0x02, [0; 4], b"abc");
        bytes[0] = 0x80;
        assert_eq!(error(&[start, bytes].concat()), Some(close::TOO_LARGE), "{len}");
    }
    // Without a limit, whatever is announced is waited for, and not reserved.
    let mut frames = FrameCollector::new(usize::MAX);
    frames.buffer().extend_from_slice(&[0x82, 0xff]);
    frames.buffer().extend_from_slice(&(1u64 << 40).to_be_bytes());
    frames.buffer().extend_from_slice(&[0; 4]);
    assert_eq!(frames.next_event(), Ok(None));
    assert_eq!(frames.wanted(), 1 << 40);
    assert!(frames.buffer.capacity() <= 64);
}

#[test]
fn what_is_wanted_is_what_is_missing() {
    let bytes = client_frame(0x82, [1; 4], &[5; 200]);
    let mut frames = FrameCollector::new(MAX);
    frames.buffer().extend_from_slice(&client_frame(0x89, [1; 4], b"x"));
    assert_eq!(frames.next_event(), Ok(Some(Event::Ping(b"x".to_vec()))));
    for (n, byte) in bytes.iter().enumerate() {
        // Two bytes, two of length and four of mask say how long it is.
        assert_eq!(frames.wanted(), if n < 8 { 0 } else { bytes.len() - n }, "after {n} bytes");
        assert_eq!(frames.next_event(), Ok(None));
        frames.buffer().push(*byte);
    }
    assert_eq!(frames.wanted(), 0);
    assert_eq!(frames.next_event(), Ok(Some(message([5; 200], false))));
    assert_eq!(frames.wanted(), 0);
}

#[test]
fn at_rest_it_holds_only_what_it_needs() {
    let mut frames = FrameCollector::new(MAX);
    frames.buffer().extend_from_slice(&client_frame(0x81, [1; 4], &[b'a'; 200]));
    frames.buffer().extend_from_slice(&client_frame(0x01, [1; 4], b"first "));
    let last = client_frame(0x80, [1; 4], b"last");
    frames.buffer().extend_from_slice(&last[..3]);
    assert!(frames.next_event().unwrap().is_some());
    assert_eq!(frames.next_event(), Ok(None));
    frames.rest();
    assert_eq!((&frames.buffer[..], &frames.message[..]), (&last[..3], &b"first "[..]));
    frames.buffer().extend_from_slice(&last[3..]);
    assert_eq!(frames.next_event(), Ok(Some(message("first last", true))));
    assert_eq!(frames.next_event(), Ok(None));
    frames.rest();
    assert_eq!((frames.buffer.capacity(), frames.message.capacity()), (0, 0));
}

#[test]
fn between_messages_it_holds_nothing_however_they_came() {
    let ping = client_frame(0x89, [1; 4], b"");
    let two = [&client_frame(0x81, [1; 4], &[b'a'; 40])[..], &ping].concat();
    for cut in 0..=two.len() {
        let mut frames = FrameCollector::new(MAX);
        for piece in [&two[..cut], &two[cut..]] {
            frames.buffer().extend_from_slice(piece);
            while frames.next_event().unwrap().is_some() {}
            frames.rest();
        }
        assert_eq!((frames.buffer.capacity(), frames.message.capacity()), (0, 0), "cut at {cut}");
    }
}

#[test]
fn a_message_has_room_for_the_decoder() {
    let padding = crate::protocol::decode::PADDING_BYTES;
    let (events, _) = all_events(&client_frame(0x81, [1; 4], b"abc"));
    let [Event::Message { payload, .. }] = &events[..] else { panic!() };
    assert!(payload.capacity() >= payload.len() + padding);
}

#[test]
fn a_close_is_answered_with_its_own_code() {
    let close_with = |payload: &[u8]| {
        let (events, error) = all_events(&client_frame(0x88, [7, 0, 7, 0], payload));
        assert_eq!(events.len() + usize::from(error.is_some()), 1);
        events.into_iter().next().ok_or(error)
    };
    assert_eq!(close_with(b""), Ok(Event::Close(close::NORMAL)));
    assert_eq!(close_with(b"\x03"), Err(Some(close::PROTOCOL)));
    for code in 0..=u16::MAX {
        let good = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
        let expected = if good { Ok(Event::Close(code)) } else { Err(Some(close::PROTOCOL)) };
        assert_eq!(close_with(&code.to_be_bytes()), expected, "{code}");
    }
    assert_eq!(close_with(b"\x03\xe8gone \xf0\x9f\x98\x80"), Ok(Event::Close(1000)));
    assert_eq!(close_with(b"\x03\xe8gone \xf0\x9f"), Err(Some(close::NOT_UTF8)));
    assert_eq!(close_with(&[&[0x03, 0xe8][..], &[b'x'; 123]].concat()), Ok(Event::Close(1000)));
}

#[test]
fn a_close_frame_holds_no_more_than_it_may() {
    let mut out = Vec::new();
    write_close(1013, "too slow", &mut out);
    assert_eq!(out, b"\x88\x0a\x03\xf5too slow");
    out.clear();
    write_close(1008, &"x".repeat(500), &mut out);
    assert_eq!(server_head(&out), ((0x88, 125), 2));
    assert_eq!(out.len(), 127);
}
