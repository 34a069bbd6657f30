//! Workloads as files: a scenario and its options, in TOML that people copy and edit.
//!
//! A key is a scenario's option with `_` for `-`, so the command line's checks and defaults are the file's, too. What is
//! unknown is an error that names file, line, and what is known.

use std::collections::BTreeMap;
use std::path::Path;

use clap::{ArgAction, CommandFactory, Parser};
use serde::Serialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::options::{Command, Common, Options, Scenario};

/// The workloads that come with this program, in the order in which they run.
const BUILT_IN: [(&str, &str); 11] = [
    ("single", include_str!("../../workloads/single.toml")),
    ("batch", include_str!("../../workloads/batch.toml")),
    ("rewrite", include_str!("../../workloads/rewrite.toml")),
    ("hot-cell", include_str!("../../workloads/hot-cell.toml")),
    ("delete-heavy", include_str!("../../workloads/delete-heavy.toml")),
    ("thousand", include_str!("../../workloads/thousand.toml")),
    ("fan-out", include_str!("../../workloads/fan-out.toml")),
    ("mixed", include_str!("../../workloads/mixed.toml")),
    ("catch-up", include_str!("../../workloads/catch-up.toml")),
    ("cold-start", include_str!("../../workloads/cold-start.toml")),
    ("paced", include_str!("../../workloads/paced.toml")),
];
/// Scenarios that a workload can be of: the others start their servers themselves.
const SCENARIOS: [&str; 7] = ["merge", "fanout", "pull", "idle", "mixed", "restart", "replay"];
/// Options of every scenario that a workload can set.
pub(crate) const COMMON: [&str; 9] = [
    "seconds",
    "warmup_seconds",
    "drain_seconds",
    "seed",
    "table",
    "columns",
    "value_bytes",
    "keys",
    "values",
];

/// One load to run: a workload, or a point of its sweep.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    /// The file's name without its ending, and the point of the sweep.
    pub(crate) name: String,
    pub(crate) about: String,
    pub(crate) scenario: Scenario,
    pub(crate) common: Common,
    /// What the file, `[quick]` and the command line say, by key.
    pub(crate) settings: BTreeMap<String, String>,
    pub(crate) sweep: Option<Point>,
}

/// Where a load stands in a sweep.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Point {
    /// The workload's name.
    pub(crate) of: String,
    pub(crate) key: String,
    pub(crate) value: f64,
}

/// What is said beside the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides {
    pub(crate) quick: bool,
    /// Keys that hold where a workload knows them.
    pub(crate) common: Vec<(String, String)>,
    /// Keys that at least one workload must know.
    pub(crate) set: Vec<(String, String)>,
}

/// The names of all that come with this program.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|(name, _)| *name)
}

/// The text of one that comes with this program.
pub(crate) fn text(name: &str) -> Option<&'static str> {
    BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// Loads workloads by their names or paths.
pub(crate) fn load(wanted: &[String], overrides: &Overrides) -> Result<Vec<Workload>, String> {
    let mut all = Vec::new();
    for wanted in wanted {
        let path = Path::new(wanted);
        let (name, text) = match text(wanted) {
            Some(text) => (wanted.clone(), text.to_owned()),
            None if path.extension().is_some() || wanted.contains('/') => {
                let text = std::fs::read_to_string(path).map_err(|e| format!("{wanted}: {e}"))?;
                (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), text)
            }
            None => {
                let known = names().collect::<Vec<_>>().join(", ");
                return Err(format!("no workload {wanted:?}: there are {known}, or name a file"));
            }
        };
        all.extend(parse(wanted, &name, &text, overrides)?);
    }
    let mut seen = std::collections::BTreeSet::new();
    if let Some(twice) = all.iter().find(|workload| !seen.insert(&workload.name)) {
        return Err(format!("workload {} is there twice", twice.name));
    }
    for (key, _) in &overrides.set {
        if !all.iter().any(|workload| workload.settings.contains_key(key)) {
            return Err(format!("--set {key}: no workload of this run knows that key"));
        }
    }
    Ok(all)
}

/// Reads a file; `place` is what errors call it. One load for each point of its sweep.
fn parse(place: &str, name: &str, text: &str, overrides: &Overrides) -> Result<Vec<Workload>, String> {
    let line_of = |at: usize| 1 + text[..at.min(text.len())].matches('\n').count();
    let at = |span: std::ops::Range<usize>, what: String| format!("{place}:{}: {what}", line_of(span.start));
    let file = DeTable::parse(text).map_err(|e| at(e.span().unwrap_or(0..0), e.message().to_owned()))?;
    let file = file.get_ref();
    let word = |key: &str| match file.get(key) {
        None => Err(format!("{place}: there is no `{key}`")),
        Some(value) => match value.get_ref().as_str() {
            Some(word) => Ok((word.to_owned(), value.span())),
            None => Err(at(value.span(), format!("`{key}` must be text"))),
        },
    };
    let about = word("about")?.0;
    let (kind, span) = word("scenario")?;
    if !SCENARIOS.contains(&kind.as_str()) {
        return Err(at(span, format!("no scenario {kind:?}: there are {}", SCENARIOS.join(", "))));
    }
    let known = Known::of(&kind);
    let check = |key: &Spanned<std::borrow::Cow<'_, str>>, value: &Spanned<DeValue<'_>>| {
        let name = key.get_ref().as_ref();
        if !known.has(name) {
            return Err(at(key.span(), format!("unknown key `{name}`; {kind} knows {}", known.list())));
        }
        let value_text = scalar(value.get_ref())
            .ok_or_else(|| at(value.span(), format!("`{name}` must be text, a number, true or false")))?;
        known.check(&kind, name, &value_text).map_err(|e| at(value.span(), e))?;
        Ok((name.to_owned(), value_text))
    };
    let table = |key: &str| match file.get(key) {
        None => Ok(None),
        Some(value) => match value.get_ref().as_table() {
            Some(table) => Ok(Some(table)),
            None => Err(at(value.span(), format!("`{key}` must be a table"))),
        },
    };
    let mut settings = BTreeMap::new();
    for (key, value) in file.iter() {
        if !["about", "scenario", "quick", "sweep"].contains(&key.get_ref().as_ref()) {
            let (key, value) = check(key, value)?;
            settings.insert(key, value);
        }
    }
    for (key, value) in table("quick")?.into_iter().flat_map(|quick| quick.iter()) {
        let (key, value) = check(key, value)?;
        if overrides.quick {
            settings.insert(key, value);
        }
    }
    let mut points = Vec::new();
    for (key, values) in table("sweep")?.into_iter().flat_map(|sweep| sweep.iter()) {
        let list = values.get_ref().as_array().filter(|list| !list.is_empty());
        let list = list.ok_or_else(|| at(values.span(), "a sweep is a list of values for one key".into()))?;
        if !points.is_empty() {
            return Err(at(key.span(), "a sweep is over one key".into()));
        }
        for value in list.iter() {
            let (key, text) = check(key, value)?;
            let number =
                text.parse::<f64>().map_err(|_| at(value.span(), "a sweep is over numbers".into()))?;
            points.push((key, text, number));
        }
    }
    for (key, value) in overrides.common.iter().chain(&overrides.set) {
        if known.has(key) {
            known.check(&kind, key, value)?;
            // A point that is set by hand is the only one.
            points.retain(|(swept, ..)| swept != key);
            settings.insert(key.clone(), value.clone());
        }
    }
    if let Some(key) = known.bare().find(|key| !settings.contains_key(*key)) {
        return Err(format!("{place}: there is no `{key}`"));
    }
    let make = |name: String, settings: BTreeMap<String, String>, sweep| {
        let made = known.parse(&kind, &settings).and_then(|options| {
            options.validate()?;
            match options.command {
                Command::Scenario(scenario) => Ok((scenario, options.common)),
                _ => unreachable!("its name is one of SCENARIOS"),
            }
        });
        let (scenario, common) = made.map_err(|e| format!("{place}: {e}"))?;
        Ok(Workload { name, about: about.clone(), scenario, common, settings, sweep })
    };
    if points.is_empty() {
        return Ok(vec![make(name.to_owned(), settings, None)?]);
    }
    let point = |(key, text, value): (String, String, f64)| {
        let mut settings = settings.clone();
        settings.insert(key.clone(), text.clone());
        let full = format!("{name}/{key}={text}");
        make(full, settings, Some(Point { of: name.to_owned(), key, value }))
    };
    points.into_iter().map(point).collect()
}

/// A value as the command line would have it.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(truth) => Some(truth.to_string()),
        _ => None,
    }
}

/// The keys of a scenario, and what they are on the command line.
#[derive(Debug)]
struct Known(BTreeMap<String, Form>);

/// How an option stands on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Switch,
    Value,
    /// Without a name.
    Bare,
}

impl Known {
    fn of(kind: &str) -> Self {
        let all = Options::command();
        let own = all.find_subcommand(kind).expect("SCENARIOS are subcommands").get_arguments();
        let common = all.get_arguments().filter(|arg| COMMON.contains(&arg.get_id().as_str()));
        let form = |arg: &clap::Arg| match arg.get_action() {
            ArgAction::SetTrue => Form::Switch,
            _ if arg.is_positional() => Form::Bare,
            _ => Form::Value,
        };
        Self(own.chain(common).map(|arg| (arg.get_id().to_string(), form(arg))).collect())
    }

    fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    fn list(&self) -> String {
        self.0.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }

    /// Those that a workload must set.
    fn bare(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, form)| **form == Form::Bare).map(|(key, _)| key.as_str())
    }

    /// Whether the value is one for the key, apart from all others.
    fn check(&self, kind: &str, key: &str, value: &str) -> Result<(), String> {
        match self.0[key] {
            Form::Switch if !["true", "false"].contains(&value) => {
                Err(format!("`{key}` must be true or false"))
            }
            Form::Bare => Ok(()),
            _ => {
                let mut alone = BTreeMap::from([(key.to_owned(), value.to_owned())]);
                alone.extend(self.bare().map(|key| (key.to_owned(), "any".to_owned())));
                self.parse(kind, &alone).map(drop)
            }
        }
    }

    /// What the command line makes of it.
    fn parse(&self, kind: &str, settings: &BTreeMap<String, String>) -> Result<Options, String> {
        let mut arguments = vec!["causeway-loadgen".to_owned(), kind.to_owned()];
        for (key, value) in settings {
            let flag = format!("--{}", key.replace('_', "-"));
            match (self.0[key], value.as_str()) {
                (Form::Switch, "true") => arguments.push(flag),
                (Form::Switch, _) | (Form::Bare, _) => {}
                (Form::Value, value) => arguments.push(format!("{flag}={value}")),
            }
        }
        // Behind all options, so that it is none.
        arguments.push("--".to_owned());
        arguments.extend(self.bare().filter_map(|key| settings.get(key).cloned()));
        let first_line = |e: clap::Error| {
            let text = e.to_string();
            text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
        };
        Options::try_parse_from(arguments).map_err(first_line)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Vec<Workload>, String> {
        parse("my.toml", "my", text, &Overrides::default())
    }

    #[test]
    fn all_that_come_with_the_program_are_well_made() {
        let all: Vec<_> = names().map(str::to_owned).collect();
        for quick in [false, true] {
            let loaded = load(&all, &Overrides { quick, ..Overrides::default() }).expect("good workloads");
            assert!(loaded.len() > all.len(), "there is a sweep among them");
        }
    }

    #[test]
    fn a_file_is_the_scenarios_options() {
        let text = "about = \"x\"\nscenario = \"merge\"\nchannels = 6_4\nrate = 10.5\nrows = 3\nshared_rows = true\n\
                    seconds = 2\n[quick]\nseconds = 0.5\n";
        let one = &read(text).expect("good")[0];
        let Scenario::Merge(merge) = &one.scenario else { panic!("{:?}", one.scenario) };
        assert_eq!((merge.channels, merge.writing.rate, merge.shared_rows), (64, Some(10.5), true));
        assert_eq!((one.common.seconds, one.name.as_str(), one.sweep.is_none()), (2.0, "my", true));
        let set = |key: &str, value: &str| vec![(key.to_owned(), value.to_owned())];
        let overrides = Overrides { quick: true, common: set("seed", "7"), set: set("channels", "2") };
        let one = &parse("my.toml", "my", text, &overrides).expect("good")[0];
        assert_eq!((one.common.seconds, one.common.seed), (0.5, 7));
        assert_eq!(one.settings["channels"], "2");
    }

    #[test]
    fn a_trace_is_a_workload() {
        let one =
            &read("about = \"x\"\nscenario = \"replay\"\nfile = \"-a.trace\"\nspeed = 2").expect("good")[0];
        let Scenario::Replay(replay) = &one.scenario else { panic!("{:?}", one.scenario) };
        assert_eq!(replay.file, Path::new("-a.trace"));
        let none = read("about = \"x\"\nscenario = \"replay\"").expect_err("it names no trace");
        assert_eq!(none, "my.toml: there is no `file`");
    }

    #[test]
    fn a_sweep_is_a_load_for_each_value() {
        let text = "about = \"x\"\nscenario = \"merge\"\n[sweep]\nchanges = [1, 100]\n";
        let all = read(text).expect("good");
        let names: Vec<_> = all.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["my/changes=1", "my/changes=100"]);
        assert_eq!(all[1].sweep.as_ref().map(|point| (point.of.as_str(), point.value)), Some(("my", 100.0)));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (bad, named) in [
            ("scenario = \"merge\"", "my.toml: there is no `about`"),
            ("about = \"x\"", "my.toml: there is no `scenario`"),
            (
                "about = \"x\"\nscenario = \"crash\"",
                "my.toml:2: no scenario \"crash\": there are merge, fanout",
            ),
            (
                "about = \"x\"\nscenario = \"merge\"\nchanels = 3",
                "my.toml:3: unknown key `chanels`; merge knows changes, channels, columns",
            ),
            (
                "about = \"x\"\nscenario = \"pull\"\nchannels = 3",
                "my.toml:3: unknown key `channels`; pull knows behind",
            ),
            ("about = \"x\"\nscenario = \"merge\"\nurl = \"ws://x\"", "my.toml:3: unknown key `url`"),
            (
                "about = \"x\"\nscenario = \"merge\"\n\nchannels = \"many\"",
                "my.toml:4: invalid value 'many' for '--channels",
            ),
            (
                "about = \"x\"\nscenario = \"merge\"\nchannels = [1]",
                "my.toml:3: `channels` must be text, a number",
            ),
            (
                "about = \"x\"\nscenario = \"merge\"\nslow_follower = 1",
                "my.toml:3: `slow_follower` must be true or false",
            ),
            ("about = \"x\"\nscenario = \"merge\"\nchannels = 0", "my.toml: --channels must be at least 1"),
            ("about = \"x\"\nscenario = \"merge\"\n[quick]\nbehind = 1", "my.toml:4: unknown key `behind`"),
            ("about = \"x\"\nscenario = \"merge\"\n[sweep]\nchanges = 1", "my.toml:4: a sweep is a list"),
            (
                "about = \"x\"\nscenario = \"merge\"\n[sweep]\nchanges = [1]\nrows = [1]",
                "a sweep is over one key",
            ),
            ("about = \"x\"\nscenario =", "my.toml:2: "),
        ] {
            let error = read(bad).expect_err(bad);
            assert!(error.starts_with("my.toml") && error.contains(named), "{bad}: {error}");
        }
        let missing = load(&["nothing".into()], &Overrides::default()).expect_err("no such workload");
        assert!(missing.contains("there are single, batch"), "{missing}");
        let set = Overrides { set: vec![("behind".into(), "1".into())], ..Overrides::default() };
        assert!(load(&["single".into()], &set).is_err_and(|e| e.contains("--set behind")));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}", key in "[a-z_]{1,12}", value in "[0-9a-z\"\\[\\].-]{0,8}") {
            let _ = read(&text);
            let _ = read(&format!("about = \"x\"\nscenario = \"mixed\"\n{key} = {value}\n{text}"));
        }
    }
}
