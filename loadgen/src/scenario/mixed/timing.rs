//! When each value was sent, and to which server: what the time to a follower counts from.

use std::sync::{Mutex, PoisonError};

use crate::replica::Edit;
use crate::rng::hash_name;
use crate::val::Val;

/// Values that are remembered; one more takes another's place.
const VALUES: usize = 1 << 15;

/// The values of a channel's last edits. Only text is told apart: each is written once.
#[derive(Debug)]
pub(in crate::scenario) struct Timing(Mutex<Vec<Option<Sent>>>);

#[derive(Debug, Clone, Copy)]
struct Sent {
    value: u64,
    due_ns: u64,
    server: usize,
}

impl Timing {
    pub(in crate::scenario) fn new() -> Self {
        Self(Mutex::new(vec![None; VALUES]))
    }

    /// The edit was due then, and is sent to that server.
    pub(super) fn note(&self, edit: &Edit, due_ns: u64, server: usize) {
        if let Some(value) = value_of(edit) {
            self.look(value, |slot| *slot = Some(Sent { value, due_ns, server }));
        }
    }

    /// When the edit was due, and the server that it was sent to.
    pub(super) fn sent(&self, edit: &Edit) -> Option<(u64, usize)> {
        let value = value_of(edit)?;
        let sent = self.look(value, |slot| *slot)?;
        (sent.value == value).then_some((sent.due_ns, sent.server))
    }

    fn look<T>(&self, value: u64, look: impl FnOnce(&mut Option<Sent>) -> T) -> T {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        look(&mut slots[value as usize % VALUES])
    }
}

fn value_of(edit: &Edit) -> Option<u64> {
    match &edit.val {
        Val::Text(text) => Some(hash_name(0, text)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_until_another_takes_its_place() {
        let edit = |text: String| Edit {
            pk: "r".into(),
            cid: "c".into(),
            val: Val::Text(text),
            col_version: 1,
            cl: 1,
        };
        let timing = Timing::new();
        timing.note(&edit("a".into()), 5, 2);
        assert_eq!(timing.sent(&edit("a".into())), Some((5, 2)));
        assert_eq!(timing.sent(&edit("b".into())), None);
        (0..20 * VALUES).for_each(|n| timing.note(&edit(n.to_string()), 6, 1));
        assert_eq!(timing.sent(&edit("a".into())), None);
    }
}
