//! The reader of packed keys against one that takes all that cr-sqlite takes. An input is a key's bytes; as a text it is tried as
//! well, for what is no hex.

use causeway_storage::Value;
use causeway_storage::schema::key::{pack, unpack};

/// The fuzz target.
pub fn check(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        check_text(text);
    }
    let pk: String = input.iter().map(|byte| format!("{byte:02X}")).collect();
    let values = read(input);
    let packed = values.as_ref().map(|values| pack(values.iter().copied()));
    // The one spelling that is a key is the one that is written.
    let mut buffer = Vec::new();
    let found = unpack(&pk, &mut buffer).map(|key| (key.columns(), key.values().collect::<Vec<_>>()));
    match (found, values) {
        (Ok((columns, found)), values) => {
            assert_eq!(columns, found.len());
            assert_eq!(Some(found), values);
            assert_eq!(Some(&pk), packed.as_ref());
        }
        (Err(e), Some(values)) => {
            assert_ne!(packed.as_ref(), Some(&pk), "{e}");
            let packed = pack(values.iter().copied());
            let mut buffer = Vec::new();
            let key = unpack(&packed, &mut buffer).unwrap_or_else(|e| panic!("{e} of {packed}"));
            assert_eq!(key.values().collect::<Vec<_>>(), values);
        }
        (Err(_), None) => {}
    }
    check_text(&pk.to_lowercase());
    check_text(&format!("{pk}0"));
}

/// What is read of any text is written the same, from no more memory than the text has.
fn check_text(text: &str) {
    let mut buffer = Vec::new();
    let written = unpack(text, &mut buffer).map(|key| pack(key.values()));
    assert!(written.is_err() || written.as_deref() == Ok(text));
    assert!(buffer.capacity() <= text.len().max(8));
}

/// The values of a packed key, however it is spelled; `None` if a value is none that a key may hold.
fn read(input: &[u8]) -> Option<Vec<Value<'_>>> {
    let (&columns, mut rest) = input.split_first()?;
    let mut values = Vec::new();
    for _ in 0..columns {
        let (&byte, after) = rest.split_first()?;
        let (len, after) = match byte & 7 {
            2 => (8, after),
            _ => (usize::from(byte >> 3), after),
        };
        let (number, after) = after.split_at_checked(len).filter(|_| len <= 8)?;
        let mut eight = [0; 8];
        eight[8 - len..].copy_from_slice(number);
        let number = u64::from_be_bytes(eight);
        rest = after;
        values.push(match byte & 7 {
            1 => Value::Integer(number as i64),
            2 => Value::Real(f64::from_bits(number)),
            kind @ (3 | 4) => {
                let (taken, after) = rest.split_at_checked(usize::try_from(number).ok()?)?;
                rest = after;
                if kind == 4 { Value::Blob(taken) } else { Value::Text(std::str::from_utf8(taken).ok()?) }
            }
            _ => return None,
        });
    }
    // Zero's other sign and NaN are no values of SQLite's.
    let reals_fit = values.iter().all(|value| match value {
        Value::Real(real) => !real.is_nan() && real.to_bits() != (-0.0f64).to_bits(),
        _ => true,
    });
    (columns > 0 && rest.is_empty() && reals_fit).then_some(values)
}
