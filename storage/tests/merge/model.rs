//! The merge rule again, as plainly as `merge.md` says it: no store, no group, one change after the other. The
//! relay's simulation takes it for its oracle.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use causeway_storage::change::OwnedValue;
use causeway_storage::store::{Size, cell_bytes};
use causeway_storage::{Change, Clamp, Outcome, OwnedCell, Position, SENTINEL, Value};

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

    /// How many cells there are, and what they count.
    pub(crate) fn size(&self) -> Size {
        let mut size = Size::default();
        for ((table, pk, cid), cell) in self.cells() {
            size.add(cell_bytes(&table, &pk, &cid, &cell.val.as_value()) as u64);
        }
        size
    }

    pub(crate) fn content(&self) -> Content {
        self.cells().map(|(key, cell)| (key, (cell.val.clone(), cell.col_version, cell.cl))).collect()
    }

    /// Asserts that these are the model's cells, in the model's places and with its sites: winners stand at `seq` 0, 1,
    /// 2 … of their version, and a sentinel that nobody sent stands behind them.
    pub(crate) fn assert_stored(&self, found: &[OwnedCell]) {
        let key = |cell: &OwnedCell| (cell.table.clone(), cell.pk.clone(), cell.cid.clone());
        let by_key: BTreeMap<_, _> = found.iter().map(|cell| (key(cell), cell)).collect();
        assert_eq!(by_key.len(), found.len(), "a cell is stored once");
        assert_eq!(by_key.len(), self.cells().count());
        for (key, expected) in self.cells() {
            let cell = by_key.get(&key).unwrap_or_else(|| panic!("{key:?} is not stored"));
            let content = (&cell.val, cell.col_version, cell.cl, &cell.site_id);
            assert_eq!(
                content,
                (&expected.val, expected.col_version, expected.cl, &expected.site_id),
                "{key:?}"
            );
            assert_eq!(cell.at.version, expected.version, "{key:?}");
            match expected.at {
                Some(at) => assert_eq!(cell.at, at, "{key:?}"),
                None => {
                    let mut sent = self.cells().filter_map(|(_, cell)| cell.at);
                    assert!(sent.all(|at| at.version != cell.at.version || at < cell.at), "{key:?}");
                }
            }
        }
    }

    /// What an update is refused with, if a clock of it is further ahead than `clamp` lets it.
    pub(crate) fn refusal(&self, changes: &[OwnedChange], clamp: &Clamp) -> Option<Outcome> {
        (0..).zip(changes).find_map(|(index, change)| {
            let (row_cl, col_version) = self.clocks(change);
            let max_cl = row_cl.saturating_add(clamp.max_cl_jump);
            let max_col_version = col_version.saturating_add(clamp.max_col_version_jump);
            if change.cl > max_cl {
                return Some(Outcome::Refused { index, field: "cl", max: max_cl });
            }
            (change.cid != SENTINEL && change.col_version > max_col_version).then_some(Outcome::Refused {
                index,
                field: "col_version",
                max: max_col_version,
            })
        })
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
