//! What several rounds say together: a median, how far they spread, and whether two of them differ at all.

use serde::Serialize;

/// From so many rounds on the spread is that of the quartiles, not of the extremes.
const QUARTILES_FROM: usize = 4;
/// With fewer rounds nobody knows how far a figure spreads: two of two lie apart by chance once in three times.
pub(crate) const ROUNDS_MIN: usize = 3;

/// Medians as near as this, as a share, are the same for whoever chooses, however little they spread.
const SAME: f64 = 0.01;

/// The rounds of one figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) rounds: usize,
    pub(crate) median: f64,
    /// The spread's ends: the least and the most, or the first and the third quartile.
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) spread: Spread,
}

/// What the ends of a spread are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Spread {
    /// The least and the most.
    Range,
    Quartiles,
}

impl Summary {
    /// None if there is nothing to summarise. Values must be numbers.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let sorted = sorted(values);
        let (first, last) = (*sorted.first()?, *sorted.last()?);
        let median = quantile(&sorted, 0.5);
        let (low, high, spread) = if sorted.len() < QUARTILES_FROM {
            (first, last, Spread::Range)
        } else {
            (quantile(&sorted, 0.25), quantile(&sorted, 0.75), Spread::Quartiles)
        };
        Some(Self { rounds: sorted.len(), median, low, high, spread })
    }

    /// Whether the spreads have a value in common: then nobody can say which is better.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.low <= other.high && other.low <= self.high
    }

    /// Whether nobody is better: the spreads overlap, or the medians are next to the same.
    pub(crate) fn ties(&self, other: &Self) -> bool {
        self.overlaps(other)
            || (self.median - other.median).abs() <= SAME * self.median.abs().max(other.median.abs())
    }

    /// Whether between the spreads lies more than half of the wider one. Quartiles alone lie apart too often by chance: of unchanged
    /// runs, 7 rounds of 8% noise each, 1 to 2 in a hundred are apart that way and by more than 10%, but 2 to 3 in a thousand this way.
    pub(crate) fn is_far_from(&self, other: &Self) -> bool {
        let gap = (self.low - other.high).max(other.low - self.high);
        gap > 0.0 && gap > (self.high - self.low).max(other.high - other.low) / 2.0
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Between two neighbours it lies on the line through them.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

/// Who is best by a figure, and who cannot be told from the best.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Verdict {
    pub(crate) figure: &'static str,
    /// Those who are compared: what they promise is the same.
    pub(crate) among: String,
    /// The best and all whose spread overlaps the best one's; empty where nothing can be said.
    pub(crate) best: Vec<String>,
    pub(crate) tie: bool,
    pub(crate) says: String,
}

impl Verdict {
    /// Who are compared, to be put behind the figure's name; nothing if that is all.
    pub(crate) fn among_said(&self) -> String {
        if self.among.is_empty() { String::new() } else { format!(", {}", self.among) }
    }

    /// None with fewer than two to compare.
    pub(crate) fn of(
        figure: &'static str,
        more_is_better: bool,
        among: &str,
        all: &[(&str, Summary)],
    ) -> Option<Self> {
        if all.len() < 2 {
            return None;
        }
        if let Some((name, few)) = all.iter().find(|(_, summary)| summary.rounds < ROUNDS_MIN) {
            let says = format!(
                "no verdict: {name} has {} of {ROUNDS_MIN} rounds that it takes to know how far it spreads",
                few.rounds
            );
            return Some(Self { figure, among: among.to_owned(), best: Vec::new(), tie: false, says });
        }
        let mut ranked = all.to_vec();
        ranked.sort_by(|(_, a), (_, b)| a.median.total_cmp(&b.median));
        if more_is_better {
            ranked.reverse();
        }
        let (first, rest) = ranked.split_first().expect("there are two at least");
        let (tied, beaten): (Vec<_>, Vec<_>) = rest.iter().partition(|(_, other)| other.ties(&first.1));
        let best: Vec<_> =
            [first].into_iter().chain(tied.iter().copied()).map(|(name, _)| (*name).to_owned()).collect();
        let tie = best.len() > 1;
        let next = beaten.first().map(|(name, other)| {
            let (better, worse) = if more_is_better { (first.1, *other) } else { (*other, first.1) };
            match better.median / worse.median {
                ratio if ratio.is_finite() => format!(", {ratio:.2} times better than {name}"),
                _ => format!(", better than {name}"),
            }
        });
        let says = match (tie, &next) {
            (true, None) => format!("a tie of all: {}", best.join(", ")),
            (true, Some(next)) => format!("a tie of {}{next}", best.join(", ")),
            (false, next) => format!("{}{}", best[0], next.as_deref().unwrap_or_default()),
        };
        Some(Self { figure, among: among.to_owned(), best, tie, says })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn summary(values: &[f64]) -> Summary {
        Summary::of(values).expect("values")
    }

    #[test]
    fn few_rounds_have_a_range_and_many_have_quartiles() {
        assert_eq!(Summary::of(&[]), None);
        let three = summary(&[3.0, 1.0, 2.0]);
        assert_eq!((three.median, three.low, three.high, three.spread), (2.0, 1.0, 3.0, Spread::Range));
        let five = summary(&[5.0, 1.0, 2.0, 100.0, 3.0]);
        assert_eq!((five.median, five.low, five.high, five.spread), (3.0, 2.0, 5.0, Spread::Quartiles));
        let four = summary(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!((four.median, four.low, four.high), (2.5, 1.75, 3.25));
    }

    #[test]
    fn overlapping_spreads_are_a_tie_and_say_so() {
        let (a, b, c) =
            (summary(&[10.0, 12.0, 11.0]), summary(&[11.5, 13.0, 12.0]), summary(&[5.0, 6.0, 5.5]));
        let of = |more, all: &[(&str, Summary)]| Verdict::of("rate", more, "", all).expect("two or more");
        let tie = of(true, &[("a", a), ("b", b), ("c", c)]);
        assert_eq!((tie.best, tie.tie), (vec!["b".to_owned(), "a".to_owned()], true));
        assert_eq!(tie.says, "a tie of b, a, 2.18 times better than c");
        let less = of(false, &[("a", a), ("b", b), ("c", c)]);
        assert_eq!((less.says.as_str(), less.tie), ("c, 2.00 times better than a", false));
        assert_eq!(of(true, &[("a", a), ("b", b)]).says, "a tie of all: b, a");
        assert_eq!(Verdict::of("rate", true, "", &[("a", a)]), None);
        let single = of(true, &[("a", a), ("b", summary(&[1.0]))]);
        assert_eq!((single.best.len(), single.says.contains("b has 1 of 3 rounds")), (0, true));
        let (asked, kept) = (summary(&[500.0, 500.0, 500.0]), summary(&[499.8, 499.9, 499.9]));
        assert_eq!(of(true, &[("a", asked), ("b", kept)]).says, "a tie of all: a, b");
        let nothing = of(false, &[("a", summary(&[0.0, 0.0, 0.0])), ("b", c)]);
        assert_eq!(nothing.says, "a, better than b");
    }

    proptest! {
        #[test]
        fn the_median_lies_within_the_spread(values in prop::collection::vec(0.0..1e9_f64, 1..12)) {
            let all = summary(&values);
            prop_assert!(all.low <= all.median && all.median <= all.high);
            let least = values.iter().copied().fold(f64::MAX, f64::min);
            prop_assert!(least <= all.low && values.contains(&least));
        }

        #[test]
        fn overlap_is_mutual_and_the_same_overlaps_itself(
            one in prop::collection::vec(0.0..1e3_f64, 1..9), other in prop::collection::vec(0.0..1e3_f64, 1..9),
        ) {
            prop_assert_eq!(summary(&one).overlaps(&summary(&other)), summary(&other).overlaps(&summary(&one)));
            let (one, other) = (summary(&one), summary(&other));
            prop_assert_eq!(one.is_far_from(&other), other.is_far_from(&one));
            prop_assert!(one.overlaps(&one) && !one.is_far_from(&one));
            prop_assert!(!one.is_far_from(&other) || !one.overlaps(&other));
        }

        #[test]
        fn nobody_beats_the_best(rounds in prop::collection::vec(prop::collection::vec(0.0..1e3_f64, 3..6), 2..6), more in any::<bool>()) {
            let names: Vec<_> = (0..rounds.len()).map(|n| n.to_string()).collect();
            let all: Vec<_> = names.iter().map(String::as_str).zip(rounds.iter().map(|one| summary(one))).collect();
            let verdict = Verdict::of("rate", more, "", &all).expect("two or more");
            let best = all.iter().find(|(name, _)| verdict.best[0] == *name).expect("one of them").1;
            for (name, one) in &all {
                let no_better = if more { one.median <= best.median } else { one.median >= best.median };
                prop_assert!(no_better);
                prop_assert_eq!(verdict.best.iter().any(|best| best == name), one.ties(&best));
            }
        }
    }
}
