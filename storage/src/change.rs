//! A change: cr-sqlite's row of nine values, and the order of its values.

use std::cmp::Ordering;

/// The `cid` of a sentinel: the cell that carries a row's causal length.
pub const SENTINEL: &str = "-1";

/// A value of a cell, as SQLite types it. `Integer(1)` and `Real(1.0)` are different values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// SQL NULL.
    Null,
    /// A 64-bit signed integer.
    Integer(i64),
    /// A finite double. JSON has no other, so no store ever sees NaN or an infinity.
    Real(f64),
    /// UTF-8 text.
    Text(&'a str),
    /// Bytes.
    Blob(&'a [u8]),
}

impl Value<'_> {
    /// Which of two values stays when their clocks are equal: INTEGER > REAL > TEXT > BLOB > NULL, numbers by
    /// size, text and blobs by bytes (cr-sqlite 0.16, `merge.md` rule 5). `-0.0` and `0.0` are equal.
    pub fn merge_order(&self, other: &Value<'_>) -> Ordering {
        use Value::{Blob, Integer, Null, Real, Text};
        match (self, other) {
            (Null, Null) => Ordering::Equal,
            (Integer(a), Integer(b)) => a.cmp(b),
            // Never NaN, so the order is total.
            (Real(a), Real(b)) => a.partial_cmp(b).unwrap_or(Ordering::Equal),
            (Text(a), Text(b)) => a.as_bytes().cmp(b.as_bytes()),
            (Blob(a), Blob(b)) => a.cmp(b),
            _ => self.type_rank().cmp(&other.type_rank()),
        }
    }

    /// The rank of the value's type in [`Value::merge_order`]; also its tag in the digest and in stored bytes.
    pub fn type_rank(&self) -> u8 {
        match self {
            Value::Null => 0,
            Value::Blob(_) => 1,
            Value::Text(_) => 2,
            Value::Real(_) => 3,
            Value::Integer(_) => 4,
        }
    }

    /// A copy that owns its bytes.
    pub fn to_owned(&self) -> OwnedValue {
        match *self {
            Value::Null => OwnedValue::Null,
            Value::Integer(i) => OwnedValue::Integer(i),
            Value::Real(r) => OwnedValue::Real(r),
            Value::Text(t) => OwnedValue::Text(t.into()),
            Value::Blob(b) => OwnedValue::Blob(b.into()),
        }
    }
}

/// A [`Value`] that owns its bytes.
#[derive(Clone, Debug, PartialEq)]
pub enum OwnedValue {
    /// SQL NULL.
    Null,
    /// A 64-bit signed integer.
    Integer(i64),
    /// A finite double.
    Real(f64),
    /// UTF-8 text.
    Text(Box<str>),
    /// Bytes.
    Blob(Box<[u8]>),
}

impl OwnedValue {
    /// The value, borrowed.
    pub fn as_value(&self) -> Value<'_> {
        match self {
            OwnedValue::Null => Value::Null,
            OwnedValue::Integer(i) => Value::Integer(*i),
            OwnedValue::Real(r) => Value::Real(*r),
            OwnedValue::Text(t) => Value::Text(t),
            OwnedValue::Blob(b) => Value::Blob(b),
        }
    }
}

/// One change: what one site says about one cell. The bounds of `wire.md` are checked before one is made:
/// integers are at most 2^53 - 1, `cl` is at least 1, a sentinel has a null `val` and `col_version == cl`, and
/// any other cell has an odd `cl`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change<'a> {
    /// The table's name, 1 to 255 bytes.
    pub table: &'a str,
    /// The row's key as it was sent, 1 to 4,096 bytes.
    pub pk: &'a str,
    /// The column's name, 1 to 255 bytes; [`SENTINEL`] for the row itself.
    pub cid: &'a str,
    /// The cell's value.
    pub val: Value<'a>,
    /// The cell's clock.
    pub col_version: u64,
    /// The sender's own version. It never decides anything and is never stored.
    pub db_version: u64,
    /// Who wrote the cell, 1 to 64 bytes.
    pub site_id: &'a str,
    /// The row's causal length: odd while the row lives, even once it is deleted.
    pub cl: u64,
    /// The change's place in the sender's transaction.
    pub seq: u64,
}

impl Change<'_> {
    /// Whether this change speaks of the row, not of a column.
    pub fn is_sentinel(&self) -> bool {
        self.cid == SENTINEL
    }

    /// Whether this change deletes its row.
    pub fn is_delete(&self) -> bool {
        self.cl.is_multiple_of(2)
    }
}

/// A place in a channel's history: a stored cell has one, and no two cells of a channel have the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The channel's version that the cell won in, from 1.
    pub version: u64,
    /// Its place within that version, from 0.
    pub seq: u64,
}

impl Position {
    /// The last place of `version`: everything of it and before it lies at or below.
    pub fn end_of(version: u64) -> Self {
        // A store keeps these as signed 64-bit integers.
        Position { version, seq: i64::MAX as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_rank_before_values() {
        let ascending = [
            Value::Null,
            Value::Blob(&[0xff]),
            Value::Text(""),
            Value::Text("Z"),
            Value::Text("a"),
            Value::Real(-1.5),
            Value::Real(99.5),
            Value::Integer(-7),
            Value::Integer(3),
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(a.merge_order(b), i.cmp(&j), "{a:?} against {b:?}");
            }
        }
        assert_eq!(Value::Real(0.0).merge_order(&Value::Real(-0.0)), Ordering::Equal);
    }
}
