//! Plots as SVG, which the page's style sheet colours: bars of contenders, and lines over what is swept or over quantiles.

use std::fmt::Write as _;

use super::axis::Axis;
use super::series::Look;
use super::unit::{Unit, tick};
use crate::bench::junit::escaped;
use crate::bench::stats::Summary;

/// All plots are as wide, in the units that style sheets call px.
const WIDTH: f64 = 360.0;
/// What a letter takes, on average and with some to spare.
const LETTER: f64 = 6.1;
const ROW: f64 = 38.0;
/// Of a plot of lines: its height, and what is about the lines.
const HEIGHT: f64 = 236.0;
const LEFT: f64 = 42.0;
const RIGHT: f64 = 108.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 36.0;
/// What spans more than so many times is logarithmic upwards.
const LOGARITHMIC_FROM: f64 = 20.0;
/// Between labels, down and across.
const LABEL_HEIGHT: f64 = 13.0;
const TICK_WIDTH: f64 = 26.0;
const SPREAD_APART: f64 = 2.0;

/// A contender's bar.
#[derive(Debug)]
pub(super) struct Bar<'a> {
    pub(super) look: &'a Look,
    /// The figure of each round, with the round's number.
    pub(super) rounds: Vec<(usize, f64)>,
    /// Or why there is none.
    pub(super) summary: Result<Summary, String>,
    /// `best`, `tie`, or nothing.
    pub(super) place: &'static str,
}

/// A contender's line.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) look: &'a Look,
    pub(super) points: Vec<Point>,
}

#[derive(Debug)]
pub(super) struct Point {
    /// From 0 to 1.
    pub(super) x: f64,
    pub(super) y: f64,
    /// The ends of its spread.
    pub(super) spread: Option<(f64, f64)>,
    /// What the point says of itself.
    pub(super) says: String,
}

/// What is below a plot of lines.
#[derive(Debug)]
pub(super) struct Across {
    pub(super) caption: String,
    /// Where, from 0 to 1, and what.
    pub(super) ticks: Vec<(f64, String)>,
}

/// Bars of medians, with the spread as whiskers and each round as a dot.
pub(super) fn bars(title: &str, unit: Unit, bars: &[Bar<'_>]) -> String {
    let mut values: Vec<_> = bars.iter().flat_map(|bar| bar.rounds.iter().map(|(_, value)| *value)).collect();
    values.extend(bars.iter().filter_map(|bar| bar.summary.as_ref().ok()).map(|summary| summary.high));
    let (divisor, counted) = unit.scale(values.iter().copied().fold(0.0, f64::max));
    let axis = Axis::linear(&values.iter().map(|value| value / divisor).collect::<Vec<_>>());
    // Dots at the end must have room.
    let x = |value: f64| 4.0 + axis.at(value / divisor) * (WIDTH - 12.0);
    let bottom = ROW * bars.len() as f64 + 4.0;
    let said: Vec<_> = bars.iter().map(|bar| said(bar, unit)).collect();
    let mut out = open(title, &said.join("; "), bottom + 32.0);
    for tick_at in &axis.ticks {
        let at = x(tick_at * divisor);
        line(&mut out, "grid", (at, 0.0), (at, bottom));
    }
    ticks_across(&mut out, bottom, axis.ticks.iter().map(|at| (x(at * divisor), tick(*at))));
    text(&mut out, "caption", (WIDTH / 2.0, bottom + 28.0), "middle", counted);
    for (at, (bar, said)) in bars.iter().zip(&said).enumerate() {
        let top = ROW * at as f64;
        one_bar(&mut out, bar, (said, unit), top, x);
    }
    out + "</svg>"
}

fn one_bar(out: &mut String, bar: &Bar<'_>, (said, unit): (&str, Unit), top: f64, x: impl Fn(f64) -> f64) {
    let Bar { look, rounds, summary, place } = bar;
    let value = match summary {
        Ok(summary) => with_spread(summary, unit),
        Err(_) if rounds.is_empty() => "not measured".into(),
        Err(_) => "not in all rounds".into(),
    };
    let room = ((WIDTH / LETTER) as usize).saturating_sub(value.chars().count() + place.len() + 4);
    let place = if place.is_empty() { String::new() } else { format!(" · {place}") };
    write!(out, "<g><title>{}</title>", escaped(said)).expect(INFALLIBLE);
    let name = cut(&look.name, room.max(8)) + &place;
    let class = if place.is_empty() { "name" } else { "name strong" };
    text(out, class, (4.0, top + 14.0), "start", &name);
    text(out, "value", (WIDTH - 4.0, top + 14.0), "end", &value);
    let middle = top + 26.0;
    if let Ok(summary) = summary {
        let (colour, width) = (&look.colour, x(summary.median) - x(0.0));
        let hollow = if look.variant == 0 { "" } else { " hollow" };
        write!(
            out,
            "<rect class=\"bar {colour}{hollow}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"12\" stroke-dasharray=\"{}\"/>",
            x(0.0), middle - 6.0, look.dash()
        )
        .expect(INFALLIBLE);
        let (low, high) = (x(summary.low), x(summary.high));
        if summary.rounds > 1 {
            line(out, "whisker", (low, middle), (high, middle));
            [low, high].iter().for_each(|at| line(out, "whisker", (*at, middle - 5.0), (*at, middle + 5.0)));
        }
    }
    for (round, value) in rounds {
        let mark = look.mark(x(*value), middle, 2.8);
        write!(out, "{mark}<title>round {round}: {}</title></circle>", unit.say(*value)).expect(INFALLIBLE);
    }
    out.push_str("</g>");
}

/// A line for each contender, with its name where it ends; up is logarithmic where `unit`'s values span much.
pub(super) fn lines(title: &str, unit: Unit, across: &Across, lines: &[Line<'_>]) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let ends = |point: &Point| point.spread.map_or([point.y, point.y], |(low, high)| [low, high]);
    let values: Vec<_> = points().flat_map(|point| ends(point).into_iter().chain([point.y])).collect();
    let scaled = |by: f64| {
        let (divisor, counted) = unit.scale(by);
        let values: Vec<_> = values.iter().map(|value| value / divisor).collect();
        (Axis::fitting(&values, LOGARITHMIC_FROM), divisor, counted)
    };
    let (mut axis, mut divisor, mut counted) = scaled(values.iter().copied().fold(0.0, f64::max));
    if axis.logarithmic {
        // In thousands of the unit the least ones would be tiny fractions.
        (axis, divisor, counted) = scaled(values.iter().copied().fold(f64::MAX, f64::min));
    }
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let x = |share: f64| LEFT + share * (right - LEFT);
    let y = |value: f64| bottom - axis.at(value / divisor) * (bottom - TOP);
    let said = |line: &Line<'_>| {
        let points: Vec<_> = line.points.iter().map(|point| point.says.as_str()).collect();
        format!("{}: {}", line.look.name, points.join(", "))
    };
    let said: Vec<_> = lines.iter().map(said).collect();
    let mut out = open(title, &said.join("; "), HEIGHT);
    let scale = if axis.logarithmic { ", logarithmic" } else { "" };
    text(&mut out, "caption", (2.0, 10.0), "start", &format!("{counted}{scale}"));
    for at in &axis.ticks {
        let height = y(at * divisor);
        line(&mut out, "grid", (LEFT, height), (right, height));
        text(&mut out, "tick", (LEFT - 5.0, height + 3.5), "end", &tick(*at));
    }
    for (share, _) in &across.ticks {
        line(&mut out, "grid", (x(*share), TOP), (x(*share), bottom));
    }
    ticks_across(&mut out, bottom, across.ticks.iter().map(|(share, says)| (x(*share), says.clone())));
    text(&mut out, "caption", (f64::midpoint(LEFT, right), HEIGHT - 4.0), "middle", &across.caption);
    for (at, Line { look, points }) in lines.iter().enumerate() {
        // Spreads beside each other, not on top.
        let aside = (at as f64 - (lines.len() - 1) as f64 / 2.0) * SPREAD_APART;
        let path: Vec<_> =
            points.iter().map(|point| format!("{:.1},{:.1}", x(point.x), y(point.y))).collect();
        let (colour, dash) = (&look.colour, look.dash());
        write!(
            out,
            "<polyline class=\"line {colour}\" stroke-dasharray=\"{dash}\" points=\"{}\"/>",
            path.join(" ")
        )
        .expect(INFALLIBLE);
        for point in points {
            if let Some((low, high)) = point.spread {
                let at = x(point.x) + aside;
                line(&mut out, &format!("spread {colour}"), (at, y(low)), (at, y(high)));
            }
            let (name, mark) = (escaped(&look.name), look.mark(x(point.x), y(point.y), 2.6));
            write!(out, "{mark}<title>{name}: {}</title></circle>", escaped(&point.says)).expect(INFALLIBLE);
        }
    }
    let ends: Vec<_> = lines.iter().filter_map(|line| Some((line.look, line.points.last()?))).collect();
    let wanted: Vec<_> = ends.iter().map(|(_, end)| y(end.y)).collect();
    for ((look, end), label) in ends.iter().zip(apart(&wanted, TOP, bottom)) {
        line(&mut out, &format!("leader {}", look.colour), (x(end.x) + 4.0, y(end.y)), (right + 8.0, label));
        let name = cut(&look.name, ((RIGHT - 10.0) / LETTER) as usize);
        text(&mut out, &format!("label {}", look.colour), (right + 10.0, label + 4.0), "start", &name);
    }
    out + "</svg>"
}

/// Labels' places: near where they belong, in the same order, no two on top of each other.
fn apart(wanted: &[f64], top: f64, bottom: f64) -> Vec<f64> {
    let mut order: Vec<_> = (0..wanted.len()).collect();
    order.sort_by(|a, b| wanted[*a].total_cmp(&wanted[*b]));
    let mut places = wanted.to_vec();
    let mut least = top;
    for at in &order {
        places[*at] = places[*at].max(least);
        least = places[*at] + LABEL_HEIGHT;
    }
    let mut most = bottom;
    for at in order.iter().rev() {
        places[*at] = places[*at].min(most);
        most = places[*at] - LABEL_HEIGHT;
    }
    places
}

/// A summary in words: its median, and its spread if it has one.
pub(super) fn with_spread(summary: &Summary, unit: Unit) -> String {
    let Summary { rounds, median, low, high, .. } = summary;
    match rounds {
        1 => unit.say(*median),
        _ => format!("{} ({} – {})", unit.say(*median), unit.say(*low), unit.say(*high)),
    }
}

fn said(bar: &Bar<'_>, unit: Unit) -> String {
    let name = &bar.look.name;
    let place = if bar.place.is_empty() { String::new() } else { format!(", {}", bar.place) };
    match &bar.summary {
        Ok(summary) => format!("{name}: {}{place}", with_spread(summary, unit)),
        Err(why) => format!("{name}: not measured: {why}"),
    }
}

const INFALLIBLE: &str = "writing to a String cannot fail";

fn open(title: &str, description: &str, height: f64) -> String {
    let (title, description) = (escaped(title), escaped(description));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" viewBox=\"0 0 {WIDTH} {height}\" aria-label=\"{title}\">\
         <title>{title}</title><desc>{description}</desc>"
    )
}

fn line(out: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let [(x1, y1), (x2, y2)] = [from, to];
    write!(out, "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>")
        .expect(INFALLIBLE);
}

fn text(out: &mut String, class: &str, (x, y): (f64, f64), anchor: &str, text: &str) {
    let text = escaped(text);
    write!(out, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>")
        .expect(INFALLIBLE);
}

/// Leaves those out that would lie on the one before.
fn ticks_across(out: &mut String, bottom: f64, ticks: impl Iterator<Item = (f64, String)>) {
    let mut free = f64::MIN;
    for (at, says) in ticks {
        if at < free {
            continue;
        }
        free = at + TICK_WIDTH.max(LETTER * says.chars().count() as f64);
        let anchor = match at {
            at if at < 8.0 => "start",
            at if at > WIDTH - 12.0 => "end",
            _ => "middle",
        };
        text(out, "tick", (at, bottom + 14.0), anchor, &says);
    }
}

/// No more letters than these.
fn cut(name: &str, letters: usize) -> String {
    match name.chars().count() > letters {
        true => name.chars().take(letters - 1).chain(['…']).collect(),
        false => name.to_owned(),
    }
}
