//! `restart`: ends a filled server and starts it again: how long until it listens, and until the first pull is answered.
//!
//! The page cache of the system stays warm: who wants it cold must empty it, which needs root.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Failed;
use super::pull::{Filling, check, fill};
use crate::meter::{Count, Latency};
use crate::options::{Restart, Scenario};
use crate::puller::{PullError, Pulled, Puller};
use crate::report::Report;
use crate::run::{Run, measure};

const NO_HOST: &str =
    "restart needs a server that this program started: use `run` or `compare`, without --url";

pub(super) async fn run(run: Arc<Run>, scenario: &Scenario, restart: &Restart) -> Result<Report, Failed> {
    if run.host.lock().await.is_none() {
        return Err(NO_HOST.into());
    }
    let plans: Vec<_> = (0..restart.channels).map(|number| run.plan(number)).collect();
    for plan in &plans {
        let filling = Filling { rows: restart.rows, behind: 0, changes: restart.changes };
        fill(&run, plan, filling).await?;
    }
    // The window is as long as the restarts take.
    run.meter.set_window(Duration::ZERO, Duration::from_secs(86_400));
    let work = async {
        for _ in 0..restart.restarts {
            let began_ns = start_again(&run).await?;
            for (at, plan) in plans.iter().enumerate() {
                let from_ns = run.meter.now_ns();
                let pulled: Result<Pulled, PullError> =
                    async { Puller::open(&run, 0, plan).await?.pull(&run, plan, 0, false).await }.await;
                let pulled = pulled.map_err(|e| format!("after a restart: {}: {e}", plan.channel))?;
                let now_ns = run.meter.now_ns();
                if at == 0 {
                    run.meter.latency(0, Latency::FirstPull, began_ns, now_ns);
                }
                run.meter.latency(0, Latency::Pull, from_ns, now_ns);
                run.meter.add(0, Count::Pulls, 1);
                run.meter.add(0, Count::PulledRows, pulled.rows);
                check(&run, plan, restart.rows, &pulled);
            }
        }
        Ok::<(), Failed>(())
    };
    let rates = [(Count::PulledRows, "rows pulled"), (Count::Pulls, "pulls")];
    let (figures, done) = measure(&run, &rates, work).await;
    done?;
    let latencies = [
        (Latency::FirstPull, "start to the first pull"),
        (Latency::Reopen, "start to listening"),
        (Latency::Pull, "of a channel's first pull"),
    ];
    Ok(Report::new(&run, scenario, &figures, &rates, &latencies, BTreeMap::new()))
}

/// Ends the server and starts it; when it was started.
async fn start_again(run: &Run) -> Result<u64, Failed> {
    let mut host = run.host.lock().await;
    let host = host.as_mut().ok_or(NO_HOST)?;
    run.processes.remove_all();
    host.stop().await?;
    let began_ns = run.meter.now_ns();
    let up = host.start().await?;
    run.meter.latency(0, Latency::Reopen, began_ns, began_ns + up.took.as_nanos() as u64);
    run.processes.add(up.pid);
    run.set_target(0, &up.url)?;
    Ok(began_ns)
}
