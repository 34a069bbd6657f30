//! Options of `run` and `compare`.

use std::path::PathBuf;

use clap::Args;

use super::validate::at_least_one;
use super::{Program, Serving};
use crate::bench::stats::ROUNDS_MIN;

/// Which workloads, and how often.
#[derive(Debug, Clone, Args)]
pub(crate) struct Loads {
    /// The short form of each workload, as its `[quick]` says: to see that all works, not to believe the figures
    #[arg(long)]
    pub(crate) quick: bool,
    /// Another value for a workload's key, such as --set channels=8; may be given again
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Write report.html, report.md and report.json into this directory
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// A further server, started by a shell command with {port} and {data} in it; may be given again
    #[arg(long = "server-cmd", value_name = "NAME=COMMAND")]
    pub(crate) server_cmds: Vec<String>,
}

/// Options of `run`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Run {
    /// The name of a workload that comes with this program, or the path of a file
    pub(crate) workload: String,
    #[command(flatten)]
    pub(crate) serving: Serving,
    #[command(flatten)]
    pub(crate) loads: Loads,
    /// Times to run it; by default 3, and 7 with --against or --baseline
    #[arg(long)]
    pub(crate) rounds: Option<usize>,
    /// Fail unless this holds of the medians, such as 'p99_ms<50'; may be given again
    #[arg(long = "assert", value_name = "FIGURE<NUMBER")]
    pub(crate) asserts: Vec<String>,
    /// The report.json of an earlier run: fail if this one is worse by more than --max-regression
    #[arg(long)]
    pub(crate) baseline: Option<PathBuf>,
    /// Another build to run by turns with this one: its program, or a command with {port} and {data}. Fail if this one
    /// is worse by more than --max-regression
    #[arg(long)]
    pub(crate) against: Option<String>,
    /// How much worse a figure may be, such as 10%
    #[arg(long, default_value = "10%", value_parser = percent)]
    pub(crate) max_regression: f64,
    /// Figures that must not become worse
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "rate,p50_ms,p99_ms,cpu_us_per_unit,written_bytes_per_change"
    )]
    pub(crate) regress: Vec<String>,
    /// Write what was checked as JUnit XML
    #[arg(long)]
    pub(crate) junit: Option<PathBuf>,
}

/// Options of `compare`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Compare {
    /// Stores of the server
    #[arg(long, value_delimiter = ',', default_value = "sqlite,sled,fjall,memory")]
    pub(crate) stores: Vec<String>,
    /// Durability levels, each with each store
    #[arg(long, value_delimiter = ',', default_value = "full")]
    pub(crate) durability: Vec<String>,
    /// Workloads, by their names or files; by default all that come with this program
    #[arg(long, value_delimiter = ',')]
    pub(crate) workloads: Vec<String>,
    #[command(flatten)]
    pub(crate) loads: Loads,
    /// Times that each workload is run against each server, by turns
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    #[command(flatten)]
    pub(crate) program: Program,
}

impl Run {
    pub(super) fn validate(&self) -> Result<(), String> {
        at_least_one("--rounds", self.rounds.unwrap_or(1) as u64)
    }

    /// How often to run it.
    pub(crate) fn rounds(&self) -> usize {
        let compares = self.against.is_some() || self.baseline.is_some();
        self.rounds.unwrap_or(if compares { 7 } else { ROUNDS_MIN })
    }
}

impl Compare {
    pub(super) fn validate(&self) -> Result<(), String> {
        at_least_one("--rounds", self.rounds as u64)
    }
}

/// A share of 1, from percent.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    match number.parse::<f64>() {
        Ok(percent) if (0.0..=1_000.0).contains(&percent) => Ok(percent / 100.0),
        _ => Err("it must be a percentage from 0% to 1000%".into()),
    }
}
