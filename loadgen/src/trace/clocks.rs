//! The clocks of changes as steps over what each row and cell had before, and back.

use std::collections::HashMap;

/// The largest clock that the contract allows.
pub(super) const CLOCK_MAX: u64 = (1 << 53) - 1;

/// A cell's place, by the ids of its channel, table, key and column; None is the row's sentinel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) channel: u32,
    pub(crate) table: u32,
    pub(crate) key: u32,
    pub(crate) column: Option<u32>,
}

type Row = (u32, u32, u32);

/// The highest clocks of each row and cell so far. The recorder and the replay walk through the same changes, so the
/// steps of one give the clocks to the other.
#[derive(Debug, Default)]
pub(crate) struct Clocks {
    /// The causal length.
    rows: HashMap<Row, u64>,
    /// The causal length, and the `col_version` at it.
    cells: HashMap<(Row, u32), (u64, u64)>,
}

/// Whether the contract allows a change with these clocks.
pub(crate) fn are_valid(is_sentinel: bool, cl: u64, col_version: u64) -> bool {
    let fit = if is_sentinel { col_version == cl } else { cl % 2 == 1 };
    (1..=CLOCK_MAX).contains(&cl) && col_version <= CLOCK_MAX && fit
}

impl Clocks {
    /// The steps of a change that has these clocks, which are valid.
    pub(super) fn steps(&mut self, place: Place, cl: u64, col_version: u64) -> (i64, i64) {
        let (highest, before) = self.before(place, cl);
        self.note(place, cl, col_version);
        // Below 2^53, so no step overflows.
        let col_step = place.column.map_or(0, |_| col_version as i64 - before as i64);
        (cl as i64 - highest as i64, col_step)
    }

    /// The clocks of a change with these steps; None if the contract allows none such.
    pub(crate) fn clocks(&mut self, place: Place, cl_step: i64, col_step: i64) -> Option<(u64, u64)> {
        let highest = self.rows.get(&row_of(place)).copied().unwrap_or(0);
        let cl = highest.checked_add_signed(cl_step)?;
        let col_version = match place.column {
            Some(_) => self.before(place, cl).1.checked_add_signed(col_step)?,
            None if col_step == 0 => cl,
            None => return None,
        };
        if !are_valid(place.column.is_none(), cl, col_version) {
            return None;
        }
        self.note(place, cl, col_version);
        Some((cl, col_version))
    }

    /// The row's highest causal length, and the cell's highest `col_version` at this one.
    fn before(&self, place: Place, cl: u64) -> (u64, u64) {
        let row = row_of(place);
        let cell = place.column.and_then(|column| self.cells.get(&(row, column)));
        let col_version = cell.filter(|(at, _)| *at == cl).map_or(0, |(_, col_version)| *col_version);
        (self.rows.get(&row).copied().unwrap_or(0), col_version)
    }

    fn note(&mut self, place: Place, cl: u64, col_version: u64) {
        let row = row_of(place);
        let highest = self.rows.entry(row).or_insert(0);
        *highest = cl.max(*highest);
        if let Some(column) = place.column {
            let cell = self.cells.entry((row, column)).or_insert((0, 0));
            *cell = (cl, col_version).max(*cell);
        }
    }
}

fn row_of(place: Place) -> Row {
    (place.channel, place.table, place.key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    const CELL: Place = Place { channel: 0, table: 0, key: 0, column: Some(0) };
    const SENTINEL: Place = Place { column: None, ..CELL };

    #[test]
    fn what_clients_do_is_told_by_small_steps() {
        let mut clocks = Clocks::default();
        for (place, cl, col_version, steps) in [
            (CELL, 1, 1, (1, 1)),
            (CELL, 1, 2, (0, 1)),
            // A client that had not seen it, or that tells it once more.
            (CELL, 1, 2, (0, 0)),
            (SENTINEL, 2, 2, (1, 0)),
            (CELL, 3, 1, (1, 1)),
            // An edit of before the delete.
            (CELL, 1, 3, (-2, 3)),
            (CELL, 3, 2, (0, 1)),
        ] {
            assert_eq!(clocks.steps(place, cl, col_version), steps);
        }
    }

    #[test]
    fn steps_give_the_clocks_back() {
        let mut rng = Rng::new(1);
        let (mut recorder, mut replay) = (Clocks::default(), Clocks::default());
        for _ in 0..20_000 {
            let mut pick = |bound: u64| rng.below(bound) as u32;
            let place = Place { channel: pick(2), table: pick(2), key: pick(3), column: Some(pick(2)) };
            let place = if pick(4) == 0 { Place { column: None, ..place } } else { place };
            let high = if pick(100) == 0 { CLOCK_MAX - 9 } else { 0 };
            let cl = high + 1 + u64::from(pick(8));
            let cl = if place.column.is_some() { cl | 1 } else { cl };
            let col_version = if place.column.is_some() { high + u64::from(pick(9)) } else { cl };
            let (cl_step, col_step) = recorder.steps(place, cl, col_version);
            assert_eq!(replay.clocks(place, cl_step, col_step), Some((cl, col_version)), "{place:?}");
        }
    }

    #[test]
    fn steps_to_clocks_that_are_not_allowed_are_none() {
        for (place, cl_step, col_step) in [
            (CELL, 0, 1),
            (CELL, 2, 1),
            (CELL, -1, 1),
            (CELL, 1, -1),
            (CELL, i64::MAX, 1),
            (CELL, 1, i64::MAX),
            (SENTINEL, 0, 0),
            (SENTINEL, 1, 1),
        ] {
            assert_eq!(Clocks::default().clocks(place, cl_step, col_step), None, "{place:?} {cl_step}");
        }
    }
}
