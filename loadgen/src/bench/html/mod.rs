//! `report.html`: the report for whoever picks a store, in one file that needs nothing else.

mod axis;
mod plot;
mod series;
mod tables;
#[cfg(test)]
mod tests;
mod unit;

use super::document::{Document, Loaded, Outcome};
use super::figures::{FIGURES, Figure};
use super::junit::escaped;
use super::stats::Summary;
use axis::Axis;
use plot::{Across, Bar, Line, Point};
use series::Look;
use unit::{Unit, tick};

/// The figures that have bars, and lines over what is swept.
const SHOWN: [&str; 8] = [
    "rate",
    "cpu_us_per_unit",
    "p50_ms",
    "p99_ms",
    "written_bytes_per_change",
    "disk_bytes_per_change",
    "rss_peak_bytes",
    "reopen_ms",
];

/// The whole page.
pub(crate) fn page(document: &Document) -> String {
    let looks = series::looks(document);
    let mut out = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>Load test report</title>\n<style>\n",
    );
    out += include_str!("page.css");
    out += "</style>\n</head>\n<body>\n";
    out += &tables::head(document, &looks);
    out += &tables::winners(document, &looks);
    for group in groups(&document.workloads) {
        out += &section(document, &looks, group);
    }
    out += &tables::conditions(document);
    out + "</body>\n</html>\n"
}

/// The workloads, the points of a sweep together.
fn groups(workloads: &[Loaded]) -> Vec<&[Loaded]> {
    let same = |a: &Loaded, b: &Loaded| match (&a.sweep, &b.sweep) {
        (Some(a), Some(b)) => a.of == b.of,
        _ => false,
    };
    workloads.chunk_by(same).collect()
}

/// What a group is called: the sweep, or its only workload.
fn name(group: &[Loaded]) -> &str {
    group[0].sweep.as_ref().map_or(&group[0].name, |point| &point.of)
}

/// The place on the page; names that differ only in what is no letter share one.
fn anchor(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

fn section(document: &Document, looks: &[Look], group: &[Loaded]) -> String {
    let (first, name) = (&group[0], name(group));
    let mut out = format!(
        "<section id=\"w-{}\">\n<h2>{}</h2>\n<p>{}</p>\n<p class=\"soft\">Rate: {} a second. Latency: {}. A unit of work: one of those.</p>\n",
        anchor(name),
        escaped(name),
        escaped(&first.about),
        first.unit,
        first.latency
    );
    if first.sweep.is_none() {
        out += &workload(document, looks, first);
    } else {
        out += &sweep(looks, group);
        for point in group {
            out +=
                &format!("<details>\n<summary>{}: all plots and figures</summary>\n", escaped(&point.name));
            out += &workload(document, looks, point);
            out += "</details>\n";
        }
    }
    out + "</section>\n"
}

fn workload(document: &Document, looks: &[Look], workload: &Loaded) -> String {
    let mut out = String::from("<div class=\"plots\">\n");
    let mut at = 0;
    for figure in shown() {
        if workload.results.iter().any(|result| result.summary.contains_key(figure.name)) {
            out += &bars(looks, workload, figure);
        }
        at += 1;
        // Beside the latencies that it tells more of.
        if at == 4 {
            out += &curves(document, looks, workload);
        }
    }
    out += "</div>\n";
    out += &tables::notes(workload);
    out + &tables::all_figures(workload)
}

fn shown() -> impl Iterator<Item = &'static Figure> {
    SHOWN.iter().filter_map(|name| FIGURES.iter().find(|figure| figure.name == *name))
}

/// A plot with its title, and what is to be said about it.
fn figure(title: &str, about: &str, svg: &str) -> String {
    format!(
        "<figure><figcaption>{}<small>{}</small></figcaption>{svg}</figure>\n",
        escaped(title),
        escaped(about)
    )
}

fn way(figure: &Figure) -> &'static str {
    if figure.more_is_better { "more is better" } else { "less is better" }
}

/// Which way is better, and who is compared with whom, where that is not all with all.
fn better(figure: &Figure, workload: &Loaded) -> String {
    let way = way(figure);
    match workload.verdicts.iter().filter(|verdict| verdict.figure == figure.name).count() {
        0 | 1 => way.into(),
        _ => format!("{way}; best and tie: by durability"),
    }
}

/// What a figure is called above its plot.
fn title(figure: &str, workload: &Loaded) -> String {
    match figure {
        "rate" => format!("{} a second", capital(workload.unit)),
        "p50_ms" => "Latency, median".into(),
        "p99_ms" => "Latency, 99th percentile".into(),
        "p999_ms" => "Latency, 99.9th percentile".into(),
        "max_ms" => "Latency, longest".into(),
        "cpu_us_per_unit" => "Server CPU time a unit of work".into(),
        "written_bytes_per_change" => "Written to storage a change".into(),
        "disk_bytes_per_change" => "Space on disk a change".into(),
        "rss_peak_bytes" => "Memory, peak".into(),
        "reopen_ms" => "Time to reopen".into(),
        name => name.into(),
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn look<'a>(looks: &'a [Look], contender: &str) -> Option<&'a Look> {
    looks.iter().find(|look| look.name == contender)
}

fn bars(looks: &[Look], workload: &Loaded, of: &Figure) -> String {
    let bar = |result: &Outcome| {
        let rounds =
            result.rounds.iter().filter_map(|round| Some((round.round, *round.figures.get(of.name)?)));
        Some(Bar {
            look: look(looks, &result.contender)?,
            rounds: rounds.collect(),
            summary: result.summary.get(of.name).copied().ok_or_else(|| why_missing(result, of.name)),
            place: place(workload, of.name, &result.contender),
        })
    };
    let bars: Vec<_> = workload.results.iter().filter_map(bar).collect();
    let title = title(of.name, workload);
    let svg = plot::bars(&format!("{}: {title}", workload.name), Unit::of(of.name), &bars);
    figure(&title, &better(of, workload), &svg)
}

fn why_missing(result: &Outcome, figure: &str) -> String {
    let known =
        result.skipped.as_ref().or_else(|| result.missing.get(figure)).or_else(|| result.failed.first());
    known.cloned().unwrap_or_else(|| "some rounds have no such figure".into())
}

/// Where a contender stands among those of the same durability.
fn place(workload: &Loaded, figure: &str, contender: &str) -> &'static str {
    match workload.won(figure, contender) {
        Some(verdict) if verdict.tie => "tie",
        Some(_) => "best",
        None => "",
    }
}

/// The latency's quantiles, each further nine as far from the one before.
fn curves(document: &Document, looks: &[Look], workload: &Loaded) -> String {
    let curves: Vec<_> =
        document.plots.latencies.iter().filter(|curve| curve.workload == workload.name).collect();
    let nines = |quantile: f64| -(1.0 - quantile).log10();
    let quantiles = || curves.iter().flat_map(|curve| curve.points.iter().map(|(quantile, _)| *quantile));
    // The longest of all is one more nine away.
    let most = quantiles().filter(|quantile| *quantile < 1.0).map(nines).fold(1.0, f64::max) + 0.6;
    let x = |quantile: f64| if quantile < 1.0 { nines(quantile) / most } else { 1.0 };
    let line = |curve: &&super::document::Curve| {
        let point = |(quantile, ms): &(f64, f64)| Point {
            x: x(*quantile),
            y: *ms,
            spread: None,
            says: format!("{} {}", percent(*quantile), Unit::Milliseconds.say(*ms)),
        };
        let points = curve.points.iter().map(point).collect();
        Some(Line { look: look(looks, &curve.contender)?, points })
    };
    let lines: Vec<_> = curves.iter().filter_map(line).collect();
    if lines.is_empty() {
        return String::new();
    }
    let ticks =
        [0.0, 0.5, 0.9, 0.99, 0.999, 1.0].into_iter().filter(|tick| quantiles().any(|at| at == *tick));
    let across = Across {
        caption: "share of all that took no longer".into(),
        ticks: ticks.map(|quantile| (x(quantile), percent(quantile))).collect(),
    };
    let title = "Latency by quantile";
    let svg = plot::lines(&format!("{}: {title}", workload.name), Unit::Milliseconds, &across, &lines);
    figure(title, "each the median of the rounds; less is better", &svg)
}

fn percent(quantile: f64) -> String {
    if quantile < 1.0 { format!("{}%", tick(quantile * 100.0)) } else { "max".into() }
}

/// Lines of the figures over what is swept.
fn sweep(looks: &[Look], group: &[Loaded]) -> String {
    let mut out = String::from("<div class=\"plots\">\n");
    for of in shown() {
        let series: Vec<_> = looks.iter().map(|look| (look, swept(group, &look.name, of.name))).collect();
        out += &swept_lines(group, of, &series);
    }
    out + "</div>\n"
}

/// A contender's figure by the swept value, rising.
fn swept(group: &[Loaded], contender: &str, figure: &str) -> Vec<(f64, Summary)> {
    let of_point = |workload: &Loaded| {
        let result = workload.results.iter().find(|result| result.contender == contender)?;
        Some((workload.sweep.as_ref()?.value, *result.summary.get(figure)?))
    };
    let mut points: Vec<_> = group.iter().filter_map(of_point).collect();
    points.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    points
}

fn swept_lines(group: &[Loaded], of: &Figure, series: &[(&Look, Vec<(f64, Summary)>)]) -> String {
    let mut values: Vec<_> =
        series.iter().flat_map(|(_, points)| points.iter().map(|(value, _)| *value)).collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    if values.is_empty() {
        return String::new();
    }
    let (axis, unit) = (Axis::fitting(&values, 4.0), Unit::of(of.name));
    let point = |(value, summary): &(f64, Summary)| Point {
        x: axis.at(*value),
        y: summary.median,
        spread: (summary.rounds > 1).then_some((summary.low, summary.high)),
        says: format!("{}: {}", tick(*value), plot::with_spread(summary, unit)),
    };
    let drawn = series.iter().filter(|(_, points)| !points.is_empty());
    let lines: Vec<_> =
        drawn.map(|(look, points)| Line { look, points: points.iter().map(point).collect() }).collect();
    let key = group[0].sweep.as_ref().map_or("", |point| &point.key);
    let scale = if axis.logarithmic { ", logarithmic" } else { "" };
    let across = Across {
        caption: format!("{key}{scale}"),
        ticks: values.iter().map(|value| (axis.at(*value), tick(*value))).collect(),
    };
    let title = format!("{} by {key}", title(of.name, &group[0]));
    let svg = plot::lines(&format!("{}: {title}", name(group)), unit, &across, &lines);
    figure(&title, way(of), &svg)
}
