//! A table's rows as users see them, put together from the channel's cells.
//!
//! One pass over the channel, of one committed state, keeps the rows with the lowest keys: that takes no index, is the same on
//! every store, and is bounded by [`ROWS_MAX`] and [`ROWS_MAX_BYTES`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use causeway_storage::change::OwnedValue;
use causeway_storage::{Cell, ChangeStore, Position, SENTINEL, StoreError, schema};
use serde_json::{Map, Value, json};

use super::{Line, Problem, ProblemCode, Tell};

/// How many rows are told unless it is said otherwise.
pub const ROWS_DEFAULT: usize = 1_000;

/// The most rows that are told at once.
pub const ROWS_MAX: usize = 100_000;

/// The most that is kept of them, in bytes of names and values.
const ROWS_MAX_BYTES: usize = 64 << 20;

/// What a cell, or a row, takes beside its bytes, about.
const OVERHEAD_BYTES: usize = 64;

pub(super) fn tell(
    store: &dyn ChangeStore,
    channel: &str,
    table: &str,
    limit: usize,
    after: Option<&str>,
    tell: Tell<'_>,
) -> Result<(), Problem> {
    let problem = |code, problem| Problem { channel: Some(channel.to_owned()), code, problem };
    let mut rows = Rows::new(limit.clamp(1, ROWS_MAX), after);
    let read = |rows: &mut Rows<'_>| {
        store.reader(channel)?.read(Position::default(), &mut |cell| {
            if cell.table == table {
                rows.add(cell);
            }
            ControlFlow::Continue(())
        })?;
        Ok::<(), StoreError>(())
    };
    read(&mut rows).map_err(|e| Problem::store(Some(channel), &e))?;
    if !rows.any {
        return Err(problem(ProblemCode::NotFound, format!("channel {channel:?} has no table {table:?}")));
    }
    if let (true, Some(pk)) = (rows.rows.is_empty(), &rows.cut) {
        let large = format!(
            "the row {pk:?} alone has more than {ROWS_MAX_BYTES} bytes, and is not put together; ask for those after it"
        );
        return Err(problem(ProblemCode::Failed, large));
    }
    let more = rows.cut.and_then(|_| rows.rows.last_key_value().map(|(pk, _)| pk.clone()));
    let columns: BTreeSet<&String> = rows.rows.values().flatten().map(|(cid, _)| cid).collect();
    let columns = Line::Columns { table: table.to_owned(), columns: columns.into_iter().cloned().collect() };
    let lines = rows.rows.into_iter().map(|(pk, cells)| {
        let columns: Map<String, Value> =
            cells.into_iter().map(|(cid, val)| (cid, json_value(val))).collect();
        Line::Row { key: shown_key(&pk), pk, columns }
    });
    let more = more.map(|after| Line::More { after });
    let _ = [columns].into_iter().chain(lines).chain(more).all(tell);
    Ok(())
}

/// A key for people: a packed one as its value, or as the list of its values; any other as it is.
fn shown_key(pk: &str) -> Value {
    let mut buffer = Vec::new();
    let Ok(key) = schema::key::unpack(pk, &mut buffer) else { return pk.into() };
    let mut values: Vec<Value> = key.values().map(|value| json_value(value.to_owned())).collect();
    if values.len() == 1 { values.remove(0) } else { values.into() }
}

/// A value as a change has it.
fn json_value(val: OwnedValue) -> Value {
    match val {
        OwnedValue::Null => Value::Null,
        OwnedValue::Integer(i) => i.into(),
        OwnedValue::Real(r) => r.into(),
        OwnedValue::Text(text) => Value::String(text.into()),
        OwnedValue::Blob(bytes) => {
            json!({ "$blob": bytes.iter().map(|byte| format!("{byte:02X}")).collect::<String>() })
        }
    }
}

/// The rows with the lowest keys so far.
struct Rows<'a> {
    limit: usize,
    after: Option<&'a str>,
    /// Whether the table has any cell at all.
    any: bool,
    rows: BTreeMap<String, Vec<(String, OwnedValue)>>,
    bytes: usize,
    /// The lowest key that there was no room for: it and all above it are left out.
    cut: Option<String>,
}

impl<'a> Rows<'a> {
    fn new(limit: usize, after: Option<&'a str>) -> Self {
        Rows { limit, after, any: false, rows: BTreeMap::new(), bytes: 0, cut: None }
    }

    fn add(&mut self, cell: &Cell<'_>) {
        self.any = true;
        let before = self.after.is_some_and(|after| cell.pk <= after);
        let beyond = self.cut.as_deref().is_some_and(|cut| cell.pk >= cut);
        // A deleted row has nothing but its sentinel.
        if before || beyond || cell.cl.is_multiple_of(2) {
            return;
        }
        if !self.rows.contains_key(cell.pk) {
            self.rows.insert(cell.pk.to_owned(), Vec::new());
            self.bytes += cell.pk.len() + OVERHEAD_BYTES;
        }
        if cell.cid != SENTINEL
            && let Some(cells) = self.rows.get_mut(cell.pk)
        {
            let val = cell.val.to_owned();
            self.bytes += cell_bytes(cell.cid, &val);
            cells.push((cell.cid.to_owned(), val));
        }
        while self.rows.len() > self.limit || self.bytes > ROWS_MAX_BYTES {
            let Some((pk, cells)) = self.rows.pop_last() else { break };
            let cells: usize = cells.iter().map(|(cid, val)| cell_bytes(cid, val)).sum();
            self.bytes -= pk.len() + OVERHEAD_BYTES + cells;
            self.cut = Some(pk);
        }
    }
}

fn cell_bytes(cid: &str, val: &OwnedValue) -> usize {
    let val = match val {
        OwnedValue::Text(text) => text.len(),
        OwnedValue::Blob(bytes) => bytes.len(),
        OwnedValue::Null | OwnedValue::Integer(_) | OwnedValue::Real(_) => 0,
    };
    cid.len() + val + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use causeway_storage::Value;

    use super::*;

    fn cell<'a>(pk: &'a str, cid: &'a str, val: Value<'a>, cl: u64) -> Cell<'a> {
        Cell { table: "t", pk, cid, val, col_version: 1, site_id: "S", cl, at: Position::default() }
    }

    fn kept(rows: &Rows<'_>) -> Vec<(String, usize)> {
        rows.rows.iter().map(|(pk, cells)| (pk.clone(), cells.len())).collect()
    }

    #[test]
    fn the_lowest_keys_stay_whichever_order_cells_come_in() {
        let mut rows = Rows::new(2, Some("a"));
        for (pk, cid, cl) in [
            ("d", "x", 1),
            ("c", "x", 1),
            ("b", "-1", 3),
            ("a", "x", 1),
            ("c", "y", 1),
            ("bb", "-1", 2),
            ("d", "y", 1),
        ] {
            rows.add(&cell(pk, cid, Value::Integer(1), cl));
        }
        assert_eq!(kept(&rows), [("b".into(), 0), ("c".into(), 2)]);
        assert_eq!(rows.cut.as_deref(), Some("d"));
        rows.add(&cell("aa", "x", Value::Null, 1));
        assert_eq!(kept(&rows), [("aa".into(), 1), ("b".into(), 0)]);
        assert_eq!(rows.cut.as_deref(), Some("c"));
    }

    #[test]
    fn what_is_kept_is_bounded_in_bytes() {
        let large = "x".repeat(ROWS_MAX_BYTES / 3);
        let mut rows = Rows::new(ROWS_MAX, None);
        for pk in ["c", "a", "d", "b"] {
            rows.add(&cell(pk, "x", Value::Text(&large), 1));
            assert!(rows.bytes <= ROWS_MAX_BYTES);
        }
        assert_eq!(kept(&rows), [("a".into(), 1), ("b".into(), 1)]);
        for cid in ["y", "z"] {
            rows.add(&cell("a", cid, Value::Text(&large), 1));
        }
        assert_eq!((kept(&rows), rows.bytes), (vec![], 0), "a row beyond it is not kept in part");
        assert_eq!(rows.cut.as_deref(), Some("a"));
    }
}
