//! What the page shows is what the report says, and stays text whatever it says.

use std::collections::BTreeMap;

use super::*;
use crate::bench::contender::{Described, Promise};
use crate::bench::document::{FORMAT, Plots};
use crate::bench::environment::Environment;
use crate::bench::figures::{Limit, Round};
use crate::bench::gate::{Check, Gate};
use crate::bench::probe::{Judgement, Probe};
use crate::bench::workload::Point as SweepPoint;

const HOSTILE: &str = "<script>alert(1)</script>\"'&]]>\u{1}";

/// Rounds whose figures are unlike all others': `seed` tells contenders and workloads apart.
fn rounds(seed: f64, count: usize) -> Vec<Round> {
    let round = |at: usize| {
        let figures = FIGURES
            .iter()
            .enumerate()
            .filter(|(_, figure)| !["errors", "faults", "lost"].contains(&figure.name));
        let value = |index: usize| 1.0 + seed * 17.0 + index as f64 * 1.37 + at as f64 * 0.011;
        Round {
            round: at + 1,
            turn: 1,
            window_seconds: 1.0,
            figures: figures.map(|(index, figure)| (figure.name, value(index))).collect(),
            missing: BTreeMap::new(),
            curve: vec![
                (0.0, 0.1),
                (0.5, seed + 0.2),
                (0.9, seed + 0.3),
                (0.999, seed + 0.4),
                (1.0, seed + 0.5),
            ],
            limit: Limit::Generator,
            checked: 12_345,
            digests: Some(7),
            first_faults: Vec::new(),
            notes: Vec::new(),
        }
    };
    (0..count).map(round).collect()
}

fn loaded(name: &str, sweep: Option<f64>, results: Vec<Outcome>) -> Loaded {
    let point = |value| SweepPoint { of: name.into(), key: "changes".into(), value };
    let mut loaded = Loaded {
        name: sweep.map_or(name.into(), |value| format!("{name}/changes={value}")),
        about: "what it stands for".into(),
        scenario: "merge",
        sweep: sweep.map(point),
        settings: BTreeMap::from([("channels".into(), "64".into())]),
        seed: 1,
        unit: "changes acked",
        latency: "from an update to its ack",
        results,
        ..Loaded::default()
    };
    loaded.sum_up();
    loaded
}

fn outcome(contender: &str, promise: Promise, rounds: Vec<Round>) -> Outcome {
    Outcome { contender: contender.into(), promise, rounds, ..Outcome::default() }
}

fn document(contenders: &[&str], workloads: Vec<Loaded>) -> Document {
    let described = |name: &&str| Described {
        name: (*name).into(),
        kind: "causeway",
        store: name.split('/').next().map(str::to_owned),
        durability: name.split_once('/').map(|(_, level)| level.to_owned()),
        version: Some("causeway 9.8.7".into()),
        at: "bin/causeway".into(),
        arguments: vec!["--shards=2".into()],
    };
    Document {
        format: FORMAT,
        environment: Environment::look(std::path::Path::new("/")),
        probe: Probe {
            write_bytes: 4096,
            syncs: 500,
            p50_ms: 1.234,
            p90_ms: 2.345,
            p99_ms: 3.456,
            max_ms: 4.567,
            write_only_p50_ms: 0.012,
            judgement: Judgement::FromCache,
            says: "acknowledged from a cache".into(),
        },
        rounds: 3,
        quick: false,
        figures: FIGURES.to_vec(),
        contenders: contenders.iter().map(described).collect(),
        plots: Plots::of(&workloads),
        workloads,
        gate: None,
        passed: true,
    }
}

fn full() -> Promise {
    Promise::Durability("full".into())
}

/// Three contenders: two that can be told apart, and one that keeps nothing.
fn sample() -> Document {
    let results = |seed: f64| {
        vec![
            outcome("sqlite/full", full(), rounds(seed, 3)),
            outcome("sled/full", full(), rounds(seed + 1.0, 3)),
            outcome("memory", Promise::Nothing, rounds(seed + 2.0, 3)),
        ]
    };
    let workloads = vec![
        loaded("single", None, results(10.0)),
        loaded("batch", Some(1.0), results(20.0)),
        loaded("batch", Some(100.0), results(30.0)),
    ];
    document(&["sqlite/full", "sled/full", "memory"], workloads)
}

/// Fails unless every element is closed in its turn, every attribute is quoted and there once, and nothing but text is text.
fn well_formed(xml: &str) {
    let mut open: Vec<&str> = Vec::new();
    let entities = |text: &str| {
        for rest in text.split('&').skip(1) {
            assert!(["lt;", "gt;", "amp;", "quot;"].iter().any(|entity| rest.starts_with(entity)), "&{rest}");
        }
    };
    let mut rest = xml;
    while let Some(at) = rest.find('<') {
        entities(&rest[..at]);
        assert!(!rest[..at].contains('>') || open.last() == Some(&"style"), "{}", &rest[..at]);
        let end = at + rest[at..].find('>').expect("each tag ends");
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
            continue;
        }
        let (inner, empty) = tag.strip_suffix('/').map_or((tag, false), |inner| (inner, true));
        let (name, mut attributes) = inner.split_once(' ').unwrap_or((inner, ""));
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric()), "{tag}");
        let mut seen = Vec::new();
        while !attributes.trim().is_empty() {
            let (key, value) = attributes.trim_start().split_once("=\"").expect("a quoted value");
            assert!(
                key.chars().all(|c| c.is_ascii_alphabetic() || "-:12".contains(c)) && !seen.contains(&key),
                "{tag}"
            );
            seen.push(key);
            let (value, more) = value.split_once('"').expect("its end");
            assert!(!value.contains("NaN") && !value.contains("inf"), "{tag}");
            entities(value);
            attributes = more;
        }
        if !empty {
            open.push(name);
        }
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest}");
}

/// The page, which must be well made and need nothing else.
fn good_page(document: &Document) -> String {
    let page = page(document);
    well_formed(page.strip_prefix("<!DOCTYPE html>\n").expect("its type"));
    for outside in ["<script", "<link", "<img", "<iframe", "@import", "url(", "src=", "javascript:"] {
        assert!(!page.contains(outside), "{outside}");
    }
    page
}

#[test]
fn every_figure_of_the_report_is_on_the_page() {
    let document = sample();
    let page = good_page(&document);
    let mut figures = 0;
    for result in document.workloads.iter().flat_map(|workload| &workload.results) {
        for (name, summary) in &result.summary {
            figures += 1;
            let said = plot::with_spread(summary, Unit::of(name));
            assert!(page.contains(&format!("<td class=\"n\">{said}</td>")), "{name}: {said}");
            if SHOWN.contains(name) {
                let label = format!(">{said}</text>");
                assert!(page.contains(&label), "{name}: {said}");
            }
        }
        for round in &result.rounds {
            for name in SHOWN {
                let said = format!("round {}: {}", round.round, Unit::of(name).say(round.figures[name]));
                assert!(page.contains(&said), "{name}: {said}");
            }
        }
    }
    assert_eq!(figures, 3 * 3 * (FIGURES.len() - 3));
    for curve in &document.plots.latencies {
        for (quantile, ms) in &curve.points {
            let said = format!("{}: {} {}", curve.contender, percent(*quantile), Unit::Milliseconds.say(*ms));
            assert!(page.contains(&said), "{said}");
        }
    }
    for sweep in &document.plots.sweeps {
        for point in &sweep.points {
            let said = plot::with_spread(&point.rate, Unit::PerSecond);
            assert!(page.contains(&format!("{}: {}: {said}", sweep.contender, tick(point.value))), "{said}");
        }
    }
    for verdict in document.workloads.iter().flat_map(|workload| &workload.verdicts) {
        assert!(page.contains(&escaped(&verdict.says)), "{}", verdict.says);
    }
    for said in [
        "causeway 9.8.7",
        "durability full",
        "--shards=2",
        "1.234 ms",
        "4.567 ms",
        "acknowledged from a cache",
        "channels = 64",
        "seed = 1",
        "the generator, not the server, was the limit in 3 of 3 rounds",
        "111 105 changes",
        "63 digests",
        &document.environment.machine.kernel,
    ] {
        assert!(page.contains(&escaped(said)), "{said}");
    }
}

#[test]
fn ties_are_marked_and_what_keeps_nothing_does_not_win() {
    let page = good_page(&sample());
    assert!(page.contains("sqlite/full · best</text>") && !page.contains("· tie</text>"));
    assert!(!page.contains("memory · "), "it is a yardstick");
    let same = || ["sqlite/full", "sled/full"].map(|name| outcome(name, full(), rounds(1.0, 3))).to_vec();
    let page = good_page(&document(&["sqlite/full", "sled/full"], vec![loaded("single", None, same())]));
    assert!(page.contains("sqlite/full · tie</text>") && page.contains("sled/full · tie</text>"));
    assert!(page.contains("<b>tie</b> of all: ") && !page.contains("· best</text>"));
}

#[test]
fn those_of_another_durability_stand_in_a_table_of_their_own() {
    let of = |level: &str, seed| {
        let promise = || Promise::Durability(level.to_owned());
        let named = |store: &str, seed| outcome(&format!("{store}/{level}"), promise(), rounds(seed, 3));
        vec![named("sqlite", seed), named("sled", seed + 1.0)]
    };
    let results = [of("full", 1.0), of("normal", 5.0)].concat();
    let names = ["sqlite/full", "sled/full", "sqlite/normal", "sled/normal"];
    let page = good_page(&document(&names, vec![loaded("single", None, results)]));
    let full = page.split("<h3>Durability full</h3>").nth(1).expect("a table");
    let (full, normal) = full.split_once("<h3>Durability normal</h3>").expect("another");
    assert!(full.contains("<b>sled/full</b>") && !full.contains("/normal"));
    let normal = normal.split("</table>").next().expect("its end");
    assert!(normal.contains("<b>sled/normal</b>") && !normal.contains("/full"));
}

#[test]
fn one_contender_with_one_round_nothing_and_failures_have_a_page() {
    let one = vec![outcome("this", Promise::Unknown, rounds(1.0, 1))];
    let page = good_page(&document(&["this"], vec![loaded("single", None, one)]));
    assert!(
        page.contains("nobody to be better than")
            && page.contains("18.0 /s</text>")
            && !page.contains("· best")
    );
    good_page(&document(&[], Vec::new()));
    let mut failed = outcome("this", Promise::Unknown, Vec::new());
    failed.failed.push("round 1: it fell over".into());
    let mut skipped = outcome("other", Promise::Unknown, Vec::new());
    skipped.skipped = Some("it cannot".into());
    let mut zero = rounds(1.0, 2);
    zero.iter_mut().for_each(|round| round.figures.values_mut().for_each(|value| *value = 0.0));
    zero.iter_mut().for_each(|round| round.curve = vec![(0.5, 0.0), (1.0, 0.0)]);
    let results = vec![failed, skipped, outcome("zero", Promise::Unknown, zero)];
    let names = ["this", "other", "zero"];
    let page = good_page(&document(
        &names,
        vec![loaded("one", None, results.clone()), loaded("two", Some(0.0), results)],
    ));
    assert!(
        page.contains("this: FAILED: round 1: it fell over") && page.contains("other: not run: it cannot")
    );
    assert!(page.contains("not measured"));
}

#[test]
fn whatever_people_call_things_is_text() {
    let mut result = outcome(HOSTILE, full(), rounds(1.0, 3));
    result.failed.push(HOSTILE.into());
    result.rounds[0].notes.push(HOSTILE.into());
    result.rounds[0].first_faults.push(HOSTILE.into());
    let results = vec![result, outcome("sled", full(), rounds(2.0, 3)), outcome("third", full(), Vec::new())];
    let mut workloads = vec![loaded(HOSTILE, None, results.clone()), loaded(HOSTILE, Some(2.0), results)];
    for workload in &mut workloads {
        workload.about = HOSTILE.into();
        workload.settings.insert(HOSTILE.into(), HOSTILE.into());
        workload.results[2].missing.insert("rate", HOSTILE.into());
        workload.sweep.iter_mut().for_each(|point| point.key = HOSTILE.into());
    }
    let mut document = document(&[HOSTILE, "sled", "third"], workloads);
    let environment = &mut document.environment;
    environment.command = vec![HOSTILE.into()];
    (environment.machine.cpu, environment.machine.kernel) = (HOSTILE.into(), HOSTILE.into());
    let data = &mut environment.data;
    [&mut data.filesystem, &mut data.mount_options, &mut data.device]
        .into_iter()
        .for_each(|text| *text = HOSTILE.into());
    data.write_cache = Some(HOSTILE.into());
    document.probe.says = HOSTILE.into();
    let contender = &mut document.contenders[0];
    contender.version = Some(HOSTILE.into());
    contender.durability = Some(HOSTILE.into());
    (contender.at, contender.arguments) = (HOSTILE.into(), vec![HOSTILE.into()]);
    let [workload, what, says] = [HOSTILE; 3].map(str::to_owned);
    document.gate = Some(Gate { checks: vec![Check { workload, what, passed: false, says }] });
    let page = good_page(&document);
    assert!(page.matches("&lt;script&gt;").count() > 30);
}

#[test]
fn the_command_can_be_run_as_it_is_shown() {
    let mut document =
        document(&["sqlite"], vec![loaded("single", None, vec![outcome("sqlite", full(), Vec::new())])]);
    let words = ["compare", "--server-cmd", "it's=node a.mjs --port {port}", "--assert", "lost=0", ""];
    document.environment.command = words.map(str::to_owned).to_vec();
    let shown = r"compare --server-cmd 'it'\''s=node a.mjs --port {port}' --assert lost=0 ''";
    assert!(good_page(&document).contains(&escaped(shown)));
}
