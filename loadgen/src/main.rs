//! `causeway-loadgen`: loads any server of the Server Implementation Guide's protocol, measures it, and verifies that
//! nothing that was acked is lost.
//!
//! From the command line inwards: [`options`] → [`scenario`] (one module each; `crash` and `cluster` start their servers themselves) → writers ([`writer`], [`book`]),
//! followers ([`follower`], [`sent`]) and pulls ([`puller`]) over connections ([`conn`], [`frame`], [`target`]) →
//! figures ([`meter`], [`process`], [`mod@run`]), their [`machine`] and server ([`identity`]) and faults ([`cells`], [`verdict`]) → [`report`]. Around it [`mod@bench`] runs
//! workloads against several servers by turns. What the changes look
//! like, and how they are recognised when they come back, is in [`plan`] and [`scan`]. [`trace`] records what others send.

mod bench;
mod book;
mod cells;
mod conn;
mod follower;
mod frame;
mod identity;
mod machine;
mod meter;
mod options;
mod plan;
mod process;
mod puller;
mod replica;
mod report;
mod rng;
mod run;
mod scan;
mod scenario;
mod sent;
mod target;
mod trace;
mod val;
mod verdict;
mod writer;

use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches};
use tokio::signal::unix::{SignalKind, signal};

use crate::options::{Command, Common, Options};
use crate::report::Report;
use crate::run::Run;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Threads that run the clients. More would only take cores from a server on the same machine.
pub(crate) const WORKERS: usize = 2;

/// 0: all is well. 1: faults were found, or what was asserted does not hold. 2: the run could not be carried out.
fn main() -> ExitCode {
    let matches = Options::command().get_matches();
    let options = Options::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    match options.validate().and_then(|()| run(&options, explicit(&matches))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(e) => {
            eprintln!("causeway-loadgen: {e}");
            ExitCode::from(2)
        }
    }
}

/// The options of every scenario that the command line gives, and that so stand above a workload's.
fn explicit(matches: &clap::ArgMatches) -> Vec<(String, String)> {
    let Some((_, matches)) = matches.subcommand() else { return Vec::new() };
    let given = |key: &&&str| matches.value_source(key) == Some(ValueSource::CommandLine);
    let value = |key: &&str| {
        let value = matches.get_raw(key)?.next()?.to_str()?;
        Some(((*key).to_owned(), value.to_owned()))
    };
    bench::workload::COMMON.iter().filter(given).filter_map(value).collect()
}

/// Whether all is well.
fn run(options: &Options, explicit: Vec<(String, String)>) -> Result<bool, String> {
    // Best effort: a refusal shows as a failed connect, which names the cause.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(|e| format!("no runtime: {e}"))?;
    let common = &options.common;
    let passed = match &options.command {
        Command::Scenario(scenario) => {
            let run = Run::new(common.clone(), scenario.servers())?;
            let report = runtime.block_on(unless_interrupted(async {
                let server = scenario::identity(scenario, common).await;
                let report = scenario::run(run, scenario).await?;
                Ok(Report { identity: server, ..report })
            }))?;
            tell(&report, common)?;
            report.passed()
        }
        Command::Run(run) => runtime.block_on(unless_interrupted(bench::run(common, run, explicit)))?,
        Command::Compare(compare) => {
            runtime.block_on(unless_interrupted(bench::compare(common, compare, explicit)))?
        }
        Command::Workloads { name } => print_workloads(name.as_deref())?,
        Command::Record(record) => {
            println!("{}", runtime.block_on(trace::record::run(record))?);
            true
        }
    };
    runtime.shutdown_background();
    Ok(passed)
}

/// Ends the work at SIGINT and SIGTERM: what it holds is dropped, and so the servers that it has started are killed.
async fn unless_interrupted<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| format!("no signals: {e}"))?;
    tokio::select! {
        done = work => done,
        _ = terminate.recv() => Err("interrupted by SIGTERM".into()),
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
    }
}

fn tell(report: &Report, common: &Common) -> Result<(), String> {
    print!("{}", report.table());
    if let Some(path) = &common.json {
        let text = serde_json::to_string_pretty(&report).map_err(|e| e.to_string())?;
        std::fs::write(path, text + "\n").map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

fn print_workloads(name: Option<&str>) -> Result<bool, String> {
    match name {
        Some(name) => match bench::workload::text(name) {
            Some(text) => print!("{text}"),
            None => return Err(format!("no workload {name:?}; without a name all are listed")),
        },
        None => bench::workload::names().for_each(|name| println!("{name}")),
    }
    Ok(true)
}
