//! What a client writes: edits, deletes and new lives of a few rows that all share, and rows of its own.

use causeway_storage::change::OwnedValue;
use causeway_storage::{SENTINEL, Value};

use crate::model::{Model, OwnedChange};
use crate::plan::Habits;
use crate::random::Random;

pub(crate) struct Writer {
    site: String,
    rows: u64,
    max_changes: u64,
    own_rows: u64,
    random: Random,
}

impl Writer {
    pub(crate) fn new(site: &str, habits: &Habits, random: Random) -> Self {
        Writer { site: site.into(), rows: habits.rows, max_changes: habits.changes, own_rows: 0, random }
    }

    /// A transaction over the client's database, and its changes.
    pub(crate) fn update(&mut self, model: &mut Model) -> Vec<OwnedChange> {
        let mut changes = Vec::new();
        for _ in 0..self.random.between(1..=self.max_changes) {
            let pk = if self.random.permille(250) {
                // Nothing later makes up for this one, should anyone miss it.
                self.own_rows += 1;
                format!("{} {}", self.site, self.own_rows)
            } else {
                format!("row {}", self.random.below(self.rows))
            };
            self.change(model, &pk, &mut changes);
        }
        changes
    }

    fn change(&mut self, model: &mut Model, pk: &str, changes: &mut Vec<OwnedChange>) {
        let column = format!("c{}", self.random.below(3));
        let mut cell = OwnedChange::cell(pk, &column, Value::Null, 0, 0);
        cell.val = self.value();
        let (cl, clock) = model.clocks(&cell);
        let lives = cl % 2 == 1;
        cell.cl = if lives { cl } else { cl + 1 };
        cell.col_version = clock + 1;
        let sentinel = |cl| OwnedChange::sentinel(pk, cl);
        match self.random.below(10) {
            0 if lives => self.write(model, sentinel(cl + 1), changes),
            1..=5 if !lives => {
                self.write(model, sentinel(cl + 1), changes);
                self.write(model, cell, changes);
            }
            _ => self.write(model, cell, changes),
        }
    }

    fn write(&self, model: &mut Model, mut change: OwnedChange, changes: &mut Vec<OwnedChange>) {
        change.site_id.clone_from(&self.site);
        change.seq = changes.len() as u64;
        debug_assert!(change.cid != SENTINEL || change.col_version == change.cl);
        model.update(std::slice::from_ref(&change));
        changes.push(change);
    }

    fn value(&mut self) -> OwnedValue {
        match self.random.below(5) {
            0 => OwnedValue::Null,
            1 => OwnedValue::Real(self.random.below(4) as f64 / 2.0),
            2 => OwnedValue::Text("x".repeat(self.random.below(200) as usize).into()),
            3 => OwnedValue::Blob(vec![self.random.below(256) as u8; 3].into()),
            _ => OwnedValue::Integer(self.random.below(100) as i64 - 50),
        }
    }
}
