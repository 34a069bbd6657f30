//! The message decoder against the second one of its tests; and what is forwarded of an update, which must say the same
//! to both again. An input is a message.

use causeway::protocol::decode::{DecodeRules, MAX_INTEGER};
use causeway::protocol::encode::{Encoder, PageEncoder};
use causeway::protocol::{Incoming, IncomingUpdate, Refusal};
use causeway_storage::{Cell, Position};
use serde_json::Value;

use crate::oracle::{self, Nine};

/// The server's defaults, and rules that are easily broken.
const RULES: [DecodeRules<'static>; 2] = [
    DecodeRules { max_changes: 50_000, strict_channel: None },
    DecodeRules { max_changes: 2, strict_channel: Some("list") },
];

/// The fuzz target.
pub fn check(message: &[u8]) {
    let encoder = Encoder::new("list", "5EED5EED5EED5EED5EED5EED5EED5EED");
    for rules in RULES {
        match oracle::compare(message, rules) {
            Ok(Incoming::Update(update)) => check_forwarded(&update, rules, &encoder),
            Ok(_) => {}
            Err(refusal) => check_told(&refusal, &encoder),
        }
    }
}

/// A forwarded update and a page are messages that the decoder takes, and mean what was sent.
fn check_forwarded(update: &IncomingUpdate, rules: DecodeRules<'_>, encoder: &Encoder) {
    let sent = oracle::nines_of(update);
    let all: Vec<u32> = (0..update.len() as u32).collect();
    assert_eq!(oracle::forwarded(update, &all), sent);
    let (some, some_sent): (Vec<u32>, Vec<Nine>) =
        all.iter().copied().zip(sent.iter().cloned()).step_by(2).unzip();
    assert_eq!(oracle::forwarded(update, &some), some_sent);

    let mut frame = Vec::new();
    encoder.update(update, &all, MAX_INTEGER, &mut frame);
    let again = decoded(&frame, rules);
    assert_eq!(oracle::nines_of(&again), sent);
    let mut frame_again = Vec::new();
    encoder.update(&again, &all, MAX_INTEGER, &mut frame_again);
    assert_eq!(frame, frame_again, "what was forwarded is forwarded as it is");

    let mut page = PageEncoder::default();
    for (change, seq) in update.changes().zip(0..) {
        let causeway_storage::Change { table, pk, cid, val, col_version, site_id, cl, .. } = change;
        let at = Position { version: 7, seq };
        assert!(page.push(&Cell { table, pk, cid, val, col_version, site_id, cl, at }, usize::MAX));
    }
    let paged = oracle::nines_of(&decoded(&page.finish(encoder, 7, Some(false)), rules));
    let stored = sent.into_iter().zip(0..).map(|(mut nine, seq)| {
        (nine.numbers[1], nine.numbers[3]) = (7, seq);
        nine
    });
    assert_eq!(paged, stored.collect::<Vec<_>>());
}

/// An error is JSON, whatever of the message it shows.
fn check_told(refusal: &Refusal, encoder: &Encoder) {
    let told: Value = serde_json::from_slice(payload(&encoder.error_frame(refusal))).expect("JSON");
    assert_eq!(told["code"], refusal.code.as_str());
    assert_eq!(told["message"], refusal.message.as_str());
    assert_eq!(told.get("received").and_then(Value::as_u64), refusal.received);
}

fn decoded(frame: &[u8], rules: DecodeRules<'_>) -> Box<IncomingUpdate> {
    match oracle::compare(payload(frame), rules) {
        Ok(Incoming::Update(update)) => update,
        other => panic!("what is sent can be decoded, not {other:?}"),
    }
}

/// What a server's frame holds.
fn payload(frame: &[u8]) -> &[u8] {
    let (head, length) = match frame[1] {
        126 => (4, usize::from(u16::from_be_bytes([frame[2], frame[3]]))),
        127 => (10, u64::from_be_bytes(frame[2..10].try_into().expect("eight bytes")) as usize),
        short => (2, usize::from(short)),
    };
    assert_eq!((frame[0], frame.len()), (0x81, head + length), "one text frame");
    &frame[head..]
}
