//! The figures of a run: their names, what they mean, and those of one round.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::options::Scenario;
use crate::report::Report;

/// A figure that runs are compared by.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Figure {
    /// As the report and assertions name it, unit last.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) about: &'static str,
    pub(crate) more_is_better: bool,
}

impl Figure {
    /// A difference below this is none, whatever its share: clocks and pages are no finer.
    pub(crate) fn floor(&self) -> f64 {
        match self.name.rsplit_once('_') {
            Some((_, "ms")) => 0.02,
            Some((_, "bytes" | "change")) => 16.0,
            _ => 0.0,
        }
    }
}

const fn figure(
    name: &'static str,
    title: &'static str,
    more_is_better: bool,
    about: &'static str,
) -> Figure {
    Figure { name, title, about, more_is_better }
}

/// All figures, in the order of the tables.
pub(crate) const FIGURES: [Figure; 18] = [
    figure("rate", "rate /s", true, "units of work a second in the measured window; `unit` says which"),
    figure("p50_ms", "p50 ms", false, "median latency; `latency` says of what"),
    figure("p99_ms", "p99 ms", false, "99th percentile of the latency"),
    figure("p999_ms", "p99.9 ms", false, "99.9th percentile of the latency"),
    figure("max_ms", "max ms", false, "the longest latency"),
    figure("cpu_us_per_unit", "CPU µs", false, "the server's CPU time for a unit of work, in microseconds"),
    figure(
        "written_bytes_per_change",
        "written B",
        false,
        "write_bytes of /proc/PID/io over the server's whole life, its end and all, for each acked change: whole pages that it \
         caused to be sent to the storage layer, which is more than the changes and less than what a disk writes inside",
    ),
    figure(
        "disk_bytes_per_change",
        "disk B",
        false,
        "blocks allocated in the data directory after the server's end, for each acked change",
    ),
    figure(
        "disk_bytes",
        "disk B in all",
        false,
        "blocks allocated in the data directory after the server's end",
    ),
    figure("rss_peak_bytes", "memory peak B", false, "the most resident memory ever until the window closed"),
    figure(
        "reopen_ms",
        "reopen ms",
        false,
        "from the start on the filled data directory to where the server listens",
    ),
    figure("start_ms", "start ms", false, "the same on an empty one"),
    figure("late_p99_ms", "late p99 ms", false, "how late the generator itself wrote an open loop's updates"),
    figure("generator_cores", "generator cores", false, "cores that the generator kept busy"),
    figure(
        "others_cores",
        "others' cores",
        false,
        "cores that other processes kept busy meanwhile, or that a host took away",
    ),
    figure("errors", "errors", false, "errors that came, of every kind"),
    figure("faults", "faults", false, "what the verification found"),
    figure("lost", "lost", false, "acked changes that were not where they must be"),
];

/// The figure of that name.
pub(crate) fn find(name: &str) -> Result<Figure, String> {
    let found = FIGURES.into_iter().find(|figure| figure.name == name);
    found.ok_or_else(|| {
        format!("no figure {name:?}: there are {}", FIGURES.map(|figure| figure.name).join(", "))
    })
}

/// What held a round back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Limit {
    /// It used all the CPU time that it can, or did not keep to its schedule.
    Generator,
    /// Generator and server together used all cores.
    Machine,
    /// Neither: the server, its disk, or the load that was asked for.
    #[default]
    Server,
}

/// One round of a workload against a contender.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Round {
    /// From 1 on.
    pub(crate) round: usize,
    /// Its place among the contenders of that round, from 1 on.
    pub(crate) turn: usize,
    pub(crate) window_seconds: f64,
    pub(crate) figures: BTreeMap<&'static str, f64>,
    /// Why figures are not there.
    pub(crate) missing: BTreeMap<&'static str, String>,
    /// Quantiles of the latency, each with its milliseconds.
    pub(crate) curve: Vec<(f64, f64)>,
    pub(crate) limit: Limit,
    /// (change, place where it must be) pairs that were compared.
    pub(crate) checked: u64,
    /// Channels whose digest the server's own `verify` found right, after its end.
    pub(crate) digests: Option<u64>,
    pub(crate) first_faults: Vec<String>,
    pub(crate) notes: Vec<String>,
}

impl Round {
    /// A line for who waits.
    pub(crate) fn said(&self) -> String {
        let of = |name: &str, unit: &str| {
            self.figures.get(name).map(|value| format!("{} {unit}", crate::report::grouped(*value)))
        };
        let mut said: Vec<_> = [of("rate", "/s"), of("p99_ms", "ms p99")].into_iter().flatten().collect();
        if let Some(faults) = self.figures.get("faults").filter(|faults| **faults > 0.0) {
            said.push(format!("{faults} FAULTS: {}", self.first_faults.join("; ")));
        }
        if self.limit == Limit::Generator {
            said.push("the generator was the limit".into());
        }
        said.join(", ")
    }
}

/// What a workload's rate counts and what its latency is of.
pub(crate) fn units(scenario: &Scenario) -> (&'static str, &'static str) {
    match scenario {
        Scenario::Merge(_) | Scenario::Mixed(_) | Scenario::Replay(_) => {
            ("changes acked", "from an update to its ack")
        }
        Scenario::Fanout(_) => ("deliveries", "from an update to its receipt by a follower"),
        Scenario::Pull(pull) if pull.reconnect => ("rows pulled", "from the connect to the end of a pull"),
        Scenario::Pull(_) => ("rows pulled", "of a pull"),
        Scenario::Restart(_) => ("rows pulled", "from the server's start to the end of the first pull"),
        Scenario::Idle(_) => ("nothing", "of nothing"),
        Scenario::Crash(_) | Scenario::Cluster(_) => unreachable!("no workload is of these"),
    }
}

/// The figures that the scenario's own report holds, and why others are not there.
pub(crate) fn of_report(report: &Report) -> (BTreeMap<&'static str, f64>, BTreeMap<&'static str, String>) {
    let mut figures = BTreeMap::new();
    let mut missing = BTreeMap::new();
    // A restart's window is full of what is no work.
    let rate = report.rates.first().filter(|_| !matches!(report.scenario, Scenario::Restart(_)));
    match rate {
        Some(rate) => drop(figures.insert("rate", rate.per_second)),
        None => drop(missing.insert("rate", "this workload has none".into())),
    }
    match report.latencies.first() {
        Some(latency) => figures.extend([
            ("p50_ms", latency.p50_ms),
            ("p99_ms", latency.p99_ms),
            ("p999_ms", latency.p999_ms),
            ("max_ms", latency.max_ms),
        ]),
        None => ["p50_ms", "p99_ms", "p999_ms", "max_ms"]
            .into_iter()
            .for_each(|name| drop(missing.insert(name, "nothing was answered in the window".into()))),
    }
    match (&report.server, rate) {
        (None, _) => drop(missing.insert("cpu_us_per_unit", "the server's process is not known".into())),
        (_, None) => drop(missing.insert("cpu_us_per_unit", "this workload has no unit of work".into())),
        // Below a few clock ticks the quotient would be noise.
        (Some(server), _) if server.cpu_seconds < 0.05 => {
            drop(
                missing.insert("cpu_us_per_unit", "the server used too little CPU time to measure it".into()),
            );
        }
        (_, Some(rate)) if rate.total == 0 => {
            drop(missing.insert("cpu_us_per_unit", "no work was done".into()));
        }
        (Some(server), Some(rate)) => {
            figures.insert("cpu_us_per_unit", server.cpu_seconds * 1e6 / rate.total as f64);
        }
    }
    match &report.server {
        Some(server) => drop(figures.insert("rss_peak_bytes", server.rss_peak_bytes as f64)),
        None => drop(missing.insert("rss_peak_bytes", "the server's process is not known".into())),
    }
    match report.generator.late_p99_ms {
        Some(ms) => drop(figures.insert("late_p99_ms", ms)),
        None => drop(missing.insert("late_p99_ms", "this workload is no open loop".into())),
    }
    figures.insert("generator_cores", report.generator.cpu_seconds / report.seconds);
    match report.generator.others_cores {
        Some(cores) => drop(figures.insert("others_cores", cores)),
        None => drop(missing.insert("others_cores", "the server's process is not known".into())),
    }
    figures.insert("errors", report.errors.values().sum::<u64>() as f64);
    figures.insert("lost", report.verification.lost as f64);
    (figures, missing)
}

/// What held the run back.
pub(crate) fn limit(report: &Report) -> Limit {
    let generator = &report.generator;
    if generator.saturated || generator.schedule_missed {
        Limit::Generator
    } else if generator.machine_full {
        Limit::Machine
    } else {
        Limit::Server
    }
}
