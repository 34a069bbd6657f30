//! The medians of all workloads and servers, a table for each figure, for who wants no more of `report.md`.

use std::fmt::Write as _;

use super::document::{Loaded, Outcome};
use super::gate::short;
use super::markdown::{Column, bytes, marked};
use crate::report::grouped;

const TABLES: [Column; 4] = [
    Column("rate", "Work a second", grouped),
    Column("p99_ms", "Latency, 99th percentile, ms", short),
    Column("cpu_us_per_unit", "Server CPU time for a unit of work, µs", short),
    Column("written_bytes_per_change", "Bytes written for a change", bytes),
];

/// Writes it; of a single workload its own table says all of it.
pub(super) fn overview(out: &mut String, workloads: &[Loaded]) -> std::fmt::Result {
    let [first, _, ..] = workloads else { return Ok(()) };
    let names: Vec<_> = first.results.iter().map(|result| result.contender.as_str()).collect();
    for Column(figure, title, number) in TABLES {
        let cell = |workload: &Loaded, result: &Outcome| match result.summary.get(figure) {
            Some(summary) => marked(workload, result, figure, number(summary.median)),
            None => "–".into(),
        };
        let row = |workload: &Loaded| {
            let cells: Vec<_> = workload.results.iter().map(|result| cell(workload, result)).collect();
            let is_there = cells.iter().any(|cell| cell != "–");
            let of = match figure {
                "rate" | "cpu_us_per_unit" => format!(": {}", workload.unit),
                "p99_ms" => format!(": {}", workload.latency),
                _ => String::new(),
            };
            is_there.then(|| format!("| {}{of} | {} |\n", workload.name, cells.join(" | ")))
        };
        let rows: String = workloads.iter().filter_map(row).collect();
        if !rows.is_empty() {
            let line = " ---: |".repeat(names.len());
            writeln!(out, "**{title}**\n\n| workload | {} |\n| --- |{line}\n{rows}", names.join(" | "))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::stats::{Summary, Verdict};
    use super::*;

    fn loaded(name: &str, rates: &[(&str, f64)]) -> Loaded {
        let result = |(contender, rate): &(&str, f64)| {
            let rounds = [*rate; 3];
            let summary = [("rate", Summary::of(&rounds).expect("rounds"))].into();
            Outcome { contender: (*contender).to_owned(), summary, ..Outcome::default() }
        };
        let all: Vec<_> =
            rates.iter().map(|(name, rate)| (*name, Summary::of(&[*rate; 3]).expect("rounds"))).collect();
        Loaded {
            name: name.into(),
            unit: "changes acked",
            results: rates.iter().map(result).collect(),
            verdicts: Verdict::of("rate", true, "", &all).into_iter().collect(),
            ..Loaded::default()
        }
    }

    #[test]
    fn the_best_are_marked_and_what_nobody_has_is_left_out() {
        let mut out = String::new();
        let all =
            [loaded("one", &[("a", 5_000.0), ("b", 2_000.0)]), loaded("two", &[("a", 3.0), ("b", 3.0)])];
        overview(&mut out, &all).expect("written");
        let rates = "**Work a second**\n\n| workload | a | b |\n| --- | ---: | ---: |\n\
                     | one: changes acked | **5 000** | 2 000 |\n| two: changes acked | **3 =** | **3 =** |\n\n";
        assert_eq!(out, rates, "the other figures were not measured");
        let mut single = String::new();
        overview(&mut single, &all[..1]).expect("written");
        assert_eq!(single, "");
    }
}
