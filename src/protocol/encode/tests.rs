#![allow(clippy::unwrap_used)]

use causeway_storage::{Position, Value};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::protocol::decode::{DecodeRules, decode};
use crate::protocol::{Code, Incoming};

const CHANNEL: &str = "a \"channel\" \\ é😀";
const SITE: &str = "00FF00FF00FF00FF00FF00FF00FF00FF";

fn encoder() -> Encoder {
    Encoder::new(CHANNEL, SITE)
}

/// The payload of the one text frame that `bytes` are; its head is as short as it may be.
fn payload(bytes: &[u8]) -> &[u8] {
    assert_eq!(bytes[0], 0x81, "a whole text");
    let (len, at) = match bytes[1] {
        126 => (usize::from(u16::from_be_bytes(bytes[2..4].try_into().unwrap())), 4),
        127 => (u64::from_be_bytes(bytes[2..10].try_into().unwrap()) as usize, 10),
        short => (usize::from(short), 2),
    };
    let expected_at = match len {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    };
    assert_eq!(at, expected_at, "{len} bytes");
    assert_eq!(bytes.len(), at + len);
    &bytes[at..]
}

fn json_of(bytes: &[u8]) -> serde_json::Value {
    serde_json::from_slice(payload(bytes)).unwrap()
}

fn update(vals: &[&str]) -> IncomingUpdate {
    let changes: Vec<String> = vals.iter().map(|val| format!(r#"["t","p","c",{val},1,2,"s",1,3]"#)).collect();
    let message =
        format!(r#"{{"type":"update","siteId":"s","version":7,"changes":[{}]}}"#, changes.join(","));
    match decode(&mut message.into_bytes(), DecodeRules { max_changes: 9, strict_channel: None }).unwrap() {
        Incoming::Update(update) => *update,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_message_has_its_documented_keys() {
    let encoder = encoder();
    assert_eq!(
        json_of(&encoder.connected(5)),
        json!({"type": "connected", "siteId": SITE, "version": 5, "channel": CHANNEL})
    );
    let written = |write: &dyn Fn(&mut Vec<u8>)| {
        // Behind other frames, it leaves them alone.
        let mut out = b"before".to_vec();
        write(&mut out);
        assert_eq!(&out[..6], b"before");
        json_of(&out[6..])
    };
    assert_eq!(
        written(&|out| encoder.ack(9, (1 << 53) - 1, out)),
        json!({"type": "ack", "siteId": SITE, "version": 9, "received": 9_007_199_254_740_991_u64, "channel": CHANNEL})
    );
    let sent = update(&["1", "true", "\"x\"", "1.0"]);
    for (winners, vals) in
        [(&[0, 1, 2, 3][..], json!([1, 1, "x", 1.0])), (&[1, 3], json!([1, 1.0])), (&[], json!([]))]
    {
        let rows: Vec<_> =
            vals.as_array().unwrap().iter().map(|val| json!(["t", "p", "c", val, 1, 2, "s", 1, 3])).collect();
        assert_eq!(
            written(&|out| encoder.update(&sent, winners, 4, out)),
            json!({"type": "update", "changes": rows, "version": 4, "siteId": SITE, "channel": CHANNEL})
        );
    }
    for code in Code::ALL {
        for received in [None, Some(0), Some(8)] {
            let refusal = Refusal { received, ..Refusal::new(code, "what \"is\" wrong\n\u{1}") };
            let mut expected = json!({"type": "error", "code": code.as_str(), "message": refusal.message, "channel": CHANNEL});
            if let Some(received) = received {
                expected["received"] = json!(received);
            }
            assert_eq!(json_of(&encoder.error_frame(&refusal)), expected);
            let refusal = Refusal { retry_after_ms: Some(250), ..refusal };
            expected["retryAfterMs"] = json!(250);
            assert_eq!(json_of(&encoder.error_frame(&refusal)), expected);
        }
    }
}

#[test]
fn heads_fit_lengths() {
    let encoder = encoder();
    let frame_of = |message: String| encoder.error_frame(&Refusal::new(Code::Malformed, message));
    let around = payload(&frame_of(String::new())).len();
    for len in [around, 125, 126, 127, 0xfffe, 0xffff, 0x10000, 0x10001, 200_000] {
        let Some(pad) = len.checked_sub(around) else { continue };
        let frame = frame_of("x".repeat(pad));
        assert_eq!(payload(&frame).len(), len);
        assert_eq!(json_of(&frame)["message"].as_str().map(str::len), Some(pad));
    }
    assert!(around <= 125, "the shortest head is tried too");
}

fn cell<'a>(pk: &'a str, val: Value<'a>, at: Position) -> Cell<'a> {
    Cell { table: "t\"", pk, cid: "c", val, col_version: 3, site_id: "s", cl: 5, at }
}

#[test]
fn a_page_is_an_update_with_the_servers_places() {
    let vals = [
        (Value::Null, json!(null)),
        (Value::Integer(i64::MIN), json!(i64::MIN)),
        (Value::Real(1.0), json!(1.0)),
        (Value::Real(-0.0), json!(-0.0)),
        (Value::Real(5e-324), json!(5e-324)),
        (Value::Real(1e300), json!(1e300)),
        (Value::Text("\u{0}\u{1f}\"\\/\u{7f}é😀"), json!("\u{0}\u{1f}\"\\/\u{7f}é😀")),
        (Value::Blob(&[0, 0xab, 0xff]), json!({"$blob": "00abff"})),
        (Value::Blob(&[]), json!({"$blob": ""})),
    ];
    for more in [false, true] {
        let mut page = PageEncoder::default();
        let mut rows = Vec::new();
        for (n, (val, json)) in vals.iter().enumerate() {
            assert!(page.push(&cell("p\n", *val, Position { version: 8, seq: n as u64 }), 1 << 20));
            rows.push(json!(["t\"", "p\n", "c", json, 3, 8, "s", 5, n]));
        }
        assert_eq!(page.changes(), vals.len());
        assert_eq!(
            json_of(&page.finish(&encoder(), 8, Some(more))),
            json!({"type": "update", "changes": rows, "version": 8, "more": more, "siteId": SITE, "channel": CHANNEL})
        );
    }
    assert_eq!(
        json_of(&PageEncoder::default().finish(&encoder(), 0, Some(false))),
        json!({"type": "update", "changes": [], "version": 0, "more": false, "siteId": SITE, "channel": CHANNEL})
    );
}

#[test]
fn heads_fit_pages() {
    let page_of = |pk: &str| {
        let mut page = PageEncoder::default();
        assert!(
            page.push(&cell(pk, Value::Null, Position { version: 1, seq: 0 }), 0),
            "a first cell always fits"
        );
        page.finish(&Encoder::new("", ""), 1, Some(true))
    };
    let around = payload(&page_of("")).len();
    for len in [125, 126, 127, 0xfffe, 0xffff, 0x10000, 0x10001, 200_000] {
        let page = page_of(&"x".repeat(len - around));
        assert_eq!(payload(&page).len(), len);
        assert_eq!(json_of(&page)["changes"][0][1].as_str().map(str::len), Some(len - around));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_page_holds_its_bytes_and_loses_no_cell(
        texts in prop::collection::vec("\\PC{0,30}", 1..40), max in 0..2000usize, channel in "[a-z\"]{1,255}",
    ) {
        let encoder = Encoder::new(&channel, SITE);
        let cells = texts.iter().enumerate().map(|(n, text)| cell(text, Value::Text(text), Position { version: 1, seq: n as u64 }));
        let mut page = PageEncoder::default();
        let taken = cells.take_while(|cell| page.push(cell, max)).count();
        prop_assert_eq!(page.changes(), taken);
        let frame = page.finish(&encoder, u64::MAX, Some(false));
        prop_assert!(taken == 1 || frame.len() <= max, "{} of {} bytes with {} cells", frame.len(), max, taken);
        let json = json_of(&frame);
        let pks: Vec<&str> = json["changes"].as_array().unwrap().iter().map(|row| row[1].as_str().unwrap()).collect();
        prop_assert_eq!(&pks[..], &texts[..taken]);
    }

    #[test]
    fn doubles_come_back_bit_by_bit(r in any::<f64>().prop_filter("JSON has no other", |r| r.is_finite())) {
        let mut page = PageEncoder::default();
        page.push(&cell("p", Value::Real(r), Position { version: 1, seq: 0 }), 0);
        let json = json_of(&page.finish(&encoder(), 1, Some(false)));
        let val = &json["changes"][0][3];
        prop_assert!(val.is_f64(), "{val} comes back as a double");
        prop_assert_eq!(val.as_f64().map(f64::to_bits), Some(r.to_bits()));
    }
}
