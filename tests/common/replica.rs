//! A client's copy of a channel, and numbers to make its changes from.

use super::number;
use serde_json::Value;
use std::collections::BTreeMap;

/// A client's copy: what it was told, later over earlier.
#[derive(Default, Clone)]
pub struct Replica {
    pub rows: BTreeMap<String, Row>,
}

#[derive(Default, Clone, PartialEq, Debug)]
pub struct Row {
    pub cl: u64,
    /// Value, `col_version` and `cl` by column.
    pub cells: BTreeMap<String, (Value, u64, u64)>,
}

impl Replica {
    /// The server decided already, so each change replaces what is there. A new life ends all cells of an older one.
    pub fn apply(&mut self, change: &Value) {
        let row = self.rows.entry(change[1].as_str().unwrap().to_owned()).or_default();
        let (cid, cl) = (change[2].as_str().unwrap(), number(change, 7));
        if cl > row.cl {
            row.cl = cl;
            row.cells.retain(|_, (_, _, life)| *life >= cl);
        }
        if cid != "-1" {
            row.cells.insert(cid.to_owned(), (change[3].clone(), number(change, 4), cl));
        }
    }

    /// The first difference to `other`, in words.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let differs = |pk: &&String| self.rows.get(*pk) != other.rows.get(*pk);
        let pk = self.rows.keys().chain(other.rows.keys()).find(differs)?;
        let short = |rows: &BTreeMap<String, Row>| {
            let row = rows.get(pk).map_or("nothing".to_owned(), |row| format!("{row:?}"));
            row.chars().take(200).collect::<String>()
        };
        Some(format!("{pk}: {} and {}", short(&self.rows), short(&other.rows)))
    }
}

/// Numbers that look random, the same in every run.
#[derive(Clone)]
pub struct Numbers(pub u64);

impl Numbers {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}
