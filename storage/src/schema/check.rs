//! A change against the schema. What is refused here would stop every cr-sqlite client that it is forwarded to, or would not fit
//! into its table.

use crate::change::{Change, Value};

use super::key::{self, Key, KeyError};
use super::{Affinity, Column, KeyFormat, Schema, Table};

/// The most of a name that is told, in characters.
const SHOWN_CHARS: usize = 64;

/// Why the schema refuses a change. Shown with the change's field first: `pk: …`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The schema has no such table.
    #[error("table: the schema has no table {table:?}")]
    UnknownTable {
        /// Its name, or the beginning of it.
        table: String,
    },
    /// The table has no such column.
    #[error("cid: table {table:?} has no column {column:?}")]
    UnknownColumn {
        /// The table's name.
        table: String,
        /// The column's, or the beginning of it.
        column: String,
    },
    /// The column is part of the table's key, which changes carry in `pk`.
    #[error("cid: column {column:?} is in the key of table {table:?}; no change may name it")]
    KeyColumn {
        /// The table's name.
        table: String,
        /// The column's.
        column: String,
    },
    /// The key is none.
    #[error("pk: {0}")]
    Key(#[from] KeyError),
    /// A value of the key is one that its column does not store, or stores as another one, so that the key would have
    /// two spellings.
    #[error("pk: column {column:?} does not store {found} as it is")]
    KeyValue {
        /// The column's name.
        column: String,
        /// What kind of value it is.
        found: &'static str,
    },
    /// NULL for a column that takes none.
    #[error("val: column {column:?} is NOT NULL")]
    Null {
        /// The column's name.
        column: String,
    },
    /// A value that a `STRICT` table's column does not take.
    #[error("val: column {column:?} of type {declared} does not take {found}")]
    Value {
        /// The column's name.
        column: String,
        /// Its type.
        declared: String,
        /// What kind of value it is.
        found: &'static str,
    },
}

impl Schema {
    /// Whether the change is one for these tables. `buffer` is for the key's bytes; it may hold anything before.
    pub fn check(&self, change: &Change<'_>, buffer: &mut Vec<u8>) -> Result<(), Refused> {
        let Some(table) = self.table(change.table) else {
            return Err(Refused::UnknownTable { table: shown(change.table) });
        };
        self.key(table, change.pk, buffer)?;
        if change.is_sentinel() {
            return Ok(());
        }
        let Some(column) = table.column(change.cid) else {
            return Err(Refused::UnknownColumn { table: table.name.clone(), column: shown(change.cid) });
        };
        if column.in_key {
            return Err(Refused::KeyColumn { table: table.name.clone(), column: column.name.clone() });
        }
        match change.val {
            Value::Null if column.not_null => Err(Refused::Null { column: column.name.clone() }),
            val if column.takes(&val) => Ok(()),
            val => Err(Refused::Value {
                column: column.name.clone(),
                declared: column.declared.clone(),
                found: kind(&val),
            }),
        }
    }

    /// The values of a row's key, in the order of the table's key; each is stored by its column as it is. `buffer` is for the
    /// key's bytes; it may hold anything before.
    pub fn key<'b>(&self, table: &Table, pk: &'b str, buffer: &'b mut Vec<u8>) -> Result<Key<'b>, Refused> {
        let key = match (self.key_format, table.key_columns().next()) {
            (KeyFormat::Plain, Some(column)) => Key::plain(column.plain(pk)),
            _ => key::unpack(pk, buffer)?,
        };
        let (found, expected) = (key.columns(), table.key.len());
        if found != expected {
            return Err(KeyError::Columns { found, expected }.into());
        }
        match table.key_columns().zip(key.values()).find(|(column, value)| !column.keeps(value)) {
            None => Ok(key),
            Some((column, value)) => {
                Err(Refused::KeyValue { column: column.name.clone(), found: kind(&value) })
            }
        }
    }
}

impl Column {
    /// Whether SQLite lets it hold the value, or what its affinity makes of it.
    fn takes(&self, value: &Value<'_>) -> bool {
        !self.exact
            || match (self.affinity, value) {
                (_, Value::Null)
                | (Affinity::Integer | Affinity::Numeric, Value::Integer(_))
                | (Affinity::Real, Value::Integer(_) | Value::Real(_))
                | (Affinity::Text, Value::Integer(_) | Value::Real(_) | Value::Text(_))
                | (Affinity::Blob, Value::Blob(_)) => true,
                (Affinity::Integer | Affinity::Numeric, Value::Real(real)) => becomes_integer(*real),
                (Affinity::Integer | Affinity::Numeric, Value::Text(text)) => {
                    number(text).is_some_and(|number| number.is_none_or(becomes_integer))
                }
                (Affinity::Real, Value::Text(text)) => number(text).is_some(),
                _ => false,
            }
    }

    /// Whether, in a key, it stores the value as it is, and no other value is equal to that: what SQLite would convert, or take
    /// for the same, is a second spelling.
    fn keeps(&self, value: &Value<'_>) -> bool {
        match (self.affinity, value) {
            (_, Value::Null) => false,
            (affinity, Value::Blob(_)) => !self.exact || affinity == Affinity::Blob,
            (Affinity::Text, Value::Text(_)) | (Affinity::Real, Value::Real(_)) => true,
            (Affinity::Text, Value::Integer(_) | Value::Real(_)) | (Affinity::Real, Value::Integer(_)) => {
                false
            }
            (Affinity::Integer | Affinity::Numeric, Value::Integer(_)) => true,
            (Affinity::Integer | Affinity::Numeric | Affinity::Real, Value::Text(text)) => {
                !self.exact && number(text).is_none()
            }
            (Affinity::Blob, Value::Integer(_) | Value::Text(_)) => !self.exact,
            (Affinity::Integer | Affinity::Numeric | Affinity::Blob, Value::Real(real)) => {
                !self.exact && !equals_integer(*real)
            }
        }
    }

    /// The value that a plain key means: an integer as SQLite writes it, where the column prefers such, else text.
    fn plain<'k>(&self, pk: &'k str) -> Value<'k> {
        let integer = match self.affinity {
            Affinity::Integer | Affinity::Numeric => pk.parse::<i64>().ok(),
            _ => None,
        };
        match integer {
            Some(integer) if integer.to_string() == pk => Value::Integer(integer),
            _ => Value::Text(pk),
        }
    }
}

/// Whether SQLite takes the text for a number: `None` if not; inside, what there is beyond a plain 64-bit integer.
fn number(text: &str) -> Option<Option<f64>> {
    let text = text.trim_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
    // Rust takes the same numbers beside `inf` and `nan`.
    if !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')) {
        return None;
    }
    match text.parse::<i64>() {
        Ok(_) => Some(None),
        Err(_) => text.parse().ok().map(Some),
    }
}

/// Whether integer affinity makes an integer of the real.
fn becomes_integer(real: f64) -> bool {
    let integer = real as i64;
    // Both bounds are what a real beyond them becomes.
    integer as f64 == real && integer != i64::MIN && integer != i64::MAX
}

/// Whether there is a 64-bit integer of the same size.
fn equals_integer(real: f64) -> bool {
    real.fract() == 0.0 && (-(2f64.powi(63))..2f64.powi(63)).contains(&real)
}

fn kind(value: &Value<'_>) -> &'static str {
    match value {
        Value::Null => "NULL",
        Value::Integer(_) => "an integer",
        Value::Real(_) => "this real",
        Value::Text(_) => "this text",
        Value::Blob(_) => "a blob",
    }
}

fn shown(name: &str) -> String {
    name.chars().take(SHOWN_CHARS).collect()
}
