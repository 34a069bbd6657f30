//! `run` and `compare`: workloads ([`workload`]) against servers ([`contender`]) by turns, each round on a fresh one ([`round`]);
//! what came of it ([`figures`], [`stats`]), on which machine ([`environment`], [`probe`]), as a report ([`document`],
//! [`markdown`], [`overview`], [`html`]) and as a gate ([`gate`], [`junit`]).

mod contender;
mod document;
mod environment;
mod figures;
mod gate;
mod html;
mod junit;
mod markdown;
mod overview;
mod probe;
mod round;
pub(crate) mod stats;
pub(crate) mod workload;

use std::path::{Path, PathBuf};

use self::contender::{Contender, Kind, distinct};
use self::document::{Document, FORMAT, Loaded, Outcome, Plots};
use self::environment::Environment;
use self::figures::FIGURES;
use self::gate::{Assertion, Gate};
use self::round::Turn;
use self::stats::ROUNDS_MIN;
use self::workload::{Overrides, Workload};
use crate::options::bench::{Compare, Loads, Run};
use crate::options::{Common, Program, Serving};
use crate::scenario::Failed;
use crate::scenario::place::Place;

/// What is to be run.
struct Plan {
    workloads: Vec<Workload>,
    contenders: Vec<Contender>,
    rounds: usize,
    quick: bool,
    quiet: bool,
    data: Option<PathBuf>,
}

/// Makes a gate of what was found.
type Judge<'a> = dyn Fn(&[Loaded]) -> Result<Gate, Failed> + 'a;

/// Runs `compare`; whether all is well. `explicit` are the options of every scenario that the command line gives.
pub(crate) async fn compare(
    common: &Common,
    compare: &Compare,
    explicit: Vec<(String, String)>,
) -> Result<bool, Failed> {
    let stores: Vec<_> = compare.stores.iter().filter(|store| !store.is_empty()).cloned().collect();
    let mut contenders = Contender::of_stores(&compare.program, &stores, &compare.durability);
    contenders.extend(others(common, &compare.loads).await?);
    let all: Vec<_> = match compare.workloads.is_empty() {
        true => workload::names().map(str::to_owned).collect(),
        false => compare.workloads.clone(),
    };
    let plan = Plan {
        workloads: workload::load(&all, &overrides(&compare.loads, explicit)?)?,
        contenders,
        rounds: compare.rounds,
        quick: compare.loads.quick,
        quiet: common.quiet,
        data: compare.program.data.clone(),
    };
    let document = carry_out(&plan, None).await?;
    let out = compare.loads.out.clone().unwrap_or_else(|| "loadgen-report".into());
    tell(&document, common, Some(&out), None)
}

/// Runs `run`; whether all is well.
pub(crate) async fn run(common: &Common, run: &Run, explicit: Vec<(String, String)>) -> Result<bool, Failed> {
    let asserts: Vec<_> = run.asserts.iter().map(|text| Assertion::parse(text)).collect::<Result<_, _>>()?;
    let regress = gate::gated(&run.regress)?;
    let rounds = run.rounds();
    if (run.baseline.is_some() || run.against.is_some()) && rounds < ROUNDS_MIN {
        return Err(format!(
            "--rounds {rounds} is too few to know how far they spread: {ROUNDS_MIN} at least"
        ));
    }
    let baseline = match &run.baseline {
        None => None,
        Some(path) => {
            let failed = |e: String| format!("--baseline {}: {e}", path.display());
            let text = std::fs::read(path).map_err(|e| failed(e.to_string()))?;
            Some(serde_json::from_slice::<serde_json::Value>(&text).map_err(|e| failed(e.to_string()))?)
        }
    };
    let mut contenders = others(common, &run.loads).await?;
    if contenders.is_empty() {
        contenders.push(Contender { name: "this".into(), kind: Kind::Causeway(run.serving.clone()) });
    }
    if let Some(against) = &run.against {
        let kind = match against.contains("{port}") {
            true => Kind::Command(against.clone()),
            false => {
                let program = Program { server: Some(against.into()), ..run.serving.program.clone() };
                Kind::Causeway(Serving { program, ..run.serving.clone() })
            }
        };
        contenders.insert(1, Contender { name: "against".into(), kind });
    }
    let plan = Plan {
        workloads: workload::load(std::slice::from_ref(&run.workload), &overrides(&run.loads, explicit)?)?,
        contenders,
        rounds,
        quick: run.loads.quick,
        quiet: common.quiet,
        data: run.serving.program.data.clone(),
    };
    for workload in &plan.workloads {
        if let Some(why) = plan.contenders.iter().find_map(|contender| contender.cannot(workload)) {
            return Err(format!("{}: {why}", workload.name));
        }
    }
    if let Some(old) = &baseline {
        // What is wrong with it is to be known before anything runs.
        let none = |workload| {
            let contender = plan.contenders[0].name.clone();
            Loaded { results: vec![Outcome { contender, ..Outcome::default() }], ..Loaded::new(workload) }
        };
        let wanted: Vec<_> = plan.workloads.iter().map(none).collect();
        gate::against_report(old, &wanted, &regress, run.max_regression)
            .map_err(|e| format!("--baseline: {e}"))?;
    }
    let judge = |workloads: &[Loaded]| -> Result<Gate, Failed> {
        let mut checks = gate::verified(workloads);
        for workload in workloads {
            for (assertion, result) in
                asserts.iter().flat_map(|one| workload.results.first().map(|first| (one, first)))
            {
                checks.push(assertion.check(&workload.name, result));
            }
        }
        if let Some(old) = &baseline {
            let first = workloads.iter().map(Loaded::first_only).collect::<Vec<_>>();
            let compared = gate::against_report(old, &first, &regress, run.max_regression);
            checks.extend(compared.map_err(|e| format!("--baseline: {e}"))?);
        }
        if run.against.is_some() {
            checks.extend(gate::paired(workloads, &regress, run.max_regression));
        }
        Ok(Gate { checks })
    };
    let document = carry_out(&plan, Some(&judge)).await?;
    tell(&document, common, run.loads.out.as_deref(), run.junit.as_deref())
}

/// Servers that are not ours to start with a store, by commands and at URLs.
async fn others(common: &Common, loads: &Loads) -> Result<Vec<Contender>, Failed> {
    let commands = loads.server_cmds.iter().map(|command| Contender::of_command(command));
    let urls = common.url.iter().flat_map(|urls| urls.split(','));
    let mut others = commands.chain(urls.map(Contender::of_url)).collect::<Result<Vec<_>, _>>()?;
    for other in &mut others {
        other.ask().await;
    }
    Ok(others)
}

fn overrides(loads: &Loads, common: Vec<(String, String)>) -> Result<Overrides, Failed> {
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_owned(), value.trim().to_owned())),
        None => Err(format!("--set {text:?}: it must be KEY=VALUE")),
    };
    Ok(Overrides { quick: loads.quick, common, set: loads.set.iter().map(pair).collect::<Result<_, _>>()? })
}

/// Runs all of it, and judges it.
async fn carry_out(plan: &Plan, judge: Option<&Judge<'_>>) -> Result<Document, Failed> {
    distinct(&plan.contenders)?;
    let mut scratch = Scratch { place: Place::new(plan.data.as_deref(), "bench")?, keep: false };
    let document = carry_out_in(plan, judge, &scratch.place.data).await?;
    // Rounds remove what is well; of a server at a URL there is nothing.
    let is_empty = std::fs::read_dir(&scratch.place.data).is_ok_and(|mut left| left.next().is_none());
    let has_faults = document.workloads.iter().flat_map(|one| &one.results).any(Outcome::has_faults);
    scratch.keep = has_faults && !is_empty;
    Ok(document)
}

/// Where the data lies, removed also when all of it is interrupted, but kept if there are faults to look into.
struct Scratch {
    place: Place,
    keep: bool,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            let _ = self.place.remove();
        }
    }
}

async fn carry_out_in(plan: &Plan, judge: Option<&Judge<'_>>, dir: &Path) -> Result<Document, Failed> {
    let described =
        plan.contenders.iter().map(|contender| contender.check(dir)).collect::<Result<Vec<_>, _>>()?;
    let environment = Environment::look(dir);
    let probe = probe::probe(dir, &environment)?;
    let workloads = rounds(plan, dir).await?;
    let gate = judge.map(|judge| judge(&workloads)).transpose()?;
    let well = workloads.iter().flat_map(|one| &one.results).all(Outcome::passed);
    Ok(Document {
        format: FORMAT,
        environment,
        probe,
        rounds: plan.rounds,
        quick: plan.quick,
        figures: FIGURES.to_vec(),
        contenders: described,
        plots: Plots::of(&workloads),
        workloads,
        passed: well && gate.as_ref().is_none_or(|gate| gate.failures().next().is_none()),
        gate,
    })
}

/// In each round every workload, in each workload every contender, another one first each time.
async fn rounds(plan: &Plan, dir: &Path) -> Result<Vec<Loaded>, Failed> {
    let load = |workload: &Workload| {
        let outcome = |contender: &Contender| Outcome {
            contender: contender.name.clone(),
            promise: contender.promise(),
            skipped: contender.cannot(workload),
            ..Outcome::default()
        };
        let results = plan.contenders.iter().map(outcome).collect();
        Loaded { results, ..Loaded::new(workload) }
    };
    let mut workloads: Vec<_> = plan.workloads.iter().map(load).collect();
    for round in 0..plan.rounds {
        for (workload, loaded) in plan.workloads.iter().zip(&mut workloads) {
            for turn in 0..plan.contenders.len() {
                let at = (round + turn) % plan.contenders.len();
                let (contender, outcome) = (&plan.contenders[at], &mut loaded.results[at]);
                if outcome.skipped.is_some() {
                    continue;
                }
                let data = dir.join(format!("{}-{at}-{}", round + 1, workload.name.replace('/', "-")));
                if data.exists() {
                    return Err(format!(
                        "{} is there already: each round needs a directory of its own",
                        data.display()
                    ));
                }
                let turn = Turn { round: round + 1, turn: turn + 1 };
                let said = match round::once(contender, workload, &data, turn).await {
                    Ok(round) => {
                        let said = round.said();
                        outcome.rounds.push(round);
                        said
                    }
                    Err(why) => {
                        round::remove(&data);
                        outcome.failed.push(format!("round {}: {why}", round + 1));
                        format!("FAILED: {why}")
                    }
                };
                if !plan.quiet {
                    let (number, name) = (round + 1, &workload.name);
                    eprintln!("round {number} of {}, {name}, {}: {said}", plan.rounds, contender.name);
                }
            }
        }
    }
    workloads.iter_mut().for_each(Loaded::sum_up);
    Ok(workloads)
}

/// Prints the report, and writes it where it is wanted; whether all is well.
fn tell(
    document: &Document,
    common: &Common,
    out: Option<&Path>,
    junit: Option<&Path>,
) -> Result<bool, Failed> {
    let write =
        |path: &Path, text: &str| std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()));
    let json = serde_json::to_string_pretty(document).map_err(|e| e.to_string())? + "\n";
    let markdown = markdown::markdown(document);
    if let Some(out) = out {
        std::fs::create_dir_all(out).map_err(|e| format!("{}: {e}", out.display()))?;
        write(&out.join("report.json"), &json)?;
        write(&out.join("report.md"), &markdown)?;
        write(&out.join("report.html"), &html::page(document))?;
    }
    if let Some(path) = &common.json {
        write(path, &json)?;
    }
    if let (Some(path), Some(gate)) = (junit, &document.gate) {
        write(path, &junit::xml(&gate.checks))?;
    }
    print!("{markdown}");
    document.failures().iter().for_each(|failure| eprintln!("causeway-loadgen: {failure}"));
    Ok(document.passed)
}
