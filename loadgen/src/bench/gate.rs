//! The gate: assertions over a run's medians, and comparisons with other runs, each of which passes or says what fell short.

use serde::Serialize;
use serde_json::Value;

use super::document::{Loaded, Outcome};
use super::figures::{Figure, Round, find};
use super::stats::{ROUNDS_MIN, Summary};

/// Figures of which the worst round counts, not the median.
const WORST: [&str; 3] = ["errors", "faults", "lost"];

/// So many rounds must all be worse: of unchanged builds, whatever the noise, that is one figure in 128 at most.
const PAIRS_MIN: usize = 7;

/// What was checked.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Gate {
    pub(crate) checks: Vec<Check>,
}

/// One thing that must hold.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Check {
    pub(crate) workload: String,
    /// As it was asked for.
    pub(crate) what: String,
    pub(crate) passed: bool,
    pub(crate) says: String,
}

impl Gate {
    /// What fell short, each in a line.
    pub(crate) fn failures(&self) -> impl Iterator<Item = String> {
        self.checks
            .iter()
            .filter(|check| !check.passed)
            .map(|check| format!("{}: {}: {}", check.workload, check.what, check.says))
    }
}

/// What must hold of a figure.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Assertion {
    text: String,
    figure: &'static str,
    compare: Compare,
    bound: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    Less,
    AtMost,
    More,
    AtLeast,
    Equal,
}

impl Assertion {
    /// Reads `FIGURE<NUMBER`, also with `<=`, `>`, `>=`, `=` or `==`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let refuse = |why: String| format!("--assert {text:?}: {why}");
        let at = text.find(['<', '>', '=']).ok_or_else(|| refuse("it must be like 'p99_ms<50'".into()))?;
        let (name, rest) = text.split_at(at);
        let operators = [
            ("<=", Compare::AtMost),
            (">=", Compare::AtLeast),
            ("==", Compare::Equal),
            ("<", Compare::Less),
            (">", Compare::More),
            ("=", Compare::Equal),
        ];
        let (compare, number) = operators
            .into_iter()
            .find_map(|(sign, compare)| Some((compare, rest.strip_prefix(sign)?)))
            .expect("it begins with one of them");
        let figure = find(name.trim()).map_err(refuse)?.name;
        match number.trim().parse::<f64>() {
            Ok(bound) if bound.is_finite() => Ok(Self { text: text.to_owned(), figure, compare, bound }),
            _ => Err(refuse(format!("{:?} is not a number", number.trim()))),
        }
    }

    fn holds(&self, value: f64) -> bool {
        match self.compare {
            Compare::Less => value < self.bound,
            Compare::AtMost => value <= self.bound,
            Compare::More => value > self.bound,
            Compare::AtLeast => value >= self.bound,
            Compare::Equal => value == self.bound,
        }
    }

    /// Holds it against a workload's rounds. A figure that is not there does not pass.
    pub(crate) fn check(&self, workload: &str, result: &Outcome) -> Check {
        let check =
            |passed, says| Check { workload: workload.to_owned(), what: self.text.clone(), passed, says };
        let Some(summary) = result.summary.get(self.figure) else {
            let none = "no round was carried out".to_owned();
            let why = result.missing.get(self.figure).or(result.skipped.as_ref()).unwrap_or(&none);
            return check(false, format!("{} was not measured: {why}", self.figure));
        };
        if WORST.contains(&self.figure) {
            let values = result.values(self.figure);
            let broken = values.iter().find(|value| !self.holds(**value));
            let worst = *broken.unwrap_or(&summary.median);
            return check(
                broken.is_none(),
                format!("{} is {worst} in the worst of {} rounds", self.figure, values.len()),
            );
        }
        check(self.holds(summary.median), format!("{} is {}", self.figure, told(summary)))
    }
}

/// A median and its spread, in a few words.
pub(crate) fn told(summary: &Summary) -> String {
    let Summary { rounds, median, low, high, .. } = summary;
    match rounds {
        1 => format!("{} in one round", short(*median)),
        _ => format!(
            "{} in the median of {rounds} rounds ({} to {})",
            short(*median),
            short(*low),
            short(*high)
        ),
    }
}

/// Three digits that count.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || size == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The figures that must not become worse.
pub(crate) fn gated(names: &[String]) -> Result<Vec<Figure>, String> {
    names.iter().map(|name| find(name).map_err(|e| format!("--regress: {e}"))).collect()
}

/// How much worse a figure is, as a share.
fn worse_by(figure: &Figure, new: f64, old: f64) -> f64 {
    let worse_by = if figure.more_is_better { 1.0 - new / old } else { new / old - 1.0 };
    // From nothing to something is infinitely worse; from nothing to nothing is not.
    if worse_by.is_nan() { 0.0 } else { worse_by }
}

/// Whether `new` is worse than `old` by more than the bound. It is only if their spreads are far from each other, too, or if it was
/// so in `every_round` of a paired run: else it may be noise.
fn regression(
    workload: &str,
    figure: &Figure,
    new: &[f64],
    old: &[f64],
    bound: f64,
    every_round: bool,
) -> Option<Check> {
    let (now, before) = (Summary::of(new)?, Summary::of(old)?);
    let worse_by = worse_by(figure, now.median, before.median);
    let counts = (now.median - before.median).abs() >= figure.floor();
    let apart = counts && (every_round || now.is_far_from(&before));
    let percent = worse_by * 100.0;
    let change = match percent {
        percent if percent >= 0.5 => format!("{percent:.0}% worse"),
        percent if percent <= -0.5 => format!("{:.0}% better", -percent),
        _ => "the same".to_owned(),
    };
    let why = match (worse_by > bound, apart) {
        (true, true) if every_round => ", and in every round, which is more than noise",
        (true, true) => ", which is more than noise",
        (true, false) => {
            ", but the spreads overlap or nearly do, or all of it is next to nothing: it may be noise"
        }
        (false, _) => "",
    };
    let says = format!("{} is {}, before {}: {change}{why}", figure.name, told(&now), told(&before));
    let what = format!("{} at most {:.0}% worse", figure.name, bound * 100.0);
    Some(Check { workload: workload.to_owned(), what, passed: worse_by <= bound || !apart, says })
}

/// Compares with an earlier report: of each workload that both have, the contender of the same name, or the only ones there are.
pub(crate) fn against_report(
    old: &Value,
    workloads: &[Loaded],
    figures: &[Figure],
    bound: f64,
) -> Result<Vec<Check>, String> {
    let mut checks = Vec::new();
    for workload in workloads {
        let of_old = old["workloads"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|old| old["name"] == workload.name.as_str());
        let of_old = of_old.ok_or_else(|| format!("it has no workload {}", workload.name))?;
        let results = of_old["results"].as_array().map(Vec::as_slice).unwrap_or_default();
        for result in &workload.results {
            let named = results.iter().find(|old| old["contender"] == result.contender.as_str());
            let same = named.or(if results.len() == 1 { results.first() } else { None });
            let same =
                same.ok_or_else(|| format!("workload {}: it has no {}", workload.name, result.contender))?;
            let rounds = same["rounds"].as_array().map(Vec::as_slice).unwrap_or_default();
            if rounds.len() < ROUNDS_MIN {
                return Err(format!(
                    "workload {}: it has {} rounds, which is too few to know how far they spread: make it anew with --rounds {ROUNDS_MIN} at least",
                    workload.name,
                    rounds.len()
                ));
            }
            for figure in figures {
                let old: Vec<_> =
                    rounds.iter().filter_map(|round| round["figures"][figure.name].as_f64()).collect();
                let new = result.values(figure.name);
                checks.extend(regression(&workload.name, figure, &new, &old, bound, false));
            }
        }
    }
    Ok(checks)
}

/// Compares the first contender with the second, which ran by turns with it.
pub(crate) fn paired(workloads: &[Loaded], figures: &[Figure], bound: f64) -> Vec<Check> {
    let mut checks = Vec::new();
    for workload in workloads {
        if let [new, old, ..] = &workload.results[..] {
            for figure in figures {
                let every_round = worse_in_every_round(figure, new, old, bound);
                let (new, old) = (new.values(figure.name), old.values(figure.name));
                checks.extend(regression(&workload.name, figure, &new, &old, bound, every_round));
            }
        }
    }
    checks
}

/// Whether in each of enough rounds the first was worse than the second by more than the bound. What slows a whole machine down
/// for a while spreads the figures of both, and so hides what differs between them, but not this.
fn worse_in_every_round(figure: &Figure, new: &Outcome, old: &Outcome, bound: f64) -> bool {
    let value = |round: &Round| round.figures.get(figure.name).copied();
    let pairs: Vec<_> = new
        .rounds
        .iter()
        .filter_map(|new| {
            let old = old.rounds.iter().find(|old| old.round == new.round)?;
            Some((value(new)?, value(old)?))
        })
        .collect();
    pairs.len() >= PAIRS_MIN && pairs.iter().all(|(new, old)| worse_by(figure, *new, *old) > bound)
}

/// All that was verified, as checks: what a report counts as passed.
pub(crate) fn verified(workloads: &[Loaded]) -> Vec<Check> {
    let of = |workload: &Loaded, result: &Outcome| {
        let faults = result.rounds.iter().flat_map(|round| &round.first_faults);
        let first = result.failed.iter().chain(faults).next();
        let checked: u64 = result.rounds.iter().map(|round| round.checked).sum();
        let says = match (first, &result.skipped) {
            (Some(first), _) => first.clone(),
            (None, Some(why)) => format!("not run: {why}"),
            (None, None) => format!("{checked} changes where they must be"),
        };
        let what = format!("{} loses nothing", result.contender);
        Check { workload: workload.name.clone(), what, passed: result.passed(), says }
    };
    workloads.iter().flat_map(|one| one.results.iter().map(move |result| of(one, result))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate() -> Figure {
        find("rate").expect("a figure")
    }

    fn p99() -> Figure {
        find("p99_ms").expect("a figure")
    }

    fn passes(figure: Figure, new: &[f64], old: &[f64]) -> bool {
        regression("w", &figure, new, old, 0.1, false).expect("rounds").passed
    }

    #[test]
    fn assertions_are_read_and_what_is_wrong_is_named() {
        let read = |text: &str| Assertion::parse(text).expect(text);
        assert_eq!((read("p99_ms<50").figure, read("p99_ms<50").bound), ("p99_ms", 50.0));
        for (text, holds) in [
            ("rate<5", [true, false, false]),
            ("rate <= 5", [true, true, false]),
            ("rate>5", [false, false, true]),
            ("rate>=5", [false, true, true]),
            ("rate=5", [false, true, false]),
            ("rate==5.0", [false, true, false]),
        ] {
            assert_eq!([4.0, 5.0, 6.0].map(|value| read(text).holds(value)), holds, "{text}");
        }
        for (bad, named) in [
            ("p99_ms", "it must be like"),
            ("p99<50", "no figure \"p99\": there are rate, p50_ms"),
            ("p99_ms<fast", "\"fast\" is not a number"),
            ("p99_ms<inf", "is not a number"),
            ("<5", "no figure \"\""),
            ("", "it must be like"),
        ] {
            assert!(Assertion::parse(bad).is_err_and(|e| e.contains(named)), "{bad}");
        }
    }

    #[test]
    fn what_was_not_measured_does_not_pass() {
        let assertion = Assertion::parse("p99_ms<50").expect("good");
        let mut outcome = Outcome::default();
        assert!(!assertion.check("w", &outcome).passed);
        outcome.summary.insert("p99_ms", Summary::of(&[49.0]).expect("a value"));
        assert!(assertion.check("w", &outcome).passed);
        outcome.summary.insert("p99_ms", Summary::of(&[40.0, 63.2, 90.0]).expect("values"));
        let check = assertion.check("w", &outcome);
        assert_eq!(
            (check.passed, check.says.as_str()),
            (false, "p99_ms is 63.2 in the median of 3 rounds (40.0 to 90.0)")
        );
    }

    #[test]
    fn only_what_is_beyond_the_bound_and_beyond_the_noise_is_flagged() {
        assert!(passes(rate(), &[100.0, 101.0, 99.0], &[100.0, 102.0, 98.0]));
        assert!(!passes(rate(), &[50.0, 51.0, 49.0], &[100.0, 102.0, 98.0]), "half the rate");
        assert!(passes(rate(), &[200.0, 201.0, 199.0], &[100.0, 102.0, 98.0]), "twice the rate is better");
        assert!(passes(rate(), &[95.0, 96.0, 94.0], &[100.0, 102.0, 98.0]), "apart, but within the bound");
        assert!(
            passes(rate(), &[50.0, 51.0, 99.0], &[100.0, 102.0, 98.0]),
            "beyond the bound, but they overlap"
        );
        assert!(!passes(p99(), &[12.0, 12.0, 12.0], &[10.0, 10.0, 10.0]), "longer is worse");
        assert!(passes(p99(), &[8.0, 8.0, 8.0], &[10.0, 10.0, 10.0]));
        assert!(passes(p99(), &[0.0], &[0.0]) && !passes(p99(), &[1.0], &[0.0]));
        assert!(passes(p99(), &[0.03, 0.03], &[0.02, 0.02]), "a hundredth of a millisecond is nothing");
        assert_eq!(regression("w", &rate(), &[], &[1.0], 0.1, false), None);
    }

    #[test]
    fn a_machine_that_drifts_hides_nothing_that_is_in_every_round() {
        let of = |rates: &[f64]| {
            let round = |(at, rate): (usize, &f64)| Round {
                round: at + 1,
                figures: [("rate", *rate)].into(),
                ..Round::default()
            };
            Outcome { rounds: rates.iter().enumerate().map(round).collect(), ..Outcome::default() }
        };
        let old = [50.0, 10.0, 80.0, 20.0, 30.0, 60.0, 90.0];
        let slower = old.map(|rate| rate * 0.7);
        assert!(passes(rate(), &slower, &old), "the spreads overlap");
        let worse = |new: &[f64], old: &[f64]| worse_in_every_round(&rate(), &of(new), &of(old), 0.1);
        assert!(worse(&slower, &old));
        assert!(!worse(&old.map(|rate| rate * 0.95), &old), "within the bound");
        assert!(!worse(&[&slower[..6], &old[6..]].concat(), &old), "one round was as good");
        assert!(!worse(&slower[..6], &old), "too few pairs");
        let mut shuffled = of(&slower);
        shuffled.rounds.reverse();
        assert!(worse_in_every_round(&rate(), &shuffled, &of(&old), 0.1), "pairs are of the same round");
        let found = regression("w", &rate(), &slower, &old, 0.1, true).expect("rounds");
        assert!(
            !found.passed && found.says.ends_with("30% worse, and in every round, which is more than noise"),
            "{found:?}"
        );
    }

    #[test]
    fn an_old_report_needs_the_workload_and_enough_rounds() {
        let results = vec![Outcome { contender: "this".into(), ..Outcome::default() }];
        let workload = Loaded { name: "single".into(), results, ..Loaded::default() };
        let round = |rate: f64| serde_json::json!({"figures": {"rate": rate}});
        let old = |rounds: Vec<Value>| serde_json::json!({"workloads": [{"name": "single", "results": [{"contender": "was", "rounds": rounds}]}]});
        let compare = |old: &Value| against_report(old, std::slice::from_ref(&workload), &[rate()], 0.1);
        assert!(compare(&serde_json::json!({})).is_err_and(|e| e.contains("no workload single")));
        assert!(compare(&old(vec![round(1.0)])).is_err_and(|e| e.contains("has 1 rounds")));
        assert_eq!(
            compare(&old(vec![round(1.0), round(1.0), round(1.0)])),
            Ok(Vec::new()),
            "nothing was measured now"
        );
    }

    proptest! {
        #[test]
        fn nothing_is_worse_than_itself_and_two_cannot_be_worse_than_each_other(
            one in prop::collection::vec(0.1..1e6_f64, 1..8), other in prop::collection::vec(0.1..1e6_f64, 1..8),
        ) {
            for figure in [rate(), p99()] {
                prop_assert!(passes(figure, &one, &one));
                prop_assert!(passes(figure, &one, &other) || passes(figure, &other, &one));
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}", tail in "[<>=]{0,3}[0-9.e-]{0,6}") {
            let _ = Assertion::parse(&text);
            let _ = Assertion::parse(&format!("rate{tail}"));
        }
    }
}
