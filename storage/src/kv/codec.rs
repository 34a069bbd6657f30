//! The bytes of the [`kv`](super) stores: their keys, and what lies under them.
//!
//! | key | value |
//! | --- | --- |
//! | `f` | the format: one byte |
//! | `i` | the id that the next channel gets |
//! | `n` name | the channel's id |
//! | `x` id | nothing: the channel is removed, its keys are being swept away |
//! | `c` id `s` | the site id |
//! | `c` id `h` | the head: version, digest, cells and bytes (not in older databases) |
//! | `c` id `p` site, tag, event | a tracked peer's version, when it was last seen |
//! | `c` id `r` table, pk, cid | the position of the cell |
//! | `c` id `m` table, pk | the cids that the row has, or had; nothing: they are to be scanned for (where the engine [marks rows](super::Engine::MARKS_ROWS)) |
//! | `c` id `v` version, seq | the cell |
//!
//! Numbers are big-endian, so that keys sort as numbers do. Every text but the last of a key has its length before it,
//! so that no two keys share their bytes and a row's cells are one prefix.

use crate::change::{Position, Value};
use crate::digest::Digest;
use crate::store::{Cell, Head, Size, TrackedPeer};

/// The format of this file.
pub(super) const FORMAT: &[u8] = &[2];
/// Where the format is noted.
pub(super) const FORMAT_KEY: &[u8] = b"f";
/// Where the next channel's id is noted.
pub(super) const NEXT_ID_KEY: &[u8] = b"i";
/// Before every channel's name.
pub(super) const NAMES: &[u8] = b"n";
/// Before the id of every channel that is being swept away.
pub(super) const DOOMED: &[u8] = b"x";

/// The first key after all that begin with the prefix, which is none of ours but some are.
pub(super) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            break;
        }
    }
    end
}

/// The key of a channel's id.
pub(super) fn name_key(name: &str) -> Vec<u8> {
    [NAMES, name.as_bytes()].concat()
}

/// The key that says that a channel is to be swept away.
pub(super) fn doomed_key(id: u64) -> Vec<u8> {
    [DOOMED, &id.to_be_bytes()].concat()
}

/// What the keys of a channel's cells begin with.
pub(super) fn cells_prefix(id: u64) -> Vec<u8> {
    key(id, b'r')
}

/// What the keys of a channel's positions begin with.
pub(super) fn positions_prefix(id: u64) -> Vec<u8> {
    key(id, b'v')
}

/// What all keys of a channel begin with.
pub(super) fn channel_prefix(id: u64) -> Vec<u8> {
    [b"c", &id.to_be_bytes()[..]].concat()
}

/// The key of a channel's site id.
pub(super) fn site_key(id: u64) -> Vec<u8> {
    key(id, b's')
}

/// The key of a channel's head.
pub(super) fn head_key(id: u64) -> Vec<u8> {
    key(id, b'h')
}

/// What the keys of a channel's peers begin with.
pub(super) fn peers_prefix(id: u64) -> Vec<u8> {
    key(id, b'p')
}

/// The key of a tracked peer; `None` if its id is too long.
pub(super) fn peer_key(id: u64, peer: &TrackedPeer) -> Option<Vec<u8>> {
    let mut key = peers_prefix(id);
    push_short(&mut key, &peer.site_id)?;
    key.extend_from_slice(&peer.tag.to_be_bytes());
    key.push(peer.event);
    Some(key)
}

/// The peer that `value` under `key` speaks of.
pub(super) fn peer(key: &[u8], value: &[u8]) -> Option<TrackedPeer> {
    let mut key = Bytes(key.get(PREFIX_LEN..)?);
    let site_id = key.short_text()?.to_owned();
    let (tag, event) = (key.number()?, key.byte()?);
    let mut value = Bytes(value);
    let (version, seen_s) = (value.number()?, value.number()?);
    (key.0.is_empty() && value.0.is_empty()).then_some(TrackedPeer { site_id, tag, event, version, seen_s })
}

/// What is wrong where [`peer`] gives `None`.
pub(super) const UNREADABLE_PEER: &str = "a tracked peer cannot be read";

/// What lies under a peer's key.
pub(super) fn peer_bytes(peer: &TrackedPeer) -> [u8; 16] {
    pair(peer.version, peer.seen_s)
}

/// What the keys of a row's cells begin with; `None` if a name is too long.
pub(super) fn row_prefix(id: u64, table: &str, pk: &str) -> Option<Vec<u8>> {
    let mut key = key(id, b'r');
    push_short(&mut key, table)?;
    push_long(&mut key, pk)?;
    Some(key)
}

/// The key that says that a row has cells, of [`row_prefix`].
pub(super) fn mark_key(mut row_prefix: Vec<u8>) -> Vec<u8> {
    row_prefix[PREFIX_LEN - 1] = b'm';
    row_prefix
}

/// What lies under the mark of a row that is to be scanned for its cells.
pub(super) const SCANNED: &[u8] = &[];

/// A row of more cells than this is scanned for them: what lies under its mark would be written again for each.
const MARKED_CELLS_MAX: usize = 32;

/// What lies under a row's mark when it gets this cell; `None` if that is what there is. A cid is too long where
/// [`cell_key`] has one that is not.
pub(super) fn mark(before: Option<&[u8]>, cid: &str) -> Option<Vec<u8>> {
    let mut mark = before.unwrap_or_default().to_vec();
    if before == Some(SCANNED) || cids(&mark).any(|known| known == Some(cid)) {
        return None;
    }
    let is_full = cids(&mark).count() == MARKED_CELLS_MAX;
    if is_full || push_short(&mut mark, cid).is_none() {
        mark.clear();
    }
    Some(mark)
}

/// The cids in a mark; `None` for what cannot be read.
pub(super) fn cids(mark: &[u8]) -> impl Iterator<Item = Option<&str>> {
    let mut rest = Bytes(mark);
    std::iter::from_fn(move || {
        if rest.0.is_empty() {
            return None;
        }
        let cid = rest.short_text();
        if cid.is_none() {
            rest = Bytes(&[]);
        }
        Some(cid)
    })
}

/// The key under which a cell's position is found.
pub(super) fn cell_key(id: u64, table: &str, pk: &str, cid: &str) -> Option<Vec<u8>> {
    let mut key = row_prefix(id, table, pk)?;
    key.extend_from_slice(cid.as_bytes());
    Some(key)
}

/// Table, pk and cid in a key of [`cell_key`].
pub(super) fn names_in_key(key: &[u8]) -> Option<(&str, &str, &str)> {
    let mut key = Bytes(key.get(PREFIX_LEN..)?);
    let (table, pk) = (key.short_text()?, key.long_text()?);
    Some((table, pk, std::str::from_utf8(key.0).ok()?))
}

/// The key under which a cell lies.
pub(super) fn position_key(id: u64, at: Position) -> [u8; PREFIX_LEN + 16] {
    let mut key = [0; PREFIX_LEN + 16];
    key[0] = b'c';
    key[1..PREFIX_LEN - 1].copy_from_slice(&id.to_be_bytes());
    key[PREFIX_LEN - 1] = b'v';
    key[PREFIX_LEN..].copy_from_slice(&position_bytes(at));
    key
}

/// The position in a key of [`position_key`]; `None` for any other key of the channel.
pub(super) fn position_in_key(key: &[u8]) -> Option<Position> {
    (key.get(PREFIX_LEN - 1) == Some(&b'v')).then(|| position(&key[PREFIX_LEN..])).flatten()
}

/// A position as a value.
pub(super) fn position_bytes(at: Position) -> [u8; 16] {
    pair(at.version, at.seq)
}

/// Reads [`position_bytes`].
pub(super) fn position(bytes: &[u8]) -> Option<Position> {
    let mut bytes = Bytes(bytes);
    let at = Position { version: bytes.number()?, seq: bytes.number()? };
    bytes.0.is_empty().then_some(at)
}

/// A head as a value.
pub(super) fn head_bytes(head: Head) -> Vec<u8> {
    let size = pair(head.size.cells, head.size.bytes);
    [&head.version.to_be_bytes()[..], &head.digest.0.to_be_bytes(), &size].concat()
}

/// Reads [`head_bytes`]; `false` if they are of an older database and do not tell the size.
pub(super) fn head(bytes: &[u8]) -> Option<(Head, bool)> {
    let mut bytes = Bytes(bytes);
    let version = bytes.number()?;
    let digest = Digest(u128::from(bytes.number()?) << 64 | u128::from(bytes.number()?));
    let sized = !bytes.0.is_empty();
    let size = if sized { Size { cells: bytes.number()?, bytes: bytes.number()? } } else { Size::default() };
    bytes.0.is_empty().then_some((Head { version, digest, size }, sized))
}

/// Reads a number that is a whole value.
pub(super) fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

/// A cell as a value; its position is in its key. `None` if a name is too long.
pub(super) fn cell_bytes(cell: &Cell<'_>) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(64 + cell.table.len() + cell.pk.len() + cell.cid.len());
    push_short(&mut bytes, cell.table)?;
    push_long(&mut bytes, cell.pk)?;
    push_short(&mut bytes, cell.cid)?;
    push_short(&mut bytes, cell.site_id)?;
    bytes.extend_from_slice(&pair(cell.col_version, cell.cl));
    bytes.push(cell.val.type_rank());
    match cell.val {
        Value::Null => {}
        Value::Integer(i) => bytes.extend_from_slice(&i.to_be_bytes()),
        Value::Real(r) => bytes.extend_from_slice(&r.to_bits().to_be_bytes()),
        Value::Text(t) => bytes.extend_from_slice(t.as_bytes()),
        Value::Blob(b) => bytes.extend_from_slice(b),
    }
    Some(bytes)
}

/// Reads [`cell_bytes`].
pub(super) fn cell(at: Position, bytes: &[u8]) -> Option<Cell<'_>> {
    let mut bytes = Bytes(bytes);
    let (table, pk) = (bytes.short_text()?, bytes.long_text()?);
    let (cid, site_id) = (bytes.short_text()?, bytes.short_text()?);
    let (col_version, cl) = (bytes.number()?, bytes.number()?);
    let val = match (bytes.byte()?, bytes.0) {
        (0, []) => Value::Null,
        (1, blob) => Value::Blob(blob),
        (2, text) => Value::Text(str::from_utf8(text).ok()?),
        (3, real) => Value::Real(f64::from_bits(number(real)?)),
        (4, integer) => Value::Integer(number(integer)? as i64),
        _ => return None,
    };
    Some(Cell { table, pk, cid, val, col_version, site_id, cl, at })
}

/// `c`, the id, the kind.
const PREFIX_LEN: usize = 10;

fn key(id: u64, kind: u8) -> Vec<u8> {
    let mut key = channel_prefix(id);
    key.push(kind);
    key
}

fn pair(a: u64, b: u64) -> [u8; 16] {
    (u128::from(a) << 64 | u128::from(b)).to_be_bytes()
}

fn push_short(bytes: &mut Vec<u8>, text: &str) -> Option<()> {
    bytes.push(u8::try_from(text.len()).ok()?);
    bytes.extend_from_slice(text.as_bytes());
    Some(())
}

fn push_long(bytes: &mut Vec<u8>, text: &str) -> Option<()> {
    bytes.extend_from_slice(&u16::try_from(text.len()).ok()?.to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
    Some(())
}

/// Bytes that are read from the front; `None` is what cannot be read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    fn number(&mut self) -> Option<u64> {
        self.take(8).and_then(number)
    }

    fn short_text(&mut self) -> Option<&'a str> {
        let len = self.byte()?;
        str::from_utf8(self.take(len.into())?).ok()
    }

    fn long_text(&mut self) -> Option<&'a str> {
        let len = u16::from_be_bytes(self.take(2)?.try_into().ok()?);
        str::from_utf8(self.take(len.into())?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_reads_as_it_was_written_and_never_when_cut_short() {
        let at = Position { version: 3, seq: 7 };
        let long = "k".repeat(4096);
        for val in [
            Value::Null,
            Value::Integer(i64::MIN),
            Value::Real(5e-324),
            Value::Text("a\0é"),
            Value::Blob(&[0, 255]),
        ] {
            let cell_in =
                Cell { table: "t", pk: &long, cid: "", val, col_version: u64::MAX, site_id: "s", cl: 3, at };
            let bytes = cell_bytes(&cell_in).expect("all names fit");
            assert_eq!(cell(at, &bytes), Some(cell_in));
            let fixed = bytes.len() - if let Value::Text(_) | Value::Blob(_) = val { 4 } else { 0 };
            for len in 0..fixed {
                assert!(cell(at, &bytes[..len]).is_none_or(|c| c != cell_in), "{val:?} cut to {len}");
            }
        }
        let name = "x".repeat(256);
        let too_long =
            Cell { table: &name, pk: "", cid: "", val: Value::Null, col_version: 0, site_id: "", cl: 1, at };
        assert_eq!(cell_bytes(&too_long), None);
    }

    #[test]
    fn a_mark_names_a_row_s_cells_until_they_are_too_many() {
        let names = |mark: &[u8]| cids(mark).map(|cid| cid.map(str::to_owned)).collect::<Vec<_>>();
        let longest = "x".repeat(255);
        let mut all = vec![String::new(), longest];
        let first = mark(None, &all[0]).expect("a mark");
        let mut bytes = mark(Some(&first), &all[1]).expect("a longer one");
        assert_eq!(mark(Some(&bytes), &all[0]), None, "it is named");
        for n in 2..MARKED_CELLS_MAX {
            all.push(format!("c{n}"));
            bytes = mark(Some(&bytes), &all[n]).expect("a longer one");
            assert_eq!(names(&bytes), all.iter().cloned().map(Some).collect::<Vec<_>>());
        }
        assert_eq!(names(&bytes[..bytes.len() - 1]).last(), Some(&None), "cut short");
        assert_eq!(mark(Some(&bytes), "more"), Some(Vec::new()));
        assert_eq!(mark(Some(&[]), "more"), None);
    }

    #[test]
    fn positions_sort_as_their_keys_and_no_two_rows_share_a_prefix() {
        let keys = [(0, u64::MAX), (1, 0), (1, 256), (2, 1), (256, 0)]
            .map(|(version, seq)| position_key(9, Position { version, seq }));
        assert!(keys.is_sorted());
        assert_eq!(position_in_key(&keys[2]), Some(Position { version: 1, seq: 256 }));
        assert_eq!(position_in_key(&head_key(9)), None);
        let rows = [("a", "b"), ("ab", ""), ("", "ab"), ("a", "b\0"), ("a\0", "b")]
            .map(|(table, pk)| row_prefix(9, table, pk).expect("short"));
        for (i, a) in rows.iter().enumerate() {
            for (j, b) in rows.iter().enumerate() {
                assert_eq!(a.starts_with(b), i == j, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn a_peer_and_a_head_read_as_they_were_written() {
        let one = TrackedPeer { site_id: "S".into(), tag: 1 << 40, event: 1, version: 9, seen_s: 3 };
        let key = peer_key(5, &one).expect("short");
        assert_eq!(peer(&key, &peer_bytes(&one)), Some(one.clone()));
        assert_eq!(peer(&key[..key.len() - 1], &peer_bytes(&one)), None);
        assert_eq!(peer(&key, &peer_bytes(&one)[..15]), None);
        assert_eq!(peer(b"c", b""), None);
        let two = Head { version: 4, digest: Digest(u128::MAX - 1), size: Size { cells: 3, bytes: 1 << 40 } };
        assert_eq!(head(&head_bytes(two)), Some((two, true)));
        let unsized_head = Head { size: Size::default(), ..two };
        assert_eq!(head(&head_bytes(two)[..24]), Some((unsized_head, false)));
        assert_eq!(head(&head_bytes(two)[..32]), None);
        assert_eq!(head(b"short"), None);
    }
}
