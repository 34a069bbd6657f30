//! `causeway-loadgen`: loads any server of the Server Implementation Guide's protocol, measures it, and verifies that
//! nothing that was acked is lost.
//!
//! From the command line inwards: [`options`] → [`scenario`] (one module each; `crash` and `cluster` start their servers themselves) → writers ([`writer`], [`book`]),
//! followers ([`follower`], [`sent`]) and pulls ([`puller`]) over connections ([`conn`], [`frame`], [`target`]) →
//! figures ([`meter`], [`process`], [`mod@run`]) and faults ([`cells`], [`verdict`]) → [`report`]. What the changes look
//! like, and how they are recognised when they come back, is in [`plan`] and [`scan`].

mod book;
mod cells;
mod conn;
mod follower;
mod frame;
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
mod val;
mod verdict;
mod writer;

use std::process::ExitCode;

use clap::Parser;

use crate::options::Options;
use crate::report::Report;
use crate::run::Run;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Threads that run the clients. More would only take cores from a server on the same machine.
pub(crate) const WORKERS: usize = 2;

/// 0: all is well. 1: faults were found. 2: the run could not be carried out.
fn main() -> ExitCode {
    let options = Options::parse();
    match options.validate().and_then(|()| run(&options)) {
        Ok(report) if report.passed() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(e) => {
            eprintln!("causeway-loadgen: {e}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<Report, String> {
    // Best effort: a refusal shows as a failed connect, which names the cause.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(|e| format!("no runtime: {e}"))?;
    let run = Run::new(options.common.clone(), options.scenario.servers())?;
    let report = runtime.block_on(async { scenario::run(run, &options.scenario).await })?;
    print!("{}", report.table());
    if let Some(path) = &options.common.json {
        let text = serde_json::to_string_pretty(&report).map_err(|e| e.to_string())?;
        std::fs::write(path, text + "\n").map_err(|e| format!("{}: {e}", path.display()))?;
    }
    runtime.shutdown_background();
    Ok(report)
}
