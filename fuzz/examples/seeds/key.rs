//! Keys as the real cr-sqlite packs them, and what is nearly such a key.

use std::collections::BTreeSet;

use causeway_storage::Value;
use causeway_storage::schema::key::pack;

/// The inputs by name.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let vectors: Vec<serde_json::Value> =
        serde_json::from_str(include_str!("../../../storage/tests/data/merge-vectors.json")).expect("JSON");
    let rows =
        vectors.iter().flat_map(|vector| ["a", "b"].map(|side| vector[side].as_array().expect("rows")));
    let engine: BTreeSet<&str> = rows.flatten().map(|row| row[1].as_str().expect("a key")).collect();
    let mut seeds: Vec<_> = engine.iter().map(|pk| (format!("engine-{pk}"), bytes(pk))).collect();
    let blob = [0; 300];
    for (name, values) in [
        ("zero", &[Value::Integer(0)][..]),
        ("one-byte", &[Value::Integer(255)]),
        ("two-bytes", &[Value::Integer(256)]),
        ("highest", &[Value::Integer(i64::MAX)]),
        ("negative", &[Value::Integer(-1)]),
        ("real", &[Value::Real(1.5)]),
        ("infinity", &[Value::Real(f64::INFINITY)]),
        ("minus-zero", &[Value::Real(-0.0)]),
        ("nan", &[Value::Real(f64::NAN)]),
        ("empty-text", &[Value::Text("")]),
        ("text", &[Value::Text("é😀")]),
        ("empty-blob", &[Value::Blob(&[])]),
        ("long-blob", &[Value::Blob(&blob)]),
        ("null", &[Value::Null]),
        ("compound", &[Value::Integer(1), Value::Text("a"), Value::Real(0.0), Value::Blob(&[1])]),
    ] {
        seeds.push((name.into(), bytes(&pack(values.iter().copied()))));
    }
    for (name, pk) in [
        ("no-columns", "00"),
        ("cut-short", "010B0261"),
        ("trailing", "010100"),
        ("leading-zero", "010900"),
        ("long-length", "0113000161"),
        ("longest-length", "0143FFFFFFFFFFFFFFFF"),
        ("real-with-length", "010A3FF8000000000000"),
        ("not-utf8", "010B01FF"),
        ("type-6", "0106"),
    ] {
        seeds.push((name.into(), bytes(pk)));
    }
    seeds.push(("as-text".into(), b"010B0161".to_vec()));
    seeds.push(("lower-case".into(), b"010b0161".to_vec()));
    seeds
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |b: u8| char::from(b).to_digit(16).expect("hex") as u8;
    hex.as_bytes().chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}
