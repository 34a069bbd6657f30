//! The merge of group commits on the memory backend against the model of its tests, and the laws: the order of arrival, the
//! grouping and repetition make no difference.
//!
//! An input is a byte of settings ([`Settings`]) and changes ([`change`]).

use std::sync::Arc;

use causeway_storage::change::OwnedValue;
use causeway_storage::memory;
use causeway_storage::store::RECEIVED;
use causeway_storage::{Clamp, Outcome, SENTINEL, StoreOptions, Value};

use crate::model::{Model, OwnedChange};
use crate::support::Channel;

/// The rows, few so that changes meet.
pub const ROWS: [(&str, &str); 4] = [("t", "1"), ("t", "2"), ("u", "1"), ("t", "é")];

/// The columns; the last is in the wide row, which begins row 0.
pub const COLUMNS: [&str; 8] = [SENTINEL, "a", "b", "c", "A", "-2", "é", "!7"];

/// The sites.
pub const SITES: [&str; 2] = ["A", "B"];

/// The head byte of a change: it begins an update, it begins a group commit, the channel is opened anew before it. Below:
/// two bits of the row, three of the column.
pub const UPDATE: u8 = 0x20;
/// See [`UPDATE`].
pub const COMMIT: u8 = 0x40;
/// See [`UPDATE`].
pub const REOPEN: u8 = 0x80;

/// A clock's byte that is followed by eight of it.
pub const LONG_CLOCK: u8 = 255;

/// The highest clock that a change may have.
const MAX_CLOCK: u64 = causeway::protocol::decode::MAX_INTEGER;

/// Cells of the wide row: more than the merge loads with a row.
const WIDE_CELLS: i64 = 70;

const FREE: Clamp = Clamp { max_col_version_jump: u64::MAX, max_cl_jump: u64::MAX };
const TIGHT: Clamp = Clamp { max_col_version_jump: 3, max_cl_jump: 2 };

/// A group commit, of updates, of changes.
type Group = Vec<Vec<OwnedChange>>;

/// The low two bits choose the clamp, the next two whether a wide row is there and in which life it is; the others how
/// changes are put in another order.
struct Settings(u8);

impl Settings {
    fn clamp(&self) -> Clamp {
        [FREE, Clamp::default(), TIGHT, FREE][usize::from(self.0 & 3)]
    }

    fn wide_cl(&self) -> Option<u64> {
        [None, None, Some(1), Some(3)][usize::from(self.0 >> 2 & 3)]
    }

    fn reorder(&self, changes: &mut [OwnedChange]) {
        let turn = usize::from(self.0 >> 4);
        if turn & 1 == 0 {
            changes.reverse();
        }
        let len = changes.len().max(1);
        changes.rotate_left(turn / 2 % len);
    }
}

/// The fuzz target.
pub fn check(input: &[u8]) {
    let Some((settings, mut input)) = input.split_first() else { return };
    let settings = Settings(*settings);
    let mut steps: Vec<(bool, Group)> = vec![(false, vec![vec![]])];
    while let Some((head, change)) = change(&mut input) {
        if head & (COMMIT | REOPEN) != 0 {
            steps.push((head & REOPEN != 0, vec![vec![]]));
        }
        let (_, group) = steps.last_mut().expect("never empty");
        if head & UPDATE != 0 {
            group.push(vec![]);
        }
        group.last_mut().expect("never empty").push(change);
    }
    check_model(&settings, &steps);
    check_laws(&settings, steps.into_iter().flat_map(|(_, group)| group).flatten().collect());
}

/// Outcomes, cells, versions, digest and tracked peers are the model's, after every commit and opened anew.
fn check_model(settings: &Settings, steps: &[(bool, Group)]) {
    let clamp = settings.clamp();
    let mut model = Model::default();
    let mut channel = channel();
    let mut peer_version = 0;
    let wide = (false, vec![wide_row(settings.wide_cl())]);
    for (reopen, group) in std::iter::once(&wide).chain(steps) {
        if *reopen {
            channel = channel.reopen();
        }
        let outcome = |update: &Vec<_>| model.refusal(update, &clamp).unwrap_or_else(|| model.update(update));
        let expected: Vec<Outcome> = group.iter().map(outcome).collect();
        let merged = (1..).zip(&expected).filter(|(_, outcome)| matches!(outcome, Outcome::Merged { .. }));
        peer_version = merged.map(|(version, _)| version).max().unwrap_or(0).max(peer_version);
        assert_eq!(channel.merge(group, &clamp), expected);
        assert_eq!(channel.head().version, model.version);
        // A wide row is too much to look at again and again.
        if settings.wide_cl().is_none() {
            model.assert_stored(&channel.cells());
        }
    }
    let found = (channel.cells(), channel.head());
    model.assert_stored(&found.0);
    let mut channel = channel.reopen();
    assert_eq!((channel.cells(), channel.head()), found, "opened anew");
    let peers: Vec<_> =
        channel.peers().into_iter().map(|peer| (peer.site_id, peer.event, peer.version)).collect();
    let peer = ("CLIENT".to_owned(), RECEIVED, peer_version);
    assert_eq!(peers, if peer_version > 0 { vec![peer] } else { vec![] });
    for (table, pk) in ROWS {
        let mut row = channel.row(table, pk);
        row.sort_by_key(|cell| cell.at);
        let paged = found.0.iter().filter(|cell| cell.table == table && cell.pk == pk);
        assert!(row.iter().eq(paged), "the writer looks up what readers page");
    }
}

/// In one update, and each in an update of its own in another order, twice: the same cells and digest. And everything once
/// more changes nothing. (The clamp is free: what it refuses depends on the order. The wide row would take most of the time.)
fn check_laws(settings: &Settings, mut changes: Vec<OwnedChange>) {
    let mut in_order = channel();
    in_order.merge(std::slice::from_ref(&changes), &FREE);
    settings.reorder(&mut changes);
    let mut reordered = channel();
    let single = |change: &OwnedChange| vec![change.clone()];
    let halves = changes.split_at(changes.len() / 2);
    for half in [halves.0, halves.1, halves.0] {
        reordered.merge(&half.iter().map(single).collect::<Vec<_>>(), &FREE);
    }
    assert_eq!(in_order.content(), reordered.content());
    assert_eq!(in_order.head().digest, reordered.head().digest);
    for mut channel in [in_order, reordered] {
        let before = (channel.cells(), channel.head());
        channel.merge(std::slice::from_ref(&changes), &FREE);
        assert_eq!((channel.cells(), channel.head()), before, "what is known wins nothing");
    }
}

fn channel() -> Channel {
    let store = (memory::BACKEND.open)(&StoreOptions::new("")).expect("memory opens");
    Channel {
        writer: store.open("channel").expect("opened"),
        store: Arc::clone(&store),
        name: "channel".into(),
    }
}

fn wide_row(cl: Option<u64>) -> Vec<OwnedChange> {
    let cell = |cl, n| OwnedChange::cell("1", &format!("!{n}"), Value::Integer(n), 1, cl);
    cl.map_or(vec![], |cl| (0..WIDE_CELLS).map(|n| cell(cl, n)).collect())
}

/// Takes a change off the input: its head byte, a byte of site and value type, the value, `col_version`, `cl`.
fn change(input: &mut &[u8]) -> Option<(u8, OwnedChange)> {
    let head = byte(input)?;
    let (table, pk) = ROWS[usize::from(head & 3)];
    let kind = byte(input)?;
    let val = value(kind, input)?;
    let (col_version, cl) = (clock(input)?, clock(input)?.max(1));
    let cid = COLUMNS[usize::from(head >> 2 & 7)];
    // Only a sentinel deletes, and a sentinel has its row's clock and no value.
    let is_sentinel = cid == SENTINEL || cl % 2 == 0;
    let change = OwnedChange {
        table: table.into(),
        pk: pk.into(),
        cid: if is_sentinel { SENTINEL } else { cid }.into(),
        val: if is_sentinel { OwnedValue::Null } else { val },
        col_version: if is_sentinel { cl } else { col_version },
        db_version: 9,
        site_id: SITES[usize::from(kind >> 7)].into(),
        cl,
        seq: 5,
    };
    Some((head, change))
}

/// Appends a change with short clocks as [`check`] reads it: the head is of `row`, `column` and the flags.
pub fn write_change(head: u8, site: usize, val: &OwnedValue, col_version: u8, cl: u8, out: &mut Vec<u8>) {
    let site = (site as u8) << 7;
    out.push(head);
    let len =
        |bytes: &[u8]| u8::try_from(bytes.len()).ok().filter(|len| *len < 16).expect("a short value") << 3;
    match val {
        OwnedValue::Null => out.push(site),
        OwnedValue::Integer(i) => {
            out.push(site | 2);
            out.extend(i.to_be_bytes());
        }
        OwnedValue::Real(r) => {
            out.push(site | 4);
            out.extend(r.to_be_bytes());
        }
        OwnedValue::Text(text) => {
            out.push(site | 5 | len(text.as_bytes()));
            out.extend(text.as_bytes());
        }
        OwnedValue::Blob(blob) => {
            out.push(site | 7 | len(blob));
            out.extend(blob);
        }
    }
    out.extend([col_version, cl]);
}

/// The low three bits of `kind` choose the type, the next four are the length of a text or blob.
fn value(kind: u8, input: &mut &[u8]) -> Option<OwnedValue> {
    let len = usize::from(kind >> 3 & 15);
    Some(match kind & 7 {
        0 => OwnedValue::Null,
        1 => OwnedValue::Integer(i64::from(byte(input)? as i8)),
        2 => OwnedValue::Integer(i64::from_be_bytes(*take(input, 8)?.first_chunk()?)),
        3 => OwnedValue::Real(f64::from(byte(input)? as i8) / 2.0),
        4 => {
            let real = f64::from_be_bytes(*take(input, 8)?.first_chunk()?);
            OwnedValue::Real(if real.is_finite() { real } else { -0.0 })
        }
        5 | 6 => OwnedValue::Text(String::from_utf8_lossy(take(input, len)?).into()),
        _ => OwnedValue::Blob(take(input, len)?.into()),
    })
}

fn clock(input: &mut &[u8]) -> Option<u64> {
    match byte(input)? {
        LONG_CLOCK => Some(u64::from_be_bytes(*take(input, 8)?.first_chunk()?) & MAX_CLOCK),
        short => Some(short.into()),
    }
}

fn byte(input: &mut &[u8]) -> Option<u8> {
    Some(take(input, 1)?[0])
}

fn take<'i>(input: &mut &'i [u8], count: usize) -> Option<&'i [u8]> {
    let (taken, rest) = input.split_at_checked(count)?;
    *input = rest;
    Some(taken)
}
