//! A cell's value as the merge rule compares it.

use std::cmp::Ordering;

use serde_json::{Value, json};

/// In cr-sqlite's order: by type, then by size, or by bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Val {
    Null,
    Blob(Vec<u8>),
    Text(String),
    Real(Real),
    Integer(i64),
}

/// A number that is not NaN, nor -0.0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Real(f64);

impl Ord for Real {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Real {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Real {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Real {}

/// Which values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Values {
    /// Text.
    Text,
    /// Every type that a cell can have.
    Any,
}

impl Values {
    /// A value of such a type, out of 64 random bits; text and blobs are `padding` bytes longer than they need be.
    pub(crate) fn make(self, random: u64, padding: usize) -> Val {
        // The integer part of a real: one without a fraction would be an integer to JavaScript.
        let whole = f64::from(random as i32);
        match (self, random >> 61) {
            (Values::Any, 0) => Val::Null,
            (Values::Any, 1) => Val::Integer(random as i64 >> (random % 64)),
            (Values::Any, 2) => Val::Integer((random as i64).wrapping_neg() >> (random % 64)),
            (Values::Any, 3) => Val::Real(Real(whole + 0.5)),
            (Values::Any, 4) => {
                // Not empty: cr-sqlite's wasm binds such a blob as NULL.
                let mut blob = random.to_be_bytes()[(random % 8) as usize..].to_vec();
                blob.resize(blob.len() + padding, 0);
                Val::Blob(blob)
            }
            _ => Val::Text(format!("v{random:016x}{}", "x".repeat(padding))),
        }
    }
}

impl Val {
    /// Reads a change's `val`; None if it is none that [`Values::make`] makes.
    pub(crate) fn from_wire(val: &Value) -> Option<Self> {
        Some(match val {
            Value::Null => Val::Null,
            Value::String(text) => Val::Text(text.clone()),
            Value::Number(number) => match number.as_i64() {
                Some(integer) => Val::Integer(integer),
                None => Val::Real(Real(number.as_f64().filter(|_| number.is_f64())?)),
            },
            Value::Object(object) => Val::Blob(unhex(object.get("$blob")?.as_str()?)?),
            Value::Bool(_) | Value::Array(_) => return None,
        })
    }

    /// As the wire has it.
    pub(crate) fn to_wire(&self) -> Value {
        match self {
            Val::Null => Value::Null,
            Val::Blob(blob) => {
                json!({"$blob": blob.iter().map(|byte| format!("{byte:02x}")).collect::<String>()})
            }
            Val::Text(text) => json!(text),
            Val::Real(Real(real)) => json!(real),
            Val::Integer(integer) => json!(integer),
        }
    }
}

fn unhex(hex: &str) -> Option<Vec<u8>> {
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|pair| crate::plan::hex(pair).map(|byte| byte as u8)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_comes_before_the_size() {
        let ordered = [
            json!(null),
            json!({"$blob": ""}),
            json!({"$blob": "00ff"}),
            json!({"$blob": "01"}),
            json!(""),
            json!("B"),
            json!("a"),
            json!("ä"),
            json!(-1e300),
            json!(-0.5),
            json!(0.5),
            json!(i64::MIN),
            json!(-7),
            json!(i64::MAX),
        ];
        let vals: Vec<_> = ordered.iter().map(|val| Val::from_wire(val).expect("a value")).collect();
        assert!(vals.is_sorted_by(|less, more| less < more), "{vals:?}");
        for (val, wire) in vals.iter().zip(ordered) {
            assert_eq!(val.to_wire(), wire);
        }
        for strange in [json!(true), json!([]), json!({}), json!({"$blob": "0"}), json!(u64::MAX)] {
            assert_eq!(Val::from_wire(&strange), None);
        }
    }

    #[test]
    fn values_of_every_type_are_made_and_come_back() {
        let mut rng = crate::rng::Rng::new(1);
        let (mut types, mut seen) = ([0; 5], 0);
        for _ in 0..1_000 {
            let val = Values::Any.make(rng.next(), seen % 3);
            seen += 1;
            let text = val.to_wire().to_string();
            assert_eq!(Val::from_wire(&serde_json::from_str(&text).expect("JSON")), Some(val.clone()));
            types[match val {
                Val::Null => 0,
                Val::Blob(_) => 1,
                Val::Text(_) => 2,
                Val::Real(_) => 3,
                Val::Integer(_) => 4,
            }] += 1;
            assert!(matches!(Values::Text.make(rng.next(), 0), Val::Text(_)));
        }
        assert!(types.iter().all(|count| *count > 50), "{types:?}");
    }
}
