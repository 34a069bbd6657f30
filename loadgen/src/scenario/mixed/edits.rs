//! What the writers of a mixed channel do to its rows.

use std::ops::Range;

use crate::plan::Plan;
use crate::replica::{Edit, Replica, SENTINEL};
use crate::rng::Rng;
use crate::val::Val;

/// Edits of up to `most` of the rows, picked at random, as a client that sees `replica` would make them.
pub(in crate::scenario) fn next_edits(
    rng: &mut Rng,
    replica: &Replica,
    keys: &Plan,
    rows: Range<u64>,
    most: usize,
) -> Vec<Edit> {
    let wanted = 1 + rng.below(most as u64) as usize;
    let mut edits = Vec::new();
    let mut touched = Vec::new();
    for _ in 0..wanted {
        let row = rows.start + rng.below(rows.end - rows.start);
        // Each row once an update: the edits are made from one state of the replica.
        if touched.contains(&row) {
            continue;
        }
        touched.push(row);
        edit_row(rng, replica, keys, row, 0, &mut edits);
    }
    edits
}

/// Edits each of the rows. Values are padded by `padding` bytes.
pub(in crate::scenario) fn run_of_rows(
    rng: &mut Rng,
    replica: &Replica,
    keys: &Plan,
    rows: Range<u64>,
    padding: usize,
) -> Vec<Edit> {
    let mut edits = Vec::new();
    for row in rows {
        edit_row(rng, replica, keys, row, padding, &mut edits);
    }
    edits
}

/// Edits a row as it is due: a cell of it, its delete, or its insert.
fn edit_row(rng: &mut Rng, replica: &Replica, keys: &Plan, row: u64, padding: usize, edits: &mut Vec<Edit>) {
    let pk = keys.pk(row);
    let row = replica.row(&pk);
    let mut push = |cid: String, val: Val, col_version, cl| {
        edits.push(Edit { pk: pk.clone(), cid, val, col_version, cl });
    };
    let value = |rng: &mut Rng| keys.values.make(rng.next(), padding);
    let cl = row.map_or(0, |row| row.cl);
    match (row, rng.below(100)) {
        (Some(row), dice) if cl % 2 == 1 && dice >= keys.deletes => {
            let cid = format!("c{}", rng.below(u64::from(keys.columns)));
            let col_version = row.cells.get(&cid).map_or(0, |(col_version, _)| *col_version) + 1;
            push(cid, value(rng), col_version, cl);
        }
        (Some(_), _) if cl % 2 == 1 => push(SENTINEL.into(), Val::Null, cl + 1, cl + 1),
        (_, dice) => {
            // A re-insert says so by its sentinel, or leaves it to its cells' causal length.
            if cl > 0 && dice < 80 {
                push(SENTINEL.into(), Val::Null, cl + 1, cl + 1);
            }
            for column in 0..keys.columns {
                push(format!("c{column}"), value(rng), 1, cl + 1);
            }
        }
    }
}
