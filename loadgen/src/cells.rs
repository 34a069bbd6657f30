//! Sets of cells: what was acked, what a follower has seen, and what is missing between the two.

/// Above this a cell's index cannot be the generator's own; it guards memory against a decoding fault.
const CELLS_MAX: u64 = 1 << 36;

/// For each cell of a channel the highest state known, if any.
#[derive(Debug, Clone)]
pub(crate) enum Cells {
    /// Each cell is written once: one bit says all.
    Once(Vec<u64>),
    /// Cells are overwritten: the highest `col_version`, 0 for none. Any at or above another is it, or a winner over it.
    Versions(Vec<u32>),
}

impl Cells {
    pub(crate) fn new(overwritten: bool) -> Self {
        if overwritten { Self::Versions(Vec::new()) } else { Self::Once(Vec::new()) }
    }

    /// Notes a state of a cell; true if it is higher than what was known.
    pub(crate) fn note(&mut self, cell: u64, col_version: u32) -> bool {
        assert!(cell < CELLS_MAX, "cell {cell} is none that a plan makes");
        match self {
            Self::Once(words) => {
                let (word, bit) = ((cell / 64) as usize, 1 << (cell % 64));
                if word >= words.len() {
                    words.resize((word + 1).next_power_of_two(), 0);
                }
                let new = words[word] & bit == 0;
                words[word] |= bit;
                new
            }
            Self::Versions(versions) => {
                let at = cell as usize;
                if at >= versions.len() {
                    versions.resize((at + 1).next_power_of_two(), 0);
                }
                let new = versions[at] < col_version;
                versions[at] = versions[at].max(col_version);
                new
            }
        }
    }

    /// Adds all that `other` knows.
    pub(crate) fn note_all(&mut self, other: &Self) {
        for (cell, col_version) in other.iter() {
            self.note(cell, col_version);
        }
    }

    /// The known cells, with their highest `col_version` (1 where each is written once).
    pub(crate) fn iter(&self) -> Box<dyn Iterator<Item = (u64, u32)> + '_> {
        match self {
            Self::Once(words) => Box::new(words.iter().enumerate().flat_map(|(at, word)| {
                let bits = (0..64).filter(move |bit| word >> bit & 1 == 1);
                bits.map(move |bit| (at as u64 * 64 + bit, 1))
            })),
            Self::Versions(versions) => {
                Box::new(versions.iter().enumerate().filter(|(_, v)| **v > 0).map(|(at, v)| (at as u64, *v)))
            }
        }
    }

    /// How many cells are known.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Once(words) => words.iter().map(|word| u64::from(word.count_ones())).sum(),
            Self::Versions(versions) => versions.iter().filter(|v| **v > 0).count() as u64,
        }
    }

    /// Whether each cell that `wanted` knows is known here, in that state or a higher one.
    pub(crate) fn covers(&self, wanted: &Self) -> bool {
        match (self, wanted) {
            (Self::Once(have), Self::Once(want)) => {
                want.iter().enumerate().all(|(at, want)| want & !have.get(at).copied().unwrap_or(0) == 0)
            }
            (Self::Versions(have), Self::Versions(want)) => {
                want.iter().enumerate().all(|(at, want)| have.get(at).copied().unwrap_or(0) >= *want)
            }
            _ => self.missing(wanted, 1).1 == 0,
        }
    }

    /// The first `limit` cells that `wanted` knows better than this set, and how many there are in all.
    pub(crate) fn missing(&self, wanted: &Self, limit: usize) -> (Vec<(u64, u32)>, u64) {
        let mut first = Vec::new();
        let mut count = 0;
        for (cell, col_version) in wanted.iter() {
            if self.state(cell) < col_version {
                count += 1;
                if first.len() < limit {
                    first.push((cell, col_version));
                }
            }
        }
        (first, count)
    }

    /// The highest `col_version` known of a cell, 0 for none.
    pub(crate) fn state(&self, cell: u64) -> u32 {
        match self {
            Self::Once(words) => {
                words.get((cell / 64) as usize).map_or(0, |word| (word >> (cell % 64) & 1) as u32)
            }
            Self::Versions(versions) => versions.get(cell as usize).copied().unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_written_once_is_missing_until_it_is_seen() {
        let (mut acked, mut seen) = (Cells::new(false), Cells::new(false));
        for cell in [0, 63, 64, 5_000] {
            assert!(acked.note(cell, 1));
            assert!(!acked.note(cell, 1), "twice is not new");
        }
        seen.note(0, 1);
        seen.note(64, 1);
        seen.note(9_999, 1);
        assert!(!seen.covers(&acked));
        assert_eq!(seen.missing(&acked, 1), (vec![(63, 1)], 2));
        seen.note_all(&acked);
        assert!(seen.covers(&acked));
        assert_eq!((acked.len(), seen.len()), (4, 5));
    }

    #[test]
    fn an_overwritten_cell_is_satisfied_by_a_winner_only() {
        let (mut acked, mut seen) = (Cells::new(true), Cells::new(true));
        acked.note(3, 5);
        acked.note(4, 1);
        seen.note(3, 4);
        seen.note(4, 9);
        assert_eq!(seen.missing(&acked, 10), (vec![(3, 5)], 1));
        assert!(!seen.note(3, 4) && seen.note(3, 6));
        assert!(seen.covers(&acked));
    }
}
