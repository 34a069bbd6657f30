//! `report.md`: the report for a CI summary.

use std::fmt::Write as _;

use super::document::{Document, Loaded, Outcome};
use super::gate::short;
use super::overview::overview;
use super::stats::Summary;
use crate::report::grouped;

/// A figure, its title, and how its numbers are written.
pub(super) struct Column(pub(super) &'static str, pub(super) &'static str, pub(super) fn(f64) -> String);

const COLUMNS: [Column; 8] = [
    Column("rate", "rate /s", grouped),
    Column("p50_ms", "p50 ms", short),
    Column("p99_ms", "p99 ms", short),
    Column("cpu_us_per_unit", "server CPU µs a unit", short),
    Column("written_bytes_per_change", "written a change", bytes),
    Column("disk_bytes_per_change", "disk a change", bytes),
    Column("rss_peak_bytes", "memory peak", bytes),
    Column("reopen_ms", "reopen ms", short),
];

/// Above this others disturb a measurement.
const OTHERS_CORES_MAX: f64 = 0.2;

/// The whole report.
pub(crate) fn markdown(document: &Document) -> String {
    let mut out = String::new();
    write(&mut out, document).expect("writing to a String cannot fail");
    out
}

fn write(out: &mut String, document: &Document) -> std::fmt::Result {
    let environment = &document.environment;
    writeln!(out, "# Load test: {}\n", if document.passed { "passed" } else { "FAILED" })?;
    if document.quick {
        writeln!(out, "**Short form (`--quick`): it shows that all works; do not believe the figures.**\n")?;
    }
    if let Some(gate) = &document.gate {
        for failure in gate.failures() {
            writeln!(out, "- FAILED {failure}")?;
        }
        let passed = gate.checks.iter().filter(|check| check.passed);
        for check in passed {
            writeln!(out, "- ok {}: {}: {}", check.workload, check.what, check.says)?;
        }
        writeln!(out)?;
    }
    overview(out, &document.workloads)?;
    for workload in &document.workloads {
        table(out, workload)?;
    }
    writeln!(
        out,
        "Medians of {}, with their spreads (least to most, or from 4 rounds on the quartiles). **Bold**: the best \
         of those with the same durability; **bold =**: not to be told from the best, as the spreads overlap. What keeps nothing \
         is a yardstick, and who lost something is out: they are not ranked. –: not measured, below each table why. Written: what \
         the server caused to be sent to the storage layer, in whole pages.\n",
        rounds(document)
    )?;
    if let Some(cores) = others_cores(document) {
        writeln!(
            out,
            "**Other processes kept {cores:.1} cores busy in the median round**, or a host took as much away: rates and times are \
             worse than on a quiet machine, and spread more.\n"
        )?;
    }
    let data = &environment.data;
    writeln!(
        out,
        "Machine: {}; data on {} ({}). causeway-loadgen {}.\n",
        environment.machine, data.filesystem, data.mount_options, environment.loadgen_version,
    )?;
    let probe = &document.probe;
    writeln!(
        out,
        "Disk: {} writes of {} bytes, each synced: p50 {:.3} ms, p99 {:.3} ms, at most {:.3} ms (without sync {:.3} ms); {}.\n",
        probe.syncs,
        probe.write_bytes,
        probe.p50_ms,
        probe.p99_ms,
        probe.max_ms,
        probe.write_only_p50_ms,
        probe.says
    )?;
    for contender in &document.contenders {
        let version = contender.version.as_deref().unwrap_or("version not known");
        let mut promise = contender.promise_said();
        if contender.store.is_none() {
            promise += &format!(": `{}`", contender.at);
        }
        let arguments = contender.arguments.join(" ");
        writeln!(out, "- {}", format!("{}: {version}, {promise} {arguments}", contender.name).trim_end())?;
    }
    Ok(())
}

/// How often each server was loaded.
pub(super) fn rounds(document: &Document) -> String {
    match document.rounds {
        1 => "one round".into(),
        rounds => format!("{rounds} rounds by turns"),
    }
}

/// What others used in the median round, if it is worth a word.
pub(crate) fn others_cores(document: &Document) -> Option<f64> {
    let results = document.workloads.iter().flat_map(|workload| &workload.results);
    let cores: Vec<_> = results.flat_map(|result| result.values("others_cores")).collect();
    Summary::of(&cores).map(|summary| summary.median).filter(|cores| *cores > OTHERS_CORES_MAX)
}

fn table(out: &mut String, workload: &Loaded) -> std::fmt::Result {
    writeln!(out, "## {}: {}\n", workload.name, workload.about)?;
    writeln!(out, "Rate: {}. Latency: {}.\n", workload.unit, workload.latency)?;
    let titles: Vec<_> = COLUMNS.iter().map(|column| column.1).collect();
    writeln!(out, "| server | {} |", titles.join(" | "))?;
    writeln!(out, "| --- |{}", " ---: |".repeat(titles.len()))?;
    for result in &workload.results {
        let cells: Vec<_> = COLUMNS.iter().map(|column| cell(workload, result, column)).collect();
        writeln!(out, "| {} | {} |", result.contender, cells.join(" | "))?;
    }
    writeln!(out)?;
    let mut notes = said_of(workload);
    for verdict in workload.verdicts.iter().filter(|verdict| ["rate", "p99_ms"].contains(&verdict.figure)) {
        notes.push(format!("{}{}: {}", verdict.figure, verdict.among_said(), verdict.says));
    }
    notes.push(verified(workload));
    notes.iter().try_for_each(|note| writeln!(out, "- {note}"))?;
    writeln!(out)
}

/// What was found to be right.
pub(crate) fn verified(workload: &Loaded) -> String {
    let rounds = workload.results.iter().flat_map(|result| &result.rounds);
    let (checked, digests) = rounds.fold((0, 0), |(checked, digests), round| {
        (checked + round.checked, digests + round.digests.unwrap_or(0))
    });
    format!(
        "verified: {} changes found where they must be, {} digests of channels by the servers' own `verify`",
        grouped(checked as f64),
        grouped(digests as f64)
    )
}

fn cell(workload: &Loaded, result: &Outcome, column: &Column) -> String {
    let Column(figure, _, number) = *column;
    let Some(summary) = result.summary.get(figure) else { return "–".into() };
    marked(workload, result, figure, with_spread(summary, number))
}

/// Bold if it is best by that figure.
pub(super) fn marked(workload: &Loaded, result: &Outcome, figure: &str, text: String) -> String {
    match workload.won(figure, &result.contender) {
        Some(verdict) if verdict.tie => format!("**{text} =**"),
        Some(_) => format!("**{text}**"),
        None => text,
    }
}

fn with_spread(summary: &Summary, number: fn(f64) -> String) -> String {
    let Summary { rounds, median, low, high, .. } = summary;
    match rounds {
        1 => number(*median),
        _ => format!("{} ({}–{})", number(*median), number(*low), number(*high)),
    }
}

/// What else there is to say of the results, and of which.
pub(crate) fn said_of(workload: &Loaded) -> Vec<String> {
    let mut notes: Vec<(String, String)> = Vec::new();
    for result in &workload.results {
        for what in said(result) {
            match notes.iter_mut().find(|(_, known)| *known == what) {
                Some((names, _)) => *names = format!("{names}, {}", result.contender),
                None => notes.push((result.contender.clone(), what)),
            }
        }
    }
    notes.into_iter().map(|(names, what)| format!("{names}: {what}")).collect()
}

/// What else there is to say of one.
fn said(result: &Outcome) -> Vec<String> {
    let mut said: Vec<_> = result.skipped.iter().map(|why| format!("not run: {why}")).collect();
    said.extend(result.failed.iter().map(|why| format!("FAILED: {why}")));
    let faults = result.rounds.iter().flat_map(|round| &round.first_faults);
    said.extend(faults.take(3).map(|fault| format!("FAULT: {fault}")));
    let rounds = result.rounds.len();
    if result.generator_limited > 0 {
        said.push(format!(
            "the generator, not the server, was the limit in {} of {rounds} rounds",
            result.generator_limited
        ));
    }
    if result.machine_limited > 0 {
        said.push(format!(
            "generator and server together filled the machine in {} of {rounds} rounds: compare CPU time, not rates",
            result.machine_limited
        ));
    }
    let mut whys: Vec<(&str, Vec<&str>)> = Vec::new();
    for Column(figure, ..) in COLUMNS {
        if let Some(why) = result.missing.get(figure) {
            match whys.iter_mut().find(|(known, _)| known == why) {
                Some((_, figures)) => figures.push(figure),
                None => whys.push((why, vec![figure])),
            }
        }
    }
    said.extend(whys.into_iter().map(|(why, figures)| format!("no {}: {why}", figures.join(", "))));
    said
}

/// With a unit of fitting size.
pub(crate) fn bytes(value: f64) -> String {
    match value {
        value if value >= f64::from(1 << 30) => format!("{:.2} GiB", value / f64::from(1 << 30)),
        value if value >= f64::from(1 << 20) => format!("{:.1} MiB", value / f64::from(1 << 20)),
        value if value >= 10_240.0 => format!("{:.1} KiB", value / 1024.0),
        value => format!("{value:.0} B"),
    }
}
