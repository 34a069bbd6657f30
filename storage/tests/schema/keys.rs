//! Packed keys: the real cr-sqlite's, and what is none.

use causeway_storage::Value;
use causeway_storage::schema::key::{KeyError, pack, unpack};
use proptest::prelude::*;

use crate::{Any, any_value, change, parse};

#[test]
fn the_engines_keys_are_read_and_written_alike() {
    let vectors: Vec<serde_json::Value> =
        serde_json::from_str(include_str!("../data/merge-vectors.json")).unwrap();
    let mut seen = 0;
    for vector in &vectors {
        let sql = vector["schema"].as_array().unwrap().iter().map(|sql| sql.as_str().unwrap());
        let schema = parse(&sql.collect::<Vec<_>>().join(";\n"));
        let sides = ["a", "b"].into_iter().flat_map(|side| vector[side].as_array().unwrap());
        for row in sides {
            let (table, pk) = (row[0].as_str().unwrap(), row[1].as_str().unwrap());
            let mut buffer = Vec::new();
            let key = schema.key(schema.table(table).unwrap(), pk, &mut buffer).unwrap();
            assert_eq!(pack(key.values()), pk);
            let change = change(table, pk, row[2].as_str().unwrap(), Value::Null);
            schema.check(&change, &mut Vec::new()).unwrap_or_else(|e| panic!("{e} of {row}"));
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen}");
}

/// Each as the real cr-sqlite packed it.
#[test]
fn keys_of_every_type_and_size() {
    let blob = [0; 200];
    let of_blob = format!("010CC8{}", "00".repeat(200));
    for (pk, values) in [
        ("0101", &[Value::Integer(0)][..]),
        ("01097F", &[Value::Integer(127)]),
        ("010980", &[Value::Integer(128)]),
        ("0119010000", &[Value::Integer(65536)]),
        ("0141FFFFFFFFFFFFFFFF", &[Value::Integer(-1)]),
        ("0103", &[Value::Text("")]),
        ("010B0161", &[Value::Text("a")]),
        ("0104", &[Value::Blob(&[])]),
        (&of_blob, &[Value::Blob(&blob)]),
        ("0102401E000000000000", &[Value::Real(7.5)]),
        ("01027FF0000000000000", &[Value::Real(f64::INFINITY)]),
        ("0209020901", &[Value::Integer(2), Value::Integer(1)]),
    ] {
        let mut buffer = vec![7; 3];
        let key = unpack(pk, &mut buffer).unwrap_or_else(|e| panic!("{e} of {pk}"));
        assert_eq!(key.values().collect::<Vec<_>>(), values, "{pk}");
        assert_eq!(key.columns(), values.len());
        assert_eq!(pack(values.iter().copied()), pk);
    }
}

#[test]
fn what_the_engine_does_not_write_is_no_key() {
    let column = 1;
    for (pk, error) in [
        ("", KeyError::NoColumns),
        ("00", KeyError::NoColumns),
        ("0", KeyError::OddHex),
        ("010", KeyError::OddHex),
        ("010B016", KeyError::OddHex),
        ("010b0161", KeyError::LowerCase),
        ("010B016a", KeyError::LowerCase),
        ("010B016g", KeyError::NotHex { at: 7 }),
        ("todo 1", KeyError::NotHex { at: 0 }),
        ("01é1", KeyError::NotHex { at: 2 }),
        ("+1", KeyError::NotHex { at: 0 }),
        ("01", KeyError::CutShort { column }),
        ("0109", KeyError::CutShort { column }),
        ("010B", KeyError::CutShort { column }),
        ("010B0261", KeyError::CutShort { column }),
        ("0123FFFFFFFF61", KeyError::CutShort { column }),
        ("0102401E0000000000", KeyError::CutShort { column }),
        ("020901", KeyError::CutShort { column: 2 }),
        ("FF0901", KeyError::CutShort { column: 2 }),
        ("01090102", KeyError::TrailingBytes { bytes: 1 }),
        ("010100", KeyError::TrailingBytes { bytes: 1 }),
        ("0100", KeyError::UnknownType { column, byte: 0 }),
        ("0106", KeyError::UnknownType { column, byte: 6 }),
        ("0107", KeyError::UnknownType { column, byte: 7 }),
        ("0149010203040506070809", KeyError::UnknownType { column, byte: 0x49 }),
        ("010A401E000000000000", KeyError::UnknownType { column, byte: 0x0a }),
        ("012B000000000161", KeyError::UnknownType { column, byte: 0x2b }),
        ("010D00", KeyError::UnknownType { column, byte: 0x0d }),
        ("0105", KeyError::Null { column }),
        ("010900", KeyError::NotMinimal { column }),
        ("01110001", KeyError::NotMinimal { column }),
        ("0141007FFFFFFFFFFFFFFF", KeyError::NotMinimal { column }),
        ("010B00", KeyError::NotMinimal { column }),
        ("0113000161", KeyError::NotMinimal { column }),
        ("010B01FF", KeyError::NotUtf8 { column }),
        ("010B03EDA080", KeyError::NotUtf8 { column }),
        ("01028000000000000000", KeyError::BadReal { column, value: "-0" }),
        ("01027FF8000000000000", KeyError::BadReal { column, value: "NaN" }),
        ("0102FFF0000000000001", KeyError::BadReal { column, value: "NaN" }),
    ] {
        let mut buffer = Vec::new();
        assert_eq!(unpack(pk, &mut buffer).map(|key| key.columns()), Err(error), "{pk}");
        assert!(buffer.capacity() <= pk.len().max(8), "no more than there is");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_key_comes_back(values in prop::collection::vec(any_value(), 1..9)) {
        let values: Vec<_> = values.iter().map(Any::value).map(|value| match value {
            Value::Real(0.0) => Value::Real(0.0),
            value => value,
        }).collect();
        let pk = pack(values.iter().copied());
        let mut buffer = Vec::new();
        let key = unpack(&pk, &mut buffer).unwrap();
        prop_assert_eq!(key.values().collect::<Vec<_>>(), values);
    }

    /// Whatever is read is written the same: no key has a second spelling.
    #[test]
    fn a_key_has_one_spelling(bytes in prop::collection::vec(prop_oneof![0u8..12, any::<u8>()], 0..20), count in 0u8..4) {
        let pk: String = std::iter::once(count).chain(bytes).map(|byte| format!("{byte:02X}")).collect();
        let mut buffer = Vec::new();
        if let Ok(key) = unpack(&pk, &mut buffer) {
            prop_assert_eq!(pack(key.values()), pk);
        }
    }

    #[test]
    fn no_text_breaks_the_reader(pk in any::<String>()) {
        let _ = unpack(&pk, &mut Vec::new());
    }
}
