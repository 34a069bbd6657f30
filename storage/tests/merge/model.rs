//! The merge rule again, as plainly as `merge.md` says it: no store, no group, one change after the other. The
//! relay's simulation takes it for its oracle.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use causeway_storage::change::OwnedValue;
use causeway_storage::{Change, Outcome, Position, SENTINEL, Value};

/// A change that owns its parts.
#[derive(Clone, Debug)]
pub(crate) struct OwnedChange {
    pub(crate) table: String,
    pub(crate) pk: String,
    pub(crate) cid: String,
    pub(crate) val: OwnedValue,
    pub(crate) col_version: u64,
    pub(crate) db_version: u64,
    pub(crate) site_id: String,
    pub(crate) cl: u64,
    pub(crate) seq: u64,
}

impl OwnedChange {
    /// A cell of row `pk` of table `t`.
    pub(crate) fn cell(pk: &str, cid: &str, val: Value<'_>, col_version: u64, cl: u64) -> Self {
        OwnedChange {
            table: "t".into(),
            pk: pk.into(),
            cid: cid.into(),
            val: val.to_owned(),
            col_version,
            db_version: 77,
            site_id: "A".into(),
            cl,
            seq: 55,
        }
    }

    /// The sentinel of row `pk` of table `t`.
    pub(crate) fn sentinel(pk: &str, cl: u64) -> Self {
        Self::cell(pk, SENTINEL, Value::Null, cl, cl)
    }

    pub(crate) fn as_change(&self) -> Change<'_> {
        Change {
            table: &self.table,
            pk: &self.pk,
            cid: &self.cid,
            val: self.val.as_value(),
            col_version: self.col_version,
            db_version: self.db_version,
            site_id: &self.site_id,
            cl: self.cl,
            seq: self.seq,
        }
    }
}

/// What decides of a cell: table, pk and cid, and value, `col_version` and `cl`.
pub(crate) type Content = BTreeMap<(String, String, String), (OwnedValue, u64, u64)>;

/// A channel in the simplest form.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) version: u64,
    rows: BTreeMap<(String, String), BTreeMap<String, ModelCell>>,
}

/// A cell of the model; `at` is `None` for a sentinel that nobody sent.
#[derive(Clone, Debug)]
pub(crate) struct ModelCell {
    pub(crate) val: OwnedValue,
    pub(crate) col_version: u64,
    pub(crate) cl: u64,
    pub(crate) site_id: String,
    pub(crate) version: u64,
    pub(crate) at: Option<Position>,
}

impl Model {
    pub(crate) fn update(&mut self, changes: &[OwnedChange]) -> Outcome {
        let mut winners = Vec::new();
        for (index, change) in (0..).zip(changes) {
            let at = Position { version: self.version + 1, seq: winners.len() as u64 };
            if self.change(change, at) {
                winners.push(index);
            }
        }
        self.version += u64::from(!winners.is_empty());
        Outcome::Merged { version: self.version, winners }
    }

    /// The cells of all rows by table, pk and cid.
    pub(crate) fn cells(&self) -> impl Iterator<Item = ((String, String, String), &ModelCell)> {
        self.rows.iter().flat_map(|((table, pk), row)| {
            row.iter().map(move |(cid, cell)| ((table.clone(), pk.clone(), cid.clone()), cell))
        })
    }

    pub(crate) fn content(&self) -> Content {
        self.cells().map(|(key, cell)| (key, (cell.val.clone(), cell.col_version, cell.cl))).collect()
    }

    /// The row's causal length and the cell's `col_version`, each 0 where there is none.
    pub(crate) fn clocks(&self, change: &OwnedChange) -> (u64, u64) {
        let Some(row) = self.rows.get(&(change.table.clone(), change.pk.clone())) else { return (0, 0) };
        (row_cl(row), row.get(&change.cid).map_or(0, |cell| cell.col_version))
    }

    fn change(&mut self, change: &OwnedChange, at: Position) -> bool {
        let row = self.rows.entry((change.table.clone(), change.pk.clone())).or_default();
        let cell = ModelCell {
            val: change.val.clone(),
            col_version: change.col_version,
            cl: change.cl,
            site_id: change.site_id.clone(),
            version: at.version,
            at: Some(at),
        };
        let cl = row_cl(row);
        if change.cl < cl {
            return false;
        }
        if change.cl > cl {
            row.clear();
            if change.cl % 2 == 1 && change.cl > 1 && change.cid != SENTINEL {
                let sentinel =
                    ModelCell { val: OwnedValue::Null, col_version: change.cl, at: None, ..cell.clone() };
                row.insert(SENTINEL.into(), sentinel);
            }
        } else if let Some(there) = row.get(&change.cid) {
            let wins = match change.col_version.cmp(&there.col_version) {
                Ordering::Greater => true,
                Ordering::Less => false,
                Ordering::Equal => is_greater(&change.val, &there.val),
            };
            if change.cid == SENTINEL || !wins {
                return false;
            }
        }
        row.insert(change.cid.clone(), cell);
        true
    }
}

fn row_cl(row: &BTreeMap<String, ModelCell>) -> u64 {
    match row.get(SENTINEL) {
        Some(sentinel) => sentinel.col_version,
        None => u64::from(!row.is_empty()),
    }
}

/// INTEGER > REAL > TEXT > BLOB > NULL, and by size or bytes within a type.
fn is_greater(a: &OwnedValue, b: &OwnedValue) -> bool {
    use OwnedValue::{Blob, Integer, Null, Real, Text};
    match (a, b) {
        (Integer(a), Integer(b)) => a > b,
        (Real(a), Real(b)) => a > b,
        (Text(a), Text(b)) => a.as_bytes() > b.as_bytes(),
        (Blob(a), Blob(b)) => a > b,
        (Null, _) => false,
        (Integer(_), _) | (_, Null) => true,
        (Real(_), Text(_) | Blob(_)) | (Text(_), Blob(_)) => true,
        _ => false,
    }
}
