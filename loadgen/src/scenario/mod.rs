//! The scenarios: each loads the server in one way, and verifies what it did.

mod cluster;
mod crash;
mod fanout;
pub(crate) mod host;
mod idle;
mod merge;
mod mixed;
pub(crate) mod place;
mod pull;
mod replay;
mod restart;
pub(crate) mod server;
pub(crate) mod verified;

use std::sync::Arc;

use crate::conn::{Conn, ConnectWith};
use crate::identity::Identity;
use crate::options::{Common, Scenario};
use crate::plan::Plan;
use crate::report::Report;
use crate::run::Run;

/// A run that could not be carried out, as against one that found faults.
pub(crate) type Failed = String;

/// Runs a scenario to its report.
pub(crate) async fn run(run: Arc<Run>, scenario: &Scenario) -> Result<Report, Failed> {
    match scenario {
        Scenario::Merge(merge) => merge::run(run, scenario, merge).await,
        Scenario::Fanout(fanout) => fanout::run(run, scenario, fanout).await,
        Scenario::Pull(pull) => pull::run(run, scenario, pull).await,
        Scenario::Restart(restart) => restart::run(run, scenario, restart).await,
        Scenario::Idle(idle) => idle::run(run, scenario, idle).await,
        Scenario::Mixed(mixed) => mixed::run(run, scenario, mixed).await,
        Scenario::Crash(crash) => crash::run(run, scenario, crash).await,
        Scenario::Cluster(cluster) => cluster::run(run, scenario, cluster).await,
        Scenario::Replay(replay) => replay::run(run, scenario, replay).await,
    }
}

/// What is known of the server that a scenario loads.
pub(crate) async fn identity(scenario: &Scenario, common: &Common) -> Option<Identity> {
    match scenario {
        Scenario::Crash(crash) => Some(Identity::of(&crash.serving)),
        Scenario::Cluster(cluster) => Some(Identity::of(&cluster.serving)),
        _ => Identity::ask(common.url()).await,
    }
}

/// A follower that never reads; it takes as few bytes as the kernel allows until it is dropped.
async fn slow_follower(run: &Run, plan: &Plan, wanted: bool) -> Result<Option<Conn>, Failed> {
    if !wanted {
        return Ok(None);
    }
    let with = ConnectWith { receive_buffer: Some(4096), ..ConnectWith::default() };
    let conn = run.connect(&plan.channel, with).await.map_err(|e| format!("slow follower: {e}"))?;
    Ok(Some(conn))
}
