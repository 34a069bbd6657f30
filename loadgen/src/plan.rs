//! What a channel's changes look like: rows to primary keys and back, values that prove their own origin.
//!
//! A change made here can be recognised without any table of what was sent: its key decodes to its row, and its value
//! holds the number of the update that wrote it and a check over all the rest. So followers verify content, not just
//! counts, at a few nanoseconds a change.

use crate::rng::{hash_name, mix, unmix};
use crate::val::Values;

/// cr-sqlite's type of an integer in a packed key.
const PACKED_INTEGER: u64 = 1;
/// cr-sqlite's type of a text in a packed key.
const PACKED_TEXT: u64 = 3;
/// Each value begins so: text that a careless column affinity could take for a number would come back as one.
pub(crate) const STAMP_PREFIX: &str = "v";
/// The start of each value: the prefix, 8 hex digits of the update's number, 8 of the check.
pub(crate) const STAMP_BYTES: usize = STAMP_PREFIX.len() + 16;
/// [`Plan::deletes`] where nothing else is said.
pub(crate) const DELETES_PERCENT: u64 = 15;

/// The order in which rows meet the server's key index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Keys {
    /// Keys scattered over the whole range, as UUIDs are: the hard case for a B-tree.
    Random,
    /// Rising keys.
    Sequential,
}

/// One cell, at one state, as the generator wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) row: u64,
    pub(crate) column: u32,
    pub(crate) col_version: u32,
    /// The number of the update that wrote it, counted by its sender from 0.
    pub(crate) update: u32,
}

/// The shape of one channel's data.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) channel: String,
    pub(crate) table: String,
    pub(crate) columns: u32,
    /// What `mixed`, `crash` and `cluster` write.
    pub(crate) values: Values,
    /// Deletes among the edits of rows that live, in percent, where `mixed`, `crash` and `cluster` write.
    pub(crate) deletes: u64,
    keys: Keys,
    value_bytes: usize,
    salt: u64,
}

/// What is the same for all channels of a run.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) table: String,
    pub(crate) columns: u32,
    pub(crate) keys: Keys,
    pub(crate) values: Values,
    pub(crate) value_bytes: usize,
    pub(crate) seed: u64,
}

impl Plan {
    pub(crate) fn new(channel: String, shape: &Shape) -> Self {
        Self {
            table: shape.table.clone(),
            columns: shape.columns,
            keys: shape.keys,
            values: shape.values,
            deletes: DELETES_PERCENT,
            value_bytes: shape.value_bytes.max(STAMP_BYTES),
            salt: hash_name(shape.seed, &channel),
            channel,
        }
    }

    /// The same with other deletes.
    pub(crate) fn with_deletes(&self, percent: u64) -> Self {
        Self { deletes: percent, ..self.clone() }
    }

    /// The row's integer key.
    pub(crate) fn key_of(&self, row: u64) -> u64 {
        match self.keys {
            Keys::Sequential => row,
            Keys::Random => mix(row ^ self.salt),
        }
    }

    /// The row that has this key. Any number decodes to some row; only the value's check says whether it is ours.
    pub(crate) fn row_of(&self, key: u64) -> u64 {
        match self.keys {
            Keys::Sequential => key,
            Keys::Random => unmix(key) ^ self.salt,
        }
    }

    /// The index of a cell among all of the channel's.
    pub(crate) fn cell(&self, row: u64, column: u32) -> u64 {
        row * u64::from(self.columns) + u64::from(column)
    }

    /// The inverse of [`Plan::cell`].
    pub(crate) fn row_and_column(&self, cell: u64) -> (u64, u32) {
        (cell / u64::from(self.columns), (cell % u64::from(self.columns)) as u32)
    }

    /// The key as the wire has it, to name a row in a report.
    pub(crate) fn pk(&self, row: u64) -> String {
        integer_key(self.key_of(row))
    }

    /// The check over a change's content, channel and seed.
    pub(crate) fn check(&self, change: &Change) -> u32 {
        let place = change.row ^ (u64::from(change.column) << 48);
        let state = u64::from(change.col_version) << 32 | u64::from(change.update);
        mix(mix(place ^ self.salt) ^ state) as u32
    }

    /// Appends the change as the wire's array of nine.
    pub(crate) fn write_change(&self, out: &mut Vec<u8>, change: &Change, site: &str, seq: u32) {
        out.extend_from_slice(b"[\"");
        out.extend_from_slice(self.table.as_bytes());
        out.extend_from_slice(b"\",\"");
        push_key(out, self.key_of(change.row));
        out.extend_from_slice(b"\",\"c");
        push_number(out, u64::from(change.column));
        out.extend_from_slice(b"\",\"");
        out.extend_from_slice(STAMP_PREFIX.as_bytes());
        push_hex(out, u64::from(change.update), 8);
        push_hex(out, u64::from(self.check(change)), 8);
        out.resize(out.len() + (self.value_bytes - STAMP_BYTES), b'x');
        out.extend_from_slice(b"\",");
        push_number(out, u64::from(change.col_version));
        out.push(b',');
        push_number(out, u64::from(change.update) + 1);
        out.extend_from_slice(b",\"");
        out.extend_from_slice(site.as_bytes());
        out.extend_from_slice(b"\",1,");
        push_number(out, u64::from(seq));
        out.push(b']');
    }
}

/// Appends cr-sqlite's packed key of one integer, as `hex()` prints it: the number of columns, the integer's length and
/// type in a byte, the integer in as few bytes as hold it. One with the highest bit set is negative there.
fn push_key(out: &mut Vec<u8>, key: u64) {
    let bytes = 8 - key.leading_zeros() / 8;
    push_hex(out, 1, 2);
    push_hex(out, u64::from(bytes) << 3 | PACKED_INTEGER, 2);
    push_hex(out, key, 2 * bytes);
}

/// cr-sqlite's packed key of this number.
pub(crate) fn integer_key(key: u64) -> String {
    let mut pk = Vec::new();
    push_key(&mut pk, key);
    String::from_utf8(pk).expect("hex digits")
}

/// cr-sqlite's packed key of one text that stands for this number, with as many hex digits as are asked for, or up to
/// three fewer; at least 38, at most 131,078.
pub(crate) fn text_key(key: u64, digits: usize) -> String {
    let bytes = digits.saturating_sub(6) as u64 / 2;
    // A length above 255 takes a byte more.
    let bytes = (bytes - u64::from(bytes > 255)).clamp(16, 0xffff);
    let length = 8 - bytes.leading_zeros() / 8;
    let mut out = Vec::with_capacity(digits);
    push_hex(&mut out, 1, 2);
    push_hex(&mut out, u64::from(length) << 3 | PACKED_TEXT, 2);
    push_hex(&mut out, bytes, 2 * length);
    let mut text = Vec::new();
    push_hex(&mut text, key, 16);
    text.resize(bytes as usize, b'k');
    text.into_iter().for_each(|byte| push_hex(&mut out, u64::from(byte), 2));
    String::from_utf8(out).expect("hex digits")
}

/// Reads what [`push_key`] wrote, and what follows it. Any other spelling is none of the generator's.
pub(crate) fn take_key(text: &[u8]) -> Option<(u64, &[u8])> {
    let (head, text) = text.strip_prefix(b"01")?.split_first_chunk::<2>()?;
    let head = hex(head)?;
    let (digits, text) = text.split_at_checked(2 * (head >> 3) as usize)?;
    let is_minimal = digits.len() <= 16 && !digits.starts_with(b"00");
    (head & 7 == PACKED_INTEGER && is_minimal).then_some((hex(digits)?, text))
}

/// Reads hex digits, at most 16.
pub(crate) fn hex(digits: &[u8]) -> Option<u64> {
    let mut value = 0;
    for digit in digits {
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'A'..=b'F' => digit - b'A' + 10,
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        value = value << 4 | u64::from(nibble);
    }
    Some(value)
}

fn push_hex(out: &mut Vec<u8>, value: u64, digits: u32) {
    for digit in (0..digits).rev() {
        out.push(b"0123456789ABCDEF"[(value >> (digit * 4)) as usize & 15]);
    }
}

/// Appends a number in decimal.
pub(crate) fn push_number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_cells_go_there_and_back() {
        for keys in [Keys::Random, Keys::Sequential] {
            let plan = plan(keys);
            for row in [0, 1, 2, 1_000_000, 1 << 40] {
                assert_eq!(plan.row_of(plan.key_of(row)), row);
                assert_eq!(plan.row_and_column(plan.cell(row, 2)), (row, 2));
            }
        }
    }

    #[test]
    fn keys_are_packed_as_the_engine_packs_them() {
        // Each as the real cr-sqlite packed it.
        for (key, pk) in [
            (0, "0101"),
            (127, "01097F"),
            (128, "010980"),
            (65_536, "0119010000"),
            (-1, "0141FFFFFFFFFFFFFFFF"),
        ] {
            assert_eq!(packed(key), pk);
        }
        // And as the server reads them.
        let ends = (0..64).map(|bits| 1_i64 << bits).flat_map(|key| [key, key.wrapping_sub(1)]);
        let plans = [Keys::Random, Keys::Sequential].map(plan);
        let used = plans.iter().flat_map(|plan| (0..5_000).map(|row| plan.key_of(row) as i64));
        for key in ends.flat_map(|key| [key, key.wrapping_neg()]).chain(used) {
            let pk = packed(key);
            assert_eq!(pk, causeway_storage::schema::key::pack([causeway_storage::Value::Integer(key)]));
            assert_eq!(take_key(format!("{pk}\",").as_bytes()), Some((key as u64, &b"\","[..])));
        }
    }

    #[test]
    fn text_keys_are_packed_as_the_server_reads_them() {
        for (digits, bytes) in [(0, 16), (38, 16), (39, 16), (40, 17), (516, 255), (519, 255), (520, 256)] {
            let pk = text_key(0xAB, digits);
            let text = format!("{:k<bytes$}", "00000000000000AB");
            assert_eq!(pk, causeway_storage::schema::key::pack([causeway_storage::Value::Text(&text)]));
            assert!(pk.len() <= digits.max(38) && pk.len() + 3 >= digits, "{digits}");
        }
    }

    #[test]
    fn a_key_spelled_otherwise_is_foreign() {
        for pk in [
            "",
            "01",
            "010",
            "0109",
            "01097",
            "010900",
            "01110001",
            "0149000000000000000001",
            "010B31",
            "020101",
        ] {
            assert!(take_key(pk.as_bytes()).is_none_or(|(_, rest)| !rest.is_empty()), "{pk}");
        }
    }

    fn packed(key: i64) -> String {
        integer_key(key as u64)
    }

    #[test]
    fn a_change_is_valid_json_of_nine() {
        let plan = plan(Keys::Random);
        let mut out = Vec::new();
        let change = Change { row: 5, column: 2, col_version: 9, update: 41 };
        plan.write_change(&mut out, &change, "S1", 3);
        let parsed: serde_json::Value = serde_json::from_slice(&out).expect("valid JSON");
        let stamp = format!("v{:08X}{:08X}xxx", 41, plan.check(&change));
        assert_eq!(parsed, serde_json::json!(["todos", plan.pk(5), "c2", stamp, 9, 42, "S1", 1, 3]));
    }

    fn plan(keys: Keys) -> Plan {
        let shape =
            Shape { table: "todos".into(), columns: 3, keys, values: Values::Text, value_bytes: 20, seed: 1 };
        Plan::new("one".into(), &shape)
    }
}
