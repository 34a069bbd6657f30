//! The content digest of a channel: equal on two nodes exactly when they hold the same data.

use std::fmt;

use xxhash_rust::xxh3::Xxh3;

use crate::change::{SENTINEL, Value};

/// The wrapping 128-bit sum, over a channel's cells, of a fixed hash of `(table, pk, cid, val, col_version, cl)`.
/// A sum does not depend on the order of arrival, and one cell is taken out of it as easily as it was put in.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Digest(pub u128);

impl Digest {
    /// Puts a cell in.
    pub fn add(&mut self, cell: u128) {
        self.0 = self.0.wrapping_add(cell);
    }

    /// Takes a cell out that was put in before.
    pub fn sub(&mut self, cell: u128) {
        self.0 = self.0.wrapping_sub(cell);
    }

    /// Reads the form that `Display` writes.
    pub fn parse(hex: &str) -> Option<Self> {
        (hex.len() == 32).then(|| u128::from_str_radix(hex, 16).ok().map(Digest)).flatten()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The hash of one cell (XXH3-128 over length-prefixed fields, so that no two cells share their bytes). A sentinel of
/// `cl` 1 counts nothing: whether a row has one depends on the order of arrival (`merge.md`).
///
/// The function is part of the data: stored digests and other nodes rely on it. It must never change.
pub fn cell_hash(table: &str, pk: &str, cid: &str, val: &Value<'_>, col_version: u64, cl: u64) -> u128 {
    if cid == SENTINEL && cl == 1 {
        return 0;
    }
    let mut bytes = [0u8; 256];
    let (number, tail): ([u8; 8], &[u8]) = match val {
        Value::Null => ([0; 8], &[]),
        Value::Integer(i) => (i.to_le_bytes(), &[]),
        // Zero has two signs and one meaning.
        Value::Real(r) => ((if *r == 0.0 { 0.0 } else { *r }).to_bits().to_le_bytes(), &[]),
        Value::Text(t) => ([0; 8], t.as_bytes()),
        Value::Blob(b) => ([0; 8], b),
    };
    let mut head = [0u8; 37];
    head[0..4].copy_from_slice(&(table.len() as u32).to_le_bytes());
    head[4..8].copy_from_slice(&(pk.len() as u32).to_le_bytes());
    head[8..12].copy_from_slice(&(cid.len() as u32).to_le_bytes());
    head[12..20].copy_from_slice(&col_version.to_le_bytes());
    head[20..28].copy_from_slice(&cl.to_le_bytes());
    head[28] = val.type_rank();
    head[29..37].copy_from_slice(&number);
    let parts: [&[u8]; 5] = [&head, table.as_bytes(), pk.as_bytes(), cid.as_bytes(), tail];
    let len: usize = parts.iter().map(|p| p.len()).sum();
    // Most cells fit the stack, and the one-shot hash is several times faster than the streaming one there.
    if len <= bytes.len() {
        let mut at = 0;
        for part in parts {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        return xxhash_rust::xxh3::xxh3_128(&bytes[..len]);
    }
    let mut hash = Xxh3::new();
    for part in parts {
        hash.update(part);
    }
    hash.digest128()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fixed_for_ever() {
        let h = |val| cell_hash("todos", "010B0178", "text", &val, 2, 1);
        assert_eq!(format!("{:032x}", h(Value::Text("a"))), FIXED_TEXT);
        assert_ne!(h(Value::Integer(1)), h(Value::Real(1.0)));
        assert_ne!(h(Value::Text("")), h(Value::Null));
        assert_ne!(h(Value::Text("")), h(Value::Blob(&[])));
        assert_eq!(h(Value::Real(0.0)), h(Value::Real(-0.0)));
        // Short and long inputs take two paths to one function.
        let long = "x".repeat(500);
        assert_ne!(h(Value::Text(&long)), h(Value::Text(&long[1..])));
    }

    const FIXED_TEXT: &str = "c604896c75572dbcf6598710e179f6e9";

    #[test]
    fn the_sentinel_of_a_first_life_counts_nothing() {
        assert_eq!(cell_hash("t", "p", SENTINEL, &Value::Null, 1, 1), 0);
        assert_ne!(cell_hash("t", "p", SENTINEL, &Value::Null, 3, 3), 0);
    }

    #[test]
    fn a_digest_reads_what_it_writes() {
        let d = Digest(0x00ff_0000_0000_0000_0000_0000_0000_0001);
        assert_eq!(Digest::parse(&d.to_string()), Some(d));
        assert_eq!(Digest::parse("12"), None);
    }
}
