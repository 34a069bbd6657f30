//! What a trace says of a value: its type and its size.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A value's type and size; in a trace a letter and a number, such as `s20`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Null,
    Bool,
    /// Characters of its decimal spelling.
    Integer(u32),
    /// Characters of its shortest spelling.
    Real(u32),
    /// Bytes of UTF-8.
    Text(u32),
    /// Bytes.
    Blob(u32),
}

impl Shape {
    /// What the value takes in memory, about.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Shape::Null | Shape::Bool => 1,
            Shape::Integer(n) | Shape::Real(n) | Shape::Text(n) => u64::from(n),
            Shape::Blob(n) => 2 * u64::from(n),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Null => f.write_str("n"),
            Shape::Bool => f.write_str("b"),
            Shape::Integer(n) => write!(f, "i{n}"),
            Shape::Real(n) => write!(f, "r{n}"),
            Shape::Text(n) => write!(f, "s{n}"),
            Shape::Blob(n) => write!(f, "x{n}"),
        }
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let strange = || format!("no shape of a value: {text:?}");
        let size = || text[1..].parse::<u32>().map_err(|_| strange());
        match text.as_bytes() {
            b"n" => Ok(Shape::Null),
            b"b" => Ok(Shape::Bool),
            [b'i', ..] => size().map(Shape::Integer),
            [b'r', ..] => size().map(Shape::Real),
            [b's', ..] => size().map(Shape::Text),
            [b'x', ..] => size().map(Shape::Blob),
            _ => Err(strange()),
        }
    }
}

impl Serialize for Shape {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// A change's `val` as the wire has it, of which only the shape is kept.
#[derive(Debug)]
pub(crate) struct OfValue(pub(crate) Shape);

impl<'de> Deserialize<'de> for OfValue {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Look).map(OfValue)
    }
}

struct Look;

impl<'de> Visitor<'de> for Look {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a cell's value")
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Shape, E> {
        Ok(Shape::Bool)
    }

    fn visit_i64<E>(self, number: i64) -> Result<Shape, E> {
        Ok(Shape::Integer(number.to_string().len() as u32))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Shape, E> {
        let characters = number.to_string().len() as u32;
        Ok(if i64::try_from(number).is_ok() { Shape::Integer(characters) } else { Shape::Real(characters) })
    }

    fn visit_f64<E>(self, number: f64) -> Result<Shape, E> {
        Ok(Shape::Real(serde_json::Value::from(number).to_string().len() as u32))
    }

    fn visit_str<E>(self, text: &str) -> Result<Shape, E> {
        Ok(Shape::Text(text.len() as u32))
    }

    /// `{"$blob": "<hex>"}`.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let (key, hex): (Cow<'_, str>, Cow<'_, str>) =
            map.next_entry()?.ok_or_else(|| A::Error::custom("an empty object"))?;
        if key != "$blob" || map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            return Err(A::Error::custom("an object that is no blob"));
        }
        Ok(Shape::Blob((hex.len() / 2) as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_leaves_its_type_and_size() {
        for (val, shape) in [
            ("null", "n"),
            ("true", "b"),
            ("-12", "i3"),
            ("9223372036854775807", "i19"),
            ("9223372036854775808", "r19"),
            ("-0.25", "r5"),
            (r#""""#, "s0"),
            (r#""\u00e4b""#, "s3"),
            (r#"{"$blob":"00ff"}"#, "x2"),
        ] {
            let OfValue(found) = serde_json::from_str(val).expect("a value");
            assert_eq!(found.to_string(), shape, "{val}");
            assert_eq!(shape.parse(), Ok(found));
        }
        for strange in ["[]", "{}", r#"{"blob":"00"}"#, r#"{"$blob":"00","a":1}"#, r#"{"$blob":7}"#] {
            assert!(serde_json::from_str::<OfValue>(strange).is_err(), "{strange}");
        }
        for strange in ["", "q1", "i", "s-1", "n1", "s99999999999", "\u{e4}1"] {
            assert!(strange.parse::<Shape>().is_err(), "{strange}");
        }
    }
}
