//! A client's copy of a channel, by the merge rule: what `mixed` compares everything with.
//!
//! Written apart from the server's merge on purpose, and shaped as what the rule amounts to rather than as its steps: a
//! row's state is decided by the highest causal length, and within that each cell by its highest (version, value). So it
//! does not matter in which order changes come.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::val::Val;

/// One change of a row, as far as the merge rule looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Edit {
    pub(crate) pk: String,
    pub(crate) cid: String,
    pub(crate) val: Val,
    pub(crate) col_version: u64,
    pub(crate) cl: u64,
}

/// The sentinel's `cid`.
pub(crate) const SENTINEL: &str = "-1";

/// Instead of a table's name: the rows are of many, and each key begins with the name of its table and a space.
pub(crate) const ANY_TABLE: &str = "";

impl Edit {
    /// Reads the wire's array of nine; None if it cannot be one that `mixed` wrote.
    pub(crate) fn from_wire(change: &Value, table: &str) -> Option<Self> {
        let fields = change.as_array().filter(|fields| fields.len() == 9)?;
        let text = |at: usize| fields[at].as_str().map(str::to_owned);
        let name = fields[0].as_str()?;
        let edit = Self {
            pk: if table == ANY_TABLE { format!("{name} {}", text(1)?) } else { text(1)? },
            cid: text(2)?,
            val: Val::from_wire(&fields[3])?,
            col_version: fields[4].as_u64()?,
            cl: fields[7].as_u64()?,
        };
        (table == ANY_TABLE || table == name).then_some(edit)
    }

    /// Writes the wire's array of nine.
    pub(crate) fn to_wire(&self, table: &str, db_version: u64, site: &str, seq: usize) -> Value {
        let split = self.pk.split_once(' ').filter(|_| table == ANY_TABLE);
        let (table, pk) = split.unwrap_or((table, &self.pk));
        serde_json::json!([
            table,
            pk,
            self.cid,
            self.val.to_wire(),
            self.col_version,
            db_version,
            site,
            self.cl,
            seq
        ])
    }
}

/// A row: absent, there (odd `cl`) or deleted (even `cl`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) cl: u64,
    pub(crate) cells: BTreeMap<String, (u64, Val)>,
}

/// All rows of a channel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Replica {
    rows: BTreeMap<String, Row>,
}

impl Replica {
    pub(crate) fn row(&self, pk: &str) -> Option<&Row> {
        self.rows.get(pk)
    }

    /// Cells and deleted rows.
    pub(crate) fn len(&self) -> u64 {
        self.rows.values().map(|row| row.cells.len().max(1) as u64).sum()
    }

    /// Whether this very cell is here.
    pub(crate) fn has(&self, edit: &Edit) -> bool {
        self.rows.get(&edit.pk).is_some_and(|row| {
            row.cl == edit.cl
                && row.cells.get(&edit.cid).is_some_and(|cell| *cell == (edit.col_version, edit.val.clone()))
        })
    }

    /// Merges one change.
    pub(crate) fn apply(&mut self, edit: &Edit) {
        let row = self.rows.entry(edit.pk.clone()).or_default();
        if edit.cl < row.cl {
            return;
        }
        if edit.cl > row.cl {
            row.cl = edit.cl;
            row.cells.clear();
        }
        if edit.cid == SENTINEL || edit.cl.is_multiple_of(2) {
            return;
        }
        let cell = (edit.col_version, edit.val.clone());
        match row.cells.get_mut(&edit.cid) {
            Some(known) if *known >= cell => {}
            Some(known) => *known = cell,
            None => drop(row.cells.insert(edit.cid.clone(), cell)),
        }
    }

    /// What of `wanted` is neither here nor beaten by what is here, named.
    pub(crate) fn behind(&self, wanted: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for (pk, want) in &wanted.rows {
            let absent = Row::default();
            let have = self.rows.get(pk).unwrap_or(&absent);
            if have.cl > want.cl {
                continue;
            }
            if have.cl < want.cl {
                found.push(format!("lacks {pk}: has cl {}, acked was cl {}", have.cl, want.cl));
                continue;
            }
            for (cid, cell) in &want.cells {
                if have.cells.get(cid).is_none_or(|known| known < cell) {
                    found
                        .push(format!("lacks {pk} {cid}: has {:?}, acked was {cell:?}", have.cells.get(cid)));
                }
            }
        }
        found
    }

    /// What is here that nobody had acked, named.
    pub(crate) fn ahead(&self, wanted: &Self) -> Vec<String> {
        wanted.behind(self).into_iter().map(|what| format!("has more than was acked, which {what}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(pk: &str, cid: &str, val: Option<&str>, col_version: u64, cl: u64) -> Edit {
        let val = val.map_or(Val::Null, |val| Val::Text(val.into()));
        Edit { pk: pk.into(), cid: cid.into(), val, col_version, cl }
    }

    fn edits() -> Vec<Edit> {
        vec![
            edit("r", "c0", Some("a"), 1, 1),
            edit("r", "c0", Some("b"), 2, 1),
            edit("r", "c0", Some("c"), 2, 1),
            edit("r", SENTINEL, None, 2, 2),
            edit("r", "c0", Some("d"), 1, 3),
            edit("r", "c1", Some("e"), 1, 3),
            edit("r", SENTINEL, None, 3, 3),
            edit("s", "c0", Some("f"), 7, 1),
            edit("s", SENTINEL, None, 4, 4),
        ]
    }

    #[test]
    fn any_order_and_any_repetition_end_the_same() {
        let mut forward = Replica::default();
        edits().iter().for_each(|edit| forward.apply(edit));
        let row = forward.row("r").expect("it was inserted");
        assert_eq!((row.cl, row.cells.len(), row.cells["c0"].clone()), (3, 2, (1, Val::Text("d".into()))));
        assert_eq!(forward.row("s").map(|row| (row.cl, row.cells.len())), Some((4, 0)));
        let mut rng = crate::rng::Rng::new(1);
        for _ in 0..200 {
            let mut left = edits();
            left.extend(edits());
            let mut replica = Replica::default();
            while !left.is_empty() {
                replica.apply(&left.swap_remove(rng.below(left.len() as u64) as usize));
            }
            assert_eq!(replica, forward);
            assert!(replica.ahead(&forward).is_empty());
        }
    }

    #[test]
    fn what_is_missing_or_too_much_is_named() {
        let mut all = Replica::default();
        edits().iter().for_each(|edit| all.apply(edit));
        for lost in 0..edits().len() {
            let mut replica = Replica::default();
            edits()
                .iter()
                .enumerate()
                .filter(|(at, _)| *at != lost)
                .for_each(|(_, edit)| replica.apply(edit));
            let differs = replica != all;
            assert_eq!(replica.behind(&all).is_empty(), !differs, "without {lost}");
            assert_eq!(all.behind(&replica), Vec::<String>::new(), "more is no loss");
            assert_eq!(!all.ahead(&replica).is_empty(), differs, "but it is a difference");
        }
    }

    #[test]
    fn the_wire_form_goes_there_and_back() {
        for edit in edits() {
            assert_eq!(Edit::from_wire(&edit.to_wire("t", 1, "S", 0), "t"), Some(edit.clone()));
            assert_eq!(Edit::from_wire(&edit.to_wire("t", 1, "S", 0), "u"), None);
            let named = Edit { pk: format!("t {}", edit.pk), ..edit.clone() };
            assert_eq!(Edit::from_wire(&edit.to_wire("t", 1, "S", 0), ANY_TABLE), Some(named.clone()));
            assert_eq!(named.to_wire(ANY_TABLE, 1, "S", 0), edit.to_wire("t", 1, "S", 0));
        }
    }
}
