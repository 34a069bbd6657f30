//! cr-sqlite's packed keys: the values of a row's key columns as one text of upper-case hex.
//!
//! A byte with the number of columns; then for each a byte, `length << 3 | type`, and what the type says:
//!
//! | type | what follows |
//! | --- | --- |
//! | 1, INTEGER | the integer in `length` bytes, big-endian: none for 0, all 8 for a negative one |
//! | 2, REAL | a double in 8 bytes, big-endian; `length` is 0 |
//! | 3, TEXT; 4, BLOB | how many bytes it has, in `length` bytes, big-endian; then these |
//! | 5, NULL | nothing; no key has one |
//!
//! cr-sqlite reads more than it writes. Here only what it writes is a key: a second spelling would be a second row of
//! `crdt_changes` for the same row of a table.

use std::fmt::Write;

use crate::change::Value;

const INTEGER: u8 = 1;
const REAL: u8 = 2;
const TEXT: u8 = 3;
const BLOB: u8 = 4;
const NULL: u8 = 5;

/// Why a text is not a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A character that is no hex digit.
    #[error("is no packed key: its byte {at} is not a hex digit")]
    NotHex {
        /// Where, in bytes from 0.
        at: usize,
    },
    /// A hex digit from a to f.
    #[error("has lower-case hex, a second spelling of the same key; send it as hex() writes it")]
    LowerCase,
    /// Half a byte at the end.
    #[error("is no packed key: it has an odd number of hex digits")]
    OddHex,
    /// It counts no column at all.
    #[error("is no packed key: it holds no column")]
    NoColumns,
    /// It ends before its last column does.
    #[error("is cut short in column {column}")]
    CutShort {
        /// Which of the key's columns, from 1.
        column: usize,
    },
    /// It goes on behind its last column.
    #[error("has {bytes} bytes behind its last column")]
    TrailingBytes {
        /// How many.
        bytes: usize,
    },
    /// A type that there is not.
    #[error("column {column} has the type byte {byte:#04x}, which cr-sqlite does not write")]
    UnknownType {
        /// Which of the key's columns, from 1.
        column: usize,
        /// The byte of length and type.
        byte: u8,
    },
    /// An integer or a length with leading zero bytes.
    #[error("column {column} has a number in more bytes than it needs, a second spelling of the same key")]
    NotMinimal {
        /// Which of the key's columns, from 1.
        column: usize,
    },
    /// Text that is not UTF-8.
    #[error("column {column} is text that is not UTF-8")]
    NotUtf8 {
        /// Which of the key's columns, from 1.
        column: usize,
    },
    /// A real that is -0.0, which SQLite stores as 0.0, or not a number, which it stores as NULL.
    #[error("column {column} is {value}, which SQLite stores as another value")]
    BadReal {
        /// Which of the key's columns, from 1.
        column: usize,
        /// `-0` or `NaN`.
        value: &'static str,
    },
    /// A NULL.
    #[error("column {column} is NULL, which no key may hold")]
    Null {
        /// Which of the key's columns, from 1.
        column: usize,
    },
    /// Not as many columns as the table's key has.
    #[error("has {found} columns, the key of its table has {expected}")]
    Columns {
        /// How many it has.
        found: usize,
        /// How many it should have.
        expected: usize,
    },
}

/// The values of a key.
#[derive(Clone, Copy, Debug)]
pub struct Key<'b>(Form<'b>);

#[derive(Clone, Copy, Debug)]
enum Form<'b> {
    /// As packed, and known to be right.
    Packed {
        columns: u8,
        packed: &'b [u8],
    },
    Plain(Value<'b>),
}

impl<'b> Key<'b> {
    /// The key of that one value.
    pub(super) fn plain(value: Value<'b>) -> Self {
        Key(Form::Plain(value))
    }

    /// How many columns it is made of, at least 1.
    pub fn columns(&self) -> usize {
        match self.0 {
            Form::Packed { columns, .. } => columns.into(),
            Form::Plain(_) => 1,
        }
    }

    /// Its values, in the order of the key's columns. None is NULL; a real may be infinite, unlike one of a cell.
    pub fn values(&self) -> impl Iterator<Item = Value<'b>> + use<'b> {
        let (mut rest, plain) = match self.0 {
            Form::Packed { packed, .. } => (packed, None),
            Form::Plain(value) => (&[][..], Some(value)),
        };
        let packed = std::iter::from_fn(move || match rest {
            [] => None,
            _ => take(&mut rest, 0).ok(),
        });
        plain.into_iter().chain(packed)
    }
}

/// Reads a packed key. `buffer` is where its bytes go, half as many as `pk` has; it may hold anything before.
pub fn unpack<'b>(pk: &str, buffer: &'b mut Vec<u8>) -> Result<Key<'b>, KeyError> {
    buffer.clear();
    let (pairs, odd) = pk.as_bytes().as_chunks::<2>();
    buffer.reserve(pairs.len());
    for [high, low] in pairs {
        match (DIGITS[usize::from(*high)], DIGITS[usize::from(*low)]) {
            (high @ 0..16, low @ 0..16) => buffer.push(high << 4 | low),
            _ => return Err(not_hex(pk)),
        }
    }
    if !odd.is_empty() {
        return Err(if DIGITS[usize::from(odd[0])] < 16 { KeyError::OddHex } else { not_hex(pk) });
    }
    let buffer: &'b [u8] = buffer;
    let Some((&columns @ 1.., packed)) = buffer.split_first() else { return Err(KeyError::NoColumns) };
    let mut rest = packed;
    for column in 1..=columns {
        take(&mut rest, column.into())?;
    }
    match rest.len() {
        0 => Ok(Key(Form::Packed { columns, packed })),
        bytes => Err(KeyError::TrailingBytes { bytes }),
    }
}

/// The value of each upper-case hex digit; 255 for every other byte.
const DIGITS: [u8; 256] = {
    let mut digits = [255; 256];
    let mut digit = 0;
    while digit < 16 {
        digits[b"0123456789ABCDEF"[digit] as usize] = digit as u8;
        digit += 1;
    }
    digits
};

fn not_hex(pk: &str) -> KeyError {
    match pk.bytes().position(|byte| !byte.is_ascii_hexdigit()) {
        Some(at) => KeyError::NotHex { at },
        None => KeyError::LowerCase,
    }
}

/// Takes the value that begins `rest`.
fn take<'b>(rest: &mut &'b [u8], column: usize) -> Result<Value<'b>, KeyError> {
    let cut_short = KeyError::CutShort { column };
    let (&byte, after) = rest.split_first().ok_or(cut_short.clone())?;
    *rest = after;
    let mut bytes = |count: u64| {
        // What is longer than the key is cut short, whatever a pointer holds.
        let count =
            usize::try_from(count).ok().filter(|count| *count <= rest.len()).ok_or(cut_short.clone())?;
        let (taken, after) = rest.split_at(count);
        *rest = after;
        Ok(taken)
    };
    let mut number = |len: u8| {
        let taken: &[u8] = bytes(len.into())?;
        match taken.first() {
            Some(0) => Err(KeyError::NotMinimal { column }),
            _ => Ok(taken.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))),
        }
    };
    match (byte >> 3, byte & 7) {
        (len @ 0..=8, INTEGER) => Ok(Value::Integer(number(len)? as i64)),
        (0, REAL) => {
            let taken = bytes(8)?.try_into().expect("eight bytes were taken");
            let real = f64::from_be_bytes(taken);
            match real {
                _ if real.is_nan() => Err(KeyError::BadReal { column, value: "NaN" }),
                _ if real == 0.0 && real.is_sign_negative() => Err(KeyError::BadReal { column, value: "-0" }),
                _ => Ok(Value::Real(real)),
            }
        }
        (len @ 0..=4, kind @ (TEXT | BLOB)) => {
            let count = number(len)?;
            let taken = bytes(count)?;
            if kind == BLOB {
                return Ok(Value::Blob(taken));
            }
            std::str::from_utf8(taken).map(Value::Text).map_err(|_| KeyError::NotUtf8 { column })
        }
        (0, NULL) => Err(KeyError::Null { column }),
        _ => Err(KeyError::UnknownType { column, byte }),
    }
}

/// Packs a key as cr-sqlite does, for tests and tools; at most 255 values, each below 4 GiB. [`unpack`] takes what is made of
/// values that a key may hold.
pub fn pack<'v>(values: impl IntoIterator<Item = Value<'v>>) -> String {
    let mut packed = vec![0];
    for value in values {
        packed[0] += 1;
        match value {
            Value::Null => packed.push(NULL),
            Value::Integer(i) => push_number(INTEGER, i as u64, &mut packed),
            Value::Real(r) => {
                packed.push(REAL);
                packed.extend(r.to_be_bytes());
            }
            Value::Text(text) => {
                push_number(TEXT, text.len() as u64, &mut packed);
                packed.extend(text.as_bytes());
            }
            Value::Blob(blob) => {
                push_number(BLOB, blob.len() as u64, &mut packed);
                packed.extend(blob);
            }
        }
    }
    let mut hex = String::with_capacity(2 * packed.len());
    for byte in packed {
        write!(hex, "{byte:02X}").expect("a String takes what is written");
    }
    hex
}

fn push_number(kind: u8, number: u64, packed: &mut Vec<u8>) {
    let len = 8 - number.leading_zeros() as usize / 8;
    packed.push((len as u8) << 3 | kind);
    packed.extend(&number.to_be_bytes()[8 - len..]);
}
