//! Small numbers for names, in the order in which they first come.

use std::collections::HashMap;
use std::hash::Hash;

/// Numbers the names of one kind, from 0 in each scope. It knows the names by their keyed hashes only.
///
/// It grows by an entry for each new name, whose line in the trace is longer than that: `--max-bytes` bounds both.
#[derive(Debug)]
pub(super) struct Ids<S> {
    known: HashMap<(S, u64), u32>,
    next: HashMap<S, u32>,
}

impl<S: Eq + Hash + Copy> Ids<S> {
    pub(super) fn of(&mut self, scope: S, hash: u64) -> u32 {
        *self.known.entry((scope, hash)).or_insert_with(|| {
            let next = self.next.entry(scope).or_insert(0);
            // As many lines as it would take to wrap are more than a trace may have.
            *next += 1;
            *next - 1
        })
    }
}

impl<S> Default for Ids<S> {
    fn default() -> Self {
        Self { known: HashMap::new(), next: HashMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_small_and_stay() {
        let mut ids = Ids::default();
        let first = [(0, 77), (0, 9), (1, 77), (0, 77), (1, 5)].map(|(scope, hash)| ids.of(scope, hash));
        assert_eq!(first, [0, 1, 0, 0, 1]);
    }
}
