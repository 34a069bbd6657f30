//! The merge rule: cr-sqlite 0.16's, as `merge.md` numbers it. Pure, and the only place that decides anything.

use std::cmp::Ordering;

use crate::change::{Change, Value};

/// What a change does to its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Lost,
    /// Its cell takes the change's value.
    Put,
    /// The row's cells go, then its cell, the sentinel, takes the change.
    Delete,
    /// The row's cells go, the sentinel becomes `cl` if that is above 1, then its cell takes the change.
    NewLife,
}

/// Decides one change against its row's causal length and its cell's clock and value, if there is such a cell. A row's
/// causal length is its sentinel's `col_version`, else 1 if the row has any cell, else 0.
pub fn decide(row_cl: u64, cell: Option<(u64, Value<'_>)>, change: &Change<'_>) -> Verdict {
    match change.cl.cmp(&row_cl) {
        // Rule 1.
        Ordering::Less => Verdict::Lost,
        // Rules 2 and 3.
        Ordering::Greater if change.is_delete() => Verdict::Delete,
        Ordering::Greater => Verdict::NewLife,
        Ordering::Equal => match cell {
            None => Verdict::Put,
            // Rule 4, and the second half of rule 2: a sentinel of the same causal length says nothing new.
            Some(_) if change.is_sentinel() => Verdict::Lost,
            // Rule 5.
            Some((col_version, val)) => {
                match change.col_version.cmp(&col_version).then_with(|| change.val.merge_order(&val)) {
                    Ordering::Greater => Verdict::Put,
                    Ordering::Equal | Ordering::Less => Verdict::Lost,
                }
            }
        },
    }
}
