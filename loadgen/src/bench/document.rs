//! `report.json`: everything that `run` and `compare` found. `loadgen/README.md` documents it; a change that takes something
//! away raises [`FORMAT`].

use std::collections::BTreeMap;

use serde::Serialize;

use super::contender::{Described, Promise};
use super::environment::Environment;
use super::figures::{FIGURES, Figure, Limit, Round, units};
use super::gate::{Gate, verified};
use super::probe::Probe;
use super::stats::{Summary, Verdict};
use super::workload::{Point, Workload};

/// The version of the format.
pub(crate) const FORMAT: u32 = 1;

/// The report.
#[derive(Debug, Serialize)]
pub(crate) struct Document {
    pub(crate) format: u32,
    pub(crate) environment: Environment,
    pub(crate) probe: Probe,
    /// Rounds that were asked for.
    pub(crate) rounds: usize,
    /// The short form of the workloads: not to be believed.
    pub(crate) quick: bool,
    /// What figures mean.
    pub(crate) figures: Vec<Figure>,
    pub(crate) contenders: Vec<Described>,
    pub(crate) workloads: Vec<Loaded>,
    pub(crate) plots: Plots,
    /// What was asserted, and what came of it.
    pub(crate) gate: Option<Gate>,
    /// Nothing was lost, nothing failed, and the gate let it pass.
    pub(crate) passed: bool,
}

/// A workload, or a point of its sweep, and what came of it.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Loaded {
    pub(crate) name: String,
    pub(crate) about: String,
    pub(crate) scenario: &'static str,
    pub(crate) sweep: Option<Point>,
    /// What the file says, and what was said beside it.
    pub(crate) settings: BTreeMap<String, String>,
    pub(crate) seed: u64,
    /// What the rate counts.
    pub(crate) unit: &'static str,
    /// What the latency is of.
    pub(crate) latency: &'static str,
    pub(crate) results: Vec<Outcome>,
    pub(crate) verdicts: Vec<Verdict>,
}

/// A workload's rounds against one contender.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Outcome {
    pub(crate) contender: String,
    pub(crate) promise: Promise,
    /// Why it was not run.
    pub(crate) skipped: Option<String>,
    /// Why rounds could not be carried out.
    pub(crate) failed: Vec<String>,
    pub(crate) rounds: Vec<Round>,
    pub(crate) summary: BTreeMap<&'static str, Summary>,
    /// Why figures have no summary.
    pub(crate) missing: BTreeMap<&'static str, String>,
    /// Rounds that were held back by the generator, and by the machine.
    pub(crate) generator_limited: usize,
    pub(crate) machine_limited: usize,
}

/// What plots are made of.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Plots {
    pub(crate) sweeps: Vec<Sweep>,
    pub(crate) latencies: Vec<Curve>,
    pub(crate) costs: Vec<Cost>,
}

/// The rate by what is swept, such as the batch size.
#[derive(Debug, Serialize)]
pub(crate) struct Sweep {
    pub(crate) workload: String,
    pub(crate) key: String,
    pub(crate) unit: &'static str,
    pub(crate) contender: String,
    /// Rising.
    pub(crate) points: Vec<SweepPoint>,
}

#[derive(Debug, Serialize)]
pub(crate) struct SweepPoint {
    pub(crate) value: f64,
    pub(crate) rate: Summary,
}

/// A latency's quantiles, each the median of the rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Curve {
    pub(crate) workload: String,
    pub(crate) contender: String,
    /// Quantiles from 0 to 1, each with its milliseconds.
    pub(crate) points: Vec<(f64, f64)>,
}

/// What a change costs.
#[derive(Debug, Serialize)]
pub(crate) struct Cost {
    pub(crate) workload: String,
    pub(crate) contender: String,
    pub(crate) cpu_us_per_unit: Option<Summary>,
    pub(crate) written_bytes_per_change: Option<Summary>,
    pub(crate) disk_bytes_per_change: Option<Summary>,
}

impl Document {
    /// What fell short, each in a line.
    pub(crate) fn failures(&self) -> Vec<String> {
        match &self.gate {
            Some(gate) => gate.failures().collect(),
            None => Gate { checks: verified(&self.workloads) }.failures().collect(),
        }
    }
}

impl Outcome {
    /// Sums the rounds up.
    pub(crate) fn sum_up(&mut self) {
        for Figure { name, .. } in FIGURES {
            let values = self.values(name);
            // A figure that some rounds lack would be one of the others only.
            if values.len() == self.rounds.len()
                && let Some(summary) = Summary::of(&values)
            {
                self.summary.insert(name, summary);
            } else if let Some(why) = self.rounds.iter().find_map(|round| round.missing.get(name)) {
                self.missing.insert(name, why.clone());
            }
        }
        let limited = |by: Limit| self.rounds.iter().filter(|round| round.limit == by).count();
        self.generator_limited = limited(Limit::Generator);
        self.machine_limited = limited(Limit::Machine);
    }

    /// The figure of each round.
    pub(crate) fn values(&self, figure: &str) -> Vec<f64> {
        self.rounds.iter().filter_map(|round| round.figures.get(figure).copied()).collect()
    }

    /// Whether the verification found any, so that data was kept.
    pub(crate) fn has_faults(&self) -> bool {
        self.values("faults").iter().any(|faults| *faults > 0.0)
    }

    /// Whether it was carried out, without a fault.
    pub(crate) fn passed(&self) -> bool {
        self.failed.is_empty() && !self.has_faults()
    }
}

impl Loaded {
    pub(crate) fn new(workload: &Workload) -> Self {
        let (unit, latency) = units(&workload.scenario);
        Self {
            name: workload.name.clone(),
            about: workload.about.clone(),
            scenario: workload.scenario.name(),
            sweep: workload.sweep.clone(),
            settings: workload.settings.clone(),
            seed: workload.common.seed,
            unit,
            latency,
            results: Vec::new(),
            verdicts: Vec::new(),
        }
    }

    /// The same with the first contender alone.
    pub(crate) fn first_only(&self) -> Self {
        let mut first = self.clone();
        first.results.truncate(1);
        first
    }

    /// Sums all rounds up, and says who is best by what.
    pub(crate) fn sum_up(&mut self) {
        self.results.iter_mut().for_each(Outcome::sum_up);
        let compared = FIGURES.into_iter().filter(|figure| {
            ![
                "late_p99_ms",
                "generator_cores",
                "others_cores",
                "errors",
                "faults",
                "lost",
                "start_ms",
                "disk_bytes",
            ]
            .contains(&figure.name)
        });
        let compared: Vec<_> = compared.collect();
        for promise in self.promises() {
            // Whoever lost something may well have been fast.
            let of_group = |result: &&Outcome| {
                result.passed() && [&promise, &Promise::Unknown].contains(&&result.promise)
            };
            let group: Vec<_> = self.results.iter().filter(of_group).collect();
            let among = match &promise {
                Promise::Durability(level) => format!("durability {level}"),
                _ => String::new(),
            };
            for figure in &compared {
                let summary =
                    |result: &&Outcome| Some((result.contender.clone(), *result.summary.get(figure.name)?));
                let all: Vec<_> = group.iter().filter_map(summary).collect();
                let all: Vec<_> = all.iter().map(|(name, summary)| (name.as_str(), *summary)).collect();
                self.verdicts.extend(Verdict::of(figure.name, figure.more_is_better, &among, &all));
            }
        }
    }

    /// Where a contender is the best by that figure, or is not to be told from the best.
    pub(crate) fn won(&self, figure: &str, contender: &str) -> Option<&Verdict> {
        let is_best = |verdict: &&Verdict| verdict.best.iter().any(|best| best == contender);
        self.verdicts.iter().filter(|verdict| verdict.figure == figure).find(is_best)
    }

    /// The durability levels that there are, or none is known.
    fn promises(&self) -> Vec<Promise> {
        let mut all: Vec<Promise> = Vec::new();
        for result in &self.results {
            if matches!(result.promise, Promise::Durability(_)) && !all.contains(&result.promise) {
                all.push(result.promise.clone());
            }
        }
        if all.is_empty() { vec![Promise::Unknown] } else { all }
    }
}

impl Plots {
    pub(crate) fn of(workloads: &[Loaded]) -> Self {
        let mut plots = Self::default();
        for workload in workloads {
            for result in &workload.results {
                plots.add(workload, result);
            }
        }
        for sweep in &mut plots.sweeps {
            sweep.points.sort_by(|a, b| a.value.total_cmp(&b.value));
        }
        plots
    }

    fn add(&mut self, workload: &Loaded, result: &Outcome) {
        if let (Some(point), Some(rate)) = (&workload.sweep, result.summary.get("rate")) {
            let same = |sweep: &&mut Sweep| sweep.workload == point.of && sweep.contender == result.contender;
            let next = SweepPoint { value: point.value, rate: *rate };
            match self.sweeps.iter_mut().find(same) {
                Some(sweep) => sweep.points.push(next),
                None => self.sweeps.push(Sweep {
                    workload: point.of.clone(),
                    key: point.key.clone(),
                    unit: workload.unit,
                    contender: result.contender.clone(),
                    points: vec![next],
                }),
            }
        }
        let curves: Vec<_> =
            result.rounds.iter().map(|round| &round.curve).filter(|curve| !curve.is_empty()).collect();
        if let Some(first) = curves.first() {
            let median = |at: usize| {
                let all: Vec<_> = curves.iter().map(|curve| curve[at].1).collect();
                Summary::of(&all).map_or(0.0, |summary| summary.median)
            };
            let points =
                first.iter().enumerate().map(|(at, (quantile, _))| (*quantile, median(at))).collect();
            let (workload, contender) = (workload.name.clone(), result.contender.clone());
            self.latencies.push(Curve { workload, contender, points });
        }
        let of = |name: &str| result.summary.get(name).copied();
        let cost = Cost {
            workload: workload.name.clone(),
            contender: result.contender.clone(),
            cpu_us_per_unit: of("cpu_us_per_unit"),
            written_bytes_per_change: of("written_bytes_per_change"),
            disk_bytes_per_change: of("disk_bytes_per_change"),
        };
        if cost.cpu_us_per_unit.is_some() || cost.written_bytes_per_change.is_some() {
            self.costs.push(cost);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(rate: f64, cpu: Option<f64>, curve: f64) -> Round {
        let figures = [("rate", Some(rate)), ("cpu_us_per_unit", cpu), ("faults", Some(0.0))];
        Round {
            figures: figures.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
            missing: BTreeMap::from([("cpu_us_per_unit", "too little".to_owned())]),
            curve: vec![(0.5, curve)],
            limit: Limit::Generator,
            ..Round::default()
        }
    }

    #[test]
    fn a_figure_that_some_rounds_lack_is_missing_and_says_why() {
        let rounds = vec![round(1.0, Some(2.0), 5.0), round(3.0, None, 7.0), round(2.0, Some(2.0), 6.0)];
        let mut outcome = Outcome { contender: "a".into(), rounds, ..Outcome::default() };
        outcome.sum_up();
        assert_eq!(outcome.summary["rate"].median, 2.0);
        assert!(!outcome.summary.contains_key("cpu_us_per_unit"));
        assert_eq!(outcome.missing["cpu_us_per_unit"], "too little");
        assert_eq!((outcome.generator_limited, outcome.passed()), (3, true));
        outcome.rounds[0].figures.insert("faults", 1.0);
        assert!(!outcome.passed());
    }

    fn outcome(contender: &str, rates: [f64; 3]) -> Outcome {
        let rounds = rates.iter().map(|rate| round(*rate, Some(1.0), *rate)).collect();
        Outcome { contender: contender.into(), rounds, ..Outcome::default() }
    }

    fn loaded(sweep: Option<Point>, results: Vec<Outcome>) -> Loaded {
        let mut loaded = Loaded { name: "batch".into(), sweep, results, ..Loaded::default() };
        loaded.sum_up();
        loaded
    }

    #[test]
    fn who_lost_something_is_not_ranked() {
        let all = [("fast", 9.0), ("good", 5.0), ("slow", 2.0)];
        let mut all = all.map(|(name, rate)| outcome(name, [rate; 3])).to_vec();
        let best = |all: &[Outcome]| loaded(None, all.to_vec()).verdicts[0].best.clone();
        assert_eq!(best(&all), ["fast"]);
        all[0].rounds[1].figures.insert("faults", 1.0);
        assert_eq!(best(&all), ["good"]);
        all[1].failed.push("round 2: it did not start".into());
        assert!(loaded(None, all).verdicts.is_empty(), "one alone is not better than anybody");
    }

    #[test]
    fn plots_have_the_medians() {
        let loaded = |value: f64, rates: [f64; 3]| {
            let sweep = Point { of: "batch".into(), key: "changes".into(), value };
            loaded(Some(sweep), vec![outcome("a", rates)])
        };
        let plots = Plots::of(&[loaded(100.0, [5.0, 6.0, 7.0]), loaded(1.0, [1.0, 3.0, 2.0])]);
        assert_eq!(plots.sweeps.len(), 1);
        let points: Vec<_> =
            plots.sweeps[0].points.iter().map(|point| (point.value, point.rate.median)).collect();
        assert_eq!(points, [(1.0, 2.0), (100.0, 6.0)]);
        assert_eq!(plots.latencies[1].points, [(0.5, 2.0)]);
        assert_eq!(plots.costs.len(), 2);
    }
}
