//! A client's update from bytes to checked changes: `causeway` against plain serde_json.
//!
//! `causeway` also writes the changes as they will be forwarded, and refuses duplicate keys and deep nesting. So
//! serde_json stands here twice: as it only reads, and as it also writes the changes again. It is spared the names of the
//! message's fields: it reads the same fields in the same order from an array. All are given bytes of their own, copied
//! outside the clock, and all times include letting the result go. The throughput counts the message's bytes.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use causeway::config::Config;
use causeway::protocol::Incoming;
use causeway::protocol::decode::{
    DecodeRules, MAX_IDENTIFIER_BYTES, MAX_INTEGER, MAX_PK_BYTES, MAX_SITE_ID_BYTES, PADDING_BYTES, decode,
};
use causeway_storage::SENTINEL;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde_json::{Value, json};

/// Type, site, version, channel, changes.
type Message = (String, String, u64, String, Vec<PlainChange>);
type PlainChange = (String, String, String, Value, u64, u64, String, u64, u64);

fn decode_updates(c: &mut Criterion) {
    let rules = DecodeRules { max_changes: Config::default().max_changes_per_update, strict_channel: None };
    let mut group = c.benchmark_group("decode");
    for count in [1, 10, 100, 1000] {
        let changes: Vec<Value> =
            common::Source::new().cells(count).iter().map(common::NewCell::json).collect();
        let message = json!({
            "type": "update", "siteId": common::SITE, "version": 7, "channel": "bench", "changes": changes,
        });
        let message = message.to_string().into_bytes();
        let fields = json!(["update", common::SITE, 7, "bench", changes]).to_string().into_bytes();

        let read = |bytes: &mut Vec<u8>| match decode(bytes, rules) {
            Ok(Incoming::Update(update)) => update,
            other => panic!("no update: {other:?}"),
        };
        // What both are to make of the changes.
        let forwarded = serde_json::to_vec(&changes).unwrap();
        let mut ours = b"[".to_vec();
        let all: Vec<u32> = (0..count as u32).collect();
        read(&mut message.clone()).write_json(&all, &mut ours);
        ours.push(b']');
        assert_eq!(ours, forwarded);

        group.throughput(Throughput::Bytes(message.len() as u64));
        group.bench_function(BenchmarkId::new("causeway", count), |b| {
            let copy = || {
                let mut bytes = Vec::with_capacity(message.len() + PADDING_BYTES);
                bytes.extend_from_slice(&message);
                bytes
            };
            b.iter_batched_ref(copy, |bytes| assert_eq!(read(bytes).len(), count), BatchSize::SmallInput);
        });
        let parse = |bytes: &[u8]| {
            let message: Message = serde_json::from_slice(bytes).unwrap();
            assert!(is_update_within_bounds(&message, rules));
            assert_eq!(message.4.len(), count);
            message
        };
        group.bench_function(BenchmarkId::new("serde_json", count), |b| {
            b.iter_batched_ref(|| fields.clone(), |bytes| drop(parse(bytes)), BatchSize::SmallInput);
        });
        group.bench_function(BenchmarkId::new("serde_json-and-forward", count), |b| {
            b.iter_batched_ref(
                || fields.clone(),
                |bytes| {
                    let json = serde_json::to_vec(&parse(bytes).4).unwrap();
                    assert_eq!(json.len(), forwarded.len());
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// The bounds of the wire contract.
fn is_update_within_bounds((kind, site_id, version, _, changes): &Message, rules: DecodeRules<'_>) -> bool {
    kind == "update"
        && (1..=MAX_SITE_ID_BYTES).contains(&site_id.len())
        && *version <= MAX_INTEGER
        && changes.len() <= rules.max_changes
        && changes.iter().all(is_change_within_bounds)
}

fn is_change_within_bounds(
    (table, pk, cid, val, col_version, db_version, site_id, cl, seq): &PlainChange,
) -> bool {
    let is_identifier = |text: &str| (1..=MAX_IDENTIFIER_BYTES).contains(&text.len()) && !text.contains('\0');
    let is_value = match val {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
        Value::Object(object) => {
            object.len() == 1
                && matches!(object.get("$blob"), Some(Value::String(hex))
                    if hex.len() % 2 == 0 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
        }
        Value::Array(_) => false,
    };
    let is_allowed = if cid == SENTINEL { val.is_null() && col_version == cl } else { cl % 2 == 1 };
    is_identifier(table)
        && (1..=MAX_PK_BYTES).contains(&pk.len())
        && is_identifier(cid)
        && is_value
        && is_allowed
        && (1..=MAX_SITE_ID_BYTES).contains(&site_id.len())
        && [col_version, db_version, cl, seq].into_iter().all(|number| *number <= MAX_INTEGER)
        && *cl >= 1
}

criterion_group! { name = benches; config = common::settings(); targets = decode_updates }
criterion_main!(benches);
