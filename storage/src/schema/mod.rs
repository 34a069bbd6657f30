//! The application's tables: which there are, what their columns take, and what of a change they refuse.
//!
//! A schema comes from a file of plain `CREATE TABLE`s ([`Schema::parse`]). What is refused there, cr-sqlite refuses as well, or
//! it would let two rows of `crdt_changes` be one row of a table, or a row fail to be written.

mod check;
mod follows;
pub mod key;
mod parse;
mod statements;

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use foldhash::fast::RandomState;

pub use check::Refused;
pub use follows::CannotFollow;
pub use key::{Key, KeyError};

/// The largest schema file, in bytes.
pub const MAX_FILE_BYTES: usize = 4 << 20;

/// The most tables of a schema. The columns of a table have SQLite's limit, 2,000.
pub const MAX_TABLES: usize = 1_000;

/// The most columns of a key: a packed key counts them in a byte.
pub const MAX_KEY_COLUMNS: usize = 255;

/// The longest table and column name, in bytes (`wire.md`).
pub const MAX_NAME_BYTES: usize = 255;

/// The application's tables. Names are as they were declared, in that case: `crsql_changes` carries them so, and cr-sqlite knows
/// no other.
#[derive(Debug)]
pub struct Schema {
    tables: Vec<Table>,
    by_name: HashMap<Box<str>, usize, RandomState>,
    key_format: KeyFormat,
}

impl Schema {
    /// The tables, in the order of the file.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// The table of that name.
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.by_name.get(name).map(|at| &self.tables[*at])
    }

    /// How changes carry keys.
    pub fn key_format(&self) -> KeyFormat {
        self.key_format
    }
}

/// A table of the application.
#[derive(Debug)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Its own statement: `CREATE TABLE` and all that follows, on one database and without `IF NOT EXISTS`.
    pub sql: String,
    /// Whether it is `STRICT`.
    pub strict: bool,
    /// Its columns, as declared.
    pub columns: Vec<Column>,
    /// Which of them make its key, in the key's order, which is that of a packed key's values. At least one.
    pub key: Vec<usize>,
    by_name: HashMap<Box<str>, usize, RandomState>,
}

impl Table {
    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.index_of(name).map(|at| &self.columns[at])
    }

    /// The place of the column of that name.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The columns of the key, in its order.
    pub fn key_columns(&self) -> impl ExactSizeIterator<Item = &Column> {
        self.key.iter().map(|at| &self.columns[*at])
    }
}

/// A column of a [`Table`].
#[derive(Debug)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The type as it was written, empty if there was none.
    pub declared: String,
    /// What SQLite makes of values that are written into it.
    pub affinity: Affinity,
    /// Whether it takes nothing but values of its affinity's own type, and what SQLite can make such of: a `STRICT` table's,
    /// unless it is `ANY`; an `INTEGER PRIMARY KEY`.
    pub exact: bool,
    /// Whether it is `NOT NULL`. One that is not in the key has a default then.
    pub not_null: bool,
    /// Whether it is part of the key.
    pub in_key: bool,
}

/// What SQLite prefers a column's values to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// Numbers become text.
    Text,
    /// Text that is a number becomes one, and an integer if it can.
    Numeric,
    /// As numeric.
    Integer,
    /// Integers, and text that is a number, become reals.
    Real,
    /// Everything stays as it is.
    Blob,
}

impl Affinity {
    /// The affinity of a column of that type (SQLite's documentation, "Determination Of Column Affinity").
    fn of(declared: &str, strict: bool) -> Self {
        let declared = declared.to_ascii_uppercase();
        let has = |words: &[&str]| words.iter().any(|word| declared.contains(word));
        if strict && declared == "ANY" {
            Affinity::Blob
        } else if has(&["INT"]) {
            Affinity::Integer
        } else if has(&["CHAR", "CLOB", "TEXT"]) {
            Affinity::Text
        } else if has(&["BLOB"]) || declared.is_empty() {
            Affinity::Blob
        } else if has(&["REAL", "FLOA", "DOUB"]) {
            Affinity::Real
        } else {
            Affinity::Numeric
        }
    }
}

/// How changes carry a row's key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyFormat {
    /// As cr-sqlite packs it, in upper-case hex.
    #[default]
    Packed,
    /// The key's one value itself, as text.
    Plain,
}

impl KeyFormat {
    /// All formats.
    pub const ALL: [KeyFormat; 2] = [KeyFormat::Packed, KeyFormat::Plain];
}

impl fmt::Display for KeyFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyFormat::Packed => "packed",
            KeyFormat::Plain => "plain",
        })
    }
}

impl FromStr for KeyFormat {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|format| format.to_string() == s)
            .ok_or_else(|| format!("{s:?} is not a key format: it must be packed or plain"))
    }
}

/// A schema that cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {problem}")]
pub struct SchemaError {
    /// The file, as the caller named it.
    pub file: String,
    /// The line of the file, from 1.
    pub line: usize,
    /// What is wrong there.
    pub problem: String,
}
