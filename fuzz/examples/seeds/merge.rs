//! The cases of the real cr-sqlite, each delivered in two orders and groupings.

use causeway_fuzz::merge::{COMMIT, REOPEN, UPDATE, write_change};
use causeway_storage::SENTINEL;
use causeway_storage::change::OwnedValue;
use serde_json::Value;

/// The inputs by name.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let vectors: Vec<Value> =
        serde_json::from_str(include_str!("../../../storage/tests/data/merge-vectors.json")).expect("JSON");
    vectors.iter().zip(0..).map(|(vector, n)| seed(vector, n)).collect()
}

fn seed(vector: &Value, n: u8) -> (String, Vec<u8>) {
    let sides = ["a", "b"].map(|side| vector[side].as_array().expect("changes"));
    let (mut rows, mut columns, mut sites) = (Vec::new(), vec![&vector["none"]], Vec::new());
    // All kinds of settings, in turn; every other case is delivered the other way round and in other groups.
    let mut input = vec![n.wrapping_mul(37)];
    let order = if n.is_multiple_of(2) { [0, 1] } else { [1, 0] };
    for side in order {
        for (index, change) in sides[side].iter().enumerate() {
            let row = place(&mut rows, &change[1]);
            let column = if change[2] == SENTINEL { 0 } else { place(&mut columns, &change[2]) };
            let site = place(&mut sites, &change[6]).min(1);
            let begins = match (index, n % 4) {
                (0, 0 | 1) => COMMIT | REOPEN,
                (0, _) => UPDATE,
                (_, 3) => COMMIT,
                _ => 0,
            };
            let head = begins | (column as u8) << 2 | row as u8;
            let short = |at: usize| {
                change[at].as_u64().and_then(|clock| u8::try_from(clock).ok()).expect("a short clock")
            };
            write_change(head, site, &value(&change[3]), short(4), short(7), &mut input);
        }
    }
    (vector["name"].as_str().expect("a name").replace('_', "-"), input)
}

fn place<'v>(known: &mut Vec<&'v Value>, value: &'v Value) -> usize {
    known.iter().position(|known| *known == value).unwrap_or_else(|| {
        known.push(value);
        known.len() - 1
    })
}

fn value(json: &Value) -> OwnedValue {
    match json {
        Value::Null => OwnedValue::Null,
        Value::Number(number) => match number.as_i64() {
            Some(integer) => OwnedValue::Integer(integer),
            None => OwnedValue::Real(number.as_f64().expect("a number")),
        },
        Value::String(text) => OwnedValue::Text(text.as_str().into()),
        blob => {
            let hex = blob["$blob"].as_str().expect("hex");
            let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
            OwnedValue::Blob((0..hex.len()).step_by(2).map(byte).collect())
        }
    }
}
